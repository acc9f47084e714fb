//! From the spool into the applier; what the target has, goes.
//!
//! Hazard: a file may be removed only when the target holds, durably, everything of which a part lies in it. So
//! it is the applier's durable position that trims, and never how far we have read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::Spool;
use super::owner::unusable;
use crate::apply::{ApplyInput, Positions};
use crate::error::{Error, ErrorKind, Result};
use crate::spool::{Delivery, Reader, Synced, Unusable};

/// Whether more is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::migrate) enum Feeding {
    /// The spool is being written to.
    On,
    /// Nobody writes any more: end when everything has been handed over.
    ToTheEnd,
}

/// Between two looks at what may go.
const TRIM_INTERVAL: Duration = Duration::from_millis(500);

/// Hands everything to the applier, in order; `unread` says how much waits on the disk.
///
/// # Errors
/// `State` for a spool that is not as it was written, `Local` for what the disk reports, `Aborted` if the applier
/// has stopped.
pub(in crate::migrate) async fn feed(
    spool: Spool,
    input: ApplyInput,
    positions: watch::Receiver<Positions>,
    unread: Arc<AtomicU64>,
    mut feeding: watch::Receiver<Feeding>,
) -> Result<()> {
    let (path, version, bytes) = (spool.0.path.clone(), spool.0.protocol_version, Arc::clone(&spool.0.bytes));
    let failed = |error: Unusable| unusable(&spool.0.path, error);
    let reader = blocking(move || Reader::open(&path, version, bytes)).await?.map_err(failed)?;
    let mut reading = Reading { reader, synced: *spool.0.synced.borrow() };
    let mut synced = spool.0.synced.subscribe();
    let mut tick = tokio::time::interval(TRIM_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // What is said before we look at the spool holds for what we then find.
        let is_last = *feeding.borrow_and_update() == Feeding::ToTheEnd;
        reading.synced = *synced.borrow_and_update();
        loop {
            let (back, deliveries) = reading.next().await?;
            reading = back;
            let deliveries = deliveries.map_err(failed)?;
            unread.store(reading.reader.unread(&reading.synced), Ordering::Release);
            if deliveries.is_empty() {
                break;
            }
            for delivery in deliveries {
                match delivery {
                    Delivery::Resume { shapes } => input.resume(shapes).await?,
                    Delivery::Items(items) => input.send(items).await?,
                }
            }
            if std::future::poll_fn(|context| std::task::Poll::Ready(tick.poll_tick(context).is_ready()))
                .await
            {
                reading = reading.trim(&positions).await?;
            }
        }
        if is_last {
            return Ok(());
        }
        tokio::select! {
            _ = synced.changed() => {}
            _ = feeding.changed() => {}
            _ = tick.tick() => reading = reading.trim(&positions).await?,
        }
    }
}

/// The reader on its way to a thread that may block, and back.
struct Reading {
    reader: Reader,
    synced: Synced,
}

impl Reading {
    async fn next(mut self) -> Result<(Reading, Result<Vec<Delivery>, Unusable>)> {
        blocking(move || {
            let deliveries = self.reader.next(&self.synced);
            (self, deliveries)
        })
        .await
    }

    async fn trim(mut self, positions: &watch::Receiver<Positions>) -> Result<Reading> {
        let durable = positions.borrow().watermark.durable();
        blocking(move || {
            if let Err(error) = self.reader.trim(durable) {
                // What was not removed now will be the next time.
                tracing::warn!(error = %error, "spooled changes could not be removed");
            }
            self
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work);
    done.await.map_err(|cause| Error::new(ErrorKind::Bug, "read the spool").because(cause))
}
