//! Many connections asked about at once: two system calls for all of them.

use super::info::{LOOK, Looked, looked};
use super::{Question, REQUEST_BYTES, SOCK_DIAG_BY_FAMILY, SockDiag, number_at, pass_over, sys};
use std::io;
use std::net::SocketAddr;

/// How many are asked about in one message. Their answers wait in the socket's buffer: it takes far more.
pub(crate) const AT_ONCE: usize = 32;
/// Room for one answer.
const ANSWER_BYTES: usize = 1024;

/// Room for all answers to one message.
pub(super) type Answers = Box<[[u8; ANSWER_BYTES]]>;

pub(super) fn answers() -> Answers {
    vec![[0; ANSWER_BYTES]; AT_ONCE].into_boxed_slice()
}

impl SockDiag {
    /// [`SockDiag::look`] for each of at most [`AT_ONCE`] connections, server and client; more are passed over. What the kernel
    /// told of each, in their order.
    pub(crate) fn look_at(
        &mut self,
        connections: impl IntoIterator<Item = (SocketAddr, SocketAddr)>,
    ) -> io::Result<Vec<io::Result<Looked>>> {
        let first = self.sequence.wrapping_add(1);
        let mut questions = Vec::with_capacity(AT_ONCE * REQUEST_BYTES);
        for (server, client) in connections.into_iter().take(AT_ONCE) {
            self.sequence = self.sequence.wrapping_add(1);
            let question =
                Question { attributes: LOOK, ..Question::about(SOCK_DIAG_BY_FAMILY, server, client) };
            questions.extend_from_slice(&question.encode(self.sequence));
        }
        let asked = questions.len() / REQUEST_BYTES;
        let mut all: Vec<io::Result<Looked>> = Vec::with_capacity(asked);
        if asked == 0 {
            return Ok(all);
        }
        sys::send(&self.socket, &questions)?;
        while all.len() < asked {
            let received = sys::receive_many(&self.socket, &mut self.answers, true)?;
            for (answer, length) in self.answers.iter().zip(received) {
                let message = answer.get(..length).unwrap_or_default();
                let place = number_at(message, 8).map(|number| number.wrapping_sub(first));
                // They come in the order of the questions, behind answers to earlier ones that failed half-way.
                let place = place.and_then(|place| usize::try_from(place).ok());
                if let Some(place) = place.filter(|place| (all.len()..asked).contains(place)) {
                    all.resize_with(place, || Err(io::ErrorKind::TimedOut.into()));
                    all.push(looked(message));
                } else {
                    pass_over(message);
                }
            }
        }
        // They come in order: what is older has been read.
        self.unheard = 0;
        Ok(all)
    }

    /// Reads what answers there are, for nobody.
    pub(super) fn read_on(&mut self) -> io::Result<()> {
        loop {
            let received = sys::receive_many(&self.socket, &mut self.answers, false)?;
            for (answer, length) in self.answers.iter().zip(&received) {
                pass_over(answer.get(..*length).unwrap_or_default());
            }
            if received.len() < AT_ONCE {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::state::ending::SocketState;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn each_of_many_is_told_what_it_is_told_alone_and_in_its_order() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let mut diag = SockDiag::open().unwrap();
            let listener = TcpListener::bind(loopback).unwrap();
            let server = listener.local_addr().unwrap();
            let clients: Vec<_> = (0..AT_ONCE + 3).map(|_| TcpStream::connect(server).unwrap()).collect();
            let accepted: Vec<_> = clients.iter().map(|_| listener.accept().unwrap()).collect();
            let stranger = SocketAddr::new(server.ip(), 9);
            // Every third is nobody's.
            let asked: Vec<_> = accepted
                .iter()
                .enumerate()
                .map(|(at, (_, client))| (server, if at % 3 == 2 { stranger } else { *client }))
                .collect();
            assert!(diag.look_at([]).unwrap().is_empty());
            // What an earlier question was answered and nobody has read is passed over.
            diag.send(&Question::about(SOCK_DIAG_BY_FAMILY, server, stranger)).unwrap();
            let looked = diag.look_at(asked.iter().copied()).unwrap();
            assert_eq!(looked.len(), AT_ONCE, "as many as fit");
            for (at, looked) in looked.into_iter().enumerate() {
                let (looked, alone) = (looked.unwrap(), diag.look(asked[at].0, asked[at].1).unwrap());
                let expected = if at % 3 == 2 { SocketState::Gone } else { SocketState::Alive };
                assert_eq!((looked.state, alone.state), (expected, expected), "{at}");
                assert_eq!(
                    (looked.tcp_state, looked.info.is_some()),
                    (alone.tcp_state, alone.info.is_some())
                );
            }
        }
    }
}
