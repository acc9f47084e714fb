//! The plain dump: when it is taken and that it is said; one moment of the source, whatever breaks meanwhile.

use serde_json::Value;

use crate::migrate::pgbench;
use crate::support::engine::{Engine, Outcome};
use crate::support::migration::{CAUGHT_UP, FULL, Hold, RUN, STOP, migrate, words};
use crate::support::scenario::{Scenario, Side, source_options, target_options};
use crate::support::{PATIENCE, eventually};

const DUMP: [&str; 2] = ["--method", "dump"];
const REPLICATION: [&str; 2] = ["--method", "replication"];
/// One after the other, the largest first.
const ONE_BY_ONE: [&str; 2] = ["--copy-jobs", "1"];

/// A bit of everything; `big` is copied first, and `late` last; the views are made after all tables.
const TABLES: &str = "
    CREATE SEQUENCE odd INCREMENT -3 MINVALUE -1000 START -1; SELECT nextval('odd'), nextval('odd');
    CREATE TABLE big (id int PRIMARY KEY, v text);
    INSERT INTO big SELECT i, repeat('y', 100) FROM generate_series(1, 20000) AS i;
    CREATE TABLE middle (id int PRIMARY KEY REFERENCES big, v int);
    INSERT INTO middle SELECT i, i FROM generate_series(1, 2000) AS i;
    CREATE UNLOGGED TABLE quick (id int); INSERT INTO quick SELECT generate_series(1, 1000);
    CREATE TABLE keyless (v int); INSERT INTO keyless VALUES (1), (1), (NULL);
    CREATE TABLE late (id serial PRIMARY KEY, v int); INSERT INTO late (v) VALUES (1);
    CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := NEW.v + 1000; RETURN NEW; END';
    CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON late FOR EACH ROW EXECUTE FUNCTION shout();
    CREATE VIEW seen AS SELECT id FROM late;
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM late;
    CREATE UNIQUE INDEX ON counted (n);
    COMMENT ON TABLE late IS 'late'";

/// A dump that has taken its snapshot and waits for a lock on the target's first table.
async fn held_up(scenario: &Scenario, more: &[&str]) -> (Engine, Hold) {
    let target = &scenario.target;
    let views = target.hold("LOCK pg_catalog.pg_rewrite IN SHARE MODE").await;
    let engine = scenario.migrate(&words(&[&DUMP, &ONE_BY_ONE, more]));
    eventually("pg_restore waits", async || target.holds(&waits("pgstream schema")).await).await;
    let held = target.hold("LOCK public.big").await;
    views.release().await;
    copying(target).await;
    (engine, held)
}

fn waits(role: &str) -> String {
    format!(
        "SELECT count(*) > 0 FROM pg_stat_activity
          WHERE application_name = '{role}' AND wait_event_type = 'Lock' AND datname = current_database()"
    )
}

async fn copying(target: &Side) {
    eventually("the copy waits for the lock", async || target.holds(&waits("pgstream load")).await).await;
}

fn database(outcome: &Outcome) -> Value {
    outcome.json()["databases"][0].clone()
}

fn warnings(outcome: &Outcome) -> Vec<String> {
    let result = outcome.json();
    let all = result["warnings"].as_array().expect("a list").iter();
    all.map(|warning| warning.as_str().expect("text").to_owned()).collect()
}

/// Asserts that a run was a whole dump, and that nobody could take it for replication.
fn fell_back(outcome: &Outcome, check: &str) {
    let database = database(outcome);
    assert_eq!((&database["method"], &database["status"]), (&"dump".into(), &"done".into()), "{database}");
    assert!(database["lag_bytes"].is_null(), "{database}");
    let message = database["message"].as_str().unwrap_or_default();
    assert!(message.contains("dump") && message.contains(&format!("[{check}]")), "{database}");
    let warnings = warnings(outcome);
    assert!(warnings[0].contains("dump") && warnings[0].contains(check), "{warnings:#?}");
    assert!(warnings.iter().any(|warning| warning.starts_with(&format!("[{check}]"))), "{warnings:#?}");
}

#[tokio::test]
async fn a_source_user_who_may_only_select_is_dumped_and_told_why() {
    let scenario = Scenario::own("reader").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    for side in [source, target] {
        side.execute_alone("CREATE ROLE reader LOGIN").await;
    }
    source
        .execute(
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader;
             REVOKE ALL ON DATABASE template1 FROM PUBLIC",
        )
        .await;
    let before = source.footprint().await;
    let as_reader = format!("{} user=reader", source.dsn());
    let run = |more: &[&str]| migrate(&as_reader, &target.dsn(), more);

    let blocked = run(&REPLICATION).wait(RUN).await.expect_code(3);
    assert!(blocked.stderr.contains("replication-right"), "{}", blocked.stderr);
    // What has no meaning for a dump is a wish for replication.
    for insists in [&CAUGHT_UP[..], &FULL, &["--insert-only", "public.keyless"]] {
        run(insists).wait(RUN).await.expect_code(3);
    }
    let mut check = Engine::command();
    check.args(["check", "--json", "--source", &as_reader, "--target", &target.dsn()]);
    let check = Engine::spawn(check).wait(RUN).await.expect_code(0).json();
    assert_eq!((&check["ok"], &check["checks"][0]["id"]), (&true.into(), &"method".into()), "{check}");

    let outcome = run(&[]).wait(RUN).await.expect_code(0);
    fell_back(&outcome, "replication-right");
    assert!(warnings(&outcome).iter().any(|warning| warning.starts_with("[publication-right]")));
    assert!(outcome.stderr.contains("plain dump"), "{}", outcome.stderr);
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_source_without_logical_wal_is_dumped_and_one_that_replicates_is_not() {
    let settings = vec![("wal_level".to_owned(), "replica".to_owned())];
    let source = pgstream::demo::ClusterOptions { settings, ..source_options() };
    let scenario = Scenario::own_with("physical", source, target_options()).await;
    scenario.source.execute(TABLES).await;
    let before = scenario.source.footprint().await;
    scenario.migrate(&words(&[&STOP, &REPLICATION])).wait(RUN).await.expect_code(3);
    let outcome = scenario.migrate(&STOP).wait(RUN).await.expect_code(0);
    fell_back(&outcome, "wal-level");
    assert!(warnings(&outcome).iter().any(|warning| warning.contains("ALTER SYSTEM SET wal_level")));
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

/// Nothing is lost by falling back where a flag would have done; but it is said.
#[tokio::test]
async fn a_table_without_identity_alone_makes_it_a_dump() {
    let scenario = Scenario::own("identity").await;
    scenario.source.execute(TABLES).await;
    let outcome = scenario.migrate(&[]).wait(RUN).await.expect_code(0);
    fell_back(&outcome, "replica-identity");
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_forced_dump_is_one_moment_of_a_busy_source_and_leaves_no_trace_on_it() {
    let scenario = Scenario::own("busy").await;
    let Scenario { source, target } = &scenario;
    assert!(pgbench(source, &["-i", "-s", "2", "--foreign-keys", "-q"]).status().await.unwrap().success());
    source.execute("CREATE VIEW seen AS SELECT bid FROM pgbench_branches").await;
    let before = source.footprint().await;
    let mut clients = pgbench(source, &["-n", "-c", "4", "-T", "600", "-R", "300"]).spawn().unwrap();
    let rows = "SELECT count(*) FROM public.pgbench_history";
    eventually("they write", async || source.value::<i64>(rows).await > 100).await;

    let views = target.hold("LOCK pg_catalog.pg_rewrite IN SHARE MODE").await;
    let parts = ["--split-tables-larger-than", "1MB"];
    let engine = scenario.migrate(&words(&[&DUMP, &ONE_BY_ONE, &parts, &STOP]));
    eventually("pg_restore waits", async || target.holds(&waits("pgstream schema")).await).await;
    let held = target.hold("LOCK public.pgbench_accounts").await;
    views.release().await;
    copying(target).await;
    let written = source.value::<i64>(rows).await;
    eventually("they go on", async || source.value::<i64>(rows).await > written + 300).await;
    // A worker that is lost costs a part, not the moment.
    held.release().await;
    let some_parts = "SELECT count(*) > 2 FROM pgstream.copied_part";
    eventually("parts are copied", async || target.holds(some_parts).await).await;
    source.terminate("copy").await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    let database = database(&outcome);
    assert_eq!((&database["method"], &database["message"]), (&"dump".into(), &Value::Null), "{database}");
    clients.kill().await.unwrap();
    let ours = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'";
    eventually("their sessions end", async || source.holds(ours).await).await;

    // pgbench adds one delta to an account, a teller and a branch, and writes it down, in one transaction.
    let moved = target.value::<i64>(rows).await;
    assert!(moved >= 100 && moved < source.value::<i64>(rows).await);
    for sum in [
        "abalance) FROM pgbench_accounts",
        "tbalance) FROM pgbench_tellers",
        "bbalance) FROM pgbench_branches",
    ] {
        let balance = target.value::<i64>(&format!("SELECT sum({sum}")).await;
        assert_eq!(balance, target.value::<i64>("SELECT sum(delta) FROM pgbench_history").await, "{sum}");
    }
    scenario.assert_same_schema().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_killed_dump_keeps_what_it_has_only_if_the_source_is_as_it_was() {
    let scenario = Scenario::own("killed").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    let (engine, held) = held_up(&scenario, &[]).await;
    engine.kill().await;
    held.release().await;
    target.terminate("load").await;

    // The last table is held back; all others are finished.
    let late = target.hold("LOCK public.late IN ROW EXCLUSIVE MODE").await;
    let all_but_late =
        "(SELECT count(*) FILTER (WHERE state <> 'copied') = 1 AND count(*) > 3 FROM pgstream.copied_table)";
    scenario.migrate(&words(&[&DUMP, &ONE_BY_ONE])).kill_when(target, all_but_late).await;
    target.terminate("load").await;
    let copied = target.copied_tables().await;

    let waiting = "(SELECT count(*) > 0 FROM pg_stat_activity
        WHERE application_name = 'pgstream load' AND wait_event_type = 'Lock' AND datname = current_database())";
    let mut engine = scenario.migrate(&words(&[&DUMP, &ONE_BY_ONE]));
    engine.wait_for_stderr("the source has not changed since", PATIENCE).await;
    engine.kill_when(target, waiting).await;
    target.terminate("load").await;
    let mut kept = target.copied_tables().await;
    // A crash of the source would have emptied it without a word.
    assert_ne!(kept.get("public.quick"), copied.get("public.quick"));
    kept.insert("public.quick".to_owned(), copied["public.quick"].clone());
    assert_eq!(kept, copied);

    // Both ends of the foreign key change: under two snapshots it could not be restored.
    source.execute("INSERT INTO big (id) VALUES (30000); INSERT INTO middle VALUES (30000, 1); DELETE FROM middle WHERE id = 7; DELETE FROM big WHERE id = 7").await;
    late.release().await;
    let outcome = scenario.migrate(&[]).wait(RUN).await.expect_code(0);
    assert!(outcome.stderr.contains("copied anew"), "{}", outcome.stderr);
    assert_eq!(database(&outcome)["method"], "dump", "{}", outcome.stdout);
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;
}

#[tokio::test]
async fn a_method_that_has_begun_is_not_changed() {
    let scenario = Scenario::own("method").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let (engine, held) = held_up(&scenario, &[]).await;
    engine.interrupt().await;
    // Half a dump is not what anyone asked for.
    let cancelled = engine.wait(RUN).await.expect_code(1);
    assert_eq!(
        (&database(&cancelled)["method"], &database(&cancelled)["status"]),
        (&"dump".into(), &"cancelled".into())
    );
    held.release().await;
    let refused = scenario.migrate(&REPLICATION).wait(RUN).await.expect_code(2);
    assert!(refused.stderr.contains("begun by dump"), "{}", refused.stderr);
    // Without the word it goes on as it began, although replication would do.
    scenario.migrate(&FULL).wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;

    let other = Scenario::own("replicated").await;
    other.source.execute("CREATE TABLE t (id int PRIMARY KEY)").await;
    other.migrate(&CAUGHT_UP).wait(RUN).await.expect_code(0);
    let refused = other.migrate(&DUMP).wait(RUN).await.expect_code(2);
    assert!(refused.stderr.contains("begun by replication"), "{}", refused.stderr);
    other.stop_replication(&[]).await;
    other.assert_moved().await;
    assert_eq!(target.value::<i64>("SELECT count(*) FROM late").await, 1);
}

#[tokio::test]
async fn a_snapshot_that_is_lost_or_grows_too_old_costs_the_copy_and_nothing_else() {
    let scenario = Scenario::own("lost").await;
    let Scenario { source, .. } = &scenario;
    source.execute(TABLES).await;
    let before = source.footprint().await;
    let (mut engine, held) = held_up(&scenario, &[]).await;
    assert!(source.terminate("keeper").await > 0);
    source.execute("INSERT INTO big (id) VALUES (30000); INSERT INTO middle VALUES (30000, 1)").await;
    held.release().await;
    engine.wait_for_stderr("going on under a new snapshot", PATIENCE).await;
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;
    scenario.assert_source_clean(&before).await;

    let scenario = Scenario::own("aged").await;
    let source = &scenario.source;
    source.execute(TABLES).await;
    let (engine, held) = held_up(&scenario, &[]).await;
    source.execute("TRUNCATE late; INSERT INTO late SELECT i, i FROM generate_series(1, 7) AS i").await;
    source.execute("UPDATE middle SET v = 0").await;
    held.release().await;
    let outcome = engine.wait(RUN).await.expect_code(0);
    assert!(outcome.stderr.contains("truncated on the source meanwhile: public.late"), "{}", outcome.stderr);
    scenario.assert_moved().await;
}

#[tokio::test]
async fn servers_that_restart_do_not_end_a_dump() {
    let scenario = Scenario::own("restarts").await;
    let Scenario { source, target } = &scenario;
    source.execute(TABLES).await;
    let (engine, held) = held_up(&scenario, &[]).await;
    source.cluster.restart(pgstream::demo::Shutdown::Immediate).await.unwrap();
    // The crash has emptied what no WAL tells of.
    source.execute("INSERT INTO quick SELECT generate_series(1, 10)").await;
    copying(target).await;
    target.cluster.restart(pgstream::demo::Shutdown::Immediate).await.unwrap();
    drop(held);
    engine.wait(RUN).await.expect_code(0);
    scenario.assert_moved().await;
}

#[tokio::test]
async fn a_target_without_superuser_is_filled_and_what_it_refuses_is_named() {
    let scenario = Scenario::own("plain").await;
    let Scenario { source, target } = &scenario;
    for side in [source, target] {
        side.execute_alone("CREATE ROLE mover LOGIN; CREATE ROLE other").await;
        side.execute_alone(&format!("ALTER DATABASE {} OWNER TO mover", side.dbname)).await;
        side.execute("GRANT ALL ON SCHEMA public TO mover").await;
    }
    source.execute(&format!("SET ROLE mover; {TABLES}")).await;
    source
        .execute(
            "SELECT lo_from_bytea(500, 'mine'); ALTER LARGE OBJECT 500 OWNER TO mover;
             SELECT lo_from_bytea(501, 'not mine'); ALTER LARGE OBJECT 501 OWNER TO other;
             CREATE TABLE theirs (id int PRIMARY KEY); INSERT INTO theirs VALUES (1); ALTER TABLE theirs OWNER TO other;
             CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
             CREATE EVENT TRIGGER nothing ON sql_drop EXECUTE FUNCTION told()",
        )
        .await;
    let before = source.footprint().await;
    let as_mover = format!("{} user=mover", target.dsn());
    let outcome = migrate(&source.dsn(), &as_mover, &DUMP).wait(RUN).await.expect_code(0);
    let warnings = warnings(&outcome).join("\n");
    for refused in ["EVENT TRIGGER", "1 large objects belong to other", "theirs"] {
        assert!(warnings.contains(refused), "{refused} is not in {warnings}");
    }
    assert!(scenario.compare().await.is_equal(), "{}", scenario.compare().await);
    let owner = |object: &str| {
        format!("SELECT pg_get_userbyid(lomowner)::text FROM pg_largeobject_metadata WHERE oid = {object}")
    };
    assert_eq!(target.value::<String>(&owner("501")).await, "mover");
    let acting = "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('late'::regclass, 'middle'::regclass)";
    assert_eq!(target.value::<i64>(acting).await, source.value::<i64>(acting).await);
    scenario.assert_source_clean(&before).await;
}

/// Of every size and kind; `grant` puts rights on some.
const OBJECTS: &str = "
    SELECT lo_from_bytea(i, decode(md5(i::text), 'hex')) FROM generate_series(1000, 3500) AS i;
    SELECT lo_from_bytea(1, ''), lo_from_bytea(2, decode(repeat('ab', 262144), 'hex')),
           lo_from_bytea(3, decode(repeat('cd', 262145), 'hex')), lo_from_bytea(4294967295, 'last');
    SELECT lo_create(4); SELECT lo_put(4, 9000000, 'after a hole');
    SELECT lo_put(5, n * 7, decode(md5(n::text), 'hex')) FROM (SELECT lo_create(5)) AS made, generate_series(1, 1000) AS n;
    ALTER LARGE OBJECT 1 OWNER TO one; ALTER LARGE OBJECT 2 OWNER TO two; ALTER LARGE OBJECT 1500 OWNER TO one;
    GRANT SELECT ON LARGE OBJECT 1, 2, 3, 1500 TO two; GRANT UPDATE ON LARGE OBJECT 1, 3 TO one WITH GRANT OPTION;
    GRANT SELECT ON LARGE OBJECT 2, 1600 TO PUBLIC; REVOKE UPDATE ON LARGE OBJECT 2 FROM two;
    COMMENT ON LARGE OBJECT 3 IS 'it''s; the third'";

/// Each object's owner, rights and comment; an owner's rights are there whether or not they are written down.
const DESCRIBED: &str = "
    SELECT string_agg(format('%s %s %s %s', oid, pg_get_userbyid(lomowner), rights, comment), E'\n' ORDER BY oid)
      FROM (SELECT m.oid, lomowner, obj_description(m.oid, 'pg_largeobject') AS comment,
                   (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM aclexplode(coalesce(lomacl, acldefault('L', lomowner))) AS e,
                        LATERAL (SELECT format('%s:%s:%s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
                                               privilege_type, is_grantable)) AS x(a)) AS rights
              FROM pg_largeobject_metadata AS m) AS d";

#[tokio::test]
async fn large_objects_keep_oid_owner_rights_and_comment_by_either_method() {
    for (name, method) in [("dumped_objects", &DUMP), ("replicated_objects", &REPLICATION)] {
        let scenario = Scenario::own(name).await;
        let Scenario { source, target } = &scenario;
        for side in [source, target] {
            side.execute("CREATE ROLE one; CREATE ROLE two").await;
        }
        source.execute(OBJECTS).await;
        source.execute("CREATE ROLE only_here; GRANT SELECT ON LARGE OBJECT 1700 TO only_here").await;
        // What an earlier run has brought and the source has no more.
        target.execute("SELECT lo_create(6), lo_create(5000), lo_from_bytea(1000, 'old')").await;
        let before = source.footprint().await;
        // Else a role that the target lacks would be made there.
        let outcome =
            scenario.migrate(&words(&[&STOP, method, &["--no-roles"]])).wait(RUN).await.expect_code(0);
        let warnings = warnings(&outcome).join("\n");
        assert!(warnings.contains("1 large objects are granted to only_here"), "{warnings}");
        source.execute("REVOKE ALL ON LARGE OBJECT 1700 FROM only_here").await;
        let (there, here) =
            (target.value::<String>(DESCRIBED).await, source.value::<String>(DESCRIBED).await);
        let differing: Vec<_> =
            there.lines().zip(here.lines()).filter(|(there, here)| there != here).collect();
        assert!(differing.is_empty() && there.len() == here.len(), "{name}: {differing:?}");
        scenario.assert_moved().await;
        scenario.assert_source_clean(&before).await;
    }
}

#[tokio::test]
async fn large_objects_that_may_not_be_read_block_with_a_way_out() {
    let scenario = Scenario::own("unreadable").await;
    let source = &scenario.source;
    source.execute("CREATE ROLE reader LOGIN; SELECT lo_from_bytea(7, 'hidden')").await;
    let as_reader = format!("{} user=reader", source.dsn());
    let run = || migrate(&as_reader, &scenario.target.dsn(), &[]);
    let outcome = run().wait(RUN).await.expect_code(3);
    let hint = outcome.json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("GRANT SELECT ON LARGE OBJECT"), "{hint}");
    source.execute("GRANT SELECT ON LARGE OBJECT 7 TO reader").await;
    run().wait(RUN).await.expect_code(0);
    assert!(scenario.compare().await.is_equal());
}

/// The databases of `primary` on a standby of it, in the place of another server.
pub(crate) async fn make_standby(primary: &Side, standby: &Side) {
    use std::process::Command;

    let cluster = &standby.cluster;
    cluster.stop(pgstream::demo::Shutdown::Fast).await.unwrap();
    let data = cluster.data_directory();
    let own = data.with_extension("before");
    std::fs::rename(&data, &own).unwrap();
    let basebackup = primary.cluster.installation().program("pg_basebackup");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new(basebackup)
        .args(["--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream"])
        .args(["--dbname", &primary.dsn(), "--pgdata"])
        .arg(&data));
    // Its own sockets, and the owner that the server runs under.
    std::fs::copy(own.join("postgresql.conf"), data.join("postgresql.conf")).unwrap();
    run(Command::new("chown").arg("-R").arg("--reference").args([&own, &data]));
    cluster.restart(pgstream::demo::Shutdown::Fast).await.unwrap();
    let there: String = primary.value("SELECT pg_current_wal_lsn()::text").await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{there}'");
    eventually("the standby is in step", async || standby.holds(&replayed).await).await;
}

#[tokio::test]
async fn a_hot_standby_is_dumped() {
    let scenario = Scenario::own("standby").await;
    let Scenario { source: primary, target } = &scenario;
    primary.execute(TABLES).await;
    primary.execute("SELECT lo_from_bytea(7, 'seven')").await;
    let other = Scenario::own("standby").await;
    let standby = Side { dbname: primary.dbname.clone(), cluster: other.target.cluster.clone() };
    make_standby(primary, &standby).await;

    let run = |more: &[&str]| migrate(&standby.dsn(), &target.dsn(), more);
    run(&REPLICATION).wait(RUN).await.expect_code(3);
    let outcome = run(&[]).wait(RUN).await.expect_code(0);
    fell_back(&outcome, "source-recovery");
    let warnings = warnings(&outcome).join("\n");
    assert!(warnings.contains("public.quick: unlogged"), "{warnings}");
    primary.execute("TRUNCATE quick").await;
    assert!(scenario.compare().await.is_equal(), "{}", scenario.compare().await);
    scenario.assert_same_schema().await;
}
