//! A pair of servers with nothing wrong, for tests that then break one thing.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use crate::catalog::testing::{catalog, keyed};
use crate::catalog::{Capabilities, Connections, ReplicaRole};
use crate::pg::{
    ChannelBindingMode, Conninfo, Host, HostName, Passfile, QualifiedName, RelationId, ServerVersion,
    SslMode, SslNegotiation, SystemIdentifier, TargetSessionAttrs,
};
use crate::precheck::facts::{
    Age, Choices, Facts, Installable, RelationRights, ServerFacts, SlotFacts, SourceFacts, TargetFacts,
    Trial, TrialRestored,
};
use crate::precheck::objects::Objects;
use crate::precheck::options::CheckChoice;
use crate::precheck::provider::Provider;
use crate::precheck::report::Verdict;
use crate::precheck::surroundings::Surroundings;
use crate::precheck::table::Finding;

/// Database `shop`, role `mover`, one table `public.orders` (OID 1) of owner `app`.
pub(super) fn facts() -> Facts {
    Facts {
        source: SourceFacts {
            server: server(1),
            catalog: catalog([keyed(1, "orders")]),
            wal_level: "logical".to_owned(),
            raises_wal_level: false,
            slots: SlotFacts {
                slots_max: 10,
                slots_used: 1,
                senders_max: 10,
                senders_used: 1,
                inactive: Vec::new(),
            },
            replication: Trial::Allowed,
            publication: Trial::Allowed,
            rights: Vec::new(),
            prepared: Vec::new(),
            writers: Vec::new(),
            extensions: Vec::new(),
            dependents: Vec::new(),
            configuration: Vec::new(),
            extension_schemas: HashMap::new(),
            aiven_extras: Installable::No,
            roles_in_use: vec!["app".to_owned()],
            exalted_roles: Vec::new(),
            reads_passwords: true,
            login_roles: 1,
            age: Age::default(),
            objects: Objects { hypertables: Some(0), ..Objects::default() },
        },
        target: TargetFacts {
            server: server(2),
            extensions: HashMap::new(),
            installed: HashMap::new(),
            extension_trials: HashMap::new(),
            languages: HashSet::from(["plpgsql".to_owned()]),
            collations: HashSet::new(),
            parameters: HashSet::from(["work_mem".to_owned()]),
            roles: HashSet::from(["app".to_owned(), "mover".to_owned()]),
            relations: 0,
            relation_examples: Vec::new(),
        },
        choices: Choices {
            checks: CheckChoice { target_free_bytes: Some(1 << 40), ..CheckChoice::default() },
            ..Choices::default()
        },
        tools: Trial::NotTried,
        trial_restore: TrialRestored::NotAsked,
    }
}

fn server(system_identifier: u64) -> ServerFacts {
    ServerFacts {
        database: "shop".to_owned(),
        encoding: "UTF8".to_owned(),
        may: Capabilities {
            version: ServerVersion::new(150_018),
            role: "mover".to_owned(),
            is_superuser: false,
            may_replicate: true,
            bypasses_row_security: false,
            may_create_roles: true,
            may_create_databases: true,
            may_create_in_database: true,
            publishes_through_aiven_extras: false,
            reads_all_data: true,
            in_recovery: false,
            replica_role: ReplicaRole::Settable,
            asynchronous_commit: true,
            connections: Connections { max: 100, free: 90 },
        },
        system_identifier: Some(SystemIdentifier::new(system_identifier)),
        provider: Provider::SelfManaged,
        surroundings: Surroundings::default(),
    }
}

/// Gives a server these settings.
pub(super) fn set(server: &mut ServerFacts, settings: &[(&str, &str)]) {
    for (name, value) in settings {
        server.surroundings.settings.insert((*name).to_owned(), (*value).to_owned());
    }
}

/// Full rights on `public.<name>`, owned by `app`.
pub(super) fn rights(oid: u32, name: &str) -> RelationRights {
    RelationRights {
        oid: RelationId::new(oid),
        name: QualifiedName::new("public", name),
        is_sequence: false,
        owner: "app".to_owned(),
        owner_is_superuser: false,
        is_readable: true,
        is_owned: true,
        hides_rows: false,
    }
}

/// `mover@db.example:5432/shop`.
pub(super) fn conninfo() -> Conninfo {
    Conninfo {
        hosts: vec![Host { name: HostName::Tcp("db.example".to_owned()), hostaddr: None, port: 5432 }],
        user: "mover".to_owned(),
        password: None,
        passfile: Passfile::default(),
        dbname: Some("shop".to_owned()),
        connect_timeout: None,
        options: None,
        application_name: None,
        sslmode: SslMode::Prefer,
        sslnegotiation: SslNegotiation::Postgres,
        sslrootcert: None,
        sslcert: None::<PathBuf>,
        sslkey: None,
        channel_binding: ChannelBindingMode::Prefer,
        target_session_attrs: TargetSessionAttrs::Any,
        keepalives_idle: None,
        tcp_user_timeout: None,
    }
}

/// The verdicts alone.
pub(super) fn verdicts(findings: Vec<Finding>) -> Vec<Verdict> {
    findings.into_iter().map(|finding| finding.verdict).collect()
}
