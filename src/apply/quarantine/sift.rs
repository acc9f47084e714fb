//! Parts the changes of parked rows from all others.
//!
//! Hazard: what is parked in memory must be what is parked on the target. The target's transactions are rolled back
//! and begun again, so a [`Quarantine`] is a value: it is cloned before a try, and counts once the try has held.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::written::{RowKey, Unwritten, Written, columns_of, keys, written};
use super::{DDL, Refusals, exists, name};
use crate::apply::answer::field;
use crate::apply::change::{Change, Step};
use crate::apply::checkpoint::array;
use crate::apply::event::SourceTransaction;
use crate::apply::plan::plan;
use crate::apply::write::{Body, Touches, Write, writes};
use crate::error::{Error, ErrorKind, Result, describe};
use crate::pg::{QualifiedName, SlotName, SqlState};
use crate::wire::{Payload, Session};

const KEYS: &str = "
SELECT DISTINCT schema_name, table_name, key, new_key, chain FROM pgstream.quarantine WHERE slot = $1";

const PARK: &str = "
INSERT INTO pgstream.quarantine (slot, chain, schema_name, table_name, key, new_key, kind, columns, old_row, new_row,
    commit_lsn, xid, sqlstate, message)
VALUES ($1::text, $2::text::bigint, $3::text, $4::text, $5::text, nullif($6::text, ''), $7::text, $8::text::text[],
    nullif($9::text, '')::json, nullif($10::text, '')::json, $11::text::pg_lsn, $12::text::bigint,
    nullif($13::text, ''), nullif($14::text, ''))";

const JOIN: &str = "
UPDATE pgstream.quarantine SET chain = $3::text::bigint WHERE slot = $1::text AND chain = $2::text::bigint";

const FORGET_TABLE: &str = "
DELETE FROM pgstream.quarantine WHERE slot = $1::text AND schema_name = $2::text AND table_name = $3::text";

/// Beyond so many keys, or bytes of them, it is not a few rows that are odd.
const KEYS_MAX: usize = 10_000;
const KEY_BYTES_MAX: usize = 16 << 20;

/// Which rows are parked, as of a moment in the target's transactions: whoever rolls back goes on with a clone from
/// before.
#[derive(Debug, Clone)]
pub(in crate::apply) struct Quarantine {
    slot: SlotName,
    refusals: Refusals,
    tables: HashMap<QualifiedName, Keys>,
    /// Of all tables.
    keys: usize,
    key_bytes: usize,
    chains: i64,
}

/// The parked keys of a table, and the chain that each belongs to.
#[derive(Debug, Clone, Default)]
struct Keys {
    /// Names of the key's columns.
    columns: Vec<String>,
    chains: HashMap<String, i64>,
}

/// Steps, and what becomes of them.
pub(in crate::apply) struct Sifted {
    /// Which are to be told to the target.
    pub(in crate::apply) kept: Vec<usize>,
    /// What parks the others.
    pub(in crate::apply) parking: Vec<Write>,
    pub(in crate::apply) news: News,
}

impl Sifted {
    /// All of it as statements, if there is anything to park; those that are kept are planned anew.
    pub(in crate::apply) fn replanned(self, steps: &[Step]) -> Option<Vec<Write>> {
        if self.parking.is_empty() {
            return None;
        }
        let kept: Vec<Step> = self.kept.iter().filter_map(|at| steps.get(*at).cloned()).collect();
        Some(plan(&kept).iter().flat_map(writes).chain(self.parking).collect())
    }
}

/// What was parked since.
#[derive(Debug, Clone, Default)]
pub(in crate::apply) struct News {
    pub(in crate::apply) changes: u64,
    /// Rows that were refused, by table.
    pub(in crate::apply) refused: BTreeMap<String, u64>,
}

impl News {
    pub(in crate::apply) fn add(&mut self, more: News) {
        self.changes += more.changes;
        for (table, rows) in more.refused {
            *self.refused.entry(table).or_default() += rows;
        }
    }
}

impl Quarantine {
    /// Reads what is parked; none if nothing is, and nothing may be.
    ///
    /// # Errors
    /// As [`Error::from_postgres`] classes them; `Apply` if it is too much.
    pub(in crate::apply) async fn load(
        session: &Session,
        slot: &SlotName,
        refusals: Refusals,
    ) -> Result<Option<Quarantine>> {
        match refusals {
            Refusals::Park => session
                .batch_execute(DDL)
                .await
                .map_err(|error| Error::from_postgres("make room for rows that are refused", error))?,
            Refusals::Stop if !exists(session).await? => return Ok(None),
            Refusals::Stop => {}
        }
        let rows = session.query(KEYS, &[&slot.as_str()]).await;
        let rows = rows.map_err(|error| Error::from_postgres("read which rows are parked", error))?;
        if rows.is_empty() && refusals == Refusals::Stop {
            return Ok(None);
        }
        let mut quarantine = Quarantine::empty(slot.clone(), refusals);
        for row in &rows {
            let keys = [Some(field::<String>(row, 2)?), field::<Option<String>>(row, 3)?];
            let chain = field(row, 4)?;
            for key in keys.into_iter().flatten() {
                quarantine.insert(&name(row)?, key, chain)?;
            }
        }
        Ok(Some(quarantine))
    }

    fn empty(slot: SlotName, refusals: Refusals) -> Quarantine {
        Quarantine { slot, refusals, tables: HashMap::new(), keys: 0, key_bytes: 0, chains: 0 }
    }

    /// How many rows are parked.
    pub(in crate::apply) fn rows(&self) -> u64 {
        let chains = self.tables.values().flat_map(|keys| keys.chains.values());
        chains.collect::<HashSet<_>>().len() as u64
    }

    /// Whether the row of a change that was refused with `error` may be parked: that is a matter of its values, and
    /// its key can be written down.
    pub(in crate::apply) fn may_park(&self, step: &Step, error: &Error) -> bool {
        let Step::Row(change) = step else { return false };
        let is_of_row = error.kind() == ErrorKind::Apply && error.sqlstate().is_none_or(is_of_row);
        self.refusals == Refusals::Park && is_of_row && keys(change).is_ok()
    }

    /// Parts what waits for a parked row from what does not; the last step was `refused`.
    ///
    /// # Errors
    /// `Apply` for one row too many; `State` if a parked row cannot be told from others any more.
    pub(in crate::apply) fn sift(
        &mut self,
        steps: &[Step],
        transactions: &[SourceTransaction],
        refused: Option<&Error>,
    ) -> Result<Sifted> {
        let mut sifted = Sifted { kept: Vec::new(), parking: Vec::new(), news: News::default() };
        for (at, step) in steps.iter().enumerate() {
            let refused = refused.filter(|_| at + 1 == steps.len());
            match step {
                Step::Row(change) if refused.is_some() || self.holds(change)? => {
                    self.park(change, transactions, refused, &mut sifted)?;
                }
                Step::Row(_) => sifted.kept.push(at),
                Step::Truncate(truncation) => {
                    sifted.kept.push(at);
                    // What was parked of it before is gone on the source.
                    let emptied = truncation.tables.iter().filter_map(|table| self.forget(&table.name));
                    sifted.parking.extend(emptied);
                }
            }
        }
        Ok(sifted)
    }

    fn holds(&self, change: &Change) -> Result<bool> {
        let Some(parked) = self.tables.get(&change.table.name) else { return Ok(false) };
        let lost = |why: &str| {
            let of = change.table.name.plain();
            Error::new(ErrorKind::State, format!("tell which changes of {of} follow rows that are parked"))
                .because(why.to_owned())
                .hint("Run again with `--quarantine replay`, or give them up with `--quarantine discard`.")
        };
        let keys = keys(change).map_err(|Unwritten| lost("a key is no text"))?;
        if keys.iter().any(|key| key.columns != parked.columns) {
            return Err(lost("rows are identified by other columns than they were"));
        }
        Ok(keys.iter().any(|key| parked.chains.contains_key(&key.text)))
    }

    fn park(
        &mut self,
        change: &Change,
        transactions: &[SourceTransaction],
        refused: Option<&Error>,
        sifted: &mut Sifted,
    ) -> Result<()> {
        let table = &change.table;
        let unwritten = |Unwritten| {
            Error::new(ErrorKind::Apply, format!("park a change of {}", table.name.plain()))
                .because("a value is no text in UTF-8")
        };
        let keys = keys(change).map_err(unwritten)?;
        let chain = self.chain(&table.name, &keys, sifted)?;
        let key = |at: usize| keys.get(at).map(|key| key.text.clone()).unwrap_or_default();
        let Written { kind, columns, old, new } = written(change).map_err(unwritten)?;
        let of = transactions.get(change.transaction as usize);
        let sqlstate = refused.and_then(Error::sqlstate);
        sifted.parking.push(write(
            PARK,
            Touches::Exactly(1),
            [
                self.slot.to_string(),
                chain.to_string(),
                table.name.schema.raw().to_owned(),
                table.name.name.raw().to_owned(),
                key(0),
                key(1),
                kind,
                array(columns.into_iter()),
                old.unwrap_or_default(),
                new.unwrap_or_default(),
                of.map_or("0/0".to_owned(), |of| of.final_lsn.to_string()),
                of.map_or("0".to_owned(), |of| of.xid.to_string()),
                sqlstate.map_or(String::new(), |state| state.to_string()),
                refused.map_or(String::new(), |error| describe(error)),
            ],
        ));
        sifted.news.changes += 1;
        if refused.is_some() {
            *sifted.news.refused.entry(table.name.plain()).or_default() += 1;
        }
        Ok(())
    }

    /// The chain that a change with these keys belongs to, which is one from now on if it was two or none.
    fn chain(&mut self, table: &QualifiedName, keys: &[RowKey], sifted: &mut Sifted) -> Result<i64> {
        let parked = self.tables.get(table);
        let known = |key: &RowKey| parked.and_then(|parked| parked.chains.get(&key.text).copied());
        let chains: Vec<i64> = keys.iter().filter_map(known).collect();
        let chain = chains.iter().copied().min().unwrap_or(self.chains + 1);
        for other in chains.into_iter().filter(|other| *other != chain) {
            let parameters = [self.slot.to_string(), other.to_string(), chain.to_string()];
            sifted.parking.push(write(JOIN, Touches::Any, parameters));
            let all = self.tables.get_mut(table).into_iter().flat_map(|parked| parked.chains.values_mut());
            all.filter(|of| **of == other).for_each(|of| *of = chain);
        }
        for key in keys {
            self.insert(table, key.text.clone(), chain)?;
        }
        Ok(chain)
    }

    fn forget(&mut self, table: &QualifiedName) -> Option<Write> {
        let parked = self.tables.remove(table)?;
        self.keys -= parked.chains.len();
        self.key_bytes -= parked.chains.keys().map(String::len).sum::<usize>();
        let of = [self.slot.as_str(), table.schema.raw(), table.name.raw()];
        Some(write(FORGET_TABLE, Touches::Any, of.map(str::to_owned)))
    }

    fn insert(&mut self, table: &QualifiedName, key: String, chain: i64) -> Result<()> {
        self.chains = self.chains.max(chain);
        let parked = self.tables.entry(table.clone()).or_default();
        if parked.chains.is_empty() {
            parked.columns = columns_of(&key)
                .map_err(|error| Error::new(ErrorKind::State, "read which rows are parked").because(error))?;
        }
        let bytes = key.len();
        if parked.chains.insert(key, chain).is_none() {
            self.keys += 1;
            self.key_bytes += bytes;
        }
        if self.keys > KEYS_MAX || self.key_bytes > KEY_BYTES_MAX {
            return Err(Error::new(ErrorKind::Apply, format!("park more than {KEYS_MAX} rows"))
                .because(format!("the target refuses too many, of {} among others", table.plain()))
                .hint("So many refusals have one cause: mend it on the target, and run again with `--quarantine replay`."));
        }
        Ok(())
    }
}

/// Whether a refusal is about the values of a row: a constraint, a value out of range, one too large for an index, a
/// trigger's own word. That a text is no value at all comes from types that differ, and is left to whoever compares
/// them.
fn is_of_row(state: SqlState) -> bool {
    matches!(state.class(), "22" | "23" | "44" | "54" | "P0")
        && state != SqlState::INVALID_TEXT_REPRESENTATION
}

fn write<const N: usize>(sql: &str, touches: Touches, parameters: [String; N]) -> Write {
    let parameters = parameters.map(|text| Payload::Text(Bytes::from(text)));
    Write { table: None, sql: sql.to_owned(), body: Body::Parameters(parameters.into()), touches }
}

#[cfg(test)]
#[path = "sift_tests.rs"]
mod tests;
