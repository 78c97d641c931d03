//! `sticky` of a `[[pool]]`.

use crate::pools::StickySpec;
use baton_daemon::config::Spanned;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a request without a good cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum First {
    /// It is proxied, so that its response can set one.
    #[default]
    Proxy,
    /// It migrates like any other; the application sets the cookie.
    Migrate,
}

/// `[pool.sticky]`: a cookie that brings a client back to the target it was on.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: Spanned<String>,
    /// What its values are made with; all intermediates of a site must have the same.
    pub secret: Option<String>,
    /// What becomes of a request without a good cookie.
    #[serde(default)]
    pub first: First,
}

impl Sticky {
    pub(super) fn spec(&self) -> StickySpec {
        StickySpec {
            cookie: self.cookie.get_ref().clone(),
            secret: self.secret.clone().unwrap_or_default(),
            first_proxied: self.first == First::Proxy,
        }
    }
}
