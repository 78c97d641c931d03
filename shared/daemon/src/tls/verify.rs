//! TLS 1.3 both ways: each side verifies the other's chain against the one authority. Role and name are
//! compared after the handshake, in `control`, where a difference can be told from a bad chain.

use super::{Identity, Moment};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use time::OffsetDateTime;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// For the side that connects.
pub(crate) fn client_config(identity: &Identity) -> Result<ClientConfig, Error> {
    let provider = provider();
    let verifier = ChainVerifier {
        roots: identity.roots.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())?;
    // A resumed session would skip the look at the peer's certificate and its validity.
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// For the side that accepts.
pub(crate) fn server_config(identity: &Identity) -> Result<ServerConfig, Error> {
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots.clone(), provider.clone())
        .build()
        .map_err(|e| Error::General(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whether the identity's own certificate stands up to its own authority.
pub(super) fn verify_chain(identity: &Identity) -> Result<(), Error> {
    let verifier = ChainVerifier {
        roots: identity.roots.clone(),
        algorithms: provider().signature_verification_algorithms,
    };
    let (first, rest) = identity.chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    verifier.verify(first, rest, UnixTime::now())
}

/// Verifies the chain, the validity and the purpose of a server's certificate; not its name.
#[derive(Debug)]
struct ChainVerifier {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ChainVerifier {
    fn verify(
        &self,
        end: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let cert = ParsedCertificate::try_from(end)?;
        verify_server_cert_signed_by_trust_anchor(&cert, &self.roots, rest, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for ChainVerifier {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end, rest, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A TLS error in words an operator can act on.
pub(crate) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(e) => explain_certificate(e),
        Error::NoCertificatesPresented => "it presented no certificate".into(),
        Error::AlertReceived(alert) => {
            format!("it refused this node's certificate or TLS version (alert {alert:?}); its log says why")
        }
        other => other.to_string(),
    }
}

fn explain_certificate(error: &CertificateError) -> String {
    let moment = |t: &UnixTime| {
        i64::try_from(t.as_secs())
            .ok()
            .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
            .map_or_else(|| "an unknown time".to_owned(), |t| Moment(t).to_string())
    };
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on {}", moment(not_after))
        }
        CertificateError::Expired => "its certificate has expired".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("its certificate is not valid before {}; compare the clocks", moment(not_before))
        }
        CertificateError::NotValidYet => "its certificate is not valid yet; compare the clocks".into(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate was not signed by the CA this node trusts (tls.ca)".into()
        }
        CertificateError::InvalidPurpose => {
            "its certificate is not meant for this use (extended key usage)".into()
        }
        other => format!("its certificate is not acceptable: {other:?}"),
    }
}
