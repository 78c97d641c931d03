//! `baton`: looks at Baton's daemons and operates them, by their admin endpoints.

mod args;
mod capture;
mod doctor;
mod endpoint;
mod events;
mod flow;
mod numbers;
mod orders;
mod probe;
mod show;
mod status;
mod sysdump;
mod table;
mod top;

use anyhow::Result;
use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;
use std::time::Duration;

/// What a command says on success: done, or done and not well.
pub(crate) type Done = Result<ExitCode>;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.into()),
    };
    let ended = runtime.block_on(run(cli));
    // A stream that is still read must not hold up the end.
    runtime.shutdown_background();
    ended.unwrap_or_else(|e| failed(&e))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("baton: {error:#}");
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Done {
    let nodes = cli.at.nodes();
    let json = cli.json;
    match cli.command {
        Command::Status => status::run(&nodes, json).await,
        Command::Flows(args) => flow::run(&nodes, json, &args).await,
        Command::Migrations(args) => show::migrations(&nodes, json, &args).await,
        Command::Targets { name } => show::targets(&nodes, json, name.as_deref()).await,
        Command::Reasons { all } => show::reasons(&nodes, json, all).await,
        Command::Drain(args) => orders::drain(&nodes, json, &args, "drain").await,
        Command::Undrain(args) => orders::drain(&nodes, json, &args, "undrain").await,
        Command::Wait(args) => orders::wait(&nodes, json, &args).await,
        Command::Reload => orders::reload(&nodes, json).await,
        Command::Events(args) => events::run(&nodes, json, &args).await,
        Command::Top { interval_ms } => top::run(&nodes, json, Duration::from_millis(interval_ms)).await,
        Command::Probe(args) => probe::run(&nodes, json, &args).await,
        Command::Capture(args) => capture::run(&nodes, json, &args).await,
        Command::Doctor { probe } => doctor::run(&nodes, json, probe.as_deref()).await,
        Command::Sysdump { directory } => sysdump::run(&nodes, json, &directory).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "baton", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => {
            std::fs::create_dir_all(&directory)?;
            clap_mangen::generate_to(Cli::command(), &directory)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
