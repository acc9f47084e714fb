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
//! | `added` | what a column or partition that is new was made with |
//! | `widen` | which types hold every value of which others |
//! | `selector`, `filters` | which tables an option names; what of a database is moved |
//! | `dependent` | what cannot be without what is left behind |
//! | `extension` | rows that a user put into an extension's own tables (P44) |
//! | `sequence` | values no stream carries (P33) |
//! | `capability` | what our role may do (P48) |

mod added;
mod capability;
mod count;
mod dependent;
mod diff;
mod extension;
mod filters;
mod fingerprint;
mod load;
mod object;
mod order;
mod query;
mod selector;
mod sequence;
mod statistics;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod typing;
mod widen;

pub use added::{AddedColumn, AddedPartition, Fill, read_added_column, read_added_partition};
pub use capability::{Capabilities, Connections, ReplicaRole};
pub use count::{ObjectCounts, count_large_objects, count_objects};
pub use dependent::{Cause, Dependent, DependentKind, read_dependents};
pub use diff::{Difference, Mismatch, compare, compare_tables};
pub use extension::{Configuration, ConfigurationKind, read_configuration};
pub use filters::{ExtensionRows, Filters, LeftBehind, Owners, Reach, WithoutMatch};
pub use fingerprint::{Change, Fingerprint};
pub use load::{load, read_schemas};
pub use object::{Catalog, EnumType, Extension, ForeignKey, MaterializedView, Sequence};
pub(crate) use query::{EXTENSION_OF_RELATION, USER_SCHEMA, field, row, rows};
pub use selector::{InvalidSelector, NameSelector, TableSelector, select};
pub use sequence::{SequenceValue, read_sequences, set_sequences};
pub use statistics::{Analyzable, read_analyzable};
pub use table::{
    BinaryForm, Column, Generated, IdentityColumn, Index, IndexKind, Persistence, RelReplIdent, Table,
    TableKind, TransferType, TypeKind,
};
pub use widen::TypeUse;
