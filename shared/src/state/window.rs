//! The client's leave to send while its connection changes hands: it was promised a window by the kernel that had it before, and
//! that of the server's socket may end before. What reaches beyond it the server's kernel drops, and the client has to send it
//! again; so it is held until the window has opened.

use crate::capture::CapturedConnection;
use crate::seq::{Client, Seq};

/// How far the window reaches, and how far it was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What the server was given with the handoff ends here.
    given: Seq<Client>,
    /// Where the promised window ends.
    promised: Seq<Client>,
    /// Where the server's window ends, as far as is known.
    end: Seq<Client>,
    /// More of the stream comes, or may come at any moment.
    more: bool,
    /// Where the client's FIN ends, if it has come.
    last: Option<Seq<Client>>,
}

impl Window {
    /// Of a connection as it was `given` to a server whose window ends at `end`, while `more` of the request is to come.
    pub fn new(given: &CapturedConnection, end: Seq<Client>, more: bool) -> Self {
        Window { given: given.rcv_nxt, promised: given.rcv_nxt.plus(given.rcv_wnd), end, more, last: None }
    }

    /// The server's window ends at `end`, or did so a moment ago: it never moves back.
    pub fn on_told(&mut self, end: Seq<Client>) {
        if self.end.before(end) {
            self.end = end;
        }
    }

    /// The client has sent all before `end`. Beyond what it was promised before it can only have what the server promised.
    pub fn on_sent(&mut self, end: Seq<Client>) {
        self.more |= self.given.before(end);
        if self.promised.before(end) {
            self.on_told(end);
        }
    }

    /// The client's FIN ends at `end`: nothing comes behind it.
    pub fn on_fin(&mut self, end: Seq<Client>) {
        self.last = Some(end);
    }

    /// Whether the server's kernel takes what ends at `end`.
    pub fn takes(&self, end: Seq<Client>) -> bool {
        !self.is_short() || !self.end.before(end)
    }

    /// How many of the `payload` bytes at `seq` go on by themselves, in pieces of `piece` bytes: none if that were a small part.
    /// A sender that is told of a window fills it, and no server tells of a larger one before it has moved by much (RFC 9293,
    /// section 3.8.6.2.2).
    pub fn room_for(&self, seq: Seq<Client>, payload: u32, piece: u32) -> u32 {
        let room = self.room(seq);
        if room < payload { room.saturating_sub(room.checked_rem(piece).unwrap_or(room)) } else { payload }
    }

    /// How many bytes from `seq` on the server's kernel takes.
    fn room(&self, seq: Seq<Client>) -> u32 {
        if !self.is_short() {
            u32::MAX
        } else if seq.before(self.end) {
            self.end.since(seq)
        } else {
            0
        }
    }

    /// Whether something may come that the server's kernel does not take.
    pub fn is_awaited(&self) -> bool {
        self.more && self.is_short() && !self.last.is_some_and(|last| self.takes(last))
    }

    /// It is waited for no longer.
    pub fn give_up(&mut self) {
        self.on_told(self.promised);
    }

    /// Whether it ends before the promised one.
    fn is_short(&self) -> bool {
        self.end.before(self.promised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::NegotiatedOptions;

    /// 1000 bytes were promised from 4 before the numbers begin anew.
    const GIVEN: Seq<Client> = Seq::new(u32::MAX - 3);

    fn window(end: u32, more: bool) -> Window {
        let options = NegotiatedOptions {
            client_mss: 1460,
            sack: true,
            timestamps: false,
            window_scale: None,
            ecn: false,
        };
        let given = CapturedConnection {
            client: "10.0.0.1:1000".parse().unwrap(),
            vip: "10.0.0.2:80".parse().unwrap(),
            rcv_nxt: GIVEN,
            snd_nxt: Seq::new(1),
            snd_wnd: 1000,
            max_window: 1000,
            rcv_wnd: 1000,
            options,
            client_tsval: 0,
            vip_tsval: 0,
            rtt_us: 0,
            client_fin: false,
        };
        Window::new(&given, GIVEN.plus(end), more)
    }

    #[test]
    fn what_reaches_beyond_the_servers_window_waits_until_it_has_opened() {
        let mut w = window(600, true);
        assert!(w.takes(GIVEN.plus(600)) && !w.takes(GIVEN.plus(601)) && w.is_awaited());
        assert_eq!([0, 599, 600, 601].map(|at| w.room(GIVEN.plus(at))), [600, 1, 0, 0]);
        w.on_told(GIVEN.plus(500));
        assert!(w.takes(GIVEN.plus(600)), "a window does not shrink");
        w.on_told(GIVEN.plus(999));
        assert!(!w.takes(GIVEN.plus(1000)));
        w.on_told(GIVEN.plus(1000));
        assert!(w.takes(GIVEN.plus(1000)) && !w.is_awaited());
        assert!(w.takes(GIVEN.plus(5000)), "who sends that was told so by the server");
        assert_eq!(w.room(GIVEN.plus(5000)), u32::MAX);
    }

    #[test]
    fn of_what_is_larger_than_the_window_whole_pieces_go_on() {
        let w = window(600, true);
        let room = |at, payload, piece| w.room_for(GIVEN.plus(at), payload, piece);
        assert_eq!([601, 700, 1000].map(|payload| room(0, payload, 250)), [500; 3]);
        assert_eq!([1, 599, 600].map(|payload| room(0, payload, 250)), [1, 599, 600], "all of it fits");
        assert_eq!([350, 351, 600, 700].map(|at| room(at, 700, 250)), [250, 0, 0, 0]);
        assert_eq!(room(0, 700, 0), 0);
        assert_eq!(window(1000, true).room_for(GIVEN, 5000, 250), 5000);
    }

    #[test]
    fn what_the_client_sends_beyond_the_promise_says_that_the_server_has_promised_more() {
        let mut w = window(0, true);
        w.on_sent(GIVEN.plus(1000));
        assert!(!w.takes(GIVEN.plus(1)) && w.is_awaited());
        w.on_sent(GIVEN.plus(1001));
        assert!(w.takes(GIVEN.plus(900)) && w.takes(GIVEN.plus(1001)) && !w.is_awaited());
    }

    #[test]
    fn nothing_is_awaited_of_a_client_that_has_said_all() {
        let mut w = window(0, false);
        assert!(!w.is_awaited());
        // An acknowledgement.
        w.on_sent(GIVEN);
        assert!(!w.is_awaited());
        w.on_sent(GIVEN.plus(1));
        assert!(w.is_awaited(), "it has not");
        w.give_up();
        assert!(!w.is_awaited() && w.takes(GIVEN.plus(1)));
    }

    #[test]
    fn a_client_that_has_closed_within_the_window_is_not_waited_for() {
        let closed = |last: u32| {
            let mut w = window(600, true);
            w.on_sent(GIVEN.plus(last));
            w.on_fin(GIVEN.plus(last));
            w
        };
        assert!(!closed(1).is_awaited() && !closed(600).is_awaited());
        let mut beyond = closed(601);
        assert!(beyond.is_awaited() && !beyond.takes(GIVEN.plus(601)));
        beyond.on_told(GIVEN.plus(601));
        assert!(!beyond.is_awaited());
    }
}
