//! What a reload changes, and what it does not. The access log: each request has its one line, in the file that was in
//! force; a file that cannot be opened changes nothing. Keys that are read at the start alone: named.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

mod daemon;

use baton_daemon::certs::{self, Node};
use baton_shared::control::Role;
use daemon::{Daemon, server};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const SITE: &str = r#"name = "lb"
workers = 2
[admin]
unix = "DIR/admin.sock"
[[listener]]
vip = "VIP"
mode = "proxy"
[[target]]
name = "t1"
server = "SERVER"
agent = "127.0.0.1:7400"
"#;

/// Answers every request alike.
fn serve(mut stream: TcpStream) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n) = stream.read(&mut piece) {
        read.extend_from_slice(&piece[..n]);
        while let Some(at) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            read.drain(..at + 4);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        if n == 0 {
            return;
        }
    }
}

fn ask(vip: &str, path: &str) {
    let mut stream = TcpStream::connect(vip).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn each_request_has_one_line_in_the_file_that_was_in_force_and_a_wrong_path_changes_nothing() {
    let site = SITE.replace("SERVER", &server(serve));
    let daemon = Daemon::start(&site);
    let log = |path: &str, format: &str| {
        format!("{site}[access_log]\nformat = \"{format}\"\npath = \"DIR/{path}\"\n")
    };
    let read = |path: &str| std::fs::read_to_string(daemon.path(path)).unwrap_or_default();
    let lines = |path: &str| read(path).lines().map(str::to_owned).collect::<Vec<_>>();
    let reload = |text: &str| {
        let (status, said) = daemon.reload(text);
        assert_eq!((status, &said["needs_restart"]), (200, &serde_json::json!([])), "{said}");
    };
    ask(&daemon.vip, "/none");
    reload(&log("a", "json"));
    ask(&daemon.vip, "/a");
    daemon.eventually("the line in the first file", || lines("a").len() == 1);
    reload(&log("b", "logfmt"));
    ask(&daemon.vip, "/b");
    daemon.eventually("the line in the second file", || lines("b").len() == 1);
    assert!(
        read("a").contains("\"path\":\"/a\"") && read("b").contains("path=/b"),
        "{}{}",
        read("a"),
        read("b")
    );

    // A name that cannot be opened: wrong, with its place, and all goes on as it was.
    std::os::unix::fs::symlink("nowhere/log", daemon.path("dangling")).unwrap();
    let wrong = log("dangling", "json").replace("name = \"lb\"", "name = \"lb\"\n[limits]\nconnections = 1");
    let wrong = wrong.replace("workers = 2\n", "").replace("[limits]", "workers = 2\n[limits]");
    let (status, said) = daemon.reload(&wrong);
    let line = wrong.lines().position(|line| line.starts_with("path = ")).unwrap() + 1;
    let problem = said["problems"][0].as_str().unwrap_or_default();
    assert_eq!(status, 422, "{said}");
    assert!(problem.contains(&format!("served.toml:{line}:8: access_log.path")), "{line}: {said}");
    let held = TcpStream::connect(&daemon.vip).unwrap();
    ask(&daemon.vip, "/still");
    drop(held);
    daemon.eventually("the file before is written on", || read("b").contains("path=/still"));

    // Under load, from one to the other and back: no line is lost or doubled.
    reload(&log("b", "json"));
    let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let n = asked.fetch_add(1, Ordering::Relaxed);
                    ask(&daemon.vip, &format!("/load/{n}"));
                }
            });
        }
        for n in 0..10 {
            let before = asked.load(Ordering::Relaxed);
            reload(&if n % 2 == 0 { log("a", "json") } else { log("b", "json") });
            daemon.eventually("requests between reloads", || asked.load(Ordering::Relaxed) > before + 6);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let asked = usize::try_from(asked.load(Ordering::Relaxed)).unwrap();
    let loaded = || {
        let both: Vec<String> = [lines("a"), lines("b")].concat();
        both.into_iter().filter(|line| line.contains("/load/")).collect::<Vec<_>>()
    };
    daemon.eventually("a line for each request", || loaded().len() >= asked);
    let distinct: HashSet<String> = loaded()
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].to_string())
        .collect();
    assert_eq!((loaded().len(), distinct.len()), (asked, asked));
    let used = |path: &str| lines(path).iter().filter(|line| line.contains("/load/")).count();
    assert!(used("a") > 10 && used("b") > 10, "{} {}", used("a"), used("b"));

    // Off, and on again.
    reload(&site);
    let before = lines("b").len();
    ask(&daemon.vip, "/unheard");
    reload(&log("b", "json"));
    ask(&daemon.vip, "/heard");
    daemon.eventually("the log is back", || read("b").contains("/heard"));
    assert_eq!((lines("b").len(), read("b").contains("/unheard")), (before + 1, false));
}

#[test]
fn keys_that_are_read_at_the_start_alone_are_named_each_and_what_else_changed_is_served() {
    let site = SITE.replace("SERVER", &server(serve));
    let daemon = Daemon::start(&site);
    let node = Node::new(Role::Intermediate, "lb", &[], 30);
    certs::make(&daemon.path("certs"), &[node]).unwrap();
    let files = ["ca.pem", "lb.pem", "lb.key"].map(|file| daemon.path("certs").join(file));
    assert!(files.iter().all(|file| file.exists()), "{files:?}");
    let tls = format!("[tls]\nca = {:?}\ncert = {:?}\nkey = {:?}\n[admin]", files[0], files[1], files[2]);
    let changes = [
        ("name", "\"lb\"", "\"lb1\""),
        ("uplink", "workers", "uplink = \"lo\"\nworkers"),
        ("workers", "workers = 2", "workers = 1"),
        ("leg_source", "workers", "leg_source = [\"127.0.0.2\"]\nworkers"),
        ("[tls]", "[admin]", &tls),
        ("[tracing]", "[admin]", "[tracing]\nendpoint = \"http://127.0.0.1:4318/v1/traces\"\n[admin]"),
        ("[plane]", "[admin]", "[plane]\nkind = \"userspace\"\n[admin]"),
        ("[admin]", "admin.sock\"", "admin.sock\"\nview = { uids = [1] }"),
    ];
    // The certificate is for one name.
    let together = || changes.iter().filter(|(key, ..)| *key != "name");
    let all = together().fold(site.clone(), |text, (_, from, to)| text.replacen(from, to, 1));
    let moved = site.replacen("mode = \"proxy\"", "mode = \"proxy\"\nname = \"moved\"", 1);
    let mut cases: Vec<(String, Vec<&str>)> = vec![(moved, vec![])];
    cases.extend(changes.iter().map(|(key, from, to)| (site.replacen(from, to, 1), vec![*key])));
    cases.push((all, together().map(|(key, ..)| *key).collect()));
    cases.push((site.clone(), vec![]));
    for (text, keys) in cases {
        let routed = format!("{text}[[route]]\npath = \"/gone\"\npool = \"none\"\n");
        assert_eq!(daemon.reload(&routed).0, 422, "{keys:?}: a wrong file names none");
        let (status, said) = daemon.reload(&text);
        assert_eq!((status, &said["needs_restart"]), (200, &serde_json::json!(keys)), "{said}");
        ask(&daemon.vip, "/");
    }
    // Nothing migrated at the start.
    let migrates = site.replacen("mode = \"proxy\"", "mode = \"migrate\"", 1);
    let migrates = migrates.replacen("workers", "uplink = \"lo\"\nworkers", 1);
    let (status, said) = daemon.reload(&migrates.replacen("[admin]", &tls, 1));
    let keys: Vec<&str> =
        said["needs_restart"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    assert_eq!(
        (status, &keys[..3]),
        (
            200,
            &[
                "uplink",
                "[tls]",
                "mode = \"migrate\" (nothing migrated at the start, so there is no data plane)"
            ][..]
        )
    );
    ask(&daemon.vip, "/still-proxied");
}
