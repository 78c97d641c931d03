//! The few orders of rtnetlink(7) that steering needs.

use crate::netlink::numbers::{
    ADDRESS, FR_ACT_GOTO, FR_ACT_NOP, FR_ACT_TO_TBL, FRA_DST, FRA_GOTO, FRA_IIFNAME, FRA_IP_PROTO,
    FRA_PRIORITY, FRA_SPORT_RANGE, FRA_SRC, FRA_TABLE, IFA_ADDRESS, IFA_LOCAL, IFLA_TXQLEN, LINK, ROUTE,
    RTA_OIF, RTA_TABLE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE, RTN_UNICAST,
    RTPROT_STATIC, RULE, SCOPE_LINK,
};
use crate::netlink::{ACKNOWLEDGE, CREATE, Family, Message, Netlink, bits, family};
use std::io;
use std::net::IpAddr;

/// What a rule does with packets that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// They look into a table.
    Table(u32),
    /// They go on at the rule with this priority.
    Goto(u32),
    /// They go on at the next rule.
    Nop,
}

/// A policy routing rule: which packets look into which table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) family: Family,
    pub(super) priority: u32,
    pub(super) then: Then,
    /// The device by which they come in; `lo` for what the host itself sends.
    pub(super) iif: Option<String>,
    /// The protocol above IP.
    pub(super) protocol: Option<u8>,
    pub(super) to: Option<IpAddr>,
    pub(super) from: Option<IpAddr>,
    /// The first and the last source port.
    pub(super) source_ports: Option<[u16; 2]>,
}

impl Rule {
    /// One for all packets.
    pub(super) fn all(family: Family, priority: u32, then: Then) -> Self {
        Rule { family, priority, then, iif: None, protocol: None, to: None, from: None, source_ports: None }
    }

    fn message(&self) -> Message {
        let length = |address: &Option<IpAddr>| address.map_or(0, bits);
        let action = match self.then {
            Then::Table(_) => FR_ACT_TO_TBL,
            Then::Goto(_) => FR_ACT_GOTO,
            Then::Nop => FR_ACT_NOP,
        };
        let structure = [self.family as u8, length(&self.to), length(&self.from), 0, 0, 0, 0, action];
        let mut message = Message::new(&structure, RULE);
        message.word(FRA_PRIORITY, self.priority);
        match self.then {
            Then::Table(table) => message.word(FRA_TABLE, table),
            Then::Goto(priority) => message.word(FRA_GOTO, priority),
            Then::Nop => {}
        }
        if let Some(to) = self.to {
            message.address(FRA_DST, to);
        }
        if let Some(from) = self.from {
            message.address(FRA_SRC, from);
        }
        if let Some(iif) = &self.iif {
            message.name(FRA_IIFNAME, iif);
        }
        if let Some(protocol) = self.protocol {
            message.attribute(FRA_IP_PROTO, &[protocol]);
        }
        if let Some(ports) = self.source_ports {
            // struct fib_rule_port_range: first and last, host order.
            message.attribute(FRA_SPORT_RANGE, &ports.map(u16::to_ne_bytes).concat());
        }
        message
    }
}

/// The orders.
#[derive(Debug)]
pub(super) struct Routing(Netlink);

impl Routing {
    /// Of this thread's network namespace, whoever calls later.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open().map(Routing)
    }

    fn order(&self, kind: u16, flags: u16, message: &Message) -> io::Result<()> {
        self.0.ask(kind, ACKNOWLEDGE | flags, message).map(drop)
    }

    /// Adds a rule; fine if it is there.
    pub(super) fn add_rule(&self, rule: &Rule) -> io::Result<()> {
        unless(io::ErrorKind::AlreadyExists, self.order(RTM_NEWRULE, CREATE, &rule.message()))
    }

    /// Removes a rule; fine if there is none.
    pub(super) fn remove_rule(&self, rule: &Rule) -> io::Result<()> {
        unless(io::ErrorKind::NotFound, self.order(RTM_DELRULE, 0, &rule.message()))
    }

    /// All of a table's packets go out of a device. The route goes with the device.
    pub(super) fn add_default_route(&self, family: Family, table: u32, device: u32) -> io::Result<()> {
        let structure = [family as u8, 0, 0, 0, 0, RTPROT_STATIC, SCOPE_LINK, RTN_UNICAST];
        let mut message = Message::new(&structure, ROUTE);
        message.word(RTA_TABLE, table);
        message.word(RTA_OIF, device);
        unless(io::ErrorKind::AlreadyExists, self.order(RTM_NEWROUTE, CREATE, &message))
    }

    /// Sets how many packets a device holds for its driver.
    pub(super) fn set_queue_length(&self, device: u32, packets: u32) -> io::Result<()> {
        // struct ifinfomsg: family, type, index, flags, which of them.
        let mut message = Message::new(&[[0; 4], device.to_ne_bytes()].concat(), LINK);
        message.word(IFLA_TXQLEN, packets);
        self.order(RTM_NEWLINK, 0, &message)
    }

    /// Gives a device an address of its own, with no others in its subnet.
    pub(super) fn add_address(&self, address: IpAddr, device: u32) -> io::Result<()> {
        let structure = [[family(address), bits(address), 0, SCOPE_LINK], device.to_ne_bytes()].concat();
        let mut message = Message::new(&structure, ADDRESS);
        message.address(IFA_LOCAL, address);
        message.address(IFA_ADDRESS, address);
        unless(io::ErrorKind::AlreadyExists, self.order(RTM_NEWADDR, CREATE, &message))
    }
}

fn unless(fine: io::ErrorKind, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == fine => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ip rule add pref 90 iif eth0 to 10.90.1.100 ipproto tcp lookup 16961`.
    #[test]
    fn a_rule_in_bytes() {
        let rule = Rule {
            iif: Some("eth0".into()),
            protocol: Some(6),
            to: Some([10, 90, 1, 100].into()),
            ..Rule::all(Family::V4, 90, Then::Table(0x4241))
        };
        let mut expected = vec![2, 32, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        for (kind, value) in [
            (6u16, 90u32.to_ne_bytes().to_vec()),
            (15, 0x4241u32.to_ne_bytes().to_vec()),
            (1, vec![10, 90, 1, 100]),
            (3, b"eth0\0".to_vec()),
            (22, vec![6]),
        ] {
            expected.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            expected.extend(kind.to_ne_bytes());
            expected.extend(value);
            expected.resize(expected.len().next_multiple_of(4), 0);
        }
        assert_eq!(rule.message().bytes(), expected);
    }

    #[test]
    fn what_is_missing_is_fine_to_remove_and_other_errors_are_not() {
        assert!(unless(io::ErrorKind::NotFound, Err(io::ErrorKind::NotFound.into())).is_ok());
        assert!(unless(io::ErrorKind::NotFound, Err(io::ErrorKind::PermissionDenied.into())).is_err());
    }
}
