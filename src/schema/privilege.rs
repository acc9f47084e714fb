//! Grants one by one what `pg_restore` grants all or nothing.
//!
//! Hazard: the privileges of an object are one entry, sent as one query: a single role that the target lacks
//! undoes them all, the REVOKE from PUBLIC included, and a function meant for few stays open to everyone (P71).
//! So an entry that failed is taken apart and each statement run alone. Only text between quotes may hold a
//! semicolon; a split that looked at lines would run what a hostile name says.

use crate::error::{Error, ErrorKind, Result, describe};
use crate::schema::entry::DumpId;
use crate::schema::judge::{RestoreFailure, RestoreWarning, RestoreWarningKind};
use crate::schema::toc::Toc;
use crate::wire::Session;

/// Runs, for every entry that a [`Privileges`](RestoreWarningKind::Privileges) warning names, the statements that
/// can be run; what comes back are the other warnings, and one for each statement that the server refused.
///
/// # Errors
/// `Connect` if the connection broke: call again with the same warnings, GRANT and REVOKE may be repeated.
pub async fn restore_privileges(
    session: &Session,
    toc: &Toc,
    warnings: Vec<RestoreWarning>,
) -> Result<Vec<RestoreWarning>> {
    let mut left = Vec::new();
    for warning in warnings {
        match (warning.kind, definition(toc, warning.failure.id)) {
            (RestoreWarningKind::Privileges, Some(sql)) => {
                left.extend(grant_each(session, &warning.failure, sql).await?);
            }
            _ => left.push(warning),
        }
    }
    Ok(left)
}

fn definition(toc: &Toc, id: Option<DumpId>) -> Option<&str> {
    toc.entry(id?)?.definition.sql()
}

async fn grant_each(session: &Session, entry: &RestoreFailure, sql: &str) -> Result<Vec<RestoreWarning>> {
    let mut refused = Vec::new();
    // Grants of a grantor we could not become would be recorded as ours.
    let mut grantor = Grantor::Ours;
    for statement in statements(sql) {
        if statement.starts_with("RESET SESSION AUTHORIZATION") {
            grantor = Grantor::Ours;
        }
        let message = match grantor {
            Grantor::Refused => "its grantor is not to be had".to_owned(),
            Grantor::Ours => match run(session, entry, statement).await? {
                None => continue,
                Some(message) => message,
            },
        };
        if statement.starts_with("SET SESSION AUTHORIZATION") {
            grantor = Grantor::Refused;
        }
        refused.push(RestoreWarning {
            kind: RestoreWarningKind::Privileges,
            failure: RestoreFailure { message, statement: statement.to_owned(), ..entry.clone() },
        });
    }
    Ok(refused)
}

/// Whether the statements at hand may be run.
#[derive(Clone, Copy)]
enum Grantor {
    Ours,
    Refused,
}

/// Runs one statement; gives what the server said if it refused.
async fn run(session: &Session, entry: &RestoreFailure, statement: &str) -> Result<Option<String>> {
    let Err(error) = session.batch_execute(statement).await else { return Ok(None) };
    let error = Error::from_postgres(format!("restore {}", entry.entry), error);
    match error.kind() {
        ErrorKind::Connect => Err(error),
        _ => Ok(Some(std::error::Error::source(&error).map_or_else(String::new, describe))),
    }
}

/// The statements of SQL that holds nothing but keywords, identifiers and plain literals.
fn statements(sql: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut begin, mut quote) = (0, None);
    for (at, char) in sql.char_indices() {
        match (quote, char) {
            (None, ';') => {
                statements.extend(sql.get(begin..at).map(str::trim));
                begin = at + 1;
            }
            // A doubled quote closes and opens again, which comes to the same.
            (None, '"' | '\'') => quote = Some(char),
            (Some(open), _) if open == char => quote = None,
            _ => {}
        }
    }
    statements.extend(sql.get(begin..).map(str::trim));
    statements.retain(|statement| !statement.is_empty());
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_smuggle_a_statement() {
        let sql = "REVOKE ALL ON TABLE s.\"a\"\";\nDROP TABLE x;\n\" FROM PUBLIC;\nGRANT SELECT ON TABLE s.b TO c;\n";
        assert_eq!(
            statements(sql),
            [
                "REVOKE ALL ON TABLE s.\"a\"\";\nDROP TABLE x;\n\" FROM PUBLIC",
                "GRANT SELECT ON TABLE s.b TO c"
            ]
        );
    }
}
