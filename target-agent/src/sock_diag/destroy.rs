//! Ends a server's socket, and no other.

use super::{
    HEADER_BYTES, NLM_F_REQUEST, NLMSG_ERROR, Question, SOCK_DIAG_BY_FAMILY, SockDiag, error_code,
    message_type, state,
};
use baton_shared::state::ending::SocketState;
use std::io;
use std::net::SocketAddr;

const SOCK_DESTROY: u16 = 21;
const NLM_F_ACK: u16 = 4;
/// Of `idiag_cookie` in `struct inet_diag_msg`, behind family to retrans, the ports, the addresses and the interface.
const COOKIE_AT: usize = HEADER_BYTES + 4 + 4 + 32 + 4;

/// After so many orders without an answer it is seen to that none is left lying: the socket's buffer takes a few hundred.
const UNHEARD: u32 = 128;

/// The kernel's own name for a socket.
pub(crate) type Cookie = [u8; 8];

/// Of the socket an answer is about.
pub(super) fn cookie_of(message: &[u8]) -> Option<Cookie> {
    message.get(COOKIE_AT..).and_then(<[u8]>::first_chunk).copied()
}

impl SockDiag {
    /// Ends the server's socket for this connection if it stands like one of these (`SOCK_DESTROY`; needs CAP_NET_ADMIN and
    /// CONFIG_INET_DIAG_DESTROY), and never another.
    pub(crate) fn destroy(
        &mut self,
        server: SocketAddr,
        client: SocketAddr,
        standing: &[SocketState],
    ) -> io::Result<()> {
        match self.identify(server, client)? {
            Some((stands, cookie)) if standing.contains(&stands) => self.destroy_this(server, client, cookie),
            _ => Ok(()),
        }
    }

    /// [`SockDiag::destroy_this`] without waiting for an answer: what goes before the packet of a handoff. The order is carried
    /// out before this returns. The kernel answers if it could not be, and that is read, and said, with the next answers.
    pub(crate) fn order_destroy(
        &mut self,
        server: SocketAddr,
        client: SocketAddr,
        cookie: Cookie,
    ) -> io::Result<()> {
        self.send(&Question { cookie, ..Question::about(SOCK_DESTROY, server, client) })?;
        self.unheard += 1;
        if self.unheard >= UNHEARD {
            self.unheard = 0;
            self.read_on()?;
        }
        Ok(())
    }

    /// How the server's socket for this connection stands, and the name the kernel has given it; `None` if there is none.
    fn identify(
        &mut self,
        server: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Option<(SocketState, Cookie)>> {
        let mut answer = [0u8; 512];
        let length = self.ask(&Question::about(SOCK_DIAG_BY_FAMILY, server, client), &mut answer)?;
        let message = answer.get(..length).unwrap_or_default();
        let (stands, _) = state(message)?;
        if stands == SocketState::Gone {
            return Ok(None);
        }
        cookie_of(message)
            .map(|cookie| Some((stands, cookie)))
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Ends the socket of that name. Without it the kernel would take what the 4-tuple leads to by then, and for a connection
    /// that has ended in the meantime that is the socket that listens: the server would get no client any more.
    pub(crate) fn destroy_this(
        &mut self,
        server: SocketAddr,
        client: SocketAddr,
        cookie: Cookie,
    ) -> io::Result<()> {
        let mut answer = [0u8; 512];
        let about = Question::about(SOCK_DESTROY, server, client);
        let question = Question { flags: NLM_F_REQUEST | NLM_F_ACK, cookie, ..about };
        let length = self.ask(&question, &mut answer)?;
        carried_out(answer.get(..length).unwrap_or_default())
    }
}

/// What an answer to an order says.
fn carried_out(answer: &[u8]) -> io::Result<()> {
    match error_code(answer) {
        // ESTALE: another socket has the 4-tuple.
        0 | libc::ENOENT | libc::ESTALE => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// An answer to something that nobody waits for any more: a question that failed half-way, or an order that is carried out. If
/// that is an order which could not be carried out, this is why. The kernel sends the order back with it.
pub(super) fn failed_order(answer: &[u8]) -> Option<io::Error> {
    let order = answer.get(HEADER_BYTES + size_of::<u32>()..).unwrap_or_default();
    let is_order = message_type(answer) == Some(NLMSG_ERROR) && message_type(order) == Some(SOCK_DESTROY);
    carried_out(answer).err().filter(|_| is_order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// A listener, and both ends of a connection to it with their addresses, the server's first.
    fn connection(loopback: &str) -> (TcpListener, TcpStream, TcpStream, [SocketAddr; 2]) {
        let listener = TcpListener::bind(loopback).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let ends = [server.local_addr().unwrap(), server.peer_addr().unwrap()];
        (listener, server, client, ends)
    }

    /// That the listener takes connections.
    fn serves(listener: &TcpListener) {
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.accept().unwrap().0.write_all(b"here").unwrap();
        let mut said = [0; 4];
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"here");
    }

    /// The kernel lets root end sockets, if it was built for that.
    fn destroyer() -> Option<SockDiag> {
        let mut diag = SockDiag::open().unwrap();
        let (_listener, _server, _client, [s, c]) = connection("127.0.0.1:0");
        let Err(e) = diag.destroy(s, c, &[SocketState::Alive]) else { return Some(diag) };
        assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "SOCK_DESTROY: {e}");
        println!(
            "SKIPPED: this user or kernel cannot end sockets (CAP_NET_ADMIN, CONFIG_INET_DIAG_DESTROY): {e}"
        );
        None
    }

    #[test]
    fn a_connection_is_ended_and_its_listener_and_others_stay() {
        let Some(mut diag) = destroyer() else { return };
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, mut server, mut client, [s, c]) = connection(loopback);
            diag.destroy(s, c, &[SocketState::TimeWait]).unwrap();
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0]).unwrap();
            diag.destroy(s, c, &[SocketState::Alive]).unwrap();
            let ended = server.read(&mut [0]).unwrap_err();
            assert_eq!(ended.kind(), ErrorKind::ConnectionAborted);
            assert_eq!(diag.socket(s, c).unwrap(), SocketState::Gone);
            serves(&listener);
        }
    }

    #[test]
    fn what_a_look_names_as_a_connections_remains_is_ended_by_that_name() {
        let Some(mut diag) = destroyer() else { return };
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, server, client, [s, c]) = connection(loopback);
            assert_eq!(diag.look(s, c).unwrap().remains, None);
            // Whoever closes first keeps it.
            drop(server);
            drop(client);
            let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
            let remains = loop {
                let remains = diag.look(s, c).unwrap().remains;
                if remains.is_some() || std::time::Instant::now() > until {
                    break remains.unwrap();
                }
                std::thread::yield_now();
            };
            diag.destroy_this(s, c, remains).unwrap();
            assert_eq!(diag.socket(s, c).unwrap(), SocketState::Gone);
            diag.destroy_this(s, c, remains).unwrap();
            serves(&listener);
        }
    }

    #[test]
    fn an_order_is_carried_out_when_it_is_given_and_answers_that_nobody_awaits_are_in_nobodys_way() {
        let Some(mut diag) = destroyer() else { return };
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, server, client, [s, c]) = connection(loopback);
            drop(server);
            drop(client);
            let remains = loop {
                if let Some(remains) = diag.look(s, c).unwrap().remains {
                    break remains;
                }
                std::thread::yield_now();
            };
            diag.order_destroy(s, c, remains).unwrap();
            assert_eq!(SockDiag::open().unwrap().socket(s, c).unwrap(), SocketState::Gone);
            // Each of these is answered that there is no such socket: more than the socket's buffer takes.
            for _ in 0..2000 {
                diag.order_destroy(s, c, remains).unwrap();
            }
            let (_listener, _server, _client, [s, c]) = connection(loopback);
            assert_eq!(diag.socket(s, c).unwrap(), SocketState::Alive);
            diag.order_destroy(s, c, remains).unwrap();
            assert_eq!(diag.look_at([(s, c)]).unwrap().remove(0).unwrap().state, SocketState::Alive);
            assert!(diag.connections(s).unwrap().contains(&c), "and it is not what was ordered away");
            serves(&listener);
        }
    }

    #[test]
    fn of_what_nobody_awaits_orders_that_could_not_be_carried_out_are_told() {
        let answer = |kind: u16, errno: i32, of: u16| {
            let mut answer = vec![0; HEADER_BYTES + 4 + HEADER_BYTES];
            answer[4..6].copy_from_slice(&kind.to_ne_bytes());
            answer[16..20].copy_from_slice(&(-errno).to_ne_bytes());
            answer[24..26].copy_from_slice(&of.to_ne_bytes());
            failed_order(&answer).and_then(|e| e.raw_os_error())
        };
        assert_eq!(answer(NLMSG_ERROR, libc::EOPNOTSUPP, SOCK_DESTROY), Some(libc::EOPNOTSUPP));
        assert_eq!(answer(NLMSG_ERROR, libc::EOPNOTSUPP, SOCK_DIAG_BY_FAMILY), None, "a question");
        assert_eq!(answer(SOCK_DIAG_BY_FAMILY, libc::EOPNOTSUPP, SOCK_DESTROY), None, "an answer");
        for errno in [0, libc::ENOENT, libc::ESTALE] {
            assert_eq!(answer(NLMSG_ERROR, errno, SOCK_DESTROY), None, "nothing is left to end");
        }
        assert!(failed_order(&[]).is_none() && failed_order(&[2; 20]).is_none());
    }

    /// The lookup by a 4-tuple that no connection has finds the listener.
    #[test]
    fn where_only_the_listener_is_left_nothing_is_ended() {
        let Some(mut diag) = destroyer() else { return };
        for (listens, at, stranger) in [
            ("127.0.0.1:0", "127.0.0.1", "127.0.0.9:9"),
            ("[::1]:0", "::1", "[::9]:9"),
            ("[::]:0", "127.0.0.1", "127.0.0.9:9"),
        ] {
            let listener = TcpListener::bind(listens).unwrap();
            let at = SocketAddr::new(at.parse().unwrap(), listener.local_addr().unwrap().port());
            let all = [SocketState::Alive, SocketState::TimeWait, SocketState::Gone];
            diag.destroy(at, stranger.parse().unwrap(), &all).unwrap();
            serves(&listener);
        }
    }

    /// So it is when the connection ends between the question and the order, for the listener and for a connection that has
    /// the 4-tuple since.
    #[test]
    fn what_has_the_4_tuple_of_a_connection_that_ended_meanwhile_stays() {
        let Some(mut diag) = destroyer() else { return };
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, server, client, [s, c]) = connection(loopback);
            let (_, cookie) = diag.identify(s, c).unwrap().unwrap();
            // A reset leaves nothing of it, and no TIME_WAIT.
            socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop((client, server));
            while diag.socket(s, c).unwrap() != SocketState::Gone {
                std::thread::yield_now();
            }
            diag.destroy_this(s, c, cookie).unwrap();
            serves(&listener);
            let again =
                socket2::Socket::new(socket2::Domain::for_address(c), socket2::Type::STREAM, None).unwrap();
            again.bind(&c.into()).unwrap();
            again.connect(&s.into()).unwrap();
            diag.destroy_this(s, c, cookie).unwrap();
            assert_eq!(diag.socket(s, c).unwrap(), SocketState::Alive);
            let (mut server, from) = listener.accept().unwrap();
            assert_eq!(from, c);
            server.write_all(b"here").unwrap();
            let mut said = [0; 4];
            (&again).read_exact(&mut said).unwrap();
            serves(&listener);
        }
    }
}
