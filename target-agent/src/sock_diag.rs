//! Asks the kernel about TCP sockets (`NETLINK_SOCK_DIAG`, `linux/inet_diag.h`).
//!
//! About one connection by its 4-tuple: one request, one answer, a few microseconds. Of listening sockets alone there is
//! a dump, see [`listeners`].

pub(crate) mod destroy;
mod dump;
pub(crate) mod info;
pub(crate) mod listeners;
pub(crate) mod many;
mod queues;
mod report;
mod sys;

use baton_shared::state::ending::SocketState;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// `INET_DIAG_NOCOOKIE`: whatever socket the lookup finds.
const ANY_COOKIE: [u8; 8] = [0xff; 8];
/// What is on top of the protocol ("upper layer protocol"), and its name in there.
const INET_DIAG_ULP_INFO: u16 = 19;
const INET_ULP_INFO_NAME: u16 = 1;
/// `TCP_*` of `net/tcp_states.h`.
const TCP_TIME_WAIT: u8 = 6;
const TCP_CLOSE: u8 = 7;
/// A handshake the listener has answered: the 4-tuple is in use again, by a SYN past the agent. The socket a handoff
/// was given to has long left this state, so it is gone.
const TCP_SYN_RECV: u8 = 3;
/// The lookup falls back to a listening socket on the local address: no connection then.
const TCP_LISTEN: u8 = 10;

/// A netlink socket for such questions.
#[derive(Debug)]
pub(crate) struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
    /// Where the answers to many questions are read.
    answers: many::Answers,
    /// Orders since it was last seen to that their answers were read.
    unheard: u32,
}

impl SockDiag {
    /// Opens it, in the network namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(SockDiag { socket: sys::open()?, sequence: 0, answers: many::answers(), unheard: 0 })
    }

    /// The state of the server's socket for this connection.
    pub(crate) fn socket(&mut self, server: SocketAddr, client: SocketAddr) -> io::Result<SocketState> {
        let mut answer = [0u8; 512];
        let question = Question::about(SOCK_DIAG_BY_FAMILY, server, client);
        let length = self.ask(&question, &mut answer)?;
        state(answer.get(..length).unwrap_or_default()).map(|(state, _)| state)
    }

    /// Whether the server's kernel remembers this connection's handshake and waits for its last packet.
    pub(crate) fn is_half_open(&mut self, server: SocketAddr, client: SocketAddr) -> io::Result<bool> {
        let mut answer = [0u8; 512];
        let question = Question::about(SOCK_DIAG_BY_FAMILY, server, client);
        let length = self.ask(&question, &mut answer)?;
        let message = answer.get(..length).unwrap_or_default();
        Ok(message_type(message) != Some(NLMSG_ERROR) && message.get(HEADER_BYTES + 1) == Some(&TCP_SYN_RECV))
    }

    /// Whether the socket that listens on an address is MPTCP's. The kernel tells it to `CAP_NET_ADMIN` only.
    pub(crate) fn listens_with_mptcp(&mut self, server: SocketAddr) -> io::Result<bool> {
        let nobody: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
            SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        };
        let mut answer = [0u8; 1024];
        let client = SocketAddr::new(nobody, 9);
        // The kernel tells of what is on top of TCP only along with the rest (INET_DIAG_INFO).
        let question = Question {
            attributes: 1 << (info::INET_DIAG_INFO - 1),
            ..Question::about(SOCK_DIAG_BY_FAMILY, server, client)
        };
        let length = self.ask(&question, &mut answer)?;
        let message = answer.get(..length).unwrap_or_default();
        if message_type(message) == Some(NLMSG_ERROR) {
            return Err(io::Error::from_raw_os_error(error_code(message)));
        }
        let ulp = info::attribute(message, INET_DIAG_ULP_INFO).unwrap_or_default();
        Ok(nested(ulp, INET_ULP_INFO_NAME).is_some_and(|name| name.starts_with(b"mptcp")))
    }

    fn ask(&mut self, question: &Question, answer: &mut [u8]) -> io::Result<usize> {
        self.send(question)?;
        loop {
            let length = sys::receive(&self.socket, answer)?;
            if number_at(answer, 8) == Some(self.sequence) {
                // They come in order: what is older has been read.
                self.unheard = 0;
                return Ok(length);
            }
            pass_over(answer.get(..length).unwrap_or_default());
        }
    }

    fn send(&mut self, question: &Question) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        sys::send(&self.socket, &question.encode(self.sequence))
    }
}

/// An answer that nobody waits for: to an earlier question that failed half-way, or to an order.
fn pass_over(answer: &[u8]) {
    if let Some(e) = destroy::failed_order(answer) {
        tracing::warn!("cannot end a socket in TIME_WAIT: {e}");
    }
}

/// What an answer about one connection says: its state, and the kernel's own name for it (`TCP_*`, 0 for none).
fn state(message: &[u8]) -> io::Result<(SocketState, u8)> {
    if message_type(message) == Some(NLMSG_ERROR) {
        return match error_code(message) {
            libc::ENOENT => Ok((SocketState::Gone, 0)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    // struct inet_diag_msg: family, state, ...
    match message.get(HEADER_BYTES + 1) {
        Some(&TCP_TIME_WAIT) => Ok((SocketState::TimeWait, TCP_TIME_WAIT)),
        Some(&(TCP_LISTEN | TCP_CLOSE | TCP_SYN_RECV)) => Ok((SocketState::Gone, 0)),
        Some(&other) => Ok((SocketState::Alive, other)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
struct Question {
    kind: u16,
    flags: u16,
    /// Bit N-1 asks for attribute N.
    attributes: u8,
    /// Bit N asks for sockets in state N.
    states: u32,
    /// Both addresses are of one family.
    local: SocketAddr,
    remote: SocketAddr,
    /// The kernel's name for one socket, or [`ANY_COOKIE`].
    cookie: [u8; 8],
}

impl Question {
    /// About one connection.
    fn about(kind: u16, server: SocketAddr, client: SocketAddr) -> Self {
        Question {
            kind,
            flags: NLM_F_REQUEST,
            attributes: 0,
            states: u32::MAX,
            local: server,
            remote: client,
            cookie: ANY_COOKIE,
        }
    }

    fn encode(&self, sequence: u32) -> [u8; REQUEST_BYTES] {
        let family = if self.local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let family = u8::try_from(family).unwrap_or_default();
        let protocol = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
        let mut bytes = [0u8; REQUEST_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
            at += field.len();
        };
        put(&u32::try_from(REQUEST_BYTES).unwrap_or_default().to_ne_bytes());
        put(&self.kind.to_ne_bytes());
        put(&self.flags.to_ne_bytes());
        put(&sequence.to_ne_bytes());
        put(&0u32.to_ne_bytes());
        put(&[family, protocol, self.attributes, 0]);
        put(&self.states.to_ne_bytes());
        // struct inet_diag_sockid, ports and addresses in network order
        put(&self.local.port().to_be_bytes());
        put(&self.remote.port().to_be_bytes());
        for address in [self.local.ip(), self.remote.ip()] {
            match address {
                IpAddr::V4(v4) => {
                    put(&v4.octets());
                    put(&[0; 12]);
                }
                IpAddr::V6(v6) => put(&v6.octets()),
            }
        }
        put(&0u32.to_ne_bytes()); // any interface
        put(&self.cookie);
        bytes
    }
}

/// The value of the first attribute of a kind inside another.
fn nested(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let half = |at: usize| Some(u16::from_ne_bytes(attributes.get(at..at + 2)?.try_into().ok()?));
        let (length, is) = (usize::from(half(0)?), half(2)?);
        if length < 4 {
            return None;
        }
        if is == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn message_type(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

fn number_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(message.get(at..at + 4)?.try_into().ok()?))
}

/// The errno of an `NLMSG_ERROR`, 0 for an acknowledgement.
fn error_code(message: &[u8]) -> i32 {
    number_at(message, HEADER_BYTES).map_or(libc::EIO, |raw| raw.cast_signed().saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_kernel_tells_live_closed_and_unknown_sockets_apart_in_both_families() {
        for (loopback, stranger) in [("127.0.0.1:0", "127.0.0.9:9"), ("[::1]:0", "[::9]:9")] {
            let mut diag = SockDiag::open().unwrap();
            let listener = TcpListener::bind(loopback).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let (s, c) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
            assert_eq!(diag.socket(s, c).unwrap(), SocketState::Alive);
            let stranger = stranger.parse().unwrap();
            assert_eq!(diag.socket(s, stranger).unwrap(), SocketState::Gone, "only the listener is there");
            drop(server);
            drop(client);
            let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while diag.socket(s, c).unwrap() != SocketState::TimeWait && std::time::Instant::now() < until {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert_eq!(diag.socket(s, c).unwrap(), SocketState::TimeWait);
            drop(listener);
            assert_eq!(diag.socket(s, stranger).unwrap(), SocketState::Gone, "nothing at all is there");
        }
    }

    #[test]
    fn a_listener_with_mptcp_is_told_from_one_without() {
        use socket2::{Domain, Protocol, Socket, Type};
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = loopback.parse().unwrap();
            let plain = TcpListener::bind(address).unwrap();
            assert!(!SockDiag::open().unwrap().listens_with_mptcp(plain.local_addr().unwrap()).unwrap());
            // IPPROTO_MPTCP of linux/in.h; kernels without it refuse.
            let domain = Domain::for_address(address);
            let socket = match Socket::new(domain, Type::STREAM, Some(Protocol::from(262))) {
                Ok(socket) => socket,
                Err(e) => {
                    assert!(
                        std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"),
                        "multipath TCP: {e}"
                    );
                    println!(
                        "SKIPPED: no multipath TCP in this kernel (CONFIG_MPTCP, net.mptcp.enabled): {e}"
                    );
                    continue;
                }
            };
            socket.bind(&address.into()).unwrap();
            socket.listen(8).unwrap();
            let at = socket.local_addr().unwrap().as_socket().unwrap();
            assert!(SockDiag::open().unwrap().listens_with_mptcp(at).unwrap(), "{at}");
        }
        let nobody = "127.0.0.1:9".parse().unwrap();
        assert!(SockDiag::open().unwrap().listens_with_mptcp(nobody).is_err(), "nobody listens there");
    }

    #[test]
    fn an_ipv4_client_of_a_dual_stack_server_is_found() {
        let mut diag = SockDiag::open().unwrap();
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _server = listener.accept().unwrap();
        let s = client.peer_addr().unwrap();
        assert_eq!(diag.socket(s, client.local_addr().unwrap()).unwrap(), SocketState::Alive);
    }
}
