//! The report file: what became of everything, for whoever looks into it later.
//!
//! Hazard: a file of that name may be a report that somebody still needs, or be read while it is written; and
//! what it tells of two servers is not for everyone. It is written beside its place, for its owner alone, and
//! put there when it is whole.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::result::MigrateResult;
use crate::error::{Error, ErrorKind, Result};
use crate::migrate::cluster::{ClusterOutcome, Creation, Moved, Order, Roles, Wanted};
use crate::migrate::{Ending, Full, MethodChoice, Spooling};
use crate::telemetry::text;

/// Where the report goes, and what stands at its head.
#[derive(Debug)]
pub(super) struct Report {
    file: PathBuf,
    started: SystemTime,
    settings: Value,
}

impl Report {
    /// A report on `order`, which begins now.
    ///
    /// # Errors
    /// `Usage` if the file's folder is not there: found now, not after hours of copying.
    pub(super) fn new(file: PathBuf, order: &Order) -> Result<Report> {
        if !folder(&file).is_dir() || file.is_dir() {
            return Err(Error::new(ErrorKind::Usage, format!("use report file {}", file.display()))
                .because("its folder is not there, or it is a folder itself")
                .hint("Name a file in a folder that is there, with --report."));
        }
        Ok(Report { file, started: SystemTime::now(), settings: settings(order) })
    }

    /// Writes it.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn write(
        &self,
        id: Option<&str>,
        result: &MigrateResult,
        outcome: Option<&ClusterOutcome>,
        exit: Exit,
    ) -> Result<()> {
        let mut document = serde_json::to_value(result).expect("plain data with text keys always serializes");
        let head = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "migration_id": id,
            "started_at": seconds(self.started),
            "ended_at": seconds(SystemTime::now()),
            "exit_status": exit.code(),
            "settings": self.settings,
        });
        merge(&mut document, head);
        // Passwords were asked for on the screen, or in a file of their own (P94).
        for role in document.get_mut("roles").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(role) = role {
                role.remove("rolpassword");
            }
        }
        if let (Some(outcome), Some(Value::Array(databases))) = (outcome, document.get_mut("databases")) {
            for (database, moved) in databases.iter_mut().zip(&outcome.databases) {
                merge(database, detail(moved));
            }
        }
        let text = serde_json::to_string_pretty(&document).expect("plain data always serializes");
        put(&self.file, &text).map_err(|error| {
            Error::new(ErrorKind::Local, format!("write report file {}", self.file.display())).because(error)
        })
    }
}

fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// A temporary file is its owner's alone (0600), and a rename within a folder is all or nothing.
fn put(file: &Path, text: &str) -> std::io::Result<()> {
    let mut temporary = tempfile::NamedTempFile::new_in(folder(file))?;
    writeln!(temporary, "{text}")?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    Ok(())
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// Since 1970, as `date +%s` counts.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the result leaves out of one database.
fn detail(moved: &Moved) -> Value {
    let phases =
        moved.phases.iter().map(|(phase, time)| json!({"phase": phase.label(), "seconds": rounded(*time)}));
    let common = json!({ "target": moved.pair.target, "phases": phases.collect::<Vec<_>>() });
    let mut detail = match &moved.ended {
        Ok(outcome) => json!({
            "objects": outcome.objects,
            "consistent_point": outcome.consistent_point.map(|lsn| lsn.to_string()),
            "position": outcome.position.to_string(),
            "warnings": outcome.warnings.iter().chain(&moved.warnings).collect::<Vec<_>>(),
            "error": null,
        }),
        Err(error) => json!({
            "objects": null, "consistent_point": null, "position": null, "warnings": moved.warnings,
            "error": Failure::from(error),
        }),
    };
    merge(&mut detail, common);
    detail
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// Everything that was chosen; connection strings only as far as they tell where they lead.
fn settings(order: &Order) -> Value {
    let options = &order.options;
    let (ending, max_lag_bytes) = match options.ending {
        Ending::Interrupt => ("interrupt", None),
        Ending::CaughtUp => ("caught-up", None),
        Ending::Stop { max_lag_bytes } => ("stop", Some(max_lag_bytes)),
    };
    let pairs = |pairs: &[crate::migrate::cluster::Pair]| -> Value {
        pairs.iter().map(|pair| json!({"source": pair.source, "target": pair.target})).collect()
    };
    let databases = match &order.wanted {
        Wanted::One(pair) => pairs(std::slice::from_ref(pair)),
        Wanted::Named(named) => pairs(named),
        Wanted::All { except } => json!({ "all_but": except }),
    };
    json!({
        "source": options.source.describe(),
        "target": options.target.describe(),
        "databases": databases,
        "roles_carried": matches!(order.roles, Roles::Carry(_)),
        "create_databases": order.creation == Creation::Missing,
        "ending": ending,
        "max_lag_bytes": max_lag_bytes,
        "replica_identity_full": options.identity.full == Full::Keyless,
        "insert_only": options.identity.insert_only,
        "filters": options.filters.to_json(),
        "method": match options.method {
            MethodChoice::Auto => "auto",
            MethodChoice::Fallback => "replication_with_dump_fallback",
            MethodChoice::Replication => "replication",
            MethodChoice::Dump => "dump",
        },
        "copy_jobs": options.copy_jobs.get(),
        "apply_lanes": options.apply_lanes.to_string(),
        "index_jobs": options.index_jobs.get(),
        "copy_rate": options.copy_rate,
        "maintenance_work_mem_bytes": options.build_allowance.memory_bytes,
        "max_parallel_maintenance_workers": options.build_allowance.parallel_workers,
        "split_bytes": options.split_bytes,
        "snapshot_max_age": options.snapshot_age_max.map(text::duration),
        "lock_timeout": text::duration(options.lock_timeout),
        "slot_wait": text::duration(options.slot_wait),
        "status_interval": text::duration(options.status_interval),
        "pgbin": options.pgbin,
        "work_dir": options.work_dir,
        "spool": options.spooling != Spooling::Off,
        "spool_max_bytes": match options.spooling {
            Spooling::On { bytes_max } => bytes_max,
            Spooling::Off => None,
        },
        "spool_after_bytes": options.spool_after_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_report_replaces_an_older_one_whole_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.json");
        std::fs::write(&file, "older").unwrap();
        put(&file, "newer").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "newer\n");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing stays beside it");
    }

    #[test]
    fn a_bare_name_is_in_this_folder() {
        assert_eq!(folder(Path::new("report.json")), Path::new("."));
        assert_eq!(folder(Path::new("/a/b")), Path::new("/a"));
    }
}
