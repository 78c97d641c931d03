//! What a lab shall be like.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How many clients, and how many targets, a lab may have: their subnets are numbered 11.. and 101..
pub const MOST_NODES: u8 = 64;

/// What runs on the intermediate's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balancer {
    /// The intermediate here, an agent on every target.
    Baton,
    /// HAProxy as a plain HTTP proxy on the VIP.
    Haproxy,
    /// nginx as a plain HTTP proxy on the VIP.
    Nginx,
    /// Nothing, and no VIP: clients reach the targets by their own addresses.
    None,
}

impl fmt::Display for Balancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Baton => "baton",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::None => "none",
        })
    }
}

impl FromStr for Balancer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "baton" => Ok(Self::Baton),
            "haproxy" => Ok(Self::Haproxy),
            "nginx" => Ok(Self::Nginx),
            "none" => Ok(Self::None),
            other => Err(format!("'{other}' is none of baton, haproxy, nginx, none")),
        }
    }
}

/// The rate of a link, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate(
    /// Bits per second, at least 8000.
    pub u64,
);

impl FromStr for Rate {
    type Err = String;

    /// `100mbit`, `1gbit`, `1.5gbit`, or plain bits per second; `100m` and `1g` are understood as well.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not a rate; write for example 100mbit or 1gbit");
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let factor: u64 = match unit {
            "" | "bit" => 1,
            "k" | "kbit" => 1_000,
            "m" | "mbit" => 1_000_000,
            "g" | "gbit" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let thousandths: u64 =
            format!("{fraction:0<3}").get(..3).unwrap_or("0").parse().map_err(|_| wrong())?;
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let bits = whole.checked_mul(factor).and_then(|b| b.checked_add(thousandths * factor / 1000));
        match bits {
            Some(bits @ 8_000..=1_000_000_000_000) => Ok(Self(bits)),
            _ => Err(format!("'{text}' is out of range: from 8kbit to 1000gbit")),
        }
    }
}

/// Values that replace or extend what the lab writes into a configuration: section, then key, then value.
pub type Sections = BTreeMap<String, BTreeMap<String, Value>>;

/// What [`crate::Lab::up`] builds. [`LabSpec::new`] has the defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabSpec {
    /// The lab's name: lower-case letters, digits and dashes.
    pub name: String,
    /// How many clients.
    pub clients: u8,
    /// How many targets.
    pub targets: u8,
    /// What runs on the intermediate's node.
    pub balancer: Balancer,
    /// Rate of the intermediate's link in both directions, if it shall be limited.
    pub rate_intermediate: Option<Rate>,
    /// Rate of every target's link in both directions, if it shall be limited.
    pub rate_target: Option<Rate>,
    /// Deviations in the intermediate's configuration.
    pub intermediate: Sections,
    /// Deviations in every agent's configuration.
    pub agents: Sections,
    /// Deviations in one agent's configuration, by the target's name; they come after those of `agents`.
    pub agent: BTreeMap<String, Sections>,
}

impl LabSpec {
    /// One client, two targets, Baton, links without limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            clients: 1,
            targets: 2,
            balancer: Balancer::Baton,
            rate_intermediate: None,
            rate_target: None,
            intermediate: Sections::new(),
            agents: Sections::new(),
            agent: BTreeMap::new(),
        }
    }

    /// The same with another balancer.
    #[must_use]
    pub fn balancer(mut self, balancer: Balancer) -> Self {
        self.balancer = balancer;
        self
    }

    /// The same with another number of targets.
    #[must_use]
    pub fn targets(mut self, targets: u8) -> Self {
        self.targets = targets;
        self
    }

    /// The same with another number of clients.
    #[must_use]
    pub fn clients(mut self, clients: u8) -> Self {
        self.clients = clients;
        self
    }

    /// Sets `key = value` in section `[section]` of intermediate.toml (in every `[[section]]` where it is a list; `""`
    /// is the top of the file). A null value removes the key.
    #[must_use]
    pub fn intermediate_with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        set(&mut self.intermediate, section, key, value.into());
        self
    }

    /// Sets a value in every target-agent.toml, as [`LabSpec::intermediate_with`] does.
    #[must_use]
    pub fn agents_with(mut self, section: &str, key: &str, value: impl Into<Value>) -> Self {
        set(&mut self.agents, section, key, value.into());
        self
    }

    /// Sets a value in one target's target-agent.toml.
    #[must_use]
    pub fn agent_with(mut self, target: &str, section: &str, key: &str, value: impl Into<Value>) -> Self {
        set(self.agent.entry(target.to_owned()).or_default(), section, key, value.into());
        self
    }

    /// # Errors
    /// When the name or a number cannot be.
    pub(crate) fn check(&self) -> Result<()> {
        check_name(&self.name)?;
        for (what, n) in [("clients", self.clients), ("targets", self.targets)] {
            if !(1..=MOST_NODES).contains(&n) {
                bail!("a lab has 1 to {MOST_NODES} {what}, not {n}");
            }
        }
        Ok(())
    }
}

fn set(sections: &mut Sections, section: &str, key: &str, value: Value) {
    sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value);
}

/// A lab's name becomes part of namespaces' and directories' names.
///
/// # Errors
/// Says what names are allowed.
pub fn check_name(name: &str) -> Result<()> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || name.len() > 32 || name.starts_with('-') || !letters {
        bail!(
            "'{name}' cannot be a lab's name: use 1 to 32 lower-case letters, digits and dashes, no dash first"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_tc_writes_them() {
        assert_eq!("100mbit".parse(), Ok(Rate(100_000_000)));
        assert_eq!("1.5Gbit".parse(), Ok(Rate(1_500_000_000)));
        assert_eq!("64000".parse(), Ok(Rate(64_000)));
        for wrong in ["", "fast", "1tbit", "10mbyte", "-1mbit", "1", "9999999gbit", ".5mbit", "1.xmbit"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_stay_one_path_component() {
        assert!(check_name("lab-2").is_ok());
        for wrong in ["", "-a", "a/b", "..", "A", "a_b", &"x".repeat(33)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
