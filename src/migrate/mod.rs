//! The conductor: one database from its first check to its cutover, through any number of crashes.
//!
//! Hazards:
//! - Whatever is only in memory is lost when we are killed. Every decision that a later step rests on is in
//!   schema `pgstream` of the target before that step begins ([`state`]).
//! - The source is not ours. What we make there is journalled first and undone at the end, also when the
//!   end is an error ([`release_source`]).
//! - Two engines at work on one target would double rows: one lock, held for as long as we live.
//!
//! ```text
//! run ─► define ─► load ─────────────► follow ─────────► define ─► follow ─► cutover ─► release
//!        pre-data  open, copy + build  to the snapshots  finish    goal      carry      the source
//! ```
//! The phases are those of [`crate::telemetry::Phase`]. A dump (`dump`) goes another way, without a stream:
//! ```text
//! run ─► define ─► copy + build under one snapshot ─► large objects, sequences ─► define ─► refresh, analyze
//! ```
//! Other processes may lend a hand while rows are copied (`worker`); they only ever take work from the target's queue.

mod abandon;
mod adopt;
mod analyze;
mod budgets;
mod build;
mod build_watch;
mod check;
mod cleanup;
pub mod cluster;
mod config;
mod cutover;
mod databases;
mod define;
mod drift;
mod dump;
mod extension;
mod feedback;
mod follow;
mod format;
mod gauge;
mod journal;
mod leftover;
mod load;
mod lock;
mod locks;
mod mark;
mod membership;
mod monitor;
mod open;
mod outcome;
mod quarantine;
mod release;
mod retry;
mod run;
mod selection;
mod shutdown;
mod spooling;
pub mod state;
mod status;
mod supply;
mod tables;
mod throttle;
mod trial;
mod unseen;
mod worker;

pub use crate::precheck::{Method, MethodChoice};
pub use budgets::Budgets;
pub use check::{Workplace, check};
pub use cleanup::{
    CleanupOptions, Engines, Fate as CleanupFate, Item as CleanupItem, Kind as CleanupKind,
    Report as CleanupReport, Trouble as CleanupTrouble, Wanted as CleanupWanted, cleanup,
};
pub use config::{
    AutoDdl, BuildAllowance, Ending, Full, IdentityChoice, Options, Output, Quarantine, Records, Spooling,
};
pub use lock::Holder;
pub use outcome::{Decisive, Ended, Figures, Outcome};
pub use release::release_source;
pub use retry::migrate;
pub use run::{MethodTaken, Watchers};
pub use selection::{Selection, Wishes, select};
pub use shutdown::{Shutdown, ShutdownSender, shutdown};
pub use status::{
    DatabaseStatus, LastError, Look, Share, SlotStatus, SpoolStatus, StatusOptions, look, report,
};
pub use trial::SCRATCH_PREFIX;
pub use worker::{Worked, WorkerOptions, WorkerOutcome, WorkerWatchers, work};
