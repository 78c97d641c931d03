//! Baton's target agent: gives handed-off connections to the local, unmodified server.

mod admin;
mod config;
mod doctor;
mod flows;
mod load;
mod local_vip;
mod metrics;
mod run;
mod serve;
mod sock_diag;

use baton_daemon::certs::CertsArgs;
use baton_daemon::config::ConfigError;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Gives connections that were accepted elsewhere to the server on this host, and lets it answer the clients
/// directly.
#[derive(Debug, Parser)]
#[command(name = "target-agent", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground, until SIGTERM or SIGINT. Flows go on without it.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// When stopped, take the programs off the uplink and remove all pins: ends the flows there are.
        #[arg(long)]
        detach: bool,
    },
    /// Check the configuration file: one line per mistake, exit code 2 if there is one.
    Check(ConfigFile),
    /// Show what a configuration can be.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at this host and say what is missing for the agent to work, why it matters, and how to mend it.
    Doctor(ConfigFile),
    /// Make certificates for the control channel.
    Certs(CertsArgs),
    /// Write the manual's pages into a directory.
    Man {
        /// Which.
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the JSON Schema of the configuration, for editors and checkers.
    Schema,
    /// Print every key with its type, default and meaning, in Markdown.
    Reference,
}

/// Where the configuration is.
#[derive(Args, Debug)]
struct ConfigFile {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE", default_value = "/etc/baton/target-agent.toml")]
    config: PathBuf,
}

impl ConfigFile {
    fn load(&self) -> Result<config::Config, ExitCode> {
        config::Config::load(&self.config).map_err(|e| {
            eprintln!("{e}");
            ExitCode::from(ConfigError::EXIT_CODE)
        })
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { config, detach } => match config.load() {
            Ok(loaded) => run::run(&loaded, &config.config, detach),
            Err(code) => return code,
        },
        Command::Check(file) => match file.load() {
            Ok(_) => {
                println!("{}: ok", file.config.display());
                Ok(())
            }
            Err(code) => return code,
        },
        Command::Config(ConfigCommand::Schema) => {
            serde_json::to_string_pretty(&schemars::schema_for!(config::Config))
                .map(|schema| println!("{schema}"))
                .map_err(Into::into)
        }
        Command::Config(ConfigCommand::Reference) => {
            print!("{}", baton_daemon::config::reference::<config::Config>("target-agent.toml"));
            Ok(())
        }
        Command::Doctor(file) => return ExitCode::from(doctor::run(&file.config)),
        Command::Certs(args) => baton_daemon::certs::run(&args).map_err(Into::into).map(|lines| {
            for line in lines {
                println!("{line}");
            }
        }),
        Command::Man { directory } => manual(&directory).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("target-agent: {}", one_line(&e));
            ExitCode::FAILURE
        }
    }
}

fn manual(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

/// The error and its causes, but for those an error has in its own words already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
