//! How large a packet the way to a target takes, from what probes tell.

use crate::translate::Leg;

/// How many probes in a row must tell a larger one before it is believed: the router's answer may have been lost.
const TO_RAISE: u32 = 3;
/// No way is narrower (RFC 791, section 3.2); what says so is no way.
const LEAST: u32 = 68;
/// The largest packet there is.
const MOST: u32 = 65_535;

/// One way's MTU, bytes of IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    bytes: u32,
    /// The smallest of the larger ones told last, and how many those are.
    larger: (u32, u32),
}

impl PathMtu {
    /// From the first probe.
    pub const fn new(told: u32) -> Self {
        PathMtu { bytes: told, larger: (0, 0) }
    }

    /// A probe tells this. A smaller one is believed at once.
    pub fn on_probe(&mut self, told: u32) {
        if told <= self.bytes {
            *self = Self::new(told);
            return;
        }
        let (smallest, times) = self.larger;
        let smallest = if times == 0 { told } else { smallest.min(told) };
        self.larger = (smallest, times + 1);
        if times + 1 >= TO_RAISE {
            *self = Self::new(smallest);
        }
    }

    /// What is left for a client's packet in it: a record's `leg_mtu`.
    pub fn room(&self, leg: Leg, v4: bool) -> u32 {
        match self.bytes.saturating_sub(leg.overhead(v4)) {
            room if room >= MOST => 0,
            room => room.max(LEAST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_one_is_believed_at_once_and_a_larger_one_in_time() {
        let mut way = PathMtu::new(1500);
        let mut after = |told: u32| {
            way.on_probe(told);
            way.room(Leg::Rewrite, true)
        };
        assert_eq!(
            [1400, 1500, 1500, 1400, 1500, 1450, 1500, 1500].map(&mut after),
            [1400, 1400, 1400, 1400, 1400, 1400, 1450, 1450]
        );
        assert_eq!([1500, 1500].map(&mut after), [1450, 1500]);
        assert_eq!(after(1280), 1280);
    }

    #[test]
    fn what_the_leg_puts_in_front_is_taken_off() {
        for (leg, v4, room) in [
            (Leg::Rewrite, true, 1400),
            (Leg::Ipip, true, 1380),
            (Leg::Udp, true, 1372),
            (Leg::Ipip, false, 1360),
            (Leg::Udp, false, 1352),
        ] {
            assert_eq!(PathMtu::new(1400).room(leg, v4), room, "{leg:?}");
        }
        // Loopback's is no limit, and nonsense is no way.
        assert_eq!(PathMtu::new(65_536).room(Leg::Rewrite, true), 0);
        assert_eq!(PathMtu::new(3).room(Leg::Udp, false), LEAST);
    }
}
