//! Claims about what is removed and what is not.

use super::*;
use crate::pg::{Lsn, SystemIdentifier, Timeline};
use crate::precheck::Method;
use crate::telemetry::Phase;

const ID: &str = "0123abcd";
const OTHER: &str = "89abcdef";

fn id(text: &str) -> MigrationId {
    MigrationId::read(text).unwrap()
}

fn identity() -> Made {
    Made::ReplicaIdentity { table: QualifiedName::new("s", "keyless"), before: "NOTHING".to_owned() }
}

fn slot(name: &str) -> FoundSlot {
    FoundSlot { name: name.parse().unwrap(), active_pid: None }
}

fn marked(name: &str, migration: &str, target: &str) -> (Identifier, Option<Mark>) {
    let mark = Mark::new(id(migration), Some("2".to_owned()), target, &[identity()]);
    (Identifier::new(name), Some(mark))
}

/// A source with all that migration [`ID`] into database `t` makes.
fn source() -> OnSource {
    OnSource {
        database: "s".to_owned(),
        system: Some("1".to_owned()),
        slots: vec![slot("pgstream_0123abcd")],
        publications: vec![marked("pgstream_0123abcd", ID, "t")],
        full: HashSet::from([QualifiedName::new("s", "keyless")]),
        sessions: Vec::new(),
    }
}

fn everything() -> Vec<Made> {
    let name = "pgstream_0123abcd";
    vec![Made::Slot(name.parse().unwrap()), Made::Publication(Identifier::new(name)), identity()]
}

fn target() -> OnTarget {
    OnTarget {
        database: "t".to_owned(),
        system: Some("2".to_owned()),
        schema: true,
        state: Some(State {
            id: id(ID),
            source_system: SystemIdentifier::new(1),
            source_timeline: Timeline::new(1),
            source_database: "s".to_owned(),
            phase: Phase::Copying,
            consistent_point: Some(Lsn::new(1)),
            method: Method::Replication,
            decided_by: None,
            filters: serde_json::Value::Null,
        }),
        journal: everything(),
        live: None,
        parked: 0,
    }
}

fn engine() -> Holder {
    Holder { pid: 42, application: "pgstream control".to_owned(), address: None, since: None }
}

fn decide(source: Seen<OnSource>, target: Seen<OnTarget>) -> Plan {
    plan(&source, &target, Engines::Respect)
}

fn undone(plan: &Plan) -> Vec<&Made> {
    plan.undo.iter().flat_map(|undo| &undo.made).collect()
}

fn stays(plan: &Plan) -> Vec<(Kind, Fate)> {
    plan.stays.iter().map(|item| (item.kind, item.status)).collect()
}

#[test]
fn both_sides_are_cleaned_and_the_journal_goes_last() {
    let plan = decide(Seen::Here(vec![source()]), Seen::Here(vec![target()]));
    assert_eq!(undone(&plan).len(), 3);
    assert_eq!(plan.schemas[0].after.as_deref(), Some("s"));
    assert_eq!(stays(&plan), []);
}

#[test]
fn without_the_target_the_marks_tell_what_was_changed() {
    for target in [Seen::NotNamed, Seen::Away(None), Seen::Away(Some("t".to_owned()))] {
        let plan = decide(Seen::Here(vec![source()]), target);
        assert_eq!(undone(&plan), everything().iter().collect::<Vec<_>>());
    }
}

#[test]
fn without_the_source_the_schema_goes_and_what_remains_is_said() {
    let plan = decide(Seen::NotNamed, Seen::Here(vec![target()]));
    assert_eq!(plan.schemas.len(), 1);
    assert_eq!(plan.schemas[0].after, None);
    assert_eq!(plan.stays.len(), 3);
    assert!(plan.stays.iter().all(|item| item.status == Fate::Remains));
}

#[test]
fn a_source_that_does_not_answer_or_is_another_keeps_the_journal() {
    let another = OnSource { system: Some("3".to_owned()), ..OnSource::default() };
    let another = OnSource { database: "s".to_owned(), ..another };
    let unknown = OnSource { database: "s".to_owned(), ..OnSource::default() };
    for source in [Seen::Away(None), Seen::Here(vec![another]), Seen::Here(vec![unknown])] {
        let plan = decide(source, Seen::Here(vec![target()]));
        assert_eq!(plan.schemas, []);
        assert_eq!(stays(&plan), [(Kind::Schema, Fate::Remains)]);
    }
}

#[test]
fn another_sources_tables_are_not_touched_by_the_journal() {
    let mut other = source();
    other.system = Some("3".to_owned());
    other.slots.clear();
    other.publications.clear();
    let plan = decide(Seen::Here(vec![other]), Seen::Here(vec![target()]));
    assert_eq!(undone(&plan), Vec::<&Made>::new());
}

#[test]
fn a_live_engine_keeps_everything() {
    let live = OnTarget { live: Some(engine()), ..target() };
    let plan = decide(Seen::Here(vec![source()]), Seen::Here(vec![live]));
    assert_eq!((plan.undo.len(), plan.schemas.len()), (0, 0));
    assert!(plan.stays.iter().all(|item| item.message.as_ref().unwrap().contains("pid 42")), "{plan:?}");

    let copying = OnSource { sessions: vec![engine()], ..source() };
    let plan = decide(Seen::Here(vec![copying]), Seen::NotNamed);
    assert_eq!(plan.undo, []);

    let mut streaming = source();
    streaming.slots[0].active_pid = Some(7);
    assert_eq!(decide(Seen::Here(vec![streaming]), Seen::NotNamed).undo, []);
}

#[test]
fn parked_changes_stay_until_they_are_given_up() {
    let parked = || Seen::Here(vec![OnTarget { parked: 3, ..target() }]);
    let kept = decide(Seen::Here(vec![source()]), parked());
    assert_eq!(kept.schemas, []);
    assert!(kept.stays.iter().any(|item| item.message.as_ref().unwrap().contains("3 changes")), "{kept:?}");
    let forced = plan(&Seen::Here(vec![source()]), &parked(), Engines::End);
    assert_eq!(forced.schemas.len(), 1);
}

#[test]
fn an_engine_is_ended_only_if_that_is_wanted() {
    let copying = OnSource { sessions: vec![engine()], ..source() };
    let plan = plan(&Seen::Here(vec![copying]), &Seen::NotNamed, Engines::End);
    assert_eq!((plan.undo.len(), plan.sessions.len()), (1, 1));
}

#[test]
fn another_migration_is_left_alone() {
    let mut both = source();
    both.slots.push(slot("pgstream_89abcdef"));
    both.publications.push(marked("pgstream_89abcdef", OTHER, "elsewhere"));
    both.sessions.push(engine());
    let plan = decide(Seen::Here(vec![both]), Seen::Here(vec![target()]));
    assert_eq!(plan.undo.iter().map(|undo| undo.id.as_str()).collect::<Vec<_>>(), [ID]);
    assert!(plan.sessions.is_empty(), "the session may be the other's");
    assert!(
        plan.stays.iter().all(|item| item.status == Fate::Kept && item.migration.as_deref() == Some(OTHER))
    );
}

#[test]
fn a_migration_whose_journal_is_lost_is_known_by_its_mark() {
    let begun_anew = OnTarget { schema: false, state: None, journal: Vec::new(), ..target() };
    let plan = decide(Seen::Here(vec![source()]), Seen::Here(vec![begun_anew]));
    assert_eq!(undone(&plan).len(), 3);
}

#[test]
fn a_slot_without_its_publication_serves_nobody() {
    let orphan = OnSource { slots: vec![slot("pgstream_89abcdef")], publications: Vec::new(), ..source() };
    let orphan = OnSource { full: HashSet::new(), ..orphan };
    let plan = decide(Seen::Here(vec![orphan]), Seen::Here(vec![target()]));
    assert_eq!(plan.undo.len(), 1);
}

#[test]
fn what_only_looks_like_ours_stays() {
    let foreign = OnSource {
        slots: vec![slot("pgstream_cdc"), slot("pgstream_0123abcde")],
        publications: vec![
            (Identifier::new("pgstream_89abcdef"), None),
            (Identifier::new("pgstream_cdc"), None),
        ],
        full: HashSet::new(),
        ..source()
    };
    let plan = decide(Seen::Here(vec![foreign]), Seen::NotNamed);
    assert_eq!(plan.undo, []);
    assert_eq!(stays(&plan), [(Kind::Publication, Fate::Kept)]);
}
