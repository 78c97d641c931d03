//! What an idle connection costs a balancer in memory.
//!
//! As many connections as asked for are opened, each gets one small answer and stays; then as many again, and what the
//! second half adds is the result. Before that, connections that end fill what has a size of its own: histories, free
//! lists, pools. They come slowly, so that what lingers of them is less than the first half.

use super::{Side, Way};
use crate::kept::asked;
use crate::steer::Program;
use crate::{command, plan, sys};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than any history here remembers.
const MOST_ENDED: u32 = 12_000;

/// A flow's key in Baton's maps: two addresses with room for IPv6, two ports.
const FLOW_KEY_BYTES: u64 = 36;

/// A balancer's memory with kept connections that each had one answer.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// Whose.
    pub balancer: Way,
    /// How many connections.
    pub connections: u32,
    /// What its processes' own memory grew by, divided by their number, bytes.
    pub process_bytes_per_connection: f64,
    /// What one connection takes of its eBPF maps, bytes: their memory over their entries. It is there from the start.
    pub map_bytes_per_connection: f64,
    /// Both together.
    pub bytes_per_connection: f64,
    /// TCP sockets on its node, for each connection. Their memory comes on top, some kilobytes of the kernel's each.
    pub sockets_per_connection: f64,
    /// What the kernel keeps in those sockets' queues (`/proc/net/sockstat`), bytes.
    pub queue_bytes_per_connection: f64,
}

/// What is looked at before and after.
#[derive(Clone, Copy)]
struct Reading {
    private: u64,
    sockets: u64,
    queues: u64,
}

#[expect(clippy::cast_precision_loss, reason = "bytes of one machine")]
pub(super) fn measure(side: &Side, count: u32) -> Result<Idle> {
    // Both halves, as descriptors of this process.
    sys::allow_files(2 * u64::from(count) + 1024).context("this many connections cannot be opened")?;
    // More ports than the usual 28 000.
    let ports = "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range";
    side.lab.output("client1", &["sh", "-c", ports])?;
    end_some(side, count)?;
    let first = open(side, count)?;
    let before = Reading::take(side)?;
    let second = open(side, count)?;
    let after = Reading::take(side)?;
    drop((first, second));
    let each =
        |value: fn(&Reading) -> u64| (value(&after) as f64 - value(&before) as f64) / f64::from(count.max(1));
    let (process, maps) = (each(|r| r.private), maps(side)?);
    Ok(Idle {
        balancer: side.way,
        connections: count,
        process_bytes_per_connection: process,
        map_bytes_per_connection: maps,
        bytes_per_connection: process + maps,
        sockets_per_connection: each(|r| r.sockets),
        queue_bytes_per_connection: each(|r| r.queues),
    })
}

/// Connections that had an answer and ended, at most a thousand in a second.
fn end_some(side: &Side, count: u32) -> Result<()> {
    let (to, count) = (side.to, count.saturating_mul(3).min(MOST_ENDED));
    let work = move || {
        (0..count).try_for_each(|_| {
            asked(to).map(drop)?;
            std::thread::sleep(Duration::from_millis(1));
            Ok(())
        })
    };
    side.lab.inside("client1", work)?
}

fn open(side: &Side, count: u32) -> Result<Vec<TcpStream>> {
    let to = side.to;
    let work = move || (0..count).map(|_| asked(to)).collect::<Result<Vec<TcpStream>>>();
    let held = side.lab.inside("client1", work)??;
    std::thread::sleep(Duration::from_millis(500));
    Ok(held)
}

impl Reading {
    fn take(side: &Side) -> Result<Self> {
        let netns = side.lab.netns(plan::INTERMEDIATE)?;
        let mut command = command::inside(&netns, "cat")?;
        let output = command.arg("/proc/net/sockstat").output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|l| l.starts_with("TCP:")).unwrap_or_default();
        let field = |name: &str| {
            line.split_whitespace()
                .skip_while(|w| *w != name)
                .nth(1)
                .and_then(|n| n.parse::<u64>().ok())
                .unwrap_or(0)
        };
        let mut kib = 0;
        for process in processes(side)? {
            kib += private(&fs::read_to_string(process.join("smaps_rollup")).unwrap_or_default());
        }
        Ok(Reading { private: kib * 1024, sockets: field("inuse"), queues: field("mem") * 4096 })
    }
}

/// The balancer's processes on the intermediate's node.
fn processes(side: &Side) -> Result<Vec<PathBuf>> {
    let netns = side.lab.netns(plan::INTERMEDIATE)?;
    let inode = fs::metadata(&netns)?.st_ino();
    let name = side.lab.program_name(Program::Balancer);
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let process = entry.path();
        let same = fs::metadata(process.join("ns/net")).is_ok_and(|ns| ns.st_ino() == inode);
        let own = fs::read_to_string(process.join("comm")).unwrap_or_default();
        // The kernel cuts names at 15 bytes.
        if same && !own.is_empty() && name.starts_with(own.trim()) {
            all.push(process);
        }
    }
    Ok(all)
}

/// KiB of memory that is one process's alone, from its `smaps_rollup`: what workers share counts for none of them.
fn private(rollup: &str) -> u64 {
    let lines = rollup.lines().filter(|l| l.starts_with("Private_Dirty:") || l.starts_with("Private_Clean:"));
    lines.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// What one entry takes of all maps that have one for each flow.
fn maps(side: &Side) -> Result<f64> {
    let (mut maps, mut mapped) = (BTreeMap::new(), 0.0);
    for process in processes(side)? {
        // The records, of which the process has no descriptor but the memory.
        mapped = bpf_memory(&fs::read_to_string(process.join("maps")).unwrap_or_default());
        for entry in fs::read_dir(process.join("fdinfo")).into_iter().flatten().flatten() {
            maps.extend(map(&entry.path()));
        }
    }
    // One record and one key for each flow.
    let records = maps.values().map(|(entries, _)| *entries).fold(0.0, f64::max);
    let keys: f64 = maps.values().map(|(entries, bytes)| bytes / entries).sum();
    Ok(keys + if records > 0.0 { mapped / records } else { 0.0 })
}

/// Bytes of maps that a process has in its memory, from its `maps`.
#[expect(clippy::cast_precision_loss, reason = "bytes of one process")]
fn bpf_memory(maps: &str) -> f64 {
    let regions = maps.lines().filter(|line| line.ends_with("bpf-map")).filter_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        u64::from_str_radix(to, 16).ok()?.checked_sub(u64::from_str_radix(from, 16).ok()?)
    });
    regions.sum::<u64>() as f64
}

/// A map with a key for each flow: its number, its entries and its bytes. What a map takes that is as large for any number of
/// flows is no flow's.
#[expect(clippy::cast_precision_loss, reason = "bytes of one map")]
fn map(fdinfo: &Path) -> Option<(u64, (f64, f64))> {
    let text = fs::read_to_string(fdinfo).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse::<u64>().ok()
    };
    let (id, entries, bytes) = (field("map_id")?, field("max_entries")?, field("memlock")?);
    let by_flow = field("key_size") == Some(FLOW_KEY_BYTES);
    by_flow.then_some((id, (entries as f64, bytes as f64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_a_processs_own_is_clean_or_dirty() {
        let rollup = "00400000-7fff0000 ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nShared_Clean: 500 kB\nPrivate_Clean:      12 kB\nPrivate_Dirty:     388 kB\n";
        assert_eq!(private(rollup), 400);
        assert_eq!(private(""), 0);
    }

    #[test]
    fn maps_in_a_processs_memory_are_found() {
        let maps = "7f0000000000-7f0000b00000 rw-s 00000000 00:0e 9 anon_inode:bpf-map\n7f0001000000-7f0001001000 r--p 0 00:00 0 [vvar]\n";
        assert!((bpf_memory(maps) - 11_534_336.0).abs() < 0.5);
    }

    #[test]
    fn maps_are_told_from_other_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("7");
        let keyed = |size: u32| {
            format!(
                "pos:\t0\nmap_type:\t1\nkey_size:\t{size}\nmax_entries:\t65536\nmemlock:\t11534336\nmap_id:\t9\n"
            )
        };
        fs::write(&path, keyed(36)).unwrap();
        assert_eq!(map(&path), Some((9, (65536.0, 11_534_336.0))));
        fs::write(&path, keyed(40)).unwrap();
        assert_eq!(map(&path), None, "not a flow's key");
        fs::write(&path, "pos:\t0\nflags:\t02\n").unwrap();
        assert_eq!(map(&path), None);
    }
}
