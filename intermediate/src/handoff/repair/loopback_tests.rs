//! Capture tried on real sockets. Needs `CAP_NET_ADMIN`; without it the tests say `SKIPPED`, and fail if
//! `BATON_NO_SKIPS=1`.

use super::*;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream as StdStream};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: usize = 1 << 20;

struct Pair {
    live: Live,
    peer: StdStream,
    ends: Ends,
}

/// `IPPROTO_MPTCP`, `include/uapi/linux/in.h`.
const MPTCP: i32 = 262;

/// A connection over loopback, the accepted end live; `None` if repair mode is not allowed here.
async fn pair() -> Option<Pair> {
    pair_of("127.0.0.1:0", [Protocol::TCP; 2]).await
}

/// The same at an address of either family; the protocols of listener and client.
async fn pair_of(at: &str, [protocol, clients]: [Protocol; 2]) -> Option<Pair> {
    let at: std::net::SocketAddr = at.parse().unwrap();
    let listener = Socket::new(Domain::for_address(at), Type::STREAM, Some(protocol)).unwrap();
    let fit = prepare_listener(&listener).is_ok();
    assert_eq!(fit, protocol == Protocol::TCP, "only a listener of plain TCP is fit");
    listener.set_reuse_address(true).unwrap();
    listener.bind(&at.into()).unwrap();
    listener.listen(8).unwrap();
    let vip = listener.local_addr().unwrap().as_socket().unwrap();
    let peer = Socket::new(Domain::for_address(at), Type::STREAM, Some(clients)).unwrap();
    peer.connect(&vip.into()).unwrap();
    let peer = StdStream::from(peer);
    peer.set_nodelay(true).unwrap();
    peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let (accepted, client) = listener.accept().unwrap();
    let probe = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    if let Err(e) = sys::set_tcp(probe.as_fd(), libc::TCP_REPAIR, sys::REPAIR_ON) {
        assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "TCP_REPAIR: {e}");
        println!("SKIPPED: TCP_REPAIR is not allowed here ({e})");
        return None;
    }
    accepted.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(accepted.into()).unwrap();
    let ends = Ends { client: client.as_socket().unwrap(), vip };
    let tsval = syn_tsval(&stream);
    Some(Pair { live: Live::new(stream, tsval), peer, ends })
}

/// The peer's own `snd_nxt` and `rcv_nxt`.
fn peer_numbers(peer: &StdStream) -> (u32, u32) {
    let fd = peer.as_fd();
    sys::set_tcp(fd, libc::TCP_REPAIR, sys::REPAIR_ON).unwrap();
    let numbers = (queue_seq(fd, sys::SEND_QUEUE).unwrap(), queue_seq(fd, sys::RECV_QUEUE).unwrap());
    sys::set_tcp(fd, libc::TCP_REPAIR, sys::REPAIR_OFF_NO_PROBE).unwrap();
    numbers
}

/// All that the peer has sent.
fn drained(live: &Live, peer: &StdStream) -> Vec<u8> {
    arrived(peer);
    let mut bytes = Vec::new();
    live.drain(&mut bytes, LIMIT).unwrap();
    bytes
}

fn captured(live: Live, ends: Ends, bytes: &mut Vec<u8>) -> Captured {
    live.capture(ends, bytes, LIMIT).map_err(|(_, e)| e).unwrap()
}

#[tokio::test]
async fn the_numbers_are_the_peers_and_the_connection_goes_on_after_a_resume() {
    for at in ["127.0.0.1:0", "[::1]:0"] {
        let Some(pair) = pair_of(at, [Protocol::TCP; 2]).await else { return };
        assert_eq!(pair.ends.client.is_ipv6(), at.starts_with('['));
        numbers_and_resume(pair).await;
    }
}

async fn numbers_and_resume(Pair { live, mut peer, ends }: Pair) {
    peer.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut bytes = drained(&live, &peer);
    assert_eq!(bytes, b"GET / HTTP/1.1\r\n\r\n");
    let captured = captured(live, ends, &mut bytes);
    let c = captured.connection.clone();
    assert_eq!((c.rcv_nxt.raw(), c.snd_nxt.raw()), peer_numbers(&peer));
    assert_eq!((c.client, c.vip), (peer.local_addr().unwrap(), peer.peer_addr().unwrap()));
    assert!(!c.client_fin);
    assert!(c.snd_wnd > 0 && c.max_window >= c.snd_wnd && c.rcv_wnd > 0);
    let peer_info: TcpInfo = sys::tcp(peer.as_fd(), libc::TCP_INFO).unwrap();
    assert_eq!(c.options.timestamps, peer_info.options & OPT_TIMESTAMPS != 0);
    assert_eq!(c.options.sack, peer_info.options & OPT_SACK != 0);
    // The scales are each other's seen from the other end.
    if let Some(scales) = c.options.window_scale {
        assert_eq!((scales.client, scales.promised), (peer_info.scales >> 4, peer_info.scales & 15));
    }
    if c.options.timestamps {
        let peer_now: u32 = sys::tcp(peer.as_fd(), libc::TCP_TIMESTAMP).unwrap();
        // The lowest bit says the unit, and is no part of the clock.
        let age = (peer_now | 1).wrapping_sub(c.client_tsval);
        assert!(age < 60_000, "the client's timestamp is {age} ticks old");
    }
    let mut stream = captured.resume().unwrap().watched().unwrap();
    peer.write_all(b"more").unwrap();
    let mut more = [0; 4];
    stream.read_exact(&mut more).await.unwrap();
    assert_eq!(&more, b"more");
    stream.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    peer.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn a_resumed_connection_does_not_keep_its_address_from_the_next_listener() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"head").unwrap();
    let mut bytes = drained(&live, &peer);
    let stream = captured(live, ends, &mut bytes).resume().unwrap().watched().unwrap();
    // We close first: the connection goes to TIME_WAIT on this side.
    drop(stream);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    drop(peer);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&ends.vip.into()).unwrap();
    listener.listen(8).unwrap();
}

#[tokio::test]
async fn after_an_answered_request_the_numbers_still_agree() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"one").unwrap();
    let mut bytes = drained(&live, &peer);
    let mut stream = live.into_stream().watched().unwrap();
    stream.write_all(&[7; 5000]).await.unwrap();
    peer.read_exact(&mut [0; 5000]).unwrap();
    peer.write_all(b"two").unwrap();
    let tsval = syn_tsval(&stream);
    let live = Live::new(stream, tsval);
    bytes.extend(drained(&live, &peer));
    assert_eq!(bytes, b"onetwo");
    let captured = captured(live, ends, &mut bytes);
    let c = &captured.connection;
    assert_eq!((c.rcv_nxt.raw(), c.snd_nxt.raw()), peer_numbers(&peer));
    // The SYN was given to the first `Live`: the client's clock is not known any more, as with a SYN cookie.
    assert_eq!(c.client_tsval, 0);
}

#[tokio::test]
async fn a_closed_client_counts_its_fin() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"last words").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut bytes = drained(&live, &peer);
    assert_eq!(bytes, b"last words");
    let captured = captured(live, ends, &mut bytes);
    assert!(captured.connection.client_fin);
    // Both count the FIN.
    assert_eq!(captured.connection.rcv_nxt.raw(), peer_numbers(&peer).0);
    let mut stream = captured.resume().unwrap().watched().unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the end of the stream is still there");
    stream.write_all(b"answer").await.unwrap();
    peer.read_exact(&mut [0; 6]).unwrap();
}

#[tokio::test]
async fn bytes_that_arrive_before_the_capture_are_drained_by_it() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"head").unwrap();
    let mut bytes = drained(&live, &peer);
    peer.write_all(b"body").unwrap();
    arrived(&peer);
    let captured = captured(live, ends, &mut bytes);
    assert_eq!(bytes, b"headbody");
    assert_eq!(captured.connection.rcv_nxt.raw(), peer_numbers(&peer).0);
}

#[tokio::test]
async fn what_arrives_after_the_capture_is_seen_and_not_lost() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"head").unwrap();
    let mut bytes = drained(&live, &peer);
    let captured = captured(live, ends, &mut bytes);
    assert_eq!(captured.late(), None);
    peer.write_all(b"late").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let all = Some(Late { bytes: b"late".to_vec(), fin: true });
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while captured.late() != all && std::time::Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(captured.late(), all);
    let mut stream = captured.resume().unwrap().watched().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"late");
}

/// Waits until the other end has acknowledged all.
fn arrived(peer: &StdStream) {
    let unacked = || {
        let info: TcpInfo = sys::tcp(peer.as_fd(), libc::TCP_INFO).unwrap();
        info.unacked != 0 || info.notsent_bytes != 0
    };
    while unacked() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Neither a drain nor a capture takes the urgent mark, where the kernel counts nothing unread, for the end of what arrived.
#[tokio::test]
async fn what_follows_an_urgent_byte_is_drained_and_no_capture_leaves_it_behind() {
    for (drains, behind) in [(true, "6789"), (false, "6789"), (true, ""), (false, "")] {
        let Some(Pair { live, mut peer, ends }) = pair().await else { return };
        peer.write_all(b"01234").unwrap();
        socket2::SockRef::from(&peer).send_out_of_band(b"!").unwrap();
        peer.write_all(behind.as_bytes()).unwrap();
        arrived(&peer);
        // As the front reads the head: up to the mark.
        let mut bytes = Vec::new();
        live.stream.read_at_once(&mut bytes).unwrap();
        assert_eq!(bytes, b"01234");
        if drains {
            live.drain(&mut bytes, LIMIT).unwrap();
        }
        let captured = captured(live, ends, &mut bytes);
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("01234{behind}"), "drained {drains}");
        assert_eq!(captured.connection.rcv_nxt.raw(), peer_numbers(&peer).0);
        assert_eq!(captured.late(), None);
    }
}

#[tokio::test]
async fn a_release_says_nothing_to_the_client() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"head").unwrap();
    let mut bytes = drained(&live, &peer);
    captured(live, ends, &mut bytes).release();
    let silence = peer.read(&mut [0; 1]).unwrap_err();
    assert_eq!(silence.kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn more_than_the_limit_is_not_captured_and_nothing_is_lost() {
    let Some(Pair { live, mut peer, ends: _ }) = pair().await else { return };
    peer.write_all(&[1; 1000]).unwrap();
    arrived(&peer);
    let mut bytes = Vec::new();
    let error = live.drain(&mut bytes, 400).unwrap_err();
    assert_eq!((error.reason, bytes.len()), (ProxyReason::PrefetchTooLarge, 400));
    let mut rest = [0; 600];
    live.into_stream().watched().unwrap().read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_dropped_capture_leaves_repair_mode_and_closes_as_usual() {
    let Some(Pair { live, mut peer, ends }) = pair().await else { return };
    peer.write_all(b"head").unwrap();
    let mut bytes = drained(&live, &peer);
    drop(captured(live, ends, &mut bytes));
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

#[tokio::test]
async fn unacknowledged_bytes_keep_the_connection_here() {
    let Some(Pair { live, peer, ends }) = pair().await else { return };
    // More than the peer's window and nobody reads.
    let stream = live.into_stream().watched().unwrap();
    while stream.writable().await.is_ok() && stream.try_write(&[0; 65536]).is_ok() {}
    let mut bytes = Vec::new();
    let (live, error) =
        Live { stream: stream.into(), syn_tsval: Some(1) }.capture(ends, &mut bytes, LIMIT).unwrap_err();
    assert_eq!(error.reason, ProxyReason::Unacknowledged);
    drop((live, peer));
}

#[tokio::test]
async fn multipath_tcp_is_told_by_its_name_and_a_client_that_only_offers_it_is_captured() {
    if let Err(e) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(MPTCP))) {
        assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "multipath TCP: {e}");
        return println!("SKIPPED: no multipath TCP in this kernel (CONFIG_MPTCP, net.mptcp.enabled): {e}");
    }
    let multipath = Protocol::from(MPTCP);
    let Some(Pair { live, ends, .. }) = pair_of("127.0.0.1:0", [multipath; 2]).await else { return };
    let (_, refused) = live.capture(ends, &mut Vec::new(), LIMIT).unwrap_err();
    assert_eq!(refused.reason, ProxyReason::OptionNotCarried, "{}", refused.detail);
    // What the listeners are: the kernel does not answer the offer.
    let offered = pair_of("127.0.0.1:0", [Protocol::TCP, multipath]).await;
    let Some(Pair { live, mut peer, ends }) = offered else { return };
    peer.write_all(b"head").unwrap();
    let mut bytes = drained(&live, &peer);
    let captured = captured(live, ends, &mut bytes);
    assert_eq!((bytes.as_slice(), captured.connection.options.timestamps), (&b"head"[..], true));
    assert_ne!(captured.connection.client_tsval, 0);
}
