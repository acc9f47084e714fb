//! What goes wrong is loud, located, and never half done.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pgstream::error::{ErrorKind, describe};

use super::stage::{Stage, Values, rows};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_is_not_applied_again() {
    let stage = Stage::new("CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL").await;
    for v in 0..20 {
        stage
            .run(&format!(
                "INSERT INTO t SELECT g, {v} FROM generate_series(1, 3) g; DELETE FROM t WHERE v = {v} - 2"
            ))
            .await;
    }
    let items = stage.items().await;
    for cut in [0, items.len() / 3, items.len() / 2, items.len() - 2, items.len()] {
        // The stream breaks off somewhere, mostly inside a transaction, and begins again from its start.
        stage.apply_items(items[..cut].to_vec()).await.unwrap();
        stage.apply_items(items[..cut].to_vec()).await.unwrap();
    }
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_engine_stops_before_it_commits() {
    let stage = Stage::new("CREATE TABLE t (id int)").await;
    let first = stage.applier().await;
    let second = stage.applier().await;
    stage.run("INSERT INTO t VALUES (1)").await;
    let items = stage.items().await;
    first.input().send(items.clone()).await.unwrap();
    first.finish().await.unwrap();
    second.input().send(items).await.unwrap();
    let error = second.failed().await;
    assert_eq!(error.kind(), ErrorKind::State, "{}", describe(&error));
    drop(second);
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_missing_on_the_target_stops_everything_after_it() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    stage.run("INSERT INTO t SELECT g, 0 FROM generate_series(1, 5) g").await;
    stage.apply().await;
    let before = stage.progress().await;
    stage.target.batch_execute("DELETE FROM t WHERE id = 3").await.unwrap();
    stage.run("UPDATE t SET v = 1 WHERE id = 1").await;
    stage.run("UPDATE t SET v = 1 WHERE id = 3").await;
    let items = stage.items().await;
    let error = stage.apply_items(items.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Apply);
    let doing = r#"update public.t, key ("id") = (3) (transaction "#;
    assert!(error.doing().starts_with(doing), "{}", error.doing());
    assert_eq!(stage.progress().await, before);
    // Mended, the same stream goes through.
    stage.target.batch_execute("INSERT INTO t VALUES (3, 0)").await.unwrap();
    stage.apply_items(items).await.unwrap();
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_value_is_located() {
    let target = "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 100))";
    let stage = Stage::with("CREATE TABLE t (id int PRIMARY KEY, v int)", target, Values::Text).await;
    stage.run("INSERT INTO t SELECT g, g FROM generate_series(1, 150) g").await;
    let items = stage.items().await;
    let error = stage.apply_items(items).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Apply);
    assert_eq!(error.sqlstate().unwrap().code(), "23514");
    let text = describe(&error);
    for fact in ["public.t", r#"("id") = (100)"#, "(transaction ", "committed at 0/", "[23514]"] {
        assert!(text.contains(fact), "{fact}: {text}");
    }
    assert!(!text.contains("(100, 100)"), "the row's other values are nobody's business: {text}");
    assert!(rows(&stage.target, "t").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_names_what_to_run() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    stage
        .run(
            "INSERT INTO t VALUES (1); ALTER TABLE t ADD COLUMN b numeric(10,2); INSERT INTO t VALUES (2, 1)",
        )
        .await;
    let items = stage.items().await;
    let error = stage.apply_items(items.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Drift);
    let advice = error.advice().unwrap();
    let alter = advice.strip_prefix("Run on the target: ").unwrap();
    stage.target.batch_execute(alter).await.unwrap();
    stage.apply_items(items).await.unwrap();
    stage.assert_equal().await;
    stage.run("CREATE TABLE new (id int); INSERT INTO new VALUES (1)").await;
    let items = stage.items().await;
    let error = stage.apply_items(items).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Drift);
    assert!(describe(&error).contains("public.new"), "{}", describe(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applier_dropped_anywhere_leaves_whole_transactions() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, tx int)").await;
    for tx in 0..40 {
        stage.run(&format!("INSERT INTO t SELECT g + 100 * {tx}, {tx} FROM generate_series(1, 50) g")).await;
    }
    let items = stage.items().await;
    for cut in [items.len() / 4, items.len() / 2, items.len()] {
        let applier = stage.applier().await;
        let mut positions = applier.positions();
        let start = positions.borrow().watermark.confirmed();
        for some in items[..cut].chunks(100) {
            applier.input().send(some.to_vec()).await.unwrap();
        }
        tokio::select! {
            moved = positions.wait_for(|positions| positions.watermark.confirmed() > start) => drop(moved.unwrap()),
            error = applier.failed() => panic!("{}", describe(&error)),
        }
        applier.abort();
        let part = "SELECT count(*) FROM (SELECT FROM t GROUP BY tx HAVING count(*) <> 50) p";
        let part: i64 = stage.target.query_one(part, &[]).await.unwrap().get(0);
        assert_eq!(part, 0, "a transaction is there whole or not at all");
    }
    stage.apply_items(items).await.unwrap();
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_worth_another_try() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let applier = stage.applier().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND application_name = 'pgstream apply 0'";
    assert_eq!(stage.target.execute(kill, &[]).await.unwrap(), 1);
    stage.run("INSERT INTO t VALUES (1)").await;
    let items = stage.items().await;
    applier.input().send(items.clone()).await.unwrap();
    let error = applier.failed().await;
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", describe(&error));
    assert!(applier.input().send(items.clone()).await.is_err());
    drop(applier);
    stage.apply_items(items).await.unwrap();
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    stage.run("INSERT INTO t VALUES (1, 0), (2, 0)").await;
    stage.apply().await;
    // The other session holds row 2 and will want row 1; it never looks for deadlocks itself.
    stage
        .target
        .batch_execute("SET deadlock_timeout = '1h'; BEGIN; UPDATE t SET v = v WHERE id = 2")
        .await
        .unwrap();
    stage.run("BEGIN; UPDATE t SET v = 1 WHERE id = 1; UPDATE t SET v = 2 WHERE id = 2; COMMIT").await;
    let items = stage.items().await;
    let applier = stage.applier().await;
    let stats = applier.stats();
    applier.input().send(items).await.unwrap();
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid())";
    while !stage.source.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.target.batch_execute("UPDATE t SET v = v WHERE id = 1; COMMIT").await.unwrap();
    applier.finish().await.unwrap();
    assert_eq!(stats.retries.load(Ordering::Relaxed), 1);
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_changed_under_us_is_drift() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    let applier = stage.applier().await;
    stage.target.batch_execute("ALTER TABLE t DROP COLUMN v").await.unwrap();
    stage.run("INSERT INTO t VALUES (1, 1)").await;
    applier.input().send(stage.items().await).await.unwrap();
    let error = applier.finish().await.unwrap_err();
    assert_eq!((error.kind(), error.doing()), (ErrorKind::Drift, "apply changes of public.t"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_allows_no_counting_in_the_server_is_worked_around() {
    let target = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE log (id int);
        CREATE RULE log AS ON INSERT TO t DO ALSO INSERT INTO public.log VALUES (new.id);
        ALTER TABLE t ENABLE ALWAYS RULE log";
    let stage = Stage::with("CREATE TABLE t (id int PRIMARY KEY, v int)", target, Values::Text).await;
    stage.run("INSERT INTO t VALUES (1, 1)").await;
    stage.apply().await;
    stage.run("INSERT INTO t VALUES (2, 1); UPDATE t SET v = 2 WHERE id = 1").await;
    stage.apply().await;
    assert_eq!(rows(&stage.target, "t").await, ["id='1', v='2'", "id='2', v='1'"]);
    assert_eq!(rows(&stage.target, "log").await, ["id='1'", "id='2'"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_only_at_commit_is_not_committed() {
    let target = "CREATE TABLE t (id int PRIMARY KEY, v int);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
            WHEN (NEW.id = 2) EXECUTE FUNCTION refuse();
        ALTER TABLE t ENABLE ALWAYS TRIGGER refuse";
    let stage = Stage::with("CREATE TABLE t (id int PRIMARY KEY, v int)", target, Values::Text).await;
    stage.run("INSERT INTO t VALUES (1, 1)").await;
    stage.apply().await;
    let before = stage.progress().await;
    stage.run("INSERT INTO t VALUES (2, 1)").await;
    let items = stage.items().await;
    let error = stage.apply_items(items.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Apply, "{}", describe(&error));
    assert_eq!(error.sqlstate().unwrap().code(), "P0001");
    assert!(error.doing().starts_with("commit the changes up to "), "{}", error.doing());
    assert_eq!(stage.progress().await, before);
    stage.target.batch_execute("DROP TRIGGER refuse ON t").await.unwrap();
    stage.apply_items(items).await.unwrap();
    stage.assert_equal().await;
}
