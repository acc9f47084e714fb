//! What the workers of one process share while a wave lasts: its plan, and what is known here of each table.
//!
//! Hazard: a table is told complete once, whoever has loaded it, and however often it is heard: its indexes are built
//! then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::control::{Complete, News};
use super::copy::{CopiedTable, CopyEvent, CopyPlan};
use super::partition::Part;
use super::queue;

/// Counts what one process has loaded, also when its work ends with an error.
#[derive(Debug, Default)]
pub struct Loaded {
    parts: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Loaded {
    fn count(&self, rows: u64, bytes: u64) {
        self.parts.fetch_add(1, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Parts.
    #[must_use]
    pub fn parts(&self) -> u64 {
        self.parts.load(Ordering::Relaxed)
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// COPY bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Why a table is not copied in this wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutOff {
    Rewritten,
    Locked,
}

impl PutOff {
    pub(super) const fn label(self) -> &'static str {
        match self {
            PutOff::Rewritten => "rewritten",
            PutOff::Locked => "locked",
        }
    }

    pub(super) fn named(label: &str) -> Option<PutOff> {
        [PutOff::Rewritten, PutOff::Locked].into_iter().find(|why| why.label() == label)
    }
}

/// Whose process this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    Conductor,
    /// What it loads is news to the conductor.
    Helper,
}

/// What is known here of one table.
#[derive(Debug, Default)]
struct Table {
    started: OnceLock<Instant>,
    is_told: AtomicBool,
}

/// What the workers of one process share.
#[derive(Debug)]
pub(super) struct Wave {
    pub(super) plan: CopyPlan,
    pub(super) number: i64,
    pub(super) hand: Hand,
    tables: Vec<Table>,
    events: mpsc::Sender<CopyEvent>,
    /// How often each part failed, by its place in the queue.
    failures: Mutex<HashMap<i64, u32>>,
    loaded: Arc<Loaded>,
}

impl Wave {
    pub(super) fn new(plan: CopyPlan, number: i64, hand: Hand, events: mpsc::Sender<CopyEvent>) -> Wave {
        let tables = plan.tables.iter().map(|_| Table::default()).collect();
        Wave { plan, number, hand, tables, events, failures: Mutex::default(), loaded: Arc::default() }
    }

    /// Counts what is loaded in this counter, which may outlive the wave.
    pub(super) fn counting(self, loaded: Arc<Loaded>) -> Wave {
        Wave { loaded, ..self }
    }

    /// Whether the part is one of this wave's tables.
    pub(super) fn has(&self, part: &Part) -> bool {
        part.count > 0 && part.table.checked_add(part.count).is_some_and(|end| end <= self.tables.len())
    }

    /// Says that tables are begun, once of each.
    pub(super) async fn begin(&self, part: &Part) {
        let tables = self.tables.iter().zip(&self.plan.tables).skip(part.table).take(part.count);
        for (known, table) in tables {
            if known.started.set(Instant::now()).is_ok() {
                self.tell(CopyEvent::Started { name: table.name.clone(), bytes: table.bytes }).await;
            }
        }
    }

    /// How long ago a table was begun here.
    pub(super) fn started(&self, table: usize) -> Duration {
        self.tables[table].started.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Says that a table is complete, once.
    pub(super) async fn complete(&self, table: usize, complete: Complete) {
        if self.tables[table].is_told.swap(true, Ordering::AcqRel) {
            return;
        }
        let Complete { rows, bytes, elapsed } = complete;
        let name = self.plan.tables[table].name.clone();
        self.tell(CopyEvent::Done(CopiedTable { name, rows, bytes, elapsed })).await;
    }

    /// Counts what was loaded here.
    pub(super) fn count(&self, rows: u64, bytes: u64) {
        self.loaded.count(rows, bytes);
    }

    /// Counts a failure of a part, and says the how-manieth it is.
    pub(super) fn failed(&self, ordinal: i64) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(ordinal).or_default();
        *count += 1;
        *count
    }

    /// The statement, and what parts it from the next one, that tells the conductor of a part; nothing if that is us.
    pub(super) fn news(&self, part: &Part, bytes: u64) -> String {
        match self.hand {
            Hand::Conductor => String::new(),
            Hand::Helper => queue::news(part, bytes) + "; ",
        }
    }

    /// Passes on what others have loaded.
    pub(super) async fn hear(&self, news: Vec<News>) {
        for News { table, part_bytes, complete } in news {
            if table >= self.tables.len() {
                continue;
            }
            self.plan.meter.count_others(part_bytes);
            let whole = Part { table, count: 1, range: None, bytes: 0 };
            self.begin(&whole).await;
            if let Some(complete) = complete {
                self.complete(table, complete).await;
            }
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.tables.iter().any(|table| table.started.get().is_some())
    }

    /// Tables that are begun and not complete, as far as this process knows.
    pub(super) fn under_way(&self) -> String {
        let tables = self.plan.tables.iter().zip(&self.tables);
        let begun = tables
            .filter(|(_, known)| known.started.get().is_some() && !known.is_told.load(Ordering::Acquire));
        begun.map(|(table, _)| table.name.plain()).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn is_all_told(&self) -> bool {
        self.tables.iter().all(|table| table.is_told.load(Ordering::Acquire))
    }

    async fn tell(&self, event: CopyEvent) {
        // A conductor that no longer listens is going down, and this task with it.
        let _ = self.events.send(event).await;
    }
}
