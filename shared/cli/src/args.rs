//! The command line.

use crate::endpoint::{Endpoint, Node, Nodes};
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Shows what Baton is doing, finds out why a connection was not migrated or a packet did not arrive, drains and reloads.
///
/// It asks the daemons' admin endpoints; those of other hosts are reached through a forwarded socket
/// (`ssh -L /tmp/t1.sock:/run/baton/target-agent.sock host`).
#[derive(Debug, Parser)]
#[command(
    name = "baton",
    version,
    max_term_width = 100,
    after_help = "Where to begin, and what to do about each reason: /usr/share/doc/baton/docs/runbook.md"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) at: At,
    /// Print JSON, as the daemons gave it
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the daemons are.
#[derive(Args, Debug)]
pub(crate) struct At {
    /// The intermediate's admin endpoint: a socket's path, or http://127.0.0.1:PORT
    #[arg(
        long,
        global = true,
        value_name = "ENDPOINT",
        env = "BATON_INTERMEDIATE",
        default_value = "/run/baton/intermediate.sock"
    )]
    intermediate: Endpoint,
    /// A target agent's admin endpoint; may be repeated, in BATON_AGENT with commas between them
    #[arg(long, global = true, value_name = "[NAME=]ENDPOINT", env = "BATON_AGENT", value_delimiter = ',')]
    agent: Vec<String>,
}

impl At {
    /// The daemons to ask.
    pub(crate) fn nodes(&self) -> Nodes {
        let agent = |text: &String| {
            let (name, at) = match text.split_once('=') {
                Some((name, at)) => (name.to_owned(), at),
                None => (text.clone(), text.as_str()),
            };
            Node { name, endpoint: at.into() }
        };
        Nodes {
            intermediate: Node { name: "intermediate".to_owned(), endpoint: self.intermediate.clone() },
            agents: self.agent.iter().map(agent).collect(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How the node is, in short: requests, flows, listeners, targets, agents
    Status,
    /// List migrated connections, or show one with all that is known of it on both hosts
    Flows(FlowArgs),
    /// List the most recent requests: how they went, why, and how long each stage took
    Migrations(MigrationArgs),
    /// List targets, or show one: standing, health, load, pools
    Targets {
        /// One of them
        name: Option<String>,
    },
    /// List why requests did not migrate and packets were dropped, and what each reason means
    Reasons {
        /// Those that were never counted, too
        #[arg(long)]
        all: bool,
    },
    /// Take a target, a listener or the node out of service; what is under way goes on
    Drain(DrainArgs),
    /// Take it back into service
    Undrain(DrainArgs),
    /// Wait until a target, a listener or the node has nothing left to do
    Wait(WaitArgs),
    /// Have the intermediate read its configuration again: all of it is taken, or nothing
    Reload,
    /// Follow what happens: handoffs, recalls, refusals, ends, health, reloads
    Events(EventArgs),
    /// A live view of requests, targets and flows; with --json a line for each look
    Top {
        /// Milliseconds between two looks
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
        interval_ms: u64,
    },
    /// Send one request along the real path; print every stage, each hop's translation and who answered
    Probe(ProbeArgs),
    /// Capture packets on both hosts, before and after the rewrite, each with the verdict as a comment (pcapng)
    Capture(CaptureArgs),
    /// Look at both hosts and the path between them; say what is wrong and how to mend it (exit code 1)
    Doctor {
        /// And probe each target along the real path, by asking for this; best something larger than a packet
        #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = "/")]
        probe: Option<String>,
    },
    /// Write all that the daemons tell into files, for whoever is to look at it later
    Sysdump {
        /// A new directory
        directory: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// Which
        shell: Shell,
    },
    /// Write the manual's pages into a directory
    Man {
        /// Which
        directory: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct FlowArgs {
    /// The flow's id: show all that is known of it
    pub(crate) id: Option<String>,
    /// Those of this target
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// frozen, committed, ended or superseded
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// ADDRESS or ADDRESS:PORT
    #[arg(long)]
    pub(crate) client: Option<String>,
    /// ADDRESS:PORT
    #[arg(long)]
    pub(crate) vip: Option<SocketAddr>,
    /// At most so many
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: usize,
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Outcome {
    Migrated,
    Proxied,
    Closed,
}

impl Outcome {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Outcome::Migrated => "migrated",
            Outcome::Proxied => "proxied",
            Outcome::Closed => "closed",
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct MigrationArgs {
    /// Those that went this way
    #[arg(long)]
    pub(crate) outcome: Option<Outcome>,
    /// Those of this target
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Those with this reason, refusal or rule of the gate
    #[arg(long)]
    pub(crate) reason: Option<String>,
    /// ADDRESS or ADDRESS:PORT
    #[arg(long)]
    pub(crate) client: Option<String>,
    /// With the time each stage took
    #[arg(long)]
    pub(crate) stages: bool,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: usize,
}

/// What can be drained.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum What {
    /// A target
    Target {
        /// Its name
        name: String,
    },
    /// A listener
    Listener {
        /// Its name
        name: String,
    },
    /// The whole intermediate
    Node,
}

#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    #[command(subcommand)]
    pub(crate) what: What,
    /// Wait until nothing is left, at most so many seconds; exit code 1 if something is left then
    #[arg(long, value_name = "SECONDS", global = true)]
    pub(crate) wait: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    #[command(subcommand)]
    pub(crate) what: What,
    /// At most so many seconds; exit code 1 if something is left then
    #[arg(long, value_name = "SECONDS", default_value_t = 600, global = true)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct EventArgs {
    /// Kinds: handoff, recall, refusal, proxied, closed, end, health, channel, order, reload
    #[arg(long, value_delimiter = ',')]
    pub(crate) kind: Vec<String>,
    /// Of this flow
    #[arg(long)]
    pub(crate) flow: Option<String>,
    /// End after so many
    #[arg(long, value_name = "NUMBER")]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct ProbeArgs {
    /// http://VIP[:PORT]/PATH
    pub(crate) url: String,
    /// Have the agent of another host send it, to this target: for where this host's own connections do not migrate
    #[arg(long, value_name = "NAME")]
    pub(crate) target: Option<String>,
    /// The value of Host, if it is not the URL's
    #[arg(long)]
    pub(crate) host: Option<String>,
    /// For all of it
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false, id = "which")]
pub(crate) struct Which {
    /// The packets of this flow
    #[arg(long, value_name = "ID")]
    pub(crate) flow: Option<String>,
    /// The packets of this client: ADDRESS or ADDRESS:PORT
    #[arg(long, value_name = "CLIENT")]
    pub(crate) filter: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CaptureArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The file to write
    #[arg(short = 'w', long, value_name = "FILE")]
    pub(crate) write: PathBuf,
    /// End after so many seconds; Ctrl-C ends it too
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// End after so many packets on a host
    #[arg(long, default_value_t = 10_000)]
    pub(crate) packets: u64,
    /// Bytes kept of a packet
    #[arg(long, default_value_t = 256)]
    pub(crate) snap: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_says_what_every_part_is_for() {
        Cli::command().debug_assert();
        fn look(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some() || command.get_name() == "help", "{path} has no help");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
            }
            command.get_subcommands().for_each(|sub| look(sub, &path));
        }
        look(&Cli::command(), "");
    }

    #[test]
    fn agents_have_names_or_are_named_by_their_place() {
        let cli = Cli::parse_from([
            "baton",
            "--agent",
            "t1=/a.sock,/b.sock",
            "--intermediate",
            "http://127.0.0.1:9",
            "status",
        ]);
        let nodes = cli.at.nodes();
        let names: Vec<_> = nodes.agents.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["t1", "/b.sock"]);
        assert_eq!(nodes.agents[0].endpoint, Endpoint::Unix("/a.sock".into()));
        assert_eq!(nodes.intermediate.endpoint, Endpoint::Tcp("127.0.0.1:9".into()));
    }
}
