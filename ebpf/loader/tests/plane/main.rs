//! The plane opened, taken over and detached for real, in a network namespace of the test's own.
//!
//! Needs root and BPF. Without them it says so and passes, unless `BATON_NO_SKIPS=1`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: the panic is the report")]

mod former;
mod sys;

use aya::programs::{SchedClassifier, TcAttachType};
use baton_loader::adopt::AdoptError;
use baton_loader::{Hook, InsertError, Plane, PlaneConfig, PlaneError, Side};
use baton_shared::addr::PortWord;
use baton_shared::record::{FLAG_LEG_IPIP, FlowKey, FlowRecord, FlowState, LegSettings};
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Runs `test` on a thread with its own namespaces, an Ethernet device `up0` and a BPF file system.
fn inside(test: fn(&Path)) {
    let body = move || {
        if let Err(e) = sys::own_namespaces() {
            return Some(format!("cannot make namespaces: {e}"));
        }
        run("mount --make-rprivate /");
        let dir = tempfile::tempdir().unwrap();
        run(&format!("mount -t bpf bpf {}", dir.path().display()));
        run("ip link add up0 type veth peer name far0");
        run("ip link set up0 up");
        run("ip tuntap add tun0 mode tun");
        test(dir.path());
        run(&format!("umount {}", dir.path().display()));
        None
    };
    let skipped = std::thread::spawn(body).join().unwrap_or_else(|p| std::panic::resume_unwind(p));
    if let Some(reason) = skipped {
        println!("SKIPPED: {reason}");
        assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "skipped: {reason}");
    }
}

fn config(side: Side, pins: &Path) -> PlaneConfig {
    PlaneConfig { side, uplink: "up0".into(), pin_dir: pins.join("baton"), flows: 4 }
}

fn flow(port: u16) -> FlowRecord {
    let key = FlowKey { remote_port: PortWord::new(port), ..FlowKey::default() };
    FlowRecord { key, state: FlowState::Committed as u32, flow_id: port.into(), ..FlowRecord::default() }
}

fn lives_and_is_taken_over(side: Side, hook: Hook, pins: &Path) {
    let config = config(side, pins);
    let plane = Plane::open_by(&config, hook).unwrap();
    assert!(plane.recovered().is_empty());
    plane.attach_tun("tun0", 7).unwrap();
    // Again, as after the TUN was made anew.
    plane.attach_tun("tun0", 7).unwrap();

    let slots: Vec<u32> = std::iter::from_fn(|| plane.slots().allocate()).collect();
    assert_eq!(slots.len(), 4);
    for (slot, port) in slots.iter().zip(100..) {
        plane.slots().write(*slot, &flow(port));
        plane.insert(&flow(port).key, *slot).unwrap();
    }
    assert!(matches!(plane.insert(&flow(100).key, 0), Err(InsertError::Exists)));
    // A target's flow may need two keys.
    let second = if config.side == Side::Target { 900..904 } else { 900..900 };
    for port in second.clone() {
        plane.insert(&flow(port).key, slots[0]).unwrap();
    }
    assert!(matches!(plane.insert(&flow(999).key, 0), Err(InsertError::Full)));
    // Another slot under a key that is there: also while there is no room for a further one.
    for slot in [slots[1], slots[0]] {
        plane.replace(&flow(100).key, slot).unwrap();
        assert_eq!(plane.lookup(&flow(100).key).unwrap(), Some(slot));
    }
    assert!(matches!(plane.replace(&flow(999).key, 0), Err(InsertError::Full)));
    for slot in [slots[1], slots[0]] {
        let both = [flow(100).key, flow(101).key];
        plane.replace_both(&both, slot).unwrap();
        assert_eq!(both.map(|key| plane.lookup(&key).unwrap()), [Some(slot); 2]);
    }
    assert!(matches!(plane.replace_both(&[flow(998).key, flow(999).key], 0), Err(InsertError::Full)));
    plane.replace(&flow(101).key, slots[1]).unwrap();
    // Keys that are not there stop none of the others.
    let keys: Vec<_> = [900].into_iter().chain(second).chain([901, 902]).map(|port| flow(port).key).collect();
    let before = plane.keys().unwrap().len();
    plane.remove_all(&keys).unwrap();
    plane.remove_all(&[]).unwrap();
    let left = plane.keys().unwrap();
    assert_eq!((left.len() + keys.len() - 3, left.iter().any(|key| keys.contains(key))), (before, false));
    assert!(plane.remove(&flow(103).key).unwrap());
    assert!(!plane.remove(&flow(103).key).unwrap());
    plane.slots().free(slots[3]);
    // A crash between filling a slot and inserting its key, and between removing a key and freeing its slot.
    let half = plane.slots().allocate().unwrap();
    plane.slots().write(half, &flow(200));
    assert_eq!(plane.slots().in_use(), 4);
    // Notes and accounts of a live record are the programs'.
    plane.slots().write(slots[0], &FlowRecord { packets: 99, diverted: 9, flags: 2, ..flow(100) });
    let record = plane.slots().read(slots[0]);
    assert_eq!((record.packets, record.diverted, record.flags), (0, 0, 2));
    drop(plane);

    let plane = Plane::open_by(&config, hook).unwrap();
    let mut ports: Vec<u64> = plane.recovered().iter().map(|(_, r)| r.flow_id).collect();
    ports.sort_unstable();
    assert_eq!(ports, [100, 101, 102], "what a crash left half done is swept");
    assert!(plane.knows_earlier() && plane.lost_records());
    assert_eq!(plane.slots().in_use(), 3);
    assert_eq!(plane.keys().unwrap().len(), 3);
    assert!(plane.counters().unwrap().iter().all(|(_, n)| *n == 0));
    drop(plane);

    // Another size waits until the flows are gone.
    let larger = PlaneConfig { flows: 8, ..config.clone() };
    let plane = Plane::open_by(&larger, hook).unwrap();
    assert_eq!(plane.slots().capacity(), 4);
    for (slot, record) in plane.recovered() {
        plane.remove(&record.key).unwrap();
        plane.slots().free(slot);
    }
    drop(plane);
    let plane = Plane::open_by(&larger, hook).unwrap();
    assert_eq!(plane.slots().capacity(), 8);

    plane.detach().unwrap();
    assert_eq!(std::fs::read_dir(&config.pin_dir).unwrap().count(), 0);
    let filters = Command::new("tc").args(["filter", "show", "dev", "up0", "ingress"]).output().unwrap();
    assert!(filters.stdout.is_empty(), "{}", String::from_utf8_lossy(&filters.stdout));
}

#[test]
fn intermediate_by_this_kernels_best_hook() {
    inside(|pins| lives_and_is_taken_over(Side::Intermediate, Hook::of_this_kernel(), pins));
}

#[test]
fn target_by_this_kernels_best_hook() {
    inside(|pins| lives_and_is_taken_over(Side::Target, Hook::of_this_kernel(), pins));
}

#[test]
fn both_by_clsact() {
    inside(|pins| {
        lives_and_is_taken_over(Side::Intermediate, Hook::Clsact, pins);
        lives_and_is_taken_over(Side::Target, Hook::Clsact, pins);
    });
}

#[test]
fn a_device_made_anew_gets_a_new_link() {
    inside(|pins| {
        let config = config(Side::Intermediate, pins);
        drop(Plane::open(&config).unwrap());
        run("ip link del up0");
        run("ip link add up0 type veth peer name far0");
        drop(Plane::open(&config).unwrap());
        drop(Plane::open(&config).unwrap());
        Plane::open(&config).unwrap().detach().unwrap();
    });
}

/// The verifier gives up when a signal comes.
#[test]
fn programs_are_loaded_though_signals_come_meanwhile() {
    inside(|pins| {
        let loader = sys::this_thread();
        let began = std::time::Instant::now();
        Plane::open(&config(Side::Target, pins)).unwrap().detach().unwrap();
        // Often enough to meet a verifier at work, and rarely enough that it gets to its end at times.
        let mut pause = began.elapsed() * 5;
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    sys::signal(loader);
                    std::thread::sleep(pause);
                    // Where the machine becomes slower than it was just now.
                    pause += pause / 10;
                }
            });
            let opened: Result<Vec<()>, PlaneError> =
                (0..30).map(|_| Plane::open(&config(Side::Target, pins))?.detach()).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            opened.map(drop).unwrap();
        });
    });
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    inside(|pins| {
        let good = config(Side::Target, pins);
        let wrong = PlaneConfig { uplink: "no-such-device".into(), ..good.clone() };
        assert!(
            matches!(Plane::open(&wrong), Err(PlaneError::NoDevice { name, .. }) if name == "no-such-device")
        );
        let wrong = PlaneConfig { pin_dir: PathBuf::from("/tmp/not-bpf"), ..good.clone() };
        let error = Plane::open(&wrong).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf") && !error.contains('\n'), "{error}");
        let plane = Plane::open(&good).unwrap();
        assert!(matches!(plane.attach_tun("nope", 0), Err(PlaneError::NoDevice { .. })));
        plane.detach().unwrap();
    });
}

/// Where the kernel has what it takes.
#[test]
fn what_adopts_takes_the_place_of_what_takes_outer_headers_off_and_goes_with_detach() {
    inside(|pins| {
        let config = config(Side::Target, pins);
        let on_ingress = || {
            let (_, programs) = SchedClassifier::query_tcx("up0", TcAttachType::Ingress).unwrap();
            programs.iter().map(|p| p.name_as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let plane = Plane::open(&config).unwrap();
        match plane.adopt() {
            Ok(()) => {}
            Err(e @ (AdoptError::NoFunction | AdoptError::NoTcx(_) | AdoptError::NoBtf(_))) => {
                println!("this kernel does not adopt: {e}");
                return plane.detach().unwrap();
            }
            Err(e) => panic!("{e}"),
        }
        let legs = |flags| {
            let mut legs = LegSettings::default();
            legs.peers[0].flags = flags;
            legs
        };
        for flags in [0, FLAG_LEG_IPIP] {
            plane.set_legs(&legs(flags)).unwrap();
            assert_eq!(on_ingress(), ["target_adopt"]);
        }
        drop(plane);
        assert_eq!(on_ingress(), ["target_adopt"], "flows go on without the agent");
        let plane = Plane::open(&config).unwrap();
        plane.adopt().unwrap();
        assert_eq!(on_ingress(), ["target_adopt"], "taken over in its place");
        drop(plane);
        // Without adopting, what remains is what the legs need.
        let plane = Plane::open(&config).unwrap();
        plane.set_legs(&legs(FLAG_LEG_IPIP)).unwrap();
        assert_eq!(on_ingress(), ["target_ingress"]);
        // A link without a pin is taken away by the kernel in its own time.
        let gone = || {
            (0..1000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                on_ingress().is_empty()
            })
        };
        plane.set_legs(&legs(0)).unwrap();
        assert!(gone(), "{:?}", on_ingress());
        plane.adopt().unwrap();
        plane.detach().unwrap();
        assert!(gone(), "{:?}", on_ingress());
    });
}

#[test]
fn adopting_needs_links_and_is_a_targets() {
    inside(|pins| {
        let plane = Plane::open_by(&config(Side::Target, pins), Hook::Clsact).unwrap();
        assert!(matches!(plane.adopt(), Err(AdoptError::NoTcx(Hook::Clsact))));
        plane.detach().unwrap();
        let plane = Plane::open(&config(Side::Intermediate, pins)).unwrap();
        assert!(plane.adopt().is_err());
        plane.detach().unwrap();
        assert!(matches!(baton_loader::adopt::check(Hook::Clsact), Err(AdoptError::NoTcx(Hook::Clsact))));
    });
}
