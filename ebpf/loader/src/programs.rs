//! The plane by eBPF: the loaded programs and their maps.

use crate::attach::Place;
use crate::copies::Copies;
use crate::sys::{self, MappedWord, TypedMap};
use crate::{Hook, InsertError, PlaneConfig, PlaneError, Side, Slots, open};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::TcAttachType;
use aya::programs::tc::SchedClassifierLink;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FlowKey, LegSettings, Settings};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What was opened.
pub(crate) struct Programs {
    pub(crate) config: PlaneConfig,
    pub(crate) hook: Hook,
    /// `PIN_DIR/vN/SIDE`.
    pub(crate) pins: PathBuf,
    pub(crate) flows: TypedMap<FlowKey, u32>,
    pub(crate) slots: Slots,
    pub(crate) settings: TypedMap<u32, Settings>,
    pub(crate) legs: TypedMap<u32, LegSettings>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) tun: Mutex<Tun>,
    /// The object of `target_adopt`, if that is on the uplink's ingress.
    pub(crate) adopting: Mutex<Option<aya::Ebpf>>,
    /// Until it is taken.
    pub(crate) copies: Mutex<Option<Copies>>,
    /// The map `RULING`.
    pub(crate) ruling: MappedWord,
    /// As [`Plane::knows_earlier`](crate::Plane::knows_earlier) says.
    pub(crate) knows_earlier: bool,
    /// As [`Plane::lost_records`](crate::Plane::lost_records) says.
    pub(crate) lost_records: bool,
}

impl std::fmt::Debug for Programs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Programs")
            .field("config", &self.config)
            .field("hook", &self.hook)
            .finish_non_exhaustive()
    }
}

/// What hangs on the daemon's TUN.
pub(crate) struct Tun {
    /// The loaded object; of its programs `tun_reinject` is used.
    pub(crate) object: aya::Ebpf,
    pub(crate) link: Option<SchedClassifierLink>,
}

impl Programs {
    pub(crate) fn attach_tun(&self, tun_name: &str, mark: u32) -> Result<(), PlaneError> {
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

    /// What takes packets out of outer headers, and where it goes.
    fn leg_place(&self) -> Place<'_> {
        Place {
            program: open::LEG_PROGRAM,
            device: &self.config.uplink,
            direction: TcAttachType::Ingress,
            hook: self.hook,
        }
    }

    pub(crate) fn set_legs(&self, legs: &LegSettings) -> Result<(), PlaneError> {
        self.legs.put(&0, legs, 0).map_err(open::map_error("store", "LEGS"))?;
        // What adopts takes packets out of outer headers as well.
        let adopting = self.adopting.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.config.side != Side::Target || adopting {
            return Ok(());
        }
        let (place, pin) = (self.leg_place(), self.pins.join(open::LEG_LINK));
        if legs.peers.iter().any(|peer| peer.flags != 0) {
            let mut tun = self.tun.lock().unwrap_or_else(PoisonError::into_inner);
            return place.attach_for_good(open::program(&mut tun.object, open::LEG_PROGRAM)?, &pin);
        }
        // An earlier configuration may have asked for it.
        match self.hook {
            Hook::Clsact => place.remove_filter(),
            _ => match std::fs::remove_file(&pin) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    Err(PlaneError::Pin { op: "unlink", path: pin, source })
                }
                _ => Ok(()),
            },
        }
    }

    pub(crate) fn insert(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        const BPF_NOEXIST: u64 = 1;
        self.flows.put(key, &slot, BPF_NOEXIST).map_err(insert_error)
    }

    pub(crate) fn replace(&self, key: &FlowKey, slot: u32) -> Result<(), InsertError> {
        const BPF_ANY: u64 = 0;
        self.flows.put(key, &slot, BPF_ANY).map_err(insert_error)
    }

    pub(crate) fn replace_both(&self, keys: &[FlowKey; 2], slot: u32) -> Result<(), InsertError> {
        if self.flows.put_each(keys, &[slot; 2]).is_ok() {
            return Ok(());
        }
        // An old kernel, or there is no room: which it is, one by one tells.
        keys.iter().try_for_each(|key| self.replace(key, slot))
    }

    pub(crate) fn counters(&self) -> io::Result<Vec<(PacketCounter, u64)>> {
        PacketCounter::ALL
            .iter()
            .map(|counter| {
                let per_cpu = self.counters.get(&counter.code(), 0).map_err(io::Error::other)?;
                Ok((*counter, per_cpu.iter().fold(0u64, |sum, n| sum.wrapping_add(*n))))
            })
            .collect()
    }

    pub(crate) fn detach(self) -> Result<(), PlaneError> {
        if self.hook == Hook::Clsact {
            let side = self.config.side;
            Place {
                program: side.program(),
                device: &self.config.uplink,
                direction: side.direction(),
                hook: self.hook,
            }
            .remove_filter()?;
            if side == Side::Target {
                self.leg_place().remove_filter()?;
            }
        }
        open::remove_pins(&self.pins)
    }
}

/// Why a key was not put into the flow map.
fn insert_error(e: io::Error) -> InsertError {
    match e.raw_os_error() {
        Some(libc::EEXIST) => InsertError::Exists,
        Some(libc::E2BIG) => InsertError::Full,
        _ => InsertError::Os(e),
    }
}
