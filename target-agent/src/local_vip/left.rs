//! What earlier runs left of the agent's rules, routes and addresses: all that bear its protocol number.

use super::OURS;
use baton_userspace::netlink::numbers::{
    ADDRESS, FRA_DST, FRA_IIFNAME, FRA_PROTOCOL, FRA_TABLE, IFA_LOCAL, IFA_PROTO, ROUTE, RTA_DST, RTA_TABLE,
    RTM_GETADDR, RTM_GETROUTE, RTM_GETRULE, RULE,
};
use baton_userspace::netlink::{Message, Netlink, address, attributes, number};
use std::io;
use std::net::IpAddr;

/// What there is, in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// The VIP and the uplink that each rule names.
    pub(super) rules: Vec<(IpAddr, String)>,
    /// The VIP and the table of each route.
    pub(super) routes: Vec<(IpAddr, u8)>,
    /// On whatever device.
    pub(super) addresses: Vec<IpAddr>,
}

impl Left {
    /// Looks.
    pub(super) fn find() -> io::Result<Self> {
        let mut left = Left { rules: rules()?, addresses: addresses()?, ..Left::default() };
        dump(RTM_GETROUTE, ROUTE, |message| left.routes.extend(route(message)))?;
        Ok(left)
    }
}

/// Those of our rules that lead to our table.
pub(super) fn rules() -> io::Result<Vec<(IpAddr, String)>> {
    let mut rules = Vec::new();
    dump(RTM_GETRULE, RULE, |message| rules.extend(rule(message)))?;
    Ok(rules)
}

/// Our addresses.
pub(super) fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    dump(RTM_GETADDR, ADDRESS, |message| addresses.extend(own_address(message)))?;
    Ok(addresses)
}

/// All of a kind and of both families; `length`: of the structure that tells of one.
fn dump(kind: u16, length: usize, each: impl FnMut(&[u8])) -> io::Result<()> {
    Netlink::open()?.dump(kind, &Message::new(&[], length), each)
}

/// `struct fib_rule_hdr`.
fn rule(message: &[u8]) -> Option<(IpAddr, String)> {
    let (mut to, mut uplink, mut ours, mut table) = (None, None, false, u32::from(*message.get(4)?));
    for (kind, value) in attributes(message.get(RULE..)?) {
        match kind {
            FRA_DST => to = address(value),
            FRA_IIFNAME => {
                uplink =
                    value.split(|b| *b == 0).next().map(|name| String::from_utf8_lossy(name).into_owned());
            }
            FRA_PROTOCOL => ours = value == [OURS],
            FRA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    Some((to?, uplink?)).filter(|_| ours && table == u32::from(OURS))
}

/// `struct rtmsg`.
fn route(message: &[u8]) -> Option<(IpAddr, u8)> {
    let (mut table, ours) = (u32::from(*message.get(4)?), *message.get(5)? == OURS);
    let mut to = None;
    for (kind, value) in attributes(message.get(ROUTE..)?) {
        match kind {
            RTA_DST => to = address(value),
            RTA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    Some((to?, u8::try_from(table).ok()?)).filter(|_| ours)
}

/// `struct ifaddrmsg`.
fn own_address(message: &[u8]) -> Option<IpAddr> {
    let (mut local, mut ours) = (None, false);
    for (kind, value) in attributes(message.get(ADDRESS..)?) {
        match kind {
            IFA_LOCAL => local = address(value),
            IFA_PROTO => ours = value == [OURS],
            _ => {}
        }
    }
    local.filter(|_| ours)
}
