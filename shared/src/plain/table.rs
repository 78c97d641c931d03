//! Tables of what may follow what in a plain message, made by the compiler from their descriptions ([`request`], [`response`]).
//!
//! Bytes that are alike everywhere share a class, so that a state's row has [`ROW`] entries. Row 0 has no way out, and
//! whatever the description does not name leads there.
#![expect(clippy::indexing_slicing, reason = "runs in the compiler alone: a wrong index does not compile")]

mod request;
mod response;

/// Entries of a row; a power of two.
pub(super) const ROW: u32 = 64;
/// In a byte's class: it ends a line. Above all bits of a place in the table.
pub(super) const LINE: u16 = 1 << 15;
const CLASS: usize = ROW as usize;
/// Places in the table, one for each state a byte can be and each class; a power of two.
pub(super) const PLACES: u32 = 256 * ROW;

/// Not plain.
pub(super) const DEAD: u8 = 0;
/// In front of the message.
pub(super) const START: u8 = 1;
/// Behind the last line feed.
pub(super) const DONE: u8 = 2;

/// Each byte's class, and [`LINE`] of the line feed's.
pub(super) static CLASSES: [u16; 256] = classes();

/// The next state, in the row of the present one under the byte's class, of a request.
pub(super) static NEXT: [u8; PLACES as usize] = Table::of_request().next;
/// The same of a response's head.
pub(super) static NEXT_OF_RESPONSE: [u8; PLACES as usize] = Table::of_response().next;
/// What is so of its states: [`IN_HEAD`], [`IN_LENGTH`].
pub(super) static TRAITS: [u8; 256] = Table::of_response().traits;
/// The head goes on.
pub(super) const IN_HEAD: u8 = 1;
/// The last byte was a digit of the length.
pub(super) const IN_LENGTH: u8 = 2;

/// How many states there are.
#[cfg(all(test, feature = "std"))]
pub(super) const USED: u8 = Table::of_request().states;

const fn classes() -> [u16; 256] {
    let mut classes = [class(0) as u16; 256];
    let mut byte = u8::MAX;
    while byte > 0 {
        classes[byte as usize] = class(byte) as u16;
        byte -= 1;
    }
    classes[b'\n' as usize] |= LINE;
    classes
}

/// Less than [`CLASS`]. A byte that is looked for by itself is alone in its class, but for the case of letters: only
/// those of `GET` and `HTTP` have one for each.
const fn class(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => 1 + (byte - b'a'),
        b'G' => 27,
        b'E' => 28,
        b'T' => 29,
        b'H' => 30,
        b'P' => 31,
        b'A'..=b'Z' => 1 + (byte - b'A'),
        b'0'..=b'6' => 32 + (byte - b'0'),
        b'7'..=b'9' => 39,
        b' ' => 40,
        b'\t' => 41,
        b'\r' => 42,
        b'\n' => 43,
        b':' => 44,
        b'/' => 45,
        b'?' => 46,
        b'.' => 47,
        b'-' => 48,
        b'_' => 49,
        b'%' => 50,
        b';' => 51,
        // In values alone.
        b'"' | b'#' | b'<' | b'>' | b'\\' | b'`' => 52,
        // In targets, too.
        0x21..=0x7e => 53,
        _ => 0,
    }
}

/// Sets of bytes that the description names. A class is wholly in a set or wholly out.
#[derive(Clone, Copy)]
pub(super) enum Set {
    /// Of a header's name.
    Name,
    /// Of a header's value (RFC 9110, section 5.5, without what is not ASCII).
    Value,
    /// Of a target, as the gate takes it.
    Target,
    /// Of a host's label.
    Label,
    /// Of an escape in a path, the first digit, where the second may be any.
    High,
    /// Of an escape, the second digit.
    Low,
    /// Optional white space (RFC 9110, section 5.6.3).
    Space,
    From0To4,
    From1To5,
    From5To9,
    From7To9,
    Digit,
}

pub(super) const fn has(set: Set, byte: u8) -> bool {
    match set {
        Set::Name => byte.is_ascii_alphanumeric() || byte == b'-',
        Set::Value => matches!(byte, b'\t' | 0x20..=0x7e),
        Set::Target => {
            matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'`')
        }
        Set::Label => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        Set::High => byte.is_ascii_hexdigit() && !matches!(byte, b'0' | b'2' | b'3' | b'5'),
        Set::Low => byte.is_ascii_hexdigit(),
        Set::Space => matches!(byte, b' ' | b'\t'),
        Set::From0To4 => matches!(byte, b'0'..=b'4'),
        Set::From1To5 => matches!(byte, b'1'..=b'5'),
        Set::From5To9 => matches!(byte, b'5'..=b'9'),
        Set::From7To9 => matches!(byte, b'7'..=b'9'),
        Set::Digit => byte.is_ascii_digit(),
    }
}

/// The states of header lines.
#[derive(Clone, Copy)]
struct Lines {
    /// In front of a line.
    start: u8,
    /// In a name like any other.
    name: u8,
    /// Behind a line's CR.
    end: u8,
}

/// The table in the making.
struct Table {
    next: [u8; PLACES as usize],
    states: u8,
    traits: [u8; 256],
}

impl Table {
    /// Header lines of which exactly one has this name: those in front of it, the state behind the name, whose colon leads
    /// nowhere yet, and those behind it.
    const fn lines_with_one(
        &mut self,
        name: &[u8],
        names: &[&str],
        beginnings: &[&str],
    ) -> (Lines, u8, Lines) {
        // Whether it was there is known from where one is: each state of a header line exists twice.
        let behind = self.header_lines(names, beginnings);
        let before = self.header_lines(names, beginnings);
        let again = self.own_name(behind, name);
        self.on(again, b':', DEAD);
        (before, self.own_name(before, name), behind)
    }

    /// The empty line behind these, and with it the end.
    const fn empty_line(&mut self, lines: Lines) {
        let last = self.state();
        self.on(lines.start, b'\r', last);
        self.on(last, b'\n', DONE);
    }

    /// Header lines but the empty one, without a name of these, or with one of these beginnings.
    const fn header_lines(&mut self, names: &[&str], beginnings: &[&str]) -> Lines {
        let (start, name, value, end) = (self.state(), self.state(), self.state(), self.state());
        self.on_all(start, Set::Name, name);
        self.on_all(name, Set::Name, name);
        self.on(name, b':', value);
        self.on_all(value, Set::Value, value);
        self.on(value, b'\r', end);
        self.on(end, b'\n', start);
        let lines = Lines { start, name, end };

        let unplain = self.like(name);
        self.on(unplain, b':', DEAD);
        let mut at = 0;
        while at < names.len() {
            self.name(lines, names[at].as_bytes(), unplain);
            at += 1;
        }
        at = 0;
        while at < beginnings.len() {
            self.name(lines, beginnings[at].as_bytes(), DEAD);
            at += 1;
        }
        // Which says what goes without saying.
        let connection = self.own_name(lines, b"connection");
        let before = self.state();
        self.on_all(before, Set::Space, before);
        let behind = self.state();
        self.on_all(behind, Set::Space, behind);
        self.on(behind, b'\r', end);
        self.text(before, b"keep-alive", behind);
        self.on(connection, b':', before);
        lines
    }

    const fn digit_more(&mut self, like: u8, next: u8) -> u8 {
        let state = self.like(like);
        self.on_all(state, Set::Digit, next);
        state
    }

    /// A name that has a state of its own, which is given: like that of any other name but for what is said of it later.
    const fn own_name(&mut self, lines: Lines, name: &[u8]) -> u8 {
        let state = self.like(lines.name);
        self.name(lines, name, state);
        state
    }

    /// A name, or a beginning of names, in small letters leads to a state, in any case. None begins with another.
    const fn name(&mut self, lines: Lines, name: &[u8], to: u8) {
        let mut state = lines.start;
        let mut at = 0;
        while at < name.len() {
            let next = self.after(state, name[at]);
            let is_last = at + 1 == name.len();
            let is_new = next == lines.name;
            assert!(is_new || !is_last, "a name begins with another");
            let next = match (is_last, is_new) {
                (true, _) => to,
                (_, true) => self.like(lines.name),
                (_, false) => next,
            };
            self.on_letter(state, name[at], next);
            state = next;
            at += 1;
        }
    }

    /// Exactly these bytes lead from one state to another.
    const fn word(&mut self, from: u8, word: &[u8], to: u8) {
        let mut state = from;
        let mut at = 0;
        while at < word.len() {
            let next = if at + 1 == word.len() { to } else { self.state() };
            self.on(state, word[at], next);
            state = next;
            at += 1;
        }
    }

    /// As [`Table::word`], of small letters, in any case.
    const fn text(&mut self, from: u8, text: &[u8], to: u8) {
        let mut state = from;
        let mut at = 0;
        while at < text.len() {
            let next = if at + 1 == text.len() { to } else { self.state() };
            self.on_letter(state, text[at], next);
            state = next;
            at += 1;
        }
    }

    /// Nothing leads anywhere yet.
    const fn new() -> Self {
        Table { next: [DEAD; PLACES as usize], states: DONE + 1, traits: [0; 256] }
    }

    /// A new state, out of which nothing leads.
    const fn state(&mut self) -> u8 {
        assert!(self.states < u8::MAX, "too many states");
        self.states += 1;
        self.states - 1
    }

    /// A new state out of which leads what leads out of another now.
    const fn like(&mut self, other: u8) -> u8 {
        let state = self.state();
        let mut class = 0;
        while class < CLASS {
            self.next[state as usize * CLASS + class] = self.next[other as usize * CLASS + class];
            class += 1;
        }
        state
    }

    const fn after(&self, state: u8, byte: u8) -> u8 {
        self.next[state as usize * CLASS + class(byte) as usize]
    }

    const fn on(&mut self, state: u8, byte: u8, to: u8) {
        self.next[state as usize * CLASS + class(byte) as usize] = to;
    }

    /// In both cases.
    const fn on_letter(&mut self, state: u8, letter: u8, to: u8) {
        self.on(state, letter.to_ascii_lowercase(), to);
        self.on(state, letter.to_ascii_uppercase(), to);
    }

    const fn on_all(&mut self, state: u8, set: Set, to: u8) {
        let mut byte = 0;
        while byte < 128 {
            if has(set, byte) {
                self.on(state, byte, to);
            }
            byte += 1;
        }
    }
}
