//! logfmt and the common log format, read back field by field.

use super::{Logged, client1};
use baton_tests::client::Connection;
use baton_tests::lab::{VIPS, whole_lines};
use netns_lab::Program;
use netns_lab::plan::INTERMEDIATE;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The log goes on in another format and file; `stderr` is JSON there.
fn format_from_here(l: &Logged, format: &str) -> PathBuf {
    let file = l.dir.path().join(format);
    let config = l.t.lab.config(INTERMEDIATE, Program::Balancer);
    let text = std::fs::read_to_string(&config).unwrap();
    let (before, section) = text.split_once("[access_log]\n").unwrap();
    let rest = section.find("\n[").map_or("", |at| &section[at..]);
    let (format, path) = match format {
        "stderr" => ("json", format.to_owned()),
        _ => (format, file.display().to_string()),
    };
    let section = format!("[access_log]\nformat = \"{format}\"\npath = \"{path}\"\n");
    std::fs::write(&config, format!("{before}{section}{rest}")).unwrap();
    l.t.order("/v1/reload");
    file
}

/// A migrated, a proxied and a refused request, one after the other; the lines they have behind those there were `before`,
/// and the migrated one's port and bytes.
fn three(l: &Logged, vip: SocketAddr, file: &Path, agent: &str, before: usize) -> (Vec<String>, u16, u64) {
    let head =
        |line: &str, more: &str| format!("GET {line}\r\nHost: lab\r\nUser-Agent: {agent}\r\n{more}\r\n");
    let requests = [
        head("/1k?a=%20b HTTP/1.1", "Connection: close\r\nReferer: a\tb\r\n"),
        head("/10k HTTP/1.0", "Connection: keep-alive\r\n"),
        head("/1k HTTP/1.1", "Host: other\r\n"),
    ];
    let mut told = (0, 0);
    let mut lines = Vec::new();
    for (n, request) in requests.into_iter().enumerate() {
        let (port, bytes) = l.t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            connection.send(request.as_bytes()).unwrap();
            let response = connection.response().unwrap();
            let port = connection.socket().local_addr().unwrap().port();
            (port, response.head.len() as u64 + 4 + response.body_bytes)
        });
        if n == 0 {
            told = (port, bytes);
        }
        l.t.eventually("the line is there", Duration::from_secs(10), |_| {
            let text = whole_lines(file);
            lines = text.lines().map(str::to_owned).collect();
            lines.len() == before + n + 1
        });
    }
    (lines.split_off(before), told.0, told.1)
}

/// `key=value` with quotes and escapes undone.
fn logfmt(line: &str) -> HashMap<String, Vec<u8>> {
    let mut fields = HashMap::new();
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        let at = rest.iter().position(|b| *b == b'=').unwrap_or_else(|| panic!("no key in {line}"));
        let key = String::from_utf8(rest[..at].to_vec()).unwrap();
        assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{key} in {line}");
        rest = &rest[at + 1..];
        let mut value = Vec::new();
        if let Some(mut quoted) = rest.strip_prefix(b"\"") {
            loop {
                match quoted {
                    [b'"', after @ ..] => break rest = after,
                    [b'\\', b'x', hex @ ..] => {
                        let byte = std::str::from_utf8(&hex[..2]).unwrap();
                        value.push(u8::from_str_radix(byte, 16).unwrap());
                        quoted = &hex[2..];
                    }
                    [b'\\', byte, after @ ..] | [byte, after @ ..] => {
                        value.push(*byte);
                        quoted = after;
                    }
                    [] => panic!("no end of {key} in {line}"),
                }
            }
        } else {
            let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
            value.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        assert!(fields.insert(key, value).is_none(), "a key twice in {line}");
        rest = rest.strip_prefix(b" ").unwrap_or(rest);
    }
    fields
}

/// The same requests in the other formats, read back; and a rotation.
pub(super) fn other_formats(l: &Logged, agent: &str) {
    let file = format_from_here(l, "logfmt");
    for (before, vip) in [0, 3].into_iter().zip(VIPS) {
        as_logfmt(l, vip, &file, agent, before);
    }
    let file = format_from_here(l, "common");
    for (before, vip) in [0, 3].into_iter().zip(VIPS) {
        as_common(l, vip, &file, agent, before);
    }
    // Renamed and opened anew, in this format too: what comes now stands in the new file.
    let old = file.with_extension("1");
    std::fs::rename(&file, &old).unwrap();
    l.t.lab.signal(INTERMEDIATE, Program::Balancer, libc::SIGUSR1).unwrap();
    l.t.eventually("there is a new file", Duration::from_secs(15), |_| file.exists());
    for (before, vip) in [0, 3].into_iter().zip(VIPS) {
        let (new, ..) = three(l, vip, &file, agent, before);
        assert!(new[0].starts_with(&format!("{} - - [", client1(vip, 0).ip())), "{}", new[0]);
    }
    assert_eq!(std::fs::read_to_string(&old).unwrap().lines().count(), 6);
    // Or to where the daemon's own words go.
    format_from_here(l, "stderr");
    assert_eq!(l.t.get("/1k?to=stderr").unwrap().status, 200);
    l.t.eventually("it is there", Duration::from_secs(10), |t| {
        let said = std::fs::read_to_string(t.lab.log(INTERMEDIATE, Program::Balancer)).unwrap();
        said.lines().any(|line| line.starts_with('{') && line.contains("\"path\":\"/1k?to=stderr\""))
    });
}

fn as_logfmt(l: &Logged, vip: SocketAddr, file: &Path, agent: &str, before: usize) {
    let (lines, port, bytes) = three(l, vip, file, agent, before);
    let client = client1(vip, port).to_string();
    let bytes = bytes.to_string();
    let wanted = [
        &[
            ("outcome", "migrated"),
            ("client", client.as_str()),
            ("method", "GET"),
            ("path", "/1k?a=%20b"),
            ("referer", "a\tb"),
            ("agent_half", "joined"),
            ("bytes", bytes.as_str()),
            ("termination", "--"),
        ][..],
        &[
            ("outcome", "proxied"),
            ("path", "/10k"),
            ("status", "200"),
            ("bytes", "10240"),
            ("termination", "--"),
        ],
        &[("outcome", "closed"), ("rule", "host_several"), ("status", "400"), ("termination", "PR")],
    ];
    for (line, wanted) in lines.iter().zip(wanted) {
        let fields = logfmt(line);
        for (key, value) in wanted.iter().chain(&[("vip", vip.to_string().as_str())]) {
            let is = fields.get(*key).unwrap_or_else(|| panic!("no {key} in {line}"));
            assert_eq!(String::from_utf8_lossy(is), *value, "{key} in {line}");
        }
        if fields["outcome"] != b"closed" {
            assert_eq!(fields["user_agent"], agent.as_bytes(), "{line}");
        }
    }
}

fn as_common(l: &Logged, vip: SocketAddr, file: &Path, agent: &str, before: usize) {
    let (lines, _, bytes) = three(l, vip, file, agent, before);
    let status = |line: &str| line.split("HTTP/1.").nth(1).unwrap().split(' ').nth(1).unwrap().to_owned();
    let escaped = agent.replace('\\', "\\\\").replace('"', "\\\"");
    let escaped: String = escaped
        .bytes()
        .map(|b| if b < 0x7f { char::from(b).to_string() } else { format!("\\x{b:02x}") })
        .collect();
    for (line, request, rest) in [
        (
            &lines[0],
            "GET /1k?a=%20b HTTP/1.1",
            format!(" {} {bytes} \"a\\x09b\" \"{escaped}\"", status(&lines[0])),
        ),
        (&lines[1], "GET /10k HTTP/1.0", format!(" 200 10240 \"-\" \"{escaped}\"")),
    ] {
        let client = format!("{} - - [", client1(vip, 0).ip());
        let (time, after) = line.strip_prefix(&client).unwrap().split_once("] \"").unwrap();
        assert!(time.len() == 26 && time.ends_with(" +0000") && time.as_bytes()[2] == b'/', "{line}");
        assert_eq!(after, format!("{request}\"{rest}"), "{line}");
    }
    assert!(["200", "-"].contains(&status(&lines[0]).as_str()), "{}", lines[0]);
    assert!(lines[2].contains(" 400 - "), "{}", lines[2]);
}
