//! Decides, entry by entry, who restores what and when.
//!
//! Hazard: whatever is left out here is missing on the target for good. Every entry of the archive ends in
//! exactly one list, and what is skipped says why.
//!
//! The archive's order respects dependencies, so each list keeps it. Four rules move entries between lists:
//! - privileges go last, as in `pg_restore` itself: an owner may have revoked his own right to write;
//! - what a build must wait for beyond pre-data (a materialized view that groups by a primary key is created
//!   after that key) makes the build an ordinary entry of `last`, in its place;
//! - what needs an extension that is left out is left out with it, as the archive's own dependencies say;
//! - what depends on a foreign key or on anything armed (their comments) follows it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::catalog::Filters;
use crate::pg::QualifiedName;
use crate::schema::definition::{ConstraintKind, Head, Uniqueness, read_extension_schema, read_head};
use crate::schema::entry::{Definition, DumpId, Entry, Section};
use crate::schema::plan::{
    Build, BuildForm, BuildKind, Chosen, EventTriggers, FilterSettings, Plan, Schema, Skipped,
};
use crate::schema::toc::Toc;

/// The schema of our own durable state, never migrated.
const OWN_SCHEMA: &str = "pgstream";

const SCHEMA_LEFT_OUT: &str = "its schema is left out, as chosen";
const EXTENSION_LEFT_OUT: &str = "the extension is left out, as chosen";
const NEEDS_EXTENSION: &str = "it needs an extension that is left out";

/// Where one entry goes.
enum Place {
    PreData,
    Build(Build),
    ForeignKey(Build),
    Last,
    Armed,
    Skip(&'static str),
}

impl Plan {
    /// Sorts the entries of an archive of which everything is wanted.
    #[must_use]
    pub fn new(toc: &Toc, settings: FilterSettings) -> Plan {
        Plan::of(toc, settings, Chosen { filters: &Filters::default(), database: &toc.database })
    }

    /// Sorts the entries of an archive of which only some are wanted.
    #[must_use]
    pub fn of(toc: &Toc, settings: FilterSettings, chosen: Chosen<'_>) -> Plan {
        let mut plan = Plan::default();
        let mut sorted = Sorted::default();
        let (mut event_triggers, mut extension_comments) = (Vec::new(), Vec::new());
        let mut section = Section::PreData;
        for entry in &toc.entries {
            // As in ProcessArchiveRestoreOptions: an entry without a section belongs where it stands.
            if entry.section != Section::None {
                section = entry.section;
            }
            match sorted.place(entry, section, settings, chosen) {
                Place::PreData => plan.pre_data.push(entry.id),
                Place::Build(build) => {
                    sorted.builds.insert(build.id, plan.builds.len());
                    sorted.tables.insert(
                        QualifiedName { schema: build.table.schema.clone(), name: build.name.clone() },
                        build.table.clone(),
                    );
                    plan.builds.push(build);
                }
                Place::ForeignKey(build) => {
                    sorted.armed.insert(entry.id);
                    plan.foreign_keys.push(build);
                }
                Place::Last if is_about(entry, "EXTENSION ") => extension_comments.push(entry.id),
                Place::Last => {
                    sorted.last.insert(entry.id);
                    plan.last.push(entry.id);
                }
                Place::Armed => {
                    sorted.armed.insert(entry.id);
                    let after_all = *entry.desc == *"EVENT TRIGGER" || is_about(entry, "EVENT TRIGGER ");
                    if after_all { &mut event_triggers } else { &mut plan.armed }.push(entry.id);
                }
                Place::Skip(why) => {
                    sorted.skipped.insert(entry.id, why);
                    if matches!(why, EXTENSION_LEFT_OUT | NEEDS_EXTENSION) {
                        sorted.without_extension.insert(entry.id);
                    }
                    plan.skipped.push(Skipped { entry: entry.name(), why });
                }
            }
        }
        plan.last.extend(extension_comments);
        plan.armed.extend(event_triggers);
        plan
    }
}

/// What was decided so far, for the entries that depend on it.
#[derive(Default)]
struct Sorted {
    builds: HashMap<DumpId, usize>,
    /// The table of each index built, by the index's name.
    tables: HashMap<QualifiedName, QualifiedName>,
    last: HashSet<DumpId>,
    /// Armed entries and foreign keys.
    armed: HashSet<DumpId>,
    skipped: HashMap<DumpId, &'static str>,
    /// Extensions that are left out, and what needs them.
    without_extension: HashSet<DumpId>,
}

impl Sorted {
    fn place(&self, entry: &Entry, section: Section, settings: FilterSettings, chosen: Chosen<'_>) -> Place {
        if let Some(why) = self.unwanted(entry, settings).or_else(|| self.left_out(entry, chosen)) {
            return Place::Skip(why);
        }
        if entry.dependencies.iter().any(|id| self.armed.contains(id)) && *entry.desc != *"FK CONSTRAINT" {
            return Place::Armed;
        }
        match &*entry.desc {
            "ACL" | "DEFAULT ACL" | "SECURITY LABEL" => return Place::Last,
            "COMMENT" if entry.tag.starts_with("EXTENSION ") => return Place::Last,
            "TRIGGER" | "POLICY" | "ROW SECURITY" | "EVENT TRIGGER" => return Place::Armed,
            // A view that took part in a cycle gets its true body as its `_RETURN` rule: nothing fires.
            "RULE" if !entry.tag.ends_with(" _RETURN") => return Place::Armed,
            "INDEX" | "CONSTRAINT" | "INDEX ATTACH" | "FK CONSTRAINT" => return self.built(entry),
            _ => {}
        }
        match section {
            Section::None | Section::PreData => Place::PreData,
            Section::Data => Place::Skip("rows travel by COPY"),
            Section::PostData => Place::Last,
        }
    }

    fn unwanted(&self, entry: &Entry, settings: FilterSettings) -> Option<&'static str> {
        let tag = |prefix: &str| is_about(entry, prefix);
        if entry.namespace.as_deref() == Some(OWN_SCHEMA)
            || (*entry.desc == *"SCHEMA" && entry.tag == OWN_SCHEMA)
            || (entry.tag == format!("SCHEMA {OWN_SCHEMA}") && is_attached(entry))
        {
            return Some("our own state");
        }
        match &*entry.desc {
            // P75: a restored subscription would fight over the original's slot.
            "PUBLICATION" | "PUBLICATION TABLE" | "PUBLICATION TABLES IN SCHEMA" => {
                Some("publications are not migrated")
            }
            "SUBSCRIPTION" | "SUBSCRIPTION TABLE" => Some("subscriptions are not migrated"),
            "DATABASE" | "DATABASE PROPERTIES" => Some("the database is made on its own"),
            "EVENT TRIGGER" if settings.event_triggers == EventTriggers::Skip => {
                Some("event triggers are left out")
            }
            // pg_dump 15+ writes a comment in place of CREATE SCHEMA public; its owner is still to be set.
            "SCHEMA" if entry.tag == "public" && settings.public_schema == Schema::Exists => {
                let creates = entry.definition.sql().is_none_or(|sql| !sql.trim_start().starts_with("--"));
                creates.then_some("the target has it")
            }
            // Kept though the schema's own entry may be skipped.
            _ if entry.tag == "SCHEMA public" => None,
            _ if tag("PUBLICATION ") => Some("publications are not migrated"),
            _ if tag("SUBSCRIPTION ") => Some("subscriptions are not migrated"),
            _ if tag("DATABASE ") => Some("the database is made on its own"),
            _ if is_attached(entry) => entry.dependencies.iter().find_map(|id| self.skipped.get(id)).copied(),
            _ => None,
        }
    }

    /// What the operator left out, and what cannot be without it. pg_dump was told of the schemas, too, but a
    /// schema may be newer than that.
    fn left_out(&self, entry: &Entry, chosen: Chosen<'_>) -> Option<&'static str> {
        let Chosen { filters, database } = chosen;
        let is_out = |schema: &str| !schema.is_empty() && filters.leaves_out_schema(database, schema);
        let of_schema = match &*entry.desc {
            "SCHEMA" => Some(entry.tag.as_str()),
            _ if is_attached(entry) => entry.tag.strip_prefix("SCHEMA "),
            _ => None,
        };
        if entry.namespace.as_deref().is_some_and(is_out) || of_schema.is_some_and(is_out) {
            return Some(SCHEMA_LEFT_OUT);
        }
        if *entry.desc == *"EXTENSION" {
            let schema = entry.definition.sql().and_then(read_extension_schema);
            let schema = schema.as_ref().map_or("", |schema| schema.raw());
            if filters.leaves_out_extension(database, &entry.tag, schema) {
                return Some(EXTENSION_LEFT_OUT);
            }
        }
        let needs_one = entry.dependencies.iter().any(|id| self.without_extension.contains(id));
        needs_one.then_some(NEEDS_EXTENSION)
    }

    /// An index or constraint: ours to build, unless something it needs is restored later than pre-data.
    fn built(&self, entry: &Entry) -> Place {
        let late = entry.dependencies.iter().any(|id| self.last.contains(id));
        let Some(build) = self.read_build(entry).filter(|_| !late) else { return Place::Last };
        match build.kind {
            BuildKind::ForeignKey => Place::ForeignKey(build),
            _ => Place::Build(build),
        }
    }

    fn read_build(&self, entry: &Entry) -> Option<Build> {
        let Definition::Sql(sql) = &entry.definition else { return None };
        let (kind, form, name, table) = match read_head(sql)? {
            Head::Index { unique, name, table } => {
                let kind = match unique {
                    Uniqueness::Unique => BuildKind::Unique,
                    Uniqueness::NotUnique => BuildKind::Index,
                };
                (kind, BuildForm::Index, name, table)
            }
            Head::Constraint { kind, name, table } => {
                let kind = match kind {
                    ConstraintKind::PrimaryKey => BuildKind::PrimaryKey,
                    ConstraintKind::Unique => BuildKind::Unique,
                    ConstraintKind::Exclusion => BuildKind::Exclusion,
                    ConstraintKind::ForeignKey => BuildKind::ForeignKey,
                    ConstraintKind::Other => return None,
                };
                (kind, BuildForm::Constraint, name, table)
            }
            Head::Attach { child } => {
                let table = self.tables.get(&child)?.clone();
                (BuildKind::Attach, BuildForm::Attachment, child.name, table)
            }
        };
        // pg_dump writes it as a further statement of the index it names.
        let chosen = sql.contains(" REPLICA IDENTITY USING INDEX ");
        let kind = if chosen { BuildKind::ReplicaIdentity } else { kind };
        Some(Build {
            id: entry.id,
            kind,
            form,
            table,
            name,
            sql: Arc::clone(sql),
            tablespace: entry.tablespace.clone().filter(|name| !name.is_empty()),
            depends_on: entry
                .dependencies
                .iter()
                .filter(|id| self.builds.contains_key(id))
                .copied()
                .collect(),
        })
    }
}

/// Whether an entry says something about another one.
fn is_attached(entry: &Entry) -> bool {
    matches!(&*entry.desc, "COMMENT" | "ACL" | "SECURITY LABEL")
}

/// Whether an entry is a comment, privilege or label of a kind of object: `is_about(entry, "EXTENSION ")`.
fn is_about(entry: &Entry, kind: &str) -> bool {
    is_attached(entry) && entry.tag.starts_with(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Oid;
    use crate::schema::entry::Definition;

    const SETTINGS: FilterSettings =
        FilterSettings { public_schema: Schema::Exists, event_triggers: EventTriggers::Restore };

    fn entry(id: u32, section: Section, desc: &str, tag: &str, sql: &str, needs: &[u32]) -> Entry {
        Entry {
            id: DumpId::new(id),
            section,
            desc: desc.into(),
            tag: tag.to_owned(),
            namespace: Some("app".into()),
            owner: "me".into(),
            tablespace: None,
            definition: Definition::Sql(sql.into()),
            dependencies: needs.iter().copied().map(DumpId::new).collect(),
            table_oid: Oid::new(0),
            oid: Oid::new(0),
        }
    }

    fn plan(entries: Vec<Entry>) -> Plan {
        Plan::new(&toc(entries), SETTINGS)
    }

    fn filtered(entries: Vec<Entry>, filters: &Filters) -> Plan {
        Plan::of(&toc(entries), SETTINGS, Chosen { filters, database: "shop" })
    }

    fn toc(entries: Vec<Entry>) -> Toc {
        Toc {
            version: (1, 14),
            database: String::new(),
            server_version: String::new(),
            dump_version: String::new(),
            entries,
        }
    }

    fn ids(ids: &[DumpId]) -> Vec<u32> {
        ids.iter().map(|id| id.get()).collect()
    }

    use Section::{None as Nowhere, PostData, PreData};

    const PK: &str = "ALTER TABLE ONLY app.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);\n";

    #[test]
    fn an_index_on_a_late_view_follows_the_view() {
        let plan = plan(vec![
            entry(1, PreData, "TABLE", "t", "CREATE TABLE", &[]),
            entry(2, PostData, "CONSTRAINT", "t t_pkey", PK, &[1]),
            entry(3, PostData, "MATERIALIZED VIEW", "mv", "CREATE MATERIALIZED VIEW", &[2]),
            entry(4, PostData, "INDEX", "mv_i", "CREATE INDEX mv_i ON app.mv USING btree (id);", &[3]),
            entry(5, Nowhere, "COMMENT", "INDEX mv_i", "COMMENT", &[4]),
        ]);
        assert_eq!(ids(&plan.pre_data), [1]);
        assert_eq!(plan.builds.iter().map(|build| build.kind).collect::<Vec<_>>(), [BuildKind::PrimaryKey]);
        assert_eq!(ids(&plan.last), [3, 4, 5]);
    }

    #[test]
    fn what_speaks_of_a_foreign_key_or_a_trigger_waits_for_it() {
        let fk = "ALTER TABLE ONLY app.t\n    ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES app.t(id);\n";
        let plan = plan(vec![
            entry(1, PostData, "FK CONSTRAINT", "t fk", fk, &[]),
            entry(2, Nowhere, "COMMENT", "CONSTRAINT fk ON t", "COMMENT", &[1]),
            entry(3, PostData, "EVENT TRIGGER", "evt", "CREATE EVENT TRIGGER", &[]),
            entry(4, Nowhere, "COMMENT", "EVENT TRIGGER evt", "COMMENT", &[3]),
            entry(5, PostData, "TRIGGER", "t trg", "CREATE TRIGGER", &[]),
            entry(6, PostData, "RULE", "v _RETURN", "CREATE OR REPLACE VIEW", &[]),
        ]);
        assert_eq!(plan.foreign_keys.len(), 1);
        assert_eq!(ids(&plan.armed), [2, 5, 3, 4]);
        assert_eq!(ids(&plan.last), [6]);
    }

    #[test]
    fn an_attachment_stands_on_the_partitions_table_and_waits_for_both_indexes() {
        let plan = plan(vec![
            entry(1, PostData, "INDEX", "p_i", "CREATE INDEX p_i ON ONLY app.p USING btree (a);", &[]),
            entry(2, PostData, "INDEX", "c_i", "CREATE INDEX c_i ON app.c USING btree (a);", &[]),
            entry(
                3,
                PostData,
                "INDEX ATTACH",
                "c_i",
                "ALTER INDEX app.p_i ATTACH PARTITION app.c_i;",
                &[2, 1],
            ),
        ]);
        let [_, _, attach] = plan.builds.as_slice() else { panic!("{plan:?}") };
        assert_eq!((attach.kind, attach.table.plain().as_str()), (BuildKind::Attach, "app.c"));
        assert_eq!(ids(&attach.depends_on), [2, 1]);
    }

    #[test]
    fn the_chosen_replica_identity_is_told_from_other_unique_indexes() {
        let sql = "CREATE UNIQUE INDEX i ON app.t USING btree (a);\n\n\
                   ALTER TABLE ONLY app.t REPLICA IDENTITY USING INDEX i;\n";
        let plan = plan(vec![entry(1, PostData, "INDEX", "i", sql, &[])]);
        assert_eq!(plan.builds.first().map(|build| build.kind), Some(BuildKind::ReplicaIdentity));
    }

    #[test]
    fn what_is_skipped_takes_its_comments_along() {
        let mut own = entry(4, PreData, "TABLE", "progress", "CREATE TABLE", &[]);
        own.namespace = Some("pgstream".into());
        let plan = plan(vec![
            entry(1, PreData, "SCHEMA", "public", "CREATE SCHEMA public;", &[]),
            entry(2, Nowhere, "COMMENT", "SCHEMA public", "COMMENT", &[1]),
            entry(3, Nowhere, "ACL", "SCHEMA public", "GRANT", &[1]),
            own,
            entry(5, PostData, "PUBLICATION", "p", "CREATE PUBLICATION", &[]),
            entry(6, Nowhere, "COMMENT", "PUBLICATION p", "COMMENT", &[5]),
            entry(7, PostData, "SUBSCRIPTION", "s", "CREATE SUBSCRIPTION", &[]),
        ]);
        assert_eq!((ids(&plan.pre_data), ids(&plan.last)), (vec![2], vec![3]));
        let skipped: Vec<&str> = plan.skipped.iter().map(|skipped| skipped.entry.as_str()).collect();
        assert_eq!(
            skipped,
            [
                "SCHEMA app.public",
                "TABLE pgstream.progress",
                "PUBLICATION app.p",
                "COMMENT app.PUBLICATION p",
                "SUBSCRIPTION app.s"
            ]
        );
    }

    fn skipped(plan: &Plan) -> Vec<&str> {
        plan.skipped.iter().map(|skipped| skipped.entry.as_str()).collect()
    }

    #[test]
    fn a_schema_left_out_takes_everything_in_it_along() {
        let outside = |id, desc, tag, needs: &[u32]| {
            let mut entry = entry(id, PreData, desc, tag, "CREATE", needs);
            entry.namespace = None;
            entry
        };
        let mut extension = outside(3, "EXTENSION", "hstore", &[]);
        extension.definition =
            Definition::Sql("CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA app;\n".into());
        let entries = vec![
            outside(1, "SCHEMA", "app", &[]),
            outside(2, "ACL", "SCHEMA app", &[]),
            extension,
            entry(4, PreData, "TABLE", "t", "CREATE TABLE", &[]),
            outside(5, "CAST", "CAST (a AS b)", &[]),
        ];
        let filters = Filters { exclude_schemas: vec!["app".parse().unwrap()], ..Filters::default() };
        let plan = filtered(entries.clone(), &filters);
        assert_eq!(ids(&plan.pre_data), [5]);
        assert_eq!(skipped(&plan), ["SCHEMA app", "ACL SCHEMA app", "EXTENSION hstore", "TABLE app.t"]);
        let elsewhere = Filters { exclude_schemas: vec!["crm.app".parse().unwrap()], ..Filters::default() };
        assert_eq!(filtered(entries, &elsewhere).skipped, []);
    }

    #[test]
    fn an_extension_left_out_takes_along_what_needs_it() {
        let gin = "CREATE INDEX i ON app.t USING gin (a public.gin_trgm_ops);";
        let mut extension = entry(1, PreData, "EXTENSION", "pg_trgm", "CREATE EXTENSION", &[]);
        extension.namespace = None;
        let entries = vec![
            extension,
            entry(2, Nowhere, "COMMENT", "EXTENSION pg_trgm", "COMMENT", &[1]),
            entry(3, PreData, "FUNCTION", "f", "CREATE FUNCTION", &[1]),
            entry(4, PreData, "VIEW", "v", "CREATE VIEW", &[3]),
            entry(5, PreData, "TABLE", "t", "CREATE TABLE", &[]),
            entry(6, PostData, "INDEX", "i", gin, &[5, 1]),
            entry(7, Nowhere, "COMMENT", "INDEX i", "COMMENT", &[6]),
        ];
        let filters = Filters { excluded_extensions: vec!["pg_trgm".parse().unwrap()], ..Filters::default() };
        let plan = filtered(entries, &filters);
        assert_eq!((ids(&plan.pre_data), plan.builds.len()), (vec![5], 0));
        assert_eq!(plan.skipped.len(), 6, "{:?}", plan.skipped);
    }

    #[test]
    fn every_entry_ends_in_exactly_one_list() {
        let descs =
            ["TABLE", "ACL", "COMMENT", "INDEX", "TRIGGER", "PUBLICATION", "STATISTICS", "A NEW KIND"];
        let entries: Vec<Entry> =
            (1u32..).zip(descs).map(|(id, desc)| entry(id, PostData, desc, "x", "SELECT 1", &[])).collect();
        let count = entries.len();
        let plan = plan(entries);
        let lists = plan.pre_data.len() + plan.last.len() + plan.armed.len() + plan.skipped.len();
        assert_eq!(lists + plan.builds.len() + plan.foreign_keys.len(), count);
    }
}
