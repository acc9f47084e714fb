//! Claims about which steps lead from one shape to another.

use super::*;
use crate::catalog::Column;
use crate::catalog::testing::{column, keyed, table};

fn text(number: i16, name: &str) -> Column {
    let mut column = column(number, name);
    column.type_text = "text".into();
    column.type_name = QualifiedName::new("pg_catalog", "text").into();
    column.not_null = false;
    column
}

fn with(columns: &[Column]) -> Table {
    let mut table = table(1, "t");
    table.columns = columns.to_vec();
    table
}

fn announced(name: &str, type_text: &str, builtin: &str, made: Option<AddedColumn>) -> Announced {
    Announced {
        name: Identifier::new(name),
        is_key: false,
        type_text: type_text.to_owned(),
        builtin: Some(builtin.to_owned()),
        modifier: -1,
        home: QualifiedName::new("public", "t"),
        made,
    }
}

fn integer(name: &str) -> Announced {
    announced(name, "integer", "int4", None)
}

fn made(default: Option<&str>, fill: Fill) -> Option<AddedColumn> {
    Some(AddedColumn { collation: None, default: default.map(str::to_owned), fill })
}

fn steps(columns: Vec<Announced>, source: &Table, target: &Table, old_rows: OldRows) -> Vec<Step> {
    amend(&Shape { columns, key: Key::Primary }, Some(source), target, old_rows)
}

fn only(steps: Vec<Step>) -> (Reach, Vec<String>) {
    let [step] = <[Step; 1]>::try_from(steps).expect("one step");
    (step.reach, step.statements)
}

#[test]
fn a_new_column_has_its_old_rows_value() {
    let (source, target) = (with(&[column(1, "a"), text(2, "b")]), with(&[column(1, "a")]));
    let add = |default, fill, old_rows| {
        let new = announced("b", "text", "text", made(default, fill));
        only(steps(vec![integer("a"), new], &source, &target, old_rows))
    };
    let filled = || Fill::Value("it's".to_owned());
    let statement = |rest: &str| format!(r#"ALTER TABLE "public"."t" ADD COLUMN "b" text{rest}"#);
    assert_eq!(
        add(Some("'it''s'::text"), filled(), OldRows::Unknown),
        (Reach::Additive, vec![statement(" DEFAULT 'it''s'::text")])
    );
    let (reach, statements) = add(Some("now()"), filled(), OldRows::Unknown);
    assert_eq!((reach, statements.len()), (Reach::Additive, 2), "the default of today is another");
    assert_eq!(statements[0], statement(" DEFAULT 'it''s'::text"));
    assert_eq!(add(None, Fill::NotNoted, OldRows::Untouched), (Reach::Additive, vec![statement("")]));
    let (reach, statements) = add(Some("5"), Fill::NotNoted, OldRows::Untouched);
    assert_eq!((reach, statements.len()), (Reach::Additive, 2), "old rows are NULL, the default came later");
    assert_eq!(add(Some("random()"), Fill::NotNoted, OldRows::Unknown).0, Reach::Operator);
    assert_eq!(add(None, Fill::NotNoted, OldRows::Unknown).0, Reach::Operator);
    assert_eq!(add(None, Fill::Unreadable, OldRows::Untouched).0, Reach::Operator);
}

#[test]
fn what_may_be_a_rename_is_the_operators() {
    let (source, target) = (with(&[text(1, "new")]), with(&[text(1, "old")]));
    let new = announced("new", "text", "text", made(None, Fill::NotNoted));
    let (reach, statements) = only(steps(vec![new], &source, &target, OldRows::Untouched));
    assert_eq!(reach, Reach::Operator);
    assert_eq!(statements, [r#"ALTER TABLE "public"."t" RENAME COLUMN "old" TO "new""#]);
}

#[test]
fn a_dropped_column_is_the_operators() {
    let (source, target) = (with(&[column(1, "a")]), with(&[column(1, "a"), text(2, "b")]));
    let (reach, statements) = only(steps(vec![integer("a")], &source, &target, OldRows::Untouched));
    assert_eq!(
        (reach, statements),
        (Reach::Operator, vec![r#"ALTER TABLE "public"."t" DROP COLUMN "b""#.to_owned()])
    );
}

#[test]
fn a_column_that_the_target_has_early_lacks_nothing() {
    let both = with(&[column(1, "a"), text(2, "b")]);
    assert_eq!(steps(vec![integer("a")], &both, &both, OldRows::Untouched), []);
}

#[test]
fn a_column_that_neither_end_has_any_more_lacks_nothing() {
    let both = with(&[column(1, "a")]);
    let gone = announced("gone", "text", "text", None);
    assert_eq!(steps(vec![integer("a"), gone], &both, &both, OldRows::Untouched), []);
}

#[test]
fn wider_types_are_additive_and_narrower_ones_are_not() {
    let mut wide = column(1, "a");
    wide.type_text = "bigint".into();
    wide.type_name = QualifiedName::new("pg_catalog", "int8").into();
    let (wide, narrow) = (with(&[wide]), with(&[column(1, "a")]));
    let long = announced("a", "bigint", "int8", None);
    let (reach, statements) = only(steps(vec![long], &wide, &narrow, OldRows::Untouched));
    assert_eq!(reach, Reach::Additive);
    assert_eq!(statements, [r#"ALTER TABLE "public"."t" ALTER COLUMN "a" TYPE bigint"#]);
    assert_eq!(only(steps(vec![integer("a")], &narrow, &wide, OldRows::Untouched)).0, Reach::Operator);
    assert_eq!(steps(vec![integer("a")], &wide, &wide, OldRows::Untouched), [], "an old shape");
    let words = announced("a", "text", "text", None);
    assert_eq!(only(steps(vec![words], &wide, &wide, OldRows::Untouched)).0, Reach::Operator, "ahead");
}

#[test]
fn another_primary_key_is_the_operators() {
    let mut source = keyed(1, "t");
    source.columns.push(column(2, "b"));
    let target = source.clone();
    source.indexes[0].key = vec![2];
    let shape = |key: &str| {
        let of = |name: &str| Announced { is_key: name == key, ..integer(name) };
        vec![of("id"), of("b")]
    };
    assert_eq!(steps(shape("id"), &source, &target, OldRows::Untouched), [], "an old shape");
    let (reach, statements) = only(steps(shape("b"), &source, &target, OldRows::Untouched));
    assert_eq!(reach, Reach::Operator);
    assert!(statements[0].ends_with(r#"ADD PRIMARY KEY ("b")"#), "{statements:?}");
}

#[test]
fn enum_values_come_where_the_source_has_them() {
    let of = |labels: &[&str]| EnumType {
        name: QualifiedName::new("s", "mood"),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    let found = amend_enums(&[of(&["first", "sad", "so-so", "ok", "last"])], &[of(&["sad", "ok"])]);
    let statements: Vec<&str> = found.iter().flat_map(|step| &step.statements).map(String::as_str).collect();
    assert_eq!(
        statements,
        [
            r#"ALTER TYPE "s"."mood" ADD VALUE 'first' BEFORE 'sad'"#,
            r#"ALTER TYPE "s"."mood" ADD VALUE 'so-so' AFTER 'sad'"#,
            r#"ALTER TYPE "s"."mood" ADD VALUE 'last' AFTER 'ok'"#,
        ]
    );
    assert!(found.iter().all(|step| step.reach == Reach::Additive));
    let renamed = amend_enums(&[of(&["sad", "fine"])], &[of(&["sad", "ok"])]);
    assert_eq!(only(renamed).0, Reach::Operator);
    assert_eq!(amend_enums(&[of(&["a"])], &[of(&["a"])]), []);
}
