//! Where files go on this machine: programs, the dump, changes that wait.
//!
//! Hazard: `/tmp` may lie in memory, where the changes of hours have no room.

use std::path::PathBuf;

use crate::cli::quantity;

/// Where programs are found and files are put.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Files")]
pub struct Files {
    /// Take pg_dump and pg_restore from this directory [default: the newest that is found].
    #[arg(long, value_name = "DIR")]
    pub pgbin: Option<PathBuf>,
    /// Keep the dump and spooled changes here [default: TMPDIR or /tmp for the dump, /var/tmp for changes].
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
}

/// What happens to changes that the target cannot take yet.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Files")]
pub struct SpoolArgs {
    /// Keep changes that have to wait on the source, as WAL, and not on this machine's disk.
    #[arg(long, conflicts_with_all = ["spool_max", "spool_after"])]
    pub no_spool: bool,
    /// Spool no more than this on local disk [default: half of what is free]; then the source keeps its WAL.
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub spool_max: Option<u64>,
    /// Spool once the source keeps this much WAL for us and the target does not gain [default: 256MB].
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    pub spool_after: Option<u64>,
}
