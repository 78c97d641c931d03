//! `[tracing]`.

use crate::trace;
use baton_daemon::config::{Problems, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[tracing]`: spans of requests for a collector of traces; none without the section.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// Where spans are sent, by OTLP over HTTP: `http://HOST:4318/v1/traces`. Without TLS: a collector is near by.
    pub endpoint: Spanned<String>,
    /// The share of those requests that are recorded which name no trace of their own, from 0 to 1; a request that does is
    /// recorded if its `traceparent` says so.
    #[serde(default = "all")]
    pub share: Spanned<f64>,
}

fn all() -> Spanned<f64> {
    Spanned::new(0..0, 1.0)
}

impl Tracing {
    /// [`Tracing::share`] of a million.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 1 by `validate`, and the cast saturates"
    )]
    pub(crate) fn per_million(&self) -> u32 {
        (self.share.get_ref() * 1e6).round() as u32
    }

    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        let endpoint = self.endpoint.get_ref();
        let problem = match endpoint.parse::<http::Uri>() {
            Err(e) => Some(format!("is no URL: {e}")),
            Ok(uri) if uri.scheme_str() != Some("http") || uri.authority().is_none() => {
                Some("must be http://HOST:PORT/PATH, such as http://127.0.0.1:4318/v1/traces".to_owned())
            }
            Ok(uri) if matches!(uri.path(), "" | "/") => {
                Some("has no path; collectors take traces at /v1/traces".to_owned())
            }
            Ok(_) => trace::lacking().map(|why| format!("is of no use: {why}")),
        };
        if let Some(problem) = problem {
            problems.with(&self.endpoint, format!("tracing.endpoint {endpoint:?} {problem}"));
        }
        let share = self.share.get_ref();
        problems.require(
            &self.share,
            (0.0..=1.0).contains(share),
            format!("tracing.share must be from 0 to 1, is {share}"),
        );
    }
}
