//! Values of awkward types arrive as they were sent, by every way into a table.

use pgstream::apply::FallbackReason;
use pgstream::catalog::{self, BinaryForm};

use super::stage::{Stage, Values};

const TYPES: &str = r#"
CREATE EXTENSION citext;
CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'NULL');
CREATE DOMAIN short AS varchar(12) CHECK (VALUE <> 'forbidden');
CREATE DOMAIN numbers AS int[];
CREATE TYPE pair AS (a int, "B b" text, c text[]);
CREATE TYPE span AS RANGE (subtype = text);
CREATE TABLE "Odd ""Table" (
    id int PRIMARY KEY,
    "b" boolean, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, n2 numeric(10,2), m money,
    t text, v varchar(20), c char(5), "ch" "char", na name, by bytea, bi bit(5), vb varbit(9),
    d date, tm time(3), ttz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid,
    j json, jb jsonb, x xml, p point, bx box, ci circle, pg polygon, inet inet, cidr cidr, mac macaddr,
    tsv tsvector, tsq tsquery, o oid, rc regclass, lsn pg_lsn,
    md mood, sh short, ns numbers, pr pair, sp span, ir int4range, nm nummultirange,
    ia int[], ia2 int[][], ta text[], ma mood[], pa pair[], ba box[], bya bytea[], sha short[], ha hstore[],
    cit citext, h hstore, g int GENERATED ALWAYS AS (i2 * 2) STORED
);
"#;

type Telling = (&'static str, &'static str, &'static str);

/// Column, a telling value, an empty one (but for tsquery, whose receive function refuses empty ones).
#[rustfmt::skip]
const COLUMNS: &[Telling] = &[
    ("b", "true", "NULL"),
    ("i2", "-3", "NULL"),
    ("i8", "9223372036854775807", "NULL"),
    ("f4", "'-0'", "'0'"),
    ("f8", "'NaN'", "'-Infinity'"),
    ("n", "'NaN'", "'1.000'"),
    ("n2", "12345678.90", "NULL"),
    ("m", "'$1,234.50'", "NULL"),
    ("t", r#"E'tab\there "quoted" \\back\\slash {brace},comma\r\nnew'"#, "''"),
    ("v", "'null'", "''"),
    ("c", "'ab'", "''"),
    ("ch", "'x'", "NULL"),
    ("na", "'na me'", "NULL"),
    ("by", r#"'\x00ff5c'"#, "''"),
    ("bi", "'10101'", "NULL"),
    ("vb", "'101'", "''"),
    ("d", "'0044-03-15 BC'", "NULL"),
    ("tm", "'23:59:59.999'", "NULL"),
    ("ttz", "'12:00:00+05:30'", "NULL"),
    ("ts", "'infinity'", "NULL"),
    ("tstz", "'2024-02-29 12:34:56.789+00'", "NULL"),
    ("iv", "'1 year -2 days 03:00'", "NULL"),
    ("u", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "NULL"),
    ("j", r#"'{"a":  [1,2.0, null], "a": "\u0041"}'"#, "'null'"),
    ("jb", r#"'{"a": 1.00}'"#, "'null'"),
    ("x", "'<a>x &amp; y</a>'", "NULL"),
    ("p", "'(1.5,-2)'", "NULL"),
    ("bx", "'((1,2),(3,4))'", "NULL"),
    ("ci", "'<(1,1),2>'", "NULL"),
    ("pg", "'((0,0),(1,1),(1,0))'", "NULL"),
    ("inet", "'10.0.0.1/8'", "NULL"),
    ("cidr", "'10.0.0.0/8'", "NULL"),
    ("mac", "'08:00:2b:01:02:03'", "NULL"),
    ("tsv", "'''it''s'':1 fat:2'", "''"),
    ("tsq", "'fat & !rat'", "'x'"),
    ("o", "4294967295", "NULL"),
    ("rc", "'pg_class'", "NULL"),
    ("lsn", "'FF/AB'", "NULL"),
    ("md", r#"'it''s "ok"'"#, "NULL"),
    ("sh", r#"'dom,"ain'"#, "NULL"),
    ("ns", "'{1,NULL,3}'", "'{}'"),
    ("pr", r#"ROW(1, 'a "b",c', '{x,NULL,"NULL"}')::pair"#, "ROW(NULL, NULL, NULL)::pair"),
    ("sp", r#"'["a,b","c\"d")'"#, "'empty'"),
    ("ir", "'[1,10)'", "'empty'"),
    ("nm", "'{[1,2),[3,4)}'", "'{}'"),
    ("ia", "'[2:3]={7,8}'", "'{}'"),
    ("ia2", "'{{1,2},{3,4}}'", "'{}'"),
    ("ta", r#"'{"NULL",NULL,"","a\\b","{x}"}'"#, "'{}'"),
    ("ma", r#"'{sad,NULL,"NULL"}'"#, "'{}'"),
    ("pa", "ARRAY[ROW(1,'x',NULL)::pair, NULL]", "'{}'"),
    ("ba", "'{(3,4),(1,2);(1,1),(0,0)}'", "'{}'"),
    ("bya", r#"'{"\\x00",NULL}'"#, "'{}'"),
    ("sha", r#"'{a,"b c"}'"#, "'{}'"),
    ("ha", "ARRAY['a=>1, b=>NULL'::hstore]", "'{}'"),
    ("cit", "'MiXed'", "''"),
    ("h", r#"'a=>"1", "b c"=>NULL'"#, "''"),
];

async fn travel(values: Values) {
    // Types and columns in another order have other OIDs and numbers on the target.
    let target = format!("CREATE TYPE first AS (a int); {TYPES}")
        .replace("b\" boolean, i2 int2,", "b\" boolean, gone int[], i2 int2,")
        + r#"ALTER TABLE "Odd ""Table" DROP COLUMN gone;"#;
    let stage = Stage::with(TYPES, &target, values).await;
    let columns = match values {
        Values::Text => COLUMNS.to_vec(),
        // One column without a binary form makes a stream text (P60).
        Values::Binary => {
            let table = catalog::load(&stage.source).await.unwrap().tables.remove(0);
            let opaque = |name: &str| table.column(name).unwrap().binary == BinaryForm::Opaque;
            let (opaque, rest): (Vec<Telling>, Vec<Telling>) =
                COLUMNS.iter().copied().partition(|(name, ..)| opaque(name));
            let names: Vec<&str> = opaque.iter().map(|(name, ..)| *name).collect();
            assert_eq!(names, ["tsq", "rc"]);
            for end in [&stage.source, &stage.target] {
                let drop = r#"ALTER TABLE "Odd ""Table" DROP COLUMN tsq, DROP COLUMN rc"#;
                end.batch_execute(drop).await.unwrap();
            }
            rest
        }
    };
    let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
    let names = names.join(", ");
    let row = |pick: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        columns.iter().map(pick).collect::<Vec<_>>().join(", ")
    };
    let rows = [row(|(_, full, _)| full), row(|(_, _, empty)| empty), row(|_| "NULL")];
    let insert = |id: &str, row: &str, from: &str| {
        format!(r#"INSERT INTO "Odd ""Table" (id, {names}) SELECT {id}, {row} {from}"#)
    };
    // A few rows go by INSERT, many by COPY.
    for (id, row) in (1..).zip(&rows) {
        stage.run(&insert(&id.to_string(), row, "")).await;
    }
    arrive(&stage).await;
    for (at, row) in rows.iter().enumerate() {
        let first = 100 + 150 * at;
        stage.run(&insert("g", row, &format!("FROM generate_series({first}, {}) g", first + 149))).await;
    }
    arrive(&stage).await;
    // Every column of every row updated to that of another row, then some deleted.
    stage
        .run(&format!(
            r#"UPDATE "Odd ""Table" t SET ({names}) = (SELECT {names} FROM "Odd ""Table" s WHERE s.id = 1 + t.id % 3)
               WHERE t.id > 3; DELETE FROM "Odd ""Table" WHERE id % 5 = 0"#
        ))
        .await;
    arrive(&stage).await;
    // The same with the whole row as identity: each column is compared, also those without equality.
    let keyless = r#"ALTER TABLE "Odd ""Table" DROP CONSTRAINT "Odd ""Table_pkey""#;
    stage.run(&format!(r#"{keyless}; ALTER TABLE "Odd ""Table" REPLICA IDENTITY FULL"#)).await;
    stage.target.batch_execute(keyless).await.unwrap();
    stage.run(r#"UPDATE "Odd ""Table" SET t = t || 'x', id = 7 WHERE id <= 112"#).await;
    stage.run(r#"DELETE FROM "Odd ""Table" WHERE id IN (7, 113, 114, 300, 500)"#).await;
    arrive(&stage).await;
}

/// Without a single replay.
async fn arrive(stage: &Stage) {
    let (_, stats) = stage.apply().await;
    stage.assert_equal().await;
    let replays: u64 = FallbackReason::ALL.iter().map(|reason| stats.fallbacks(*reason)).sum();
    assert_eq!(replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_values_arrive_as_text() {
    travel(Values::Text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn awkward_values_arrive_in_binary() {
    travel(Values::Binary).await;
}

/// A domain refuses the NULL that stands for what a row leaves out, and the key itself is an array.
#[tokio::test(flavor = "multi_thread")]
async fn arrays_as_keys_and_domains_that_refuse_null_arrive_in_binary() {
    let ddl = "CREATE DOMAIN must AS int NOT NULL;
        CREATE TYPE pair AS (a must, b text[]);
        CREATE TABLE k (k int[] PRIMARY KEY, m must, t text);
        CREATE TABLE d (id int PRIMARY KEY, m must, a text[], t text, p pair);
        ALTER TABLE d ALTER t SET STORAGE EXTERNAL;";
    let stage = Stage::with(ddl, ddl, Values::Binary).await;
    stage.run("INSERT INTO k SELECT ARRAY[g, NULL], g, 'x' FROM generate_series(1, 300) g").await;
    stage.run("INSERT INTO d SELECT g, g, ARRAY['a', NULL], repeat('long', 1000), ROW(1, '{x}')::pair FROM generate_series(1, 300) g").await;
    stage.apply().await;
    stage.assert_equal().await;
    stage.run("UPDATE k SET t = 'y', m = m + 1 WHERE m <= 100; DELETE FROM k WHERE m > 250; UPDATE k SET k = k || 1 WHERE m < 20").await;
    stage.run("UPDATE d SET a = a || 'z'::text WHERE id <= 100; DELETE FROM d WHERE id > 250").await;
    stage.apply().await;
    stage.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_several_spellings_arrive_as_spelled() {
    let stage = Stage::new(
        "CREATE EXTENSION citext;
         CREATE TABLE n (k numeric PRIMARY KEY, v int);
         CREATE TABLE c (k citext PRIMARY KEY, v int);
         CREATE TABLE f (k float8 PRIMARY KEY, v int);
         CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE l (k text COLLATE loose PRIMARY KEY, v int);",
    )
    .await;
    for table in ["n", "c", "f", "l"] {
        stage.run(&format!("INSERT INTO {table} VALUES ('7', 0), ('8', 0)")).await;
    }
    for (table, one, other) in [("n", "1.0", "1.00"), ("c", "a", "A"), ("f", "0", "-0"), ("l", "x", "X")] {
        stage
            .run(&format!(
                "INSERT INTO {table} VALUES ('{one}', 1); DELETE FROM {table};
                 INSERT INTO {table} VALUES ('{other}', 2); UPDATE {table} SET v = 3;
                 UPDATE {table} SET k = '{one}', v = 4; UPDATE {table} SET v = v + 1"
            ))
            .await;
    }
    stage.apply().await;
    stage.assert_equal().await;
}
