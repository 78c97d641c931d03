//! Why a channel did not come up or ended, with the evidence, and how often.

use crate::tls::{CertificateProblem, TlsError};
use baton_shared::control::{FrameError, PROTOCOL_VERSION, Role};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use thiserror::Error;

/// Why a [`Client`](super::Client) or [`Server`](super::Server) could not be started.
#[derive(Debug, Error)]
pub enum ControlError {
    /// This node's TLS files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// This node's certificate says something else than its configuration.
    #[error(
        "this node's certificate names {} {found_name:?}, the configuration {} {expected_name:?}",
        found_role.name(),
        expected_role.name()
    )]
    OwnName {
        /// In the certificate.
        found_role: Role,
        /// In the certificate.
        found_name: String,
        /// In the `Hello` to be sent.
        expected_role: Role,
        /// In the `Hello` to be sent.
        expected_name: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen for control connections on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What kept a channel from coming up, or ended it.
#[derive(Debug, Error)]
pub enum Fault {
    /// TCP connect failed.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// A step of setting the channel up took longer than [`HANDSHAKE_LIMIT`](super::HANDSHAKE_LIMIT).
    #[error("no {0} in time")]
    Timeout(&'static str),
    /// The peer's certificate is not signed by our authority, or not fit for its use.
    #[error("the peer is refused: {0}")]
    Untrusted(String),
    /// The peer's certificate is out of its validity.
    #[error("the peer is refused: {0}")]
    Expired(String),
    /// The peer refused us, or the handshake failed otherwise.
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
    /// The peer's certificate is trusted but names no node.
    #[error("the peer is refused: its certificate {0}")]
    NoNode(CertificateProblem),
    /// The certificate's role is not the one this side talks to.
    #[error("the peer is refused: its certificate's role is {:?}, {:?} is expected", found.name(), expected.name())]
    WrongRole {
        /// In the certificate.
        found: Role,
        /// What this side talks to.
        expected: Role,
    },
    /// The certificate's name is not the one expected at that address.
    #[error("the peer is refused: its certificate names {found:?}, {expected:?} is expected")]
    WrongName {
        /// In the certificate.
        found: String,
        /// In our configuration.
        expected: String,
    },
    /// The intermediate is not on the agent's list.
    #[error("the peer is refused: intermediate {0:?} is not named by any [[allow]]")]
    NotAllowed(String),
    /// `Hello` says something else than the certificate.
    #[error("the peer is refused: it says it is {said}, its certificate {proved}")]
    HelloDiffers {
        /// Role and name in `Hello`.
        said: String,
        /// Role and name in the certificate.
        proved: String,
    },
    /// Another version of the protocol.
    #[error(
        "the peer speaks protocol version {found} ({software}), this node {PROTOCOL_VERSION}: run the same release on both"
    )]
    Version {
        /// The peer's.
        found: u32,
        /// The peer's software, as it says.
        software: String,
    },
    /// Something else than `Hello` came first, or bytes that are no message.
    #[error("the peer does not keep to the protocol: {0}")]
    Protocol(String),
    /// Nothing was heard for [`SILENCE_LIMIT`](super::SILENCE_LIMIT).
    #[error("the peer has been silent for {} s", super::SILENCE_LIMIT.as_secs())]
    Silent,
    /// The peer closed before it said `Hello`.
    #[error("the peer closed the channel before its Hello; its log says why")]
    ClosedEarly,
    /// The peer closed the channel.
    #[error("the peer closed the channel")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// A newer session of the same peer took over.
    #[error("a newer session of the same peer took its place")]
    Superseded,
    /// This side is shutting down.
    #[error("this side is shutting down")]
    Shutdown,
}

impl From<FrameError> for Fault {
    fn from(e: FrameError) -> Self {
        Fault::Protocol(e.to_string())
    }
}

impl Fault {
    /// Under which reason it is counted.
    pub fn kind(&self) -> FaultKind {
        match self {
            Fault::Connect(_) => FaultKind::Connect,
            Fault::Timeout(_) => FaultKind::Timeout,
            Fault::Untrusted(_) => FaultKind::Untrusted,
            Fault::Expired(_) => FaultKind::Expired,
            Fault::Handshake(_) => FaultKind::Handshake,
            Fault::NoNode(_) | Fault::WrongRole { .. } => FaultKind::WrongRole,
            Fault::WrongName { .. } | Fault::HelloDiffers { .. } => FaultKind::WrongName,
            Fault::NotAllowed(_) => FaultKind::NotAllowed,
            Fault::Version { .. } => FaultKind::Version,
            Fault::Protocol(_) => FaultKind::Protocol,
            Fault::Silent => FaultKind::Silent,
            Fault::ClosedEarly => FaultKind::ClosedEarly,
            Fault::Closed | Fault::Broken(_) | Fault::Superseded | Fault::Shutdown => FaultKind::Closed,
        }
    }

    /// What a failed TLS handshake means.
    pub(super) fn from_handshake(e: io::Error) -> Self {
        use rustls::{CertificateError as C, Error};
        let Some(tls) = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
            return match e.kind() {
                io::ErrorKind::UnexpectedEof => Fault::ClosedEarly,
                _ => Fault::Handshake(e.to_string()),
            };
        };
        let text = crate::tls::explain(tls);
        match tls {
            Error::InvalidCertificate(
                C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
            ) => Fault::Expired(text),
            Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Fault::Untrusted(text),
            _ => Fault::Handshake(text),
        }
    }

    /// What a failed read or write means: in TLS 1.3 a refused client learns it from its first read.
    pub(super) fn from_io(e: io::Error, before_hello: bool) -> Self {
        if e.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Self::from_handshake(e);
        }
        match e.kind() {
            _ if before_hello => Fault::ClosedEarly,
            io::ErrorKind::UnexpectedEof => Fault::Closed,
            _ => Fault::Broken(e),
        }
    }
}

/// The reasons under which channel faults are counted, for `/metrics`.
pub use baton_shared::reason::ControlFault as FaultKind;

/// How often each fault happened.
pub type FaultCounters = Arc<crate::metrics::ReasonCounters<FaultKind>>;
