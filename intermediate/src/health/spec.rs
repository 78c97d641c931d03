//! What `[pool.health]` says, ready for use.

use baton_shared::health::{CheckThresholds, LoadThresholds, PassiveThresholds};
use http::Method;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How a pool's members are judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSpec {
    /// The active check, if there is one.
    pub check: Option<CheckSpec>,
    /// When what happens to requests ejects a member.
    pub passive: PassiveThresholds,
    /// What in its agent's reports is too much.
    pub load: LoadThresholds,
    /// Below so many percent of healthy members all are used.
    pub panic_percent: u32,
}

impl Default for HealthSpec {
    fn default() -> Self {
        HealthSpec {
            check: None,
            passive: PassiveThresholds { failures: 3, strains: 3, eject_ns: 10_000_000_000 },
            load: LoadThresholds::default(),
            panic_percent: 20,
        }
    }
}

/// An active check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckSpec {
    /// What is done.
    pub kind: CheckKind,
    /// Another port than the server's.
    pub port: Option<u16>,
    /// From one check to the next; a tenth more or less by chance.
    pub interval: Duration,
    /// For all of it.
    pub timeout: Duration,
    /// How many results in a row it takes.
    pub thresholds: CheckThresholds,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// Connects.
    Tcp,
    /// Has another target's host ask, along the path of a client's connection that migrates.
    Migrate {
        /// The listener that is asked; the first that can be, if none is named.
        vip: Option<SocketAddr>,
        /// For what: path and query.
        path: String,
        /// The `Host`; the listener's address if it is not given.
        host: Option<String>,
    },
    /// Asks, and looks at the status code.
    Http {
        /// How.
        method: Method,
        /// For what: path and query.
        path: String,
        /// The `Host`; the server's address if it is not given.
        host: Option<String>,
        /// The codes that are right.
        expect: Vec<RangeInclusive<u16>>,
    },
}
