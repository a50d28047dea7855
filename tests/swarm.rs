//! Goal: whatever goes wrong on a floor, receivers are told the truth, and once it heals they have everything.
//! Method: floors drawn from seeds, all faults at once, watched by the simulator's checkers.
//!
//! `FLOORCAST_SEED=17 cargo test --test swarm` replays one seed; `FLOORCAST_SEEDS=2000 cargo test --release --test swarm`
//! runs more of them.

use floorcast::sim::Swarm;

/// Seeds in an ordinary `cargo test`.
const SEEDS: u64 = 300;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

#[test]
fn every_seed_holds() {
    let seeds: Vec<u64> = match setting("FLOORCAST_SEED") {
        Some(seed) => vec![seed],
        None => (0..setting("FLOORCAST_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            while let Some(&seed) =
                seeds.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
            {
                let run = std::panic::catch_unwind(|| Swarm::run(seed));
                let violations = run.map_or_else(
                    |_| vec!["panicked".to_owned()],
                    |outcome| outcome.violations,
                );
                if !violations.is_empty() {
                    failures.push(format!(
                        "seed {seed}: {}\n  replay: FLOORCAST_SEED={seed} cargo test --test swarm",
                        violations.join("\n    ")
                    ));
                }
            }
            failures
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} of {} seeds failed\n{}",
        failures.len(),
        seeds.len(),
        failures.join("\n")
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let (first, second) = (Swarm::run(seed), Swarm::run(seed));
        assert_eq!(first, second);
        assert!(first.delivered > 0 && first.dropped > 0, "{first:?}");
    }
    assert_ne!(Swarm::run(1).trace, Swarm::run(2).trace);
}
