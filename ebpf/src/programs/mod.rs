//! One program per hook.

mod flow;
mod intermediate_ingress;
mod target_egress;
mod tun_reinject;

/// Leave the packet to the next program of the hook, and to the stack after the last one.
const NEXT: i32 = -1;
/// Drop it.
const SHOT: i32 = 2;
/// Length of an Ethernet header, bytes.
const ETHERNET: u32 = 14;
