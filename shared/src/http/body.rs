//! Where a request's body ends.

use super::scan::is_token;
use super::{Framing, GateRule};

/// Chunk extensions of one chunk, bytes; nobody uses them but to exhaust readers.
const EXTENSION_BYTES: usize = 256;
/// All trailers together, bytes.
const TRAILER_BYTES: usize = 8192;
/// Hexadecimal digits of a chunk's size: 60 bits, so nothing overflows in any reader.
const SIZE_DIGITS: usize = 15;

/// Where in a chunked body (RFC 9112, section 7.1) the scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName(Name),
    Trailer,
    TrailerLf,
    EndLf,
}

/// How a trailer's name has gone on as one of [`FORBIDDEN`]: a bit for each that it may still be, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name {
    may_be: u8,
    length: u8,
}

/// Fields that frame or route a message: behind its body they could only contradict its head.
const FORBIDDEN: [&[u8]; 5] =
    [b"content-length", b"transfer-encoding", b"host", b"content-encoding", b"connection"];

impl Name {
    const START: Name = Name { may_be: (1 << FORBIDDEN.len()) - 1, length: 0 };

    fn with(mut self, byte: u8) -> Name {
        for (n, name) in FORBIDDEN.iter().enumerate() {
            if name.get(usize::from(self.length)) != Some(&byte.to_ascii_lowercase()) {
                self.may_be &= !(1 << n);
            }
        }
        self.length = self.length.saturating_add(1);
        self
    }

    fn is_forbidden(self) -> bool {
        let whole =
            |(n, name): (usize, &&[u8])| self.may_be & 1 << n != 0 && name.len() == usize::from(self.length);
        FORBIDDEN.iter().enumerate().any(whole)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    /// So many bytes to come.
    Length(u64),
    Chunked {
        at: Chunk,
        /// The present chunk's size, then its bytes to come.
        left: u64,
        /// Bytes of the present size, extension or of all trailers.
        count: usize,
    },
}

/// Follows a body to its end without keeping it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyScanner(State);

impl BodyScanner {
    /// At the start of a body that ends in this way.
    pub const fn new(framing: Framing) -> Self {
        BodyScanner(match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked { at: Chunk::Size, left: 0, count: 0 },
        })
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// How many bytes from here on are plain content that [`BodyScanner::skip`] may pass over unseen.
    pub fn skippable(&self) -> u64 {
        match self.0 {
            State::Length(left) | State::Chunked { at: Chunk::Data, left, .. } => left,
            _ => 0,
        }
    }

    /// Passes over so many bytes of content that are not shown, at most [`BodyScanner::skippable`].
    pub fn skip(&mut self, bytes: u64) {
        match self.0 {
            State::Length(left) => {
                let left = left.saturating_sub(bytes);
                self.0 = if left == 0 { State::Done } else { State::Length(left) };
            }
            State::Chunked { at: Chunk::Data, left, .. } => {
                let left = left.saturating_sub(bytes);
                let at = if left == 0 { Chunk::DataCr } else { Chunk::Data };
                self.0 = State::Chunked { at, left, count: 0 };
            }
            _ => {}
        }
    }

    /// How many of `bytes`, from their start, belong to the body. Fewer than all only if the body ends there.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, GateRule> {
        match self.0 {
            State::Done => Ok(0),
            State::Length(left) => {
                let here = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - here as u64;
                self.0 = if left == 0 { State::Done } else { State::Length(left) };
                Ok(here)
            }
            State::Chunked { .. } => self.advance_chunked(bytes),
        }
    }

    fn advance_chunked(&mut self, bytes: &[u8]) -> Result<usize, GateRule> {
        let mut taken = 0;
        while let State::Chunked { at, left, count } = self.0 {
            let Some(&byte) = bytes.get(taken) else { break };
            if at == Chunk::Data {
                let here = (bytes.len() - taken).min(usize::try_from(left).unwrap_or(usize::MAX));
                taken += here;
                let left = left - here as u64;
                let at = if left == 0 { Chunk::DataCr } else { Chunk::Data };
                self.0 = State::Chunked { at, left, count: 0 };
            } else {
                taken += 1;
                self.0 = on_byte(at, left, count, byte)?;
            }
        }
        Ok(taken)
    }
}

fn on_byte(at: Chunk, left: u64, count: usize, byte: u8) -> Result<State, GateRule> {
    let to = |at| Ok(State::Chunked { at, left, count: 0 });
    let stay = |left| Ok(State::Chunked { at, left, count: count + 1 });
    match (at, byte) {
        (Chunk::Size, b'\r') if count > 0 => to(Chunk::SizeLf),
        (Chunk::Size, b';') if count > 0 => to(Chunk::Extension),
        (Chunk::Size, _) => match char::from(byte).to_digit(16) {
            Some(digit) if count < SIZE_DIGITS => stay(left << 4 | u64::from(digit)),
            Some(_) => Err(GateRule::ChunkSizeDigits),
            None if byte == b'\n' && count > 0 => Err(GateRule::BareLf),
            None => Err(GateRule::ChunkSize),
        },
        (Chunk::Extension, b'\r') => to(Chunk::SizeLf),
        (Chunk::Extension, b'\n') => Err(GateRule::BareLf),
        (Chunk::Extension, b'\t' | 0x20..=0x7e) if count < EXTENSION_BYTES => stay(left),
        (Chunk::Extension, _) => Err(GateRule::ChunkExtension),
        (Chunk::SizeLf, b'\n') => to(if left == 0 { Chunk::TrailerStart } else { Chunk::Data }),
        (Chunk::DataCr, b'\r') => to(Chunk::DataLf),
        (Chunk::DataLf, b'\n') => to(Chunk::Size),
        (Chunk::DataCr, _) => Err(GateRule::ChunkEnd),
        (Chunk::EndLf, b'\n') => Ok(State::Done),
        (Chunk::SizeLf | Chunk::DataLf | Chunk::EndLf | Chunk::TrailerLf, _) if byte != b'\n' => {
            Err(GateRule::BareCr)
        }
        _ => on_trailer_byte(at, count, byte),
    }
}

/// Trailers are header lines, behind the last chunk. `count` is of all of them.
fn on_trailer_byte(at: Chunk, count: usize, byte: u8) -> Result<State, GateRule> {
    let to = |at| Ok(State::Chunked { at, left: 0, count: count + 1 });
    match (at, byte) {
        (Chunk::TrailerStart, b'\r') => to(Chunk::EndLf),
        (Chunk::TrailerLf, b'\n') => to(Chunk::TrailerStart),
        (_, b'\n') => Err(GateRule::BareLf),
        _ if count >= TRAILER_BYTES => Err(GateRule::TrailerBytes),
        (Chunk::TrailerStart, _) if is_token(byte) => to(Chunk::TrailerName(Name::START.with(byte))),
        (Chunk::TrailerName(name), b':') => {
            if name.is_forbidden() {
                Err(GateRule::TrailerField)
            } else {
                to(Chunk::Trailer)
            }
        }
        (Chunk::TrailerName(name), _) if is_token(byte) => to(Chunk::TrailerName(name.with(byte))),
        (Chunk::Trailer, b'\r') => to(Chunk::TrailerLf),
        (Chunk::Trailer, b'\t' | 0x20..=0x7e | 0x80..=0xff) => to(Chunk::Trailer),
        _ => Err(GateRule::TrailerLine),
    }
}
