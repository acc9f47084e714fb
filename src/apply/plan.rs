//! What to tell the target: a group's changes as a few batches, or as single rows.
//!
//! Hazard: a batch gives up the order of its rows. [`plan`] does so where the result is the same in any
//! order that the target could notice *if* no other constraint stands between the rows; where one does, the
//! target refuses, and the same changes are told again by [`plan_exactly`], row by row in the source's order.
//!
//! ```text
//!   changes of one table:   I U U D I │ rekey │ U I │ …
//!                           ╰─ net ─╯    one    ╰net╯      in a batch: deletes, updates, inserts
//!   of one without a key:   I U U D I U U I …              rows fewer, rows more
//!   TRUNCATE                ends the batches of every table
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::change::{Change, Op, Step, Truncation, first_unchanged};
use super::compact::{Irregular, Net, NetChanges};
use super::key::{KeyBytes, KeyOf};
use super::multiset::NetRows;
use super::table::{BoundTable, Pace, RowIdentity};
use crate::pgoutput::{Tuple, Value};

/// Which columns of a new row were sent: the others were TOASTed and did not change (P42).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Present {
    All,
    Only(Vec<bool>),
}

impl Present {
    fn of(tuple: &Tuple) -> Present {
        match first_unchanged(tuple) {
            None => Present::All,
            Some(_) => Present::Only(tuple.values().map(|value| value != Value::Unchanged).collect()),
        }
    }

    pub(super) fn contains(&self, column: usize) -> bool {
        match self {
            Present::All => true,
            Present::Only(columns) => columns.get(column).copied().unwrap_or(false),
        }
    }
}

/// What one statement does to each of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Insert,
    /// Sets the columns outside the key.
    Update(Present),
    /// Sets all columns, the key among them, where the key is the old one.
    Rekey(Present),
    Delete,
    /// One of the rows equal to the old image.
    UpdateWhole(Present),
    DeleteWhole,
    /// Of the rows equal to each old image as many as it stands in the batch; equal ones stand side by side.
    DeleteRows,
}

impl Action {
    /// For messages.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Action::Insert => "insert into",
            Action::Update(_) | Action::Rekey(_) | Action::UpdateWhole(_) => "update",
            Action::Delete | Action::DeleteWhole | Action::DeleteRows => "delete from",
        }
    }
}

/// A row of a batch: what finds it, and what it becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BatchRow {
    /// For everything but inserts; for an update by key that is `new` itself.
    pub(super) old: Option<Tuple>,
    /// For everything but deletes.
    pub(super) new: Option<Tuple>,
}

/// One statement's work. Each row must touch exactly one row of the target.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) table: Arc<BoundTable>,
    pub(super) action: Action,
    pub(super) rows: Vec<BatchRow>,
    /// Of the last change in it.
    pub(super) transaction: u32,
}

/// One statement for the target.
#[derive(Debug, Clone)]
pub(super) enum Planned {
    Rows(Batch),
    Truncate(Truncation),
}

/// Plans a chunk of changes set-based.
pub(super) fn plan(steps: &[Step]) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut tables = Tables::default();
    for step in steps {
        match step {
            Step::Row(change) => tables.of(&change.table).add(change),
            Step::Truncate(truncation) => {
                tables.finish_into(&mut planned);
                planned.push(Planned::Truncate(truncation.clone()));
            }
        }
    }
    tables.finish_into(&mut planned);
    planned
}

/// Plans one change exactly as the source made it.
pub(super) fn plan_exactly(step: &Step) -> Vec<Planned> {
    match step {
        Step::Truncate(truncation) => vec![Planned::Truncate(truncation.clone())],
        Step::Row(change) => single(change).into_iter().map(Planned::Rows).collect(),
    }
}

/// The tables of a chunk, in the order in which they were first changed.
#[derive(Default)]
struct Tables {
    by_serial: HashMap<u64, usize>,
    tables: Vec<TablePlan>,
}

impl Tables {
    fn of(&mut self, table: &Arc<BoundTable>) -> &mut TablePlan {
        let at = *self.by_serial.entry(table.serial).or_insert_with(|| {
            self.tables.push(TablePlan::new(Arc::clone(table)));
            self.tables.len() - 1
        });
        &mut self.tables[at]
    }

    fn finish_into(&mut self, planned: &mut Vec<Planned>) {
        self.by_serial.clear();
        for mut table in self.tables.drain(..) {
            table.close();
            planned.extend(table.batches.into_iter().map(Planned::Rows));
        }
    }
}

/// One table's batches: those that are closed, and the one that still grows.
struct TablePlan {
    table: Arc<BoundTable>,
    batches: Vec<Batch>,
    open: Open,
    /// Of the last change.
    transaction: u32,
}

enum Open {
    Nothing,
    Net(NetChanges),
    Rows(NetRows),
    Run(Run),
}

/// Changes of one kind in a row.
struct Run {
    batch: Batch,
    /// Keys of an update's rows: a row may be updated only once by one statement.
    keys: HashSet<KeyBytes>,
}

impl TablePlan {
    fn new(table: Arc<BoundTable>) -> TablePlan {
        TablePlan { table, batches: Vec::new(), open: Open::Nothing, transaction: 0 }
    }

    fn add(&mut self, change: &Change) {
        let merged = match self.table.pace {
            _ if self.table.caution.spend() => Merged::No,
            Pace::Net => self.add_net(&change.op),
            Pace::Multiset => self.add_rows(&change.op),
            Pace::Runs => self.add_to_run(change),
            Pace::Single => Merged::No,
        };
        if merged == Merged::No {
            self.close();
            self.batches.extend(single(change));
        }
        self.transaction = change.transaction;
    }

    fn add_net(&mut self, op: &Op) -> Merged {
        if matches!(
            op,
            Op::Rekey { .. } | Op::Replace { .. } | Op::UpdateWhole { .. } | Op::DeleteWhole { .. }
        ) {
            return Merged::No;
        }
        let table = Arc::clone(&self.table);
        if let Open::Net(changes) = &mut self.open {
            if changes.add(table.key(), op).is_ok() {
                return Merged::Yes;
            }
            self.close();
        }
        let mut changes = NetChanges::default();
        let merged = changes.add(table.key(), op);
        self.open = Open::Net(changes);
        if merged.is_ok() { Merged::Yes } else { Merged::No }
    }

    fn add_rows(&mut self, op: &Op) -> Merged {
        if !matches!(self.open, Open::Rows(_)) {
            self.close();
            self.open = Open::Rows(NetRows::default());
        }
        match &mut self.open {
            Open::Rows(rows) => match rows.add(op) {
                Ok(()) => Merged::Yes,
                Err(Irregular) => Merged::No,
            },
            Open::Nothing | Open::Net(_) | Open::Run(_) => Merged::No,
        }
    }

    fn add_to_run(&mut self, change: &Change) -> Merged {
        let (action, row) = match &change.op {
            Op::Insert { new } => (Action::Insert, inserted(new.clone())),
            Op::Update { new } => (Action::Update(Present::of(new)), updated(new.clone())),
            Op::Delete { old } => (Action::Delete, deleted(old.clone())),
            Op::Rekey { .. } | Op::Replace { .. } | Op::UpdateWhole { .. } | Op::DeleteWhole { .. } => {
                return Merged::No;
            }
        };
        let key = match (&action, &row.new) {
            (Action::Update(_), Some(new)) => Some(KeyBytes::of(new, self.table.key())),
            _ => None,
        };
        match &mut self.open {
            Open::Run(run)
                if run.batch.action == action && !key.as_ref().is_some_and(|key| run.keys.contains(key)) =>
            {
                run.batch.rows.push(row);
                run.batch.transaction = change.transaction;
                run.keys.extend(key);
            }
            Open::Nothing | Open::Net(_) | Open::Rows(_) | Open::Run(_) => {
                self.close();
                let table = Arc::clone(&self.table);
                let batch = Batch { table, action, rows: vec![row], transaction: change.transaction };
                self.open = Open::Run(Run { batch, keys: key.into_iter().collect() });
            }
        }
        Merged::Yes
    }

    /// Ends the batch that still grows: what comes next must come after it.
    fn close(&mut self) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::Run(run) => self.batches.push(run.batch),
            Open::Net(changes) => self.close_net(changes),
            Open::Rows(rows) => {
                let (fewer, more) = rows.into_rows();
                let fewer = (Action::DeleteRows, fewer.into_iter().map(deleted).collect());
                self.push_batches([fewer, (Action::Insert, more.into_iter().map(inserted).collect())]);
            }
        }
    }

    /// Deletes, updates by the columns they set, inserts.
    fn close_net(&mut self, changes: NetChanges) {
        let (mut deletes, mut inserts) = (Vec::new(), Vec::new());
        let mut updates: Vec<(Present, Vec<BatchRow>)> = Vec::new();
        for net in changes.into_rows() {
            match net {
                Net::Nothing => {}
                Net::Insert { new } => inserts.push(inserted(new)),
                Net::Delete { old } => deletes.push(deleted(old)),
                Net::Replace { old, new } => {
                    deletes.push(deleted(old));
                    inserts.push(inserted(new));
                }
                Net::Update { new } => {
                    let present = Present::of(&new);
                    match updates.iter_mut().find(|(other, _)| *other == present) {
                        Some((_, rows)) => rows.push(updated(new)),
                        None => updates.push((present, vec![updated(new)])),
                    }
                }
            }
        }
        // Rows that lie near each other are then changed after each other, in the table as in its index. Inserted
        // ones come as the source wrote them, so that they lie so, too.
        let key = self.table.key();
        deletes.sort_by_cached_key(|row| row.old.as_ref().map(|old| KeyOf::new(old, key).place()));
        for (_, rows) in &mut updates {
            rows.sort_by_cached_key(|row| row.new.as_ref().map(|new| KeyOf::new(new, key).place()));
        }
        let updates = updates.into_iter().map(|(present, rows)| (Action::Update(present), rows));
        let kinds = [(Action::Delete, deletes)].into_iter().chain(updates).chain([(Action::Insert, inserts)]);
        self.push_batches(kinds);
    }

    fn push_batches(&mut self, kinds: impl IntoIterator<Item = (Action, Vec<BatchRow>)>) {
        for (action, rows) in kinds.into_iter().filter(|(_, rows)| !rows.is_empty()) {
            let (table, transaction) = (Arc::clone(&self.table), self.transaction);
            self.batches.push(Batch { table, action, rows, transaction });
        }
    }
}

/// Whether a change went into the batch that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merged {
    Yes,
    No,
}

fn inserted(new: Tuple) -> BatchRow {
    BatchRow { old: None, new: Some(new) }
}

fn updated(new: Tuple) -> BatchRow {
    BatchRow { old: None, new: Some(new) }
}

fn deleted(old: Tuple) -> BatchRow {
    BatchRow { old: Some(old), new: None }
}

/// One change as statements of one row each, in order.
fn single(change: &Change) -> Vec<Batch> {
    let both = |old: &Tuple, new: &Tuple| BatchRow { old: Some(old.clone()), new: Some(new.clone()) };
    let table = &change.table;
    let delete = match table.identity {
        RowIdentity::WholeRow => Action::DeleteWhole,
        RowIdentity::Key(_) | RowIdentity::None => Action::Delete,
    };
    let work = match &change.op {
        Op::Insert { new } => vec![(Action::Insert, inserted(new.clone()))],
        // Whether a column changed that UPDATE may not name is not known: the row is written anew (P40).
        Op::Update { new } if table.has_fixed_column() && Present::of(new) == Present::All => {
            vec![(delete, deleted(new.clone())), (Action::Insert, inserted(new.clone()))]
        }
        Op::Update { new } => vec![(Action::Update(Present::of(new)), updated(new.clone()))],
        Op::Delete { old } | Op::DeleteWhole { old } => vec![(delete, deleted(old.clone()))],
        Op::Rekey { old, new } => vec![(Action::Rekey(Present::of(new)), both(old, new))],
        Op::Replace { old, new } => {
            vec![(delete, deleted(old.clone())), (Action::Insert, inserted(new.clone()))]
        }
        Op::UpdateWhole { old, new } => vec![(Action::UpdateWhole(Present::of(new)), both(old, new))],
    };
    let batch = |(action, row)| {
        let (table, transaction) = (Arc::clone(table), change.transaction);
        Batch { table, action, rows: vec![row], transaction }
    };
    work.into_iter().map(batch).collect()
}

#[cfg(test)]
mod order;
#[cfg(test)]
mod tests;
