//! The results: JSON for programs, Markdown with ratios for people.

use super::idle::Idle;
use super::{BenchSpec, Cell, Cpu, Figure, Percentiles, Way, plot};
use serde::Serialize;
use std::fmt::Write;

/// All that a run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How many rounds the figures are medians of.
    pub rounds: u32,
    /// How many targets each lab had.
    pub targets: u8,
    /// Processors of this machine.
    pub processors: usize,
    /// Its kernel's release.
    pub kernel: String,
    /// The rate of the intermediate's link, bits per second, if it was limited.
    pub rate_intermediate: Option<u64>,
    /// The rate of each target's link.
    pub rate_target: Option<u64>,
    /// What a packet and its answer took on the client's link, milliseconds, if it was delayed.
    pub round_trip_ms: Option<f64>,
    /// The congestion control of the servers' sockets, if it was chosen.
    pub congestion: Option<String>,
    /// Within how many microseconds processors were to wake, if it was asked for.
    pub cpu_latency_us: Option<i32>,
    /// One for each way, file, number of connections, kept or not.
    pub cells: Vec<Cell>,
    /// What idle connections cost.
    pub idle: Vec<Idle>,
}

impl Report {
    pub(super) fn new(spec: &BenchSpec, cells: Vec<Cell>, idle: Vec<Idle>) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Report {
            rounds: spec.rounds,
            targets: spec.targets,
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: kernel.trim().to_owned(),
            rate_intermediate: spec.rate_intermediate.map(|r| r.0),
            rate_target: spec.rate_target.map(|r| r.0),
            round_trip_ms: spec.round_trip.map(|all| all.as_secs_f64() * 1e3),
            congestion: spec.congestion.clone(),
            cpu_latency_us: spec.cpu_latency_us,
            cells,
            idle,
        }
    }

    /// The same load on another way.
    fn peer(&self, cell: &Cell, way: Way) -> Option<&Cell> {
        self.cells.iter().find(|c| {
            c.balancer == way
                && c.size == cell.size
                && c.connections == cell.connections
                && c.keepalive == cell.keepalive
        })
    }

    /// Whether every request of every load was answered.
    pub fn ok(&self) -> bool {
        self.cells.iter().all(|c| c.failed == 0 && c.requests_per_s.min > 0.0)
    }

    /// For people.
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "# Benchmark\n\nMedians of {} interleaved rounds [least to largest]; {} processors, Linux {}, {} target(s) a lab. \
             MB are 10^6 bytes, times to the first byte are of one request at a time.\n",
            self.rounds, self.processors, self.kernel, self.targets
        );
        self.conditions(&mut text);
        text.push_str(
            "\n| load | way | MB/s | requests/s | over direct | over HAProxy | first byte p50 / p99, us | CPU s per GB: intermediate / targets / kernel's network / machine | CPU ms per 1000 requests: intermediate / targets / kernel's network / machine | failed |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for cell in &self.cells {
            let over = |way| {
                let other = self.peer(cell, way).filter(|_| cell.balancer != way);
                other.map_or("-".to_owned(), |o| ratio(cell.requests_per_s.median, o.requests_per_s.median))
            };
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} [{:.1} to {:.1}] | {} | {} | {} | {:.0} / {:.0} | {} | {} | {} |",
                load(cell),
                cell.balancer.name(),
                cell.mb_per_s.median,
                cell.mb_per_s.min,
                cell.mb_per_s.max,
                plot::shown(cell.requests_per_s.median),
                over(Way::Direct),
                over(Way::Haproxy),
                cell.ttfb_us.p50.median,
                cell.ttfb_us.p99.median,
                places(&cell.cpu_s_per_gb, 1.0, 3),
                places(&cell.cpu_s_per_1000_requests, 1e3, 1),
                cell.failed
            );
        }
        self.handoffs(&mut text);
        self.shaped(&mut text);
        self.far(&mut text);
        self.idle_rows(&mut text);
        text
    }

    /// What was unlike the lab's usual.
    fn conditions(&self, text: &mut String) {
        for (whose, bits) in
            [("the intermediate's", self.rate_intermediate), ("each target's", self.rate_target)]
        {
            if let Some(bits) = bits {
                let _ = writeln!(text, "\nThe rate of {whose} link is {:.0} Mbit/s.", to_f64(bits) / 1e6);
            }
        }
        if let Some(ms) = self.round_trip_ms {
            let _ = writeln!(text, "\nThe client is {ms} ms away, there and back.");
        }
        match self.cpu_latency_us {
            None => {}
            Some(0) => text.push_str("\nIdle processors did not sleep.\n"),
            Some(us) => {
                let _ = writeln!(text, "\nProcessors were to wake within {us} us.");
            }
        }
        if let Some(name) = &self.congestion {
            let _ = writeln!(text, "\nThe servers' congestion control is {name}.");
        }
    }

    /// What handoffs took, where there were some.
    fn handoffs(&self, text: &mut String) {
        let handed = |cell: &&Cell| {
            cell.freeze_to_installed_us.is_some() || cell.freeze_to_installed_under_load_us.is_some()
        };
        let mut rows = self.cells.iter().filter(handed).peekable();
        if rows.peek().is_none() {
            return;
        }
        text.push_str(
            "\n| load | way | freeze to installed p50 / p99, us, one at a time | the same under the load |\n|---|---|---|---|\n",
        );
        for cell in rows {
            let (alone, loaded) =
                (spread(cell.freeze_to_installed_us), spread(cell.freeze_to_installed_under_load_us));
            let _ = writeln!(text, "| {} | {} | {alone} | {loaded} |", load(cell), cell.balancer.name());
        }
    }

    /// With limited links: how much of the targets' links together the responses fill.
    fn shaped(&self, text: &mut String) {
        let Some(bits) = self.rate_target else { return };
        let link = to_f64(bits) / 8e6;
        text.push_str(
            "\n| load | way | responses, MB/s | over one target's link rate | over what direct gets of it |\n|---|---|---|---|---|\n",
        );
        for cell in &self.cells {
            let direct = self.peer(cell, Way::Direct).map_or(0.0, |d| d.mb_per_s.median);
            let (load, way, sum) = (load(cell), cell.balancer.name(), cell.mb_per_s.median);
            let (over_rate, over_direct) = (ratio(sum, link), ratio(sum, direct));
            let _ = writeln!(text, "| {load} | {way} | {sum:.2} | {over_rate} | {over_direct} |");
        }
    }

    /// With a client that is far away: what time a response takes.
    fn far(&self, text: &mut String) {
        if self.round_trip_ms.is_none() {
            return;
        }
        text.push_str("\n| load | way | seconds for a response | over direct's |\n|---|---|---|---|\n");
        let seconds = |cell: &Cell| f64::from(cell.connections) / cell.requests_per_s.median;
        for cell in &self.cells {
            let direct = self.peer(cell, Way::Direct).map_or(0.0, seconds);
            let (load, way, own) = (load(cell), cell.balancer.name(), seconds(cell));
            let _ = writeln!(text, "| {load} | {way} | {own:.3} | {} |", ratio(own, direct));
        }
    }

    fn idle_rows(&self, text: &mut String) {
        if self.idle.is_empty() {
            return;
        }
        text.push_str(
            "\n| idle kept connections | way | bytes each | of them processes / maps | sockets each on its node | bytes each in their queues |\n|---|---|---|---|---|---|\n",
        );
        for idle in &self.idle {
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {:.0} / {:.0} | {:.2} | {:.0} |",
                idle.connections,
                idle.balancer.name(),
                idle.bytes_per_connection,
                idle.process_bytes_per_connection,
                idle.map_bytes_per_connection,
                idle.sockets_per_connection,
                idle.queue_bytes_per_connection
            );
        }
    }

    /// Plots: a name for the file, a title, the SVG.
    pub fn to_svgs(&self) -> Vec<(&'static str, &'static str, String)> {
        let bars =
            |name, title, value: fn(&Cell) -> Figure| (name, title, plot::bars(title, &self.cells, value));
        vec![
            bars("rate", "MB per second, median and spread", |c| c.mb_per_s),
            bars("requests", "requests per second, median and spread", |c| c.requests_per_s),
            bars("first-byte", "time to the first byte, p50, us", |c| c.ttfb_us.p50),
            bars("cpu", "CPU s per GB on the intermediate's node", |c| c.cpu_s_per_gb.intermediate),
        ]
    }
}

/// Intermediate, targets, the kernel's network, machine.
fn places(cpu: &Cpu, scale: f64, digits: usize) -> String {
    let all = [cpu.intermediate, cpu.target, cpu.kernel_network, cpu.machine];
    all.map(|figure| format!("{:.digits$}", figure.median * scale)).join(" / ")
}

/// Median and 99th percentile, each with its spread over the rounds.
fn spread(durations: Option<Percentiles>) -> String {
    let one = |f: Figure| format!("{:.0} [{:.0} to {:.0}]", f.median, f.min, f.max);
    durations.map_or("-".to_owned(), |d| format!("{} / {}", one(d.p50), one(d.p99)))
}

/// The load of a row, in words.
fn load(cell: &Cell) -> String {
    let kept = if cell.keepalive { "kept" } else { "new connections" };
    format!("{} x{}, {kept} ({})", cell.size, cell.connections, cell.load)
}

fn ratio(a: f64, b: f64) -> String {
    if b > 0.0 { format!("{:.2}", a / b) } else { "-".to_owned() }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn to_f64(n: u64) -> f64 {
    n as f64
}
