//! Whether two databases hold the same: every table's rows, every sequence's position, the
//! large objects.
//!
//! Hazard: a comparison that can be wrong in the reassuring direction is worse than none. Row counts
//! miss updates; text differs between versions where values do not (floats, P61) and between sessions
//! (P59); NULL, the empty string and the word NULL look alike once joined. So a row is turned into one
//! canonical text whose parts cannot run into each other, and two independent 64-bit hashes of it are
//! summed: free of order, mindful of duplicates, computed where the rows are.
//!
//! Both sides are read in one repeatable-read transaction each. While changes flow, equality is only to
//! be expected when the two snapshots were aligned by the caller.

mod compare;
mod digest;
mod inventory;
mod rights;

pub use compare::{Comparison, RelationComparison, SequenceComparison, compare_database};
pub use digest::{Digest, NestedFloats, Recipe, RowHash};
pub use inventory::{LargeObjects, RelationKind, SequencePosition};
pub use rights::compare_rights;
