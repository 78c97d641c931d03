//! What the intermediate tells of its migrations.

use crate::{Lab, plan};
use anyhow::{Context, Result};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The stages of a handoff in the order they came, each with its microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stages(
    /// Name and microseconds.
    pub Vec<(String, f64)>,
);

impl<'de> Deserialize<'de> for Stages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Stages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of microseconds")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Stages, A::Error> {
                let mut stages = Vec::new();
                while let Some((name, us)) = map.next_entry::<String, Option<f64>>()? {
                    stages.extend(us.map(|us| (name, us)));
                }
                Ok(Stages(stages))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// One connection as the intermediate's `/v1/migrations` has it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Migration {
    /// The client, "address:port".
    pub client: String,
    /// The target; empty if none was chosen.
    #[serde(default)]
    pub target: String,
    /// "migrated", "proxied" or "closed".
    pub outcome: String,
    /// Why it was proxied or closed.
    #[serde(default)]
    pub reason: Option<String>,
    /// How long each stage took.
    #[serde(default)]
    pub stages_us: Stages,
    /// From freeze to the record in force, microseconds.
    #[serde(default)]
    pub total_us: Option<f64>,
}

#[derive(Deserialize)]
struct List {
    migrations: Vec<Numbered>,
}

#[derive(Deserialize)]
struct Numbered {
    /// The flow's number; empty if it never got one.
    id: String,
    /// When the connection was accepted, milliseconds since 1970.
    #[serde(default)]
    started: u64,
    #[serde(flatten)]
    migration: Migration,
}

/// Adds what the intermediate remembers now to what was seen before.
pub(crate) fn collect(lab: &Lab, seen: &mut BTreeMap<String, Migration>) -> Result<()> {
    let (status, body) = lab.admin_text(plan::INTERMEDIATE, "/v1/migrations")?;
    anyhow::ensure!(status == 200, "/v1/migrations was answered with {status}: {}", body.trim());
    let list: List = serde_json::from_str(&body).context("cannot read /v1/migrations")?;
    let key = |n: &Numbered| format!("{} {} {}", n.id, n.migration.client, n.started);
    seen.extend(list.migrations.into_iter().map(|n| (key(&n), n.migration)));
    Ok(())
}

/// Median and 99th percentile (nearest rank) of some microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// The quantiles of values; none if there are no values.
pub(crate) fn quantiles(mut values: Vec<f64>) -> Option<Quantiles> {
    values.sort_by(f64::total_cmp);
    let rank = |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1).copied();
    Some(Quantiles { p50: rank(50)?, p99: rank(99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_keep_the_order_they_came_in() {
        let list: List = serde_json::from_str(
            r#"{"migrations":[{"id":"07","client":"10.90.11.2:4000","target":"target1","outcome":"migrated",
                "reason":null,"stages_us":{"freeze":3,"capture":10.5,"agent":20},"total_us":40,"extra":1}]}"#,
        )
        .unwrap();
        let m = &list.migrations[0].migration;
        let names: Vec<_> = m.stages_us.0.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["freeze", "capture", "agent"]);
        assert_eq!(m.total_us, Some(40.0));
    }

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        assert_eq!(quantiles(vec![]), None);
        assert_eq!(quantiles(vec![5.0]), Some(Quantiles { p50: 5.0, p99: 5.0 }));
        let hundred = (1..=100).map(f64::from).collect();
        assert_eq!(quantiles(hundred), Some(Quantiles { p50: 50.0, p99: 99.0 }));
    }
}
