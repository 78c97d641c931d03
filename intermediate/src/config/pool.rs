//! `[[pool]]`.

use super::Config;
use super::health::Health;
use super::similar::did_you_mean;
use baton_daemon::config::{Problems, Spanned};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The pool there is if the file names none.
pub const DEFAULT_POOL: &str = "default";

/// How a pool chooses among its targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two taken at random the one with fewer flows.
    #[default]
    P2c,
    /// In turn.
    RoundRobin,
    /// By a hash, a table that changes little when targets come and go.
    Maglev,
    /// By a hash, the highest of one for each target.
    Rendezvous,
    /// The one that answered fastest of late.
    LeastTime,
}

/// A target's part in a pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolTarget {
    /// Its name.
    pub target: String,
    /// Its share.
    pub weight: u32,
}

/// `sticky`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: Spanned<String>,
}

/// `[[pool]]`: targets that can serve the same requests.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PoolEntry {
    /// What routes and listeners call it.
    pub name: Spanned<String>,
    /// Its targets.
    pub targets: Vec<Spanned<PoolTarget>>,
    /// How one of them is chosen.
    pub balance: Option<Spanned<Balance>>,
    /// What is hashed: `source`, `uri`, `header:NAME` or `cookie:NAME`.
    pub hash: Option<Spanned<String>>,
    /// A cookie that brings a client back to the target it was on.
    pub sticky: Option<Spanned<Sticky>>,
    /// Milliseconds over which a target that has come back gets its full share.
    pub slow_start_ms: Option<Spanned<u64>>,
    /// How its servers are checked.
    pub health: Option<Spanned<Health>>,
}

/// `{ target = "web2", weight = 3 }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    target: String,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl<'de> Deserialize<'de> for PoolTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable;
        impl<'de> Visitor<'de> for NameOrTable {
            type Value = PoolTarget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a target's name, or { target = \"NAME\", weight = NUMBER }")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<PoolTarget, E> {
                Ok(PoolTarget { target: name.to_owned(), weight: 1 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PoolTarget, A::Error> {
                let Weighted { target, weight } = Weighted::deserialize(MapAccessDeserializer::new(map))?;
                Ok(PoolTarget { target, weight })
            }
        }
        deserializer.deserialize_any(NameOrTable)
    }
}

impl Config {
    /// Whether the file has pools of its own.
    pub fn has_pools(&self) -> bool {
        !self.pool.is_empty()
    }

    /// The pools' names, in order.
    pub fn pool_names(&self) -> Vec<&str> {
        if self.has_pools() {
            self.pool.iter().map(|pool| pool.name.get_ref().as_str()).collect()
        } else {
            vec![DEFAULT_POOL]
        }
    }

    /// Reports a pool that there is not.
    pub(super) fn require_pool(&self, pool: &Spanned<String>, problems: &mut Problems<'_>) {
        let name = pool.get_ref();
        let known = self.pool_names();
        if !known.contains(&name.as_str()) {
            let hint = did_you_mean(name, known);
            problems.with(pool, format!("there is no pool {name:?}{hint}"));
        }
    }

    pub(super) fn validate_pools(&self, problems: &mut Problems<'_>) {
        for (n, pool) in self.pool.iter().enumerate() {
            let name = pool.name.get_ref();
            problems.require(&pool.name, !name.is_empty(), "a pool's name must not be empty");
            if self.pool.iter().take(n).any(|other| other.name.get_ref() == name) {
                problems.with(&pool.name, format!("pool {name:?} is listed twice"));
            }
            problems.require(&pool.name, !pool.targets.is_empty(), format!("pool {name:?} has no targets"));
            self.validate_members(pool, problems);
            pool.validate_choice(problems);
        }
    }

    fn validate_members(&self, pool: &PoolEntry, problems: &mut Problems<'_>) {
        for (n, member) in pool.targets.iter().enumerate() {
            let PoolTarget { target, weight } = member.get_ref();
            if !self.target.iter().any(|t| t.name.get_ref() == target) {
                let hint = did_you_mean(target, self.target.iter().map(|t| t.name.get_ref().as_str()));
                problems.with(member, format!("there is no target {target:?}{hint}"));
            }
            if pool.targets.iter().take(n).any(|other| other.get_ref().target == *target) {
                problems.with(member, format!("target {target:?} is in this pool already; give it a weight"));
            }
            problems.require(
                member,
                (1..=1000).contains(weight),
                format!(
                    "weight must be between 1 and 1000, is {weight}; leave the target out to give it nothing"
                ),
            );
            problems.require(member, *weight == 1, "weight is not built yet");
        }
    }
}

impl PoolEntry {
    /// What of it is there already.
    fn validate_choice(&self, problems: &mut Problems<'_>) {
        if let Some(balance) = &self.balance {
            let built = *balance.get_ref() == Balance::RoundRobin;
            problems.require(balance, built, "this balance is not built yet; \"round_robin\" is");
        }
        if let Some(hash) = &self.hash {
            problems.with(hash, "hash is not built yet");
        }
        if let Some(sticky) = &self.sticky {
            problems.with(sticky, "sticky is not built yet");
        }
        if let Some(slow_start) = &self.slow_start_ms {
            problems.with(slow_start, "slow_start_ms is not built yet");
        }
        if let Some(health) = &self.health {
            Health::validate(health, problems);
        }
    }
}
