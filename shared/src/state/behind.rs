//! What a connection may carry behind the request it is given away with, and whose business that is.
//!
//! | `keepalive` | the request | what follows it |
//! |---|---|---|
//! | any but `pinned` | may change the protocol, and its route allows that | the server's, unread; if it declines it closes |
//! | `pinned` | any | the server's, unread |
//! | `tracked` | any whose end is known, and not the client's last | requests, each judged by itself |
//! | `tracked` | any other | nobody's |
//! | `single` | any | nobody's |
//!
//! What is nobody's is dropped (RFC 9112, section 9.6: a server that closes reads no more requests): the client has the
//! response, sees the close, and asks again what it still wants. A request whose end cannot be told beforehand is its
//! connection's last.

use super::later::body_length;
use crate::http::{RequestHead, Tunnel, Version};
use crate::route::KeepAlive;

/// Whose business it is what follows a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The server's that got the request, unread. `close`: it is told to end the connection with its answer.
    Server {
        /// See there.
        close: bool,
    },
    /// Ours: requests, to be judged and routed one by one.
    Requests,
    /// Nobody's: the server is told to end the connection with its answer, and gets no more of it.
    Nothing,
}

impl Behind {
    /// What may follow a request whose route has this `keepalive`.
    pub fn of(head: &RequestHead, keepalive: KeepAlive, tunnel: Tunnel) -> Self {
        match keepalive {
            KeepAlive::Pinned => Behind::Server { close: false },
            _ if tunnel == Tunnel::Allowed => Behind::Server { close: true },
            KeepAlive::Tracked if !is_last(head) && body_length(head).is_some() => Behind::Requests,
            KeepAlive::Tracked | KeepAlive::Single => Behind::Nothing,
        }
    }

    /// Whether the server is to be told that the request is its connection's last.
    pub fn closes(self) -> bool {
        matches!(self, Behind::Server { close: true } | Behind::Nothing)
    }

    /// Whether what the client sends is to be looked at from the request's end on.
    pub fn is_watched(self) -> bool {
        matches!(self, Behind::Requests | Behind::Nothing)
    }

    /// Whether a request behind which `head`'s bytes go on already is better proxied, where each one is answered: the
    /// client may not have known that its connection would end.
    pub fn is_cut(self, head: &RequestHead, bytes: &[u8]) -> bool {
        let knew = self == Behind::Nothing && is_last(head);
        self.closes() && !knew && head.is_followed(bytes)
    }
}

/// Whether the client itself ends the connection with this request (RFC 9112, section 9.3).
fn is_last(head: &RequestHead) -> bool {
    head.connection.close || (head.version == Version::Http10 && !head.connection.keep_alive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HeadLimits, HeadStatus, parse};

    fn behind(request: &str, keepalive: KeepAlive, tunnel: Tunnel) -> (Behind, bool) {
        let bytes = request.as_bytes();
        let HeadStatus::Complete(head) = parse(bytes, &HeadLimits::default()) else { panic!("{request}") };
        let behind = Behind::of(&head, keepalive, tunnel);
        (behind, behind.is_cut(&head, bytes))
    }

    #[test]
    fn it_is_told_whose_business_it_is_what_follows_a_request() {
        use KeepAlive::{Pinned, Single, Tracked};
        const PLAIN: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
        const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        const OLD: &str = "GET / HTTP/1.0\r\n\r\n";
        const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let (unread, closing) = (Behind::Server { close: false }, Behind::Server { close: true });
        for (request, keepalive, expected) in [
            (PLAIN, Tracked, Behind::Requests),
            (PLAIN, Single, Behind::Nothing),
            (PLAIN, Pinned, unread),
            (LAST, Tracked, Behind::Nothing),
            (LAST, Single, Behind::Nothing),
            (LAST, Pinned, unread),
            (OLD, Tracked, Behind::Nothing),
            (CHUNKED, Tracked, Behind::Nothing),
            (CHUNKED, Single, Behind::Nothing),
            (CHUNKED, Pinned, unread),
        ] {
            let found = behind(request, keepalive, Tunnel::Unasked);
            assert_eq!(found, (expected, false), "{keepalive:?} {request}");
            // With another one behind it.
            let cut =
                expected.closes() && !(expected == Behind::Nothing && (request == LAST || request == OLD));
            let found = behind(&format!("{request}GET / HTTP/1.1\r\n"), keepalive, Tunnel::Ignored);
            assert_eq!(found, (expected, cut), "{keepalive:?} {request}");
        }
        for (keepalive, expected) in [(Tracked, closing), (Single, closing), (Pinned, unread)] {
            assert_eq!(behind(PLAIN, keepalive, Tunnel::Allowed).0, expected, "a protocol of its own");
        }
    }
}
