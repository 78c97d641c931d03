//! The sockets that listen at an address: how full their accept queues are, what was dropped there.

use super::dump::NLM_F_DUMP;
use super::info::{MESSAGE_BYTES, attribute};
use super::{
    ANY_COOKIE, HEADER_BYTES, NLM_F_REQUEST, Question, SOCK_DIAG_BY_FAMILY, SockDiag, TCP_LISTEN, number_at,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const INET_DIAG_SKMEMINFO: u16 = 7;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `SK_MEMINFO_RCVBUF`, in bytes.
const BUFFER_AT: usize = 4;
/// `SK_MEMINFO_DROPS`, in bytes.
const DROPS_AT: usize = 8 * 4;

/// All sockets that take connections to one address, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listening {
    /// How many sockets; 0: nothing listens.
    pub(crate) sockets: u32,
    /// Connections that wait to be accepted.
    pub(crate) queue: u32,
    /// How many may wait.
    pub(crate) limit: u32,
    /// Connections dropped there, by the sockets' own count.
    pub(crate) drops: u64,
    /// The receive buffer that their connections begin with, bytes as the kernel counts them; the smallest.
    pub(crate) buffer: Option<u32>,
}

/// One socket of the dump.
#[derive(Clone, Copy, Debug)]
struct Socket {
    address: IpAddr,
    v6_only: bool,
    listening: Listening,
}

impl SockDiag {
    /// Who takes connections to `server`. Sockets at the very address go before those at any address, as in the kernel.
    pub(crate) fn listeners(&mut self, server: SocketAddr) -> io::Result<Listening> {
        let mut sockets = Vec::new();
        // An IPv6 socket at any address takes IPv4 connections too.
        if server.is_ipv4() {
            self.dump(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), server.port()), &mut sockets)?;
        }
        self.dump(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), server.port()), &mut sockets)?;
        let mapped = match server.ip() {
            IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
            v6 @ IpAddr::V6(_) => v6,
        };
        let any_v4 = |s: &Socket| server.is_ipv4() && s.address == Ipv4Addr::UNSPECIFIED;
        let any_v6 = |s: &Socket| s.address == Ipv6Addr::UNSPECIFIED && !(server.is_ipv4() && s.v6_only);
        let sum = |takes: &dyn Fn(&Socket) -> bool| {
            sockets.iter().filter(|s| takes(s)).fold(Listening::default(), |sum, s| Listening {
                sockets: sum.sockets + 1,
                queue: sum.queue.saturating_add(s.listening.queue),
                limit: sum.limit.saturating_add(s.listening.limit),
                drops: sum.drops.saturating_add(s.listening.drops),
                buffer: [sum.buffer, s.listening.buffer].into_iter().flatten().min(),
            })
        };
        let ranks = [sum(&|s| s.address == server.ip() || s.address == mapped), sum(&any_v4), sum(&any_v6)];
        Ok(ranks.into_iter().find(|l| l.sockets > 0).unwrap_or_default())
    }

    /// The listening sockets of `any`'s family on its port.
    fn dump(&mut self, any: SocketAddr, into: &mut Vec<Socket>) -> io::Result<()> {
        let question = Question {
            kind: SOCK_DIAG_BY_FAMILY,
            flags: NLM_F_REQUEST | NLM_F_DUMP,
            attributes: 1 << (INET_DIAG_SKMEMINFO - 1),
            states: 1 << TCP_LISTEN,
            local: any,
            remote: SocketAddr::new(any.ip(), 0),
            cookie: ANY_COOKIE,
        };
        self.collect(&question, |message| into.extend(socket(message)))
    }
}

fn socket(message: &[u8]) -> Option<Socket> {
    let at =
        |offset: usize, length: usize| message.get(HEADER_BYTES + offset..HEADER_BYTES + offset + length);
    // family, state, timer, retransmits; ports; source address
    let family = i32::from(*at(0, 1)?.first()?);
    let address = if family == libc::AF_INET {
        IpAddr::from(<[u8; 4]>::try_from(at(8, 4)?).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(at(8, 16)?).ok()?)
    };
    let number = |offset| number_at(message, HEADER_BYTES + offset);
    let memory = |at| attribute(message, INET_DIAG_SKMEMINFO).and_then(|memory| number_at(memory, at));
    let listening = Listening {
        sockets: 1,
        queue: number(MESSAGE_BYTES - 16)?,
        limit: number(MESSAGE_BYTES - 12)?,
        drops: memory(DROPS_AT).map_or(0, u64::from),
        buffer: memory(BUFFER_AT),
    };
    let v6_only = attribute(message, INET_DIAG_SKV6ONLY).is_some_and(|flag| flag.first() == Some(&1));
    Some(Socket { address, v6_only, listening })
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket as RawSocket, Type};
    use std::net::TcpStream;
    use std::time::Duration;

    fn listen(domain: Domain, address: &str, backlog: i32) -> RawSocket {
        let socket = RawSocket::new(domain, Type::STREAM, None).unwrap();
        if domain == Domain::IPV6 {
            socket.set_only_v6(false).unwrap();
        }
        socket.bind(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(backlog).unwrap();
        socket
    }

    #[test]
    fn an_accept_queue_fills_overflows_and_is_emptied() {
        let mut diag = SockDiag::open().unwrap();
        let socket = listen(Domain::IPV4, "127.0.0.1:0", 2);
        let server = socket.local_addr().unwrap().as_socket().unwrap();
        let now = diag.listeners(server).unwrap();
        assert_eq!(now, Listening { sockets: 1, queue: 0, limit: 2, drops: 0, buffer: now.buffer });
        assert_ne!(now.buffer, Some(40_000));
        socket.set_recv_buffer_size(20_000).unwrap();
        assert_eq!(
            diag.listeners(server).unwrap().buffer,
            Some(40_000),
            "the kernel counts twice what is asked for"
        );
        let waiting: Vec<_> = (0..3).map(|_| TcpStream::connect(server).unwrap()).collect();
        // A client is connected before its last acknowledgement has arrived.
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while diag.listeners(server).unwrap().queue < 3 && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(diag.listeners(server).unwrap().queue, 3, "one more than the limit may wait");
        // The next one's SYN is dropped.
        assert!(TcpStream::connect_timeout(&server, Duration::from_millis(100)).is_err());
        let drops = diag.listeners(server).unwrap().drops;
        assert!(drops >= 1, "{drops}");
        for _ in &waiting {
            socket.accept().unwrap();
        }
        assert_eq!(diag.listeners(server).unwrap().queue, 0);
        drop(socket);
        assert_eq!(diag.listeners(server).unwrap(), Listening::default(), "nothing listens");
    }

    #[test]
    fn a_socket_at_any_address_counts_unless_one_is_at_the_very_address() {
        let mut diag = SockDiag::open().unwrap();
        let any = listen(Domain::IPV6, "[::]:0", 7);
        let port = any.local_addr().unwrap().as_socket().unwrap().port();
        let v4: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
        for server in [v4, (Ipv6Addr::LOCALHOST, port).into()] {
            assert_eq!(diag.listeners(server).unwrap().limit, 7, "{server}");
        }
        let other: SocketAddr = "127.0.0.2:9".parse().unwrap();
        assert_eq!(diag.listeners(other).unwrap().sockets, 0);
    }
}
