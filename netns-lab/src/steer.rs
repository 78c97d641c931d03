//! Starting, stopping, killing and asking the lab's programs.

use crate::process::ProcessId;
use crate::spec::Balancer;
use crate::{Lab, command, http, interrupt, plan};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long a program may take until it answers. The kernel looks at a daemon's programs for some seconds, on a busy machine
/// for many more.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long the intermediate may take to reach the agents, whose addresses it tries again after two seconds at most.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);

/// A program the lab runs on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// nginx on a target.
    Server,
    /// The agent on a target.
    Agent,
    /// Whatever answers at the VIP: the intermediate, HAProxy or nginx.
    Balancer,
}

impl Lab {
    /// The name under which a program is in the list of processes; its log is NAME.log in the node's directory.
    pub fn program_name(&self, program: Program) -> &'static str {
        match (program, self.spec().balancer) {
            (Program::Server, _) | (Program::Balancer, Balancer::Nginx) => "nginx",
            (Program::Agent, _) => "target-agent",
            (Program::Balancer, Balancer::Haproxy) => "haproxy",
            (Program::Balancer, Balancer::Envoy) => "envoy",
            (Program::Balancer, Balancer::Caddy) => "caddy",
            (Program::Balancer, Balancer::Baton | Balancer::None) => "intermediate",
        }
    }

    /// The configuration file of a program. Change it and restart the program to see what happens.
    pub fn config(&self, node: &str, program: Program) -> PathBuf {
        let name = self.program_name(program);
        let suffix = match name {
            "nginx" => "conf",
            "haproxy" => "cfg",
            "envoy" => "json",
            "caddy" => "json",
            _ => "toml",
        };
        self.node_dir(node).join(format!("{name}.{suffix}"))
    }

    /// What a program has written to its standard output and error.
    pub fn log(&self, node: &str, program: Program) -> PathBuf {
        self.node_dir(node).join(format!("{}.log", self.program_name(program)))
    }

    /// Starts a program and waits until it answers, and for an agent or the intermediate a while for their connection.
    ///
    /// # Errors
    /// When it runs already, or does not become ready: the end of its log.
    pub fn start(&self, node: &str, program: Program) -> Result<()> {
        self.launch(node, program)?;
        self.wait_started(node, program)
    }

    /// As [`Lab::start`], with these variables in the program's environment. It does not wait for the connection between the
    /// daemons: what was changed may stand in its way.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_with(&self, node: &str, program: Program, variables: &[(&str, &str)]) -> Result<()> {
        self.launch_by(node, program, "", |command| {
            command.envs(variables.iter().copied());
        })?;
        self.wait_ready(node, program)
    }

    /// Waits until a program that was launched answers, and for an agent or the intermediate a while for their connection.
    pub(crate) fn wait_started(&self, node: &str, program: Program) -> Result<()> {
        self.wait_ready(node, program)?;
        if program != Program::Server {
            self.wait_connected()?;
        }
        Ok(())
    }

    /// Waits some seconds until the intermediate reaches every agent that runs. That it does not is told and no error:
    /// a lab may be ordered with agents that refuse it. One that only proxies has no data plane and never asks for them.
    pub(crate) fn wait_connected(&self) -> Result<()> {
        if self.spec().balancer != Balancer::Baton || !self.is_running(plan::INTERMEDIATE, Program::Balancer)
        {
            return Ok(());
        }
        let running = self.targets().iter().filter(|(t, _)| self.is_running(t, Program::Agent)).count();
        let mut reached = 0;
        let all = interrupt::wait_until(CONNECTED_WITHIN, || {
            let ready = self.admin_get(plan::INTERMEDIATE, "/readyz").unwrap_or_default();
            if ready.get("data_plane").and_then(Value::as_str) == Some("none") {
                return Ok(true);
            }
            let up = ready.get("targets_up").and_then(Value::as_u64).unwrap_or(0);
            reached = usize::try_from(up)?;
            Ok(reached >= running)
        })?;
        if !all {
            eprintln!("netns-lab: the intermediate reaches {reached} of {running} agents");
        }
        Ok(())
    }

    /// Ends a program in good order (SIGTERM) and waits until it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&self, node: &str, program: Program) -> Result<()> {
        let running = self.running(node, program)?;
        self.forget(&[running])
    }

    /// Kills a program (SIGKILL) and waits until it has ended.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, node: &str, program: Program) -> Result<()> {
        let running = self.running(node, program)?;
        running.signal(libc::SIGKILL)?;
        if !running.wait_ended(READY_WITHIN) {
            bail!("{} on {node} does not end on SIGKILL", self.program_name(program));
        }
        self.forget(&[running])
    }

    /// Sends a program a signal, such as `libc::SIGSTOP` to make it slow.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, node: &str, program: Program, signal: i32) -> Result<()> {
        Ok(self.running(node, program)?.signal(signal)?)
    }

    /// Ends a program in good order and starts it again.
    ///
    /// # Errors
    /// As [`Lab::stop`] and [`Lab::start`].
    pub fn restart(&self, node: &str, program: Program) -> Result<()> {
        self.stop(node, program)?;
        self.start(node, program)
    }

    /// Whether a program runs.
    pub fn is_running(&self, node: &str, program: Program) -> bool {
        self.running(node, program).is_ok()
    }

    /// `kill -9` of a target's agent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_agent(&self, target: &str) -> Result<()> {
        self.kill(target, Program::Agent)
    }

    /// Ends a target's agent in good order.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_agent(&self, target: &str) -> Result<()> {
        self.stop(target, Program::Agent)
    }

    /// Starts a target's agent.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_agent(&self, target: &str) -> Result<()> {
        self.start(target, Program::Agent)
    }

    /// `kill -9` of the intermediate, or of the proxy in its place.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_intermediate(&self) -> Result<()> {
        self.kill(plan::INTERMEDIATE, Program::Balancer)
    }

    /// Ends the intermediate in good order.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_intermediate(&self) -> Result<()> {
        self.stop(plan::INTERMEDIATE, Program::Balancer)
    }

    /// Starts the intermediate.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_intermediate(&self) -> Result<()> {
        self.start(plan::INTERMEDIATE, Program::Balancer)
    }

    /// The admin socket of a node's daemon.
    ///
    /// # Errors
    /// When the node has none.
    pub fn admin_socket(&self, node: &str) -> Result<PathBuf> {
        self.node(node)?
            .admin
            .clone()
            .with_context(|| format!("node {node} has no daemon and no admin socket"))
    }

    /// Status and body of a GET on a node's admin socket.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn admin_text(&self, node: &str, path: &str) -> Result<(u16, String)> {
        http::get(&self.admin_socket(node)?, path)
    }

    /// Status and body of a POST on a node's admin socket.
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn admin_post(&self, node: &str, path: &str) -> Result<(u16, String)> {
        http::post(&self.admin_socket(node)?, path)
    }

    /// The JSON a node's admin endpoint answers a GET with.
    ///
    /// # Errors
    /// When nobody answers, or with another status than 200, or not with JSON.
    pub fn admin_get(&self, node: &str, path: &str) -> Result<Value> {
        let (status, body) = self.admin_text(node, path)?;
        if status != 200 {
            bail!("GET {path} on {node} was answered with {status}: {}", body.trim());
        }
        serde_json::from_str(&body).with_context(|| format!("GET {path} on {node} gave no JSON: {body:?}"))
    }

    /// Where a program of ours is: in the build that is in use, else where this one's are.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        match self.build().map(|dir| dir.join(name)).filter(|path| path.is_file()) {
            Some(path) => Ok(path),
            None => command::built(name),
        }
    }

    fn running(&self, node: &str, program: Program) -> Result<ProcessId> {
        self.node(node)?;
        let name = self.program_name(program);
        let alive = self.processes_of(node, name).into_iter().find(|p| p.is_alive());
        alive.with_context(|| format!("{name} does not run on {node}"))
    }

    /// Starts a program in a session of its own, its output appended to its log.
    pub(crate) fn launch(&self, node: &str, program: Program) -> Result<()> {
        self.launch_by(node, program, "", |_| {})
    }

    /// The same, with something about the command changed. A daemon finds its own number in `LISTEN_PID`; its shell, a bash,
    /// does `first` before.
    pub(crate) fn launch_by(
        &self,
        node: &str,
        program: Program,
        first: &str,
        change: impl FnOnce(&mut Command),
    ) -> Result<()> {
        let (name, config) = (self.program_name(program), self.config(node, program));
        if self.is_running(node, program) {
            bail!("{name} runs on {node} already");
        }
        let mut command = self.command(node, "setsid")?;
        match name {
            "nginx" => {
                command.arg(command::find(name)?).arg("-p").arg(self.node_dir(node)).arg("-c").arg(config)
            }
            "haproxy" => command.arg(command::find(name)?).args(["-db", "-f"]).arg(config),
            // Hot restart takes an abstract socket, of which a machine has one for each number.
            "envoy" => {
                let quiet = ["--disable-hot-restart", "--log-level", "warning", "-c"];
                command.arg(command::find(name)?).args(quiet).arg(config)
            }
            "caddy" => command.arg(command::find(name)?).args(["run", "--config"]).arg(config),
            daemon => command
                // A plain shell knows no descriptor above 9, which `first` may name.
                .args(["bash", "-c", format!("{first}LISTEN_PID=$$ exec \"$@\"").as_str(), "bash"])
                .arg(self.program(daemon)?)
                .args(["run", "--config"])
                .arg(config),
        };
        let path = self.log(node, program);
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).env("NO_COLOR", "1");
        // Caddy keeps what it knows below its user's home.
        command.env("HOME", self.node_dir(node)).env("XDG_DATA_HOME", self.node_dir(node));
        command.env("XDG_CONFIG_HOME", self.node_dir(node)).current_dir(self.node_dir(node));
        change(&mut command);
        let child = spawn(&mut command)?;
        self.record(node, name, child, Some(&path))
    }

    /// Waits until a program answers; fails at once when it has ended.
    pub(crate) fn wait_ready(&self, node: &str, program: Program) -> Result<()> {
        let name = self.program_name(program);
        let mut ended = false;
        let mut last = String::new();
        let ready = interrupt::wait_until(READY_WITHIN, || {
            ended = !self.is_running(node, program);
            let answer = if ended { Ok(()) } else { self.ready(node, program) };
            last = answer.as_ref().err().map_or(String::new(), |e| format!("{e:#}"));
            Ok(answer.is_ok())
        })?;
        let log = tail(&self.log(node, program));
        if ended {
            bail!("{name} on {node} has ended; its last lines:\n{log}");
        }
        if !ready {
            bail!(
                "{name} on {node} was not ready within {} s ({last}); its last lines:\n{log}",
                READY_WITHIN.as_secs()
            );
        }
        Ok(())
    }

    fn ready(&self, node: &str, program: Program) -> Result<()> {
        let daemon = matches!(self.program_name(program), "target-agent" | "intermediate");
        if daemon {
            let (status, body) = self.admin_text(node, "/readyz")?;
            if status != 200 {
                bail!("/readyz says {status}: {}", body.trim());
            }
            return Ok(());
        }
        let address = if program == Program::Balancer {
            *self.vips().first().context("a lab has a VIP")?
        } else {
            let own = self.node(node)?.addresses.first().context("a node has an address")?;
            SocketAddr::new(own.parse()?, 80)
        };
        self.inside(node, move || TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(drop))?
            .with_context(|| format!("cannot connect to {address}"))
    }
}

/// Starts a command and gives its number back; the lab ends it by that.
fn spawn(command: &mut Command) -> Result<u32> {
    let child = command.spawn().with_context(|| format!("cannot start `{}`", command::shown(command)))?;
    Ok(child.id())
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last: Vec<_> = lines.iter().rev().take(20).rev().map(|line| format!("  {line}")).collect();
    if last.is_empty() { format!("  (nothing in {})", path.display()) } else { last.join("\n") }
}
