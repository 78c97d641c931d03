//! How a flow's end is judged on the target, which alone sees both directions: by what the server's kernel was
//! seen to send and by whether its socket still exists. A FIN or RST merely seen passing proves nothing.

use crate::control::Closer;
use crate::reason::EndReason;
use crate::record::{NOTE_ACTIVE_RST, NOTE_FIN};

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

/// Whether and how the flow has ended. `note_flags` is the record's. A reset behind a FIN of its own is how the server's
/// kernel answers what came too late for a connection that was over, a client's last acknowledgement too: it had ended.
/// So it is with a reset that no socket sent: a client's acknowledgement that comes behind the client's own reset (the
/// one was held for the handoff, the other not) is answered so.
pub const fn judge(socket: SocketState, note_flags: u32) -> Option<EndReason> {
    match socket {
        SocketState::Alive => None,
        SocketState::TimeWait => Some(EndReason::Finished),
        SocketState::Gone => Some(judge_gone(note_flags)),
    }
}

/// How a flow has ended whose socket is gone, or which is known to have ended.
pub const fn judge_gone(note_flags: u32) -> EndReason {
    if note_flags & NOTE_FIN != 0 {
        EndReason::Finished
    } else if note_flags & NOTE_ACTIVE_RST != 0 {
        EndReason::ServerReset
    } else {
        EndReason::SocketGone
    }
}

/// `TCP_*` of `net/tcp_states.h`, as `TCP_INFO` and `sock_diag` give them, that tell who has closed.
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;

/// Who closed first, told from the state of the server's socket; `None` while nobody has, or both at once.
pub const fn closer_in_state(tcp_state: u8) -> Option<Closer> {
    match tcp_state {
        FIN_WAIT1 | FIN_WAIT2 => Some(Closer::Server),
        CLOSE_WAIT | LAST_ACK => Some(Closer::Client),
        _ => None,
    }
}

/// Who ended a flow first. `seen`: what [`closer_in_state`] told while there was a socket. Who closes first passes
/// through TIME_WAIT, which lasts for a minute; a socket that is gone at once after its own FIN had got the client's
/// FIN, or a reset, before.
pub const fn closed_by(reason: EndReason, socket: SocketState, seen: Option<Closer>) -> Option<Closer> {
    match (reason, socket, seen) {
        (EndReason::ServerReset, _, _) => Some(Closer::Server),
        (EndReason::SocketGone, _, _) => Some(Closer::Client),
        (EndReason::Finished, _, Some(closer)) => Some(closer),
        (EndReason::Finished, SocketState::TimeWait, None) => Some(Closer::Server),
        (EndReason::Finished, SocketState::Gone, None) => Some(Closer::Client),
        _ => None,
    }
}

/// Of the payload a server sent, how many bytes it had sent before. `first` is its first byte's number, `end` and
/// `fin` the record's notes. Right up to 4 GB of retransmissions, however much was sent.
pub const fn retransmitted(bytes: u64, first: u32, end: u32, fin: bool) -> u64 {
    let new = end.wrapping_sub(first).wrapping_sub(fin as u32);
    // What was counted and what is new agree modulo 2^32 but for what was sent again.
    ((bytes & 0xffff_ffff) as u32).wrapping_sub(new) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::NOTE_RST;

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
            // A reset that no socket sent: the client's own had come before.
            (Gone, NOTE_RST, Some(SocketGone)),
            (Gone, NOTE_RST | NOTE_ACTIVE_RST, Some(ServerReset)),
            (Gone, NOTE_FIN | NOTE_RST, Some(Finished)),
            (Gone, NOTE_FIN | NOTE_RST | NOTE_ACTIVE_RST, Some(Finished)),
        ];
        for (socket, notes, expected) in table {
            assert_eq!(judge(socket, notes), expected, "{socket:?} {notes}");
        }
    }

    #[test]
    fn who_closed_first_is_told_from_what_is_left() {
        use Closer::{Client, Server};
        use EndReason::{Finished, Idle, ServerReset, SocketGone};
        use SocketState::{Gone, TimeWait};
        let table = [
            (Finished, TimeWait, None, Some(Server)),
            (Finished, Gone, None, Some(Client)),
            (Finished, Gone, Some(Server), Some(Server)),
            (Finished, TimeWait, Some(Client), Some(Client)),
            (ServerReset, Gone, Some(Client), Some(Server)),
            (SocketGone, Gone, None, Some(Client)),
            (Idle, Gone, None, None),
        ];
        for (reason, socket, seen, expected) in table {
            assert_eq!(closed_by(reason, socket, seen), expected, "{reason:?} {socket:?} {seen:?}");
        }
        let states = (1..=12).map(closer_in_state).filter(Option::is_some).count();
        assert_eq!(states, 4);
    }

    #[test]
    fn what_was_sent_again_is_counted_across_the_wrap() {
        assert_eq!(retransmitted(0, 5, 5, false), 0);
        assert_eq!(retransmitted(100, 5, 105, false), 0);
        assert_eq!(retransmitted(100, 5, 106, true), 0);
        assert_eq!(retransmitted(130, u32::MAX - 9, 91, true), 30);
        // Ten gigabytes, of which seven bytes twice.
        let bytes = 10_000_000_007u64;
        let end = u32::try_from((bytes - 7) % (1 << 32)).unwrap();
        assert_eq!(retransmitted(bytes, 0, end, false), 7);
    }
}
