//! What is ours to remove, and what is not. Pure.
//!
//! Hazard: names prove little. A publication is ours when the journal on the target names it or its comment
//! is our mark; a slot is when it decodes by pgoutput in the database at hand and its name has exactly our
//! form. And what is ours may be in use: of another migration, or of an engine that is alive.

use std::collections::{BTreeMap, HashSet};

use super::report::{Fate, Item, Kind};
use crate::error::Side;
use crate::migrate::lock::Holder;
use crate::migrate::mark::{Mark, migration_of};
use crate::migrate::state::{Made, MigrationId, State};
use crate::pg::{Identifier, QualifiedName};
use crate::replication::FoundSlot;

/// One side, as far as it was looked at.
#[derive(Debug)]
pub(super) enum Seen<T> {
    /// Nobody named it.
    NotNamed,
    /// It was named, with this database or none, and does not answer.
    Away(Option<String>),
    /// It answers, and these databases hold something of ours.
    Here(Vec<T>),
}

impl<T> Seen<T> {
    pub(super) fn databases(&self) -> &[T] {
        match self {
            Seen::NotNamed | Seen::Away(_) => &[],
            Seen::Here(databases) => databases,
        }
    }
}

/// A target database with schema `pgstream`, or that was named.
#[derive(Debug)]
pub(super) struct OnTarget {
    pub(super) database: String,
    /// The cluster, where it may be known.
    pub(super) system: Option<String>,
    /// Whether there is a schema of ours.
    pub(super) schema: bool,
    pub(super) state: Option<State>,
    pub(super) journal: Vec<Made>,
    /// The engine at work.
    pub(super) live: Option<Holder>,
    /// Changes that the target refuses and that are nowhere else.
    pub(super) parked: u64,
}

/// A source database.
#[derive(Debug, Default)]
pub(super) struct OnSource {
    pub(super) database: String,
    /// The cluster, where it may be known.
    pub(super) system: Option<String>,
    pub(super) slots: Vec<FoundSlot>,
    /// Publications whose names begin as ours do, and their marks.
    pub(super) publications: Vec<(Identifier, Option<Mark>)>,
    /// Which of the tables that marks and journals name are FULL now.
    pub(super) full: HashSet<QualifiedName>,
    /// Sessions of engines.
    pub(super) sessions: Vec<Holder>,
}

/// What to undo for one migration in one source database.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undo {
    pub(super) database: String,
    pub(super) id: MigrationId,
    pub(super) made: Vec<Made>,
}

/// A schema to drop.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DropSchema {
    pub(super) database: String,
    pub(super) id: Option<MigrationId>,
    /// The source database whose [`Undo`] must have succeeded before: the schema is its journal.
    pub(super) after: Option<String>,
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) undo: Vec<Undo>,
    /// Sessions to end: (source database, session).
    pub(super) sessions: Vec<(String, Holder)>,
    pub(super) schemas: Vec<DropSchema>,
    /// What stays, and why.
    pub(super) stays: Vec<Item>,
}

/// Whether engines at work are respected or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engines {
    /// What is in use stays.
    Respect,
    /// They are ended first, and what an engine has parked is given up.
    End,
}

/// Decides.
pub(super) fn plan(source: &Seen<OnSource>, target: &Seen<OnTarget>, engines: Engines) -> Plan {
    let mut plan = Plan::default();
    for database in source.databases() {
        plan_source(&mut plan, database, target, engines);
    }
    for database in target.databases().iter().filter(|database| database.schema) {
        plan_target(&mut plan, database, source, engines);
    }
    plan
}

fn plan_source(plan: &mut Plan, source: &OnSource, target: &Seen<OnTarget>, engines: Engines) {
    let mut others_stay = false;
    for (id, made) in by_migration(source, target) {
        match objection(source, target, &id, engines) {
            None => plan.undo.push(Undo { database: source.database.clone(), id, made }),
            Some((fate, why)) => {
                others_stay = true;
                plan.stays
                    .extend(made.iter().map(|made| item(&source.database, Some(&id), made, fate, &why)));
            }
        }
    }
    for (name, _) in unproven(source, target) {
        let why = "its name has the form of ours, but it bears no mark of ours";
        let made = Made::Publication(name.clone());
        plan.stays.push(item(&source.database, None, &made, Fate::Kept, why));
    }
    // The lock on the target says that its engine is gone; whose other sessions are, nothing says.
    let own_target = || migrations_from(source, target).all(|(_, database)| database.live.is_none());
    let known = migrations_from(source, target).next().is_some() || !plan.undo.is_empty();
    let ownerless = matches!(target, Seen::Here(_)) && !others_stay && known && own_target();
    if ownerless || engines == Engines::End {
        let sessions = source.sessions.iter().cloned().map(|session| (source.database.clone(), session));
        plan.sessions.extend(sessions);
    }
}

/// What is proven ours, by migration.
fn by_migration(source: &OnSource, target: &Seen<OnTarget>) -> BTreeMap<MigrationId, Vec<Made>> {
    let mut all: BTreeMap<MigrationId, Vec<Made>> = BTreeMap::new();
    let mut add = |id: &MigrationId, made: Made| {
        let list = all.entry(id.clone()).or_default();
        if !list.iter().any(|known| known.is_of_same_object(&made)) {
            list.push(made);
        }
    };
    let is_there = |made: &Made| match made {
        Made::Slot(name) => source.slots.iter().any(|slot| slot.name == *name),
        Made::Publication(name) => source.publications.iter().any(|(found, _)| found == name),
        Made::ReplicaIdentity { table, .. } => source.full.contains(table),
    };
    // What a table's identity was is what the journal says: it is never overwritten.
    for (state, database) in migrations_from(source, target) {
        for made in database.journal.iter().filter(|made| is_there(made)) {
            add(&state.id, made.clone());
        }
    }
    for slot in &source.slots {
        if let Some(id) = migration_of(slot.name.as_str()) {
            add(&id, Made::Slot(slot.name.clone()));
        }
    }
    for (name, mark) in &source.publications {
        let Some(mark) = mark else { continue };
        add(&mark.id, Made::Publication(name.clone()));
        for made in mark.identities().filter(is_there) {
            add(&mark.id, made);
        }
    }
    all
}

/// The migrations on the target that come from this source database.
fn migrations_from<'a>(
    source: &'a OnSource,
    target: &'a Seen<OnTarget>,
) -> impl Iterator<Item = (&'a State, &'a OnTarget)> {
    let from = |database: &'a OnTarget| Some((database.state.as_ref()?, database));
    target.databases().iter().filter_map(from).filter(|(state, _)| is_from(state, source))
}

/// Whether a migration comes from that database of that very server.
fn is_from(state: &State, source: &OnSource) -> bool {
    let named = || {
        let of_it = |name: &str| migration_of(name).as_ref() == Some(&state.id);
        source.slots.iter().any(|slot| of_it(slot.name.as_str()))
            || source.publications.iter().any(|(name, _)| of_it(name.raw()))
    };
    state.source_database == source.database
        && match &source.system {
            Some(system) => *system == state.source_system.to_string(),
            None => named(),
        }
}

/// Publications whose names have exactly our form, and for which nothing else speaks.
fn unproven<'a>(
    source: &'a OnSource,
    target: &'a Seen<OnTarget>,
) -> impl Iterator<Item = &'a (Identifier, Option<Mark>)> {
    let journalled = |name: &Identifier| {
        migrations_from(source, target)
            .any(|(_, database)| database.journal.contains(&Made::Publication(name.clone())))
    };
    source
        .publications
        .iter()
        .filter(move |(name, mark)| mark.is_none() && migration_of(name.raw()).is_some() && !journalled(name))
}

/// Why a migration's things on the source are to stay.
fn objection(
    source: &OnSource,
    target: &Seen<OnTarget>,
    id: &MigrationId,
    engines: Engines,
) -> Option<(Fate, String)> {
    let at_work = |who: &Holder| Some((Fate::Remains, format!("an engine is at work: {who}; end it first")));
    let mark = source.publications.iter().filter_map(|(_, mark)| mark.as_ref()).find(|mark| mark.id == *id);
    let respected = engines == Engines::Respect;
    match target {
        Seen::Here(databases) => {
            let journal = migrations_from(source, target).find(|(state, _)| state.id == *id);
            let marked = databases.iter().find(|database| {
                mark.is_some_and(|mark| {
                    let note = &mark.note;
                    let system = (&note.target_system, &database.system);
                    note.target_database == database.database
                        && !matches!(system, (Some(noted), Some(found)) if noted != found)
                })
            });
            match (journal.map(|(_, database)| database).or(marked), mark) {
                (Some(database), _) => database.live.as_ref().filter(|_| respected).and_then(at_work),
                (None, Some(mark)) => Some((Fate::Kept, of_another(mark))),
                // A slot whose publication is gone serves nobody, unless it is in use this moment.
                (None, None) => in_use(source, id).filter(|_| respected).and_then(|who| at_work(&who)),
            }
        }
        Seen::NotNamed | Seen::Away(_) => {
            if let (Seen::Away(Some(named)), Some(mark)) = (target, mark)
                && mark.note.target_database != *named
            {
                return Some((Fate::Kept, of_another(mark)));
            }
            // What copies does not use its slot yet: every session of an engine counts.
            let who = source.sessions.first().cloned().or_else(|| in_use(source, id));
            who.filter(|_| respected).and_then(|who| at_work(&who))
        }
    }
}

fn of_another(mark: &Mark) -> String {
    format!(
        "of the migration into database {} of another target: name that one, or give --source alone",
        mark.note.target_database
    )
}

/// Who uses a slot of the migration.
fn in_use(source: &OnSource, id: &MigrationId) -> Option<Holder> {
    let of_it = |slot: &&FoundSlot| migration_of(slot.name.as_str()).as_ref() == Some(id);
    let pid = source.slots.iter().filter(of_it).find_map(|slot| slot.active_pid)?;
    Some(Holder { pid, application: "a walsender".to_owned(), address: None, since: None })
}

fn plan_target(plan: &mut Plan, target: &OnTarget, source: &Seen<OnSource>, engines: Engines) {
    let id = target.state.as_ref().map(|state| &state.id);
    let stays = |why: String| Item {
        side: Side::Target,
        database: target.database.clone(),
        kind: Kind::Schema,
        name: "pgstream".to_owned(),
        migration: id.map(|id| id.as_str().to_owned()),
        status: Fate::Remains,
        message: Some(why),
    };
    if let Some(live) = target.live.as_ref().filter(|_| engines == Engines::Respect) {
        plan.stays.push(stays(format!("an engine is at work: {live}; end it first")));
        return;
    }
    if target.parked > 0 && engines == Engines::Respect {
        plan.stays.push(stays(format!(
            "{} changes that the target refuses are parked there, in pgstream.quarantine; `--force` gives them up",
            target.parked
        )));
        return;
    }
    let mut drop = DropSchema { database: target.database.clone(), id: id.cloned(), after: None };
    if let Some(state) = target.state.as_ref().filter(|_| !target.journal.is_empty()) {
        match source {
            Seen::NotNamed => {
                let why =
                    "it is on the source, which was not named: `pgstream cleanup --source …` removes it";
                let remaining = target.journal.iter();
                plan.stays
                    .extend(remaining.map(|made| item(&state.source_database, id, made, Fate::Remains, why)));
            }
            Seen::Away(_) => {
                plan.stays.push(stays(
                    "it is the journal of what is on the source, which does not answer; should that be gone for \
                     good, give --target alone"
                        .to_owned(),
                ));
                return;
            }
            Seen::Here(databases) => match databases.iter().find(|found| is_from(state, found)) {
                Some(found) => drop.after = Some(found.database.clone()),
                None => {
                    plan.stays.push(stays(format!(
                        "it is the journal of what is in database {} of another source than the one named, or of \
                         one that could not be looked at; should that be gone for good, give --target alone",
                        state.source_database
                    )));
                    return;
                }
            },
        }
    }
    plan.schemas.push(drop);
}

/// One thing on the source, for the report.
pub(super) fn item(database: &str, id: Option<&MigrationId>, made: &Made, status: Fate, why: &str) -> Item {
    let (kind, name) = match made {
        Made::Slot(name) => (Kind::Slot, name.to_string()),
        Made::Publication(name) => (Kind::Publication, name.raw().to_owned()),
        Made::ReplicaIdentity { table, .. } => (Kind::ReplicaIdentity, table.plain()),
    };
    Item {
        side: Side::Source,
        database: database.to_owned(),
        kind,
        name,
        migration: id.map(|id| id.as_str().to_owned()),
        status,
        message: (!why.is_empty()).then(|| why.to_owned()),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
