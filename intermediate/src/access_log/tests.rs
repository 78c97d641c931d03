//! The log as its users see it: halves joined, rotation without loss, a bounded queue.

use super::*;
use baton_shared::control::FlowRef;
use baton_shared::http::Statuses;
use std::path::Path;
use std::time::UNIX_EPOCH;

const LIMIT: Duration = Duration::from_secs(30);

fn front(flow_id: u64, request_no: u32) -> MigratedRecord {
    let asked = Asked {
        client: "192.0.2.7:40000".parse().unwrap(),
        vip: "192.0.2.100:80".parse().unwrap(),
        listener: "web".into(),
        at: UNIX_EPOCH,
        request: None,
        request_no,
    };
    let (flow, since_handoff) = (FlowRef { flow_id, generation: 1 }, request_no);
    MigratedRecord { asked, placed: Placed::default(), flow, since_handoff, status: None, stages: None }
}

fn report(flow_id: u64) -> EndReport {
    let flow = FlowRef { flow_id, generation: 1 };
    EndReport { bytes: flow_id, ..EndReport::unreported(flow, EndReason::Finished) }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn log() -> (tempfile::TempDir, std::path::PathBuf, AccessLog) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let log = AccessLog::open(Format::Json, Destination::File(path.clone())).unwrap();
    (dir, path, log)
}

#[test]
fn halves_are_joined_in_whichever_order_they_come_and_once() {
    let (_dir, path, log) = log();
    log.migrated(front(1, 1));
    log.ended(&report(1));
    log.ended(&report(1));
    log.ended(&report(2));
    log.migrated(front(2, 1));
    log.migrated(front(3, 1));
    log.unreported(3, EndReason::AgentLost);
    assert_eq!(log.waiting(), 0);
    log.migrated(front(4, 1));
    log.finish(LIMIT);
    let told: Vec<_> =
        lines(&path).iter().map(|l| (l["agent_half"].clone(), l.get("bytes").cloned())).collect();
    let expected =
        [("joined", Some(1)), ("joined", Some(2)), ("missing", None), ("stopped_before_end", None)];
    assert_eq!(told, expected.map(|(half, bytes)| (half.into(), bytes.map(Into::into))));
    assert_eq!(log.counts(), (4, 0));
}

#[test]
fn later_requests_on_a_flow_have_lines_of_their_own() {
    let (_dir, path, log) = log();
    log.migrated(front(9, 1));
    log.migrated(front(9, 2));
    log.migrated(front(9, 3));
    log.ended(&report(9));
    // The second one's word comes first.
    log.migrated(front(8, 2));
    log.migrated(front(8, 1));
    log.ended(&report(8));
    log.finish(LIMIT);
    let told: Vec<_> =
        lines(&path).iter().map(|l| (l["request_no"].clone(), l["agent_half"].clone())).collect();
    let first = [(1, "with_later_request"), (2, "with_later_request"), (3, "joined")];
    let expected = [first.as_slice(), &[(1, "with_later_request"), (2, "joined")]].concat();
    let expected: Vec<_> = expected.into_iter().map(|(n, half)| (n.into(), half.into())).collect();
    assert_eq!(told, expected);
}

#[test]
fn each_request_has_its_own_status_as_far_as_the_agent_tells() {
    let (_dir, path, log) = log();
    let mut statuses = Statuses::NONE;
    (200..212).for_each(|status| statuses.note(status));
    for request in 1..=13 {
        log.migrated(front(7, request));
    }
    log.ended(&EndReport { statuses, ..report(7) });
    // Of another handoff: not of these requests.
    log.migrated(front(6, 1));
    let flow = FlowRef { flow_id: 6, generation: 2 };
    log.ended(&EndReport { statuses, flow, ..report(6) });
    // A report that was missed keeps nothing waiting.
    log.migrated(front(4, 1));
    log.migrated(MigratedRecord { flow: FlowRef { flow_id: 4, generation: 2 }, ..front(4, 2) });
    assert_eq!(log.waiting(), 1);
    log.finish(LIMIT);
    let told: Vec<_> = lines(&path)
        .iter()
        .map(|l| (l["request_no"].as_u64().unwrap(), l["agent_half"] == "joined", l["status"].as_u64()))
        .collect();
    let of_seven = (1..=13).map(|n| (n, n == 13, (6..13).contains(&n).then(|| 199 + n)));
    let rest = [(1, true, None), (1, false, None), (2, false, None)];
    assert_eq!(told, of_seven.chain(rest).collect::<Vec<_>>());
}

#[test]
fn a_recalls_report_is_the_half_of_requests_before_it_alone() {
    let (_dir, path, log) = log();
    let mut statuses = Statuses::NONE;
    statuses.note(204);
    let handoff = |flow_id, generation| FlowRef { flow_id, generation };
    let of = |flow: FlowRef, no| MigratedRecord { flow, since_handoff: 1, ..front(flow.flow_id, no) };
    let recalled = |flow| EndReport { reason: EndReason::Recalled, statuses, flow, bytes: 1, ..report(0) };
    let ended = |flow| EndReport { statuses, flow, bytes: 2, ..report(0) };
    // Before the next handoff's half, and behind it; again each time.
    log.migrated(of(handoff(1, 1), 1));
    log.ended(&recalled(handoff(1, 1)));
    log.ended(&recalled(handoff(1, 1)));
    log.migrated(of(handoff(1, 2), 2));
    log.ended(&recalled(handoff(1, 1)));
    assert_eq!(log.waiting(), 1, "the new target's half is awaited");
    log.ended(&ended(handoff(1, 2)));
    // The end of the next handoff comes before both of its halves here.
    log.ended(&ended(handoff(2, 2)));
    log.migrated(of(handoff(2, 1), 1));
    assert_eq!(log.waiting(), 1);
    log.migrated(of(handoff(2, 2), 2));
    assert_eq!(log.waiting(), 0);
    log.finish(LIMIT);
    let told: Vec<_> = lines(&path)
        .iter()
        .map(|l| (l["agent_half"].as_str().unwrap().to_owned(), l["status"].as_u64(), l["bytes"].as_u64()))
        .collect();
    let expected = [
        ("joined", Some(204), Some(1)),
        ("joined", Some(204), Some(2)),
        ("with_later_request", None, None),
        ("joined", Some(204), Some(2)),
    ];
    assert_eq!(told, expected.map(|(half, status, bytes)| (half.to_owned(), status, bytes)));
}

#[test]
fn what_waits_for_statuses_is_bounded_and_written_without() {
    let mut join = Join::default();
    let mut written = 0;
    for flow in 0..3000 {
        for request in 1..=7 {
            written += join.front(front(flow, request)).len();
        }
    }
    assert_eq!(join.waiting(), 3000, "the last of each flow");
    let waited = join.give_up().len();
    assert_eq!(written + waited, 21_000);
    assert!((16_000..=3000 + 16_384).contains(&waited), "{waited}");
}

#[test]
fn a_connection_that_came_back_has_its_line_and_one_that_was_never_recorded_none() {
    let (_dir, path, log) = log();
    log.migrated(front(9, 1));
    log.taken_back(9);
    log.taken_back(9);
    log.taken_back(10);
    log.migrated(front(10, 1));
    log.finish(LIMIT);
    let told: Vec<_> = lines(&path).iter().map(|l| l["agent_half"].clone()).collect();
    assert_eq!(told, ["taken_back", "stopped_before_end"]);
}

#[test]
fn reports_nobody_waits_for_are_bounded() {
    let (_dir, _path, log) = log();
    for flow in 0..100_000 {
        log.ended(&report(flow));
    }
    // Those that came last are still known.
    log.migrated(front(99_999, 1));
    assert_eq!(log.waiting(), 0);
    log.migrated(front(1, 1));
    assert_eq!(log.waiting(), 1);
}

#[test]
fn rotation_under_load_loses_no_line() {
    let (dir, path, log) = log();
    let writers: Vec<_> = (0..4u64)
        .map(|n| {
            let log = log.clone();
            std::thread::spawn(move || {
                for i in 0..2000 {
                    log.migrated(front(n << 32 | i, 1));
                    log.ended(&report(n << 32 | i));
                    if i % 50 == 0 {
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
            })
        })
        .collect();
    let mut files = vec![path.clone()];
    for n in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        let old = dir.path().join(format!("access.log.{n}"));
        if std::fs::rename(&path, &old).is_ok() {
            files.push(old);
            log.reopen();
        }
        // Until the new file is there, a rename would have nothing to rename.
        let until = std::time::Instant::now() + LIMIT;
        while !path.exists() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    writers.into_iter().for_each(|w| w.join().unwrap());
    log.finish(LIMIT);
    let (written, dropped) = log.counts();
    let total: usize = files.iter().filter(|f| f.exists()).map(|f| lines(f).len()).sum();
    assert!(files.len() > 5, "only {} files", files.len());
    assert_eq!((total as u64, written + dropped), (written, 8000), "{dropped} dropped");
    assert_eq!(dropped, 0);
}

#[test]
fn a_full_disk_drops_lines_and_blocks_nobody() {
    let log = AccessLog::open(Format::Json, Destination::File("/dev/full".into())).unwrap();
    let started = std::time::Instant::now();
    for flow in 0..50_000 {
        log.migrated(front(flow, 1));
        log.ended(&report(flow));
    }
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    log.finish(LIMIT);
    let (written, dropped) = log.counts();
    assert_eq!((written, dropped), (0, 50_000));
}

#[test]
fn without_a_log_nothing_is_kept() {
    let log = AccessLog::default();
    log.migrated(front(1, 1));
    log.ended(&report(1));
    assert!(!log.is_on());
    assert_eq!((log.waiting(), log.counts()), (0, (0, 0)));
}
