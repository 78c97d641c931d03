//! How much of what a server wrote is still in its socket.

use super::{HEADER_BYTES, Question, SOCK_DIAG_BY_FAMILY, SockDiag, number_at, state};
use baton_shared::state::ending::SocketState;
use std::io;
use std::net::SocketAddr;

/// Of `idiag_wqueue` in `struct inet_diag_msg`, behind family to retrans, the socket's identity, expires and rqueue.
const WRITE_QUEUE_AT: usize = HEADER_BYTES + 4 + 48 + 4 + 4;

impl SockDiag {
    /// Bytes the server has written that its client has not acknowledged, sent or not (`write_seq - snd_una`, see
    /// `tcp_diag_get_info` in `net/ipv4/tcp_diag.c`); `None` if there is no socket.
    pub(crate) fn unacknowledged(
        &mut self,
        server: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Option<u32>> {
        let mut answer = [0u8; 512];
        let length = self.ask(&Question::about(SOCK_DIAG_BY_FAMILY, server, client), &mut answer)?;
        let message = answer.get(..length).unwrap_or_default();
        match state(message)? {
            (SocketState::Alive, _) => {
                number_at(message, WRITE_QUEUE_AT).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_was_written_and_not_acknowledged_is_told() {
        let mut diag = SockDiag::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (s, c) = (server.local_addr().unwrap(), server.peer_addr().unwrap());
        assert_eq!(diag.unacknowledged(s, c).unwrap(), Some(0));
        // More than the client's receive buffer takes.
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = server.write(&[7; 65_536]) {
            written += n;
        }
        assert!(diag.unacknowledged(s, c).unwrap().unwrap() > 0);
        let mut all = vec![0; written];
        client.read_exact(&mut all).unwrap();
        let mut left = Some(1);
        for _ in 0..2000 {
            left = diag.unacknowledged(s, c).unwrap();
            if left == Some(0) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(left, Some(0));
        let stranger = "127.0.0.9:9".parse().unwrap();
        assert_eq!(diag.unacknowledged(s, stranger).unwrap(), None);
    }
}
