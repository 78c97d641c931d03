//! Tables and properties of the gate.

mod gate;
mod properties;
mod rewrite;
mod streams;

use super::*;

/// A head that must be accepted.
fn accepted(bytes: &[u8]) -> RequestHead {
    match parse(bytes, &HeadLimits::default()) {
        HeadStatus::Complete(head) => head,
        other => panic!("{:?} of {:?}", other, String::from_utf8_lossy(bytes)),
    }
}

/// The status with which these bytes are refused.
fn refused(bytes: &[u8]) -> u16 {
    match parse(bytes, &HeadLimits::default()) {
        HeadStatus::Bad(verdict) => verdict.status,
        other => panic!("{:?} of {:?}", other, String::from_utf8_lossy(bytes)),
    }
}
