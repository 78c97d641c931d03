//! What a daemon writes into its TUN, on its way to the uplink's ingress.

use crate::bench::MARK;
use crate::cases::{Version, frame, record};
use crate::legs::counted;
use crate::{Case, Hook, with_bench};
use baton_shared::reason::PacketCounter as C;
use baton_shared::record::Settings;

const PROGRAM: &str = "tun_reinject";
/// `TC_ACT_SHOT` and `TC_ACT_REDIRECT` of `linux/pkt_cls.h`.
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

#[test]
fn what_a_daemon_writes_gets_a_header_and_the_mark_and_goes_to_the_uplink() {
    with_bench(|bench| {
        let uplink = Settings {
            tun_ifindex: 1,
            uplink_ifindex: 1,
            reinject_mark: MARK,
            uplink_mac: [2, 3, 5, 7, 11, 13],
            ..Settings::default()
        };
        for version in [Version::V4, Version::V6] {
            // Of a packet in a test run the program sees an Ethernet header already: to it, a part of the packet.
            let given = frame(Hook::Ingress, version).bytes();
            let case = Case::new(
                format!("{version:?}"),
                Hook::Ingress,
                record(Hook::Ingress, version),
                given.clone(),
            );
            bench.set(&uplink);
            let (got, mark) = bench.run_marked(PROGRAM, &case);
            let kind: [u8; 2] = if version == Version::V4 { [8, 0] } else { [0x86, 0xdd] };
            let mac = uplink.uplink_mac;
            assert_eq!(got.frame, [&mac[..], &mac, &kind, &given].concat(), "{version:?}");
            assert_eq!((got.verdict, mark), (REDIRECT, MARK));
            assert_eq!(got.counters, counted(&[C::Reinjected]));

            bench.set(&Settings { uplink_ifindex: 0, ..uplink });
            let (got, mark) = bench.run_marked(PROGRAM, &case);
            assert_eq!((got.verdict, mark, got.frame), (SHOT, 0, given), "without an uplink");
            assert_eq!(got.counters, counted(&[C::DropNoDevice]));
        }
    });
}
