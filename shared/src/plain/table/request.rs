//! A request: its line, and one `Host` among the header lines.

use super::{DEAD, START, Set, Table};
use crate::plain::{UNPLAIN_BEGINNINGS, UNPLAIN_NAMES};

impl Table {
    pub(super) const fn of_request() -> Self {
        let mut table = Table::new();
        let (hostless, host, hosted) = table.lines_with_one(b"host", &UNPLAIN_NAMES, &UNPLAIN_BEGINNINGS);
        let value = table.host_value(hosted.end);
        table.on(host, b':', value);
        table.empty_line(hosted);

        let version = table.state();
        table.word(version, b"HTTP/1.1\r\n", hostless.start);
        let path = table.path(version);
        table.word(START, b"GET /", path);
        table
    }

    /// The path behind its first slash, the query, and the space, which leads on. Gives the state at the start of a segment.
    const fn path(&mut self, space: u8) -> u8 {
        let query = self.state();
        self.on_all(query, Set::Target, query);
        self.on(query, b' ', space);

        let segment = self.state();
        self.on_all(segment, Set::Target, segment);
        self.on(segment, b';', DEAD);
        self.on(segment, b'?', query);
        self.on(segment, b' ', space);
        let escape = self.escape(segment);
        self.on(segment, b'%', escape);
        let start = self.like(segment);
        self.on(segment, b'/', start);
        self.on(start, b'/', start);
        // A segment may begin with dots, not consist of one or two.
        let dots = self.like(segment);
        self.on(dots, b'/', DEAD);
        self.on(dots, b'?', DEAD);
        self.on(dots, b' ', DEAD);
        let dot = self.like(dots);
        self.on(dot, b'.', dots);
        self.on(start, b'.', dot);
        start
    }

    /// An escape that stands for one of a name's bytes, behind its percent sign.
    const fn escape(&mut self, after: u8) -> u8 {
        let first = self.state();
        let any = self.state();
        self.on_all(any, Set::Low, after);
        self.on_all(first, Set::High, any);
        let two = self.like(any);
        self.on_letter(two, b'e', DEAD);
        self.on_letter(two, b'f', DEAD);
        self.on(first, b'2', two);
        let three = self.like(any);
        self.on_letter(three, b'b', DEAD);
        self.on(first, b'3', three);
        let five = self.like(any);
        self.on_letter(five, b'c', DEAD);
        self.on(first, b'5', five);
        first
    }

    /// The value of `Host`, up to the CR, which leads on.
    const fn host_value(&mut self, end: u8) -> u8 {
        let behind = self.state();
        self.on_all(behind, Set::Space, behind);
        self.on(behind, b'\r', end);

        // The states of a port by how many digits may follow: 65535 is the highest, 64999 the highest here.
        let none = self.like(behind);
        let one = self.digit_more(behind, none);
        let two = self.digit_more(behind, one);
        let three = self.digit_more(behind, two);
        let four = self.digit_more(behind, three);
        let six = self.like(behind);
        self.on_all(six, Set::From0To4, three);
        self.on_all(six, Set::From5To9, two);
        let port = self.state();
        self.on_all(port, Set::From1To5, four);
        self.on(port, b'6', six);
        self.on_all(port, Set::From7To9, three);

        let label = self.like(behind);
        self.on_all(label, Set::Label, label);
        self.on(label, b':', port);
        let dot = self.state();
        self.on_all(dot, Set::Label, label);
        self.on(label, b'.', dot);
        let before = self.like(dot);
        self.on_all(before, Set::Space, before);
        before
    }
}
