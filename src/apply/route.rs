//! Which lane a change belongs to.
//!
//! Hazard: two changes of one row, or of two rows that a unique index holds apart, must not overtake each
//! other, in this run or in the next one, which finds the lanes at different positions and must send each
//! change to the lane that has it or lacks it. So a lane is computed from what does not change: the table's
//! name and bytes of the key that mean the same in either format, by a hash of our own; and what decided
//! which tables are spread by key is written down on the target, in the transaction that begins the lanes.
//!
//! | table | its changes |
//! |---|---|
//! | one unique index, on columns of simple types, and no triggers, rules, exclusion constraints | spread by key |
//! | any other | in one lane, by the table's name |
//! | TRUNCATE, a new key for a row that is spread, a table whose shape has changed | a barrier: no lane |

use std::collections::{BTreeSet, HashMap, HashSet};

use super::change::{Change, Op, Step};
use super::checkpoint::LaneId;
use super::key::is_canonical;
use super::operator::TargetFacts;
use super::table::{BoundTable, RowIdentity};
use crate::catalog::{Column, IndexKind, Table, TableKind};
use crate::error::{Error, ErrorKind, Result};
use crate::pg::{Identifier, QualifiedName};
use crate::pgoutput::{Tuple, Value};

/// Where a change goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Lane(LaneId),
    /// Everything before it must be on the target, and it before everything after it.
    Barrier,
}

/// Types whose values can be told alike in both formats: what else a key holds does not count for its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Integer,
    Text,
    Uuid,
}

impl Reading {
    fn of(type_name: &QualifiedName) -> Option<Reading> {
        if type_name.schema.raw() != "pg_catalog" {
            return None;
        }
        match type_name.name.raw() {
            "int2" | "int4" | "int8" => Some(Reading::Integer),
            "text" | "varchar" | "name" => Some(Reading::Text),
            "uuid" => Some(Reading::Uuid),
            _ => None,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Reading::Integer => "integer",
            Reading::Text => "text",
            Reading::Uuid => "uuid",
        }
    }

    /// Adds the value; a spelling that no server sends adds its bytes.
    fn hash(self, value: Value<'_>, hash: &mut Fnv) {
        match (self, value) {
            (_, Value::Null | Value::Unchanged) => hash.add(&[0]),
            (Reading::Integer, Value::Text(text)) => {
                let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i64>().ok());
                hash.add(&number.unwrap_or_default().to_be_bytes());
            }
            (Reading::Integer, Value::Binary(bytes)) => {
                let sign = bytes.first().map_or(0, |first| if *first > 0x7f { 0xff } else { 0 });
                hash.add(&[sign; 8][bytes.len().min(8)..]);
                hash.add(bytes);
            }
            (Reading::Uuid, Value::Text(text)) => {
                let digits = text.iter().filter(|byte| **byte != b'-');
                digits.for_each(|digit| hash.add(&[digit.to_ascii_lowercase()]));
            }
            (Reading::Uuid, Value::Binary(bytes)) => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                for byte in bytes {
                    hash.add(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
                }
            }
            (Reading::Text, Value::Text(bytes) | Value::Binary(bytes)) => {
                hash.add(bytes);
                hash.add(&[0xff]);
            }
        }
    }
}

/// FNV-1a, and a last mixing, as the lane is its remainder. The standard library's hashers may change.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

/// How a shape of a table is spread.
#[derive(Debug, Clone)]
enum Route {
    Keyed(Vec<(usize, Reading)>),
    Whole,
}

/// Routes by the map that is stored.
#[derive(Debug, Default)]
pub(super) struct Router {
    /// Signatures of the tables that are spread by key.
    keyed: BTreeSet<String>,
    /// By the shape's serial.
    routes: HashMap<u64, (u64, Route)>,
    /// Shapes that were spread, and the last of each table.
    known: HashSet<u64>,
    shapes: HashMap<QualifiedName, u64>,
}

impl Router {
    pub(super) fn new(keyed: BTreeSet<String>) -> Router {
        Router { keyed, ..Router::default() }
    }

    /// What was decided, to be stored.
    pub(super) fn keyed(&self) -> &BTreeSet<String> {
        &self.keyed
    }

    /// Which of `lanes` lanes a step belongs to.
    ///
    /// # Errors
    /// `State` if the table's key on the target is not what it was when its changes began to be spread.
    pub(super) fn way(&mut self, step: &Step, lanes: usize) -> Result<Way> {
        let Step::Row(change) = step else { return Ok(Way::Barrier) };
        let table = &change.table;
        if !self.routes.contains_key(&table.serial) {
            let route = (name_hash(&table.name), self.route(table)?);
            self.routes.insert(table.serial, route);
        }
        let Some((name, route)) = self.routes.get(&table.serial) else { return Ok(Way::Barrier) };
        let mut hash = Fnv(*name);
        match (route, &change.op) {
            (Route::Whole, _) => {}
            (
                Route::Keyed(key),
                Op::Insert { new: tuple } | Op::Update { new: tuple } | Op::Delete { old: tuple },
            ) => hash_key(tuple, key, &mut hash),
            (
                Route::Keyed(_),
                Op::Rekey { .. } | Op::Replace { .. } | Op::UpdateWhole { .. } | Op::DeleteWhole { .. },
            ) => return Ok(Way::Barrier),
        }
        Ok(Way::Lane(LaneId::of_hash(hash.finish(), lanes)))
    }

    /// Whether the step's table has another shape than in the steps that were asked about before.
    pub(super) fn is_new_shape(&mut self, step: &Step) -> bool {
        let Step::Row(Change { table, .. }) = step else { return false };
        if self.known.contains(&table.serial) {
            return false;
        }
        self.known.insert(table.serial);
        self.shapes.insert(table.name.clone(), table.serial).is_some()
    }

    fn route(&self, table: &BoundTable) -> Result<Route> {
        let RowIdentity::Key(key) = &table.identity else { return Ok(Route::Whole) };
        let columns = key.iter().map(|at| &table.columns[*at]);
        let reading = |column: &super::table::BoundColumn| {
            Reading::of(&column.type_name).filter(|_| column.is_canonical)
        };
        let signature = signature(&table.name, columns.map(|column| (&column.name, reading(column))));
        if self.keyed.contains(&signature) {
            let key = key.iter().filter_map(|at| Some((*at, reading(&table.columns[*at])?)));
            return Ok(Route::Keyed(key.collect()));
        }
        let prefix = format!("{} (", table.name);
        if self.keyed.iter().any(|other| other.starts_with(&prefix)) {
            return Err(Error::new(
                ErrorKind::State,
                format!("find the lane of a change of {}", table.name.plain()),
            )
            .hint(
                "The table's key on the target was changed while its changes were spread. Set it back, and \
                       run the command again.",
            ));
        }
        Ok(Route::Whole)
    }
}

fn name_hash(name: &QualifiedName) -> u64 {
    let mut hash = Fnv::new();
    for part in [name.schema.raw(), name.name.raw()] {
        hash.add(part.as_bytes());
        hash.add(&[0]);
    }
    hash.0
}

fn hash_key(tuple: &Tuple, key: &[(usize, Reading)], hash: &mut Fnv) {
    let mut wanted = key.iter().peekable();
    for (at, value) in tuple.values().enumerate() {
        match wanted.peek() {
            None => break,
            Some((next, reading)) if *next == at => {
                reading.hash(value, hash);
                wanted.next();
            }
            Some(_) => {}
        }
    }
}

/// `"s"."t" ("a" integer, "b" -)`: the columns by name, whatever their order on either end.
fn signature<'c>(
    table: &QualifiedName,
    key: impl Iterator<Item = (&'c Identifier, Option<Reading>)>,
) -> String {
    let column = |(name, reading): (&Identifier, Option<Reading>)| {
        format!("{name} {}", reading.map_or("-", Reading::label))
    };
    let mut columns: Vec<String> = key.map(column).collect();
    columns.sort_unstable();
    format!("{table} ({})", columns.join(", "))
}

/// The tables that may be spread by key, as the target's catalog has them now.
pub(super) fn keyed_tables(tables: &[Table], facts: &TargetFacts) -> BTreeSet<String> {
    tables.iter().filter_map(|table| keyed_table(table, facts)).collect()
}

fn keyed_table(table: &Table, facts: &TargetFacts) -> Option<String> {
    let is_watched = !table.replica_triggers.is_empty() || table.has_rules;
    if table.kind != TableKind::Ordinary || is_watched {
        return None;
    }
    let mut constraints = table.indexes.iter().filter(|index| index.kind != IndexKind::Plain);
    let (index, None) = (constraints.next()?, constraints.next()) else { return None };
    let is_sound = matches!(index.kind, IndexKind::Primary | IndexKind::Unique)
        && index.is_valid
        && index.is_immediate
        && !index.is_partial;
    if !is_sound {
        return None;
    }
    let column = |number: &i16| table.columns.iter().find(|column| column.number == *number);
    let key: Vec<&Column> = index.key.iter().map(column).collect::<Option<_>>()?;
    let reading = |column: &Column| {
        Reading::of(&column.type_name).filter(|_| is_canonical(column, facts.is_loose(table, column)))
    };
    let columns: Vec<_> = key.into_iter().map(|column| (&column.name, reading(column))).collect();
    let is_readable = columns.iter().any(|(_, reading)| reading.is_some());
    is_readable.then(|| signature(&table.name, columns.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::sample;
    use crate::catalog::Index;

    fn keyed(columns: Vec<Column>, indexes: Vec<Index>) -> Option<String> {
        keyed_table(&sample::table(columns, indexes), &TargetFacts::default())
    }

    #[test]
    fn only_a_table_with_one_simple_key_is_spread() {
        let columns = || vec![sample::column("id", "int4"), sample::column("n", "numeric")];
        let index = sample::index;
        assert_eq!(
            keyed(columns(), vec![index(IndexKind::Primary, &[1])]).unwrap(),
            r#""s"."t" ("id" integer)"#
        );
        let both = keyed(columns(), vec![index(IndexKind::Primary, &[2, 1])]).unwrap();
        assert_eq!(both, r#""s"."t" ("id" integer, "n" -)"#);
        assert_eq!(keyed(columns(), vec![index(IndexKind::Primary, &[2])]), None, "1.0 is 1.00");
        for other in [IndexKind::Unique, IndexKind::Exclusion] {
            assert_eq!(keyed(columns(), vec![index(IndexKind::Primary, &[1]), index(other, &[2])]), None);
        }
        let plain = vec![index(IndexKind::Primary, &[1]), index(IndexKind::Plain, &[2])];
        assert!(keyed(columns(), plain).is_some());
    }

    #[test]
    fn a_key_is_the_same_in_both_formats() {
        let hash = |reading: Reading, value: Value<'_>| {
            let mut hash = Fnv::new();
            reading.hash(value, &mut hash);
            hash.finish()
        };
        let same = |reading, text: &str, binary: &[u8]| {
            assert_eq!(
                hash(reading, Value::Text(text.as_bytes())),
                hash(reading, Value::Binary(binary)),
                "{text}"
            );
        };
        same(Reading::Integer, "7", &7_i16.to_be_bytes());
        same(Reading::Integer, "-7", &(-7_i32).to_be_bytes());
        same(Reading::Integer, "9223372036854775807", &i64::MAX.to_be_bytes());
        same(Reading::Text, "añ", "añ".as_bytes());
        let uuid = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128;
        same(Reading::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", &uuid.to_be_bytes());
    }

    #[test]
    fn lanes_stay_where_they_are_between_versions() {
        let lane = |key: &str| {
            let mut hash = Fnv(name_hash(&QualifiedName::new("s", "t")));
            Reading::Integer.hash(Value::Text(key.as_bytes()), &mut hash);
            LaneId::of_hash(hash.finish(), 4).index()
        };
        let lanes: Vec<usize> = ["1", "2", "3", "4", "5", "6", "7", "8"].map(lane).into();
        // Another outcome would send changes to lanes that have them already.
        assert_eq!(lanes, [1, 0, 2, 2, 0, 3, 3, 1]);
    }
}
