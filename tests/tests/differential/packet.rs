//! Frames built and taken apart by etherparse.

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, Ipv6Header, TcpHeader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// The IP header with what stands between it and TCP.
#[derive(Clone, Debug)]
pub(crate) enum Net {
    V4(Ipv4Header),
    /// Extension headers: kind, and bytes of which the first, the next header, is filled in later.
    V6(Ipv6Header, Vec<(u8, Vec<u8>)>),
}

/// A frame's layers as values.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) net: Net,
    /// The protocol that the IP header names; TCP, but for frames that become something else.
    protocol: u8,
    pub(crate) tcp: TcpHeader,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the IP packet, as short Ethernet frames have.
    pub(crate) padding: usize,
}

impl Frame {
    /// A plain segment.
    pub(crate) fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let net = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Net::V4(Ipv4Header::new(0, 64, IpNumber::TCP, from.octets(), to.octets()).unwrap())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                Net::V6(header, Vec::new())
            }
            mixed => panic!("{mixed:?}"),
        };
        let mut tcp = TcpHeader::new(source.port(), destination.port(), 1000, 4000);
        tcp.acknowledgment_number = 5000;
        tcp.ack = true;
        Frame { net, protocol: IpNumber::TCP.0, tcp, payload: Vec::new(), padding: 0 }
    }

    pub(crate) fn options(mut self, raw: &[u8]) -> Self {
        self.tcp.set_options_raw(raw).unwrap();
        self
    }

    /// Changes the IPv4 header; an IPv6 frame stays as it is.
    pub(crate) fn v4(&mut self, change: impl FnOnce(&mut Ipv4Header)) {
        if let Net::V4(ip) = &mut self.net {
            change(ip);
        }
    }

    pub(crate) fn ip_options(&mut self, raw: &[u8]) {
        self.v4(|ip| ip.options = Ipv4Options::try_from(raw).unwrap());
    }

    /// Appends an extension header; an IPv4 frame stays as it is.
    pub(crate) fn extension(&mut self, kind: u8, mut bytes: Vec<u8>) {
        if let Net::V6(_, chain) = &mut self.net {
            bytes.insert(0, 0);
            chain.push((kind, bytes));
        }
    }

    /// Names another protocol than TCP.
    pub(crate) fn protocol(&mut self, protocol: u8) {
        self.protocol = protocol;
    }

    /// Sets time to live or hop limit.
    pub(crate) fn ttl(&mut self, hops: u8) {
        match &mut self.net {
            Net::V4(ip) => ip.time_to_live = hops,
            Net::V6(ip, _) => ip.hop_limit = hops,
        }
    }

    /// Makes it a fragment: an offset in units of 8 bytes, and whether more follow.
    pub(crate) fn fragment(&mut self, offset: u16, more: bool) {
        self.v4(|ip| {
            ip.fragment_offset = offset.try_into().unwrap();
            ip.more_fragments = more;
        });
        let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
        self.extension(44, vec![0, high, low, 0, 0, 0, 7]);
    }

    /// Lets routers cut it (IPv4).
    pub(crate) fn may_fragment(&mut self) {
        self.v4(|ip| ip.dont_fragment = false);
    }

    /// Where TCP begins in the frame.
    pub(crate) fn tcp_at(&self) -> u64 {
        let headers = match &self.net {
            Net::V4(ip) => ip.header_len(),
            Net::V6(_, chain) => 40 + chain.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(),
        };
        14 + u64::try_from(headers).unwrap()
    }

    /// The bytes, all lengths and checksums right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut tcp = self.tcp.clone();
        let mut packet = Vec::new();
        let ether_type = match &self.net {
            Net::V4(ip) => {
                let mut ip = ip.clone();
                ip.set_payload_len(self.tcp.header_len() + self.payload.len()).unwrap();
                ip.protocol = IpNumber(self.protocol);
                ip.header_checksum = ip.calc_header_checksum();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
                packet.extend_from_slice(&ip.to_bytes());
                EtherType::IPV4
            }
            Net::V6(ip, chain) => {
                let mut ip = ip.clone();
                let extensions: usize = chain.iter().map(|(_, bytes)| bytes.len()).sum();
                ip.set_payload_length(extensions + self.tcp.header_len() + self.payload.len()).unwrap();
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &self.payload).unwrap();
                let kinds = chain.iter().map(|(kind, _)| *kind).chain([self.protocol]);
                let mut kinds = kinds.collect::<Vec<u8>>().into_iter();
                ip.next_header = IpNumber(kinds.next().unwrap());
                packet.extend_from_slice(&ip.to_bytes());
                for ((_, bytes), next) in chain.iter().zip(kinds) {
                    packet.push(next);
                    packet.extend_from_slice(&bytes[1..]);
                }
                EtherType::IPV6
            }
        };
        let ethernet =
            Ethernet2Header { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], ether_type };
        let mut bytes = ethernet.to_bytes().to_vec();
        bytes.append(&mut packet);
        bytes.extend_from_slice(&tcp.to_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes.resize(bytes.len() + self.padding, 0xee);
        bytes
    }
}

/// A capture file of Ethernet frames that tcpdump and Wireshark read.
pub(crate) fn write_pcap(path: &Path, frames: &[&Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend_from_slice(&word.to_ne_bytes());
    }
    for (n, frame) in (0u32..).zip(frames) {
        let length = u32::try_from(frame.len()).unwrap();
        for word in [n, 0, length, length] {
            file.extend_from_slice(&word.to_ne_bytes());
        }
        file.extend_from_slice(frame);
    }
    std::fs::write(path, file).unwrap();
}
