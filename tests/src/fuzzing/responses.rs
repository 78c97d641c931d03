//! What servers answer: on connections whose responses an agent follows, and to a probe.

use baton_shared::http::{ResponseStream, Standing};
use baton_shared::probe::{RESPONSE_BYTES, ResponseReader};

/// All of `bytes` in pieces; what may be skipped is, if `skips`.
fn follow(mut stream: ResponseStream, mut bytes: &[u8], piece: usize, skips: bool) -> ResponseStream {
    while !bytes.is_empty() {
        let length = bytes.len().min(piece);
        let skippable = usize::try_from(stream.skippable()).unwrap_or(usize::MAX).min(length);
        let was = (stream.is_settled(), stream.standing());
        let taken = if skips && skippable > 0 {
            stream.skip(u64::try_from(skippable).unwrap_or(0));
            skippable
        } else {
            stream.advance(bytes.get(..length).unwrap_or_default());
            length
        };
        assert!(!was.0 || stream.standing() == was.1, "settled, and then otherwise: {was:?}");
        bytes = bytes.get(taken..).unwrap_or_default();
    }
    stream
}

/// What is told of a stream.
fn told(stream: &ResponseStream) -> (Standing, [Option<u16>; 3], u64) {
    (stream.standing(), [1, 2, 3].map(|request| stream.statuses().of(request)), stream.head_bytes())
}

/// Where responses end is the same however their bytes are cut, and whether or not content is shown.
pub fn responses(bytes: &[u8]) {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    for stream in [ResponseStream::new(false), ResponseStream::new(true), ResponseStream::once()] {
        let whole = told(&follow(stream.clone(), bytes, usize::MAX, false));
        assert!(whole.2 <= length, "heads of {} in {length} bytes", whole.2);
        if let Standing::Between { responses } = whole.0 {
            // Each takes a line and an empty one at least.
            assert!(
                u64::from(responses).saturating_mul(16) <= length,
                "{responses} responses in {length} bytes"
            );
        }
        for (piece, skips) in [(1, false), (7, false), (usize::MAX, true), (3, true)] {
            let cut = told(&follow(stream.clone(), bytes, piece, skips));
            assert_eq!(cut, whole, "in pieces of {piece}, skipping: {skips}");
        }
    }
}

/// A probe's response is good or not however its bytes are cut, and is good only if it is complete.
pub fn probe_responses(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = ResponseReader::default();
        bytes.chunks(piece).for_each(|piece| reader.advance(piece));
        reader
    };
    let whole = read(bytes.len().max(1));
    for piece in [1, 7] {
        let cut = read(piece);
        assert_eq!((cut.status(), cut.is_done()), (whole.status(), whole.is_done()), "in pieces of {piece}");
        assert_eq!(cut.fault_at_end(), whole.fault_at_end(), "in pieces of {piece}");
    }
    if whole.fault_at_end().is_none() {
        assert!(whole.status().is_some_and(|status| status >= 200), "good without a final status");
        assert!(whole.body_bytes() <= u64::try_from(RESPONSE_BYTES).unwrap_or(0), "longer than is read");
        let shorter = bytes.len().saturating_sub(1);
        let mut reader = ResponseReader::default();
        reader.advance(bytes.get(..shorter).unwrap_or_default());
        // Without its last byte it is cut short, unless that was not needed.
        assert!(
            reader.is_done() || !whole.is_done() || reader.fault_at_end().is_some(),
            "good when cut short"
        );
    }
}
