//! Plain responses: those so simple that whoever merely passes bytes on may see where they end.
//!
//! What is plain in a response's head is judged as in a request ([`super`]), byte by byte and without a branch:
//! - the status line of `200` or `206` in HTTP/1.1 (RFC 9112, section 4), which have content, unless `HEAD` was asked;
//! - header lines as those of a plain request;
//! - one `Content-Length` (6.2) of at most [`LENGTH_DIGITS`] digits;
//! - `Connection` as `keep-alive` alone (9.3);
//! - none of the names in [`UNPLAIN_NAMES`].
//!
//! Who finds one plain knows what [`ResponseStream`](crate::http::ResponseStream) would find, which reads all of it, and takes
//! what is not plain as well.

use super::table::{CLASSES, DEAD, DONE, IN_HEAD, IN_LENGTH, NEXT_OF_RESPONSE, ROW, START, TRAITS};
use super::{PLACE, STATE};

/// The longest head that is plain, in bytes. The scanner does not count: who calls it gives no more.
pub const PLAIN_HEAD_BYTES: u32 = 1024;
/// The most digits of a plain length: what it says, and a head, lie within half of the sequence space.
pub const LENGTH_DIGITS: u32 = 9;

/// Names, in small letters, of which no plain head has one.
pub const UNPLAIN_NAMES: [&str; 1] = ["transfer-encoding"];

/// One byte passed, in [`HeadScanner`]'s bits.
const ONE_BYTE: u32 = STATE + 1;

/// Goes over a head byte by byte, from its first one, and over what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadScanner {
    /// The state of the table; above it the number of bytes behind which the head went on.
    state: u32,
    content: u32,
}

impl Default for HeadScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl HeadScanner {
    /// In front of a response.
    #[inline(always)]
    pub const fn new() -> Self {
        HeadScanner { state: START as u32, content: 0 }
    }

    /// Behind the next byte.
    // Without a branch, and with the mask last, on bits that both sides have more of: see `PlainScanner::advance`.
    #[inline(always)]
    #[must_use]
    pub fn advance(self, byte: u8) -> Self {
        let class = u32::from(CLASSES.get(usize::from(byte)).copied().unwrap_or_default());
        let place = (self.state.wrapping_mul(ROW) | class) & PLACE;
        let next = NEXT_OF_RESPONSE.get(place as usize).copied().unwrap_or(DEAD);
        let traits = u32::from(TRAITS.get(usize::from(next)).copied().unwrap_or_default());
        let is_digit = traits / u32::from(IN_LENGTH);
        let tens = self.content.wrapping_mul(is_digit.wrapping_mul(9).wrapping_add(1));
        let passed = (self.state & !STATE).wrapping_add((traits & u32::from(IN_HEAD)).wrapping_mul(ONE_BYTE));
        HeadScanner {
            state: passed | u32::from(next),
            content: tens.wrapping_add(u32::from(byte & 15).wrapping_mul(is_digit)),
        }
    }

    /// Whether what follows is of no importance: the head is complete, or these bytes begin none that is plain.
    #[inline(always)]
    pub const fn is_settled(self) -> bool {
        const { assert!(DEAD == 0 && DONE == 2 && START == 1) }
        self.state & STATE & !(DONE as u32) == 0
    }

    /// The length of the plain head that the bytes begin with, if they are at most [`PLAIN_HEAD_BYTES`], and of the content behind
    /// it, bytes.
    #[inline(always)]
    pub const fn found(self) -> Option<(u32, u32)> {
        let is_done = self.state & STATE == DONE as u32;
        if is_done { Some(((self.state / ONE_BYTE).wrapping_add(1), self.content)) } else { None }
    }
}

/// The length of the plain head that `bytes` begin with, and of the content behind it, bytes.
pub fn head(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut scanner = HeadScanner::new();
    for (_, byte) in (0..PLAIN_HEAD_BYTES).zip(bytes) {
        scanner = scanner.advance(*byte);
        if scanner.is_settled() {
            break;
        }
    }
    scanner.found()
}

#[cfg(all(test, feature = "std"))]
mod tests;
