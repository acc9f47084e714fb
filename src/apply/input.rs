//! The way into the applier.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use crate::error::{Error, ErrorKind, Result};
use crate::replication::StreamItem;

/// Deliveries that may wait, whatever their size.
const DELIVERIES_MAX: usize = 1_024;

/// What the planner receives.
#[derive(Debug)]
pub(super) enum Delivery {
    /// Items, and the bytes that they took of the budget.
    Items { items: Vec<StreamItem>, permit: OwnedSemaphorePermit },
    /// A new stream begins between two transactions; what was told of tables before it.
    Resume { shapes: Vec<Bytes> },
    /// Finish what is whole, then stop.
    Drain,
}

/// Takes stream items in order; bounded in bytes. Clones feed the same applier.
#[derive(Debug, Clone)]
pub struct ApplyInput {
    deliveries: mpsc::Sender<Delivery>,
    budget: Arc<Semaphore>,
    budget_bytes: u32,
    stop: watch::Receiver<bool>,
}

impl ApplyInput {
    pub(super) fn new(
        budget_bytes: usize,
        stop: watch::Receiver<bool>,
    ) -> (ApplyInput, mpsc::Receiver<Delivery>) {
        let (deliveries, receiver) = mpsc::channel(DELIVERIES_MAX);
        let budget_bytes = u32::try_from(budget_bytes).unwrap_or(u32::MAX).max(1);
        let budget = Arc::new(Semaphore::new(budget_bytes as usize));
        (ApplyInput { deliveries, budget, budget_bytes, stop }, receiver)
    }

    /// Hands items over, in the stream's order; waits while the applier is behind.
    ///
    /// # Errors
    /// `Aborted` if the applier has stopped; [`super::Applier::failed`] tells why.
    /// # Cancel safety
    /// Dropped before it is done, none of the items was taken.
    pub async fn send(&self, items: Vec<StreamItem>) -> Result<()> {
        let gone = || Error::new(ErrorKind::Aborted, "hand changes to the applier");
        if *self.stop.borrow() {
            return Err(gone());
        }
        // What is larger than the whole budget waits until all of it is free.
        let bytes = u32::try_from(items.iter().map(bytes).sum::<usize>()).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.budget);
        let permit = budget.acquire_many_owned(bytes.min(self.budget_bytes)).await.map_err(|_| gone())?;
        self.deliveries.send(Delivery::Items { items, permit }).await.map_err(|_| gone())
    }

    /// Says that what comes next is a stream of its own: transactions that were being streamed are void and will
    /// come again, and these messages have described tables before. Only between two transactions.
    ///
    /// # Errors
    /// As [`ApplyInput::send`].
    /// # Cancel safety
    /// Safe: it was taken, or not.
    pub async fn resume(&self, shapes: Vec<Bytes>) -> Result<()> {
        let gone = |_| Error::new(ErrorKind::Aborted, "hand changes to the applier");
        self.deliveries.send(Delivery::Resume { shapes }).await.map_err(gone)
    }

    pub(super) async fn drain(&self) {
        // A planner that is gone needs no telling.
        let _ = self.deliveries.send(Delivery::Drain).await;
    }
}

fn bytes(item: &StreamItem) -> usize {
    const OVERHEAD_BYTES: usize = 64;
    match item {
        StreamItem::Data { message, .. } => message.len() + OVERHEAD_BYTES,
        StreamItem::Keepalive { .. } => OVERHEAD_BYTES,
    }
}
