//! Whatever order, size and shape the source's changes have, the target ends equal.

use std::sync::atomic::Ordering;

use pgstream::apply::{Applier, ApplyStats, FallbackReason, GroupBounds};
use pgstream::catalog::ReplicaRole;
use pgstream::pg::QualifiedName;
use pgstream::replication::StreamItem;

use super::stage::{Stage, Values, rows};

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_toast_stays_as_it_is() {
    let stage = Stage::new(
        "CREATE TABLE t (id int PRIMARY KEY, a int, big text);
         ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE k (id text PRIMARY KEY, a int, big text);
         ALTER TABLE k ALTER id SET STORAGE EXTERNAL, ALTER big SET STORAGE EXTERNAL;
         CREATE TABLE f (id int, a int, big text); ALTER TABLE f REPLICA IDENTITY FULL;
         ALTER TABLE f ALTER big SET STORAGE EXTERNAL;",
    )
    .await;
    let big = "repeat('long ', 1000)";
    stage.run(&format!("INSERT INTO t SELECT g, 0, {big} || g FROM generate_series(1, 20) g")).await;
    stage
        .run(&format!(
            "INSERT INTO k SELECT repeat(chr(64 + g), 2500), 0, {big} FROM generate_series(1, 9) g"
        ))
        .await;
    stage.run(&format!("INSERT INTO f SELECT g % 2, 0, {big} FROM generate_series(1, 6) g")).await;
    stage.apply().await;
    stage.assert_equal().await;
    stage.run("UPDATE t SET a = id").await;
    stage.run("UPDATE t SET big = 'short' WHERE id % 3 = 0; UPDATE t SET a = a + 1").await;
    // The key moves while the long value is not sent.
    stage.run("UPDATE t SET id = id + 100 WHERE id > 10").await;
    stage
        .run("UPDATE k SET a = 1; UPDATE k SET id = id || 'x' WHERE a = 1 AND id < 'D'; UPDATE k SET a = 2")
        .await;
    stage.run("UPDATE f SET a = 1 WHERE id = 0; DELETE FROM f WHERE ctid = (SELECT min(ctid) FROM f)").await;
    let (_, stats) = stage.apply().await;
    stage.assert_equal().await;
    assert_eq!(fallbacks(&stats), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_swapped_reused_and_handed_on() {
    let stage = Stage::new(
        "CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE, v int UNIQUE DEFERRABLE, w int);
         CREATE TABLE e (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));",
    )
    .await;
    stage.run("INSERT INTO t SELECT g, g, g, g FROM generate_series(1, 10) g").await;
    stage.run("INSERT INTO e SELECT g, int4range(g * 10, g * 10 + 10) FROM generate_series(1, 5) g").await;
    stage.apply().await;
    // A unique value is swapped by way of a third: only the source's order works.
    stage.run("BEGIN; UPDATE t SET u = -1 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2; UPDATE t SET u = 2 WHERE id = 1; COMMIT").await;
    let (_, stats) = stage.apply().await;
    assert_eq!(stats.fallbacks(FallbackReason::Unique), 1);
    stage.assert_equal().await;
    // Keys swapped; a deferrable unique column swapped in one statement; ranges that move over each other.
    stage.run("BEGIN; UPDATE t SET id = -1 WHERE id = 3; UPDATE t SET id = 3 WHERE id = 4; UPDATE t SET id = 4 WHERE id = -1; COMMIT").await;
    stage.run("UPDATE t SET v = 11 - v").await;
    stage.run("BEGIN; DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5, 105, 105, 0); DELETE FROM t WHERE id = 6; INSERT INTO t VALUES (11, 6, 60, 0); COMMIT").await;
    stage.run("BEGIN; UPDATE e SET r = 'empty' WHERE id = 1; UPDATE e SET r = '[10,20)' WHERE id = 2; UPDATE e SET r = '[20,30)' WHERE id = 1; COMMIT").await;
    stage.apply().await;
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_part_of_a_large_transaction_may_need_the_exact_order() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE)").await;
    stage.run("INSERT INTO t SELECT g, g FROM generate_series(1, 50) g").await;
    stage.apply().await;
    stage
        .run(
            "BEGIN; UPDATE t SET u = u + 1000 WHERE id > 10;
             UPDATE t SET u = -1 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2; UPDATE t SET u = 2 WHERE id = 1;
             INSERT INTO t SELECT g, g FROM generate_series(51, 99) g; DELETE FROM t WHERE id = 99; COMMIT",
        )
        .await;
    let items = stage.items().await;
    let mut options = stage.options().await;
    options.bounds = GroupBounds { changes: 10, ..GroupBounds::default() };
    // Parts of it are written, but it is never committed.
    let before = rows(&stage.target, "t").await;
    let applier = Applier::start(options.clone()).await.unwrap();
    applier.input().send(items[..70].to_vec()).await.unwrap();
    applier.finish().await.unwrap();
    assert_eq!(rows(&stage.target, "t").await, before);

    let applier = Applier::start(options).await.unwrap();
    let stats = applier.stats();
    applier.input().send(items).await.unwrap();
    applier.finish().await.unwrap();
    assert_eq!((stats.fallbacks(FallbackReason::Unique), stats.groups.load(Ordering::Relaxed)), (1, 1));
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_are_changed_one_at_a_time() {
    let stage = Stage::new(
        "CREATE TABLE f (a int, j json, p point, n numeric, c char(4)); ALTER TABLE f REPLICA IDENTITY FULL;
         CREATE TABLE u (a int NOT NULL UNIQUE, b text); ALTER TABLE u REPLICA IDENTITY FULL;
         CREATE TABLE i (a int);",
    )
    .await;
    stage.run(r#"INSERT INTO f SELECT 1, '{"a":  1}', '(1,2)', 1.0, 'x' FROM generate_series(1, 5)"#).await;
    stage.run(r#"INSERT INTO f VALUES (1, '{"a":  1}', '(1,2)', 1.00, 'x'), (NULL, NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL, NULL)"#).await;
    stage.run("INSERT INTO u SELECT g, 'x' FROM generate_series(1, 30) g; INSERT INTO i SELECT generate_series(1, 500)").await;
    stage.apply().await;
    stage.assert_equal().await;
    // numeric 1.00 equals 1.0; only one of them is meant.
    stage.run("DELETE FROM f WHERE n::text = '1.00'").await;
    stage.run("UPDATE f SET a = 2 WHERE ctid = (SELECT min(ctid) FROM f WHERE a = 1)").await;
    stage.run("DELETE FROM f WHERE ctid = (SELECT max(ctid) FROM f WHERE a IS NULL)").await;
    stage.run("UPDATE u SET b = 'y' WHERE a > 10; DELETE FROM u WHERE a < 5; UPDATE u SET a = a + 100 WHERE a = 20").await;
    let (_, stats) = stage.apply().await;
    stage.assert_equal().await;
    assert_eq!(fallbacks(&stats), 0);
}

/// Of equal rows as many go as went on the source, whatever happened to them in between, in one statement.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_without_a_key_are_changed_at_once() {
    let ddl = r#"
        CREATE TABLE f (a int, "B b" text, n numeric, f float8, j json, p point, l text[]);
        CREATE INDEX ON f (a);
        CREATE TABLE part (a int, b text) PARTITION BY LIST (a);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1); CREATE TABLE part_2 PARTITION OF part DEFAULT;
        CREATE TABLE toasted (a int, b text, c text); ALTER TABLE toasted ALTER c SET STORAGE EXTERNAL;
        CREATE TABLE more (a int, b text);
        CREATE TABLE bare ();"#;
    let full: String = ["f", "part_1", "part_2", "toasted", "more", "bare"]
        .map(|table| format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"))
        .concat();
    let ddl = format!("{ddl}{full}");
    for values in [Values::Text, Values::Binary] {
        let stage = Stage::with(&ddl, &ddl, values).await;
        stage
            .run(
                r#"INSERT INTO f SELECT g % 200, CASE WHEN g % 3 > 0 THEN 'x' END, (ARRAY[1.0, 1.00, NULL])[1 + g % 3],
                     (ARRAY['0', '-0', 'NaN'])[1 + g % 3]::float8, '{"a":  1}', '(1,2)', '{NULL,"NULL"}'
                   FROM generate_series(1, 2000) g;
                   INSERT INTO f SELECT FROM generate_series(1, 20);
                   INSERT INTO part SELECT g % 3, 'p' FROM generate_series(1, 600) g;
                   INSERT INTO toasted SELECT g % 2, 'b', repeat(md5((g % 5)::text), 100) FROM generate_series(1, 50) g;
                   INSERT INTO more SELECT g, 'm' FROM generate_series(1, 10) g;
                   INSERT INTO bare SELECT FROM generate_series(1, 10)"#,
            )
            .await;
        stage.apply().await;
        stage
            .target
            .batch_execute("ALTER TABLE more ADD own int DEFAULT 8; UPDATE more SET own = 9")
            .await
            .unwrap();
        // Chains, there and back, one of several twins, spellings of one number.
        stage
            .run(
                r#"UPDATE f SET a = a + 1 WHERE a < 150; UPDATE f SET a = a + 1; UPDATE f SET a = a - 1 WHERE a > 100;
                   DELETE FROM f WHERE n::text = '1.00' AND a < 60; UPDATE f SET f = '-0' WHERE f::text = '0' AND a < 80;
                   DELETE FROM f WHERE ctid IN (SELECT ctid FROM f WHERE a IS NULL LIMIT 5);
                   UPDATE f SET a = 1 WHERE ctid IN (SELECT ctid FROM f WHERE a IS NULL LIMIT 5);
                   UPDATE part SET b = 'q' WHERE ctid IN (SELECT ctid FROM part_1 LIMIT 50) AND a = 1;
                   UPDATE part SET a = 1 WHERE ctid IN (SELECT ctid FROM part_2 LIMIT 50) AND a <> 1;
                   DELETE FROM part_1 WHERE ctid IN (SELECT ctid FROM part_1 LIMIT 30);
                   UPDATE toasted SET b = 'c' WHERE a = 1; DELETE FROM toasted WHERE ctid IN (SELECT ctid FROM toasted LIMIT 7);
                   UPDATE more SET b = 'n' WHERE a < 5; DELETE FROM more WHERE a = 9;
                   DELETE FROM bare WHERE ctid IN (SELECT ctid FROM bare LIMIT 4)"#,
            )
            .await;
        // These changes do not know of the column, and may not lose what the target has in it.
        stage.run("ALTER TABLE more ADD own int DEFAULT 8").await;
        let (_, stats) = stage.apply().await;
        for table in ["f", "part_1", "part_2", "toasted", "bare"] {
            assert_eq!(rows(&stage.source, table).await, rows(&stage.target, table).await, "{table}");
        }
        assert_eq!(fallbacks(&stats), 0);
        let kept: i64 =
            stage.target.query_one("SELECT count(*) FROM more WHERE own = 9", &[]).await.unwrap().get(0);
        assert_eq!(kept, 9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_and_generated_columns_are_left_to_the_target() {
    let stage = Stage::new(
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, w int GENERATED ALWAYS AS (v + 1) STORED);
         CREATE TABLE b (k int PRIMARY KEY, id int GENERATED ALWAYS AS IDENTITY, v int);
         CREATE TABLE only_key (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);",
    )
    .await;
    stage.run("INSERT INTO a (v) SELECT generate_series(1, 300); INSERT INTO b (k, v) SELECT g, g FROM generate_series(1, 5) g").await;
    stage.run("INSERT INTO only_key SELECT FROM generate_series(1, 3)").await;
    stage.run("UPDATE a SET v = v + 1 WHERE id < 50; UPDATE only_key SET id = DEFAULT WHERE id = 2").await;
    stage.apply().await;
    stage.assert_equal().await;
    stage.run("UPDATE b SET v = 0 WHERE k < 3; UPDATE b SET id = DEFAULT, v = 1 WHERE k = 4; DELETE FROM a WHERE id > 290").await;
    stage.run("UPDATE a SET id = DEFAULT WHERE id = 7").await;
    stage.apply().await;
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_takes_its_flags_along() {
    let stage = Stage::new(
        "CREATE TABLE p (id serial PRIMARY KEY, v int);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p);
         CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent);
         ALTER TABLE child ADD PRIMARY KEY (id);
         CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
         CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);",
    )
    .await;
    let fill = "INSERT INTO p (v) VALUES (1), (2); INSERT INTO c SELECT id, id FROM p;
        INSERT INTO parent VALUES (1) ON CONFLICT DO NOTHING; INSERT INTO child VALUES (1), (2);
        INSERT INTO part VALUES (1), (11)";
    stage.run(fill).await;
    stage.run("TRUNCATE p RESTART IDENTITY CASCADE; TRUNCATE ONLY parent; TRUNCATE part_1").await;
    stage.run("INSERT INTO p (v) VALUES (3)").await;
    stage.apply().await;
    stage.assert_equal().await;
    assert_eq!(rows(&stage.target, "child").await.len(), 2);
    assert_eq!(rows(&stage.target, "part_2").await.len(), 1);
    let next: i64 = stage.target.query_one("SELECT nextval('p_id_seq')", &[]).await.unwrap().get(0);
    assert_eq!(next, 1, "the sequence began again");
    stage.run("TRUNCATE part, parent, c, p").await;
    stage.apply().await;
    stage.assert_equal().await;
    assert!(rows(&stage.target, "child").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_goes_ahead_of_constraints_that_wait() {
    let stage = Stage::new(
        "CREATE TABLE p (id int PRIMARY KEY);
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    .await;
    stage.run("BEGIN; INSERT INTO c VALUES (1, 1); INSERT INTO p VALUES (1); COMMIT").await;
    stage.run("TRUNCATE c, p").await;
    stage.run("BEGIN; INSERT INTO c VALUES (2, 2); INSERT INTO p VALUES (2); COMMIT").await;
    // Without the replica role the foreign key is checked on the target, too.
    let mut options = stage.options().await;
    options.replica_role = ReplicaRole::Denied;
    let applier = Applier::start(options).await.unwrap();
    applier.input().send(stage.items().await).await.unwrap();
    applier.finish().await.unwrap();
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_does_not_empty_what_was_copied_later() {
    let mut stage = Stage::new(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)",
    )
    .await;
    stage.run("INSERT INTO p VALUES (1); INSERT INTO c VALUES (1, 1)").await;
    stage.apply().await;
    stage.run("TRUNCATE p CASCADE").await;
    stage.run("INSERT INTO p VALUES (2); INSERT INTO c VALUES (2, 2)").await;
    // "c" is copied now; "p" comes by the stream alone.
    stage.watermarks.push((QualifiedName::new("public", "c"), stage.lsn().await));
    stage
        .target
        .batch_execute("SET session_replication_role = replica; TRUNCATE c; INSERT INTO c VALUES (2, 2)")
        .await
        .unwrap();
    stage.run("INSERT INTO c VALUES (3, 2)").await;
    stage.apply().await;
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_savepoints_of_streamed_transactions_leave_nothing() {
    let stage = Stage::new(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE o (id int PRIMARY KEY, v text)",
    )
    .await;
    let fill = |from: u32, to: u32| {
        format!("INSERT INTO t SELECT g, repeat('v', 100) FROM generate_series({from}, {to}) g")
    };
    let sql = format!(
        "BEGIN; {}; SAVEPOINT a; {}; SAVEPOINT b; {}; UPDATE t SET v = 'b' WHERE id < 500; ROLLBACK TO b; {}; ROLLBACK TO a;
         ALTER TABLE o ADD COLUMN w int; SAVEPOINT c; INSERT INTO o SELECT g, repeat('w', 100), g FROM generate_series(1, 3000) g;
         RELEASE c; UPDATE t SET v = 'c' WHERE id % 2 = 0; DELETE FROM t WHERE id % 3 = 0; COMMIT",
        fill(1, 3000), fill(3001, 6000), fill(6001, 9000), fill(9001, 12_000)
    );
    stage.run(&sql).await;
    stage.run(&format!("BEGIN; {}; ROLLBACK", fill(20_001, 24_000))).await;
    stage.target.batch_execute("ALTER TABLE o ADD COLUMN w int").await.unwrap();
    let items = stage.items().await;
    assert!(has_message(&items, b'S') && has_message(&items, b'A'), "the transactions were streamed");
    let mut options = stage.options().await;
    options.stash_memory_bytes = 10_000;
    options.bounds = GroupBounds { changes: 700, ..GroupBounds::default() };
    let applier = Applier::start(options).await.unwrap();
    applier.input().send(items).await.unwrap();
    let stats = applier.stats();
    applier.finish().await.unwrap();
    stage.assert_equal().await;
    assert_eq!(stats.groups.load(Ordering::Relaxed), 1, "one transaction stays one transaction");
}

fn has_message(items: &[StreamItem], tag: u8) -> bool {
    items.iter().any(|item| matches!(item, StreamItem::Data { message, .. } if message.first() == Some(&tag)))
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_may_stand_in_another_order_and_triggers_see_every_change() {
    let source = "CREATE TABLE t (id int PRIMARY KEY, a text, b int); CREATE TABLE audit (what text)";
    let target = "CREATE TABLE t (b int, a text, id int PRIMARY KEY); CREATE TABLE audit (what text);
        CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.audit VALUES (TG_OP || coalesce(NEW.a, OLD.a)); RETURN NULL; END $$;
        CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION log();
        ALTER TABLE t ENABLE ALWAYS TRIGGER log";
    let stage = Stage::with(source, target, Values::Text).await;
    stage.run("BEGIN; INSERT INTO t VALUES (1, 'x', 1); UPDATE t SET a = 'y'; UPDATE t SET a = 'z'; DELETE FROM t; COMMIT").await;
    stage.run("INSERT INTO t VALUES (2, 'w', 1)").await;
    stage.apply().await;
    let seen: Vec<String> = stage
        .target
        .query("SELECT what FROM audit", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(seen, ["INSERTx", "UPDATEy", "UPDATEz", "DELETEz", "INSERTw"]);
    assert_eq!(rows(&stage.target, "t").await, ["a='w', b='1', id='2'"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_confirms_what_the_keepalive_says() {
    let stage = Stage::new("CREATE TABLE t (id int PRIMARY KEY)").await;
    let applier = stage.applier().await;
    let mut positions = applier.positions();
    stage.run("SELECT pg_logical_emit_message(false, 'x', 'y'); CHECKPOINT").await;
    let items = stage.items().await;
    let Some(StreamItem::Keepalive { wal_end, .. }) = items.last().cloned() else {
        panic!("ends with a keepalive")
    };
    applier.input().send(items).await.unwrap();
    positions.wait_for(|positions| positions.watermark.confirmed() == wal_end).await.unwrap();
    // Inside a transaction a keepalive confirms nothing, not even at the end.
    stage.run("INSERT INTO t VALUES (1)").await;
    let items = stage.items().await;
    let [whole @ .., _commit, keepalive] = items.as_slice() else {
        panic!("ends with a commit and a keepalive")
    };
    applier.input().send([whole, std::slice::from_ref(keepalive)].concat()).await.unwrap();
    let end = applier.finish().await.unwrap();
    assert_eq!(end.watermark.confirmed(), wal_end);
    // Behind it, it does.
    let (end, _) = stage.apply_items(items).await.unwrap();
    assert_eq!(end.watermark.confirmed(), end.watermark.received());
    stage.assert_equal().await;
}

fn fallbacks(stats: &ApplyStats) -> u64 {
    FallbackReason::ALL.iter().map(|reason| stats.fallbacks(*reason)).sum()
}
