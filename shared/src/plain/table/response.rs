//! A response's head: its status, and one `Content-Length` among the header lines.

use super::{CLASS, DONE, IN_HEAD, IN_LENGTH, START, Set, Table};
use crate::plain::response::{LENGTH_DIGITS, UNPLAIN_NAMES};

impl Table {
    pub(super) const fn of_response() -> Self {
        let mut table = Table::new();
        let (unknown, length, known) = table.lines_with_one(b"content-length", &UNPLAIN_NAMES, &[]);
        let value = table.length(known.end);
        table.on(length, b':', value);
        table.empty_line(known);

        let reason = table.state();
        table.on_all(reason, Set::Value, reason);
        table.on(reason, b'\r', unknown.end);
        let tens = table.state();
        table.word(tens, b"0 ", reason);
        table.word(tens, b"6 ", reason);
        table.word(START, b"HTTP/1.1 20", tens);

        // Whatever stands behind it.
        let mut class = 0;
        while class < CLASS {
            table.next[DONE as usize * CLASS + class] = DONE;
            class += 1;
        }
        let mut state = 0;
        while state < table.states {
            if state != DONE {
                table.traits[state as usize] |= IN_HEAD;
            }
            state += 1;
        }
        table
    }

    /// The length, up to the CR, which leads on.
    const fn length(&mut self, end: u8) -> u8 {
        let behind = self.state();
        self.on_all(behind, Set::Space, behind);
        self.on(behind, b'\r', end);
        let mut digit = behind;
        let mut more = 0;
        while more < LENGTH_DIGITS {
            let last = self.like(behind);
            if more > 0 {
                self.on_all(last, Set::Digit, digit);
            }
            self.traits[last as usize] |= IN_LENGTH;
            digit = last;
            more += 1;
        }
        let before = self.state();
        self.on_all(before, Set::Space, before);
        self.on_all(before, Set::Digit, digit);
        before
    }
}
