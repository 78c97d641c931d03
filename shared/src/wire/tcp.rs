//! The TCP header (RFC 9293, section 3.1).

use super::HeaderChecksum;
use crate::addr::PortWord;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset the connection.
pub const RST: u8 = 0x04;
/// The receiver is to hand the data on.
pub const PSH: u8 = 0x08;
/// The acknowledgement field counts.
pub const ACK: u8 = 0x10;

/// The first 20 bytes of a TCP header, as words in memory order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TcpWords(pub [u32; 5]);

impl TcpWords {
    /// The source port.
    #[inline(always)]
    pub const fn source(&self) -> PortWord {
        let b = self.0[0].to_ne_bytes();
        PortWord(u16::from_ne_bytes([b[0], b[1]]))
    }

    /// The destination port.
    #[inline(always)]
    pub const fn destination(&self) -> PortWord {
        let b = self.0[0].to_ne_bytes();
        PortWord(u16::from_ne_bytes([b[2], b[3]]))
    }

    /// The first word for these ports.
    #[inline(always)]
    pub const fn port_word(source: PortWord, destination: PortWord) -> u32 {
        let (s, d) = (source.0.to_ne_bytes(), destination.0.to_ne_bytes());
        u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
    }

    /// The sequence number, host order.
    #[inline(always)]
    pub const fn seq(&self) -> u32 {
        u32::from_be(self.0[1])
    }

    /// The acknowledgement number, host order.
    #[inline(always)]
    pub const fn ack(&self) -> u32 {
        u32::from_be(self.0[2])
    }

    /// Length of the header with its options, bytes: 20 to 60 in a sane one.
    #[inline(always)]
    pub const fn header_bytes(&self) -> u32 {
        (self.0[3].to_ne_bytes()[0] >> 4) as u32 * 4
    }

    /// The flags [`FIN`], [`SYN`], [`RST`], [`ACK`] and their neighbours.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        self.0[3].to_ne_bytes()[1]
    }

    /// The window, host order, not scaled.
    #[inline(always)]
    pub const fn window(&self) -> u16 {
        let b = self.0[3].to_ne_bytes();
        u16::from_be_bytes([b[2], b[3]])
    }

    /// The checksum.
    #[inline(always)]
    pub const fn checksum(&self) -> HeaderChecksum {
        let b = self.0[4].to_ne_bytes();
        HeaderChecksum(u16::from_ne_bytes([b[0], b[1]]))
    }

    /// The fourth word with another window (host order).
    #[inline(always)]
    pub const fn fourth_word(&self, window: u16) -> u32 {
        let b = self.0[3].to_ne_bytes();
        let w = window.to_be_bytes();
        u32::from_ne_bytes([b[0], b[1], w[0], w[1]])
    }
}
