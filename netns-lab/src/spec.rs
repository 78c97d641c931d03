//! What a lab shall be like.

mod kinds;

pub(crate) use kinds::by_name;
pub use kinds::{Balancer, Family, Plane, Rate, Serve};

use crate::impair::Impairment;
use crate::plan;
use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How many clients, and how many targets, a lab may have: their subnets are numbered 11.. and 101..
pub const MOST_NODES: u8 = 64;

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
    /// Which IP versions it has.
    #[serde(default)]
    pub family: Family,
    /// What the boxes do on the links that have one; without it there are none.
    #[serde(default)]
    pub impair: Option<Impairment>,
    /// The nodes whose links have an impairment box; none named: client1's.
    #[serde(default)]
    pub impair_links: Vec<String>,
    /// MTU of the clients' links at both ends. The clients announce the segment size of Ethernet all the same, so that
    /// servers learn of it by path-MTU discovery.
    #[serde(default)]
    pub mtu_client: Option<u16>,
    /// MTU of the targets' links at both ends. Clients do not learn of it from the segment size they are told: that is the
    /// intermediate's.
    #[serde(default)]
    pub mtu_target: Option<u16>,
    /// The congestion control of the servers' sockets; none: cubic where the kernel has it.
    #[serde(default)]
    pub congestion: Option<String>,
    /// Whether the router drops packets whose source is not where they come from: strict rp_filter, and routing rules for
    /// IPv6.
    #[serde(default)]
    pub urpf: bool,
    /// Whether Baton's and HAProxy's listeners have their connections wait in the kernel until clients have spoken.
    #[serde(default)]
    pub defer_accept: bool,
    /// Whether HAProxy makes all requests on kept connections to the servers, a client's first too (`http-reuse always`); else as is
    /// its default.
    #[serde(default)]
    pub reuse_always: bool,
    /// Deviations in the intermediate's configuration.
    pub intermediate: Sections,
    /// Deviations in every agent's configuration.
    pub agents: Sections,
    /// Deviations in one agent's configuration, by the target's name; they come after those of `agents`.
    pub agent: BTreeMap<String, Sections>,
    /// TOML at the end of the intermediate's configuration.
    #[serde(default)]
    pub intermediate_text: String,
    /// TOML at the end of every agent's configuration, in which `ADDRESS` stands for the target's own first address.
    #[serde(default)]
    pub agents_text: String,
}

impl LabSpec {
    /// One client, two targets, Baton, links without limits.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            clients: 1,
            targets: 2,
            balancer: Balancer::Baton,
            defer_accept: false,
            reuse_always: false,
            rate_intermediate: None,
            rate_target: None,
            family: Family::V4,
            impair: None,
            impair_links: Vec::new(),
            mtu_client: None,
            mtu_target: None,
            congestion: None,
            urpf: false,
            intermediate: Sections::new(),
            agents: Sections::new(),
            agent: BTreeMap::new(),
            intermediate_text: String::new(),
            agents_text: String::new(),
        }
    }

    /// The same with another balancer.
    #[must_use]
    pub fn balancer(mut self, balancer: Balancer) -> Self {
        self.balancer = balancer;
        self
    }

    /// The same with connections that wait in the kernel until their clients have spoken; for Baton and HAProxy.
    #[must_use]
    pub fn defer_accept(mut self) -> Self {
        self.defer_accept = true;
        self.intermediate_with("listener", "defer_accept", true)
    }

    /// The same with all requests on kept connections to the servers; for HAProxy.
    #[must_use]
    pub fn reuse_always(mut self) -> Self {
        self.reuse_always = true;
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

    /// The same with other IP versions.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// The same with an impairment box on client1's link, or on those of [`LabSpec::impair_links`].
    #[must_use]
    pub fn impair(mut self, it: Impairment) -> Self {
        self.impair = Some(it);
        self
    }

    /// The same with another MTU on the clients' links.
    #[must_use]
    pub fn mtu_client(mut self, mtu: u16) -> Self {
        self.mtu_client = Some(mtu);
        self
    }

    /// The same with another MTU on the targets' links.
    #[must_use]
    pub fn mtu_target(mut self, mtu: u16) -> Self {
        self.mtu_target = Some(mtu);
        self
    }

    /// The nodes whose links have an impairment box.
    pub(crate) fn impaired_links(&self) -> Vec<String> {
        match (&self.impair, self.impair_links.is_empty()) {
            (None, _) => Vec::new(),
            (Some(_), true) => vec![plan::client(1)],
            (Some(_), false) => self.impair_links.clone(),
        }
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

    /// Adds tables to intermediate.toml: listeners, pools, routes.
    #[must_use]
    pub fn intermediate_also(mut self, toml: &str) -> Self {
        self.intermediate_text.push_str(toml);
        self
    }

    /// Adds tables to every target-agent.toml; `ADDRESS` stands for the target's own first address, in brackets if it is of
    /// IPv6.
    #[must_use]
    pub fn agents_also(mut self, toml: &str) -> Self {
        self.agents_text.push_str(toml);
        self
    }

    /// The same with another data plane, in all daemons; the one in user space with replayed handshakes, which a later
    /// [`LabSpec::serve`] changes.
    #[must_use]
    pub fn plane(self, plane: Plane) -> Self {
        match plane {
            Plane::Ebpf => self,
            Plane::Userspace => {
                // Without eBPF no connection is adopted.
                self.intermediate_with("plane", "kind", "userspace")
                    .agents_with("plane", "kind", "userspace")
                    .serve(Serve::Translate)
            }
        }
    }

    /// The same with another way of giving connections to the servers.
    #[must_use]
    pub fn serve(self, serve: Serve) -> Self {
        match serve {
            Serve::Translate => self.agents_with("serve", "way", "translate"),
            Serve::Adopt => self.agents_with("serve", "way", "adopt"),
            Serve::Auto => self.agents_with("serve", "way", "auto"),
        }
    }

    /// Whether a daemon may load eBPF programs.
    pub(crate) fn uses_ebpf(&self) -> bool {
        [&self.intermediate, &self.agents].iter().any(|daemon| {
            let kind = daemon.get("plane").and_then(|plane| plane.get("kind"));
            kind.and_then(Value::as_str) != Some("userspace")
        })
    }

    fn has(&self, node: &str) -> bool {
        let clients = (1..=self.clients).map(plan::client);
        let mut all = clients.chain((1..=self.targets).map(plan::target));
        node == plan::ROUTER || node == plan::INTERMEDIATE || all.any(|name| name == node)
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
        // Below, IPv6 is not possible (RFC 8200 section 5), and IPv4 not usual.
        let least = if self.family.has_v6() { 1280 } else { 576 };
        for (whose, mtu) in [("clients", self.mtu_client), ("targets", self.mtu_target)] {
            if let Some(mtu) = mtu.filter(|mtu| !(least..=9000).contains(mtu)) {
                bail!("the {whose}' links can have an MTU of {least} to 9000, not {mtu}");
            }
        }
        let links = self.impaired_links();
        for (i, link) in links.iter().enumerate() {
            if !plan::is_node(link) || link == plan::ROUTER || !self.has(link) {
                bail!("{link} has no link that could be impaired");
            }
            if links.iter().take(i).any(|other| other == link) {
                bail!("the link of {link} cannot have two impairment boxes");
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
    fn what_a_lab_cannot_be_is_refused() {
        let wrong =
            |order: &dyn Fn(LabSpec) -> LabSpec| order(LabSpec::new("x")).check().unwrap_err().to_string();
        assert!(wrong(&|s| s.mtu_client(500)).contains("576 to 9000, not 500"));
        assert!(wrong(&|s| s.mtu_client(1279).family(Family::V6)).contains("1280 to 9000"));
        assert!(
            wrong(&|s| s.mtu_target(9001))
                .contains("the targets' links can have an MTU of 576 to 9000, not 9001")
        );
        let at = |links: &[&str]| {
            let links = links.iter().map(|l| (*l).to_owned()).collect();
            wrong(&|s| LabSpec { impair_links: Vec::clone(&links), ..s.impair(Impairment::default()) })
        };
        assert!(at(&["client2"]).contains("client2 has no link"));
        assert!(at(&["router"]).contains("router has no link"));
        assert!(at(&["target1", "target1"]).contains("two impairment boxes"));
        assert!(LabSpec::new("x").impair(Impairment::default()).mtu_client(1400).check().is_ok());
    }

    #[test]
    fn names_stay_one_path_component() {
        assert!(check_name("lab-2").is_ok());
        for wrong in ["", "-a", "a/b", "..", "A", "a_b", &"x".repeat(33)] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
