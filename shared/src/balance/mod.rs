//! Choosing a pool's member for a request. Pure: random numbers and times are arguments, what is known of the members
//! comes in as [`Candidate`]s in the pool's order, and the answer is a place in that order.
//!
//! Every method passes over candidates that are not usable (down, draining, just tried, without weight), and gives
//! `None` only if there is none.

mod eligible;
mod hash;
mod latency;
mod maglev;
mod p2c;
mod rendezvous;
mod round_robin;
mod servers;
mod stay;
mod sticky;
mod weight;

pub use eligible::{ClientFacts, ProbedFacts, judge_client, judge_probed};
pub use hash::{hash, member_key, source_key};
pub use latency::Ewma;
pub use maglev::{DEFAULT_LOAD_PERCENT, DEFAULT_TABLE_SIZE, MAX_TABLE_SIZE, Maglev, is_prime};
pub use p2c::{least_active_of_two, least_time_of_two};
pub use rendezvous::rendezvous;
pub use round_robin::SmoothRoundRobin;
pub use servers::Servers;
pub use stay::{AlikeFacts, HolderFacts, NextFacts, Place, Stay, judge_next, judge_stay, plan_holds};
pub use sticky::{StickyKey, cookie_value};
pub use weight::{MAX_WEIGHT, SCALE, effective_weight};

/// One member of a pool at the moment of a pick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its effective weight, in units of 1/[`SCALE`]; see [`effective_weight`]. Without weight it is not picked.
    pub weight: u32,
    /// Requests and flows under way there.
    pub active: u32,
    /// Its response time, microseconds; 0 if nothing is known.
    pub latency_us: u32,
    /// Whether it may be picked now.
    pub usable: bool,
}

impl Candidate {
    /// Its weight if it may be picked, else 0.
    pub fn share(&self) -> u32 {
        if self.usable { self.weight } else { 0 }
    }
}

/// How a pool chooses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Two are drawn by weight, the one with less under way for its weight takes the request.
    #[default]
    P2c,
    /// In turn, by weight, as evenly spread as can be.
    RoundRobin,
    /// By a hash, over a table of Maglev; members over their share of the load are passed over.
    Maglev,
    /// By a hash, the highest score wins.
    Rendezvous,
    /// Two are drawn by weight, the one with the lower expected response time takes the request.
    LeastTime,
}

impl Method {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Method::P2c => "p2c",
            Method::RoundRobin => "round_robin",
            Method::Maglev => "maglev",
            Method::Rendezvous => "rendezvous",
            Method::LeastTime => "least_time",
        }
    }

    /// Whether the same key leads to the same member.
    pub const fn is_by_hash(self) -> bool {
        matches!(self, Method::Maglev | Method::Rendezvous)
    }
}

/// A pool's choice, with the state it needs from one pick to the next.
#[derive(Clone, Debug)]
pub struct Picker {
    method: Method,
    /// Hashes of the members' names.
    keys: Vec<u64>,
    turns: SmoothRoundRobin,
    table: Option<Maglev>,
}

impl Picker {
    /// For members of these names and configured weights, in the pool's order. `table_size` (a prime) and
    /// `load_percent` are [`Maglev`]'s.
    pub fn new(method: Method, members: &[(&str, u32)], table_size: u32, load_percent: u32) -> Self {
        let keys: Vec<u64> = members.iter().map(|(name, _)| member_key(name)).collect();
        let table = (method == Method::Maglev).then(|| {
            let weighted: Vec<(u64, u32)> =
                keys.iter().zip(members).map(|(key, (_, weight))| (*key, *weight)).collect();
            Maglev::new(&weighted, table_size, load_percent)
        });
        Picker { method, turns: SmoothRoundRobin::new(keys.len()), keys, table }
    }

    /// Which method it is.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The member that takes a request. `key` is the hash of what the pool hashes; a request without one (no such
    /// header) is given away by P2C. `random` must be uniform.
    pub fn pick(&mut self, candidates: &[Candidate], key: Option<u64>, random: u64) -> Option<usize> {
        match (self.method, key) {
            (Method::RoundRobin, _) => self.turns.pick(candidates),
            (Method::LeastTime, _) => least_time_of_two(candidates, random),
            (Method::Rendezvous, Some(key)) => rendezvous(&self.keys, candidates, key),
            (Method::Maglev, Some(key)) => match &self.table {
                Some(table) => table.pick(candidates, key),
                None => rendezvous(&self.keys, candidates, key),
            },
            (Method::P2c | Method::Rendezvous | Method::Maglev, _) => least_active_of_two(candidates, random),
        }
    }
}

#[cfg(test)]
mod tests;
