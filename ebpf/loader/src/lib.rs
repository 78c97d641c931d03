//! Loads, attaches and pins Baton's eBPF programs, and opens their maps.
//!
//! [`Plane::open`] loads the object embedded in this crate (`ebpf/object/baton.bpf.o`) with the maps that are
//! pinned from an earlier run, or new ones, and puts the side's program on the uplink. Maps and the uplink's link
//! are pinned under `PIN_DIR/vN/SIDE/`, so that flows go on when the daemon is restarted. What hangs on the
//! daemon's TUN goes with the TUN.
//!
//! [`Plane::open_userspace`] is the same data plane without eBPF (`baton-userspace`): what is above it sees no
//! difference but that flows end with the daemon.

pub mod adopt;
mod attach;
mod copies;
mod error;
mod former;
mod open;
mod programs;
mod slots;
mod sys;
mod userspace;

pub use attach::Hook;
pub use copies::{COPIES_BYTES, Copies};
pub use error::{InsertError, PlaneError};
pub use slots::Slots;

use aya::programs::TcAttachType;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord, FlowState, LegSettings};
use baton_userspace::Carrier;
use programs::{Programs, Tun};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use userspace::Userspace;

/// The object file, as committed. For tests that load programs by themselves.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../object/baton.bpf.o"));

/// Which host this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The intermediate: the client's packets, on the uplink's ingress.
    Intermediate,
    /// A target host: the server's packets, on the uplink's egress.
    Target,
}

impl Side {
    /// Its folder under the pin directory.
    const fn folder(self) -> &'static str {
        match self {
            Side::Intermediate => "intermediate",
            Side::Target => "target",
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Side::Intermediate => "intermediate_ingress",
            Side::Target => "target_egress",
        }
    }

    const fn direction(self) -> TcAttachType {
        match self {
            Side::Intermediate => TcAttachType::Ingress,
            Side::Target => TcAttachType::Egress,
        }
    }
}

/// What to open.
#[derive(Clone, Debug)]
pub struct PlaneConfig {
    /// Which host this is.
    pub side: Side,
    /// The device on which clients' packets arrive (intermediate) or the server's leave (target).
    pub uplink: String,
    /// Where to pin, on a BPF file system.
    pub pin_dir: PathBuf,
    /// How many flows the tables hold.
    pub flows: u32,
}

/// What to open without eBPF.
#[derive(Clone, Debug)]
pub struct UserspaceConfig {
    /// Which host this is.
    pub side: Side,
    /// The device on which clients' packets arrive (intermediate) or the server's leave (target).
    pub uplink: String,
    /// How many flows the tables hold.
    pub flows: u32,
    /// The VIPs (intermediate) or the servers (target) whose packets are led through the TUN.
    pub addresses: Vec<SocketAddr>,
}

/// The data plane of this host. Cheap to call from any thread.
#[derive(Debug)]
pub struct Plane(Means);

/// Who carries the packets.
#[derive(Debug)]
enum Means {
    Ebpf(Box<Programs>),
    Userspace(Arc<Userspace>),
}

impl Plane {
    /// Loads the programs, with the maps pinned by an earlier run if there are any, and puts the side's program
    /// on the uplink: by TCX where the kernel has it, else clsact.
    pub fn open(config: &PlaneConfig) -> Result<Plane, PlaneError> {
        Self::open_by(config, Hook::of_this_kernel())
    }

    /// As [`Plane::open`], with the way of attaching chosen by the caller.
    pub fn open_by(config: &PlaneConfig, hook: Hook) -> Result<Plane, PlaneError> {
        open::open(config, hook)
    }

    /// The plane in user space: no eBPF, nothing pinned. [`Plane::attach_tun`] begins to lead packets through the
    /// TUN; its owner asks [`Plane::carrier`] what to do with them.
    pub fn open_userspace(config: &UserspaceConfig) -> Result<Plane, PlaneError> {
        Userspace::open(config)
    }

    /// How the programs are attached.
    pub fn hook(&self) -> Hook {
        match &self.0 {
            Means::Ebpf(programs) => programs.hook,
            Means::Userspace(_) => Hook::Userspace,
        }
    }

    /// Puts `tun_reinject` on the ingress of the daemon's TUN, so that packets written into it enter the
    /// uplink's ingress, marked with `mark`; and tells the programs the TUN's number. The intermediate's mark
    /// must not be 0; the target's is 0 unless it adopts ([`Plane::adopt`]). In user space: leads packets through the TUN.
    pub fn attach_tun(&self, tun_name: &str, mark: u32) -> Result<(), PlaneError> {
        match &self.0 {
            Means::Ebpf(programs) => programs.attach_tun(tun_name, mark),
            Means::Userspace(userspace) => userspace.lead_through(tun_name),
        }
    }

    /// Tells the programs the addresses of outer headers. On a target the program that takes packets out of them is
    /// put on the uplink's ingress if there is any peer, and taken off if there is none. The plane in user space knows
    /// no outer headers, and ignores this.
    pub fn set_legs(&self, legs: &LegSettings) -> Result<(), PlaneError> {
        match &self.0 {
            Means::Ebpf(programs) => programs.set_legs(legs),
            Means::Userspace(_) => Ok(()),
        }
    }

    /// What carries the packets that pass the TUN; `None` if that is the programs' work.
    pub fn carrier(&self) -> Option<Arc<dyn Carrier>> {
        match &self.0 {
            Means::Ebpf(_) => None,
            Means::Userspace(userspace) => Some(Arc::<Userspace>::clone(userspace)),
        }
    }

    /// The records that are not `Free` now: right after [`Plane::open`], those an earlier run left.
    pub fn recovered(&self) -> Vec<(u32, FlowRecord)> {
        (0..self.slots().capacity())
            .filter(|slot| self.slots().state(*slot) != FlowState::Free)
            .map(|slot| (slot, self.slots().read(slot)))
            .collect()
    }

    /// Whether [`Plane::open`] found the records of an earlier run, and had room for all of a former version's. If not, nobody
    /// knows what that run did.
    pub fn knows_earlier(&self) -> bool {
        match &self.0 {
            Means::Ebpf(programs) => programs.knows_earlier,
            Means::Userspace(_) => false,
        }
    }

    /// Whether there may be flows of an earlier run without a record: its records were not found, or not all, or to one of them
    /// no key led and it was freed, as after a crash between two steps.
    pub fn lost_records(&self) -> bool {
        match &self.0 {
            Means::Ebpf(programs) => programs.lost_records,
            Means::Userspace(_) => true,
        }
    }

    /// Puts a filled slot under a key. From here on the programs act on it.
    pub fn insert(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        match &self.0 {
            Means::Ebpf(programs) => programs.insert(key, slot),
            Means::Userspace(userspace) => userspace.insert(key, slot),
        }
    }

    /// The same in the place of whatever slot is under the key.
    pub fn replace(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        match &self.0 {
            Means::Ebpf(programs) => programs.replace(key, slot),
            Means::Userspace(userspace) => userspace.replace(key, slot),
        }
    }

    /// [`Plane::replace`] under two keys at once. If it fails the slot may be under one of them.
    pub fn replace_both(&self, keys: &[FlowKey; 2], slot: u32) -> Result<(), InsertError> {
        match &self.0 {
            Means::Ebpf(programs) => programs.replace_both(keys, slot),
            Means::Userspace(userspace) => keys.iter().try_for_each(|key| userspace.replace(key, slot)),
        }
    }

    /// Removes a key; whether it was there.
    pub fn remove(&self, key: &FlowKey) -> io::Result<bool> {
        match &self.0 {
            Means::Ebpf(programs) => programs.flows.remove(key),
            Means::Userspace(userspace) => Ok(userspace.remove(key)),
        }
    }

    /// Removes many keys at once; those that are not there are passed over.
    pub fn remove_all(&self, keys: &[FlowKey]) -> io::Result<()> {
        match &self.0 {
            Means::Ebpf(programs) => programs.flows.remove_all(keys),
            Means::Userspace(userspace) => {
                for key in keys {
                    userspace.remove(key);
                }
                Ok(())
            }
        }
    }

    /// The slot under a key.
    pub fn lookup(&self, key: &FlowKey) -> io::Result<Option<u32>> {
        match &self.0 {
            Means::Ebpf(programs) => programs.flows.get(key),
            Means::Userspace(userspace) => Ok(userspace.lookup(key)),
        }
    }

    /// How many keys the flow map holds. Walks the map: for reports and tests.
    pub fn keys(&self) -> io::Result<Vec<FlowKey>> {
        match &self.0 {
            Means::Ebpf(programs) => programs.flows.keys(),
            Means::Userspace(userspace) => Ok(userspace.keys()),
        }
    }

    /// The flow records.
    pub fn slots(&self) -> &Slots {
        match &self.0 {
            Means::Ebpf(programs) => &programs.slots,
            Means::Userspace(userspace) => userspace.slots(),
        }
    }

    /// Puts a ruling in force on an intermediate: later requests of a flow that was judged by the same one
    /// ([`Slots::set_ruling`]) go on without being read if they are plain. 0: all are read, as it is at first.
    pub fn set_ruling(&self, ruling: u32) {
        match &self.0 {
            Means::Ebpf(programs) => programs.ruling.store(ruling),
            Means::Userspace(userspace) => userspace.set_ruling(ruling),
        }
    }

    /// What the programs counted since the maps were made, summed over CPUs.
    pub fn counters(&self) -> io::Result<Vec<(PacketCounter, u64)>> {
        match &self.0 {
            Means::Ebpf(programs) => programs.counters(),
            Means::Userspace(userspace) => Ok(userspace.counters()),
        }
    }

    /// Takes the programs off and removes all pins; flows still in the map are cut off.
    pub fn detach(self) -> Result<(), PlaneError> {
        match self.0 {
            Means::Ebpf(programs) => programs.detach(),
            // Its drop puts all back.
            Means::Userspace(_) => Ok(()),
        }
    }
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Plane>();
};

/// The number of a network device in this network namespace.
///
/// # Errors
/// If there is none of this name.
pub fn device_index(name: &str) -> std::io::Result<u32> {
    sys::device_index(name)
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of [`FlowRecord::deadline_ns`] and [`FlowRecord::last_seen_ns`].
pub fn monotonic_ns() -> u64 {
    sys::monotonic_ns()
}
