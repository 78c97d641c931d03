//! Baton's intermediate: the command.

use baton_daemon::certs::CertsArgs;
use baton_daemon::config::ConfigError;
use clap::{Args, Parser, Subcommand};
use intermediate::config::Config;
use intermediate::{doctor, run};
use std::path::PathBuf;
use std::process::ExitCode;

/// Owns a virtual address, reads HTTP requests there, and hands each connection over to a target host, whose server
/// then answers the client directly. What cannot be handed over is proxied.
#[derive(Debug, Parser)]
#[command(name = "intermediate", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve, in the foreground, until SIGTERM or SIGINT; connections given to targets outlive it
    Run(ConfigArgs),
    /// Look through the configuration and say what it means, or FILE:LINE:COL of each mistake (exit code 2)
    Check(ConfigArgs),
    /// Look at all that is needed on this host and at each target; say what is missing and how to mend it
    Doctor(ConfigArgs),
    /// Make certificates for the control channel: one CA, and one certificate for each node named
    Certs(CertsArgs),
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration, in TOML
    #[arg(long, value_name = "FILE", default_value = "/etc/baton/intermediate.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => with_config(&args, |config| match run::run(&config, &args.config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => failed(&e),
        }),
        Command::Check(args) => with_config(&args, |config| {
            println!("configuration OK");
            print!("{}", config.meaning());
            ExitCode::SUCCESS
        }),
        Command::Doctor(args) => match doctor::run(&args.config) {
            Ok(code) => ExitCode::from(code),
            Err(e) => failed(&e),
        },
        Command::Certs(args) => match baton_daemon::certs::run(&args) {
            Ok(lines) => {
                lines.iter().for_each(|line| println!("{line}"));
                ExitCode::SUCCESS
            }
            Err(e) => failed(&e),
        },
    }
}

fn with_config(args: &ConfigArgs, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match Config::load(&args.config) {
        Ok(config) => then(config),
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(ConfigError::EXIT_CODE)
        }
    }
}

/// One line, whatever the error's text.
fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("intermediate: {}", error.to_string().replace('\n', " "));
    ExitCode::FAILURE
}
