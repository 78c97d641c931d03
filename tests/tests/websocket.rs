//! WebSockets by a real implementation (tungstenite) at both ends: migrated where the configuration says so, with
//! everything that follows the upgrade going straight between client and server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use baton_tests::client::Connection;
use baton_tests::lab::{self, TestLab};
use netns_lab::{Family, LabSpec};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket, accept, client};

const VIP: &str = "10.90.1.100:7001";
const VIP6: &str = "[fd90:1::100]:7001";
const SERVERS: [&str; 2] = ["10.90.101.2:7001", "[fd90:101::2]:7001"];

fn site(spec: LabSpec, keys: &str) -> LabSpec {
    lab::patient(spec.targets(1))
        .family(Family::Dual)
        .intermediate_with("listener", "pool", "plain")
        .intermediate_also(
            &r#"
[[listener]]
name = "ws"
vip = "10.90.1.100:7001"
KEYS
[[listener]]
name = "ws6"
vip = "[fd90:1::100]:7001"
KEYS
[[target]]
name = "ws1"
server = "10.90.101.2:7001"
server6 = "[fd90:101::2]:7001"
agent = "10.90.101.2:7400"
agent_name = "target1"
[[target]]
name = "tunnels"
server = "10.90.101.2:7002"
agent = "10.90.101.2:7400"
agent_name = "target1"
[[pool]]
name = "tunnels"
targets = ["tunnels"]
[[pool]]
name = "plain"
targets = ["target1"]
[[pool]]
name = "ws"
targets = ["ws1"]
[[route]]
name = "sockets"
listener = ["ws", "ws6"]
path = "/socket"
pool = "ws"
upgrade = ["websocket"]
[[route]]
name = "single"
listener = ["ws", "ws6"]
path = "/single"
pool = "ws"
upgrade = ["websocket"]
keepalive = "single"
[[route]]
name = "tunnels"
listener = ["ws"]
method = ["CONNECT"]
host = ["far.example"]
pool = "tunnels"
connect = true
[[route]]
name = "pages"
listener = ["ws"]
path_exact = "/whoami"
pool = "plain"
[[route]]
name = "rest"
listener = ["ws"]
pool = "ws"
"#
            .replace("KEYS", keys),
        )
        .agents_also(
            "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:7001\"\nserver = \"ADDRESS:7001\"\n",
        )
        .agents_also(
            "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"[fd90:1::100]:7001\"\nserver = \"[fd90:101::2]:7001\"\n",
        )
        .agents_also(
            "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:7001\"\nserver = \"ADDRESS:7002\"\n",
        )
        // nginx serves pages on the same address.
        .agents_also(
            "\n[[allow]]\nintermediate = \"intermediate\"\nvip = \"10.90.1.100:7001\"\nserver = \"ADDRESS:80\"\n",
        )
}

/// Echoes each message, with the peer's address in front of text.
fn serve(t: &TestLab) {
    SERVERS.into_iter().for_each(|server| serve_at(t, server));
}

fn serve_at(t: &TestLab, server: &'static str) {
    let listener = t.lab.inside("target1", move || TcpListener::bind(server)).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || {
                let peer = stream.peer_addr().unwrap();
                // A request that asks for no WebSocket is answered by an error, and the connection closed.
                let Ok(mut socket) = accept(stream) else { return };
                while let Ok(message) = socket.read() {
                    let answer = match message {
                        Message::Text(text) => Message::text(format!("{peer}: {text}")),
                        Message::Binary(bytes) => Message::Binary(bytes),
                        _ => continue,
                    };
                    if socket.send(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn open(vip: &str, path: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(vip).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client(format!("ws://{vip}{path}"), stream).unwrap().0
}

/// Texts, large binary messages both ways, a pause, a ping, a close; gives the client's address and what it was told.
fn talk(vip: &str, path: &str) -> (SocketAddr, String) {
    let mut socket = open(vip, path);
    let mine = socket.get_ref().local_addr().unwrap();
    socket.send(Message::text("hello")).unwrap();
    let told = socket.read().unwrap().into_text().unwrap().to_string();
    for round in 0..10u32 {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| n.wrapping_mul(round).to_le_bytes()[1]).collect();
        socket.send(Message::binary(bytes.clone())).unwrap();
        assert!(socket.read().unwrap().into_data() == bytes, "message {round} came back otherwise");
    }
    // What reads as a request is none here: nobody may look into these bytes.
    std::thread::sleep(Duration::from_millis(300));
    socket.send(Message::text("GET /other HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
    assert!(
        socket.read().unwrap().into_text().unwrap().ends_with(": GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
    );
    socket.send(Message::Ping(vec![1, 2].into())).unwrap();
    assert_eq!(socket.read().unwrap(), Message::Pong(vec![1, 2].into()));
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    (mine, told)
}

#[test]
fn websockets_are_migrated_and_belong_to_their_server_from_then_on() {
    let Some(t) = lab::up("ws", |s| site(s, "")) else { return };
    serve(&t);
    let mut migrated = 0;
    for (vip, path) in [(VIP, "/socket/a?b"), (VIP6, "/socket"), (VIP, "/single/a?b"), (VIP6, "/single")] {
        for _ in 0..2 {
            let (mine, told) = t.client(move || talk(vip, path));
            assert_eq!(told, format!("{mine}: hello"), "{path}: the server saw the client itself");
            migrated += 1;
            t.expect_requests(migrated, 0);
        }
    }
}

#[test]
fn where_no_route_allows_it_the_server_sees_neither_upgrade_nor_connect() {
    let Some(t) = lab::up("wsno", |s| site(s, "")) else { return };
    serve(&t);
    let vip: SocketAddr = VIP.parse().unwrap();
    let refused = t.client(move || {
        let stream = TcpStream::connect(vip).unwrap();
        client(format!("ws://{VIP}/elsewhere"), stream).is_err()
    });
    assert!(refused);
    // nginx on the other listener serves the page instead, as HTTP allows.
    let page = t.client(|| {
        let mut connection = Connection::open(lab::VIP).unwrap();
        connection
            .send(
                b"GET /whoami HTTP/1.1\r\nHost: lab\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                  HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
            )
            .unwrap();
        connection.response().unwrap()
    });
    assert_eq!(page.status, 200);
    assert!(!page.text().contains("Upgrade"), "{}", page.text());
    t.expect_requests(2, 0);
    let curl = ["curl", "-sS", "--http2", "-w", "%{http_version}", "http://10.90.1.100/whoami"];
    assert!(t.lab.output("client1", &curl).unwrap().ends_with("1.1"), "h2c is not spoken");
    t.expect_requests(3, 0);
    connect_where_it_is_allowed(&t);
}

/// A server that says yes to a CONNECT, and gives back what comes then. It tells the heads it got.
fn serve_tunnels(t: &TestLab) -> Receiver<String> {
    let (tell, told) = channel();
    let listener = t.lab.inside("target1", || TcpListener::bind("10.90.101.2:7002")).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    head.push(byte[0]);
                }
                let _ = tell.send(String::from_utf8(head).unwrap());
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    told
}

/// By one route a tunnel is served, with what reads as a request in it; by no other, and nobody gets to see it.
fn connect_where_it_is_allowed(t: &TestLab) {
    let heads = serve_tunnels(t);
    let vip: SocketAddr = VIP.parse().unwrap();
    let ask = move |to: &str| format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    for (at, to) in [(vip, "near.example:22"), (lab::VIP, "far.example:22")] {
        let refused = t.client(move || {
            let mut connection = Connection::open(at).unwrap();
            connection.send(ask(to).as_bytes()).unwrap();
            connection.response().unwrap()
        });
        assert_eq!(refused.status, 501, "{at} {to}: {}", refused.head);
    }
    let back = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        connection.send(ask("far.example:22").as_bytes()).unwrap();
        let head = connection.head().unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut socket = connection.socket().try_clone().unwrap();
        let mut sent = b"GET /socket HTTP/1.1\r\nHost: x\r\n\r\n\0".to_vec();
        sent.extend((0..2_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]));
        let whole = sent.clone();
        let writing = std::thread::spawn(move || {
            socket.write_all(&sent).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        connection.socket().read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        back == whole
    });
    assert!(back, "what was sent came back otherwise");
    let seen: Vec<String> = heads.try_iter().collect();
    assert!(seen.len() == 1 && seen[0].starts_with("CONNECT far.example:22 HTTP/1.1\r\n"), "{seen:?}");
}

#[test]
fn websockets_are_proxied_where_nothing_migrates() {
    let Some(t) = lab::up("wsproxy", |s| site(s, "mode = \"proxy\"")) else { return };
    serve(&t);
    let (_, told) = t.client(|| talk(VIP, "/socket"));
    assert!(told.starts_with("10.90.1.2:"), "{told}");
    t.expect_requests(0, 1);
    t.expect_proxied("disabled", 1);
}

#[test]
fn a_kept_connection_may_become_a_websocket_where_the_route_allows_it_and_nowhere_else() {
    let Some(t) = lab::up("wslater", |s| site(s, "keepalive = \"tracked\"")) else { return };
    serve(&t);
    let vip: SocketAddr = VIP.parse().unwrap();
    let wish = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (pages, head, told) = t.client(move || {
        let mut connection = Connection::open(vip).unwrap();
        let ask = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        // A page, a page with a wish that is not allowed there, a page again: nginx sees no wish.
        let pages = ["", wish, ""].map(|lines| {
            connection.send(ask("/whoami", lines).as_bytes()).unwrap();
            connection.response().unwrap().text()
        });
        // Then the wish where it is allowed, for another server, on the same connection.
        connection.send(ask("/socket", wish).as_bytes()).unwrap();
        let mut socket = connection.socket().try_clone().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let mut socket = WebSocket::from_raw_socket(socket, Role::Client, None);
        socket.send(Message::text("kept")).unwrap();
        let told = socket.read().unwrap().into_text().unwrap().to_string();
        (pages, String::from_utf8(head).unwrap(), told)
    });
    for page in pages {
        assert!(page.contains("target: target1") && !page.contains("Upgrade"), "{page}");
    }
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(told.starts_with("10.90.11.2:") && told.ends_with(": kept"), "{told}");
    assert_eq!(t.all_proxied(), 0);
}
