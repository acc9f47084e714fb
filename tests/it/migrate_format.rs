//! Changes come in binary where both ends read it, and in text where a column or a moment does not allow it.

use crate::support::eventually;
use crate::support::migration::{FULL, RUN, in_step, words};
use crate::support::scenario::{Scenario, source_options, target_options};

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TYPE pair AS (a int, moods mood[]);
    CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[], p pair, ps pair[], n numeric);
    INSERT INTO t SELECT g, 'ok', '{sad,ok}', ROW(g, '{ok}'::mood[])::pair, ARRAY[ROW(g, NULL)::pair], g FROM generate_series(1, 500) g";
const CHANGE: &str = "
    UPDATE t SET ms = ms || m, n = n + 1, p = ROW(0, (p).moods)::pair WHERE id <= 200;
    INSERT INTO t SELECT max(id) + 1, 'sad', '{}', NULL, '{}', 'NaN' FROM t;
    DELETE FROM t WHERE id = (SELECT min(id) FROM t)";
/// A type of the same name takes the place of another; nothing in the catalogs tells of the other any more.
const OTHER_TYPE: &str = "
    ALTER TYPE mood RENAME TO mood_before; CREATE TYPE mood AS ENUM ('sad', 'ok');
    ALTER TABLE t ALTER m TYPE mood USING m::text::mood, ALTER ms TYPE mood[] USING ms::text::mood[]";
const IN_BINARY: &str = "format=Binary";
const IN_TEXT: &str = "format=Text";
const AGAIN: &str = "the stream begins again in another format";

async fn follows(scenario: &Scenario) {
    let following = "SELECT phase = 'following' FROM pgstream.migration";
    eventually("it follows", async || scenario.target.holds(following).await).await;
}

#[tokio::test]
async fn a_type_that_came_while_following_is_read_once_it_is_known() {
    let scenario = Scenario::own_with("format_live", source_options(), target_options()).await;
    scenario.source.execute(TABLES).await;
    let engine = scenario.migrate(&words(&[&FULL, &["--status-interval", "50ms"]]));
    follows(&scenario).await;
    for sql in [CHANGE, OTHER_TYPE, CHANGE] {
        scenario.source.execute(sql).await;
        in_step(&scenario, sql).await;
        scenario.assert_rows_equal().await;
    }
    engine.interrupt().await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    if scenario.source.major() >= 14 {
        assert!(outcome.stderr.contains(AGAIN), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains(IN_TEXT), "{}", outcome.stderr);
    }
    scenario.stop_replication(&FULL).await;
    scenario.assert_rows_equal().await;
}

#[tokio::test]
async fn a_type_that_is_gone_by_now_makes_the_stream_text() {
    let scenario = Scenario::own_with("format_past", source_options(), target_options()).await;
    scenario.source.execute(TABLES).await;
    let engine = scenario.migrate(&FULL);
    follows(&scenario).await;
    scenario.source.execute(CHANGE).await;
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    for sql in [CHANGE, OTHER_TYPE, CHANGE] {
        scenario.source.execute(sql).await;
    }
    let outcome = scenario.stop_replication(&FULL).await;
    scenario.assert_rows_equal().await;
    if scenario.source.major() >= 14 {
        assert!(outcome.stderr.contains(AGAIN), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(IN_TEXT), "{}", outcome.stderr);
    }
}

#[tokio::test]
async fn one_column_of_oids_makes_the_stream_text_and_is_named() {
    let scenario = Scenario::own_with("format_oid", source_options(), target_options()).await;
    scenario.source.execute(TABLES).await;
    scenario
        .source
        .execute("CREATE TABLE of_oids (id int PRIMARY KEY, \"the type\" regtype, o oid); INSERT INTO of_oids VALUES (1, 'mood', 1)")
        .await;
    let engine = scenario.migrate(&words(&[&FULL, &["--status-interval", "50ms"]]));
    follows(&scenario).await;
    scenario.source.execute(CHANGE).await;
    scenario.source.execute("UPDATE of_oids SET o = 2; INSERT INTO of_oids VALUES (2, 'mood[]', 3)").await;
    in_step(&scenario, "changes").await;
    engine.interrupt().await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
    assert!(!outcome.stderr.contains(IN_BINARY), "{}", outcome.stderr);
    if scenario.source.major() >= 14 {
        let named = outcome.stderr.lines().find(|line| line.contains("changes come as text"));
        let named = named.unwrap_or_else(|| panic!("{}", outcome.stderr));
        assert!(named.contains("public.of_oids") && named.contains("the type"), "{named}");
    }
}
