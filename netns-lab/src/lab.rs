//! A lab that is up.

use crate::counters::{self, LinkCounters};
use crate::process::{self, ProcessId, ProcessRecord};
use crate::spec::{Balancer, LabSpec};
use crate::state::{LabState, NodeState};
use crate::steer::Program;
use crate::{command, interrupt, network, plan, remove, sys};
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lab that is up. Dropping it takes it down, unless it was left to others by [`Lab::leave`].
#[derive(Debug)]
pub struct Lab {
    spec: LabSpec,
    nodes: Vec<NodeState>,
    state: Mutex<LabState>,
    /// Where the daemons are that are started from now on, if not in the usual place.
    build: Mutex<Option<PathBuf>>,
    /// Whether dropping this value leaves the lab as it is.
    keep: bool,
}

impl Lab {
    /// Brings a lab up and waits until everything in it answers.
    ///
    /// # Errors
    /// When something is missing on this machine, a lab of that name exists, a command fails (the command and what it
    /// wrote), or a program does not become ready (the end of its log). What was made until then is removed.
    pub fn up(spec: &LabSpec) -> Result<Self> {
        spec.check()?;
        if !sys::is_root() {
            bail!("a lab needs root, for network namespaces; run it with sudo");
        }
        needed_programs(spec)?;
        remove::sweep();
        let name = &spec.name;
        let run = plan::run_dir(name);
        if let Some(left) = remove::namespaces(name).first().filter(|_| !run.exists()) {
            bail!(
                "namespace {left} is left of an earlier lab; take it down with: netns-lab down --name {name}"
            );
        }
        match patiently(|| fs::create_dir_all(plan::RUN_BASE).and_then(|()| fs::create_dir(&run))) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                bail!("a lab called {name} is up already; take it down with: netns-lab down --name {name}");
            }
            other => other.with_context(|| format!("cannot make {}", run.display()))?,
        }
        let nodes = network::nodes(spec);
        let vips = match spec.balancer {
            Balancer::None => Vec::new(),
            _ => plan::vips(spec.family).iter().map(SocketAddr::to_string).collect(),
        };
        let state = LabState {
            spec: spec.clone(),
            vip: vips.first().cloned(),
            vips,
            nodes: nodes.clone(),
            processes: Vec::new(),
            owner: Some(ProcessId::of(std::process::id())?),
        };
        // From here on, whatever goes wrong, dropping this removes what was made.
        let lab = Self {
            spec: spec.clone(),
            nodes,
            state: Mutex::new(state),
            build: Mutex::default(),
            keep: false,
        };
        lab.state().save()?;
        network::namespaces(&lab.spec, &lab.nodes)?;
        lab.start_boxes()?;
        network::links(&lab.spec, &lab.nodes)?;
        lab.prepare()?;
        lab.start_all()?;
        Ok(lab)
    }

    /// A lab that somebody else brought up. Dropping this value leaves it as it is.
    ///
    /// # Errors
    /// When there is no such lab; the message names those that are up.
    pub fn attach(name: &str) -> Result<Self> {
        let Some(state) = LabState::load(name)? else { bail!(remove::unknown(name)) };
        Ok(Self {
            spec: state.spec.clone(),
            nodes: state.nodes.clone(),
            state: Mutex::new(state),
            build: Mutex::default(),
            keep: true,
        })
    }

    /// Leaves the lab up: it is from now on nobody's but `netns-lab down`'s.
    ///
    /// # Errors
    /// When that cannot be written down; the lab is then taken down.
    pub fn leave(mut self) -> Result<()> {
        {
            let mut state = self.state();
            state.owner = None;
            state.save()?;
        }
        self.keep = true;
        Ok(())
    }

    /// How it was ordered.
    pub fn spec(&self) -> &LabSpec {
        &self.spec
    }

    /// All nodes.
    pub fn nodes(&self) -> &[NodeState] {
        &self.nodes
    }

    /// A copy of what is remembered of the lab.
    pub fn snapshot(&self) -> LabState {
        self.state().clone()
    }

    /// The node of that name.
    ///
    /// # Errors
    /// When there is none; the message names all.
    pub fn node(&self, name: &str) -> Result<&NodeState> {
        self.nodes.iter().find(|n| n.name == name).with_context(|| {
            let all: Vec<_> = self.nodes.iter().map(|n| n.name.as_str()).collect();
            format!("lab {} has no node {name}; it has {}", self.spec.name, all.join(", "))
        })
    }

    /// The file a node's namespace is mounted on.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn netns(&self, node: &str) -> Result<PathBuf> {
        Ok(plan::netns_path(&self.node(node)?.netns))
    }

    /// A command that will run on a node; give it arguments, pipes and so on.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn command(&self, node: &str, program: &str) -> Result<Command> {
        command::inside(&self.netns(node)?, program)
    }

    /// Runs a command on a node to its end, whatever its exit code is.
    ///
    /// # Errors
    /// When there is no such node, or the command cannot be started.
    pub fn exec(&self, node: &str, words: &[&str]) -> Result<Output> {
        let (program, args) = words.split_first().context("an empty command")?;
        let mut command = self.command(node, program)?;
        command.args(args).stdin(Stdio::null());
        command.output().with_context(|| format!("cannot start `{}`", command::shown(&command)))
    }

    /// The standard output of a command on a node.
    ///
    /// # Errors
    /// As [`Lab::exec`], and when it ends with another code than 0 (with its standard error).
    pub fn output(&self, node: &str, words: &[&str]) -> Result<String> {
        let output = self.exec(node, words)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` on {node} failed ({}): {}", words.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a command on a node in a session of its own, its output in pipes. It is ended with the lab.
    ///
    /// # Errors
    /// When there is no such node, or the command cannot be started.
    pub fn spawn(&self, node: &str, words: &[&str]) -> Result<Child> {
        let (program, _) = words.split_first().context("an empty command")?;
        let mut command = self.command(node, "setsid")?;
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child =
            command.spawn().with_context(|| format!("cannot start `{}`", command::shown(&command)))?;
        self.record(node, program, child.id(), None)?;
        Ok(child)
    }

    /// Runs `work` on a thread of its own inside a node's network namespace: sockets it opens are that node's.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn inside<T: Send + 'static>(
        &self,
        node: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        network::inside(self.node(node)?, work)
    }

    /// The counters of every link, as `ip -s link` shows them on the node and on the router.
    ///
    /// # Errors
    /// When a namespace is gone.
    pub fn link_counters(&self) -> Result<Vec<LinkCounters>> {
        let router = counters::of_netns(&self.node(plan::ROUTER)?.netns)?;
        let at = |ends: &[(String, counters::EndCounters)], device: &str| {
            ends.iter().find(|(name, _)| name == device).map(|(_, c)| *c).unwrap_or_default()
        };
        let links = self.nodes.iter().filter(|n| n.name != plan::ROUTER);
        links
            .map(|n| {
                let node = counters::of_netns(&n.netns)?;
                Ok(LinkCounters {
                    link: n.name.clone(),
                    node: at(&node, "eth0"),
                    router: at(&router, &n.name),
                })
            })
            .collect()
    }

    /// The run directory of a node: configuration, logs, admin socket.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        plan::run_dir(&self.spec.name).join(node)
    }

    /// The files every target serves.
    pub fn www_dir(&self) -> PathBuf {
        plan::data_dir(&self.spec.name).join("www")
    }

    /// Where what is PUT to `/upload/NAME` on a target arrives.
    pub fn upload_dir(&self, target: &str) -> PathBuf {
        plan::data_dir(&self.spec.name).join(target).join("upload")
    }

    /// nginx's access log on a target. Each line: client's address, its port, "request", status, bytes of body sent,
    /// bytes of the request.
    pub fn access_log(&self, target: &str) -> PathBuf {
        self.node_dir(target).join("access.log")
    }

    /// The targets' names and addresses, IPv4 first.
    pub fn targets(&self) -> Vec<(String, Vec<IpAddr>)> {
        (1..=self.spec.targets).map(|j| (plan::target(j), plan::target_addrs(self.spec.family, j))).collect()
    }

    /// Where clients connect to: one address of every IP version the lab has, IPv4 first.
    pub fn vips(&self) -> Vec<SocketAddr> {
        plan::vips(self.spec.family)
    }

    /// The directory the lab's certificates are in: `ca.pem`, `ca.key`, and NODE.pem, NODE.key.
    pub fn certs_dir(&self) -> PathBuf {
        plan::run_dir(&self.spec.name).join("certs")
    }

    /// The bpffs a node's daemon pins its maps and links in.
    pub fn bpf_dir(&self, node: &str) -> PathBuf {
        plan::run_dir(&self.spec.name).join("bpf").join(node)
    }

    /// Starts daemons from this directory from now on: those of another build.
    pub fn use_build(&self, dir: PathBuf) {
        *self.build.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
    }

    /// That directory, once there is one.
    pub(crate) fn build(&self) -> Option<PathBuf> {
        self.build.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, LabState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a process down, so that it is ended with the lab whatever becomes of this one.
    pub(crate) fn record(&self, node: &str, program: &str, pid: u32, log: Option<&Path>) -> Result<()> {
        let mut state = self.state();
        state.processes.push(ProcessRecord {
            node: node.to_owned(),
            program: program.to_owned(),
            id: ProcessId::of(pid)?,
            log: log.map(Path::to_owned),
        });
        state.save()
    }

    /// Starts everything at once, then waits for each.
    fn start_all(&self) -> Result<()> {
        let mut started = Vec::new();
        for (name, _) in self.targets() {
            started.push((name.clone(), Program::Server));
            if self.spec.balancer == Balancer::Baton {
                started.push((name, Program::Agent));
            }
        }
        if self.spec.balancer != Balancer::None {
            started.push((plan::INTERMEDIATE.to_owned(), Program::Balancer));
        }
        for (node, program) in &started {
            interrupt::check()?;
            self.launch(node, *program)?;
        }
        for (node, program) in &started {
            self.wait_ready(node, *program)?;
        }
        self.wait_connected()
    }

    pub(crate) fn processes_of(&self, node: &str, program: &str) -> Vec<ProcessId> {
        let state = self.state();
        let of = state.processes.iter().filter(|p| p.node == node && p.program == program);
        of.map(|p| p.id).collect()
    }

    pub(crate) fn forget(&self, ended: &[ProcessId]) -> Result<()> {
        process::end_all(ended);
        let mut state = self.state();
        state.processes.retain(|p| !ended.contains(&p.id));
        state.save()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            for problem in remove::teardown(&self.spec.name) {
                eprintln!("netns-lab: {problem}");
            }
        }
    }
}

/// Another lab that goes may take the common directory with it just when this one makes its own in there.
pub(crate) fn patiently(mut make: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    for _ in 0..20 {
        match make() {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
    }
    make()
}

/// Says at once what is not installed, before anything is made.
fn needed_programs(spec: &LabSpec) -> Result<()> {
    let mut needed = vec!["ip", "nsenter", "setsid", "mount", "umount", "nginx", "curl"];
    match spec.balancer {
        Balancer::Haproxy => needed.push("haproxy"),
        Balancer::Envoy => needed.push("envoy"),
        Balancer::Caddy => needed.push("caddy"),
        Balancer::Baton | Balancer::Nginx | Balancer::None => {}
    }
    if spec.rate_intermediate.or(spec.rate_target).is_some() {
        needed.push("tc");
    }
    needed.iter().try_for_each(|program| command::find(program).map(drop))
}
