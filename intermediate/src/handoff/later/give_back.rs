//! A recalled flow goes to a socket here, and with it to the front.

use super::restore::{Returned, restore};
use super::state::{LaterFlow, Phase};
use super::turn::TakenBack;
use super::{Migrator, Noted, Router};
use crate::handoff::{FREEZE_MARGIN, Late, flow_id_text, late};
use crate::hold::cut::Fresh;
use crate::reset::Severed;
use baton_daemon::tun::Offload;
use baton_shared::reason::{CloseReason, ProxyReason, Refusal};
use std::sync::Arc;

impl Migrator {
    /// Makes a socket for the connection and gives it to the front, with what the client has sent.
    pub(super) async fn give_to_front(
        self: &Arc<Self>,
        flow: &Arc<LaterFlow>,
        mut hand: TakenBack,
        refused: Option<(ProxyReason, Option<Refusal>)>,
        noted: Noted,
    ) {
        if let Some((reason, refusal)) = refused {
            tracing::debug!(client = %flow.client(), %reason, ?refusal, "a later request is not handed on");
        }
        let router: Option<Arc<dyn Router>> = self.laters.router.get().cloned();
        let seat = router.and_then(|router| Some((router.seat(flow.vip())?, router)));
        let (connection, bytes, has_fin) = {
            let mut state = flow.lock();
            let mut connection = self.connection(flow, &mut state, &hand.answer);
            let owed = state.later.acknowledged().since(connection.rcv_nxt);
            let received = usize::try_from(owed).unwrap_or(0).min(state.later.bytes().len());
            let bytes = state.later.bytes().get(..received).unwrap_or_default().to_vec();
            // Its end cannot be given to a socket in repair mode, and the client does not say it again.
            let fin = state.later.owed_fin();
            connection.rcv_nxt = fin.unwrap_or_else(|| state.later.acknowledged());
            connection.rcv_wnd = connection.rcv_wnd.saturating_sub(owed);
            (connection, bytes, fin.is_some())
        };
        let nobody = || ("seat", std::io::Error::other("nobody listens on its address"));
        match seat.ok_or_else(nobody).and_then(|seat| Ok((restore(&connection)?, seat))) {
            Ok((stream, (seat, router))) => {
                {
                    let mut state = flow.lock();
                    state.phase = Phase::Gone;
                    // Its packets are the ordinary stack's from here on, those that are held too.
                    self.flows.give_back(hand.place.flow);
                    let fresh = Fresh {
                        ack: connection.snd_nxt.raw(),
                        tsval: connection.client_tsval,
                        tsecr: connection.vip_tsval,
                    };
                    self.make_fit(flow, &mut state, connection.rcv_nxt, fresh);
                    self.write_all_back(&mut state);
                    self.hold.release(&hand.held);
                    let end = Late { bytes: Vec::new(), fin: has_fin };
                    for packet in late::packets(&connection, &end) {
                        self.hold.write_back(None, &packet, Offload::default());
                    }
                }
                Self::count(&self.laters.counts.returned);
                router.take_back(Returned { stream, client: flow.client(), vip: flow.vip(), seat, bytes });
            }
            Err((step, e)) => {
                tracing::error!(client = %flow.client(), flow = %flow_id_text(hand.place.flow.flow_id),
                    "no socket for a connection that was taken back: {step}: {e}");
                flow.lock().phase = Phase::Gone;
                let target = flow.lock().target;
                let subject = self.subject(flow, hand.place.flow, target);
                self.history.record_closed(subject, CloseReason::RestoreFailed);
                self.log_lost(noted, hand.place.flow, CloseReason::RestoreFailed);
                self.flows.extend(&mut hand.place, FREEZE_MARGIN);
                self.resetter.reset_client(&Severed::from(&connection), &hand.held).await;
                self.flows.abandon(hand.place.flow);
                self.hold.discard(&hand.held);
            }
        }
    }
}
