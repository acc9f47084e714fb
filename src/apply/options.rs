//! What an applier must be told.

use std::path::PathBuf;

use super::climb::ApplyLanes;
use super::drift::SourceNow;
use super::format::ValueFormat;
use super::group::GroupBounds;
use super::quarantine::Refusals;
use super::relations::TableWatermarks;
use crate::catalog::{ReplicaRole, Table};
use crate::pg::{Conninfo, Lsn, SlotName};

/// What an applier must be told.
#[derive(Debug, Clone)]
pub struct ApplyOptions {
    /// The database to write to.
    pub target: Conninfo,
    /// The slot that the stream comes from; names the progress row.
    pub slot: SlotName,
    /// `proto_version` of the stream.
    pub protocol_version: u8,
    /// The target's tables.
    pub tables: Vec<Table>,
    /// The tables that are migrated, and where each one's copy ends.
    pub watermarks: TableWatermarks,
    /// The source's tables as they are by now: the stream may come from before their last ALTER.
    pub source: SourceNow,
    /// How the stream's values come.
    pub values: ValueFormat,
    /// What becomes of rows that the target refuses. While one is parked, or may be, one lane applies everything,
    /// and values must come as text.
    pub refusals: Refusals,
    /// What the progress row says.
    pub start: Lsn,
    /// How the target's triggers and foreign keys are kept from firing (P48).
    pub replica_role: ReplicaRole,
    /// The source database's `search_path`, lent to the session once changes have to go row by row: a function of
    /// the target's own (an index's, a CHECK's, a domain's) may not find what it names (P58). `None` never lends one.
    pub search_path: Option<String>,
    /// How many lanes changes may be spread over while the stream lags.
    pub lanes: ApplyLanes,
    /// When a group of transactions is committed at the latest.
    pub bounds: GroupBounds,
    /// Bytes of items that may wait to be decoded.
    pub input_bytes: usize,
    /// Bytes of memory for transactions that are still streamed; beyond it they go to files.
    pub stash_memory_bytes: usize,
    /// Where those files are made.
    pub stash_directory: PathBuf,
}

impl ApplyOptions {
    /// The usual bounds, and no tables yet.
    #[must_use]
    pub fn new(target: Conninfo, slot: SlotName, protocol_version: u8, start: Lsn) -> ApplyOptions {
        ApplyOptions {
            target,
            slot,
            protocol_version,
            tables: Vec::new(),
            watermarks: TableWatermarks::default(),
            source: SourceNow::default(),
            values: ValueFormat::Text,
            refusals: Refusals::default(),
            start,
            replica_role: ReplicaRole::Denied,
            search_path: None,
            lanes: ApplyLanes::default(),
            bounds: GroupBounds::default(),
            input_bytes: 8 << 20,
            stash_memory_bytes: 16 << 20,
            stash_directory: std::env::temp_dir(),
        }
    }
}
