//! TLS that ends at a listener: certificates, and what is said to clients in the handshake.

mod certificates;

pub use certificates::{CertificateError, Certificates};

use rustls::crypto::ring;
use rustls::server::{ResolvesServerCert, ServerConfig};
use rustls::version::{TLS12, TLS13};
use std::sync::Arc;

/// HTTP/2, in the ALPN extension.
pub const H2: &[u8] = b"h2";
const HTTP11: &[u8] = b"http/1.1";

/// For a listener with these certificates. Sessions are resumed by tickets alone, whose keys change by themselves; early
/// data, which could be replayed, is not taken.
pub fn server_config(certificates: Certificates) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(certificates);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![H2.to_vec(), HTTP11.to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}
