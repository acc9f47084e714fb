//! Creates a database that the target lacks.
//!
//! Hazard: made from template1 it would not be empty (P81); of another encoding it could not hold the source's
//! text, and of another locale it would sort it otherwise (P64).

use super::survey::Stand;
use crate::catalog::{field, row};
use crate::error::{Error, Result};
use crate::pg::{Conninfo, Identifier, SqlState, quote_literal};
use crate::wire::{Session, SessionSettings};

/// What is done about databases that the target lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Creation {
    /// They are created.
    #[default]
    Missing,
    /// They are the operator's to create, and fail until then.
    Never,
}

/// Creates the database like the one on the source, from `template0`. One that is there by now is fine.
///
/// # Errors
/// `Connect`, `Auth`; `Sql` when the target refuses.
pub(super) async fn create(source: &Conninfo, target: &Conninfo, stand: &Stand) -> Result<()> {
    let settings = SessionSettings::role("create");
    let source = Session::connect(source, &settings).await?;
    let like = row(
        &source,
        "read how the source database was made",
        &format!(
            "SELECT pg_catalog.pg_encoding_to_char(encoding) AS encoding, datcollate, datctype
               FROM pg_catalog.pg_database WHERE datname = {}",
            quote_literal(&stand.pair.source)
        ),
    )
    .await?;
    let literal = |column| Ok::<_, Error>(quote_literal(field::<&str>(&like, column)?));
    let name = Identifier::new(stand.pair.target.as_str());
    let create = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        literal("encoding")?,
        literal("datcollate")?,
        literal("datctype")?
    );
    let target = Session::connect(target, &settings).await?;
    match target.batch_execute(&create).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let error = Error::from_postgres(format!("create database {name} on the target"), error);
            match error.sqlstate() {
                Some(SqlState::DUPLICATE_DATABASE) => Ok(()),
                _ => Err(error.hint(
                    "Give the target's role CREATEDB and the source's locale, or create the database yourself and \
                     use --no-createdb.",
                )),
            }
        }
    }
}
