//! Numbers that name things: OIDs, relations, transactions, clusters.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($inner);

        impl $name {
            /// Wraps the number as the server sends it.
            #[must_use]
            pub const fn new(number: $inner) -> $name {
                $name(number)
            }

            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// An object identifier in the catalogs of one database (docs: `datatype-oid`).
    Oid(u32)
}
number! {
    /// The OID of a table on the server that sent it; never valid on the other server.
    RelationId(u32)
}
number! {
    /// A transaction id, 32 bits as replication messages carry it; wraps, so it is never ordered by us.
    Xid(u32)
}
number! {
    /// What tells clusters apart; equal on a primary and its physical standbys (docs: `protocol-replication`).
    SystemIdentifier(u64)
}
number! {
    /// A WAL timeline; changes when a standby is promoted.
    Timeline(u32)
}

impl Oid {
    /// OIDs below this are assigned by PostgreSQL itself and mean the same on every server of a major version.
    pub const FIRST_NORMAL: Oid = Oid(16384);

    /// Whether PostgreSQL itself assigned this OID.
    #[must_use]
    pub const fn is_builtin(self) -> bool {
        self.0 < Self::FIRST_NORMAL.0
    }
}

impl From<RelationId> for Oid {
    fn from(relation: RelationId) -> Oid {
        Oid(relation.0)
    }
}
