//! What a type is at the bottom: how its values may travel, and whether two of them can be compared.
//!
//! Hazard: a type's name says little. A domain hides an array, an array embeds the OID of its elements,
//! a `regclass` *is* an OID: sent in binary, each loads without an error and means another thing on the
//! other server (P60). `box = box` compares areas (P09). Pure; the rows come from [`super::query::types`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::catalog::{BinaryForm, TransferType, TypeKind};
use crate::pg::{Oid, QualifiedName};

/// OIDs below this are written in PostgreSQL's own sources and mean the same on every server; those from
/// here to 16383 are numbered anew by each major version's `initdb` (access/transam.h, FirstGenbkiObjectId).
const FIRST_UNSTABLE: Oid = Oid::new(10_000);

/// Types of PostgreSQL's own whose binary form is an OID, or whose receive function raises an error: always, or
/// for the empty value (tsquery).
const NEVER_BINARY: [&str; 9] = [
    "aclitem",
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
    "tsquery",
];

/// No type of sane people nests deeper; what the server says is not trusted to be free of cycles.
const DEPTH_MAX: u8 = 64;

/// One row of `pg_type`, with what belongs to it.
#[derive(Debug, Clone)]
pub(super) struct TypeRow {
    pub(super) oid: Oid,
    pub(super) name: Arc<QualifiedName>,
    pub(super) kind: TypeKind,
    pub(super) array: Option<Oid>,
    /// What it is made of: an array's element, a domain's base, a range's subtype, a composite's columns.
    pub(super) parts: Vec<Oid>,
    pub(super) has_binary: bool,
    /// The extension that it is a member of, and its version.
    pub(super) extension: Option<String>,
    /// It or a type it is coercible to without a function has a default btree operator class.
    pub(super) is_sortable: bool,
}

impl TypeRow {
    /// Whether a base type is PostgreSQL's own, and its binary form the value itself.
    fn is_plain(&self) -> bool {
        let name = self.name.name.raw();
        self.oid < FIRST_UNSTABLE && !name.starts_with("reg") && !NEVER_BINARY.contains(&name)
    }
}

/// The types in use, by OID.
#[derive(Debug, Default)]
pub(super) struct TypeMap(HashMap<Oid, TypeRow>);

impl TypeMap {
    pub(super) fn new(rows: impl IntoIterator<Item = TypeRow>) -> TypeMap {
        TypeMap(rows.into_iter().map(|row| (row.oid, row)).collect())
    }

    pub(super) fn get(&self, oid: Oid) -> Option<&TypeRow> {
        self.0.get(&oid)
    }

    /// The kind of what a chain of domains rests on.
    pub(super) fn base_kind(&self, oid: Oid) -> TypeKind {
        let mut row = self.get(oid);
        for _ in 0..DEPTH_MAX {
            match row {
                Some(domain) if domain.kind == TypeKind::Domain => {
                    row = domain.parts.first().and_then(|base| self.get(*base));
                }
                Some(bottom) => return bottom.kind,
                None => break,
            }
        }
        TypeKind::Pseudo
    }

    /// Whether values may travel in binary, as far as this server can tell (P60).
    pub(super) fn transfer(&self, oid: Oid) -> TransferType {
        if self.is_binary_safe(oid, DEPTH_MAX) { TransferType::BinarySafe } else { TransferType::TextOnly }
    }

    fn is_binary_safe(&self, oid: Oid, depth: u8) -> bool {
        let Some(row) = self.get(oid).filter(|row| row.has_binary && row.extension.is_none() && depth > 0)
        else {
            return false;
        };
        let parts_are_safe = || row.parts.iter().all(|part| self.is_binary_safe(*part, depth - 1));
        match row.kind {
            TypeKind::Base => row.is_plain(),
            // The element's OID stands in every value, so it must mean the same on both ends.
            TypeKind::Array => row.parts.iter().all(|element| *element < FIRST_UNSTABLE) && parts_are_safe(),
            TypeKind::Enum => true,
            TypeKind::Domain | TypeKind::Range | TypeKind::Multirange => {
                !row.parts.is_empty() && parts_are_safe()
            }
            TypeKind::Composite | TypeKind::Pseudo => false,
        }
    }

    /// Who can read values in binary, among servers from 14 on.
    pub(super) fn binary(&self, oid: Oid) -> BinaryForm {
        let mut extensions = BTreeSet::new();
        if self.is_readable(oid, DEPTH_MAX, &mut extensions) {
            BinaryForm::Reads { extensions: extensions.into_iter().collect() }
        } else {
            BinaryForm::Opaque
        }
    }

    fn is_readable(&self, oid: Oid, depth: u8, extensions: &mut BTreeSet<String>) -> bool {
        let Some(row) = self.get(oid).filter(|row| row.has_binary && depth > 0) else { return false };
        extensions.extend(row.extension.clone());
        match row.kind {
            TypeKind::Base => row.extension.is_some() || row.is_plain(),
            TypeKind::Enum => true,
            TypeKind::Array
            | TypeKind::Domain
            | TypeKind::Range
            | TypeKind::Multirange
            | TypeKind::Composite => {
                row.parts.iter().all(|part| self.is_readable(*part, depth - 1, extensions))
            }
            TypeKind::Pseudo => false,
        }
    }

    /// Whether `=` exists and means equality: by the default btree operator class (P09).
    pub(super) fn has_equality(&self, oid: Oid) -> bool {
        self.compares(oid, DEPTH_MAX)
    }

    fn compares(&self, oid: Oid, depth: u8) -> bool {
        let Some(row) = self.get(oid).filter(|_| depth > 0) else { return false };
        match row.kind {
            TypeKind::Base => row.is_sortable,
            TypeKind::Enum | TypeKind::Range | TypeKind::Multirange => true,
            TypeKind::Array | TypeKind::Domain | TypeKind::Composite => {
                row.parts.iter().all(|part| self.compares(*part, depth - 1))
            }
            TypeKind::Pseudo => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(oid: u32, name: &str, kind: TypeKind, parts: &[u32]) -> TypeRow {
        TypeRow {
            oid: Oid::new(oid),
            name: QualifiedName::new("x", name).into(),
            kind,
            array: None,
            parts: parts.iter().copied().map(Oid::new).collect(),
            has_binary: true,
            extension: None,
            is_sortable: kind == TypeKind::Base && name != "box",
        }
    }

    /// int4 23, regclass 2205, box 603, and user types from 20000 on.
    fn map() -> TypeMap {
        TypeMap::new([
            row(23, "int4", TypeKind::Base, &[]),
            row(1007, "_int4", TypeKind::Array, &[23]),
            row(2205, "regclass", TypeKind::Base, &[]),
            row(603, "box", TypeKind::Base, &[]),
            row(20000, "mood", TypeKind::Enum, &[]),
            row(20001, "_mood", TypeKind::Array, &[20000]),
            row(20002, "d_ints", TypeKind::Domain, &[1007]),
            row(20003, "dd_ints", TypeKind::Domain, &[20002]),
            row(20004, "intrange", TypeKind::Range, &[23]),
            row(20005, "pair", TypeKind::Composite, &[23, 603]),
            row(20006, "d_reg", TypeKind::Domain, &[2205]),
            row(20007, "base", TypeKind::Base, &[]),
            TypeRow { extension: Some("e 1.0".into()), ..row(20008, "ext_dom", TypeKind::Domain, &[23]) },
            row(20009, "_d_ints", TypeKind::Array, &[20002]),
            TypeRow { has_binary: false, ..row(24, "textual", TypeKind::Base, &[]) },
            TypeRow { extension: Some("h 2".into()), ..row(20010, "hstore", TypeKind::Base, &[]) },
            row(20011, "both", TypeKind::Composite, &[20010, 20008, 20001]),
            row(20012, "_d_reg", TypeKind::Array, &[20006]),
            row(3615, "tsquery", TypeKind::Base, &[]),
        ])
    }

    #[test]
    fn binary_is_for_values_without_foreign_oids() {
        let map = map();
        for oid in [23, 1007, 603, 20000, 20002, 20003, 20004] {
            assert_eq!(map.transfer(Oid::new(oid)), TransferType::BinarySafe, "{oid}");
        }
        for oid in [2205, 20001, 20005, 20006, 20007, 20008, 20009, 24, 99999] {
            assert_eq!(map.transfer(Oid::new(oid)), TransferType::TextOnly, "{oid}");
        }
    }

    #[test]
    fn nested_values_are_readable_where_their_parts_are() {
        let map = map();
        let reads = |extensions: &[&str]| BinaryForm::Reads {
            extensions: extensions.iter().map(ToString::to_string).collect(),
        };
        for oid in [23, 1007, 20000, 20001, 20003, 20004, 20005, 20009] {
            assert_eq!(map.binary(Oid::new(oid)), reads(&[]), "{oid}");
        }
        assert_eq!(map.binary(Oid::new(20010)), reads(&["h 2"]));
        assert_eq!(map.binary(Oid::new(20011)), reads(&["e 1.0", "h 2"]));
        for oid in [2205, 3615, 20006, 20007, 20012, 24, 99999] {
            assert_eq!(map.binary(Oid::new(oid)), BinaryForm::Opaque, "{oid}");
        }
        assert!(!BinaryForm::Opaque.is_shared_with(&BinaryForm::Opaque));
        assert!(!reads(&["h 2"]).is_shared_with(&reads(&["h 3"])));
    }

    #[test]
    fn equality_goes_down_to_the_members() {
        let map = map();
        for oid in [23, 1007, 20000, 20003, 20004, 2205] {
            assert!(map.has_equality(Oid::new(oid)), "{oid}");
        }
        for oid in [603, 20005, 99999] {
            assert!(!map.has_equality(Oid::new(oid)), "{oid}");
        }
    }

    #[test]
    fn domains_are_seen_through() {
        assert_eq!(map().base_kind(Oid::new(20003)), TypeKind::Array);
        assert_eq!(map().base_kind(Oid::new(20006)), TypeKind::Base);
        assert_eq!(map().base_kind(Oid::new(20000)), TypeKind::Enum);
    }

    #[test]
    fn a_cycle_ends_in_the_careful_answer() {
        let map = TypeMap::new([
            row(20000, "a", TypeKind::Domain, &[20001]),
            row(20001, "b", TypeKind::Domain, &[20000]),
        ]);
        assert_eq!(map.transfer(Oid::new(20000)), TransferType::TextOnly);
        assert_eq!(map.base_kind(Oid::new(20000)), TypeKind::Pseudo);
        assert!(!map.has_equality(Oid::new(20000)));
    }
}
