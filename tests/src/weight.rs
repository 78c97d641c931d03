//! What a daemon holds: descriptors, memory, flows in the kernel's map.

use crate::lab::TestLab;
use aya::maps::{HashMap, MapData};
use baton_shared::record::{ABI_VERSION, FlowKey};
use netns_lab::Program;
use std::fs;
use zerocopy::FromBytes;

/// At one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Open descriptors.
    pub descriptors: usize,
    /// Resident memory, kB.
    pub memory: u64,
}

/// What a node's program weighs.
///
/// # Panics
/// If it does not run.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub fn of(t: &TestLab, node: &str, program: Program) -> Weight {
    let place = format!("/proc/{}", t.pid(node, program));
    let status = fs::read_to_string(format!("{place}/status")).unwrap();
    let memory = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    Weight {
        descriptors: fs::read_dir(format!("{place}/fd")).unwrap().count(),
        memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// The keys in a node's pinned flow map; `side` is `intermediate` or `target`.
///
/// # Panics
/// If there is no such map.
#[expect(clippy::unwrap_used, reason = "a test's support: the panic is the report")]
pub fn keys(t: &TestLab, node: &str, side: &str) -> Vec<FlowKey> {
    let pin = t.lab.bpf_dir(node).join(format!("v{ABI_VERSION}")).join(side).join("FLOWS");
    let map: HashMap<MapData, [u8; size_of::<FlowKey>()], u32> =
        HashMap::try_from(aya::maps::Map::HashMap(MapData::from_pin(&pin).unwrap())).unwrap();
    map.keys().filter_map(Result::ok).map(|bytes| FlowKey::read_from_bytes(&bytes).unwrap()).collect()
}
