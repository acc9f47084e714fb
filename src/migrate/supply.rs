//! Where the applier's changes come from during one stretch of following: the source, or the spool.
//!
//! Hazard: a stretch ends in an order. Nothing may be received any more before the spool's end is taken for the
//! end; and only when the target has everything up to there, durably, is the spool given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tracing::Instrument as _;

use super::config::Spooling;
use super::feedback::Reports;
use super::gauge::Horizon;
use super::run::Run;
use super::spooling::{self, Behind, Feeding, Receiver, Spool, Standing, feed};
use crate::apply::Applier;
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::pg::Lsn;
use crate::replication::FeedbackPositions;

/// A spool with no more unread than this is read to its end before it is left.
const NEAR_BYTES: u64 = 16 << 20;

/// What feeds the applier. The tasks end with it.
pub(super) struct Supply {
    tasks: JoinSet<Result<()>>,
    from: From,
}

enum From {
    Source {
        /// None: there is to be no spool.
        behind: Option<Behind>,
        stop_reports: oneshot::Sender<()>,
        reports: JoinHandle<Result<()>>,
    },
    Spool {
        spool: Spool,
        receiving: Option<AbortHandle>,
        feeding: watch::Sender<Feeding>,
        unread: Arc<AtomicU64>,
    },
}

/// How changes come to the applier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Straight from the source, unless something is spooled.
    Direct,
    /// By way of the spool.
    Spool,
}

impl Supply {
    /// Straight from the source; what reads runs on that runtime.
    pub(super) fn direct<P: Fn() -> FeedbackPositions + Send + 'static>(
        run: &Run,
        runtime: &Handle,
        read: impl Future<Output = Result<()>> + Send + 'static,
        reports: Reports<P>,
    ) -> Supply {
        let mut tasks = JoinSet::new();
        tasks.spawn_on(read.in_current_span(), runtime);
        let (stop_reports, stopped) = oneshot::channel();
        let reports = tokio::spawn(reports.run(stopped).in_current_span());
        let behind = run.may_spool().then(|| Behind::new(run.options.spool_after_bytes));
        Supply { tasks, from: From::Source { behind, stop_reports, reports } }
    }

    /// By way of the spool, which is filled meanwhile unless it is not wanted any more.
    pub(super) async fn spooled(
        run: &Run,
        spool: Spool,
        applier: &Applier,
        horizon: Arc<Horizon>,
    ) -> Result<Supply> {
        let mut tasks = JoinSet::new();
        let receiving = match run.options.spooling {
            Spooling::Off => None,
            Spooling::On { .. } => {
                let receiver = Receiver::new(run, spool.clone(), horizon).await?;
                let receive = async { receiver.run().await.map(|never| match never {}) };
                Some(tasks.spawn(receive.in_current_span()))
            }
        };
        let (feeding, fed) = watch::channel(Feeding::On);
        let unread = Arc::new(AtomicU64::new(u64::MAX));
        let feed = feed(spool.clone(), applier.input(), applier.positions(), Arc::clone(&unread), fed);
        tasks.spawn(feed.in_current_span());
        Ok(Supply { tasks, from: From::Spool { spool, receiving, feeding, unread } })
    }

    /// Everything that runs beside the applier; the first to end says what is wrong.
    pub(super) fn tasks(&mut self) -> &mut JoinSet<Result<()>> {
        &mut self.tasks
    }

    /// What is durable on local disk, where that is the way.
    pub(super) fn spooled_to(&self) -> Option<Lsn> {
        match &self.from {
            From::Source { .. } => None,
            From::Spool { spool, .. } => Some(spool.end()),
        }
    }

    /// The other way, if that is the better one from now on.
    pub(super) fn turn(&mut self, run: &Run, standing: Option<Standing>) -> Option<Way> {
        let standing = standing?;
        match &mut self.from {
            From::Source { behind, .. } => {
                let is_time = behind.as_mut()?.gains_nothing(Instant::now(), standing);
                is_time.then_some(Way::Spool)
            }
            From::Spool { spool, receiving, unread, .. } => {
                run.metrics.spool_bytes(spool.bytes());
                let unread = unread.load(Ordering::Acquire);
                let is_read = unread == 0 && standing.durable >= spool.end();
                let near_bytes = NEAR_BYTES.min(run.options.spool_after_bytes / 2);
                let is_near = unread <= near_bytes && standing.bytes <= near_bytes;
                match (receiving, is_read) {
                    // What is larger than the spool may be has to go past it.
                    (Some(_), true) if spool.is_full() => {
                        run.stop_spooling();
                        Some(Way::Direct)
                    }
                    (None, true) => Some(Way::Direct),
                    // One that stands still since it was begun with will need it again.
                    (Some(_), _) if is_near && (standing.has_committed || is_read) => Some(Way::Direct),
                    (Some(_) | None, _) => None,
                }
            }
        }
    }

    /// Ends reading. What little waits in a spool is handed to the applier first.
    ///
    /// # Errors
    /// What keeps that from being done.
    pub(super) async fn end_reading(&mut self, applier: &Applier) -> Result<()> {
        let From::Spool { spool, receiving, feeding, unread, .. } = &mut self.from else {
            self.tasks.shutdown().await;
            return Ok(());
        };
        if let Some(receiving) = receiving {
            receiving.abort();
        }
        // Whatever it was writing has been written when this is done.
        if let Err(error) = spool.sync().await {
            tracing::debug!(error = %describe(&error), "the spool's end is not durable");
        }
        if unread.load(Ordering::Acquire) > NEAR_BYTES {
            self.tasks.shutdown().await;
            return Ok(());
        }
        feeding.send_replace(Feeding::ToTheEnd);
        loop {
            let ended = tokio::select! {
                error = applier.failed() => return Err(error.on(Side::Target)),
                ended = self.tasks.join_next() => ended,
            };
            match ended {
                // The reader is at the end.
                Some(Ok(Ok(()))) | None => break,
                Some(Ok(Err(error))) if error.kind() == ErrorKind::Aborted => {
                    return Err(applier.failed().await);
                }
                Some(Ok(Err(error))) => return Err(error),
                Some(Err(cause)) if cause.is_cancelled() => {}
                Some(Err(cause)) => return Err(Error::new(ErrorKind::Bug, "read the stream").because(cause)),
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }

    /// Tells the source where the target stands, or gives up a spool of which it has everything; `durable` is where
    /// the applier came to its end.
    ///
    /// # Errors
    /// Those of [`spooling::release`].
    pub(super) async fn close(mut self, run: &Run, durable: Option<Lsn>) -> Result<()> {
        self.tasks.shutdown().await;
        match self.from {
            From::Source { stop_reports, reports, .. } => {
                // The last report carries the last positions.
                let _ = stop_reports.send(());
                match reports.await {
                    Ok(Ok(())) => Ok(()),
                    // Whatever it was, the next stream begins at the position on the target.
                    Ok(Err(error)) => {
                        tracing::debug!(error = %describe(&error), "last report not sent");
                        Ok(())
                    }
                    Err(cause) => Err(Error::new(ErrorKind::Bug, "report positions").because(cause)),
                }
            }
            From::Spool { spool, .. } => match durable {
                Some(durable) if durable >= spool.end() => spooling::release(run, spool).await,
                Some(_) => {
                    spooling::tell_what_stays(run).await;
                    Ok(())
                }
                None => Ok(()),
            },
        }
    }
}
