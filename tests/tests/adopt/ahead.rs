//! What the client says to its server's answer does not wait for the agent's word of the handoff.

use crate::{LINGER, SOON, adopted, adopting};
use baton_tests::client::Connection;
use baton_tests::lab::{TestLab, VIP};
use netns_lab::{Family, LabSpec, plan};
use std::net::SocketAddr;
use std::time::Duration;

/// Has what agents say to the intermediate vanish on its way, or no more.
fn silence(t: &TestLab, is: bool) {
    let port = plan::CONTROL_PORT.to_string();
    for version in ["-4", "-6"] {
        let order = if is { "add" } else { "del" };
        let rule = [version, "rule", order, "pref", "1", "ipproto", "tcp", "sport", &port, "blackhole"];
        t.lab.output("router", &[&["ip"], &rule[..]].concat()).unwrap();
    }
}

fn alone(spec: LabSpec) -> LabSpec {
    spec.targets(1).family(Family::Dual)
}

/// How many packets went on ahead of an answer, and how many were held.
fn counts(t: &TestLab) -> [u64; 2] {
    t.packets_of("intermediate", ["ahead_of_answer", "diverted"])
}

#[test]
fn a_client_and_its_server_come_to_their_end_while_the_agents_answer_is_on_its_way() {
    let Some(t) = adopting("aahead", alone) else { return };
    // By the first it is known what the target does.
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.eventually("the first is adopted", SOON, |t| adopted(t, &["target1"]) == 1);
    t.eventually("its end is known", SOON, |t| t.flows("target1").iter().all(|f| f["state"] == "ended"));
    for (n, vip) in [VIP, SocketAddr::V6(plan::VIP6)].into_iter().enumerate() {
        let before = counts(&t);
        silence(&t, true);
        // To its end both ways: the server closes first, then the client.
        let got = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            connection.socket().set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            connection.send(b"GET /100k HTTP/1.0\r\nHost: lab\r\n\r\n").unwrap();
            connection.response().unwrap().sha256
        });
        assert_eq!(got, t.sha256("100k"), "{vip}");
        t.eventually("the server's socket has ended", Duration::from_secs(1), |t| {
            let all = t.lab.output("target1", &["ss", "-Htn", "state", "big"]).unwrap();
            !all.contains(&vip.ip().to_string())
        });
        silence(&t, false);
        let [ahead, diverted] = counts(&t);
        assert!(ahead >= before[0] + 2, "an acknowledgement and the end, at least: {ahead} {before:?}");
        assert_eq!(diverted, before[1], "nothing was held");
        // The word is sent again by then.
        t.eventually("the handoff is known", SOON, |t| t.migrated() == u64::try_from(n).unwrap() + 2);
    }
    t.expect_requests(3, 0);
    t.eventually("nothing is left", SOON + LINGER, |t| t.flows("intermediate").is_empty());
}

#[test]
fn a_client_that_only_its_server_has_answered_is_reset_at_the_right_number_when_the_agent_falls_silent() {
    let hasty = |s| {
        alone(s).intermediate_with("handoff", "deadline_ms", 300).intermediate_with(
            "handoff",
            "agent_lost_ms",
            600,
        )
    };
    let Some(t) = adopting("asilent", hasty) else { return };
    assert_eq!(t.get("/1k").unwrap().status, 200);
    t.eventually("the first is adopted", SOON, |t| adopted(t, &["target1"]) == 1);
    let [_, diverted] = counts(&t);
    silence(&t, true);
    let (status, end) = t.client(|| {
        let mut connection = Connection::open(VIP).unwrap();
        connection.get("/1k").unwrap();
        let status = connection.response().unwrap().status;
        (status, connection.read_some())
    });
    silence(&t, false);
    assert_eq!(status, 200);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    t.expect_closed("unresolved", 1);
    assert_eq!(counts(&t)[1], diverted, "the client had nothing to object");
}
