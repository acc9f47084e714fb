//! The order in which materialized views can be refreshed: each after those it reads (P36).
//!
//! Hazard: the dependency often runs through a plain view, so plain views take part in the walk and are
//! left out of the result. What a view reads inside a function is invisible to the catalogs.

use std::collections::{HashMap, HashSet};

use crate::catalog::MaterializedView;
use crate::pg::Oid;

/// Orders `views`, which come by name, by `reads` (reader, read). Views that do not depend keep their order.
pub(super) fn refresh_order(views: Vec<MaterializedView>, reads: &[(Oid, Oid)]) -> Vec<MaterializedView> {
    let mut below: HashMap<Oid, Vec<Oid>> = HashMap::new();
    for (reader, read) in reads {
        below.entry(*reader).or_default().push(*read);
    }
    let roots: Vec<Oid> = views.iter().map(|view| view.oid).collect();
    let mut left: HashMap<Oid, MaterializedView> = views.into_iter().map(|view| (view.oid, view)).collect();
    let mut seen: HashSet<Oid> = HashSet::new();
    let mut ordered = Vec::with_capacity(left.len());
    for root in roots {
        // Depth first with a stack of our own: views can be nested deeper than a thread's stack is.
        let mut path = vec![(root, Step::Enter)];
        while let Some((oid, step)) = path.pop() {
            match step {
                Step::Enter if seen.insert(oid) => {
                    path.push((oid, Step::Leave));
                    let reads = below.get(&oid).into_iter().flatten();
                    path.extend(reads.map(|read| (*read, Step::Enter)));
                }
                Step::Enter => {}
                Step::Leave => ordered.extend(left.remove(&oid)),
            }
        }
    }
    ordered
}

/// Whether a view's own reads are still to be visited, or done.
enum Step {
    Enter,
    Leave,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::QualifiedName;

    fn view(oid: u32) -> MaterializedView {
        MaterializedView {
            oid: Oid::new(oid),
            name: QualifiedName::new("s", format!("m{oid}")),
            is_populated: true,
        }
    }

    fn order(views: &[u32], reads: &[(u32, u32)]) -> Vec<u32> {
        let reads: Vec<_> = reads.iter().map(|(a, b)| (Oid::new(*a), Oid::new(*b))).collect();
        let views = views.iter().copied().map(view).collect();
        refresh_order(views, &reads).iter().map(|view| view.oid.get()).collect()
    }

    #[test]
    fn each_comes_after_what_it_reads() {
        assert_eq!(order(&[1, 2, 3], &[(1, 2), (2, 3)]), [3, 2, 1]);
        assert_eq!(order(&[1, 2, 3], &[]), [1, 2, 3]);
    }

    #[test]
    fn plain_views_carry_the_dependency() {
        // 9 is a plain view: 1 reads 9, 9 reads 2.
        assert_eq!(order(&[1, 2], &[(1, 9), (9, 2)]), [2, 1]);
    }

    #[test]
    fn a_cycle_loses_no_view() {
        let mut all = order(&[1, 2], &[(1, 2), (2, 1)]);
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    }
}
