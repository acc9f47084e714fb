//! What is copied, and what is asked of the copy.

use super::{Size, mixture};

/// One database, and its row of the table.
#[derive(Debug, Clone)]
pub(super) struct DataSet {
    /// For `--dataset`.
    pub(super) name: &'static str,
    /// The row of the table.
    pub(super) title: String,
    pub(super) start: Start,
    /// Tables without a key that only ever grow.
    pub(super) insert_only: &'static [&'static str],
    pub(super) native: Native,
    pub(super) limit: Limit,
    pub(super) goals: Goals,
    pub(super) repetitions_max: usize,
}

/// How the database is made.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// pgbench's own tables, at this scale.
    Pgbench { scale: u64 },
    /// Each is run by itself.
    Sql(Vec<String>),
}

/// Whether a native subscription can take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Native {
    Runs,
    /// It does not carry this, or would take longer than anybody waits.
    Stays,
}

/// Whether rows are so much of the work that their limit is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    Measured,
    No,
}

/// Ratios of times, at the most.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goals {
    /// To the fastest rival.
    pub(super) best: Option<f64>,
    /// The copy phase to its limit.
    pub(super) copy_limit: Option<f64>,
    /// The whole to the limit of the copy and the builds.
    pub(super) all_limit: Option<f64>,
}

/// Every data set, in the order of the table.
pub(super) fn all(size: Size) -> Vec<DataSet> {
    let of = |number: u64| size.of(number);
    let mut sets = vec![
        DataSet { goals: goals(0.75, Some(1.15), Some(1.2)), ..mixed(of(5_000_000)) },
        DataSet {
            goals: goals(0.85, Some(1.15), None),
            ..DataSet::new(
                "wide",
                format!("{} documents of 1 to 8 kB", count(of(230_000))),
                mixture::wide(of(230_000)),
            )
        },
        DataSet {
            start: Start::Pgbench { scale: of(50) },
            insert_only: &["public.pgbench_history"],
            goals: goals(0.9, Some(1.15), None),
            ..DataSet::new("pgbench", format!("pgbench, scale {}", of(50)), Vec::new())
        },
        DataSet {
            limit: Limit::No,
            goals: goals(0.8, None, None),
            ..DataSet::new(
                "schema",
                format!("200 mixed tables, {} rows in the largest", count(of(500_000))),
                mixture::schema(of(500_000)),
            )
        },
        DataSet { repetitions_max: 3, ..many(of(2_000)) },
    ];
    // Ten times as many say what grows with their number; a small machine needs minutes for them.
    if size.scale >= 1.0 {
        sets.push(DataSet { repetitions_max: 1, native: Native::Stays, ..many(of(20_000)) });
    }
    sets.push(DataSet {
        limit: Limit::No,
        goals: goals(0.7, None, None),
        repetitions_max: 3,
        ..DataSet::new(
            "partitions",
            format!("{} rows in {} partitions", count(of(1_000_000)), count(of(1_000))),
            mixture::partitions(of(1_000)),
        )
    });
    sets.push(DataSet {
        limit: Limit::No,
        native: Native::Stays,
        goals: goals(0.5, None, None),
        ..DataSet::new(
            "lobs",
            format!("{} large objects", count(of(100_000))),
            mixture::large_objects(of(100_000)),
        )
    });
    sets
}

pub(super) fn mixed(rows: u64) -> DataSet {
    DataSet::new("mixed", format!("{} mixed rows", count(rows)), mixture::mixed(rows))
}

fn many(tables: u64) -> DataSet {
    DataSet {
        limit: Limit::No,
        goals: goals(0.6, None, None),
        ..DataSet::new("many", format!("{} tables of ten rows", count(tables)), mixture::many(tables))
    }
}

fn goals(best: f64, copy_limit: Option<f64>, all_limit: Option<f64>) -> Goals {
    Goals { best: Some(best), copy_limit, all_limit }
}

impl DataSet {
    fn new(name: &'static str, title: String, sql: Vec<String>) -> DataSet {
        DataSet {
            name,
            title: format!("`{name}`: {title}"),
            start: Start::Sql(sql),
            insert_only: &[],
            native: Native::Runs,
            limit: Limit::Measured,
            goals: Goals::default(),
            repetitions_max: usize::MAX,
        }
    }
}

/// With commas, for people.
fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|one| std::str::from_utf8(one).ok()).collect();
    groups.join(",")
}
