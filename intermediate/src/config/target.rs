//! `[[target]]`.

use super::{Config, check_address};
use crate::targets::{Servers, TargetSpec};
use baton_daemon::config::{PlaneKind, Problems, Spanned};
use baton_shared::translate::Leg;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// `[[target]]`: a server, and the agent on its host.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetEntry {
    /// What pools call it.
    pub name: Spanned<String>,
    /// The server's address and port, of either family.
    pub server: Option<Spanned<SocketAddr>>,
    /// The server's IPv6 address and port, if it has one of each family.
    pub server6: Option<Spanned<SocketAddr>>,
    /// The agent's control address and port. Targets on one host may share it.
    pub agent: Spanned<SocketAddr>,
    /// The name in the agent's certificate, if it is not the target's.
    pub agent_name: Option<Spanned<String>>,
    /// How packets go there; as they are if it is not given.
    pub leg: Option<Spanned<Leg>>,
}

impl TargetEntry {
    pub(super) fn servers(&self) -> impl Iterator<Item = &Spanned<SocketAddr>> {
        self.server.iter().chain(&self.server6)
    }

    pub(super) fn leg(&self) -> Leg {
        self.leg.as_ref().map_or(Leg::Rewrite, |leg| *leg.get_ref())
    }

    pub(super) fn agent_name(&self) -> &str {
        self.agent_name.as_ref().unwrap_or(&self.name).get_ref()
    }

    /// For [`crate::targets::Targets`].
    pub fn spec(&self) -> TargetSpec {
        TargetSpec {
            name: self.name.get_ref().clone(),
            servers: Servers::new(self.servers().map(|server| *server.get_ref())),
            agent: *self.agent.get_ref(),
            agent_name: self.agent_name().to_owned(),
            leg: self.leg(),
        }
    }
}

impl Config {
    pub(super) fn validate_targets(&self, problems: &mut Problems<'_>) {
        for (n, target) in self.target.iter().enumerate() {
            let before = || self.target.iter().take(n);
            let name = target.name.get_ref();
            problems.require(&target.name, !name.is_empty(), "a target's name must not be empty");
            if before().any(|other| other.name.get_ref() == name) {
                problems
                    .with(&target.name, format!("target {name:?} is listed twice; name them differently"));
            }
            check_address(&target.agent, "agent", problems);
            let agent = target.agent.get_ref();
            let other_name = |other: &&TargetEntry| {
                other.agent.get_ref() == agent && other.agent_name() != target.agent_name()
            };
            if let Some(other) = before().find(other_name) {
                problems.with(
                    &target.agent,
                    format!(
                        "agent {agent} is {:?} for target {:?} already, and {:?} here: targets that share an agent \
                         have the same agent_name",
                        other.agent_name(),
                        other.name.get_ref(),
                        target.agent_name()
                    ),
                );
            }
            self.validate_leg(target, problems);
            self.validate_servers(n, target, problems);
        }
    }

    fn validate_leg(&self, target: &TargetEntry, problems: &mut Problems<'_>) {
        let Some(leg) = &target.leg else { return };
        let possible =
            *leg.get_ref() == Leg::Rewrite || self.plane.kind == PlaneKind::Ebpf || !self.migrates();
        problems.require(
            leg,
            possible,
            "the plane in user space sends packets as they are: leg must be \"rewrite\", or plane.kind \"ebpf\"",
        );
    }

    fn validate_servers(&self, n: usize, target: &TargetEntry, problems: &mut Problems<'_>) {
        let name = target.name.get_ref();
        if target.servers().next().is_none() {
            problems.with(
                &target.name,
                format!("target {name:?} has neither server nor server6; give one, or one of each family"),
            );
        }
        if let Some(server6) = &target.server6 {
            let is = server6.get_ref();
            problems.require(server6, is.is_ipv6(), format!("server6 must be an IPv6 address, is {is}"));
            if target.server.as_ref().is_some_and(|server| server.get_ref().is_ipv6()) {
                problems.with(server6, "server is an IPv6 address already: a target has one of each family");
            }
        }
        for address in target.servers() {
            check_address(address, "server", problems);
            let server = *address.get_ref();
            let mut before = self.target.iter().take(n);
            if before.any(|other| other.servers().any(|s| *s.get_ref() == server)) {
                problems.with(address, format!("server {server} belongs to another target already"));
            }
            if self.listener.iter().any(|l| *l.vip.get_ref() == server) {
                problems.with(address, format!("server {server} is a vip: requests would come back here"));
            }
        }
    }
}
