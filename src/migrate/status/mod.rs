//! `pgstream status`: how far each migration is, from what it keeps on the target and its slot on the source.
//!
//! Hazard: whoever asks must not disturb. These are short reads of our own tables and the servers' views; no
//! lock is taken that a migration would wait for, and nothing is written.

mod look;
mod report;

pub use self::look::Look;
pub use self::report::{DatabaseStatus, LastError, Share, SlotStatus, SpoolStatus, report};

use self::look::{look_at_source, look_at_target};
use super::databases;
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::pg::Conninfo;
use crate::precheck::explain;
use crate::wire::{Session, SessionSettings};

/// Where to look.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    /// The source, if lag and WAL are wanted.
    pub source: Option<Conninfo>,
    /// The target; without a database, all of them.
    pub target: Conninfo,
}

/// Looks once at every migration on the target, in order of their databases.
///
/// # Errors
/// When the target cannot be asked; `State` when there is no migration. A source that cannot be asked is told in
/// the look itself.
pub async fn look(options: &StatusOptions) -> Result<Vec<Look>> {
    let settings = SessionSettings::role("status").set("lock_timeout", "10s");
    let explained = |error| explain(Side::Target, &options.target, error);
    let mut looks = Vec::new();
    for conninfo in databases::meant(&options.target, &settings).await.map_err(explained)? {
        let connected = Session::connect(&conninfo, &settings).await;
        let session = match connected.map_err(|error| explain(Side::Target, &conninfo, error)) {
            Ok(session) => session,
            // One of many that keeps us out must not hide the others.
            Err(error) if options.target.dbname.is_none() => {
                tracing::warn!(error = %describe(&error), "a database of the target cannot be looked at");
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(target) = look_at_target(&session, conninfo.database()).await? else { continue };
        let source = match options.source.as_ref().filter(|_| target.has_stream) {
            None => None,
            Some(source) => {
                let source = source.with_database(&target.source_database);
                let looked = look_at_source(&source, &settings, &target.slot()).await;
                Some(looked.map_err(|error| describe(&explain(Side::Source, &source, error))))
            }
        };
        looks.push(Look { target, source });
    }
    if looks.is_empty() {
        let whereabouts = match &options.target.dbname {
            Some(name) => format!("database {name} of the target"),
            None => "any database of the target".to_owned(),
        };
        return Err(Error::new(ErrorKind::State, format!("find a migration in {whereabouts}"))
            .because("there is no schema pgstream with one")
            .hint("One that has not begun, or that is complete, leaves nothing there to tell of."));
    }
    Ok(looks)
}
