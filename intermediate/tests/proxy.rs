//! Front and proxy over loopback, without a data plane: every request gets its answer, and what must not reach a
//! server does not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod support;

use baton_shared::reason::{CloseReason, ProxyReason};
use intermediate::front::FrontLimits;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::{Bed, LARGE, limits, nobody, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const GET_CLOSE: &[u8] = b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn requests_on_one_connection_share_one_to_the_server_and_are_counted_by_reason() {
    let (address, taken) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    for _ in 0..3 {
        client.send(GET).await;
        assert!(client.until("asked for /a\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    client.send(GET_CLOSE).await;
    assert!(client.rest().await.ends_with("asked for /b\n"));
    assert_eq!(taken.load(Ordering::Relaxed), 1);
    assert_eq!(bed.front.metrics.proxied(ProxyReason::Disabled), 1);
    assert_eq!(bed.front.metrics.proxied(ProxyReason::LaterRequest), 3);
    let history = bed.front.migration.history().recent(10);
    assert_eq!(history.len(), 4);
    assert_eq!((history[0].request.as_str(), history[0].reason), ("GET /b", Some("later_request")));
    assert_eq!((history[3].target.as_str(), history[3].reason), ("target0", Some("disabled")));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let answer = bed.exchange(&[GET, GET, GET_CLOSE].concat()).await;
    assert_eq!(answer.matches("asked for /a\n").count(), 2);
    assert!(answer.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn a_request_in_single_bytes_with_pauses_is_one_request() {
    let (address, _) = server().await;
    let patient = FrontLimits { head_timeout: Duration::from_secs(60), ..limits() };
    let bed = Bed::start(patient, &[address]);
    let mut client = bed.client().await;
    for byte in GET_CLOSE.chunks(1) {
        client.send(byte).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(client.rest().await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn chunked_uploads_stream_through() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    // The echo of the first chunk comes before the second is sent.
    assert!(client.until("hello\r\n").await.to_lowercase().contains("transfer-encoding: chunked"));
    client.send(b"6\r\n world\r\n0\r\n\r\n").await;
    assert!(client.until("0\r\n\r\n").await.contains(" world"));
    client.send(GET_CLOSE).await;
    assert!(client.rest().await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn a_large_upload_with_a_length_arrives_whole() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client
        .send(b"PUT /count HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n")
        .await;
    client.send(&vec![b'x'; 5_000_000]).await;
    assert!(client.rest().await.ends_with("\r\n\r\n5000000"));
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client.send(b"PUT /count HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"abc").await;
    assert!(client.until("\r\n\r\n3").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_in_step() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    for (request, code) in [("HEAD /x", "200"), ("GET /204", "204"), ("GET /304", "304"), ("HEAD /y", "200")]
    {
        client.send(format!("{request} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes()).await;
        let head = client.until("\r\n\r\n").await.to_lowercase();
        assert_eq!(status(&head), code, "{request}");
        assert_eq!(head.contains("content-length: 1234567"), request.starts_with("HEAD"), "{head}");
    }
    client.send(GET_CLOSE).await;
    assert!(client.rest().await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn http_1_0_closes_unless_asked_to_stay() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let answer = bed.exchange(b"GET /a HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("asked for /a\n"), "{answer}");
    let mut client = bed.client().await;
    client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    client.until("asked for /a\n").await;
    client.send(b"GET /b HTTP/1.0\r\n\r\n").await;
    assert!(client.rest().await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn the_server_sees_the_client_and_nothing_of_the_hop() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let answer = bed
        .exchange(
            b"GET http://h/headers?q HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 9.9.9.9\r\nTE: trailers\r\n\
              Connection: close, X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nX-Stays: 2\r\n\r\n",
        )
        .await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(
        body,
        "GET /headers?q\nconnection: TE\nhost: h\nte: trailers\nx-forwarded-for: 9.9.9.9, 127.0.0.1\nx-stays: 2\n"
    );
}

#[tokio::test]
async fn garbage_is_answered_400_at_once() {
    let (address, taken) = server().await;
    // Whoever waited for the head's timeout would wait longer than the client does.
    let bed = Bed::start(FrontLimits { head_timeout: Duration::from_secs(60), ..limits() }, &[address]);
    for garbage in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"hello\r\n",
        b"GET / HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = bed.exchange(garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    }
    // A lot of garbage behind it must not turn the answer into a reset.
    let answer = bed.exchange(&[&b"\0"[..], &vec![b'x'; 300_000]].concat()).await;
    assert_eq!(status(&answer), "400");
    assert_eq!(bed.front.metrics.closed(CloseReason::BadRequest), 5);
    assert_eq!(taken.load(Ordering::Relaxed), 0);
    assert_eq!(bed.front.migration.history().recent(1)[0].reason, Some("bad_request"));
}

#[tokio::test]
async fn a_later_request_passes_the_same_gate_after_the_answers_before_it() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let smuggle = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n";
    let answer = bed.exchange(&[GET, smuggle].concat()).await;
    let refused = answer.split_once("asked for /a\n").unwrap().1;
    assert!(refused.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(!answer.contains("evil"));
    assert_eq!(bed.front.metrics.closed(CloseReason::BadRequest), 1);
}

#[tokio::test]
async fn a_malformed_chunk_is_answered_400() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client.send(b"POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    client.send(b"zz\r\n").await;
    assert_eq!(status(&client.rest().await), "400");
    assert_eq!(bed.front.metrics.closed(CloseReason::BadRequest), 1);
}

#[tokio::test]
async fn slow_heads_end_in_408_and_silence_in_a_close() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    // A byte now and then does not prolong the time: they come as long as they are taken.
    client.send(b"GET / HTTP/1.1\r\nX: ").await;
    let mut answer = [0; 12];
    let (mut read, mut write) = client.0.split();
    let answered = async {
        tokio::select! {
            read = read.read_exact(&mut answer) => read,
            () = async {
                while write.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                std::future::pending().await
            } => unreachable!(),
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("an answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert_eq!(bed.client().await.rest().await, "");
    bed.closed_becomes(CloseReason::HeadTimeout, 2).await;
}

#[tokio::test]
async fn an_idle_kept_connection_is_closed() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client.send(GET).await;
    client.until("asked for /a\n").await;
    assert_eq!(client.rest().await, "");
    bed.closed_becomes(CloseReason::IdleTimeout, 1).await;
}

#[tokio::test]
async fn a_head_over_the_limit_is_431_and_served_where_the_limit_allows_it() {
    let (address, _) = server().await;
    let head =
        format!("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: {}\r\n\r\n", "y".repeat(30_000));
    let bed = Bed::start(limits(), &[address]);
    assert_eq!(status(&bed.exchange(head.as_bytes()).await), "431");
    assert_eq!(bed.front.metrics.closed(CloseReason::HeadTooLarge), 1);
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "y".repeat(9000));
    assert_eq!(status(&bed.exchange(target.as_bytes()).await), "414");
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_eq!(status(&bed.exchange(many.as_bytes()).await), "431");

    let mut wide = limits();
    wide.head.head_bytes = 40_000;
    wide.head.header_count = 200;
    let bed = Bed::start(wide, &[address]);
    assert!(bed.exchange(head.as_bytes()).await.ends_with("asked for /a\n"));
    let many = format!("GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{}\r\n", "X: y\r\n".repeat(95));
    assert!(bed.exchange(many.as_bytes()).await.ends_with("asked for /a\n"));
}

#[tokio::test]
async fn a_server_that_is_down_is_passed_over_and_503_if_all_are() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[nobody().await, address]);
    for _ in 0..4 {
        assert!(bed.exchange(GET_CLOSE).await.ends_with("asked for /b\n"));
    }
    let bed = Bed::start(limits(), &[nobody().await, nobody().await]);
    assert!(bed.exchange(GET).await.starts_with("HTTP/1.1 503 "));
    assert_eq!(bed.front.metrics.closed(CloseReason::NoTarget), 1);
}

#[tokio::test]
async fn a_server_that_breaks_off_is_502_and_a_silent_one_504() {
    let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = breaking.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = breaking.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let bed = Bed::start(limits(), &[address]);
    assert!(bed.exchange(GET).await.starts_with("HTTP/1.1 502 "));
    assert_eq!(bed.front.metrics.closed(CloseReason::UpstreamFailed), 1);

    let (address, taken) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let answer = bed.exchange(b"GET /silent HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(bed.front.metrics.closed(CloseReason::UpstreamTimeout), 1);
    assert_eq!(taken.load(Ordering::Relaxed), 1, "a request that was sent is not sent again");
}

#[tokio::test]
async fn half_an_answer_stays_half_an_answer() {
    let cutting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = cutting.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = cutting.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await.unwrap();
    });
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client.send(GET).await;
    let mut bytes = Vec::new();
    let _ = client.0.read_to_end(&mut bytes).await;
    assert!(bytes.ends_with(b"\r\n\r\nhalf"), "nothing is put behind it");
}

#[tokio::test]
async fn a_websocket_is_tunnelled() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client
        .send(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81first")
        .await;
    let head = client.until("\r\n\r\n").await.to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    assert_eq!(client.until("first").await.len(), 8, "\u{fffd}first");
    client.send(b"\0second").await;
    client.until("second").await;
    // Longer than the head timeout: a tunnel has none.
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.send(b"third").await;
    client.until("third").await;
}

#[tokio::test]
async fn a_refused_upgrade_stays_http() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client.send(b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    client.until("asked for /a\n").await;
    client.send(GET_CLOSE).await;
    assert!(client.rest().await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted() {
    let (address, _) = server().await;
    let mut narrow = limits();
    narrow.connections = 2;
    narrow.head_timeout = Duration::from_secs(30);
    let bed = Bed::start(narrow, &[address]);
    let (mut oldest, mut younger) = (bed.client().await, bed.client().await);
    while bed.front.metrics.open_connections() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The one that has waited longest for its request makes way.
    assert!(bed.exchange(GET_CLOSE).await.ends_with("asked for /b\n"));
    assert_eq!(oldest.rest().await, "");
    bed.closed_becomes(CloseReason::ConnectionLimit, 1).await;
    // Who is being served does not.
    younger.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab").await;
    younger.until("ab").await;
    let mut other = bed.client().await;
    other.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab").await;
    other.until("ab").await;
    assert_eq!(bed.client().await.rest().await, "");
    bed.closed_becomes(CloseReason::ConnectionLimit, 2).await;
    younger.send(b"cd").await;
    younger.until("cd").await;
}

#[tokio::test]
async fn a_stop_lets_the_request_under_way_end() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let mut busy = bed.client().await;
    busy.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab").await;
    busy.until("ab").await;
    let mut silent = bed.client().await;
    while bed.front.metrics.open_connections() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let vip = bed.vip;
    let stopping = tokio::spawn(bed.control.stop_and_wait(Duration::from_secs(5)));
    assert_eq!(silent.rest().await, "");
    busy.send(b"cd").await;
    assert_eq!(busy.rest().await, "cd");
    assert!(stopping.await.unwrap(), "all ended");
    assert!(tokio::net::TcpStream::connect(vip).await.is_err());
}

#[tokio::test]
async fn a_kept_connection_leaves_a_drained_listener_behind_its_next_whole_response() {
    let (address, _) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let request = b"GET /headers HTTP/1.1\r\nHost: h\r\n\r\n";
    let (mut kept, mut busy) = (bed.client().await, bed.client().await);
    kept.send(request).await;
    let open = kept.until("127.0.0.1\n").await;
    assert!(!open.contains("connection: close"), "{open}");
    busy.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab").await;
    busy.until("ab").await;
    assert!(bed.front.drains.drain_listener(bed.vip, true));
    // One response has begun before; it is whole, and the next one is the last.
    busy.send(b"cd").await;
    busy.until("cd").await;
    for mut client in [kept, busy] {
        client.send(request).await;
        let last = client.rest().await;
        assert!(last.starts_with("HTTP/1.1 200 ") && last.contains("connection: close\r\n"), "{last}");
        assert!(last.ends_with("127.0.0.1\n"), "{last}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up_and_one_that_reads_slowly_is_not() {
    let (address, _) = server().await;
    let bed = Bed::start(FrontLimits { client_timeout: Duration::from_secs(2), ..limits() }, &[address]);
    let request = b"GET /large HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let mut stalled = bed.client().await;
    stalled.send(request).await;
    let mut slow = bed.client().await;
    slow.send(request).await;
    let mut bytes = vec![0; LARGE / 16];
    let mut read = 0;
    // Longer than a client may take in nothing.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        read += slow.0.read_exact(&mut bytes).await.unwrap();
    }
    let until = Instant::now() + Duration::from_secs(20);
    while bed.front.metrics.open_connections() > 1 {
        assert!(Instant::now() < until, "the stalled client's connection is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut rest = Vec::new();
    read += slow.0.read_to_end(&mut rest).await.unwrap();
    assert!(read > LARGE, "{read} bytes");
    drop(stalled);
}
