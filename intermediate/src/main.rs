//! Baton's intermediate: the command.

use baton_daemon::certs::CertsArgs;
use baton_daemon::config::ConfigError;
use clap::{Args, CommandFactory, Parser, Subcommand};
use intermediate::config::Config;
use intermediate::explain::{Question, explain};
use intermediate::{doctor, run};
use std::path::{Path, PathBuf};
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
    /// Show the configuration, or what a configuration can be
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask the route table
    #[command(subcommand)]
    Route(RouteCommand),
    /// Look at all that is needed on this host and at each target; say what is missing and how to mend it
    Doctor(ConfigArgs),
    /// Make certificates for the control channel: one CA, and one certificate for each node named
    Certs(CertsArgs),
    /// Write the manual's pages into a directory
    Man {
        /// Which
        directory: PathBuf,
    },
}

#[derive(Args, Debug)]
struct ConfigArgs {
    /// The configuration, in TOML
    #[arg(long, value_name = "FILE", default_value = "/etc/baton/intermediate.toml")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the files as they are read, one behind the other
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Instead, one file in which every default is written out
        #[arg(long)]
        effective: bool,
    },
    /// Print the JSON Schema of the configuration, for editors and checkers
    Schema,
    /// Print every key with its type, default and meaning, in Markdown
    Reference,
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Print each route that is looked at for a request, why it does not take it, and the decision
    Explain {
        #[command(flatten)]
        config: ConfigArgs,
        /// GET, POST, ...
        method: String,
        /// http://HOST/PATH, or a path alone with -H 'Host: NAME'
        url: String,
        /// A header line; may be repeated
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        header: Vec<String>,
        /// The listener's name; the first that fits the URL if it is not given
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// The name in the ClientHello, for a listener of protocol "tls"; the URL's host if it is not given
        #[arg(long, value_name = "NAME")]
        sni: Option<String>,
        /// A protocol in the ClientHello; may be repeated
        #[arg(long, value_name = "PROTOCOL")]
        alpn: Vec<String>,
    },
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
        Command::Config(ConfigCommand::Schema) => {
            match serde_json::to_string_pretty(&schemars::schema_for!(Config)) {
                Ok(schema) => {
                    println!("{schema}");
                    ExitCode::SUCCESS
                }
                Err(e) => failed(&e),
            }
        }
        Command::Config(ConfigCommand::Reference) => {
            print!("{}", baton_daemon::config::reference::<Config>("intermediate.toml"));
            ExitCode::SUCCESS
        }
        Command::Config(ConfigCommand::Show { config, effective }) => show(&config, effective),
        Command::Route(RouteCommand::Explain { config, method, url, header, listener, sni, alpn }) => {
            let question = Question { method, url, headers: header, listener, sni, alpn };
            with_config(&config, |config| match explain(&config, &question) {
                Ok(text) => {
                    print!("{text}");
                    ExitCode::SUCCESS
                }
                Err(e) => failed(&e),
            })
        }
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
        Command::Man { directory } => match manual(&directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => failed(&e),
        },
    }
}

fn manual(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
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

fn show(args: &ConfigArgs, effective: bool) -> ExitCode {
    match Config::load_with_sources(&args.config) {
        Ok((config, _)) if effective => match config.effective().to_toml() {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(e) => failed(&e),
        },
        Ok((_, sources)) => {
            for (path, text) in sources.parts() {
                println!("# {}\n{text}", path.display());
            }
            ExitCode::SUCCESS
        }
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
