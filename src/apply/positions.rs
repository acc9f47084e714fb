//! Where the applier stands, for those who wait for it.

use tokio::sync::watch;

use super::watermark::Watermark;
use crate::pg::{Lsn, PgTimestamp};

/// A moment's positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// How far the stream has come.
    pub watermark: Watermark,
    /// When the last applied transaction was committed, by the source's clock.
    pub last_commit_time: Option<PgTimestamp>,
}

/// Moves the positions; shared by the planner and the writer.
#[derive(Debug)]
pub(super) struct Reporter(watch::Sender<Positions>);

impl Reporter {
    pub(super) fn starting_at(start: Lsn) -> Reporter {
        let watermark = Watermark::starting_at(start);
        Reporter(watch::Sender::new(Positions { watermark, last_commit_time: None }))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Positions> {
        self.0.subscribe()
    }

    pub(super) fn now(&self) -> Positions {
        *self.0.borrow()
    }

    /// Wakes nobody: this happens with every read, and whoever waits, waits for what is applied.
    pub(super) fn received(&self, end: Lsn) {
        self.0.send_if_modified(|positions| {
            positions.watermark.receive(end);
            false
        });
    }

    /// Wakes nobody, as [`Reporter::received`]: this happens with every commit of the source.
    pub(super) fn assembled(&self, end: Lsn) {
        self.0.send_if_modified(|positions| {
            positions.watermark.assemble(end);
            false
        });
    }

    pub(super) fn applied(&self, end: Lsn, commit_time: Option<PgTimestamp>) {
        self.0.send_modify(|positions| {
            positions.watermark.apply(end);
            positions.last_commit_time = commit_time.or(positions.last_commit_time);
        });
    }
}
