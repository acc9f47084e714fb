//! Things happen in the middle of a table: a connection is cut, the snapshot is lost, the table changes under the
//! copy. It goes on, begins anew or ends in one clear error; a table is never shorter than its source.

use std::time::Duration;

use crate::support::engine::Engine;
use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, STOP, words};
use crate::support::scenario::{Scenario, Side, source_options, target_options};

/// A table of about 60 MB whose rows the engine loads slowly, in three parts of about a second: more than all
/// buffers on the way hold, so that a part that is cut is in full flow.
const TABLE: &str = "
    CREATE FUNCTION slowly(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF $1 % 20 = 0 AND pg_catalog.current_setting('application_name') = 'pgstream load' THEN
            PERFORM pg_catalog.pg_sleep(0.008);
        END IF;
        RETURN true; END $$;
    CREATE TABLE cut (id int PRIMARY KEY, n int, v text, CHECK (slowly(id)));
    ALTER TABLE cut ALTER v SET STORAGE EXTERNAL;
    INSERT INTO cut SELECT i, i, repeat(md5(i::text), 256) FROM generate_series(1, 7500) AS i";
const PARTS: [&str; 4] = ["--split-tables-larger-than", "20MB", "--copy-jobs", "1"];
/// The transaction that brought the first row: another one if that was copied again.
const FIRST: &str = "SELECT xmin::text FROM public.cut WHERE id = 1";
const SOME: &str = "SELECT count(*) > 0 FROM public.cut";
const SOURCE_LOST: &str = "going on under a new snapshot";

/// A part under way, and what is there before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Loading {
    /// The session that loads it.
    pid: i32,
    rows: i64,
}

/// Waits until a part is loaded beyond those that are there, by another session than `before`.
async fn loading(target: &Side, before: Option<Loading>) -> Loading {
    eventually("a part is there", async || target.holds(SOME).await).await;
    let pid = "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE application_name = 'pgstream load'
                   AND query LIKE 'COPY %' AND state = 'active' AND datname = current_database()";
    let mut found = 0;
    let what = "the next part is being loaded";
    eventually(what, async || {
        found = target.value(pid).await;
        found != 0 && before.is_none_or(|before| before.pid != found)
    })
    .await;
    Loading { pid: found, rows: target.value("SELECT count(*) FROM public.cut").await }
}

#[tokio::test]
async fn a_connection_cut_in_full_flow_costs_its_part_and_the_keeper_the_table() {
    let scenario = Scenario::own("cut").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLE).await;
    let before = source.footprint().await;
    let engine = scenario.migrate(&words(&[&CAUGHT_UP, &PARTS]));
    let whole = loading(target, None).await;
    let first: String = target.value(FIRST).await;
    source.execute("UPDATE cut SET n = -n WHERE id % 3 = 0; INSERT INTO cut VALUES (9000, 0, 'new')").await;
    assert!(source.terminate("copy").await > 0);
    let again = loading(target, Some(whole)).await;
    assert!(target.terminate("load").await > 0);
    let once_more = loading(target, Some(again)).await;
    assert_eq!([again.rows, once_more.rows], [whole.rows; 2], "nothing of the part that was cut is there");
    assert_eq!(target.value::<String>(FIRST).await, first);
    source.execute("DELETE FROM cut WHERE id % 7 = 1").await;
    assert!(source.terminate("keeper").await > 0);
    let outcome = engine.wait(RUN).await.expect_code(0);
    let broke = |line: &&str| line.contains("copy of a part broke off") && !line.contains("snapshot");
    assert_eq!(outcome.stderr.lines().filter(broke).count(), 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(SOURCE_LOST), "{}", outcome.stderr);
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_table_rewritten_between_two_of_its_parts_is_copied_anew() {
    let scenario = Scenario::own("rewritten_part").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLE).await;
    let before = source.footprint().await;
    let engine = scenario.migrate(&words(&[&CAUGHT_UP, &PARTS]));
    loading(target, None).await;
    let first: String = target.value(FIRST).await;
    // Each waits for the part that is under way, and the next part waits for it.
    source.execute("ALTER TABLE cut ALTER n TYPE int USING n + 1000").await;
    let anew = format!("SELECT xmin::text <> '{first}' FROM public.cut WHERE id = 1");
    eventually("it is copied anew", async || target.holds(&anew).await).await;
    loading(target, None).await;
    // What is left is small enough to be copied whole.
    source.execute("TRUNCATE cut; INSERT INTO cut SELECT i, i, 'few' FROM generate_series(1, 9) AS i").await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    let put_off = outcome.stderr.matches("rewritten meanwhile, copied anew: public.cut").count();
    assert_eq!(put_off, 2, "{}", outcome.stderr);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM cut").await, 9);
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_table_dropped_between_two_of_its_parts_is_one_clear_error() {
    let scenario = Scenario::own("dropped_part").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLE).await;
    let engine = scenario.migrate(&words(&[&STOP, &PARTS]));
    loading(target, None).await;
    source.execute("DROP TABLE cut").await;
    let outcome = engine.wait(RUN).await.expect_code(1);
    let error = &outcome.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("public.cut"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("dropped on the source"), "{error}");
    // Nobody may take what is there for the table.
    let copied = target.copied_tables().await;
    assert!(copied.is_empty(), "{copied:?}");
    assert_eq!(source.slots().await, 0);
}

/// What operators set for roles of applications, and what would end or refuse our work (P53, P90).
async fn strict_role(side: &Side) {
    let mut settings = vec![
        ("statement_timeout", "100ms"),
        ("lock_timeout", "20ms"),
        ("idle_in_transaction_session_timeout", "100ms"),
        ("default_transaction_read_only", "on"),
        ("row_security", "on"),
        ("search_path", "nowhere"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
    ];
    if side.major() >= 14 {
        settings.push(("idle_session_timeout", "100ms"));
    }
    if side.major() >= 17 {
        settings.push(("transaction_timeout", "100ms"));
    }
    side.execute("CREATE ROLE strict SUPERUSER LOGIN").await;
    for (name, value) in settings {
        side.execute(&format!("ALTER ROLE strict SET {name} = '{value}'")).await;
    }
}

#[tokio::test]
async fn timeouts_and_refusals_set_for_our_role_at_either_end_touch_nothing_of_ours() {
    let scenario = Scenario::own_with("strict", source_options(), target_options()).await;
    let Scenario { source, target } = &scenario;
    strict_role(source).await;
    strict_role(target).await;
    source.execute(TABLE).await;
    // An index and a foreign key that take longer than all timeouts.
    source
        .execute(
            "CREATE FUNCTION pause(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
                 IF $1 % 1000 = 0 THEN PERFORM pg_catalog.pg_sleep(0.1); END IF; RETURN $1; END $$;
             CREATE TABLE child (id int PRIMARY KEY, cut int REFERENCES cut);
             INSERT INTO child SELECT i, i FROM generate_series(1, 7500) AS i;
             CREATE INDEX ON cut (pause(id));
             ALTER TABLE cut ENABLE ROW LEVEL SECURITY; ALTER TABLE cut FORCE ROW LEVEL SECURITY;
             CREATE POLICY few ON cut USING (id < 10)",
        )
        .await;
    let before = source.footprint().await;
    let as_strict = |side: &Side| format!("{} user=strict", side.dsn());
    let words = words(&[&STOP, &FULL, &PARTS]);
    let engine: Engine = crate::support::migration::migrate(&as_strict(source), &as_strict(target), &words);
    // Where connections are idle for longer than they may be.
    loading(target, None).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}
