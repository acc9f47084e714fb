//! Applies the change stream to the target: exactly once, in groups, set-based.
//!
//! Hazards, in the order in which they would lose data:
//! - A change applied twice or never. The progress row moves in the transaction that holds the changes, and
//!   whole transactions are skipped by it (`checkpoint`, `planner`).
//! - A position confirmed too early: the source would discard what the target does not have, or has not on its
//!   disk yet (`watermark`, `flush`).
//! - Changes of one row that overtake each other where several connections apply them (`crew`, `route`).
//! - Batches that end in another state than the source's order would. A batch is tried behind a savepoint;
//!   each statement must touch as many rows as were sent, and any refusal is answered by replaying the same
//!   changes one by one (`plan`, `writer`).
//! - A change of a row that the target refused before, applied all the same (`quarantine`).
//! - Rolled-back work of transactions that were sent before they ended (`assemble`).
//! - Values that are read as something else: casts, arrays, collations (`statement`, `encode`, `operator`).
//!
//! ```text
//!   StreamItem ─▶ assemble ─▶ relations, change ─▶ group ─▶ plan ─▶ write ═▶ writer ─▶ lane ─▶ target
//!                  (stash)     (table, key)                (compact) (statement, encode)
//!   ╰───────────────────── thread "pgstream-plan" ──────────────────╯      ╰──── a task ────╯
//! ```
//! Everything left of `═▶` is synchronous and knows no socket; the lane is the only thing that does. There is
//! one, and more of them while the stream lags: `crew` tells how they work beside each other and come together.

mod answer;
mod assemble;
mod change;
mod checkpoint;
mod climb;
mod compact;
mod crew;
mod drift;
mod encode;
mod event;
mod fault;
mod flush;
mod format;
mod group;
mod hire;
mod input;
mod key;
mod lane;
mod multiset;
mod operator;
mod options;
mod pipeline;
mod plan;
mod planner;
mod planning_thread;
mod positions;
mod quarantine;
mod rehearsal;
mod relations;
mod route;
#[cfg(test)]
mod sample;
mod stash;
mod statement;
mod stats;
mod stretch;
mod table;
mod watermark;
mod write;
mod writer;

pub use checkpoint::{PROGRESS_DDL, Progress, begin_progress, read_progress};
pub use climb::ApplyLanes;
pub use drift::{Drifted, SourceNow};
pub use format::{NotInBinary, ValueFormat, needs_text};
pub use group::GroupBounds;
pub use input::ApplyInput;
pub use options::ApplyOptions;
pub use pipeline::Applier;
pub use positions::Positions;
pub use quarantine::{ParkedTable, Refusals, discard_parked, parked, replay_parked};
pub use rehearsal::{Rehearsal, Rehearsed};
pub use relations::TableWatermarks;
pub use stats::{ApplyStats, FallbackReason};
pub use watermark::Watermark;
