//! `[[listener.certificate]]`.

use super::listener::{Listener, Protocol};
use crate::tls::{Certificates, server_config};
use baton_daemon::config::{Problems, Spanned};
use rustls::server::ServerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// `[[listener.certificate]]`: what a listener of protocol "https" shows to clients.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, PEM.
    pub cert: Spanned<PathBuf>,
    /// Its key, PEM.
    pub key: Spanned<PathBuf>,
}

impl Listener {
    /// For the handshake, of a listener that was validated: the files as they were then.
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        self.server_config.get().cloned()
    }

    /// Reads the files. What they say is kept, so that nothing can go wrong any more when the configuration comes into
    /// force.
    pub(super) fn validate_certificates(&self, problems: &mut Problems<'_>) {
        let Some(protocol) = self.protocol.as_ref().filter(|p| *p.get_ref() == Protocol::Https) else {
            return;
        };
        if self.certificate.is_empty() {
            return problems
                .with(protocol, "protocol \"https\" needs a [[listener.certificate]] with cert and key");
        }
        let mut certificates = Certificates::default();
        let mut all_right = true;
        for certificate in &self.certificate {
            if let Err(e) = certificates.add(certificate.cert.get_ref(), certificate.key.get_ref()) {
                let place = if e.is_about_key() { &certificate.key } else { &certificate.cert };
                problems.with(place, e);
                all_right = false;
            }
        }
        match server_config(certificates) {
            Ok(config) if all_right => drop(self.server_config.set(config)),
            Ok(_) => {}
            Err(e) => problems.with(protocol, e),
        }
    }
}
