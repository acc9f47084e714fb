//! The bulk copy: every table's rows as one snapshot shows them, in parallel, without looking at them.
//!
//! Hazards:
//! - A rewrite or TRUNCATE between the snapshot and a table's COPY makes the COPY return nothing, without
//!   an error, and the stream says nothing of it either (P15). Each part checks for that under its lock.
//! - With row security on, a COPY may return a part of the rows, or none (P53): it is off on every session.
//! - A part that ran twice, or half, is a wrong table (P85): what a part loaded and the note that it did
//!   are one transaction on the target.
//! - The snapshot holds back VACUUM on the source for as long as anything uses it (P14): each part's
//!   transaction ends with the part, and the keeper's with the last one.
//!
//! [`Keeper`] holds the snapshot, [`partition`] cuts tables into [`Part`]s, which wait in a `queue` on the target.
//! Workers, of the process that conducts and of any other, take them from there and [`copy_tables`] (small ones many at
//! a time, `batch`), and the [`ledger`] remembers what is done.

mod batch;
mod budget;
mod control;
mod copy;
mod keeper;
mod large_object;
pub mod ledger;
mod object_right;
mod open_wave;
mod partition;
mod queue;
mod wave;
mod worker;

pub use budget::{Budget, Turn};
pub use copy::{
    CopiedTable, CopyEvent, CopyOutcome, CopyPlan, LoadCommit, LoadRole, OnRewrite, copy_tables, help_copy,
};
pub use keeper::Keeper;
pub use large_object::{CarriedObjects, ObjectPlan, carry_large_objects};
pub use open_wave::{OpenWave, open_wave, settle_wave, shut_wave};
pub use partition::{BlockRange, CopyFormat, Cut, Freeze, Part, Rank, TableCopy, partition};
pub use queue::DDL as QUEUE_DDL;
pub use wave::Loaded;
