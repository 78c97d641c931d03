//! A build with another ABI finds what this one left. Its pins are moved to another version's name: to this build they are
//! then that version's.

use crate::{config, flow, inside, run};
use aya::programs::SchedClassifier;
use aya::programs::TcAttachType;
use baton_loader::{Hook, Plane, PlaneConfig, PlaneError, Side};
use baton_shared::addr::PortWord;
use baton_shared::record::former::READABLE;
use baton_shared::record::{ABI_VERSION, FLAG_ADOPTED, FlowRecord, FlowState, NOTE_FIN};
use std::path::{Path, PathBuf};

fn folder(config: &PlaneConfig, abi: u32) -> PathBuf {
    let side = if config.side == Side::Target { "target" } else { "intermediate" };
    config.pin_dir.join(format!("v{abi}")).join(side)
}

/// Leaves flows behind, as version `abi`.
fn left_by(abi: u32, config: &PlaneConfig, hook: Hook, flows: &[FlowRecord]) {
    let plane = Plane::open_by(config, hook).unwrap();
    for record in flows {
        let slot = plane.slots().allocate().unwrap();
        plane.slots().write(slot, record);
        plane.insert(&record.key, slot).unwrap();
        if record.flags & FLAG_ADOPTED != 0 {
            plane.insert(&record.arrival_key(), slot).unwrap();
        }
    }
    drop(plane);
    let (from, to) = (folder(config, ABI_VERSION), folder(config, abi));
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::rename(&from, &to).unwrap();
    std::fs::remove_dir(from.parent().unwrap()).unwrap();
}

/// The programs on the uplink: how many, and the newest's number.
fn on_uplink(config: &PlaneConfig, hook: Hook) -> usize {
    let (direction, name) = match config.side {
        Side::Intermediate => (TcAttachType::Ingress, "ingress"),
        Side::Target => (TcAttachType::Egress, "egress"),
    };
    if hook == Hook::Tcx {
        return SchedClassifier::query_tcx("up0", direction).unwrap().1.len();
    }
    let filters =
        std::process::Command::new("tc").args(["filter", "show", "dev", "up0", name]).output().unwrap();
    String::from_utf8_lossy(&filters.stdout).matches("jited").count()
}

fn flows(side: Side) -> Vec<FlowRecord> {
    let mut adopted = FlowRecord { packets: 3, note_ack: 77, note_flags: NOTE_FIN, ..flow(102) };
    if side == Side::Target {
        (adopted.flags, adopted.new_port) = (FLAG_ADOPTED, PortWord::new(80));
    }
    vec![flow(100), FlowRecord { state: FlowState::Ended as u32, ..flow(101) }, adopted]
}

fn taken_over(side: Side, hook: Hook, pins: &Path) {
    let config = config(side, pins);
    let abi = READABLE[0];
    // Fewer than there are flows: none is given up for that.
    let smaller = PlaneConfig { flows: 2, ..config.clone() };
    left_by(abi, &config, hook, &flows(side));
    assert_eq!(on_uplink(&config, hook), 1, "the former's program goes on");

    let plane = Plane::open_by(&smaller, hook).unwrap();
    assert_eq!(on_uplink(&config, hook), 1, "in the place of the former's");
    assert!(plane.knows_earlier());
    let mut recovered: Vec<FlowRecord> = plane.recovered().into_iter().map(|(_, record)| record).collect();
    recovered.sort_unstable_by_key(|record| record.flow_id);
    assert_eq!(recovered, flows(side));
    if side == Side::Target {
        let adopted = &recovered[2];
        assert_eq!(plane.lookup(&adopted.key).unwrap(), plane.lookup(&adopted.arrival_key()).unwrap());
    }
    assert_eq!(plane.keys().unwrap().len(), if side == Side::Target { 4 } else { 3 });
    assert_eq!(plane.slots().in_use(), 3);
    let left: Vec<_> = std::fs::read_dir(&config.pin_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [format!("v{ABI_VERSION}").as_str()]);
    drop(plane);
    // And from then on it is this version's.
    let plane = Plane::open_by(&smaller, hook).unwrap();
    assert_eq!(plane.recovered().len(), 3);
    plane.detach().unwrap();
}

#[test]
fn a_former_versions_flows_go_on_in_this_ones_maps() {
    inside(|pins| {
        for side in [Side::Intermediate, Side::Target] {
            taken_over(side, Hook::of_this_kernel(), pins);
        }
    });
}

#[test]
fn a_former_versions_flows_go_on_where_filters_carry_the_programs() {
    inside(|pins| taken_over(Side::Intermediate, Hook::Clsact, pins));
}

#[test]
fn a_former_versions_flows_for_which_there_is_no_room_are_told() {
    inside(|pins| {
        let config = config(Side::Intermediate, pins);
        let hook = Hook::of_this_kernel();
        left_by(READABLE[0], &config, hook, &flows(config.side));
        // The table of an earlier start, which has a flow.
        let aside = pins.join("aside");
        std::fs::rename(&config.pin_dir, &aside).unwrap();
        let plane = Plane::open_by(&PlaneConfig { flows: 2, ..config.clone() }, hook).unwrap();
        assert!(!plane.knows_earlier() && plane.lost_records(), "there was none");
        let slot = plane.slots().allocate().unwrap();
        plane.slots().write(slot, &flow(100));
        plane.insert(&flow(100).key, slot).unwrap();
        drop(plane);
        let abi = format!("v{}", READABLE[0]);
        std::fs::rename(aside.join(&abi), config.pin_dir.join(&abi)).unwrap();
        let plane = Plane::open_by(&config, hook).unwrap();
        assert_eq!(plane.recovered().len(), 2);
        assert!(!plane.knows_earlier() && plane.lost_records());
        drop(plane);
        let plane = Plane::open_by(&config, hook).unwrap();
        assert!(plane.knows_earlier() && !plane.lost_records(), "it is known from then on");
        plane.detach().unwrap();
    });
}

#[test]
fn a_takeover_that_was_cut_short_is_repeated() {
    inside(|pins| {
        let config = config(Side::Intermediate, pins);
        let hook = Hook::of_this_kernel();
        left_by(READABLE[0], &config, hook, &flows(config.side));
        let kept = pins.join("kept");
        std::fs::create_dir(&kept).unwrap();
        // All that is pinned of the former, once more.
        for map in ["FLOWS", "SLOTS"] {
            aya::maps::MapData::from_pin(folder(&config, READABLE[0]).join(map))
                .unwrap()
                .pin(kept.join(map))
                .unwrap();
        }
        let plane = Plane::open_by(&config, hook).unwrap();
        let slot_of = |flow_id| plane.recovered().into_iter().find(|(_, r)| r.flow_id == flow_id).unwrap().0;
        plane.slots().change_flags(slot_of(100), 0, 1);
        // As if this start had been cut short after its program had taken the packets over, and one had come; and the
        // former's had seen the end between the copy and that.
        let (slot, mut seen) = (slot_of(102), flow(102));
        (seen.state, seen.last_seen_ns, seen.packets) = (FlowState::Ended as u32, 9, 4);
        plane.slots().set_state(slot, FlowState::Free);
        plane.slots().write(slot, &seen);
        drop(plane);
        std::fs::create_dir_all(folder(&config, READABLE[0])).unwrap();
        for map in ["FLOWS", "SLOTS"] {
            std::fs::rename(kept.join(map), folder(&config, READABLE[0]).join(map)).unwrap();
        }
        let plane = Plane::open_by(&config, hook).unwrap();
        let mut recovered: Vec<FlowRecord> = plane.recovered().into_iter().map(|(_, r)| r).collect();
        recovered.sort_unstable_by_key(|record| record.flow_id);
        let mut expected = flows(config.side);
        expected[2] = FlowRecord { note_flags: NOTE_FIN, ..seen };
        assert_eq!(
            recovered, expected,
            "true is the record that saw the last packet, and an end that either saw"
        );
        assert!(!folder(&config, READABLE[0]).exists());
        plane.detach().unwrap();
    });
}

#[test]
fn flows_of_a_version_nobody_reads_are_told_and_never_cut_in_silence() {
    inside(|pins| {
        let config = config(Side::Target, pins);
        let hook = Hook::of_this_kernel();
        let later = ABI_VERSION + 1;
        left_by(later, &config, hook, &flows(config.side));
        let error = Plane::open(&config).unwrap_err();
        assert!(matches!(&error, PlaneError::OtherVersion { abi, .. } if *abi == later), "{error}");
        let text = error.to_string();
        assert!(text.contains("baton drain") && text.contains(&format!("ABI {later}")), "{text}");
        assert_eq!(on_uplink(&config, hook), 1, "its flows go on");
        run(&format!("rm -r {}", folder(&config, later).display()));
        Plane::open(&config).unwrap().detach().unwrap();

        left_by(later, &config, hook, &[]);
        let plane = Plane::open(&config).unwrap();
        assert!(!config.pin_dir.join(format!("v{later}")).exists(), "without a flow it is only in the way");
        plane.detach().unwrap();
    });
}
