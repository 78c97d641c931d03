//! What a connection's socket has counted (`struct tcp_info`, `linux/tcp.h`).

use super::destroy::{Cookie, cookie_of};
use super::{
    HEADER_BYTES, NLMSG_ERROR, Question, SOCK_DIAG_BY_FAMILY, SockDiag, message_type, number_at, state,
};
use baton_shared::state::ending::SocketState;
use std::io;
use std::net::SocketAddr;

/// `struct inet_diag_msg`; attributes follow it.
pub(super) const MESSAGE_BYTES: usize = 72;
pub(super) const INET_DIAG_INFO: u16 = 2;
/// The attributes asked for to look at a socket.
pub(super) const LOOK: u8 = 1 << (INET_DIAG_INFO - 1);

/// What is read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// Smoothed round-trip time, microseconds.
    pub(crate) rtt_us: u32,
    /// The smallest round-trip time there was, microseconds.
    pub(crate) min_rtt_us: u32,
    /// Segments with data sent, those sent again included.
    pub(crate) segments: u32,
    /// Segments sent again.
    pub(crate) retransmitted: u32,
}

/// A connection's socket, looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// Whether it is in use.
    pub(crate) state: SocketState,
    /// `TCP_*` of `net/tcp_states.h`; 0 if there is no socket.
    pub(crate) tcp_state: u8,
    /// Its counts, while it is a whole socket.
    pub(crate) info: Option<TcpInfo>,
    /// The kernel's name for it, if it is in TIME_WAIT.
    pub(crate) remains: Option<Cookie>,
}

impl SockDiag {
    /// The server's socket for this connection: its state and its counts.
    pub(crate) fn look(&mut self, server: SocketAddr, client: SocketAddr) -> io::Result<Looked> {
        let mut answer = [0u8; 1024];
        let question = Question { attributes: LOOK, ..Question::about(SOCK_DIAG_BY_FAMILY, server, client) };
        let length = self.ask(&question, &mut answer)?;
        looked(answer.get(..length).unwrap_or_default())
    }

    /// Of the server's socket for this connection, if it is there and has such counts (in TIME_WAIT it has none).
    pub(crate) fn tcp_info(&mut self, server: SocketAddr, client: SocketAddr) -> io::Result<Option<TcpInfo>> {
        let mut answer = [0u8; 1024];
        let question = Question { attributes: LOOK, ..Question::about(SOCK_DIAG_BY_FAMILY, server, client) };
        let length = self.ask(&question, &mut answer)?;
        let message = answer.get(..length).unwrap_or_default();
        if message_type(message) == Some(NLMSG_ERROR) {
            return Ok(None);
        }
        Ok(attribute(message, INET_DIAG_INFO).and_then(parse))
    }
}

/// An answer to a question for [`LOOK`].
pub(super) fn looked(message: &[u8]) -> io::Result<Looked> {
    let (state, tcp_state) = state(message)?;
    // What answers for a connection that is gone, a listener, has counts of its own.
    let alive = state == SocketState::Alive;
    let info = alive.then(|| attribute(message, INET_DIAG_INFO)).flatten().and_then(parse);
    let remains = (state == SocketState::TimeWait).then(|| cookie_of(message)).flatten();
    Ok(Looked { state, tcp_state, info, remains })
}

fn parse(info: &[u8]) -> Option<TcpInfo> {
    Some(TcpInfo {
        rtt_us: number_at(info, 68)?,
        min_rtt_us: number_at(info, 148)?,
        segments: number_at(info, 156)?,
        retransmitted: number_at(info, 100)?,
    })
}

/// One attribute of an `inet_diag_msg`.
pub(super) fn attribute(message: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = message.get(HEADER_BYTES + MESSAGE_BYTES..)?;
    loop {
        let header = number_at(rest, 0)?.to_ne_bytes();
        let [l0, l1, k0, k1] = header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    #[test]
    fn a_connection_tells_its_round_trip_and_what_it_sent() {
        let mut diag = SockDiag::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (s, c) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        for _ in 0..3 {
            server.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let info = diag.tcp_info(s, c).unwrap().unwrap();
        assert_eq!((info.segments, info.retransmitted), (3, 0));
        assert!((1..10_000_000).contains(&info.rtt_us), "{info:?}");
        let looked = diag.look(s, c).unwrap();
        assert_eq!((looked.state, looked.tcp_state), (SocketState::Alive, 1));
        assert_eq!(looked.info, Some(info));
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut becomes = |what: &str, done: fn(&mut SockDiag, SocketAddr, SocketAddr) -> bool| {
            let until = Instant::now() + Duration::from_secs(20);
            while !done(&mut diag, s, c) {
                assert!(Instant::now() < until, "{what}");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        becomes("CLOSE_WAIT", |diag, s, c| diag.look(s, c).unwrap().tcp_state == 8);
        drop((server, client, listener));
        becomes("it is gone or in TIME_WAIT", |diag, s, c| diag.tcp_info(s, c).unwrap().is_none());
    }
}
