//! Which entries may be restored side by side: for a schema of thousands of tables their definitions are the work.
//!
//! Hazard: an entry must not run ahead of what it needs. What the archive says of that is complete for every kind of
//! entry (`BuildArchiveDependencies` in `pg_dump.c`), but only kinds that lock and change nothing beyond what they
//! name leave their places here; all others are restored where they stand, and everything around them waits.
//!
//! ```text
//! ── SCHEMA … FUNCTION ──┬─ TABLE a, SEQUENCE of a, its DEFAULT ─┬── TABLE ATTACH … ──
//!                        └─ TABLE b, VIEW on b ──────────────────┘
//! ```

use std::collections::{HashMap, HashSet};

use crate::schema::entry::{DumpId, Entry};
use crate::schema::toc::Toc;

/// For fewer, one more process and connection cost more than they bring.
const LANE_ENTRIES_MIN: usize = 100;

/// Kinds that touch only what they name and what they depend on.
const APART: [&str; 8] = [
    "TABLE",
    "FOREIGN TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "DEFAULT",
    "COMMENT",
];

/// Those of them that make a relation.
const RELATIONS: usize = 4;

/// What more relations than this need goes ahead of all lanes: otherwise the partitions of a table, which need it and
/// not each other, would share one lane.
const DEPENDENTS_MAX: usize = 8;

/// Entries that follow each other, in one lane or in several that do not need each other.
pub(super) type Stretch = Vec<Vec<DumpId>>;

/// Cuts a list into stretches of at most `lanes` lanes each, to be restored one after the other.
pub(super) fn stretches(toc: &Toc, ids: &[DumpId], lanes: usize) -> Vec<Stretch> {
    if lanes < 2 || ids.len() < 2 * LANE_ENTRIES_MIN {
        return vec![vec![ids.to_vec()]];
    }
    let entries: HashMap<DumpId, &Entry> = toc.entries.iter().map(|entry| (entry.id, entry)).collect();
    let apart = |id: &DumpId| entries.get(id).is_some_and(|entry| APART.contains(&&*entry.desc));
    let mut stretches: Vec<Stretch> = Vec::new();
    for run in ids.chunk_by(|one, next| apart(one) == apart(next)) {
        let several = lanes.min(run.len() / LANE_ENTRIES_MIN);
        if several < 2 || !run.first().is_some_and(apart) {
            in_turn(&mut stretches, run);
            continue;
        }
        let ahead = much_needed(&entries, run);
        let (ahead, rest): (Vec<DumpId>, Vec<DumpId>) = run.iter().partition(|id| ahead.contains(id));
        in_turn(&mut stretches, &ahead);
        stretches.push(deal(groups(&entries, &rest), several));
    }
    stretches
}

fn in_turn(stretches: &mut Vec<Stretch>, ids: &[DumpId]) {
    match stretches.last_mut().map(Vec::as_mut_slice) {
        Some([lane]) => lane.extend(ids),
        _ if ids.is_empty() => {}
        _ => stretches.push(vec![ids.to_vec()]),
    }
}

/// What many relations need, and what it needs itself.
fn much_needed(entries: &HashMap<DumpId, &Entry>, run: &[DumpId]) -> HashSet<DumpId> {
    let members: HashSet<DumpId> = run.iter().copied().collect();
    let needs = |id: &DumpId| {
        let needed = entries.get(id).into_iter().flat_map(|entry| &entry.dependencies);
        needed.copied().filter(|id| members.contains(id))
    };
    let makes_relation =
        |id: &&DumpId| entries.get(id).is_some_and(|entry| APART[..RELATIONS].contains(&&*entry.desc));
    let mut dependents: HashMap<DumpId, usize> = HashMap::new();
    for id in run.iter().filter(makes_relation).flat_map(needs) {
        *dependents.entry(id).or_default() += 1;
    }
    let mut found = HashSet::new();
    let mut look: Vec<DumpId> =
        dependents.iter().filter(|(_, count)| **count > DEPENDENTS_MAX).map(|(id, _)| *id).collect();
    while let Some(id) = look.pop() {
        if found.insert(id) {
            look.extend(needs(&id));
        }
    }
    found
}

/// Entries that hang together, each group in the order it had.
fn groups(entries: &HashMap<DumpId, &Entry>, run: &[DumpId]) -> Vec<Vec<DumpId>> {
    let places: HashMap<DumpId, usize> = run.iter().enumerate().map(|(at, id)| (*id, at)).collect();
    let mut roots: Vec<usize> = (0..run.len()).collect();
    for (at, id) in run.iter().enumerate() {
        let needed = entries.get(id).into_iter().flat_map(|entry| &entry.dependencies);
        for before in needed.filter_map(|id| places.get(id)) {
            let (one, other) = (root(&mut roots, at), root(&mut roots, *before));
            roots[one.max(other)] = one.min(other);
        }
    }
    let mut groups: Vec<Vec<DumpId>> = vec![Vec::new(); run.len()];
    for (at, id) in run.iter().enumerate() {
        groups[root(&mut roots, at)].push(*id);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// The first of the group that `at` belongs to; the way there is shorter the next time.
fn root(roots: &mut [usize], mut at: usize) -> usize {
    while roots[at] != at {
        roots[at] = roots[roots[at]];
        at = roots[at];
    }
    at
}

/// Deals groups out, the largest first, each to the lane that has least.
fn deal(mut groups: Vec<Vec<DumpId>>, lanes: usize) -> Stretch {
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut dealt: Stretch = vec![Vec::new(); lanes];
    for group in groups {
        let least = dealt.iter_mut().min_by_key(|lane| lane.len());
        least.expect("there are lanes").extend(group);
    }
    dealt.retain(|lane| !lane.is_empty());
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Oid;
    use crate::schema::entry::{Definition, Section};
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn toc(entries: &[(&str, Vec<u32>)]) -> Toc {
        let entry = |(at, (desc, needs)): (usize, &(&str, Vec<u32>))| Entry {
            id: DumpId::new(at as u32 + 1),
            section: Section::PreData,
            desc: (*desc).into(),
            tag: String::new(),
            namespace: None,
            owner: "".into(),
            tablespace: None,
            definition: Definition::Absent,
            dependencies: needs.iter().copied().map(DumpId::new).collect(),
            table_oid: Oid::new(1259),
            oid: Oid::new(1),
        };
        Toc {
            version: (1, 14),
            database: String::new(),
            server_version: String::new(),
            dump_version: String::new(),
            entries: entries.iter().enumerate().map(entry).collect(),
        }
    }

    fn all(toc: &Toc) -> Vec<DumpId> {
        toc.entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn tables_are_dealt_out_and_what_is_around_them_stays() {
        let mut entries = vec![("SCHEMA", vec![])];
        for table in 0..200 {
            entries.push(("TABLE", vec![1]));
            entries.push(("SEQUENCE", vec![2 + table * 2]));
        }
        entries.extend([("TABLE ATTACH", vec![2, 4]), ("TABLE ATTACH", vec![2, 6]), ("VIEW", vec![2])]);
        let toc = toc(&entries);
        let lengths = |lanes| {
            let stretches = stretches(&toc, &all(&toc), lanes);
            stretches.iter().map(|lanes| lanes.iter().map(Vec::len).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(2), [vec![1], vec![200, 200], vec![3]]);
        assert_eq!(lengths(8), [vec![1], vec![100; 4], vec![3]], "no more lanes than pay");
        assert_eq!(lengths(1), [vec![404]]);
    }

    #[test]
    fn partitions_wait_for_their_parent_and_not_for_each_other() {
        let mut entries = vec![("TABLE", vec![]), ("TABLE", vec![1])];
        entries.extend((0..399).map(|_| ("TABLE", vec![2])));
        let toc = toc(&entries);
        let stretches = stretches(&toc, &all(&toc), 2);
        let lengths: Vec<Vec<usize>> =
            stretches.iter().map(|lanes| lanes.iter().map(Vec::len).collect()).collect();
        assert_eq!(lengths, [vec![2], vec![200, 199]]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_ahead_of_what_it_needs(
            kinds in proptest::collection::vec((0usize..800, proptest::collection::vec(0.0f64..1.0, 0..3)), 0..900),
            lanes in 1usize..6,
        ) {
            // Few enough in between that stretches are long enough for lanes.
            let kind = |at: usize| if at == 0 { "FUNCTION" } else { APART[at % APART.len()] };
            let entries: Vec<(&str, Vec<u32>)> = kinds
                .iter()
                .enumerate()
                // One in eight needs something of what is before it.
                .map(|(at, (of, needs))| {
                    let needs = needs.iter().filter(|_| at % 8 == 1).map(|need| (need * at as f64) as u32 + 1);
                    // And one in five a table that many need.
                    let hub = (at % 5 == 4).then_some(at as u32 / 300 * 300 + 4);
                    (kind(*of), needs.chain(hub.filter(|hub| *hub <= at as u32)).collect())
                })
                .collect();
            let toc = toc(&entries);
            let mut done: HashSet<DumpId> = HashSet::new();
            for stretch in stretches(&toc, &all(&toc), lanes) {
                prop_assert!(stretch.len() <= lanes);
                let before = done.clone();
                for lane in stretch {
                    let mut there = before.clone();
                    for id in lane {
                        let needed = &toc.entry(id).unwrap().dependencies;
                        prop_assert!(needed.iter().all(|id| there.contains(id)), "{id} runs ahead");
                        there.insert(id);
                        prop_assert!(done.insert(id), "{id} twice");
                    }
                }
            }
            prop_assert_eq!(done.len(), toc.entries.len());
        }
    }
}
