//! Recording: typed handles over the table of metrics.
//!
//! Hazard: histogram samples wait in memory until somebody drains them. So live metrics are made only by
//! the exporter, which drains them whether anyone scrapes or not; without an exporter there is
//! [`Metrics::off`], which records nothing. There is no global recorder.
//!
//! Counters start at zero with every label value they can have, so that `rate()` sees the first increment.
//! A gauge is absent until it is known: a lag that nobody measured yet must not read as zero.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};

use super::label::{BuildStep, ChangeKind, FallbackReason, Obstacle, Phase, Stage, TableState};
use super::name::{self, Kind, Metric};
use crate::error::{ErrorKind, Side};

const METADATA: Metadata<'static> = Metadata::new("pgstream", Level::INFO, None);

/// Every metric of this process; a cheap clone of one recorder, or of none.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    recorder: Option<Arc<PrometheusRecorder>>,
}

impl Metrics {
    /// Records nothing and costs nothing.
    #[must_use]
    pub fn off() -> Metrics {
        Metrics { recorder: None }
    }

    /// A recorder that knows every metric of the table. Whoever makes one calls [`Metrics::upkeep`] for ever.
    pub(super) fn on() -> Result<Metrics, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in name::ALL {
            if let Kind::Histogram(bounds) = metric.kind {
                builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
            }
        }
        let recorder = builder.build_recorder();
        for metric in name::ALL {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, metric.unit, help),
                Kind::Gauge => recorder.describe_gauge(name, metric.unit, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, metric.unit, help),
            }
        }
        let metrics = Metrics { recorder: Some(Arc::new(recorder)) };
        for kind in ErrorKind::ALL {
            metrics.errors(kind).increment(0);
        }
        Ok(metrics)
    }

    /// The handles of one database, by its name on the source.
    #[must_use]
    pub fn database(&self, database: &str) -> DatabaseMetrics {
        DatabaseMetrics::new(self.clone(), database)
    }

    /// Counts an error, where it is handled.
    pub fn error(&self, kind: ErrorKind) {
        self.errors(kind).increment(1);
    }

    /// Everything recorded so far, in Prometheus' text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.recorder.as_ref().map(|recorder| recorder.handle().render()).unwrap_or_default()
    }

    /// Moves waiting histogram samples into their buckets.
    pub(super) fn upkeep(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.handle().run_upkeep();
        }
    }

    fn errors(&self, kind: ErrorKind) -> Counter {
        self.counter(&name::ERRORS, vec![Label::new("kind", kind.label())])
    }

    fn counter(&self, metric: &Metric, labels: Vec<Label>) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter);
        self.recorder.as_ref().map_or_else(Counter::noop, |recorder| {
            recorder.register_counter(&Key::from_parts(metric.name, labels), &METADATA)
        })
    }

    fn gauge(&self, metric: &Metric, labels: Vec<Label>) -> Gauge {
        debug_assert_eq!(metric.kind, Kind::Gauge);
        self.recorder.as_ref().map_or_else(Gauge::noop, |recorder| {
            recorder.register_gauge(&Key::from_parts(metric.name, labels), &METADATA)
        })
    }

    fn histogram(&self, metric: &Metric, labels: Vec<Label>) -> Histogram {
        debug_assert!(matches!(metric.kind, Kind::Histogram(_)));
        self.recorder.as_ref().map_or_else(Histogram::noop, |recorder| {
            recorder.register_histogram(&Key::from_parts(metric.name, labels), &METADATA)
        })
    }
}

/// One committed target transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyGroup {
    /// Changes in it, as the source sent them.
    pub changes: u64,
    /// From its first write to its commit.
    pub elapsed: Duration,
}

/// The handles of one database. Callers add what a batch did; nothing here is called per row.
#[derive(Debug, Clone)]
pub struct DatabaseMetrics {
    metrics: Metrics,
    database: Label,
    copied_rows: Counter,
    copied_bytes: Counter,
    transactions: Counter,
    group_seconds: Histogram,
    group_changes: Histogram,
}

impl DatabaseMetrics {
    fn new(metrics: Metrics, database: &str) -> DatabaseMetrics {
        let label = Label::new("database", database.to_owned());
        let alone = || vec![label.clone()];
        let handles = DatabaseMetrics {
            copied_rows: metrics.counter(&name::COPIED_ROWS, alone()),
            copied_bytes: metrics.counter(&name::COPIED_BYTES, alone()),
            transactions: metrics.counter(&name::APPLIED_TRANSACTIONS, alone()),
            group_seconds: metrics.histogram(&name::APPLY_GROUP_SECONDS, alone()),
            group_changes: metrics.histogram(&name::APPLY_GROUP_CHANGES, alone()),
            database: label.clone(),
            metrics,
        };
        handles.parked_changes(0);
        for kind in ChangeKind::ALL {
            handles.applied_changes(*kind, 0);
        }
        for reason in FallbackReason::ALL {
            handles.counter(&name::APPLY_FALLBACKS, "reason", reason.label()).increment(0);
        }
        for side in Side::ALL {
            handles.counter(&name::RECONNECTS, "side", side.label()).increment(0);
        }
        handles
    }

    /// Enters a phase: it reads 1 from now on, every other one 0.
    pub fn phase(&self, current: Phase) {
        for phase in Phase::ALL {
            let value = if *phase == current { 1.0 } else { 0.0 };
            self.gauge(&name::PHASE, &[("phase", phase.label())]).set(value);
        }
    }

    /// Sets how many tables are in a state.
    pub fn tables(&self, state: TableState, count: u64) {
        self.gauge(&name::TABLES, &[("state", state.label())]).set(approximate(count));
    }

    /// Adds rows that COPY put into the target.
    pub fn copied_rows(&self, rows: u64) {
        self.copied_rows.increment(rows);
    }

    /// Adds bytes of COPY data.
    pub fn copied_bytes(&self, bytes: u64) {
        self.copied_bytes.increment(bytes);
    }

    /// Sets how many index builds are at a step.
    pub fn index_builds(&self, step: BuildStep, count: u64) {
        self.gauge(&name::INDEX_BUILDS, &[("step", step.label())]).set(approximate(count));
    }

    /// Whether anybody can see what is recorded.
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.metrics.recorder.is_some()
    }

    /// Sets what may be copied in a second.
    pub fn copy_limit(&self, bytes: Option<NonZeroU64>) {
        self.gauge(&name::COPY_LIMIT_BYTES, &[]).set(approximate(bytes.map_or(0, NonZeroU64::get)));
    }

    /// Sets the WAL between the source's position and a stage of ours.
    pub fn lag_bytes(&self, stage: Stage, bytes: u64) {
        self.gauge(&name::LAG_BYTES, &[("stage", stage.label())]).set(approximate(bytes));
    }

    /// Sets the lag in time, by the source's clock alone (P95); zero when nothing is left to apply.
    pub fn lag_seconds(&self, lag: Duration) {
        self.gauge(&name::LAG_SECONDS, &[]).set(lag.as_secs_f64());
    }

    /// Sets the WAL that the source keeps because of our slot (P16).
    pub fn slot_retained_bytes(&self, bytes: u64) {
        self.gauge(&name::SLOT_RETAINED_BYTES, &[]).set(approximate(bytes));
    }

    /// Sets `pg_replication_slots.safe_wal_size` (13+), which is NULL, and then not given here, when the slot
    /// has no limit, and negative when the slot is about to be lost (P16).
    pub fn slot_safe_wal_bytes(&self, bytes: i64) {
        let magnitude = approximate(bytes.unsigned_abs());
        let value = if bytes < 0 { -magnitude } else { magnitude };
        self.gauge(&name::SLOT_SAFE_WAL_BYTES, &[]).set(value);
    }

    /// Sets the age of the snapshot held on the source (P14); zero once it is released.
    pub fn snapshot_age(&self, age: Duration) {
        self.gauge(&name::SNAPSHOT_AGE_SECONDS, &[]).set(age.as_secs_f64());
    }

    /// Sets the size of the spool on local disk.
    pub fn spool_bytes(&self, bytes: u64) {
        self.gauge(&name::SPOOL_BYTES, &[]).set(approximate(bytes));
    }

    /// Says whether the spool takes no more for now.
    pub fn spool_full(&self, full: bool) {
        self.gauge(&name::SPOOL_FULL, &[]).set(if full { 1.0 } else { 0.0 });
    }

    /// Adds source transactions committed on the target.
    pub fn applied_transactions(&self, transactions: u64) {
        self.transactions.increment(transactions);
    }

    /// Adds changes of one kind committed on the target.
    pub fn applied_changes(&self, kind: ChangeKind, changes: u64) {
        self.counter(&name::APPLIED_CHANGES, "kind", kind.label()).increment(changes);
    }

    /// Observes one committed target transaction.
    pub fn apply_group(&self, group: ApplyGroup) {
        self.group_seconds.record(group.elapsed.as_secs_f64());
        self.group_changes.record(approximate(group.changes));
    }

    /// Counts a batch that was replayed row by row.
    pub fn apply_fallback(&self, reason: FallbackReason) {
        self.counter(&name::APPLY_FALLBACKS, "reason", reason.label()).increment(1);
    }

    /// Adds changes that were parked.
    pub fn parked_changes(&self, changes: u64) {
        self.metrics.counter(&name::PARKED_CHANGES, vec![self.database.clone()]).increment(changes);
    }

    /// Sets how many rows are parked.
    pub fn parked_rows(&self, rows: u64) {
        self.gauge(&name::PARKED_ROWS, &[]).set(approximate(rows));
    }

    /// Sets whether changes wait for the operator.
    pub fn waiting_for_operator(&self, waits: bool) {
        self.gauge(&name::WAITING, &[]).set(if waits { 1.0 } else { 0.0 });
    }

    /// Sets whether work waits for an obstacle to pass.
    pub fn held_up(&self, by: Obstacle, waits: bool) {
        self.gauge(&name::HELD_UP, &[("by", by.label())]).set(if waits { 1.0 } else { 0.0 });
    }

    /// Counts an error after which work goes on; one that ends the run is counted by [`Metrics::error`].
    pub fn survived(&self, kind: ErrorKind) {
        self.metrics.error(kind);
    }

    /// Counts a connection made again.
    pub fn reconnected(&self, side: Side) {
        self.counter(&name::RECONNECTS, "side", side.label()).increment(1);
    }

    fn counter(&self, metric: &Metric, key: &'static str, value: &'static str) -> Counter {
        self.metrics.counter(metric, vec![self.database.clone(), Label::new(key, value)])
    }

    fn gauge(&self, metric: &Metric, labels: &[(&'static str, &'static str)]) -> Gauge {
        let further = labels.iter().map(|(key, value)| Label::new(*key, *value));
        self.metrics.gauge(metric, std::iter::once(self.database.clone()).chain(further).collect())
    }
}

/// Prometheus knows only floats: exact up to 2^53, and within one part in 2^53 above.
#[allow(clippy::cast_precision_loss)]
fn approximate(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of one metric, HELP and TYPE left out, sorted.
    fn lines(text: &str, metric: &Metric) -> Vec<String> {
        let mut lines: Vec<String> =
            text.lines().filter(|line| line.starts_with(metric.name)).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn only_the_current_phase_reads_one() {
        let metrics = Metrics::on().unwrap();
        let database = metrics.database("shop");
        database.phase(Phase::Copying);
        database.phase(Phase::Following);
        let lines = lines(&metrics.render(), &name::PHASE);
        assert_eq!(lines.len(), Phase::ALL.len());
        let ones: Vec<&String> = lines.iter().filter(|line| line.ends_with(" 1")).collect();
        assert_eq!(ones, ["pgstream_phase{database=\"shop\",phase=\"following\"} 1"]);
    }

    #[test]
    fn counters_start_at_zero_and_gauges_absent() {
        let metrics = Metrics::on().unwrap();
        let _ = metrics.database("shop");
        let text = metrics.render();
        for metric in name::ALL {
            let present = !lines(&text, metric).is_empty();
            assert_eq!(present, metric.kind != Kind::Gauge, "{}", metric.name);
        }
        assert!(text.contains("pgstream_applied_changes_total{database=\"shop\",kind=\"truncate\"} 0"));
        assert!(text.contains("pgstream_errors_total{kind=\"drift\"} 0"));
    }

    #[test]
    fn batches_add_up_and_databases_stay_apart() {
        let metrics = Metrics::on().unwrap();
        let (one, two) = (metrics.database("one"), metrics.database("two"));
        one.copied_bytes(10);
        one.clone().copied_bytes(5);
        two.copied_bytes(7);
        metrics.error(ErrorKind::Connect);
        let text = metrics.render();
        assert!(text.contains("pgstream_copied_bytes_total{database=\"one\"} 15"));
        assert!(text.contains("pgstream_copied_bytes_total{database=\"two\"} 7"));
        assert!(text.contains("pgstream_errors_total{kind=\"connect\"} 1"));
    }

    #[test]
    fn groups_fall_into_buckets() {
        let metrics = Metrics::on().unwrap();
        let database = metrics.database("shop");
        database.apply_group(ApplyGroup { changes: 250, elapsed: Duration::from_millis(30) });
        metrics.upkeep();
        let text = metrics.render();
        for line in [
            "pgstream_apply_group_changes_bucket{database=\"shop\",le=\"100\"} 0",
            "pgstream_apply_group_changes_bucket{database=\"shop\",le=\"1000\"} 1",
            "pgstream_apply_group_seconds_bucket{database=\"shop\",le=\"0.025\"} 0",
            "pgstream_apply_group_seconds_bucket{database=\"shop\",le=\"0.05\"} 1",
            "pgstream_apply_group_seconds_count{database=\"shop\"} 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_hostile_database_name_stays_inside_its_label() {
        let metrics = Metrics::on().unwrap();
        metrics.database("a\"b\nc\\").copied_rows(1);
        assert!(metrics.render().contains("pgstream_copied_rows_total{database=\"a\\\"b\\nc\\\\\"} 1"));
    }

    #[test]
    fn off_records_nothing() {
        let metrics = Metrics::off();
        metrics.database("shop").phase(Phase::Copying);
        assert_eq!(metrics.render(), "");
    }
}
