//! A client that writes HTTP/2 frames itself (RFC 9113), for what no library would send.

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Kinds of frames.
pub mod kind {
    /// Bytes of a body.
    pub const DATA: u8 = 0;
    /// A head, or its beginning.
    pub const HEADERS: u8 = 1;
    /// How the peer shall behave.
    pub const SETTINGS: u8 = 4;
    /// Asks for the same back.
    pub const PING: u8 = 6;
    /// More of a head.
    pub const CONTINUATION: u8 = 9;
}

/// The flag of a head that is whole.
pub const END_HEADERS: u8 = 4;
/// The flag of a stream's last frame.
pub const END_STREAM: u8 = 1;

/// Whom clients trust, and that they speak HTTP/2.
///
/// # Errors
/// If the certificate cannot be trusted.
pub fn trusting(certificate: CertificateDer<'static>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// One connection.
#[derive(Debug)]
pub struct Http2(StreamOwned<ClientConnection, TcpStream>);

impl Http2 {
    /// Connects as a client with these settings: identifiers and values.
    ///
    /// # Errors
    /// Those of the socket and of TLS.
    pub fn open(
        to: SocketAddr,
        name: &'static str,
        config: &Arc<ClientConfig>,
        settings: &[(u16, u32)],
    ) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        socket.set_write_timeout(Some(Duration::from_secs(30)))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut http2 = Http2(StreamOwned::new(tls, socket));
        http2.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        http2.frames(1, kind::SETTINGS, 0, 0, &payload)?;
        Ok(http2)
    }

    /// Sends a frame so many times.
    ///
    /// # Errors
    /// Once the connection is over.
    pub fn frames(
        &mut self,
        times: usize,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes().get(1..).unwrap_or_default().to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame.repeat(times))?;
        self.0.flush()
    }

    /// Sends a request's head, each line as a literal.
    ///
    /// # Errors
    /// Once the connection is over, or for a line of more than 127 bytes.
    pub fn ask(&mut self, stream: u32, method: &str, path: &str, ends: bool) -> io::Result<()> {
        let lines = [(":method", method), (":scheme", "https"), (":authority", "lab"), (":path", path)];
        let mut block = Vec::new();
        for (name, value) in lines {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).map_err(io::Error::other)?);
                block.extend(text.as_bytes());
            }
        }
        let flags = if ends { END_HEADERS | END_STREAM } else { END_HEADERS };
        self.frames(1, kind::HEADERS, flags, stream, &block)
    }

    /// Reads what comes, without a word in return, until the connection is over or somebody says so.
    pub fn until_over(&mut self, stopped: impl Fn() -> bool) {
        let mut piece = [0; 16_384];
        let _ = self.0.sock.set_read_timeout(Some(Duration::from_millis(200)));
        while !stopped() {
            match self.0.read(&mut piece) {
                Ok(n) if n > 0 => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                _ => return,
            }
        }
    }
}
