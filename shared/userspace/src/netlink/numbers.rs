//! The numbers of rtnetlink(7) by the kernel's names: `linux/rtnetlink.h`, `if_link.h`, `if_addr.h`, `fib_rules.h`.
#![expect(missing_docs, reason = "the kernel's headers say what they are")]

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_DELADDR: u16 = 21;
pub const RTM_GETADDR: u16 = 22;
pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_DELROUTE: u16 = 25;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_NEWRULE: u16 = 32;
pub const RTM_DELRULE: u16 = 33;
pub const RTM_GETRULE: u16 = 34;

pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_TXQLEN: u16 = 13;

pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
pub const IFA_PROTO: u16 = 11;

pub const RTA_DST: u16 = 1;
pub const RTA_SRC: u16 = 2;
pub const RTA_IIF: u16 = 3;
pub const RTA_OIF: u16 = 4;
pub const RTA_TABLE: u16 = 15;
pub const TABLE_LOCAL: u8 = 255;
pub const SCOPE_LINK: u8 = 253;
pub const SCOPE_HOST: u8 = 254;
pub const RTN_UNICAST: u8 = 1;
pub const RTN_LOCAL: u8 = 2;
/// Of the routes that the kernel makes of addresses.
pub const RTPROT_KERNEL: u8 = 2;
pub const RTPROT_STATIC: u8 = 4;

pub const FRA_DST: u16 = 1;
pub const FRA_SRC: u16 = 2;
pub const FRA_IIFNAME: u16 = 3;
pub const FRA_GOTO: u16 = 4;
pub const FRA_PRIORITY: u16 = 6;
pub const FRA_TABLE: u16 = 15;
pub const FRA_PROTOCOL: u16 = 21;
pub const FRA_IP_PROTO: u16 = 22;
pub const FRA_SPORT_RANGE: u16 = 23;
pub const FR_ACT_TO_TBL: u8 = 1;
pub const FR_ACT_GOTO: u8 = 2;
pub const FR_ACT_NOP: u8 = 3;

/// The length of a `struct ifinfomsg`, bytes.
pub const LINK: usize = 16;
/// The length of a `struct ifaddrmsg`, bytes.
pub const ADDRESS: usize = 8;
/// The length of a `struct rtmsg`, bytes.
pub const ROUTE: usize = 12;
/// The length of a `struct fib_rule_hdr`, bytes.
pub const RULE: usize = 12;
