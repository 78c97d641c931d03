//! A real daemon on loopback, with its configuration file and its admin socket.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's panic is its report"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ended with the test.
pub struct Daemon {
    dir: PathBuf,
    /// An address for its listener.
    pub vip: String,
    running: Running,
    /// The directory, if it is its own.
    own: Option<tempfile::TempDir>,
}

impl Daemon {
    /// Starts with this file, in which `DIR` is its directory and `VIP` its address.
    pub fn start(text: &str) -> Daemon {
        let own = tempfile::tempdir().unwrap();
        let vip = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let daemon = Daemon::start_in(own.path(), &vip, text);
        Daemon { own: Some(own), ..daemon }
    }

    /// The same in this directory and with this address.
    pub fn start_in(dir: &Path, vip: &str, text: &str) -> Daemon {
        let file = dir.join("served.toml");
        std::fs::write(&file, put(text, dir, vip)).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_intermediate"));
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let (dir, vip) = (dir.to_owned(), vip.to_owned());
        let daemon = Daemon { running: Running(command.spawn().unwrap()), dir, vip, own: None };
        daemon.eventually("its start", || daemon.path("admin.sock").exists());
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Until something holds.
    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let began = Instant::now();
        while !holds() {
            let log = || std::fs::read_to_string(self.path("log")).unwrap();
            assert!(began.elapsed() < Duration::from_secs(20), "not within 20 s: {what}; {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Puts another file in the place of the one there is, and has it reloaded: status and body of the answer.
    pub fn reload(&self, text: &str) -> (u16, serde_json::Value) {
        std::fs::write(self.path("served.toml"), put(text, &self.dir, &self.vip)).unwrap();
        let mut socket = UnixStream::connect(self.path("admin.sock")).unwrap();
        let request =
            "POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nX-Baton-CSRF: 1\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

/// A server behind it, which serves each connection so: its address.
pub fn server(serve: fn(TcpStream)) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn put(text: &str, dir: &Path, vip: &str) -> String {
    text.replace("DIR", &dir.display().to_string()).replace("VIP", vip)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
