//! A node's identity: its certificate, key and the authority both sides trust, as files and loaded.
//!
//! A node's role and name stand in its certificate as the one URI `baton://ROLE/NAME` among the subject
//! alternative names (RFC 5280, section 4.2.1.6). Addresses in the certificate are not compared: a node may be
//! reached by any address, but only under its own name.

use crate::config::Spanned;
use baton_shared::control::Role;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use time::OffsetDateTime;

mod verify;
pub(crate) use verify::{client_config, explain, server_config};

/// `[tls]`: PEM files. Relative paths count from the process's working directory.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The authority's certificate; peers must be signed by it.
    pub ca: Spanned<PathBuf>,
    /// This node's certificate (and those between it and the authority).
    pub cert: Spanned<PathBuf>,
    /// This node's private key.
    pub key: Spanned<PathBuf>,
}

impl TlsFiles {
    /// From paths that do not come from a configuration file.
    pub fn new(ca: impl Into<PathBuf>, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        TlsFiles {
            ca: Spanned::new(0..0, ca.into()),
            cert: Spanned::new(0..0, cert.into()),
            key: Spanned::new(0..0, key.into()),
        }
    }

    /// The files `certs` made for node `name` in `dir`.
    pub fn in_dir(dir: &Path, name: &str) -> Self {
        Self::new(dir.join("ca.pem"), dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
    }

    /// Reads and parses all three, and checks that they belong together.
    pub fn load(&self) -> Result<Identity, TlsError> {
        let ca = self.ca.get_ref();
        let mut roots = RootCertStore::empty();
        for der in read_certificates(ca).map_err(|e| e.of(TlsFile::Ca))? {
            roots.add(der).map_err(|e| TlsError::new(TlsFile::Ca, ca, format!("is no usable CA: {e}")))?;
        }
        let cert = self.cert.get_ref();
        let chain = read_certificates(cert).map_err(|e| e.of(TlsFile::Cert))?;
        let first =
            chain.first().ok_or_else(|| TlsError::new(TlsFile::Cert, cert, "holds no certificate"))?;
        let facts =
            CertificateFacts::parse(first).map_err(|e| TlsError::new(TlsFile::Cert, cert, e.to_string()))?;
        let key_path = self.key.get_ref();
        let key = PrivateKeyDer::from_pem_file(key_path)
            .map_err(|e| TlsError::new(TlsFile::Key, key_path, describe_pem(&e, "private key")))?;
        let identity = Identity { chain, key: Arc::new(key), roots: Arc::new(roots), facts };
        // rustls compares key and certificate when it builds a configuration.
        client_config(&identity).map_err(|e| {
            TlsError::new(TlsFile::Key, key_path, format!("does not fit {}: {e}", cert.display()))
        })?;
        Ok(identity)
    }
}

/// Which of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// `tls.ca`
    Ca,
    /// `tls.cert`
    Cert,
    /// `tls.key`
    Key,
}

/// What is wrong with a node's TLS files.
#[derive(Clone, Debug, Error)]
#[error("{} {problem}", path.display())]
pub struct TlsError {
    /// Which of the settings names the file.
    pub file: TlsFile,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl TlsError {
    fn new(file: TlsFile, path: &Path, problem: impl Into<String>) -> Self {
        TlsError { file, path: path.to_owned(), problem: problem.into() }
    }

    fn of(mut self, file: TlsFile) -> Self {
        self.file = file;
        self
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail =
        |e: rustls_pki_types::pem::Error| TlsError::new(TlsFile::Cert, path, describe_pem(&e, "certificate"));
    let list =
        CertificateDer::pem_file_iter(path).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    if list.is_empty() {
        return Err(TlsError::new(TlsFile::Cert, path, "holds no certificate in PEM form"));
    }
    Ok(list)
}

fn describe_pem(error: &rustls_pki_types::pem::Error, what: &str) -> String {
    use rustls_pki_types::pem::Error;
    match error {
        Error::Io(e) => format!("cannot be read: {e}"),
        Error::NoItemsFound => format!("holds no {what} in PEM form"),
        other => format!("is no PEM file: {other}"),
    }
}

/// Who a certificate says its holder is, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// From the URI.
    pub role: Role,
    /// From the URI.
    pub name: String,
    /// Not valid before.
    pub not_before: OffsetDateTime,
    /// Not valid after.
    pub not_after: OffsetDateTime,
}

/// Why a certificate is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CertificateProblem {
    /// Not DER, or not X.509.
    #[error("is no X.509 certificate: {0}")]
    Unparsable(String),
    /// No URI `baton://ROLE/NAME` in it, or more than one.
    #[error("must carry exactly one URI baton://ROLE/NAME among its alternative names, has {0}")]
    NotOneUri(usize),
    /// A URI of ours with a role there is not.
    #[error("has the URI {0:?}; the role must be \"intermediate\" or \"agent\", and a name must follow")]
    BadUri(String),
}

impl CertificateFacts {
    /// Reads a certificate.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, CertificateProblem> {
        let (_, cert) = x509_parser::parse_x509_certificate(der)
            .map_err(|e| CertificateProblem::Unparsable(e.to_string()))?;
        let names = cert
            .subject_alternative_name()
            .map_err(|e| CertificateProblem::Unparsable(e.to_string()))?
            .map(|e| e.value.general_names.clone())
            .unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|n| match n {
                x509_parser::extensions::GeneralName::URI(uri) if uri.starts_with("baton://") => Some(*uri),
                _ => None,
            })
            .collect();
        let [uri] = uris.as_slice() else { return Err(CertificateProblem::NotOneUri(uris.len())) };
        let (role, name) = parse_uri(uri).ok_or_else(|| CertificateProblem::BadUri((*uri).to_owned()))?;
        let validity = cert.validity();
        Ok(CertificateFacts {
            role,
            name: name.to_owned(),
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
        })
    }

    /// What is wrong with the validity at `now`, if anything.
    pub fn validity_problem(&self, now: OffsetDateTime) -> Option<String> {
        if now > self.not_after {
            Some(format!("expired on {}", Moment(self.not_after)))
        } else if now < self.not_before {
            Some(format!("is not valid before {}; is the clock right?", Moment(self.not_before)))
        } else {
            None
        }
    }
}

fn parse_uri(uri: &str) -> Option<(Role, &str)> {
    let (role, name) = uri.strip_prefix("baton://")?.split_once('/')?;
    let role = [Role::Intermediate, Role::Agent].into_iter().find(|r| r.name() == role)?;
    (!name.is_empty()).then_some((role, name))
}

/// The URI that names a node in its certificate.
pub fn node_uri(role: Role, name: &str) -> String {
    format!("baton://{}/{name}", role.name())
}

/// A point in time as people read it, UTC, whole seconds.
pub(crate) struct Moment(pub(crate) OffsetDateTime);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0.to_offset(time::UtcOffset::UTC);
        let (date, hour, minute, second) = (t.date(), t.hour(), t.minute(), t.second());
        let (year, month, day) = date.to_calendar_date();
        write!(f, "{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC", u8::from(month))
    }
}

/// A node's loaded identity.
#[derive(Clone)]
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
    pub(crate) roots: Arc<RootCertStore>,
    /// What its own certificate says.
    pub facts: CertificateFacts,
}

impl Identity {
    /// Whether the authority signed this node's own certificate; the text says what a peer would say.
    pub fn verify_own_chain(&self) -> Result<(), String> {
        verify::verify_chain(self).map_err(|e| explain(&e))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("facts", &self.facts).finish_non_exhaustive()
    }
}
