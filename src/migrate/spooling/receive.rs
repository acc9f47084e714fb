//! From the walsender into the spool.
//!
//! Hazard: the source is told of a position when it is durable here, not when it has arrived; and a disk that
//! takes no more, or a connection that breaks, ends nothing: the spool goes back to what is durable, and the
//! stream is taken up from there.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::Spool;
use crate::error::{Error, ErrorKind, Recovery, Result, Side, describe};
use crate::migrate::feedback::Reports;
use crate::migrate::gauge::Horizon;
use crate::migrate::run::Run;
use crate::migrate::state;
use crate::pg::{Conninfo, Identifier, Lsn, ServerVersion, SlotName};
use crate::pgoutput::{StreamOptions, TupleFormat};
use crate::replication::{FeedbackPositions, StreamItem, free_slot, start_stream};
use crate::telemetry::{DatabaseMetrics, Progress, Stage};
use crate::wire::{Session, SessionSettings};

/// What arrived is made durable after this time, or so many bytes: the source frees WAL by whole segments.
const SYNC_INTERVAL: Duration = Duration::from_millis(200);
const SYNC_BYTES: usize = 8 << 20;
/// Between two looks whether there is room again.
const ROOM_PAUSE: Duration = Duration::from_millis(200);
/// Before a disk that failed is tried again.
const DISK_PAUSE: Duration = Duration::from_secs(2);
/// Between two attempts to connect, at first and at the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// How values are asked for: what is spooled cannot be asked for again in another form, and text is read everywhere.
pub(super) const FORMAT: TupleFormat = TupleFormat::Text;

/// Receives; it owns all that it needs.
pub(in crate::migrate) struct Receiver {
    source: Conninfo,
    target: Conninfo,
    source_version: ServerVersion,
    slot: SlotName,
    publications: Vec<Identifier>,
    interval: Duration,
    spool: Spool,
    horizon: Arc<Horizon>,
    metrics: DatabaseMetrics,
    progress: Progress,
}

impl Receiver {
    pub(in crate::migrate) async fn new(run: &Run, spool: Spool, horizon: Arc<Horizon>) -> Result<Receiver> {
        Ok(Receiver {
            source: run.options.source.clone(),
            target: run.options.target.clone(),
            source_version: run.source_version,
            slot: run.id.slot(),
            publications: run.publications().await?,
            interval: run.options.status_interval,
            spool,
            horizon,
            metrics: run.metrics.clone(),
            progress: run.progress.clone(),
        })
    }

    /// Receives, on one connection after the other.
    ///
    /// # Errors
    /// What does not pass by itself.
    pub(in crate::migrate) async fn run(self) -> Result<Infallible> {
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.spool.end();
            let Err(error) = self.receive().await;
            if self.spool.end() > before {
                pause = PAUSE_MIN;
            }
            match (error.kind(), error.recovery()) {
                (ErrorKind::Local, _) => {
                    self.metrics.survived(error.kind());
                    self.fill(&describe(&error)).await;
                    // The connection is closed: the slot holds. Only time can tell whether the disk is well again.
                    tokio::time::sleep(DISK_PAUSE).await;
                }
                (_, Recovery::Retry) => {
                    tracing::warn!(error = %describe(&error), pause_ms = pause.as_millis() as u64, "the stream broke off; trying again");
                    self.metrics.survived(error.kind());
                    self.metrics.reconnected(Side::Source);
                    tokio::time::sleep(pause).await;
                    pause = PAUSE_MAX.min(pause * 2);
                }
                (_, Recovery::Operator | Recovery::Bug) => return Err(error),
            }
        }
    }

    async fn receive(&self) -> Result<Infallible> {
        let start = self.spool.restart().await?;
        let on_source = |error: Error| error.on(Side::Source);
        let source =
            Session::connect(&self.source, &SessionSettings::role("control")).await.map_err(on_source)?;
        free_slot(&source, &self.slot).await.map_err(on_source)?;
        drop(source);
        let options =
            StreamOptions { server: self.source_version, format: FORMAT, publications: &self.publications };
        let (mut reader, feedback) =
            start_stream(&self.source, &self.slot, start, &options).await.map_err(on_source)?;
        tracing::info!(lsn = %start, "streaming to local disk");

        let received = Arc::new(AtomicU64::new(start.offset()));
        let (spool, arrived) = (self.spool.clone(), Arc::clone(&received));
        let positions = move || {
            let flushed = spool.end();
            let received = Lsn::new(arrived.load(Ordering::Acquire)).max(flushed);
            // The source makes nothing of `applied`, only that it is not behind `flushed`.
            FeedbackPositions { received, flushed, applied: flushed }
        };
        let (_stop, stopped) = tokio::sync::oneshot::channel();
        let mut reports = JoinSet::new();
        reports.spawn(Reports::new(feedback, self.interval, positions).run(stopped).in_current_span());

        let mut unsynced = 0;
        let mut due = None;
        loop {
            self.room().await?;
            let items = loop {
                tokio::select! {
                    items = reader.next_batch() => break items.map_err(on_source)?,
                    () = until(due) => {
                        self.sync().await?;
                        (unsynced, due) = (0, None);
                    }
                    Some(ended) = reports.join_next() => {
                        let ended = ended.map_err(|cause| Error::new(ErrorKind::Bug, "report positions").because(cause))?;
                        ended.map_err(on_source)?;
                    }
                }
            };
            if items.is_empty() {
                let ended =
                    Error::new(ErrorKind::Connect, "read the stream").because("the walsender ended it");
                return Err(ended.on(Side::Source));
            }
            for item in &items {
                self.horizon.saw(item);
                let (end, bytes) = match item {
                    StreamItem::Data { start, wal_end, message, .. } => {
                        ((*start).max(*wal_end), message.len())
                    }
                    StreamItem::Keepalive { wal_end, .. } => (*wal_end, 0),
                };
                received.fetch_max(end.offset(), Ordering::AcqRel);
                unsynced += bytes;
            }
            self.spool.append(items).await?;
            due.get_or_insert_with(|| Instant::now() + SYNC_INTERVAL);
            if unsynced >= SYNC_BYTES {
                self.sync().await?;
                (unsynced, due) = (0, None);
            }
        }
    }

    async fn sync(&self) -> Result<()> {
        self.spool.sync().await?;
        self.metrics.spool_bytes(self.spool.bytes());
        if let Some(bytes) = self.horizon.lag_bytes(self.spool.end()) {
            self.metrics.lag_bytes(Stage::Spooled, bytes);
        }
        // Writing has worked, so the disk has room again.
        if self.spool.has_room() && self.spool.0.is_full.swap(false, Ordering::Relaxed) {
            self.metrics.spool_full(false);
            tracing::info!("the spool has room again");
        }
        Ok(())
    }

    /// Waits while the spool is as large as it may be: the source then waits for us, and the slot holds its WAL.
    async fn room(&self) -> Result<()> {
        if self.spool.has_room() {
            return Ok(());
        }
        self.sync().await?;
        self.fill(&format!("the spool has reached {} bytes", self.spool.0.bytes_max)).await;
        while !self.spool.has_room() {
            // Reading frees whole files; there is nothing to be woken by but that.
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        Ok(())
    }

    /// Notes that nothing more is taken for now; the operator hears of it once.
    async fn fill(&self, why: &str) {
        self.metrics.spool_full(true);
        if self.spool.0.is_full.swap(true, Ordering::Relaxed) {
            return;
        }
        let warning = format!("{why}: until there is room, the source keeps its WAL for us");
        tracing::warn!(reason = why, "the spool takes no more");
        self.progress.warn(&warning);
        let kept = async {
            let target = Session::connect(&self.target, &SessionSettings::role("control")).await?;
            state::warn(&target, &warning).await
        };
        if let Err(error) = kept.await {
            tracing::debug!(error = %describe(&error), "a warning could not be kept");
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
