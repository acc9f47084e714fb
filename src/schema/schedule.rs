//! Which build is next.
//!
//! Hazard: until a table's replica identity has its index, each UPDATE and DELETE applied to it reads the whole
//! table (P101). So identities go before all else, the largest tables first; no clock and no task in here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::pg::QualifiedName;
use crate::schema::entry::DumpId;
use crate::schema::plan::{Build, BuildKind};

/// The builds of one database, handed out as their tables and the builds before them are done.
///
/// ```text
/// waiting ──(rows there, builds before it finished)──► ready ──take──► running ──finish──► gone
/// ```
#[derive(Debug)]
pub struct Schedule {
    waiting: HashMap<DumpId, Waiting>,
    ready: BTreeMap<Turn, Build>,
    running: HashSet<DumpId>,
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
            running: HashSet::new(),
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

    /// The next build to run, if one is ready.
    pub fn take(&mut self) -> Option<Build> {
        let (_, build) = self.ready.pop_first()?;
        self.running.insert(build.id);
        Some(build)
    }

    /// Builds that are ready: the next one, and behind it others, if all are on tables of at most `bytes_max`; no
    /// more than `builds_max`, and no more than leaves as many for each of `jobs`.
    pub fn take_some(&mut self, bytes_max: u64, builds_max: usize, jobs: usize) -> Vec<Build> {
        let share = self.ready.len() / jobs.max(1);
        let is_small = |turn: &Turn| turn.table_bytes.0.is_some_and(|bytes| bytes <= bytes_max);
        let mut small = self.ready.first_key_value().is_some_and(|(turn, _)| is_small(turn));
        let mut taken: Vec<Build> = self.take().into_iter().collect();
        while small && taken.len() < share.min(builds_max) {
            small = self.ready.first_key_value().is_some_and(|(turn, _)| is_small(turn));
            if small {
                taken.extend(self.take());
            }
        }
        taken
    }

    /// A build is done: what waited for it may be ready now.
    pub fn finish(&mut self, id: DumpId) {
        if self.running.remove(&id) {
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
    use crate::schema::plan::BuildForm;

    fn build(id: u32, kind: BuildKind, table: &str, after: &[u32]) -> Build {
        Build {
            id: DumpId::new(id),
            kind,
            form: BuildForm::Index,
            table: QualifiedName::new("app", table),
            name: Identifier::new(format!("i{id}")),
            sql: String::new(),
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
