//! A captured packet and what the data plane made, or makes, of it: the same judge and the same translation, over a copy.
//!
//! The record is read a moment after the program had read it. A packet of the very moment at which a record changes can
//! be told with the verdict of the next.

use super::filter::{Client, ends};
use super::known::{Known, Records};
use baton_shared::control::flow_id_text;
use baton_shared::packet::headers::read;
use baton_shared::packet::inside::inside;
use baton_shared::reason::PacketCounter;
use baton_shared::record::{FLAG_OWN_SCALE, FlowKey, FlowRecord, FlowState};
use baton_shared::translate::adopt::is_adopted;
use baton_shared::translate::fragments::FragmentKey;
use baton_shared::translate::{Action, Direction, inverse};
use baton_userspace::{Flows, Handled, carry};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// On its way to the rewrite, or to no rewrite at all.
    Before,
    /// Behind it.
    After,
    /// Before it, made again from what came behind it.
    Reconstructed,
    /// On the daemon's own device.
    Daemon,
}

impl Moment {
    /// Its name in the answer.
    pub const fn name(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::After => "after",
            Moment::Reconstructed => "reconstructed",
            Moment::Daemon => "daemon",
        }
    }
}

/// A packet for the capture's file.
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) moment: Moment,
    pub(super) packet: Vec<u8>,
    pub(super) comment: String,
}

/// A flow table that lets itself be read by the judge, and notes what he says.
struct Noting<'a, R> {
    records: &'a Known<R>,
    instead: Option<FlowRecord>,
    found: Cell<Option<FlowRecord>>,
    counted: RefCell<Vec<PacketCounter>>,
}

impl<'a, R: Records> Noting<'a, R> {
    fn new(records: &'a Known<R>, instead: Option<FlowRecord>) -> Self {
        Noting { records, instead, found: Cell::new(None), counted: RefCell::default() }
    }
}

impl<R: Records> Flows for Noting<'_, R> {
    fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)> {
        let found = match self.instead {
            Some(record) => Some((0, record)),
            None => self.records.find(key),
        };
        self.found.set(found.map(|(_, record)| record));
        found
    }

    fn book(&self, _: u32, _: &Handled<'_>) {}

    // Whether it is still in force only the program knows; mostly it is.
    fn ruling(&self) -> u32 {
        self.found.get().map_or(0, |record| record.ruling())
    }

    fn copy(&self, _: &[u8]) {}

    // Fragments without ports belong to no client that could be asked for.
    fn dropped_first(&self, _: &FragmentKey) -> Option<u64> {
        None
    }

    fn remember_first(&self, _: &FragmentKey, _: Option<u64>) {}

    fn count(&self, code: u32) {
        self.counted.borrow_mut().extend(PacketCounter::from_code(code));
    }
}

fn flow(record: &FlowRecord) -> String {
    format!("flow {} {}", flow_id_text(record.flow_id), FlowState::from_raw(record.state).name())
}

fn rewrite(record: &FlowRecord) -> String {
    let signed = |delta: u32| format!("{:+}", delta.cast_signed());
    format!(
        "address {}, seq {}, ack {}, timestamp {} echo {}",
        record.rewritten_addr(),
        signed(record.seq_delta),
        signed(record.ack_delta),
        signed(record.tsval_delta),
        signed(record.tsecr_delta),
    )
}

/// The judge's verdict on a packet, in words.
fn verdict(records: &Known<impl Records>, direction: Direction, packet: &[u8]) -> String {
    let noting = Noting::new(records, None);
    let mut copy = packet.to_vec();
    let action = carry(&noting, direction, &mut copy, false, records.records.now_ns());
    let names: Vec<&str> = noting.counted.borrow().iter().map(|counter| counter.name()).collect();
    let counted = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
    match noting.found.get() {
        None => format!("no flow: passed to the ordinary stack{counted}"),
        Some(record) => {
            let done = match action {
                Action::Pass => "passed to the ordinary stack".to_owned(),
                Action::Translate => format!("translated: {}", rewrite(&record)),
                Action::Divert => "diverted to the daemon".to_owned(),
                Action::Drop => "DROPPED".to_owned(),
            };
            format!("{}: {done}{counted}", flow(&record))
        }
    }
}

/// Of a packet on the uplink.
pub(super) fn uplink(
    records: &Known<impl Records>,
    direction: Direction,
    client: &Client,
    packet: &[u8],
    leaving: bool,
) -> Vec<Explained> {
    let seen = |moment, comment| vec![Explained { moment, packet: packet.to_vec(), comment }];
    // Of an encapsulated packet the inner one is told of.
    let (plain, outer) = match (ends(packet), inside(packet)) {
        (None, Some(inside)) => (inside, "encapsulated, "),
        _ => (packet, ""),
    };
    let Some((from, to)) = ends(plain) else {
        return seen(Moment::Before, format!("{outer}no TCP segment that can be read"));
    };
    match (direction, leaving) {
        (Direction::FromClient, false) if client.is(from) => {
            seen(Moment::Before, format!("intermediate: {}", verdict(records, direction, plain)))
        }
        (Direction::FromClient, false) => {
            seen(Moment::Before, "intermediate: not from the client; to the ordinary stack".to_owned())
        }
        (Direction::FromClient, true) if client.is(from) => {
            let of = records.of_client(from).map_or_else(|| "a flow that is gone".to_owned(), |r| flow(&r));
            seen(Moment::After, format!("intermediate: {outer}on its way to server {to}; {of}"))
        }
        (Direction::FromClient, true) => {
            seen(Moment::After, "intermediate: sent by a socket of this host".to_owned())
        }
        (Direction::ToClient, false) => {
            let of = records.of_client(from).map_or_else(
                || "no flow: to the ordinary stack".to_owned(),
                |record| {
                    let adopted =
                        if is_adopted(&record) { "; gets the VIP back as its destination" } else { "" };
                    format!("{}{adopted}", flow(&record))
                },
            );
            seen(Moment::Before, format!("target: {outer}arrived for {to}; {of}"))
        }
        (Direction::ToClient, true) => left(records, plain, from, to),
    }
}

/// What a target sent: as it is, and as the server's kernel had sent it.
fn left(records: &Known<impl Records>, packet: &[u8], from: SocketAddr, to: SocketAddr) -> Vec<Explained> {
    let after = |comment| Explained { moment: Moment::After, packet: packet.to_vec(), comment };
    let Some(record) = records.of_client(to) else {
        return vec![after("target: sent by a socket of this host, no flow".to_owned())];
    };
    if is_adopted(&record) {
        let how = if record.flags & FLAG_OWN_SCALE == 0 {
            "as it is"
        } else {
            "its window put into the scale promised to the client"
        };
        return vec![after(format!("target: {}, adopted: sent by its socket, {how}", flow(&record)))];
    }
    if from != record.rewritten_addr() {
        return vec![after(format!("target: {}, sent without a rewrite from {from}", flow(&record)))];
    }
    let told = after(format!("target: {}: rewritten: {}", flow(&record), rewrite(&record)));
    let Some((_, segment, _)) = read(packet, Direction::ToClient) else { return vec![told] };
    let noting = Noting::new(records, Some(inverse(&record, segment.ack)));
    let mut before = packet.to_vec();
    let now = records.records.now_ns();
    if carry(&noting, Direction::ToClient, &mut before, false, now) != Action::Translate {
        return vec![told];
    }
    let server = record.key.local_addr();
    let comment = format!("target: {}: as server {server} had sent it, made again", flow(&record));
    vec![Explained { moment: Moment::Reconstructed, packet: before, comment }, told]
}

/// Of a packet on the daemon's own device. What leaves by it goes to the daemon.
pub(super) fn tun(
    records: &Known<impl Records>,
    direction: Direction,
    packet: &[u8],
    leaving: bool,
) -> Explained {
    let key = match direction {
        Direction::FromClient => read(packet, Direction::FromClient),
        Direction::ToClient => {
            read(packet, if leaving { Direction::ToClient } else { Direction::FromClient })
        }
    };
    let of =
        key.and_then(|(key, ..)| records.find(&key)).map_or_else(|| "no flow".to_owned(), |(_, r)| flow(&r));
    let what = match (direction, leaving) {
        (Direction::FromClient, true) => "intermediate: held",
        (Direction::FromClient, false) => "intermediate: released from the hold queue",
        (Direction::ToClient, true) => "target: diverted to the agent",
        (Direction::ToClient, false) => "target: sent by the agent in the client's name",
    };
    Explained { moment: Moment::Daemon, packet: packet.to_vec(), comment: format!("{what}; {of}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::addr::PortWord;
    use baton_shared::record::FLAG_ADOPTED;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use std::collections::HashMap;
    use std::net::IpAddr;

    struct One(FlowRecord);

    impl Records for One {
        fn lookup(&self, key: &FlowKey) -> Option<u32> {
            (self.0.key == *key).then_some(7)
        }

        fn read(&self, _: u32) -> FlowRecord {
            self.0
        }

        fn slots_of(&self, ip: IpAddr) -> HashMap<SocketAddr, u32> {
            let client = self.0.key.remote_addr();
            HashMap::from_iter((client.ip() == ip).then_some((client, 7)))
        }

        fn now_ns(&self) -> u64 {
            1
        }
    }

    const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 1000);
    const VIP: ([u8; 4], u16) = ([10, 0, 0, 2], 80);
    const SERVER: ([u8; 4], u16) = ([10, 0, 0, 3], 8080);

    fn packet(from: ([u8; 4], u16), to: ([u8; 4], u16), seq: u32, ack: u32) -> Vec<u8> {
        let builder = PacketBuilder::ipv4(from.0, to.0, 64).tcp(from.1, to.1, seq, 1000).ack(ack);
        let mut packet = Vec::new();
        builder.write(&mut packet, b"body").unwrap();
        packet
    }

    fn one(local: ([u8; 4], u16), new: ([u8; 4], u16), seq_delta: u32, ack_delta: u32) -> Known<One> {
        Known::new(One(record(local, new, seq_delta, ack_delta)))
    }

    fn record(local: ([u8; 4], u16), new: ([u8; 4], u16), seq_delta: u32, ack_delta: u32) -> FlowRecord {
        let ip = |address: [u8; 4]| IpAddr::from(address).into();
        FlowRecord {
            flow_id: 0xab,
            key: FlowKey {
                remote: ip(CLIENT.0),
                remote_port: PortWord::new(CLIENT.1),
                local: ip(local.0),
                local_port: PortWord::new(local.1),
            },
            state: FlowState::Committed as u32,
            new_addr: ip(new.0),
            new_port: PortWord::new(new.1),
            seq_delta,
            ack_delta,
            ..FlowRecord::default()
        }
    }

    fn client() -> Client {
        Client::parse("10.0.0.1:1000").unwrap()
    }

    #[test]
    fn on_the_intermediate_a_packet_is_told_with_its_verdict() {
        let records = one(VIP, SERVER, 0, 5);
        let told = |packet: &[u8], leaving| {
            let mut all = uplink(&records, Direction::FromClient, &client(), packet, leaving);
            assert_eq!(all.len(), 1);
            let one = all.remove(0);
            assert_eq!(one.packet, packet, "what is shown is what was seen");
            (one.moment, one.comment)
        };
        let (moment, comment) = told(&packet(CLIENT, VIP, 1, 2), false);
        assert_eq!(moment, Moment::Before);
        assert_eq!(
            comment,
            "intermediate: flow 00000000000000ab committed: translated: address 10.0.0.3:8080, seq +0, ack +5, timestamp +0 echo +0 (translated)"
        );
        let (moment, comment) = told(&packet(CLIENT, SERVER, 1, 7), true);
        assert_eq!((moment, comment.contains("on its way to server 10.0.0.3:8080")), (Moment::After, true));
        let (_, comment) = told(&packet(CLIENT, ([10, 0, 0, 2], 81), 1, 2), false);
        assert_eq!(comment, "intermediate: no flow: passed to the ordinary stack");
    }

    #[test]
    fn on_the_target_what_the_server_had_sent_is_made_again_with_right_checksums() {
        let records = one(SERVER, VIP, 1000, 20);
        let sent = packet(VIP, CLIENT, 1500, 2020);
        let told = uplink(&records, Direction::ToClient, &client(), &sent, true);
        assert_eq!(
            told.iter().map(|one| one.moment).collect::<Vec<_>>(),
            [Moment::Reconstructed, Moment::After]
        );
        assert_eq!(told[1].packet, sent);
        assert_eq!(told[0].packet, packet(SERVER, CLIENT, 500, 2000), "with its checksums");
        let sliced = SlicedPacket::from_ip(&told[0].packet).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!() };
        assert_eq!((tcp.sequence_number(), tcp.source_port()), (500, 8080));
        let own = packet(SERVER, ([10, 0, 0, 9], 5), 1, 1);
        let told = uplink(&records, Direction::ToClient, &client(), &own, true);
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn of_an_adopted_socket_it_is_told_whether_its_window_was_rescaled() {
        let told = |flags| {
            let record = FlowRecord { flags, ..record(VIP, SERVER, 0, 0) };
            let sent = packet(VIP, CLIENT, 1, 1);
            let all = uplink(&Known::new(One(record)), Direction::ToClient, &client(), &sent, true);
            all.into_iter().map(|one| one.comment).collect::<Vec<_>>().concat()
        };
        assert!(told(FLAG_ADOPTED).ends_with("adopted: sent by its socket, as it is"));
        let rescaled = told(FLAG_ADOPTED | FLAG_OWN_SCALE);
        assert!(rescaled.ends_with("its window put into the scale promised to the client"), "{rescaled}");
    }

    #[test]
    fn packets_that_cannot_be_read_are_shown_as_they_are() {
        let records = one(VIP, SERVER, 0, 0);
        for junk in [&[][..], &[0x45], &[0x60; 50], &[0xff; 9]] {
            for (direction, leaving) in
                [(Direction::FromClient, false), (Direction::ToClient, true), (Direction::ToClient, false)]
            {
                assert_eq!(uplink(&records, direction, &client(), junk, leaving)[0].packet, junk);
                assert_eq!(tun(&records, direction, junk, leaving).packet, junk);
            }
        }
    }
}
