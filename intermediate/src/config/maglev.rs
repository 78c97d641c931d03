//! `[pool.maglev]`.

use super::limits::within;
use baton_daemon::config::{Problems, Spanned};
use baton_shared::balance::{DEFAULT_LOAD_PERCENT, DEFAULT_TABLE_SIZE, MAX_TABLE_SIZE, is_prime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Entries there must be for each member, so that shares come out about right.
const ENTRIES_PER_MEMBER: u32 = 10;

/// `[pool.maglev]`: the table, and the bound of load.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Maglev {
    /// Entries, a prime; 65537 by default.
    pub table_size: Option<Spanned<u32>>,
    /// How much a member may have under way, percent of its share; 125 by default, 0 without a bound.
    pub load_percent: Option<Spanned<u32>>,
}

impl Maglev {
    pub(super) fn validate(&self, members: usize, problems: &mut Problems<'_>) {
        if let Some(size) = &self.table_size {
            let is = *size.get_ref();
            let least = u32::try_from(members).unwrap_or(u32::MAX).saturating_mul(ENTRIES_PER_MEMBER);
            within(problems, "table_size", size, least.clamp(11, MAX_TABLE_SIZE)..=MAX_TABLE_SIZE);
            problems.require(
                size,
                is_prime(is),
                format!("table_size must be a prime, is {is}; 65537 is one"),
            );
        }
        if let Some(load) = &self.load_percent {
            let is = *load.get_ref();
            let right = is == 0 || (101..=1000).contains(&is);
            problems.require(load, right, format!("load_percent must be 0 or between 101 and 1000, is {is}"));
        }
    }

    pub(super) fn table_size(&self) -> u32 {
        self.table_size.as_ref().map_or(DEFAULT_TABLE_SIZE, |size| *size.get_ref())
    }

    pub(super) fn load_percent(&self) -> u32 {
        self.load_percent.as_ref().map_or(DEFAULT_LOAD_PERCENT, |load| *load.get_ref())
    }
}
