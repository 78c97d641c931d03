//! `[access_log]`.

use baton_daemon::config::{Problems, Spanned};
use serde::Deserialize;

/// `[access_log]`: one record for each request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {}

impl AccessLog {
    pub(super) fn validate(log: &Spanned<AccessLog>, problems: &mut Problems<'_>) {
        problems.with(log, "[access_log] is not built yet");
    }
}
