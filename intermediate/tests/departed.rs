//! A listener that leaves the configuration: what had reached it is served as it was configured, and nothing is reset.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod support;

use baton_shared::control::Message;
use baton_shared::http::{HeadLimits, HeadStatus, parse};
use baton_shared::route::{KeepAlive, Mode, RouteTable};
use intermediate::front::{LaterRouter, listen};
use intermediate::handoff::{FlowNow, Next, Router};
use intermediate::site::Site;
use intermediate::targets::{AgentLink, NotSent, TargetId};
use std::io::ErrorKind;
use std::sync::Arc;
use support::{Bed, Client, limits, server};
use tokio::net::TcpStream;

const REQUEST: &[u8] = b"GET /here HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// A site without listeners.
fn empty() -> Site {
    Site {
        listeners: Vec::new(),
        pools: Vec::new(),
        table: RouteTable::new(Vec::new()),
        limits: limits(),
        source_exempt: Vec::new(),
    }
}

#[tokio::test]
async fn what_waits_in_the_queue_of_a_listener_that_left_is_served_and_what_comes_later_refused() {
    let (server, _) = server().await;
    let socket = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let vip = socket.local_addr().unwrap();
    let bed = Bed::with_listener(limits(), &[&[server]], Vec::new(), |listener| {
        intermediate::site::SiteListener { vip, ..listener }
    });
    // Nobody has accepted them when the listener leaves.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = Client(TcpStream::connect(vip).await.unwrap());
        client.send(REQUEST).await;
        waiting.push(client);
    }
    bed.front.install(empty());
    let run = Arc::clone(&bed.front).run_until(socket, vip, bed.control.stop(), std::future::ready(()));
    let run = tokio::spawn(run);
    for mut client in waiting {
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("you asked for /here"), "{answer}");
    }
    run.await.unwrap();
    assert_eq!(TcpStream::connect(vip).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_listener_that_left_and_came_again_is_configured_anew() {
    let (server, _) = server().await;
    let bed = Bed::start(limits(), &[server]);
    let before = bed.front.site.load_full();
    bed.front.install(empty());
    // The socket is still there: its connections are served as they were.
    assert!(bed.exchange(REQUEST).await.contains("you asked for /here"));
    let again = |pool| {
        let listener = intermediate::site::SiteListener { pool, ..before.listeners[0].clone() };
        Site { listeners: vec![listener], pools: before.pools.clone(), ..empty() }
    };
    bed.front.install(again(None));
    assert!(bed.exchange(REQUEST).await.starts_with("HTTP/1.1 404 "));
    bed.front.install(empty());
    assert!(bed.exchange(REQUEST).await.starts_with("HTTP/1.1 404 "), "the last it was");
}

/// An agent's channel that takes all.
struct Up;

impl AgentLink for Up {
    fn send(&self, _: Message) -> Result<(), NotSent> {
        Ok(())
    }

    fn is_up(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_connection_of_a_listener_that_left_stays_with_its_target_though_that_left_as_well() {
    let (a, b) = ("127.0.0.1:7".parse().unwrap(), "127.0.0.1:9".parse().unwrap());
    let bed = Bed::with_listener(limits(), &[&[a, b]], Vec::new(), |listener| {
        intermediate::site::SiteListener { keepalive: KeepAlive::Tracked, mode: Mode::Migrate, ..listener }
    });
    bed.front.targets.get(TargetId::new(0)).unwrap().agent.add_link(Arc::new(Up));
    let router = LaterRouter::new(&bed.front, bed.control.stop());
    let HeadStatus::Complete(head) = parse(REQUEST, &HeadLimits::default()) else { panic!("no head") };
    let now = |target| FlowNow {
        client: "192.0.2.1:1000".parse().unwrap(),
        vip: bed.vip,
        target: TargetId::new(target),
        request_no: 2,
        bound: false,
        owes: false,
    };
    let stays = |target| matches!(router.route(&now(target), &head, REQUEST), Next::Stay { .. });
    assert!(stays(0) && stays(1));
    bed.front.targets.update([]);
    bed.front.install(empty());
    assert!(stays(0) && stays(1), "neither is the other's, though both are gone");
}

#[tokio::test]
async fn the_last_site_of_a_listener_that_left_goes_with_its_last_connection() {
    let (server, _) = server().await;
    let bed = Bed::start(limits(), &[server]);
    let before = Arc::downgrade(&bed.front.site.load_full());
    let mut client = bed.client().await;
    client.send(b"GET /echo HTTP/1.1\r\nHost: h\r\n").await;
    while bed.front.metrics.open_connections() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    bed.front.install(empty());
    bed.front.sweep_departed();
    assert!(before.upgrade().is_some(), "its socket accepts yet");
    bed.front.departed.closed(&[bed.vip]);
    bed.front.sweep_departed();
    assert_eq!(bed.front.departed.count(), 1, "a connection is left");
    client.send(b"Connection: close\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    let gone = async {
        while before.upgrade().is_some() {
            bed.front.sweep_departed();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), gone).await.expect("the snapshot is let go");
    assert_eq!(bed.front.departed.count(), 0);
}
