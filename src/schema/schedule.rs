//! Which build is next.
//!
//! Hazard: until a table's replica identity has its index, each UPDATE and DELETE applied to it reads the whole
//! table (P101). So identities go before all else, the largest tables first; no clock and no task in here.
//!
//! A constraint wants its table for itself, and indexes share it. A build that would only wait for a lock stays here
//! and leaves its connection to one on another table.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::pg::QualifiedName;
use crate::schema::entry::DumpId;
use crate::schema::plan::{Build, BuildForm, BuildKind};

/// The builds of one database, handed out as their tables and the builds before them are done.
///
/// ```text
/// waiting ──(rows there, builds before it finished)──► ready ──take──► running ──finish──► gone
/// ```
#[derive(Debug)]
pub struct Schedule {
    waiting: HashMap<DumpId, Waiting>,
    ready: BTreeMap<Turn, Build>,
    /// With the table that it holds, if any.
    running: HashMap<DumpId, Option<QualifiedName>>,
    /// Tables on which builds run.
    held: HashMap<QualifiedName, Held>,
    /// Builds waiting for a table's rows.
    by_table: HashMap<QualifiedName, Vec<DumpId>>,
    /// Builds waiting for a build.
    by_build: HashMap<DumpId, Vec<DumpId>>,
}

#[derive(Debug)]
struct Waiting {
    build: Build,
    turn: Turn,
    /// Builds before it, and its table's rows.
    reasons: usize,
}

/// How the builds that run on a table hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    ByOne,
    /// By so many at once.
    Shared(usize),
}

/// The order of builds that are ready: identities, then by size, then as the archive has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    rank: u8,
    /// Of a table whose rows came just now; others wait for no rows, and may be of any size.
    table_bytes: Reverse<Option<u64>>,
    id: DumpId,
}

impl Schedule {
    /// Takes the builds. `copied` gives the size of each table whose rows are still to come, in bytes, and
    /// `None` for all others (partitioned parents, materialized views, tables copied earlier): these wait for
    /// no rows. A dependency that is not among the builds counts as done.
    #[must_use]
    pub fn new(builds: Vec<Build>, copied: impl Fn(&QualifiedName) -> Option<u64>) -> Schedule {
        let known: HashSet<DumpId> = builds.iter().map(|build| build.id).collect();
        let mut schedule = Schedule {
            waiting: HashMap::new(),
            ready: BTreeMap::new(),
            running: HashMap::new(),
            held: HashMap::new(),
            by_table: HashMap::new(),
            by_build: HashMap::new(),
        };
        for build in builds {
            let size = copied(&build.table);
            let before: HashSet<DumpId> =
                build.depends_on.iter().copied().filter(|id| known.contains(id)).collect();
            let turn = Turn { rank: rank(build.kind), table_bytes: Reverse(size), id: build.id };
            let reasons = before.len() + usize::from(size.is_some());
            if size.is_some() {
                schedule.by_table.entry(build.table.clone()).or_default().push(build.id);
            }
            for id in before {
                schedule.by_build.entry(id).or_default().push(build.id);
            }
            if reasons == 0 {
                schedule.ready.insert(turn, build);
            } else {
                schedule.waiting.insert(build.id, Waiting { build, turn, reasons });
            }
        }
        schedule
    }

    /// A table's rows are there. Saying so twice changes nothing.
    pub fn release(&mut self, table: &QualifiedName) {
        let waiting = self.by_table.remove(table).unwrap_or_default();
        self.step(waiting);
    }

    /// The next build to run, if one is ready and its table free for it.
    pub fn take(&mut self) -> Option<Build> {
        let turn = self.next()?;
        let build = self.ready.remove(&turn)?;
        let held = match (hold(&build), self.held.get(&build.table)) {
            (Hold::Not, _) => None,
            (Hold::Alone, _) => Some(Held::ByOne),
            (Hold::Shared, Some(Held::Shared(count))) => Some(Held::Shared(count + 1)),
            (Hold::Shared, Some(Held::ByOne) | None) => Some(Held::Shared(1)),
        };
        if let Some(held) = held {
            self.held.insert(build.table.clone(), held);
        }
        self.running.insert(build.id, held.map(|_| build.table.clone()));
        Some(build)
    }

    /// The first that is ready and would not wait for those that run.
    fn next(&self) -> Option<Turn> {
        let is_free = |build: &Build| match (hold(build), self.held.get(&build.table)) {
            (Hold::Not, _) | (_, None) | (Hold::Shared, Some(Held::Shared(_))) => true,
            (Hold::Alone, Some(_)) | (Hold::Shared, Some(Held::ByOne)) => false,
        };
        self.ready.iter().find(|(_, build)| is_free(build)).map(|(turn, _)| *turn)
    }

    /// Builds that are ready: the next one, and behind it others, if all are on tables of at most `bytes_max`; no
    /// more than `builds_max`, and no more than leaves as many for each of `jobs`.
    pub fn take_some(&mut self, bytes_max: u64, builds_max: usize, jobs: usize) -> Vec<Build> {
        let share = self.ready.len() / jobs.max(1);
        let is_small = |turn: &Turn| turn.table_bytes.0.is_some_and(|bytes| bytes <= bytes_max);
        let mut small = self.next().is_some_and(|turn| is_small(&turn));
        let mut taken: Vec<Build> = self.take().into_iter().collect();
        while small && taken.len() < share.min(builds_max) {
            small = self.next().is_some_and(|turn| is_small(&turn));
            if small {
                taken.extend(self.take());
            }
        }
        taken
    }

    /// A build is done: what waited for it may be ready now.
    pub fn finish(&mut self, id: DumpId) {
        if let Some(held) = self.running.remove(&id) {
            if let Some(table) = held {
                self.let_go(&table);
            }
            let waiting = self.by_build.remove(&id).unwrap_or_default();
            self.step(waiting);
        }
    }

    /// Builds neither running nor finished. When nothing runs, every table was released and
    /// [`take`](Self::take) gives none, these wait for a build that was never finished.
    #[must_use]
    pub fn left(&self) -> usize {
        self.waiting.len() + self.ready.len()
    }

    /// One build fewer runs on this table.
    fn let_go(&mut self, table: &QualifiedName) {
        match self.held.get_mut(table) {
            Some(Held::Shared(count)) if *count > 1 => *count -= 1,
            Some(Held::Shared(_) | Held::ByOne) => drop(self.held.remove(table)),
            None => {}
        }
    }

    /// One reason fewer for each of these.
    fn step(&mut self, ids: Vec<DumpId>) {
        for id in ids {
            let Some(waiting) = self.waiting.get_mut(&id) else { continue };
            waiting.reasons -= 1;
            if waiting.reasons == 0
                && let Some(Waiting { build, turn, .. }) = self.waiting.remove(&id)
            {
                self.ready.insert(turn, build);
            }
        }
    }
}

/// How a build holds its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Not,
    /// CREATE INDEX: SHARE.
    Shared,
    /// ADD CONSTRAINT and the like: ACCESS EXCLUSIVE; VALIDATE: one at a time.
    Alone,
}

fn hold(build: &Build) -> Hold {
    match build.form {
        BuildForm::Attachment => Hold::Not,
        BuildForm::Constraint => Hold::Alone,
        // pg_dump may write ALTER TABLE … CLUSTER ON behind it, or REPLICA IDENTITY USING.
        BuildForm::Index if build.sql.trim_end().contains(";\n") => Hold::Alone,
        BuildForm::Index => Hold::Shared,
    }
}

/// Attachments take no time and may complete a partitioned table's primary key.
fn rank(kind: BuildKind) -> u8 {
    match kind {
        BuildKind::ReplicaIdentity | BuildKind::PrimaryKey | BuildKind::Attach => 0,
        BuildKind::Unique | BuildKind::Exclusion | BuildKind::Index | BuildKind::ForeignKey => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Identifier;

    fn build(id: u32, kind: BuildKind, table: &str, after: &[u32]) -> Build {
        Build {
            id: DumpId::new(id),
            kind,
            form: BuildForm::Index,
            table: QualifiedName::new("app", table),
            name: Identifier::new(format!("i{id}")),
            sql: "".into(),
            tablespace: None,
            depends_on: after.iter().copied().map(DumpId::new).collect(),
        }
    }

    fn drain(schedule: &mut Schedule) -> Vec<u32> {
        std::iter::from_fn(|| schedule.take().map(|build| build.id.get())).collect()
    }

    fn size(table: &QualifiedName) -> Option<u64> {
        match table.name.raw() {
            "small" => Some(1),
            "big" => Some(9),
            _ => None,
        }
    }

    #[test]
    fn identities_first_then_the_largest_table() {
        let builds = vec![
            build(1, BuildKind::Index, "small", &[]),
            build(2, BuildKind::Index, "big", &[]),
            build(3, BuildKind::PrimaryKey, "small", &[]),
            build(4, BuildKind::ReplicaIdentity, "big", &[]),
        ];
        let mut schedule = Schedule::new(builds, size);
        assert!(drain(&mut schedule).is_empty());
        schedule.release(&QualifiedName::new("app", "small"));
        schedule.release(&QualifiedName::new("app", "big"));
        assert_eq!(drain(&mut schedule), [4, 3, 2, 1]);
    }

    #[test]
    fn nobody_waits_for_a_table_that_a_constraint_has_for_itself() {
        let constraint = |build: Build| Build { form: BuildForm::Constraint, ..build };
        let clustered = |build: Build| Build { sql: "CREATE INDEX …;\nALTER TABLE …;\n".into(), ..build };
        let builds = vec![
            constraint(build(1, BuildKind::PrimaryKey, "big", &[])),
            build(2, BuildKind::Index, "big", &[]),
            build(3, BuildKind::Index, "big", &[]),
            clustered(build(4, BuildKind::Index, "big", &[])),
            build(5, BuildKind::Index, "small", &[]),
        ];
        let mut schedule = Schedule::new(builds, size);
        for table in ["big", "small"] {
            schedule.release(&QualifiedName::new("app", table));
        }
        assert_eq!(drain(&mut schedule), [1, 5], "a key of one table, and the index of another beside it");
        schedule.finish(DumpId::new(5));
        assert!(drain(&mut schedule).is_empty());
        schedule.finish(DumpId::new(1));
        assert_eq!(drain(&mut schedule), [2, 3], "indexes side by side");
        schedule.finish(DumpId::new(2));
        assert!(drain(&mut schedule).is_empty());
        schedule.finish(DumpId::new(3));
        assert_eq!((drain(&mut schedule), schedule.left()), (vec![4], 0));
    }

    #[test]
    fn a_table_released_twice_does_not_stand_in_for_a_build() {
        let builds =
            vec![build(1, BuildKind::Index, "parent", &[]), build(2, BuildKind::Attach, "small", &[1])];
        let mut schedule = Schedule::new(builds, size);
        assert_eq!(drain(&mut schedule), [1]);
        schedule.release(&QualifiedName::new("app", "small"));
        schedule.release(&QualifiedName::new("app", "small"));
        assert_eq!((drain(&mut schedule), schedule.left()), (vec![], 1));
        schedule.finish(DumpId::new(1));
        assert_eq!((drain(&mut schedule), schedule.left()), (vec![2], 0));
    }

    #[test]
    fn a_dependency_named_twice_or_unknown_holds_nothing_back() {
        let builds = vec![build(1, BuildKind::Index, "p", &[]), build(2, BuildKind::Index, "p", &[1, 1, 77])];
        let mut schedule = Schedule::new(builds, size);
        assert_eq!(drain(&mut schedule), [1]);
        schedule.finish(DumpId::new(1));
        assert_eq!(drain(&mut schedule), [2]);
    }
}
