//! The corpus of malformed and ambiguous requests through the gate: each has its verdict, however it is cut, and what
//! is accepted means to another reader what it means to the gate.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_shared::http::GateRule;
use baton_tests::gate_corpus::{Case, Extent, Seen, all, judge};
use std::collections::HashSet;

/// A request with which nothing is wrong.
const GOOD: &[u8] = b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn the_corpus_is_large_and_has_every_rule() {
    let cases = all().unwrap();
    assert!(cases.len() >= 300, "only {} cases", cases.len());
    let names: HashSet<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let has = |rule: GateRule| cases.iter().any(|c| c.expected.refused == Some(rule));
    // These two are refused between gate and proxy, and authority_form only where CONNECT is configured.
    let elsewhere = [GateRule::OutOfStep, GateRule::NotForwardable, GateRule::AuthorityForm];
    let missing: Vec<_> = GateRule::ALL.iter().filter(|r| !elsewhere.contains(r) && !has(**r)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
    assert!(cases.iter().filter(|c| c.expected.refused.is_none()).count() > 50);
}

/// What must be seen of a case behind a good request.
fn behind_good(case: &Case) -> Seen {
    Seen { accepted: case.expected.accepted + 1, ..case.expected }
}

#[test]
fn every_request_has_its_verdict_however_it_is_cut() {
    let mut wrong = Vec::new();
    for case in all().unwrap() {
        let mut check = |what: &str, bytes: &[u8], cuts: &[usize], expected: Seen| {
            let (seen, _) = judge(bytes, cuts);
            if seen != expected {
                wrong.push(format!("{} {what}: {seen:?}, not {expected:?}", case.name));
            }
        };
        let length = case.bytes.len();
        check("whole", &case.bytes, &[], case.expected);
        // Long ones only repeat themselves in the middle.
        for cut in (1..length).filter(|cut| *cut < 400 || *cut + 400 > length) {
            check(&format!("cut at {cut}"), &case.bytes, &[cut], case.expected);
        }
        check("byte by byte", &case.bytes, &(1..length).collect::<Vec<_>>(), case.expected);
        let both = [GOOD, &case.bytes].concat();
        check("behind a good request", &both, &[], behind_good(&case));
        check("behind one, byte by byte", &both, &(1..both.len()).collect::<Vec<_>>(), behind_good(&case));
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn behind_every_accepted_request_the_next_one_is_where_the_gate_says() {
    for case in all().unwrap().iter().filter(|c| c.expected.refused.is_none()) {
        let both = [&case.bytes, GOOD].concat();
        let (seen, extents) = judge(&both, &[]);
        assert_eq!(seen, Seen { accepted: case.expected.accepted + 1, refused: None }, "{}", case.name);
        assert_eq!(extents.last().unwrap().0, case.bytes.len(), "{}", case.name);
    }
}

/// Another reader: httparse, and the simplest thing that can be done with what it says. It takes the first length
/// there is, as far as it has digits, and any coding that has `chunked` in it.
fn read_otherwise(bytes: &[u8]) -> Vec<Extent> {
    let rest = |from: usize| bytes.get(from..).unwrap_or_default();
    let mut extents = Vec::new();
    let mut from = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 200];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = request.parse(rest(from)) else { return extents };
        let value = |name: &str| {
            let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
            found.map(|h| String::from_utf8_lossy(h.value).to_ascii_lowercase())
        };
        let body = from + head;
        let mut end = body;
        if value("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            loop {
                let Ok(httparse::Status::Complete((at, size))) = httparse::parse_chunk_size(rest(end)) else {
                    return extents;
                };
                end += at;
                if size == 0 {
                    let mut trailers = [httparse::EMPTY_HEADER; 50];
                    let Ok(httparse::Status::Complete((n, _))) =
                        httparse::parse_headers(rest(end), &mut trailers)
                    else {
                        return extents;
                    };
                    end += n;
                    break;
                }
                end = end.saturating_add(usize::try_from(size).unwrap()).saturating_add(2);
            }
        } else if let Some(length) = value("content-length") {
            let digits: String = length.trim().chars().take_while(char::is_ascii_digit).collect();
            end = end.saturating_add(digits.parse().unwrap_or(0));
        }
        if end > bytes.len() {
            return extents;
        }
        // Empty lines between requests are nobody's.
        let start = from + bytes[from..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        extents.push((start, body, end));
        from = end;
        if from >= bytes.len() {
            return extents;
        }
    }
}

#[test]
fn what_is_accepted_is_the_same_to_another_reader() {
    let mut compared = 0;
    for case in all().unwrap().iter().filter(|c| c.expected.refused.is_none()) {
        let (_, extents) = judge(&case.bytes, &[]);
        assert_eq!(read_otherwise(&case.bytes), extents, "{}", case.name);
        compared += extents.len();
    }
    println!("{compared} requests compared");
}

#[test]
fn the_other_reader_does_read_otherwise_what_is_refused() {
    // Without this the comparison above would prove nothing.
    let differs = all().unwrap().into_iter().filter(|c| c.expected.refused.is_some()).filter(|case| {
        let extents = read_otherwise(&case.bytes);
        extents.len() > case.expected.accepted
    });
    let differs: Vec<String> = differs.map(|c| c.name).collect();
    println!("{} refused requests are requests to httparse", differs.len());
    assert!(differs.len() > 100, "only {}", differs.len());
}
