//! What an HTTP/2 client may cost beside its requests: frames that ask for nothing (PING, SETTINGS, PRIORITY, window
//! updates, empty DATA, padding), and streams it opens only to reset them (CVE-2019-9512 and its kin, CVE-2023-44487).

/// What a client may send for nothing at all, bytes; more than an idle client's pings come to in days.
const FREE_BYTES: u64 = 1 << 20;
/// How many bytes of frames there may be for each byte of heads and bodies, either way.
const FRAMES_PER_USE: u64 = 8;
/// Streams a client may give up beyond half of those it opens.
const FREE_RESETS: u64 = 100;

/// One connection's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conduct {
    received: u64,
    used: u64,
    opened: u64,
    given_up: u64,
}

impl Conduct {
    /// So many bytes came, of whatever kind.
    pub fn on_received(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// So many bytes of a head or a body were of use, sent or received.
    pub fn on_used(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
    }

    /// A stream was opened.
    pub fn on_opened(&mut self) {
        self.opened = self.opened.saturating_add(1);
    }

    /// A stream was reset by the client before its response had ended.
    pub fn on_given_up(&mut self) {
        self.given_up = self.given_up.saturating_add(1);
    }

    /// Whether the client only makes work: most of what it sends is of no use, or it resets most of its streams.
    pub fn is_flood(&self) -> bool {
        let frames = self.received > FREE_BYTES.saturating_add(self.used.saturating_mul(FRAMES_PER_USE));
        let resets = self.given_up > FREE_RESETS.saturating_add(self.opened / 2);
        frames || resets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_ask_for_nothing_are_a_flood_beyond_what_is_free() {
        let mut idle = Conduct::default();
        idle.on_received(FREE_BYTES);
        assert!(!idle.is_flood());
        idle.on_received(1);
        assert!(idle.is_flood());
        // A download by window updates of 13 bytes for every kilobyte never is, nor an upload.
        let mut busy = Conduct::default();
        for _ in 0..1_000_000 {
            busy.on_received(13);
            busy.on_used(1000);
            assert!(!busy.is_flood());
            busy.on_received(1009);
            busy.on_used(1000);
        }
        assert!(!busy.is_flood());
    }

    #[test]
    fn who_resets_most_streams_is_a_flood_and_who_gives_up_some_is_not() {
        let mut some = Conduct::default();
        for n in 0..10_000 {
            some.on_opened();
            if n % 2 == 0 {
                some.on_given_up();
            }
            assert!(!some.is_flood(), "{n}");
        }
        let mut most = Conduct::default();
        let lasted = (1..).find(|_| {
            most.on_opened();
            most.on_given_up();
            most.is_flood()
        });
        assert_eq!(lasted, Some(2 * FREE_RESETS + 1));
    }

    #[test]
    fn no_count_overflows() {
        let mut most = Conduct { received: u64::MAX, used: u64::MAX, opened: u64::MAX, given_up: u64::MAX };
        most.on_received(u64::MAX);
        most.on_used(u64::MAX);
        most.on_opened();
        most.on_given_up();
        assert!(most.is_flood());
    }
}
