//! The way of a change from decoding to finished statements, without a target: for measuring.
//!
//! Hazard: a bench of a copy of the pipeline measures the copy. This is the planner's own [`Desk`]; only the
//! writer is missing, and what it would have been handed is counted and dropped.

use std::collections::BTreeSet;
use std::num::NonZeroU8;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::assemble::{Assembler, StashLimits};
use super::climb::ApplyLanes;
use super::crew::{Crew, Start};
use super::drift::SourceNow;
use super::group::GroupBounds;
use super::operator::TargetFacts;
use super::planner::Desk;
use super::positions::Reporter;
use super::relations::{Relations, TableWatermarks};
use super::writer::{Done, Order};
use crate::catalog::Table;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Lsn;

/// Orders that one message may bring forth, each a group; only the commit of a streamed transaction brings
/// more than one. Nobody takes them meanwhile, so a larger transaction would wait for ever.
const ORDERS_MAX: usize = 1_024;

/// An applier that writes nothing.
pub struct Rehearsal {
    assembler: Assembler,
    desk: Desk,
    orders: mpsc::Receiver<Order>,
    rehearsed: Rehearsed,
    _done: watch::Sender<Vec<Done>>,
    _stop: watch::Sender<bool>,
}

/// What a target would have been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rehearsed {
    /// Target transactions, and parts of large ones.
    pub groups: u64,
    /// Changes of the source that they came from.
    pub changes: u64,
    /// Statements.
    pub statements: u64,
    /// Bytes of statements and parameters.
    pub bytes: u64,
}

impl Rehearsal {
    /// Begins before the first transaction, as if every table had been copied before it.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] if no runtime can be had.
    pub fn new(tables: Vec<Table>, protocol_version: u8, bounds: GroupBounds) -> Result<Rehearsal> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .map_err(|cause| Error::new(ErrorKind::Local, "rehearse applying").because(cause))?;
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let (done, stop) = (watch::Sender::new(vec![Done::default()]), watch::Sender::new(false));
        let start = Start {
            ends: vec![Lsn::ZERO],
            stored: BTreeSet::new(),
            keyed: BTreeSet::new(),
            lanes: ApplyLanes::Fixed(NonZeroU8::MIN),
            hiring: None,
        };
        let crew = Crew::new(sender, done.subscribe(), stop.subscribe(), Rc::new(runtime), start);
        let watermarks: TableWatermarks =
            tables.iter().map(|table| (table.name.clone(), Lsn::ZERO)).collect();
        let relations = Relations::new(tables, TargetFacts::default(), watermarks, SourceNow::default());
        let reporter = Arc::new(Reporter::starting_at(Lsn::ZERO));
        // Positions are asserted against what has been received: here, everything.
        reporter.received(Lsn::new(u64::MAX));
        let limits = StashLimits { memory_bytes: usize::MAX, directory: std::env::temp_dir() };
        Ok(Rehearsal {
            assembler: Assembler::new(protocol_version, limits),
            desk: Desk::new(relations, bounds, Lsn::ZERO, reporter, crew),
            orders,
            rehearsed: Rehearsed::default(),
            _done: done,
            _stop: stop,
        })
    }

    /// Takes the next message of the stream.
    ///
    /// # Errors
    /// As the planner's.
    pub fn push(&mut self, message: Bytes) -> Result<()> {
        self.assembler.push(message, &mut self.desk)?;
        self.take_orders();
        Ok(())
    }

    /// Hands over what waits, and tells all that was handed over.
    ///
    /// # Errors
    /// As the planner's.
    pub fn finish(mut self) -> Result<Rehearsed> {
        self.desk.finish()?;
        self.take_orders();
        Ok(self.rehearsed)
    }

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            let Order::Chunk { chunk, writes, .. } = order else { continue };
            self.rehearsed.groups += 1;
            self.rehearsed.changes += chunk.steps.len() as u64;
            self.rehearsed.statements += writes.len() as u64;
            self.rehearsed.bytes += writes.iter().map(|write| write.bytes() as u64).sum::<u64>();
        }
    }
}

impl std::fmt::Debug for Rehearsal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.rehearsed.fmt(f)
    }
}
