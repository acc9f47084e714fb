//! Two servers joined by a COPY: every row arrives, of any size, and after any failure each connection is
//! either fit for the next statement or says that it is not.

use pgstream::error::{Error, ErrorKind};
use pgstream::pg::{Conninfo, SqlState};
use pgstream::wire::{Connection, ConnectionSettings, Meter, Spliced, splice};

use crate::support::scenario::{Scenario, Side};

const INTO: &str = "COPY public.t FROM STDIN";

async fn connect(side: &Side) -> Connection {
    let conninfo: Conninfo = side.cluster.conninfo(&side.dbname);
    Connection::connect(&conninfo, &ConnectionSettings::sql("test")).await.expect("a server of ours")
}

/// Both ends of a copy.
struct Pair {
    source: Connection,
    target: Connection,
}

impl Pair {
    /// With `table` created on the target.
    async fn new(name: &str, table: &str) -> Pair {
        let scenario = Scenario::shared(name).await;
        let (source, mut target) = (connect(&scenario.source).await, connect(&scenario.target).await);
        target.execute(table).await.expect("a table");
        Pair { source, target }
    }

    async fn splice(&mut self, out: &str, into: &str, meter: &Meter) -> Result<Spliced, Error> {
        splice(&mut self.source, out, &mut self.target, into, meter).await
    }

    async fn on_target(&mut self, sql: &str) -> String {
        let rows = self.target.query(sql).await.expect("an answer");
        rows[0].get(0).expect("a value").to_owned()
    }

    /// Each connection answers the next question rightly, or refuses it.
    async fn assert_sound(&mut self) {
        for connection in [&mut self.source, &mut self.target] {
            let usable = connection.is_usable();
            match connection.query("SELECT 42").await {
                Ok(rows) => assert_eq!((usable, rows[0].get(0)), (true, Some("42"))),
                Err(error) => assert!(!usable, "{error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_million_small_rows_arrive_and_are_counted() {
    let mut pair = Pair::new("million", "CREATE UNLOGGED TABLE public.t (a int8, b text)").await;
    let meter = Meter::default();
    let out = "COPY (SELECT g, 'row ' || g FROM pg_catalog.generate_series(1, 1000000) g) TO STDOUT (FORMAT binary)";
    let out = out.replace("SELECT g,", "SELECT g::int8,");
    let spliced = pair.splice(&out, &format!("{INTO} (FORMAT binary)"), &meter).await.unwrap();
    assert_eq!(spliced.rows, 1_000_000);
    assert_eq!(spliced.bytes, meter.bytes());
    let sum = "SELECT pg_catalog.sum(a)::text || ' ' || pg_catalog.count(DISTINCT b) FROM public.t";
    assert_eq!(pair.on_target(sum).await, "500000500000 1000000");
    pair.assert_sound().await;
}

#[tokio::test]
async fn one_huge_row_arrives_whole() {
    const ROW_BYTES: u64 = 200 << 20;
    let table = "CREATE UNLOGGED TABLE public.t (a text); ALTER TABLE public.t ALTER a SET STORAGE EXTERNAL";
    let mut pair = Pair::new("huge", table).await;
    let meter = Meter::default();
    let out = format!("COPY (SELECT pg_catalog.repeat('0123456789abcdef', {})) TO STDOUT", ROW_BYTES / 16);
    let spliced = pair.splice(&out, INTO, &meter).await.unwrap();
    assert_eq!(spliced, Spliced { rows: 1, bytes: ROW_BYTES + 1 });
    let ends = "SELECT pg_catalog.octet_length(a) || pg_catalog.substr(a, 1, 3) || pg_catalog.right(a, 3) FROM public.t";
    assert_eq!(pair.on_target(ends).await, format!("{ROW_BYTES}012def"));
    pair.assert_sound().await;
}

#[tokio::test]
async fn a_source_that_fails_midway_leaves_nothing_on_the_target() {
    let mut pair = Pair::new("source_fails", "CREATE TABLE public.t (a int)").await;
    let out = "COPY (SELECT 1 / (900000 - g) FROM pg_catalog.generate_series(1, 1000000) g) TO STDOUT";
    let meter = Meter::default();
    let error = pair.splice(out, INTO, &meter).await.unwrap_err();
    assert_eq!(error.sqlstate().unwrap().code(), "22012");
    assert!(meter.bytes() > 1 << 20, "it failed midway, when the source was read by naps");
    pair.assert_sound().await;
    assert_eq!(pair.on_target("SELECT pg_catalog.count(*) FROM public.t").await, "0");
    // And both go on.
    let out = "COPY (VALUES (1), (2)) TO STDOUT";
    assert_eq!(pair.splice(out, INTO, &meter).await.unwrap().rows, 2);
}

#[tokio::test]
async fn a_target_that_fails_midway_is_heard_at_once() {
    let mut pair = Pair::new("target_fails", "CREATE TABLE public.t (a int PRIMARY KEY, b text)").await;
    // The violation comes early, and the source's rows would go on for minutes. In the SELECT list the
    // series streams; in FROM the server would first write all of it down.
    let out = "COPY (SELECT g % 50000, 'x' FROM (SELECT pg_catalog.generate_series(1, 2000000000) AS g) s) TO STDOUT";
    let error = pair.splice(out, INTO, &Meter::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::Sql, Some(SqlState::UNIQUE_VIOLATION)));
    pair.assert_sound().await;
    let source_ended = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity \
                        WHERE query LIKE 'COPY (SELECT g % 50000%' AND state = 'active'";
    let elsewhere = Scenario::shared("target_fails_seen").await.source;
    crate::support::eventually("the source stops", async || elsewhere.value::<i64>(source_ended).await == 0)
        .await;
}

#[tokio::test]
async fn a_statement_refused_at_the_start_spoils_neither_side() {
    let mut pair = Pair::new("refused", "CREATE TABLE public.t (a int)").await;
    let meter = Meter::default();
    let (good, bad) = ("COPY (SELECT 1) TO STDOUT", "COPY public.nowhere TO STDOUT");
    let error = pair.splice(bad, INTO, &meter).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::UNDEFINED_TABLE));
    pair.assert_sound().await;
    let error = pair.splice(good, "COPY public.nowhere FROM STDIN", &meter).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some(SqlState::UNDEFINED_TABLE));
    pair.assert_sound().await;
    let error = pair.splice(good, &format!("{INTO} (FORMAT binary)"), &meter).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Copy, "the formats differ");
    pair.assert_sound().await;
    assert_eq!(pair.splice(good, INTO, &meter).await.unwrap().rows, 1);
}

#[tokio::test]
async fn rows_that_a_trigger_drops_are_missed() {
    let table = "CREATE TABLE public.t (a int); \
                 CREATE FUNCTION public.odd() RETURNS trigger LANGUAGE plpgsql AS \
                 'begin if new.a % 2 = 0 then return null; end if; return new; end'; \
                 CREATE TRIGGER odd BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.odd()";
    let mut pair = Pair::new("trigger", table).await;
    let out = "COPY (SELECT g FROM pg_catalog.generate_series(1, 10) g) TO STDOUT";
    let error = pair.splice(out, INTO, &Meter::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Copy);
    pair.assert_sound().await;
}
