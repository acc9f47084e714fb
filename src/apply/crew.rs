//! The writers as the planner sees them: who gets what, and when they wait for each other.
//!
//! Hazard: spread over lanes, the target is no prefix of the source until all have come to one position. So
//! changes are spread only while the stream lags; what must not be overtaken waits until every lane is
//! empty; and once the stream is kept up with, one lane goes on alone. How many lanes there are, and by what
//! keys their changes are told apart, stands on the target before the first change is spread.
//!
//! ```text
//!             behind: every lane gets a row               caught up, a barrier: drain, then one
//!  ┌────────┐ where lane 0 stands      ┌────────┐         transaction with everything in order  ┌────────┐
//!  │ Alone  │ ───────────────────────▶ │ Spread │ ────────────────────────────────────────────▶ │ Alone  │
//!  └────────┘                          └────────┘         and one row again                     └────────┘
//!   lane 0 ━━●━━━●━━━━●                 0 ━━━●━━━━━●━━━●
//!   in commit order                     1 ━━●━━━●━━━━━━━●     each commits its share of a group with its own
//!                                       2 ━━━━━●━━━●━━━●      row; order holds within a lane, and applied is
//!                                           applied ╯         what the last of them has
//!
//!  after a crash:   0 ─────────●                    The stream begins where the last lane stands. A lane
//!  ┌────────┐       1 ────●    ╎ until              that has a transaction is not given its share again;
//!  │ Apart  │       2 ───────● ╎                    lane 0 applies what is missing, in order, and brings
//!  └────────┘            ╰ start                    each row along until all are at one position.
//! ```

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::change::Step;
use super::checkpoint::{LaneId, Scope};
use super::climb::{ApplyLanes, Climb, Pressure};
use super::group::{Chunk, GroupEnd};
use super::hire::Hiring;
use super::plan::plan;
use super::route::{Router, Way};
use super::stretch::Cost;
use super::write::writes;
use super::writer::{Done, Order};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::Lsn;

/// Orders that wait for a writer: one, so that it never waits for planning.
pub(super) const ORDERS_MAX: usize = 1;

/// How the lanes stand.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Formation {
    /// One progress row, one lane.
    Alone,
    /// So many rows, a lane for each.
    Spread { lanes: usize },
    /// As a crash has left them, by lane; one lane works until all are at the same position.
    Apart { ends: Vec<Lsn>, until: Lsn },
}

/// Hands work to the lanes, from a thread.
pub(super) struct Crew {
    /// Of the lanes that are there, the first first.
    orders: Vec<mpsc::Sender<Order>>,
    /// How many each was given.
    sent: Vec<u64>,
    done: watch::Receiver<Vec<Done>>,
    stop: watch::Receiver<bool>,
    runtime: Rc<Runtime>,
    /// None: there will be no more lanes.
    hiring: Option<Hiring>,
    formation: Formation,
    router: Router,
    /// What the target's catalog says now; the router may go by what an engine before this one found.
    keyed: Arc<BTreeSet<String>>,
    climb: Climb,
    /// Everything before this was handed over.
    handled: Lsn,
    /// A transaction was handed over in part.
    is_in_parts: bool,
    /// How long writers were waited for since the last group.
    waited: Duration,
    /// Orders that the first lane had carried out when it was last asked for their cost.
    asked: u64,
}

/// How a crew begins.
pub(super) struct Start {
    /// Where each lane stands; one that is alone stands where the stream begins.
    pub(super) ends: Vec<Lsn>,
    /// By what keys an engine before this one spread changes.
    pub(super) stored: BTreeSet<String>,
    /// By what keys they may be spread now.
    pub(super) keyed: BTreeSet<String>,
    pub(super) lanes: ApplyLanes,
    pub(super) hiring: Option<Hiring>,
}

impl Crew {
    pub(super) fn new(
        first: mpsc::Sender<Order>,
        done: watch::Receiver<Vec<Done>>,
        stop: watch::Receiver<bool>,
        runtime: Rc<Runtime>,
        start: Start,
    ) -> Crew {
        let Start { ends, stored, keyed, lanes, hiring } = start;
        let (handled, until) = (ends.iter().min().copied(), ends.iter().max().copied());
        let (formation, router) = match until {
            Some(until) if ends.len() > 1 => (Formation::Apart { ends, until }, Router::new(stored)),
            Some(_) | None => (Formation::Alone, Router::new(keyed.clone())),
        };
        Crew {
            orders: vec![first],
            sent: vec![0],
            done,
            stop,
            runtime,
            hiring,
            formation,
            router,
            keyed: Arc::new(keyed),
            climb: Climb::new(lanes),
            handled: handled.unwrap_or(Lsn::ZERO),
            is_in_parts: false,
            waited: Duration::ZERO,
            asked: 0,
        }
    }

    /// Orders not carried out yet, of the lane that has most of them.
    pub(super) fn pending(&self) -> u64 {
        pending(&self.sent, &self.done.borrow())
    }

    /// Completes once no lane has more than `orders` orders left; for whoever waits for other things too.
    pub(super) fn wait_for_pending(&self, orders: u64) -> impl Future<Output = ()> + use<> {
        let (mut done, sent) = (self.done.clone(), self.sent.clone());
        async move {
            // Writers that are gone have told why.
            let _ = done.wait_for(|done| pending(&sent, done) <= orders).await;
        }
    }

    /// Completes when everything is to stop.
    pub(super) fn wait_for_stop(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.clone();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// The runtime that the first lane works in, whenever somebody waits in it.
    pub(super) fn runtime(&self) -> Rc<Runtime> {
        Rc::clone(&self.runtime)
    }

    /// What the last group has cost, once for each.
    pub(super) fn cost(&mut self) -> Option<Cost> {
        let Done { orders, cost } = self.done.borrow().first().copied().unwrap_or_default();
        let is_news = orders > std::mem::replace(&mut self.asked, orders);
        cost.filter(|_| is_news)
    }

    /// Whether the target would be at one position if the lanes were told to come together.
    pub(super) fn wants_to_gather(&self) -> bool {
        match &self.formation {
            _ if self.is_in_parts => false,
            Formation::Alone => false,
            Formation::Spread { .. } => true,
            Formation::Apart { until, .. } => self.handled >= *until,
        }
    }

    /// Whether the lane that a change belongs to has it: it stood further ahead than the others when an engine
    /// before this one ended.
    ///
    /// # Errors
    /// `State` if that engine spread what this one would not.
    pub(super) fn has_already(&mut self, step: &Step, final_lsn: Lsn) -> Result<bool> {
        let Formation::Apart { ends, until } = &self.formation else { return Ok(false) };
        if final_lsn >= *until {
            return Ok(false);
        }
        match self.router.way(step, ends.len())? {
            Way::Lane(lane) => Ok(ends.get(lane.index()).is_some_and(|end| final_lsn < *end)),
            // All lanes were at one position before and after it: it cannot lie between them.
            Way::Barrier => Err(Error::new(
                ErrorKind::State,
                format!("go on at {final_lsn}, where all lanes should stand at one position"),
            )
            .hint("The progress on the target is not what this version of pgstream has written there.")),
        }
    }

    /// Hands a group over, or a part of a large transaction; `handled` is how far the stream has come with it.
    ///
    /// # Errors
    /// `Aborted` when everything is to stop; as [`Crew::has_already`].
    pub(super) fn write(&mut self, chunk: Chunk, handled: Lsn, pressure: Pressure) -> Result<()> {
        let was_in_parts = std::mem::replace(&mut self.is_in_parts, chunk.end.is_none());
        let waited = std::mem::take(&mut self.waited);
        let is_large = was_in_parts || self.is_in_parts || matches!(self.formation, Formation::Apart { .. });
        let lanes = match &chunk.end {
            Some(end) if !is_large => self.climb.lanes(pressure, end.changes, waited, Instant::now()),
            Some(_) | None => 1,
        };
        let lanes = self.hire(lanes)?;
        let ways = if lanes > 1 { self.ways(&chunk.steps, lanes)? } else { None };
        match (ways, chunk.end) {
            (Some(ways), Some(end)) => self.spread(chunk, &ways, end, lanes, handled)?,
            (Some(_) | None, _) => self.alone(chunk, handled)?,
        }
        self.handled = self.handled.max(handled);
        Ok(())
    }

    /// Nothing was to do before `handled`.
    ///
    /// # Errors
    /// `Aborted` when everything is to stop.
    pub(super) fn pass(&mut self, handled: Lsn) -> Result<()> {
        self.handled = self.handled.max(handled);
        match self.formation {
            Formation::Alone | Formation::Apart { .. } => {
                self.send(LaneId::FIRST, Order::Position { scope: Scope::All, handled })
            }
            Formation::Spread { lanes } => LaneId::all(lanes)
                .try_for_each(|lane| self.send(lane, Order::Position { scope: Scope::Lane(lane), handled })),
        }
    }

    /// Brings all lanes to the position that was handed over last, if they are not alone there.
    ///
    /// # Errors
    /// `Aborted` when everything is to stop.
    pub(super) fn gather(&mut self) -> Result<()> {
        if !self.wants_to_gather() {
            return Ok(());
        }
        let end = GroupEnd { end_lsn: self.handled, commit_time: None, transactions: 0, changes: 0 };
        self.alone(Chunk { steps: Vec::new(), transactions: Vec::new(), end: Some(end) }, self.handled)
    }

    /// One lane for all of it, in commit order, when no other has anything left to do.
    fn alone(&mut self, chunk: Chunk, handled: Lsn) -> Result<()> {
        if let Formation::Spread { .. } = self.formation {
            self.drain()?;
            self.formation = Formation::Alone;
        }
        if let (Formation::Apart { until, .. }, Some(end)) = (&self.formation, &chunk.end)
            && end.end_lsn >= *until
        {
            self.formation = Formation::Alone;
        }
        let writes = plan(&chunk.steps).iter().flat_map(writes).collect();
        self.send(LaneId::FIRST, Order::Chunk { chunk, writes, scope: Scope::All, handled })
    }

    /// To each lane its share.
    fn spread(
        &mut self,
        chunk: Chunk,
        ways: &[LaneId],
        end: GroupEnd,
        lanes: usize,
        handled: Lsn,
    ) -> Result<()> {
        if self.formation != (Formation::Spread { lanes }) {
            self.gather()?;
            self.drain()?;
            self.send(LaneId::FIRST, Order::Expand { lanes, keyed: Arc::clone(&self.keyed) })?;
            self.drain()?;
            tracing::debug!(lanes, lsn = %self.handled, "changes are spread");
            self.formation = Formation::Spread { lanes };
        }
        let mut shares: Vec<Vec<Step>> = (0..lanes).map(|_| Vec::new()).collect();
        for (step, way) in chunk.steps.into_iter().zip(ways) {
            if let Some(share) = shares.get_mut(way.index()) {
                share.push(step);
            }
        }
        let mut transactions = end.transactions;
        for (lane, steps) in LaneId::all(lanes).zip(shares) {
            let scope = Scope::Lane(lane);
            if steps.is_empty() {
                self.send(lane, Order::Position { scope, handled })?;
                continue;
            }
            // Counted once, in the first lane that has anything of them.
            let transactions = std::mem::take(&mut transactions);
            let end = GroupEnd { transactions, changes: steps.len() as u64, ..end };
            let writes = plan(&steps).iter().flat_map(writes).collect();
            let chunk = Chunk { steps, transactions: chunk.transactions.clone(), end: Some(end) };
            self.send(lane, Order::Chunk { chunk, writes, scope, handled })?;
        }
        Ok(())
    }

    /// Where each step goes; none if one of them is a barrier.
    fn ways(&mut self, steps: &[Step], lanes: usize) -> Result<Option<Vec<LaneId>>> {
        if self.formation == Formation::Alone && *self.router.keyed() != *self.keyed {
            self.router = Router::new((*self.keyed).clone());
        }
        let mut ways = Vec::with_capacity(steps.len());
        for step in steps {
            match self.router.way(step, lanes)? {
                Way::Lane(lane) if !self.router.is_new_shape(step) => ways.push(lane),
                Way::Lane(_) | Way::Barrier => return Ok(None),
            }
        }
        Ok(Some(ways))
    }

    /// How many of so many lanes there are; those that are missing are connected.
    fn hire(&mut self, lanes: usize) -> Result<usize> {
        while self.orders.len() < lanes {
            let next = LaneId::all(LaneId::MAX).nth(self.orders.len());
            let (Some(lane), Some(hiring)) = (next, self.hiring.as_ref()) else { break };
            let stop = self.wait_for_stop();
            let hired = self.runtime.block_on(async {
                tokio::select! {
                    hired = hiring.hire(lane) => Some(hired),
                    () = stop => None,
                }
            });
            match hired {
                None => return Err(stopped()),
                Some(Ok(orders)) => {
                    self.orders.push(orders);
                    self.sent.push(0);
                }
                Some(Err(error)) => {
                    tracing::warn!(lane = lane.index(), error = %describe(&error), "no more lanes can be had");
                    self.hiring = None;
                }
            }
        }
        if self.orders.len() < lanes {
            self.climb.limit(self.orders.len());
        }
        Ok(lanes.min(self.orders.len()))
    }

    /// Waits until every lane has done all it was given.
    ///
    /// # Errors
    /// `Aborted` when everything is to stop.
    pub(super) fn drain(&mut self) -> Result<()> {
        let drained = self.wait_for_pending(0);
        self.wait(async move {
            drained.await;
            true
        })
    }

    /// Waits until the lane takes the order.
    fn send(&mut self, lane: LaneId, order: Order) -> Result<()> {
        let Some(orders) = self.orders.get(lane.index()).cloned() else { return Err(stopped()) };
        self.wait(async move { orders.send(order).await.is_ok() })?;
        if let Some(sent) = self.sent.get_mut(lane.index()) {
            *sent += 1;
        }
        Ok(())
    }

    fn wait(&mut self, event: impl Future<Output = bool>) -> Result<()> {
        let since = Instant::now();
        let stop = self.wait_for_stop();
        let came = self.runtime.block_on(async {
            tokio::select! {
                came = event => came,
                () = stop => false,
            }
        });
        self.waited += since.elapsed();
        // When the writers end early, so does everything.
        if came && !*self.stop.borrow() { Ok(()) } else { Err(stopped()) }
    }
}

fn pending(sent: &[u64], done: &[Done]) -> u64 {
    sent.iter().zip(done).map(|(sent, done)| sent - done.orders).max().unwrap_or(0)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Aborted, "hand changes to the target's writer")
}

#[cfg(test)]
mod tests;
