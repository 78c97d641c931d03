//! The lab's network: a sender, a host with the programs, a sink. Everything is in namespaces without names, which the kernel
//! takes away with the process, however it ends.

use super::sys;
use crate::sys::Link;
use baton_loader::device_index;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

/// Where the host's way out to the server begins.
pub(super) const OUT: &str = "out";

pub(super) struct Lab {
    sender: File,
    host: File,
    sink: File,
    /// What drops at the sink, and where a packet shall get no further.
    links: Vec<Link>,
}

/// Runs commands in the network namespace that this thread is in.
pub(super) fn sh(commands: &str) {
    let status = Command::new("sh").args(["-ec", commands]).status().unwrap();
    assert!(status.success(), "{commands}: {status}");
}

impl Lab {
    /// With the way out to the server, and this thread on the host.
    pub(super) fn new() -> Self {
        sys::own_mounts().expect("namespaces, as root");
        sh("mount --make-rprivate /; mount -t bpf bpf /sys/fs/bpf");
        let [sender, sink, host] = [(); 3].map(|()| {
            let network = sys::new_network().unwrap();
            sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
                net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
            network
        });
        let mut lab = Lab { sender, host, sink, links: Vec::new() };
        sh("sysctl -qw net.ipv4.ip_forward=1");
        lab.out(OUT);
        // As long as nothing of ours is attached, the VIP's packets take the same way.
        sh(&format!(
            "ip addr add 10.90.101.1/24 dev {OUT}
             ip neigh add {server} lladdr 02:00:00:00:00:03 dev {OUT} nud permanent
             ip route add {vip}/32 via {server}",
            server = crate::SERVER.0,
            vip = crate::VIP.0,
        ));
        lab
    }

    fn at<T>(&self, network: &File, work: impl FnOnce() -> T) -> T {
        sys::enter(network).unwrap();
        let result = work();
        sys::enter(&self.host).unwrap();
        result
    }

    /// A pair of devices, the second one in another namespace.
    fn pair(&self, here: &str, there: &str, network: &File) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), network.as_raw_fd());
        sh(&format!(
            "ip link add {here} address 02:00:00:00:00:02 type veth peer name {there} netns {path}
             ip link set {here} up"
        ));
        self.at(network, || sh(&format!("ip link set {there} up")));
    }

    /// A device of the host behind which the sink drops all, as early as it can.
    pub(super) fn out(&mut self, device: &str) {
        self.pair(device, device, &self.sink);
        let link = self.at(&self.sink, || Link::dropping(device_index(device).unwrap()));
        self.links.push(link.expect("a kernel with TCX (6.6)"));
    }

    /// A device of the host by which the sender's packets arrive, and what sends them.
    pub(super) fn arrival(&self, device: &str) -> OwnedFd {
        self.pair(device, device, &self.sender);
        self.at(&self.sender, || sys::packet_socket(device_index(device).unwrap()).unwrap())
    }

    /// The same, but that the packets end there.
    pub(super) fn dropping_arrival(&mut self, device: &str) -> OwnedFd {
        let socket = self.arrival(device);
        self.links.push(Link::dropping(device_index(device).unwrap()).unwrap());
        socket
    }

    /// What sends by a device of the host.
    pub(super) fn departure(&mut self, device: &str) -> OwnedFd {
        self.out(device);
        sys::packet_socket(device_index(device).unwrap()).unwrap()
    }

    /// What sends to nobody: the device takes packets and frees them.
    pub(super) fn nowhere(&self, device: &str) -> OwnedFd {
        sh(&format!(
            "ip link add {device} type dummy 2>/dev/null || ip link add {device} type ifb
             tc qdisc replace dev {device} root noqueue
             ip link set {device} up"
        ));
        sys::packet_socket(device_index(device).unwrap()).unwrap()
    }
}

/// Packets that have left by a device of the host.
pub(super) fn sent(device: &str) -> u64 {
    /// Columns of what is received come first.
    const SENT: usize = 9;
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let mut lines = devices.lines().filter_map(|line| line.trim_start().strip_prefix(device));
    let numbers = lines.find_map(|line| line.strip_prefix(':')).unwrap();
    numbers.split_whitespace().nth(SENT).unwrap().parse().unwrap()
}
