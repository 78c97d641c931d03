//! The proxy's connections to the servers: kept, given to one request at a time, never a way for one client's bytes to
//! another; what may be sent twice and what not; and what comes along besides heads and bodies.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

mod support;

use baton_shared::reason::CloseReason;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Bed, Client, limits, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
const GET_CLOSE: &[u8] = b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server of which the test says what each connection does. How many it took is counted.
async fn scripted<F, S>(script: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    S: Fn(usize, Client) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(script(count.fetch_add(1, Ordering::Relaxed), Client(stream)));
        }
    });
    (address, taken)
}

#[tokio::test]
async fn clients_after_each_other_share_a_connection_and_at_once_they_do_not() {
    let (address, taken) = server().await;
    let bed = Bed::start(limits(), &[address]);
    for _ in 0..5 {
        assert!(bed.exchange(GET_CLOSE).await.ends_with("asked for /b\n"));
    }
    assert_eq!(taken.load(Ordering::Relaxed), 1);
    let (mut first, mut second) = (bed.client().await, bed.client().await);
    let post = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n";
    for client in [&mut first, &mut second] {
        client.send(post).await;
    }
    first.send(b"ab").await;
    first.until("ab").await;
    second.send(b"cdef").await;
    second.until("cdef").await;
    first.send(b"gh").await;
    first.until("gh").await;
    assert_eq!(taken.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_to_its_end_takes_its_connection_with_it() {
    let (address, taken) = server().await;
    let bed = Bed::start(limits(), &[address]);
    for n in 1..=3 {
        let mut client = bed.client().await;
        client.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").await;
        client.until("\r\n\r\n").await;
        drop(client);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(taken.load(Ordering::Relaxed), n, "never used again");
    }
    assert!(bed.exchange(GET_CLOSE).await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn an_answer_before_the_request_is_out_does_not_mix_with_the_next() {
    // Answers at the head; what comes of the body it reads, and then answers what it takes for the next request.
    let (address, taken) = scripted(|_, mut server| async move {
        loop {
            let head = server.until("\r\n\r\n").await;
            server.send(OK).await;
            let length = head
                .split("content-length: ")
                .nth(1)
                .map_or(0, |l| l.split('\r').next().unwrap().parse::<usize>().unwrap());
            if server.0.read_exact(&mut vec![0; length]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let bed = Bed::start(limits(), &[address]);
    let mut early = bed.client().await;
    early.send(b"POST /early HTTP/1.1\r\nHost: h\r\ncontent-length: 40\r\n\r\nGET /evil HTTP/1.1\r\n").await;
    early.until("ok").await;
    // The body is under way still: another request gets another connection.
    assert!(bed.exchange(GET_CLOSE).await.ends_with("ok"));
    assert_eq!(taken.load(Ordering::Relaxed), 2);
    // And whoever leaves in the middle of his body leaves nothing behind for others.
    drop(early);
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..3 {
        assert!(bed.exchange(GET_CLOSE).await.ends_with("ok"));
    }
    assert_eq!(taken.load(Ordering::Relaxed), 2, "the second one serves on");
}

#[tokio::test]
async fn bytes_nobody_asked_for_are_given_to_nobody() {
    let (address, taken) = scripted(|n, mut server| async move {
        server.until("\r\n\r\n").await;
        server.send(OK).await;
        if n == 0 {
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    })
    .await;
    let bed = Bed::start(limits(), &[address]);
    assert!(bed.exchange(GET_CLOSE).await.ends_with("ok"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(bed.exchange(GET_CLOSE).await.ends_with("\r\n\r\nok"));
    assert_eq!(taken.load(Ordering::Relaxed), 2);
}

/// Answers the first request on each connection, closes at the second.
async fn closing_at_the_second() -> (SocketAddr, Arc<AtomicUsize>) {
    scripted(|_, mut server| async move {
        server.until("\r\n\r\n").await;
        server.send(OK).await;
        server.until("\r\n\r\n").await;
    })
    .await
}

#[tokio::test]
async fn what_may_be_repeated_is_if_a_kept_connection_closes_and_nothing_else() {
    let (address, taken) = closing_at_the_second().await;
    let bed = Bed::start(limits(), &[address]);
    for n in 1..=3 {
        assert!(bed.exchange(GET_CLOSE).await.ends_with("ok"), "{n}");
        assert_eq!(taken.load(Ordering::Relaxed), n);
    }
    let post = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(bed.exchange(post).await.starts_with("HTTP/1.1 502 "));
    assert_eq!(taken.load(Ordering::Relaxed), 3, "it may have run: not sent again");
    bed.closed_becomes(CloseReason::UpstreamFailed, 1).await;
    // On a new connection nothing is sent twice.
    let (address, taken) = scripted(|_, mut server| async move {
        server.until("\r\n\r\n").await;
    })
    .await;
    let bed = Bed::start(limits(), &[address]);
    assert!(bed.exchange(GET_CLOSE).await.starts_with("HTTP/1.1 502 "));
    assert_eq!(taken.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_connection_the_server_has_closed_costs_no_request() {
    let (address, taken) = scripted(|_, mut server| async move {
        server.until("\r\n\r\n").await;
        server.send(OK).await;
    })
    .await;
    let bed = Bed::start(limits(), &[address]);
    let post = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab";
    for n in 1..=5 {
        assert!(bed.exchange(post).await.ends_with("ok"), "{n}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(taken.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn interim_responses_come_before_the_answer_in_their_order_and_only_to_who_knows_them() {
    let (address, _) = scripted(|_, mut server| async move {
        loop {
            server.until("\r\n\r\n").await;
            server
                .send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n")
                .await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n").await;
            server.send(OK).await;
        }
    })
    .await;
    let mut patient = limits();
    // The server pauses.
    patient.request.upstream_timeout = Duration::from_secs(20);
    let bed = Bed::start(patient, &[address]);
    let mut client = bed.client().await;
    for _ in 0..3 {
        client.send(GET).await;
        assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        assert_eq!(client.until("\r\n\r\n").await, "HTTP/1.1 102 Processing\r\n\r\n");
        assert!(client.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    // Pipelined: each hint stands before its own answer.
    client.send(&[GET, GET].concat()).await;
    for _ in 0..2 {
        assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 103 "));
        assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 102 "));
        assert!(client.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
    let old = bed.exchange(b"GET /a HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200 ") && old.ends_with("ok"), "{old}");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (address, _) = scripted(|_, mut server| async move {
        let mut seen = server.until("\r\n\r\n").await;
        seen += &server.until("0\r\n").await;
        seen += &server.until("\r\n\r\n").await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n{:x}\r\n{seen}\r\n0\r\nX-Sum: 2\r\n\r\n",
            seen.len()
        );
        server.send(answer.as_bytes()).await;
    })
    .await;
    let bed = Bed::start(limits(), &[address]);
    let mut client = bed.client().await;
    client
        .send(
            b"POST /t HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: X-Up\r\nTransfer-Encoding: chunked\r\n\r\n\
              2\r\nab\r\n0\r\nX-Up: 1\r\n\r\n",
        )
        .await;
    let answer = client.until("0\r\nx-sum: 2\r\n\r\n").await.to_lowercase();
    assert!(answer.contains("te: trailers\r\n") && answer.contains("0\r\nx-up: 1\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn kept_connections_are_closed_before_servers_would() {
    let (address, _) = scripted(|_, mut server| async move {
        server.until("\r\n\r\n").await;
        server.send(OK).await;
        let began = std::time::Instant::now();
        assert_eq!(server.0.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(began.elapsed() < Duration::from_secs(8));
        CLOSED.fetch_add(1, Ordering::Relaxed);
    })
    .await;
    static CLOSED: AtomicUsize = AtomicUsize::new(0);
    let bed = Bed::start(limits(), &[address]);
    assert!(bed.exchange(GET_CLOSE).await.ends_with("ok"));
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while CLOSED.load(Ordering::Relaxed) == 0 {
        assert!(std::time::Instant::now() < until, "it is kept for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_hundred_clients_at_once_each_get_their_own_answer() {
    let (address, taken) = server().await;
    let bed = Bed::start(limits(), &[address]);
    let vip = bed.vip;
    let mut tasks = Vec::new();
    for client in 0..100 {
        tasks.push(tokio::spawn(async move {
            let mut client_end = Client(TcpStream::connect(vip).await.unwrap());
            for n in 0..20 {
                let path = format!("/client{client}/request{n}");
                client_end
                    .0
                    .write_all(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
                assert!(client_end.until(&format!("asked for {path}\n")).await.starts_with("HTTP/1.1 200"));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken <= 200, "2000 requests over {taken} connections");
}

#[tokio::test]
async fn connect_is_served_where_the_configuration_says_so_and_nowhere_else() {
    let (address, taken) = scripted(|_, mut server| async move {
        let head = server.until("\r\n\r\n").await;
        assert!(head.starts_with("CONNECT far.example:22 HTTP/1.1\r\n"), "{head}");
        server.send(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let mut bytes = [0; 64];
        while let Ok(n) = server.0.read(&mut bytes).await
            && n > 0
        {
            server.send(&bytes[..n]).await;
        }
    })
    .await;
    let mut wide = limits();
    wide.head.connect = true;
    let connect = b"CONNECT far.example:22 HTTP/1.1\r\nHost: far.example:22\r\n\r\n";
    let refused = Bed::start(wide, &[address]).exchange(connect).await;
    assert!(refused.starts_with("HTTP/1.1 501 "), "{refused}");
    assert_eq!(taken.load(Ordering::Relaxed), 0);
    let bed = Bed::with_listener(wide, &[&[address]], vec![], |mut l| {
        l.tunnels.connect = true;
        l
    });
    let mut client = bed.client().await;
    client.send(connect).await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
    client.send(b"GET / HTTP/1.1\r\n\0 is no request").await;
    client.until("is no request").await;
    drop(client);
}

#[tokio::test]
async fn an_upgrade_that_is_not_configured_goes_on_as_a_plain_request() {
    let (address, _) = server().await;
    let bed = Bed::with_listener(limits(), &[&[address]], vec![], |mut l| {
        l.tunnels = Default::default();
        l
    });
    let mut client = bed.client().await;
    client
        .send(
            b"GET /headers HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket\r\n\
              HTTP2-Settings: x\r\n\r\n",
        )
        .await;
    let seen = client.until("127.0.0.1\n").await;
    assert!(seen.ends_with("GET /headers\nhost: h\nx-forwarded-for: 127.0.0.1\n"), "{seen}");
    client.send(GET_CLOSE).await;
    assert!(client.rest().await.ends_with("asked for /b\n"));
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_passes_ends_after_its_time() {
    let (address, _) = server().await;
    let bed = Bed::with_listener(limits(), &[&[address]], vec![], |mut l| {
        l.times.idle = Duration::from_millis(2500);
        l
    });
    let mut client = bed.client().await;
    client.send(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 101 "));
    // Longer than that in all.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send(b"x").await;
        client.until("x").await;
    }
    assert_eq!(client.rest().await, "");
    bed.closed_becomes(CloseReason::RelayIdle, 1).await;
}
