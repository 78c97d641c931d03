//! The ways from client to content that are compared.

use crate::spec::{Balancer, LabSpec, Serve};
use serde::Serialize;
use std::str::FromStr;

/// A way from client to content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The client speaks to the first target itself.
    Direct,
    /// Through Baton's VIP, the handshake replayed to the servers, the later requests of a connection read.
    Baton,
    /// Through Baton's VIP, to servers whose kernels adopt the connections.
    BatonAdopt,
    /// Through Baton's VIP, where nobody reads the later requests of a connection.
    BatonPinned,
    /// As `Baton`, with connections that wait in the kernel until their clients have spoken.
    BatonDeferred,
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
    const ALL: [Way; 11] = [
        Way::Direct,
        Way::Baton,
        Way::BatonAdopt,
        Way::BatonPinned,
        Way::BatonDeferred,
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
            Way::BatonPinned => "baton-pinned",
            Way::BatonDeferred => "baton-deferred",
            Way::Haproxy => "haproxy",
            Way::HaproxyDeferred => "haproxy-deferred",
            Way::HaproxyReuse => "haproxy-reuse",
            Way::Nginx => "nginx",
            Way::Envoy => "envoy",
            Way::Caddy => "caddy",
        }
    }

    /// What runs on the intermediate's node.
    fn balancer(self) -> Balancer {
        match self {
            Way::Direct => Balancer::None,
            Way::Baton | Way::BatonAdopt | Way::BatonPinned | Way::BatonDeferred => Balancer::Baton,
            Way::Haproxy | Way::HaproxyDeferred | Way::HaproxyReuse => Balancer::Haproxy,
            Way::Nginx => Balancer::Nginx,
            Way::Envoy => Balancer::Envoy,
            Way::Caddy => Balancer::Caddy,
        }
    }

    /// The lab with what this way needs.
    pub(super) fn order(self, lab: LabSpec) -> LabSpec {
        let keepalive = if self == Way::BatonPinned { "pinned" } else { "tracked" };
        let deferred = matches!(self, Way::BatonDeferred | Way::HaproxyDeferred);
        let lab = if deferred { lab.defer_accept() } else { lab };
        let lab = if self == Way::HaproxyReuse { lab.reuse_always() } else { lab };
        let serve = if self == Way::BatonAdopt { Serve::Adopt } else { Serve::Translate };
        lab.balancer(self.balancer()).intermediate_with("listener", "keepalive", keepalive).serve(serve)
    }

    /// The program that is not Baton's and must be installed.
    pub(super) fn program(self) -> Option<&'static str> {
        match self {
            Way::Haproxy | Way::HaproxyDeferred | Way::HaproxyReuse => Some("haproxy"),
            Way::Envoy | Way::Caddy => Some(self.name()),
            Way::Direct | Way::Nginx => None,
            Way::Baton | Way::BatonAdopt | Way::BatonPinned | Way::BatonDeferred => None,
        }
    }

    /// The colour of its bars.
    pub(super) fn colour(self) -> &'static str {
        match self {
            Way::Direct => "#9aa5b1",
            Way::Baton => "#2f7d4f",
            Way::BatonAdopt => "#0b3d91",
            Way::BatonPinned => "#7fb069",
            Way::BatonDeferred => "#54a06f",
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
        let found = Self::ALL.into_iter().find(|way| way.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|way| way.name()).collect();
            format!("'{text}' is none of {}", names.join(", "))
        })
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
            said.contains("none of direct, baton, baton-adopt, baton-pinned, baton-deferred, haproxy, haproxy-deferred, haproxy-reuse, nginx"),
            "{said}"
        );
    }
}
