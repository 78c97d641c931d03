//! What is remembered of a lab in `state.json`, so that another process can use it and take it down.

use crate::plan;
use crate::process::{ProcessId, ProcessRecord};
use crate::spec::LabSpec;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// One node of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// `client1`, `router`, `intermediate`, `target1`, ...
    pub name: String,
    /// The namespace, as `ip netns` knows it.
    pub netns: String,
    /// Its addresses, without prefix lengths.
    pub addresses: Vec<String>,
    /// The daemon's admin socket, where Baton runs a daemon.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub admin: Option<PathBuf>,
}

/// A lab as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabState {
    /// How it was ordered.
    pub spec: LabSpec,
    /// Address and port clients connect to, IPv4 if the lab has it; none without a balancer.
    pub vip: Option<String>,
    /// The same of every IP version the lab has, IPv4 first.
    #[serde(default)]
    pub vips: Vec<String>,
    /// All nodes.
    pub nodes: Vec<NodeState>,
    /// All processes that were started.
    pub processes: Vec<ProcessRecord>,
    /// The process that takes it down when it ends. A lab whose owner is dead is swept away by the next one; a lab
    /// brought up by the command has none and stays.
    pub owner: Option<ProcessId>,
}

impl LabState {
    fn path(lab: &str) -> PathBuf {
        plan::run_dir(lab).join("state.json")
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// When the run directory is gone or full.
    pub fn save(&self) -> Result<()> {
        let path = Self::path(&self.spec.name);
        let text = serde_json::to_string_pretty(self)?;
        let new = path.with_extension("json.new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads it; none if there is no such lab.
    ///
    /// # Errors
    /// When the file is there and cannot be understood.
    pub fn load(lab: &str) -> Result<Option<Self>> {
        let path = Self::path(lab);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} was written by another version of netns-lab", path.display()))
    }

    /// The object `netns-lab up --json` prints.
    pub fn shown(&self) -> serde_json::Value {
        let admin: serde_json::Map<_, _> = self
            .nodes
            .iter()
            .filter_map(|n| Some((n.name.clone(), n.admin.as_ref()?.to_string_lossy().into())))
            .collect();
        serde_json::json!({
            "name": self.spec.name,
            "balancer": self.spec.balancer,
            "vip": self.vip,
            "vips": self.vips,
            "nodes": self.nodes,
            "admin": admin,
        })
    }
}
