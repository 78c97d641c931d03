//! What the daemons and the eBPF programs tell each other: keys, flow records, settings. One versioned ABI,
//! `repr(C)`, explicit padding, no `bool`, no `Option`, no `usize`; sizes asserted.

mod copied;
mod flow;
#[cfg(feature = "std")]
pub mod former;
mod leg;
mod settings;

pub use copied::{COPY_BYTES, COPY_HEAD, COPY_PIECES, Copied, CopiedHead, wakes};
pub use flow::{
    DRAIN_BYTES, FLAG_ADOPTED, FLAG_AHEAD, FLAG_ECN, FLAG_FED, FLAG_LAST, FLAG_LEG_IPIP, FLAG_LEG_UDP,
    FLAG_OWED, FLAG_OWN_SCALE, FLAG_SACK, FLAG_TIMESTAMPS, FLAG_TRACKED, FLAG_WINDOW_SCALES,
    FLAG_WITHIN_BODY, FlowKey, FlowRecord, FlowState, NOTE_ACTIVE_RST, NOTE_ASSIGN_FAILED, NOTE_ASSIGNED,
    NOTE_CAUGHT_UP, NOTE_CLOSING, NOTE_FIN, NOTE_LISTENER, NOTE_NO_LISTENER, NOTE_RST, NOTE_SYN_ACK,
    NOTE_TAKEN, NOTE_TIME_WAIT, NOTE_UNADOPTED,
};
pub use leg::{LEG_PEERS, LegPeer, LegSettings};
pub use settings::Settings;

/// Version of every layout in this module, of the meaning of their fields, and of the counters' numbering.
/// It is part of the names under which maps and links are pinned. Raise it with any change, and say in `former` how the
/// records before it are read.
pub const ABI_VERSION: u32 = 8;
