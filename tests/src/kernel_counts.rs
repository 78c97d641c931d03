//! What a node's kernel has counted (`/proc/net/snmp`, `/proc/net/netstat`, `/proc/net/snmp6`).

use crate::lab::TestLab;
use std::collections::BTreeMap;

impl TestLab {
    /// A counter of a node's kernel, its name with the group's before it, as `nstat` has it: `TcpRetransSegs`,
    /// `TcpExtTCPTimeouts`, `Ip6ReasmReqds`.
    ///
    /// # Panics
    /// If the node's kernel has no such counter: a test of a misspelt one could not fail.
    pub fn kernel_count(&self, node: &str, name: &str) -> u64 {
        let counts = self.kernel_counts(node);
        *counts.get(name).unwrap_or_else(|| panic!("no {name} in {counts:?}"))
    }

    /// All of them.
    ///
    /// # Panics
    /// If the node's kernel does not tell.
    pub fn kernel_counts(&self, node: &str) -> BTreeMap<String, u64> {
        let read =
            |file: &str| self.lab.output(node, &["cat", file]).unwrap_or_else(|e| panic!("{node}: {e}"));
        let mut counts = of_lines(&read("/proc/net/snmp6"));
        for file in ["/proc/net/snmp", "/proc/net/netstat"] {
            counts.extend(of_pairs(&read(file)));
        }
        counts
    }
}

/// A name and its number in each line.
fn of_lines(text: &str) -> BTreeMap<String, u64> {
    let pair = |line: &str| {
        let (name, number) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

/// Names in one line, numbers in the next, both behind the group's name. Numbers below 0 (limits, no counts) are left out.
fn of_pairs(text: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut lines = text.lines();
    while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
        let (Some((group, names)), Some((_, numbers))) = (names.split_once(':'), numbers.split_once(':'))
        else {
            continue;
        };
        for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
            if let Ok(number) = number.parse() {
                counts.insert(format!("{group}{name}"), number);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_one_name_are_told_apart_by_their_group() {
        let counts = of_pairs("Tcp: MaxConn InErrs\nTcp: -1 5\nUdp: InErrs\nUdp: 7\n");
        assert_eq!(counts, [("TcpInErrs".to_owned(), 5), ("UdpInErrs".to_owned(), 7)].into());
        assert_eq!(of_lines("Ip6ReasmReqds      \t 3\nnothing\n"), [("Ip6ReasmReqds".to_owned(), 3)].into());
    }
}
