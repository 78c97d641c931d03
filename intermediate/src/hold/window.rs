//! Held packets are given back as far as the server's window takes them.

use super::cut::PAYLOAD;
use super::{HeldFlow, HeldPacket, Hold, divide};
use baton_daemon::tun::Offload;
use baton_shared::packet::held::{facts, is_intact};
use baton_shared::seq::{Client, Seq};
use baton_shared::state::window::Window;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Hold {
    /// Gives the flow's packets to `write` in their order, up to the first that the window does not take, if there is one. Whether
    /// that was all and none such can come: then it holds no more of it. If not, what comes is held behind the rest.
    pub(crate) fn release_into(
        &self,
        flow: &Arc<HeldFlow>,
        window: &mut Window,
        ends: Ends,
        mut write: impl FnMut(&[u8], Offload),
    ) -> bool {
        loop {
            let mut queue = flow.queue();
            if let Some(end) = queue.newest_end {
                window.on_sent(end);
            }
            if let Some(end) = queue.fin_end {
                window.on_fin(end);
            }
            let Some(packet) = queue.packets.pop_front() else {
                queue.released |= !window.is_awaited();
                let over = queue.released;
                drop(queue);
                if over {
                    self.forget(flow);
                }
                return over;
            };
            let bytes = packet.bytes.len();
            if window.takes(packet.end()) {
                queue.bytes = queue.bytes.saturating_sub(bytes);
                self.account.leave(1, bytes);
                let next = queue.packets.front().filter(|next| window.takes(next.end()));
                if next.is_some_and(|next| is_said_again(&packet, next, ends)) {
                    self.said_again.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                drop(queue);
                write(&packet.bytes, packet.offload);
                continue;
            }
            match divided(&packet, window) {
                Some(parts) => {
                    let parts_bytes: usize = parts.iter().map(|part| part.bytes.len()).sum();
                    queue.bytes = queue.bytes.saturating_sub(bytes).saturating_add(parts_bytes);
                    self.account.leave(1, bytes);
                    for part in parts.into_iter().rev() {
                        self.account.enter(part.bytes.len());
                        queue.packets.push_front(part);
                    }
                }
                None => {
                    queue.packets.push_front(packet);
                    return false;
                }
            }
        }
    }
}

/// Which packets with no more than the end of the client's stream go on when they are given to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// All.
    All,
    /// That at this number; another may be kept.
    At(Seq<Client>),
}

/// Whether `next`, which goes on right behind `packet`, says all that it says.
fn is_said_again(packet: &HeldPacket, next: &HeldPacket, ends: Ends) -> bool {
    let Some((said, by)) = packet.said.as_ref().zip(next.said.as_ref()) else { return false };
    let goes_on = !by.is_end() || ends == Ends::All || ends == Ends::At(next.seq);
    goes_on && said.is_said_again_by(by)
}

/// A packet of which a part goes on by itself as packets of their own, and those of the rest behind them.
fn divided(packet: &HeldPacket, window: &Window) -> Option<Vec<HeldPacket>> {
    let front = window.room_for(packet.seq, packet.payload, u32::try_from(PAYLOAD).ok()?);
    if front == 0 {
        return None;
    }
    // What was corrupted on its way must stay so.
    if !packet.offload.is_checked() && !is_intact(&packet.bytes) {
        return None;
    }
    let (taken, rest) = divide(packet, packet.seq.plus(front), None)?;
    let taken = taken.iter().map(|part| Some(HeldPacket::new(part, Offload::default(), &facts(part)?)));
    Some(taken.collect::<Option<Vec<_>>>()?.into_iter().chain(rest).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's panic is its report")]

    use super::*;
    use crate::handoff::sample::captured;
    use crate::hold::{HoldLimits, PacketSink};
    use etherparse::PacketBuilder;
    use std::io;

    struct Nowhere;
    impl PacketSink for Nowhere {
        fn send(&self, _: Option<u32>, _: &[u8], _: Offload) -> io::Result<()> {
            panic!("nobody was to write it back")
        }
    }

    /// Before the numbers begin anew.
    const GIVEN: Seq<Client> = Seq::new(u32::MAX - 1000);

    fn packet(at: u32, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut bytes = Vec::new();
        ip.tcp(1000, 80, GIVEN.plus(at).raw(), 1000).ack(1).write(&mut bytes, payload).unwrap();
        bytes
    }

    /// Promised are 9000 bytes; the server's window is of `room`.
    fn window(room: u32) -> Window {
        let mut given = captured("10.0.0.1:1000", "10.0.0.2:80", GIVEN);
        given.rcv_wnd = 9000;
        Window::new(&given, GIVEN.plus(room), true)
    }

    /// What is let go into the window: where each packet begins and what it carries; and whether that was all.
    fn release(hold: &Hold, flow: &Arc<HeldFlow>, window: &mut Window) -> (Vec<(u32, Vec<u8>)>, bool) {
        let mut gone = Vec::new();
        let all = hold.release_into(flow, window, Ends::All, |packet, _| {
            assert!(is_intact(packet));
            let facts = facts(packet).unwrap();
            gone.push((Seq::new(facts.seq).since(GIVEN), facts.payload.to_vec()));
        });
        (gone, all)
    }

    #[test]
    fn what_reaches_beyond_the_window_is_held_with_all_behind_it_until_the_window_opens() {
        let hold = Hold::new(Arc::new(Nowhere), HoldLimits { per_flow: 100_000, total: 100_000 });
        let flow = hold.begin(facts(&packet(0, b"")).unwrap().key);
        let payload: Vec<u8> = (0..4000u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
        hold.on_packet(&packet(0, b"one"), Offload::default());
        hold.on_packet(&packet(3, &payload), Offload::default());
        hold.on_packet(&packet(4003, b"two"), Offload::default());
        let mut w = window(1000);
        assert_eq!(
            release(&hold, &flow, &mut w),
            (vec![(0, b"one".to_vec())], false),
            "a small part is not cut off"
        );
        w.on_told(GIVEN.plus(2600));
        let (gone, all) = release(&hold, &flow, &mut w);
        let [from, to] = [(3, payload[..1200].to_vec()), (1203, payload[1200..2400].to_vec())];
        assert_eq!((gone, all), (vec![from, to], false));
        hold.on_packet(&packet(4006, b"three"), Offload::default());
        w.on_told(GIVEN.plus(4006));
        let (gone, all) = release(&hold, &flow, &mut w);
        assert!(!all, "it is not the turn of what came last");
        let rest: Vec<u8> = gone.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        assert_eq!(rest, [&payload[2400..], b"two"].concat());
        // The client was told by the server that it may.
        hold.on_packet(&packet(9000, b"four"), Offload::default());
        let last = vec![(4006, b"three".to_vec()), (9000, b"four".to_vec())];
        assert_eq!(release(&hold, &flow, &mut w), (last, true));
        assert_eq!((hold.stats().packets, hold.stats().bytes), (0, 0));
    }

    #[test]
    fn a_flow_of_which_nothing_is_held_is_held_on_only_while_its_client_may_send_too_much() {
        let hold = Hold::new(Arc::new(Nowhere), HoldLimits { per_flow: 1000, total: 1000 });
        let flow = hold.begin(facts(&packet(0, b"")).unwrap().key);
        let mut w = window(8999);
        assert_eq!(release(&hold, &flow, &mut w), (Vec::new(), false));
        hold.on_packet(&packet(0, b"one"), Offload::default());
        w.give_up();
        assert_eq!(release(&hold, &flow, &mut w), (vec![(0, b"one".to_vec())], true));
    }

    /// Acknowledgement numbers, and whether it is the end, of what goes on of packets that were held.
    fn acknowledged(held: &[(u32, bool)], window: &mut Window, ends: Ends) -> Vec<(u32, bool)> {
        let hold = Hold::new(Arc::new(Nowhere), HoldLimits { per_flow: 100_000, total: 100_000 });
        let flow = hold.begin(facts(&packet(0, b"")).unwrap().key);
        for (ack, end) in held {
            let ip = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            let tcp = ip.tcp(1000, 80, GIVEN.raw(), 1000).ack(*ack);
            let mut bytes = Vec::new();
            if *end { tcp.fin() } else { tcp }.write(&mut bytes, b"").unwrap();
            hold.on_packet(&bytes, Offload::default());
        }
        let mut gone = Vec::new();
        hold.release_into(&flow, window, ends, |packet, _| {
            let facts = facts(packet).unwrap();
            gone.push((facts.ack.unwrap(), facts.fin));
        });
        let left = u64::try_from(held.len() - gone.len()).unwrap() - hold.stats().packets;
        assert_eq!(hold.stats().said_again, left, "what does not go on is counted");
        gone
    }

    #[test]
    fn acknowledgements_go_on_in_the_last_of_them_and_in_an_end_that_goes_on_at_once() {
        let held = [(10, false), (20, false), (20, true)];
        assert_eq!(acknowledged(&held, &mut window(1000), Ends::All), [(20, true)]);
        assert_eq!(acknowledged(&held, &mut window(1000), Ends::At(GIVEN)), [(20, true)]);
        let kept = [(20, false), (20, true)];
        assert_eq!(acknowledged(&held, &mut window(1000), Ends::At(GIVEN.plus(5))), kept, "the end is kept");
        assert_eq!(acknowledged(&held, &mut window(0), Ends::All), [(20, false)], "the window takes no end");
        let twice = [(10, false), (10, false), (10, false)];
        assert_eq!(acknowledged(&twice, &mut window(1000), Ends::All), twice, "the sender counts them");
    }
}
