//! What is changed in the header of a request on its way to the server.

use super::is_token_text;
use super::traceparent::TraceParent;
use crate::route::HeaderLines;
use core::fmt::Write;
use core::net::IpAddr;

/// How the server is told who asked.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarded {
    /// Not at all.
    #[default]
    Off,
    /// By `X-Forwarded-For`, `-Proto` and `-Host`.
    XForwarded,
    /// By `Forwarded` (RFC 7239).
    Forwarded,
}

/// The changes of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// The header has this value and no other.
    pub set: Vec<(String, String)>,
    /// A line more.
    pub add: Vec<(String, String)>,
    /// No such line.
    pub remove: Vec<String>,
    /// How the server is told who asked.
    pub forwarded: Forwarded,
    /// A request without a valid `traceparent` (W3C Trace Context) gets one.
    pub traceparent: bool,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client.
    pub client: IpAddr,
    /// It came over TLS that ended here.
    pub secure: bool,
    /// Its host as it said it, with the port.
    pub authority: Option<&'a str>,
}

/// Numbers for a trace that begins here; random, neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceIds {
    /// Of the trace.
    pub trace: u128,
    /// Of the request in it.
    pub parent: u64,
}

/// Lines to take out, by name, and lines to put in after that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Names, compared without regard to case.
    pub remove: Vec<String>,
    /// Names and values.
    pub append: Vec<(String, Vec<u8>)>,
}

/// Headers on which the message or the connection rests, or that are made elsewhere: no configuration changes them.
const UNTOUCHABLE: [&str; 10] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "expect",
    "http2-settings",
];

/// Whether the configuration may set (or add, or remove) a header, and this value; else why not.
pub fn check_change(name: &str, value: Option<&str>) -> Result<(), String> {
    if !is_token_text(name) {
        return Err(format!("{name:?} is no header name: letters, digits and !#$%&'*+-.^_`|~ make one"));
    }
    if UNTOUCHABLE.iter().any(|other| name.eq_ignore_ascii_case(other)) {
        return Err(format!("{name} cannot be changed: the message or the connection rests on it"));
    }
    let Some(value) = value else { return Ok(()) };
    if !value.bytes().all(|b| matches!(b, b'\t' | 0x20..=0x7e | 0x80..=0xff)) {
        return Err(format!("the value of {name} has a control character"));
    }
    // The gate knows which names some server takes for another one.
    let host = if name.eq_ignore_ascii_case("host") { "" } else { "Host: a\r\n" };
    let head = format!("GET / HTTP/1.1\r\n{host}{name}: {value}\r\n\r\n");
    match super::parse(head.as_bytes(), &super::HeadLimits::default()) {
        super::HeadStatus::Complete(_) => Ok(()),
        super::HeadStatus::Bad(verdict) => {
            Err(format!("{name}: {value:?} is nothing a server should see: {}", verdict.detail))
        }
        super::HeadStatus::Incomplete => Err(format!("{name}: {value:?} is no header line")),
    }
}

impl HeaderChanges {
    /// Whether every request stays as it is.
    pub fn is_empty(&self) -> bool {
        *self == HeaderChanges::default()
    }

    /// What is to be done with a request that has these header lines.
    pub fn edits(&self, lines: &dyn HeaderLines, origin: &Origin<'_>, ids: TraceIds) -> Edits {
        let mut edits = Edits { remove: self.remove.clone(), append: Vec::new() };
        for (name, value) in &self.set {
            edits.set(name, value.as_bytes().to_vec());
        }
        let added = self.add.iter().map(|(name, value)| (name.clone(), value.as_bytes().to_vec()));
        edits.append.extend(added);
        match self.forwarded {
            Forwarded::Off => {}
            Forwarded::XForwarded => edits.x_forwarded(lines, origin),
            Forwarded::Forwarded => edits.forwarded(lines, origin),
        }
        if self.traceparent {
            edits.traceparent(lines, ids);
        }
        edits
    }
}

impl Edits {
    fn set(&mut self, name: &str, value: Vec<u8>) {
        self.remove.push(name.to_owned());
        self.append.push((name.to_owned(), value));
    }

    /// One line of what the lines of this name list, and of one element more.
    fn extend(&mut self, name: &str, lines: &dyn HeaderLines, element: &str) {
        let mut list = Vec::new();
        lines.any(name, &mut |value| {
            if !value.is_empty() {
                list.extend_from_slice(value);
                list.extend_from_slice(b", ");
            }
            false
        });
        list.extend_from_slice(element.as_bytes());
        self.set(name, list);
    }

    fn x_forwarded(&mut self, lines: &dyn HeaderLines, origin: &Origin<'_>) {
        self.extend("X-Forwarded-For", lines, &origin.client.to_string());
        self.set("X-Forwarded-Proto", scheme(origin).as_bytes().to_vec());
        match origin.authority {
            Some(authority) => self.set("X-Forwarded-Host", authority.as_bytes().to_vec()),
            None => self.remove.push("X-Forwarded-Host".to_owned()),
        }
    }

    fn forwarded(&mut self, lines: &dyn HeaderLines, origin: &Origin<'_>) {
        let mut element = match origin.client {
            IpAddr::V4(v4) => format!("for={v4}"),
            IpAddr::V6(v6) => format!("for=\"[{v6}]\""),
        };
        let _ = write!(element, ";proto={}", scheme(origin));
        if let Some(authority) = origin.authority {
            // The gate lets no quote into a host.
            let _ = write!(element, ";host=\"{authority}\"");
        }
        self.extend("Forwarded", lines, &element);
    }

    /// Kept if there is one valid; else the trace begins here, and what the other one's state says goes with it.
    fn traceparent(&mut self, lines: &dyn HeaderLines, ids: TraceIds) {
        if TraceParent::of(lines).is_none() {
            self.remove.push("tracestate".to_owned());
            self.set("traceparent", format!("00-{:032x}-{:016x}-01", ids.trace, ids.parent).into_bytes());
        }
    }
}

fn scheme(origin: &Origin<'_>) -> &'static str {
    if origin.secure { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_message_rests_on_and_what_would_end_a_line_cannot_be_changed() {
        assert_eq!(check_change("X-Env", Some("prod, \"a\"; \u{e4}")), Ok(()));
        assert_eq!(check_change("Host", Some("internal.example:8080")), Ok(()));
        for (name, value, part) in [
            ("Content-Length", Some("0"), "cannot be changed"),
            ("transfer-encoding", None, "cannot be changed"),
            ("Connection", Some("close"), "cannot be changed"),
            ("X Y", Some("1"), "is no header name"),
            ("", None, "is no header name"),
            ("X-A", Some("1\r\nX-B: 2"), "control character"),
            ("X-A", Some("\u{0}"), "control character"),
            ("Host", Some("a b"), "nothing a server should see"),
            ("Content_Length", Some("1"), "nothing a server should see"),
        ] {
            let said = check_change(name, value).unwrap_err();
            assert!(said.contains(part), "{name} {value:?}: {said}");
        }
    }
}
