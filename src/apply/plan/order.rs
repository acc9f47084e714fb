//! Claims about plans on awkward tables: in whatever order a batch tells its rows, the target ends as the source.
//!
//! The source makes random changes and sends them as a server would; the target checks every constraint row by row,
//! as a server does, and refuses a statement that touches another number of rows than it should. What it refuses
//! is rolled back and told again row by row, as the writer does it.

use proptest::prelude::*;

use super::*;
use crate::apply::change::{Cascade, Restart, identify};
use crate::apply::event::RowEvent;
use crate::apply::sample::{bind, column, index, relation, table};
use crate::catalog::IndexKind;
use crate::pg::Identifier;
use crate::pgoutput::{OldTuple, ReplicaIdentity};

/// `id`, `a`, `b`, whatever their order in the stream.
type Row = [Option<String>; 3];
const NAMES: [&str; 3] = ["id", "a", "b"];

/// Which ids two rows may not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unique {
    Always,
    /// Some index says so, and does not hold all rows at all times: it is no key.
    Unless(Loophole),
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loophole {
    /// Rows whose id is NULL are not compared.
    Null,
    /// Only rows with a `b` are.
    Partial,
    /// Between the first statement of a transaction and its end, nobody looks.
    Deferred,
    /// The index was never finished.
    Invalid,
    /// It is there on the source alone.
    Unproven,
}

/// A table, on both ends alike.
#[derive(Debug, Clone, Copy)]
struct Kind {
    identity: ReplicaIdentity,
    id: Unique,
    /// No two rows have the same `a` either.
    unique_a: bool,
    /// An update that leaves the key alone sends the old one, and the new one not at all.
    toasted_key: bool,
    /// Triggers of the target see every change.
    watched: bool,
}

const KEYED: Kind = Kind {
    identity: ReplicaIdentity::Default,
    id: Unique::Always,
    unique_a: false,
    toasted_key: false,
    watched: false,
};
const FULL: Kind = Kind { identity: ReplicaIdentity::Full, ..KEYED };
const KINDS: [Kind; 11] = [
    KEYED,
    Kind { id: Unique::Unless(Loophole::Unproven), ..KEYED },
    Kind { unique_a: true, ..KEYED },
    Kind { toasted_key: true, ..KEYED },
    Kind { watched: true, ..KEYED },
    FULL,
    Kind { id: Unique::Never, ..FULL },
    Kind { id: Unique::Unless(Loophole::Null), ..FULL },
    Kind { id: Unique::Unless(Loophole::Partial), ..FULL },
    Kind { id: Unique::Unless(Loophole::Deferred), ..FULL },
    Kind { id: Unique::Unless(Loophole::Invalid), ..FULL },
];

impl Kind {
    /// The table as the source announces it, its columns in this order.
    fn bound(self, order: [usize; 3]) -> Arc<BoundTable> {
        let mut columns = vec![column("id", "numeric"), column("a", "text"), column("b", "text")];
        columns[0].not_null = self.id != Unique::Unless(Loophole::Null);
        let kind = if self.id == Unique::Always { IndexKind::Primary } else { IndexKind::Unique };
        let mut unique = index(kind, &[1]);
        match self.id {
            Unique::Always | Unique::Never | Unique::Unless(Loophole::Null | Loophole::Unproven) => {}
            Unique::Unless(Loophole::Partial) => unique.is_partial = true,
            Unique::Unless(Loophole::Deferred) => unique.is_immediate = false,
            Unique::Unless(Loophole::Invalid) => unique.is_valid = false,
        }
        let absent = matches!(self.id, Unique::Never | Unique::Unless(Loophole::Unproven));
        let indexes = if absent { vec![] } else { vec![unique] };
        let mut table = table(columns, indexes);
        if self.watched {
            table.replica_triggers.push(Identifier::new("audit"));
        }
        let full = self.identity == ReplicaIdentity::Full;
        let all = [("id", 1700, true), ("a", 25, full), ("b", 25, full)];
        bind(&relation(self.identity, &order.map(|at| all[at])), &table).unwrap()
    }

    /// Whether two rows may stand side by side, at this very moment.
    fn allows(self, one: &Row, other: &Row) -> bool {
        let same_id = same(&one[0], &other[0]);
        let ids = match self.id {
            Unique::Always | Unique::Unless(Loophole::Null | Loophole::Unproven) => !same_id,
            Unique::Unless(Loophole::Partial) => !same_id || one[2].is_none() || other[2].is_none(),
            Unique::Never | Unique::Unless(Loophole::Deferred | Loophole::Invalid) => true,
        };
        ids && !(self.unique_a && one[1] == other[1])
    }
}

/// What keys compare: numbers, of which NULL equals none.
fn same(one: &Option<String>, other: &Option<String>) -> bool {
    let number = |text: &Option<String>| text.as_ref().map(|text| text.parse::<f64>().unwrap());
    number(one).is_some_and(|one| number(other) == Some(one))
}

/// A statement was refused.
#[derive(Debug)]
struct Refused;

/// One end: the rows of its two tables, and what the triggers of each saw.
#[derive(Debug, Clone)]
struct End {
    kind: Kind,
    rows: [Vec<Row>; 2],
    seen: [Vec<(&'static str, Row)>; 2],
}

impl End {
    fn put(&mut self, at: usize, row: Row) -> Result<(), Refused> {
        if !self.rows[at].iter().all(|other| self.kind.allows(&row, other)) {
            return Err(Refused);
        }
        self.rows[at].push(row);
        Ok(())
    }

    /// Changes one row in its place.
    fn replace(&mut self, at: usize, which: usize, row: Row) -> Result<(), Refused> {
        self.rows[at].swap_remove(which);
        self.put(at, row)
    }

    fn sorted(&self) -> [Vec<Row>; 2] {
        self.rows.clone().map(|mut rows| {
            rows.sort();
            rows
        })
    }

    fn run(&mut self, planned: &Planned, at: impl Fn(&Arc<BoundTable>) -> usize) -> Result<(), Refused> {
        match planned {
            Planned::Truncate(truncation) => {
                truncation.tables.iter().for_each(|table| self.rows[at(table)].clear())
            }
            Planned::Rows(batch) => self.batch(batch, at(&batch.table))?,
        }
        Ok(())
    }

    /// Every row is found before any is changed; then each is changed, and checked, in its turn.
    fn batch(&mut self, batch: &Batch, at: usize) -> Result<(), Refused> {
        let mut found: Vec<Option<Row>> = Vec::new();
        let mut left = self.rows[at].clone();
        for row in &batch.rows {
            let is_it: Box<dyn Fn(&Row) -> bool> = match (&batch.action, &row.old, &row.new) {
                (Action::Insert, ..) => {
                    found.push(None);
                    continue;
                }
                (Action::Update(_), _, Some(image)) | (Action::Rekey(_) | Action::Delete, Some(image), _) => {
                    let key: Vec<(usize, Option<String>)> = batch
                        .table
                        .key()
                        .iter()
                        .map(|at| (named(&batch.table, *at), value(image, *at)))
                        .collect();
                    Box::new(move |row| key.iter().all(|(at, value)| same(&row[*at], value)))
                }
                (Action::UpdateWhole(_) | Action::DeleteWhole | Action::DeleteRows, Some(image), _) => {
                    let image = read(&batch.table, image, None);
                    Box::new(move |row| *row == image)
                }
                other => panic!("no statement is like {other:?}"),
            };
            let matches: Vec<usize> = (0..left.len()).filter(|at| is_it(&left[*at])).collect();
            let by_key = !batch.table.key().is_empty();
            match matches[..] {
                [] => return Err(Refused),
                [_, _, ..] if by_key => return Err(Refused),
                [which, ..] => found.push(Some(left.swap_remove(which))),
            }
        }
        for (row, found) in batch.rows.iter().zip(found) {
            self.seen[at].push((batch.action.verb(), found.clone().unwrap_or_default()));
            if let (Action::Update(set) | Action::Rekey(set) | Action::UpdateWhole(set), Some(new)) =
                (&batch.action, &row.new)
            {
                let sent = |(at, value)| set.contains(at) == (value != Value::Unchanged);
                assert!(new.values().enumerate().all(sent), "exactly what was sent is set");
            }
            let new = row.new.as_ref().map(|new| read(&batch.table, new, found.as_ref()));
            let which = found.map(|found| self.rows[at].iter().position(|row| *row == found).ok_or(Refused));
            match (which.transpose()?, new) {
                (None, Some(new)) => self.put(at, new)?,
                (Some(which), Some(new)) => self.replace(at, which, new)?,
                (Some(which), None) => drop(self.rows[at].swap_remove(which)),
                (None, None) => panic!("a row has an old image or a new one"),
            }
        }
        Ok(())
    }
}

/// Which of ours a column of the tuple is.
fn named(table: &BoundTable, at: usize) -> usize {
    NAMES.iter().position(|name| *name == table.columns[at].name.raw()).unwrap()
}

fn value(tuple: &Tuple, at: usize) -> Option<String> {
    let bytes = tuple.values().nth(at).unwrap().bytes().map(<[u8]>::to_vec);
    bytes.map(|bytes| String::from_utf8(bytes).unwrap())
}

/// A tuple as a row; what it leaves unchanged is as before.
fn read(table: &BoundTable, tuple: &Tuple, before: Option<&Row>) -> Row {
    let mut row = Row::default();
    for (at, sent) in tuple.values().enumerate() {
        let column = named(table, at);
        row[column] = match sent {
            Value::Unchanged => before.expect("only updates leave values out")[column].clone(),
            _ => value(tuple, at),
        };
    }
    row
}

/// A row as a tuple, some columns of which are left out, in one way or the other.
fn sent(table: &BoundTable, row: &Row, left_out: impl Fn(usize) -> Option<Value<'static>>) -> Tuple {
    let value = |at: usize| {
        let column = named(table, at);
        let bytes = row[column].as_ref().map_or(Value::Null, |text| Value::Text(text.as_bytes()));
        left_out(column).unwrap_or(bytes)
    };
    (0..NAMES.len()).map(value).collect()
}

/// What the source does; numbers choose among what it has.
#[derive(Debug, Clone)]
enum Act {
    Insert {
        table: usize,
        row: Row,
    },
    Update {
        table: usize,
        which: usize,
        a: Option<u8>,
        b: Option<Option<u8>>,
    },
    Rekey {
        table: usize,
        which: usize,
        id: Option<String>,
        b: Option<Option<u8>>,
    },
    Delete {
        table: usize,
        which: usize,
    },
    Truncate {
        tables: Vec<usize>,
    },
    /// The columns are announced in another order.
    Reshape {
        table: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let (table, which) = (0..2_usize, 0..9_usize);
    // Half of the ids are the other half, spelled in another way; few are NULL.
    let id = || {
        (0..13_u8).prop_map(|id| match id {
            12 => None,
            id if id % 2 == 0 => Some((id / 2).to_string()),
            id => Some(format!("{}.0", id / 2)),
        })
    };
    let text = |of: std::ops::Range<u8>| of.prop_map(|n| (n > 0).then(|| n.to_string()));
    let toast = || proptest::option::of(proptest::option::of(0..3_u8));
    let row =
        (id(), (1..6_u8).prop_map(|a| Some(a.to_string())), text(0..3)).prop_map(|(id, a, b)| [id, a, b]);
    prop_oneof![
        6 => (table.clone(), row).prop_map(|(table, row)| Act::Insert { table, row }),
        6 => (table.clone(), which.clone(), proptest::option::of(1..6_u8), toast())
            .prop_map(|(table, which, a, b)| Act::Update { table, which, a, b }),
        2 => (table.clone(), which.clone(), id(), toast())
            .prop_map(|(table, which, id, b)| Act::Rekey { table, which, id, b }),
        4 => (table.clone(), which).prop_map(|(table, which)| Act::Delete { table, which }),
        1 => proptest::collection::vec(table.clone(), 1..3).prop_map(|tables| Act::Truncate { tables }),
        1 => table.prop_map(|table| Act::Reshape { table }),
    ]
}

/// The source, with what it has sent.
struct Source {
    end: End,
    tables: [Arc<BoundTable>; 2],
    /// Which of the two each shape was.
    serials: HashMap<u64, usize>,
    steps: Vec<Step>,
}

impl Source {
    fn new(kind: Kind) -> Source {
        let tables = [kind.bound([0, 1, 2]), kind.bound([1, 2, 0])];
        let serials = tables.iter().enumerate().map(|(at, table)| (table.serial, at)).collect();
        let end = End { kind, rows: Default::default(), seen: Default::default() };
        Source { end, tables, serials, steps: Vec::new() }
    }

    /// Does what is allowed, and sends it.
    fn act(&mut self, act: &Act) {
        let mut after = self.end.clone();
        let event = match act {
            Act::Truncate { tables } => {
                tables.iter().for_each(|at| self.end.rows[*at].clear());
                let tables = tables.iter().map(|at| Arc::clone(&self.tables[*at])).collect();
                let (cascade, restart) = (Cascade::Restrict, Restart::Continue);
                self.steps.push(Step::Truncate(Truncation { tables, transaction: 0, cascade, restart }));
                return;
            }
            Act::Reshape { table } => {
                let order =
                    if self.tables[*table].columns[0].name.raw() == "id" { [2, 0, 1] } else { [0, 1, 2] };
                self.tables[*table] = self.end.kind.bound(order);
                self.serials.insert(self.tables[*table].serial, *table);
                return;
            }
            Act::Insert { table, row } => {
                if row[0].is_none() && self.end.kind.id != Unique::Unless(Loophole::Null) {
                    return;
                }
                after.seen[*table].push(("insert into", Row::default()));
                let event = RowEvent::Insert { new: sent(&self.tables[*table], row, |_| None) };
                (*table, after.put(*table, row.clone()).map(|()| event))
            }
            Act::Delete { table, which } => {
                let Some((at, before)) = self.pick(*table, *which) else { return };
                after.rows[*table].swap_remove(at);
                after.seen[*table].push(("delete from", before.clone()));
                (*table, Ok(RowEvent::Delete { old: self.old(*table, &before) }))
            }
            Act::Update { table, which, a, b } => {
                let Some((at, before)) = self.pick(*table, *which) else { return };
                let mut row = before.clone();
                a.iter().for_each(|a| row[1] = Some(a.to_string()));
                (*table, self.update(&mut after, *table, at, &before, row, b))
            }
            Act::Rekey { table, which, id, b } => {
                let Some((at, before)) = self.pick(*table, *which) else { return };
                if id.is_none() && self.end.kind.id != Unique::Unless(Loophole::Null) {
                    return;
                }
                let mut row = before.clone();
                row[0].clone_from(id);
                (*table, self.update(&mut after, *table, at, &before, row, b))
            }
        };
        let (table, Ok(event)) = event else { return };
        let table = Arc::clone(&self.tables[table]);
        let op = identify(&table, event).expect("what the source sends can be told");
        self.steps.push(Step::Row(Change { table, transaction: 0, op }));
        self.end = after;
    }

    fn pick(&self, table: usize, which: usize) -> Option<(usize, Row)> {
        let rows = &self.end.rows[table];
        let at = which.checked_rem(rows.len())?;
        Some((at, rows[at].clone()))
    }

    fn old(&self, table: usize, row: &Row) -> OldTuple {
        match self.end.kind.identity {
            ReplicaIdentity::Full => OldTuple::Full(sent(&self.tables[table], row, |_| None)),
            _ => OldTuple::Key(sent(&self.tables[table], row, |column| (column > 0).then_some(Value::Null))),
        }
    }

    /// A `b` of none is TOASTed and not touched.
    fn update(
        &self,
        after: &mut End,
        table: usize,
        at: usize,
        before: &Row,
        mut row: Row,
        b: &Option<Option<u8>>,
    ) -> Result<RowEvent, Refused> {
        if let Some(b) = b {
            row[2] = b.map(|b| b.to_string());
        }
        after.replace(table, at, row.clone())?;
        after.seen[table].push(("update", before.clone()));
        let kind = self.end.kind;
        let key_changed = before[0] != row[0];
        let toasted = |column: usize| match column {
            0 => kind.toasted_key && !key_changed,
            column => column == 2 && b.is_none(),
        };
        let new = sent(&self.tables[table], &row, |column| toasted(column).then_some(Value::Unchanged));
        let says_old = key_changed || kind.toasted_key || kind.identity == ReplicaIdentity::Full;
        Ok(RowEvent::Update { old: says_old.then(|| self.old(table, before)), new })
    }
}

/// How a target took a plan.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Whole,
    RowByRow,
}

/// As the writer does it.
fn apply(target: &mut End, steps: &[Step], serials: &HashMap<u64, usize>) -> Taken {
    let at = |table: &Arc<BoundTable>| serials[&table.serial];
    let savepoint = target.clone();
    if plan(steps).iter().try_for_each(|planned| target.run(planned, at)).is_ok() {
        return Taken::Whole;
    }
    *target = savepoint;
    for planned in steps.iter().flat_map(plan_exactly) {
        target.run(&planned, at).expect("the source's own order is possible");
    }
    Taken::RowByRow
}

fn agree(kind: Kind, before: &[Act], acts: &[Act]) {
    let mut source = Source::new(kind);
    before.iter().for_each(|act| source.act(act));
    source.steps.clear();
    source.end.seen = Default::default();
    let mut target = source.end.clone();
    acts.iter().for_each(|act| source.act(act));
    let taken = apply(&mut target, &source.steps, &source.serials);
    assert_eq!(target.sorted(), source.end.sorted(), "{kind:?}");
    if kind.watched {
        assert_eq!(target.seen, source.end.seen, "triggers see what happened");
    }
    // Elsewhere there is nothing that a batch's order could run into.
    assert!(kind.unique_a || taken == Taken::Whole, "{kind:?}: a batch was refused");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn batches_end_where_the_source_does_on_every_kind_of_table(
        before in proptest::collection::vec(act(), 0..14),
        acts in proptest::collection::vec(act(), 0..40),
    ) {
        KINDS.iter().for_each(|kind| agree(*kind, &before, &acts));
    }
}

/// Deletes, then updates, then inserts: what one row gives up, another may take.
#[test]
fn unique_values_of_deleted_rows_are_free_for_others_without_a_replay() {
    let row = |id: &str, a: &str| [Some(id.to_owned()), Some(a.to_owned()), None];
    let mut source = Source::new(Kind { unique_a: true, ..KEYED });
    for (id, a) in [("1", "1"), ("2", "2"), ("3", "3")] {
        source.act(&Act::Insert { table: 0, row: row(id, a) });
    }
    let mut target = source.end.clone();
    source.steps.clear();
    source.act(&Act::Delete { table: 0, which: 0 });
    source.act(&Act::Insert { table: 0, row: row("4", "1") });
    source.act(&Act::Delete { table: 0, which: 1 });
    assert_eq!(apply(&mut target, &source.steps, &source.serials), Taken::Whole);
    assert_eq!(target.sorted(), source.end.sorted());
}
