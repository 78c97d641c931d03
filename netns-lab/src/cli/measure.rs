//! The subcommands that measure: `bench` and `cost`.

use super::print;
use anyhow::{Context, Result, bail};
use clap::Args;
use netns_lab::bench::{self, BenchSpec, Way};
use netns_lab::cost::{self, CostSpec, Ledger};
use netns_lab::{Rate, Serve, impair, interrupt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args)]
pub(super) struct Bench {
    /// Files to fetch: 1k, 10k, 100k, 1m, 10m, 100m
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1k,100k,100m")]
    sizes: Vec<String>,
    /// Which ways: direct, baton, baton-adopt, baton-translate, baton-pinned, baton-deferred, baton-asleep, haproxy,
    /// haproxy-deferred, haproxy-reuse, nginx, envoy, caddy
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "direct,baton,haproxy,nginx")]
    balancers: Vec<Way>,
    /// Connections at a time
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "8")]
    connections: Vec<u16>,
    /// Use connections again: on, off or both, as on,off
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "off")]
    keepalive: Vec<OnOff>,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each load of small files lasts
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How many targets each lab has; the direct way uses the first
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    targets: u8,
    /// Limit the intermediate's link, both ways, for example 1gbit
    #[arg(long, value_name = "R")]
    rate_intermediate: Option<Rate>,
    /// Limit each target's link, both ways
    #[arg(long, value_name = "R")]
    rate_target: Option<Rate>,
    /// Delay the client's packets: what a packet and its answer take, for example 20ms
    #[arg(long, value_name = "TIME", value_parser = impair::time)]
    round_trip: Option<Duration>,
    /// Congestion control of the servers' sockets, for example bbr [default: cubic]
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Hold the time this machine's processors may take to wake at this, microseconds, for all ways alike; 0: idle ones do
    /// not sleep [default: as the system has it]
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(i32).range(0..))]
    cpu_latency_us: Option<i32>,
    /// Kept and idle connections to measure a balancer's memory with, opened twice; 0: not measured
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u32).range(..=4900))]
    idle_connections: u32,
    /// Write the results there as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results there as Markdown, with FILE.svg beside it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct Cost {
    /// How many handoffs the medians are of
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    handoffs: u32,
    /// How connections are given to the servers: translate, adopt
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "translate,adopt")]
    serve: Vec<Serve>,
    /// Write everything there as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write what is the same on every machine there: system calls and control bytes
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Compare with such a file, and fail if a count has changed
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum OnOff {
    On,
    Off,
}

pub(super) fn run_cost(args: &Cost) -> Result<ExitCode> {
    interrupt::install()?;
    let expected: Option<Ledger> = args.check.as_ref().map(read_ledger).transpose()?;
    // A comparison looks at no times.
    let times = args.check.is_none() || args.json.is_some();
    let spec = CostSpec { handoffs: args.handoffs, ways: args.serve.clone(), times };
    let ledger = cost::run(&spec)?;
    let write = |file: &PathBuf, ledger: &Ledger| {
        let text = format!("{}\n", serde_json::to_string_pretty(ledger)?);
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    if let Some(file) = &args.json {
        write(file, &ledger)?;
    }
    if let Some(file) = &args.ledger {
        write(file, &ledger.stable())?;
    }
    print(&ledger.to_text())?;
    let differences = expected.map(|expected| ledger.differences(&expected)).unwrap_or_default();
    if differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("a handoff costs something else than the ledger says:\n  {}", differences.join("\n  "))
}

fn read_ledger(file: &PathBuf) -> Result<Ledger> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no ledger of netns-lab cost", file.display()))
}

pub(super) fn run_bench(args: Bench) -> Result<ExitCode> {
    interrupt::install()?;
    let spec = BenchSpec {
        sizes: args.sizes,
        balancers: args.balancers,
        connections: args.connections,
        keepalive: args.keepalive.iter().map(|k| matches!(k, OnOff::On)).collect(),
        rounds: args.rounds,
        seconds: args.seconds,
        targets: args.targets,
        rate_intermediate: args.rate_intermediate,
        rate_target: args.rate_target,
        round_trip: args.round_trip,
        congestion: args.congestion,
        cpu_latency_us: args.cpu_latency_us,
        idle_connections: args.idle_connections,
        progress: true,
    };
    let report = bench::run(&spec)?;
    let write = |file: &PathBuf, text: String| {
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    };
    if let Some(file) = &args.json {
        write(file, serde_json::to_string_pretty(&report)?)?;
    }
    let mut markdown = report.to_markdown();
    if let Some(file) = &args.report {
        let text = markdown.clone();
        for (name, title, svg) in report.to_svgs() {
            let plot = file.with_extension(format!("{name}.svg"));
            let link = plot.file_name().unwrap_or_default().to_string_lossy().into_owned();
            markdown.push_str(&format!("\n![{title}]({link})\n"));
            write(&plot, svg)?;
        }
        write(file, std::mem::replace(&mut markdown, text))?;
    }
    print(&markdown)?;
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
