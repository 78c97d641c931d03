//! The control channel between intermediate and agent: frames and messages, bytes in, bytes out.
//!
//! Transport (TCP, TLS, reconnecting) is the daemons' business. Framing, messages and transport are kept apart so
//! that each can change alone.

mod bytes;
mod frame;
mod inspect;
mod lane;
mod load;
mod message;

pub use frame::{FrameError, FrameReader, MAX_FRAME_BYTES, encode, encode_into};
pub use inspect::{FlowReport, KeyReport, MapReport, RecordReport, SocketReport, TargetFlow};
pub use lane::{Lane, channel_of};
pub use load::ServerLoad;
pub use message::{
    Closer, EndReport, FlowRef, Handoff, Hello, Message, MigratedAnswer, PROTOCOL_VERSION, ProbeOrder,
    ProbeReport, RecallRequest, RecalledAnswer, RefusedAnswer, Role, TrackedRequest, WayReport, flow_id,
    flow_id_text,
};
