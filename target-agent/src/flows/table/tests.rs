//! By which flows the scans for ends come, and how many there are.

use super::*;
use crate::flows::ageing::LIVE_A_SCAN;

fn flow(n: u32) -> Flow {
    let [a, b, c, d] = n.to_be_bytes();
    let client = SocketAddr::from(([10, b, c, d], 40_000 + u16::from(a)));
    let server = SocketAddr::from(([10, 0, 0, 1], 8080));
    let who = (PeerId(0), FlowRef { flow_id: n.into(), generation: 1 });
    Flow::new(who, Ends::new(client, server).unwrap(), server, 0)
}

fn table(flows: u32) -> Table {
    let mut table = Table::new(flows, []);
    (0..flows).for_each(|slot| table.insert(slot, Box::new(flow(slot))));
    table
}

fn closing(table: &Table) -> Vec<u32> {
    let mut round = Round::new(0);
    std::iter::from_fn(|| table.next_closing(&mut round)).collect()
}

/// The live flows that one scan comes by.
fn scanned(table: &Table, from: &mut u32) -> Vec<u32> {
    let mut round = Round::of(*from, LIVE_A_SCAN);
    let slots = std::iter::from_fn(|| table.next_live(&mut round)).collect();
    *from = round.goes_on_from();
    slots
}

#[test]
fn a_flow_is_among_those_that_close_from_when_it_is_told_until_it_ends() {
    let mut table = table(4);
    assert_eq!(closing(&table), [0; 0]);
    (1..4).for_each(|slot| table.note_closing(slot));
    table.note_closing(2);
    table.note_closing(4);
    assert_eq!(closing(&table), [1, 2, 3], "each once, and none that there is not");
    assert_eq!(table.live(), 4, "they live on");
    let who = table.get(1).unwrap().who;
    table.linger(1, who, 10);
    table.note_closing(1);
    assert_eq!((closing(&table), table.live()), (vec![2, 3], 3), "it has ended");
    table.remove(2);
    assert_eq!((closing(&table), table.live()), (vec![3], 2));
    table.insert(2, Box::new(flow(9)));
    table.insert(3, Box::new(flow(10)));
    assert_eq!(closing(&table), [0; 0], "those that have their slots now do not close");
}

#[test]
fn all_live_flows_are_come_by_in_turn_however_many_they_are() {
    let few = table(LIVE_A_SCAN);
    let mut from = 7;
    for _ in 0..3 {
        assert_eq!(scanned(&few, &mut from).len(), LIVE_A_SCAN as usize, "all of them each time");
    }
    let mut many = table(2 * LIVE_A_SCAN + 10);
    let mut from = 0;
    let mut seen: Vec<u32> = (0..3).flat_map(|_| scanned(&many, &mut from)).collect();
    assert_eq!(from, LIVE_A_SCAN - 10, "round them");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), many.live() as usize);
    // One that has gone holds nobody up.
    many.remove(from);
    assert_eq!(scanned(&many, &mut from).first(), Some(&(LIVE_A_SCAN - 9)));
}

#[test]
fn a_flow_that_is_told_to_close_is_come_by_in_the_next_scan_wherever_that_is() {
    let mut table = table(2 * LIVE_A_SCAN + 10);
    let mut from = 0;
    let told = 2 * LIVE_A_SCAN + 5;
    table.note_closing(told);
    assert!(!scanned(&table, &mut from).contains(&told), "among all its turn comes later");
    let mut round = Round::new(told + 1);
    assert_eq!((table.next_closing(&mut round), table.next_closing(&mut round)), (Some(told), None));
}

#[test]
fn live_flows_are_counted_by_intermediate_and_server_until_they_end() {
    let of = |n: u32, peer: u16, port: u16| {
        let mut flow = flow(n);
        flow.who.0 = PeerId(peer);
        flow.server.set_port(port);
        Box::new(flow)
    };
    let counts = |table: &Table| {
        let mut counts: Vec<_> =
            table.live_of().map(|(peer, server, n)| (peer.0, server.port(), n)).collect();
        counts.sort_unstable();
        counts
    };
    let mut table = Table::new(8, []);
    for (slot, peer, port) in [(0, 0, 80), (1, 0, 80), (2, 0, 81), (3, 1, 80)] {
        table.insert(slot, of(slot, peer, port));
    }
    assert_eq!(counts(&table), [(0, 80, 2), (0, 81, 1), (1, 80, 1)]);
    let who = table.get(1).unwrap().who;
    table.linger(1, who, 10);
    assert_eq!(counts(&table), [(0, 80, 1), (0, 81, 1), (1, 80, 1)]);
    table.remove(1);
    table.remove(2);
    assert_eq!(counts(&table), [(0, 80, 1), (1, 80, 1)], "what has ended is not counted off twice");
    table.insert(3, of(9, 0, 80));
    assert_eq!(counts(&table), [(0, 80, 2)], "another one in its slot");
}

#[test]
fn a_flow_in_whose_place_another_is_put_leaves_those_keys_that_are_not_the_others() {
    let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
    let under = |local| HashedKey::from(key(Ends::new(at(40_000), local).unwrap()));
    let (vip, other, server) = (under(at(80)), under(at(81)), under(at(8080)));
    let mut adopted = flow(0);
    (adopted.key, adopted.arrival) = (vip, Some(server));
    let keys = |keys: &[HashedKey]| keys.iter().map(|key| *key.key()).collect::<Vec<_>>();
    assert_eq!(adopted.keys_left(&[]), keys(&[vip, server]), "it goes");
    assert_eq!(adopted.keys_left(&[server, vip]), [], "its client uses its port again");
    assert_eq!(adopted.keys_left(&[server, other]), keys(&[vip]), "by another VIP of the same server");
    assert_eq!(adopted.keys_left(&[server]), keys(&[vip]), "and the handshake is replayed");
    adopted.arrival = None;
    assert_eq!(adopted.keys_left(&[server, vip]), []);
    assert_eq!(adopted.keys_left(&[server, other]), keys(&[vip]));
}
