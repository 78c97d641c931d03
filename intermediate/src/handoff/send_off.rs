//! Up to the handoff's sending: freeze, drain, capture, send. Nothing here waits.

use super::candidate::TrackedCandidate;
use super::flight::{Flight, Kept, Lap, TrackedFlight};
use super::lane;
use super::pending::Answers;
use super::repair::{Captured, Ends, Live};
use super::{FREEZE_MARGIN, HandoffSettings, Migrator, StageTimes, Subject};
use crate::flows::{BeginError, FlowIdentity, HashedKey, Place, flow_key};
use crate::hold::HeldFlow;
use crate::socket::Socket;
use crate::targets::{NotSent, Target, TargetId};
use baton_shared::capture::CapturedConnection;
use baton_shared::control::{Handoff as HandoffMessage, Message, TrackedRequest};
use baton_shared::http::{BodyScanner, Framing, GateRule};
use baton_shared::reason::{ProxyReason, Refusal};
use baton_shared::record::FlowRecord;
use baton_shared::state::adopt::is_adoptable;
use baton_shared::state::commit;
use baton_shared::state::later::pass_content;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Migrator {
    /// Freeze, drain, capture, send: synchronous, ends with the handoff in the channel's hands.
    #[expect(clippy::too_many_arguments, reason = "one call")]
    pub(super) fn send_off<'a>(
        &'a self,
        (stream, syn_tsval): (Socket, Option<u32>),
        ends: Ends,
        id: TargetId,
        (request, announced): (&mut Vec<u8>, u64),
        tracked: Option<TrackedCandidate>,
        subject: &mut Subject,
        times: &mut StageTimes,
    ) -> Result<(Box<Flight<'a>>, Answers<'a>), Kept> {
        let keep = |stream, reason| Kept { stream: Some(stream), reason, refusal: None, extra: Vec::new() };
        let Some(target) = self.targets.get(id).filter(|t| t.takes_handoffs()) else {
            return Err(keep(stream, ProxyReason::NoAgent));
        };
        let Some(server) = target.spec.servers.for_vip(ends.vip) else {
            return Err(keep(stream, ProxyReason::AddressFamily));
        };
        let settings = self.settings.load();
        let limit = settings.prefetch_bytes;
        if request.len() > limit {
            return Err(keep(stream, ProxyReason::PrefetchTooLarge));
        }
        let live = Live::new(stream, syn_tsval);
        let mut lap = Lap::new();
        let (mut place, held) = match self.freeze(ends, &target, server, &subject.request, &settings) {
            Ok(frozen) => frozen,
            Err(e) => {
                tracing::debug!(client = %ends.client, error = %e, "not frozen");
                return Err(keep(live.into_stream(), proxy_reason(&e)));
            }
        };
        place.record.flags |= target.spec.leg.flags();
        subject.flow_id = Some(place.flow.flow_id);
        times.freeze = lap.lap();

        // Behind a request without a body there is mostly nothing, and what there is after all the capture finds.
        let whole = tracked.is_some_and(|tracked| tracked.framing == Framing::None);
        let drained = if whole { Ok(()) } else { live.drain(request, limit) };
        times.drain = lap.lap();
        let captured = match drained {
            Ok(()) => live.capture(ends, request, limit),
            Err(e) => Err((live, e)),
        };
        times.capture = lap.lap();
        let captured = captured.map_err(|(live, e)| {
            tracing::debug!(client = %ends.client, reason = %e.reason, detail = %e.detail, "not captured");
            self.unfreeze(&place, &held);
            keep(live.into_stream(), e.reason)
        })?;

        let more = u64::try_from(request.len()).unwrap_or(u64::MAX) < announced;
        let mut connection = captured.connection.clone();
        let following = tracked.map(|tracked| follow(tracked, &mut connection, request));
        let readable = !matches!(following, Some(Err(_)));
        let following = following.and_then(Result::ok);
        let ahead = (target.is_expected_to_adopt() && is_adoptable(&connection)).then(|| connection.clone());
        let message = Message::Handoff(Box::new(HandoffMessage {
            flow: place.flow,
            deadline_ms: u32::try_from(settings.deadline.as_millis()).unwrap_or(u32::MAX),
            server,
            connection,
            acknowledged: captured.connection.rcv_nxt,
            // Where the last response ends its server says by closing.
            tracked: tracked.filter(|t| !t.last).map(|tracked| TrackedRequest { head: tracked.head }),
            // Kept here too: if the agent refuses, it is proxied.
            request: request.clone(),
        }));
        self.prefetched.fetch_add(u64::try_from(request.len()).unwrap_or(0), Ordering::Relaxed);
        let flow = place.flow;
        let told = self.pending.register(flow, id);
        // Boxed: it goes through several hands.
        let mut flight = Box::new(Flight {
            migrator: self,
            place,
            held,
            captured: Some(captured),
            tracked: following,
            more,
        });
        if !readable {
            return Err(self.stay(&mut flight, ProxyReason::BadBody, None));
        }
        if let Some(given) = ahead {
            let record = FlowRecord { out_ifindex: settings.out_ifindex, ..flight.place.record };
            self.flows.let_ahead(&mut flight.place, &commit::ahead(&record, &given));
        }
        match target.send_of(flow, message) {
            Ok(()) => Ok((flight, told)),
            Err(not_sent) => Err(self.stay(
                &mut flight,
                match not_sent {
                    NotSent::Down => ProxyReason::NoAgent,
                    NotSent::Busy => ProxyReason::ChannelBusy,
                },
                None,
            )),
        }
    }

    /// The client's packets go to the hold queue from here on.
    fn freeze(
        &self,
        ends: Ends,
        target: &Target,
        server: SocketAddr,
        request: &str,
        settings: &HandoffSettings,
    ) -> Result<(Place, Arc<HeldFlow>), BeginError> {
        let key = HashedKey::from(flow_key(ends.client, ends.vip));
        let lane = target.agent.lane_for(lane::current().unwrap_or_default());
        let identity = FlowIdentity { key, target: target.id, server, request, lane };
        // Before the key is in force: no diverted packet may find the queue missing.
        let held = self.hold.begin(key);
        let freeze = settings.freeze.max(settings.deadline + FREEZE_MARGIN / 4);
        match self.flows.begin(identity, freeze) {
            Ok(place) => Ok((place, held)),
            Err(e) => {
                self.hold.release(&held);
                Err(e)
            }
        }
    }

    /// The client's packets go to the ordinary stack again, held ones too.
    pub(super) fn unfreeze(&self, place: &Place, held: &Arc<HeldFlow>) {
        self.flows.abandon(place.flow);
        self.hold.release(held);
    }

    /// Back to ordinary use: the socket first, so that what is written back finds it awake.
    pub(super) fn stay(
        &self,
        flight: &mut Flight<'_>,
        reason: ProxyReason,
        refusal: Option<Refusal>,
    ) -> Kept {
        let stream = flight.captured.take().and_then(Captured::resume);
        self.unfreeze(&flight.place, &flight.held);
        let extra = flight.tracked.take().map(|tracked| tracked.extra).unwrap_or_default();
        Kept { stream, reason, refusal, extra }
    }
}

/// Divides what was received into the first request and what follows it; `connection` is with the first one alone. The error:
/// its body is none.
fn follow(
    tracked: TrackedCandidate,
    connection: &mut CapturedConnection,
    request: &mut Vec<u8>,
) -> Result<TrackedFlight, GateRule> {
    let mut body = BodyScanner::new(tracked.framing);
    let taken = body.advance(request.get(tracked.head_bytes..).unwrap_or_default())?;
    let extra = request.split_off(tracked.head_bytes.saturating_add(taken).min(request.len()));
    let received = connection.rcv_nxt.minus(u32::from(connection.client_fin));
    let end = received.minus(u32::try_from(extra.len()).unwrap_or(0));
    if !extra.is_empty() {
        // The end of what nobody gets is the server's to know; that of a later request is given along with it.
        connection.client_fin &= tracked.last;
        connection.rcv_nxt = end.plus(u32::from(connection.client_fin));
    }
    let end = end.plus(pass_content(&mut body));
    Ok(TrackedFlight { end, body, extra, last: tracked.last })
}

fn proxy_reason(error: &BeginError) -> ProxyReason {
    match error {
        BeginError::Full => ProxyReason::TableFull,
        BeginError::Alive(_) => ProxyReason::ConnectionState,
        BeginError::Os(_) => ProxyReason::CaptureFailed,
    }
}
