//! Everything at once, for as long as wanted: awkward tables, random transactions, an engine that is killed every
//! few seconds, servers that restart, connections that break. At every stop both sides hold the same.
//!
//! A minute of it is part of every test run; `make soak` gives it a quarter of an hour. A failure prints the seed,
//! which `PGSTREAM_TEST_SEED` takes, and the tables that differ. The seed decides what is done, not how the
//! machine interleaves it.

mod tables;
mod writers;

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use pgstream::demo::{Dice, Shutdown};
use pgstream::verify::RelationKind;

use self::tables::{SHAPES, Shape};
use self::writers::Writers;
use crate::support::engine::Engine;
use crate::support::fault::Proxy;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, migrate, words};
use crate::support::scenario::{Scenario, source_options, target_options};

/// Seconds, for a longer one.
const DURATION: &str = "PGSTREAM_SOAK_SECONDS";
const MINUTE: u64 = 60;
/// How often both sides are compared, in a short one and in a long one.
const STOPS: (u32, u32) = (3, 20);
const INSERT_ONLY: [&str; 2] = ["--insert-only", "public.insert_only"];

struct Soak {
    scenario: Scenario,
    dice: Dice,
    to_source: Proxy,
    to_target: Proxy,
    kills: u32,
    faults: u32,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_work_and_faults_end_equal_at_every_stop() {
    let seconds = std::env::var(DURATION).map_or(MINUTE, |text| text.parse().expect("a number of seconds"));
    let stops = if seconds > MINUTE { STOPS.1 } else { STOPS.0 };
    let seed = std::env::var("PGSTREAM_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    eprintln!("PGSTREAM_TEST_SEED={seed}");
    let mut soak = Soak::new(seed).await;
    let major = soak.scenario.source.major();
    let shapes: Vec<&Shape> = SHAPES.iter().filter(|shape| shape.since <= major).collect();
    let shapes: &'static [&'static Shape] = Box::leak(shapes.into_boxed_slice());
    for shape in shapes {
        soak.scenario.source.execute(shape.ddl).await;
    }
    let mut writers = Writers::start(&soak.scenario.source, shapes, seed);
    let each = Duration::from_secs(seconds) / stops;
    for stop in 1..=stops {
        soak.disturb_for(each).await;
        let paused = writers.pause().await;
        soak.run(&CAUGHT_UP).wait(RUN).await.expect_code(0);
        soak.compare(&format!("stop {stop} of {stops}, seed {seed}")).await;
        drop(paused);
        let (transactions, Soak { kills, faults, .. }) = (writers.committed(), &soak);
        eprintln!("stop {stop} of {stops}: equal; {transactions} acts, {kills} kills, {faults} other faults");
    }
    writers.assert_all_written(shapes);
    let paused = writers.pause().await;
    soak.scenario.stop_replication(&words(&[&FULL, &INSERT_ONLY])).await;
    soak.scenario.assert_moved().await;
    drop(paused);
}

impl Soak {
    async fn new(seed: u64) -> Soak {
        let (mut source, mut target) = (source_options(), target_options());
        for (name, value) in [
            // Transactions of a few hundred rows are streamed before they end.
            ("logical_decoding_work_mem", "64kB"),
            // A walsender that lost its client lets go of the slot soon.
            ("wal_sender_timeout", "5s"),
            ("deadlock_timeout", "100ms"),
        ] {
            source.settings.push((name.to_owned(), value.to_owned()));
        }
        target.settings.push(("deadlock_timeout".to_owned(), "100ms".to_owned()));
        let scenario = Scenario::own_with("soak", source, target).await;
        let to_source = Proxy::start(scenario.source.cluster.port()).await;
        let to_target = Proxy::start(scenario.target.cluster.port()).await;
        Soak {
            scenario,
            dice: Dice::new(seed, u64::from(u32::MAX)),
            to_source,
            to_target,
            kills: 0,
            faults: 0,
        }
    }

    /// Each engine with other lanes than the one before.
    fn run(&mut self, ending: &[&str]) -> Engine {
        let lanes = ["--apply-lanes", self.dice.pick(&["auto", "1", "2", "3", "4"])];
        let Scenario { source, target } = &self.scenario;
        let dsns = [source.dsn_through(self.to_source.port()), target.dsn_through(self.to_target.port())];
        migrate(&dsns[0], &dsns[1], &words(&[&FULL, &INSERT_ONLY, &lanes, ending]))
    }

    /// Runs engines and kills them; now and then something else breaks meanwhile.
    async fn disturb_for(&mut self, duration: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < duration {
            let engine = self.run(&[]);
            // The clock decides here, on purpose: a kill at any moment must do.
            tokio::time::sleep(Duration::from_millis(500 + u64::from(self.dice.below(5000)))).await;
            let disturbed = self.dice.below(2) == 0;
            if disturbed {
                self.faults += 1;
                self.fault().await;
                tokio::time::sleep(Duration::from_millis(u64::from(self.dice.below(3000)))).await;
            }
            let outcome = engine.kill().await;
            self.kills += 1;
            // Before it has found its migration, a server that is away is the operator's to see to.
            let gave_up = disturbed
                && outcome.status.signal().is_none()
                && outcome.json()["error"]["kind"] == "connect";
            let killed = outcome.status.signal() == Some(9);
            assert!(killed || gave_up, "it ended by itself:\n{}\n{}", outcome.stdout, outcome.stderr);
        }
    }

    async fn fault(&mut self) {
        let Scenario { source, target } = &self.scenario;
        let shutdown = self.dice.pick(&[Shutdown::Fast, Shutdown::Immediate, Shutdown::Kill]);
        let proxy = [&self.to_source, &self.to_target][self.dice.below(2) as usize];
        match self.dice.below(6) {
            0 => source.cluster.restart(shutdown).await.expect("the source starts again"),
            1 => target.cluster.restart(shutdown).await.expect("the target starts again"),
            2 => proxy.cut(),
            3 => {
                proxy.stall();
                tokio::time::sleep(Duration::from_millis(u64::from(self.dice.below(2000)))).await;
                proxy.resume();
            }
            4 => {
                target.terminate("").await;
            }
            _ => {
                source.terminate("").await;
            }
        }
    }

    /// # Panics
    /// If a table differs; says which, and how.
    async fn compare(&self, when: &str) {
        let comparison = self.scenario.compare().await;
        let differing = comparison.differing_relations().filter(|one| one.kind != RelationKind::Unlogged);
        let mut shown = String::new();
        for relation in differing {
            shown += &format!("{relation:?}\n");
            if relation.source.is_some() && relation.target.is_some() {
                shown += &self.scenario.sample_of_differences(&relation.name.to_string()).await;
            }
        }
        assert!(shown.is_empty(), "{when}: the two sides differ:\n{shown}");
    }
}
