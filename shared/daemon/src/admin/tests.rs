use super::*;
use crate::config::Spanned;
use baton_shared::access::Who;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

fn routes() -> Routes {
    common_routes(Arc::new(Registry::default()), || Err("no agent".into()))
        .read("/v1/secret", Level::Admin, async || "secret\n")
        .post("/v1/change", Level::Operate, async || "changed\n")
}

fn unix_settings(path: &Path) -> AdminSettings {
    AdminSettings { unix: Some(Spanned::new(0..0, path.to_owned())), ..AdminSettings::default() }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, request_line: &str, host: &str) -> String {
    let request = format!("{request_line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_unix_socket_answers_is_guarded_and_goes_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/admin.sock");
    let server = serve(&unix_settings(&path), routes().router()).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    for (line, status, part) in [
        ("GET /healthz", "200", "ok"),
        ("GET /readyz", "503", "not ready: no agent"),
        ("GET /metrics", "200", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("GET /metrics", "200", "# EOF"),
        ("GET /nothing", "404", "no such path"),
        ("POST /healthz", "403", "X-Baton-CSRF"),
        ("DELETE /nothing", "405", "allow: GET, HEAD, POST"),
        ("OPTIONS /nothing", "405", "only GET and POST"),
    ] {
        let answer = ask(UnixStream::connect(&path).await.unwrap(), line, "x").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(part),
            "{line}: {answer}"
        );
    }
    let second = serve(&unix_settings(&path), routes().router()).await.unwrap_err();
    assert!(matches!(second, AdminError::InUse(_)), "{second}");
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_not_everyone_may_do_needs_the_header_that_no_page_can_send() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let _server = serve(&unix_settings(&path), routes().router()).await.unwrap();
    let table = [
        ("POST /v1/change", "x", "403"),
        ("POST /v1/change", "x\r\nX-Baton-CSRF: 0", "403"),
        ("POST /v1/change", "x\r\nX-Baton-CSRF: 1", "200"),
        ("GET /v1/change", "x\r\nX-Baton-CSRF: 1", "405"),
        ("GET /v1/secret", "x", "403"),
        ("GET /v1/secret", "x\r\nX-Baton-CSRF: 1", "200"),
        ("GET /healthz", "x", "200"),
        ("POST /healthz", "x\r\nX-Baton-CSRF: 1", "405"),
    ];
    for (line, host, status) in table {
        let answer = ask(UnixStream::connect(&path).await.unwrap(), line, host).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}, {host:?}: {answer}");
        assert_eq!(answer.contains("changed"), status == "200" && line.starts_with("POST"));
        assert_eq!(answer.contains("secret\n"), status == "200" && line.contains("secret"));
    }
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let _server = serve(&unix_settings(&path), routes().router()).await.unwrap();
    assert!(ask(UnixStream::connect(&path).await.unwrap(), "GET /healthz", "x").await.contains("ok"));
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = serve(&unix_settings(&file), routes().router()).await.unwrap_err().to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn tcp_is_loopback_only_and_looks_at_the_host() {
    let tcp = |addr: &str| AdminSettings {
        tcp: Some(Spanned::new(0..0, addr.parse().unwrap())),
        ..AdminSettings::default()
    };
    let error = serve(&tcp("0.0.0.0:0"), routes().router()).await.unwrap_err();
    assert!(matches!(error, AdminError::NotLoopback(_)), "{error}");
    let server = serve(&tcp("127.0.0.1:0"), routes().router()).await.unwrap();
    let addr = server.tcp_addr().unwrap();
    for (host, status) in [
        ("localhost", "200"),
        ("127.0.0.1:7480", "200"),
        ("[::1]:7480", "200"),
        ("evil.example", "403"),
        ("127.0.0.1.evil.example:7480", "403"),
        ("localhost.evil.example", "403"),
        ("10.0.0.1", "403"),
        ("", "403"),
    ] {
        let answer = ask(TcpStream::connect(addr).await.unwrap(), "GET /healthz", host).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host:?}: {answer}");
    }
}

/// As this user and in these groups alone; in a thread, whose credentials are its own.
fn ask_as(path: &Path, uid: u32, gid: u32, groups: &[u32], line: &str) -> String {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let work = || {
        crate::sys::become_somebody(uid, gid, groups).unwrap();
        let mut stream = UnixStream::connect(path).unwrap();
        write!(stream, "{line} HTTP/1.0\r\nHost: x\r\nX-Baton-CSRF: 1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_may_do_its_credentials_say() {
    if crate::sys::effective_uid() != 0 {
        return crate::skipped("only root can become somebody else");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("admin.sock");
    let who = |uids: &[u32], gids: &[u32]| Some(Who { uids: uids.to_vec(), gids: gids.to_vec() });
    let settings = AdminSettings {
        view: who(&[1234], &[]),
        operate: who(&[], &[60_001]),
        admin: who(&[], &[60_002]),
        ..unix_settings(&path)
    };
    let _server = serve(&settings, routes().router()).await.unwrap();
    let levels = [
        ((0, 0, &[][..]), ["200", "200", "200"]),
        ((1234, 1234, &[]), ["200", "403", "403"]),
        ((1234, 1234, &[60_001]), ["200", "200", "403"]),
        ((1235, 60_001, &[]), ["200", "200", "403"]),
        ((1235, 1235, &[7, 60_002]), ["200", "200", "200"]),
        ((1235, 1235, &[]), ["403", "403", "403"]),
    ];
    for ((uid, gid, groups), allowed) in levels {
        for (line, status) in ["GET /healthz", "POST /v1/change", "GET /v1/secret"].into_iter().zip(allowed) {
            let answer = ask_as(&path, uid, gid, groups, line);
            let head = answer.lines().next().unwrap().to_owned();
            assert!(head.contains(&format!(" {status} ")), "{uid} {gid} {groups:?} {line}: {answer}");
            assert_eq!(answer.contains("changed"), line.starts_with("POST") && status == "200");
        }
    }
}

#[tokio::test]
async fn over_tcp_all_may_look_and_no_more_unless_it_is_configured() {
    for (tcp_level, status) in [(Level::View, "403"), (Level::Operate, "200")] {
        let tcp = Some(Spanned::new(0..0, "127.0.0.1:0".parse().unwrap()));
        let settings = AdminSettings { tcp, tcp_level, ..AdminSettings::default() };
        let server = serve(&settings, routes().router()).await.unwrap();
        let stream = async || TcpStream::connect(server.tcp_addr().unwrap()).await.unwrap();
        let answer = ask(stream().await, "GET /healthz", "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let answer = ask(stream().await, "POST /v1/change", "localhost\r\nX-Baton-CSRF: 1").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let answer = ask(stream().await, "GET /v1/secret", "localhost").await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("may"), "{answer}");
    }
}

/// What was answered. Who finds no place may be answered and left before it has asked.
async fn try_ask(path: &Path, line: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let request = format!("{line} HTTP/1.0\r\nX-Baton-CSRF: 1\r\n\r\n");
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Serves on a Unix socket; its peers have these levels, one after another, and then all may look.
fn serve_levels(
    path: &Path,
    routes: Routes,
    places: Places,
    read_limit: Duration,
    levels: Vec<Option<Level>>,
) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    let mut levels = levels.into_iter();
    tokio::spawn(accept(routes.router(), places, read_limit, async move || {
        let (stream, _) = listener.accept().await?;
        Ok((stream, levels.next().unwrap_or(Some(Level::View))))
    }))
}

#[tokio::test]
async fn an_operator_finds_a_place_and_a_stranger_its_answer_while_others_fill_the_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let levels = vec![Some(Level::View), Some(Level::Operate), None];
    // As if all places but those kept were taken.
    let _server = serve_levels(&path, routes(), Places::new(0, 1, 1), READ_LIMIT, levels);
    let refused = try_ask(&path, "GET /healthz").await;
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 503 ") && head.contains(&format!("content-length: {}", body.len())), "{refused}");
    assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["error"].is_string());
    assert!(try_ask(&path, "POST /v1/change").await.contains("changed"));
    assert!(try_ask(&path, "GET /healthz").await.contains(" 403 "));
}

#[tokio::test]
async fn a_peer_that_stops_reading_holds_neither_its_place_nor_what_is_made_for_it() {
    struct Held(std::sync::mpsc::Sender<()>);
    impl Drop for Held {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let (tell, told) = std::sync::mpsc::channel();
    let endless = move || {
        let held = Held(tell.clone());
        let bytes = futures_util::stream::repeat_with(move || {
            let _ = &held;
            Ok::<_, std::convert::Infallible>(axum::body::Bytes::from_static(&[b'x'; 4096]))
        });
        std::future::ready(Body::from_stream(bytes))
    };
    let routes = Routes::new().get("/endless", endless).get("/healthz", async || "ok");
    let _server = serve_levels(&path, routes, Places::new(1, 0, 0), Duration::from_millis(20), Vec::new());
    let mut stopped = UnixStream::connect(&path).await.unwrap();
    stopped.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stopped.read_exact(&mut [0; 15]).await.unwrap();
    while told.try_recv().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    while !try_ask(&path, "GET /healthz").await.contains(" 200 ") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
