//! What every method must keep to, over random pools.

use super::hash::mix;
use super::*;
use proptest::prelude::*;

fn candidate(weight: u32, active: u32, usable: bool) -> Candidate {
    Candidate { weight: weight * SCALE, active, latency_us: 0, usable }
}

fn all(weights: &[u32]) -> Vec<Candidate> {
    weights.iter().map(|w| candidate(*w, 0, true)).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("target{n}")).collect()
}

fn picker(method: Method, weights: &[u32], size: u32) -> Picker {
    let names = names(weights.len());
    let members: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
    Picker::new(method, &members, size, DEFAULT_LOAD_PERCENT)
}

const METHODS: [Method; 5] =
    [Method::P2c, Method::RoundRobin, Method::Maglev, Method::Rendezvous, Method::LeastTime];

/// How often each was picked in `rounds`, nothing staying under way.
fn shares(picker: &mut Picker, candidates: &[Candidate], rounds: u64) -> Vec<u64> {
    let mut counts = vec![0; candidates.len()];
    for n in 0..rounds {
        counts[picker.pick(candidates, Some(mix(n)), mix(n ^ 0xabcd)).unwrap()] += 1;
    }
    counts
}

fn assert_by_weight(counts: &[u64], weights: &[u32], tolerance: f64, what: &str) {
    let (total, all) = (counts.iter().sum::<u64>() as f64, f64::from(weights.iter().sum::<u32>()));
    for (count, weight) in counts.iter().zip(weights) {
        let (is, should) = (*count as f64 / total, f64::from(*weight) / all);
        assert!((is - should).abs() < tolerance, "{what}: {counts:?} for {weights:?}");
    }
}

fn pools() -> impl Strategy<Value = Vec<Candidate>> {
    let one =
        (0u32..5, 0u32..50, any::<bool>(), 0u32..9_000).prop_map(|(weight, active, usable, latency_us)| {
            Candidate { latency_us, ..candidate(weight, active, usable) }
        });
    proptest::collection::vec(one, 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_method_picks_one_that_is_not_usable_and_all_pick_one_if_there_is(
        candidates in pools(), key in any::<Option<u64>>(), random in any::<u64>()
    ) {
        let there = candidates.iter().any(|c| c.share() > 0);
        // The table knows the configured weights, which a slow start or a change may have left behind.
        for weights in [vec![1; candidates.len()], candidates.iter().map(|c| c.weight).collect()] {
            for method in METHODS {
                let picked = picker(method, &weights, 101).pick(&candidates, key, random);
                prop_assert_eq!(picked.is_some(), there, "{:?}", method);
                if let Some(n) = picked {
                    prop_assert!(candidates[n].share() > 0, "{method:?} picked {n} of {candidates:?}");
                }
            }
        }
    }

    #[test]
    fn p2c_takes_the_one_with_less_under_way_of_the_two_it_draws(
        a in 0u32..100, b in 0u32..100, random in any::<u64>()
    ) {
        let candidates = [candidate(1, a, true), candidate(1, b, true)];
        let n = least_active_of_two(&candidates, random).unwrap();
        prop_assert_eq!(candidates[n].active, a.min(b));
    }

    #[test]
    fn a_member_that_goes_moves_only_its_own_keys(
        weights in proptest::collection::vec(1u32..4, 2..7), gone in any::<prop::sample::Index>(), seed in any::<u64>()
    ) {
        let gone = gone.index(weights.len());
        let before = all(&weights);
        let mut after = before.clone();
        after[gone].usable = false;
        for method in [Method::Maglev, Method::Rendezvous] {
            let mut picker = picker(method, &weights, 1009);
            for n in 0..200 {
                let key = Some(mix(seed ^ n));
                let (was, is) = (picker.pick(&before, key, 0).unwrap(), picker.pick(&after, key, 0).unwrap());
                prop_assert!(is != gone);
                prop_assert!(was == is || was == gone, "{method:?}: {was} became {is}");
            }
        }
    }

    #[test]
    fn maglev_keeps_everybody_within_the_bound(
        weights in proptest::collection::vec(1u32..5, 1..7), requests in 1u64..400, spread in 1u64..30
    ) {
        let mut picker = picker(Method::Maglev, &weights, 1009);
        let mut candidates = all(&weights);
        let heavy: u32 = weights.iter().sum();
        // Few different keys: without the bound a handful of members would get all.
        for n in 0..requests {
            let picked = picker.pick(&candidates, Some(mix(n % spread)), 0).unwrap();
            candidates[picked].active += 1;
            let share = f64::from(weights[picked]) / f64::from(heavy);
            let bound = ((n + 1) as f64 * share * 1.25).ceil();
            prop_assert!(f64::from(candidates[picked].active) <= bound, "{} over {bound}", candidates[picked].active);
        }
    }

    #[test]
    fn round_robin_is_never_more_than_one_turn_off(
        weights in proptest::collection::vec(0u32..6, 1..7), rounds in 1u64..60
    ) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let (candidates, mut turns) = (all(&weights), SmoothRoundRobin::new(weights.len()));
        let mut counts = vec![0u64; weights.len()];
        for done in 1..=rounds {
            counts[turns.pick(&candidates).unwrap()] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let should = done as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((*count as f64 - should).abs() < 2.0, "{counts:?} after {done} of {weights:?}");
            }
        }
    }
}

#[test]
fn idle_pools_follow_the_weights() {
    let weights = [1, 2, 4, 3];
    for method in METHODS {
        let counts = shares(&mut picker(method, &weights, 65_537), &all(&weights), 40_000);
        assert_by_weight(&counts, &weights, 0.02, method.name());
    }
}

#[test]
fn p2c_brings_what_is_under_way_in_line_with_the_weights() {
    let weights = [1u32, 2, 5];
    let mut candidates = all(&weights);
    let mut ending = std::collections::VecDeque::new();
    for n in 0..20_000u64 {
        let picked = least_active_of_two(&candidates, mix(n)).unwrap();
        candidates[picked].active += 1;
        ending.push_back(picked);
        if ending.len() > 400 {
            candidates[ending.pop_front().unwrap()].active -= 1;
        }
    }
    let active: Vec<u64> = candidates.iter().map(|c| u64::from(c.active)).collect();
    assert_by_weight(&active, &weights, 0.03, "under way");
}

#[test]
fn a_slow_member_gets_less_by_time() {
    let mut candidates = all(&[1, 1, 1]);
    for (c, latency) in candidates.iter_mut().zip([1_000, 1_000, 50_000]) {
        c.latency_us = latency;
    }
    let counts = shares(&mut picker(Method::LeastTime, &[1, 1, 1], 101), &candidates, 10_000);
    assert_eq!(counts[2], 0, "it loses against both: {counts:?}");
    candidates[0].latency_us = 0;
    let counts = shares(&mut picker(Method::LeastTime, &[1, 1, 1], 101), &candidates, 10_000);
    assert!(counts[0] > 6_000, "the unknown one is asked: {counts:?}");
}

#[test]
fn keys_of_a_lost_member_are_spread_over_the_others() {
    let weights = [1; 5];
    for method in [Method::Maglev, Method::Rendezvous] {
        let mut picker = picker(method, &weights, 65_537);
        let mut candidates = all(&weights);
        candidates[2].usable = false;
        let counts = shares(&mut picker, &candidates, 20_000);
        assert_by_weight(&counts, &[1, 1, 0, 1, 1], 0.02, method.name());
    }
}

#[test]
fn a_new_table_without_one_member_moves_few_keys_of_the_others() {
    let table = |names: &[&str]| {
        let members: Vec<_> = names.iter().map(|n| (member_key(n), 1)).collect();
        Maglev::new(&members, DEFAULT_TABLE_SIZE, DEFAULT_LOAD_PERCENT)
    };
    let (before, after) = (["a", "b", "c", "d", "e", "f"], ["a", "b", "d", "e", "f"]);
    let (old, new) = (table(&before), table(&after));
    let mut moved = 0;
    for n in 0..20_000u64 {
        let (was, is) = (before[old.owner(n).unwrap()], after[new.owner(n).unwrap()]);
        moved += u32::from(was != "c" && was != is);
    }
    assert!(moved < 1_000, "{moved} of 20000 keys of members that stayed were moved");
    // The file's order does not matter.
    let turned = table(&["f", "e", "d", "b", "a"]);
    for n in 0..2_000u64 {
        let (one, other) =
            (after[new.owner(n).unwrap()], ["f", "e", "d", "b", "a"][turned.owner(n).unwrap()]);
        assert_eq!(one, other);
    }
}

#[test]
fn a_growing_weight_only_attracts_keys() {
    let keys: Vec<u64> = names(4).iter().map(|n| member_key(n)).collect();
    let mut candidates = all(&[1; 4]);
    candidates[3].weight = 1;
    let mut mine = 0;
    for weight in [1, 64, 128, 256] {
        let before = candidates.clone();
        candidates[3].weight = weight;
        let mut now = 0;
        for key in 0..4_000u64 {
            let (was, is) =
                (rendezvous(&keys, &before, key).unwrap(), rendezvous(&keys, &candidates, key).unwrap());
            assert!(was == is || is == 3);
            now += u32::from(is == 3);
        }
        assert!(now >= mine);
        mine = now;
    }
    assert!((800..1_200).contains(&mine), "{mine} of 4000 for a quarter of the weight");
}

#[test]
fn primes_are_told_from_others() {
    let primes: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
    assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    assert!(is_prime(DEFAULT_TABLE_SIZE) && is_prime(MAX_TABLE_SIZE) && !is_prime(65_535));
}
