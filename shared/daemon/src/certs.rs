//! The `certs` subcommand: a small authority and a certificate for each node.

use crate::tls::node_uri;
use baton_shared::control::Role;
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;
use time::{Duration, OffsetDateTime};

/// Validity of certificates unless told otherwise, days.
pub const DEFAULT_DAYS: u32 = 365;
/// Validity of the authority, days.
const CA_DAYS: u32 = 3650;

/// Makes a CA (ca.pem, ca.key) if the directory has none, and NAME.pem and NAME.key for each node. An existing CA is
/// used, never replaced; an existing node certificate is replaced.
#[derive(Args, Clone, Debug)]
pub struct CertsArgs {
    /// Directory for the files, made if it is not there
    #[arg(long)]
    pub dir: PathBuf,
    /// An intermediate's name and the addresses it has; may be given several times
    #[arg(long, value_name = "NAME=IP[,IP]")]
    pub intermediate: Vec<NodeArg>,
    /// An agent's name and the addresses it has; may be given several times
    #[arg(long, value_name = "NAME=IP[,IP]")]
    pub agent: Vec<NodeArg>,
    /// Days the nodes' certificates are valid
    #[arg(long, default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
}

/// `NAME=IP[,IP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeArg {
    /// The node's name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl FromStr for NodeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, list) = text.split_once('=').ok_or("NAME=IP[,IP] is expected")?;
        check_name(name)?;
        let addresses = list
            .split(',')
            .map(|ip| ip.parse().map_err(|_| format!("{ip:?} is no IP address")))
            .collect::<Result<_, _>>()?;
        Ok(NodeArg { name: name.to_owned(), addresses })
    }
}

/// A name goes into a file name and a URI.
fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 63 || !name.chars().all(fits) || name.starts_with('.') || name == "ca"
    {
        return Err(format!(
            "{name:?} is no node name: 1 to 63 of letters, digits, '-', '_' and '.', not beginning with '.', not \"ca\""
        ));
    }
    Ok(())
}

/// A node a certificate is made for.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Its addresses, for other tools: Baton itself compares role and name only.
    pub addresses: Vec<IpAddr>,
    /// The first moment of validity.
    pub not_before: OffsetDateTime,
    /// The last moment of validity.
    pub not_after: OffsetDateTime,
}

impl Node {
    /// Valid from an hour ago (clocks differ) for `days` days.
    pub fn new(role: Role, name: &str, addresses: &[IpAddr], days: u32) -> Self {
        let now = OffsetDateTime::now_utc();
        Node {
            role,
            name: name.to_owned(),
            addresses: addresses.to_vec(),
            not_before: now - Duration::hours(1),
            not_after: now + Duration::days(i64::from(days)),
        }
    }
}

/// Why certificates could not be made.
#[derive(Debug, Error)]
pub enum CertsError {
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Only one of the CA's two files is there.
    #[error("{} is there but {} is not: put it back, or move the other away to make a new CA", present.display(), missing.display())]
    HalfCa {
        /// The one that is there.
        present: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
    /// A node's name is not usable.
    #[error("{0}")]
    Name(String),
    /// Making or reading a certificate failed.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What the library said.
        source: rcgen::Error,
    },
}

/// The subcommand; the lines say what was done.
pub fn run(args: &CertsArgs) -> Result<Vec<String>, CertsError> {
    let node = |role: Role, arg: &NodeArg| Node::new(role, &arg.name, &arg.addresses, args.days);
    let nodes: Vec<Node> = args
        .intermediate
        .iter()
        .map(|n| node(Role::Intermediate, n))
        .chain(args.agent.iter().map(|n| node(Role::Agent, n)))
        .collect();
    make(&args.dir, &nodes)
}

/// Makes the CA if `dir` has none, and a certificate and key for each node. The lines say what was done.
pub fn make(dir: &Path, nodes: &[Node]) -> Result<Vec<String>, CertsError> {
    for node in nodes {
        check_name(&node.name).map_err(CertsError::Name)?;
    }
    fs::create_dir_all(dir).map_err(|source| CertsError::File { path: dir.to_owned(), source })?;
    let mut done = Vec::new();
    let issuer = open_ca(dir, &mut done)?;
    for node in nodes {
        let (cert_path, key_path) =
            (dir.join(format!("{}.pem", node.name)), dir.join(format!("{}.key", node.name)));
        let fail = |source| CertsError::Certificate { path: cert_path.clone(), source };
        let key = KeyPair::generate().map_err(fail)?;
        let cert = node_params(node).map_err(fail)?.signed_by(&key, &issuer).map_err(fail)?;
        write(&key_path, &key.serialize_pem(), 0o600)?;
        write(&cert_path, &cert.pem(), 0o644)?;
        done.push(format!("{}: {}", cert_path.display(), node_uri(node.role, &node.name)));
    }
    Ok(done)
}

fn node_params(node: &Node) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, node.name.as_str());
    params.subject_alt_names.push(SanType::URI(node_uri(node.role, &node.name).try_into()?));
    params.subject_alt_names.extend(node.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.not_before = node.not_before;
    params.not_after = node.not_after;
    Ok(params)
}

fn open_ca(dir: &Path, done: &mut Vec<String>) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
    match (cert_path.exists(), key_path.exists()) {
        (true, true) => {
            let key = KeyPair::from_pem(&read(&key_path)?)
                .map_err(|source| CertsError::Certificate { path: key_path, source })?;
            Issuer::from_ca_cert_pem(&read(&cert_path)?, key)
                .map_err(|source| CertsError::Certificate { path: cert_path, source })
        }
        (true, false) => Err(CertsError::HalfCa { present: cert_path, missing: key_path }),
        (false, true) => Err(CertsError::HalfCa { present: key_path, missing: cert_path }),
        (false, false) => {
            let fail = |source| CertsError::Certificate { path: cert_path.clone(), source };
            let key = KeyPair::generate().map_err(fail)?;
            let now = OffsetDateTime::now_utc();
            let mut params = CertificateParams::default();
            // Two authorities must not look alike in a log.
            let label = format!("Baton CA {}", now.unix_timestamp());
            params.distinguished_name.push(DnType::CommonName, label.as_str());
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.not_before = now - Duration::hours(1);
            params.not_after = now + Duration::days(i64::from(CA_DAYS));
            let cert = params.self_signed(&key).map_err(fail)?;
            write(&key_path, &key.serialize_pem(), 0o600)?;
            write(&cert_path, &cert.pem(), 0o644)?;
            done.push(format!("{}: {label}", cert_path.display()));
            Ok(Issuer::new(params, key))
        }
    }
}

fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|source| CertsError::File { path: path.to_owned(), source })
}

/// Replaces a file whole: a reader sees the old or the new one, and never a key with a wider mode.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let fail = |source| CertsError::File { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&beside, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::TlsFiles;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nodes_are_made_and_made_again_under_one_ca() {
        let dir = tempfile::tempdir().unwrap();
        let node = |role, name| Node::new(role, name, &["10.0.0.1".parse().unwrap()], 30);
        let nodes = [node(Role::Intermediate, "front"), node(Role::Agent, "target1")];
        assert_eq!(make(dir.path(), &nodes).unwrap().len(), 3);
        let ca = fs::read(dir.path().join("ca.pem")).unwrap();
        let first = fs::read(dir.path().join("front.pem")).unwrap();
        assert_eq!(make(dir.path(), &nodes[..1]).unwrap().len(), 1, "the CA is not made again");
        assert_eq!(fs::read(dir.path().join("ca.pem")).unwrap(), ca);
        assert_ne!(fs::read(dir.path().join("front.pem")).unwrap(), first);
        for (name, role) in [("front", Role::Intermediate), ("target1", Role::Agent)] {
            let identity = TlsFiles::in_dir(dir.path(), name).load().unwrap();
            assert_eq!((identity.facts.role, identity.facts.name.as_str()), (role, name));
            identity.verify_own_chain().unwrap();
            let mode =
                |file: String| fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(format!("{name}.key")), 0o600);
        }
        assert_eq!(fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn half_a_ca_is_not_made_whole_silently() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &[]).unwrap();
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = make(dir.path(), &[]).unwrap_err();
        assert!(matches!(error, CertsError::HalfCa { .. }), "{error}");
        assert!(!dir.path().join("ca.key").exists());
    }

    #[test]
    fn arguments_name_a_node_and_its_addresses() {
        let arg: NodeArg = "target1=10.0.0.1,2001:db8::1".parse().unwrap();
        assert_eq!(arg.addresses.len(), 2);
        for wrong in ["target1", "=10.0.0.1", "a/b=10.0.0.1", "../x=10.0.0.1", "ca=10.0.0.1", "a=", "a=host"]
        {
            assert!(wrong.parse::<NodeArg>().is_err(), "{wrong}");
        }
    }
}
