//! Writers that throw dice: transactions of a few acts on any of the awkward tables.
//!
//! A constraint, a deadlock or a lost connection costs a writer its transaction, as it does an application; any
//! other refusal ends the soak, because the source was harmed or an act is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgstream::demo::Dice;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;

use super::tables::Shape;
use crate::support::scenario::Side;

const WRITERS: u64 = 4;
const KEYS: u32 = 60;

/// Dropping it breaks the writers off.
pub(super) struct Writers {
    /// A writer holds it shared for the length of a transaction.
    gate: Arc<RwLock<()>>,
    tasks: JoinSet<()>,
    counts: Arc<[Count]>,
    _alive: watch::Sender<()>,
}

/// What became of a shape's acts.
#[derive(Debug, Default)]
pub(super) struct Count {
    committed: AtomicU64,
    refused: AtomicU64,
}

impl Writers {
    pub(super) fn start(source: &Side, shapes: &'static [&'static Shape], seed: u64) -> Writers {
        let (gate, counts) = (Arc::new(RwLock::new(())), shapes.iter().map(|_| Count::default()).collect());
        let (alive, _) = watch::channel(());
        let mut writers = Writers { gate, tasks: JoinSet::new(), counts, _alive: alive };
        for number in 0..WRITERS {
            let writer = Writer {
                source: source.clone(),
                shapes,
                dice: Dice::new(seed, number),
                gate: Arc::clone(&writers.gate),
                counts: Arc::clone(&writers.counts),
            };
            writers.tasks.spawn(writer.run());
        }
        writers
    }

    /// Waits until no transaction is open; none begins until the guard drops.
    ///
    /// # Panics
    /// If a writer did.
    pub(super) async fn pause(&mut self) -> RwLockWriteGuard<'_, ()> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.expect("a writer goes on for ever");
        }
        self.gate.write().await
    }

    /// Transactions committed so far, over all shapes.
    pub(super) fn committed(&self) -> u64 {
        self.counts.iter().map(|count| count.committed.load(Ordering::Relaxed)).sum()
    }

    /// # Panics
    /// If a shape was never changed: it would prove nothing.
    pub(super) fn assert_all_written(&self, shapes: &[&Shape]) {
        for (shape, count) in shapes.iter().zip(self.counts.iter()) {
            assert!(
                count.committed.load(Ordering::Relaxed) > 0,
                "nothing was ever written to {}",
                shape.name
            );
        }
    }
}

struct Writer {
    source: Side,
    shapes: &'static [&'static Shape],
    dice: Dice,
    gate: Arc<RwLock<()>>,
    counts: Arc<[Count]>,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let Ok(session) = self.source.cluster.session(&self.source.dbname).await else {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            };
            if session.batch_execute("SET search_path = public; SET application_name = 'test'").await.is_err()
            {
                continue;
            }
            while !session.is_closed() {
                let gate = Arc::clone(&self.gate);
                let _open = gate.read().await;
                self.transaction(&session).await;
            }
        }
    }

    async fn transaction(&mut self, session: &pgstream::wire::Session) {
        let (mut sql, mut touched) = ("BEGIN".to_owned(), Vec::new());
        for _ in 0..self.dice.upto(4) {
            let (shape, act) = self.act();
            match self.dice.below(8) {
                0 => sql += &format!("; SAVEPOINT s; {act}; ROLLBACK TO s"),
                1 => {
                    let (other, again) = self.act();
                    sql += &format!("; SAVEPOINT s; {act}; SAVEPOINT t; {again}; ROLLBACK TO t; RELEASE s");
                    let _ = other;
                    touched.push(shape);
                }
                _ => {
                    sql += &format!("; {act}");
                    touched.push(shape);
                }
            }
        }
        sql += if self.dice.below(12) == 0 { "; ROLLBACK" } else { "; COMMIT" };
        match session.batch_execute(&sql).await {
            Ok(()) if sql.ends_with("COMMIT") => self.note(&touched, |count| &count.committed),
            Ok(()) => {}
            Err(error) => {
                self.note(&touched, |count| &count.refused);
                let expected = error.code().is_none_or(is_expected);
                assert!(expected, "{error:?}\nin {sql}");
                // A lost connection shows in the next round.
                let _ = session.batch_execute("ROLLBACK").await;
            }
        }
    }

    fn act(&mut self) -> (usize, String) {
        let at = self.dice.below(self.shapes.len() as u32) as usize;
        let dice = &mut self.dice;
        let act = dice.pick(self.shapes[at].acts);
        let mut sql = act.to_owned();
        let (key, other, number) = (dice.upto(KEYS), dice.upto(KEYS), dice.below(1000));
        for (mark, value) in [("$K", key.to_string()), ("$J", other.to_string()), ("$N", number.to_string())]
        {
            sql = sql.replace(mark, &value);
        }
        while sql.contains("$T") {
            let texts = [
                "NULL",
                "''",
                "'short'",
                "'it''s \\ \"odd\", {x}'",
                "E'tab\\tline\\nü'",
                "repeat('long ', 40)",
            ];
            sql = sql.replacen("$T", dice.pick(&texts), 1);
        }
        while sql.contains("$B") {
            // Digests do not compress.
            let long = format!(
                "(SELECT string_agg(md5('{}/' || i), '') FROM generate_series(1, {}) AS i)",
                dice.below(1_000_000),
                60 + dice.below(200)
            );
            sql = sql.replacen("$B", &long, 1);
        }
        (at, sql)
    }

    fn note(&self, touched: &[usize], count: fn(&Count) -> &AtomicU64) {
        for at in touched {
            count(&self.counts[*at]).fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What an application shrugs off: constraints, deadlocks, a server that goes or comes.
fn is_expected(code: &SqlState) -> bool {
    ["23", "40", "57", "08"].iter().any(|class| code.code().starts_with(class))
}
