//! The thread that decodes, assembles, groups and plans.
//!
//! Hazard: a keepalive's position may be confirmed only when every commit before it is on the target. So it
//! takes the same way as the changes, behind them and in order; in the middle of a transaction it says
//! nothing, as that transaction's commit may lie before it (P19).
//!
//! A group is handed over when the writer is idle and no input waits, so that a stream that keeps up is
//! applied at once; else, after a moment, when the writer can take one more, so that it is planned while the
//! one before is written; and at its bounds in any case, so that a stream that lags is applied in large groups.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::assemble::{Assembler, Sink};
use super::change::{Cascade, Change, Restart, Step, Truncation, identify};
use super::event::{Event, RowEvent, SourceTransaction};
use super::group::{Group, GroupBounds};
use super::input::Delivery;
use super::plan::plan;
use super::positions::Reporter;
use super::relations::Relations;
use super::stretch::{Cost, Stretch};
use super::write::writes;
use super::writer::{Done, Order};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Lsn, RelationId};
use crate::pgoutput::Truncate;
use crate::replication::StreamItem;

/// Orders that wait for the writer: one, so that it never waits for planning.
pub(super) const ORDERS_MAX: usize = 1;

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
        if has_work && out.pending() == 0 {
            return Wake::HandOver;
        }
        let ripe = group.ripe_at();
        let Outlet { runtime, done, stop, sent, .. } = out;
        let sent = *sent;
        let mut room = done.clone();
        runtime.block_on(async {
            tokio::select! {
                delivery = input.recv() => delivered(delivery),
                _ = done.wait_for(|done| done.orders == sent), if has_work => Wake::HandOver,
                // With one order at work there is room for another behind it.
                _ = async {
                    until(ripe).await;
                    room.wait_for(|done| done.orders + 1 >= sent).await
                } => Wake::HandOver,
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

/// Makes groups of committed transactions and hands them over.
pub(super) struct Desk {
    relations: Relations,
    group: Group,
    stretch: Stretch,
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
        bounds: GroupBounds,
        progress: Lsn,
        reporter: Arc<Reporter>,
        out: Outlet,
    ) -> Desk {
        let (handled, told, current) = (progress, progress, Current::None);
        let (group, stretch) = (Group::new(bounds), Stretch::from(bounds));
        Desk { relations, group, stretch, progress, current, handled, told, reporter, out }
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
        self.group.push(step, bytes);
        match self.group.is_full() {
            true => self.hand_over_now(),
            false => Ok(()),
        }
    }

    /// A transaction has ended: gives the writer what is ready, if it is time for that.
    fn hand_over_due(&mut self, now: Instant) -> Result<()> {
        let is_ripe = self.group.ripe_at().is_some_and(|ripe| ripe <= now);
        match self.group.is_full() || is_ripe && self.out.pending() <= ORDERS_MAX as u64 {
            true => self.hand_over_now(),
            false => Ok(()),
        }
    }

    /// Gives the writer every whole transaction, and waits until they are on the target.
    fn write_out(&mut self) -> Result<()> {
        if self.group.has_whole() {
            self.hand_over_now()?;
        }
        let Outlet { runtime, done, stop, sent, .. } = &mut self.out;
        runtime.block_on(async {
            tokio::select! {
                _ = done.wait_for(|done| done.orders == *sent) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
        Ok(())
    }

    /// Gives the writer what is ready: changes, else a position.
    pub(super) fn hand_over_now(&mut self) -> Result<()> {
        if let Some(cost) = self.out.cost() {
            self.stretch.observe(cost);
            self.group.set_bounds(self.stretch.bounds());
        }
        if let Some(chunk) = self.group.take() {
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
                let now = Instant::now();
                if let Current::Applied(_) = current {
                    self.group.commit(end_lsn, now);
                }
                self.current = Current::None;
                self.advance(end_lsn);
                self.hand_over_due(now)
            }
        }
    }
}

/// The way to the writer, from a thread.
pub(super) struct Outlet {
    orders: mpsc::Sender<Order>,
    runtime: Handle,
    done: watch::Receiver<Done>,
    stop: watch::Receiver<bool>,
    sent: u64,
    /// How many were carried out when last asked for their cost.
    asked: u64,
}

impl Outlet {
    pub(super) fn new(
        orders: mpsc::Sender<Order>,
        done: watch::Receiver<Done>,
        stop: watch::Receiver<bool>,
        runtime: Handle,
    ) -> Outlet {
        Outlet { orders, runtime, done, stop, sent: 0, asked: 0 }
    }

    /// Orders that the writer has not carried out yet.
    fn pending(&self) -> u64 {
        self.sent - self.done.borrow().orders
    }

    /// What the last group has cost, once for each.
    fn cost(&mut self) -> Option<Cost> {
        let Done { orders, cost } = *self.done.borrow();
        let is_news = orders > std::mem::replace(&mut self.asked, orders);
        cost.filter(|_| is_news)
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
