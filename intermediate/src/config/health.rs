//! `[pool.health]`.

use super::limits::within;
use super::pool::PoolEntry;
use super::target::TargetEntry;
use super::{Config, Listener, Protocol};
use crate::health::{CheckKind, CheckSpec, HealthSpec};
use baton_daemon::config::{Problems, Spanned};
use baton_shared::health::{CheckThresholds, PassiveThresholds};
use baton_shared::probe::{Host, choose_askers};
use baton_shared::route::Mode;
use http::{Method, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request whose status code tells.
    Http,
    /// A connection.
    Tcp,
    /// A request from another target's host through a listener, whose connection must migrate.
    Migrate,
    /// No active checks; only what happens to requests counts.
    None,
}

/// `[pool.health]`: how the servers of a pool are checked. All keys but `kind` have defaults; milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What a check does.
    pub kind: Spanned<Kind>,
    /// Path and query that are asked for; `/` by default. Of `http` and `migrate`.
    pub path: Option<Spanned<String>>,
    /// The `Host`; by default the server's address and port, with `migrate` the listener's. Of `http` and `migrate`.
    pub host: Option<Spanned<String>>,
    /// `GET` (default) or `HEAD`. Of `http`.
    pub method: Option<Spanned<String>>,
    /// Status codes that are right, `"204"` or `"200-299"`; 200 to 399 by default. Of `http`.
    pub expect: Option<Vec<Spanned<String>>>,
    /// Another port than the server's. Of `http` and `tcp`.
    pub port: Option<Spanned<u16>>,
    /// The listener that is asked, by its address; by default the first that can be. Of `migrate`.
    pub vip: Option<Spanned<SocketAddr>>,
    /// From one check to the next; 2000 by default.
    pub interval_ms: Option<Spanned<u64>>,
    /// For a check; 1000 by default.
    pub timeout_ms: Option<Spanned<u64>>,
    /// Passed checks in a row that bring a member up; 2 by default.
    pub rise: Option<Spanned<u32>>,
    /// Failed checks in a row that take it down; 3 by default.
    pub fall: Option<Spanned<u32>>,
    /// Below so many percent of healthy members all are used; 20 by default. With none healthy all are, always.
    pub panic_percent: Option<Spanned<u32>>,
    /// Failed requests in a row that eject a member for a time; 3 by default, 0 never.
    pub eject_failures: Option<Spanned<u32>>,
    /// Load reports in a row over a threshold that eject it; 3 by default, 0 never.
    pub eject_strained: Option<Spanned<u32>>,
    /// How long the first ejection in a row lasts; 10000 by default.
    pub eject_ms: Option<Spanned<u64>>,
}

fn or<T: Copy>(value: Option<&Spanned<T>>, default: T) -> T {
    value.map_or(default, |value| *value.get_ref())
}

impl Health {
    pub(super) fn validate(&self, problems: &mut Problems<'_>) {
        self.validate_kind(problems);
        self.validate_http(problems);
        if let Some(port) = &self.port {
            problems.require(port, *port.get_ref() != 0, "port must not be 0");
        }
        let mut number = |key: &str, value: &Option<Spanned<u64>>, allowed: RangeInclusive<u64>| {
            if let Some(value) = value {
                within(problems, key, value, allowed);
            }
        };
        number("interval_ms", &self.interval_ms, 50..=3_600_000);
        number("timeout_ms", &self.timeout_ms, 10..=60_000);
        number("eject_ms", &self.eject_ms, 100..=3_600_000);
        let mut count = |key: &str, value: &Option<Spanned<u32>>, allowed: RangeInclusive<u32>| {
            if let Some(value) = value {
                within(problems, key, value, allowed);
            }
        };
        count("rise", &self.rise, 1..=1000);
        count("fall", &self.fall, 1..=1000);
        count("panic_percent", &self.panic_percent, 0..=100);
        count("eject_failures", &self.eject_failures, 0..=1000);
        count("eject_strained", &self.eject_strained, 0..=1000);
    }

    /// Keys that say nothing to the kind there is.
    fn validate_kind(&self, problems: &mut Problems<'_>) {
        const ASKING: &str = "kind = \"http\" or \"migrate\"";
        const HTTP: &str = "kind = \"http\"";
        let (http, migrate) = (*self.kind.get_ref() == Kind::Http, *self.kind.get_ref() == Kind::Migrate);
        let expect = self.expect.as_ref().and_then(|all| all.first());
        let keys = [
            ("path", self.path.as_ref().map(Spanned::span), http || migrate, ASKING),
            ("host", self.host.as_ref().map(Spanned::span), http || migrate, ASKING),
            ("method", self.method.as_ref().map(Spanned::span), http, HTTP),
            ("expect", expect.map(Spanned::span), http, HTTP),
            ("port", self.port.as_ref().map(Spanned::span), !migrate, "kind = \"http\" or \"tcp\""),
            ("vip", self.vip.as_ref().map(Spanned::span), migrate, "kind = \"migrate\""),
        ];
        for (key, span, has_meaning, with) in keys {
            if let Some(span) = span.filter(|_| !has_meaning) {
                problems.at(span, format!("{key} has a meaning with {with} only"));
            }
        }
    }

    fn validate_http(&self, problems: &mut Problems<'_>) {
        if let Some(path) = &self.path {
            let right = path.get_ref().starts_with('/') && path.get_ref().parse::<Uri>().is_ok();
            problems.require(path, right, "path must begin with \"/\" and be a request target");
        }
        if let Some(host) = &self.host {
            let right = !host.get_ref().is_empty() && host.get_ref().parse::<http::uri::Authority>().is_ok();
            problems.require(host, right, "host must be a name or an address, with a port if need be");
        }
        if let Some(method) = &self.method {
            let right = matches!(method.get_ref().as_str(), "GET" | "HEAD");
            problems.require(method, right, "method must be \"GET\" or \"HEAD\"");
        }
        for entry in self.expect.iter().flatten() {
            let right = status_codes(entry.get_ref()).is_some();
            problems.require(
                entry,
                right,
                "a status code from 100 to 599 like \"204\", or a range like \"200-299\"",
            );
        }
    }

    /// Ready for use.
    pub fn spec(&self) -> HealthSpec {
        let defaults = HealthSpec::default();
        let path = self.path.as_ref().map_or_else(|| "/".to_owned(), |path| path.get_ref().clone());
        let host = self.host.as_ref().map(|host| host.get_ref().clone());
        let kind = match self.kind.get_ref() {
            Kind::None => None,
            Kind::Tcp => Some(CheckKind::Tcp),
            Kind::Migrate => {
                Some(CheckKind::Migrate { vip: self.vip.as_ref().map(|vip| *vip.get_ref()), path, host })
            }
            Kind::Http => Some(CheckKind::Http {
                method: if self.method.as_ref().is_some_and(|m| m.get_ref() == "HEAD") {
                    Method::HEAD
                } else {
                    Method::GET
                },
                path,
                host,
                expect: match &self.expect {
                    Some(all) => all.iter().filter_map(|entry| status_codes(entry.get_ref())).collect(),
                    None => vec![200..=399],
                },
            }),
        };
        let check = kind.map(|kind| CheckSpec {
            kind,
            port: self.port.as_ref().map(|port| *port.get_ref()),
            interval: Duration::from_millis(or(self.interval_ms.as_ref(), 2_000)),
            timeout: Duration::from_millis(or(self.timeout_ms.as_ref(), 1_000)),
            thresholds: CheckThresholds { rise: or(self.rise.as_ref(), 2), fall: or(self.fall.as_ref(), 3) },
        });
        let passive = defaults.passive;
        HealthSpec {
            check,
            passive: PassiveThresholds {
                failures: or(self.eject_failures.as_ref(), passive.failures),
                strains: or(self.eject_strained.as_ref(), passive.strains),
                eject_ns: self
                    .eject_ms
                    .as_ref()
                    .map_or(passive.eject_ns, |ms| ms.get_ref().saturating_mul(1_000_000)),
            },
            load: defaults.load,
            panic_percent: or(self.panic_percent.as_ref(), defaults.panic_percent),
        }
    }
}

impl Config {
    /// Whether the probes of a pool can be made at all.
    pub(super) fn validate_probes(&self, pool: &PoolEntry, problems: &mut Problems<'_>) {
        let Some(health) = pool.health.as_ref().map(Spanned::get_ref) else { return };
        if *health.kind.get_ref() != Kind::Migrate {
            return;
        }
        let can_be_asked = |l: &&Listener| l.protocol() == Protocol::Http && l.mode() == Mode::Migrate;
        if let Some(vip) = &health.vip {
            let is = vip.get_ref();
            match self.listener.iter().find(|l| l.vip.get_ref() == is) {
                None => {
                    return problems
                        .with(vip, format!("no [[listener]] has the vip {is}; name one that has"));
                }
                Some(listener) if !can_be_asked(&listener) => {
                    let text =
                        format!("the listener at {is} must have protocol \"http\" and mode \"migrate\"");
                    return problems.with(vip, text);
                }
                Some(_) => {}
            }
        } else if !self.listener.iter().any(|l| can_be_asked(&l)) {
            let text = "kind = \"migrate\" needs a listener of protocol \"http\" and mode \"migrate\"; \
                        without one check by \"http\" or \"tcp\"";
            return problems.with(&health.kind, text);
        }
        let addresses = |target: &TargetEntry| {
            let servers = target.servers().map(|server| server.get_ref().ip());
            servers.chain([target.agent.get_ref().ip()]).collect::<Vec<_>>()
        };
        let host = |target: &TargetEntry| Host { addresses: addresses(target), up: true };
        let hosts: Vec<Host> = self.target.iter().map(host).collect();
        for member in &pool.targets {
            let name = &member.get_ref().target;
            let target = self.target.iter().find(|target| target.name.get_ref() == name);
            if target.is_some_and(|target| choose_askers(&addresses(target), &hosts).is_err()) {
                let text = format!(
                    "kind = \"migrate\" needs a target on another host than {name:?}'s, whose agent asks; \
                     without one check by \"http\" or \"tcp\""
                );
                problems.with(&health.kind, text);
            }
        }
    }
}

/// `"204"` or `"200-299"`.
fn status_codes(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_single_or_ranges() {
        assert_eq!(status_codes("204"), Some(204..=204));
        assert_eq!(status_codes("200-299"), Some(200..=299));
        for wrong in ["", "ok", "99", "600", "299-200", "200-", "200-299-300", "2xx", " 200"] {
            assert_eq!(status_codes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let health: Health = toml::from_str("kind = \"http\"\nfall = 5\neject_failures = 0").unwrap();
        let spec = health.spec();
        let check = spec.check.unwrap();
        assert_eq!(check.thresholds, CheckThresholds { rise: 2, fall: 5 });
        assert_eq!((check.interval.as_millis(), check.timeout.as_millis()), (2_000, 1_000));
        assert!(matches!(check.kind, CheckKind::Http { ref path, .. } if path == "/"));
        assert_eq!((spec.passive.failures, spec.passive.strains, spec.panic_percent), (0, 3, 20));
        let probed: Health = toml::from_str("kind = \"migrate\"\nhost = \"a.example\"").unwrap();
        let kind = CheckKind::Migrate { vip: None, path: "/".to_owned(), host: Some("a.example".to_owned()) };
        assert_eq!(probed.spec().check.unwrap().kind, kind);
        let none: Health = toml::from_str("kind = \"none\"").unwrap();
        assert_eq!(none.spec(), HealthSpec::default());
    }
}
