//! The daemons come and go under load: stopped, killed, started again, with a service manager that keeps the listening
//! sockets (`sd_notify(3)`), as systemd does with the units in the packages.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_shared::record::{ABI_VERSION, former};
use baton_tests::client::{Connection, Response};
use baton_tests::lab::{self, TestLab, VIP};
use netns_lab::plan::{self, INTERMEDIATE};
use netns_lab::{LabSpec, Manager, Program};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const DOWNLOADS: usize = 8;

/// What became of the requests so far.
#[derive(Default)]
struct Tally {
    small: AtomicU64,
    large: AtomicU64,
    /// Requests that got no byte of an answer.
    unanswered: Mutex<Vec<String>>,
    /// Answers that were cut or wrong.
    cut: Mutex<Vec<String>>,
}

impl Tally {
    fn unanswered(&self) -> usize {
        self.unanswered.lock().unwrap().len()
    }

    fn assert_nothing_cut(&self) {
        let cut = self.cut.lock().unwrap();
        assert!(cut.is_empty(), "{cut:#?}");
    }
}

/// A request on a connection of its own, and whether any byte of its answer came.
fn fetch(path: &str) -> Result<Response, (bool, io::Error)> {
    let open = || -> io::Result<Connection> {
        let mut connection = Connection::open(VIP)?;
        connection.get(path)?;
        match connection.read_some()? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer")),
            _ => Ok(connection),
        }
    };
    open().map_err(|e| (false, e))?.response().map_err(|e| (true, e))
}

/// Asks again and again until told to stop.
fn ask(path: &str, want: &str, count: &AtomicU64, tally: &Tally, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match fetch(path) {
            Ok(response) if response.status == 200 && response.sha256 == want => {}
            Ok(response) => tally.cut.lock().unwrap().push(format!("{path}: {}", response.head)),
            Err((true, e)) => tally.cut.lock().unwrap().push(format!("{path}: {e}")),
            Err((false, e)) => tally.unanswered.lock().unwrap().push(format!("{path}: {e}")),
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Eight downloads at a time, and small requests one right after the other, while `faults` happens.
fn under_load(t: &TestLab, faults: impl FnOnce(&Tally)) {
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let (small, large) = (t.sha256("1k"), t.sha256("100m"));
    let client = t.lab.netns("client1").unwrap();
    let enter = || netns_lab::sys::enter_netns(&std::fs::File::open(&client).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let (tally, stop, small, large, enter) = (&tally, &stop, &small, &large, &enter);
        for _ in 0..DOWNLOADS {
            scope.spawn(move || {
                enter();
                ask("/100m", large, &tally.large, tally, stop);
            });
        }
        scope.spawn(move || {
            enter();
            ask("/1k", small, &tally.small, tally, stop);
        });
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            progress(tally);
            faults(tally);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = moved {
            std::panic::resume_unwind(panic);
        }
    });
    tally.assert_nothing_cut();
    assert!(tally.large.load(Ordering::Relaxed) >= DOWNLOADS as u64);
    println!("{:?} small, {:?} large; without an answer: {:#?}", tally.small, tally.large, tally.unanswered);
}

/// Waits until small requests have gone on. Downloads under way at the end are awaited by their threads.
fn progress(tally: &Tally) {
    let before = tally.small.load(Ordering::Relaxed);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while tally.small.load(Ordering::Relaxed) < before + 20 {
        assert!(std::time::Instant::now() < until, "nothing goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Two targets whose links are so slow that downloads are always under way.
fn order(s: LabSpec) -> LabSpec {
    LabSpec { rate_target: "1gbit".parse().ok(), ..s.targets(2) }
}

/// What a stopped daemon left pinned becomes a former version's, which had the same records under another ABI number.
fn left_by_a_former_version(t: &TestLab, node: &str, side: &str) {
    let folder = |abi| t.lab.bpf_dir(node).join(format!("v{abi}"));
    std::fs::create_dir(folder(former::READABLE[0])).unwrap();
    let (here, there) = (folder(ABI_VERSION), folder(former::READABLE[0]));
    std::fs::rename(here.join(side), there.join(side)).unwrap();
    std::fs::remove_dir(here).unwrap();
}

#[test]
fn daemons_that_are_stopped_and_killed_cut_no_download_and_a_stop_costs_no_request() {
    let Some(t) = lab::up("lifecycle", order) else { return };
    let manager = Manager::new(&plan::run_dir(&t.lab.spec().name)).unwrap();
    t.lab.stop_intermediate().unwrap();
    t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
    t.eventually("it is ready", Duration::from_secs(5), |_| manager.told("READY=1") == 1);
    let kept = manager.kept();
    assert!(kept > 0, "no listening socket is kept");

    under_load(&t, |tally| {
        t.eventually("all downloads are migrated", Duration::from_secs(30), |t| {
            let live = |node| t.flows(node).iter().filter(|f| f["state"] == "committed").count();
            live("target1") + live("target2") >= DOWNLOADS
        });
        // An upgrade in good order: nothing fails. The second time from a version with another ABI.
        for former in [false, true] {
            t.lab.stop_intermediate().unwrap();
            if former {
                left_by_a_former_version(&t, INTERMEDIATE, "intermediate");
            }
            assert!(t.flows("target1").len() + t.flows("target2").len() > 0, "downloads go on meanwhile");
            t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
            progress(tally);
        }
        assert_eq!(tally.unanswered(), 0, "{:#?}", tally.unanswered.lock());
        assert_eq!(manager.told("STOPPING=1"), 2);
        for target in ["target1", "target2"] {
            t.lab.stop_agent(target).unwrap();
            if target == "target2" {
                left_by_a_former_version(&t, target, "target");
            }
            progress(tally);
            t.lab.start_agent(target).unwrap();
            progress(tally);
        }
        assert_eq!(tally.unanswered(), 0, "{:#?}", tally.unanswered.lock());

        // Downloads that were proxied while an agent was away end with the process that carries them.
        t.eventually("nothing is proxied any more", Duration::from_secs(30), |t| {
            t.metric(INTERMEDIATE, "baton_connections") == 0
        });
        // What a killed daemon had in hand has no answer; all else goes on, and what connects meanwhile waits.
        t.lab.kill_intermediate().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
        progress(tally);
        t.lab.kill_agent("target1").unwrap();
        progress(tally);
        t.lab.start_agent("target1").unwrap();
        progress(tally);
        let most = 2 * (DOWNLOADS + 1);
        assert!(tally.unanswered() <= most, "{:#?}", tally.unanswered.lock());
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
    assert_eq!(manager.kept(), kept, "the sockets are still the same");
    assert!(manager.told("READY=1") >= 4);
}

#[test]
fn a_reload_tells_the_manager_and_changes_what_it_keeps() {
    let Some(t) = lab::up("managed", |s| s) else { return };
    let manager = Manager::new(&plan::run_dir(&t.lab.spec().name)).unwrap();
    t.lab.stop_intermediate().unwrap();
    t.lab.start_managed(INTERMEDIATE, Program::Balancer, &manager).unwrap();
    t.eventually("it is ready", Duration::from_secs(5), |_| manager.told("READY=1") == 1);
    let kept = manager.kept();
    let file = t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[[listener]]\nvip = \"10.90.1.2:8088\"\n")).unwrap();
    t.lab.signal(INTERMEDIATE, Program::Balancer, libc::SIGHUP).unwrap();
    t.eventually("the new listener's sockets are kept too", Duration::from_secs(10), |_| {
        manager.kept() == 2 * kept && manager.told("READY=1") == 2 && manager.told("RELOADING=1") == 1
    });
    std::fs::write(&file, text).unwrap();
    t.lab.signal(INTERMEDIATE, Program::Balancer, libc::SIGHUP).unwrap();
    t.eventually("they are given up", Duration::from_secs(10), |_| {
        manager.kept() == kept && manager.told("READY=1") == 3
    });
    assert_eq!(t.get("/1k").unwrap().status, 200);
}
