//! The addresses, routes and rules by which VIPs are delivered to adopted sockets: what runs of the agent leave, and what
//! the next one makes of it.

use super::support::{VIP, World, handoff, inside, options};
use super::{get, migrate};
use aya::maps::{HashMap, Map, MapData};
use baton_shared::record::{ABI_VERSION, FlowKey};
use std::time::{Duration, Instant};

const AUTO: &str = "way = \"auto\"";
/// Of an earlier configuration.
const OLD: &str = "10.95.7.101";

/// What there is of both VIPs: in the rules, in the table of the agent's, in the table `local`, and among the addresses.
fn found(world: &World) -> [String; 4] {
    ["ip rule show", "ip route show table 66", "ip route show table local", "ip -o addr show dev lo"].map(
        |line| {
            let said = world.on_target(&format!("{line} 2>/dev/null || true"));
            said.lines()
                .filter(|line| line.contains("10.95.7.10"))
                .map(|line| line.trim().to_owned() + "\n")
                .collect()
        },
    )
}

fn assert_set_up(world: &World) {
    let [rules, ours, local, addresses] = found(world);
    assert_eq!(rules.split_once('\t').unwrap().1, "from all to 10.95.7.100 iif eth0 lookup 66 proto 66\n");
    assert_eq!(ours, "local 10.95.7.100 dev lo proto 66 scope host\n");
    assert_eq!(local, "", "the host's own programs are not concerned");
    assert!(addresses.contains("inet 10.95.7.100/32 scope host") && !addresses.contains(OLD), "{addresses}");
}

fn missing(world: &World) -> Vec<String> {
    let targets = world.admin("/v1/targets");
    let missing = targets["targets"][0]["serve"]["missing"].as_array().unwrap().iter();
    missing.map(|need| need["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_earlier_runs_left_is_completed_or_taken_away_and_nothing_stays_of_a_detached_agent() {
    let Some(mut world) = inside(
        "local_vip::what_earlier_runs_left_is_completed_or_taken_away_and_nothing_stays_of_a_detached_agent",
    ) else {
        return;
    };
    assert_eq!(found(&world), [""; 4], "nothing is adopted yet");

    // Of an agent before this way, and of one with another configuration that was killed.
    world.kill_agent();
    world.on_target("ip route add local 10.95.7.100/32 dev lo table local proto 66");
    world.on_target(
        "ip addr add 10.95.7.101/32 dev lo scope host; ip route del local 10.95.7.101 dev lo table local",
    );
    world.on_target("ip route add local 10.95.7.101/32 dev lo table 66 proto 66");
    world.on_target("ip rule add pref 66 to 10.95.7.101 iif eth0 lookup 66 protocol 66");
    world.on_target("ip rule add pref 66 to 10.95.7.100 iif eth9 lookup 66 protocol 66");
    world.start_agent_to_serve(AUTO, "", &[]);
    assert_set_up(&world);

    // Killed as soon as the address was there, and what the kernel made of it.
    world.kill_agent();
    world.on_target("ip rule del pref 66; ip route flush table 66");
    world.on_target("ip route add local 10.95.7.100 dev lo table local proto kernel scope host");
    world.start_agent_to_serve(AUTO, "", &[]);
    assert_set_up(&world);

    // Without the address.
    world.kill_agent();
    world.on_target("ip addr del 10.95.7.100/32 dev lo");
    world.start_agent_to_serve(AUTO, "", &["--detach"]);
    assert_set_up(&world);

    world.stop_agent();
    assert_eq!(found(&world), [""; 4], "nothing stays");

    // An operator's own rule and route, of which the agent is to keep its hands, do not let sockets send.
    let own = format!("{AUTO}\nlocal_vip = false");
    world.on_target("ip route add default via 10.95.0.1");
    world.on_target("ip rule add pref 70 to 10.95.7.100 iif eth0 lookup 70");
    world.on_target("ip route add local 10.95.7.100/32 dev lo table 70");
    world.start_agent_to_serve(&own, "", &[]);
    assert_eq!(missing(&world), ["vip_local"]);
    world.kill_agent();
    world.on_target(
        "ip addr add 10.95.7.100/32 dev lo scope host; ip route del local 10.95.7.100 dev lo table local",
    );
    world.start_agent_to_serve(&own, "", &[]);
    assert_eq!(missing(&world), [""; 0]);
}

/// How many connections there are under the VIP.
fn connections(world: &World) -> usize {
    world.on_target(&format!("ss -Htn state established src {VIP}")).lines().count()
}

fn await_connections(world: &World, count: usize) {
    let until = Instant::now() + Duration::from_secs(20);
    while connections(world) != count {
        assert!(Instant::now() < until, "{} stay, though nobody can reach them", connections(world));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The keys of one flow are removed, as by an agent killed in mid-step.
fn lose_one_record(world: &World) {
    let pin = world.pins().join(format!("v{ABI_VERSION}/target/FLOWS"));
    let map = Map::HashMap(MapData::from_pin(pin).unwrap());
    let mut flows = HashMap::<_, [u8; size_of::<FlowKey>()], u32>::try_from(map).unwrap();
    let all: Vec<_> = flows.iter().map(Result::unwrap).collect();
    for (key, slot) in &all {
        if *slot == all[0].1 {
            flows.remove(key).unwrap();
        }
    }
}

#[test]
fn adopted_connections_end_when_their_records_are_lost_and_no_others_do() {
    let Some(mut world) =
        inside("local_vip::adopted_connections_end_when_their_records_are_lost_and_no_others_do")
    else {
        return;
    };
    world.kill_agent();
    world.start_agent_to_serve(AUTO, "", &[]);
    let missing = missing(&world);
    if missing.iter().any(|need| need == "kernel_function" || need == "tcx") {
        println!("SKIPPED: this kernel does not adopt");
        assert_ne!(std::env::var("BATON_NO_SKIPS").as_deref(), Ok("1"), "skips are forbidden");
        return;
    }
    assert_eq!(missing, [""; 0]);
    migrate(&world, &handoff(1, 40_001, &get("/hang"), options()));
    assert_eq!(connections(&world), 1);
    // With the records it is taken over.
    world.kill_agent();
    world.start_agent_to_serve(AUTO, "", &[]);
    assert_eq!(connections(&world), 1);
    // Of two the one whose record is lost ends.
    migrate(&world, &handoff(2, 40_002, &get("/hang"), options()));
    assert_eq!(connections(&world), 2);
    world.kill_agent();
    lose_one_record(&world);
    world.start_agent_to_serve(AUTO, "", &[]);
    await_connections(&world, 1);
    assert_eq!(world.admin("/v1/flows")["flows"].as_array().unwrap().len(), 1);
    let ended = "baton_flows_ended_total{reason=\"record_lost\"} 1";
    assert!(world.metrics().lines().any(|line| line == ended), "{}", world.metrics());
    // Nothing tells that an agent ever adopted for this VIP.
    world.kill_agent();
    std::fs::remove_dir_all(world.pins()).unwrap();
    world.on_target("ip rule del pref 66; ip route flush table 66; ip addr del 10.95.7.100/32 dev lo");
    world.start_agent_to_serve(AUTO, "", &[]);
    assert_eq!(connections(&world), 1);
    // What it is for.
    world.kill_agent();
    std::fs::remove_dir_all(world.pins()).unwrap();
    world.start_agent_to_serve(AUTO, "", &[]);
    await_connections(&world, 0);
}
