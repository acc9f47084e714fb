//! What a database contains, read from its catalogs in a handful of queries.

mod object;
mod table;

pub use object::{Catalog, ForeignKey, MaterializedView, Sequence};
pub use table::{
    Column, Generated, IdentityColumn, Index, IndexKind, Persistence, RelReplIdent, Table, TableKind,
    TransferType, TypeKind,
};
