//! Text in columns, and what of JSON goes into them.

use serde_json::Value;

/// Rows under a heading, columns as wide as they must be.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heading: &[&str]) -> Self {
        Table { rows: vec![heading.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// With a line for each row; the last column is not filled up.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                // A remark stands in the last cell of a shorter row, and may be as long as it likes.
                .filter(|row| column + 1 < row.len() || row.len() == columns)
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out
    }
}

/// A value's text: strings bare, null as `-`.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// What is at a pointer (RFC 6901), as [`cell`] says it.
pub(crate) fn at(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).map_or_else(|| "-".to_owned(), cell)
}

/// The string at a pointer as the daemon gave it, if there is one and it is not empty: to go by, not to be shown.
pub(crate) fn word<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// The number at a pointer, 0 if there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The elements of a list.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Clients choose paths and names: nothing of that may steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["xyz".to_owned(), "1".to_owned()]);
        table.row(["x".to_owned()]);
        assert_eq!(table.text(), "A    LONG\nxyz  1\nx\n");
    }

    #[test]
    fn a_remark_below_a_row_makes_no_column_wider() {
        let mut table = Table::new(&["A", "B", "C"]);
        table.row(["1".to_owned(), "2".to_owned(), "3".to_owned()]);
        table.row([String::new(), "quite a long remark".to_owned()]);
        assert_eq!(table.text(), "A  B  C\n1  2  3\n   quite a long remark\n");
    }

    #[test]
    fn what_a_client_sent_cannot_steer_the_terminal() {
        assert_eq!(cell(&json!("GET /\u{1b}[2J")), "GET /\u{fffd}[2J");
        assert_eq!(at(&json!({ "a": [null, 5] }), "/a/0"), "-");
        assert_eq!(at(&json!({ "a": [null, 5] }), "/a/1"), "5");
    }

    #[test]
    fn what_is_gone_by_is_what_the_daemon_gave_and_nothing_is_not_a_dash() {
        let value = json!({ "name": "-", "odd": "a\u{1b}", "none": null, "empty": "" });
        assert_eq!([word(&value, "/name"), word(&value, "/odd")], [Some("-"), Some("a\u{1b}")]);
        assert_eq!(["/none", "/empty", "/missing"].map(|at| word(&value, at)), [None; 3]);
    }
}
