//! What the first bytes of a TLS connection say to whoever stands in front of the server: the ClientHello's server name
//! and protocols. The rest of the connection stays closed to us.

mod client_hello;
mod reader;
#[cfg(test)]
mod tests;

pub use client_hello::ClientHello;
pub use reader::{HelloReader, HelloStatus};

/// Why the first bytes are no ClientHello to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloFault {
    /// The bytes are not a TLS handshake record with a ClientHello in it.
    NotTls,
    /// It does not end within the limit.
    TooLong,
    /// It contradicts itself, or two readers could take it in two ways.
    Malformed,
}

impl HelloFault {
    /// For the log.
    pub const fn detail(self) -> &'static str {
        match self {
            HelloFault::NotTls => "not a TLS ClientHello",
            HelloFault::TooLong => "the ClientHello is too long",
            HelloFault::Malformed => "malformed ClientHello",
        }
    }

    /// The fatal alert to answer with (RFC 8446, section 6.2); none to who does not speak TLS.
    pub const fn alert(self) -> Option<Alert> {
        match self {
            HelloFault::NotTls => None,
            HelloFault::TooLong | HelloFault::Malformed => Some(Alert::DecodeError),
        }
    }
}

/// A fatal alert that can be sent before any key is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The message could not be read.
    DecodeError = 50,
    /// Nobody here is responsible for that server name.
    UnrecognizedName = 112,
}

impl Alert {
    /// The whole record.
    pub const fn record(self) -> [u8; 7] {
        const ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}
