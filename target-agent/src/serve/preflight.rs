//! Looks whether the host is fit to adopt connections. The judgement is `shared`'s.

use super::ways::{Way, Ways};
use crate::local_vip;
use crate::sock_diag::SockDiag;
use baton_loader::adopt::AdoptError;
use baton_shared::reason::AdoptNeed;
use baton_shared::state::adopt::{Buffers, Surroundings, needs};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Why the program that adopts is not in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoProgram {
    /// The kernel's function is there.
    pub(crate) function: bool,
    /// In words.
    pub(crate) text: String,
}

impl From<AdoptError> for NoProgram {
    fn from(error: AdoptError) -> Self {
        let function = !matches!(error, AdoptError::NoBtf(_) | AdoptError::NoFunction);
        NoProgram { function, text: error.to_string() }
    }
}

/// What is asked for again and again.
#[derive(Debug)]
pub(crate) struct Preflight {
    uplink: String,
    /// The agent may make a VIP local.
    local_vip: bool,
    program: Result<(), NoProgram>,
}

impl Preflight {
    pub(crate) fn new(uplink: String, local_vip: bool, program: Result<(), NoProgram>) -> Self {
        Preflight { uplink, local_vip, program }
    }

    /// Looks at the host for each server that may be given connections, makes VIPs local where that is all that is
    /// missing, and tells what came of it.
    pub(crate) fn run(
        &self,
        ways: &Ways,
        served: impl Iterator<Item = (SocketAddr, SocketAddr)>,
        diag: &mut SockDiag,
    ) {
        if ways.configured() == Way::Translate {
            return;
        }
        for (vip, server) in served {
            let mut lacks = needs(&self.look(vip, server, diag));
            if lacks == [AdoptNeed::VipLocal] && self.local_vip {
                // Said once: it is tried again and again.
                let is_news = !ways.lacks(vip, server, 0).contains(&AdoptNeed::VipLocal);
                match self.make_local(vip.ip()) {
                    Ok(()) => {
                        tracing::info!(vip = %vip.ip(), uplink = self.uplink, "what arrives for it is delivered here");
                        lacks.clear();
                    }
                    Err(why) if is_news => tracing::warn!(vip = %vip.ip(), uplink = self.uplink, "{why}"),
                    Err(_) => {}
                }
            }
            ways.set(vip, server, lacks, buffers(server, diag));
        }
    }

    /// Has what arrives for a VIP delivered here, or says why it is not.
    fn make_local(&self, vip: IpAddr) -> Result<(), String> {
        local_vip::add(vip, &self.uplink).map_err(|e| format!("cannot make the VIP local: {e}"))?;
        match self.is_delivered(vip) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!(
                "the VIP's address, route and rule are set, and yet what arrives for it is not delivered: look for rules \
                 before ours (ip rule; ip route get {vip} from CLIENT iif {})",
                self.uplink
            )),
            Err(e) => Err(format!("whether what arrives for the VIP is delivered: {e}")),
        }
    }

    fn is_delivered(&self, vip: IpAddr) -> io::Result<bool> {
        let device = baton_loader::device_index(&self.uplink)?;
        local_vip::is_delivered(vip, &self.uplink, device)
    }

    /// What is missing that the agent will not mend by itself.
    pub(crate) fn lacks(&self, vip: SocketAddr, server: SocketAddr, diag: &mut SockDiag) -> Vec<AdoptNeed> {
        let mut lacks = needs(&self.look(vip, server, diag));
        lacks.retain(|need| *need != AdoptNeed::VipLocal || !self.local_vip);
        lacks
    }

    /// What is found.
    fn look(&self, vip: SocketAddr, server: SocketAddr, diag: &mut SockDiag) -> Surroundings {
        let ipv4 = |key: &str| setting(&format!("/proc/sys/net/ipv4/{key}"));
        let arp = |device: &str| ipv4(&format!("conf/{device}/arp_ignore"));
        Surroundings {
            function: self.program.as_ref().map_or_else(|no| no.function, |()| true),
            // Where the function is missing, nothing was attached by anything.
            tcx: self.program.as_ref().map_or_else(|no| !no.function, |()| true),
            syncookies: ipv4("tcp_syncookies"),
            timestamps: ipv4("tcp_timestamps"),
            sack: ipv4("tcp_sack"),
            window_scaling: ipv4("tcp_window_scaling"),
            vip_local: self.is_delivered(vip.ip()).unwrap_or(false),
            vip_on_link: self.is_on_link(vip.ip()),
            arp_ignore: arp("all").max(arp(&self.uplink)),
            mptcp: diag.listens_with_mptcp(server).ok(),
            conntrack_loose: setting("/proc/sys/net/netfilter/nf_conntrack_tcp_loose"),
        }
    }

    /// Whether an IPv4 address is in a network that the uplink is connected to.
    fn is_on_link(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        is_on_link(&routes, &self.uplink, address)
    }
}

/// `/proc/net/route`: device, destination, gateway, ..., mask in the eighth column, words as the memory has them.
fn is_on_link(routes: &str, device: &str, address: Ipv4Addr) -> bool {
    let address = u32::from_ne_bytes(address.octets());
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (Some(to), Some(gateway), Some(mask)) = (word(1), word(2), word(7)) else { return false };
        fields.first() == Some(&device) && gateway == 0 && mask != 0 && address & mask == to
    })
}

/// What bounds the receive buffers of a server's sockets.
fn buffers(server: SocketAddr, diag: &mut SockDiag) -> Buffers {
    let settings = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem").unwrap_or_default();
    let setting = |at| settings.split_whitespace().nth(at)?.parse().ok();
    let listener = diag.listeners(server).ok().and_then(|listening| listening.buffer);
    Buffers { listener, initial: setting(1), largest: setting(2) }
}

fn setting(path: &str) -> Option<u32> {
    let read = || -> io::Result<Option<u32>> { Ok(std::fs::read_to_string(path)?.trim().parse().ok()) };
    read().ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_the_uplink_is_told_from_one_behind_a_router() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t01655A0A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t00655A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth1\t00015A0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let on = |device, address: &str| is_on_link(routes, device, address.parse().unwrap());
        assert!(on("eth0", "10.90.101.77") && on("eth1", "10.90.1.100"));
        assert!(!on("eth0", "10.90.1.100") && !on("eth1", "10.90.101.77") && !on("eth0", "192.0.2.1"));
    }

    #[test]
    fn a_setting_that_is_not_there_is_not_known() {
        assert!(setting("/proc/sys/net/ipv4/tcp_syncookies").is_some());
        assert_eq!(setting("/proc/sys/net/ipv4/no_such_setting"), None);
    }
}
