//! Baton side by side with the direct path and with the proxies people use, in one run on one machine.
//!
//! Every balancer has a lab of its own, all of them up at once; the rounds go through the balancers in turn (A B C,
//! A B C, ...), so that a machine whose speed drifts is slow for all of them alike. Absolute figures are this machine's;
//! the ratios are what to look at. Nothing here passes or fails by time.

mod cpu;
mod figures;
mod idle;
mod installed;
mod load;
mod plot;
mod processors;
mod report;
mod way;

pub use figures::{Figure, Percentiles};
pub use report::Report;
pub use way::Way;

use crate::spec::{LabSpec, Rate};
use crate::{Impairment, Lab, content, interrupt, plan};
use anyhow::{Context, Result, bail};
use cpu::CpuReading;
use figures::Sample;
use installed::Since;
use load::Load;
use processors::Processors;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchSpec {
    /// Files of [`content::FILES`], by name.
    pub sizes: Vec<String>,
    /// Which ways to the content.
    pub balancers: Vec<Way>,
    /// Connections at a time.
    pub connections: Vec<u16>,
    /// Whether connections are used for more than one request.
    pub keepalive: Vec<bool>,
    /// How often everything is measured.
    pub rounds: u32,
    /// How long each load lasts, for files that are not fetched a number of times.
    pub seconds: u32,
    /// How many targets each lab has; the direct way uses the first.
    pub targets: u8,
    /// Rate of the intermediate's link.
    pub rate_intermediate: Option<Rate>,
    /// Rate of every target's link.
    pub rate_target: Option<Rate>,
    /// What a packet and its answer take on the client's link, more than they do anyway.
    pub round_trip: Option<Duration>,
    /// The congestion control of the servers' sockets; none: the lab's usual.
    pub congestion: Option<String>,
    /// Within how many microseconds this machine's processors are to wake; none: as the system has it.
    pub cpu_latency_us: Option<i32>,
    /// How many kept and idle connections the memory of a balancer is measured with; 0: not at all.
    pub idle_connections: u32,
    /// Whether progress is told on the standard error.
    pub progress: bool,
}

/// One row of the results: a way, a file, a number of connections, kept or not.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// The way.
    pub balancer: Way,
    /// The file's name.
    pub size: String,
    /// Its length.
    pub size_bytes: u64,
    /// Connections at a time.
    pub connections: u16,
    /// Whether connections were used again.
    pub keepalive: bool,
    /// Which program made the load.
    pub load: &'static str,
    /// Body bytes that arrived, 10^6 bytes per second.
    pub mb_per_s: Figure,
    /// Responses per second.
    pub requests_per_s: Figure,
    /// From the request (with a new connection: from its start) to the first byte of the response, microseconds, one
    /// request at a time.
    pub ttfb_us: Percentiles,
    /// Baton's new connections: from the start of the freeze until the client's packets were on their way to the target,
    /// microseconds, of those requests whose first byte was waited for. None: no handoff belongs to this row's requests.
    pub freeze_to_installed_us: Option<Percentiles>,
    /// The same of the load's requests, of which up to 10 000 are remembered in each round.
    pub freeze_to_installed_under_load_us: Option<Percentiles>,
    /// Processor seconds for each 10^9 bytes of body.
    pub cpu_s_per_gb: Cpu,
    /// Processor seconds for 1000 requests.
    pub cpu_s_per_1000_requests: Cpu,
    /// Requests that failed, all rounds together.
    pub failed: u64,
}

/// Processor time by where it was spent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cpu {
    /// Of all processes on the intermediate's node, user and system.
    pub intermediate: Figure,
    /// Of all processes on the targets' nodes.
    pub target: Figure,
    /// Of the whole machine, the load's programs and the kernel's work for the network included.
    pub machine: Figure,
    /// Of the kernel's work for the network that no process is charged with (soft interrupts), on all nodes together.
    pub kernel_network: Figure,
}

/// Files from this length on are fetched a number of times instead of for a time.
const LARGE: u64 = 10 << 20;

/// A lab and how its content is reached.
struct Side {
    way: Way,
    lab: Lab,
    to: SocketAddr,
}

/// Brings all labs up, measures, takes them down.
///
/// # Errors
/// When a lab does not come up, a program for the load is missing or fails, or an unknown file is asked for.
pub fn run(spec: &BenchSpec) -> Result<Report> {
    for program in load::programs(spec) {
        crate::command::find(program)?;
    }
    for program in spec.balancers.iter().filter_map(|way| way.program()) {
        crate::command::find(program)?;
    }
    let sizes: Vec<(String, u64)> = spec.sizes.iter().map(|name| known(name)).collect::<Result<_>>()?;
    let processors = Processors::hold(spec.cpu_latency_us)?;
    let mut sides = Vec::new();
    for way in &spec.balancers {
        tell(spec, &format!("bringing up the lab for {}", way.name()));
        sides.push(side(spec, *way)?);
    }
    let mut cells: Vec<(Cell, Vec<Sample>)> = Vec::new();
    for (size, bytes) in &sizes {
        for connections in &spec.connections {
            for keepalive in &spec.keepalive {
                let load = Load::new(size, *bytes, *connections, *keepalive, spec.seconds);
                let first = cells.len();
                cells.extend(sides.iter().map(|side| (load.cell(side.way), Vec::new())));
                for round in 1..=spec.rounds {
                    for (n, side) in sides.iter().enumerate() {
                        interrupt::check()?;
                        processors.settle();
                        let sample = measure(side, &load).with_context(|| {
                            format!("{} of {size}, {connections} connections", side.way.name())
                        })?;
                        tell(
                            spec,
                            &format!(
                                "round {round}: {size} x{connections} keepalive {}: {:<8} {:>9.1} MB/s {:>9.0} requests/s",
                                if *keepalive { "on" } else { "off" },
                                side.way.name(),
                                sample.mb_per_s,
                                sample.requests_per_s
                            ),
                        );
                        if let Some((_, samples)) = cells.get_mut(first + n) {
                            samples.push(sample);
                        }
                    }
                }
            }
        }
    }
    let idle = match spec.idle_connections {
        0 => Vec::new(),
        count => {
            let with_node = sides.iter().filter(|side| side.way != Way::Direct);
            with_node.map(|side| idle::measure(side, count)).collect::<Result<Vec<_>>>()?
        }
    };
    let cells = cells.into_iter().map(|(cell, samples)| figures::filled(cell, &samples)).collect();
    Ok(Report::new(spec, cells, idle))
}

fn tell(spec: &BenchSpec, text: &str) {
    if spec.progress {
        eprintln!("{text}");
    }
}

fn known(name: &str) -> Result<(String, u64)> {
    let Some((name, bytes)) = content::FILES.iter().find(|(known, _)| *known == name) else {
        let all: Vec<_> = content::FILES.iter().map(|(name, _)| *name).collect();
        bail!("the lab serves no file of size '{name}'; it has {}", all.join(", "));
    };
    Ok(((*name).to_owned(), *bytes))
}

fn side(spec: &BenchSpec, way: Way) -> Result<Side> {
    let name = format!("bench{}-{}", std::process::id(), way.name());
    let lab = way.order(LabSpec {
        targets: spec.targets,
        rate_intermediate: spec.rate_intermediate,
        rate_target: spec.rate_target,
        congestion: spec.congestion.clone(),
        // The box delays each packet, so half of it for each direction.
        impair: spec.round_trip.map(|all| Impairment { delay: all / 2, ..Impairment::default() }),
        ..LabSpec::new(name)
    });
    let lab = Lab::up(&lab)?;
    let to = match way {
        Way::Direct => SocketAddr::new(plan::target_addr(1).into(), 80),
        _ => plan::VIP.into(),
    };
    Ok(Side { way, lab, to })
}

/// One load on one way.
fn measure(side: &Side, load: &Load) -> Result<Sample> {
    let handoffs = || if load.keepalive() { Ok(None) } else { Since::now(side) };
    let begun = handoffs()?;
    let ttfb = load.first_bytes(side)?;
    let asked = u64::try_from(ttfb.len()).unwrap_or(0);
    let alone = begun.map(|since| since.durations(asked)).transpose()?;
    let begun = handoffs()?;
    let before = CpuReading::take(&side.lab)?;
    let done = load.run(side)?;
    let after = CpuReading::take(&side.lab)?;
    // Ends that are still being reported belong to nobody's round.
    std::thread::sleep(Duration::from_millis(100));
    let loaded = begun.map(|since| since.durations(done.requests)).transpose()?;
    Ok(Sample::new(&done, after - before, ttfb).with_handoffs(alone, loaded))
}
