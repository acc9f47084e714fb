//! Where the applier stands, for those who wait for it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::checkpoint::Scope;
use super::watermark::{Frontier, Watermark};
use crate::pg::{Lsn, PgTimestamp};

/// A moment's positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// How far the stream has come.
    pub watermark: Watermark,
    /// When the last applied transaction was committed, by the source's clock.
    pub last_commit_time: Option<PgTimestamp>,
}

/// Moves the positions; shared by all who work.
#[derive(Debug)]
pub(super) struct Reporter {
    positions: watch::Sender<Positions>,
    /// What the source may be told; for those who need not be woken by each commit.
    confirmed: watch::Sender<Lsn>,
    frontier: Mutex<Frontier>,
}

/// What brought the target to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// A commit: of the transaction that the source committed last, then.
    Committed { time: Option<PgTimestamp> },
    /// Nothing was to do.
    Passed,
}

impl Reporter {
    pub(super) fn starting_at(start: Lsn) -> Reporter {
        let watermark = Watermark::starting_at(start);
        let positions = watch::Sender::new(Positions { watermark, last_commit_time: None });
        let (confirmed, frontier) = (watch::Sender::new(start), Mutex::new(Frontier::starting_at(start)));
        Reporter { positions, confirmed, frontier }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Positions> {
        self.positions.subscribe()
    }

    pub(super) fn subscribe_to_confirmed(&self) -> watch::Receiver<Lsn> {
        self.confirmed.subscribe()
    }

    pub(super) fn now(&self) -> Positions {
        *self.positions.borrow()
    }

    /// Wakes nobody: this happens with every read, and whoever waits, waits for what is applied.
    pub(super) fn received(&self, end: Lsn) {
        self.positions.send_if_modified(|positions| {
            positions.watermark.receive(end);
            false
        });
    }

    /// Wakes nobody, as [`Reporter::received`]: this happens with every commit of the source.
    pub(super) fn assembled(&self, end: Lsn) {
        self.positions.send_if_modified(|positions| {
            positions.watermark.assemble(end);
            false
        });
    }

    /// From here on so many lanes report by themselves.
    pub(super) fn spread(&self, lanes: usize) {
        self.frontier.lock().unwrap_or_else(PoisonError::into_inner).spread(lanes);
    }

    /// `scope` has applied everything before `end`.
    pub(super) fn reached(&self, scope: Scope, end: Lsn, how: Reached) {
        let mut frontier = self.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        frontier.reach(scope, end);
        let applied = frontier.applied();
        self.positions.send_modify(|positions| match (how, scope) {
            (Reached::Passed, Scope::All) => positions.watermark.pass(applied),
            // What other lanes have committed meanwhile may be part of it.
            (Reached::Passed, Scope::Lane(_)) => positions.watermark.apply(applied),
            (Reached::Committed { time }, _) => {
                positions.watermark.apply(applied);
                positions.last_commit_time = time.max(positions.last_commit_time);
            }
        });
        self.tell_confirmed();
    }

    /// The target has flushed everything before `end`.
    pub(super) fn flushed(&self, end: Lsn) {
        self.positions.send_modify(|positions| positions.watermark.flush(end));
        self.tell_confirmed();
    }

    fn tell_confirmed(&self) {
        let now = self.now().watermark.confirmed();
        self.confirmed.send_if_modified(|confirmed| {
            let is_news = *confirmed < now;
            *confirmed = now.max(*confirmed);
            is_news
        });
    }
}
