//! What the daemons read of whole packets themselves: bytes in, facts out. Whoever sent the bytes may have meant harm, so
//! every function here is a fuzz target's (`tests/fuzz`).

pub mod acks;
pub mod errors6;
pub mod headers;
pub mod held;
pub mod inside;
pub mod reply;
pub mod syn;
pub mod too_big;
