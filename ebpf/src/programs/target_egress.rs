//! The target's uplink, egress: what the server's kernel sends on migrated flows goes to the client in the VIP's
//! name.

use super::flow::handle;
use crate::skb::Skb;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use baton_shared::translate::Direction;

/// See [`baton_shared::translate::judge_egress`].
#[classifier]
pub(crate) fn target_egress(context: TcContext) -> i32 {
    // SAFETY: the context of this run.
    handle(unsafe { Skb::new(context.skb.skb) }, Direction::ToClient)
}
