//! Claims about plans: applied in batches they leave what serial application leaves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::apply::change::{Cascade, Restart};
use crate::apply::sample::{keyed, keyless, texts};

/// A target table as a multiset of rows.
type Rows = BTreeMap<Vec<Option<String>>, usize>;

/// A target table that does what statements do, and refuses what does not touch one row each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    rows: Rows,
}

impl Model {
    fn take(&mut self, row: &[Option<String>]) {
        let count = self.rows.get_mut(row).expect("the row is there");
        *count -= 1;
        if *count == 0 {
            self.rows.remove(row);
        }
    }

    fn put(&mut self, row: Vec<Option<String>>) {
        *self.rows.entry(row).or_default() += 1;
    }

    /// The one row with that key, however it is spelled.
    fn by_key(&self, key: &Option<String>) -> Vec<Option<String>> {
        let mut found = self.rows.iter().filter(|(row, _)| same(&row[0], key));
        let (row, count) = found.next().expect("a row has the key");
        assert_eq!((*count, found.next()), (1, None), "a key names one row");
        row.clone()
    }

    fn execute(&mut self, planned: &Planned) {
        match planned {
            Planned::Truncate(_) => self.rows.clear(),
            Planned::Rows(batch) => self.batch(batch),
        }
    }

    /// As the server does it: every row is found first, then all are changed.
    fn batch(&mut self, batch: &Batch) {
        let keyed = !batch.table.key().is_empty();
        let found: Vec<Option<Vec<Option<String>>>> = batch
            .rows
            .iter()
            .map(|row| match &batch.action {
                Action::Insert => None,
                Action::Update(_) => Some(self.by_key(&values(row.new.as_ref().unwrap())[0])),
                Action::Rekey(_) | Action::Delete => Some(self.by_key(&values(row.old.as_ref().unwrap())[0])),
                Action::UpdateWhole(_) | Action::DeleteWhole | Action::DeleteRows => {
                    Some(values(row.old.as_ref().unwrap()))
                }
            })
            .collect();
        for (row, found) in batch.rows.iter().zip(found) {
            if let Some(found) = &found {
                self.take(found);
            }
            if let Some(new) = &row.new {
                let new = new.values().enumerate().map(|(at, value)| match (value, &found) {
                    (Value::Unchanged, Some(found)) => found[at].clone(),
                    (value, _) => text(value),
                });
                self.put(new.collect());
            }
        }
        if keyed {
            let keys: Vec<_> = self.rows.keys().map(|row| &row[0]).collect();
            let twins = keys.iter().filter(|key| keys.iter().filter(|other| same(key, other)).count() > 1);
            assert_eq!(twins.count(), 0, "the key is unique after each statement: {keys:?}");
        }
    }
}

/// Keys are equal as numbers: "1" and "1.0" are one.
fn same(one: &Option<String>, other: &Option<String>) -> bool {
    let number = |text: &Option<String>| text.as_ref().map(|text| text.parse::<f64>().unwrap());
    number(one) == number(other)
}

/// Half of the numbers are the other half, spelled in another way.
fn spelled(id: u8) -> Option<String> {
    Some(if id.is_multiple_of(2) { (id / 2).to_string() } else { format!("{}.0", id / 2) })
}

fn text(value: Value<'_>) -> Option<String> {
    value.bytes().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn values(tuple: &Tuple) -> Vec<Option<String>> {
    tuple.values().map(text).collect()
}

fn tuple(row: &[Option<String>]) -> Tuple {
    row.iter().map(|text| text.as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes()))).collect()
}

/// What the source does; numbers choose among its rows.
#[derive(Debug, Clone)]
enum Act {
    Insert { id: u8, a: u8, b: u8 },
    Update { which: usize, a: u8, b: Option<u8> },
    Rekey { which: usize, id: u8, b: Option<u8> },
    Delete { which: usize },
    Truncate,
}

fn act() -> impl Strategy<Value = Act> {
    let b = || proptest::option::of(0..4_u8);
    prop_oneof![
        5 => (0..10_u8, 0..4_u8, 0..4_u8).prop_map(|(id, a, b)| Act::Insert { id, a, b }),
        5 => (0..9_usize, 0..4_u8, b()).prop_map(|(which, a, b)| Act::Update { which, a, b }),
        2 => (0..9_usize, 0..10_u8, b()).prop_map(|(which, id, b)| Act::Rekey { which, id, b }),
        4 => (0..9_usize).prop_map(|which| Act::Delete { which }),
        1 => Just(Act::Truncate),
    ]
}

/// The source's table after `acts`, and the steps that it sends; acts that it would refuse are left out.
fn source(table: &Arc<BoundTable>, start: &Model, acts: &[Act]) -> (Model, Vec<Step>) {
    let keyed = !table.key().is_empty();
    let mut model = start.clone();
    let mut steps = Vec::new();
    for act in acts {
        let pick = |which: usize| {
            let count = model.rows.len();
            (count > 0).then(|| model.rows.keys().nth(which % count).unwrap().clone())
        };
        let taken = |id: u8| keyed && model.rows.keys().any(|row| same(&row[0], &spelled(id)));
        let old_image = |row: &[Option<String>]| match keyed {
            true => tuple(&[row[0].clone(), None, None]),
            false => tuple(row),
        };
        let op = match act {
            Act::Truncate => {
                model.rows.clear();
                let (cascade, restart) = (Cascade::Restrict, Restart::Continue);
                let tables = vec![Arc::clone(table)];
                steps.push(Step::Truncate(Truncation { tables, transaction: 0, cascade, restart }));
                continue;
            }
            Act::Insert { id, a, b } if !taken(*id) => {
                let row = [spelled(*id), Some(a.to_string()), (*b > 0).then(|| b.to_string())];
                model.put(row.to_vec());
                Op::Insert { new: tuple(&row) }
            }
            Act::Delete { which } => {
                let Some(row) = pick(*which) else { continue };
                let old = old_image(&row);
                model.take(&row);
                if keyed { Op::Delete { old } } else { Op::DeleteWhole { old } }
            }
            Act::Update { which, a, b } => {
                let Some(row) = pick(*which) else { continue };
                let old = old_image(&row);
                let (changed, new) = changed(&row, row[0].clone(), Some(a.to_string()), *b);
                model.take(&row);
                model.put(changed);
                if keyed { Op::Update { new } } else { Op::UpdateWhole { old, new } }
            }
            Act::Rekey { which, id, b } => {
                let Some(row) = pick(*which) else { continue };
                // Another spelling of its own key is free; a key of another row is not.
                if row[0] == spelled(*id) || taken(*id) && !same(&row[0], &spelled(*id)) {
                    continue;
                }
                let old = old_image(&row);
                let (changed, new) = changed(&row, spelled(*id), row[1].clone(), *b);
                model.take(&row);
                model.put(changed);
                if keyed { Op::Rekey { old, new } } else { Op::UpdateWhole { old, new } }
            }
            Act::Insert { .. } => continue,
        };
        steps.push(Step::Row(Change { table: Arc::clone(table), transaction: 0, op }));
    }
    (model, steps)
}

/// A row with new values, and the tuple for it: a `b` of none is an unchanged TOASTed value.
fn changed(
    row: &[Option<String>],
    id: Option<String>,
    a: Option<String>,
    b: Option<u8>,
) -> (Vec<Option<String>>, Tuple) {
    let after = vec![id, a, b.map_or_else(|| row[2].clone(), |b| Some(b.to_string()))];
    let sent = tuple(&after);
    let sent = sent.values().enumerate();
    let new = sent.map(|(at, value)| if at == 2 && b.is_none() { Value::Unchanged } else { value }).collect();
    (after, new)
}

fn table_of(pace: Pace) -> Arc<BoundTable> {
    let mut table = Arc::into_inner(keyed()).unwrap();
    table.pace = pace;
    Arc::new(table)
}

fn agree(table: &Arc<BoundTable>, before: &[Act], acts: &[Act]) {
    let (start, _) = source(table, &Model::default(), before);
    let (expected, steps) = source(table, &start, acts);
    let mut batched = start.clone();
    plan(&steps).iter().for_each(|planned| batched.execute(planned));
    assert_eq!(batched, expected, "set-based");
    let mut serial = start;
    steps.iter().flat_map(plan_exactly).for_each(|planned| serial.execute(&planned));
    assert_eq!(serial, expected, "row by row");
}

proptest! {
    /// The batches, the single rows and the source's own order end in the same table.
    #[test]
    fn plan_equals_serial(
        before in proptest::collection::vec(act(), 0..12),
        acts in proptest::collection::vec(act(), 0..40),
    ) {
        for pace in [Pace::Net, Pace::Runs, Pace::Single] {
            agree(&table_of(pace), &before, &acts);
        }
        agree(&keyless(), &before, &acts);
    }
}

fn step(op: Op) -> Step {
    // One table for all: its serial tells shapes apart.
    thread_local!(static TABLE: Arc<BoundTable> = keyed());
    Step::Row(Change { table: TABLE.with(Arc::clone), transaction: 0, op })
}

fn kinds(planned: &[Planned]) -> Vec<(&'static str, usize)> {
    let kind = |planned: &Planned| match planned {
        Planned::Truncate(_) => ("truncate", 0),
        Planned::Rows(batch) => (batch.action.verb(), batch.rows.len()),
    };
    planned.iter().map(kind).collect()
}

fn row(id: &'static str, a: &'static str, b: Option<&'static str>) -> Tuple {
    texts(&[Some(id), Some(a), b])
}

#[test]
fn deletes_come_before_updates_before_inserts() {
    let steps = [
        step(Op::Insert { new: row("1", "a", Some("b")) }),
        step(Op::Update { new: row("2", "a", Some("b")) }),
        step(Op::Update { new: row("3", "a", None) }),
        step(Op::Delete { old: row("4", "∅", Some("∅")) }),
        step(Op::Update { new: row("5", "a", Some("b")) }),
    ];
    let expected = [("delete from", 1), ("update", 2), ("update", 1), ("insert into", 1)];
    assert_eq!(kinds(&plan(&steps)), expected);
}

#[test]
fn a_key_change_stands_between_batches() {
    let steps = [
        step(Op::Update { new: row("1", "a", Some("b")) }),
        step(Op::Rekey { old: row("1", "∅", Some("∅")), new: row("2", "a", None) }),
        step(Op::Update { new: row("2", "c", Some("b")) }),
    ];
    assert_eq!(kinds(&plan(&steps)), [("update", 1), ("update", 1), ("update", 1)]);
}

#[test]
fn truncate_ends_every_batch() {
    let truncation = Truncation {
        tables: vec![keyed()],
        transaction: 0,
        cascade: Cascade::Restrict,
        restart: Restart::Continue,
    };
    let insert = || step(Op::Insert { new: row("1", "a", Some("b")) });
    let steps = [insert(), Step::Truncate(truncation), insert()];
    assert_eq!(kinds(&plan(&steps)), [("insert into", 1), ("truncate", 0), ("insert into", 1)]);
}

#[test]
fn a_contradiction_keeps_the_order_it_came_in() {
    let insert = || step(Op::Insert { new: row("1", "a", Some("b")) });
    assert_eq!(kinds(&plan(&[insert(), insert()])), [("insert into", 1), ("insert into", 1)]);
}

#[test]
fn a_table_whose_batch_was_refused_is_told_one_by_one_and_the_others_are_not() {
    let (careful, other) = (keyed(), keyed());
    careful.caution.raise();
    let insert = |table: &Arc<BoundTable>, id| {
        let op = Op::Insert { new: row(id, "a", None) };
        Step::Row(Change { table: Arc::clone(table), transaction: 0, op })
    };
    let steps: Vec<Step> =
        ["1", "2"].iter().flat_map(|id| [insert(&careful, id), insert(&other, id)]).collect();
    let insert = |rows| ("insert into", rows);
    assert_eq!(kinds(&plan(&steps)), [insert(1), insert(1), insert(2)]);
}
