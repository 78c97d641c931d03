use super::*;
use crate::config::Spanned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

fn routes() -> Router {
    common_routes(Arc::new(Registry::default()), || Err("no agent".into()))
}

fn unix_settings(path: &Path) -> AdminSettings {
    AdminSettings { unix: Some(Spanned::new(0..0, path.to_owned())), tcp: None }
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
    let server = serve(&unix_settings(&path), routes()).await.unwrap();
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
    let second = serve(&unix_settings(&path), routes()).await.unwrap_err();
    assert!(matches!(second, AdminError::InUse(_)), "{second}");
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_changes_something_needs_the_header_that_no_page_can_send() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let router = routes().route("/v1/change", axum::routing::post(async || "changed\n"));
    let _server = serve(&unix_settings(&path), router).await.unwrap();
    let table = [
        ("POST /v1/change", "x", "403"),
        ("POST /v1/change", "x\r\nX-Baton-CSRF: 0", "403"),
        ("POST /v1/change", "x\r\nX-Baton-CSRF: 1", "200"),
        ("GET /v1/change", "x\r\nX-Baton-CSRF: 1", "405"),
        ("POST /healthz", "x\r\nX-Baton-CSRF: 1", "405"),
    ];
    for (line, host, status) in table {
        let answer = ask(UnixStream::connect(&path).await.unwrap(), line, host).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}, {host:?}: {answer}");
        assert_eq!(answer.contains("changed"), status == "200");
    }
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let _server = serve(&unix_settings(&path), routes()).await.unwrap();
    assert!(ask(UnixStream::connect(&path).await.unwrap(), "GET /healthz", "x").await.contains("ok"));
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = serve(&unix_settings(&file), routes()).await.unwrap_err().to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn tcp_is_loopback_only_and_looks_at_the_host() {
    let tcp = |addr: &str| AdminSettings { unix: None, tcp: Some(Spanned::new(0..0, addr.parse().unwrap())) };
    let error = serve(&tcp("0.0.0.0:0"), routes()).await.unwrap_err();
    assert!(matches!(error, AdminError::NotLoopback(_)), "{error}");
    let server = serve(&tcp("127.0.0.1:0"), routes()).await.unwrap();
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
