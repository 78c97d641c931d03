//! A client that writes HTTP/2 frames itself, for what no library would send.
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Trusts everyone: whom is not the question here.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Connects with TLS and offers these protocols.
pub(crate) async fn connect(vip: SocketAddr, alpn: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    let stream = TcpStream::connect(vip).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let name = ServerName::try_from("first.example").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// One connection.
pub(crate) struct Http2 {
    stream: TlsStream<TcpStream>,
    next: u32,
}

struct Got {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Http2 {
    pub(crate) async fn open(vip: SocketAddr) -> Self {
        Self::open_with(vip, &[]).await
    }

    /// With these settings: identifiers and values.
    pub(crate) async fn open_with(vip: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut stream = connect(vip, &[b"h2"]).await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut http2 = Http2 { stream, next: 1 };
        // Without a table that changes, a status is always spelt in full (RFC 7541, section 4.2).
        let payload: Vec<u8> = [(1, 0)]
            .iter()
            .chain(settings)
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        assert!(http2.frame(SETTINGS, 0, 0, &payload).await);
        http2
    }

    pub(crate) fn next_stream(&mut self) -> u32 {
        self.next += 2;
        self.next
    }

    /// Sends a frame as it is; whether it could still be sent.
    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.frames(1, kind, flags, stream, payload).await
    }

    /// Sends a frame so many times in one write.
    pub(crate) async fn frames(
        &mut self,
        times: usize,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> bool {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags];
        let frame = [&head[..], &stream.to_be_bytes(), payload].concat();
        self.stream.write_all(&frame.repeat(times)).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Names and values as literals, none of them in the table.
    pub(crate) async fn headers(&mut self, stream: u32, headers: &[(&str, &str)], end: bool) {
        let text = |t: &str| [&[u8::try_from(t.len()).unwrap()], t.as_bytes()].concat();
        let block: Vec<u8> =
            headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect();
        self.frame(HEADERS, END_HEADERS | (u8::from(end) * END_STREAM), stream, &block).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.frame(DATA, u8::from(end) * END_STREAM, stream, bytes).await;
    }

    /// Whether it could still be sent.
    pub(crate) async fn reset(&mut self, stream: u32) -> bool {
        self.frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()).await
    }

    /// Sends a GET.
    pub(crate) async fn ask(&mut self, stream: u32, path: &str) {
        let head =
            [(":method", "GET"), (":scheme", "https"), (":authority", "first.example"), (":path", path)];
        self.headers(stream, &head, true).await;
    }

    pub(crate) async fn get(&mut self, stream: u32, path: &str) -> (u16, Vec<u8>) {
        self.ask(stream, path).await;
        self.outcome(stream).await.unwrap()
    }

    async fn read(&mut self) -> Option<Got> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = (usize::from(head[0]) << 16) | (usize::from(head[1]) << 8) | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let got = Got { kind: head[3], flags: head[4], stream, payload };
        if [SETTINGS, PING].contains(&got.kind) && got.flags & ACK == 0 {
            let back = if got.kind == PING { got.payload.clone() } else { Vec::new() };
            self.frame(got.kind, ACK, 0, &back).await;
        }
        Some(got)
    }

    /// The answer to a stream: status and body; none if it was reset or the connection ended.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Option<(u16, Vec<u8>)> {
        let reading = async {
            let mut status = None;
            let mut body = Vec::new();
            loop {
                let got = self.read().await?;
                match got.kind {
                    GOAWAY if got.payload[4..8] != [0; 4] => return None,
                    RST_STREAM if got.stream == stream => return None,
                    HEADERS if got.stream == stream => status = status.or(Some(read_status(&got.payload))),
                    DATA if got.stream == stream => body.extend(&got.payload),
                    _ => continue,
                }
                if got.flags & END_STREAM != 0 && got.stream == stream {
                    return status.map(|status| (status, body));
                }
            }
        };
        timeout(Duration::from_secs(30), reading).await.expect("an answer")
    }

    /// Until all that was sent before has been looked at; whether the connection goes on.
    pub(crate) async fn settled(&mut self) -> bool {
        if !self.frame(PING, 0, 0, b"settled?").await {
            return false;
        }
        let waiting = async {
            while let Some(got) = self.read().await {
                if got.kind == PING && got.flags & ACK != 0 {
                    return true;
                }
            }
            false
        };
        timeout(Duration::from_secs(30), waiting).await.expect("an acknowledgement")
    }

    /// The code a stream was reset with; none if it was answered, or the connection ended.
    pub(crate) async fn reset_code(&mut self, stream: u32) -> Option<u32> {
        let waiting = async {
            while let Some(got) = self.read().await {
                match got.kind {
                    RST_STREAM if got.stream == stream => {
                        return Some(u32::from_be_bytes(got.payload[..4].try_into().unwrap()));
                    }
                    HEADERS if got.stream == stream => return None,
                    _ => {}
                }
            }
            None
        };
        timeout(Duration::from_secs(30), waiting).await.expect("an answer")
    }

    /// Opens the windows of a stream and of the connection.
    pub(crate) async fn window(&mut self, stream: u32, bytes: u32) -> bool {
        self.frame(WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes()).await
            && self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes()).await
    }

    /// Bytes of body of the next DATA frame, of whatever stream; none at the connection's end.
    pub(crate) async fn some_data(&mut self) -> Option<usize> {
        loop {
            let got = self.read().await?;
            if got.kind == DATA {
                return Some(got.payload.len());
            }
        }
    }

    /// Reads until the connection's end; whether it came in ten seconds. Opens no window.
    pub(crate) async fn is_ended(&mut self) -> bool {
        timeout(Duration::from_secs(30), async { while self.read().await.is_some() {} }).await.is_ok()
    }
}

/// Of the static table, or a literal with that table's name (RFC 7541, appendix A).
fn read_status(block: &[u8]) -> u16 {
    // Updates of the table's size come first.
    let updates = block.iter().take_while(|b| **b & 0xe0 == 0x20).count();
    let block = &block[updates..];
    match block[0] & 0x7f {
        indexed @ 8..=14 if block[0] & 0x80 != 0 => {
            [200, 204, 206, 304, 400, 404, 500][usize::from(indexed) - 8]
        }
        // Three digits, in Huffman's code or plain.
        _ => match block[1] {
            3 => std::str::from_utf8(&block[2..5]).unwrap().parse().unwrap(),
            length => huffman_digits(&block[2..2 + usize::from(length & 0x7f)]),
        },
    }
}

/// The digits 0, 1 and 2 have five bits, 3 to 9 six (RFC 7541, appendix B).
fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<bool> = bytes.iter().flat_map(|b| (0..8).rev().map(move |n| (b >> n) & 1 == 1)).collect();
    let value = |range: &[bool]| range.iter().fold(0u16, |v, b| (v << 1) | u16::from(*b));
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let five = value(&bits[at..at + 5]);
        let (digit, length) = if five <= 2 { (five, 5) } else { (value(&bits[at..at + 6]) - 0x19 + 3, 6) };
        number = number * 10 + digit;
        at += length;
    }
    number
}
