//! The turn of every request through user space in the lab, without anybody who judges it: the client's packets are led over the
//! intermediate's node, there those with a payload into a TUN, and a loop writes back what it reads; the server answers the
//! client directly. That is
//! what is left of the way of later requests that are read if reading them costs nothing and nothing is asked of the target.
//!
//! In turn with the direct path, and with the intermediate's kernel forwarding the packets itself. For large responses that is
//! the limit: the client's acknowledgements take the longer way, and nothing is translated.

use crate::device::{Device, ip};
use crate::steps::own_time;
use crate::sys::OFFLOAD;
use netns_lab::{Balancer, Lab, LabSpec, plan};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ROUNDS: usize = 5;
/// Packets read before the loop waits again, at most.
const BURST: u32 = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Kernel,
    Loop,
}

impl Way {
    const ALL: [Way; 3] = [Way::Direct, Way::Kernel, Way::Loop];

    fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::Kernel => "forwarded by the intermediate's kernel",
            Way::Loop => "read from a TUN and written back",
        }
    }
}

/// What the loop has done.
#[derive(Clone, Copy, Default)]
struct Turns {
    packets: u32,
    wakeups: u32,
    busy: Duration,
}

/// Writes back what comes, until it is over.
fn turn(device: &Device, over: &AtomicBool) -> Turns {
    let mut turns = Turns::default();
    let (mut offload, mut buffer) = ([0; OFFLOAD], vec![0; 1 << 16]);
    let before = own_time();
    while !over.load(Ordering::Relaxed) {
        if !device.waiter.wait() {
            continue;
        }
        turns.wakeups += 1;
        for _ in 0..BURST {
            let Some(length) = device.recv(&mut offload, &mut buffer) else { break };
            device.send(&offload, buffer.get(..length).unwrap());
            turns.packets += 1;
        }
    }
    turns.busy = own_time() - before;
    turns
}

/// The packets' way: at the router to the intermediate, there into the TUN.
fn lead(lab: &Lab, way: Way, lead: bool) {
    let act = if lead { "add" } else { "del" };
    let rule = |node: &str, words: &str| {
        let words = format!("ip rule {act} {words} lookup 100");
        lab.output(node, &words.split(' ').collect::<Vec<_>>()).unwrap();
    };
    if way != Way::Direct {
        rule(plan::ROUTER, &format!("iif client1 to {}", plan::target_addr(1)));
    }
    if way == Way::Loop {
        rule(plan::INTERMEDIATE, "iif eth0 fwmark 1");
    }
}

/// What wrk says under a label.
fn fetch(lab: &Lab, file: &str, connections: &str, label: &str) -> String {
    let url = format!("http://{}/{file}", plan::target_addr(1));
    let threads = if connections == "1" { "-t1" } else { "-t2" };
    let words = ["wrk", threads, "-c", connections, "-d2s", "--timeout", "20s", &url];
    let text = lab.output("client1", &words).unwrap();
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.unwrap_or_else(|| panic!("wrk said: {text}")).trim().to_owned()
}

fn requests_per_s(lab: &Lab, connections: &str) -> f64 {
    fetch(lab, "1k", connections, "Requests/sec:").parse().unwrap()
}

/// 10^6 bytes per second; wrk's units are powers of 1024.
fn mb_per_s(lab: &Lab) -> f64 {
    let said = fetch(lab, "100m", "8", "Transfer/sec:");
    let unit = said.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let power = ["B", "KB", "MB", "GB"].iter().position(|known| *known == unit).unwrap();
    let number: f64 = said.trim_end_matches(unit).parse().unwrap();
    number * 1024_f64.powi(i32::try_from(power).unwrap()) / 1e6
}

/// Large responses, the client's acknowledgements over the intermediate's kernel.
fn large(lab: &Lab) {
    println!("\n| 100m x8 (wrk) | MB/s | over direct |\n|---|---|---|");
    let ways = [Way::Direct, Way::Kernel];
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (way, rates) in ways.into_iter().zip(&mut found) {
            lead(lab, way, true);
            rates.push(mb_per_s(lab));
            lead(lab, way, false);
        }
    }
    let rates = found.map(median);
    for (way, rate) in ways.into_iter().zip(rates) {
        println!("| {} | {rate:.0} | {:.2} |", way.name(), rate / rates[0]);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

pub(crate) fn measure() {
    let spec = LabSpec { targets: 1, ..LabSpec::new(format!("floor{}", std::process::id())) };
    let lab = Lab::up(&spec.balancer(Balancer::None)).unwrap();
    let via = |node, words: &str| drop(lab.output(node, &words.split(' ').collect::<Vec<_>>()).unwrap());
    via(plan::ROUTER, &format!("ip route add default via {} table 100", plan::INTERMEDIATE_ADDR));
    lab.output(plan::INTERMEDIATE, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).unwrap();
    // Bare acknowledgements need nobody's look: with timestamps they have 52 bytes, with selective ones 64.
    let mark = "iptables -t mangle -A PREROUTING -i eth0 -m length --length 65:65535 -j MARK --set-mark 1";
    via(plan::INTERMEDIATE, mark);
    let device = lab.inside(plan::INTERMEDIATE, || {
        let device = Device::bare("floor0");
        ip("route add default dev floor0 table 100");
        device
    });
    let device = Arc::new(device.unwrap());
    println!(
        "| 1k, kept (wrk) | way | requests/s | over direct | the loop: us of processor time a request | packets a request | packets a wakeup |\n|---|---|---|---|---|---|---|"
    );
    for connections in ["1", "8"] {
        let mut found: Vec<(Vec<f64>, Vec<[f64; 3]>)> = vec![Default::default(); Way::ALL.len()];
        for _ in 0..ROUNDS {
            for (way, (rates, loops)) in Way::ALL.into_iter().zip(&mut found) {
                let over = Arc::new(AtomicBool::new(false));
                let own = (Arc::clone(&device), Arc::clone(&over));
                let turns = std::thread::spawn(move || turn(&own.0, &own.1));
                lead(&lab, way, true);
                let rate = requests_per_s(&lab, connections);
                eprintln!("x{connections} {}: {rate:.0} requests/s", way.name());
                lead(&lab, way, false);
                over.store(true, Ordering::Relaxed);
                let turns = turns.join().unwrap();
                // Who measures the wrong way would not know it by the rate.
                assert_eq!(
                    turns.packets > 100,
                    way == Way::Loop,
                    "{}: {} packets",
                    way.name(),
                    turns.packets
                );
                rates.push(rate);
                let [requests, packets, wakeups] =
                    [2.0 * rate, f64::from(turns.packets), f64::from(turns.wakeups)];
                loops.push([
                    turns.busy.as_secs_f64() * 1e6 / requests,
                    packets / requests,
                    packets / wakeups,
                ]);
            }
        }
        let rates: Vec<f64> = found.iter().map(|(rates, _)| median(rates.clone())).collect();
        for ((way, (_, loops)), rate) in Way::ALL.into_iter().zip(&found).zip(&rates) {
            let of = |n: usize| match way {
                Way::Loop => format!("{:.2}", median(loops.iter().map(|l| l[n]).collect())),
                _ => "-".to_owned(),
            };
            let (name, over) = (way.name(), rate / rates[0]);
            println!(
                "| x{connections} | {name} | {rate:.0} | {over:.2} | {} | {} | {} |",
                of(0),
                of(1),
                of(2)
            );
        }
    }
    large(&lab);
}
