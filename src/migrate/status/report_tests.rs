//! Claims about rates and forecasts.

use super::super::look::{CopyLook, ErrorLook, ProgressLook};
use super::*;
use crate::migrate::state::MigrationId;
use crate::pg::PgTimestamp;
use crate::telemetry::BuildStep;

const MB: u64 = 1 << 20;

fn target(phase: &str) -> TargetLook {
    TargetLook {
        database: "new".to_owned(),
        source_database: "old".to_owned(),
        id: MigrationId::read("0123abcd").unwrap(),
        has_stream: true,
        phase: phase.to_owned(),
        started: "2026-01-01T00:00:00Z".to_owned(),
        phase_since: "2026-01-01T00:00:00Z".to_owned(),
        phase_seconds: 60.0,
        engine: Some(Holder {
            pid: 42,
            application: "pgstream control".to_owned(),
            address: None,
            since: None,
        }),
        error: None,
        copy: CopyLook {
            tables: 4,
            tables_done: 1,
            rows: 10,
            copy_bytes: 50 * MB,
            bytes: 240 * MB,
            bytes_done: 60 * MB,
            bytes_recent: 60 * MB,
        },
        builds: vec![],
        progress: None,
        spool: None,
        parked: vec![],
    }
}

fn applied(at: u64, seconds: i64) -> TargetLook {
    let commit_time = Some(PgTimestamp::from_micros(seconds * 1_000_000));
    let progress = ProgressLook { end_lsn: Lsn::new(at), commit_time, transactions: 5, changes: 7 };
    TargetLook { progress: Some(progress), ..target("following") }
}

fn source(position: u64, seconds: i64) -> SourceLook {
    SourceLook {
        position: Lsn::new(position),
        clock: PgTimestamp::from_micros(seconds * 1_000_000),
        slot: Some(SlotState {
            is_active: true,
            confirmed_flush: None,
            retained_bytes: 3 * MB,
            safe_bytes: Some(100 * MB),
            is_lost: false,
        }),
    }
}

fn look(target: TargetLook, source: SourceLook) -> Look {
    Look { target, source: Some(Ok(source)) }
}

fn alone(target: TargetLook) -> DatabaseStatus {
    report(None, &Look { target, source: None })
}

#[test]
fn a_copy_is_forecast_from_what_was_done_lately() {
    let status = alone(target("copying"));
    assert_eq!(status.bytes_per_second, Some(MB));
    assert_eq!(status.seconds_left, Some(180));
    let late = TargetLook { phase_seconds: 1200.0, ..target("copying") };
    assert_eq!(alone(late).bytes_per_second, Some(MB / 2), "over the window, not over all");
}

#[test]
fn what_stands_still_has_no_forecast() {
    let mut idle = target("copying");
    idle.copy.bytes_recent = 0;
    let status = alone(idle);
    assert_eq!((status.bytes_per_second, status.seconds_left), (Some(0), None));
    let dead = TargetLook { engine: None, ..target("copying") };
    assert_eq!(alone(dead).bytes_per_second, None);
    assert_eq!(alone(target("building")).bytes_per_second, None);
}

#[test]
fn without_the_source_there_is_no_lag_rather_than_none() {
    let status = alone(applied(100, 0));
    assert_eq!((status.lag_bytes, status.lag_seconds, status.slot), (None, None, None));
}

#[test]
fn wal_is_forecast_from_two_looks() {
    let then = look(applied(MB, 0), source(MB, 100));
    let now = look(applied(MB, 0), source(11 * MB, 110));
    let slot = report(Some(&then), &now).slot.unwrap();
    assert_eq!(slot.wal_bytes_per_second, Some(MB));
    assert_eq!(slot.seconds_to_limit, Some(100));
    let once = report(None, &now).slot.unwrap();
    assert_eq!((once.wal_bytes_per_second, once.seconds_to_limit), (None, None));
}

#[test]
fn a_source_that_writes_nothing_reaches_no_limit() {
    let then = look(applied(MB, 0), source(MB, 100));
    let now = look(applied(MB, 0), source(MB, 110));
    assert_eq!(report(Some(&then), &now).slot.unwrap().seconds_to_limit, None);
}

#[test]
fn a_backlog_is_forecast_if_it_shrinks() {
    let then = look(applied(MB, 0), source(100 * MB, 100));
    let now = look(applied(21 * MB, 0), source(110 * MB, 110));
    // Applied 2 MB/s, written 1 MB/s: 89 MB are gone in 89 s.
    assert_eq!(report(Some(&then), &now).seconds_left, Some(89));
    let slow = look(applied(2 * MB, 0), source(110 * MB, 110));
    assert_eq!(report(Some(&then), &slow).seconds_left, None);
}

#[test]
fn lag_counts_from_the_newest_commit_or_the_last_look_that_is_reached() {
    let now = look(applied(100, 50), source(120, 60));
    assert_eq!(report(None, &now).lag_seconds, Some(10.0));
    let then = look(applied(90, 40), source(95, 58));
    assert_eq!(report(Some(&then), &now).lag_seconds, Some(2.0));
    let ahead = look(applied(90, 40), source(110, 58));
    assert_eq!(report(Some(&ahead), &now).lag_seconds, Some(10.0));
}

#[test]
fn an_idle_source_has_no_lag() {
    let mut idle = source(120, 6000);
    idle.slot.as_mut().unwrap().confirmed_flush = Some(Lsn::new(120));
    let status = report(None, &look(applied(100, 50), idle));
    assert_eq!((status.lag_bytes, status.lag_seconds), (Some(0), Some(0.0)));
}

#[test]
fn looks_at_two_migrations_are_not_compared() {
    let mut other = applied(MB, 0);
    other.id = MigrationId::read("89abcdef").unwrap();
    let then = look(other, source(MB, 100));
    let status = report(Some(&then), &look(applied(MB, 0), source(11 * MB, 110)));
    assert_eq!(status.slot.unwrap().wal_bytes_per_second, None);
}

#[test]
fn people_read_one_line_for_each_thing() {
    let mut target = applied(MB, 0);
    let (table, step) = ("app.orders".to_owned(), BuildStep::Scanning);
    target.builds = vec![RunningBuild { table, step, done: 41, total: 100 }];
    target.error = Some(ErrorLook {
        message: "connect: refused\nby all".to_owned(),
        at: "2026-01-01T00:00:00Z".to_owned(),
        seconds_ago: 61.0,
        past: true,
    });
    assert_eq!(
        report(None, &look(target, source(3 * MB, 2))).lines(),
        "old into new: following for 1m 00s, migration 0123abcd\n  \
         engine   pid 42 (pgstream control)\n  \
         tables   1 of 4, 60.0 MB of 240 MB\n  \
         builds   app.orders (scanning 41 %)\n  \
         applied  5 transactions, 7 changes\n  \
         lag      2.00 MB, at most 2.0s\n  \
         slot     pgstream_0123abcd, in use, keeps 3.00 MB of WAL, 100 MB until its limit\n  \
         error    1m 01s ago, gone on since: connect: refused by all\n"
    );
}

#[test]
fn a_lost_slot_is_not_overlooked() {
    let mut lost = source(MB, 0);
    lost.slot.as_mut().unwrap().is_lost = true;
    assert!(report(None, &look(applied(MB, 0), lost)).lines().contains("LOST"));
    let gone = SourceLook { slot: None, ..source(MB, 0) };
    assert!(report(None, &look(applied(MB, 0), gone)).lines().contains("is not there"));
}
