//! What is said of wrong configurations: a clear message each, with its place and what to do, the same from `check`, at
//! the start, and on a reload, which then changes nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod daemon;

use baton_daemon::certs::{self, Node};
use baton_shared::control::Role;
use daemon::Daemon;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

/// A site that is right. `DIR` is a directory of the test's own, `VIP` a port of it.
const BASE: &str = r#"name = "lb"
[admin]
unix = "DIR/admin.sock"
[limits]
head_timeout_ms = 10000
[[listener]]
name = "web"
vip = "VIP"
mode = "proxy"
pool = "one"
[[target]]
name = "t1"
server = "127.0.0.1:8081"
agent = "127.0.0.1:7400"
[[target]]
name = "t2"
server = "127.0.0.1:8082"
agent = "127.0.0.1:7401"
[[pool]]
name = "one"
targets = ["t1"]
[[pool]]
name = "two"
targets = ["t2"]
[[route]]
name = "api"
host = ["api.example.com"]
path = "/api"
pool = "two"
"#;

/// What is replaced, by what (`+` as the first: what is appended), and what is said: `LINE:COL: ` and parts of the message.
type Mistake = (&'static str, &'static str, &'static str, &'static [&'static str]);

const MISTAKES: &[Mistake] = &[
    // Slips of the pen.
    ("name = \"lb\"", "nmae = \"lb\"", "1:1", &["unknown field `nmae`", "did you mean `name`?"]),
    ("vip =", "vpi =", "8:1", &["unknown field `vpi`", "did you mean `vip`?"]),
    ("[[route]]", "[[rout]]", "25:3", &["unknown field `rout`", "did you mean `route`?"]),
    ("path = \"/api\"", "pth = \"/api\"", "28:1", &["unknown field `pth`", "did you mean `path`?"]),
    (
        "head_timeout_ms",
        "head_timeout",
        "5:1",
        &["unknown field `head_timeout`", "did you mean `head_timeout_ms`?"],
    ),
    ("mode = \"proxy\"", "mode = \"poxy\"", "9:8", &["unknown variant `poxy`", "did you mean `proxy`?"]),
    (
        "+",
        "[route.request_headers]\nsett = { A = \"1\" }",
        "31:1",
        &["unknown field `sett`", "did you mean `set`?"],
    ),
    (
        "+",
        "[route.request_headers]\nforwarded = \"x-forward\"",
        "31:13",
        &["unknown variant", "`x-forwarded`?"],
    ),
    ("+", "[acess_log]", "30:2", &["unknown field `acess_log`", "did you mean `access_log`?"]),
    // What TOML and types forbid.
    ("name = \"lb\"", "name = \"lb", "1:11", &["invalid basic string"]),
    ("name = \"lb\"", "name = 5", "1:8", &["invalid type: integer `5`, expected a string"]),
    ("name = \"lb\"", "name = \"lb\"\nname = \"lb\"", "2:1", &["duplicate key", "stands above already"]),
    ("agent = \"127.0.0.1:7400\"", "", "11:1", &["missing field `agent`", "add agent = "]),
    ("head_timeout_ms = 10000", "head_timeout_ms = -1", "5:19", &["invalid value: integer `-1`"]),
    ("targets = [\"t1\"]", "targets = [7]", "21:12", &["expected a target's name, or { target"]),
    (
        "targets = [\"t1\"]",
        "targets = [{ target = \"t1\", wieght = 2 }]",
        "21:29",
        &["did you mean `weight`?"],
    ),
    // Names that lead nowhere, or to two places.
    ("pool = \"two\"", "pool = \"tow\"", "29:8", &["there is no pool \"tow\"", "did you mean \"two\"?"]),
    (
        "pool = \"one\"",
        "pool = \"static\"",
        "10:8",
        &["there is no pool \"static\"", "there is \"one\", \"two\""],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t3\"]",
        "21:12",
        &["there is no target \"t3\"", "there is \"t1\", \"t2\""],
    ),
    (
        "path = \"/api\"",
        "listener = [\"wbe\"]",
        "28:13",
        &["there is no listener \"wbe\"", "did you mean \"web\"?"],
    ),
    ("targets = [\"t1\"]", "targets = []", "20:8", &["pool \"one\" has no targets", "name one or more"]),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\", \"t1\"]",
        "21:18",
        &["\"t1\" is in this pool already", "weight"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [{ target = \"t1\", weight = 0 }]",
        "21:12",
        &["weight must be between 1 and 1000", "is 0"],
    ),
    (
        "+",
        "[[pool]]\nname = \"one\"\ntargets = [\"t2\"]",
        "31:8",
        &["pool \"one\" is listed twice", "differently"],
    ),
    (
        "+",
        "[[target]]\nname = \"t1\"\nserver = \"127.0.0.1:8083\"\nagent = \"127.0.0.1:7409\"",
        "31:8",
        &["target \"t1\" is listed twice", "differently"],
    ),
    (
        "+",
        "[[route]]\nname = \"api\"\npool = \"one\"",
        "31:8",
        &["route \"api\" is listed twice", "differently"],
    ),
    (
        "+",
        "[[listener]]\nname = \"web\"\nvip = \"127.0.0.1:9\"\nmode = \"proxy\"",
        "31:8",
        &["listener \"web\" is listed twice"],
    ),
    ("name = \"lb\"", "name = \"\"", "1:8", &["name must not be empty"]),
    // Addresses.
    (
        "+",
        "[[listener]]\nvip = \"VIP\"\nmode = \"proxy\"",
        "31:7",
        &["is listed twice", "one listener takes all"],
    ),
    ("vip = \"VIP\"", "vip = \"127.0.0.1\"", "8:7", &["invalid socket address", "write ADDRESS:PORT"]),
    ("vip = \"VIP\"", "vip = \"127.0.0.1:0\"", "8:7", &["vip must have a port"]),
    ("vip = \"VIP\"", "vip = \"0.0.0.0:80\"", "8:7", &["vip must be one host's address"]),
    (
        "server = \"127.0.0.1:8082\"",
        "server = \"127.0.0.1:8081\"",
        "17:10",
        &["belongs to another target already"],
    ),
    (
        "server = \"127.0.0.1:8082\"",
        "server = \"VIP\"",
        "17:10",
        &["is a vip: requests would come back here"],
    ),
    ("agent = \"127.0.0.1:7401\"", "agent = \"127.0.0.1:7400\"", "18:9", &["have the same agent_name"]),
    ("server = \"127.0.0.1:8082\"", "", "16:8", &["\"t2\" has neither server nor server6", "give one"]),
    (
        "server = \"127.0.0.1:8082\"",
        "server6 = \"127.0.0.1:8082\"",
        "17:11",
        &["server6 must be an IPv6 address"],
    ),
    ("unix = \"DIR/admin.sock\"", "tcp = \"10.0.0.1:80\"", "3:7", &["must be a loopback address"]),
    ("name = \"lb\"", "name = \"lb\"\nleg_source = [\"10.0.0.0/8\"]", "2:15", &["invalid IP address"]),
    // Rules that cannot be, or never hold.
    ("host = [\"api.example.com\"]", "host = [\"api.example.com:80\"]", "27:9", &["without a port"]),
    ("host = [\"api.example.com\"]", "host = [\"http://api.example.com\"]", "27:9", &["without scheme"]),
    (
        "host = [\"api.example.com\"]",
        "host = [\"api.*.com\"]",
        "27:9",
        &["only as its first label", "*.example.com"],
    ),
    ("path = \"/api\"", "path = \"api\"", "28:8", &["must begin with a slash"]),
    ("path = \"/api\"", "path = \"/x/../api\"", "28:8", &["write \"/api\""]),
    ("path = \"/api\"", "path_exact = \"/api?v=1\"", "28:14", &["without a query"]),
    (
        "path = \"/api\"",
        "path = \"/api\"\npath_exact = \"/api\"",
        "29:14",
        &["one of path, path_exact and path_regex"],
    ),
    ("path = \"/api\"", "path_regex = \"/a(b\"", "28:14", &["path_regex \"/a(b\"", "unclosed group"]),
    ("path = \"/api\"", "path_regex = \"/(a{999}){999}\"", "28:14", &["exceeds size limit"]),
    ("path = \"/api\"", "method = [\"get\"]", "28:11", &["method \"get\" is not \"GET\""]),
    ("path = \"/api\"", "method = [\"GET POST\"]", "28:11", &["is no HTTP method"]),
    ("path = \"/api\"", "header = { \"X Beta\" = \"1\" }", "28:12", &["\"X Beta\" is no name of a header"]),
    ("path = \"/api\"", "alpn = [\"h2\"]", "28:9", &["no listener of this route has protocol"]),
    (
        "+",
        "[[route]]\npath = \"/api/v1\"\nhost = [\"api.example.com\"]\npool = \"one\"",
        "33:8",
        &["never reached", "\"api\" before it", "put it in front"],
    ),
    (
        "+",
        "[[listener]]\nname = \"tls\"\nvip = \"127.0.0.1:9\"\nprotocol = \"tls\"\nmode = \"proxy\"\npool = \"one\"\n[[route]]\nlistener = [\"tls\"]\npath = \"/\"\npool = \"one\"",
        "38:8",
        &["requests are not read on a listener of protocol"],
    ),
    ("path = \"/api\"", "upstream_timeout_ms = 0", "28:23", &["upstream_timeout_ms must be between 1 and"]),
    // Limits of routes and listeners.
    ("path = \"/api\"", "limits = { body_bytes = -1 }", "28:25", &["invalid value: integer `-1`"]),
    (
        "path = \"/api\"",
        "limits = { body_byte = 1 }",
        "28:12",
        &["unknown field `body_byte`", "did you mean `body_bytes`?"],
    ),
    (
        "path = \"/api\"",
        "limits = { head_bytes = 1000 }",
        "28:12",
        &["unknown field `head_bytes`, expected one of `body_bytes`"],
    ),
    (
        "path = \"/api\"",
        "limits = { connect_timeout_ms = 0 }",
        "28:33",
        &["connect_timeout_ms must be between 1 and 3600000, is 0"],
    ),
    (
        "path = \"/api\"",
        "upstream_timeout_ms = 5\nlimits = { upstream_timeout_ms = 5 }",
        "29:34",
        &["upstream_timeout_ms stands in this route, too", "give it once"],
    ),
    (
        "pool = \"one\"",
        "pool = \"one\"\nlimits = { connect_retries = 2000 }",
        "11:30",
        &["connect_retries must be between 0 and 1000"],
    ),
    (
        "head_timeout_ms = 10000\n[[listener]]",
        "head_bytes = 500\nprefetch_bytes = 1000\n[[listener]]\nlimits = { head_bytes = 2000 }",
        "8:25",
        &["head_bytes (2000) must not be over prefetch_bytes (1000)"],
    ),
    (
        "pool = \"one\"",
        "protocol = \"tls\"\npool = \"one\"\nlimits = { connect_retries = 1, body_bytes = 5 }",
        "12:46",
        &["this limit is about requests", "reads none"],
    ),
    (
        "pool = \"one\"",
        "protocol = \"tcp\"\npool = \"one\"\nlimits = { head_timeout_ms = 5 }",
        "12:30",
        &["nothing is read on a listener of protocol \"tcp\"", "silence_ms"],
    ),
    // Changes that would break messages.
    (
        "+",
        "[route.request_headers]\nset = { \"Content-Length\" = \"0\" }",
        "31:9",
        &["Content-Length cannot be changed"],
    ),
    (
        "+",
        "[route.request_headers]\nadd = { X-A = \"1\\r\\nX-B: 2\" }",
        "31:9",
        &["X-A has a control character"],
    ),
    ("+", "[route.request_headers]\nremove = [\"Host\"]", "31:11", &["Host cannot be removed"]),
    (
        "+",
        "[route.request_headers]\nset = { X-A = \"1\", x-a = \"2\" }",
        "31:20",
        &["x-a is set or removed already"],
    ),
    // Limits and times.
    (
        "head_timeout_ms = 10000",
        "source_exempt = [\"10.0.0.0/8\", \"10.0.0.0/33\"]",
        "5:32",
        &["source_exempt: \"10.0.0.0/33\""],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhash = \"source\"",
        "22:8",
        &["hash has a meaning with balance"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nbalance = \"p3c\"",
        "22:11",
        &["unknown variant `p3c`", "did you mean `p2c`?"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhealth = { kind = \"tpc\" }",
        "22:19",
        &["did you mean `tcp`?"],
    ),
    (
        "head_timeout_ms = 10000",
        "header_count = 0",
        "5:16",
        &["header_count must be between 1 and 1000, is 0"],
    ),
    (
        "head_timeout_ms = 10000",
        "head_bytes = 200000\nprefetch_bytes = 1000",
        "5:14",
        &["must not be over prefetch_bytes"],
    ),
    ("+", "[handoff]\nfreeze_ms = 10", "31:13", &["deadline_ms (2000) must not be over freeze_ms (10)"]),
    ("name = \"lb\"", "name = \"lb\"\nworkers = 0", "2:11", &["workers must be from 1 to 256"]),
    // What does not go together.
    (
        "[[route]]\nname = \"api\"\nhost = [\"api.example.com\"]\npath = \"/api\"\npool = \"two\"",
        "[[route]]\npath = \"/api\"\npool = \"one\"\nkeepalive = \"pinned\"\nlimits = { body_bytes = 5 }",
        "28:13",
        &["route \"route 1\" limits the length of bodies (body_bytes)", "use \"tracked\""],
    ),
    (
        "pool = \"one\"",
        "pool = \"one\"\nkeepalive = \"pinned\"",
        "11:13",
        &["route \"api\" and the listener's own pool differ", "use \"tracked\""],
    ),
    ("path = \"/api\"", "leg = \"ipip\"", "28:1", &["unknown field `leg`"]),
    (
        "mode = \"proxy\"",
        "mode = \"proxy\"\nprotocol = \"https\"",
        "10:12",
        &["needs a [[listener.certificate]]"],
    ),
    (
        "pool = \"one\"",
        "protocol = \"https\"\npool = \"one\"\n[[listener.certificate]]\ncert = \"DIR/none.pem\"\nkey = \"DIR/none.key\"",
        "13:8",
        &["none.pem: no certificate can be read", "No such file"],
    ),
    // Keys that cannot be read, or are not what they should be.
    (LISTENER, "CERT(site.pem, none.key)", "14:7", &["none.key: no private key can be read", "No such file"]),
    (LISTENER, "CERT(site.pem, dir.key)", "14:7", &["dir.key: no private key can be read", "Is a directory"]),
    (
        LISTENER,
        "CERT(site.pem, empty.key)",
        "14:7",
        &["empty.key: no private key can be read", "has no PRIVATE KEY section", "password"],
    ),
    (LISTENER, "CERT(site.pem, broken.key)", "14:7", &["broken.key: no private key can be read", "base64"]),
    (LISTENER, "CERT(site.pem, lb.key)", "14:7", &["does not belong to the certificate", "site.pem"]),
    (LISTENER, "CERT(site.key, site.key)", "13:8", &["site.key: no certificate can be read"]),
    (LISTENER, "CERT(lb.pem, lb.key)", "13:8", &["lb.pem names no host", "subject alternative names"]),
    ("+", "TLS(ca.pem, lb.pem, dir.key)", "33:7", &["dir.key cannot be read", "Is a directory"]),
    ("+", "TLS(ca.pem, lb.pem, none.key)", "33:7", &["none.key cannot be read", "No such file"]),
    ("+", "TLS(ca.pem, lb.pem, empty.key)", "33:7", &["empty.key holds no private key in PEM form"]),
    ("+", "TLS(ca.pem, lb.pem, t1.key)", "33:7", &["t1.key does not fit", "lb.pem"]),
    ("+", "TLS(ca.pem, lb.pem, broken.key)", "33:7", &["broken.key is no PEM file"]),
    ("+", "TLS(none.pem, lb.pem, lb.key)", "31:6", &["none.pem cannot be read"]),
    (
        "+",
        "TLS(ca.pem, t1.pem, t1.key)",
        "32:8",
        &["was made for agent \"t1\", this node is intermediate \"lb\""],
    ),
    ("+", "TLS(site.pem, lb.pem, lb.key)", "32:8", &["lb.pem:"]),
    (
        "pool = \"one\"",
        "pool = \"one\"\n[[listener.certificate]]\ncert = \"/x\"\nkey = \"/y\"",
        "12:8",
        &["only where TLS ends here"],
    ),
    // Files of its own.
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"none.toml\"",
        "2:11",
        &["there is no such file", "a pattern"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"bad-key/*.toml\"",
        "bad-key/a.toml:2:2",
        &["\"limits\" cannot stand in an included file"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"bad-pool/*.toml\"",
        "bad-pool/b.toml:3:8",
        &["there is no pool \"tow\"", "did you mean \"two\"?"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"bad-syntax/*.toml\"",
        "bad-syntax/a.toml:2:5",
        &["key with no value"],
    ),
];

/// Where a listener's certificate is put, by `CERT(chain, key)`; `TLS(ca, chain, key)` is for the control channels.
const LISTENER: &str = "pool = \"one\"\n[[target]]";

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
        let to = written_out(to);
        let text = if *from == "+" {
            format!("{BASE}{to}\n")
        } else {
            assert!(BASE.contains(from), "{from:?} is not there");
            BASE.replacen(from, &to, 1)
        };
        text.replace("DIR", &self.dir.path().display().to_string()).replace("VIP", &self.vip)
    }

    fn command(&self, verb: &str, file: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_intermediate"));
        command.args([verb, "--config"]).arg(file).stdin(Stdio::null());
        command
    }

    /// Exit code and what is said.
    fn says(&self, verb: &str, text: &str) -> (Option<i32>, String) {
        let file = self.dir.path().join("wrong.toml");
        std::fs::write(&file, text).unwrap();
        let output = self.command(verb, &file).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

#[test]
fn every_mistake_is_told_once_with_place_and_hint_by_check_at_start_and_on_reload() {
    assert!(MISTAKES.len() >= 40);
    let place = Place::new();
    let daemon = Daemon::start_in(place.dir.path(), &place.vip, BASE);
    let mut wrong = Vec::new();
    for mistake in MISTAKES {
        let (from, to, at, parts) = mistake;
        let text = place.text(mistake);
        let (code, said) = place.says("check", &text);
        let at = if at.contains(".toml:") { (*at).to_owned() } else { format!("wrong.toml:{at}: ") };
        let clear = code == Some(2)
            && said.lines().count() == 1
            && said.contains(&at)
            && parts.iter().all(|part| said.contains(part));
        if !clear {
            wrong.push(format!("{from:?} -> {to:?}\n  wanted {at} {parts:?}\n  {code:?} {said}"));
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
