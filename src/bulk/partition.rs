//! Cuts tables into parts of about equal bytes, largest first. Pure.
//!
//! Hazard: `relpages` and heap size say little about a table whose rows are in TOAST; parts are sized by
//! all bytes of the table, and only *placed* by heap block. The last range stays open, so that blocks
//! added after we measured are not lost.

use crate::catalog::{Column, Table, TransferType};
use crate::pg::{Identifier, QualifiedName, RelationId, ServerVersion};

/// How rows travel (P60).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFormat {
    /// `FORMAT binary`: every column means the same bytes on both ends.
    Binary,
    /// `FORMAT text`.
    Text,
}

/// A table to copy: names and sizes, no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableCopy {
    /// OID on the source.
    pub relation: RelationId,
    /// Name on both ends.
    pub name: QualifiedName,
    /// Columns to carry, by name (P67); generated ones are not among them (P39).
    pub columns: Vec<Identifier>,
    /// Format.
    pub format: CopyFormat,
    /// Heap blocks on the source.
    pub blocks: u64,
    /// Heap and TOAST bytes on the source.
    pub bytes: u64,
    /// Whether it goes ahead of larger ones.
    pub rank: Rank,
}

/// When a table is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Before all others: it is rewritten so often that a snapshot shows it only while it is fresh.
    First,
    /// By its size.
    BySize,
}

/// Heap blocks `first..end`; without `end`, to wherever the table ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRange {
    /// First block.
    pub first: u64,
    /// The block after the last one.
    pub end: Option<u64>,
}

/// What one worker copies in one transaction: a table, a piece of one, or several small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Index of the first table in the list that was partitioned.
    pub table: usize,
    /// How many tables, each whole where it is not one.
    pub count: usize,
    /// The piece; `None` is the whole table.
    pub range: Option<BlockRange>,
    /// Its share of the tables' bytes.
    pub bytes: u64,
}

/// A table of more bytes than this goes by itself: below it, emptying it and committing cost more than its rows.
const TABLE_BYTES_MAX: u64 = 256 << 10;

/// Small tables of one part have no more bytes than this together: the part is held in memory as a whole.
const TOGETHER_BYTES_MAX: u64 = 2 << 20;

/// Fewer small tables than this are not put together.
const TABLES_MIN: usize = 8;

/// Small tables of one part; each is locked on the source as long as its transaction lasts.
pub(super) const TABLES_MAX: usize = 64;

impl TableCopy {
    /// Plans the copy of every writable column of `source` into `target`, where the caller has seen that each
    /// exists under the same name.
    #[must_use]
    pub fn new(source: &Table, target: &Table) -> TableCopy {
        let carried: Vec<&Column> = source.writable_columns().collect();
        let same_bytes = |column: &&Column| {
            let twin = target.column(column.name.raw());
            column.transfer == TransferType::BinarySafe
                && twin.is_some_and(|twin| {
                    twin.transfer == TransferType::BinarySafe && twin.type_name == column.type_name
                })
        };
        let format = if carried.iter().all(same_bytes) { CopyFormat::Binary } else { CopyFormat::Text };
        TableCopy {
            relation: source.oid,
            name: source.name.clone(),
            columns: carried.into_iter().map(|column| column.name.clone()).collect(),
            format,
            blocks: source.blocks,
            bytes: source.bytes,
            rank: Rank::BySize,
        }
    }

    /// Whether it may be copied together with others: then the way to it is the work.
    fn is_small(&self) -> bool {
        self.bytes <= TABLE_BYTES_MAX && self.rank == Rank::BySize
    }

    fn column_list(&self) -> String {
        self.columns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// `COPY … TO STDOUT` of the whole table or a range of it, this table's own rows only (P38).
    #[must_use]
    pub fn copy_out(&self, range: Option<BlockRange>) -> String {
        let format = match self.format {
            CopyFormat::Binary => "binary",
            CopyFormat::Text => "text",
        };
        let condition = match range {
            None => String::new(),
            Some(BlockRange { first, end: None }) => format!(" WHERE ctid >= '({first},0)'"),
            Some(BlockRange { first, end: Some(end) }) => {
                format!(" WHERE ctid >= '({first},0)' AND ctid < '({end},0)'")
            }
        };
        format!(
            "COPY (SELECT {} FROM ONLY {}{condition}) TO STDOUT (FORMAT {format})",
            self.column_list(),
            self.name
        )
    }

    /// `COPY … FROM STDIN`; `freeze` only if this transaction truncated the table (P86).
    #[must_use]
    pub fn copy_in(&self, freeze: Freeze) -> String {
        let format = match self.format {
            CopyFormat::Binary => "binary",
            CopyFormat::Text => "text",
        };
        // Without columns there is no list to write: COPY then expects rows of no field, which is what comes.
        let columns =
            if self.columns.is_empty() { String::new() } else { format!(" ({})", self.column_list()) };
        let freeze = match freeze {
            Freeze::Yes => ", FREEZE",
            Freeze::No => "",
        };
        format!("COPY {}{columns} FROM STDIN (FORMAT {format}{freeze})", self.name)
    }
}

/// Whether rows are written frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// The table was truncated in this transaction.
    Yes,
    /// It was not.
    No,
}

/// How tables are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// No part is larger (bytes).
    pub split_bytes: u64,
    /// Workers that copy side by side.
    pub jobs: usize,
}

impl Cut {
    /// No table is cut smaller than this for the workers' sake (bytes): a part costs a transaction on either end.
    const PART_BYTES_MIN: u64 = 16 << 20;
    /// Parts of a worker's share, so that all workers end at about the same time.
    const PARTS_OF_SHARE: u64 = 4;

    /// How many of so many small tables make a part: few enough that every worker gets some, and again. Where that
    /// is next to none they go one by one, and their rows are frozen (P86).
    fn together(self, small: usize) -> usize {
        match small.div_ceil(self.jobs.max(1) * 2) {
            ..TABLES_MIN => 1,
            share => share.min(TABLES_MAX),
        }
    }

    /// The size of one table's parts, where `total` are the bytes of all.
    ///
    /// A table that is more than one worker's share of everything would keep that worker busy when all others are
    /// done. A smaller one is better copied whole: then its rows are frozen as they come (P86).
    fn part_bytes(self, table: u64, total: u64) -> u64 {
        let share = total / u64::try_from(self.jobs.max(1)).unwrap_or(u64::MAX);
        if table <= share.max(Cut::PART_BYTES_MIN) {
            return self.split_bytes.max(1);
        }
        (share / Cut::PARTS_OF_SHARE).max(Cut::PART_BYTES_MIN).min(self.split_bytes).max(1)
    }
}

/// Cuts large tables, and those that one worker alone would be busy with for longest; puts small neighbours together;
/// orders all parts largest first. Tables that are sorted by size have small neighbours.
///
/// Ranges need TID range scans on the source (14+); an older source gets whole tables.
#[must_use]
pub fn partition(tables: &[TableCopy], cut: Cut, source: ServerVersion) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::with_capacity(tables.len());
    let total = tables.iter().fold(0u64, |total, copy| total.saturating_add(copy.bytes));
    let together = cut.together(tables.iter().filter(|copy| copy.is_small()).count());
    for (table, copy) in tables.iter().enumerate() {
        if copy.is_small() {
            match parts.last_mut() {
                Some(part)
                    if part.count < together
                        && part.bytes + copy.bytes <= TOGETHER_BYTES_MAX
                        && part.table + part.count == table
                        && tables.get(part.table).is_some_and(TableCopy::is_small) =>
                {
                    part.count += 1;
                    part.bytes += copy.bytes;
                }
                _ => parts.push(Part { table, count: 1, range: None, bytes: copy.bytes }),
            }
            continue;
        }
        let wanted = copy.bytes.div_ceil(cut.part_bytes(copy.bytes, total)).max(1);
        let count = if source.major() >= 14 { wanted.min(copy.blocks).max(1) } else { 1 };
        if count == 1 {
            parts.push(Part { table, count: 1, range: None, bytes: copy.bytes });
            continue;
        }
        let edge = |index: u64| {
            u64::try_from(u128::from(copy.blocks) * u128::from(index) / u128::from(count))
                .unwrap_or(copy.blocks)
        };
        parts.extend((0..count).map(|index| Part {
            table,
            count: 1,
            range: Some(BlockRange { first: edge(index), end: (index + 1 < count).then(|| edge(index + 1)) }),
            bytes: copy.bytes / count,
        }));
    }
    // Small tables come last, for the ends to meet. Stable: parts of one table stay in block order, so that the source
    // reads ahead.
    let size = |part: &Part| {
        let first = tables.get(part.table).map_or(0, |table| table.bytes);
        if part.count > 1 { first } else { part.bytes }
    };
    parts.sort_by_key(|part| (tables.get(part.table).map(|table| table.rank), std::cmp::Reverse(size(part))));
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(blocks: u64, bytes: u64) -> TableCopy {
        TableCopy {
            relation: RelationId::new(1),
            name: QualifiedName::new("s", "t"),
            columns: vec![Identifier::new("a"), Identifier::new("B")],
            format: CopyFormat::Binary,
            blocks,
            bytes,
            rank: Rank::BySize,
        }
    }

    fn cut(split_bytes: u64) -> Cut {
        Cut { split_bytes, jobs: 2 }
    }

    const V15: ServerVersion = ServerVersion::new(150_018);

    #[test]
    fn a_table_of_little_heap_and_much_toast_is_split_all_the_same() {
        let parts = partition(&[table(100, 1000 << 10)], cut(100 << 10), V15);
        assert_eq!(parts.len(), 10);
        assert_eq!(parts.last().unwrap().range.unwrap().end, None);
    }

    #[test]
    fn an_old_source_gets_whole_tables() {
        assert_eq!(
            partition(&[table(100, 1000 << 10)], cut(100 << 10), ServerVersion::new(130_000)).len(),
            1
        );
    }

    #[test]
    fn a_table_that_one_worker_would_be_left_alone_with_is_cut_for_all() {
        let tables = [table(100_000, 800 << 20), table(100, 1 << 20), table(4000, 30 << 20)];
        let parts = partition(&tables, Cut { split_bytes: 1 << 30, jobs: 4 }, V15);
        let of = |at: usize| parts.iter().filter(|part| part.table == at).count();
        assert_eq!((of(0), of(1), of(2)), (16, 1, 1));
        assert_eq!(partition(&tables, Cut { split_bytes: 1 << 30, jobs: 1 }, V15).len(), 3);
    }

    #[test]
    fn largest_first() {
        let bytes: Vec<u64> =
            partition(&[table(1, 5 << 17), table(9, 90 << 17), table(1, 7 << 17)], cut(1 << 30), V15)
                .iter()
                .map(|part| part.bytes >> 17)
                .collect();
        assert_eq!(bytes, [90, 7, 5]);
    }

    #[test]
    fn what_cannot_wait_goes_first() {
        let restless = TableCopy { rank: Rank::First, ..table(1, 5) };
        let parts = partition(&[table(9, 90), restless], cut(1000), V15);
        assert_eq!(parts.iter().map(|part| part.table).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn small_tables_go_together_and_every_worker_gets_some() {
        let mut tables = vec![table(9, 9 << 20), TableCopy { rank: Rank::First, ..table(1, 5) }];
        tables.extend((0..300).map(|_| table(1, 8 << 10)));
        let together = |jobs| -> Vec<usize> {
            let parts = partition(&tables, Cut { split_bytes: 1 << 30, jobs }, V15);
            parts.iter().map(|part| part.count).collect()
        };
        assert_eq!(together(1), [1, 1, 64, 64, 64, 64, 44]);
        assert_eq!(together(30), [[1, 1].as_slice(), &[1; 300]].concat());
        assert_eq!(together(8), [[1, 1].as_slice(), &[19; 15], &[15]].concat());
    }

    #[test]
    fn small_tables_of_one_part_fit_into_memory() {
        let tables: Vec<TableCopy> = (0..300).map(|_| table(25, 200 << 10)).collect();
        let parts = partition(&tables, Cut { split_bytes: 1 << 30, jobs: 2 }, V15);
        assert!(parts.iter().all(|part| part.count == 10 && part.bytes == 2000 << 10), "{parts:?}");
        assert_eq!(parts.iter().map(|part| part.count).sum::<usize>(), 300);
    }

    #[test]
    fn sql_names_columns_and_quotes_them() {
        let range = BlockRange { first: 3, end: Some(9) };
        assert_eq!(
            table(1, 1).copy_out(Some(range)),
            r#"COPY (SELECT "a", "B" FROM ONLY "s"."t" WHERE ctid >= '(3,0)' AND ctid < '(9,0)') TO STDOUT (FORMAT binary)"#
        );
        assert_eq!(
            table(1, 1).copy_in(Freeze::Yes),
            r#"COPY "s"."t" ("a", "B") FROM STDIN (FORMAT binary, FREEZE)"#
        );
        let empty = TableCopy { columns: Vec::new(), format: CopyFormat::Text, ..table(1, 1) };
        assert_eq!(empty.copy_in(Freeze::No), r#"COPY "s"."t" FROM STDIN (FORMAT text)"#);
    }

    proptest! {
        #[test]
        fn ranges_cover_every_block_once(blocks in 1u64..100_000, bytes in 1u64..1_000_000_000, split in 1u64..1_000_000, jobs in 0usize..9) {
            let mut ranges: Vec<_> = partition(&[table(blocks, bytes)], Cut { split_bytes: split, jobs }, V15)
                .into_iter()
                .map(|part| part.range.unwrap_or(BlockRange { first: 0, end: None }))
                .collect();
            ranges.sort();
            let mut next = 0;
            for (index, range) in ranges.iter().enumerate() {
                prop_assert_eq!(range.first, next);
                match range.end {
                    Some(end) => { prop_assert!(end > range.first); next = end; }
                    None => prop_assert_eq!(index + 1, ranges.len()),
                }
            }
            prop_assert!(ranges.last().unwrap().end.is_none());
        }
    }
}
