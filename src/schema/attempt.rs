//! Statements that a server may refuse without harm to the rest of their transaction.
//!
//! Hazard: one refused attribute or grant must not undo the others (P69); and what was refused must come back as
//! a sentence that holds no statement, for a statement may hold a password's verifier (P68).

use crate::error::{Error, ErrorKind, Result, describe};
use crate::wire::Session;

/// Runs statements in the transaction that is open. If the server refuses one, none of them has happened, and
/// its words are the answer.
///
/// # Errors
/// `Connect` if the connection broke or the server was too busy: the transaction is lost.
pub(super) async fn attempt(session: &Session, doing: &str, sql: &str) -> Result<Option<String>> {
    let guarded = format!("SAVEPOINT attempt; {sql}; RELEASE SAVEPOINT attempt");
    let Err(error) = session.batch_execute(&guarded).await else { return Ok(None) };
    let refused = refusal(doing, error)?;
    run(session, doing, "ROLLBACK TO SAVEPOINT attempt; RELEASE SAVEPOINT attempt").await?;
    Ok(Some(refused))
}

/// What the server said, if it has refused a statement; the error, if it could not.
pub(super) fn refusal(doing: &str, error: tokio_postgres::Error) -> Result<String> {
    let error = Error::from_postgres(doing, error);
    match (error.kind(), std::error::Error::source(&error)) {
        (ErrorKind::Connect, _) | (_, None) => Err(error),
        (_, Some(cause)) => {
            let text = describe(cause);
            Ok(text.strip_prefix("ERROR: ").unwrap_or(&text).to_owned())
        }
    }
}

/// Runs statements that must not fail.
pub(super) async fn run(session: &Session, doing: &str, sql: &str) -> Result<()> {
    session.batch_execute(sql).await.map_err(|error| Error::from_postgres(doing, error))
}

/// Runs `work` in a transaction: committed if it succeeds, else rolled back.
///
/// # Cancel safety
/// Drop the session as well: its transaction is open.
pub(super) async fn in_transaction<T>(
    session: &Session,
    doing: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    run(session, doing, "BEGIN").await?;
    match work.await {
        Ok(done) => {
            run(session, doing, "COMMIT").await?;
            Ok(done)
        }
        Err(error) => {
            // A connection that is gone has rolled back by itself; the first error is the one to show.
            let _ = session.batch_execute("ROLLBACK").await;
            Err(error)
        }
    }
}
