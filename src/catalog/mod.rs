//! What a database contains, read from its catalogs in a handful of queries.
//!
//! Hazard: a catalog is a picture of one moment. Whoever acts on it reads it under the snapshot that
//! the rows are read under ([`load()`]), and looks again for DDL while time passes ([`Fingerprint`], P25).
//!
//! | file | |
//! |---|---|
//! | `table`, `object` | the nouns |
//! | `query`, `typing`, `order`, `load` | the queries, and what is concluded from their rows |
//! | `diff`, `fingerprint` | source against target; before against after |
//! | `selector` | which tables an option names |
//! | `sequence` | values no stream carries (P33) |
//! | `capability` | what our role may do (P48) |

mod capability;
mod count;
mod diff;
mod fingerprint;
mod load;
mod object;
mod order;
mod query;
mod selector;
mod sequence;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod typing;

pub use capability::{Capabilities, Connections, ReplicaRole};
pub use count::{ObjectCounts, count_objects};
pub use diff::{Difference, Mismatch, compare, compare_tables};
pub use fingerprint::{Change, Fingerprint};
pub use load::load;
pub use object::{Catalog, EnumType, ForeignKey, MaterializedView, Sequence};
pub(crate) use query::{EXTENSION_OF_RELATION, USER_SCHEMA, field, row, rows};
pub use selector::{InvalidSelector, TableSelector, select};
pub use sequence::{SequenceValue, read_sequences, set_sequences};
pub use table::{
    Column, Generated, IdentityColumn, Index, IndexKind, Persistence, RelReplIdent, Table, TableKind,
    TransferType, TypeKind,
};
