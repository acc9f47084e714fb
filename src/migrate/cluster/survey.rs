//! Looks at both servers: which databases there are, and how far each has come.
//!
//! Hazard: a server asked by way of a database that does not exist, or that does not let us in, looks like one
//! that is down. What belongs to no database is asked in whichever lets us in.

use super::super::state;
use super::Order;
use super::choice::{ChoiceError, Chosen, Closed, Content, Listed, Pair, USUAL, Wanted, choose};
use crate::catalog::{self, ObjectCounts};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::{Conninfo, SqlState};
use crate::precheck;
use crate::telemetry::Phase;
use crate::wire::{Session, SessionSettings};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

/// Databases that are in every server's initial set, or in a provider's.
const LOBBIES: [&str; 3] = ["postgres", "template1", "defaultdb"];
/// Databases looked into at once.
const LOOKS: usize = 4;

/// What was found.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) stands: Vec<Stand>,
    /// Where what belongs to no database is asked and done.
    pub(super) source: Conninfo,
    pub(super) target: Conninfo,
}

/// A database that is to move, and how far it has come.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    pub(super) pair: Pair,
    pub(super) source: Conninfo,
    pub(super) target: Conninfo,
    pub(super) closed: Option<Closed>,
    pub(super) progress: Standing,
}

/// How far a database has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The target lacks it.
    Missing,
    /// It is there, and nothing of ours in it; or it could not be looked into, which its own run will tell.
    Untouched,
    /// An earlier run has come this far.
    Begun(Phase),
}

impl Stand {
    /// Why it cannot be moved at all.
    pub(super) fn refusal(&self) -> Option<Error> {
        let closed = self.closed?;
        let name = crate::pg::Identifier::new(self.pair.source.as_str());
        let fix = match closed {
            Closed::NoConnections => format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true;"),
            Closed::Invalid => format!("DROP DATABASE {name};"),
            Closed::NoPrivilege => {
                format!(
                    "GRANT CONNECT ON DATABASE {name} TO {};",
                    crate::pg::Identifier::new(self.source.user.as_str())
                )
            }
        };
        Some(
            Error::new(ErrorKind::Auth, format!("connect to database {name} on the source"))
                .because(closed)
                .hint(format!("{fix} Or leave it out with --exclude-db."))
                .on(Side::Source),
        )
    }
}

/// Looks at both servers.
///
/// # Errors
/// `Usage` for a choice that cannot be met; `Connect` or `Auth` when a server lets us in nowhere.
pub(super) async fn survey(order: &Order) -> Result<Survey> {
    let Order { options, wanted, .. } = order;
    if let Wanted::One(pair) = wanted {
        return survey_one(order, pair).await;
    }
    let (source, target) =
        tokio::try_join!(enter(Side::Source, &options.source), enter(Side::Target, &options.target))?;
    let mut listed = list(&source.session).await?;
    let usual = listed.iter_mut().find(|listed| listed.name == USUAL && listed.closed.is_none());
    if let (Wanted::All { .. }, Some(usual)) = (wanted, usual) {
        usual.content = look_into(&source.conninfo.with_database(USUAL)).await;
    }
    let chosen = choose(wanted, &listed).map_err(|cause| {
        let hint = match &cause {
            ChoiceError::Nothing => {
                "Templates, a service's own databases and an empty \"postgres\" are not moved unless --database names them."
            }
            ChoiceError::Unknown(_) | ChoiceError::UnknownException(_) => {
                "Names are taken as they are, capitals and all; `psql -l` lists them."
            }
        };
        Error::new(ErrorKind::Usage, "choose the databases to move").because(cause).hint(hint)
    })?;
    let there: Vec<String> = list(&target.session).await?.into_iter().map(|listed| listed.name).collect();
    let stands = chosen.into_iter().map(|Chosen { pair, closed, .. }| {
        let is_there = there.contains(&pair.target);
        let (source, target) =
            (source.conninfo.with_database(&pair.source), target.conninfo.with_database(&pair.target));
        async move {
            let progress = if is_there { standing(&target).await? } else { Standing::Missing };
            Ok::<_, Error>(Stand { pair, source, target, closed, progress })
        }
    });
    // Ordered as they were chosen.
    let stands = stream::iter(stands).buffered(LOOKS).try_collect().await?;
    Ok(Survey { stands, source: source.conninfo, target: target.conninfo })
}

/// The one database that was named: nothing else of either server is asked, unless the target lacks it.
async fn survey_one(order: &Order, pair: &Pair) -> Result<Survey> {
    let source = order.options.source.with_database(&pair.source);
    let target = order.options.target.with_database(&pair.target);
    let progress = standing(&target).await?;
    let lobby = match progress {
        Standing::Missing => enter(Side::Target, &target).await?.conninfo,
        Standing::Untouched | Standing::Begun(_) => target.clone(),
    };
    let stand = Stand { pair: pair.clone(), source: source.clone(), target, closed: None, progress };
    Ok(Survey { stands: vec![stand], source, target: lobby })
}

/// How far the database has come; what else keeps us out of it its own run will tell.
async fn standing(target: &Conninfo) -> Result<Standing> {
    match Session::connect(target, &SessionSettings::role("survey")).await {
        Ok(session) => {
            let found = state::find(&session).await?;
            Ok(found.map_or(Standing::Untouched, |state| Standing::Begun(state.phase)))
        }
        Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_DATABASE) => Ok(Standing::Missing),
        Err(_) => Ok(Standing::Untouched),
    }
}

/// A session in whichever database lets us in.
struct Lobby {
    session: Session,
    conninfo: Conninfo,
}

/// Tries the database that the string names, then those that most servers have, then the role's own.
async fn enter(side: Side, conninfo: &Conninfo) -> Result<Lobby> {
    let named = conninfo.dbname.as_deref();
    let usual = LOBBIES.into_iter().chain([conninfo.user.as_str()]).filter(|name| Some(*name) != named);
    let mut refusal = None;
    for name in named.into_iter().chain(usual) {
        let conninfo = conninfo.with_database(name);
        match Session::connect(&conninfo, &SessionSettings::role("survey")).await {
            Ok(session) => return Ok(Lobby { session, conninfo }),
            Err(error) => {
                let is_of_database = error.sqlstate().is_some_and(concerns_database);
                let error = precheck::explain(side, &conninfo, error);
                if !is_of_database {
                    return Err(refusal.unwrap_or(error));
                }
                refusal.get_or_insert(error);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| Error::new(ErrorKind::Connect, format!("connect to the {side}"))))
}

/// Whether a refusal may be of this one database only; pg_hba.conf (28000) knows databases, too.
fn concerns_database(state: SqlState) -> bool {
    [
        SqlState::UNDEFINED_DATABASE,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::NOT_IN_PREREQUISITE_STATE,
        SqlState::INVALID_AUTHORIZATION,
    ]
    .contains(&state)
}

/// Every database. Those of which we may not ask the size come last in the order of work.
async fn list(session: &Session) -> Result<Vec<Listed>> {
    // An interrupted DROP DATABASE leaves -2 in datconnlimit (15.4 and its contemporaries).
    let sql = "
        SELECT d.datname, d.datallowconn, d.datconnlimit = -2 AS invalid, may.connect,
               CASE WHEN d.datallowconn AND d.datconnlimit <> -2 AND may.connect
                    THEN pg_catalog.pg_database_size(d.oid) END AS bytes
          FROM pg_catalog.pg_database d,
               LATERAL (SELECT pg_catalog.has_database_privilege(d.oid, 'CONNECT') AS connect) may
         ORDER BY d.datname";
    let rows = catalog::rows(session, "list the server's databases", sql).await?;
    rows.iter()
        .map(|row| {
            let closed = if catalog::field(row, "invalid")? {
                Some(Closed::Invalid)
            } else if !catalog::field(row, "datallowconn")? {
                Some(Closed::NoConnections)
            } else if !catalog::field(row, "connect")? {
                Some(Closed::NoPrivilege)
            } else {
                None
            };
            let bytes: Option<i64> = catalog::field(row, "bytes")?;
            Ok(Listed {
                name: catalog::field(row, "datname")?,
                bytes: bytes.map(i64::unsigned_abs),
                closed,
                content: Content::Data,
            })
        })
        .collect()
}

/// Whether there is anything in a database; one that we cannot look into counts as data.
async fn look_into(conninfo: &Conninfo) -> Content {
    let Ok(session) = Session::connect(conninfo, &SessionSettings::role("survey")).await else {
        return Content::Data;
    };
    match catalog::count_objects(&session).await {
        Ok(counts) if counts == ObjectCounts::default() => Content::Nothing,
        Ok(_) | Err(_) => Content::Data,
    }
}
