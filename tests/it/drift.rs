//! The source's definitions change while it is followed: the stream waits, nothing is lost, and it goes on by itself.

use pgstream::demo::ClusterOptions;

use crate::support::engine::Engine;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, in_step, words};
use crate::support::scenario::{Scenario, source_options, target_options};
use crate::support::{PATIENCE, eventually, http};

/// What is done without the operator.
const ADDITIVE: [&str; 2] = ["--auto-ddl", "additive"];
const QUICK: [&str; 2] = ["--status-interval", "50ms"];
const WAITING: &str = "waiting for the operator";
const FOLLOWS: &str = "SELECT phase = 'following' FROM pgstream.migration";

const TABLES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE t (id int PRIMARY KEY, v text, price numeric(10,2), code varchar(5));
    CREATE TABLE feeling (id int PRIMARY KEY, how mood);
    CREATE TABLE other (id int PRIMARY KEY);
    CREATE TABLE part (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE part_de PARTITION OF part FOR VALUES IN ('de');
    CREATE INDEX part_v ON part (v);
    INSERT INTO t SELECT i, 'row ' || i, i, 'c' FROM generate_series(1, 100) AS i;
    INSERT INTO feeling SELECT i, 'ok' FROM generate_series(1, 10) AS i;
    INSERT INTO part SELECT i, 'de', i FROM generate_series(1, 100) AS i";

/// A migration that follows.
async fn following(name: &str, more: &[&str]) -> (Scenario, Engine) {
    following_with(name, source_options(), more).await
}

async fn following_with(name: &str, source: ClusterOptions, more: &[&str]) -> (Scenario, Engine) {
    let scenario = Scenario::own_with(name, source, target_options()).await;
    scenario.source.execute(TABLES).await;
    let engine = scenario.migrate(&words(&[&QUICK, more]));
    eventually("it follows", async || scenario.target.holds(FOLLOWS).await).await;
    (scenario, engine)
}

/// Lets the engine end, carries on to the very end, and compares everything.
async fn end(scenario: &Scenario, engine: Engine, more: &[&str]) -> serde_json::Value {
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    let result = scenario.stop_replication(more).await.json();
    scenario.assert_moved().await;
    result
}

fn warnings(result: &serde_json::Value) -> String {
    result["warnings"].to_string()
}

#[tokio::test]
async fn an_added_column_waits_for_the_operator_and_goes_on_by_itself() {
    let (scenario, mut engine) = following("added", &[]).await;
    let Scenario { source, target } = &scenario;
    source.execute("INSERT INTO other VALUES (1)").await;
    source.execute("ALTER TABLE t ADD COLUMN \"N c\" int NOT NULL DEFAULT 5").await;
    source.execute("INSERT INTO t VALUES (101, 'new', 1, 'c', 7)").await;
    source.execute("INSERT INTO other VALUES (2)").await;
    let statement = "ALTER TABLE \"public\".\"t\" ADD COLUMN \"N c\" integer DEFAULT 5 NOT NULL";
    engine.wait_for_stderr(statement, PATIENCE).await;
    assert!(engine.stderr_text().contains(WAITING), "{}", engine.stderr_text());
    // What came before is there, what came after is not, and whoever asks is told.
    assert!(target.holds("SELECT array_agg(id) = '{1}' FROM other").await);
    let told = format!("SELECT last_error LIKE '{WAITING}%' FROM pgstream.migration");
    eventually("status tells it", async || target.holds(&told).await).await;
    target.execute(statement).await;
    in_step(&scenario, "the operator's ALTER").await;
    scenario.assert_rows_equal().await;
    end(&scenario, engine, &[]).await;
}

#[tokio::test]
async fn a_wait_can_be_interrupted_and_killed_and_loses_nothing() {
    let (scenario, mut engine) = following("waiting", &[]).await;
    let Scenario { source, target } = &scenario;
    source.execute("ALTER TABLE t ADD COLUMN c int; UPDATE t SET c = id; DELETE FROM t WHERE id = 7").await;
    engine.wait_for_stderr(WAITING, PATIENCE).await;
    engine.interrupt().await;
    let stopped = engine.wait(RUN).await.expect_code(0).json();
    assert_eq!(stopped["databases"][0]["status"], "running", "{stopped}");
    // A goal waits, too.
    let mut engine = scenario.migrate(&CAUGHT_UP);
    engine.wait_for_stderr(WAITING, PATIENCE).await;
    engine.kill().await;
    let mut engine = scenario.migrate(&CAUGHT_UP);
    engine.wait_for_stderr(WAITING, PATIENCE).await;
    target.execute("ALTER TABLE t ADD COLUMN c int").await;
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn additive_ddl_is_done_on_the_target_too() {
    let (scenario, engine) = following("additive", &ADDITIVE).await;
    let Scenario { source, .. } = &scenario;
    let ddl = [
        ("ALTER TABLE t ADD COLUMN five int DEFAULT 5; ALTER TABLE t ALTER five SET DEFAULT 6", "INSERT INTO t (id) VALUES (201)"),
        ("ALTER TABLE t ADD COLUMN at timestamptz NOT NULL DEFAULT now()", "INSERT INTO t (id) VALUES (202)"),
        ("ALTER TABLE t ADD COLUMN empty text COLLATE \"C\"; ALTER TABLE t ALTER empty SET DEFAULT 'late'", "INSERT INTO t (id) VALUES (203)"),
        ("ALTER TABLE t ALTER price TYPE numeric(12,4)", "UPDATE t SET price = 12345678.1234 WHERE id = 1"),
        ("ALTER TABLE t ALTER code TYPE varchar(20)", "UPDATE t SET code = 'longer than five' WHERE id = 2"),
        ("ALTER TABLE t ALTER code TYPE text", "UPDATE t SET code = repeat('x', 30) WHERE id = 3"),
        ("ALTER TABLE t ALTER id TYPE bigint", "INSERT INTO t (id) VALUES (5000000000)"),
        ("ALTER TYPE mood ADD VALUE 'so-so' BEFORE 'ok'", "UPDATE feeling SET how = 'so-so' WHERE id < 5"),
        ("CREATE TYPE size AS ENUM ('s', 'm'); ALTER TABLE other ADD size size", "INSERT INTO other VALUES (1, 'm')"),
        ("ALTER TABLE part ADD COLUMN w text DEFAULT 'it''s'", "INSERT INTO part VALUES (1000, 'de', 1, 'x')"),
        ("CREATE TABLE part_us PARTITION OF part FOR VALUES IN ('us')", "INSERT INTO part SELECT i, 'us', i FROM generate_series(1, 50) AS i"),
        (
            "CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('fi', 'fr') PARTITION BY RANGE (id);
             CREATE TABLE part_eu_low PARTITION OF part_eu FOR VALUES FROM (0) TO (100);
             CREATE TABLE part_rest PARTITION OF part DEFAULT",
            "INSERT INTO part SELECT i, 'fi', i FROM generate_series(1, 50) AS i; INSERT INTO part VALUES (1, 'xx', 1);
             UPDATE part SET region = 'fr' WHERE id = 3 AND region = 'us'; TRUNCATE part_us",
        ),
    ];
    for (ddl, dml) in ddl {
        source.execute(ddl).await;
        source.execute(dml).await;
        in_step(&scenario, ddl).await;
        scenario.assert_rows_equal().await;
    }
    assert!(!engine.stderr_text().contains(WAITING), "{}", engine.stderr_text());
    // A table of its own is not in the stream, and that is said.
    source.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await;
    engine.interrupt().await;
    let result = engine.wait(RUN).await.expect_code(0).json();
    let warnings = warnings(&result);
    assert!(warnings.contains("public.late was made on the source after the migration began"), "{warnings}");
    for said in ["ADD COLUMN", "TYPE bigint", "ADD VALUE 'so-so' AFTER 'sad'", "PARTITION OF"] {
        assert!(warnings.contains(said), "{said}: {warnings}");
    }
    source.execute("DROP TABLE late").await;
    scenario.stop_replication(&ADDITIVE).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn what_a_default_filled_row_by_row_waits() {
    let (scenario, mut engine) = following("volatile", &ADDITIVE).await;
    let Scenario { source, target } = &scenario;
    source
        .execute("ALTER TABLE t ADD COLUMN r float8 DEFAULT random(); INSERT INTO t (id) VALUES (101)")
        .await;
    engine.wait_for_stderr("may have got values that the stream does not carry", PATIENCE).await;
    let filled: Vec<(i32, f64)> = source
        .session()
        .await
        .query("SELECT id, r FROM t WHERE id <= 100", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    let values: Vec<String> = filled.iter().map(|(id, r)| format!("({id}, {r:e})")).collect();
    target
        .execute(&format!(
            "BEGIN; ALTER TABLE t ADD COLUMN r float8 DEFAULT random();
             UPDATE t SET r = v.r FROM (VALUES {}) AS v (id, r) WHERE v.id = t.id; COMMIT",
            values.join(", ")
        ))
        .await;
    in_step(&scenario, "the operator's ALTER").await;
    scenario.assert_rows_equal().await;
    end(&scenario, engine, &ADDITIVE).await;
}

#[tokio::test]
async fn dropped_renamed_and_narrowed_columns_wait() {
    let (scenario, mut engine) = following("narrowed", &ADDITIVE).await;
    let Scenario { source, target } = &scenario;
    let ddl = [
        ("ALTER TABLE t DROP COLUMN v", "ALTER TABLE \"public\".\"t\" DROP COLUMN \"v\""),
        (
            "ALTER TABLE t RENAME code TO word",
            "ALTER TABLE \"public\".\"t\" RENAME COLUMN \"code\" TO \"word\"",
        ),
        (
            "ALTER TABLE t ALTER price TYPE numeric(8,1)",
            "ALTER TABLE \"public\".\"t\" ALTER COLUMN \"price\" TYPE numeric(8,1)",
        ),
        ("ALTER TABLE t RENAME TO renamed", "ALTER TABLE \"public\".\"t\" RENAME TO \"renamed\""),
        (
            "ALTER TABLE renamed ADD COLUMN id2 int DEFAULT 0; UPDATE renamed SET id2 = -id",
            "ALTER TABLE \"public\".\"renamed\" ADD COLUMN \"id2\" integer DEFAULT 0",
        ),
        (
            "ALTER TABLE renamed ALTER id2 SET NOT NULL, DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id2)",
            "ALTER TABLE \"public\".\"renamed\" DROP CONSTRAINT \"t_pkey\", ADD PRIMARY KEY (\"id2\")",
        ),
    ];
    for (position, (ddl, statement)) in ddl.iter().enumerate() {
        source.execute(ddl).await;
        let table = if position < 3 { "t" } else { "renamed" };
        source.execute(&format!("UPDATE {table} SET price = price + 1.5 WHERE id % 2 = 0")).await;
        if position != 4 {
            engine.wait_for_stderr(statement, PATIENCE).await;
            target.execute(statement).await;
        }
        in_step(&scenario, ddl).await;
        scenario.assert_rows_equal().await;
    }
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    // The constraint's name is the operator's.
    target.execute("ALTER INDEX renamed_pkey RENAME TO renamed_pkey1").await;
    source.execute("ALTER INDEX renamed_pkey RENAME TO renamed_pkey1").await;
    scenario.stop_replication(&ADDITIVE).await;
    scenario.assert_rows_equal().await;
}

#[tokio::test]
async fn a_target_that_is_altered_first_takes_the_old_shape_meanwhile() {
    let (scenario, engine) = following("early", &[]).await;
    let Scenario { source, target } = &scenario;
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    source
        .execute(
            "UPDATE t SET v = 'old shape' WHERE id = 1; INSERT INTO t VALUES (300, 'dropped', 1, 'x');
             ALTER TABLE t ADD COLUMN c int DEFAULT 5, ALTER id TYPE bigint, DROP COLUMN v;
             INSERT INTO t (id) VALUES (5000000000)",
        )
        .await;
    target.execute("ALTER TABLE t ADD COLUMN c int DEFAULT 5, ALTER id TYPE bigint, DROP COLUMN v").await;
    scenario.migrate(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_partition_that_was_full_when_it_was_attached_is_copied() {
    let (scenario, engine) = following("attached", &words(&[&ADDITIVE, &FULL])).await;
    let Scenario { source, .. } = &scenario;
    source
        .execute(
            "CREATE TABLE part_se (LIKE part INCLUDING ALL); INSERT INTO part_se SELECT i, 'se', i FROM generate_series(1, 500) AS i;
             ALTER TABLE part ATTACH PARTITION part_se FOR VALUES IN ('se');
             UPDATE part SET v = -v WHERE region = 'se' AND id % 2 = 0; DELETE FROM part WHERE region = 'se' AND id > 400",
        )
        .await;
    in_step(&scenario, "ATTACH PARTITION").await;
    scenario.assert_rows_equal().await;
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    scenario.stop_replication(&words(&[&ADDITIVE, &FULL])).await;
    scenario.assert_rows_equal().await;
}

#[tokio::test]
async fn killed_around_an_alter_of_ours_nothing_is_lost() {
    let (scenario, mut engine) = following("altered", &ADDITIVE).await;
    let Scenario { source, target } = &scenario;
    for round in 0..4 {
        source
            .execute(&format!(
                "ALTER TABLE t ADD COLUMN c{round} int DEFAULT {round};
                 INSERT INTO t (id) SELECT i FROM generate_series(1000 * ({round} + 1), 1000 * ({round} + 1) + 99) AS i"
            ))
            .await;
        let altered = format!(
            "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'c{round}'"
        );
        engine.kill_when(target, &format!("({altered})")).await;
        engine = scenario.migrate(&words(&[&QUICK, &ADDITIVE]));
    }
    in_step(&scenario, "the last ALTER").await;
    scenario.assert_rows_equal().await;
    end(&scenario, engine, &ADDITIVE).await;
}

#[tokio::test]
async fn waiting_is_in_a_metric_and_not_ready() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (scenario, mut engine) = following("metric", &["--metrics-addr", &address]).await;
    scenario.source.execute("ALTER TABLE t ADD COLUMN c int; INSERT INTO t (id) VALUES (900)").await;
    engine.wait_for_stderr(WAITING, PATIENCE).await;
    let ask = |path: &str| http(&address, path);
    assert!(ask("/metrics").contains("pgstream_waiting_for_operator{database=\""), "{}", ask("/metrics"));
    let value = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("pgstream_waiting_for_operator"))
            .map(|line| line.ends_with(" 1"))
    };
    assert_eq!(value(&ask("/metrics")), Some(true));
    assert!(ask("/readyz").contains("waiting for the operator"), "{}", ask("/readyz"));
    scenario.target.execute("ALTER TABLE t ADD COLUMN c int").await;
    in_step(&scenario, "the operator's ALTER").await;
    eventually("it is ready again", async || ask("/readyz").contains("in step")).await;
    assert_eq!(value(&ask("/metrics")), Some(false));
    end(&scenario, engine, &[]).await;
}

#[tokio::test]
async fn a_refused_row_ends_the_run_with_all_that_is_known_of_it() {
    let (scenario, engine) = following("refused", &[]).await;
    scenario.target.execute("ALTER TABLE t ADD CONSTRAINT short CHECK (v <> 'a secret')").await;
    scenario.source.execute("UPDATE t SET v = 'a secret' WHERE id = 7").await;
    let failed = engine.wait(RUN).await.expect_code(1);
    let failure = failed.json().to_string();
    for fact in ["update public.t", "(7)", "(transaction ", "committed at 0/", "23514"] {
        assert!(failure.contains(fact), "{fact}: {failure}");
    }
    assert!(
        !failure.contains("a secret") && !failed.stderr.contains("a secret"),
        "{failure}\n{}",
        failed.stderr
    );
    // Mended, the same command goes on.
    scenario.target.execute("ALTER TABLE t DROP CONSTRAINT short").await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}
