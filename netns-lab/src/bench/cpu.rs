//! Processor time: of the processes in a node's network namespace, and of the whole machine.

use crate::{Lab, plan};
use anyhow::{Context, Result};
use std::fs;
use std::ops::Sub;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

/// Seconds of processor time since some start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CpuReading {
    pub(super) intermediate: f64,
    pub(super) target: f64,
    pub(super) machine: f64,
    pub(super) kernel_network: f64,
}

impl CpuReading {
    pub(super) fn take(lab: &Lab) -> Result<Self> {
        let mut reading = machine()?;
        for node in lab.nodes() {
            let seconds = || of_namespace(&plan::netns_path(&node.netns));
            if node.name == plan::INTERMEDIATE {
                reading.intermediate += seconds()?;
            } else if node.name.starts_with("target") {
                reading.target += seconds()?;
            }
        }
        Ok(reading)
    }
}

impl Sub for CpuReading {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        CpuReading {
            intermediate: (self.intermediate - before.intermediate).max(0.0),
            target: (self.target - before.target).max(0.0),
            machine: (self.machine - before.machine).max(0.0),
            kernel_network: (self.kernel_network - before.kernel_network).max(0.0),
        }
    }
}

/// Kernel ticks in a second; the same on every Linux that shows /proc.
const TICKS: f64 = 100.0;

/// All that is not idle, of all processors (`proc(5)`, /proc/stat).
fn machine() -> Result<CpuReading> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let at = |n: usize| ticks.get(n).copied().unwrap_or(0.0);
    // user, nice, system, irq, softirq; idle, iowait and steal are nobody's work.
    let machine = (at(0) + at(1) + at(2) + at(5) + at(6)) / TICKS;
    Ok(CpuReading { machine, kernel_network: at(6) / TICKS, ..CpuReading::default() })
}

/// User and system time of all processes in a network namespace, ended children of theirs included.
fn of_namespace(netns: &Path) -> Result<f64> {
    let inode = fs::metadata(netns).with_context(|| format!("no namespace {}", netns.display()))?.st_ino();
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let process = entry.path();
        // A process may end at any moment: then it does not count.
        let Ok(namespace) = fs::metadata(process.join("ns/net")) else { continue };
        if namespace.st_ino() != inode {
            continue;
        }
        let Ok(stat) = fs::read_to_string(process.join("stat")) else { continue };
        // The name, in parentheses, may hold anything.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        // Fields 14 and 15 of proc(5) are the 12th and 13th behind the name.
        ticks += rest.split_whitespace().skip(11).take(2).filter_map(|w| w.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_done_here_is_seen_in_this_namespace_and_on_the_machine() {
        let own = || of_namespace(Path::new("/proc/self/ns/net")).unwrap();
        let machine_before = machine().unwrap().machine;
        // Of a busy machine there may be little for us; and of processes that end meanwhile nothing is counted any more.
        let mut least = own();
        let started = std::time::Instant::now();
        let mut sum = 0u64;
        while own() - least < 0.2 {
            assert!(started.elapsed().as_secs() < 60, "nothing was seen of it: {least} to {}", own());
            least = least.min(own());
            for _ in 0..5_000_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
        }
        // Counted by ticks, and so less exact.
        assert!(machine().unwrap().machine - machine_before >= 0.05);
    }
}
