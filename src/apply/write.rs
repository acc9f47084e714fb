//! A batch made ready for the wire: SQL, parameters, and the number of rows it must touch.
//!
//! Hazard: a statement that touches fewer or more rows than were sent has met a target that is not what the
//! source was. The number travels with the statement, and nothing commits before it was compared (P100).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use super::change::{Cascade, Restart, Truncation};
use super::encode::{BinaryArray, CopyFormat, CopyRows, Misfit, RecordArray, TextArray};
use super::plan::{Action, Batch, BatchRow, Planned};
use super::statement::{Composer, Form, Parameter, Side, Statement, names, text_form, written};
use super::table::{BoundTable, Carrier, Copying};
use crate::pgoutput::{Tuple, Value};
use crate::wire::Payload;

/// Inserts of at least this many rows are copied in: below it the extra round trips cost more.
const COPY_ROWS_MIN: usize = 200;

/// A join of whole rows reads the table once, where no index helps: that is for the planner to see, who must know
/// how many rows the batch has. It holds until the transaction or its savepoint ends, or [`SCANS_OFF`].
const SCANS_ON: &str = "SELECT pg_catalog.set_config('enable_seqscan', 'on', true), \
    pg_catalog.set_config('enable_hashjoin', 'on', true), CASE WHEN pg_catalog.current_setting('plan_cache_mode', true) \
    IS NOT NULL THEN pg_catalog.set_config('plan_cache_mode', 'force_custom_plan', true) END";
/// As a lane is otherwise.
const SCANS_OFF: &str = "SELECT pg_catalog.set_config('enable_seqscan', 'off', true), \
    pg_catalog.set_config('enable_hashjoin', 'off', true), CASE WHEN pg_catalog.current_setting('plan_cache_mode', true) \
    IS NOT NULL THEN pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', true) END";

/// A statement for the target.
#[derive(Debug)]
pub(super) struct Write {
    /// The table it changes, if it is one; for messages.
    pub(super) table: Option<Arc<BoundTable>>,
    pub(super) sql: String,
    pub(super) body: Body,
    pub(super) touches: Touches,
}

/// What is sent with the statement.
#[derive(Debug)]
pub(super) enum Body {
    /// Bound parameters.
    Parameters(Vec<Payload>),
    /// Rows for `COPY … FROM STDIN`.
    Copy(Bytes),
}

/// How many rows a statement must touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touches {
    Exactly(u64),
    Any,
}

impl Write {
    /// Bytes that it puts on the wire, roughly.
    pub(super) fn bytes(&self) -> usize {
        let body = match &self.body {
            Body::Parameters(parameters) => parameters.iter().map(|parameter| parameter.bytes().len()).sum(),
            Body::Copy(rows) => rows.len(),
        };
        self.sql.len() + body
    }
}

/// Makes the statements for one planned step: one, or one per row where its values do not fit into arrays.
pub(super) fn writes(planned: &Planned) -> Vec<Write> {
    match planned {
        Planned::Truncate(truncation) => truncate(truncation),
        Planned::Rows(batch) => {
            if let Some(copy) = copy(batch) {
                return vec![copy];
            }
            let made = match statement(&batch.table, &batch.action, &batch.rows) {
                Ok(write) => vec![write],
                Err(Misfit) => {
                    let each = batch.rows.chunks(1).map(|row| statement(&batch.table, &batch.action, row));
                    each.map(|write| write.expect("one row has one format in each column")).collect()
                }
            };
            match batch.action {
                Action::DeleteRows => [bare(SCANS_ON.to_owned())]
                    .into_iter()
                    .chain(made)
                    .chain([bare(SCANS_OFF.to_owned())])
                    .collect(),
                _ => made,
            }
        }
    }
}

/// A statement without parameters, of which the rows do not count.
fn bare(sql: String) -> Write {
    Write { table: None, sql, body: Body::Parameters(Vec::new()), touches: Touches::Any }
}

fn statement(table: &Arc<BoundTable>, action: &Action, rows: &[BatchRow]) -> Result<Write, Misfit> {
    let touches = Touches::Exactly(rows.len() as u64);
    if *action == Action::Insert && written(table).is_empty() {
        // A table without columns still has a number of rows.
        let sql = format!("INSERT INTO {} SELECT FROM generate_series(1, {})", table.name, rows.len());
        let table = Some(Arc::clone(table));
        return Ok(Write { table, sql, body: Body::Parameters(Vec::new()), touches });
    }
    let (distinct, counts) = match action {
        Action::DeleteRows => counted(rows),
        _ => (Cow::Borrowed(rows), Vec::new()),
    };
    let forms = Forms::of(table, action, &distinct);
    let form = |side, column| forms.form(side, column);
    let Statement { sql, parameters } = Composer::new(table, form).compose(action, &distinct);
    let payloads = fill(table, &parameters, &distinct, &counts)?;
    Ok(Write { table: Some(Arc::clone(table)), sql, body: Body::Parameters(payloads), touches })
}

/// Rows that differ, and how often each of them stands side by side with its equals.
fn counted(rows: &[BatchRow]) -> (Cow<'_, [BatchRow]>, Vec<i32>) {
    let runs = rows.chunk_by(|one, other| one.old == other.old);
    let counts = runs.clone().map(|run| i32::try_from(run.len()).unwrap_or(i32::MAX));
    (Cow::Owned(runs.filter_map(|run| run.first().cloned()).collect()), counts.collect())
}

/// In which form each column's values are at hand, by side.
struct Forms {
    old: Vec<Form>,
    new: Vec<Form>,
}

impl Forms {
    fn of(table: &BoundTable, action: &Action, rows: &[BatchRow]) -> Forms {
        if let ([row], Action::Insert | Action::Delete | Action::Update(_) | Action::Rekey(_)) =
            (rows, action)
        {
            let side = |tuple: &Option<Tuple>| Self::single(table, tuple.as_ref());
            return Forms { old: side(&row.old), new: side(&row.new) };
        }
        let old = rows.iter().filter_map(|row| row.old.as_ref());
        let new = rows.iter().filter_map(|row| row.new.as_ref());
        Forms { old: Self::side(table, old, rows.len()), new: Self::side(table, new, rows.len()) }
    }

    /// What a stream that is kept up with mostly brings: without arrays the target has a quarter less to do.
    fn single(table: &BoundTable, tuple: Option<&Tuple>) -> Vec<Form> {
        let Some(tuple) = tuple else { return table.columns.iter().map(text_form).collect() };
        let has_binary = tuple.values().any(|value| matches!(value, Value::Binary(_)));
        let values = tuple.values().zip(&table.columns);
        values
            .map(|(value, column)| match value {
                Value::Binary(_) => Form::BinaryScalar,
                // One more spelling of a statement is one more that the target has to plan.
                Value::Null if has_binary => Form::BinaryScalar,
                Value::Null | Value::Unchanged | Value::Text(_) => text_form(column),
            })
            .collect()
    }

    fn side<'t>(table: &BoundTable, tuples: impl Iterator<Item = &'t Tuple>, rows: usize) -> Vec<Form> {
        let mut forms: Vec<Form> = table.columns.iter().map(text_form).collect();
        for tuple in tuples {
            for ((value, column), form) in tuple.values().zip(&table.columns).zip(&mut forms) {
                // Values of one column come in one format; whether they truly do shows when they are filled in.
                if let Value::Binary(_) = value {
                    *form = match column.carrier {
                        Carrier::Array { .. } => Form::BinaryArray,
                        Carrier::Cast if rows == 1 => Form::BinaryScalar,
                        Carrier::Cast => Form::BinaryRow,
                    };
                }
            }
        }
        forms
    }

    fn form(&self, side: Side, column: usize) -> Form {
        let forms = match side {
            Side::Old => &self.old,
            Side::New => &self.new,
        };
        forms[column]
    }
}

/// One parameter that grows row by row.
enum Growing {
    Text(TextArray),
    Binary(BinaryArray),
    Scalar(Payload),
    Rows(RecordArray),
}

impl Growing {
    fn new(table: &BoundTable, parameter: &Parameter, counts: &[i32]) -> Growing {
        let (form, column) = match parameter {
            Parameter::Column { column, form, .. } => (form, *column),
            Parameter::Rows { .. } => return Growing::Rows(RecordArray::new(table.record.len())),
            Parameter::Counts => return Growing::Binary(BinaryArray::of_numbers(counts)),
        };
        match (form, &table.columns[column].carrier) {
            (Form::TextArray, Carrier::Array { delimiter, .. }) => Growing::Text(TextArray::new(*delimiter)),
            (Form::TextArray | Form::CastArray, _) => Growing::Text(TextArray::new(',')),
            (Form::BinaryArray, Carrier::Array { element, .. }) => {
                Growing::Binary(BinaryArray::new(*element))
            }
            (Form::BinaryArray | Form::BinaryRow | Form::BinaryScalar, _) => Growing::Scalar(Payload::Null),
        }
    }

    fn push(&mut self, value: Value<'_>) -> Result<(), Misfit> {
        match (self, value) {
            (Growing::Text(array), value) => array.push(value),
            (Growing::Binary(array), value) => array.push(value),
            (Growing::Scalar(payload), Value::Binary(value)) => {
                *payload = Payload::Binary(Bytes::copy_from_slice(value));
                Ok(())
            }
            (Growing::Scalar(payload), Value::Null) => {
                *payload = Payload::Null;
                Ok(())
            }
            (Growing::Scalar(_), Value::Unchanged | Value::Text(_)) => Err(Misfit),
            (Growing::Rows(_), _) => Err(Misfit),
        }
    }

    /// Adds the wanted values of a tuple as a row of the table.
    fn push_row(&mut self, table: &BoundTable, wanted: &[usize], values: &[Value<'_>]) -> Result<(), Misfit> {
        let Growing::Rows(rows) = self else { return Err(Misfit) };
        rows.push(table.record.iter().map(|field| {
            let at = field.column.filter(|at| wanted.contains(at));
            (field.type_oid, at.and_then(|at| values.get(at)).copied().unwrap_or(Value::Null))
        }))
    }

    fn finish(self) -> Payload {
        match self {
            Growing::Text(array) => Payload::Text(array.finish()),
            Growing::Binary(array) => Payload::Binary(array.finish()),
            Growing::Scalar(payload) => payload,
            Growing::Rows(rows) => Payload::Binary(rows.finish()),
        }
    }
}

/// Walks each tuple once and hands every value to the parameter that wants it.
fn fill(
    table: &BoundTable,
    parameters: &[Parameter],
    rows: &[BatchRow],
    counts: &[i32],
) -> Result<Vec<Payload>, Misfit> {
    let mut growing: Vec<Growing> =
        parameters.iter().map(|parameter| Growing::new(table, parameter, counts)).collect();
    let sides = [Wanted::of(Side::Old, table, parameters), Wanted::of(Side::New, table, parameters)];
    for row in rows {
        for (tuple, wanted) in [&row.old, &row.new].into_iter().zip(&sides) {
            let Some(tuple) = tuple else { continue };
            for (value, at) in tuple.values().zip(&wanted.by_column) {
                if let Some(at) = at {
                    growing[*at].push(value)?;
                }
            }
            if let Some((at, columns)) = wanted.in_rows {
                let values: Vec<Value<'_>> = tuple.values().collect();
                growing[at].push_row(table, columns, &values)?;
            }
        }
    }
    Ok(growing.into_iter().map(Growing::finish).collect())
}

/// Which parameters want a side's values.
struct Wanted<'p> {
    /// The parameter of a column.
    by_column: Vec<Option<usize>>,
    /// The parameter that takes whole rows, and with which columns.
    in_rows: Option<(usize, &'p [usize])>,
}

impl<'p> Wanted<'p> {
    fn of(wanted: Side, table: &BoundTable, parameters: &'p [Parameter]) -> Wanted<'p> {
        let mut by_column = vec![None; table.columns.len()];
        let mut in_rows = None;
        for (at, parameter) in parameters.iter().enumerate() {
            match parameter {
                Parameter::Column { side, column, .. } if *side == wanted => by_column[*column] = Some(at),
                Parameter::Rows { side, columns } if *side == wanted => {
                    in_rows = Some((at, columns.as_slice()))
                }
                Parameter::Column { .. } | Parameter::Rows { .. } | Parameter::Counts => {}
            }
        }
        Wanted { by_column, in_rows }
    }
}

/// A long run of inserts as COPY; none where it may not or need not be.
fn copy(batch: &Batch) -> Option<Write> {
    let table = &batch.table;
    let columns = written(table);
    let wanted = batch.action == Action::Insert
        && table.copying == Copying::Allowed
        && batch.rows.len() >= COPY_ROWS_MIN
        && !columns.is_empty();
    if !wanted {
        return None;
    }
    let tuples = || batch.rows.iter().filter_map(|row| row.new.as_ref());
    let is_binary = tuples().flat_map(Tuple::values).any(|value| matches!(value, Value::Binary(_)));
    let (format, with) = match is_binary {
        true => (CopyFormat::Binary, " WITH (FORMAT binary)"),
        false => (CopyFormat::Text, ""),
    };
    let mut rows = CopyRows::new(format);
    for tuple in tuples() {
        let values = tuple.values().zip(&table.columns).filter(|(_, column)| !column.is_generated);
        rows.push(columns.len(), values.map(|(value, _)| value)).ok()?;
    }
    let sql = format!("COPY {} ({}) FROM STDIN{with}", table.name, names(table, &columns));
    let touches = Touches::Exactly(batch.rows.len() as u64);
    Some(Write { table: Some(Arc::clone(table)), sql, body: Body::Copy(rows.finish()), touches })
}

/// The message names each table that was emptied, so ONLY is right for those with inheritance children.
fn truncate(truncation: &Truncation) -> Vec<Write> {
    let names = truncation.tables.iter().map(|table| format!("{}{}", table.only, table.name));
    let cascade = match truncation.cascade {
        Cascade::Restrict => "",
        Cascade::Follow => " CASCADE",
        Cascade::Withheld => return names.map(|name| bare(format!("DELETE FROM {name}"))).collect(),
    };
    let restart = match truncation.restart {
        Restart::Continue => "",
        Restart::Restart => " RESTART IDENTITY",
    };
    let names: Vec<String> = names.collect();
    let truncate = format!("TRUNCATE {}{restart}{cascade}", names.join(", "));
    // TRUNCATE refuses tables with constraints still to be checked, as ours are until the commit. The source
    // had none when it truncated, and every transaction before this one is whole.
    let check = "SET CONSTRAINTS ALL IMMEDIATE".to_owned();
    [check, truncate, "SET CONSTRAINTS ALL DEFERRED".to_owned()].map(bare).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::plan::Present;
    use crate::apply::sample::{keyed, texts};

    fn batch(action: Action, rows: Vec<BatchRow>) -> Planned {
        Planned::Rows(Batch { table: keyed(), action, rows, transaction: 0 })
    }

    fn inserted(id: &'static str) -> BatchRow {
        BatchRow { old: None, new: Some(texts(&[Some(id), Some("∅"), Some("x")])) }
    }

    #[test]
    fn long_runs_of_inserts_are_copied() {
        let few = writes(&batch(Action::Insert, vec![inserted("1"); COPY_ROWS_MIN - 1]));
        assert!(matches!(few.as_slice(), [Write { body: Body::Parameters(_), .. }]));
        let many = writes(&batch(Action::Insert, vec![inserted("1"); COPY_ROWS_MIN]));
        let [Write { sql, body: Body::Copy(rows), touches: Touches::Exactly(200), .. }] = many.as_slice()
        else {
            panic!("{many:?}");
        };
        assert_eq!(sql, r#"COPY "s"."t" ("id", "a", "b") FROM STDIN"#);
        assert!(rows.starts_with(b"1\t\\N\tx\n1\t"));
    }

    #[test]
    fn parameters_follow_the_statement() {
        let row = |id, b| BatchRow { old: None, new: Some(texts(&[Some(id), None, Some(b)])) };
        let present = Present::Only(vec![true, false, true]);
        let made = writes(&batch(Action::Update(present), vec![row("1", "p"), row("2", "q\"")]));
        let [Write { body: Body::Parameters(parameters), touches: Touches::Exactly(2), .. }] =
            made.as_slice()
        else {
            panic!("{made:?}");
        };
        let texts: Vec<_> = parameters.iter().map(Payload::bytes).collect();
        assert_eq!(texts, [br#"{"1","2"}"#.as_slice(), br#"{"p","q\""}"#.as_slice()]);
    }

    #[test]
    fn one_row_of_binary_values_needs_no_arrays() {
        let values = [Value::Binary(&[0, 0, 0, 7]), Value::Unchanged, Value::Null];
        let row = BatchRow { old: None, new: Some(values.into_iter().collect()) };
        let update = || Action::Update(Present::Only(vec![true, false, true]));
        let made = writes(&batch(update(), vec![row.clone()]));
        let [Write { sql, body: Body::Parameters(parameters), touches: Touches::Exactly(1), .. }] =
            made.as_slice()
        else {
            panic!("{made:?}");
        };
        assert_eq!(
            sql,
            "UPDATE ONLY \"s\".\"t\" AS t SET \"b\" = $2::\"pg_catalog\".\"text\" FROM (SELECT) AS u \
             WHERE t.\"id\" OPERATOR(pg_catalog.=) $1::\"pg_catalog\".\"int4\""
        );
        assert!(
            matches!(parameters.as_slice(), [Payload::Binary(id), Payload::Null] if id[..] == [0, 0, 0, 7])
        );
        let two = writes(&batch(update(), vec![row.clone(), row]));
        assert!(two[0].sql.contains("unnest("), "{two:?}");
    }

    #[test]
    fn parameters_show_no_values_in_logs() {
        assert_eq!(format!("{:?}", Payload::Text(Bytes::from_static(b"secret"))), "6 bytes");
    }

    #[test]
    fn truncate_keeps_its_flags() {
        let truncation = Truncation {
            tables: vec![keyed(), Arc::clone(&keyed())],
            transaction: 0,
            cascade: Cascade::Follow,
            restart: Restart::Restart,
        };
        assert_eq!(
            truncate(&truncation)[1].sql,
            r#"TRUNCATE ONLY "s"."t", ONLY "s"."t" RESTART IDENTITY CASCADE"#
        );
        let withheld = truncate(&Truncation { cascade: Cascade::Withheld, ..truncation });
        assert_eq!(withheld[0].sql, r#"DELETE FROM ONLY "s"."t""#);
    }
}
