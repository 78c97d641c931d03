//! `[[pool]]`.

use super::Config;
use super::health::Health;
use super::limits::within;
use super::maglev::Maglev;
use super::sticky::Sticky;
use crate::pools::{Choice, HashOn, is_token};
use baton_daemon::config::{Problems, Spanned, did_you_mean};
use baton_shared::balance::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// The pool there is if the file names none.
pub const DEFAULT_POOL: &str = "default";

/// A target's part in a pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolTarget {
    /// Its name.
    pub target: String,
    /// Its share.
    pub weight: u32,
}

/// `[[pool]]`: targets that can serve the same requests.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolEntry {
    /// What routes and listeners call it.
    pub name: Spanned<String>,
    /// Its targets.
    pub targets: Vec<Spanned<PoolTarget>>,
    /// How one of them is chosen.
    pub balance: Option<Spanned<Method>>,
    /// What is hashed: `source`, `uri`, `header:NAME` or `cookie:NAME`.
    pub hash: Option<Spanned<String>>,
    /// Maglev's table.
    pub maglev: Option<Spanned<Maglev>>,
    /// A cookie that brings a client back to the target it was on.
    pub sticky: Option<Spanned<Sticky>>,
    /// Milliseconds over which a target that has come back gets its full share.
    pub slow_start_ms: Option<Spanned<u64>>,
    /// How its servers are checked.
    pub health: Option<Spanned<Health>>,
}

/// `{ target = "web2", weight = 3 }`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Weighted {
    /// The target's name.
    target: String,
    /// Its share, measured by those of the others.
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl JsonSchema for PoolTarget {
    fn schema_name() -> Cow<'static, str> {
        "PoolTarget".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let weighted = generator.subschema_for::<Weighted>();
        json_schema!({ "anyOf": [{ "type": "string", "description": "The target's name." }, weighted] })
    }
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
                problems.with(&pool.name, format!("pool {name:?} is listed twice; name them differently"));
            }
            problems.require(
                &pool.name,
                !pool.targets.is_empty(),
                format!("pool {name:?} has no targets; name one or more"),
            );
            self.validate_members(pool, problems);
            pool.validate_choice(problems);
            self.validate_probes(pool, problems);
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
        }
    }
}

impl PoolEntry {
    fn validate_choice(&self, problems: &mut Problems<'_>) {
        let method = self.balance.as_ref().map(|balance| *balance.get_ref()).unwrap_or_default();
        if let Some(hash) = &self.hash {
            let right = HashOn::parse(hash.get_ref()).is_some();
            problems.require(
                hash,
                right,
                "hash must be \"source\", \"uri\", \"header:NAME\" or \"cookie:NAME\"",
            );
            let used = method.is_by_hash();
            problems.require(hash, used, "hash has a meaning with balance \"maglev\" or \"rendezvous\" only");
        }
        if let Some(maglev) = &self.maglev {
            problems.require(
                maglev,
                method == Method::Maglev,
                "[pool.maglev] has a meaning with balance \"maglev\" only",
            );
            maglev.get_ref().validate(self.targets.len(), problems);
        }
        if let Some(sticky) = &self.sticky {
            let cookie = &sticky.get_ref().cookie;
            problems.require(cookie, is_token(cookie.get_ref()), "cookie must be a cookie's name");
        }
        if let Some(slow_start) = &self.slow_start_ms {
            within(problems, "slow_start_ms", slow_start, 0..=3_600_000);
        }
        if let Some(health) = &self.health {
            health.get_ref().validate(problems);
        }
    }

    /// How the pool chooses, ready for use.
    pub fn choice(&self) -> Choice {
        let defaults = Choice::default();
        let maglev = self.maglev.as_ref().map(|maglev| maglev.get_ref());
        Choice {
            method: self.balance.as_ref().map(|balance| *balance.get_ref()).unwrap_or_default(),
            hash: self.hash.as_ref().and_then(|hash| HashOn::parse(hash.get_ref())).unwrap_or_default(),
            table_size: maglev.map_or(defaults.table_size, Maglev::table_size),
            load_percent: maglev.map_or(defaults.load_percent, Maglev::load_percent),
            sticky: self.sticky.as_ref().map(|sticky| sticky.get_ref().spec()),
            slow_start: Duration::from_millis(self.slow_start_ms.as_ref().map_or(0, |ms| *ms.get_ref())),
            health: self.health.as_ref().map_or(defaults.health, |health| health.get_ref().spec()),
        }
    }
}
