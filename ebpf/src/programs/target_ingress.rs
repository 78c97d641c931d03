//! The target's uplink, ingress: packets that intermediates have encapsulated come out of their outer header. On the
//! device only if the configuration names such an intermediate.

use super::leg::strip;
use crate::skb::Skb;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// See [`baton_shared::translate::judge_outer`].
#[classifier]
pub(crate) fn target_ingress(context: TcContext) -> i32 {
    // SAFETY: the context of this run.
    strip(unsafe { Skb::new(context.skb.skb) })
}
