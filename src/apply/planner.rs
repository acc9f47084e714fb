//! The thread that decodes, assembles, groups and plans.
//!
//! Hazard: a keepalive's position may be confirmed only when every commit before it is on the target. So it
//! takes the same way as the changes, behind them and in order; in the middle of a transaction it says
//! nothing, as that transaction's commit may lie before it (P19).
//!
//! A group is handed over when the writer is idle and no input waits, so that a stream that keeps up is
//! applied at once, and one that is late a little later than that; else, after a moment, when the writer can take one more, so that it is planned while the
//! one before is written; and at its bounds in any case, so that a stream that lags is applied in large groups.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::assemble::{Assembler, Sink};
use super::change::{Cascade, Change, Restart, Step, Truncation, identify};
use super::climb::Pressure;
use super::crew::{Crew, ORDERS_MAX};
use super::event::{Event, RowEvent, SourceTransaction};
use super::group::{Group, GroupBounds};
use super::input::Delivery;
use super::positions::Reporter;
use super::relations::Relations;
use super::stretch::Stretch;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, PgTimestamp, RelationId};
use crate::pgoutput::Truncate;
use crate::replication::StreamItem;

/// The planner: its input, the assembler, and the desk where groups are made.
pub(super) struct Planner {
    pub(super) input: mpsc::Receiver<Delivery>,
    pub(super) assembler: Assembler,
    pub(super) desk: Desk,
}

/// What wakes the planner.
enum Wake {
    /// The permit goes back when they have been worked off.
    Items(Vec<StreamItem>, OwnedSemaphorePermit),
    /// Another stream begins.
    Resume(Vec<Bytes>),
    /// The writers wait.
    HandOver,
    /// What is there has waited long enough.
    Ripe,
    Drain,
    /// Nobody listens any more.
    Stop,
}

/// Whether the planner goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    End,
}

impl Planner {
    /// Works until it is drained or stopped.
    ///
    /// # Errors
    /// `Protocol`, `Drift`, `Local` or `Apply`; the change that cannot be planned is named.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            match self.step() {
                Ok(Next::Go) => {}
                Ok(Next::End) => return Ok(()),
                // A person is to mend this: what came before it need not wait for that.
                Err(error) if error.kind() == ErrorKind::Drift => {
                    self.desk.write_out()?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn step(&mut self) -> Result<Next> {
        match self.wait() {
            Wake::Items(items, _permit) => self.take(items)?,
            Wake::Resume(shapes) => self.assembler.resume(shapes, &mut self.desk)?,
            Wake::HandOver => self.desk.hand_over(Pressure::None)?,
            Wake::Ripe => self.desk.hand_over(Pressure::Some)?,
            Wake::Drain => {
                self.desk.finish()?;
                return Ok(Next::End);
            }
            Wake::Stop => return Ok(Next::End),
        }
        Ok(Next::Go)
    }

    fn wait(&mut self) -> Wake {
        let delivered = |delivery| match delivery {
            Some(Delivery::Items { items, permit }) => Wake::Items(items, permit),
            Some(Delivery::Resume { shapes }) => Wake::Resume(shapes),
            Some(Delivery::Drain) | None => Wake::Drain,
        };
        let runtime = self.desk.crew.runtime();
        // The first lane's turn, whose writer works in this thread: what is ready is noticed first, then done.
        runtime.block_on(async {
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        });
        if let Ok(delivery) = self.input.try_recv() {
            return delivered(Some(delivery));
        }
        let Planner { input, desk, .. } = self;
        let Desk { crew, group, .. } = desk;
        let has_work =
            group.has_whole() || group.is_idle() && (desk.handled > desk.told || crew.wants_to_gather());
        let due = group.due_at();
        if has_work && crew.pending() == 0 && due.is_none_or(|due| due <= Instant::now()) {
            return Wake::HandOver;
        }
        let (idle, room, stop) =
            (crew.wait_for_pending(0), crew.wait_for_pending(ORDERS_MAX as u64), crew.wait_for_stop());
        let ripe = group.ripe_at();
        runtime.block_on(async {
            tokio::select! {
                delivery = input.recv() => delivered(delivery),
                () = async { after(due).await; idle.await }, if has_work => Wake::HandOver,
                () = async { until(ripe).await; room.await } => Wake::Ripe,
                () = stop => Wake::Stop,
            }
        })
    }

    fn take(&mut self, items: Vec<StreamItem>) -> Result<()> {
        let ends = items.iter().map(|item| match item {
            StreamItem::Data { start, wal_end, .. } => (*start).max(*wal_end),
            StreamItem::Keepalive { wal_end, .. } => *wal_end,
        });
        if let Some(end) = ends.max() {
            self.desk.reporter.received(end);
        }
        for item in items {
            match item {
                StreamItem::Data { message, sent, .. } => {
                    self.desk.sent = sent;
                    self.assembler.push(message, &mut self.desk)?;
                }
                StreamItem::Keepalive { wal_end, .. } if !self.assembler.in_transaction() => {
                    self.desk.advance(wal_end);
                    self.desk.group.hurry();
                }
                StreamItem::Keepalive { .. } => {}
            }
        }
        Ok(())
    }
}

/// Until a moment; at once without one.
async fn after(due: Option<Instant>) {
    if let Some(due) = due {
        tokio::time::sleep_until(due.into()).await;
    }
}

/// Until a moment; for ever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Makes groups of committed transactions and hands them over.
pub(super) struct Desk {
    relations: Relations,
    group: Group,
    stretch: Stretch,
    /// Transactions that committed before this are on the target.
    progress: Lsn,
    current: Current,
    /// The source's clock when it sent what is being read.
    sent: PgTimestamp,
    /// Everything that commits before this was handed over or waits in the group.
    handled: Lsn,
    /// How much of that the writers know.
    told: Lsn,
    reporter: Arc<Reporter>,
    crew: Crew,
}

/// The transaction that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    None,
    /// The target has it already.
    Skipped,
    Applied(SourceTransaction),
}

impl Desk {
    pub(super) fn new(
        relations: Relations,
        bounds: GroupBounds,
        progress: Lsn,
        reporter: Arc<Reporter>,
        crew: Crew,
    ) -> Desk {
        let (handled, told, current) = (progress, progress, Current::None);
        let (group, stretch) = (Group::new(bounds), Stretch::from(bounds));
        let sent = PgTimestamp::from_micros(i64::MIN);
        Desk { relations, group, stretch, progress, current, sent, handled, told, reporter, crew }
    }

    fn advance(&mut self, handled: Lsn) {
        self.handled = self.handled.max(handled);
        self.reporter.assembled(handled);
    }

    fn row(&mut self, transaction: SourceTransaction, id: RelationId, row: RowEvent) -> Result<()> {
        let Some(table) = self.relations.table(id, transaction.final_lsn)? else { return Ok(()) };
        let op = identify(&table, row).map_err(|error| {
            let SourceTransaction { xid, final_lsn, .. } = transaction;
            let table = table.name.plain();
            Error::new(
                ErrorKind::Apply,
                format!("read a change of {table} (transaction {xid}, committed at {final_lsn})"),
            )
            .hint(error.hint())
            .because(error)
        })?;
        let step = Step::Row(Change { table, transaction: self.group.transaction(), op });
        self.push(step, transaction.final_lsn)
    }

    fn truncate(&mut self, transaction: SourceTransaction, truncate: &Truncate) -> Result<()> {
        let mut tables = Vec::with_capacity(truncate.relations.len());
        let mut cascade = if truncate.cascade { Cascade::Follow } else { Cascade::Restrict };
        for id in &truncate.relations {
            let table = match self.relations.is_migrated(*id)? {
                true => self.relations.table(*id, transaction.final_lsn)?,
                false => None,
            };
            match table {
                Some(table) => tables.push(table),
                None if truncate.cascade => cascade = Cascade::Withheld,
                None => {}
            }
        }
        if tables.is_empty() {
            return Ok(());
        }
        let restart = if truncate.restart_identity { Restart::Restart } else { Restart::Continue };
        let step =
            Step::Truncate(Truncation { tables, transaction: self.group.transaction(), cascade, restart });
        self.push(step, transaction.final_lsn)
    }

    fn push(&mut self, step: Step, final_lsn: Lsn) -> Result<()> {
        if self.crew.has_already(&step, final_lsn)? {
            return Ok(());
        }
        let bytes = step.bytes();
        self.group.push(step, bytes);
        match self.group.is_full() {
            true => self.hand_over(Pressure::Full),
            false => Ok(()),
        }
    }

    /// A transaction has ended: gives the writers what is ready, if it is time for that.
    fn hand_over_due(&mut self, now: Instant) -> Result<()> {
        if self.group.is_full() {
            return self.hand_over(Pressure::Full);
        }
        let is_ripe = self.group.ripe_at().is_some_and(|ripe| ripe <= now);
        match is_ripe && self.crew.pending() <= ORDERS_MAX as u64 {
            true => self.hand_over(Pressure::Some),
            false => Ok(()),
        }
    }

    /// Gives the writers every whole transaction, and waits until they are on the target.
    fn write_out(&mut self) -> Result<()> {
        if self.group.has_whole() {
            self.hand_over(Pressure::None)?;
        }
        self.crew.gather()?;
        self.crew.drain()
    }

    /// Gives the writers what is ready: changes, else a position, else the word to gather.
    pub(super) fn hand_over(&mut self, pressure: Pressure) -> Result<()> {
        if let Some(cost) = self.crew.cost() {
            self.stretch.observe(cost, pressure);
            self.group.set_bounds(self.stretch.bounds());
        }
        if let Some(chunk) = self.group.take() {
            if chunk.end.is_some() {
                self.told = self.handled;
            }
            return self.crew.write(chunk, self.handled, pressure);
        }
        if !self.group.is_idle() {
            return Ok(());
        }
        if self.handled > self.told {
            self.told = self.handled;
            return self.crew.pass(self.handled);
        }
        self.crew.gather()
    }

    /// Gives the writers all that is whole, and leaves them at one position.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.hand_over(Pressure::None)?;
        self.crew.gather()
    }
}

impl Sink for Desk {
    fn event(&mut self, event: Event) -> Result<()> {
        match (event, self.current) {
            (Event::Begin(transaction), _) => {
                // final_lsn is where a commit record starts, progress where one ended.
                if transaction.final_lsn < self.progress {
                    self.current = Current::Skipped;
                } else {
                    self.group.begin(transaction);
                    self.current = Current::Applied(transaction);
                }
                Ok(())
            }
            (Event::Type(announced), _) => {
                self.relations.announce_type(announced);
                Ok(())
            }
            (Event::Relation(relation), _) => {
                self.relations.announce(relation);
                Ok(())
            }
            (Event::Row { relation, row }, Current::Applied(transaction)) => {
                self.row(transaction, relation, row)
            }
            (Event::Truncate(truncate), Current::Applied(transaction)) => {
                self.truncate(transaction, &truncate)
            }
            (Event::Row { .. } | Event::Truncate(_), Current::Skipped | Current::None) => Ok(()),
            (Event::Commit { end_lsn }, current) => {
                let now = Instant::now();
                if let Current::Applied(transaction) = current {
                    self.group.commit(end_lsn, self.sent.since(transaction.commit_time), now);
                }
                self.current = Current::None;
                self.advance(end_lsn);
                self.hand_over_due(now)
            }
        }
    }
}
