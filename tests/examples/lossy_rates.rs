//! A measurement of some minutes, as root: how fast a migrated download of 10 MB is beside a direct one whose packets meet
//! the same lots, at 1% loss and 20 ms. `cargo run -p baton-tests --example lossy_rates -- ROUNDS` (default 8) prints each
//! round and the ratio of the rates, and fails below 0.9. The daemons must have been built (`cargo build`).

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a measurement's panic is its report")]

use baton_tests::client;
use netns_lab::{Family, Impairment, Lab, LabSpec, plan};
use std::net::SocketAddr;
use std::time::Instant;

/// Seconds that client1 needs for /10m from an address, over a link with the lots of `seed`.
fn seconds(lab: &Lab, seed: u64, from: SocketAddr) -> f64 {
    lab.impair("client1", format!("loss=1%,delay=10ms,seed={seed}").parse().unwrap()).unwrap();
    let started = Instant::now();
    let response = lab.inside("client1", move || client::get(from, "/10m")).unwrap().unwrap();
    assert_eq!((response.status, response.body_bytes), (200, 10 << 20));
    started.elapsed().as_secs_f64()
}

fn main() {
    let rounds: u64 = std::env::args().nth(1).map_or(8, |n| n.parse().unwrap());
    let name = format!("rates{}", std::process::id());
    let order = LabSpec::new(name).targets(1).family(Family::Dual).impair(Impairment::default());
    let lab = Lab::up(&order).unwrap();
    let servers = plan::target_addrs(Family::Dual, 1).into_iter().map(|ip| SocketAddr::new(ip, 80));
    let pairs: Vec<(SocketAddr, SocketAddr)> = servers.zip(plan::vips(Family::Dual)).collect();
    let (mut direct, mut migrated) = (0.0, 0.0);
    for seed in 0..rounds {
        let (server, vip) = pairs[usize::try_from(seed).unwrap() % pairs.len()];
        // In turns first, since a server remembers its last connection with a client.
        let (d, m) = if seed / 2 % 2 == 0 {
            let d = seconds(&lab, seed, server);
            (d, seconds(&lab, seed, vip))
        } else {
            let m = seconds(&lab, seed, vip);
            (seconds(&lab, seed, server), m)
        };
        println!("seed {seed}, {vip}: direct {d:.2} s, migrated {m:.2} s");
        direct += d;
        migrated += m;
    }
    println!("10 MB, 1% loss, 20 ms: migrated at {:.2} of the direct rate", direct / migrated);
    assert!(direct / migrated >= 0.9, "slower than the project promises");
}
