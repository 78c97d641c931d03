//! Frames built and taken apart by etherparse.

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv4Options, TcpHeader};
use std::path::Path;

/// A frame's layers as values.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) ip: Ipv4Header,
    pub(crate) tcp: TcpHeader,
    pub(crate) payload: Vec<u8>,
    /// Bytes behind the IP packet, as short Ethernet frames have.
    pub(crate) padding: usize,
}

impl Frame {
    /// A plain segment.
    pub(crate) fn new(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Self {
        let ip = Ipv4Header::new(0, 64, IpNumber::TCP, source.0, destination.0).unwrap();
        let mut tcp = TcpHeader::new(source.1, destination.1, 1000, 4000);
        tcp.acknowledgment_number = 5000;
        tcp.ack = true;
        Frame { ip, tcp, payload: Vec::new(), padding: 0 }
    }

    pub(crate) fn options(mut self, raw: &[u8]) -> Self {
        self.tcp.set_options_raw(raw).unwrap();
        self
    }

    pub(crate) fn ip_options(mut self, raw: &[u8]) -> Self {
        self.ip.options = Ipv4Options::try_from(raw).unwrap();
        self
    }

    /// The bytes, all lengths and checksums right.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut ip = self.ip.clone();
        ip.set_payload_len(self.tcp.header_len() + self.payload.len()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut tcp = self.tcp.clone();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).unwrap();
        let ethernet = Ethernet2Header {
            source: [2, 0, 0, 0, 0, 1],
            destination: [2, 0, 0, 0, 0, 2],
            ether_type: EtherType::IPV4,
        };
        let mut bytes = ethernet.to_bytes().to_vec();
        bytes.extend_from_slice(&ip.to_bytes());
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
