//! What an HTTP/2 client may cost beside its requests: frames that ask for nothing (PING, SETTINGS, PRIORITY, window
//! updates, DATA with little or nothing but padding in it), and streams it opens only to reset them (CVE-2019-9512 and its kin, CVE-2023-44487).

/// What a client may send for nothing at once, bytes.
const FREE_BYTES: u64 = 64 << 10;
/// And in the long run, bytes per second: many more than a client needs that keeps its connection by pings.
const FREE_RATE: u64 = 1 << 10;
/// How many bytes of such frames there may be for each byte of heads and bodies, either way: window updates.
const FRAMES_PER_USE: u64 = 8;
/// Streams a client may give up beyond half of those it opens.
const FREE_RESETS: u64 = 100;

/// What a connection begins with, bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// A frame's header, bytes: length in three, type, flags, stream in four (RFC 9113, section 4.1).
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The flag of a DATA or HEADERS frame that ends with padding; how much stands in its first byte (sections 6.1, 6.2).
const PADDED: u8 = 8;

/// Where in its frames a connection's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// So much of the preface, or of a payload, is to come.
    Within(usize),
    /// So many bytes of a header have come; of them length, type and flags count.
    Header(usize),
    /// The byte that tells the padding of a payload of this length, at least one, itself included.
    Padding(usize),
}

/// One connection's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conduct {
    at: At,
    /// The header in the making.
    header: [u8; HEADER],
    /// Bytes of frames that ask for nothing, of padding, and of all frames' headers, less what time has forgiven.
    idle: u64,
    /// Bytes of heads and bodies, either way.
    used: u64,
    opened: u64,
    given_up: u64,
}

impl Default for Conduct {
    fn default() -> Self {
        Conduct { at: At::Within(PREFACE), header: [0; HEADER], idle: 0, used: 0, opened: 0, given_up: 0 }
    }
}

impl Conduct {
    /// The client sent this, beginning with the preface.
    pub fn on_received(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match self.at {
                At::Padding(length) => {
                    bytes = rest;
                    // More than there is room for is an error of the connection, not ours to find.
                    let padding = (1 + usize::from(*first)).min(length);
                    self.on_payload(length - padding, padding);
                    self.at = if length > 1 { At::Within(length - 1) } else { At::Header(0) };
                }
                At::Within(left) => {
                    let now = left.min(bytes.len());
                    bytes = bytes.get(now..).unwrap_or_default();
                    self.at = if left > now { At::Within(left - now) } else { At::Header(0) };
                }
                At::Header(have) => {
                    if let Some(place) = self.header.get_mut(have) {
                        *place = *first;
                    }
                    bytes = rest;
                    self.at = At::Header(have + 1);
                    if have + 1 == HEADER {
                        self.at = self.on_header();
                    }
                }
            }
        }
    }

    fn on_header(&mut self) -> At {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).unwrap_or(0);
        let asks = [DATA, HEADERS, CONTINUATION].contains(&kind);
        if length > 0 && [DATA, HEADERS].contains(&kind) && flags & PADDED != 0 {
            self.on_payload(0, HEADER);
            return At::Padding(length);
        }
        self.on_payload(if asks { length } else { 0 }, if asks { HEADER } else { HEADER + length });
        if length == 0 { At::Header(0) } else { At::Within(length) }
    }

    fn on_payload(&mut self, used: usize, idle: usize) {
        let add = |account: u64, bytes| account.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        (self.used, self.idle) = (add(self.used, used), add(self.idle, idle));
    }

    /// So much time has passed, seconds.
    pub fn on_passed(&mut self, seconds: u64) {
        self.idle = self.idle.saturating_sub(seconds.saturating_mul(FREE_RATE));
    }

    /// So many bytes of a response were given.
    pub fn on_given(&mut self, bytes: u64) {
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

    /// Whether the client only makes work: most of what it sends asks for nothing, or it resets most of its streams.
    pub fn is_flood(&self) -> bool {
        let frames = self.idle > FREE_BYTES.saturating_add(self.used.saturating_mul(FRAMES_PER_USE));
        let resets = self.given_up > FREE_RESETS.saturating_add(self.opened / 2);
        frames || resets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    /// A DATA frame with so much content and padding.
    fn padded(content: usize, padding: u8) -> Vec<u8> {
        let mut bytes = frame(DATA, 1 + content + usize::from(padding));
        (bytes[4], bytes[HEADER]) = (PADDED, padding);
        bytes
    }

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let size = u32::try_from(length).unwrap().to_be_bytes();
        [&[size[1], size[2], size[3], kind, 0, 0, 0, 0, 1], &vec![b'x'; length][..]].concat()
    }

    /// After the preface.
    fn begun() -> Conduct {
        let mut conduct = Conduct::default();
        conduct.on_received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        conduct
    }

    #[test]
    fn frames_are_told_apart_however_their_bytes_come() {
        let kinds =
            [(HEADERS, 40), (PING, 8), (DATA, 300), (DATA, 0), (4, 0), (CONTINUATION, 1), (CONTINUATION, 0)];
        let mut bytes: Vec<u8> = kinds.iter().flat_map(|(kind, length)| frame(*kind, *length)).collect();
        bytes.extend([padded(5, 20), padded(0, 0), frame(PING, 8)].concat());
        for piece in 1..bytes.len() {
            let mut conduct = begun();
            bytes.chunks(piece).for_each(|piece| conduct.on_received(piece));
            assert_eq!((conduct.used, conduct.idle), (346, 8 + 21 + 1 + 8 + 10 * 9), "in pieces of {piece}");
        }
    }

    #[test]
    fn frames_that_ask_for_nothing_are_a_flood_beyond_what_is_free() {
        let mut idle = begun();
        let lasted = (1..).find(|_| {
            idle.on_received(&frame(PING, 8));
            idle.is_flood()
        });
        assert_eq!(lasted, Some(FREE_BYTES / 17 + 1));
        // Sixty pings a second for a day are none.
        let mut pings = begun();
        for _ in 0..86_400 {
            (0..60).for_each(|_| pings.on_received(&frame(PING, 8)));
            assert!(!pings.is_flood());
            pings.on_passed(1);
        }
        pings.on_passed(u64::MAX);
        assert_eq!(pings.idle, 0);
    }

    #[test]
    fn data_in_crumbs_or_padding_is_a_flood_and_some_of_it_is_not() {
        let lasts = |frame: &[u8], at_least: u32| {
            let mut conduct = begun();
            let lasted = (1..100_000).find(|_| {
                conduct.on_received(frame);
                conduct.is_flood()
            });
            assert!(lasted.is_some_and(|frames| frames > at_least), "{lasted:?}");
        };
        lasts(&frame(DATA, 1), 1000);
        lasts(&padded(1, u8::MAX), 200);
        lasts(&padded(0, u8::MAX), 200);
        let lied = [&padded(3, 0)[..HEADER], &[u8::MAX; 4]].concat();
        lasts(&lied, 1000);
    }

    #[test]
    fn neither_a_download_nor_an_upload_is_a_flood() {
        let mut busy = begun();
        for _ in 0..20_000 {
            // Two windows opened for every 64 bytes.
            (0..2).for_each(|_| busy.on_received(&frame(WINDOW_UPDATE, 4)));
            busy.on_given(64);
            assert!(!busy.is_flood());
        }
        // Whatever became of its bytes: nobody need have read them.
        let mut refused = begun();
        for _ in 0..1000 {
            refused.on_received(&frame(DATA, 16_384));
            assert!(!refused.is_flood());
        }
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
        let mut most =
            Conduct { idle: u64::MAX, used: u64::MAX, opened: u64::MAX, given_up: u64::MAX, ..begun() };
        most.on_received(&frame(PING, 8));
        most.on_received(&frame(DATA, 8));
        most.on_given(u64::MAX);
        most.on_opened();
        most.on_given_up();
        assert!(most.is_flood());
    }
}
