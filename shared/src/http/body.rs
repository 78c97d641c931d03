//! Where a request's body ends.

use super::{Framing, Verdict};

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
    Trailer,
    TrailerLf,
    EndLf,
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

    /// How many of `bytes`, from their start, belong to the body. Fewer than all only if the body ends there.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Verdict> {
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

    fn advance_chunked(&mut self, bytes: &[u8]) -> Result<usize, Verdict> {
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

fn on_byte(at: Chunk, left: u64, count: usize, byte: u8) -> Result<State, Verdict> {
    let to = |at| Ok(State::Chunked { at, left, count: 0 });
    let stay = |left| Ok(State::Chunked { at, left, count: count + 1 });
    let bad = |detail| Err(Verdict::bad(detail));
    match (at, byte) {
        (Chunk::Size, b'\r') if count > 0 => to(Chunk::SizeLf),
        (Chunk::Size, b';') if count > 0 => to(Chunk::Extension),
        (Chunk::Size, _) => match char::from(byte).to_digit(16) {
            Some(digit) if count < SIZE_DIGITS => stay(left << 4 | u64::from(digit)),
            _ => bad("a chunk's size is not a number"),
        },
        (Chunk::Extension, b'\r') => to(Chunk::SizeLf),
        (Chunk::Extension, b'\t' | 0x20..=0x7e) if count < EXTENSION_BYTES => stay(left),
        (Chunk::Extension, _) => bad("a chunk extension is too long or has a control character"),
        (Chunk::SizeLf, b'\n') => to(if left == 0 { Chunk::TrailerStart } else { Chunk::Data }),
        (Chunk::DataCr, b'\r') => to(Chunk::DataLf),
        (Chunk::DataLf, b'\n') => to(Chunk::Size),
        (Chunk::TrailerStart, b'\r') => to(Chunk::EndLf),
        (Chunk::TrailerStart, b'\n' | b' ' | b'\t' | b':') => bad("malformed trailer"),
        (Chunk::TrailerStart | Chunk::Trailer, b'\t' | 0x20..=0x7e | 0x80..=0xff)
            if count < TRAILER_BYTES =>
        {
            Ok(State::Chunked { at: Chunk::Trailer, left, count: count + 1 })
        }
        (Chunk::Trailer, b'\r') => Ok(State::Chunked { at: Chunk::TrailerLf, left, count }),
        (Chunk::TrailerLf, b'\n') => Ok(State::Chunked { at: Chunk::TrailerStart, left, count }),
        (Chunk::TrailerStart | Chunk::Trailer, _) => bad("trailers too long or with a control character"),
        (Chunk::EndLf, b'\n') => Ok(State::Done),
        _ => bad("a chunk does not end where it must"),
    }
}
