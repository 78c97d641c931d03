//! A request's head through the gate, and the head its server is given.
#![allow(missing_docs, reason = "what criterion's macros make")]

use baton_shared::http::{HeadLimits, HeadStatus, canonical, parse};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::fmt::Write;
use std::hint::black_box;

const CURL: &str = "GET /1k HTTP/1.1\r\nHost: 10.90.1.100\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";

/// What a browser sends, with `cookies` cookies of 40 bytes.
fn browser(cookies: usize) -> String {
    let mut head = String::from(
        "GET /search?q=layer+seven&page=2 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\
         Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like \
         Gecko) Chrome/130.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\n\
         Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\nCookie: ",
    );
    for n in 0..cookies {
        let _ = write!(head, "name{n:04}={}; ", "v".repeat(29));
    }
    head.push_str("last=1\r\n\r\n");
    head
}

fn heads(c: &mut Criterion) {
    let limits = HeadLimits::default();
    for (name, head) in [("curl", CURL.to_owned()), ("a browser", browser(4)), ("200 cookies", browser(200))]
    {
        let bytes = head.as_bytes();
        let mut group = c.benchmark_group(format!("head of {name}, {} bytes", bytes.len()));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("gate", |b| b.iter(|| parse(black_box(bytes), &limits)));
        if let HeadStatus::Complete(parsed) = parse(bytes, &limits) {
            let edits = Default::default();
            group.bench_function("as its server sees it", |b| {
                b.iter(|| canonical(black_box(bytes), &parsed, &edits, false));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, heads);
criterion_main!(benches);
