//! What is said of wrong configurations: a clear message each, with its place and what to do, the same from `check` and at
//! the start. The agent reads its file then only.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_daemon::certs::{self, Node};
use baton_shared::control::Role;
use baton_tests::mistakes::{self, Mistake};
use std::path::Path;

/// A file that is right. `DIR` is a directory of the test's own.
const BASE: &str = r#"name = "t1"
uplink = "lo"
control = "127.0.0.1:7400"
[tls]
ca = "DIR/ca.pem"
cert = "DIR/t1.pem"
key = "DIR/t1.key"
[plane]
pin_dir = "DIR/bpf"
linger_ms = 3000
[admin]
unix = "DIR/admin.sock"
[[allow]]
intermediate = "lb"
vip = "192.0.2.100:80"
server = "192.0.2.11:80"
"#;

const MISTAKES: &[Mistake] = &[
    // Slips of the pen.
    ("uplink", "uplnik", "2:1", &["unknown field `uplnik`", "did you mean `uplink`?"]),
    ("[[allow]]", "[[alow]]", "13:3", &["unknown field `alow`", "did you mean `allow`?"]),
    ("linger_ms", "linger", "10:1", &["unknown field `linger`", "did you mean `linger_ms`?"]),
    ("server =", "sever =", "16:1", &["unknown field `sever`", "did you mean `server`?"]),
    ("+", "[serve]\nway = \"adpot\"", "18:7", &["unknown variant `adpot`", "did you mean `adopt`?"]),
    ("+", "leg = \"ipi\"", "17:7", &["unknown variant `ipi`", "did you mean `ipip`?"]),
    ("\"lo\"", "\"lo", "2:", &["invalid basic string", "expected `\"`"]),
    ("\"lo\"", "7", "2:10", &["invalid type: integer `7`", "expected a string"]),
    ("uplink = \"lo\"", "", "1:1", &["missing field `uplink`", "add uplink = "]),
    (
        "uplink = \"lo\"",
        "uplink = \"lo\"\nuplink = \"lo\"",
        "3:1",
        &["duplicate key", "stands above already"],
    ),
    ("linger_ms = 3000", "linger_ms = -1", "10:13", &["invalid value: integer `-1`"]),
    (
        "uplink = \"lo\"",
        "uplink = \"lo\"\ncpu_latency_us = 1000001",
        "3:18",
        &["cpu_latency_us must be from 0 to 1000000"],
    ),
    // Addresses.
    ("127.0.0.1:7400", "127.0.0.1", "3:11", &["invalid socket address syntax", "write ADDRESS:PORT"]),
    ("127.0.0.1:7400", "127.0.0.1:0", "3:11", &["control must have a port"]),
    ("192.0.2.100:80", "192.0.2.100:0", "15:7", &["must name one address and port"]),
    ("192.0.2.11:80", "0.0.0.0:80", "16:10", &["must name one address and port"]),
    ("192.0.2.11:80", "[2001:db8::1]:80", "16:10", &["must be of one address family"]),
    ("\"lo\"", "\"a device name too long\"", "2:10", &["a device name of 1 to 15 bytes"]),
    // What does not go together.
    ("+", "leg = \"ipip\"", "17:7", &["leg_source is missing", "the intermediate's own address"]),
    ("+", "leg_source = \"192.0.2.1\"", "17:14", &["no meaning without leg"]),
    ("+", "leg = \"udp\"\nleg_source = \"::1\"", "18:14", &["one host's address of the server's family"]),
    ("+", "leg = \"udp\"\nleg_source = \"lb\"", "18:14", &["invalid IP address syntax", "write it alone"]),
    (
        "+",
        "[[allow]]\nintermediate = \"lb\"\nvip = \"192.0.2.100:80\"\nserver = \"192.0.2.11:80\"",
        "18:16",
        &["this [[allow]] stands twice"],
    ),
    (
        "[plane]",
        "[serve]\nway = \"adopt\"\n[plane]\nkind = \"userspace\"",
        "9:7",
        &["adopted by eBPF", "serve.way must be \"auto\" or \"translate\""],
    ),
    ("linger_ms = 3000", "flows = 0", "10:9", &["flows must be between 1 and"]),
    ("linger_ms = 3000", "idle_ms = 5", "10:11", &["idle_ms must be at least 1000"]),
    ("linger_ms = 3000", "linger_ms = 3600001", "10:13", &["linger_ms must be at most 3600000"]),
    ("unix = \"DIR/admin.sock\"", "tcp = \"192.0.2.1:80\"", "12:7", &["must be a loopback address"]),
    // Certificates and keys; a directory is what not even root can read.
    ("t1.key", "none.key", "7:7", &["none.key cannot be read", "No such file"]),
    ("t1.key", "dir.key", "7:7", &["dir.key cannot be read", "Is a directory"]),
    ("t1.key", "empty.key", "7:7", &["empty.key holds no private key in PEM form"]),
    ("t1.key", "lb.key", "7:7", &["lb.key does not fit", "t1.pem"]),
    ("ca.pem", "none.pem", "5:6", &["none.pem cannot be read"]),
    ("ca.pem", "t1.key", "5:6", &["t1.key holds no certificate in PEM form"]),
    ("ca.pem", "other/ca.pem", "6:8", &["t1.pem:"]),
    ("name = \"t1\"", "name = \"t2\"", "6:8", &["was made for agent \"t1\", this node is agent \"t2\""]),
    (
        "cert = \"DIR/t1.pem\"\nkey = \"DIR/t1.key\"",
        "cert = \"DIR/lb.pem\"\nkey = \"DIR/lb.key\"",
        "6:8",
        &["was made for intermediate \"lb\", this node is agent \"t1\""],
    ),
];

fn make_files(dir: &Path) {
    let node = |role, name| Node::new(role, name, &[], 30);
    certs::make(dir, &[node(Role::Agent, "t1"), node(Role::Intermediate, "lb")]).unwrap();
    certs::make(&dir.join("other"), &[]).unwrap();
    std::fs::create_dir(dir.join("dir.key")).unwrap();
    std::fs::write(dir.join("empty.key"), "").unwrap();
}

/// Exit code and what is said.
fn says(dir: &Path, verb: &str, text: &str) -> (Option<i32>, String) {
    mistakes::says(Path::new(env!("CARGO_BIN_EXE_target-agent")), verb, dir, text)
}

#[test]
fn every_mistake_is_told_once_with_place_and_hint_by_check_and_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    make_files(dir.path());
    let here = dir.path().display().to_string();
    let (code, said) = says(dir.path(), "check", &BASE.replace("DIR", &here));
    assert_eq!(code, Some(0), "what is right is right: {said}");
    let mut wrong = Vec::new();
    for mistake in MISTAKES {
        let (from, to, ..) = mistake;
        let text = mistakes::made(BASE, from, to).replace("DIR", &here);
        let (code, said) = says(dir.path(), "check", &text);
        if let Some(unclear) = mistakes::unclear(mistake, code, &said) {
            wrong.push(unclear);
            continue;
        }
        assert_eq!(says(dir.path(), "run", &text), (code, said), "at the start");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), MISTAKES.len(), wrong.join("\n"));
}
