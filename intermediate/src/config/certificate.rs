//! `[[listener.certificate]]`.

use baton_daemon::config::{Problems, Spanned};
use serde::Deserialize;
use std::path::PathBuf;

/// `[[listener.certificate]]`: what a listener of protocol "https" shows to clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, PEM.
    pub cert: Spanned<PathBuf>,
    /// Its key, PEM.
    pub key: Spanned<PathBuf>,
}

impl Certificate {
    /// Reports files that cannot be read.
    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        for file in [&self.cert, &self.key] {
            let path = file.get_ref();
            if let Err(e) = std::fs::File::open(path) {
                problems.with(file, format!("{} cannot be read: {e}", path.display()));
            }
        }
    }
}
