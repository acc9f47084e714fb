//! Lanes against the source's order, in memory: any interleaving of their commits, a crash anywhere, another
//! number of lanes after it. The router, the crew and the bookkeeping are the real ones; only the target is a map.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::sync::Mutex;

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::apply::change::{Cascade, Change, Op, Restart, Truncation};
use crate::apply::checkpoint::Checkpoint;
use crate::apply::event::SourceTransaction;
use crate::apply::operator::TargetFacts;
use crate::apply::route::keyed_tables;
use crate::apply::sample::{column, index, keyed, keyless, table};
use crate::apply::table::BoundTable;
use crate::catalog::IndexKind;
use crate::pg::{PgTimestamp, Xid};
use crate::pgoutput::{Tuple, Value};

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A table with a key, and one without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rows {
    keyed: BTreeMap<String, String>,
    keyless: Vec<String>,
}

impl Rows {
    fn apply(&mut self, step: &Step) {
        let Step::Row(change) = step else {
            self.keyed.clear();
            return;
        };
        let text = |tuple: &Tuple, at| match tuple.values().nth(at) {
            Some(Value::Text(text)) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        };
        match &change.op {
            Op::Insert { new } if change.table.key().is_empty() => self.keyless.push(text(new, 1)),
            Op::Insert { new } => assert_eq!(self.keyed.insert(text(new, 0), text(new, 1)), None),
            Op::Update { new } => assert!(self.keyed.insert(text(new, 0), text(new, 1)).is_some()),
            Op::Delete { old } => assert!(self.keyed.remove(&text(old, 0)).is_some()),
            Op::Rekey { old, new } => {
                assert!(self.keyed.remove(&text(old, 0)).is_some());
                assert_eq!(self.keyed.insert(text(new, 0), text(new, 1)), None);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What a crash leaves.
struct Target {
    rows: Rows,
    /// Commits until the crash.
    left: u64,
    dice: Dice,
}

fn tuple(key: u64, value: u64) -> Tuple {
    let (key, value) = (key.to_string(), value.to_string());
    [Value::Text(key.as_bytes()), Value::Text(value.as_bytes()), Value::Null].into_iter().collect()
}

/// Transactions that are possible one after the other; the n-th commits at n.
fn history(dice: &mut Dice, tables: [&Arc<BoundTable>; 2]) -> Vec<Vec<Step>> {
    let mut present: Vec<u64> = Vec::new();
    let mut next = 0;
    let mut transaction = |dice: &mut Dice| {
        let mut steps = Vec::new();
        for _ in 0..=dice.roll(6) {
            next += 1;
            let some = dice.roll(present.len().max(1) as u64) as usize;
            let op = match (dice.roll(40), present.get(some).copied()) {
                (0, Some(_)) => {
                    present.clear();
                    steps.push(Step::Truncate(Truncation {
                        tables: vec![Arc::clone(tables[0])],
                        transaction: 0,
                        cascade: Cascade::Restrict,
                        restart: Restart::Continue,
                    }));
                    continue;
                }
                (1, Some(old)) => {
                    present[some] = next;
                    Op::Rekey { old: tuple(old, 0), new: tuple(next, next) }
                }
                (2..20, Some(key)) => Op::Update { new: tuple(key, next) },
                (20..26, Some(key)) => {
                    present.swap_remove(some);
                    Op::Delete { old: tuple(key, 0) }
                }
                (26..30, _) => {
                    let (table, op) = (Arc::clone(tables[1]), Op::Insert { new: tuple(0, next) });
                    steps.push(Step::Row(Change { table, transaction: 0, op }));
                    continue;
                }
                _ => {
                    present.push(next);
                    Op::Insert { new: tuple(next, next) }
                }
            };
            steps.push(Step::Row(Change { table: Arc::clone(tables[0]), transaction: 0, op }));
        }
        steps
    };
    (0..60).map(|_| transaction(dice)).collect()
}

/// A lane that writes to the map.
async fn write(
    id: LaneId,
    mut orders: mpsc::Receiver<Order>,
    target: Arc<Mutex<Target>>,
    checkpoint: Arc<Checkpoint>,
    done: Arc<watch::Sender<Vec<Done>>>,
) {
    while let Some(order) = orders.recv().await {
        let pauses = target.lock().unwrap().dice.roll(4);
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        {
            let mut target = target.lock().unwrap();
            if matches!(order, Order::Chunk { .. } | Order::Expand { .. }) {
                if target.left == 0 {
                    return;
                }
                target.left -= 1;
            }
            match order {
                Order::Chunk { chunk, scope, .. } => {
                    chunk.steps.iter().for_each(|step| target.rows.apply(step));
                    checkpoint.advanced(scope, &chunk.end.unwrap());
                }
                Order::Expand { lanes, .. } => checkpoint.expanded(lanes),
                Order::Position { .. } => {}
            }
        }
        done.send_modify(|done| done[id.index()].orders += 1);
    }
}

/// One engine's life, on what another has left: to its crash, or to the end.
fn live(
    runtime: &Rc<Runtime>,
    target: &Arc<Mutex<Target>>,
    checkpoint: &Arc<Checkpoint>,
    history: &[Vec<Step>],
    keyed: &BTreeSet<String>,
    lanes: u8,
) -> Result<()> {
    let done = Arc::new(watch::Sender::new(vec![Done::default(); LaneId::MAX]));
    let stop = watch::Sender::new(false);
    let (mut writers, hands): (Vec<mpsc::Sender<Order>>, Vec<_>) = LaneId::all(usize::from(lanes))
        .map(|id| {
            let (orders, to_write) = mpsc::channel(ORDERS_MAX);
            let (target, checkpoint) = (Arc::clone(target), Arc::clone(checkpoint));
            let (writer, stop) = (write(id, to_write, target, checkpoint, Arc::clone(&done)), stop.clone());
            let hand = runtime.spawn(async move {
                writer.await;
                // As the applier does when a writer ends early.
                stop.send_replace(true);
            });
            (orders, hand)
        })
        .unzip();
    let ends = checkpoint.ends();
    let begin = ends.iter().min().unwrap().offset();
    let start = Start {
        ends,
        stored: keyed.clone(),
        keyed: keyed.clone(),
        lanes: ApplyLanes::Fixed(NonZeroU8::new(lanes).unwrap()),
        hiring: None,
    };
    let first = writers.remove(0);
    let mut crew = Crew::new(first, done.subscribe(), stop.subscribe(), Rc::clone(runtime), start);
    crew.sent.extend(writers.iter().map(|_| 0));
    crew.orders.extend(writers);
    let lived = follow(&mut crew, target, history, begin);
    drop(crew);
    for hand in hands {
        runtime.block_on(hand).unwrap();
    }
    lived
}

/// What the planner does with the stream from `begin` on.
fn follow(crew: &mut Crew, target: &Mutex<Target>, history: &[Vec<Step>], begin: u64) -> Result<()> {
    let mut steps = Vec::new();
    for (end, transaction) in (1..).zip(history).skip(usize::try_from(begin).unwrap()) {
        // Its commit record starts where the one before it ended.
        let final_lsn = Lsn::new(end - 1);
        for step in transaction {
            if !crew.has_already(step, final_lsn)? {
                steps.push(step.clone());
            }
        }
        let dice = target.lock().unwrap().dice.roll(20);
        if steps.is_empty() {
            crew.pass(Lsn::new(end))?;
        } else if dice < 12 {
            let pressure = if dice == 0 { Pressure::None } else { Pressure::Full };
            let group = GroupEnd {
                end_lsn: Lsn::new(end),
                commit_time: None,
                transactions: 1,
                changes: steps.len() as u64,
            };
            let transactions = vec![SourceTransaction {
                xid: Xid::new(1),
                final_lsn,
                commit_time: PgTimestamp::from_micros(0),
            }];
            let chunk = Chunk { steps: std::mem::take(&mut steps), transactions, end: Some(group) };
            crew.write(chunk, Lsn::new(end), pressure)?;
        } else if dice == 12 {
            crew.drain()?;
            crew.gather()?;
        }
    }
    if !steps.is_empty() {
        let end = Lsn::new(history.len() as u64);
        let end = GroupEnd { end_lsn: end, commit_time: None, transactions: 1, changes: steps.len() as u64 };
        let chunk = Chunk { steps, transactions: Vec::new(), end: Some(end) };
        crew.write(chunk, end.end_lsn, Pressure::None)?;
    }
    crew.gather()?;
    crew.drain()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn lanes_end_where_the_source_is(
        seed in any::<u64>(),
        lives in proptest::collection::vec((1..6_u8, 0..40_u64), 1..5),
    ) {
        let columns = vec![column("id", "int4"), column("a", "text"), column("b", "text")];
        let catalog = table(columns, vec![index(IndexKind::Primary, &[1])]);
        let keyed_set = keyed_tables(&[catalog], &TargetFacts::default());
        prop_assert_eq!(keyed_set.len(), 1);
        let (with_key, without) = (keyed(), keyless());
        let mut dice = Dice(seed);
        let history = history(&mut dice, [&with_key, &without]);
        let mut expected = Rows::default();
        history.iter().flatten().for_each(|step| expected.apply(step));

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().map(Rc::new).unwrap();
        let target = Arc::new(Mutex::new(Target { rows: Rows::default(), left: 0, dice }));
        let checkpoint = Arc::new(Checkpoint::standing_at(Lsn::ZERO));
        let lives = lives.into_iter().chain([(3, u64::MAX)]);
        for (lanes, left) in lives {
            target.lock().unwrap().left = left;
            let ended = live(&runtime, &target, &checkpoint, &history, &keyed_set, lanes);
            if let Err(error) = ended {
                prop_assert_eq!(error.kind(), ErrorKind::Aborted, "{}", describe(&error));
            }
        }
        let target = target.lock().unwrap();
        prop_assert_eq!(&target.rows, &expected);
        prop_assert_eq!(checkpoint.ends(), vec![Lsn::new(history.len() as u64)]);
    }
}
