//! `[route.request_headers]`.

use super::route::Pairs;
use baton_daemon::config::{Problems, Spanned};
use baton_shared::http::{Forwarded, HeaderChanges, check_change};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[route.request_headers]`: what is changed in a request's head on its way to the server.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequestHeaders {
    /// These headers have these values and no other.
    pub set: Pairs,
    /// These lines more.
    pub add: Pairs,
    /// None of these headers.
    pub remove: Vec<Spanned<String>>,
    /// How the server is told who asked.
    pub forwarded: Forwarded,
    /// A request without a valid `traceparent` gets one.
    pub traceparent: bool,
}

impl RequestHeaders {
    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        let mut named: Vec<String> = Vec::new();
        let mut once = |name: &Spanned<String>, problems: &mut Problems<'_>| {
            let lower = name.get_ref().to_ascii_lowercase();
            problems.require(
                name,
                !named.contains(&lower),
                format!("{} is set or removed already", name.get_ref()),
            );
            named.push(lower);
        };
        for (name, value) in &self.set {
            check(name, Some(value), problems);
            once(name, problems);
        }
        for name in &self.remove {
            check(name, None, problems);
            once(name, problems);
            problems.require(
                name,
                !name.get_ref().eq_ignore_ascii_case("host"),
                "Host cannot be removed, only set",
            );
        }
        for (name, value) in &self.add {
            check(name, Some(value), problems);
            problems.require(
                name,
                !name.get_ref().eq_ignore_ascii_case("host"),
                "Host cannot be added: there is one already; set it",
            );
        }
    }

    pub(super) fn changes(&self) -> HeaderChanges {
        let pairs = |pairs: &Pairs| {
            pairs.iter().map(|(name, value)| (name.get_ref().clone(), value.get_ref().clone())).collect()
        };
        HeaderChanges {
            set: pairs(&self.set),
            add: pairs(&self.add),
            remove: self.remove.iter().map(|name| name.get_ref().clone()).collect(),
            forwarded: self.forwarded,
            traceparent: self.traceparent,
        }
    }
}

fn check(name: &Spanned<String>, value: Option<&Spanned<String>>, problems: &mut Problems<'_>) {
    if let Err(why) = check_change(name.get_ref(), value.map(|value| value.get_ref().as_str())) {
        problems.with(name, why);
    }
}
