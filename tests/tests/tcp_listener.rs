//! A plain TCP listener of each version of IP: any protocol in which the client speaks first is migrated, the others are
//! relayed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab, VIPS, both};
use netns_lab::LabSpec;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

const SERVERS: [&str; 2] = ["10.90.101.2:7000", "[fd90:101::2]:7000"];

/// The VIPs at this port.
fn vips() -> [SocketAddr; 2] {
    VIPS.map(|vip| SocketAddr::new(vip.ip(), 7000))
}

/// Clients that say nothing are relayed after so many milliseconds.
fn site(spec: LabSpec, silence: u32) -> LabSpec {
    both(lab::patient(spec.targets(1)))
        .intermediate_with("listener", "pool", "plain")
        .intermediate_also(
            &r#"
[[listener]]
name = "tcp"
vip = "10.90.1.100:7000"
protocol = "tcp"
pool = "tcp"
silence_ms = SILENCE
[[listener]]
name = "tcp6"
vip = "[fd90:1::100]:7000"
protocol = "tcp"
pool = "tcp"
silence_ms = SILENCE
[[target]]
name = "tcp1"
server = "10.90.101.2:7000"
server6 = "[fd90:101::2]:7000"
agent = "10.90.101.2:7400"
agent_name = "target1"
[[pool]]
name = "plain"
targets = ["target1"]
[[pool]]
name = "tcp"
targets = ["tcp1"]
"#
            .replace("SILENCE", &silence.to_string()),
        )
        .agents_also(
            &vips()
                .into_iter()
                .zip(SERVERS)
                .map(|(vip, server)| {
                    format!("\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"{vip}\"\nserver = \"{server}\"\n")
                })
                .collect::<String>(),
        )
}

/// Servers on the target that greet (or not), then answer each line with the peer's address and the line.
fn serve(t: &TestLab, greeting: &'static str) {
    for listener in t.lab.inside("target1", || SERVERS.map(|at| TcpListener::bind(at).unwrap())).unwrap() {
        serve_at(listener, greeting);
    }
}

fn serve_at(listener: TcpListener, greeting: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let peer = stream.peer_addr().unwrap();
                stream.write_all(greeting.as_bytes()).unwrap();
                let mut bytes = [0; 65_536];
                while let Ok(n) = stream.read(&mut bytes)
                    && n > 0
                {
                    let _ = stream.write_all(format!("{peer} said ").as_bytes());
                    let _ = stream.write_all(&bytes[..n]);
                }
                let _ = stream.write_all(b"bye\n");
            });
        }
    });
}

#[test]
fn a_protocol_whose_client_speaks_first_is_migrated_and_both_ends_may_close_first() {
    // A client that is slow to speak is silent to nobody here.
    let Some(t) = lab::up("tcp", |s| lab::logged(site(s, 20_000))) else { return };
    serve(&t, "");
    let mut bytes = HashMap::new();
    for (n, vip) in (0..40).zip(vips().into_iter().cycle()) {
        let (mine, said) = t.client(move || {
            let mut socket = std::net::TcpStream::connect(vip).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Bytes that are no text, in two writes.
            socket.write_all(&[0, 255, n]).unwrap();
            let mut piece = [0; 256];
            let length = socket.read(&mut piece).unwrap();
            socket.write_all(b"more").unwrap();
            std::thread::sleep(Duration::from_millis(20));
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let mut said = piece[..length].to_vec();
            socket.read_to_end(&mut said).unwrap();
            (socket.local_addr().unwrap(), said)
        });
        let expected =
            [format!("{mine} said ").as_bytes(), &[0, 255, n], format!("{mine} said morebye\n").as_bytes()]
                .concat();
        assert_eq!(said, expected, "the server saw the client's own address");
        bytes.insert(mine.to_string(), said.len() as u64);
    }
    t.expect_requests(40, 0);
    assert_eq!(t.admin("intermediate", "/v1/migrations")["migrations"][0]["request"], "TCP");
    for line in t.lines(40) {
        let client = line["client"].as_str().unwrap();
        let listener = if client.starts_with("10.90.11.2:") { "tcp" } else { "tcp6" };
        let told = ["outcome", "listener", "pool", "target", "agent_half"].map(|key| line[key].clone());
        assert_eq!(told, ["migrated", listener, "tcp", "tcp1", "joined"], "{line}");
        assert_eq!(line["bytes"].as_u64(), bytes.remove(client), "of each connection one line: {line}");
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_through_the_relay() {
    let Some(t) = lab::up("tcpgreets", |s| site(s, 300)) else { return };
    serve(&t, "220 ready\n");
    for (vip, own) in vips().into_iter().zip(["10.90.1.2", "[fd90:1::2]"]) {
        let said = t.client(move || {
            let mut connection = Connection::open(vip).unwrap();
            let mut socket = connection.socket().try_clone().unwrap();
            let mut greeting = [0; 10];
            socket.read_exact(&mut greeting).unwrap();
            connection.send(b"QUIT").unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = String::new();
            socket.read_to_string(&mut rest).unwrap();
            String::from_utf8_lossy(&greeting).into_owned() + &rest
        });
        assert!(
            said.starts_with(&format!("220 ready\n{own}:")) && said.ends_with(" said QUITbye\n"),
            "{said}"
        );
    }
    t.expect_requests(0, 2);
    t.expect_proxied("client_silent", 2);
}
