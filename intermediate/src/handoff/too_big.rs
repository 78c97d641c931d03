//! Client packets larger than the way to their target takes: the client is told so, as a router in front of the narrow link
//! would tell it if it knew whose address to speak with.

use crate::hold::PacketSink;
use crate::raw::RawSender;
use baton_daemon::tun::{Offload, Tun};
use baton_loader::Plane;
use baton_shared::packet::{held, too_big};
use baton_shared::record::FlowState;
use baton_shared::translate::exceeds_leg;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No way is narrower: shorter packets need no look.
const LEAST: u32 = 68;
/// Clients are told this often in a second at most, as by Linux (`net.ipv4.icmp_msgs_per_sec`).
const PER_SECOND: u32 = 1000;

/// The hold TUN, for writing; looks at what is written back.
#[derive(Debug)]
pub struct LegSink {
    tun: Arc<Tun>,
    plane: Arc<Plane>,
    raw: RawSender,
    /// The second under way, and how many were told in it.
    told: Mutex<(Instant, u32)>,
}

impl LegSink {
    /// In front of the device, over the flows of a plane.
    pub fn new(tun: Arc<Tun>, plane: Arc<Plane>) -> Self {
        LegSink { tun, plane, raw: RawSender::new(), told: Mutex::new((Instant::now(), 0)) }
    }

    /// The MTU to tell the client of this packet, if it is to be told.
    fn too_big_for(&self, slot: Option<u32>, packet: &[u8], offload: Offload) -> Option<u32> {
        let slots = self.plane.slots();
        // Nearly all are shorter: those need no closer look.
        let most = slot.map_or(LEAST, |slot| slots.leg_mtu(slot));
        if most == 0 || u32::try_from(packet.len()).is_ok_and(|bytes| bytes <= most) {
            return None;
        }
        let mut facts = held::facts(packet)?;
        if let Some(payload) = offload.segment_bytes() {
            let headers = facts.segment.packet.saturating_sub(facts.segment.payload);
            facts.segment.packet = facts.segment.packet.min(headers.saturating_add(payload));
        }
        let slot = slot.map_or_else(|| self.plane.lookup(&facts.key), |slot| Ok(Some(slot))).ok()??;
        let record = slots.read(slot);
        let on_its_way = matches!(FlowState::from_raw(record.state), FlowState::Committed | FlowState::Ended);
        (on_its_way && record.key == facts.key && exceeds_leg(&record, &facts.segment))
            .then_some(record.leg_mtu)
    }

    fn may_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(told.0) >= Duration::from_secs(1) {
            *told = (now, 0);
        }
        told.1 += 1;
        told.1 <= PER_SECOND
    }
}

impl PacketSink for LegSink {
    fn send(&self, slot: Option<u32>, packet: &[u8], offload: Offload) -> io::Result<()> {
        if let Some(mtu) = self.too_big_for(slot, packet, offload).filter(|_| self.may_tell())
            && let Some((answer, client)) = too_big::answer(packet, mtu)
            && let Err(e) = self.raw.send(&answer, client)
        {
            tracing::debug!(%client, error = %e, "a client could not be told that its packet is too big");
        }
        // Also then: the program counts it as come back, and drops it.
        self.tun.send_back(packet, offload).map(drop)
    }
}
