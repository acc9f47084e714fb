//! From looks to what is told: rates, shares and forecasts. Pure.
//!
//! Hazard: a rate that was not measured must not look like zero, nor a forecast like a promise. What is not
//! known is absent.

use std::time::Duration;

use serde::Serialize;

use super::look::{Look, SourceLook, TargetLook, WINDOW_SECONDS};
use crate::apply::ParkedTable;
use crate::migrate::lock::Holder;
use crate::pg::Lsn;
use crate::replication::SlotState;
use crate::telemetry::{Phase, RunningBuild, text};

/// Done, of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Share {
    /// So much is done.
    pub done: u64,
    /// Of so much.
    pub total: u64,
}

/// What the slot keeps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// Whether it is there at all.
    pub exists: bool,
    /// Whether a walsender uses it.
    pub active: bool,
    /// Whether its WAL is gone, and the migration with it.
    pub lost: bool,
    /// WAL kept back, in bytes.
    pub retained_bytes: u64,
    /// WAL that may still be written before the slot is lost; absent when there is no limit.
    pub safe_bytes: Option<u64>,
    /// What the source writes, in bytes per second, between two looks.
    pub wal_bytes_per_second: Option<u64>,
    /// Until the slot is lost at that rate if nothing is confirmed.
    pub seconds_to_limit: Option<u64>,
}

/// Changes that wait on local disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpoolStatus {
    /// The machine.
    pub host: String,
    /// Where they are there.
    pub directory: String,
    /// How much they take; absent on another machine.
    pub bytes: Option<u64>,
}

/// Rows of a table that the target refuses, and what has changed them since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedStatus {
    /// Its schema and name.
    pub table: String,
    /// How many rows.
    pub rows: u64,
    /// How many changes wait.
    pub changes: u64,
}

/// What ended an attempt last.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LastError {
    /// What we were doing, and every cause.
    pub message: String,
    /// When, UTC.
    pub at: String,
    /// How long ago.
    pub seconds_ago: u64,
    /// Whether the migration has gone on since.
    pub past: bool,
}

/// How far one migration is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabaseStatus {
    /// The database on the target.
    pub database: String,
    /// The database on the source.
    pub source_database: String,
    /// The migration's id.
    pub migration: String,
    /// Its phase.
    pub phase: String,
    /// Since when, UTC.
    pub phase_since: String,
    /// For how long.
    pub phase_seconds: u64,
    /// When it began, UTC.
    pub started: String,
    /// The engine at work; absent when none is.
    pub engine: Option<Holder>,
    /// Tables copied.
    pub tables: Share,
    /// Bytes copied, as the tables lie on the source's disk.
    pub bytes: Share,
    /// Builds that run on the target now.
    pub builds: Vec<RunningBuild>,
    /// Rows copied.
    pub rows_copied: u64,
    /// Bytes of COPY data.
    pub bytes_copied: u64,
    /// The present rate of copying, of [`DatabaseStatus::bytes`].
    pub bytes_per_second: Option<u64>,
    /// Until all is copied or, after that, caught up with, at present rates.
    pub seconds_left: Option<u64>,
    /// Source transactions applied.
    pub transactions_applied: u64,
    /// Changes in them.
    pub changes_applied: u64,
    /// WAL of the source that is not on the target yet.
    pub lag_bytes: Option<u64>,
    /// How old what is missing may be, at most.
    pub lag_seconds: Option<f64>,
    /// The slot, if the source was asked.
    pub slot: Option<SlotStatus>,
    /// Changes that the source was told are safe and the target does not have yet, if there are such.
    pub spool: Option<SpoolStatus>,
    /// What the target refuses and was parked there.
    pub parked: Vec<ParkedStatus>,
    /// What ended an attempt last.
    pub last_error: Option<LastError>,
    /// Why the source could not be asked.
    pub source_error: Option<String>,
}

/// Concludes from one look, or from two of the same migration.
#[must_use]
pub fn report(before: Option<&Look>, now: &Look) -> DatabaseStatus {
    let Look { target, source } = now;
    let before = before.filter(|before| before.target.id == target.id);
    let known = |look: &'_ Look| look.source.as_ref().and_then(|source| source.as_ref().ok()).cloned();
    let (earlier, source_now) = (before.and_then(known), known(now));
    let copy = target.copy;
    let bytes_per_second = copying_rate(target);
    let mut status = DatabaseStatus {
        database: target.database.clone(),
        source_database: target.source_database.clone(),
        migration: target.id.as_str().to_owned(),
        phase: target.phase.clone(),
        phase_since: target.phase_since.clone(),
        phase_seconds: whole(target.phase_seconds),
        started: target.started.clone(),
        engine: target.engine.clone(),
        tables: Share { done: copy.tables_done, total: copy.tables },
        bytes: Share { done: copy.bytes_done, total: copy.bytes },
        builds: target.builds.clone(),
        rows_copied: copy.rows,
        bytes_copied: copy.copy_bytes,
        bytes_per_second,
        seconds_left: bytes_per_second
            .filter(|rate| *rate > 0)
            .map(|rate| copy.bytes.saturating_sub(copy.bytes_done).div_ceil(rate)),
        transactions_applied: target.progress.map_or(0, |progress| progress.transactions),
        changes_applied: target.progress.map_or(0, |progress| progress.changes),
        lag_bytes: None,
        lag_seconds: None,
        slot: None,
        spool: target.spool.as_ref().map(|spool| SpoolStatus {
            host: spool.host.clone(),
            directory: spool.directory.display().to_string(),
            bytes: spool.bytes,
        }),
        parked: target.parked.iter().map(ParkedStatus::of).collect(),
        last_error: target.error.as_ref().map(|error| LastError {
            message: error.message.clone(),
            at: error.at.clone(),
            seconds_ago: whole(error.seconds_ago),
            past: error.past,
        }),
        source_error: source.as_ref().and_then(|source| source.as_ref().err()).cloned(),
    };
    let Some(source) = source_now else { return status };
    let position = reached(target, &source);
    let rates = earlier
        .zip(before)
        .and_then(|(earlier, before)| Rates::between(&earlier, &before.target, &source, target));
    status.lag_bytes = position.map(|position| position.distance_to(source.position));
    status.lag_seconds = lag_seconds(before.and_then(known).as_ref(), target, &source);
    if is_following(target)
        && let (Some(lag), Some(rates)) = (status.lag_bytes, &rates)
    {
        let gained = rates.applied - rates.written;
        status.seconds_left = match lag {
            0 => Some(0),
            #[allow(clippy::cast_precision_loss)] // a forecast
            lag => (gained > 0.0).then(|| whole(lag as f64 / gained)),
        };
    }
    status.slot = Some(slot(target, source.slot.as_ref(), rates.map(|rates| rates.written)));
    status
}

/// Whether changes are applied in this phase.
fn is_following(target: &TargetLook) -> bool {
    matches!(target.phase.as_str(), "catching_up" | "following")
}

/// Bytes per second over the window; `None` unless rows are being copied.
#[allow(clippy::cast_precision_loss)] // a rate
fn copying_rate(target: &TargetLook) -> Option<u64> {
    let is_copying = target.phase == "copying" && target.engine.is_some();
    let seconds = WINDOW_SECONDS.min(target.phase_seconds).max(1.0);
    is_copying.then(|| whole(target.copy.bytes_recent as f64 / seconds))
}

/// Up to where the target has everything: what it applied last, or, when nothing came since, what was confirmed.
/// That may rest on a spool, and then says nothing of the target.
fn reached(target: &TargetLook, source: &SourceLook) -> Option<Lsn> {
    let applied = target.progress.map(|progress| progress.end_lsn)?;
    let slot = source.slot.as_ref().filter(|_| target.spool.is_none());
    let confirmed = slot.and_then(|slot| slot.confirmed_flush);
    Some(confirmed.map_or(applied, |confirmed| confirmed.max(applied)))
}

/// How old what is missing may be. By the source's clock alone (P95): what is missing was committed after the
/// newest commit applied, and after an earlier look whose position is reached by now.
fn lag_seconds(earlier: Option<&SourceLook>, target: &TargetLook, source: &SourceLook) -> Option<f64> {
    let position = reached(target, source)?;
    if position >= source.position {
        return Some(0.0);
    }
    let looked = earlier.filter(|earlier| earlier.position <= position).map(|earlier| earlier.clock);
    let applied = target.progress.and_then(|progress| progress.commit_time);
    Some(source.clock.since(looked.max(applied)?).as_secs_f64())
}

/// Bytes of WAL per second, between two looks.
struct Rates {
    written: f64,
    applied: f64,
}

impl Rates {
    #[allow(clippy::cast_precision_loss)] // rates
    fn between(
        earlier: &SourceLook,
        target_then: &TargetLook,
        source: &SourceLook,
        target: &TargetLook,
    ) -> Option<Rates> {
        let seconds = source.clock.since(earlier.clock).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let rate = |from: Lsn, to: Lsn| from.distance_to(to) as f64 / seconds;
        Some(Rates {
            written: rate(earlier.position, source.position),
            applied: rate(reached(target_then, earlier)?, reached(target, source)?),
        })
    }
}

fn slot(target: &TargetLook, state: Option<&SlotState>, written: Option<f64>) -> SlotStatus {
    #[allow(clippy::cast_precision_loss)] // a forecast
    let to_limit =
        |safe: u64| written.filter(|written| *written >= 1.0).map(|written| whole(safe as f64 / written));
    SlotStatus {
        name: target.slot().to_string(),
        exists: state.is_some(),
        active: state.is_some_and(|state| state.is_active),
        lost: state.is_some_and(|state| state.is_lost),
        retained_bytes: state.map_or(0, |state| state.retained_bytes),
        safe_bytes: state.and_then(|state| state.safe_bytes),
        wal_bytes_per_second: written.map(whole),
        seconds_to_limit: state.and_then(|state| state.safe_bytes).and_then(to_limit),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // beyond u64 nothing is meant
fn whole(number: f64) -> u64 {
    number.max(0.0).round() as u64
}

impl DatabaseStatus {
    /// For people: a headline, then a line for each thing that is known. Ends in a line break.
    #[must_use]
    pub fn lines(&self) -> String {
        let time = |seconds: u64| text::duration(Duration::from_secs(seconds));
        let name = match self.source_database == self.database {
            true => self.database.clone(),
            false => format!("{} into {}", self.source_database, self.database),
        };
        let phase = self.phase.replace('_', " ");
        let mut lines =
            vec![format!("{name}: {phase} for {}, migration {}", time(self.phase_seconds), self.migration)];
        lines.push(match &self.engine {
            Some(engine) => format!("  engine   {engine}"),
            None if self.phase == Phase::CutOver.label() => {
                "  engine   none is needed; the records stay until all databases of the command are complete"
                    .to_owned()
            }
            None => "  engine   none is at work; the same `pgstream migrate` goes on from here".to_owned(),
        });
        if self.tables.total > 0 {
            let mut line = format!(
                "  tables   {} of {}, {} of {}",
                text::count(self.tables.done),
                text::count(self.tables.total),
                text::bytes(self.bytes.done),
                text::bytes(self.bytes.total)
            );
            if let Some(rate) = self.bytes_per_second {
                line += &format!(", {}/s", text::bytes(rate));
            }
            lines.push(line);
        }
        if let Some(builds) = text::first_few(self.builds.iter().map(ToString::to_string)) {
            lines.push(format!("  builds   {builds}"));
        }
        if self.transactions_applied > 0 {
            let transactions = text::counted(self.transactions_applied, "transaction");
            lines.push(format!(
                "  applied  {transactions}, {}",
                text::counted(self.changes_applied, "change")
            ));
        }
        if let Some(bytes) = self.lag_bytes {
            let age =
                self.lag_seconds.map(|seconds| text::duration(Duration::from_secs_f64(seconds.max(0.0))));
            lines.push(format!(
                "  lag      {}{}",
                text::bytes(bytes),
                age.map(|age| format!(", at most {age}")).unwrap_or_default()
            ));
        }
        if let Some(left) = self.seconds_left.filter(|left| *left > 0) {
            lines.push(format!("  left     about {} at this rate", time(left)));
        }
        lines.extend(self.slot.as_ref().map(SlotStatus::line));
        if let Some(SpoolStatus { host, directory, bytes }) = &self.spool {
            let amount =
                bytes.map_or("changes".to_owned(), |bytes| format!("{} of changes", text::bytes(bytes)));
            lines.push(format!("  spool    {amount} in {directory} on {host}"));
        }
        for ParkedStatus { table, rows, changes } in &self.parked {
            let (rows, changes) = (text::counted(*rows, "row"), text::counted(*changes, "change"));
            lines.push(format!(
                "  parked   {rows} of {table}, {changes}: see pgstream.quarantine on the target"
            ));
        }
        if let Some(error) = &self.last_error {
            let since = if error.past { ", gone on since" } else { "" };
            lines.push(format!("  error    {} ago{since}: {}", time(error.seconds_ago), error.message));
        }
        lines.extend(self.source_error.as_ref().map(|error| format!("  source   {error}")));
        lines.iter().map(|line| text::printable(line).into_owned() + "\n").collect()
    }
}

impl ParkedStatus {
    fn of(ParkedTable { table, rows, changes }: &ParkedTable) -> ParkedStatus {
        ParkedStatus { table: table.plain(), rows: *rows, changes: *changes }
    }
}

impl SlotStatus {
    fn line(&self) -> String {
        let name = &self.name;
        match self {
            SlotStatus { exists: false, .. } => format!("  slot     {name} is not there"),
            SlotStatus { lost: true, .. } => {
                format!("  slot     {name} is LOST: its WAL is gone, and the migration must begin anew")
            }
            SlotStatus { active, retained_bytes, safe_bytes, seconds_to_limit, .. } => {
                let used = if *active { "in use" } else { "not in use" };
                let kept = text::bytes(*retained_bytes);
                let limit = match (safe_bytes, seconds_to_limit) {
                    (None, _) => String::new(),
                    (Some(safe), None) => format!(", {} until its limit", text::bytes(*safe)),
                    (Some(safe), Some(seconds)) => format!(
                        ", {} until its limit, in about {}",
                        text::bytes(*safe),
                        text::duration(Duration::from_secs(*seconds))
                    ),
                };
                format!("  slot     {name}, {used}, keeps {kept} of WAL{limit}")
            }
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
