//! Checks of what stands between us and each server (P91).
//!
//! Hazard: a pooler that hands each transaction to another server process loses snapshots, settings and locks
//! between two statements, and says nothing.

use crate::error::Side;
use crate::precheck::facts::{Facts, ServerFacts};
use crate::precheck::hint::Knob;
use crate::precheck::provider::Provider;
use crate::precheck::table::Finding;

/// P91.
pub(super) fn pooler(facts: &Facts) -> Vec<Finding> {
    let both = [(Side::Source, &facts.source.server), (Side::Target, &facts.target.server)];
    both.into_iter().filter_map(|(side, server)| judge(side, server)).collect()
}

fn judge(side: Side, server: &ServerFacts) -> Option<Finding> {
    let route = &server.surroundings.route;
    let [first, second] = route.served_by;
    let fix = || server.provider.hint(Knob::DirectHost, &[]);
    if first != second {
        return Some(
            Finding::block(format!(
                "Two statements of one session on the {side} ran in two processes, {first} and {second}: a pooler \
                 stands between, and loses snapshots and settings."
            ))
            .fix(fix()),
        );
    }
    // Neon's own proxy, which passes sessions on whole, names processes of its own.
    let is_masked = route.greeted_by != 0 && route.greeted_by != first && server.provider != Provider::Neon;
    let by_name = || {
        let hosts = route.hosts.iter().zip(&route.ports);
        hosts.filter_map(|(host, port)| sign(host, *port)).next()
    };
    let why = match is_masked {
        true => format!("the login named process {}, and {first} serves us", route.greeted_by),
        false => by_name()?,
    };
    Some(
        Finding::warn(format!(
            "A pooler or proxy seems to stand before the {side} ({why}): it may end sessions, and cannot stream."
        ))
        .fix(fix()),
    )
}

/// What in an address tells of a pooler.
fn sign(host: &str, port: u16) -> Option<String> {
    let first = host.split('.').next().unwrap_or_default();
    let is_pooler = first.ends_with("-pooler")
        || host.ends_with(".pooler.supabase.com")
        || (host.contains(".proxy-") && host.ends_with(".rds.amazonaws.com"));
    match (is_pooler, port) {
        (true, _) => Some(format!("host {host}")),
        (false, 6432 | 6543) => Some(format!("port {port}")),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precheck::report::Verdict;
    use crate::precheck::testing::{facts, verdicts};

    #[test]
    fn processes_give_a_pooler_away() {
        let mut facts = facts();
        facts.source.server.surroundings.route.greeted_by = 7;
        facts.source.server.surroundings.route.served_by = [7, 7];
        assert_eq!(pooler(&facts), []);
        facts.source.server.surroundings.route.greeted_by = 8;
        assert_eq!(verdicts(pooler(&facts)), [Verdict::Warn]);
        facts.source.server.provider = Provider::Neon;
        assert_eq!(pooler(&facts), []);
        facts.source.server.surroundings.route.served_by = [7, 9];
        let found = pooler(&facts);
        assert!(found[0].fix.as_deref().unwrap().contains("-pooler"), "{found:?}");
        assert_eq!(verdicts(found), [Verdict::Block]);
    }

    #[test]
    fn addresses_give_a_pooler_away() {
        for (host, port) in [
            ("ep-cool-1-pooler.eu-central-1.aws.neon.tech", 5432),
            ("aws-0-eu.pooler.supabase.com", 5432),
            ("p.proxy-abc.eu-west-1.rds.amazonaws.com", 5432),
            ("db.example", 6432),
        ] {
            assert!(sign(host, port).is_some(), "{host}:{port}");
        }
        for host in ["db.example", "pooler.example", "x.abc.eu-west-1.rds.amazonaws.com"] {
            assert_eq!(sign(host, 5432), None, "{host}");
        }
    }
}
