//! Each format's lines, and that no byte of a client gets out of its field.

use super::*;
use crate::access_log::{ClosedRecord, MigratedRecord, ProxiedRecord, RequestText};
use crate::handoff::StageTimes;
use baton_shared::control::{Closer, FlowRef, WayReport};
use baton_shared::http::GateRule;
use baton_shared::reason::{CloseReason, EndReason, ProxyReason};
use baton_shared::termination::ProxiedEnd;
use std::time::UNIX_EPOCH;

fn asked(request: Option<RequestText>) -> Asked {
    Asked {
        client: "192.0.2.7:40000".parse().unwrap(),
        vip: "192.0.2.100:80".parse().unwrap(),
        listener: "web".into(),
        at: UNIX_EPOCH + Duration::from_millis(1_795_690_365_123),
        request,
        request_no: 1,
    }
}

fn request(text: &[u8]) -> RequestText {
    RequestText {
        method: b"GET".to_vec(),
        target: text.to_vec(),
        version: "HTTP/1.1",
        host: text.to_vec(),
        user_agent: text.to_vec(),
        referer: text.to_vec(),
    }
}

fn proxied(text: &[u8]) -> Record {
    Record::Proxied(ProxiedRecord {
        asked: asked(Some(request(text))),
        placed: Placed { route: Some("api".into()), pool: "main".into(), target: "web1".into() },
        flow_id: None,
        reason: ProxyReason::MethodNotMigrated,
        refusal: None,
        status: Some(200),
        request_bytes: 3,
        bytes: 1024,
        connect: Some(Duration::from_micros(150)),
        first_byte: Some(Duration::from_micros(900)),
        total: Duration::from_micros(1500),
        end: ProxiedEnd::Finished,
        rule: None,
    })
}

fn migrated(half: AgentHalf) -> Record {
    let stages = StageTimes { freeze: Duration::from_micros(7), ..StageTimes::default() };
    let front = MigratedRecord {
        asked: asked(Some(request(b"/x"))),
        placed: Placed { route: None, pool: "main".into(), target: "web1".into() },
        flow: FlowRef { flow_id: 0xabc, generation: 1 },
        since_handoff: 1,
        status: None,
        stages: Some(stages),
    };
    Record::Migrated(Box::new(front), half)
}

fn report() -> EndReport {
    EndReport {
        bytes: 1200,
        packets: 3,
        retransmitted_bytes: 200,
        duration_ms: 12,
        closed_by: Some(Closer::Client),
        way: Some(WayReport { rtt_us: 20_000, min_rtt_us: 19_000, retransmitted_segments: 1, age_ms: 4 }),
        ..EndReport::unreported(FlowRef { flow_id: 0xabc, generation: 1 }, EndReason::Finished)
    }
}

#[test]
fn a_proxied_request_in_each_format() {
    let record = proxied(b"/a?b");
    assert_eq!(
        line(&record, Format::Json),
        concat!(
            r#"{"time":"2026-11-26T10:52:45.123Z","outcome":"proxied","client":"192.0.2.7:40000","#,
            r#""vip":"192.0.2.100:80","listener":"web","route":"api","pool":"main","target":"web1","method":"GET","#,
            r#""host":"/a?b","path":"/a?b","version":"HTTP/1.1","user_agent":"/a?b","referer":"/a?b","request_no":1,"#,
            r#""reason":"method_not_migrated","status":200,"request_bytes":3,"bytes":1024,"connect_us":150,"#,
            r#""first_byte_us":900,"duration_us":1500,"termination":"--"}"#,
            "\n"
        )
    );
    assert_eq!(
        line(&record, Format::Logfmt),
        concat!(
            "time=2026-11-26T10:52:45.123Z outcome=proxied client=192.0.2.7:40000 vip=192.0.2.100:80 listener=web ",
            "route=api pool=main target=web1 method=GET host=/a?b path=/a?b version=HTTP/1.1 user_agent=/a?b ",
            "referer=/a?b request_no=1 reason=method_not_migrated status=200 request_bytes=3 bytes=1024 ",
            "connect_us=150 first_byte_us=900 duration_us=1500 termination=--\n"
        )
    );
    assert_eq!(
        line(&record, Format::Common),
        "192.0.2.7 - - [26/Nov/2026:10:52:45 +0000] \"GET /a?b HTTP/1.1\" 200 1024 \"/a?b\" \"/a?b\"\n"
    );
}

#[test]
fn both_halves_of_a_migrated_request_stand_in_one_line() {
    let text = line(&migrated(AgentHalf::Reported(report())), Format::Json);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = [
        ("flow", "0000000000000abc"),
        ("agent_half", "joined"),
        ("end", "finished"),
        ("closed_by", "client"),
        ("termination", "--"),
    ];
    for (key, is) in expected {
        assert_eq!(value[key], is, "{key}");
    }
    let expected = [("bytes", 1000), ("retransmitted_bytes", 200), ("duration_us", 12_000), ("freeze_us", 7)];
    for (key, is) in expected.into_iter().chain([("rtt_us", 20_000), ("retransmitted_segments", 1)]) {
        assert_eq!(value[key], is, "{key}");
    }
    assert!(line(&migrated(AgentHalf::Reported(report())), Format::Common).contains("HTTP/1.1\" - 1000 "));
}

#[test]
fn what_the_agent_did_not_tell_is_not_made_up() {
    let halves = [
        (AgentHalf::Unreported(EndReason::AgentLost), "missing", "ID"),
        (AgentHalf::NextRequest, "with_later_request", "--"),
        (AgentHalf::TakenBack, "taken_back", "--"),
        (AgentHalf::Stopped, "stopped_before_end", "??"),
    ];
    for (half, told, letters) in halves {
        let text = line(&migrated(half), Format::Json);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["agent_half"], &value["termination"]), (&told.into(), &letters.into()));
        for key in ["bytes", "duration_us", "closed_by", "rtt_us", "retransmitted_bytes"] {
            assert!(value.get(key).is_none(), "{half:?} has {key}");
        }
        assert!(line(&migrated(half), Format::Common).contains("HTTP/1.1\" - - "));
    }
    let no_sample = EndReport { way: None, ..report() };
    assert!(!line(&migrated(AgentHalf::Reported(no_sample)), Format::Json).contains("rtt_us"));
}

#[test]
fn a_refused_request_has_its_rule_and_no_text() {
    let record = Record::Closed(ClosedRecord {
        asked: asked(None),
        placed: Placed::default(),
        reason: CloseReason::BadRequest,
        rule: Some(GateRule::HostSeveral),
        status: Some(400),
        flow_id: None,
    });
    let text = line(&record, Format::Logfmt);
    let end = "request_no=1 reason=bad_request rule=host_several status=400 termination=PR\n";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(
        line(&record, Format::Common),
        "192.0.2.7 - - [26/Nov/2026:10:52:45 +0000] \"-\" 400 - \"-\" \"-\"\n"
    );
}

/// Of a proxied request.
const FIELDS: usize = 23;

/// A reader of logfmt: `key=value` or `key="value"` with backslashes.
fn read_logfmt(line: &str) -> Vec<(String, Vec<u8>)> {
    let mut fields = Vec::new();
    let mut rest = line.trim_end_matches('\n');
    while let Some((key, value)) = rest.split_once('=') {
        let mut out = Vec::new();
        let used = match value.strip_prefix('"') {
            None => {
                let end = value.find(' ').unwrap_or(value.len());
                out.extend_from_slice(&value.as_bytes()[..end]);
                end
            }
            Some(quoted) => {
                let bytes = quoted.as_bytes();
                let mut at = 0;
                while bytes[at] != b'"' {
                    if bytes[at] != b'\\' {
                        out.push(bytes[at]);
                        at += 1;
                    } else if bytes[at + 1] == b'x' {
                        out.push(u8::from_str_radix(&quoted[at + 2..at + 4], 16).unwrap());
                        at += 4;
                    } else {
                        out.push(bytes[at + 1]);
                        at += 2;
                    }
                }
                at + 2
            }
        };
        fields.push((key.trim_start().to_owned(), out));
        rest = &value[used..];
    }
    fields
}

#[test]
fn no_byte_of_a_client_gets_out_of_its_field() {
    let mut hostile: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b'a', b, b'b']).collect();
    let texts: [&[u8]; 8] = [
        b"\r\n192.0.2.9 - - [x] \"GET / HTTP/1.1\" 200 1",
        b"\",\"status\":200,\"x\":\"",
        b"x status=200 termination=--",
        b"\\",
        b"\\\"",
        b"\x1b[31mred\x1b[0m",
        "\u{2028}\u{202e}\u{0085}\u{feff}\u{1f600}".as_bytes(),
        b"\xff\xfe\x80",
    ];
    hostile.extend(texts.iter().map(|text| text.to_vec()));
    for text in hostile {
        let record = proxied(&text);
        let json = line(&record, Format::Json);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for key in ["host", "path", "user_agent", "referer"] {
            assert_eq!(value[key], *String::from_utf8_lossy(&text), "{key}");
        }
        assert_eq!((&value["status"], value.as_object().unwrap().len()), (&200.into(), FIELDS), "{json}");
        let fields = read_logfmt(&line(&record, Format::Logfmt));
        assert_eq!(fields.len(), FIELDS, "{fields:?}");
        assert_eq!(fields.iter().filter(|(_, value)| *value == text).count(), 4, "{fields:?}");
        let common = line(&record, Format::Common);
        let quotes = common.replace("\\\\", "").replace("\\\"", "").matches('"').count();
        assert_eq!(quotes, 6, "{common}");
        for format in [Format::Json, Format::Logfmt, Format::Common] {
            let line = line(&record, format);
            let (last, before) = line.as_bytes().split_last().unwrap();
            assert_eq!(*last, b'\n');
            assert!(before.iter().all(|b| matches!(b, b' '..=b'~')), "{line:?}");
        }
    }
}
