//! What arrives on a target that adopts: its program run on packets of adopted flows, with the kernel's own sockets under
//! their addresses. (That a socket is made of a packet needs a real ingress: see the labs.)

use crate::bench::Bench;
use crate::cases::{Version, ends, record};
use crate::errors::Error;
use crate::host::NOW;
use crate::legs::{counted, frames, settings, wrapped};
use crate::packet::Frame;
use crate::{Case, Hook, Outcome};
use baton_loader::adopt::{AdoptError, object};
use baton_shared::addr::PortWord;
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::{
    FLAG_ADOPTED, FlowRecord, FlowState, LegSettings, NOTE_ASSIGN_FAILED, NOTE_ASSIGNED, NOTE_LISTENER,
    NOTE_NO_LISTENER, NOTE_TAKEN,
};
use baton_shared::translate::Leg;
use std::net::{SocketAddr, TcpListener, TcpStream};

const PROGRAM: &str = "target_adopt";
/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT`.
const NEXT: i32 = -1;
const SHOT: i32 = 2;

fn with_adopting(test: impl FnOnce(&mut Bench)) {
    let skip = |reason: String| {
        println!("SKIPPED: {reason}");
        assert!(std::env::var_os("BATON_NO_SKIPS").is_none_or(|v| v != "1"), "skipped: {reason}");
    };
    match object() {
        Ok(object) => match Bench::adopting(&object) {
            Ok(mut bench) => test(&mut bench),
            Err(reason) => skip(reason),
        },
        // Connections are adopted on no such kernel: nothing is left untested.
        Err(AdoptError::NoFunction) => println!("this kernel adopts no connections"),
        Err(other) => skip(other.to_string()),
    }
}

/// An adopted flow of a client at a VIP, whose packets come addressed to a server.
fn adopted([client, vip, server]: [SocketAddr; 3], state: FlowState) -> FlowRecord {
    let version = if client.is_ipv4() { Version::V4 } else { Version::V6 };
    let mut record = record(Hook::Ingress, version);
    record.key.remote = client.ip().into();
    record.key.remote_port = PortWord::new(client.port());
    record.key.local = vip.ip().into();
    record.key.local_port = PortWord::new(vip.port());
    (record.new_addr, record.new_port) = (server.ip().into(), PortWord::new(server.port()));
    (record.flags, record.state) = (FLAG_ADOPTED, state as u32);
    // The numbers that the agent's packet has.
    (record.seq_delta, record.ack_delta) = (1000, 5000);
    record
}

struct Ran {
    case: Case,
    got: Outcome,
    mark: u32,
}

impl Ran {
    /// What came of it; the packet as it was, but for `frame`.
    fn is(&self, verdict: i32, counters: &[C], note: u32, frame: Option<Vec<u8>>) {
        let name = &self.case.name;
        assert_eq!((self.got.verdict, &self.got.counters), (verdict, &counted(counters)), "{name}");
        assert_eq!(self.mark, 0, "{name}: the mark is seen by nobody behind");
        assert_eq!(self.got.record.note_flags, self.case.record.note_flags | note, "{name}");
        assert!(self.got.frame == frame.unwrap_or_else(|| self.case.frame.clone()), "{name}: another packet");
    }
}

fn run(bench: &mut Bench, name: &str, record: FlowRecord, frame: Vec<u8>, marked: bool) -> Ran {
    let case = Case {
        marked,
        ..Case::new(format!("{name}, {:?}", record.key.remote), Hook::Ingress, record, frame)
    };
    let (got, mark) = bench.run_marked(PROGRAM, &case);
    Ran { case, got, mark }
}

fn both(test: impl Fn(&mut Bench, Version)) {
    with_adopting(|bench| [Version::V4, Version::V6].into_iter().for_each(|version| test(bench, version)));
}

/// From the client, as `like`, addressed to `to`.
fn to(like: &Frame, version: Version, to: SocketAddr) -> Vec<u8> {
    let [client, ..] = ends(version);
    let Frame { tcp: shape, payload, padding, .. } = like.clone();
    let mut frame = Frame::new(client, to);
    let ports = (frame.tcp.source_port, frame.tcp.destination_port);
    frame.tcp = shape;
    (frame.tcp.source_port, frame.tcp.destination_port) = ports;
    (frame.payload, frame.padding) = (payload, padding);
    frame.bytes()
}

#[test]
fn what_clients_send_to_adopted_sockets_gets_the_vip_as_its_destination() {
    both(|bench, version| {
        let [client, vip, server] = ends(version);
        let committed = adopted([client, vip, server], FlowState::Committed);
        for (name, like) in frames(version) {
            let [there, here] = [server, vip].map(|end| to(&like, version, end));
            let ran = run(bench, name, committed, there.clone(), false);
            ran.is(NEXT, &[C::Readdressed], 0, Some(here.clone()));
            assert_eq!(ran.got.record.last_seen_ns, 1);
            // What is addressed to the VIP already stays.
            run(bench, name, committed, here.clone(), false).is(NEXT, &[], 0, None);
            // What the kernel is to see of an ended flow is no less.
            let ended = FlowRecord { state: FlowState::Ended as u32, ..committed };
            run(bench, name, ended, there.clone(), false).is(NEXT, &[C::Readdressed], 0, Some(here.clone()));
            // A flow that was not adopted is none of this program's.
            let replayed = FlowRecord { flags: 0, key: committed.arrival_key(), ..committed };
            run(bench, name, replayed, there.clone(), false).is(NEXT, &[], 0, None);
            for leg in [Leg::Ipip, Leg::Udp] {
                let mut legs = settings(leg);
                // The program looks for outer headers if the first place says so.
                legs.peers.rotate_left(1);
                bench.set_legs(&legs);
                let outer = wrapped(&there, leg, client, server);
                let counters = [C::LegStripped, C::Readdressed];
                run(bench, name, committed, outer, false).is(NEXT, &counters, 0, Some(here.clone()));
                bench.set_legs(&LegSettings::default());
            }
        }
        // Nobody but a connection may answer a client that begins anew.
        let mut syn = Frame::new(client, server);
        (syn.tcp.syn, syn.tcp.ack) = (true, false);
        for (name, record, closes) in [
            ("SYN", committed, true),
            ("SYN again", FlowRecord { note_flags: NOTE_LISTENER, ..committed }, false),
            ("SYN, ended", FlowRecord { state: FlowState::Ended as u32, ..committed }, false),
            ("SYN, given back", FlowRecord { state: FlowState::Fenced as u32, ..committed }, false),
        ] {
            let ran = run(bench, name, record, syn.bytes(), false);
            ran.is(SHOT, &[C::DropAdoptGone], NOTE_LISTENER, None);
            assert_eq!(ran.got.closes, closes, "{name}: whether the agent is told");
        }
        let mut first = Frame::new(client, server);
        first.payload = vec![b'x'; 64];
        first.fragment(0, true);
        let ran = run(bench, "first fragment", committed, first.bytes(), false);
        ran.is(SHOT, &[C::DropFragment], 0, None);
        assert!(ran.got.remembered);
        // One behind it, which shows no flow.
        let mut later = Frame::new(client, server);
        later.fragment(8, false);
        let plain = Case::new("later fragment", Hook::Ingress, committed, later.bytes());
        for (dropped_first, verdict, counters) in
            [(None, NEXT, &[][..]), (Some(NOW), SHOT, &[C::DropFragment]), (Some(0), NEXT, &[])]
        {
            let case = Case { dropped_first, ..plain.clone() };
            let (got, mark) = bench.run_marked(PROGRAM, &case);
            Ran { case, got, mark }.is(verdict, counters, 0, None);
        }
    });
}

#[test]
fn the_agents_packet_alone_is_given_to_the_kernel() {
    both(|bench, version| {
        let [client, vip, server] = ends(version);
        let adopting = adopted([client, vip, server], FlowState::Adopting);
        let right = Frame::new(client, server).bytes();
        let early = [C::DropAdoptEarly];
        run(bench, "not from the agent", adopting, right.clone(), false).is(SHOT, &early, 0, None);
        let wrong: [fn(&mut Frame); 4] = [
            |f| f.tcp.sequence_number += 1,
            |f| f.tcp.acknowledgment_number -= 1,
            |f| f.tcp.syn = true,
            |f| f.tcp.rst = true,
        ];
        for change in wrong {
            let mut frame = Frame::new(client, server);
            change(&mut frame);
            run(bench, "other numbers or flags", adopting, frame.bytes(), true).is(SHOT, &early, 0, None);
        }
        // Right, and nobody listens.
        let ran = run(bench, "right", adopting, right.clone(), true);
        ran.is(SHOT, &[C::DropAdoptRefused], NOTE_NO_LISTENER, None);
        // Its handoff has ended while it was on its way.
        let [other, mut reset] =
            [(); 2].map(|()| Frame::new("10.90.10.3:4".parse().unwrap(), "10.90.1.1:80".parse().unwrap()));
        run(bench, "a stray", adopting, other.bytes(), true).is(SHOT, &early, 0, None);
        reset.tcp.rst = true;
        run(bench, "a stray reset", adopting, reset.bytes(), true).is(NEXT, &[], 0, None);
    });
}

#[test]
fn the_kernels_own_sockets_are_asked_for() {
    both(|bench, version| {
        let local = if version == Version::V4 { "127.0.0.1:0" } else { "[::1]:0" };
        let listener = TcpListener::bind(local).unwrap();
        let server = listener.local_addr().unwrap();
        let connection = TcpStream::connect(server).unwrap();
        let client = connection.local_addr().unwrap();
        let [_, vip, _] = ends(version);

        // One that listens, and a client of which there is no connection. The kernel makes sockets at a real ingress only
        // (`bpf_sk_assign_tcp_reqsk` in `net/core/filter.c`): here it says so, and the packet goes no further.
        let [stranger, ..] = ends(version);
        let adopting = adopted([stranger, vip, server], FlowState::Adopting);
        let frame = Frame::new(stranger, server).bytes();
        let ran = run(bench, "a listener", adopting, frame, true);
        ran.is(SHOT, &[C::DropAdoptRefused], NOTE_ASSIGN_FAILED, None);
        assert_eq!(ran.got.record.released, u32::try_from(libc::EINVAL).unwrap());

        // A connection under the flow's own 4-tuple: of somebody else, or of this flow.
        let taken = adopted([client, server, server], FlowState::Adopting);
        let frame = Frame::new(client, server).bytes();
        let ran = run(bench, "taken", taken, frame.clone(), true);
        ran.is(SHOT, &[C::DropAdoptRefused], NOTE_TAKEN, None);
        let assigned = FlowRecord { note_flags: NOTE_ASSIGNED, ..taken };
        run(bench, "again", assigned, frame.clone(), true).is(NEXT, &[C::AdoptRepeated], 0, None);
        // Whose client has its answer before the agent knows of it.
        run(bench, "its client", assigned, frame, false).is(NEXT, &[], 0, None);
        // Which judges a SYN.
        let mut syn = Frame::new(client, server);
        (syn.tcp.syn, syn.tcp.ack) = (true, false);
        let committed = FlowRecord { state: FlowState::Committed as u32, ..taken };
        run(bench, "a SYN for it", committed, syn.bytes(), false).is(NEXT, &[], 0, None);
    });
}

#[test]
fn errors_about_what_adopted_sockets_sent_quote_the_vip() {
    both(|bench, version| {
        let [client, vip, server] = ends(version);
        let router: SocketAddr =
            if version == Version::V4 { "10.90.9.9:0" } else { "[fd90:9::9]:0" }.parse().unwrap();
        let sent_by = |from: SocketAddr| {
            let mut about = Frame::new(from, client);
            about.payload = vec![b'x'; 900];
            about
        };
        // As the intermediate has translated it; then as the socket takes it, from the client.
        let error = |from: SocketAddr, about: Frame| {
            // No more of TCP than an error must quote: the checksum is not brought into line.
            let quoted = if version == Version::V4 { 28 } else { 48 };
            Error { quoted, ..Error::new(from, about) }.bytes()
        };
        let came = error(router, sent_by(server));
        let wanted = error(SocketAddr::new(client.ip(), 0), sent_by(vip));
        let committed = adopted([client, vip, server], FlowState::Committed);
        let ran = run(bench, "too big", committed, came, false);
        ran.is(NEXT, &[C::IcmpTranslated], 0, Some(wanted));
    });
}
