//! The settings that every connection of ours pins.
//!
//! Hazard: a role or a database may carry settings of its own. Some change the bytes that COPY and pgoutput
//! send, without an error (`0.3` for `0.1 + 0.2`, P59); others end long work (P90). Startup options override
//! them, unless a pooler drops the options on the way (P91): so after the login we look, and where
//! that is possible put them right.
//!
//! Settings that not every version has cannot be options, for an unknown one refuses the login. They are set
//! by the same statement that looks.

use std::borrow::Cow;
use std::fmt::Write;

use crate::pg::quote_literal;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Ordinary SQL and COPY.
    #[default]
    Sql,
    /// `replication=database`: a walsender.
    Replication,
}

/// One pinned setting, and how `SHOW` spells what we set.
struct Pin {
    name: &'static str,
    value: &'static str,
    shown: &'static str,
}

/// Same spelling in and out.
const fn pin(name: &'static str, value: &'static str) -> Pin {
    Pin { name, value, shown: value }
}

/// Known to every server since 10, sent with the startup packet, looked at afterwards.
const PINS: &[Pin] = &[
    // What the bytes of a value look like (P59, P61).
    Pin { name: "datestyle", value: "ISO,MDY", shown: "ISO, MDY" },
    pin("intervalstyle", "postgres"),
    pin("extra_float_digits", "3"),
    pin("bytea_output", "hex"),
    pin("timezone", "UTC"),
    pin("lc_monetary", "C"),
    pin("client_encoding", "UTF8"),
    pin("xmloption", "content"),
    // What our SQL means.
    pin("search_path", ""),
    pin("standard_conforming_strings", "on"),
    // Serializable, lanes that commit side by side would abort each other.
    pin("default_transaction_isolation", "read committed"),
    pin("default_transaction_deferrable", "off"),
    // What may end or refuse our work (P53: a row filtered in silence is a row lost).
    pin("row_security", "off"),
    pin("default_transaction_read_only", "off"),
    pin("statement_timeout", "0"),
    pin("lock_timeout", "0"),
    pin("idle_in_transaction_session_timeout", "0"),
];

/// How soon a server gives up a client that is gone: the other end of our own keepalives (P92). Not looked
/// at, for a Unix socket shows zero.
const SERVER_KEEPALIVES: &[Pin] = &[
    pin("tcp_keepalives_idle", "60"),
    pin("tcp_keepalives_interval", "10"),
    pin("tcp_keepalives_count", "6"),
];

/// Set where they exist: 11+, 12+, 14+, 17+.
const WHERE_KNOWN: &[Pin] = &[
    // The keepalives' time, also while an answer is on its way to a client that is gone: its locks go with it.
    pin("tcp_user_timeout", "120s"),
    // Statements over thousands of rows look costly to the planner; compiling one takes longer than running it.
    pin("jit", "off"),
    pin("idle_session_timeout", "0"),
    pin("transaction_timeout", "0"),
];

/// A statement that waits for a lock reads nothing, so its server does not see that we are gone, and keeps what it has
/// locked from who comes after us. 14+, and refused where the system cannot tell a closed socket.
const CHECK_INTERVAL: Pin = pin("client_connection_check_interval", "2s");

/// Long enough for a stalled network, short enough to notice a dead one; zero would silence the walsender's
/// own keepalives. A plain user may set it from 12 on (P18).
const WAL_SENDER_TIMEOUT: &str = "300s";

/// `name = value` beyond the pins; it wins over a pin of the same name.
pub(super) struct Extra<'a>(pub(super) &'a [(&'static str, String)]);

impl Extra<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(extra, _)| extra.eq_ignore_ascii_case(name))
    }

    fn pins(&self) -> impl Iterator<Item = &'static Pin> {
        PINS.iter().filter(|pin| !self.has(pin.name))
    }
}

/// The `options` of the startup packet: the user's own first, so that ours, coming later, win.
pub(super) fn startup_options(own: Option<&str>, extra: &Extra<'_>) -> String {
    let mut options = own.map(|own| format!("{own} ")).unwrap_or_default();
    for pin in extra.pins().chain(SERVER_KEEPALIVES) {
        // Writing to a string does not fail.
        let _ = write!(options, "-c {}={} ", pin.name, escape(pin.value));
    }
    options.truncate(options.trim_end().len());
    options
}

/// In `options`, blanks separate and a backslash protects (docs: `libpq-connect-options`).
fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains([' ', '\\']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace(' ', "\\ ").into()
}

/// The statement sent right after the login: looks at every pin, sets what could not be an option, and asks
/// what `target_session_attrs` wants to know. One statement, because a walsender before 15 takes no two.
pub(super) fn settle_statement(mode: Mode, extra: &Extra<'_>) -> String {
    let mut sql = "SELECT pg_catalog.current_setting('server_version_num', true) AS server_version_num, \
                   pg_catalog.pg_is_in_recovery() AS in_recovery"
        .to_owned();
    for pin in extra.pins() {
        let _ = write!(sql, ", pg_catalog.current_setting('{0}', true) AS {0}", pin.name);
    }
    for pin in WHERE_KNOWN.iter().filter(|pin| !extra.has(pin.name)) {
        let _ = write!(
            sql,
            ", CASE WHEN pg_catalog.current_setting('{0}', true) IS NOT NULL \
             THEN pg_catalog.set_config('{0}', '{1}', false) END",
            pin.name, pin.value
        );
    }
    if !extra.has(CHECK_INTERVAL.name) {
        let _ = write!(
            sql,
            ", CASE WHEN pg_catalog.current_setting('{0}', true) IS NOT NULL AND pg_catalog.version() LIKE '%linux%' \
             THEN pg_catalog.set_config('{0}', '{1}', false) END",
            CHECK_INTERVAL.name, CHECK_INTERVAL.value
        );
    }
    if mode == Mode::Replication && !extra.has("wal_sender_timeout") {
        let _ = write!(
            sql,
            ", (SELECT pg_catalog.set_config(name, '{WAL_SENDER_TIMEOUT}', false) FROM pg_catalog.pg_settings \
             WHERE name = 'wal_sender_timeout' AND context = 'user')"
        );
    }
    sql + &set_all(extra.0.iter().map(|(name, value)| (*name, value.as_str())))
}

/// A statement that sets those pins again, for a connection whose startup options were dropped.
pub(super) fn repair_statement(drifted: &[Drift], extra: &Extra<'_>) -> String {
    let again = extra.pins().filter(|pin| drifted.iter().any(|drift| drift.name == pin.name));
    format!("SELECT true{}", set_all(again.map(|pin| (pin.name, pin.value))))
}

fn set_all<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    settings.fold(String::new(), |mut sql, (name, value)| {
        let (name, value) = (quote_literal(name), quote_literal(value));
        let _ = write!(sql, ", pg_catalog.set_config({name}, {value}, false)");
        sql
    })
}

/// A pin that did not take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drift {
    pub(super) name: &'static str,
    pub(super) found: String,
}

/// Compares what the server shows with what we pinned. A setting that the server does not have at all is
/// no drift: not everything that speaks this protocol is PostgreSQL.
pub(super) fn drifted<'a>(extra: &Extra<'_>, shown: impl Fn(&str) -> Option<&'a str>) -> Vec<Drift> {
    let drift = |pin: &Pin| {
        let found = shown(pin.name)?;
        // `SET search_path = ''` shows as "".
        let same = found.eq_ignore_ascii_case(pin.shown) || (pin.shown.is_empty() && found == "\"\"");
        (!same).then(|| Drift { name: pin.name, found: found.to_owned() })
    };
    extra.pins().filter_map(drift).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Extra<'_> = Extra(&[]);

    #[test]
    fn ours_come_after_the_users_own() {
        let options = startup_options(Some("-c datestyle=German -c work_mem=64MB"), &NONE);
        let german = options.find("datestyle=German").unwrap();
        assert!(options.find("datestyle=ISO,MDY").unwrap() > german, "{options}");
        assert!(options.contains("work_mem=64MB"));
        assert!(options.contains("-c search_path= "), "{options}");
    }

    #[test]
    fn an_extra_setting_replaces_the_pin() {
        let settings = [("lock_timeout", "5s".to_owned()), ("CLIENT_ENCODING", "SQL_ASCII".to_owned())];
        let extra = Extra(&settings);
        let options = startup_options(None, &extra);
        assert!(!options.contains("lock_timeout") && !options.contains("client_encoding"), "{options}");
        let sql = settle_statement(Mode::Sql, &extra);
        assert!(sql.ends_with("set_config('CLIENT_ENCODING', 'SQL_ASCII', false)"), "{sql}");
        assert!(drifted(&extra, |name| (name == "lock_timeout").then_some("5s")).is_empty());
    }

    #[test]
    fn blanks_and_backslashes_survive_options() {
        assert_eq!(escape("a b\\c"), "a\\ b\\\\c");
    }

    #[test]
    fn sees_what_did_not_take() {
        let shown = |name: &str| match name {
            "datestyle" => Some("SQL, DMY"),
            "search_path" => Some("\"\""),
            "xmloption" => None,
            other => PINS.iter().find(|pin| pin.name == other).map(|pin| pin.shown),
        };
        let found = drifted(&NONE, shown);
        assert_eq!(found, [Drift { name: "datestyle", found: "SQL, DMY".to_owned() }]);
        let sql = repair_statement(&found, &NONE);
        assert_eq!(sql, "SELECT true, pg_catalog.set_config('datestyle', 'ISO,MDY', false)");
    }

    #[test]
    fn what_not_every_server_knows_is_no_startup_option() {
        let options = startup_options(None, &NONE);
        let sql = settle_statement(Mode::Sql, &NONE);
        for pin in WHERE_KNOWN.iter().chain([&CHECK_INTERVAL]) {
            assert!(!options.contains(pin.name), "{options}");
            assert!(sql.contains(&format!("set_config('{}', '{}', false)", pin.name, pin.value)), "{sql}");
        }
        let settings = [("jit", "on".to_owned())];
        assert!(!settle_statement(Mode::Sql, &Extra(&settings)).contains("'off'"));
    }

    #[test]
    fn only_a_walsender_gets_its_timeout_set() {
        assert!(!settle_statement(Mode::Sql, &NONE).contains("wal_sender_timeout"));
        assert!(settle_statement(Mode::Replication, &NONE).contains("wal_sender_timeout"));
    }
}
