//! Questions with many answers, and the connections of one address.

use super::{
    ANY_COOKIE, HEADER_BYTES, NLM_F_REQUEST, NLMSG_ERROR, Question, SOCK_DIAG_BY_FAMILY, SockDiag, TCP_CLOSE,
    TCP_LISTEN, TCP_TIME_WAIT, error_code, message_type, number_at, pass_over, sys,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLMSG_DONE: u16 = 3;
/// The kernel fills up to 32 kB per message of a dump.
const ANSWER_BYTES: usize = 32 * 1024;

impl SockDiag {
    /// All answers to a question, one after the other.
    pub(super) fn collect(&mut self, question: &Question, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(question)?;
        let mut answer = vec![0; ANSWER_BYTES];
        loop {
            let length = sys::receive(&self.socket, &mut answer)?;
            let mut rest = answer.get(..length).unwrap_or_default();
            while let Some(size) = number_at(rest, 0).and_then(|size| usize::try_from(size).ok()) {
                let Some(message) = rest.get(..size).filter(|m| m.len() >= HEADER_BYTES) else { break };
                // What an earlier question left is passed over.
                if number_at(message, 8) == Some(self.sequence) {
                    match message_type(message) {
                        Some(NLMSG_DONE) => return Ok(()),
                        Some(NLMSG_ERROR) => return Err(io::Error::from_raw_os_error(error_code(message))),
                        _ => each(message),
                    }
                } else {
                    pass_over(message);
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }

    /// The other ends of all connections whose own address is this.
    pub(crate) fn connections(&mut self, own: SocketAddr) -> io::Result<Vec<SocketAddr>> {
        let mut all = Vec::new();
        let families: &[IpAddr] = if own.is_ipv4() {
            // An IPv6 socket at any address takes IPv4 connections too.
            &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        } else {
            &[IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        };
        for any in families {
            let question = Question {
                kind: SOCK_DIAG_BY_FAMILY,
                flags: NLM_F_REQUEST | NLM_F_DUMP,
                attributes: 0,
                states: !(1 << TCP_LISTEN | 1 << TCP_TIME_WAIT | 1 << TCP_CLOSE),
                local: SocketAddr::new(*any, own.port()),
                remote: SocketAddr::new(*any, 0),
                cookie: ANY_COOKIE,
            };
            self.collect(&question, |message| {
                all.extend(ends(message).filter(|(local, _)| *local == own).map(|(_, remote)| remote));
            })?;
        }
        Ok(all)
    }
}

/// Own and other end of a connection in an answer, IPv4 as such.
fn ends(message: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let at = |offset: usize, length: usize| message.get(HEADER_BYTES + offset..)?.get(..length);
    let port = |offset| Some(u16::from_be_bytes(at(offset, 2)?.try_into().ok()?));
    let v4 = i32::from(*at(0, 1)?.first()?) == libc::AF_INET;
    let address = |offset| {
        Some(if v4 {
            IpAddr::from(<[u8; 4]>::try_from(at(offset, 4)?).ok()?)
        } else {
            IpAddr::from(<[u8; 16]>::try_from(at(offset, 16)?).ok()?).to_canonical()
        })
    };
    // struct inet_diag_msg: family, state, timer, retransmits; ports; addresses.
    Some((SocketAddr::new(address(8)?, port(4)?), SocketAddr::new(address(24)?, port(6)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_addresss_connections_are_found_and_neither_others_nor_listeners() {
        for (listens, asked) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let mut diag = SockDiag::open().unwrap();
            let listener = TcpListener::bind(listens).unwrap();
            let at = SocketAddr::new(asked.parse().unwrap(), listener.local_addr().unwrap().port());
            assert_eq!(diag.connections(at).unwrap(), []);
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(at).unwrap()).collect();
            let mut found = diag.connections(at).unwrap();
            let mut expected: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{listens}");
            let other = SocketAddr::new("127.0.0.2".parse().unwrap(), at.port());
            assert_eq!(diag.connections(other).unwrap(), []);
        }
    }
}
