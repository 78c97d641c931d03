//! How the servers fare: counted as things happen, looked up once a second, told to the intermediates.

mod netstat;
mod responses;

use responses::Seen;
pub(crate) use responses::{RESPONSE_TICK, Responses};

use crate::flows::slot_set::Round;
use crate::flows::table::{PeerId, Table};
use crate::serve::Engine;
use baton_daemon::metrics::seconds;
use baton_shared::control::{Message, ServerLoad};
use baton_shared::reason::{EndReason, Refusal};
use prometheus_client::metrics::histogram::Histogram;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

/// How often the kernel is asked and reports go out, ns.
const INTERVAL_NS: u64 = 1_000_000_000;
/// An unchanged report is said again after so many intervals: the intermediate knows then that it is not old.
const REPEAT_AFTER: u32 = 10;
/// How many flows' sockets are looked at in one interval.
const SAMPLES: u32 = 64;
/// How many flows' records are looked at in one interval, for their bytes.
const RECORDS: u32 = 4096;

/// What is known of one server; the numbers of flows are filled in for each intermediate.
#[derive(Debug)]
struct Server {
    load: ServerLoad,
    /// What the sockets that listen now have dropped.
    drops: u64,
}

/// What was last told to one intermediate of one server.
#[derive(Debug)]
struct Told {
    load: ServerLoad,
    intervals_ago: u32,
}

/// All servers of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    servers: BTreeMap<SocketAddr, Server>,
    told: HashMap<(PeerId, SocketAddr), Told>,
    pub(crate) responses: Responses,
    next_ns: u64,
    /// Where the next sampling of sockets begins.
    sample_from: u32,
    /// And the next look at records.
    bytes_from: u32,
}

/// What a flow had counted when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampled {
    /// Its socket: segments, and those of them sent again. `None`: unknown, from before this run.
    socket: Option<(u32, u32)>,
    /// Its record, bytes.
    bytes: u64,
}

impl Default for Sampled {
    /// Of a flow that begins.
    fn default() -> Self {
        Sampled { socket: Some((0, 0)), bytes: 0 }
    }
}

impl Sampled {
    /// Of a flow taken over from an earlier run, which has told of all until now.
    pub(crate) fn taken_over(bytes: u64) -> Self {
        Sampled { socket: None, bytes }
    }

    /// What its socket's segments, and those of them sent again, have grown by since.
    fn socket_grown(&mut self, segments: u32, retransmitted: u32) -> (u32, u32) {
        let (before, again_before) =
            self.socket.replace((segments, retransmitted)).unwrap_or((segments, retransmitted));
        (segments.wrapping_sub(before), retransmitted.wrapping_sub(again_before))
    }

    /// What a record's bytes have grown by since.
    pub(crate) fn grown(&mut self, bytes: u64) -> u64 {
        let grown = bytes.saturating_sub(self.bytes);
        self.bytes = bytes;
        grown
    }
}

impl Loads {
    /// For these servers.
    pub(crate) fn new(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let server = |address| (address, Server { load: ServerLoad::of(address), drops: 0 });
        Loads { servers: servers.into_iter().map(server).collect(), ..Loads::default() }
    }

    /// The servers' numbers as they stand, without those of single intermediates.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ServerLoad> {
        self.servers.values().map(|server| &server.load)
    }

    fn of(&mut self, server: SocketAddr) -> Option<&mut ServerLoad> {
        self.servers.get_mut(&server).map(|server| &mut server.load)
    }

    /// A handoff to it was refused.
    pub(crate) fn on_refused(&mut self, server: SocketAddr, reason: Refusal) {
        if matches!(reason, Refusal::ServerRefused | Refusal::ServerSilent)
            && let Some(load) = self.of(server)
        {
            load.refused += 1;
        }
    }

    /// A flow on it has ended, and had sent so many bytes since it was last looked at.
    pub(crate) fn on_end(&mut self, server: SocketAddr, reason: EndReason, bytes: u64) {
        if let Some(load) = self.of(server) {
            load.bytes += bytes;
            load.ended += 1;
            load.resets += u64::from(reason == EndReason::ServerReset);
        }
    }

    /// A new session of an intermediate: it is told all.
    pub(crate) fn on_session(&mut self, peer: PeerId) {
        self.told.retain(|(told, _), _| *told != peer);
    }

    /// Whether an intermediate is to be told this.
    fn is_news(&mut self, peer: PeerId, load: &ServerLoad) -> bool {
        let told = self.told.entry((peer, load.server));
        let mut news = false;
        let told = told.or_insert_with(|| {
            news = true;
            Told { load: load.clone(), intervals_ago: 0 }
        });
        told.intervals_ago += 1;
        if told.load != *load || told.intervals_ago > REPEAT_AFTER {
            *told = Told { load: load.clone(), intervals_ago: 0 };
            news = true;
        }
        news
    }
}

impl Engine {
    /// Responses that have begun, and once a second the kernel's numbers and the reports.
    pub(crate) fn see_to_loads(&mut self, table: &mut Table, now: u64) {
        self.take_response_times(table, now);
        if now < table.loads.next_ns {
            return;
        }
        table.loads.next_ns = now.saturating_add(INTERVAL_NS);
        self.look_at_listeners(table);
        self.look_at_sockets(table);
        self.look_at_records(table);
        self.tell(table);
    }

    fn take_response_times(&mut self, table: &mut Table, now: u64) {
        let mut responses = std::mem::take(&mut table.loads.responses);
        let slots = self.shared.plane.slots();
        responses.look(now, |slot, who| {
            // The slot may have another flow by now.
            let flow = table.get(slot).filter(|flow| flow.who == *who)?;
            let begun = slots.bytes(slot) > 0;
            Some(Seen { server: flow.server, begun, last_seen_ns: slots.last_seen_ns(slot) })
        });
        // Most are of one server.
        let mut last: Option<(SocketAddr, Histogram)> = None;
        for (server, micros) in responses.taken() {
            let (_, times) = match &mut last {
                Some(known) if known.0 == server => known,
                other => other.insert((server, self.shared.metrics.responses(server))),
            };
            times.observe(seconds(micros));
            if let Some(load) = table.loads.of(server) {
                load.responses += 1;
                load.response_us += micros;
            }
        }
        table.loads.responses = responses;
    }

    fn look_at_listeners(&mut self, table: &mut Table) {
        let overflows = netstat::listen_overflows();
        for (address, server) in &mut table.loads.servers {
            if let Some(overflows) = overflows {
                server.load.host_overflows = overflows;
            }
            match self.diag.listeners(*address) {
                Ok(listening) => {
                    server.load.listening = listening.sockets > 0;
                    server.load.accept_queue = listening.queue;
                    server.load.accept_limit = listening.limit;
                    // A restarted server's sockets count from zero; the report's number must not fall.
                    let grown = listening.drops.checked_sub(server.drops).unwrap_or(listening.drops);
                    server.load.listen_drops += grown;
                    server.drops = listening.drops;
                }
                Err(e) => tracing::error!(server = %address, "sock_diag, listening sockets: {e}"),
            }
        }
    }

    /// Looks at some of the live flows' sockets, others each time.
    fn look_at_sockets(&mut self, table: &mut Table) {
        let mut round = Round::new(table.loads.sample_from);
        let mut rtts: HashMap<SocketAddr, (u64, u64)> = HashMap::new();
        let mut samples = 0;
        while let Some(slot) = table.next_live(&mut round) {
            let Some(flow) = table.get_mut(slot).filter(|flow| !flow.is_in_hand()) else { continue };
            let (ends, server) = (flow.ends, flow.server);
            if let Ok(Some(info)) = self.diag.tcp_info(ends.server(), ends.client()) {
                let (segments, retransmitted) = flow.sampled.socket_grown(info.segments, info.retransmitted);
                if let Some(load) = table.loads.of(server) {
                    load.segments += u64::from(segments);
                    load.retransmitted += u64::from(retransmitted);
                }
                let (sum, number) = rtts.entry(server).or_default();
                *sum += u64::from(info.rtt_us);
                *number += 1;
            }
            samples += 1;
            if samples >= SAMPLES {
                table.loads.sample_from = slot.saturating_add(1);
                break;
            }
        }
        for (server, (sum, number)) in rtts {
            if let Some(load) = table.loads.of(server) {
                load.rtt_us = u32::try_from(sum / number.max(1)).unwrap_or(u32::MAX);
            }
        }
    }

    /// Looks at some of the live flows' records, others each time, for what their servers have sent.
    fn look_at_records(&mut self, table: &mut Table) {
        let mut round = Round::new(table.loads.bytes_from);
        let slots = self.shared.plane.slots();
        let mut looked = 0;
        while let Some(slot) = table.next_live(&mut round) {
            let Some(flow) = table.get_mut(slot) else { continue };
            let (server, grown) = (flow.server, flow.sampled.grown(slots.read(slot).bytes));
            if let Some(load) = table.loads.of(server) {
                load.bytes += grown;
            }
            looked += 1;
            if looked >= RECORDS {
                table.loads.bytes_from = slot.saturating_add(1);
                break;
            }
        }
    }

    fn tell(&mut self, table: &mut Table) {
        let mut flows: HashMap<(PeerId, SocketAddr), u32> = HashMap::new();
        let mut all: HashMap<SocketAddr, u32> = HashMap::new();
        for (peer, server, count) in table.live_of() {
            flows.insert((peer, server), count);
            *all.entry(server).or_default() += count;
        }
        for (server, known) in &mut table.loads.servers {
            known.load.all_flows = all.get(server).copied().unwrap_or(0);
        }
        let mut pairs: Vec<(PeerId, SocketAddr)> =
            self.shared.policy.allowed().map(|(peer, _, server)| (peer, server)).collect();
        pairs.sort_unstable_by_key(|(peer, server)| (peer.0, *server));
        pairs.dedup();
        for (peer, server) in pairs {
            let Some(session) = table.session_of(peer) else { continue };
            let Some(load) = table.loads.of(server) else { continue };
            let load = ServerLoad { flows: flows.get(&(peer, server)).copied().unwrap_or(0), ..load.clone() };
            if table.loads.is_news(peer, &load) {
                self.send(session, Message::Load(Box::new(load)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "192.0.2.1:80";

    #[test]
    fn a_report_is_sent_when_it_changed_when_it_is_old_and_to_each_new_session() {
        let server: SocketAddr = SERVER.parse().unwrap();
        let mut loads = Loads::new([server]);
        let (one, other) = (PeerId(0), PeerId(1));
        let load = ServerLoad::of(server);
        assert!(loads.is_news(one, &load));
        assert!(loads.is_news(other, &load), "each intermediate has its own");
        let quiet = (0..REPEAT_AFTER).filter(|_| loads.is_news(one, &load)).count();
        assert_eq!(quiet, 1, "said again once in that time");
        assert!(loads.is_news(one, &ServerLoad { flows: 1, ..load.clone() }));
        assert!(!loads.is_news(one, &ServerLoad { flows: 1, ..load.clone() }));
        loads.on_session(one);
        assert!(loads.is_news(one, &ServerLoad { flows: 1, ..load.clone() }));
    }

    #[test]
    fn a_flow_counts_from_its_beginning_and_one_taken_over_from_then_on() {
        let (mut begun, mut taken) = (Sampled::default(), Sampled::taken_over(1000));
        assert_eq!((begun.grown(1500), taken.grown(1500)), (1500, 500));
        assert_eq!((begun.socket_grown(9, 2), taken.socket_grown(9, 2)), ((9, 2), (0, 0)));
        assert_eq!((begun.socket_grown(11, 3), taken.socket_grown(11, 3)), ((2, 1), (2, 1)));
    }

    #[test]
    fn only_the_servers_own_refusals_and_resets_count_against_it() {
        let server: SocketAddr = SERVER.parse().unwrap();
        let mut loads = Loads::new([server]);
        for reason in Refusal::ALL {
            loads.on_refused(server, *reason);
        }
        for reason in EndReason::ALL {
            loads.on_end(server, *reason, 2);
        }
        loads.on_end("192.0.2.9:80".parse().unwrap(), EndReason::Finished, 100);
        let load = loads.all().next().unwrap();
        assert_eq!((load.refused, load.resets), (2, 1));
        assert_eq!(load.ended, u64::try_from(EndReason::ALL.len()).unwrap());
        assert_eq!(load.bytes, 2 * load.ended);
    }
}
