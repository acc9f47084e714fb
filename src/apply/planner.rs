//! The thread that decodes, assembles, groups and plans.
//!
//! Hazard: a keepalive's position may be confirmed only when every commit before it is on the target. So it
//! takes the same way as the changes, behind them and in order; in the middle of a transaction it says
//! nothing, as that transaction's commit may lie before it (P19).
//!
//! A group is handed over when the writer is idle and no input waits, so that a stream that keeps up is
//! applied at once; else at its bounds, so that one that lags is applied in large groups.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::assemble::{Assembler, Sink};
use super::change::{Cascade, Change, Restart, Step, Truncation, identify};
use super::event::{Event, RowEvent, SourceTransaction};
use super::group::Group;
use super::input::Delivery;
use super::plan::plan;
use super::positions::Reporter;
use super::relations::Relations;
use super::write::writes;
use super::writer::Order;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, RelationId};
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
    /// The writer waits, or what is there has waited long enough.
    HandOver,
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
        while self.step()? == Next::Go {}
        Ok(())
    }

    fn step(&mut self) -> Result<Next> {
        match self.wait() {
            Wake::Items(items, _permit) => self.take(items)?,
            Wake::HandOver => self.desk.hand_over_now()?,
            Wake::Drain => {
                self.desk.hand_over_now()?;
                return Ok(Next::End);
            }
            Wake::Stop => return Ok(Next::End),
        }
        Ok(Next::Go)
    }

    fn wait(&mut self) -> Wake {
        let delivered = |delivery| match delivery {
            Some(Delivery::Items { items, permit }) => Wake::Items(items, permit),
            Some(Delivery::Drain) | None => Wake::Drain,
        };
        if let Ok(delivery) = self.input.try_recv() {
            return delivered(Some(delivery));
        }
        let Planner { input, desk, .. } = self;
        let Desk { out, group, .. } = desk;
        let has_work = group.has_whole() || group.is_idle() && desk.handled > desk.told;
        if has_work && out.is_writer_idle() {
            return Wake::HandOver;
        }
        let deadline = group.deadline();
        let Outlet { runtime, done, stop, sent, .. } = out;
        runtime.block_on(async {
            tokio::select! {
                delivery = input.recv() => delivered(delivery),
                _ = done.wait_for(|done| done == sent), if has_work => Wake::HandOver,
                () = until(deadline) => Wake::HandOver,
                _ = stop.wait_for(|stop| *stop) => Wake::Stop,
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
                StreamItem::Data { message, .. } => self.assembler.push(message, &mut self.desk)?,
                StreamItem::Keepalive { wal_end, .. } if !self.assembler.in_transaction() => {
                    self.desk.advance(wal_end);
                }
                StreamItem::Keepalive { .. } => {}
            }
        }
        Ok(())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether a group may wait for more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    Now,
    WhenFull,
}

/// Makes groups of committed transactions and hands them over.
pub(super) struct Desk {
    relations: Relations,
    group: Group,
    /// Transactions that committed before this are on the target.
    progress: Lsn,
    current: Current,
    /// Everything that commits before this was handed over or waits in the group.
    handled: Lsn,
    /// How much of that the writer knows.
    told: Lsn,
    reporter: Arc<Reporter>,
    out: Outlet,
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
        group: Group,
        progress: Lsn,
        reporter: Arc<Reporter>,
        out: Outlet,
    ) -> Desk {
        let (handled, told, current) = (progress, progress, Current::None);
        Desk { relations, group, progress, current, handled, told, reporter, out }
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
        let transaction = self.group.transaction();
        self.push(Step::Row(Change { table, transaction, op }))
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
        let transaction = self.group.transaction();
        self.push(Step::Truncate(Truncation { tables, transaction, cascade, restart }))
    }

    fn push(&mut self, step: Step) -> Result<()> {
        let bytes = step.bytes();
        self.group.push(step, bytes, Instant::now());
        self.hand_over(Urgency::WhenFull)
    }

    /// Gives the writer what is ready, whether or not a group is full.
    pub(super) fn hand_over_now(&mut self) -> Result<()> {
        self.hand_over(Urgency::Now)
    }

    /// Gives the writer what is ready: changes, else a position.
    fn hand_over(&mut self, urgency: Urgency) -> Result<()> {
        let now = Instant::now();
        if urgency == Urgency::WhenFull && !self.group.is_full(now) {
            return Ok(());
        }
        if let Some(chunk) = self.group.take(now) {
            let writes = plan(&chunk.steps).iter().flat_map(writes).collect();
            if chunk.end.is_some() {
                self.told = self.handled;
            }
            return self.out.send(Order::Chunk { chunk, writes, handled: self.handled });
        }
        if self.group.is_idle() && self.handled > self.told {
            self.told = self.handled;
            return self.out.send(Order::Position(self.handled));
        }
        Ok(())
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
                if let Current::Applied(_) = current {
                    self.group.commit(end_lsn);
                }
                self.current = Current::None;
                self.advance(end_lsn);
                self.hand_over(Urgency::WhenFull)
            }
        }
    }
}

/// The way to the writer, from a thread.
pub(super) struct Outlet {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) runtime: Handle,
    /// Orders that the writer has carried out.
    pub(super) done: watch::Receiver<u64>,
    pub(super) stop: watch::Receiver<bool>,
    pub(super) sent: u64,
}

impl Outlet {
    fn is_writer_idle(&self) -> bool {
        *self.done.borrow() == self.sent
    }

    /// Waits until the writer takes the order.
    fn send(&mut self, order: Order) -> Result<()> {
        let Outlet { orders, runtime, stop, .. } = self;
        let sent = runtime.block_on(async {
            tokio::select! {
                sent = orders.send(order) => sent.is_ok(),
                _ = stop.wait_for(|stop| *stop) => false,
            }
        });
        if !sent {
            return Err(Error::new(ErrorKind::Aborted, "hand changes to the target's writer"));
        }
        self.sent += 1;
        Ok(())
    }
}
