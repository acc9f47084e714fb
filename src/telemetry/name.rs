//! Every metric there is: name, kind, unit, help. Dashboards and alerts depend on these names.

use metrics::Unit;

/// How a metric's value behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows, until the process restarts; its name ends in `_total`.
    Counter,
    /// The value now.
    Gauge,
    /// Observations, counted per upper bound.
    Histogram(&'static [f64]),
}

/// One row of the table of metrics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// The name as Prometheus sees it, unit included.
    pub name: &'static str,
    /// How the value behaves.
    pub kind: Kind,
    /// What is counted, where that is one of the units the ecosystem has a word for.
    pub unit: Option<Unit>,
    /// The HELP line.
    pub help: &'static str,
}

/// Upper bounds for the time that one target transaction takes: a local commit up to a stuck one.
const SECONDS_BOUNDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Upper bounds for changes in one target transaction: a lone update up to a bulk statement.
const CHANGES_BOUNDS: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:expr, $unit:expr, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub(super) const $constant: Metric = Metric { name: $name, kind: $kind, unit: $unit, help: $help };
        )+

        /// Every metric, in the order of the table.
        pub const ALL: &[Metric] = &[$($constant,)+];
    };
}

metrics! {
    PHASE = "pgstream_phase", Kind::Gauge, None,
        "1 for the phase that the database's migration is in, 0 for the others.";
    TABLES = "pgstream_tables", Kind::Gauge, Some(Unit::Count),
        "Tables by how far they have come.";
    COPIED_ROWS = "pgstream_copied_rows_total", Kind::Counter, Some(Unit::Count),
        "Rows copied to the target by COPY.";
    COPIED_BYTES = "pgstream_copied_bytes_total", Kind::Counter, Some(Unit::Bytes),
        "Bytes of COPY data sent to the target.";
    INDEX_BUILDS = "pgstream_index_builds", Kind::Gauge, Some(Unit::Count),
        "Index builds that run on the target (12 and later tell), by what each does now.";
    COPY_LIMIT_BYTES = "pgstream_copy_limit_bytes", Kind::Gauge, Some(Unit::Bytes),
        "COPY data that may pass in a second, by --copy-rate or because standbys lag; 0 without a limit.";
    LAG_BYTES = "pgstream_replication_lag_bytes", Kind::Gauge, Some(Unit::Bytes),
        "WAL between the source's position and each stage of ours.";
    LAG_SECONDS = "pgstream_replication_lag_seconds", Kind::Gauge, Some(Unit::Seconds),
        "Age, by the source's clock, of the newest applied commit; 0 when nothing is left to apply.";
    SLOT_RETAINED_BYTES = "pgstream_slot_retained_bytes", Kind::Gauge, Some(Unit::Bytes),
        "WAL that the source keeps because of our replication slot.";
    SLOT_SAFE_WAL_BYTES = "pgstream_slot_safe_wal_bytes", Kind::Gauge, Some(Unit::Bytes),
        "WAL that may still be written before the source drops our slot; absent when it has no limit.";
    SNAPSHOT_AGE_SECONDS = "pgstream_source_snapshot_age_seconds", Kind::Gauge, Some(Unit::Seconds),
        "Age of the snapshot held open on the source, which keeps VACUUM from removing rows; 0 when none.";
    SPOOL_BYTES = "pgstream_spool_bytes", Kind::Gauge, Some(Unit::Bytes),
        "Changes kept on local disk until they can be applied.";
    SPOOL_FULL = "pgstream_spool_full", Kind::Gauge, None,
        "1 while local disk takes no more changes and the source keeps its WAL for us, else 0.";
    APPLIED_TRANSACTIONS = "pgstream_applied_transactions_total", Kind::Counter, Some(Unit::Count),
        "Source transactions whose changes are committed on the target.";
    APPLIED_CHANGES = "pgstream_applied_changes_total", Kind::Counter, Some(Unit::Count),
        "Row changes and truncated tables committed on the target, as the source sent them.";
    APPLY_GROUP_SECONDS = "pgstream_apply_group_seconds", Kind::Histogram(SECONDS_BOUNDS), Some(Unit::Seconds),
        "Time that one target transaction took, from its first write to its commit.";
    APPLY_GROUP_CHANGES = "pgstream_apply_group_changes", Kind::Histogram(CHANGES_BOUNDS), Some(Unit::Count),
        "Source changes in one target transaction.";
    APPLY_FALLBACKS = "pgstream_apply_fallbacks_total", Kind::Counter, Some(Unit::Count),
        "Batches rolled back and replayed row by row.";
    PARKED_CHANGES = "pgstream_parked_changes_total", Kind::Counter, Some(Unit::Count),
        "Changes parked on the target (--quarantine), because it refuses their row.";
    PARKED_ROWS = "pgstream_parked_rows", Kind::Gauge, Some(Unit::Count),
        "Rows whose changes are parked on the target: it refuses them.";
    WAITING = "pgstream_waiting_for_operator", Kind::Gauge, None,
        "1 while changes wait until the target's definitions are what the source's have become, else 0.";
    HELD_UP = "pgstream_held_up", Kind::Gauge, None,
        "1 while work waits for room on a disk, a free connection, a lock that others hold or lagging standbys, else 0.";
    RECONNECTS = "pgstream_reconnects_total", Kind::Counter, Some(Unit::Count),
        "Connections made again after one broke.";
    ERRORS = "pgstream_errors_total", Kind::Counter, Some(Unit::Count),
        "Errors met, whether work went on or not.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_prometheus_conventions() {
        for metric in ALL {
            assert!(metric.name.starts_with("pgstream_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            let bare = metric.name.trim_end_matches("_total");
            match metric.unit {
                Some(Unit::Bytes) => assert!(bare.ends_with("_bytes"), "{}", metric.name),
                Some(Unit::Seconds) => assert!(bare.ends_with("_seconds"), "{}", metric.name),
                _ => {}
            }
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [SECONDS_BOUNDS, CHANGES_BOUNDS] {
            assert!(bounds.is_sorted_by(|left, right| left < right));
        }
    }
}
