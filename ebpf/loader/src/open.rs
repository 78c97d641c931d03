//! Opening the data plane: pins, maps, programs.

use crate::attach::{Hook, Place};
use crate::copies::{self, Copies};
use crate::former::{self, Former};
use crate::slots::Slots;
use crate::sys::{self, MappedSlots, MappedWord, TypedMap};
use crate::{Means, OBJECT, Plane, PlaneConfig, PlaneError, Programs, Side, Tun};
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use baton_shared::record::{ABI_VERSION, FlowKey, FlowRecord, FlowState, LegSettings, Settings};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The program of the daemon's TUN.
pub(crate) const TUN_PROGRAM: &str = "tun_reinject";
/// The maps that are pinned, all under their own names.
pub(crate) const MAPS: [&str; 5] = ["FLOWS", "SLOTS", "SETTINGS", "LEGS", "COUNTERS"];
/// The uplink's link.
pub(crate) const LINK: &str = "link_uplink";
/// The link of what takes packets out of outer headers on a target.
pub(crate) const LEG_LINK: &str = "link_leg";
/// Where the daemon of an intermediate says which ruling is in force.
const RULING: &str = "RULING";
/// The program of that link.
pub(crate) const LEG_PROGRAM: &str = "target_ingress";

pub(crate) fn open(config: &PlaneConfig, hook: Hook) -> Result<Plane, PlaneError> {
    if config.flows == 0 {
        return Err(PlaneError::NoFlows);
    }
    let uplink_ifindex = sys::device_index(&config.uplink)
        .map_err(|source| PlaneError::NoDevice { name: config.uplink.clone(), source })?;
    let pins = pin_folder(config)?;
    sys::lift_memlock();
    let mut formers = former::find(&config.pin_dir, config.side)?;
    let (flows, found) = capacity(&pins, config.flows)?;
    let taken = formers.iter().map(Former::count).fold(0, u32::saturating_add);
    let (flows, found) = (flows.max(taken), found || taken > 0);

    // An adopted flow of a target is found under two keys.
    let keys = if config.side == Side::Target { flows.saturating_mul(2) } else { flows };
    let of_target = config.side == Side::Target;
    let copies = if of_target { copies::BYTES } else { copies::NO_BYTES };
    let mut object = load_object(&pins, flows, keys, copies)?;
    // Before the maps are taken out of the object: the programs refer to their descriptors.
    load_program(&mut object, TUN_PROGRAM)?;
    load_program(&mut object, config.side.program())?;
    if config.side == Side::Target {
        load_program(&mut object, LEG_PROGRAM)?;
    }
    let (slots_map, slots_count) = typed_fd(&mut object, "SLOTS", (4, size_u32::<FlowRecord>()))?;
    let mapped = MappedSlots::new(slots_map.as_fd(), slots_count).map_err(map_error("mmap", "SLOTS"))?;
    let (flows_map, _) = typed_fd(&mut object, "FLOWS", (size_u32::<FlowKey>(), 4))?;
    let flows_map =
        TypedMap::new(flows_map, (size_u32::<FlowKey>(), 4)).map_err(map_error("open", "FLOWS"))?;
    let (settings, _) = typed_fd(&mut object, "SETTINGS", (4, size_u32::<Settings>()))?;
    let settings =
        TypedMap::new(settings, (4, size_u32::<Settings>())).map_err(map_error("open", "SETTINGS"))?;
    let (legs, _) = typed_fd(&mut object, "LEGS", (4, size_u32::<LegSettings>()))?;
    let legs = TypedMap::new(legs, (4, size_u32::<LegSettings>())).map_err(map_error("open", "LEGS"))?;
    let counters = object.take_map("COUNTERS").ok_or_else(|| missing("COUNTERS"))?;
    let counters = PerCpuArray::<MapData, u64>::try_from(counters).map_err(load_error("COUNTERS"))?;

    let copies = object.take_map(copies::MAP).ok_or_else(|| missing(copies::MAP))?;
    let (wake, _) = typed_fd(&mut object, copies::WAKE, (4, 4))?;
    let copies = of_target.then(|| Copies::of(copies, wake.as_fd())).transpose()?;

    let (ruling, _) = typed_fd(&mut object, RULING, (4, 4))?;
    let ruling = MappedWord::new(ruling.as_fd()).map_err(map_error("mmap", RULING))?;

    let swept = sweep(&flows_map, &mapped)?;
    let mut lost = 0;
    let slots = Slots::new(mapped);
    for former in &mut formers {
        lost += former.give_flows(&flows_map, &slots, &pins)?;
    }

    // The TUN of an earlier run is gone; the number may by now be another device's.
    let mac = sys::device_mac(&config.uplink)
        .map_err(|source| PlaneError::NoDevice { name: config.uplink.clone(), source })?;
    let first = Settings { uplink_ifindex, uplink_mac: mac, ..Settings::default() };
    settings.put(&0, &first, 0).map_err(map_error("store", "SETTINGS"))?;

    let place = Place {
        program: config.side.program(),
        device: &config.uplink,
        direction: config.side.direction(),
        hook,
    };
    place.attach_for_good(program(&mut object, config.side.program())?, &pins.join(LINK))?;
    for former in formers {
        former.leave(&slots)?;
    }
    let programs = Programs {
        config: config.clone(),
        hook,
        pins,
        flows: flows_map,
        slots,
        settings,
        legs,
        counters,
        tun: Mutex::new(Tun { object, link: None }),
        adopting: Mutex::new(None),
        copies: Mutex::new(copies),
        ruling,
        knows_earlier: found && lost == 0,
        lost_records: !found || lost + swept > 0,
    };
    Ok(Plane(Means::Ebpf(Box::new(programs))))
}

/// Makes `PIN_DIR/vN/SIDE`.
fn pin_folder(config: &PlaneConfig) -> Result<PathBuf, PlaneError> {
    let existing = config.pin_dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let pin_error = |op, path: &Path| {
        let path = path.to_owned();
        move |source| PlaneError::Pin { op, path, source }
    };
    if !sys::is_bpffs(existing).map_err(pin_error("statfs", existing))? {
        return Err(PlaneError::NotBpffs { path: existing.to_owned() });
    }
    let pins = config.pin_dir.join(format!("v{ABI_VERSION}")).join(config.side.folder());
    std::fs::create_dir_all(&pins).map_err(pin_error("mkdir", &pins))?;
    Ok(pins)
}

/// How many flows the tables shall hold: what is pinned wins as long as it holds flows. And whether the records of
/// an earlier run were found.
fn capacity(pins: &Path, wanted: u32) -> Result<(u32, bool), PlaneError> {
    let Ok(slots) = MapData::from_pin(pins.join("SLOTS")) else {
        // Without records nothing else that is pinned has a meaning.
        remove_files(pins)?;
        return Ok((wanted, false));
    };
    let info = slots.info().map_err(load_error("SLOTS"))?;
    let pinned = info.max_entries();
    let readable = info.value_size() == size_u32::<FlowRecord>();
    if pinned == wanted && readable {
        return Ok((wanted, true));
    }
    if readable {
        let mapped = MappedSlots::new(slots.fd().as_fd(), pinned).map_err(map_error("mmap", "SLOTS"))?;
        let live = (0..pinned).filter(|s| mapped.read(*s).state != FlowState::Free as u32).count();
        if live > 0 {
            tracing::warn!(
                pinned,
                wanted,
                live,
                "plane.flows was changed; it takes effect at a start without live flows"
            );
            return Ok((pinned, true));
        }
    }
    remove_files(pins)?;
    Ok((wanted, readable))
}

fn load_object(pins: &Path, flows: u32, keys: u32, copies: u32) -> Result<Ebpf, PlaneError> {
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_pin_path(map, pins.join(map));
    }
    loader
        .map_max_entries("FLOWS", keys)
        .map_max_entries("SLOTS", flows)
        .map_max_entries(copies::MAP, copies);
    loader.load(OBJECT).map_err(load_error("the eBPF object"))
}

/// How often a program is given to the kernel. Its verifier gives up with EAGAIN as soon as the thread has a signal to handle
/// (`signal_pending` in kernel/bpf/verifier.c); libbpf tries again as well.
const ATTEMPTS: usize = 10;

/// A program of the object, loaded.
pub(crate) fn load_program(object: &mut Ebpf, name: &'static str) -> Result<(), PlaneError> {
    let program = program(object, name)?;
    for _ in 1..ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            done => return done.map_err(load_error(name)),
        }
    }
    program.load().map_err(load_error(name))
}

/// A program of the object.
pub(crate) fn program<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, PlaneError> {
    object.program_mut(name).ok_or_else(|| missing(name))?.try_into().map_err(load_error(name))
}

/// A map's descriptor and its number of entries, with the sizes of its keys and values checked.
fn typed_fd(object: &mut Ebpf, name: &'static str, sizes: (u32, u32)) -> Result<(OwnedFd, u32), PlaneError> {
    let map = object.take_map(name).ok_or_else(|| missing(name))?;
    let (Map::HashMap(data) | Map::Array(data)) = map else { return Err(missing(name)) };
    let info = data.info().map_err(load_error(name))?;
    if (info.key_size(), info.value_size()) != sizes {
        return Err(missing(name));
    }
    let fd = data.fd().as_fd().try_clone_to_owned().map_err(map_error("dup", name))?;
    Ok((fd, info.max_entries()))
}

/// Brings map and records into step after a crash between two of the daemon's steps: a key whose record is free
/// or another flow's goes, and so does a record that no key leads to. How many records went.
fn sweep(flows: &TypedMap<FlowKey, u32>, slots: &MappedSlots) -> Result<u32, PlaneError> {
    let mut lost = 0u32;
    for key in flows.keys().map_err(map_error("walk", "FLOWS"))? {
        let slot = flows.get(&key).map_err(map_error("read", "FLOWS"))?;
        let right = slot.filter(|s| *s < slots.count()).map(|s| slots.read(s));
        if right.is_none_or(|r| !r.belongs_under(&key) || r.state == FlowState::Free as u32) {
            flows.remove(&key).map_err(map_error("delete", "FLOWS"))?;
        }
    }
    for slot in 0..slots.count() {
        let record = slots.read(slot);
        if record.state == FlowState::Free as u32 {
            continue;
        }
        if flows.get(&record.key).map_err(map_error("read", "FLOWS"))? != Some(slot) {
            slots.write(slot, &FlowRecord::default(), true);
            lost += 1;
        }
    }
    Ok(lost)
}

/// Removes what is pinned in `PIN_DIR/vN/SIDE` and the folder itself.
pub(crate) fn remove_pins(pins: &Path) -> Result<(), PlaneError> {
    remove_files(pins)?;
    remove_folders(pins);
    Ok(())
}

/// Removes a side's folder and its version's, if they are empty.
pub(crate) fn remove_folders(pins: &Path) {
    // The version's folder stays if the other side uses it; the configured folder is the operator's.
    for folder in pins.ancestors().take(2) {
        if std::fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

fn remove_files(pins: &Path) -> Result<(), PlaneError> {
    for name in MAPS.iter().chain([&LINK, &LEG_LINK]) {
        let path = pins.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(PlaneError::Pin { op: "unlink", path, source }),
        }
    }
    Ok(())
}

fn size_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

pub(crate) fn map_error(op: &'static str, map: &'static str) -> impl FnOnce(std::io::Error) -> PlaneError {
    move |source| PlaneError::Map { op, map, source }
}

pub(crate) fn load_error<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl FnOnce(E) -> PlaneError {
    move |source| PlaneError::Load { what, source: Box::new(source) }
}

fn missing(what: &'static str) -> PlaneError {
    PlaneError::Load {
        what,
        source: "not in the object, or of another type or size than this build's".into(),
    }
}
