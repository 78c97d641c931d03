//! Requests after which the connection may speak another protocol: `Upgrade` and CONNECT.
//!
//! They go through only where the configuration says so, for behind them nothing can be judged any more. An upgrade that
//! may not be is no error: the request goes on as if it had not asked (RFC 9110, section 7.8), and the server, which never
//! sees the question, cannot say yes. CONNECT is nothing without its tunnel, so it is refused.

use super::{Framing, RequestHead};
use std::sync::Arc;

/// What a route lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// Protocols, as the `Upgrade` header names them; compared without regard to case.
    pub upgrade: Arc<[String]>,
    /// CONNECT.
    pub connect: bool,
}

/// What becomes of a request's wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// It has none.
    Unasked,
    /// The server may say yes.
    Allowed,
    /// The server gets the request without [`UPGRADE_LINES`].
    Ignored,
    /// To be answered 501.
    Refused,
}

/// Header lines, and options of `Connection`, that ask for an upgrade.
pub const UPGRADE_LINES: [&str; 2] = ["upgrade", "http2-settings"];

/// Why the configuration may not name a protocol.
pub fn check_upgrade(protocol: &str) -> Result<(), String> {
    if !super::is_token_text(protocol) {
        return Err(format!("{protocol:?} is no protocol's name, such as \"websocket\""));
    }
    let lower = protocol.to_ascii_lowercase();
    if ["h2", "h2c", "http", "tls"].contains(&lower.as_str()) {
        return Err(format!(
            "upgrade to {protocol:?} would let requests past the routes: HTTP/2 is spoken on listeners of protocol \"https\""
        ));
    }
    Ok(())
}

impl Tunnels {
    /// `bytes` are those `head` was parsed from.
    pub fn judge(&self, head: &RequestHead, bytes: &[u8]) -> Tunnel {
        if head.connect {
            return if self.connect { Tunnel::Allowed } else { Tunnel::Refused };
        }
        if !head.upgrade && !head.connection.upgrade {
            return Tunnel::Unasked;
        }
        let no_body = matches!(head.framing, Framing::None | Framing::Length(0));
        let allowed = no_body && head.may_switch() && self.names(head, bytes);
        if allowed { Tunnel::Allowed } else { Tunnel::Ignored }
    }

    /// Whether the request names one protocol, and it is one of ours.
    fn names(&self, head: &RequestHead, bytes: &[u8]) -> bool {
        let whole = bytes.get(head.start..head.head_len).unwrap_or_default();
        let mut wanted = whole.split(|b| *b == b'\n').filter_map(|line| {
            let (name, value) = line.split_at_checked(line.iter().position(|b| *b == b':')?)?;
            name.eq_ignore_ascii_case(b"upgrade").then(|| value.get(1..).unwrap_or_default().trim_ascii())
        });
        match (wanted.next(), wanted.next()) {
            (Some(one), None) => self.upgrade.iter().any(|p| p.as_bytes().eq_ignore_ascii_case(one)),
            _ => false,
        }
    }
}

/// Whether the connection is a tunnel behind a response with this status. `connect`: to CONNECT, with which 101 means nothing.
pub const fn is_switch(status: u16, connect: bool) -> bool {
    matches!((status, connect), (101, false) | (200..=299, true))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test's panic is its report")]
mod tests {
    use super::super::{Edits, HeadLimits, HeadStatus, canonical, parse};
    use super::*;

    fn head(text: &str) -> RequestHead {
        let limits = HeadLimits { connect: true, ..HeadLimits::default() };
        match parse(text.as_bytes(), &limits) {
            HeadStatus::Complete(head) => head,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn judged(tunnels: &Tunnels, lines: &str) -> Tunnel {
        let text = format!("GET /x HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
        tunnels.judge(&head(&text), text.as_bytes())
    }

    #[test]
    fn a_connection_is_a_tunnel_behind_101_and_behind_success_of_connect() {
        for (status, connect, want) in [
            (101, false, true),
            (101, true, false),
            (200, true, true),
            (299, true, true),
            (200, false, false),
            (302, true, false),
            (502, true, false),
        ] {
            assert_eq!(is_switch(status, connect), want, "{status} {connect}");
        }
    }

    #[test]
    fn only_what_the_route_names_goes_through() {
        let none = Tunnels::default();
        let web = Tunnels { upgrade: Arc::new(["websocket".to_owned()]), connect: false };
        let ask = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n";
        for (tunnels, lines, expected) in [
            (&web, "", Tunnel::Unasked),
            (&web, ask, Tunnel::Allowed),
            (&none, ask, Tunnel::Ignored),
            (&web, "Upgrade: websocket\r\n", Tunnel::Ignored),
            (&web, "Connection: upgrade\r\n", Tunnel::Ignored),
            (&web, "Connection: upgrade\r\nUpgrade: h2c\r\n", Tunnel::Ignored),
            (&web, "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n", Tunnel::Ignored),
            (&web, "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", Tunnel::Ignored),
            (&web, "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", Tunnel::Ignored),
        ] {
            assert_eq!(judged(tunnels, lines), expected, "{lines:?}");
        }
        let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(web.judge(&head(old), old.as_bytes()), Tunnel::Ignored);
        let connect = "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(web.judge(&head(connect), connect.as_bytes()), Tunnel::Refused);
        let tunnels = Tunnels { connect: true, ..web };
        assert_eq!(tunnels.judge(&head(connect), connect.as_bytes()), Tunnel::Allowed);
    }

    #[test]
    fn an_ignored_wish_does_not_reach_the_server() {
        let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, x-mine\r\nUpgrade: h2c\r\n\
                    HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nX-Mine: 1\r\n\r\n";
        let edits = Edits { remove: UPGRADE_LINES.map(str::to_owned).to_vec(), ..Edits::default() };
        let out = canonical(text.as_bytes(), &head(text), &edits, false);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET / HTTP/1.1\r\nConnection: x-mine\r\nHost: h\r\nX-Mine: 1\r\n\r\n"
        );
    }

    #[test]
    fn protocols_that_would_carry_requests_past_the_routes_cannot_be_named() {
        assert!(check_upgrade("websocket").is_ok());
        for wrong in ["h2c", "H2C", "http", "TLS", "", "a b"] {
            assert!(check_upgrade(wrong).is_err(), "{wrong}");
        }
    }
}
