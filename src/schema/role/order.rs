//! Puts grants of memberships in an order in which each grantor may grant.
//!
//! Hazard: from 16 on the server asks whether the grantor has ADMIN OPTION on the role, at the moment of the
//! grant (P70). The catalog lists grants by OID, not by time.

use std::collections::BTreeSet;

use super::facts::ClusterRoles;
use super::plan::Grant;

/// Orders grants; one whose grantor never gets the right to grant it comes last, and without its grantor.
pub(super) fn in_order(grants: Vec<Grant>, target: &ClusterRoles) -> Vec<Grant> {
    // Who may grant which role: those who may already, then those that a grant of ours lets.
    let mut may: BTreeSet<(String, String)> = target
        .memberships
        .iter()
        .filter(|membership| membership.admin)
        .map(|membership| (membership.role.clone(), membership.member.clone()))
        .collect();
    let asks = target.version.major() >= 16;
    let mut ordered = Vec::with_capacity(grants.len());
    let mut left = grants;
    loop {
        let is_ready = |grant: &Grant| match &grant.grantor {
            Some(grantor) => {
                !asks || *grantor == target.bootstrap || may.contains(&(grant.role.clone(), grantor.clone()))
            }
            None => true,
        };
        let (ready, waiting): (Vec<Grant>, Vec<Grant>) = left.into_iter().partition(is_ready);
        if ready.is_empty() {
            ordered.extend(waiting.into_iter().map(|grant| Grant { grantor: None, ..grant }));
            return ordered;
        }
        let admins = ready.iter().filter(|grant| grant.admin);
        may.extend(admins.map(|grant| (grant.role.clone(), grant.member.clone())));
        ordered.extend(ready);
        left = waiting;
    }
}
