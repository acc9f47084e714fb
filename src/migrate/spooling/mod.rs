//! The stream by way of local disk: received and confirmed at once, applied when the target can.
//!
//! Hazards:
//! - What was confirmed on the strength of the spool exists nowhere else. So the target knows of a spool before
//!   the source is told anything that rests on it, and a run that does not find it whole goes no further
//!   ([`owner`]).
//! - A spool nobody needs costs a copy of every byte. While nothing can be applied, in the copy or because something
//!   is waited for, it begins only when the source keeps much WAL for us, or has kept it for long (P16, P17); while the
//!   target is followed, only when it is behind and does not gain ([`behind`]). It ends when the target is nearly in
//!   step ([`follow`](super::follow)).
//! - A local disk that is full must not end a migration: then the slot holds the WAL, as it would without us.
//!
//! ```text
//!   walsender ─▶ receive ─▶ Log ══ files ══▶ feed ─▶ Applier
//!             ◀─ synced ───╯                          ╰─ durable: files may go
//! ```

mod behind;
mod feed;
mod owner;
mod receive;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub(super) use self::behind::{Behind, Standing};
pub(super) use self::feed::{Feeding, feed};
pub(super) use self::owner::{
    Found, begin, discard, found, release, remove_files, resume, tell_what_stays, whole,
};
pub(super) use self::receive::Receiver;
use super::gauge::Horizon;
use super::monitor;
use super::run::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::pg::Lsn;
use crate::replication::{StreamItem, slot_state};
use crate::spool::{Log, Synced};

/// A spool that is being written to; a clone is a reference. Its disk work is done on threads that may block.
#[derive(Clone)]
pub(super) struct Spool(Arc<Inner>);

struct Inner {
    log: Mutex<Log>,
    synced: watch::Sender<Synced>,
    bytes: Arc<AtomicU64>,
    bytes_max: u64,
    path: PathBuf,
    protocol_version: u8,
    /// It takes no more for now.
    is_full: AtomicBool,
}

impl Spool {
    fn of(log: Log, path: PathBuf, bytes_max: u64, protocol_version: u8) -> Spool {
        let (synced, bytes) = (watch::Sender::new(log.synced()), log.bytes());
        let is_full = AtomicBool::new(false);
        Spool(Arc::new(Inner {
            log: Mutex::new(log),
            synced,
            bytes,
            bytes_max,
            path,
            protocol_version,
            is_full,
        }))
    }

    /// Takes the log back to what is durable; a connection is to begin there.
    async fn restart(&self) -> Result<Lsn> {
        self.work(|log| {
            log.restart().map_err(|error| Error::new(ErrorKind::Local, "go back in the spool").because(error))
        })
        .await
    }

    async fn append(&self, items: Vec<StreamItem>) -> Result<()> {
        self.work(move |log| log.append(&items)).await
    }

    /// Makes what was appended durable, up to the last cut; and lets it be known.
    pub(super) async fn sync(&self) -> Result<()> {
        self.work(|log| log.sync().map(drop)).await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let mut log = inner.log.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut log);
            let now = log.synced();
            inner.synced.send_if_modified(|before| std::mem::replace(before, now) != now);
            done
        });
        done.await.map_err(|cause| Error::new(ErrorKind::Bug, "write to the spool").because(cause))?
    }

    /// Every transaction that commits before this is durable here or on the target.
    pub(super) fn end(&self) -> Lsn {
        self.0.synced.borrow().end
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.bytes() < self.0.bytes_max
    }

    /// Whether it takes no more, because of its bound or its disk.
    pub(super) fn is_full(&self) -> bool {
        self.0.is_full.load(Ordering::Relaxed)
    }
}

/// How long the source may keep WAL for us, however little, before we take it: longer, and somebody may think that
/// nobody wants the slot any more (P17).
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at what it keeps.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a step that may take hours, with the monitor beside it; and takes the stream in meanwhile, if that is worth it.
///
/// # Errors
/// Those of `work`, or what makes going on senseless.
pub(super) async fn meanwhile<T>(run: &Run, work: impl Future<Output = Result<T>>) -> Result<T> {
    // In boxes: both are large, and every future around them would hold them again.
    let (mut work, mut taking_in) = (Box::pin(work), Box::pin(take_in(run)));
    let work = async {
        tokio::select! {
            done = &mut work => done,
            error = &mut taking_in => Err(error),
        }
    };
    monitor::beside(run, work).await
}

/// Receives into the spool once it is time, until something is wrong that does not pass.
async fn take_in(run: &Run) -> Error {
    let spool = match taken_up(run).await {
        Ok(Some(spool)) => spool,
        // There is no disk for it, or it is not wanted: the slot holds.
        Ok(None) => return std::future::pending().await,
        Err(error) => return error,
    };
    let horizon = Arc::new(Horizon::starting_at(spool.end()));
    let receiver = match Receiver::new(run, spool, horizon).await {
        Ok(receiver) => receiver,
        Err(error) => return error,
    };
    let Err(error) = receiver.run().await;
    error
}

/// The spool that there is, or a new one when it is time for one.
async fn taken_up(run: &Run) -> Result<Option<Spool>> {
    if !run.may_spool() {
        return Ok(None);
    }
    // Most of what runs here is over by then, and opening a spool reads much of it.
    tokio::time::sleep(LOOK_INTERVAL).await;
    if let Some(spool) = resume(run).await? {
        return Ok(Some(spool));
    }
    // One wait for a server is many, from one try to the next.
    let entered = run.held_up.since().unwrap_or_else(Instant::now);
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        // Who needs the source notices by himself that it is away.
        let Ok(Some(slot)) = slot_state(&run.source, &run.id.slot()).await else { continue };
        if slot.retained_bytes >= run.options.spool_after_bytes || entered.elapsed() >= WAIT_MAX {
            return begin(run).await;
        }
    }
}
