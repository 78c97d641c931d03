//! The intermediate's uplink, ingress: the client's packets of migrated flows go on to their target.

use super::flow::handle;
use crate::skb::Skb;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use baton_shared::translate::Direction;

/// See [`baton_shared::translate::judge_ingress`].
#[classifier]
pub(crate) fn intermediate_ingress(context: TcContext) -> i32 {
    // SAFETY: the context of this run.
    handle(unsafe { Skb::new(context.skb.skb) }, Direction::FromClient)
}
