//! Claims about what waits behind a parked row.

use std::sync::Arc;

use super::*;
use crate::apply::change::{Cascade, Op, Restart, Truncation};
use crate::apply::sample::{keyed, texts};
use crate::apply::table::BoundTable;
use crate::pgoutput::Tuple;

fn quarantine() -> Quarantine {
    Quarantine::empty("s".parse().expect("a slot's name"), Refusals::Park)
}

fn row(id: &'static str) -> Tuple {
    texts(&[Some(id), Some("x"), None])
}

fn step(table: &Arc<BoundTable>, op: Op) -> Step {
    Step::Row(Change { table: Arc::clone(table), transaction: 0, op })
}

fn update(table: &Arc<BoundTable>, id: &'static str) -> Step {
    step(table, Op::Update { new: row(id) })
}

fn rekey(table: &Arc<BoundTable>, from: &'static str, to: &'static str) -> Step {
    step(table, Op::Rekey { old: row(from), new: row(to) })
}

fn refusal() -> Error {
    Error::new(ErrorKind::Apply, "update t").with_sqlstate(SqlState::UNIQUE_VIOLATION)
}

/// Parks the row of the last step, and says which of `then` are kept.
fn kept_after(parked: &mut Quarantine, first: Step, then: &[Step]) -> Vec<usize> {
    let refused = refusal();
    assert!(parked.may_park(&first, &refused));
    let sifted = parked.sift(&[first], &[], Some(&refused)).unwrap();
    assert_eq!((sifted.kept.len(), sifted.parking.len()), (0, 1));
    parked.sift(then, &[], None).unwrap().kept
}

#[test]
fn only_changes_of_a_parked_row_wait() {
    let (table, mut parked) = (keyed(), quarantine());
    let then = [update(&table, "1"), update(&table, "2"), step(&table, Op::Insert { new: row("3") })];
    assert_eq!(kept_after(&mut parked, update(&table, "1"), &then), [1, 2]);
    assert_eq!(parked.rows(), 1);
}

#[test]
fn a_key_that_changes_hands_takes_both_rows_along() {
    let (table, mut parked) = (keyed(), quarantine());
    let then = [
        rekey(&table, "1", "2"),
        update(&table, "2"),
        step(&table, Op::Insert { new: row("1") }),
        update(&table, "3"),
    ];
    assert_eq!(kept_after(&mut parked, update(&table, "1"), &then), [3]);
    assert_eq!(parked.rows(), 1, "they must be replayed in one order");
    // A row that takes the key of a parked one waits as well, and so does whoever takes its own.
    assert_eq!(parked.sift(&[rekey(&table, "9", "1"), update(&table, "9")], &[], None).unwrap().kept, [0; 0]);
}

#[test]
fn two_parked_rows_that_meet_are_one_chain() {
    let (table, mut parked) = (keyed(), quarantine());
    kept_after(&mut parked, update(&table, "1"), &[]);
    kept_after(&mut parked, update(&table, "2"), &[]);
    assert_eq!(parked.rows(), 2);
    let joined = parked.sift(&[rekey(&table, "2", "1")], &[], None).unwrap();
    assert_eq!((parked.rows(), joined.parking.len()), (1, 2), "the chains are joined on the target, too");
}

#[test]
fn an_emptied_table_has_no_parked_rows() {
    let (table, mut parked) = (keyed(), quarantine());
    let truncation = Truncation {
        tables: vec![Arc::clone(&table)],
        transaction: 0,
        cascade: Cascade::Restrict,
        restart: Restart::Continue,
    };
    let then = [update(&table, "1"), Step::Truncate(truncation), step(&table, Op::Insert { new: row("1") })];
    assert_eq!(kept_after(&mut parked, update(&table, "1"), &then), [1, 2]);
    assert_eq!((parked.rows(), parked.keys, parked.key_bytes), (0, 0, 0));
}

#[test]
fn what_is_no_matter_of_a_row_is_not_parked() {
    let (table, parked) = (keyed(), quarantine());
    let of = |code: &str| Error::new(ErrorKind::Apply, "t").with_sqlstate(SqlState::from_code(code).unwrap());
    assert!(parked.may_park(&update(&table, "1"), &of("23514")));
    assert!(!parked.may_park(&update(&table, "1"), &of("42P01")));
    assert!(!parked.may_park(&update(&table, "1"), &of("22P02")), "types that differ");
    assert!(!parked.may_park(&update(&table, "1"), &Error::new(ErrorKind::Connect, "t")));
    let stops = Quarantine { refusals: Refusals::Stop, ..quarantine() };
    assert!(!stops.may_park(&update(&table, "1"), &of("23514")));
}

#[test]
fn there_is_a_bound() {
    let (table, mut parked) = (keyed(), quarantine());
    parked.keys = KEYS_MAX;
    let refused = refusal();
    let error = parked.sift(&[update(&table, "1")], &[], Some(&refused)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Apply);
}
