//! How a request ended, in two letters after HAProxy's model: who ended it, and in which phase.

use crate::reason::{CloseReason, EndReason};
use core::fmt::{self, Display, Formatter};

/// Declares the codes: letters and what they mean. `docs/access-log.md` is this list again; a test compares the two.
macro_rules! codes {
    ($( $variant:ident = $letters:literal, $text:literal; )+) => {
        /// The two letters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Termination { $( #[doc = $text] $variant, )+ }

        impl Termination {
            /// All of them.
            pub const ALL: &'static [Termination] = &[ $( Termination::$variant, )+ ];

            /// The two letters.
            pub const fn letters(self) -> &'static str {
                match self { $( Termination::$variant => $letters, )+ }
            }

            /// What they mean.
            pub const fn explanation(self) -> &'static str {
                match self { $( Termination::$variant => $text, )+ }
            }
        }
    };
}

codes! {
    Normal = "--", "Ended as HTTP means it to.";
    ClientBeforeRequest = "CR", "The client closed or reset before it had made a request.";
    ClientInData = "CD", "The client closed or reset before it had all of the response.";
    SlowBeforeRequest = "cR", "The client did not make its request in time.";
    SlowInData = "cD", "The client sent its body, or took the response in, too slowly.";
    RefusedRequest = "PR", "The request was refused: by the gate, for the length of its body, or because nothing is served under its name and path.";
    ExhaustedBeforeRequest = "RR", "Too many connections, in all or from this source.";
    ServerUnreachable = "SC", "No server could be reached.";
    ServerBeforeHead = "SH", "The server broke off before it had answered.";
    SilentBeforeHead = "sH", "The server did not answer in time.";
    ServerInData = "SD", "The server broke off, or reset, within its response.";
    SilentInData = "sD", "The server fell silent within its response.";
    BrokenInData = "BD", "One end of a relayed connection broke off; which one is not known.";
    IdleInData = "iD", "Nothing passed for the idle time on a connection given to a target, or relayed.";
    KilledBeforeRequest = "KR", "The intermediate was stopping.";
    KilledInData = "KD", "A flow was ended on request.";
    LostInHandoff = "IM", "A handoff got no answer, so that where its request ran cannot be known: the client was reset.";
    LostInRecall = "RM", "A later request belonged elsewhere, and its connection could not be taken from its target, or no socket be made for it: the request was not run, and the client was reset.";
    LostInData = "ID", "The target's agent was gone for too long: the flow was given up.";
    Unknown = "??", "The end is not known: the record was written before there was one.";
}

impl Display for Termination {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.letters())
    }
}

/// How a proxied request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxiedEnd {
    /// The response went out whole.
    Finished,
    /// The client went away within the response.
    ClientGone,
    /// The server broke off within it.
    ServerBroke,
    /// The server fell silent within it.
    ServerSilent,
    /// One end broke off, it is not known which.
    Broken,
    /// The intermediate answered by itself, or gave up, for this reason.
    Closed(CloseReason),
}

impl ProxiedEnd {
    /// The code.
    pub const fn termination(self) -> Termination {
        match self {
            ProxiedEnd::Finished => Termination::Normal,
            ProxiedEnd::ClientGone => Termination::ClientInData,
            ProxiedEnd::ServerBroke => Termination::ServerInData,
            ProxiedEnd::ServerSilent => Termination::SilentInData,
            ProxiedEnd::Broken => Termination::BrokenInData,
            ProxiedEnd::Closed(reason) => Termination::of_close(reason),
        }
    }
}

impl Termination {
    /// Of a connection that the intermediate closed, or a request that it answered by itself.
    pub const fn of_close(reason: CloseReason) -> Self {
        match reason {
            CloseReason::ClientGone => Termination::ClientBeforeRequest,
            CloseReason::HeadTimeout | CloseReason::IdleTimeout => Termination::SlowBeforeRequest,
            CloseReason::SlowBody | CloseReason::SlowReader => Termination::SlowInData,
            CloseReason::ConnectionLimit | CloseReason::SourceLimit | CloseReason::StreamLimit => {
                Termination::ExhaustedBeforeRequest
            }
            CloseReason::NoTarget => Termination::ServerUnreachable,
            CloseReason::UpstreamFailed => Termination::ServerBeforeHead,
            CloseReason::UpstreamTimeout => Termination::SilentBeforeHead,
            CloseReason::RelayIdle => Termination::IdleInData,
            CloseReason::Unresolved => Termination::LostInHandoff,
            CloseReason::RecallRefused | CloseReason::RestoreFailed => Termination::LostInRecall,
            CloseReason::Shutdown => Termination::KilledBeforeRequest,
            // What the gate, the routes, and whoever else judges requests refuse.
            _ => Termination::RefusedRequest,
        }
    }

    /// Of a flow that was given to a target. That a server's socket was gone without a word of its own may mean that
    /// the client had got all and reset: the target cannot tell.
    pub const fn of_end(reason: EndReason) -> Self {
        match reason {
            EndReason::ServerReset => Termination::ServerInData,
            EndReason::SocketGone => Termination::ClientInData,
            EndReason::Idle => Termination::IdleInData,
            EndReason::AgentLost | EndReason::RecordLost => Termination::LostInData,
            EndReason::Aborted => Termination::KilledInData,
            EndReason::RecallRefused => Termination::LostInRecall,
            EndReason::BrokenBody => Termination::RefusedRequest,
            _ => Termination::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_two_letters_and_unique_and_the_page_has_them_all() {
        let page = include_str!("../../docs/access-log.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        for (n, code) in Termination::ALL.iter().enumerate() {
            assert_eq!(code.letters().len(), 2);
            assert!(Termination::ALL.iter().skip(n + 1).all(|other| other.letters() != code.letters()));
            let row = format!("| `{}` | {} |", code.letters(), code.explanation());
            assert!(rows.contains(&row.as_str()), "docs/access-log.md has no row {row}");
        }
    }

    #[test]
    fn every_reason_has_its_code() {
        use Termination as T;
        assert_eq!(T::of_close(CloseReason::HeadTooLarge), T::RefusedRequest);
        assert_eq!(T::of_close(CloseReason::Unresolved), T::LostInHandoff);
        assert_eq!(T::of_close(CloseReason::SlowBody), T::SlowInData);
        assert_eq!(T::of_end(EndReason::Finished), T::Normal);
        assert_eq!(T::of_end(EndReason::BrokenBody), T::RefusedRequest, "the client's fault");
        assert_eq!(T::of_end(EndReason::RecallRefused), T::LostInRecall);
        assert_eq!(ProxiedEnd::Closed(CloseReason::UpstreamTimeout).termination(), T::SilentBeforeHead);
        let of_close = CloseReason::ALL.iter().map(|r| T::of_close(*r));
        let of_end = EndReason::ALL.iter().map(|r| T::of_end(*r));
        let reached: Vec<T> = of_close
            .chain(of_end)
            .chain([T::ClientInData, T::SilentInData, T::BrokenInData, T::Unknown])
            .collect();
        let missing: Vec<_> = T::ALL.iter().filter(|t| !reached.contains(t)).collect();
        assert!(missing.is_empty(), "nothing leads to {missing:?}");
    }
}
