//! Transactions of every awkward shape, through the stream of a source that sends them before they commit.

use pgstream::demo::ClusterOptions;

use crate::support::eventually;
use crate::support::migration::{FULL, RUN, in_step, words};
use crate::support::scenario::{Scenario, major, source_options, target_options};

const TABLES: &str = r#"
    CREATE TABLE million (id int PRIMARY KEY, v text, w int NOT NULL DEFAULT 0);
    CREATE TABLE parent (id serial PRIMARY KEY, v text);
    CREATE TABLE child (id serial PRIMARY KEY, parent int NOT NULL REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE toasted (id int PRIMARY KEY, v text, small int);
    ALTER TABLE toasted ALTER v SET STORAGE EXTERNAL;
    CREATE TABLE toasted_full (id int, v text, small int);
    ALTER TABLE toasted_full ALTER v SET STORAGE EXTERNAL;
    ALTER TABLE toasted_full REPLICA IDENTITY FULL;
    CREATE TABLE twins (a int, b text, c float8, d json); ALTER TABLE twins REPLICA IDENTITY FULL;
    CREATE TABLE always (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int,
        doubled int GENERATED ALWAYS AS (v * 2) STORED);
    CREATE TABLE always_else (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v int);
    CREATE TABLE animal (id int PRIMARY KEY, name text);
    CREATE TABLE bird (wings int, PRIMARY KEY (id)) INHERITS (animal);
    CREATE TABLE part (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('de', 'fi') PARTITION BY RANGE (id);
    CREATE TABLE part_eu_low PARTITION OF part_eu FOR VALUES FROM (0) TO (100);
    CREATE TABLE part_eu_high (v int, gone int, region text NOT NULL, id int NOT NULL);
    ALTER TABLE part_eu_high DROP COLUMN gone;
    ALTER TABLE part_eu ATTACH PARTITION part_eu_high FOR VALUES FROM (100) TO (MAXVALUE);
    CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us');
    CREATE SCHEMA "Odd ""one""";
    CREATE TABLE "Odd ""one"""."select" ("ID" int PRIMARY KEY, "a.b" text, " " int);
    CREATE TABLE place (id int PRIMARY KEY, seat int NOT NULL UNIQUE,
        rank int NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO million SELECT i, md5(i::text) FROM generate_series(1, 1000) AS i;
    INSERT INTO toasted SELECT i, repeat(md5(i::text), 200), i FROM generate_series(1, 50) AS i;
    INSERT INTO toasted_full SELECT * FROM toasted;
    INSERT INTO twins SELECT i % 3, 'twin', 0.1, '{"a": 1}' FROM generate_series(1, 30) AS i;
    INSERT INTO always (v) SELECT i FROM generate_series(1, 50) AS i;
    INSERT INTO always_else (id, v) SELECT i, i FROM generate_series(1, 50) AS i;
    INSERT INTO animal SELECT i, 'animal' FROM generate_series(1, 20) AS i;
    INSERT INTO bird SELECT i, 'bird', 2 FROM generate_series(1, 20) AS i;
    INSERT INTO part SELECT i, (ARRAY['de', 'fi', 'us'])[1 + i % 3], i FROM generate_series(1, 200) AS i;
    INSERT INTO "Odd ""one"""."select" SELECT i, 'x', i FROM generate_series(1, 20) AS i;
    INSERT INTO place SELECT i, i, i FROM generate_series(1, 20) AS i"#;

/// Each is one transaction.
const TRANSACTIONS: [(&str, &str); 16] = [
    (
        "rolled-back savepoints, nested, around rows that stay",
        "INSERT INTO million SELECT i, 'kept', 1 FROM generate_series(10001, 13000) AS i;
         SAVEPOINT a; INSERT INTO million SELECT i, 'never', 2 FROM generate_series(20001, 23000) AS i;
         SAVEPOINT b; DELETE FROM million WHERE id < 500; ROLLBACK TO a;
         UPDATE million SET w = 3 WHERE id BETWEEN 10001 AND 11000; SAVEPOINT c;
         DELETE FROM million WHERE id BETWEEN 12001 AND 12500; RELEASE c",
    ),
    (
        "TRUNCATE that cascades and restarts, then the same keys again",
        "INSERT INTO parent (v) SELECT 'old' FROM generate_series(1, 100);
         INSERT INTO child (parent) SELECT i FROM generate_series(1, 100) AS i;
         SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE parent RESTART IDENTITY CASCADE;
         INSERT INTO parent (v) SELECT 'new' FROM generate_series(1, 10);
         INSERT INTO child (parent) SELECT i FROM generate_series(1, 10) AS i",
    ),
    ("TRUNCATE of both by name", "TRUNCATE parent, child; INSERT INTO parent (v) VALUES ('after')"),
    (
        "a child before its parent",
        "INSERT INTO child (id, parent) VALUES (1000, 1000); INSERT INTO parent (id, v) VALUES (1000, 'late')",
    ),
    ("unchanged long values", "UPDATE toasted SET small = small + 1; UPDATE toasted_full SET small = small + 1"),
    (
        "keys that change under long values, there and back",
        "UPDATE toasted SET id = id + 1000, small = -1 WHERE id <= 25;
         UPDATE toasted SET small = -2 WHERE id = 1001; UPDATE toasted SET id = id - 1000 WHERE id = 1001;
         UPDATE toasted_full SET id = id + 1000 WHERE id <= 25",
    ),
    (
        "long values that go and come",
        "UPDATE toasted SET v = NULL WHERE id = 30; UPDATE toasted SET v = repeat('y', 9000) WHERE id = 31;
         DELETE FROM toasted WHERE id = 32; INSERT INTO toasted VALUES (32, 'short', 0);
         UPDATE toasted SET small = 7 WHERE id = 32",
    ),
    (
        "one of several equal rows",
        "UPDATE twins SET b = 'single' WHERE ctid = (SELECT min(ctid) FROM twins WHERE a = 1);
         DELETE FROM twins WHERE ctid = (SELECT min(ctid) FROM twins WHERE a = 2);
         INSERT INTO twins VALUES (0, 'twin', 0.1, '{\"a\": 1}'), (NULL, NULL, 'NaN', NULL);
         UPDATE twins SET c = c + 0.2 WHERE a = 0",
    ),
    (
        "identities and generated columns",
        "UPDATE always SET v = v + 1 WHERE id <= 10; INSERT INTO always (v) VALUES (1);
         INSERT INTO always (id, v) OVERRIDING SYSTEM VALUE VALUES (500, 5); UPDATE always SET id = DEFAULT WHERE id = 500;
         UPDATE always_else SET v = -v WHERE id <= 10; UPDATE always_else SET n = DEFAULT WHERE id = 20;
         UPDATE always_else SET id = id + 100 WHERE id = 30; DELETE FROM always_else WHERE id = 31",
    ),
    (
        "parents and children of the same id",
        "UPDATE animal SET name = name || '!' WHERE id <= 5; UPDATE ONLY animal SET name = 'only' WHERE id = 6;
         DELETE FROM ONLY animal WHERE id = 7; DELETE FROM bird WHERE id = 8; UPDATE bird SET wings = 3 WHERE id = 9",
    ),
    (
        "rows that move between partitions of other column orders",
        "UPDATE part SET region = 'us' WHERE id = 3; UPDATE part SET region = 'fi' WHERE region = 'us' AND id > 150;
         UPDATE part SET id = id + 1000 WHERE region = 'de' AND id < 20; DELETE FROM part WHERE id % 7 = 0;
         UPDATE part SET v = -v",
    ),
    (
        "names that must be quoted",
        r#"UPDATE "Odd ""one"""."select" SET "a.b" = 'y', " " = NULL WHERE "ID" <= 5;
           UPDATE "Odd ""one"""."select" SET "ID" = -"ID" WHERE "ID" > 15; DELETE FROM "Odd ""one"""."select" WHERE "ID" = 6"#,
    ),
    (
        "a swap of unique values by way of a third",
        "UPDATE place SET seat = -1 WHERE id = 1; UPDATE place SET seat = 1 WHERE id = 2; UPDATE place SET seat = 2 WHERE id = 1",
    ),
    ("a swap that is checked at commit", "UPDATE place SET rank = 21 - rank"),
    ("a unique value is given up", "UPDATE place SET seat = 100 WHERE id = 5; DELETE FROM place WHERE id = 6"),
    (
        "and taken by others, in the next transaction",
        "UPDATE place SET seat = 5 WHERE id = 7; INSERT INTO place VALUES (6, 6, 1000); UPDATE place SET seat = 7 WHERE id = 5",
    ),
];

/// A source that streams nearly every transaction before its end, where it can stream at all.
fn streaming_soon() -> ClusterOptions {
    let mut options = source_options();
    if major(&options) >= 13 {
        options.settings.push(("logical_decoding_work_mem".to_owned(), "64kB".to_owned()));
    }
    options
}

#[tokio::test]
async fn transactions_of_every_shape_arrive() {
    let scenario = Scenario::own_with("changes", streaming_soon(), target_options()).await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let engine = scenario.migrate(&words(&[&FULL, &["--status-interval", "50ms"]]));
    let following = "SELECT phase = 'following' FROM pgstream.migration";
    eventually("it follows", async || target.holds(following).await).await;
    let session = source.session().await;
    // Each by itself, then all at once: in groups of their own, and together.
    for (what, sql) in TRANSACTIONS {
        session
            .batch_execute(&format!("BEGIN; {sql}; COMMIT"))
            .await
            .unwrap_or_else(|e| panic!("{what}: {e:?}"));
        in_step(&scenario, what).await;
        scenario.assert_rows_equal().await;
    }
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    // A transaction that comes a second time may find its keys taken; then it is one more that is abandoned.
    for (_, sql) in TRANSACTIONS {
        if session.batch_execute(&format!("BEGIN; {sql}; COMMIT")).await.is_err() {
            session.batch_execute("ROLLBACK").await.unwrap();
        }
    }
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_million_row_changes_in_one_transaction_arrive_with_their_savepoints() {
    let scenario = Scenario::own_with("million", streaming_soon(), target_options()).await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let engine = scenario.migrate(&FULL);
    let following = "SELECT phase = 'following' FROM pgstream.migration";
    eventually("it follows", async || target.holds(following).await).await;
    source
        .execute(
            "BEGIN; INSERT INTO million SELECT i, 'million ' || i FROM generate_series(1001, 401000) AS i;
             SAVEPOINT a; DELETE FROM million; ROLLBACK TO a;
             UPDATE million SET w = w + 1 WHERE id <= 200000;
             SAVEPOINT b; INSERT INTO million SELECT i, 'never' FROM generate_series(500001, 600000) AS i; ROLLBACK TO b;
             DELETE FROM million WHERE id % 3 = 0; COMMIT",
        )
        .await;
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
}
