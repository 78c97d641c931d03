//! A socket for a connection that has none: made in repair mode from what is known of it, so that nothing goes on the
//! wire. The order is the kernel's (`tcp_repair_options_est` and the like in `net/ipv4/tcp.c`), as CRIU's soccr has it.

use super::super::sys::{self, RepairOption, RepairWindow};
use crate::front::Seat;
use baton_shared::capture::CapturedConnection;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use tokio::net::TcpStream;

/// A connection that was a target's and has a socket here again.
#[derive(Debug)]
pub struct Returned {
    /// Its socket, in ordinary use. Its listener's `TCP_SAVE_SYN` says nothing of it.
    pub stream: TcpStream,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP's address and port.
    pub vip: SocketAddr,
    /// By what it is served here.
    pub seat: Seat,
    /// Bytes of the client's that were received before: they come in front of what the socket will give.
    pub bytes: Vec<u8>,
}

/// Option kinds of `TCP_REPAIR_OPTIONS` (RFC 9293, RFC 7323, RFC 2018).
const MSS: u32 = 2;
const WINDOW_SCALE: u32 = 3;
const SACK_PERMITTED: u32 = 4;
const TIMESTAMPS: u32 = 8;

/// The socket. The error names the step.
pub(super) fn restore(connection: &CapturedConnection) -> Result<TcpStream, (&'static str, io::Error)> {
    let step = |name| move |e| (name, e);
    let domain = Domain::for_address(connection.vip);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(step("socket"))?;
    let fd = socket.as_fd();
    sys::set_tcp(fd, libc::TCP_REPAIR, sys::REPAIR_ON).map_err(step("TCP_REPAIR on"))?;
    if connection.vip.is_ipv6() {
        socket.set_only_v6(true).map_err(step("IPV6_V6ONLY"))?;
    }
    // Beside the listener: repair mode may bind where somebody listens.
    socket.bind(&connection.vip.into()).map_err(step("bind"))?;
    for (queue, number) in
        [(sys::SEND_QUEUE, connection.snd_nxt.raw()), (sys::RECV_QUEUE, connection.rcv_nxt.raw())]
    {
        sys::set_tcp(fd, libc::TCP_REPAIR_QUEUE, queue).map_err(step("TCP_REPAIR_QUEUE"))?;
        sys::set_tcp_to(fd, libc::TCP_QUEUE_SEQ, &number).map_err(step("TCP_QUEUE_SEQ"))?;
    }
    // In repair mode it sends no SYN: the connection is established.
    socket.connect(&connection.client.into()).map_err(step("connect"))?;
    let (options, count) = repair_options(connection);
    sys::set_repair_options(fd, options.get(..count).unwrap_or_default())
        .map_err(step("TCP_REPAIR_OPTIONS"))?;
    if connection.options.timestamps {
        // The lowest bit would say that the clock counts microseconds.
        let ahead = (connection.vip_tsval & !1).wrapping_add(2);
        sys::set_tcp_to(fd, libc::TCP_TIMESTAMP, &ahead).map_err(step("TCP_TIMESTAMP"))?;
    }
    let window = RepairWindow {
        snd_wl1: connection.rcv_nxt.raw(),
        snd_wnd: connection.snd_wnd,
        max_window: connection.max_window.max(connection.snd_wnd),
        rcv_wnd: connection.rcv_wnd,
        rcv_wup: connection.rcv_nxt.raw(),
    };
    sys::set_tcp_to(fd, libc::TCP_REPAIR_WINDOW, &window).map_err(step("TCP_REPAIR_WINDOW"))?;
    super::super::repair::leave_repair(fd).map_err(step("TCP_REPAIR off"))?;
    socket.set_nonblocking(true).map_err(step("O_NONBLOCK"))?;
    socket.set_tcp_nodelay(true).map_err(step("TCP_NODELAY"))?;
    TcpStream::from_std(socket.into()).map_err(step("epoll"))
}

/// What both ends agreed on, and how many of the options count. ECN cannot be restored; the connection does without.
fn repair_options(connection: &CapturedConnection) -> ([RepairOption; 4], usize) {
    let negotiated = &connection.options;
    let mut options = [RepairOption::default(); 4];
    let mut count = 0;
    let mut put = |code, value| {
        if let Some(place) = options.get_mut(count) {
            *place = RepairOption { code, value };
            count += 1;
        }
    };
    put(MSS, u32::from(negotiated.client_mss));
    if let Some(scales) = negotiated.window_scale {
        put(WINDOW_SCALE, u32::from(scales.client) | u32::from(scales.promised) << 16);
    }
    if negotiated.sack {
        put(SACK_PERMITTED, 0);
    }
    if negotiated.timestamps {
        put(TIMESTAMPS, 0);
    }
    (options, count)
}

#[cfg(test)]
mod tests {
    use super::super::super::{Ends, Live, syn_tsval};
    use super::*;
    use std::io::{Read, Write};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Over loopback there is nobody in between: what a socket does not say the other does not notice.
    #[tokio::test]
    async fn a_connection_goes_on_in_a_socket_made_anew_in_both_families() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let at: SocketAddr = at.parse().unwrap();
            let listener = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP)).unwrap();
            super::super::super::prepare_listener(&listener).unwrap();
            listener.set_reuse_address(true).unwrap();
            listener.bind(&at.into()).unwrap();
            listener.listen(8).unwrap();
            let vip = listener.local_addr().unwrap().as_socket().unwrap();
            let mut peer = std::net::TcpStream::connect(vip).unwrap();
            let (accepted, client) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let ends = Ends { client: client.as_socket().unwrap(), vip };
            let stream = TcpStream::from_std(accepted.into()).unwrap();
            let tsval = syn_tsval(&stream);
            let live = Live::new(stream, tsval);
            let mut bytes = Vec::new();
            let captured = match live.capture(ends, &mut bytes, 1 << 20) {
                Ok(captured) => captured,
                Err((_, e)) if e.detail.contains("Operation not permitted") => {
                    println!("SKIPPED: {}", e.detail);
                    assert_ne!(std::env::var("BATON_NO_SKIPS").as_deref(), Ok("1"), "skips are forbidden");
                    return;
                }
                Err((_, e)) => panic!("{e:?}"),
            };
            let connection = captured.connection.clone();
            captured.release();
            let mut again = restore(&connection).unwrap();
            peer.write_all(b"question").unwrap();
            let mut question = [0; 8];
            again.read_exact(&mut question).await.unwrap();
            assert_eq!(&question, b"question");
            again.write_all(&vec![7; 300_000]).await.unwrap();
            drop(again);
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), 300_000);
            drop(listener);
        }
    }
}
