//! A ClientHello, record by record: it may come in any number of segments and span several records.

use super::{ClientHello, HelloFault};

/// Bytes of a record's header (RFC 8446, section 5.1).
const RECORD_HEADER: usize = 5;
/// The most plaintext in one record.
const RECORD_BYTES: usize = 1 << 14;
/// Bytes of a handshake message's header.
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// What the bytes that have arrived are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloStatus {
    /// So far nothing is wrong; more is needed.
    Incomplete,
    /// The ClientHello is there. What follows it in the bytes is the server's business.
    Complete(ClientHello),
    /// Nothing to go by.
    Bad(HelloFault),
}

/// Goes over the bytes as they arrive; each is looked at once however they are cut, and the verdict does not depend
/// on how they are.
#[derive(Clone, Debug, Default)]
pub struct HelloReader {
    /// Bytes looked at.
    at: usize,
    /// Of the present record, bytes to come.
    record_left: usize,
    /// The handshake message so far, put together from the records.
    message: Vec<u8>,
}

impl HelloReader {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at what is new in `bytes`, which begin with the connection's first byte and hold all that has arrived.
    /// A ClientHello that takes more than `limit` bytes with its records' headers is refused.
    pub fn status(&mut self, bytes: &[u8], limit: usize) -> HelloStatus {
        match self.advance(bytes, limit) {
            Ok(None) => HelloStatus::Incomplete,
            Ok(Some(hello)) => HelloStatus::Complete(hello),
            Err(fault) => HelloStatus::Bad(fault),
        }
    }

    fn advance(&mut self, bytes: &[u8], limit: usize) -> Result<Option<ClientHello>, HelloFault> {
        loop {
            if self.record_left == 0 && !self.next_record(bytes)? {
                return self.within(limit);
            }
            let rest = bytes.get(self.at..).unwrap_or_default();
            let here = rest.get(..self.record_left).unwrap_or(rest);
            if here.is_empty() {
                return self.within(limit);
            }
            self.message.extend_from_slice(here);
            self.at += here.len();
            self.record_left -= here.len();
            let Some(end) = self.message_end()? else { continue };
            if end + RECORD_HEADER > limit {
                return Err(HelloFault::TooLong);
            }
            // A ClientHello ends its record: nothing else can be said before the server's answer.
            if self.message.len() > end || (self.message.len() == end && self.record_left > 0) {
                return Err(HelloFault::Malformed);
            }
            if self.message.len() == end {
                let body = self.message.get(MESSAGE_HEADER..).unwrap_or_default();
                return if self.at > limit {
                    Err(HelloFault::TooLong)
                } else {
                    ClientHello::parse(body).map(Some)
                };
            }
        }
    }

    fn within(&self, limit: usize) -> Result<Option<ClientHello>, HelloFault> {
        if self.at >= limit { Err(HelloFault::TooLong) } else { Ok(None) }
    }

    /// Goes past a record's header; `false` if it is not all there.
    fn next_record(&mut self, bytes: &[u8]) -> Result<bool, HelloFault> {
        let header = bytes.get(self.at..).unwrap_or_default();
        // Whoever speaks something else is told so at his first byte that is wrong.
        let fault = if self.at == 0 { HelloFault::NotTls } else { HelloFault::Malformed };
        for (byte, right) in header.iter().zip([|b| b == HANDSHAKE, |b| b == 3, |b| b <= 4]) {
            if !right(*byte) {
                return Err(fault);
            }
        }
        let Some([_, _, _, high, low]) = header.get(..RECORD_HEADER) else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if !(1..=RECORD_BYTES).contains(&length) {
            return Err(fault);
        }
        self.at += RECORD_HEADER;
        self.record_left = length;
        Ok(true)
    }

    /// How long the handshake message will be, with its header, as soon as that is known.
    fn message_end(&self) -> Result<Option<usize>, HelloFault> {
        match self.message.first() {
            None => return Ok(None),
            Some(&CLIENT_HELLO) => {}
            Some(_) => return Err(HelloFault::NotTls),
        }
        let Some([_, a, b, c]) = self.message.get(..MESSAGE_HEADER) else { return Ok(None) };
        let length = u32::from_be_bytes([0, *a, *b, *c]);
        Ok(Some(MESSAGE_HEADER.saturating_add(usize::try_from(length).unwrap_or(usize::MAX))))
    }
}
