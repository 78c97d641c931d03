//! One program per hook.

mod flow;
mod fragments;
mod headers;
mod intermediate_ingress;
mod leg;
mod plain;
mod report;
mod response;
mod target_adopt;
mod target_egress;
mod target_ingress;
mod tun_reinject;

/// Leave the packet to the next program of the hook, and to the stack after the last one.
const NEXT: i32 = -1;
/// Drop it.
const SHOT: i32 = 2;
/// Length of an Ethernet header, bytes.
const ETHERNET: u32 = 14;
/// EtherType of IPv4 as `skb->protocol` has it.
const ETHERTYPE_IPV4: u32 = 0x0800u16.to_be() as u32;
/// EtherType of IPv6, likewise.
const ETHERTYPE_IPV6: u32 = 0x86ddu16.to_be() as u32;
