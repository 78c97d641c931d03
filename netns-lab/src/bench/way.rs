//! The ways from client to content that are compared.

use crate::spec::{Balancer, LabSpec, Serve, by_name};
use serde::Serialize;
use std::str::FromStr;

/// A way from client to content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The client speaks to the first target itself.
    Direct,
    /// Through Baton's VIP, as Baton is if nothing else is said: the later requests of a connection are read, and the servers'
    /// kernels adopt connections where they can.
    Baton,
    /// As `Baton`, to servers whose kernels must adopt the connections.
    BatonAdopt,
    /// As `Baton`, the handshake replayed to the servers.
    BatonTranslate,
    /// As `Baton`, where nobody reads the later requests of a connection.
    BatonPinned,
    /// As `Baton`, with connections that wait in the kernel until their clients have spoken.
    BatonDeferred,
    /// As `Baton`, on processors that sleep as the system has it, however busy the daemons are.
    BatonAsleep,
    /// Through HAProxy.
    Haproxy,
    /// Through HAProxy, with connections that wait in the kernel until their clients have spoken.
    HaproxyDeferred,
    /// Through HAProxy, with a client's first request on a kept connection to the server too.
    HaproxyReuse,
    /// Through nginx as a proxy.
    Nginx,
    /// Through Envoy.
    Envoy,
    /// Through Caddy.
    Caddy,
}

impl Way {
    const ALL: [Way; 13] = [
        Way::Direct,
        Way::Baton,
        Way::BatonAdopt,
        Way::BatonTranslate,
        Way::BatonPinned,
        Way::BatonDeferred,
        Way::BatonAsleep,
        Way::Haproxy,
        Way::HaproxyDeferred,
        Way::HaproxyReuse,
        Way::Nginx,
        Way::Envoy,
        Way::Caddy,
    ];

    /// As it is written on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Baton => "baton",
            Way::BatonAdopt => "baton-adopt",
            Way::BatonTranslate => "baton-translate",
            Way::BatonPinned => "baton-pinned",
            Way::BatonDeferred => "baton-deferred",
            Way::BatonAsleep => "baton-asleep",
            Way::Haproxy => "haproxy",
            Way::HaproxyDeferred => "haproxy-deferred",
            Way::HaproxyReuse => "haproxy-reuse",
            Way::Nginx => "nginx",
            Way::Envoy => "envoy",
            Way::Caddy => "caddy",
        }
    }

    /// Whether requests are handed off.
    pub(super) fn is_baton(self) -> bool {
        self.balancer() == Balancer::Baton
    }

    /// What runs on the intermediate's node.
    fn balancer(self) -> Balancer {
        match self {
            Way::Direct => Balancer::None,
            Way::Baton
            | Way::BatonAdopt
            | Way::BatonTranslate
            | Way::BatonPinned
            | Way::BatonDeferred
            | Way::BatonAsleep => Balancer::Baton,
            Way::Haproxy | Way::HaproxyDeferred | Way::HaproxyReuse => Balancer::Haproxy,
            Way::Nginx => Balancer::Nginx,
            Way::Envoy => Balancer::Envoy,
            Way::Caddy => Balancer::Caddy,
        }
    }

    /// The lab with what this way needs.
    pub(super) fn order(self, lab: LabSpec) -> LabSpec {
        let lab = lab.balancer(self.balancer());
        match self {
            Way::BatonAdopt => lab.serve(Serve::Adopt),
            Way::BatonTranslate => lab.serve(Serve::Translate),
            Way::BatonPinned => lab.intermediate_with("listener", "keepalive", "pinned"),
            Way::BatonDeferred | Way::HaproxyDeferred => lab.defer_accept(),
            Way::BatonAsleep => {
                lab.intermediate_with("", "cpu_latency", "system").agents_with("", "cpu_latency", "system")
            }
            Way::HaproxyReuse => lab.reuse_always(),
            Way::Direct | Way::Baton | Way::Haproxy | Way::Nginx | Way::Envoy | Way::Caddy => lab,
        }
    }

    /// The program that is not Baton's and must be installed.
    pub(super) fn program(self) -> Option<&'static str> {
        match self.balancer() {
            Balancer::Haproxy => Some("haproxy"),
            Balancer::Envoy => Some("envoy"),
            Balancer::Caddy => Some("caddy"),
            Balancer::None | Balancer::Baton | Balancer::Nginx => None,
        }
    }

    /// The colour of its bars.
    pub(super) fn colour(self) -> &'static str {
        match self {
            Way::Direct => "#9aa5b1",
            Way::Baton => "#2f7d4f",
            Way::BatonAdopt => "#0b3d91",
            Way::BatonTranslate => "#3f8f8a",
            Way::BatonPinned => "#7fb069",
            Way::BatonDeferred => "#54a06f",
            Way::BatonAsleep => "#8a9a5b",
            Way::Haproxy => "#c97b2c",
            Way::HaproxyDeferred => "#dba56c",
            Way::HaproxyReuse => "#a8641c",
            Way::Nginx => "#4a6fa5",
            Way::Envoy => "#8a4fa5",
            Way::Caddy => "#a5484f",
        }
    }
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        by_name(text, &Self::ALL, Self::name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_written_in_reports_as_on_the_command_line() {
        for way in Way::ALL {
            assert_eq!(way.name().parse(), Ok(way));
            assert_eq!(serde_json::to_value(way).unwrap(), way.name());
        }
        let said = "apache".parse::<Way>().unwrap_err();
        assert!(
            said.contains("none of direct, baton, baton-adopt, baton-translate, baton-pinned, baton-deferred, baton-asleep, haproxy, haproxy-deferred, haproxy-reuse, nginx"),
            "{said}"
        );
    }
}
