//! `pgstream cleanup`: everything that pgstream made, on either side, also when the other is gone.
//!
//! Hazards:
//! - What is left behind fills the source's disk and makes its UPDATEs fail (P16, P30); what is removed too
//!   much is somebody else's. [`plan`] decides, over facts alone.
//! - The schema on the target is the journal of what is on the source: it goes last, and stays when something
//!   it tells of could not be undone.
//! - An engine that is alive would make anew what was removed: the lock that it holds is taken first.

mod plan;
mod report;
mod survey;

use std::collections::HashMap;
use std::time::{Duration, Instant};

pub use self::plan::Engines;
pub use self::report::{Fate, Item, Kind, Report, Trouble};

use self::plan::{DropSchema, Plan, Undo, item};
use self::survey::Survey;
use super::lock::Holder;
use super::membership;
use super::release::undo_all;
use super::spooling::Found;
use super::state::{self, Made};
use crate::error::{Error, ErrorKind, Result, Side, describe};
use crate::pg::{Conninfo, Identifier};
use crate::replication::drop_slot;
use crate::wire::{Session, SessionSettings};

/// What to clean up, and how.
#[derive(Debug, Clone)]
pub struct CleanupOptions {
    /// The source, if it is to be looked at; without a database, all of them.
    pub source: Option<Conninfo>,
    /// The target, in the same way.
    pub target: Option<Conninfo>,
    /// Whether to remove.
    pub wanted: Wanted,
    /// What becomes of engines at work.
    pub engines: Engines,
}

/// Whether to remove what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Only to be told of it.
    List,
    /// To be rid of it.
    Removal,
}

/// How long a killed engine's sessions may take to go.
const GRACE: Duration = Duration::from_secs(5);
/// The same, of one that was told to end.
const END_GRACE: Duration = Duration::from_millis(200);
/// Between two looks whether it has.
const END_PAUSE: Duration = Duration::from_millis(20);

/// Finds, and removes if that is wanted. What goes wrong stands in the report, and the rest goes on.
pub async fn cleanup(options: &CleanupOptions) -> Report {
    let mut report = Report { dry_run: options.wanted == Wanted::List, ..Report::default() };
    let survey = survey::look(options, &mut report.errors).await;
    let plan = plan::plan(&survey.source, &survey.target, options.engines);
    report.found.extend(plan.stays.iter().cloned());
    match options.wanted {
        Wanted::List => list(&plan, &survey, &mut report.found),
        Wanted::Removal => remove(options, plan, survey, &mut report).await,
    }
    report.concluded()
}

fn settings() -> SessionSettings {
    // Whoever reads our tables at this moment must not hold us up for ever.
    SessionSettings::role("cleanup").set("lock_timeout", "10s")
}

fn list(plan: &Plan, survey: &Survey, found: &mut Vec<Item>) {
    for undo in &plan.undo {
        let listed = |made| item(&undo.database, Some(&undo.id), made, Fate::Found, "");
        found.extend(undo.made.iter().map(listed));
    }
    let listed = |(database, session): &(String, Holder)| ended(database, session, Fate::Found, None);
    found.extend(plan.sessions.iter().map(listed));
    for drop in &plan.schemas {
        let roles = survey.to_leave(&drop.database, &plan.schemas).into_iter();
        found.extend(roles.map(|role| membership_of(drop, role, Fate::Found, None)));
        found.extend(survey.spools.get(&drop.database).map(|spool| spooled(drop, spool, Fate::Found, None)));
        found.push(dropped(drop, Fate::Found, None));
    }
    found.extend(survey.scratch.iter().map(|name| scratch(name, Fate::Found, None)));
}

async fn remove(options: &CleanupOptions, plan: Plan, survey: Survey, report: &mut Report) {
    let mut source = Sessions::of(options.source.as_ref());
    for (database, session) in &plan.sessions {
        let ended_it = match source.of_database(database).await {
            Ok(source) => end(source, session.pid).await,
            Err(error) => Err(error),
        };
        let (fate, why) = fate(ended_it);
        report.found.push(ended(database, session, fate, why));
    }
    let mut left = Vec::new();
    for undo in &plan.undo {
        let done = carry_out(undo, &mut source, &survey, report).await;
        if !done {
            left.push((undo.database.as_str(), &undo.id));
        }
    }
    for drop in &plan.schemas {
        let is_left = |(database, id): &(&str, &state::MigrationId)| {
            drop.after.as_deref() == Some(*database) && drop.id.as_ref() == Some(*id)
        };
        if left.iter().any(is_left) {
            let why = "it is the journal of what could not be undone on the source; run again";
            report.found.push(dropped(drop, Fate::Remains, Some(why.to_owned())));
            continue;
        }
        let Some(target) = survey.sessions.get(&drop.database) else { continue };
        if !leave_roles(drop, &plan.schemas, target, &survey, report).await {
            let why = "it is the record of roles that ours is still a member of; run again";
            report.found.push(dropped(drop, Fate::Remains, Some(why.to_owned())));
            continue;
        }
        if let Some(spool) = survey.spools.get(&drop.database) {
            // Their slot is gone, and nobody can use them.
            let (fate, why) = match spool.is_elsewhere() {
                true => (Fate::Kept, Some(format!("it is on {}: remove it there", spool.host))),
                false => fate(spool.remove()),
            };
            report.found.push(spooled(drop, spool, fate, why));
        }
        let removed = state::remove(target).await;
        let (fate, why) = fate(removed);
        report.found.push(dropped(drop, fate, why));
    }
    for name in &survey.scratch {
        let removed = drop_database(options.target.as_ref(), name).await;
        let (fate, why) = fate(removed);
        report.found.push(scratch(name, fate, why));
    }
}

/// Undoes one migration's things in one source database, and strikes them off its journal. Says whether all are gone.
async fn carry_out(undo: &Undo, source: &mut Sessions<'_>, survey: &Survey, report: &mut Report) -> bool {
    let listed = |made, fate, why: &str| item(&undo.database, Some(&undo.id), made, fate, why);
    let session = match source.of_database(&undo.database).await {
        Ok(session) => session,
        Err(error) => {
            let why = describe(&error);
            report.found.extend(undo.made.iter().map(|made| listed(made, Fate::Remains, &why)));
            return false;
        }
    };
    let undone = undo_all(session, undo.made.clone()).await;
    let why = undone.failure.as_ref().map(|error| describe(error)).unwrap_or_default();
    for made in &undo.made {
        report.found.push(match undone.done.contains(made) {
            true => listed(made, Fate::Removed, ""),
            false => listed(made, Fate::Remains, &why),
        });
    }
    if let Some(hint) = undone.failure.as_ref().and_then(Error::advice) {
        tracing::info!(hint, "advice on what could not be undone");
    }
    // Should the rest fail, the next run need not look for these.
    if let Some(target) = survey.journal_of(&undo.id) {
        for made in &undone.done {
            if let Err(error) = state::forget(target, made).await {
                report.errors.push(Trouble::new(Side::Target, None, &error));
            }
        }
    }
    undone.failure.is_none() && late_slots(undo, session, report).await
}

/// Takes back what our role on the target was granted for a database. Says whether nothing of it is left.
async fn leave_roles(
    drop: &DropSchema,
    going: &[DropSchema],
    target: &Session,
    survey: &Survey,
    report: &mut Report,
) -> bool {
    let mut gone = true;
    for role in survey.to_leave(&drop.database, going) {
        let (fate, why) = match membership::leave_one(&[target], role).await {
            Ok(None) => (Fate::Removed, None),
            Ok(Some(refused)) => (Fate::Remains, Some(refused)),
            Err(error) => (Fate::Remains, Some(describe(&error))),
        };
        gone &= fate == Fate::Removed;
        report.found.push(membership_of(drop, role, fate, why));
    }
    gone
}

/// A walsender that was told to make a slot just before its engine died may have made it after we looked.
async fn late_slots(undo: &Undo, session: &Session, report: &mut Report) -> bool {
    let mut gone = true;
    for name in [undo.id.slot(), undo.id.snapshot_slot()] {
        if let Err(error) = drop_slot(session, &name).await {
            let made = Made::Slot(name);
            report.found.push(item(&undo.database, Some(&undo.id), &made, Fate::Remains, &describe(&error)));
            gone = false;
        }
    }
    gone
}

/// Ends a session, and waits until it has.
async fn end(session: &Session, pid: i32) -> Result<()> {
    let doing = format!("end the session of pid {pid}");
    let deadline = Instant::now() + GRACE;
    loop {
        let ended = session
            .execute(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = $1",
                &[&pid],
            )
            .await
            .map_err(|error| Error::from_postgres(doing.as_str(), error))?;
        if ended == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::new(ErrorKind::Sql, doing).because("it was told to end and has not"));
        }
        tokio::time::sleep(END_PAUSE).await;
    }
}

async fn drop_database(target: Option<&Conninfo>, name: &str) -> Result<()> {
    let Some(target) = target else { return Ok(()) };
    let session = Session::connect(target, &settings()).await?;
    session
        .batch_execute(&format!("DROP DATABASE IF EXISTS {}", Identifier::new(name)))
        .await
        .map_err(|error| Error::from_postgres(format!("drop database {name}"), error))
}

/// Sessions on a server, opened as they are needed.
struct Sessions<'a> {
    conninfo: Option<&'a Conninfo>,
    open: HashMap<String, Session>,
}

impl<'a> Sessions<'a> {
    fn of(conninfo: Option<&'a Conninfo>) -> Sessions<'a> {
        Sessions { conninfo, open: HashMap::new() }
    }

    async fn of_database(&mut self, database: &str) -> Result<&Session> {
        if !self.open.contains_key(database) {
            let conninfo = self.conninfo.expect("what is planned for a server was found on it");
            let session = Session::connect(&conninfo.with_database(database), &settings()).await?;
            // One at a time is enough, and a cluster may have many.
            self.open.clear();
            self.open.insert(database.to_owned(), session);
        }
        Ok(&self.open[database])
    }
}

fn fate(done: Result<()>) -> (Fate, Option<String>) {
    match done {
        Ok(()) => (Fate::Removed, None),
        Err(error) => (Fate::Remains, Some(describe(&error))),
    }
}

fn ended(database: &str, session: &Holder, status: Fate, message: Option<String>) -> Item {
    Item {
        side: Side::Source,
        database: database.to_owned(),
        kind: Kind::Session,
        name: session.to_string(),
        migration: None,
        status,
        message,
    }
}

fn dropped(drop: &DropSchema, status: Fate, message: Option<String>) -> Item {
    Item {
        side: Side::Target,
        database: drop.database.clone(),
        kind: Kind::Schema,
        name: "pgstream".to_owned(),
        migration: drop.id.as_ref().map(|id| id.as_str().to_owned()),
        status,
        message,
    }
}

fn spooled(drop: &DropSchema, spool: &Found, status: Fate, message: Option<String>) -> Item {
    Item { kind: Kind::Spool, name: spool.directory.display().to_string(), ..dropped(drop, status, message) }
}

fn membership_of(drop: &DropSchema, role: &str, status: Fate, message: Option<String>) -> Item {
    Item { kind: Kind::Membership, name: role.to_owned(), ..dropped(drop, status, message) }
}

fn scratch(name: &str, status: Fate, message: Option<String>) -> Item {
    Item {
        side: Side::Target,
        database: name.to_owned(),
        kind: Kind::Database,
        name: name.to_owned(),
        migration: None,
        status,
        message,
    }
}
