//! How a flow's end is judged on the target, which alone sees both directions: by what the server's kernel was
//! seen to send and by whether its socket still exists. A FIN or RST merely seen passing proves nothing.

use crate::reason::EndReason;
use crate::record::{NOTE_FIN, NOTE_RST};

/// What the kernel says of the server's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    /// No socket with this 4-tuple.
    Gone,
    /// It is in TIME_WAIT: both directions are closed.
    TimeWait,
    /// It is in use, in any other state.
    Alive,
}

/// Whether and how the flow has ended. `note_flags` is the record's.
pub const fn judge(socket: SocketState, note_flags: u32) -> Option<EndReason> {
    match socket {
        SocketState::Alive => None,
        SocketState::TimeWait => Some(EndReason::Finished),
        SocketState::Gone if note_flags & NOTE_RST != 0 => Some(EndReason::ServerReset),
        SocketState::Gone if note_flags & NOTE_FIN != 0 => Some(EndReason::Finished),
        SocketState::Gone => Some(EndReason::SocketGone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_judged() {
        use EndReason::{Finished, ServerReset, SocketGone};
        use SocketState::{Alive, Gone, TimeWait};
        let table = [
            (Alive, 0, None),
            (Alive, NOTE_FIN | NOTE_RST, None),
            (TimeWait, 0, Some(Finished)),
            (TimeWait, NOTE_FIN, Some(Finished)),
            (Gone, 0, Some(SocketGone)),
            (Gone, NOTE_FIN, Some(Finished)),
            (Gone, NOTE_RST, Some(ServerReset)),
            (Gone, NOTE_FIN | NOTE_RST, Some(ServerReset)),
        ];
        for (socket, notes, expected) in table {
            assert_eq!(judge(socket, notes), expected, "{socket:?} {notes}");
        }
    }
}
