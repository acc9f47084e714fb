//! A backlog applied over lanes by the whole program: killed while they stand apart, run again with other numbers.

use crate::support::eventually;
use crate::support::migration::{FULL, words};
use crate::support::scenario::Scenario;

/// The shape of TPC-B, a table whose rows swap a unique value, and one without a key.
const TABLES: &str = "
    CREATE TABLE branch (bid int PRIMARY KEY, balance int NOT NULL);
    CREATE TABLE account (aid int PRIMARY KEY, bid int, balance int NOT NULL, note text);
    CREATE TABLE history (aid int, delta int);
    CREATE TABLE place (id int PRIMARY KEY, seat int UNIQUE DEFERRABLE);
    INSERT INTO branch SELECT g, 0 FROM generate_series(1, 5) g;
    INSERT INTO account SELECT g, g % 5 + 1, 0, 'x' FROM generate_series(1, 5000) g;
    INSERT INTO place SELECT g, g FROM generate_series(1, 100) g;";

/// 20,000 transactions, some of them barriers: at the beginning, so that groups without one soon follow, and near the
/// end, where changes are spread.
const BACKLOG: &str = "
    DO $$ BEGIN
        SET synchronous_commit = off;
        FOR i IN 1..20000 LOOP
            UPDATE account SET balance = balance + i % 7 WHERE aid = i * 7919 % 5000 + 1;
            UPDATE branch SET balance = balance + i % 7 WHERE bid = i % 5 + 1;
            INSERT INTO history VALUES (i, i % 7);
            IF i IN (17, 3017, 19000) THEN UPDATE place SET seat = 101 - seat WHERE id = i % 100 + 1 OR id = 100 - i % 100; END IF;
            IF i = 5 THEN UPDATE account SET aid = aid + 100000 WHERE aid = i; UPDATE account SET aid = i WHERE aid = i + 100000; END IF;
            IF i = 3000 THEN TRUNCATE history; END IF;
            COMMIT;
        END LOOP;
    END $$";

#[tokio::test]
async fn a_backlog_killed_between_lanes_ends_equal_with_any_number_of_them() {
    let scenario = Scenario::own("lanes").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    let following = "(SELECT phase FROM pgstream.migration) = 'following'";
    scenario.migrate(&FULL).kill_when(target, following).await;
    // The target must be what is waited for, on a busy machine too.
    target.slow_down("account", "balance", 8).await;
    let several = "(SELECT count(*) FROM pgstream.progress) > 1";
    for lanes in ["4", "2", "3"] {
        source.execute_alone(BACKLOG).await;
        let flags = words(&[&FULL, &["--apply-lanes", lanes]]);
        // Its first group waits for a lock until most of what follows has been sent, as much as fits in between: so it
        // is behind.
        let held = target.hold("LOCK account").await;
        let engine = scenario.migrate(&flags);
        let sent = "SELECT count(*) > 0 AND bool_and(pg_current_wal_lsn() - sent_lsn < 4 * 1024 * 1024) FROM pg_stat_replication";
        eventually("most of the backlog is sent", async || source.holds(sent).await).await;
        held.release().await;
        engine.kill_when(target, several).await;
    }
    target.execute("DROP FUNCTION slow CASCADE").await;
    scenario.stop_replication(&words(&[&FULL, &["--apply-lanes", "4"]])).await;
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}
