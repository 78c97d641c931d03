//! Plain requests: later requests so simple that whoever merely passes bytes on may judge them.
//!
//! A plain request is a whole one, nothing in front and nothing behind, that passes the gate ([`crate::http`]), has no
//! body, and asks nothing of the connection: a `GET` in origin form of HTTP/1.1 with one `Host` and no header on which
//! the message, the connection or the next protocol rests. Whoever finds one knows what the gate, the request stream and
//! the router would have found, without them. What is not plain need not be wrong: it is for them to judge. And what the
//! configuration makes of a plain request (where it goes, what is changed in it, limits that are narrower) is not said here.
//!
//! The packet programs call this byte by byte in a bounded loop, on kernels that follow every branch of it. So a step
//! has none: it is two loads from tables that are made from the description below while this is compiled.
//!
//! Plain is (sections of RFC 9112 unless said otherwise):
//! - the request line `GET /target HTTP/1.1` (3), of the bytes that the gate takes. In the path no segment is `.` or
//!   `..`, nothing is a parameter (`;`), and no escape stands for a dot, a slash, a backslash, a semicolon or a byte below
//!   16 (RFC 3986, section 6.2.2: then there is one way to read it); behind `?` stands what will;
//! - lines of a name of letters, digits and `-`, a colon, and a value of visible ASCII, spaces and tabs (5); with CRLF, and
//!   none is folded (5.2);
//! - one `Host` (3.2): labels of letters, digits, `-` and `_`, none empty, and perhaps a port of at most 64999 without a zero
//!   in front;
//! - `Connection` as `keep-alive` alone (9.3), which says what goes without saying;
//! - none of the names in [`UNPLAIN_NAMES`] and [`UNPLAIN_BEGINNINGS`].

pub mod response;
mod table;

use table::{CLASSES, DEAD, DONE, LINE, NEXT, PLACES, ROW, START};

/// The longest plain request, in bytes. The scanner does not count: who calls it gives no more.
pub const PLAIN_BYTES: u32 = 1024;

/// The most header lines of a plain request.
pub const PLAIN_LINES: u32 = 64;

/// Line feeds beside those of header lines: the request line's and the empty line's.
const OTHER_LINES: u32 = 2;

/// The state of the table; above it the number of line feeds seen.
const STATE: u32 = 0xff;
/// One line feed, in [`PlainScanner`]'s bits.
const ONE_LINE: u32 = STATE + 1;
/// [`LINE`] in a class is that if divided by this; what else is in a class is nothing.
const LINE_DOWN: u32 = LINE as u32 / ONE_LINE;
/// All bits of a place in the table.
const PLACE: u32 = PLACES - 1;

/// Names, in small letters, of which no plain request has one.
pub const UNPLAIN_NAMES: [&str; 7] =
    ["content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// And beginnings of such names: `Proxy-Connection` and its kin (and `Proxy`, which CGI takes for a setting), `HTTP2-Settings`,
/// `Sec-WebSocket-Key` and its kin.
pub const UNPLAIN_BEGINNINGS: [&str; 3] = ["http2-", "proxy", "sec-websocket"];

/// Goes over a request byte by byte, from its first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainScanner(u32);

impl Default for PlainScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl PlainScanner {
    /// In front of a request.
    #[inline(always)]
    pub const fn new() -> Self {
        PlainScanner(START as u32)
    }

    /// Behind the next byte.
    // The mask comes last, on bits that both sides have more of, so that the compiler needs it as well: kernels up to 6.1 lose
    // what they know of two numbers at an OR, and 5.10 what it knows of a state that it has to keep on the stack.
    #[inline(always)]
    #[must_use]
    pub fn advance(self, byte: u8) -> Self {
        let class = u32::from(CLASSES.get(usize::from(byte)).copied().unwrap_or_default());
        let place = (self.0.wrapping_mul(ROW) | class) & PLACE;
        let next = NEXT.get(place as usize).copied().unwrap_or(DEAD);
        let lines = (self.0 & !STATE).wrapping_add(class / LINE_DOWN);
        PlainScanner(lines | u32::from(next))
    }

    /// Whether these bytes are no plain request, whatever follows.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        self.0 & STATE == DEAD as u32
    }

    /// Whether the bytes so far are a plain request, if they are at most [`PLAIN_BYTES`]. One byte more, and they are not.
    #[inline(always)]
    pub const fn is_plain(self) -> bool {
        self.0 & STATE == DONE as u32 && self.0 / ONE_LINE <= PLAIN_LINES + OTHER_LINES
    }
}

/// Whether the bytes are one plain request.
pub fn is_plain(bytes: &[u8]) -> bool {
    let fits = u32::try_from(bytes.len()).is_ok_and(|length| length <= PLAIN_BYTES);
    fits && bytes.iter().fold(PlainScanner::new(), |scanner, byte| scanner.advance(*byte)).is_plain()
}

/// Whether limits are such that none of them stands against a plain request: else the gate may refuse one.
#[cfg(feature = "std")]
pub fn are_wide_enough(limits: &crate::http::HeadLimits) -> bool {
    let holds = |limit: usize, most: u32| u32::try_from(limit).map_or(true, |limit| limit >= most);
    holds(limits.head_bytes, PLAIN_BYTES)
        && holds(limits.target_bytes, PLAIN_BYTES)
        && holds(limits.header_count, PLAIN_LINES)
}

#[cfg(all(test, feature = "std"))]
mod tests;
