//! A plain database, for the unit tests of this folder.

use super::{DatabaseDefinition, DatabaseLocale, LocaleProvider, RightsKind};

pub(super) fn libc(locale: &str) -> DatabaseLocale {
    DatabaseLocale {
        provider: LocaleProvider::Libc,
        collate: locale.to_owned(),
        ctype: locale.to_owned(),
        name: None,
        rules: None,
    }
}

pub(super) fn definition() -> DatabaseDefinition {
    DatabaseDefinition {
        name: "d".to_owned(),
        owner: "app".to_owned(),
        bootstrap: "postgres".to_owned(),
        encoding: "UTF8".to_owned(),
        locale: libc("C"),
        tablespace: "pg_default".to_owned(),
        allow_connections: true,
        is_template: false,
        connection_limit: -1,
        comment: None,
        rights: Vec::new(),
        rights_kind: RightsKind::Default,
        settings: Vec::new(),
        labels: Vec::new(),
    }
}
