//! Frames: a 4-byte little-endian length, then that many bytes of one [`Message`] in postcard's encoding.

use super::message::Message;
use postcard::ser_flavors::Flavor;
use thiserror::Error;

/// The longest frame either side sends or accepts: a handoff with the largest prefetch and room to spare.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// What can be wrong with a frame. All end the channel: after it the stream cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A length over the limit: not our protocol, or a peer gone wrong.
    #[error("frame of {length} bytes announced, at most {MAX_FRAME_BYTES} are allowed")]
    TooLong {
        /// What the header said.
        length: usize,
    },
    /// The bytes are no message of this version.
    #[error(
        "frame of {length} bytes is no message of protocol version {}: {detail}",
        super::PROTOCOL_VERSION
    )]
    Malformed {
        /// The frame's length.
        length: usize,
        /// What the decoder said.
        detail: String,
    },
}

/// Lets postcard write behind what a buffer holds already.
struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // Most are numbers of a few bytes, for which a copy is a long way round.
        if bytes.len() <= FEW_BYTES {
            bytes.iter().for_each(|byte| self.0.push(*byte));
        } else {
            self.0.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The longest number there is, bytes.
const FEW_BYTES: usize = 10;

/// Appends the frame of `message` to `out`; on error `out` is as before.
pub fn encode_into(message: &Message, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Err(e) = postcard::serialize_with_flavor(message, Tail(out)) {
        out.truncate(start);
        return Err(FrameError::Malformed { length: 0, detail: e.to_string() });
    }
    let length = out.len() - start - 4;
    if length > MAX_FRAME_BYTES {
        out.truncate(start);
        return Err(FrameError::TooLong { length });
    }
    let header = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&header);
    }
    Ok(())
}

/// The frame of one message.
pub fn encode(message: &Message) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    encode_into(message, &mut out)?;
    Ok(out)
}

/// Cuts a byte stream, which may arrive in any pieces, into messages.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    taken: usize,
}

impl FrameReader {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        // What was taken is dropped here and not at each message, so that a batch costs one move.
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, `None` if more bytes are needed.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { length });
        }
        let Some(frame) = body.get(..length) else { return Ok(None) };
        let malformed = |detail: String| FrameError::Malformed { length, detail };
        let (message, left) =
            postcard::take_from_bytes::<Message>(frame).map_err(|e| malformed(e.to_string()))?;
        if !left.is_empty() {
            return Err(malformed(format!("{} bytes left over", left.len())));
        }
        self.taken += 4 + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FlowRef, Hello, Message, Role};
    use super::*;
    use proptest::prelude::*;

    fn sample(n: u64) -> Message {
        Message::Status(FlowRef { flow_id: n, generation: 3 })
    }

    proptest! {
        #[test]
        fn messages_survive_any_cutting(ids in proptest::collection::vec(any::<u64>(), 1..20), cut in 1usize..40) {
            let mut stream = Vec::new();
            for id in &ids {
                encode_into(&sample(*id), &mut stream).unwrap();
            }
            let mut reader = FrameReader::new();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                reader.push(piece);
                while let Some(m) = reader.next_message().unwrap() {
                    got.push(m);
                }
            }
            prop_assert_eq!(got, ids.iter().map(|i| sample(*i)).collect::<Vec<_>>());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::new();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_message() {}
        }
    }

    #[test]
    fn messages_of_any_size_are_encoded_as_postcard_does_and_behind_what_is_there() {
        for length in [0, 100, 300, 70_000] {
            let hello = Message::Hello(Hello {
                protocol: 1,
                role: Role::Agent,
                name: "n".repeat(length),
                instance: u64::MAX,
                software: String::new(),
            });
            let body = postcard::to_allocvec(&hello).unwrap();
            let mut out = vec![7];
            encode_into(&hello, &mut out).unwrap();
            assert_eq!(out[..1], [7]);
            assert_eq!(out[1..5], u32::try_from(body.len()).unwrap().to_le_bytes());
            assert_eq!(out[5..], body);
            let long = Message::Hello(Hello {
                protocol: 1,
                role: Role::Agent,
                name: "n".repeat(MAX_FRAME_BYTES + length),
                instance: 0,
                software: String::new(),
            });
            let before = out.clone();
            assert!(matches!(encode_into(&long, &mut out), Err(FrameError::TooLong { .. })));
            assert_eq!(out, before, "as it was before");
        }
    }

    #[test]
    fn an_overlong_frame_is_refused_before_it_is_awaited() {
        let mut reader = FrameReader::new();
        reader.push(&u32::MAX.to_le_bytes());
        assert!(matches!(reader.next_message(), Err(FrameError::TooLong { .. })));
    }
}
