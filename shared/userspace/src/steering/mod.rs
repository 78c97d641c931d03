//! Leads the packets of VIPs, or of servers, through the TUN by policy routing.
//!
//! Intermediate: TCP (and ICMP for IPv4) to a VIP that arrives on the uplink is routed into the TUN. For that the rule that looks up the
//! `local` table, which comes before all others, is moved behind ours. What the daemon writes into the TUN arrives on
//! the TUN, so no rule of ours matches it again: to the VIP it is delivered, to a target it is forwarded.
//!
//! Target: TCP that the host itself sends from a server's address and port is routed into the TUN. What the daemon
//! writes is forwarded.
//!
//! If the daemon dies, the TUN and with it the route vanish; a rule that leads to an empty table leads nowhere, and
//! the packets go the ordinary way.

mod routing;

use crate::netlink::Family;
use baton_shared::translate::Direction;
use baton_shared::wire::{PROTOCOL_ICMP, PROTOCOL_TCP};
use routing::{Routing, Rule, Then};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Our routing table's number.
const TABLE: u32 = 0x4241;
/// The kernel's table of the host's own addresses, and the priority its rule has.
const LOCAL_TABLE: u32 = 255;
const LOCAL_FIRST: u32 = 0;
/// Our rules' priority, and where the local table's rule stands behind them.
const OURS: u32 = 90;
const OTHER_PORTS: u32 = 91;
const NO_PORT: u32 = 92;
const BEHIND_OURS: u32 = 93;
const LOCAL_BEHIND: u32 = 100;
/// The widest range that the kernel takes.
const ANY_PORT: [u16; 2] = [1, u16::MAX - 1];
/// The TUN's address: the kernel drops what comes from a device without one, even where the reverse path is checked
/// loosely. It is the dummy address of RFC 7600, section 4.8: nobody's, nowhere routed.
const TUN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));

/// What is to be led where.
#[derive(Clone, Debug)]
pub struct Lead {
    /// [`Direction::FromClient`] on the intermediate, [`Direction::ToClient`] on a target.
    pub direction: Direction,
    /// The device by which clients' packets come (intermediate) or the server's go (target).
    pub uplink: String,
    /// The TUN's name.
    pub tun: String,
    /// The TUN's number.
    pub tun_ifindex: u32,
    /// The VIPs (intermediate) or the servers (target).
    pub addresses: Vec<SocketAddr>,
}

/// Why packets could not be led through the TUN, or a setting not be put back.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// rtnetlink refused.
    #[error("policy routing, {what}: {source}")]
    Routing {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file in /proc/sys could not be read or written.
    #[error("cannot write {value} to {}: {source}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// What was to stand in it.
        value: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The rules and settings in force. Dropping it puts back what was there before.
#[derive(Debug)]
pub struct Steering {
    routing: Routing,
    rules: Vec<Rule>,
    /// IP versions whose rule for the `local` table was moved.
    moved: Vec<Family>,
    settings: Vec<(PathBuf, String)>,
}

impl Steering {
    /// Begins to lead packets. The TUN is there and up. Needs CAP_NET_ADMIN in the network namespace.
    pub fn begin(lead: &Lead) -> Result<Self, SteeringError> {
        let routing = Routing::open().map_err(refused("opening a socket"))?;
        let mut steering = Steering { routing, rules: Vec::new(), moved: Vec::new(), settings: Vec::new() };
        let has = |family| lead.addresses.iter().any(|a| Family::of(a.ip()) == family);
        if has(Family::V4) {
            steering.prepare_v4(lead)?;
            steering.lead(lead, Family::V4)?;
        }
        if has(Family::V6) {
            steering.prepare_v6(lead)?;
            steering.lead(lead, Family::V6)?;
        }
        Ok(steering)
    }

    fn prepare_v4(&mut self, lead: &Lead) -> Result<(), SteeringError> {
        let (tun, uplink) = (lead.tun.as_str(), lead.uplink.as_str());
        self.set(&format!("ipv4/conf/{tun}/forwarding"), "1")?;
        // Loose: clients are not reached by the TUN. The stricter of `all` and the device does not count, but the
        // larger number, and loose has it.
        self.set(&format!("ipv4/conf/{tun}/rp_filter"), "2")?;
        // What comes back may have an address of this host's as its source: a server's when nothing was translated, the
        // VIP on errors that were.
        self.set(&format!("ipv4/conf/{tun}/accept_local"), "1")?;
        self.routing
            .add_address(TUN_ADDRESS, lead.tun_ifindex)
            .map_err(refused("adding the TUN's address"))?;
        match lead.direction {
            Direction::FromClient => {
                self.set(&format!("ipv4/conf/{uplink}/forwarding"), "1")?;
                self.no_early_demux()?;
            }
            Direction::ToClient => {
                // The way back to a client now leads into the TUN, so what clients send does not come by it.
                self.loosen_uplink(uplink)?;
            }
        }
        Ok(())
    }

    fn prepare_v6(&mut self, lead: &Lead) -> Result<(), SteeringError> {
        let tun = lead.tun.as_str();
        // No link-local address, so that the host has nothing to say on this device.
        self.set(&format!("ipv6/conf/{tun}/addr_gen_mode"), "1")?;
        self.set(&format!("ipv6/conf/{tun}/accept_ra"), "0")?;
        self.set(&format!("ipv6/conf/{tun}/disable_ipv6"), "0")?;
        self.set("ipv6/conf/all/forwarding", "1")?;
        if lead.direction == Direction::FromClient {
            self.no_early_demux()?;
        }
        Ok(())
    }

    /// Else a packet of a connection the host has would be given its socket before it is routed, and then not be
    /// forwarded to the TUN for having one.
    fn no_early_demux(&mut self) -> Result<(), SteeringError> {
        self.set("ipv4/tcp_early_demux", "0")
    }

    fn loosen_uplink(&mut self, uplink: &str) -> Result<(), SteeringError> {
        let strict = |name: &str| {
            let path = Path::new(SETTINGS).join(format!("ipv4/conf/{name}/rp_filter"));
            std::fs::read_to_string(path).is_ok_and(|v| v.trim() == "1")
        };
        if strict("all") || strict(uplink) {
            tracing::info!(uplink, "rp_filter is strict there: set to loose as long as the agent runs");
            self.set(&format!("ipv4/conf/{uplink}/rp_filter"), "2")?;
        }
        Ok(())
    }

    fn lead(&mut self, lead: &Lead, family: Family) -> Result<(), SteeringError> {
        self.routing
            .add_default_route(family, TABLE, lead.tun_ifindex)
            .map_err(refused("adding a default route by the TUN"))?;
        for address in lead.addresses.iter().filter(|a| Family::of(a.ip()) == family) {
            for rule in rules(lead, family, *address) {
                if !self.rules.contains(&rule) {
                    self.routing.add_rule(&rule).map_err(refused("adding a rule"))?;
                    self.rules.push(rule);
                }
            }
        }
        if lead.direction == Direction::FromClient {
            let [first, behind] =
                [LOCAL_FIRST, LOCAL_BEHIND].map(|p| Rule::all(family, p, Then::Table(LOCAL_TABLE)));
            self.routing.add_rule(&behind).map_err(refused("adding the rule of the local table"))?;
            self.moved.push(family);
            self.routing.remove_rule(&first).map_err(refused("removing the rule of the local table"))?;
        }
        Ok(())
    }

    /// Writes a value under /proc/sys/net, and remembers the one before.
    fn set(&mut self, name: &str, value: &'static str) -> Result<(), SteeringError> {
        let path = Path::new(SETTINGS).join(name);
        let fail = |source| SteeringError::Setting { path: path.clone(), value, source };
        let before = std::fs::read_to_string(&path).map_err(fail)?.trim().to_owned();
        if before != value {
            std::fs::write(&path, value).map_err(fail)?;
            self.settings.push((path, before));
        }
        Ok(())
    }
}

/// Sets how many packets a device holds for its driver, here the TUN's reader. By rtnetlink, which asks for
/// CAP_NET_ADMIN in the device's network namespace; the ioctl for the same asks for it in the machine's first one.
pub fn set_queue_length(ifindex: u32, packets: u32) -> io::Result<()> {
    Routing::open()?.set_queue_length(ifindex, packets)
}

/// The rules for one VIP or one server.
fn rules(lead: &Lead, family: Family, address: SocketAddr) -> Vec<Rule> {
    let of = |protocol| Rule { protocol: Some(protocol), ..Rule::all(family, OURS, Then::Table(TABLE)) };
    match lead.direction {
        Direction::FromClient => {
            let into = |rule| Rule { iif: Some(lead.uplink.clone()), to: Some(address.ip()), ..rule };
            // Not by port: a fragment has none, and must not slip by to the local stack.
            let mut rules = vec![into(of(PROTOCOL_TCP))];
            if family == Family::V4 {
                // Errors about what targets sent in the VIP's name. Not so with ICMPv6: a rule cannot tell errors
                // from neighbour discovery, which must come straight from the device.
                rules.push(into(of(PROTOCOL_ICMP)));
            }
            rules
        }
        // The kernel looks up the route on which it notes a path's MTU by address and protocol, without ports. Such
        // a look-up must find our route as well; one with any other port must not.
        Direction::ToClient => {
            let own = Rule { iif: Some("lo".to_owned()), from: Some(address.ip()), ..of(PROTOCOL_TCP) };
            let port = address.port();
            vec![
                Rule { source_ports: Some([port; 2]), ..own.clone() },
                Rule::all(family, BEHIND_OURS, Then::Nop),
                Rule {
                    priority: OTHER_PORTS,
                    then: Then::Goto(BEHIND_OURS),
                    source_ports: Some(ANY_PORT),
                    ..own.clone()
                },
                Rule { priority: NO_PORT, ..own },
            ]
        }
    }
}

/// Where a network namespace's settings are.
const SETTINGS: &str = "/proc/sys/net";

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> SteeringError {
    move |source| SteeringError::Routing { what, source }
}

impl Drop for Steering {
    fn drop(&mut self) {
        let report = |what: &str, result: io::Result<()>| {
            if let Err(e) = result {
                tracing::warn!("not put back as it was: {what}: {e}");
            }
        };
        for family in self.moved.drain(..) {
            let [first, behind] =
                [LOCAL_FIRST, LOCAL_BEHIND].map(|p| Rule::all(family, p, Then::Table(LOCAL_TABLE)));
            report("the rule of the local table", self.routing.add_rule(&first));
            report("the rule of the local table", self.routing.remove_rule(&behind));
        }
        for rule in self.rules.drain(..) {
            report("a rule", self.routing.remove_rule(&rule));
        }
        for (path, before) in self.settings.drain(..).rev() {
            match std::fs::write(&path, before) {
                // The TUN's own went with it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => report(&path.display().to_string(), result),
            }
        }
    }
}
