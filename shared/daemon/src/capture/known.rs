//! Where a client's record is in the flow table.

use baton_shared::record::{FlowKey, FlowRecord, FlowState};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// The flow table, for reading.
pub trait Records: Send {
    /// The slot under a key.
    fn lookup(&self, key: &FlowKey) -> Option<u32>;
    /// What a slot holds.
    fn read(&self, slot: u32) -> FlowRecord;
    /// The slots of all connections of the clients at an address, of each client the newest. May walk the table.
    fn slots_of(&self, ip: IpAddr) -> HashMap<SocketAddr, u32>;
    /// CLOCK_MONOTONIC, ns.
    fn now_ns(&self) -> u64;
}

/// For each ns of a walk through the table, so many pass before the next: handoffs wait for the same lock.
const REST: u64 = 19;

/// What a walk through the table found.
#[derive(Default)]
struct Walk {
    slots: HashMap<SocketAddr, u32>,
    /// The earliest time of the next.
    next_ns: u64,
}

/// A flow table that remembers where clients' records are.
pub(super) struct Known<R> {
    pub(super) records: R,
    walk: RefCell<Walk>,
}

impl<R: Records> Known<R> {
    pub(super) fn new(records: R) -> Self {
        Known { records, walk: RefCell::default() }
    }

    pub(super) fn find(&self, key: &FlowKey) -> Option<(u32, FlowRecord)> {
        self.records.lookup(key).map(|slot| (slot, self.records.read(slot)))
    }

    /// The record of this client's connection. One walk finds those of all clients at the address; for one that is not among
    /// them, or whose slot is another's by now, the table is walked again, but not all the time.
    pub(super) fn of_client(&self, client: SocketAddr) -> Option<FlowRecord> {
        let right = |slot: &u32| {
            let record = self.records.read(*slot);
            let is_free = FlowState::from_raw(record.state) == FlowState::Free;
            (!is_free && record.key.remote_addr() == client).then_some(record)
        };
        let mut walk = self.walk.borrow_mut();
        let known = walk.slots.get(&client).and_then(right);
        let begin = self.records.now_ns();
        if known.is_some() || begin < walk.next_ns {
            return known;
        }
        let slots = self.records.slots_of(client.ip());
        let end = self.records.now_ns();
        let rest = end.saturating_sub(begin).saturating_mul(REST);
        *walk = Walk { slots, next_ns: end.saturating_add(rest) };
        walk.slots.get(&client).and_then(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_shared::addr::PortWord;
    use std::cell::Cell;
    use std::net::Ipv4Addr;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    /// The connections of client ports 0 to 99, in the slots of those numbers; a walk takes 1000 ns of its clock.
    #[derive(Default)]
    struct Hundred {
        now: Cell<u64>,
        walks: Cell<u32>,
    }

    impl Records for Hundred {
        fn lookup(&self, _: &FlowKey) -> Option<u32> {
            None
        }

        fn read(&self, slot: u32) -> FlowRecord {
            FlowRecord {
                key: FlowKey {
                    remote: CLIENT.into(),
                    remote_port: PortWord::new(u16::try_from(slot).unwrap()),
                    ..FlowKey::default()
                },
                state: FlowState::Committed as u32,
                ..FlowRecord::default()
            }
        }

        fn slots_of(&self, ip: IpAddr) -> HashMap<SocketAddr, u32> {
            self.now.set(self.now.get() + 1000);
            self.walks.set(self.walks.get() + 1);
            (0..100u16).map(|port| (SocketAddr::new(ip, port), port.into())).collect()
        }

        fn now_ns(&self) -> u64 {
            self.now.get()
        }
    }

    #[test]
    fn one_walk_finds_all_connections_of_a_client_and_unknown_ones_do_not_make_it_walk_all_the_time() {
        let known = Known::new(Hundred::default());
        let client = |port| SocketAddr::new(CLIENT, port);
        for port in 0..100 {
            let record = known.of_client(client(port)).unwrap();
            assert_eq!(record.key.remote_port, PortWord::new(port));
        }
        assert_eq!(known.records.walks.get(), 1);
        // Connections that are no flows, a packet every 10 ns.
        for n in 0..10_000 {
            known.records.now.set(known.records.now.get() + 10);
            assert!(known.of_client(client(1000 + n % 1000)).is_none());
        }
        let walks = u64::from(known.records.walks.get());
        assert!(walks > 2 && walks * 1000 <= known.records.now.get() / 10, "{walks} walks");
        assert!(known.of_client(client(5)).is_some(), "what is known needs none");
    }
}
