//! What real databases hold and tidy ones do not.

use crate::support::eventually;
use crate::support::migration::{FULL, in_step, words};
use crate::support::scenario::Scenario;

const FOLLOWING: &str = "SELECT phase = 'following' FROM pgstream.migration";

/// As with earthdistance, whose own functions and domain name `cube`'s without a schema (P58).
#[tokio::test]
async fn functions_that_rely_on_the_search_path_are_lent_the_sources() {
    let scenario = Scenario::own("path").await;
    let Scenario { source, target } = &scenario;
    // Since 17 every server builds indexes under a search_path of its own.
    let old = source.major() < 17 && target.major() < 17;
    let index = if old { "CREATE UNIQUE INDEX ON app.twin (key(v))" } else { "" };
    source
        .execute(&format!(
            "CREATE SCHEMA app; ALTER DATABASE {} SET search_path = app, public;
             CREATE FUNCTION app.fold(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower($1); END';
             CREATE FUNCTION app.key(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN fold($1); END';
             SET search_path = app, public;
             CREATE DOMAIN app.word AS text CHECK (key(VALUE) <> 'never');
             CREATE TABLE app.checked (id int PRIMARY KEY, v text CHECK (key(v) <> 'never'));
             CREATE TABLE app.domained (id int PRIMARY KEY, v app.word);
             CREATE TABLE app.seat (id int PRIMARY KEY, n int UNIQUE); INSERT INTO app.seat VALUES (1, 1), (2, 2);
             CREATE TABLE app.twin (id int PRIMARY KEY, v text); {index};
             CREATE UNLOGGED TABLE app.unlogged (id int PRIMARY KEY, v text CHECK (key(v) <> 'never'));
             INSERT INTO app.checked SELECT i, 'V' || i FROM generate_series(1, 100) AS i;
             INSERT INTO app.domained TABLE app.checked;
             INSERT INTO app.twin TABLE app.checked; INSERT INTO app.unlogged TABLE app.checked",
            source.dbname
        ))
        .await;
    let before = source.footprint().await;
    // Not told to follow by itself: what it applies must not wait for a rerun.
    let engine = scenario.migrate(&words(&[&FULL, &["--status-interval", "50ms"]]));
    eventually("it follows", async || target.holds(FOLLOWING).await).await;
    // The swap makes the group go row by row, and only then does a function not find what it names.
    let swap = "SET search_path = app, public; BEGIN;
        UPDATE app.seat SET n = -1 WHERE id = 1; UPDATE app.seat SET n = 1 WHERE id = 2;
        UPDATE app.seat SET n = 2 WHERE id = 1; UPDATE app.checked SET v = v || 'y' WHERE id = 60; COMMIT";
    source.execute(swap).await;
    in_step(&scenario, "a swap").await;
    for table in ["checked", "domained", "twin"] {
        source
            .execute(&format!(
                "SET search_path = app, public;
                 UPDATE app.{table} SET v = v || 'x' WHERE id <= 50; DELETE FROM app.{table} WHERE id > 90;
                 INSERT INTO app.{table} SELECT i, 'new' || i FROM generate_series(91, 120) AS i"
            ))
            .await;
        in_step(&scenario, table).await;
    }
    engine.interrupt().await;
    engine.wait(crate::support::migration::RUN).await.expect_code(0);
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

/// The stream of a PostgreSQL 10 does not tell of TRUNCATE (P41); of every later one it does.
#[tokio::test]
async fn a_truncated_table_arrives_whole_also_if_the_stream_does_not_tell() {
    let scenario = Scenario::own("truncated").await;
    let Scenario { source, target } = &scenario;
    source
        .execute(
            "CREATE TABLE again (id int PRIMARY KEY, v text); INSERT INTO again SELECT i FROM generate_series(1, 50) AS i;
             CREATE TABLE child (id int PRIMARY KEY, again int REFERENCES again);
             CREATE TABLE quietly (id int PRIMARY KEY); INSERT INTO quietly VALUES (1), (2);
             CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1)",
        )
        .await;
    let engine = scenario.migrate(&["--status-interval", "50ms"]);
    eventually("it follows", async || target.holds(FOLLOWING).await).await;
    for round in 0..2 {
        source
            .execute(&format!(
                "TRUNCATE again CASCADE; INSERT INTO again SELECT i, 'round {round}' FROM generate_series(1, 20) AS i;
                 INSERT INTO child SELECT i, i FROM generate_series(1, 10) AS i;
                 UPDATE again SET v = 'changed' WHERE id = 7; INSERT INTO kept VALUES (10 + {round})"
            ))
            .await;
        in_step(&scenario, "a TRUNCATE").await;
    }
    engine.interrupt().await;
    engine.wait(crate::support::migration::RUN).await.expect_code(0);
    source.execute("TRUNCATE quietly").await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}
