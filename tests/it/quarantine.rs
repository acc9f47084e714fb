//! Rows that the target refuses are parked with all that follows for them, and replayed or given up.

use serde_json::Value;

use crate::support::engine::Engine;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, STOP, in_step, words};
use crate::support::scenario::{Scenario, Side};
use crate::support::{eventually, http};

const PARK: [&str; 2] = ["--quarantine", "park"];
const REPLAY: [&str; 2] = ["--quarantine", "replay"];
const DISCARD: [&str; 2] = ["--quarantine", "discard"];
const QUICK: [&str; 2] = ["--status-interval", "50ms"];
const FOLLOWS: &str = "SELECT phase = 'following' FROM pgstream.migration";
const NONE_PARKED: &str = "SELECT count(*) = 0 FROM pgstream.quarantine";

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v int, place int UNIQUE, words text[], doc text);
    ALTER TABLE t ALTER doc SET STORAGE EXTERNAL;
    CREATE TABLE bare (v int, w text);
    CREATE TABLE other (id int PRIMARY KEY);
    INSERT INTO t SELECT i, i, i, '{a,\"b c\"}', repeat('x', 5000) FROM generate_series(1, 50) AS i;
    INSERT INTO bare SELECT i, 'w' FROM generate_series(1, 5) AS i";

/// What only the target has.
const REFUSE: &str = "
    ALTER TABLE t ADD CONSTRAINT small CHECK (v < 100);
    ALTER TABLE bare ADD CONSTRAINT small CHECK (v < 100)";
const MEND: &str = "ALTER TABLE t DROP CONSTRAINT small; ALTER TABLE bare DROP CONSTRAINT small";

/// A migration that follows, into a target that refuses some rows.
async fn refusing(name: &str, more: &[&str]) -> (Scenario, Engine) {
    let scenario = Scenario::own(name).await;
    scenario.source.execute(TABLES).await;
    let engine = scenario.migrate(&words(&[&QUICK, &FULL, more]));
    eventually("it follows", async || scenario.target.holds(FOLLOWS).await).await;
    scenario.target.execute(REFUSE).await;
    (scenario, engine)
}

async fn end(engine: Engine) -> Value {
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0).json()
}

/// `table rows changes`, as `status` tells.
async fn parked(target: &Side) -> Vec<String> {
    let status =
        Engine::start(["status", "--json", "-t", &target.dsn()]).wait(RUN).await.expect_code(0).json();
    let parked = status["databases"][0]["parked"].as_array().expect("a list").clone();
    parked
        .iter()
        .map(|one| format!("{} {} {}", one["table"].as_str().unwrap(), one["rows"], one["changes"]))
        .collect()
}

#[tokio::test]
async fn a_parked_row_keeps_its_later_changes_until_it_is_replayed() {
    let (scenario, engine) = refusing("parked", &PARK).await;
    let Scenario { source, target } = &scenario;
    for sql in [
        "UPDATE t SET v = 98765432 WHERE id = 7; INSERT INTO other VALUES (1)",
        "UPDATE t SET v = 1 WHERE id = 7; UPDATE t SET words = '{x,NULL,\"it''s\"}' WHERE id = 7",
        "UPDATE t SET v = -v WHERE id < 20",
        // The key moves on, and another row takes it.
        "UPDATE t SET id = 1007 WHERE id = 7; INSERT INTO t VALUES (7, 8, 1007)",
        "INSERT INTO t VALUES (200, 200, 200); INSERT INTO t VALUES (201, 201); DELETE FROM t WHERE id = 201",
        "UPDATE t SET v = 300 WHERE id = 30",
        "DELETE FROM t WHERE id = 30; INSERT INTO other VALUES (2)",
        // A unique value that a parked row gave up is still taken on the target.
        "UPDATE t SET v = 500, place = 1010 WHERE id = 10; INSERT INTO t VALUES (300, 1, 10); UPDATE t SET v = 2 WHERE id = 300",
        // And one that a parked row had for a while is somebody else's when it is replayed.
        "INSERT INTO t VALUES (400, 500, 400)",
        "DELETE FROM t WHERE id = 400; INSERT INTO t VALUES (401, 1, 400)",
        // Without a key the whole row is what waits.
        "INSERT INTO bare VALUES (500, 'w')",
        "UPDATE bare SET v = 6 WHERE v = 500; INSERT INTO bare VALUES (7, 'w')",
    ] {
        source.execute(sql).await;
        in_step(&scenario, sql).await;
    }
    // All others have gone on, and a parked row is as it was before the first refusal.
    assert!(target.holds("SELECT array_agg(id ORDER BY id) = '{1,2}' FROM other").await);
    assert!(target.holds("SELECT v = 7 AND words = '{a,b c}' FROM t WHERE id = 7").await);
    assert!(target.holds("SELECT v = -8 FROM t WHERE id = 8").await);
    assert!(target.holds("SELECT count(*) = 0 FROM t WHERE id IN (1007, 200, 201, 300, 400)").await);
    assert!(target.holds("SELECT count(*) = 2 FROM t WHERE id IN (30, 401)").await);
    assert!(target.holds("SELECT array_agg(v ORDER BY v) = '{1,2,3,4,5,7}' FROM bare").await);
    let facts = "SELECT sqlstate = '23514' AND key = '{\"id\":\"7\"}' AND xid > 0 AND commit_lsn > '0/0' AND kind = 'update'
                   FROM pgstream.quarantine ORDER BY ordinal LIMIT 1";
    assert!(target.holds(facts).await);

    // Killed and begun again, they are known; a change that would go through waits all the same.
    engine.kill().await;
    source.execute("UPDATE t SET v = 3 WHERE id IN (7, 8, 1007)").await;
    let ended = scenario.migrate(&words(&[&CAUGHT_UP, &FULL, &PARK])).wait(RUN).await.expect_code(0);
    assert!(target.holds("SELECT v = 7 FROM t WHERE id = 7").await);
    assert!(target.holds("SELECT v = 3 FROM t WHERE id = 8").await);
    let counted = ["public.bare 1 2", "public.t 7 18"];
    assert_eq!(parked(target).await, counted);
    let warned = ended.json()["warnings"].to_string();
    assert!(warned.contains("table public.t: 7 rows with 18 changes are parked"), "{warned}");
    for value in ["98765432", "it's"] {
        let said = format!("{warned}\n{}", ended.stderr);
        assert!(!said.contains(value), "a value is told: {value}\n{said}");
    }

    // Without the option what is parked still holds back what follows, and nothing ends for good.
    let refused = scenario.migrate(&words(&[&STOP, &FULL])).wait(RUN).await.expect_code(1);
    assert!(refused.stderr.contains("cut over while rows are parked"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--quarantine replay"), "{}", refused.stderr);
    let cleanup = Engine::start(["cleanup", "--json", "-t", &target.dsn()]).wait(RUN).await.expect_code(1);
    assert!(cleanup.stdout.contains("20 changes that the target refuses are parked"), "{}", cleanup.stdout);
    // Nothing is mended: they stay, but for those whose row is as it was or gone. Then they go, in order.
    scenario.migrate(&words(&[&CAUGHT_UP, &FULL, &REPLAY])).wait(RUN).await.expect_code(0);
    assert!(!target.holds(NONE_PARKED).await);
    target.execute(MEND).await;
    let replayed = scenario.migrate(&words(&[&CAUGHT_UP, &FULL, &REPLAY])).wait(RUN).await.expect_code(0);
    assert!(target.holds(NONE_PARKED).await, "{}", replayed.stderr);
    scenario.assert_rows_equal().await;
    scenario.stop_replication(&FULL).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn truncate_frees_a_parked_row_and_discard_gives_it_up() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let (scenario, engine) = refusing("given_up", &words(&[&PARK, &["--metrics-addr", &address]])).await;
    let Scenario { source, target } = &scenario;
    let measured = async |rows: u64, changes: u64| {
        let wanted = [("pgstream_parked_rows", rows), ("pgstream_parked_changes_total", changes)];
        eventually("it is measured", async || {
            let text = http(&address, "/metrics");
            let is_so = |(name, value): &(&str, u64)| {
                text.lines().any(|line| line.starts_with(name) && line.ends_with(&format!(" {value}")))
            };
            wanted.iter().all(is_so)
        })
        .await;
    };
    measured(0, 0).await;
    source.execute("UPDATE t SET v = 500 WHERE id = 7; UPDATE t SET v = 501 WHERE id IN (7, 9)").await;
    in_step(&scenario, "refused rows").await;
    assert_eq!(parked(target).await, ["public.t 2 3"]);
    measured(2, 3).await;
    source.execute("TRUNCATE t; INSERT INTO t VALUES (7, 7), (8, 8); UPDATE t SET v = 70 WHERE id = 7").await;
    in_step(&scenario, "TRUNCATE").await;
    assert!(target.holds(NONE_PARKED).await);
    scenario.assert_rows_equal().await;
    source.execute("UPDATE t SET v = 500 WHERE id = 8").await;
    in_step(&scenario, "another refused row").await;
    let ended = end(engine).await;
    assert!(
        ended["warnings"].to_string().contains("table public.t: 1 rows with 1 changes are parked"),
        "{ended}"
    );
    source.execute("UPDATE t SET v = 8 WHERE id = 8").await;
    let ended = scenario.stop_replication(&words(&[&FULL, &DISCARD])).await.json();
    assert!(ended["warnings"].to_string().contains("1 rows with 1 changes were given up"), "{ended}");
    target.execute(MEND).await;
    scenario.assert_moved().await;
}

/// The shape of TPC-B.
const BANK: &str = "
    CREATE TABLE branch (bid int PRIMARY KEY, balance int NOT NULL);
    CREATE TABLE account (aid int PRIMARY KEY, bid int, balance int NOT NULL, note text);
    CREATE TABLE history (aid int, delta int);
    INSERT INTO branch SELECT g, 0 FROM generate_series(1, 5) g;
    INSERT INTO account SELECT g, g % 5 + 1, 0, 'x' FROM generate_series(1, 5000) g";

fn backlog(transactions: u32, also: &str) -> String {
    format!(
        "DO $$ BEGIN
            SET synchronous_commit = off;
            FOR i IN 1..{transactions} LOOP
                UPDATE account SET balance = balance + i % 7 WHERE aid = i * 7919 % 5000 + 1;
                UPDATE branch SET balance = balance + i % 7 WHERE bid = i % 5 + 1;
                INSERT INTO history VALUES (i, i % 7);
                {also}
                COMMIT;
            END LOOP;
        END $$"
    )
}

const REFUSED: &str = "IF i % 500 = 3 THEN UPDATE account SET note = 'refused' WHERE aid = i; END IF;";

#[tokio::test]
async fn killed_while_rows_are_refused_and_lanes_stand_apart_each_change_is_parked_once() {
    let scenario = Scenario::own("bank").await;
    let Scenario { source, target } = &scenario;
    source.execute(BANK).await;
    let flags = words(&[&FULL, &["--apply-lanes", "4"], &PARK]);
    scenario.migrate(&flags).kill_when(target, "(SELECT phase FROM pgstream.migration) = 'following'").await;
    target.slow_down("account", "balance", 10).await;
    source.execute_alone(&backlog(20_000, "")).await;
    // Its first group waits for a lock until all that follows has been sent: so it is behind.
    let held = target.hold("LOCK account").await;
    let engine = scenario.migrate(&flags);
    let sent = "SELECT count(*) > 0 AND bool_and(sent_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication";
    eventually("the backlog is sent", async || source.holds(sent).await).await;
    held.release().await;
    // Where few large groups do, they may be through without having parted.
    let apart = "(SELECT count(*) > 1 OR sum(transactions) >= 20000 FROM pgstream.progress)";
    engine.kill_when(target, apart).await;
    target.execute("DROP FUNCTION slow CASCADE").await;
    target.execute("ALTER TABLE account ADD CONSTRAINT poor CHECK (note <> 'refused')").await;
    source.execute_alone(&backlog(5_000, REFUSED)).await;
    for refused in [1, 4, 10] {
        let rows = format!("(SELECT count(DISTINCT chain) FROM pgstream.quarantine) >= {refused}");
        scenario.migrate(&flags).kill_when(target, &rows).await;
    }
    // By itself this would go through, and be overtaken by what is parked.
    source.execute("UPDATE account SET note = 'x', balance = balance + 1 WHERE aid % 500 = 3").await;
    let ended = scenario.migrate(&words(&[&CAUGHT_UP, &flags])).wait(RUN).await.expect_code(0).json();
    assert!(ended["warnings"].to_string().contains("table public.account: 10 rows"), "{ended}");
    let once = "SELECT count(*) = count(DISTINCT (commit_lsn, key)) FROM pgstream.quarantine";
    assert!(target.holds(once).await, "a change is parked twice");
    let refused = "SELECT sum(balance) FROM account WHERE aid % 500 = 3";
    assert!(target.value::<i64>(refused).await < source.value::<i64>(refused).await);
    // Everybody else's changes are there, once.
    for sum in [
        "SELECT sum(balance) FROM branch",
        "SELECT sum(delta) FROM history",
        "SELECT sum(balance) FROM account WHERE aid % 500 <> 3",
    ] {
        assert_eq!(source.value::<i64>(sum).await, target.value::<i64>(sum).await, "{sum}");
    }
    target.execute("ALTER TABLE account DROP CONSTRAINT poor").await;
    scenario.stop_replication(&words(&[&FULL, &REPLAY])).await;
    scenario.assert_moved().await;
}
