//! What a handoff costs, as a file that two runs can be compared by.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Calls by which a thread waits or wakes another: how many there are is the scheduler's choice.
const WAITING: [&str; 6] = ["all", "epoll_pwait", "epoll_wait", "futex", "sched_yield", "other"];
/// Calls that may be one more or one less: threads wake each other by writing to a descriptor, and what comes in two
/// pieces for one reader comes in one for another.
const BATCHED: [&str; 6] = ["read", "readv", "recvfrom", "recvmsg", "sendmmsg", "write"];
/// The same on the intermediate alone: the client's acknowledgement of the response is given back by the hold queue if it
/// comes before the commit, and goes on by itself behind it.
const GIVEN_BACK: &str = "writev";
/// Of the intermediate's: by `write` it does nothing else than wake a thread, since its packets and records leave by `writev`; by
/// `readv` it reads the client's packets that come before the commit, of which there are three or none as the client or the agent
/// is faster.
const BY_CHANCE: [&str; 2] = ["write", "readv"];
/// By how many bytes the control channel may differ: numbers are written in as many bytes as they need.
const BYTES: u64 = 12;

/// A handoff by each way of serving: `translate`, `adopt`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger(pub BTreeMap<String, Handoff>);

/// Medians over many handoffs, one at a time: a new connection with one small request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// The intermediate.
    pub intermediate: Side,
    /// The agent of the target.
    pub agent: Side,
    /// Bytes on the control channel's connection, TLS included, from the intermediate.
    pub control_bytes_to_agent: u64,
    /// And to it: the answer.
    pub control_bytes_to_intermediate: u64,
    /// The same for the connection's end, both directions.
    pub control_bytes_of_end: u64,
}

/// What one process does for one handoff.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// System calls by name, `all` of them, and those without a name here as `other`.
    pub syscalls: BTreeMap<String, u64>,
    /// How often a thread went to sleep, and so was woken.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wakeups: Option<u64>,
    /// Calls of malloc and its kin; none if they cannot be counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allocations: Option<u64>,
    /// User and system time, nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_ns: Option<u64>,
    /// Instructions; none where the machine has no counter of them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instructions: Option<u64>,
}

impl Ledger {
    /// What does not depend on the machine, its load or the compiler: for a file in the tree.
    pub fn stable(&self) -> Ledger {
        let mut stable = self.clone();
        for handoff in stable.0.values_mut() {
            handoff.intermediate.syscalls.retain(|name, _| !BY_CHANCE.contains(&name.as_str()));
            for side in [&mut handoff.intermediate, &mut handoff.agent] {
                side.syscalls.retain(|name, _| !WAITING.contains(&name.as_str()));
                *side = Side { syscalls: std::mem::take(&mut side.syscalls), ..Side::default() };
            }
        }
        stable
    }

    /// Where `self`, as measured, differs from what is expected; a line for each count.
    pub fn differences(&self, expected: &Ledger) -> Vec<String> {
        let (measured, expected) = (self.stable(), expected.stable());
        let mut lines = Vec::new();
        for (way, new) in &measured.0 {
            let Some(old) = expected.0.get(way) else {
                lines.push(format!("{way}: not in the ledger"));
                continue;
            };
            for (name, old, new) in
                [("intermediate", &old.intermediate, &new.intermediate), ("agent", &old.agent, &new.agent)]
            {
                let calls: std::collections::BTreeSet<_> =
                    old.syscalls.keys().chain(new.syscalls.keys()).collect();
                for call in calls {
                    let of = |side: &Side| side.syscalls.get(call).copied().unwrap_or(0);
                    let given_back = name == "intermediate" && call == GIVEN_BACK;
                    let most = u64::from(BATCHED.contains(&call.as_str()) || given_back);
                    if of(old).abs_diff(of(new)) > most {
                        lines.push(format!(
                            "{way}: {name}: {call}: {} in the ledger, {} now",
                            of(old),
                            of(new)
                        ));
                    }
                }
            }
            for (name, old, new) in [
                ("to the agent", old.control_bytes_to_agent, new.control_bytes_to_agent),
                ("to the intermediate", old.control_bytes_to_intermediate, new.control_bytes_to_intermediate),
                ("of the end", old.control_bytes_of_end, new.control_bytes_of_end),
            ] {
                if old.abs_diff(new) > BYTES {
                    lines.push(format!("{way}: control bytes {name}: {old} in the ledger, {new} now"));
                }
            }
        }
        lines
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (way, handoff) in &self.0 {
            let _ = writeln!(text, "{way}");
            for (name, side) in [("intermediate", &handoff.intermediate), ("agent", &handoff.agent)] {
                let calls: Vec<_> = side.syscalls.iter().map(|(name, n)| format!("{name} {n}")).collect();
                let known = |n: Option<u64>| n.map_or("not counted".to_owned(), |n| n.to_string());
                let _ = writeln!(text, "  {name}: system calls: {}", calls.join(", "));
                let _ = writeln!(
                    text,
                    "  {name}: wakeups {}, allocations {}, instructions {}, CPU {} us",
                    known(side.wakeups),
                    known(side.allocations),
                    known(side.instructions),
                    side.cpu_ns.map_or("?".to_owned(), |ns| format!("{}.{}", ns / 1000, ns / 100 % 10)),
                );
            }
            let _ = writeln!(
                text,
                "  control channel: {} bytes to the agent, {} back, {} for the connection's end",
                handoff.control_bytes_to_agent,
                handoff.control_bytes_to_intermediate,
                handoff.control_bytes_of_end
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(write: u64, wait: u64, bytes: u64) -> Ledger {
        let calls = [("bpf", write), ("write", wait), ("epoll_wait", wait), ("all", write + wait)];
        let side = Side {
            syscalls: calls.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            wakeups: Some(wait),
            cpu_ns: Some(50_000 + wait),
            ..Side::default()
        };
        let handoff = Handoff { intermediate: side, control_bytes_to_agent: bytes, ..Handoff::default() };
        Ledger([("translate".to_owned(), handoff)].into())
    }

    #[test]
    fn one_call_more_is_told_and_one_wait_more_is_not() {
        assert_eq!(ledger(3, 2, 300).differences(&ledger(3, 1, 290)), Vec::<String>::new());
        assert_eq!(
            ledger(4, 2, 300).differences(&ledger(3, 2, 280)),
            [
                "translate: intermediate: bpf: 3 in the ledger, 4 now",
                "translate: control bytes to the agent: 280 in the ledger, 300 now"
            ]
        );
        assert_eq!(ledger(3, 2, 300).differences(&Ledger::default()), ["translate: not in the ledger"]);
    }

    #[test]
    fn how_many_of_a_clients_packets_come_before_the_commit_is_not_told() {
        let with = |held: u64| {
            let mut ledger = ledger(3, 2, 300);
            for handoff in ledger.0.values_mut() {
                handoff.intermediate.syscalls.insert("readv".to_owned(), held);
            }
            ledger
        };
        assert_eq!(with(3).differences(&with(0)), Vec::<String>::new());
        assert!(!serde_json::to_string(&with(3).stable()).unwrap().contains("readv"));
    }

    #[test]
    fn a_ledger_is_read_back_as_it_was_written_and_keeps_what_is_stable() {
        let whole = ledger(3, 2, 300);
        let text = serde_json::to_string(&whole).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), whole);
        let text = serde_json::to_string(&whole.stable()).unwrap();
        assert!(text.contains("bpf") && !text.contains("wait") && !text.contains("cpu_ns"), "{text}");
        assert!(whole.differences(&serde_json::from_str(&text).unwrap()).is_empty());
    }
}
