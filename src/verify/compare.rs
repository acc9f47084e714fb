//! Two databases, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::{Error, Result};
use crate::pg::QualifiedName;
use crate::verify::digest::{Digest, Recipe};
use crate::verify::inventory::{
    LargeObjects, Relation, RelationKind, SequencePosition, large_objects, relations, sequences,
};
use crate::wire::Session;

/// A relation on both sides; `None` where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationComparison {
    /// Its name.
    pub name: QualifiedName,
    /// What it is, on the source if it is there.
    pub kind: RelationKind,
    /// What the source holds.
    pub source: Option<Digest>,
    /// What the target holds.
    pub target: Option<Digest>,
}

/// A sequence on both sides; `None` where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceComparison {
    /// Its name.
    pub name: QualifiedName,
    /// Where it stands on the source.
    pub source: Option<SequencePosition>,
    /// Where it stands on the target.
    pub target: Option<SequencePosition>,
}

/// Everything that was compared, by name. Displayed, it lists the differences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// How rows were hashed.
    pub recipe: Recipe,
    /// Tables, partitions and populated materialized views.
    pub relations: Vec<RelationComparison>,
    /// Sequences.
    pub sequences: Vec<SequenceComparison>,
    /// All large objects of the source, and of the target.
    pub large_objects: (LargeObjects, LargeObjects),
}

impl RelationComparison {
    /// Whether both sides hold the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.source == self.target
    }
}

impl SequenceComparison {
    /// Whether both sides would give the same value next.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.source == self.target
    }
}

impl Comparison {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differing_relations().next().is_none()
            && self.differing_sequences().next().is_none()
            && self.large_objects_equal()
    }

    /// Whether both sides hold the same large objects.
    #[must_use]
    pub fn large_objects_equal(&self) -> bool {
        self.large_objects.0 == self.large_objects.1
    }

    /// The relations that differ.
    pub fn differing_relations(&self) -> impl Iterator<Item = &RelationComparison> {
        self.relations.iter().filter(|relation| !relation.is_equal())
    }

    /// The sequences that differ.
    pub fn differing_sequences(&self) -> impl Iterator<Item = &SequenceComparison> {
        self.sequences.iter().filter(|sequence| !sequence.is_equal())
    }
}

impl fmt::Display for RelationComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.plain();
        match (&self.source, &self.target) {
            (Some(_), None) => write!(f, "{name}: only on the source"),
            (None, Some(_)) => write!(f, "{name}: only on the target"),
            (Some(source), Some(target)) if source.columns != target.columns => {
                write!(f, "{name}: columns {:?}, on the target {:?}", source.columns, target.columns)
            }
            (Some(source), Some(target)) if source.rows != target.rows => {
                write!(f, "{name}: {} rows, on the target {}", source.rows, target.rows)
            }
            (Some(source), Some(target)) if source != target => {
                write!(f, "{name}: {} rows on both sides, of other content", source.rows)
            }
            _ => write!(f, "{name}: equal"),
        }
    }
}

impl fmt::Display for SequenceComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |position: &Option<SequencePosition>| match position {
            Some(SequencePosition { last_value, is_called: true }) => format!("{last_value}, called"),
            Some(SequencePosition { last_value, is_called: false }) => format!("{last_value}, not called"),
            None => "missing".to_owned(),
        };
        let (source, target) = (side(&self.source), side(&self.target));
        write!(f, "sequence {}: {source}, on the target {target}", self.name.plain())
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_equal() {
            return write!(f, "{} tables and {} sequences equal", self.relations.len(), self.sequences.len());
        }
        self.differing_relations().try_for_each(|relation| writeln!(f, "{relation}"))?;
        self.differing_sequences().try_for_each(|sequence| writeln!(f, "{sequence}"))?;
        if self.large_objects_equal() {
            return Ok(());
        }
        let (source, target) = &self.large_objects;
        let other = if source.count == target.count { ", of other content" } else { "" };
        writeln!(f, "large objects: {}, on the target {}{other}", source.count, target.count)
    }
}

/// Compares everything the two databases hold; reads every row of both.
///
/// The sessions must be outside a transaction, and are again afterwards.
///
/// # Errors
/// As [`Error::from_postgres`]; a difference is no error.
pub async fn compare_database(source: &Session, target: &Session) -> Result<Comparison> {
    let recipe = Recipe::common(source, target).await?;
    let (source, target) = tokio::try_join!(Holdings::read(source, recipe), Holdings::read(target, recipe))?;
    Ok(source.beside(target, recipe))
}

/// What one side holds.
struct Holdings {
    relations: BTreeMap<QualifiedName, (RelationKind, Digest)>,
    sequences: BTreeMap<QualifiedName, SequencePosition>,
    large_objects: LargeObjects,
}

impl Holdings {
    async fn read(session: &Session, recipe: Recipe) -> Result<Holdings> {
        let failed = |cause| Error::from_postgres("open a snapshot to compare", cause);
        // One snapshot for all tables of a side.
        let begin = format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}", recipe.settings());
        session.batch_execute(&begin).await.map_err(failed)?;
        let holdings = Holdings::read_in_snapshot(session, recipe).await;
        let ended = session.batch_execute("ROLLBACK").await.map_err(failed);
        // The first error is the one that tells.
        let holdings = holdings?;
        ended.map(|()| holdings)
    }

    async fn read_in_snapshot(session: &Session, recipe: Recipe) -> Result<Holdings> {
        let mut digests = BTreeMap::new();
        for (name, relation) in relations(session).await? {
            let Relation { kind, .. } = relation;
            digests.insert(name, (kind, Digest::of(session, &relation, recipe).await?));
        }
        Ok(Holdings {
            relations: digests,
            sequences: sequences(session).await?,
            large_objects: large_objects(session, recipe.hash).await?,
        })
    }

    fn beside(mut self, mut target: Holdings, recipe: Recipe) -> Comparison {
        let names: BTreeSet<QualifiedName> =
            self.relations.keys().chain(target.relations.keys()).cloned().collect();
        let relations = names.into_iter().filter_map(|name| {
            let (source, target) = (self.relations.remove(&name), target.relations.remove(&name));
            let kind = source.as_ref().or(target.as_ref())?.0;
            let digest = |side: Option<(RelationKind, Digest)>| side.map(|(_, digest)| digest);
            Some(RelationComparison { name, kind, source: digest(source), target: digest(target) })
        });
        let relations = relations.collect();
        let names: BTreeSet<QualifiedName> =
            self.sequences.keys().chain(target.sequences.keys()).cloned().collect();
        let sequences = names.into_iter().map(|name| SequenceComparison {
            source: self.sequences.remove(&name),
            target: target.sequences.remove(&name),
            name,
        });
        let sequences = sequences.collect();
        Comparison { recipe, relations, sequences, large_objects: (self.large_objects, target.large_objects) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::digest::{NestedFloats, RowHash};

    const RECIPE: Recipe = Recipe { hash: RowHash::Md5, nested_floats: NestedFloats::Exact };

    fn holdings(rows: u64, last_value: i64) -> Holdings {
        let digest = Digest { columns: vec!["id".into()], rows, sums: ["1".into(), "2".into()] };
        let position = SequencePosition { last_value, is_called: true };
        Holdings {
            relations: [(QualifiedName::new("s", "t"), (RelationKind::Table, digest))].into(),
            sequences: [(QualifiedName::new("s", "q"), position)].into(),
            large_objects: LargeObjects { count: 0, sum: "0".into() },
        }
    }

    #[test]
    fn what_is_on_one_side_only_is_a_difference() {
        let mut target = holdings(1, 1);
        target
            .relations
            .insert(QualifiedName::new("s", "extra"), target.relations.values().next().unwrap().clone());
        target.sequences.clear();
        target.large_objects.count = 2;
        let comparison = holdings(1, 1).beside(target, RECIPE);
        assert_eq!(
            comparison.to_string(),
            "s.extra: only on the target\nsequence s.q: 1, called, on the target missing\n\
             large objects: 0, on the target 2\n"
        );
    }

    #[test]
    fn equal_holdings_are_equal() {
        let comparison = holdings(3, 1).beside(holdings(3, 1), RECIPE);
        assert!(comparison.is_equal());
        assert_eq!(comparison.to_string(), "1 tables and 1 sequences equal");
        assert!(!holdings(3, 1).beside(holdings(3, 2), RECIPE).is_equal());
        assert!(!holdings(3, 1).beside(holdings(4, 1), RECIPE).is_equal());
    }
}
