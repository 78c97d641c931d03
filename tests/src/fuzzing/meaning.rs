//! What the gate accepts means the same to another reader.

use crate::gate_corpus::{judge, read_otherwise};

/// A client's bytes at the gate and at another reader: whatever requests the gate accepts whole, the other one finds at
/// the same places.
///
/// # Panics
/// When that does not hold.
pub fn http_meaning(bytes: &[u8]) {
    let (seen, extents) = judge(bytes, &[]);
    let others = read_otherwise(bytes);
    // The last one's body may be cut short, or broken off by what was refused in it.
    let whole = extents.len().saturating_sub(1);
    let same = extents.iter().zip(&others).take_while(|(ours, other)| ours == other).count();
    assert!(same >= whole, "{seen:?}: {extents:?}, to another reader {others:?}");
    if let (Some(last), Some(other)) = (extents.get(whole), others.get(whole)) {
        assert_eq!((last.0, last.1), (other.0, other.1), "{seen:?}: the last one's head");
    }
}
