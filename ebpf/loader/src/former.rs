//! What a version with another ABI left on this host: its flows are taken over, their records as this version has them, and
//! this version's program takes the place of its program in the same link, so that no packet sees neither or both.
//!
//! Its programs go on until that moment. A start that is cut short is repeated by the next one, as long as the former's
//! `FLOWS` is pinned. Of each flow the record that saw the last packet is the true one: the former's as long as its program is
//! attached, this version's from then on. If a start is cut short after this one's is attached, what the
//! former's wrote between the copy and that is lost for flows of which this one's has seen a packet since, but for
//! [`former::told_by_overtaken`].

use crate::open::{self, LEG_LINK, LINK};
use crate::slots::Slots;
use crate::sys::{self, TypedMap};
use crate::{PlaneError, Side};
use aya::maps::{MapData, MapError};
use baton_shared::record::{ABI_VERSION, FlowKey, FlowRecord, FlowState, former};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// A former version's pins, its maps open.
pub(crate) struct Former {
    abi: u32,
    /// `PIN_DIR/vN/SIDE`.
    pins: PathBuf,
    flows: TypedMap<FlowKey, u32>,
    slots: MapData,
    /// The flows found, and after [`Former::give_flows`] where their records are now.
    found: Vec<Found>,
}

/// One flow.
struct Found {
    keys: Vec<FlowKey>,
    /// Its slot in the former's array.
    slot: u32,
    /// Its record as it was copied.
    copied: FlowRecord,
    /// Its slot here.
    here: Option<u32>,
}

/// The former versions that have flows of this side on this host. What others left without a flow is removed.
///
/// # Errors
/// If there are flows of a version whose records this one does not read.
pub(crate) fn find(pin_dir: &Path, side: Side) -> Result<Vec<Former>, PlaneError> {
    let Ok(entries) = std::fs::read_dir(pin_dir) else { return Ok(Vec::new()) };
    let mut formers = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let abi = name.to_str().and_then(|n| n.strip_prefix('v')).and_then(|n| n.parse::<u32>().ok());
        let pins = entry.path().join(side.folder());
        if let Some(abi) = abi.filter(|abi| *abi != ABI_VERSION && pins.is_dir()) {
            match open_former(abi, &pins)? {
                Some(former) => formers.push(former),
                None => remove_whatever_is_pinned(&pins)?,
            }
        }
    }
    formers.sort_unstable_by_key(|former| former.abi);
    Ok(formers)
}

/// `None` if it has no flows.
fn open_former(abi: u32, pins: &Path) -> Result<Option<Former>, PlaneError> {
    // Removed first of all, and made with the rest: without it nothing else has a meaning.
    let Some(flows) = pinned(&pins.join("FLOWS"))? else { return Ok(None) };
    let info = flows.info().map_err(open::load_error("FLOWS"))?;
    let key_bytes = usize::try_from(info.key_size()).unwrap_or(usize::MAX);
    if sys::is_empty(flows.fd().as_fd(), key_bytes).map_err(open::map_error("walk", "FLOWS"))? {
        return Ok(None);
    }
    let other = || PlaneError::OtherVersion { abi, path: pins.to_owned() };
    if !former::READABLE.contains(&abi) {
        return Err(other());
    }
    let slots = pinned(&pins.join("SLOTS"))?.ok_or_else(other)?;
    let fd = flows.fd().as_fd().try_clone_to_owned().map_err(open::map_error("dup", "FLOWS"))?;
    let flows = TypedMap::new(fd, (info.key_size(), info.value_size())).map_err(|_| other())?;
    let mut former = Former { abi, pins: pins.to_owned(), flows, slots, found: Vec::new() };
    former.found = former.read_flows()?;
    Ok((!former.found.is_empty()).then_some(former))
}

/// A map that is pinned there, if any is.
fn pinned(path: &Path) -> Result<Option<MapData>, PlaneError> {
    match MapData::from_pin(path) {
        Ok(map) => Ok(Some(map)),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(open::load_error("a former version's map")(e)),
    }
}

impl Former {
    /// How many flows it has.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.found.len()).unwrap_or(u32::MAX)
    }

    fn read_flows(&self) -> Result<Vec<Found>, PlaneError> {
        let mut by_slot: HashMap<u32, Found> = HashMap::new();
        for key in self.flows.keys().map_err(open::map_error("walk", "FLOWS"))? {
            let Some(slot) = self.flows.get(&key).map_err(open::map_error("read", "FLOWS"))? else {
                continue;
            };
            let Some(copied) = self.record(slot) else { continue };
            // As after a crash between two of the daemon's steps.
            if copied.state == FlowState::Free as u32 || !copied.belongs_under(&key) {
                continue;
            }
            let found = Found { keys: Vec::new(), slot, copied, here: None };
            by_slot.entry(slot).or_insert(found).keys.push(key);
        }
        Ok(by_slot.into_values().collect())
    }

    /// A record as this version has it.
    fn record(&self, slot: u32) -> Option<FlowRecord> {
        let size = usize::try_from(self.slots.info().ok()?.value_size()).ok()?;
        let bytes = sys::array_value(self.slots.fd().as_fd(), slot, size).ok()?;
        former::read(self.abi, &bytes)
    }

    /// Its flows, into this version's maps, and its links, to where this version looks for its own. How many of the flows had
    /// no room.
    pub(crate) fn give_flows(
        &mut self,
        flows: &TypedMap<FlowKey, u32>,
        slots: &Slots,
        pins: &Path,
    ) -> Result<u32, PlaneError> {
        let mut lost = 0u32;
        for found in &mut self.found {
            // An earlier start came this far.
            let known = flows.get(&found.copied.key).map_err(open::map_error("read", "FLOWS"))?;
            let Some(slot) = known.or_else(|| slots.allocate()) else {
                lost += 1;
                continue;
            };
            if known.is_some() && former::is_overtaken(&found.copied, &slots.read(slot)) {
                slots.catch_up(slot, &former::told_by_overtaken(&found.copied));
            } else {
                // If an earlier start came as far as to attach this version's program, the flow's first packet since may come
                // now, and what is written of it be lost.
                slots.overwrite(slot, &found.copied);
            }
            for key in &found.keys {
                flows.put(key, &slot, 0).map_err(open::map_error("store", "FLOWS"))?;
            }
            found.here = Some(slot);
        }
        for link in [LINK, LEG_LINK] {
            let (from, to) = (self.pins.join(link), pins.join(link));
            match std::fs::rename(&from, &to) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(PlaneError::Pin { op: "rename", path: from, source });
                }
                _ => {}
            }
        }
        tracing::info!(abi = self.abi, flows = self.count() - lost, "the flows of a former version go on");
        if lost > 0 {
            tracing::warn!(
                abi = self.abi,
                lost,
                "the table of an earlier start has no room for these flows of a former version"
            );
        }
        Ok(lost)
    }

    /// To be called as soon as this version's program sees the packets: brings in what the former's still saw meanwhile,
    /// and removes what is pinned of it.
    pub(crate) fn leave(self, slots: &Slots) -> Result<(), PlaneError> {
        remove(&self.pins.join("FLOWS"))?;
        for found in &self.found {
            let (Some(slot), Some(last)) = (found.here, self.record(found.slot)) else { continue };
            if last != found.copied {
                slots.catch_up(slot, &former::missed(&found.copied, &last));
            }
        }
        remove_whatever_is_pinned(&self.pins)
    }
}

/// Removes a side's folder with whatever a version pins in it, `FLOWS` first, and the version's folder if it is empty then.
fn remove_whatever_is_pinned(pins: &Path) -> Result<(), PlaneError> {
    remove(&pins.join("FLOWS"))?;
    for entry in std::fs::read_dir(pins).into_iter().flatten().flatten() {
        remove(&entry.path())?;
    }
    open::remove_folders(pins);
    Ok(())
}

fn remove(path: &Path) -> Result<(), PlaneError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(PlaneError::Pin { op: "unlink", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
