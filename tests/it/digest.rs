//! Equal content gives equal digests whatever its order, and the smallest difference shows.

use crate::support::scenario::Scenario;

const SCHEMA: &str = "
    CREATE TABLE t (id int PRIMARY KEY, \"Größe\" text, f float8, p point, a float4[], d date);
    CREATE TABLE bag (a text, b text);
    CREATE TABLE nothing ();
    CREATE SEQUENCE seq INCREMENT -3 MAXVALUE 100;";

const ROWS: &[&str] = &[
    "INSERT INTO t VALUES (1, 'a', 0.1 + 0.2::float8, '(1,2)', '{0.1,NULL}', '2024-02-29')",
    "INSERT INTO t VALUES (2, '', 'NaN', NULL, '{}', 'infinity')",
    "INSERT INTO t VALUES (3, NULL, '-0', '(0,-0)', NULL, NULL)",
    "INSERT INTO bag VALUES ('x', 'y'), ('x', 'y'), (NULL, '1:a'), ('a1:', NULL)",
    "INSERT INTO nothing DEFAULT VALUES",
    "SELECT lo_from_bytea(77, 'A')",
];

async fn filled(name: &str) -> Scenario {
    let scenario = Scenario::shared(name).await;
    for side in [&scenario.source, &scenario.target] {
        side.execute(SCHEMA).await;
        if side.major() >= 12 {
            side.execute("ALTER TABLE t ADD COLUMN g int GENERATED ALWAYS AS (id * 2) STORED").await;
        }
    }
    for row in ROWS {
        scenario.source.execute(row).await;
    }
    for row in ROWS.iter().rev() {
        scenario.target.execute(row).await;
    }
    scenario
}

#[tokio::test]
async fn equal_rows_in_another_order_are_equal() {
    let scenario = filled("order").await;
    scenario.assert_equal().await;
    if scenario.source.major() == scenario.target.major() {
        scenario.assert_same_schema().await;
    }
}

#[tokio::test]
async fn columns_in_another_order_are_equal() {
    let scenario = Scenario::shared("columns").await;
    scenario.source.execute("CREATE TABLE t (a int, b text); INSERT INTO t VALUES (1, 'x')").await;
    scenario.target.execute("CREATE TABLE t (b text, a int); INSERT INTO t VALUES ('x', 1)").await;
    scenario.assert_equal().await;
}

#[tokio::test]
async fn settings_of_the_role_do_not_change_the_digest() {
    let scenario = filled("settings").await;
    let dbname = &scenario.target.dbname;
    let change = |name, value| format!("ALTER DATABASE {dbname} SET {name} = '{value}'");
    for (name, value) in [("datestyle", "German"), ("extra_float_digits", "-3"), ("bytea_output", "escape")] {
        scenario.target.execute(&change(name, value)).await;
    }
    scenario.assert_equal().await;
}

#[tokio::test]
async fn the_smallest_difference_shows() {
    let scenario = filled("difference").await;
    let changes = [
        ("public.t", "UPDATE t SET f = 0.3 WHERE id = 1", "UPDATE t SET f = 0.1::float8 + 0.2 WHERE id = 1"),
        (
            "public.t",
            "UPDATE t SET \"Größe\" = NULL WHERE id = 2",
            "UPDATE t SET \"Größe\" = '' WHERE id = 2",
        ),
        ("public.t", "UPDATE t SET f = 0 WHERE id = 3", "UPDATE t SET f = '-0' WHERE id = 3"),
        (
            "public.t",
            "UPDATE t SET d = '2024-03-01' WHERE id = 1",
            "UPDATE t SET d = '2024-02-29' WHERE id = 1",
        ),
        (
            "public.bag",
            "INSERT INTO bag VALUES ('x', 'y')",
            "DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag WHERE a = 'x')",
        ),
        (
            "public.bag",
            "UPDATE bag SET a = NULL, b = 'a1:' WHERE b IS NULL",
            "UPDATE bag SET a = 'a1:', b = NULL WHERE b = 'a1:'",
        ),
        ("public.nothing", "INSERT INTO nothing DEFAULT VALUES", "DELETE FROM nothing WHERE ctid = '(0,2)'"),
        ("large objects", "SELECT lo_put(77, 0, 'B')", "SELECT lo_put(77, 0, 'A')"),
        ("large objects", "SELECT lo_create(78)", "SELECT lo_unlink(78)"),
        ("public.extra", "CREATE TABLE extra ()", "DROP TABLE extra"),
        ("public.seq", "SELECT setval('seq', 100, true)", "SELECT setval('seq', 100, false)"),
        ("public.t", "ALTER TABLE t ADD COLUMN more int", "ALTER TABLE t DROP COLUMN more"),
    ];
    for (name, change, undo) in changes {
        scenario.target.execute(change).await;
        let comparison = scenario.compare().await;
        let relations = comparison.differing_relations().map(|relation| relation.name.plain());
        let sequences = comparison.differing_sequences().map(|sequence| sequence.name.plain());
        let large_objects = (!comparison.large_objects_equal()).then(|| "large objects".to_owned());
        let differing: Vec<String> = relations.chain(sequences).chain(large_objects).collect();
        assert_eq!(differing, [name], "after {change}");
        scenario.target.execute(undo).await;
    }
    scenario.assert_equal().await;
}

#[tokio::test]
async fn another_encoding_does_not_change_the_digest() {
    let scenario = Scenario::shared("encoding").await;
    let latin = format!("{}_latin", scenario.target.dbname);
    let create = format!("CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1'");
    scenario.target.execute_alone(&create).await;
    let target = crate::support::scenario::Side { dbname: latin, ..scenario.target.clone() };
    let scenario = Scenario { target, ..scenario };
    for side in [&scenario.source, &scenario.target] {
        side.execute("CREATE TABLE t (a text); INSERT INTO t VALUES ('Größe'), (NULL)").await;
    }
    scenario.assert_equal().await;
    scenario.target.execute("UPDATE t SET a = 'Grösse' WHERE a = 'Größe'").await;
    assert!(!scenario.compare().await.is_equal());
}

#[tokio::test]
async fn a_generated_column_is_not_content() {
    let scenario = filled("generated").await;
    if scenario.target.major() >= 12 {
        scenario.target.execute("ALTER TABLE t DROP COLUMN g").await;
    }
    scenario.assert_equal().await;
}
