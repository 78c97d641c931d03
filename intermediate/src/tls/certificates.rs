//! Which certificate a client gets to see.

use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file of the chain.
    #[error("{}: no certificate can be read from it: {detail}", path.display())]
    Chain {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file of the key.
    #[error("{}: no private key can be read from it: {detail}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// They do not belong together.
    #[error("the key does not belong to the certificate {}", path.display())]
    Mismatch {
        /// The chain's file.
        path: PathBuf,
    },
    /// Nobody can ask for it.
    #[error("the certificate {} names no host (no DNS name among its subject alternative names)", path.display())]
    Nameless {
        /// The chain's file.
        path: PathBuf,
    },
}

impl CertificateError {
    /// Whether it is about the key's file, not the chain's.
    pub fn is_about_key(&self) -> bool {
        matches!(self, CertificateError::Key { .. } | CertificateError::Mismatch { .. })
    }
}

/// Certificates by the names in them. For a name that none has, and for clients that say none, there is the first.
#[derive(Debug, Default)]
pub struct Certificates {
    first: Option<Arc<CertifiedKey>>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Adds a certificate chain with its key, both PEM. Where two have the same name, the one added first is shown.
    pub fn add(&mut self, chain: &Path, key: &Path) -> Result<(), CertificateError> {
        let certified = Arc::new(load(chain, key)?);
        let names = names(&certified);
        if names.is_empty() {
            return Err(CertificateError::Nameless { path: chain.to_owned() });
        }
        for name in names {
            let (map, name) = match name.strip_prefix("*.") {
                Some(rest) => (&mut self.wildcard, rest.to_owned()),
                None => (&mut self.exact, name),
            };
            map.entry(name).or_insert_with(|| Arc::clone(&certified));
        }
        self.first.get_or_insert(certified);
        Ok(())
    }

    /// For a server name, as a ClientHello has it.
    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // A wildcard stands for one label (RFC 9525, section 6.3).
            let parent = || self.wildcard.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(parent)
        });
        named.or(self.first.as_ref()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name())
    }
}

fn load(chain: &Path, key: &Path) -> Result<CertifiedKey, CertificateError> {
    let bad_chain = |detail: String| CertificateError::Chain { path: chain.to_owned(), detail };
    let bad_key = |detail: String| CertificateError::Key { path: key.to_owned(), detail };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect)
        .map_err(|e| bad_chain(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad_chain("it has no CERTIFICATE section".into()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| match e {
        rustls_pki_types::pem::Error::NoItemsFound => {
            bad_key("it has no PRIVATE KEY section; one with a password cannot be used".into())
        }
        other => bad_key(other.to_string()),
    })?;
    CertifiedKey::from_der(certificates, private, &ring::default_provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch { path: chain.to_owned() },
        rustls::Error::InvalidCertificate(e) => bad_chain(e.to_string()),
        other => bad_key(other.to_string()),
    })
}

/// The DNS names in the certificate itself, in lower case.
fn names(certified: &CertifiedKey) -> Vec<String> {
    let own = certified.cert.first().map(|der| parse_x509_certificate(der));
    let Some(Ok((_, certificate))) = own else { return Vec::new() };
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(dns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use std::fs;

    fn write(dir: &Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let paths = (dir.join(format!("{file}.pem")), dir.join(format!("{file}.key")));
        fs::write(&paths.0, certificate.pem()).unwrap();
        fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn the_exact_name_comes_before_the_wildcard_and_the_first_serves_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Certificates::default();
        let own: Vec<_> = [
            ("a", &["default.example"][..]),
            ("b", &["*.example.com", "example.com"]),
            ("c", &["WWW.example.com", "default.example"]),
        ]
        .into_iter()
        .map(|(file, names)| {
            let (chain, key) = write(dir.path(), file, names);
            all.add(&chain, &key).unwrap();
            CertificateDer::from_pem_file(chain).unwrap()
        })
        .collect();
        for (name, which) in [
            (Some("default.example"), 0),
            (Some("nobody.example"), 0),
            (None, 0),
            (Some("example.com"), 1),
            (Some("x.example.com"), 1),
            (Some("X.EXAMPLE.com."), 1),
            (Some("x.y.example.com"), 0),
            (Some("www.example.com"), 2),
        ] {
            assert_eq!(all.find(name).unwrap().cert[0], own[which], "{name:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = write(dir.path(), "a", &["a.example"]);
        let (other, other_key) = write(dir.path(), "b", &["b.example"]);
        let (nameless, nameless_key) = write(dir.path(), "c", &["192.0.2.1"]);
        let empty = dir.path().join("empty");
        fs::write(&empty, "").unwrap();
        let missing = dir.path().join("missing");
        let add = |chain: &Path, key: &Path| Certificates::default().add(chain, key).unwrap_err();
        for (error, says, about_key) in [
            (add(&missing, &key), "missing: no certificate can be read", false),
            (add(&empty, &key), "empty: no certificate can be read from it: it has no CERTIFICATE", false),
            (add(&key, &key), "no certificate can be read", false),
            (add(&chain, &missing), "missing: no private key can be read", true),
            (add(&chain, &chain), "no private key can be read", true),
            (add(&chain, &other_key), "the key does not belong to the certificate", true),
            (add(&nameless, &nameless_key), "names no host", false),
        ] {
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(error.is_about_key(), about_key, "{error}");
        }
        assert!(Certificates::default().add(&other, &other_key).is_ok());
    }
}
