//! `[pool.health]`.

use baton_daemon::config::{Problems, Spanned};
use serde::{Deserialize, Serialize};

/// `[pool.health]`: how the servers of a pool are checked.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Health {}

impl Health {
    pub(super) fn validate(health: &Spanned<Health>, problems: &mut Problems<'_>) {
        problems.with(health, "[pool.health] is not built yet");
    }
}
