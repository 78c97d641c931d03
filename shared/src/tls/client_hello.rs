//! What a ClientHello says that connections are routed by.

use super::HelloFault;
use tls_parser::{SNIType, TlsExtension, parse_tls_handshake_client_hello};
use tls_parser::{parse_tls_extension_alpn_content, parse_tls_extension_sni_content};

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// The longest host name of the DNS.
const NAME_BYTES: usize = 253;

/// The part of it that matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name (RFC 6066, section 3) in lower case, without a dot at its end.
    pub server_name: Option<String>,
    /// The protocols offered (RFC 7301), the preferred one first.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientHello {
    /// From a handshake message without its header.
    pub(super) fn parse(body: &[u8]) -> Result<Self, HelloFault> {
        let (rest, contents) = parse_tls_handshake_client_hello(body).map_err(|_| HelloFault::Malformed)?;
        if !rest.is_empty() {
            return Err(HelloFault::Malformed);
        }
        let mut hello = ClientHello::default();
        let mut extensions = contents.ext.unwrap_or_default();
        let (mut named, mut offered) = (false, false);
        // Only the two that matter are read: what a server understands of the others is its business.
        while !extensions.is_empty() {
            let (kind, data, after) = next_extension(extensions).ok_or(HelloFault::Malformed)?;
            extensions = after;
            let seen = match kind {
                SERVER_NAME => &mut named,
                ALPN => &mut offered,
                _ => continue,
            };
            // Of two names the server might take the other one.
            if std::mem::replace(seen, true) {
                return Err(HelloFault::Malformed);
            }
            match kind {
                SERVER_NAME => hello.server_name = Some(server_name(data)?),
                _ => hello.alpn = protocols(data)?,
            }
        }
        Ok(hello)
    }
}

/// Type, content, and what comes after.
fn next_extension(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<4>()?;
    let [kind_high, kind_low, high, low] = *header;
    let (data, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((u16::from_be_bytes([kind_high, kind_low]), data, after))
}

fn server_name(data: &[u8]) -> Result<String, HelloFault> {
    let (rest, extension) = parse_tls_extension_sni_content(data).map_err(|_| HelloFault::Malformed)?;
    let TlsExtension::SNI(names) = extension else { return Err(HelloFault::Malformed) };
    let [(SNIType::HostName, name)] = names.as_slice() else { return Err(HelloFault::Malformed) };
    // The parser stops silently at what it cannot read: then the list is longer than what it found.
    if !rest.is_empty() || data.len() != name.len() + 5 {
        return Err(HelloFault::Malformed);
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > NAME_BYTES || !name.iter().all(plain) {
        return Err(HelloFault::Malformed);
    }
    Ok(String::from_utf8_lossy(name).to_ascii_lowercase())
}

fn protocols(data: &[u8]) -> Result<Vec<Vec<u8>>, HelloFault> {
    let (rest, extension) = parse_tls_extension_alpn_content(data).map_err(|_| HelloFault::Malformed)?;
    let TlsExtension::ALPN(protocols) = extension else { return Err(HelloFault::Malformed) };
    let length: usize = protocols.iter().map(|p| p.len() + 1).sum();
    if !rest.is_empty() || protocols.iter().any(|p| p.is_empty()) || data.len() != length + 2 {
        return Err(HelloFault::Malformed);
    }
    Ok(protocols.into_iter().map(<[u8]>::to_vec).collect())
}
