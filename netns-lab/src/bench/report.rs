//! The results: JSON for programs, Markdown with ratios for people.

use super::idle::Idle;
use super::{BenchSpec, Cell, Way, plot};
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
        let rate = |bits: Option<u64>| bits.map(|b| format!("{:.0} Mbit/s", to_f64(b) / 1e6));
        for (what, bits) in
            [("the intermediate's", self.rate_intermediate), ("each target's", self.rate_target)]
        {
            if let Some(rate) = rate(bits) {
                let _ = writeln!(text, "\nThe rate of {what} link is limited to {rate}.");
            }
        }
        text.push_str(
            "\n| load | way | MB/s | requests/s | over direct | over HAProxy | first byte p50 / p99, us | CPU s per GB: intermediate / targets / machine | CPU ms per 1000 requests, intermediate | failed |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for cell in &self.cells {
            let over = |way| {
                let other = self.peer(cell, way).filter(|_| cell.balancer != way);
                other.map_or("-".to_owned(), |o| ratio(cell.requests_per_s.median, o.requests_per_s.median))
            };
            let _ = writeln!(
                text,
                "| {} x{}, {} ({}) | {} | {:.1} [{:.1} to {:.1}] | {:.0} | {} | {} | {:.0} / {:.0} | {:.3} / {:.3} / {:.2} | {:.1} | {} |",
                cell.size,
                cell.connections,
                if cell.keepalive { "kept" } else { "new connections" },
                cell.load,
                cell.balancer.name(),
                cell.mb_per_s.median,
                cell.mb_per_s.min,
                cell.mb_per_s.max,
                cell.requests_per_s.median,
                over(Way::Direct),
                over(Way::Haproxy),
                cell.ttfb_us.p50.median,
                cell.ttfb_us.p99.median,
                cell.cpu_s_per_gb.intermediate.median,
                cell.cpu_s_per_gb.target.median,
                cell.cpu_s_per_gb.machine.median,
                cell.cpu_s_per_1000_requests.intermediate.median * 1000.0,
                cell.failed
            );
        }
        if !self.idle.is_empty() {
            text.push_str("\n| idle kept connections | way | bytes each, processes | bytes each, sockets |\n|---|---|---|---|\n");
        }
        for idle in &self.idle {
            let _ = writeln!(
                text,
                "| {} | {} | {:.0} | {:.0} |",
                idle.connections,
                idle.balancer.name(),
                idle.process_bytes_per_connection,
                idle.socket_bytes_per_connection
            );
        }
        text
    }

    /// Responses per second as bars.
    pub fn to_svg(&self) -> String {
        plot::bars("requests per second, median and spread", &self.cells, |c| c.requests_per_s)
    }
}

fn ratio(a: f64, b: f64) -> String {
    if b > 0.0 { format!("{:.2}", a / b) } else { "-".to_owned() }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn to_f64(n: u64) -> f64 {
    n as f64
}
