//! Certificates for listeners where TLS ends.

use super::Bed;
use intermediate::config::Protocol;
use intermediate::front::FrontLimits;
use intermediate::site::SiteListener;
use intermediate::tls::{Certificates, server_config};
use rcgen::{CertificateParams, KeyPair};
use rustls::server::ServerConfig;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes a certificate for these names, signed by itself.
pub fn certificate(dir: &Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let paths = (dir.join(format!("{file}.pem")), dir.join(format!("{file}.key")));
    fs::write(&paths.0, certificate.pem()).unwrap();
    fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

pub fn config_of(files: &[(PathBuf, PathBuf)]) -> Arc<ServerConfig> {
    let mut certificates = Certificates::default();
    for (chain, key) in files {
        certificates.add(chain, key).unwrap();
    }
    server_config(certificates).unwrap()
}

/// A front of protocol https with a certificate for `first.example`.
pub fn https_bed(limits: FrontLimits, servers: &[SocketAddr]) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let tls = Some(config_of(&[certificate(dir.path(), "first", &["first.example"])]));
    let order = |l: SiteListener| SiteListener { protocol: Protocol::Https, tls, ..l };
    Bed::with_listener(limits, &[servers], vec![], order)
}
