//! The certificate of a target's server, for TLS that ends there.

use anyhow::{Context, Result};
use rcgen::{CertificateParams, DnType, KeyPair};
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// Names in every server's certificate besides its own.
const NAMES: [&str; 3] = ["lab.test", "*.lab.test", "localhost"];

/// Writes `server.pem` and `server.key`, signed by themselves. The subject's common name is the target's, so that a client
/// sees whose TLS it speaks.
///
/// # Errors
/// When the files cannot be written.
pub(crate) fn write(dir: &Path, target: &str, addresses: &[IpAddr]) -> Result<()> {
    let own = [target.to_owned(), format!("{target}.lab.test")];
    let names = NAMES.iter().map(|n| (*n).to_owned()).chain(own);
    let mut params =
        CertificateParams::new(names.chain(addresses.iter().map(IpAddr::to_string)).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, target);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    for (file, text) in [("server.pem", certificate.pem()), ("server.key", key.serialize_pem())] {
        let path = dir.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
