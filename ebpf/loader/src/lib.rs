//! Loads, attaches and pins Baton's eBPF programs, and opens their maps.
//!
//! [`Plane::open`] loads the object embedded in this crate (`ebpf/object/baton.bpf.o`) with the maps that are
//! pinned from an earlier run, or new ones, and puts the side's program on the uplink. Maps and the uplink's link
//! are pinned under `PIN_DIR/vN/SIDE/`, so that flows go on when the daemon is restarted. What hangs on the
//! daemon's TUN goes with the TUN.

mod attach;
mod error;
mod open;
mod slots;
mod sys;

pub use attach::Hook;
pub use error::{InsertError, PlaneError};
pub use slots::Slots;

use attach::Place;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::TcAttachType;
use aya::programs::tc::SchedClassifierLink;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, FlowRecord, FlowState, Settings};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use sys::TypedMap;

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

/// The data plane of this host. Cheap to call from any thread.
pub struct Plane {
    config: PlaneConfig,
    hook: Hook,
    /// `PIN_DIR/vN/SIDE`.
    pins: PathBuf,
    flows: TypedMap<FlowKey, u32>,
    slots: Slots,
    settings: TypedMap<u32, Settings>,
    counters: PerCpuArray<MapData, u64>,
    tun: Mutex<Tun>,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane")
            .field("config", &self.config)
            .field("hook", &self.hook)
            .finish_non_exhaustive()
    }
}

/// What hangs on the daemon's TUN.
struct Tun {
    /// The loaded object; of its programs `tun_reinject` is used.
    object: aya::Ebpf,
    link: Option<SchedClassifierLink>,
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

    /// How the programs are attached.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Puts `tun_reinject` on the ingress of the daemon's TUN, so that packets written into it enter the
    /// uplink's ingress, marked with `mark`; and tells the programs the TUN's number. The intermediate's mark
    /// must not be 0; the target's is 0.
    pub fn attach_tun(&self, tun_name: &str, mark: u32) -> Result<(), PlaneError> {
        let no_device = |name: &str| {
            let name = name.to_owned();
            move |source| PlaneError::NoDevice { name, source }
        };
        let tun_ifindex = sys::device_index(tun_name).map_err(no_device(tun_name))?;
        let uplink = self.config.uplink.as_str();
        let settings = Settings {
            tun_ifindex,
            uplink_ifindex: sys::device_index(uplink).map_err(no_device(uplink))?,
            reinject_mark: mark,
            uplink_mac: sys::device_mac(uplink).map_err(no_device(uplink))?,
            reserved: [0; 2],
        };
        let mut tun = self.tun.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Place {
            program: open::TUN_PROGRAM,
            device: tun_name,
            direction: TcAttachType::Ingress,
            hook: self.hook,
        };
        tun.link = None;
        tun.link = place.attach_while_held(open::program(&mut tun.object, open::TUN_PROGRAM)?)?;
        self.settings.put(&0, &settings, 0).map_err(|source| PlaneError::Map {
            op: "store",
            map: "SETTINGS",
            source,
        })
    }

    /// The records that are not `Free` now: right after [`Plane::open`], those an earlier run left.
    pub fn recovered(&self) -> Vec<(u32, FlowRecord)> {
        (0..self.slots.capacity())
            .filter(|slot| self.slots.state(*slot) != FlowState::Free)
            .map(|slot| (slot, self.slots.read(slot)))
            .collect()
    }

    /// Puts a filled slot under a key. From here on the programs act on it.
    pub fn insert(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        const BPF_NOEXIST: u64 = 1;
        self.flows.put(key, &slot, BPF_NOEXIST).map_err(|e| match e.raw_os_error() {
            Some(libc::EEXIST) => InsertError::Exists,
            Some(libc::E2BIG) => InsertError::Full,
            _ => InsertError::Os(e),
        })
    }

    /// Removes a key; whether it was there.
    pub fn remove(&self, key: &FlowKey) -> io::Result<bool> {
        self.flows.remove(key)
    }

    /// The slot under a key.
    pub fn lookup(&self, key: &FlowKey) -> io::Result<Option<u32>> {
        self.flows.get(key)
    }

    /// How many keys the flow map holds. Walks the map: for reports and tests.
    pub fn keys(&self) -> io::Result<Vec<FlowKey>> {
        self.flows.keys()
    }

    /// The flow records.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What the programs counted since the maps were made, summed over CPUs.
    pub fn counters(&self) -> io::Result<Vec<(PacketCounter, u64)>> {
        PacketCounter::ALL
            .iter()
            .map(|counter| {
                let per_cpu = self.counters.get(&counter.code(), 0).map_err(io::Error::other)?;
                Ok((*counter, per_cpu.iter().fold(0u64, |sum, n| sum.wrapping_add(*n))))
            })
            .collect()
    }

    /// Takes the programs off and removes all pins; flows still in the map are cut off.
    pub fn detach(self) -> Result<(), PlaneError> {
        if self.hook == Hook::Clsact {
            let side = self.config.side;
            Place {
                program: side.program(),
                device: &self.config.uplink,
                direction: side.direction(),
                hook: self.hook,
            }
            .remove_filter()?;
        }
        open::remove_pins(&self.pins)
    }
}

const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Plane>();
};

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of [`FlowRecord::deadline_ns`] and [`FlowRecord::last_seen_ns`].
pub fn monotonic_ns() -> u64 {
    sys::monotonic_ns()
}
