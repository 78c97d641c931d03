//! TLS that passes through: curl and nginx speak it end to end, HTTP/2 inside; Baton reads the name in the ClientHello
//! and gives the connection away.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab};
use netns_lab::{LabSpec, Program, plan};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const VIP: &str = "10.90.1.100:443";
/// How long the daemons may take to note what has happened.
const LIMIT: Duration = Duration::from_secs(20);

/// Two pools behind one address: `a.lab.test` on target1, and `alpn.lab.test` for clients that offer HTTP/2; every other
/// name of `lab.test` on target2.
fn site(spec: LabSpec) -> LabSpec {
    lab::patient(spec)
        .intermediate_with("listener", "pool", "plain")
        .intermediate_also(
            r#"
[[listener]]
name = "tls"
vip = "10.90.1.100:443"
protocol = "tls"
[[target]]
name = "tls1"
server = "10.90.101.2:443"
agent = "10.90.101.2:7400"
agent_name = "target1"
[[target]]
name = "tls2"
server = "10.90.102.2:443"
agent = "10.90.102.2:7400"
agent_name = "target2"
[[pool]]
name = "plain"
targets = ["target1", "target2"]
[[pool]]
name = "a"
targets = ["tls1"]
[[pool]]
name = "rest"
targets = ["tls2"]
[[route]]
name = "by protocol"
listener = ["tls"]
host = ["alpn.lab.test"]
alpn = ["h2"]
pool = "a"
[[route]]
name = "a"
listener = ["tls"]
host = ["a.lab.test"]
pool = "a"
[[route]]
name = "rest"
listener = ["tls"]
host = ["*.lab.test"]
pool = "rest"
"#,
        )
        .agents_also(
            "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:443\"\nserver = \"ADDRESS:443\"\n",
        )
}

/// curl from client1 to a name at the VIP.
fn curl(t: &TestLab, name: &str, path: &str, options: &[&str]) -> String {
    let (resolve, url) = (format!("{name}:443:10.90.1.100"), format!("https://{name}{path}"));
    let mut words = vec!["curl", "-sSk", "--fail", "--max-time", "60", "--resolve", &resolve];
    words.extend(options);
    words.push(&url);
    t.lab.output("client1", &words).unwrap()
}

#[test]
fn https_and_http2_run_end_to_end_on_the_target_the_name_leads_to() {
    let Some(t) = lab::up("tls", |s| lab::logged(site(s))) else { return };
    for (name, target) in [("a.lab.test", "target1"), ("b.lab.test", "target2"), ("x.lab.test", "target2")] {
        for (version, said) in [("--http2", "HTTP/2.0"), ("--http1.1", "HTTP/1.1")] {
            let answer = curl(&t, name, "/whoami", &[version]);
            assert!(answer.contains(&format!("target: {target}\nclient: 10.90.11.2:")), "{name}: {answer}");
            assert!(answer.contains(&format!(":443\nrequest: GET /whoami {said}")), "{name}: {answer}");
        }
    }
    // One name, two protocols, two targets.
    for (version, target, said) in [("--http2", "target1", "HTTP/2.0"), ("--http1.1", "target2", "HTTP/1.1")]
    {
        let answer = curl(&t, "alpn.lab.test", "/whoami", &[version]);
        assert!(answer.contains(&format!("target: {target}\nclient: 10.90.11.2:")), "{answer}");
        assert!(answer.contains(&format!(":443\nrequest: GET /whoami {said}")), "{answer}");
    }
    t.expect_requests(8, 0);
    // Each connection has a line, with the name that was asked for.
    let mut told: Vec<String> = t
        .lines(8)
        .iter()
        .map(|line| {
            let word = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            assert!(line["bytes"].as_u64() > Some(1000) && line.get("path").is_none(), "{line}");
            let same = ["outcome", "agent_half", "end", "termination"].map(word).join(" ");
            assert_eq!(same, "migrated joined finished --", "{line}");
            ["host", "route", "pool", "target"].map(word).join(" ")
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "a.lab.test a a tls1",
            "a.lab.test a a tls1",
            "alpn.lab.test by protocol a tls1",
            "alpn.lab.test rest rest tls2",
            "b.lab.test rest rest tls2",
            "b.lab.test rest rest tls2",
            "x.lab.test rest rest tls2",
            "x.lab.test rest rest tls2",
        ]
    );
    // Whose certificate is seen, with TLS 1.2 too.
    for version in ["-tls1_2", "-tls1_3"] {
        let ask = format!("openssl s_client -connect {VIP} -servername a.lab.test {version} </dev/null 2>&1");
        let shown = t.lab.output("client1", &["sh", "-c", &ask]).unwrap();
        assert!(shown.contains("subject=CN = target1"), "{shown}");
    }
    // Several requests on one connection, several streams in parallel.
    let many = curl(&t, "b.lab.test", "/whoami?n=[1-20]", &["--http2", "-Z", "-w", "%{num_connects} "]);
    assert_eq!(many.matches("target: target2").count(), 20);
    t.eventually("the newest is listed", LIMIT, |t| {
        t.admin("intermediate", "/v1/migrations")["migrations"][0]["request"] == "TLS b.lab.test"
    });
}

#[test]
fn a_hundred_megabytes_through_tls_are_byte_exact_and_bypass_the_intermediate() {
    let Some(t) = lab::up("tlsbulk", site) else { return };
    let before = t.lab.link_counters().unwrap();
    for version in ["--http2", "--http1.1"] {
        let fetch = format!(
            "curl -sSk --fail {version} --resolve a.lab.test:443:10.90.1.100 https://a.lab.test/100m | sha256sum"
        );
        let out = t.lab.output("client1", &["bash", "-o", "pipefail", "-c", &fetch]).unwrap();
        assert_eq!(out.split_whitespace().next(), Some(t.sha256("100m").as_str()), "{version}");
    }
    t.expect_requests(2, 0);
    let moved = netns_lab::counters::difference(&before, &t.lab.link_counters().unwrap());
    let sent = |link: &str| moved.iter().find(|l| l.link == link).unwrap().node.tx_bytes;
    assert!(sent("target1") > 200_000_000 && sent("intermediate") * 50 < sent("target1"));
    // And up.
    let file = t.lab.www_dir().join("10m");
    let put = curl(&t, "a.lab.test", "/upload/up", &["-T", &file.to_string_lossy(), "-w", "%{http_code}"]);
    assert_eq!(put, "201");
    assert_eq!(t.uploaded("up"), t.sha256("10m"));
}

#[test]
fn a_client_hello_byte_by_byte_is_migrated_and_what_is_none_is_closed() {
    let Some(t) = lab::up("tlshello", |s| site(s).intermediate_with("limits", "head_timeout_ms", 5000))
    else {
        return;
    };
    let vip: SocketAddr = VIP.parse().unwrap();
    // openssl's own bytes, sent on one by one by a relay in between: the handshake must still succeed.
    let shown = t.client(move || {
        let relay = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = relay.local_addr().unwrap();
        let slow = std::thread::spawn(move || {
            let mut client = relay.accept().unwrap().0;
            let mut server = std::net::TcpStream::connect(vip).unwrap();
            server.set_nodelay(true).unwrap();
            let mut hello = [0; 16_384];
            let length = client.read(&mut hello).unwrap();
            for byte in hello[..length].chunks(1) {
                server.write_all(byte).unwrap();
                std::thread::sleep(Duration::from_micros(300));
            }
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up, &mut down));
            let _ = std::io::copy(&mut server, &mut client);
        });
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &at.to_string(), "-servername", "a.lab.test"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let request = b"GET /whoami HTTP/1.1\r\nHost: a.lab.test\r\nConnection: close\r\n\r\n";
        openssl.stdin.take().unwrap().write_all(request).unwrap();
        let mut said = String::new();
        openssl.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        openssl.wait().unwrap();
        slow.join().unwrap();
        said
    });
    assert!(shown.contains("target: target1\n"), "{shown}");
    t.expect_requests(1, 0);
    // Garbage, a name nobody serves, no name, half a hello.
    let closed = t.client(move || {
        let mut garbage = Connection::open(vip).unwrap();
        garbage.send(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(garbage.read_some().unwrap_or(0), 0);
        let mut half = Connection::open(vip).unwrap();
        half.send(b"\x16\x03\x01\x02\x00\x01").unwrap();
        half.read_some().unwrap_or(0)
    });
    assert_eq!(closed, 0);
    t.expect_closed("not_tls", 1);
    t.expect_closed("head_timeout", 1);
    for name in [&["-servername", "lab.example"][..], &["-noservername"]] {
        let ask = format!("openssl s_client -connect {VIP} {} </dev/null 2>&1; true", name.join(" "));
        let shown = t.lab.output("client1", &["sh", "-c", &ask]).unwrap();
        assert!(shown.contains("unrecognized name"), "{name:?}: {shown}");
    }
    t.expect_closed("no_route", 2);
    t.expect_requests(1, 0);
}

#[test]
fn without_its_agent_a_tls_connection_is_relayed_with_its_reason() {
    let Some(t) = lab::up("tlsrelay", |s| lab::logged(site(s))) else { return };
    t.lab.stop(plan::target(1).as_str(), Program::Agent).unwrap();
    t.eventually("the agent is gone", LIMIT, |t| {
        let targets = t.admin("intermediate", "/v1/targets");
        targets["targets"].as_array().unwrap().iter().any(|x| x["name"] == "tls1" && x["up"] == false)
    });
    let answer = curl(&t, "a.lab.test", "/whoami", &["--http2"]);
    // The server sees the intermediate: that is what a relay costs.
    assert!(answer.contains("target: target1\nclient: 10.90.1.2:"), "{answer}");
    let fetch = "curl -sSk --fail --resolve a.lab.test:443:10.90.1.100 https://a.lab.test/10m | sha256sum";
    let out = t.lab.output("client1", &["bash", "-o", "pipefail", "-c", fetch]).unwrap();
    assert_eq!(out.split_whitespace().next(), Some(t.sha256("10m").as_str()));
    t.expect_requests(0, 2);
    t.expect_proxied("no_agent", 2);
    let mut lines = t.lines(2);
    lines.sort_by_key(|line| line["bytes"].as_u64());
    for (line, least) in lines.iter().zip([1000, 10 << 20]) {
        let told = ["outcome", "reason", "host", "target", "termination"].map(|key| line[key].clone());
        assert_eq!(told, ["proxied", "no_agent", "a.lab.test", "tls1", "--"], "{line}");
        assert!(line["bytes"].as_u64() > Some(least) && line["request_bytes"].as_u64() > Some(100), "{line}");
    }
}

/// Writes a certificate for a name, signed by itself.
fn certificate(dir: &Path, file: &str, name: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.join(format!("{file}.pem")), chain.pem()).unwrap();
    std::fs::write(dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn tls_that_ends_at_the_listener_is_proxied_and_a_reload_shows_the_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display().to_string();
    certificate(dir.path(), "a", "a.lab.test");
    certificate(dir.path(), "b", "*.b.lab.test");
    let listener = r#"
[[listener]]
name = "https"
vip = "10.90.1.100:8443"
protocol = "https"
[[listener.certificate]]
cert = "DIR/a.pem"
key = "DIR/a.key"
[[listener.certificate]]
cert = "DIR/b.pem"
key = "DIR/b.key"
"#;
    let Some(t) = lab::up("https", |s| s.intermediate_also(&listener.replace("DIR", &at))) else { return };
    let words = |trusted: &str, name: &str, path: &str| {
        let words = ["curl", "-sS", "--fail", "--max-time", "30", "--cacert"].map(str::to_owned);
        let ends = [
            format!("{at}/{trusted}.pem"),
            "--resolve".into(),
            format!("{name}:8443:10.90.1.100"),
            format!("https://{name}:8443{path}"),
        ];
        words.into_iter().chain(ends).collect::<Vec<String>>()
    };
    let get = |trusted: &str, name: &str, path: &str, more: &[&str]| {
        let words = words(trusted, name, path);
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        t.lab.output("client1", &words)
    };
    for version in ["--http1.1", "--http2"] {
        let said = get("a", "a.lab.test", "/whoami", &[version, "-w", "%{http_version}"]).unwrap();
        assert!(
            said.contains("client: 10.90.1.2:") && said.contains("X-Forwarded-For: 10.90.11.2\n"),
            "{said}"
        );
        assert!(said.contains("Host: a.lab.test:8443\n") && said.contains("GET /whoami HTTP/1.1"), "{said}");
        assert!(said.ends_with(if version == "--http2" { "2" } else { "1.1" }), "{said}");
        let hash = words("a", "a.lab.test", "/10m").join(" ") + " " + version + " | sha256sum";
        let out = t.lab.output("client1", &["bash", "-o", "pipefail", "-c", &hash]).unwrap();
        assert_eq!(out.split_whitespace().next(), Some(t.sha256("10m").as_str()));
    }
    t.expect_requests(0, 4);
    t.expect_proxied("tls_terminated", 4);
    // By name; a name nobody has gets the first certificate, which is not for it.
    assert!(get("b", "x.b.lab.test", "/whoami", &[]).is_ok());
    assert!(get("b", "a.lab.test", "/whoami", &[]).is_err());
    assert!(get("a", "other.lab.test", "/whoami", &[]).is_err());
    assert!(get("a", "other.lab.test", "/whoami", &["-k"]).is_ok());

    // A key that is not the certificate's changes nothing and says where.
    let reload = || t.lab.admin_post(plan::INTERMEDIATE, "/v1/reload").unwrap();
    std::fs::copy(dir.path().join("b.key"), dir.path().join("a.key")).unwrap();
    let (status, text) = reload();
    assert!(status >= 400 && text.contains("the key does not belong to the certificate"), "{status} {text}");
    assert!(get("a", "a.lab.test", "/whoami", &[]).is_ok());
    // A download runs on over the change.
    let slow = words("a", "a.lab.test", "/10m").join(" ") + " --http2 --limit-rate 5M | sha256sum";
    t.expect_proxied("tls_terminated", 7);
    let mut download = t.lab.command("client1", "bash").unwrap();
    let download = download.args(["-o", "pipefail", "-c", &slow]).stdout(Stdio::piped()).spawn().unwrap();
    t.expect_proxied("tls_terminated", 8);
    std::fs::copy(dir.path().join("a.pem"), dir.path().join("old.pem")).unwrap();
    certificate(dir.path(), "a", "a.lab.test");
    let (status, text) = reload();
    assert_eq!(status, 200, "{text}");
    assert!(get("a", "a.lab.test", "/whoami", &[]).is_ok());
    assert!(get("old", "a.lab.test", "/whoami", &[]).is_err());
    let out = download.wait_with_output().unwrap();
    let hash = String::from_utf8(out.stdout).unwrap();
    assert_eq!(hash.split_whitespace().next(), Some(t.sha256("10m").as_str()));
}
