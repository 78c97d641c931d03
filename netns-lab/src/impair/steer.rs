//! The lab's side of a box: starting it, asking it, changing what it does.

use super::{Counts, Impairment};
use crate::process::ProcessId;
use crate::{Lab, command, interrupt, plan};
use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a box may take to do what it is told.
const WITHIN: Duration = Duration::from_secs(5);

/// What a box shall do, and the how-manieth order this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Counted from 1.
    pub number: u64,
    /// What it shall do.
    pub impairment: Impairment,
}

/// What a box is doing, and has done since it was ordered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxState {
    /// The order it follows.
    pub order: Order,
    /// What came from the node.
    pub from_node: Counts,
    /// What was for it.
    pub to_node: Counts,
}

/// Writes a file, whole or not at all.
pub(super) fn save(what: &impl Serialize, path: &Path) -> Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, serde_json::to_string(what)?)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
}

impl Lab {
    fn box_file(&self, node: &str, kind: &str) -> PathBuf {
        self.node_dir(plan::ROUTER).join(format!("impair-{node}.{kind}"))
    }

    /// What the box on a node's link has done, some 20 ms ago.
    ///
    /// # Errors
    /// When that link has no box.
    pub fn impairment(&self, node: &str) -> Result<BoxState> {
        let path = self.box_file(node, "state");
        load(&path).with_context(|| format!("the link of {node} has no impairment box"))
    }

    /// Changes what the box on a node's link does. Its packets are numbered from 0 again, so that the same lots are drawn
    /// every time; packets on their way arrive as they were to.
    ///
    /// # Errors
    /// When that link has no box, or it does not obey.
    pub fn impair(&self, node: &str, impairment: Impairment) -> Result<()> {
        let order = Order { number: self.impairment(node)?.order.number + 1, impairment };
        save(&order, &self.box_file(node, "order"))?;
        if !interrupt::wait_until(WITHIN, || Ok(self.impairment(node)?.order == order))? {
            bail!("the impairment box of {node} does not take '{impairment}'");
        }
        Ok(())
    }

    /// Starts the boxes of a lab whose namespaces are there, and waits until they have made their devices.
    pub(crate) fn start_boxes(&self) -> Result<()> {
        let Some(impairment) = self.spec().impair else { return Ok(()) };
        fs::create_dir_all(self.node_dir(plan::ROUTER))?;
        for node in &self.spec().impaired_links() {
            let (order, made) = (self.box_file(node, "order"), self.box_file(node, "state"));
            save(&Order { number: 1, impairment }, &order)?;
            let path = self.box_file(node, "log");
            let log = fs::File::create(&path)?;
            let mut command = Command::new(command::find("setsid")?);
            command.arg(self.program("netns-lab")?).arg("impair-box");
            command.arg("--node-netns").arg(self.netns(node)?);
            command.arg("--router-netns").arg(self.netns(plan::ROUTER)?);
            command.args(["--device", node, "--order"]).arg(&order).arg("--state").arg(&made);
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let child =
                command.spawn().with_context(|| format!("cannot start `{}`", command::shown(&command)))?;
            let id = ProcessId::of(child.id())?;
            self.record(plan::ROUTER, &format!("impair-box {node}"), child.id(), Some(&path))?;
            if !interrupt::wait_until(WITHIN, || Ok(made.exists() || !id.is_alive()))? || !made.exists() {
                let said = fs::read_to_string(&path).unwrap_or_default();
                bail!("the impairment box of {node} does not come up: {}", said.trim());
            }
        }
        Ok(())
    }
}
