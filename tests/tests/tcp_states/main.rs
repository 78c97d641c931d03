//! TCP's states and faults at the moment of migration and after it: the table in `docs/tcp-states.md`, row by row.
//!
//! A row is a function that plays a client segment by segment against the VIP. Rows of a group share one lab. Those that
//! stop the agent, or change the lab otherwise, come one after the other; the rest run side by side, each from an
//! address of its own. Later requests are tracked, which is the default, but in the group that says otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test's panic is its report; lengths here are small"
)]

mod after;
mod answers;
mod between;
mod blind;
mod closing;
mod cookies;
mod fastopen;
mod feeding;
mod forged;
mod fragments;
mod freeze;
mod options;
mod place;
mod plain;
mod recall;
mod refused;
mod scripted;
mod server;
mod serving;
mod spoofed;
mod table;
mod unread;
mod urgent;
mod windows;

use baton_tests::peer::{SERVER, SERVER6};
use baton_tests::two_pools::two_pools;
use netns_lab::{Family, LabSpec, Serve};
use place::{Row, play_in};

/// A group's rows with their names.
macro_rules! rows {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn(&crate::place::Place))),*] };
}
pub(crate) use rows;

/// All groups: the module's name, the rows side by side, the rows one after the other.
const GROUPS: &[(&str, &[Row], &[Row])] = &[
    ("options", options::ROWS, &[]),
    ("cookies", &[], cookies::ALONE),
    ("fastopen", &[], fastopen::ALONE),
    ("freeze", &[], freeze::ALONE),
    ("refused", &[], refused::ALONE),
    ("recall", &[], recall::ALONE),
    ("after", after::ROWS, &[]),
    ("blind", blind::ROWS, &[]),
    ("spoofed", spoofed::ROWS, spoofed::ALONE),
    ("unread", unread::ROWS, &[]),
    ("forged", forged::ROWS, &[]),
    ("fragments", fragments::ROWS, fragments::ALONE),
    ("between", between::ROWS, between::ALONE),
    ("plain", &[], plain::ALONE),
    ("closing", closing::ROWS, &[]),
    ("urgent", urgent::ROWS, &[]),
    ("windows", windows::ROWS, windows::ALONE),
    ("answers", answers::ROWS, answers::ALONE),
    ("feeding", feeding::ROWS, &[]),
    ("serving", serving::ROWS, &[]),
];

#[test]
fn what_the_handshake_agrees_on() {
    play_in("tcpopt", |s| s, &["options", "cookies", "fastopen"]);
}

#[test]
fn while_the_connection_is_frozen() {
    play_in("tcpfreeze", |s| s, &["freeze"]);
}

#[test]
fn while_the_connection_changes_its_target() {
    play_in("tcprecall", |s| two_pools(s.targets(2)), &["recall"]);
    play_in("tcprecall2", |s| two_pools(s.targets(2)).serve(Serve::Translate), &["recall"]);
}

#[test]
fn in_use() {
    play_in(
        "tcpuse",
        |s| s.clients(2),
        &["after", "blind", "spoofed", "forged", "fragments", "between", "plain"],
    );
}

/// Where nobody reads what follows a first request: what the server's kernel makes of it.
#[test]
fn where_later_requests_are_not_read() {
    play_in("tcpunread", |s| s.intermediate_with("listener", "keepalive", "pinned"), &["unread"]);
}

#[test]
fn how_connections_end_and_what_windows_do() {
    play_in("tcpclose", |s| s, &["closing", "urgent", "windows"]);
}

/// Where servers' kernels cannot adopt connections, handshakes are replayed: once more what differs most by that.
#[test]
fn the_same_with_replayed_handshakes() {
    let replayed = |spec: LabSpec| spec.serve(Serve::Translate);
    play_in(
        "tcpreplay",
        replayed,
        &["options", "freeze", "after", "between", "closing", "urgent", "windows"],
    );
}

#[test]
fn after_the_agent_refused() {
    for (family, vip) in [(Family::V4, "10.90.1.200:80"), (Family::V6, "[fd90:1::200]:80")] {
        let strict = |spec: LabSpec| spec.family(family).agent_with("target1", "allow", "vip", vip);
        play_in("tcprefuse", strict, &["refused"]);
    }
}

#[test]
fn with_servers_of_every_kind() {
    for (family, server) in [(Family::V4, SERVER), (Family::V6, SERVER6)] {
        let scripted = |spec: LabSpec| {
            let server = server.to_string();
            // No kernel listens for these servers that could adopt for them.
            spec.family(family)
                .serve(Serve::Translate)
                .intermediate_with("target", "server", server.as_str())
                .agent_with("target1", "allow", "server", server.as_str())
        };
        play_in("tcpserver", scripted, &["answers", "feeding", "serving"]);
    }
}
