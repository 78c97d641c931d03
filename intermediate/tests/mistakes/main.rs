//! What is said of wrong configurations: a clear message each, with its place and what to do, the same from `check`, at
//! the start, and on a reload, which then changes nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

#[path = "../daemon/mod.rs"]
mod daemon;
mod table;

use baton_daemon::certs::{self, Node};
use baton_shared::control::Role;
use baton_tests::mistakes::{self, Mistake};
use daemon::Daemon;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use table::{BASE, MISTAKES};

/// Where a listener's certificate is put, by `CERT(chain, key)`; `TLS(ca, chain, key)` is for the control channels.
pub(crate) const LISTENER: &str = "pool = \"one\"\n[[target]]";

/// Those words written out, with the files' places.
fn written_out(text: &str) -> String {
    let words = |text: &str, name: &str| {
        let list = text.strip_prefix(name)?.strip_suffix(')')?;
        Some(list.split(", ").map(|file| format!("\"DIR/certs/{file}\"")).collect::<Vec<_>>())
    };
    if let Some(files) = words(text, "CERT(") {
        let table = format!("[[listener.certificate]]\ncert = {}\nkey = {}", files[0], files[1]);
        return format!("pool = \"one\"\nprotocol = \"https\"\n{table}\n[[target]]");
    }
    match words(text, "TLS(") {
        Some(files) => format!("[tls]\nca = {}\ncert = {}\nkey = {}", files[0], files[1], files[2]),
        None => text.to_owned(),
    }
}

/// Certificates and keys that are right, and files in their places that are not: a directory is what not even root
/// can read.
fn make_certificates(dir: &Path) {
    let node = |role, name| Node::new(role, name, &[], 30);
    certs::make(dir, &[node(Role::Intermediate, "lb"), node(Role::Agent, "t1")]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["site.example".to_owned()]).unwrap();
    std::fs::write(dir.join("site.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.join("site.key"), key.serialize_pem()).unwrap();
    std::fs::create_dir(dir.join("dir.key")).unwrap();
    std::fs::write(dir.join("empty.key"), "").unwrap();
    let broken = "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n";
    std::fs::write(dir.join("broken.key"), broken).unwrap();
}

struct Place {
    dir: tempfile::TempDir,
    vip: String,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (name, text) in [
            ("bad-key/a.toml", "\n[limits]\nhead_bytes = 1000\n"),
            ("bad-pool/a.toml", "[[route]]\npath = \"/x\"\npool = \"one\"\n# the end without a newline"),
            ("bad-pool/b.toml", "[[route]]\npath = \"/y\"\npool = \"tow\"\n"),
            ("bad-syntax/a.toml", "[[route]]\npool"),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        make_certificates(&dir.path().join("certs"));
        Place { dir, vip: port.to_string() }
    }

    fn text(&self, (from, to, ..): &Mistake) -> String {
        let text = mistakes::made(BASE, from, &written_out(to));
        text.replace("DIR", &self.dir.path().display().to_string()).replace("VIP", &self.vip)
    }

    /// Exit code and what is said.
    fn says(&self, verb: &str, text: &str) -> (Option<i32>, String) {
        mistakes::says(Path::new(env!("CARGO_BIN_EXE_intermediate")), verb, self.dir.path(), text)
    }
}

#[test]
fn every_mistake_is_told_once_with_place_and_hint_by_check_at_start_and_on_reload() {
    assert!(MISTAKES.len() >= 40);
    let place = Place::new();
    let daemon = Daemon::start_in(place.dir.path(), &place.vip, BASE);
    let mut wrong = Vec::new();
    for mistake in MISTAKES {
        let text = place.text(mistake);
        let (code, said) = place.says("check", &text);
        if let Some(unclear) = mistakes::unclear(mistake, code, &said) {
            wrong.push(unclear);
            continue;
        }
        assert_eq!(place.says("run", &text), (code, said.clone()), "at the start");
        let (status, answer) = daemon.reload(&text);
        let on_reload = said.replace("/wrong.toml:", "/served.toml:");
        assert_eq!((status, &answer["problems"]), (422, &serde_json::json!([on_reload])), "on reload");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), MISTAKES.len(), wrong.join("\n"));
    assert_eq!(daemon.reload(BASE).0, 200, "it still runs, and takes what is right");
}

#[test]
fn what_is_needed_to_migrate_is_asked_for() {
    let place = Place::new();
    let text = place.text(&("mode = \"proxy\"", "mode = \"migrate\"", "", &[]));
    let (code, said) = place.says("check", &text);
    assert_eq!((code, said.lines().count()), (Some(2), 2), "{said}");
    assert!(said.contains("1:1: uplink is missing") && said.contains("1:1: [tls] is missing"), "{said}");
    for (from, part) in [("listener", "there must be at least one [[listener]]"), ("target", "[[target]]")] {
        let without: String =
            BASE.split("[[").filter(|table| !table.starts_with(from)).fold(String::new(), |all, table| {
                if all.is_empty() { table.to_owned() } else { format!("{all}[[{table}") }
            });
        let without = without.replace("DIR", "/run").replace("VIP", &place.vip);
        let (code, said) = place.says("check", &without);
        assert!(code == Some(2) && said.contains(part), "{said}");
    }
}

#[test]
fn included_files_are_read_in_the_order_of_their_names() {
    let place = Place::new();
    let parts = place.dir.path().join("conf.d");
    std::fs::create_dir(&parts).unwrap();
    std::fs::write(
        parts.join("20-b.toml"),
        "[[route]]\nname = \"last\"\nhost = [\"api.example.com\"]\npool = \"one\"\n",
    )
    .unwrap();
    std::fs::write(parts.join("10-a.toml"), "[[route]]\nname = \"middle\"\npath = \"/a\"\npool = \"two\"")
        .unwrap();
    std::fs::write(parts.join("ignored.txt"), "not TOML").unwrap();
    let text = place.text(&("name = \"lb\"", "name = \"lb\"\ninclude = \"conf.d/*.toml\"", "", &[]));
    let file = place.dir.path().join("i.toml");
    std::fs::write(&file, text).unwrap();
    let out = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_intermediate"));
        let output = command.args(words).arg("--config").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let explained = out(&["route", "explain", "GET", "http://api.example.com/x"]);
    assert_eq!(
        explained,
        format!(
            "listener \"web\": {}, http\n  route \"api\": no, it wants path \"/api\"\n  route \"middle\": no, it wants path \"/a\"\n  \
             route \"last\": takes it\ndecision: pool \"one\" (t1), by route \"last\"\n  mode proxy, keepalive tracked\n  \
             body_bytes 0, body_min_rate 240, body_grace_ms 30000, connect_timeout_ms 3000, connect_retries 10, \
             upstream_timeout_ms 60000\n",
            place.vip
        )
    );
    let refused =
        out(&["route", "explain", "GET", "http://h/x", "-H", "Content-Length: 1", "-H", "Content-Length: 2"]);
    assert!(refused.contains("the gate refuses it: 400"), "{refused}");
    // What is shown means the same, and shows itself.
    let shown = out(&["config", "show", "--effective"]);
    for line in ["keepalive = \"tracked\"", "protocol = \"http\"", "head_bytes = 16384", "name = \"middle\""]
    {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    std::fs::write(&file, &shown).unwrap();
    assert_eq!(out(&["config", "show", "--effective"]), shown);
    assert_eq!(out(&["route", "explain", "GET", "http://api.example.com/x"]), explained);
}

#[test]
fn the_schema_knows_each_key_of_a_file_that_is_right() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_intermediate")).args(["config", "schema"]).output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let file: toml::Table = toml::from_str(BASE).unwrap();
    for key in file.keys() {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
    assert_eq!(schema["additionalProperties"], false);
    let route = &schema["$defs"]["RouteEntry"]["properties"];
    for key in file["route"][0].as_table().unwrap().keys() {
        assert!(route.get(key).is_some_and(|key| key.get("description").is_some()), "{key}: {route}");
    }
}
