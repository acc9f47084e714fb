//! Whether who may do what is as it was, once a database is complete.
//!
//! Hazard: nothing fails for a grant that is missing until the application moves (P71). But the database is
//! complete by now: what is found here, and what keeps us from looking, are warnings.

use super::survey::Stand;
use crate::catalog::Owners;
use crate::error::{Result, describe};
use crate::verify::compare_rights;
use crate::wire::{Session, SessionSettings};

/// Differences that are named; the rest are counted.
const NAMED_MAX: usize = 50;

/// Each difference of owners, rights and default privileges, as a warning.
pub(super) async fn differences(stand: &Stand, owners: Owners) -> Vec<String> {
    match compare(stand, owners).await {
        Ok(found) => shorten(found),
        Err(error) => {
            vec![format!("owners and rights of the two sides were not compared: {}", describe(&error))]
        }
    }
}

async fn compare(stand: &Stand, owners: Owners) -> Result<Vec<String>> {
    let settings = SessionSettings::role("rights");
    let (source, target) = tokio::try_join!(
        Session::connect(&stand.source, &settings),
        Session::connect(&stand.target, &settings)
    )?;
    compare_rights(&source, &target, owners).await
}

/// A database whose roles were left behind differs in everything.
fn shorten(mut found: Vec<String>) -> Vec<String> {
    let more = found.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        found.truncate(NAMED_MAX);
        found.push(format!("and {more} more differences of owners and rights"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_differences_are_named_in_part_and_counted() {
        let found = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        assert_eq!(shorten(found(50)), found(50));
        let shortened = shorten(found(53));
        assert_eq!(shortened.len(), 51);
        assert_eq!(shortened[50], "and 3 more differences of owners and rights");
    }
}
