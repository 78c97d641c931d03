//! What a choice may depend on.

use baton_shared::balance::{hash, source_key};
use baton_shared::route::{RequestFacts, any_cookie};
use std::net::SocketAddr;

/// A request, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct PickFacts<'a> {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The address and port it connected to.
    pub vip: SocketAddr,
    /// What it asks for.
    pub request: RequestFacts<'a>,
}

/// What the rules by hash go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address, without its port.
    #[default]
    Source,
    /// Path and query.
    Uri,
    /// The value of a header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

impl HashOn {
    /// From `source`, `uri`, `header:NAME` or `cookie:NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "source" => Some(HashOn::Source),
            None if text == "uri" => Some(HashOn::Uri),
            Some(("header", name)) if is_token(name) => Some(HashOn::Header(name.to_owned())),
            Some(("cookie", name)) if is_token(name) => Some(HashOn::Cookie(name.to_owned())),
            _ => None,
        }
    }

    /// The request's key; `None` if it has no such header or cookie.
    pub fn key(&self, facts: &PickFacts<'_>) -> Option<u64> {
        match self {
            HashOn::Source => Some(source_key(facts.client.ip())),
            HashOn::Uri if facts.request.path.is_empty() => None,
            HashOn::Uri if facts.request.query.is_empty() => Some(hash(facts.request.path.as_bytes())),
            HashOn::Uri => Some(hash(format!("{}?{}", facts.request.path, facts.request.query).as_bytes())),
            HashOn::Header(name) => {
                let mut key = None;
                facts.request.headers.any(name, &mut |value| {
                    key = Some(hash(value));
                    true
                });
                key
            }
            HashOn::Cookie(name) => {
                let mut key = None;
                facts.any_cookie(name, &mut |value| {
                    key = Some(hash(value));
                    true
                });
                key
            }
        }
    }
}

/// A name of a header or a cookie (RFC 9110, section 5.6.2).
pub(crate) fn is_token(name: &str) -> bool {
    let special = b"!#$%&'*+-.^_`|~";
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || special.contains(&b))
}

impl PickFacts<'_> {
    /// Whether a cookie of this name has this value; of several it is enough that one has.
    pub fn cookie_is(&self, name: &str, value: &str) -> bool {
        self.any_cookie(name, &mut |found| found == value.as_bytes())
    }

    fn any_cookie(&self, name: &str, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        any_cookie(self.request.headers, name, &mut |value| {
            value.is_some_and(|value| {
                test(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
            })
        })
    }
}
