//! Statements sent without waiting: each answer goes to its question, whatever was refused in between.

use std::time::Duration;

use bytes::Bytes;
use pgstream::error::ErrorKind;
use pgstream::pg::SqlState;
use pgstream::wire::{CommandTag, Connection, ConnectionSettings, Payload, Pipelined, Request, StatementId};

use crate::support::scenario::Scenario;

const INSERT: StatementId = StatementId(1);
const COPY: StatementId = StatementId(2);
const OTHER: StatementId = StatementId(3);

/// A connection with a table, and statements prepared for it.
async fn connection(name: &str) -> Connection {
    let scenario = Scenario::shared(name).await;
    let conninfo = scenario.target.cluster.conninfo(&scenario.target.dbname);
    let mut connection = Connection::connect(&conninfo, &ConnectionSettings::sql("test")).await.unwrap();
    connection.execute("CREATE TABLE public.t (id int8 PRIMARY KEY, b text)").await.unwrap();
    let prepared = connection
        .pipeline(&[
            Request::Prepare { statement: INSERT, sql: "INSERT INTO public.t VALUES ($1, $2)" },
            Request::Prepare { statement: COPY, sql: "COPY public.t FROM STDIN" },
        ])
        .await;
    assert!(matches!(prepared, Ok(Pipelined::Done(rows)) if rows.is_empty()));
    connection
}

/// One in binary, one as text.
fn row(id: i64, b: &str) -> [Payload; 2] {
    [
        Payload::Binary(Bytes::copy_from_slice(&id.to_be_bytes())),
        Payload::Text(Bytes::copy_from_slice(b.as_bytes())),
    ]
}

async fn all(connection: &mut Connection) -> String {
    let sql = "SELECT coalesce(pg_catalog.string_agg(id || b, ',' ORDER BY id), '') FROM public.t";
    connection.query(sql).await.unwrap()[0].get(0).unwrap().to_owned()
}

fn counts(tags: &[CommandTag]) -> Vec<u64> {
    tags.iter().map(CommandTag::rows).collect()
}

fn refused(pipelined: Pipelined) -> (usize, Option<SqlState>) {
    match pipelined {
        Pipelined::Refused { at, error } => (at, error.sqlstate),
        Pipelined::Done(rows) => panic!("all was done: {rows:?}"),
    }
}

#[tokio::test]
async fn rows_are_counted_for_each_statement() {
    let mut connection = connection("pipeline_counts").await;
    let (one, rows) = (row(1, "a"), Bytes::from_static(b"2\tb\n3\tc\n"));
    let requests = [
        Request::Execute { statement: INSERT, parameters: &one },
        Request::Copy { statement: COPY, rows: &rows },
        Request::Copy { statement: COPY, rows: &Bytes::new() },
        Request::Prepare { statement: OTHER, sql: "UPDATE public.t SET b = b || 'x' WHERE id > 1" },
        Request::Execute { statement: OTHER, parameters: &[] },
        Request::Forget { statement: OTHER },
    ];
    let done = connection.pipeline(&requests).await.unwrap();
    assert!(matches!(&done, Pipelined::Done(tags) if counts(tags) == [1, 2, 0, 2]), "{done:?}");
    assert_eq!(all(&mut connection).await, "1a,2bx,3cx");
    // Its name may be used again, for another statement.
    let again = [
        Request::Prepare { statement: OTHER, sql: "DELETE FROM public.t" },
        Request::Execute { statement: OTHER, parameters: &[] },
    ];
    let done = connection.pipeline(&again).await.unwrap();
    assert!(matches!(&done, Pipelined::Done(tags) if counts(tags) == [3]), "{done:?}");
}

#[tokio::test]
async fn a_refusal_names_its_request_and_leaves_the_connection_sound() {
    let mut connection = connection("pipeline_refusals").await;
    let (one, two) = (row(1, "a"), row(2, "b"));
    let (good, bad) = (Bytes::from_static(b"3\tc\n"), Bytes::from_static(b"4\td\nnonsense\te\n"));
    let insert = |parameters| Request::Execute { statement: INSERT, parameters };
    let copy = |rows| Request::Copy { statement: COPY, rows };

    // A duplicate key; a COPY behind it never begins, and its rows are passed over.
    let pipelined = connection.pipeline(&[insert(&one), insert(&one), copy(&good), insert(&two)]).await;
    assert_eq!(refused(pipelined.unwrap()), (1, Some(SqlState::UNIQUE_VIOLATION)));
    // Without a transaction block all of it is one transaction.
    assert_eq!(all(&mut connection).await, "");

    // In the middle of its rows, and at its very beginning.
    let pipelined = connection.pipeline(&[insert(&one), copy(&bad), insert(&two)]).await;
    assert_eq!(refused(pipelined.unwrap()), (1, SqlState::from_code("22P02")));
    connection.execute("ALTER TABLE public.t RENAME TO hidden").await.unwrap();
    let pipelined = connection.pipeline(&[copy(&good), copy(&good)]).await;
    assert_eq!(refused(pipelined.unwrap()), (0, Some(SqlState::UNDEFINED_TABLE)));
    connection.execute("ALTER TABLE public.hidden RENAME TO t").await.unwrap();

    // A statement that cannot be read is not kept.
    let unreadable = Request::Prepare { statement: OTHER, sql: "SELECT nonsense" };
    let pipelined = connection.pipeline(&[insert(&one), unreadable]).await;
    assert_eq!(refused(pipelined.unwrap()), (1, SqlState::from_code("42703")));
    let unknown = Request::Execute { statement: OTHER, parameters: &[] };
    assert_eq!(refused(connection.pipeline(&[unknown]).await.unwrap()), (0, SqlState::from_code("26000")));

    let done = connection.pipeline(&[insert(&one), copy(&good)]).await.unwrap();
    assert!(matches!(&done, Pipelined::Done(tags) if counts(tags) == [1, 1]), "{done:?}");
    assert_eq!(all(&mut connection).await, "1a,3c");
}

#[tokio::test]
async fn a_commit_that_was_none_shows_in_its_tag() {
    let mut connection = connection("pipeline_commit").await;
    let begin = Request::Prepare { statement: OTHER, sql: "BEGIN" };
    let run = Request::Execute { statement: OTHER, parameters: &[] };
    let commit = StatementId(4);
    let end = [
        Request::Prepare { statement: commit, sql: "COMMIT" },
        Request::Execute { statement: commit, parameters: &[] },
    ];
    connection.pipeline(&[begin, run, end[0]]).await.unwrap();
    let (one, again) = (row(1, "a"), row(1, "b"));
    let insert = |parameters| Request::Execute { statement: INSERT, parameters };
    assert_eq!(refused(connection.pipeline(&[insert(&one), insert(&again)]).await.unwrap()).0, 1);
    // The server calls it no error.
    let ended = connection.pipeline(&end[1..]).await.unwrap();
    assert!(matches!(&ended, Pipelined::Done(tags) if tags[0].text() == "ROLLBACK"), "{ended:?}");
    assert_eq!(all(&mut connection).await, "");
}

#[tokio::test]
async fn a_server_that_talks_all_the_time_does_not_hold_up_the_sender() {
    let mut connection = connection("pipeline_notices").await;
    // Twenty megabytes of ours and forty of the server's: no socket holds as much.
    connection
        .execute(
            "CREATE FUNCTION public.talk() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE NOTICE '%', pg_catalog.repeat('x', 20000); RETURN NEW; END $$;
             CREATE TRIGGER talk BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.talk();
             SET client_min_messages = notice",
        )
        .await
        .unwrap();
    let long = "y".repeat(10_000);
    let rows: Vec<[Payload; 2]> = (0..2_000).map(|id| row(id, &long)).collect();
    let requests: Vec<Request<'_>> =
        rows.iter().map(|row| Request::Execute { statement: INSERT, parameters: row }).collect();
    let done = tokio::time::timeout(Duration::from_secs(60), connection.pipeline(&requests)).await;
    let done = done.expect("neither waits for the other").unwrap();
    assert!(matches!(&done, Pipelined::Done(rows) if rows.len() == 2_000), "{done:?}");
}

#[tokio::test]
async fn a_pipeline_left_in_the_middle_or_cut_is_not_taken_up_again() {
    let mut connection = connection("pipeline_dropped").await;
    let sleep = Request::Prepare { statement: OTHER, sql: "SELECT pg_catalog.pg_sleep(60)" };
    let requests = [sleep, Request::Execute { statement: OTHER, parameters: &[] }];
    let left = tokio::time::timeout(Duration::from_millis(200), connection.pipeline(&requests)).await;
    assert!(left.is_err(), "it sleeps");
    assert!(!connection.is_usable());
    assert_eq!(connection.query("SELECT 1").await.unwrap_err().kind(), ErrorKind::Connect);

    let mut connection = self::connection("pipeline_cut").await;
    let end = "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())";
    let end = Request::Prepare { statement: OTHER, sql: end };
    let cut = connection.pipeline(&[end, Request::Execute { statement: OTHER, parameters: &[] }]).await;
    assert_eq!(refused(cut.unwrap()), (1, SqlState::from_code("57P01")));
    assert!(!connection.is_usable());
}
