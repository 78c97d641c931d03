//! The daemons come and go under load: stopped, killed, started again, with a service manager that keeps the listening
//! sockets (`sd_notify(3)`), as systemd does with the units in the packages.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_shared::record::{ABI_VERSION, former};
use baton_tests::build::Upgrade;
use baton_tests::hung::Hung;
use baton_tests::lab::{self, TestLab, VIPS, both, patient};
use baton_tests::load::{DOWNLOADS, Tally, under_load};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{LabSpec, Manager, Program};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Two targets whose links are so slow that downloads are always under way.
fn order(s: LabSpec) -> LabSpec {
    LabSpec { rate_target: "1gbit".parse().ok(), ..patient(both(s.targets(2))) }
}

/// What a stopped daemon left pinned becomes a former version's, which had the same records under another ABI number; where
/// a former version left it, it is.
fn left_by_a_former_version(t: &TestLab, node: &str, side: &str) {
    let folder = |abi| t.lab.bpf_dir(node).join(format!("v{abi}"));
    if folder(former::READABLE[0]).join(side).exists() {
        return;
    }
    std::fs::create_dir(folder(former::READABLE[0])).unwrap();
    let (here, there) = (folder(ABI_VERSION), folder(former::READABLE[0]));
    std::fs::rename(here.join(side), there.join(side)).unwrap();
    std::fs::remove_dir(here).unwrap();
}

/// How long what must come is waited for. A download takes some seconds, more on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// All downloads that go on are migrated, half of them over each version of IP.
fn all_migrated(t: &TestLab) {
    t.eventually("all downloads are migrated", LIMIT, |t| {
        let flows = [t.flows("target1"), t.flows("target2")].concat();
        VIPS.iter().all(|vip| {
            let live = |f: &&Value| f["state"] == "committed" && f["vip"] == vip.to_string();
            flows.iter().filter(live).count() >= DOWNLOADS / VIPS.len()
        })
    });
    // Downloads that were proxied while an agent was away would end with the process that carries them.
    t.eventually("nothing is proxied any more", LIMIT, |t| t.metric(INTERMEDIATE, "baton_connections") == 0);
}

/// The version a node's daemon says it has.
fn version(t: &TestLab, node: &str) -> String {
    t.admin(node, "/v1/status")["version"].as_str().unwrap().to_owned()
}

/// Kills a target's agent and starts it again, under load. A request may fail if it began before the intermediate noticed.
fn kill_agent(t: &TestLab, target: &str, tally: &Tally) {
    let agent_up =
        |t: &TestLab| t.admin(INTERMEDIATE, &format!("/v1/targets/{target}"))["up"].as_bool().unwrap();
    t.eventually("the agent is there", LIMIT, agent_up);
    let before = tally.unanswered().len();
    let noticed = tally.with_downloads_under_way(t, || {
        t.lab.kill_agent(target).unwrap();
        t.eventually("the intermediate noticed", LIMIT, |t| !agent_up(t));
        Instant::now()
    });
    tally.progress();
    t.lab.start_agent(target).unwrap();
    t.eventually("the agent is back", LIMIT, agent_up);
    tally.progress();
    let failed = tally.unanswered().split_off(before);
    assert!(
        failed.iter().all(|one| one.began < noticed),
        "{target}'s agent gone at {noticed:?}: {failed:#?}"
    );
}

#[test]
fn daemons_that_are_stopped_killed_and_upgraded_cut_no_download_and_only_requests_in_hand_at_a_kill_fail() {
    let Some(t) = lab::up("lifecycle", order) else { return };
    let manager = Manager::new(&plan::run_dir(&t.lab.spec().name)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let upgrade = Upgrade::new(scratch.path()).unwrap();
    println!("from {} to {}", upgrade.from, upgrade.to);
    t.lab.stop_intermediate().unwrap();
    t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
    t.eventually("it is ready", LIMIT, |_| manager.told("READY=1") == 1);
    assert_eq!(version(&t, INTERMEDIATE), upgrade.from);
    let kept = manager.kept();
    assert!(kept >= VIPS.len(), "not every VIP's listening socket is kept");

    under_load(&t, |tally| {
        all_migrated(&t);
        // An upgrade in good order, to another version: nothing fails. The second time from another ABI.
        t.lab.use_build(upgrade.build.clone());
        for former in [false, true] {
            t.lab.stop_intermediate().unwrap();
            if former {
                left_by_a_former_version(&t, INTERMEDIATE, "intermediate");
            }
            assert!(t.flows("target1").len() + t.flows("target2").len() > 0, "downloads go on meanwhile");
            t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
            assert_eq!(version(&t, INTERMEDIATE), upgrade.to);
            tally.progress();
        }
        manager.catch_up().unwrap();
        assert_eq!(manager.told("STOPPING=1"), 2);
        for target in ["target1", "target2"] {
            assert_eq!(version(&t, target), upgrade.from);
            t.lab.stop_agent(target).unwrap();
            if target == "target2" {
                left_by_a_former_version(&t, target, "target");
            }
            tally.progress();
            t.lab.start_agent(target).unwrap();
            assert_eq!(version(&t, target), upgrade.to);
            tally.progress();
        }
        tally.assert_nothing_failed();

        // What a killed daemon had in hand has no answer: of requests one after the other that is one. All else goes on, and
        // what connects meanwhile waits.
        all_migrated(&t);
        let killed = tally.with_downloads_under_way(&t, || {
            t.lab.kill_intermediate().unwrap();
            Instant::now()
        });
        std::thread::sleep(Duration::from_millis(300));
        t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
        tally.progress();
        let failed = tally.unanswered();
        assert!(failed.len() <= 1 && failed.iter().all(|one| one.began < killed), "{killed:?}: {failed:#?}");
        for target in ["target1", "target2"] {
            kill_agent(&t, target, tally);
        }
    });
    for node in [INTERMEDIATE, "target2"] {
        // The kernel's own files may be beside them (bpf_preload).
        let left: Vec<_> = std::fs::read_dir(t.lab.bpf_dir(node))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with('v'))
            .collect();
        assert_eq!(left, [format!("v{ABI_VERSION}").as_str()], "{node} took everything over");
    }
    manager.catch_up().unwrap();
    assert_eq!(manager.kept(), kept, "the sockets are still the same");
    assert!(manager.told("READY=1") >= 4);
}

#[test]
fn without_a_manager_requests_fail_only_between_a_kill_and_the_next_start_and_no_download_does() {
    let Some(t) = lab::up("unmanaged", order) else { return };
    under_load(&t, |tally| {
        all_migrated(&t);
        let (killing, ready) = tally.with_downloads_under_way(&t, || {
            let killing = Instant::now();
            t.lab.kill_intermediate().unwrap();
            t.eventually("somebody is refused at each VIP", LIMIT, |_| {
                let refused = tally.unanswered();
                refused.len() > VIPS.len() && VIPS.iter().all(|vip| refused.iter().any(|one| one.vip == *vip))
            });
            t.lab.start_intermediate().unwrap();
            (killing, Instant::now())
        });
        tally.progress();
        let failed = tally.unanswered();
        let other: Vec<_> = failed.iter().filter(|one| one.ended < killing || one.began > ready).collect();
        assert!(other.is_empty(), "killed at {killing:?}, ready at {ready:?}: {other:#?}");
    });
}

/// A manager with a watchdog that wants to hear of its daemon every 100 ms.
fn watching(folder: &Path) -> Manager {
    Manager::new(folder).unwrap().watching(Duration::from_millis(100))
}

/// That a daemon goes on its manager hears again and again, but not while this thread of it hangs, or the main one.
fn who_hangs_is_not_heard_of(
    t: &TestLab,
    node: &str,
    program: Program,
    manager: &Manager,
    thread: Option<&str>,
) {
    let heard = || manager.told("WATCHDOG=1");
    let goes_on = || {
        let before = heard();
        t.eventually("the watchdog hears of it", LIMIT, |_| heard() > before + 2);
    };
    goes_on();
    let hung = Hung::of(t.pid(node, program), thread);
    // Of threads that do not hang one may be about to say a last word.
    manager.catch_up().unwrap();
    let before = heard() + 1;
    std::thread::sleep(Duration::from_millis(600));
    manager.catch_up().unwrap();
    assert!(heard() <= before, "{node}: {thread:?} hangs, and {} words came", heard() - before);
    drop(hung);
    goes_on();
}

#[test]
fn a_manager_keeps_what_reloads_leave_and_its_watchdog_hears_of_daemons_that_do_not_hang() {
    let Some(t) = lab::up("managed", |s| both(s).intermediate_with("", "workers", 2)) else { return };
    let manager = watching(&plan::run_dir(&t.lab.spec().name));
    t.lab.stop_intermediate().unwrap();
    t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
    t.eventually("it is ready", LIMIT, |_| manager.told("READY=1") == 1);
    let kept = manager.kept();
    let file = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&file).unwrap();
    let new = ["10.90.1.2:8088", "[fd90:1::2]:8088"].map(|vip| format!("\n[[listener]]\nvip = \"{vip}\"\n"));
    std::fs::write(&file, format!("{text}{}", new.concat())).unwrap();
    t.lab.signal(INTERMEDIATE, Program::Balancer, libc::SIGHUP).unwrap();
    t.eventually("the new listeners' sockets are kept too", LIMIT, |_| {
        manager.kept() == 2 * kept && manager.told("READY=1") == 2 && manager.told("RELOADING=1") == 1
    });
    std::fs::write(&file, text).unwrap();
    t.lab.signal(INTERMEDIATE, Program::Balancer, libc::SIGHUP).unwrap();
    t.eventually("they are given up", LIMIT, |_| manager.kept() == kept && manager.told("READY=1") == 3);
    for vip in VIPS {
        assert_eq!(t.get_at(vip, "/1k").unwrap().status, 200);
    }

    who_hangs_is_not_heard_of(&t, INTERMEDIATE, Program::Balancer, &manager, None);
    who_hangs_is_not_heard_of(&t, INTERMEDIATE, Program::Balancer, &manager, Some("worker2"));
    t.lab.stop_agent("target1").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let manager = watching(folder.path());
    t.lab.start_managed("target1", Program::Agent, &manager).unwrap();
    who_hangs_is_not_heard_of(&t, "target1", Program::Agent, &manager, None);
}
