//! Changes spread over lanes: whatever stands between them, and wherever they are stopped, the end is the source's.

use std::num::NonZeroU8;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgstream::apply::{Applier, ApplyLanes, ApplyOptions, GroupBounds};
use pgstream::demo::{Cluster, ClusterOptions};
use pgstream::error::{ErrorKind, describe};
use pgstream::replication::StreamItem;

use super::stage::{Stage, Values};

const TABLES: &str = "
    CREATE TABLE account (id int PRIMARY KEY, balance int, note text);
    CREATE TABLE tenant (tenant uuid, at timestamptz, n numeric, PRIMARY KEY (tenant, at));
    CREATE TABLE place (id int PRIMARY KEY, seat int NOT NULL UNIQUE);
    CREATE TABLE booking (during int4range, EXCLUDE USING gist (during WITH &&));
    CREATE TABLE spelled (k numeric PRIMARY KEY, v int);
    CREATE TABLE history (account int, delta int);
    CREATE TABLE log (line text); ALTER TABLE log REPLICA IDENTITY FULL;
    CREATE TABLE booking_log (id bigint PRIMARY KEY);
    ALTER TABLE booking REPLICA IDENTITY FULL";

/// Some hundred transactions of every kind: spread, whole tables, swaps, new keys, TRUNCATE.
async fn work(stage: &Stage, round: i32) {
    let base = round * 1_000;
    stage
        .run(&format!("INSERT INTO account SELECT {base} + g, 0, 'new' FROM generate_series(1, 200) g"))
        .await;
    stage
        .run(&format!("INSERT INTO place SELECT {base} + g, {base} + g FROM generate_series(1, 20) g"))
        .await;
    let mut sql = String::new();
    for turn in 0..60 {
        let (a, b) = (base + 1 + turn * 3 % 200, base + 1 + turn * 7 % 200);
        sql += &format!(
            "BEGIN; UPDATE account SET balance = balance + {turn} WHERE id = {a};
             UPDATE account SET balance = balance - {turn}, note = 'turn {turn}' WHERE id = {b};
             INSERT INTO history VALUES ({a}, {turn}); INSERT INTO log VALUES ('turn {turn}'); COMMIT;
             INSERT INTO tenant VALUES (md5('{a}')::uuid, '2026-01-01'::timestamptz + {base} * '1h'::interval
                 + {turn} * '1s'::interval, {turn});
             UPDATE account SET balance = balance + 1 WHERE id = {};
             UPDATE tenant SET n = n + 1 WHERE tenant = md5('{b}')::uuid;",
            1 + turn * 3 % 200
        );
        sql += &match turn % 20 {
            3 => format!(
                "BEGIN; UPDATE place SET seat = -seat WHERE id > {base};
                 UPDATE place SET seat = {} + seat WHERE id > {base}; COMMIT;",
                2 * base + 21
            ),
            5 => format!(
                "DELETE FROM spelled; INSERT INTO spelled VALUES ({base}.0, 1);
                 DELETE FROM spelled; INSERT INTO spelled VALUES ({base}.00, 2);"
            ),
            7 => format!(
                "DELETE FROM account WHERE id = {}; INSERT INTO account VALUES ({}, 1, 'again');",
                base + 100 + turn,
                base + 100 + turn
            ),
            11 => format!("UPDATE account SET id = id + 500 WHERE id = {};", base + 150 + turn % 40),
            13 => format!("DELETE FROM booking; INSERT INTO booking VALUES ('[{turn},{})');", turn + 5),
            17 if turn > 40 => "TRUNCATE history, log; INSERT INTO log VALUES ('emptied');".to_owned(),
            _ => String::new(),
        };
    }
    stage.source.batch_execute("SET synchronous_commit = off").await.unwrap();
    for statement in sql.split_inclusive(';') {
        stage.run(statement).await;
    }
    // A commit on disk takes all before it there: the stream ends where the source has flushed.
    stage.run("SET synchronous_commit = on").await;
    stage.run("INSERT INTO log VALUES ('the end')").await;
}

/// Small groups, so that the stream lags at once.
async fn options(stage: &Stage, lanes: u8) -> ApplyOptions {
    let mut options = stage.options().await;
    options.lanes = ApplyLanes::Fixed(NonZeroU8::new(lanes).unwrap());
    options.bounds = GroupBounds { changes: 3, ..GroupBounds::default() };
    options
}

async fn lanes(stage: &Stage) -> Vec<String> {
    let sql = "SELECT end_lsn::text FROM pgstream.progress ORDER BY lane";
    stage.target.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_end_where_the_source_is_and_leave_one_row() {
    for values in [Values::Text, Values::Binary] {
        let stage = Stage::with(TABLES, TABLES, values).await;
        for round in 0..2 {
            work(&stage, round).await;
        }
        let items = stage.items().await;
        let applier = Applier::start(options(&stage, 4).await).await.unwrap();
        let stats = applier.stats();
        for some in items.chunks(50) {
            // Refused only when the applier has failed; finishing it tells why.
            let _ = applier.input().send(some.to_vec()).await;
        }
        let end = applier.finish().await.unwrap();
        stage.assert_equal().await;
        assert!(stats.shares.load(Ordering::Relaxed) > 3, "changes were spread: {stats:?}");
        assert_eq!(lanes(&stage).await.len(), 1);
        assert_eq!(end.watermark.confirmed(), end.watermark.received());
        let all: i64 = stage
            .target
            .query_one("SELECT sum(transactions)::int8 FROM pgstream.progress", &[])
            .await
            .unwrap()
            .get(0);
        assert_eq!(all.unsigned_abs(), stats.transactions.load(Ordering::Relaxed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lanes_that_were_stopped_apart_are_brought_together_by_any_number() {
    let stage = Stage::new(TABLES).await;
    let mut items: Vec<StreamItem> = Vec::new();
    let mut apart = 0;
    work(&stage, 0).await;
    stage.apply().await;
    for (round, lanes_now) in (1..).zip([4, 1, 3, 5, 2]) {
        work(&stage, round).await;
        items.extend(stage.items().await);
        // One row is held: its lane stays behind, the others go on for as long as they can.
        stage.target.batch_execute("BEGIN; SELECT FROM account WHERE id = 151 FOR UPDATE").await.unwrap();
        let applier = Applier::start(options(&stage, lanes_now).await).await.unwrap();
        let input = applier.input();
        let all = items.clone();
        let feeding = tokio::spawn(async move {
            for some in all.chunks(50) {
                if input.send(some.to_vec()).await.is_err() {
                    break;
                }
            }
        });
        // Until nothing moves any more.
        let (mut before, mut still) = (Vec::new(), 0);
        while still < 10 {
            tokio::time::sleep(Duration::from_millis(25)).await;
            let now = lanes(&stage).await;
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        applier.abort();
        feeding.abort();
        stage.target.batch_execute("ROLLBACK").await.unwrap();
        stage.quiet().await;
        let ends = lanes(&stage).await;
        apart += usize::from(ends.iter().any(|end| *end != ends[0]));
    }
    assert!(apart > 0, "lanes were never apart");
    for lanes_now in [1, 4] {
        let applier = Applier::start(options(&stage, lanes_now).await).await.unwrap();
        for some in items.chunks(50) {
            let _ = applier.input().send(some.to_vec()).await;
        }
        applier.finish().await.unwrap();
        stage.assert_equal().await;
        assert_eq!(lanes(&stage).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_a_crash_of_the_target() {
    let settings = [("wal_writer_delay", "10s"), ("checkpoint_timeout", "1h")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let server = Cluster::start(ClusterOptions { settings, ..ClusterOptions::default() }).await.unwrap();
    let mut stage = Stage::on(server, TABLES, TABLES, Values::Text).await;
    work(&stage, 0).await;
    let items = stage.items().await;
    let applier = Applier::start(options(&stage, 4).await).await.unwrap();
    // Nothing can be made durable while somebody else holds the row that is written for it.
    let holder = stage.beside().await;
    holder.batch_execute("BEGIN; SELECT FROM pgstream.stream FOR UPDATE").await.unwrap();
    let mut positions = applier.positions();
    let start = positions.borrow().watermark.confirmed();
    for some in items.chunks(50) {
        applier.input().send(some.to_vec()).await.unwrap();
    }
    let end = positions.borrow().watermark.received();
    tokio::select! {
        moved = positions.wait_for(|now| now.watermark.applied() >= end) => drop(moved.unwrap()),
        error = applier.failed() => panic!("{}", describe(&error)),
    }
    assert_eq!(applier.positions().borrow().watermark.confirmed(), start);
    stage.crash().await;
    let error = applier.failed().await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", describe(&error));
    assert_eq!(applier.positions().borrow().watermark.confirmed(), start);
    drop(applier);
    stage.quiet().await;
    // What is there is whole; what is not comes again.
    stage.apply_items(items).await.unwrap();
    stage.assert_equal().await;
}
