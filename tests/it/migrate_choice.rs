//! What the operator may choose or has to live with: tables without a key, a target without superuser,
//! neighbours that write, an interrupt.

use crate::support::eventually;
use crate::support::migration::{CAUGHT_UP, FULL, RUN, STOP, words};
use crate::support::scenario::Scenario;

const FOLLOWING: &str = "SELECT phase = 'following' FROM pgstream.migration";

#[tokio::test]
async fn identities_are_full_only_as_long_as_the_migration_lasts() {
    let scenario = Scenario::own("identities").await;
    let Scenario { source, .. } = &scenario;
    source
        .execute(
            "CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1), (1), (NULL);
             CREATE TABLE nothing (v int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE TABLE by_index (v int NOT NULL); CREATE UNIQUE INDEX i ON by_index (v);
             ALTER TABLE by_index REPLICA IDENTITY USING INDEX i;
             INSERT INTO nothing VALUES (1), (2); INSERT INTO by_index VALUES (1), (2)",
        )
        .await;
    let before = source.footprint().await;
    let identities = "SELECT string_agg(relreplident::text, '' ORDER BY relname) FROM pg_class
        WHERE relname IN ('keyless', 'nothing', 'by_index')";

    scenario.migrate(&CAUGHT_UP).wait(RUN).await.expect_code(3);
    scenario.assert_source_clean(&before).await;

    let writer = source.hold("CREATE TABLE undone ()").await;
    let published = "SELECT count(*) > 0 FROM pg_publication";
    scenario.migrate(&words(&[&CAUGHT_UP, &FULL])).kill_when(source, published).await;
    writer.release().await;
    scenario.migrate(&words(&[&CAUGHT_UP, &FULL])).wait(RUN).await.expect_code(0);
    assert_eq!(source.value::<String>(identities).await, "iff");
    source
        .execute("UPDATE keyless SET v = 2 WHERE v = 1; DELETE FROM nothing WHERE v = 1; UPDATE by_index SET v = v + 7")
        .await;
    scenario.stop_replication(&FULL).await;
    assert_eq!(source.value::<String>(identities).await, "idn");
    scenario.assert_source_clean(&before).await;
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_table_that_only_grows_needs_no_identity_and_a_skipped_one_stays_behind() {
    let scenario = Scenario::own("lists").await;
    let Scenario { source, target } = &scenario;
    source
        .execute(
            "CREATE TABLE log (line text); INSERT INTO log VALUES ('one');
             CREATE TABLE huge (id int PRIMARY KEY, v text); INSERT INTO huge VALUES (1, 'left');
             CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1)",
        )
        .await;
    let before = source.footprint().await;
    let lists = ["--insert-only", "public.log", "--skip-table", "public.huge"];
    scenario.migrate(&words(&[&CAUGHT_UP, &lists])).wait(RUN).await.expect_code(0);
    // The application is not harmed (P06), although an UPDATE would not be carried.
    source.execute("BEGIN; UPDATE log SET line = 'changed'; ROLLBACK").await;
    source
        .execute("INSERT INTO log VALUES ('two'); UPDATE huge SET v = 'changed'; INSERT INTO kept VALUES (2)")
        .await;
    let outcome = scenario.migrate(&words(&[&STOP, &lists])).wait(RUN).await.expect_code(0);
    assert!(outcome.stdout.contains("public.huge"), "it is named in the result: {}", outcome.stdout);
    scenario.assert_source_clean(&before).await;
    scenario.assert_same_schema().await;
    assert_eq!(
        target.value::<String>("SELECT string_agg(line, ',' ORDER BY line) FROM log").await,
        "one,two"
    );
    assert_eq!(target.value::<i64>("SELECT count(*) FROM huge").await, 0);
    assert_eq!(target.value::<i64>("SELECT count(*) FROM kept").await, 2);
}

/// Without the replica role every trigger and foreign key of the target would fire (P48).
#[tokio::test]
async fn a_target_without_superuser_gets_its_triggers_and_foreign_keys_at_the_end() {
    let scenario = Scenario::own("owner").await;
    let Scenario { source, target } = &scenario;
    for side in [source, target] {
        side.execute_alone("CREATE ROLE mover LOGIN").await;
        side.execute_alone(&format!("ALTER DATABASE {} OWNER TO mover", side.dbname)).await;
        side.execute("ALTER SCHEMA public OWNER TO mover").await;
    }
    source
        .execute(
            "SET ROLE mover;
             CREATE TABLE parent (id int PRIMARY KEY, v int DEFAULT 0);
             CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
             CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, old int, new int);
             CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO public.audit (old, new) VALUES (OLD.v, NEW.v); RETURN NEW; END';
             CREATE TRIGGER audit AFTER UPDATE ON parent FOR EACH ROW EXECUTE PROCEDURE audit();
             INSERT INTO parent SELECT i FROM generate_series(1, 100) AS i;
             INSERT INTO child SELECT i, i FROM generate_series(1, 100) AS i;
             UPDATE parent SET v = id",
        )
        .await;
    let before = source.footprint().await;
    let as_mover = format!("{} user=mover", target.dsn());
    let run = |ending: &[&str]| crate::support::migration::migrate(&source.dsn(), &as_mover, ending);
    run(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    let acting = "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('parent'::regclass, 'child'::regclass)";
    assert_eq!(target.value::<i64>(acting).await, 0);
    source
        .execute(
            "UPDATE parent SET v = v + 1; DELETE FROM parent WHERE id < 10; UPDATE parent SET id = -id WHERE id > 90;
             INSERT INTO parent VALUES (1000, 1); INSERT INTO child VALUES (1000, 1000)",
        )
        .await;
    run(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    scenario.assert_rows_equal().await;
    run(&STOP).wait(RUN).await.expect_code(0);
    assert_eq!(target.value::<i64>(acting).await, source.value::<i64>(acting).await);
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

/// The slot must not keep WAL that only others write (P19).
#[tokio::test]
async fn the_slot_of_an_idle_database_moves_while_its_neighbours_write() {
    let scenario = Scenario::own("idle").await;
    let Scenario { source, target } = &scenario;
    source.execute("CREATE TABLE quiet (id int PRIMARY KEY)").await;
    let engine = scenario.migrate(&[]);
    eventually("it follows", async || target.holds(FOLLOWING).await).await;
    let neighbour = source.cluster.session("postgres").await.unwrap();
    for round in 0..3 {
        let write = "CREATE TABLE IF NOT EXISTS public.busy (v text);
                     INSERT INTO public.busy SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
        neighbour.batch_execute(write).await.unwrap();
        let here: String = source.value("SELECT pg_current_wal_lsn()::text").await;
        let moved = format!("SELECT bool_and(confirmed_flush_lsn >= '{here}') FROM pg_replication_slots");
        eventually(&format!("round {round} is confirmed"), async || source.holds(&moved).await).await;
    }
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
}

#[tokio::test]
async fn an_interrupt_drains_and_says_how_to_go_on() {
    let scenario = Scenario::own("interrupt").await;
    let Scenario { source, target } = &scenario;
    source.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    for (id, signal) in [(2, "INT"), (3, "TERM")] {
        let engine = scenario.migrate(&[]);
        let followed =
            format!("SELECT application_name LIKE '%stream' FROM pg_stat_replication WHERE {id} > 0");
        eventually("it follows", async || target.holds(FOLLOWING).await && source.holds(&followed).await)
            .await;
        source.execute(&format!("INSERT INTO t VALUES ({id})")).await;
        let arrived = format!("SELECT count(*) = 1 FROM public.t WHERE id = {id}");
        eventually("the row arrives", async || target.holds(&arrived).await).await;
        engine.signal(signal).await;
        let outcome = engine.wait(RUN).await.expect_code(0);
        let result = outcome.json();
        let message = result["databases"][0]["message"].as_str().unwrap();
        assert!(message.contains("0/") && message.contains("run the same command again"), "{result}");
        assert_eq!(source.slots().await, 1);
    }
    source.execute("INSERT INTO t VALUES (4)").await;
    scenario.stop_replication(&[]).await;
    scenario.assert_moved().await;
}
