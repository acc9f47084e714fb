//! Which knob mends what, at whose service: a table of texts, and nothing else.
//!
//! Hazard: `ALTER SYSTEM` is the right advice on a server of one's own and a refused statement on every service.
//! What a provider lacks in this table is said as for a server of one's own. To add a provider, add its rows.

use crate::precheck::provider::Provider;

/// What is to be turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Knob {
    /// Logical WAL (P01).
    LogicalWal,
    /// The right of `{role}` to replicate (P04).
    Replication,
    /// Setting `{name}` to `{value}`, which takes effect when the server starts.
    AtStart,
    /// Setting `{name}` to `{value}`, which takes effect at once.
    AtOnce,
    /// The right to create extension `{name}` (P78).
    AllowExtension,
    /// Library `{name}` among `shared_preload_libraries` (P78).
    Preload,
    /// The server itself, not a pooler before it (P91).
    DirectHost,
}

use Knob::{AllowExtension, AtOnce, AtStart, DirectHost, LogicalWal, Preload, Replication};
use Provider::{Aiven, Aurora, Azure, CloudSql, Heroku, Neon, Rds, SelfManaged, Supabase};

static HINTS: &[(Provider, Knob, &str)] = &[
    (SelfManaged, LogicalWal, "ALTER SYSTEM SET wal_level = 'logical'; then restart the server"),
    (Rds, LogicalWal, "Set rds.logical_replication = 1 in the instance's parameter group, then reboot"),
    (
        Aurora,
        LogicalWal,
        "Set rds.logical_replication = 1 in the cluster's parameter group, then reboot the writer",
    ),
    (CloudSql, LogicalWal, "Set the flag cloudsql.logical_decoding = on (the instance restarts)"),
    (Azure, LogicalWal, "Set the server parameter wal_level = logical, then restart"),
    (Aiven, LogicalWal, "Aiven's servers write logical WAL; ask their support why this one does not"),
    (Neon, LogicalWal, "Switch logical replication on in the project's settings in the console"),
    (Supabase, LogicalWal, "Supabase's servers write logical WAL; ask their support why this one does not"),
    (Heroku, LogicalWal, "Heroku Postgres has no logical replication; a plain dump moves the database"),
    (SelfManaged, Replication, "ALTER ROLE {role} REPLICATION;"),
    (Rds, Replication, "GRANT rds_replication TO {role};"),
    (Aurora, Replication, "GRANT rds_replication TO {role};"),
    (
        Aiven,
        Replication,
        "Use the service's own role avnadmin, or as avnadmin: ALTER ROLE {role} REPLICATION;",
    ),
    (Neon, Replication, "Use a role made in Neon's console or API; roles made in SQL cannot replicate"),
    (Heroku, Replication, "Heroku Postgres lets nobody replicate; a plain dump moves the database"),
    (SelfManaged, AtStart, "ALTER SYSTEM SET {name} = {value}; then restart the server"),
    (Rds, AtStart, "Set {name} = {value} in the instance's parameter group, then reboot"),
    (Aurora, AtStart, "Set {name} = {value} in the cluster's parameter group, then reboot the writer"),
    (CloudSql, AtStart, "Set the flag {name} = {value} (the instance restarts)"),
    (Azure, AtStart, "Set the server parameter {name} = {value}, then restart"),
    (Aiven, AtStart, "Set {name} = {value} in the service's advanced configuration, or take a larger plan"),
    (Neon, AtStart, "Neon fixes {name} by the size of the compute: take a larger one, or ask their support"),
    (Supabase, AtStart, "supabase postgres-config update --config {name}={value}; then restart the database"),
    (Heroku, AtStart, "Heroku fixes {name} by plan: take a larger one"),
    (SelfManaged, AtOnce, "ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf();"),
    (Rds, AtOnce, "Set {name} = {value} in the instance's parameter group"),
    (Aurora, AtOnce, "Set {name} = {value} in the cluster's parameter group"),
    (CloudSql, AtOnce, "Set the flag {name} = {value}"),
    (Azure, AtOnce, "Set the server parameter {name} = {value}"),
    (Aiven, AtOnce, "Set {name} = {value} in the service's advanced configuration"),
    (Neon, AtOnce, "Neon fixes {name}: ask their support"),
    (Supabase, AtOnce, "supabase postgres-config update --config {name}={value}"),
    (Heroku, AtOnce, "Heroku fixes {name}"),
    (SelfManaged, AllowExtension, "As a superuser, in the target database: CREATE EXTENSION {name};"),
    (
        Rds,
        AllowExtension,
        "Use a member of rds_superuser, and add {name} to rds.allowed_extensions if that is set",
    ),
    (
        Aurora,
        AllowExtension,
        "Use a member of rds_superuser, and add {name} to rds.allowed_extensions if that is set",
    ),
    (CloudSql, AllowExtension, "Use a member of cloudsqlsuperuser"),
    (
        Azure,
        AllowExtension,
        "Add {name} to the server parameter azure.extensions, and use a member of azure_pg_admin",
    ),
    (
        Aiven,
        AllowExtension,
        "Use avnadmin; what Aiven does not allow (SHOW extwlist.extensions), its support may",
    ),
    (Neon, AllowExtension, "Use a role made in Neon's console"),
    (Supabase, AllowExtension, "Switch {name} on under Database, Extensions in the dashboard"),
    (Heroku, AllowExtension, "See which extensions the plan allows: SHOW extwlist.extensions;"),
    (
        SelfManaged,
        Preload,
        "Add {name} to shared_preload_libraries in postgresql.conf, then restart the server",
    ),
    (Rds, Preload, "Add {name} to shared_preload_libraries in the instance's parameter group, then reboot"),
    (
        Aurora,
        Preload,
        "Add {name} to shared_preload_libraries in the cluster's parameter group, then reboot the writer",
    ),
    (CloudSql, Preload, "Set the flag that switches {name} on, such as cloudsql.enable_{name} = on"),
    (Azure, Preload, "Add {name} to the server parameter shared_preload_libraries, then restart"),
    (Aiven, Preload, "Aiven preloads what its plans offer; ask their support for {name}"),
    (Neon, Preload, "Neon preloads what it offers; ask their support for {name}"),
    (Supabase, Preload, "Switch {name} on under Database, Extensions in the dashboard"),
    (Heroku, Preload, "Heroku preloads what its plans offer"),
    (SelfManaged, DirectHost, "Connect to the PostgreSQL server itself, by its own host and port"),
    (Rds, DirectHost, "Use the endpoint of the instance, not that of RDS Proxy"),
    (Aurora, DirectHost, "Use the cluster's writer endpoint, not that of RDS Proxy"),
    (Azure, DirectHost, "Use port 5432, not the built-in PgBouncer's 6432"),
    (Aiven, DirectHost, "Use the service's own URI, not that of a connection pool"),
    (Neon, DirectHost, "Use the host name without -pooler"),
    (Supabase, DirectHost, "Use the direct connection, db.<project>.supabase.co:5432, not the pooler"),
];

impl Provider {
    /// What to turn, with the values in their places.
    pub(super) fn hint(self, knob: Knob, values: &[(&str, &str)]) -> String {
        let of = |provider| HINTS.iter().find(|(whose, what, _)| (*whose, *what) == (provider, knob));
        let text = of(self).or_else(|| of(SelfManaged)).map_or("", |(_, _, text)| text);
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_knob_has_one_text_at_each_provider_and_one_for_all_others() {
        let told: HashSet<_> = HINTS.iter().map(|(provider, knob, _)| (*provider, *knob)).collect();
        assert_eq!(told.len(), HINTS.len());
        for knob in [LogicalWal, Replication, AtStart, AtOnce, AllowExtension, Preload, DirectHost] {
            assert!(told.contains(&(SelfManaged, knob)), "{knob:?}");
        }
    }

    #[test]
    fn advice_is_the_providers_own() {
        assert_eq!(Rds.hint(Replication, &[("role", "\"me\"")]), "GRANT rds_replication TO \"me\";");
        assert_eq!(CloudSql.hint(Replication, &[("role", "\"me\"")]), "ALTER ROLE \"me\" REPLICATION;");
        let values = [("name", "max_wal_senders"), ("value", "14")];
        assert_eq!(
            Azure.hint(AtStart, &values),
            "Set the server parameter max_wal_senders = 14, then restart"
        );
    }
}
