//! Rows of every shape arrive: whatever their columns are called, in whatever order, how many there are, how large
//! one is.

use crate::support::eventually;
use crate::support::migration::{FULL, RUN, STOP, words};
use crate::support::scenario::{Scenario, Side, source_options, target_options};

/// Text that COPY's text format has to escape, and values that travel in no other (P60).
const TEXT_ONLY: &str = r#"
    CREATE TYPE pair AS (a int, b text);
    CREATE TABLE text_only (id int PRIMARY KEY, q tsquery, r regclass, p pair, ps pair[], v text, b bytea);
    INSERT INTO text_only SELECT i, ('fat & !(rat | ' || i || ')')::tsquery, 'pg_class', ROW(i, E'"),(\\')::pair,
            ARRAY[ROW(NULL, E'\t')::pair, NULL],
            (ARRAY[E'\\N', E'\\.', 'null', '', NULL, E'a\tb\nc\rd', E'\\', E'\\\\.\n\\.\n', E'\u2028"''', E'\x01\x7f', ' '])[1 + i % 11],
            decode(lpad(to_hex(i), 8, '0') || '00ff5c5c2e0a', 'hex')
        FROM generate_series(1, 20000) AS i"#;

/// Shapes that need a word of their own in a COPY.
const SHAPES: &str = r#"
    CREATE TABLE dropped (gone int, a int, gone_too text, b text, gone_at_last int);
    INSERT INTO dropped SELECT -i, i, 'gone', i FROM generate_series(1, 300) AS i;
    ALTER TABLE dropped DROP COLUMN gone, DROP COLUMN gone_too, ADD COLUMN c int DEFAULT 7;
    INSERT INTO dropped SELECT i, 'later', i, NULL FROM generate_series(301, 400) AS i;
    ALTER TABLE dropped DROP COLUMN gone_at_last;

    CREATE TABLE parent (a text, b text, c text);
    CREATE TABLE child (c text, extra int, b text, a text);
    INSERT INTO parent SELECT 'a', 'b', 'c' FROM generate_series(1, 50);
    INSERT INTO child SELECT 'c' || i, i, 'b' || i, 'a' || i FROM generate_series(1, 20000) AS i;
    ALTER TABLE child INHERIT parent;

    CREATE TABLE nothing ();
    INSERT INTO nothing SELECT FROM generate_series(1, 5);
    CREATE TABLE nothing_left (gone int);
    INSERT INTO nothing_left SELECT generate_series(1, 3000);
    ALTER TABLE nothing_left DROP COLUMN gone;
    CREATE TABLE empty (id int PRIMARY KEY, v text);
    CREATE TABLE all_null (a int, b text, c numeric);
    INSERT INTO all_null SELECT FROM generate_series(1, 20000);

    CREATE SCHEMA "We ""said"" 100%s.ünï \n ";
    CREATE TABLE "We ""said"" 100%s.ünï \n "."a.b 'c' %1$s ; --" (
        "ID" int PRIMARY KEY, "a""b" text, "%" text, " " text, "日本 語" text, "$1" text, "back\slash" text, "tab	" text,
        "sixty-three bytes are what a name of PostgreSQL may have at mos" text, "select" text, "{}" text, "a,b" text, "(x)" text);
    INSERT INTO "We ""said"" 100%s.ünï \n "."a.b 'c' %1$s ; --"
        SELECT i, 'q' || i, 'p', 's', 'j', 'd', 'b', 't', 'l', 'k', 'f', 'c', i FROM generate_series(1, 20000) AS i;

    DO $$ BEGIN
        EXECUTE (SELECT 'CREATE TABLE widest (' || string_agg(format('c%s int2', i), ', ' ORDER BY i) || ', PRIMARY KEY (c7))'
                   FROM generate_series(1, 1600) AS i);
        EXECUTE (SELECT 'INSERT INTO widest SELECT '
                     || string_agg(CASE WHEN i = 7 THEN 'g' WHEN i % 3 = 0 THEN 'NULL' ELSE format('(g * %s) %% 30000', i) END, ', ' ORDER BY i)
                     || ' FROM generate_series(1, 400) AS g'
                   FROM generate_series(1, 1600) AS i);
    END $$"#;

/// Before 12 there are none.
const GENERATED: &str = "
    CREATE TABLE generated_only (g int GENERATED ALWAYS AS (4 + 4) STORED);
    INSERT INTO generated_only SELECT FROM generate_series(1, 4)";

#[tokio::test]
async fn tables_of_every_shape_arrive_whole_and_in_parts() {
    let scenario = Scenario::own("shapes").await;
    let Scenario { source, target } = &scenario;
    source.execute(TEXT_ONLY).await;
    source.execute(SHAPES).await;
    if source.major() >= 12 {
        source.execute(GENERATED).await;
    }
    let before = source.footprint().await;
    let parts = ["--split-tables-larger-than", "200kB", "--copy-jobs", "3"];
    scenario.migrate(&words(&[&STOP, &FULL, &parts])).wait(RUN).await.expect_code(0);
    scenario.assert_rows_equal().await;
    for table in ["child", "dropped", "widest"] {
        same_values(&scenario, table).await;
    }
    // Without that the claim would be smaller than it seems.
    let order = "SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute
                  WHERE attrelid = 'child'::regclass AND attnum > 0 AND NOT attisdropped";
    assert_ne!(source.value::<String>(order).await, target.value::<String>(order).await);
    scenario.assert_source_clean(&before).await;
}

/// The same, as the two servers themselves put it: column by name, row by row.
async fn same_values(scenario: &Scenario, table: &str) {
    let sql = format!(
        "SELECT count(*) || ' ' || md5(string_agg(md5(j::text), '' ORDER BY md5(j::text))) FROM
            (SELECT to_jsonb(t) AS j FROM ONLY {table} AS t) AS rows"
    );
    let (source, target): (String, String) =
        (scenario.source.value(&sql).await, scenario.target.value(&sql).await);
    assert_eq!(source, target, "{table}");
}

/// The most memory that a process has had so far, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the engine runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[tokio::test]
async fn a_row_of_half_a_gigabyte_arrives_in_memory_that_is_a_fraction_of_it() {
    const MEMORY_MAX: u64 = 128 << 20;
    let scenario = Scenario::own_with("huge_row", source_options(), target_options()).await;
    let Scenario { source, target } = &scenario;
    // One part holds it; others lie before and behind.
    source
        .execute(
            "CREATE TABLE huge (id int PRIMARY KEY, v text);
             ALTER TABLE huge ALTER v SET STORAGE EXTERNAL;
             INSERT INTO huge SELECT i, repeat('x', 300) FROM generate_series(1, 5000) AS i;
             INSERT INTO huge SELECT 0, repeat(md5('one'), 500 * 32768);
             INSERT INTO huge SELECT i, repeat('y', 300) FROM generate_series(5001, 10000) AS i",
        )
        .await;
    let engine = scenario.migrate(&["--split-tables-larger-than", "128MB", "--copy-jobs", "2"]);
    let following = "SELECT phase = 'following' FROM pgstream.migration";
    eventually("it follows", async || target.holds(following).await).await;
    let peak = peak_memory(engine.pid().expect("it runs"));
    engine.interrupt().await;
    engine.wait(RUN).await.expect_code(0);
    let sum = "SELECT count(*) || ' ' || sum(octet_length(v)) || ' ' || max(md5(v)) FILTER (WHERE id = 0)
                   || ' ' || md5(string_agg(v, '' ORDER BY id) FILTER (WHERE id > 0)) FROM huge";
    let value = async |side: &Side| side.value::<String>(sum).await;
    assert_eq!(value(target).await, value(source).await);
    eprintln!("peak memory of the engine: {} MB", peak >> 20);
    assert!(peak < MEMORY_MAX, "{} MB", peak >> 20);
    scenario.stop_replication(&[]).await;
}
