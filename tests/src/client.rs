//! A client the tests steer byte by byte: a plain socket inside a node's network namespace.

use crate::sys;
use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One response as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The head, without the empty line.
    pub head: String,
    /// How long the body was.
    pub body_bytes: u64,
    /// SHA-256 of the body, lower-case hex.
    pub sha256: String,
    /// The first 64 kB of the body.
    pub start: Vec<u8>,
}

impl Response {
    /// The body as text, as far as it was kept.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }

    /// The target whose server answered: those of a lab say so in `X-Served-By`. "nobody" if none did.
    pub fn served_by(&self) -> &str {
        self.header("x-served-by").unwrap_or("nobody")
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

/// A connection of which the test decides what is sent when.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    rest: Vec<u8>,
}

impl Connection {
    /// Connects; reads and writes time out after 30 s, so that a stuck connection fails its test.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        socket.set_write_timeout(Some(Duration::from_secs(30)))?;
        socket.set_nodelay(true)?;
        Ok(Connection { socket, rest: Vec::new() })
    }

    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends bytes as one write.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Sends a GET.
    pub fn get(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: lab\r\nUser-Agent: baton-tests\r\n\r\n").as_bytes())
    }

    /// Closes so that the peer gets a reset.
    pub fn reset(self) -> io::Result<()> {
        sys::reset_on_close(&self.socket)
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut piece = vec![0; 1 << 18];
        let n = loop {
            match self.socket.read(&mut piece) {
                // The process was stopped, and goes on: reads with a time limit are not begun anew by themselves (signal(7)).
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.rest.extend_from_slice(piece.get(..n).unwrap_or_default());
        Ok(n)
    }

    /// Reads one response to a request that was no HEAD: with Content-Length, chunked (kept as it came), or to
    /// the connection's end.
    pub fn response(&mut self) -> io::Result<Response> {
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let head = self.head()?;
        let status: u16 = head
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| broken("no status in the response"))?;
        if status == 100 {
            return self.response();
        }
        let mut response = Response { status, head, body_bytes: 0, sha256: String::new(), start: Vec::new() };
        let length: Option<u64> = response.header("content-length").and_then(|v| v.parse().ok());
        let chunked = response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let mut hash = Sha256::new();
        loop {
            let want = length.map_or(u64::MAX, |l| l - response.body_bytes);
            let here = self.rest.len().min(usize::try_from(want).unwrap_or(usize::MAX));
            let taken: Vec<u8> = self.rest.drain(..here).collect();
            hash.update(&taken);
            response.body_bytes += u64::try_from(here).unwrap_or(0);
            let room = 65_536usize.saturating_sub(response.start.len());
            response.start.extend_from_slice(taken.get(..room.min(here)).unwrap_or_default());
            let whole = match length {
                Some(l) => response.body_bytes == l,
                None => chunked && response.start.ends_with(b"0\r\n\r\n"),
            };
            if whole {
                break;
            }
            if self.more()? == 0 {
                if length.is_some() || chunked {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the body"));
                }
                break;
            }
        }
        response.sha256 = hex(&hash.finalize());
        Ok(response)
    }

    /// The head of a response that has no body, without the empty line.
    pub fn head(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.rest.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.rest.drain(..at + 4).collect();
                return Ok(String::from_utf8_lossy(head.get(..at).unwrap_or_default()).into_owned());
            }
            if self.more()? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a whole head"));
            }
        }
    }

    /// Reads as many bytes of a body, and keeps none of them.
    pub fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let here = self.rest.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.rest.drain(..here);
        let left = bytes - u64::try_from(here).unwrap_or(0);
        let read = io::copy(&mut (&self.socket).take(left), &mut io::sink())?;
        if read < left {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the body"));
        }
        Ok(())
    }

    /// What the peer does next without being asked: `Ok(0)` is its close.
    pub fn read_some(&mut self) -> io::Result<usize> {
        self.more()
    }
}

/// One PUT to `/upload/NAME` on a new connection, where the targets of a lab keep what comes.
pub fn upload(to: SocketAddr, name: &str, body: &[u8]) -> io::Result<Response> {
    let mut connection = Connection::open(to)?;
    let head = format!("PUT /upload/{name} HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n", body.len());
    // Together, so that body bytes are there before a freeze, during it and after it.
    connection.send(&[head.as_bytes(), body].concat())?;
    connection.response()
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// One GET on a new connection.
pub fn get(to: SocketAddr, path: &str) -> io::Result<Response> {
    let mut connection = Connection::open(to)?;
    connection.get(path)?;
    connection.response()
}
