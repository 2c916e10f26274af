//! State over datagrams, simulated: a real sender and a real receiver, a network of which everything comes from a seed, and
//! what must hold at every step of it.
//!
//! `FULMAR_SIM_SEEDS=10000 cargo test --release -p fulmar-core --test datagrams -- --nocapture` runs many;
//! `FULMAR_SIM_SEED=123 cargo test -p fulmar-core --test datagrams` runs one again, with `FULMAR_SIM_LOG=1` and `-- --nocapture` telling what happens.

mod client;
mod faults;
mod frames;
mod network;
mod pacing;
mod receiving;
mod rng;
mod scenario;
mod server;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use faults::Fault;
use world::{Outcome, World};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|it| it.parse().unwrap_or_else(|_| panic!("{name}={it} is no number")))
}

/// What has come of a seed; what is wrong with it says how to see that again.
fn run(seed: u64, fault: Option<Fault>) -> Result<Outcome, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| World::run(seed, fault)));
    let outcome = outcome.unwrap_or_else(|_| Err("it panicked".to_owned()));
    outcome.map_err(|wrong| {
        format!("FULMAR_SIM_SEED={seed} cargo test -p fulmar-core --test datagrams\n  {wrong}")
    })
}

#[test]
fn everything_converges_and_nothing_is_claimed_that_did_not_arrive() {
    if let Some(seed) = variable("FULMAR_SIM_SEED") {
        let outcome = run(seed, None).unwrap_or_else(|wrong| panic!("{wrong}"));
        eprintln!("{outcome:#?}");
        return;
    }
    let seeds = variable("FULMAR_SIM_SEEDS").unwrap_or(300);
    let mut sum = Outcome::default();
    let mut wrong = Vec::new();
    for seed in 1..=seeds {
        if seed % 1_000 == 0 {
            eprintln!("{seed} of {seeds} seeds, {} failed", wrong.len());
        }
        match run(seed, None) {
            Ok(one) => {
                sum.steps += one.steps;
                sum.packets += one.packets;
                sum.resets += one.resets;
                sum.streamed += one.streamed;
                sum.parts += one.parts;
                sum.counts.lost += one.counts.lost;
                sum.counts.repaired += one.counts.repaired;
                sum.counts.duplicated += one.counts.duplicated;
                sum.settled = sum.settled.max(one.settled);
            }
            Err(why) => wrong.push(why),
        }
    }
    eprintln!("{sum:?}");
    for why in wrong.iter().take(20) {
        eprintln!("{why}");
    }
    assert!(wrong.is_empty(), "{} of {seeds} seeds failed", wrong.len());
    let Outcome { resets, streamed, parts, .. } = sum;
    let seen = [resets, streamed, parts, sum.counts.repaired, sum.counts.duplicated];
    assert!(seen.iter().all(|count| *count > seeds / 4), "everything has happened: {seen:?}");
}

#[test]
fn a_seed_runs_the_same_way_every_time() {
    for seed in [1, 2, 3, 5, 8] {
        let [one, other] = [run(seed, None), run(seed, None)].map(|it| it.expect("it converges"));
        assert_eq!((one.trace, one.steps), (other.trace, other.steps), "seed {seed}");
    }
}

#[test]
fn planted_faults_are_found() {
    for fault in Fault::ALL {
        let found = (1..=60).find(|seed| run(*seed, Some(fault)).is_err());
        eprintln!("{fault:?}: seed {found:?}");
        assert!(found.is_some(), "{fault:?} is not found");
    }
}
