//! The agent's configuration file, and what the engine needs of it.

use crate::flows::table::PeerId;
use crate::serve::ways::Way;
use baton_daemon::config::{
    AdminSettings, ConfigError, PlaneKind, PlaneSettings, Problems, Spanned, TlsFiles, Validate, check_device,
};
use baton_daemon::cpu_latency::{When, Wish};
use baton_shared::control::Role;
use baton_shared::record::{LEG_PEERS, LegPeer, LegSettings};
use baton_shared::translate::Leg;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The file as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// This node's name, as in its certificate.
    pub(crate) name: Spanned<String>,
    /// The device on which the server's packets leave.
    pub(crate) uplink: Spanned<String>,
    /// Where intermediates connect to.
    pub(crate) control: Spanned<SocketAddr>,
    /// When this host's processors are held awake: while handoffs come often, if it is not given.
    pub(crate) cpu_latency: Option<Spanned<When>>,
    /// Microseconds within which they are to wake while they are held awake; what their first state allows that halts, and in a
    /// virtual machine 0, if it is not given.
    pub(crate) cpu_latency_us: Option<Spanned<u32>>,
    /// This node's certificate.
    pub(crate) tls: TlsFiles,
    /// What may be handed off to this host.
    pub(crate) allow: Vec<Allow>,
    /// How connections are given to the servers.
    #[serde(default)]
    pub(crate) serve: Serve,
    /// The data plane.
    #[serde(default)]
    pub(crate) plane: PlaneSettings,
    /// The admin endpoint.
    #[serde(default)]
    pub(crate) admin: AdminSettings,
}

/// `[serve]`: how connections are given to the servers.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Serve {
    /// Which way.
    pub(crate) way: Spanned<Way>,
    /// Whether the agent may make a VIP a local address of this host, which adopting needs.
    pub(crate) local_vip: bool,
}

impl Default for Serve {
    fn default() -> Self {
        Serve { way: Spanned::new(0..0, Way::default()), local_vip: true }
    }
}

/// `[[allow]]`: this intermediate may hand flows of this VIP to this server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allow {
    /// The intermediate's name, as in its certificate.
    pub(crate) intermediate: Spanned<String>,
    /// The address and port clients connect to.
    pub(crate) vip: Spanned<SocketAddr>,
    /// The address and port of the server on this host.
    pub(crate) server: Spanned<SocketAddr>,
    /// How this intermediate's packets come; as they are if it is not given.
    pub(crate) leg: Option<Spanned<Leg>>,
    /// The source of its outer headers, where `leg` is not "rewrite".
    pub(crate) leg_source: Option<Spanned<IpAddr>>,
}

impl Allow {
    /// The source of outer headers that are to be taken off, and their kind.
    fn peer(&self) -> Option<LegPeer> {
        let leg = *self.leg.as_ref()?.get_ref();
        let source = *self.leg_source.as_ref()?.get_ref();
        (leg != Leg::Rewrite).then(|| LegPeer { address: source.into(), flags: leg.flags() })
    }

    fn validate_leg(&self, plane: PlaneKind, problems: &mut Problems<'_>) {
        let leg = self.leg.as_ref().filter(|leg| *leg.get_ref() != Leg::Rewrite);
        match (leg, &self.leg_source) {
            (None, None) => {}
            (None, Some(source)) => problems.with(source, "leg_source has no meaning without leg = \"ipip\" or \"udp\""),
            (Some(leg), _) if plane != PlaneKind::Ebpf => problems.with(
                leg,
                "the plane in user space takes packets as they are: leg must be \"rewrite\", or plane.kind \"ebpf\"",
            ),
            (Some(leg), None) => problems
                .with(leg, "leg_source is missing: the intermediate's own address, from which its packets come"),
            (Some(_), Some(source)) => {
                let is = source.get_ref();
                problems.require(
                    source,
                    is.is_ipv4() == self.server.get_ref().is_ipv4() && !is.is_unspecified() && !is.is_multicast(),
                    format!("leg_source must be one host's address of the server's family, is {is}"),
                );
            }
        }
    }
}

impl Config {
    /// When processors are held awake, and how.
    pub(crate) fn cpu_latency(&self) -> Wish<'_> {
        Wish { when: self.cpu_latency.as_ref(), us: self.cpu_latency_us.as_ref() }
    }

    /// For the program that takes packets out of outer headers.
    pub(crate) fn legs(&self) -> LegSettings {
        let mut legs = LegSettings::default();
        let mut peers: Vec<LegPeer> = Vec::new();
        for peer in self.allow.iter().filter_map(Allow::peer) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        for (place, peer) in legs.peers.iter_mut().zip(peers) {
            *place = peer;
        }
        legs
    }

    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
        baton_daemon::config::load_valid(path)
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems<'_>) {
        check_device(&self.uplink, "uplink", problems);
        let control = self.control.get_ref();
        problems.require(&self.control, control.port() != 0, "control must have a port");
        self.cpu_latency().validate(problems);
        self.tls.validate(Role::Agent, self.name.get_ref(), problems);
        self.plane.validate(Role::Agent, problems);
        self.admin.validate(problems);
        problems.require(
            &self.name,
            !self.allow.is_empty(),
            "there is no [[allow]]: the agent would refuse every handoff",
        );
        let sources: HashSet<_> = self
            .allow
            .iter()
            .filter(|a| a.peer().is_some())
            .filter_map(|a| a.leg_source.as_ref())
            .map(|s| s.get_ref())
            .collect();
        if sources.len() > LEG_PEERS {
            problems.with(&self.name, format!("no more than {LEG_PEERS} different leg_source addresses"));
        }
        problems.require(
            &self.serve.way,
            *self.serve.way.get_ref() != Way::Adopt || self.plane.kind == PlaneKind::Ebpf,
            "connections are adopted by eBPF: serve.way must be \"auto\" or \"translate\", or plane.kind \"ebpf\"",
        );
        let mut seen = HashSet::new();
        for allow in &self.allow {
            for (address, what) in [(&allow.vip, "vip"), (&allow.server, "server")] {
                let is = address.get_ref();
                problems.require(
                    address,
                    is.port() != 0 && !is.ip().is_unspecified(),
                    format!("{what} must name one address and port, is {is}"),
                );
            }
            problems.require(
                &allow.server,
                allow.vip.get_ref().is_ipv4() == allow.server.get_ref().is_ipv4(),
                "vip and server must be of one address family: a flow keeps its family",
            );
            allow.validate_leg(self.plane.kind, problems);
            let fresh =
                seen.insert((allow.intermediate.get_ref(), allow.vip.get_ref(), allow.server.get_ref()));
            problems.require(&allow.intermediate, fresh, "this [[allow]] stands twice");
        }
    }
}

/// What the engine goes by.
#[derive(Debug)]
pub(crate) struct Policy {
    /// This node's name.
    pub(crate) node: String,
    /// How long an ended flow is still translated, ns.
    pub(crate) linger_ns: u64,
    /// A flow on which the server has sent nothing for so long is ended, ns.
    pub(crate) idle_ns: u64,
    peers: Vec<String>,
    allowed: Vec<(PeerId, SocketAddr, SocketAddr)>,
    lookup: BTreeSet<(PeerId, SocketAddr, SocketAddr)>,
}

impl Policy {
    /// From a checked configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let mut policy = Policy {
            node: config.name.get_ref().clone(),
            linger_ns: config.plane.linger_ms.get_ref().saturating_mul(1_000_000),
            idle_ns: config.plane.idle_ms().saturating_mul(1_000_000),
            peers: Vec::new(),
            allowed: Vec::new(),
            lookup: BTreeSet::new(),
        };
        for allow in &config.allow {
            let name = allow.intermediate.get_ref();
            let peer = policy.peer(name).unwrap_or_else(|| {
                policy.peers.push(name.clone());
                PeerId(u16::try_from(policy.peers.len() - 1).unwrap_or(u16::MAX))
            });
            let entry = (peer, *allow.vip.get_ref(), *allow.server.get_ref());
            policy.allowed.push(entry);
            policy.lookup.insert(entry);
        }
        policy
    }

    /// The intermediates that are named.
    pub(crate) fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The intermediate of this name.
    pub(crate) fn peer(&self, name: &str) -> Option<PeerId> {
        let place = self.peers.iter().position(|peer| peer == name)?;
        u16::try_from(place).ok().map(PeerId)
    }

    /// Its name.
    pub(crate) fn name(&self, peer: PeerId) -> Option<&str> {
        self.peers.get(usize::from(peer.0)).map(String::as_str)
    }

    /// Whether this intermediate may hand flows of this VIP to this server.
    pub(crate) fn allows(&self, peer: PeerId, vip: SocketAddr, server: SocketAddr) -> bool {
        self.lookup.contains(&(peer, vip, server))
    }

    /// Whether this intermediate may hand off flows of this VIP at all.
    pub(crate) fn knows_vip(&self, peer: PeerId, vip: SocketAddr) -> bool {
        self.allowed.iter().any(|(p, v, _)| *p == peer && *v == vip)
    }

    /// The first intermediate that may.
    pub(crate) fn peer_of(&self, vip: SocketAddr, server: SocketAddr) -> Option<PeerId> {
        self.allowed.iter().find(|(_, v, s)| *v == vip && *s == server).map(|(peer, ..)| *peer)
    }

    /// All that is allowed, in the file's order.
    pub(crate) fn allowed(&self) -> impl Iterator<Item = (PeerId, SocketAddr, SocketAddr)> {
        self.allowed.iter().copied()
    }
}
