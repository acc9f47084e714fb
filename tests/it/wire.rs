//! Real servers let us in exactly when they should, and every session shows the pinned settings.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::OnceLock;

use pgstream::demo::{Cluster, ClusterOptions};
use pgstream::error::{Error, ErrorKind, describe};
use pgstream::pg::{
    ChannelBindingMode, Conninfo, Host, HostName, Passfile, RootCertificates, Secret, SqlState, SslMode,
};
use pgstream::wire::{Connection, ConnectionSettings, Session, SessionSettings};

use crate::schema;
use crate::support::authority::{Authority, Issued};

/// A server that has every method of login, and TLS under an authority of its own.
struct Stage {
    cluster: Cluster,
    authority: Authority,
    stranger: Authority,
    client: Issued,
}

/// Who is asked for what; the rest is trusted.
const RULES: [&str; 10] = [
    "host all clear 127.0.0.1/32 password",
    "host all hashed 127.0.0.1/32 md5",
    "host all scram 127.0.0.1/32 scram-sha-256",
    "host all,replication filed 127.0.0.1/32 scram-sha-256",
    "hostssl all encrypted 127.0.0.1/32 trust",
    "host all encrypted 127.0.0.1/32 reject",
    "hostnossl all open 127.0.0.1/32 trust",
    "host all open 127.0.0.1/32 reject",
    "hostssl all certified 127.0.0.1/32 cert",
    "host all certified 127.0.0.1/32 reject",
];

const ROLES: &str = "
    SET password_encryption = 'md5';
    CREATE ROLE hashed LOGIN PASSWORD 'of hashed';
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE clear LOGIN PASSWORD 'of clear';
    CREATE ROLE scram LOGIN PASSWORD 'of scram';
    CREATE ROLE filed LOGIN REPLICATION PASSWORD 'of filed';
    CREATE ROLE encrypted LOGIN; CREATE ROLE open LOGIN; CREATE ROLE certified LOGIN;
    CREATE ROLE odd LOGIN REPLICATION;
    ALTER ROLE odd SET datestyle = 'German';
    ALTER ROLE odd SET intervalstyle = 'iso_8601';
    ALTER ROLE odd SET extra_float_digits = 0;
    ALTER ROLE odd SET bytea_output = 'escape';
    ALTER ROLE odd SET search_path = 'pg_temp, nowhere';
    ALTER ROLE odd SET statement_timeout = '1ms';
    ALTER ROLE odd SET idle_in_transaction_session_timeout = '1ms';
    ALTER ROLE odd SET default_transaction_read_only = on;
    ALTER ROLE odd SET default_transaction_isolation = 'serializable';
    ALTER ROLE odd SET jit = on;
    ALTER DATABASE postgres SET timezone = 'Asia/Tokyo';
    ALTER DATABASE postgres SET idle_session_timeout = '20s'";

/// One server for all of them.
fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let hba = RULES.map(str::to_owned).to_vec();
        let options = ClusterOptions { hba, ..ClusterOptions::default() };
        let cluster = Cluster::start_blocking(&options).expect("a server starts");
        let (authority, stranger) = (Authority::new(), Authority::new());
        let (server, client) = (authority.for_server(), authority.for_client("certified"));
        let data = cluster.data_directory();
        install(&server.certificate, &data.join("server.crt"));
        install(&server.key, &data.join("server.key"));
        install(&authority.certificate(), &data.join("root.crt"));
        Stage { cluster, authority, stranger, client }
    })
}

/// Puts a file where the server looks for it, readable by the server alone.
fn install(from: &Path, to: &Path) {
    std::fs::copy(from, to).expect("copy a certificate");
    std::fs::set_permissions(to, PermissionsExt::from_mode(0o600)).expect("close a key");
    let folder = to.parent().and_then(|folder| folder.metadata().ok()).expect("the data directory");
    chown(to, Some(folder.uid()), Some(folder.gid())).expect("give a key to the server");
}

/// The stage, with TLS switched on and the roles made.
async fn set() -> &'static Stage {
    static ONCE: tokio::sync::OnceCell<()> = tokio::sync::OnceCell::const_new();
    let stage = tokio::task::spawn_blocking(stage).await.expect("the stage is set");
    ONCE.get_or_init(async || {
        let session = stage.cluster.session("postgres").await.expect("a session");
        session.batch_execute(ROLES).await.expect("the roles");
        for sql in ["ALTER SYSTEM SET ssl_ca_file = 'root.crt'", "ALTER SYSTEM SET ssl = on"] {
            session.batch_execute(sql).await.expect("a setting");
        }
        session.batch_execute("SELECT pg_catalog.pg_reload_conf()").await.expect("a reload");
        crate::support::eventually("TLS is on", async || {
            let conninfo = Conninfo { sslmode: SslMode::Require, ..stage.cluster.conninfo("postgres") };
            Connection::connect(&conninfo, &ConnectionSettings::sql("test")).await.is_ok()
        })
        .await;
    })
    .await;
    stage
}

impl Stage {
    /// As that role, by address, without TLS.
    fn plain(&self, user: &str) -> Conninfo {
        let conninfo = self.cluster.conninfo("postgres");
        Conninfo { user: user.to_owned(), sslmode: SslMode::Disable, ..conninfo }
    }

    /// This server under another name, at a port of choice.
    fn named(&self, name: &str, port: u16) -> Host {
        let hostaddr = Some(std::net::Ipv4Addr::LOCALHOST.into());
        Host { name: HostName::Tcp(name.to_owned()), hostaddr, port }
    }
}

fn password(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

async fn connect(conninfo: &Conninfo) -> Result<Connection, Error> {
    Connection::connect(conninfo, &ConnectionSettings::sql("test")).await
}

/// Whether the server saw an encrypted connection.
async fn is_encrypted(conninfo: &Conninfo) -> Result<bool, Error> {
    let mut connection = connect(conninfo).await?;
    let sql = "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    let rows = connection.query(sql).await?;
    Ok(rows[0].get("ssl") == Some("t"))
}

#[tokio::test]
async fn each_method_takes_the_right_password_and_no_other() {
    let stage = set().await;
    for user in ["clear", "hashed", "scram"] {
        for sslmode in [SslMode::Disable, SslMode::Require] {
            let asked = Conninfo { sslmode, ..stage.plain(user) };
            let right = Conninfo { password: password(&format!("of {user}")), ..asked.clone() };
            connect(&right).await.unwrap_or_else(|error| panic!("{user} {sslmode:?}: {}", describe(&error)));
            let session = Session::connect(&right, &SessionSettings::role("test")).await.unwrap();
            session.query_one("SELECT 1", &[]).await.unwrap();

            let wrong = Conninfo { password: password("of nobody"), ..asked.clone() };
            let refused = connect(&wrong).await.unwrap_err();
            assert_eq!(
                (refused.kind(), refused.sqlstate()),
                (ErrorKind::Auth, Some(SqlState::INVALID_PASSWORD))
            );
            assert!(!describe(&refused).contains("of nobody"));

            let missing = connect(&asked).await.unwrap_err();
            assert_eq!((missing.kind(), missing.sqlstate()), (ErrorKind::Auth, None), "{missing:?}");
            assert!(missing.advice().unwrap().contains("passfile"), "{missing:?}");
        }
    }
}

#[tokio::test]
async fn a_passfile_gives_each_host_its_own_password() {
    let stage = set().await;
    let port = stage.cluster.port();
    let passfile =
        Passfile::parse("first.test:*:*:filed:of another server\nsecond.test:*:postgres:filed:of filed\n");
    let through = |hosts: Vec<Host>| Conninfo { hosts, passfile: passfile.clone(), ..stage.plain("filed") };
    // Port 1: nobody listens there.
    let first_down = through(vec![stage.named("first.test", 1), stage.named("second.test", port)]);
    connect(&first_down).await.unwrap();
    Connection::connect(&first_down, &ConnectionSettings::replication("test")).await.unwrap();
    Session::connect(&first_down, &SessionSettings::role("test")).await.unwrap();
    // And pg_dump finds the same way by what it is given.
    schema::dump(&schema::tools(&first_down).await, &first_down).await;
    // The first that answers decides: its own line counts, and the next host is not tried.
    let first_up = through(vec![stage.named("first.test", port), stage.named("second.test", port)]);
    let refused = connect(&first_up).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some(SqlState::INVALID_PASSWORD));
    // A line for one database is none for another.
    let elsewhere = first_down.with_database("template1");
    assert_eq!(connect(&elsewhere).await.unwrap_err().kind(), ErrorKind::Auth);
    // What the string says comes before the file.
    let given = Conninfo { password: password("of filed"), ..first_up };
    connect(&given).await.unwrap();
}

#[tokio::test]
async fn each_sslmode_keeps_its_promise() {
    let stage = set().await;
    let port = stage.cluster.port();
    let ours = Some(RootCertificates::File(stage.authority.certificate()));
    let strangers = Some(RootCertificates::File(stage.stranger.certificate()));
    let (by_name, by_address) = ("localhost", "127.0.0.1");
    // What is expected: encrypted, plain, or refused.
    let (yes, no, refused) = (Some(true), Some(false), None);
    let cases = [
        (SslMode::Disable, &None, by_address, "postgres", no),
        (SslMode::Allow, &None, by_address, "postgres", no),
        (SslMode::Allow, &None, by_address, "encrypted", yes),
        (SslMode::Prefer, &None, by_address, "postgres", yes),
        (SslMode::Prefer, &None, by_address, "open", no),
        (SslMode::Require, &None, by_address, "postgres", yes),
        (SslMode::Require, &None, by_address, "open", refused),
        (SslMode::Disable, &None, by_address, "encrypted", refused),
        // A root, once given, is checked even here, as libpq does.
        (SslMode::Require, &strangers, by_address, "postgres", refused),
        (SslMode::Require, &ours, by_address, "postgres", yes),
        (SslMode::VerifyCa, &None, by_address, "postgres", refused),
        (SslMode::VerifyCa, &ours, by_address, "postgres", yes),
        (SslMode::VerifyCa, &strangers, by_name, "postgres", refused),
        (SslMode::VerifyFull, &ours, by_name, "postgres", yes),
        (SslMode::VerifyFull, &ours, by_address, "postgres", refused),
        (SslMode::VerifyFull, &strangers, by_name, "postgres", refused),
    ];
    for (sslmode, root, name, user, expected) in cases {
        let hosts = vec![stage.named(name, port)];
        let conninfo = Conninfo { hosts, sslmode, sslrootcert: root.clone(), ..stage.plain(user) };
        let found = is_encrypted(&conninfo).await;
        let text = format!("{sslmode:?} with {root:?} to {name} as {user}: {found:?}");
        match (found, expected) {
            (Ok(encrypted), Some(expected)) => assert_eq!(encrypted, expected, "{text}"),
            (Err(error), None) => assert!(error.kind() != ErrorKind::Connect, "{text}"),
            _ => panic!("{text}"),
        }
    }
}

#[tokio::test]
async fn a_client_certificate_stands_for_its_role() {
    let stage = set().await;
    let Issued { certificate, key } = &stage.client;
    let without = Conninfo { sslmode: SslMode::Require, ..stage.plain("certified") };
    let with = Conninfo { sslcert: Some(certificate.clone()), sslkey: Some(key.clone()), ..without.clone() };
    assert!(is_encrypted(&with).await.unwrap());
    assert_eq!(connect(&without).await.unwrap_err().kind(), ErrorKind::Auth);
    let keyless = Conninfo { sslkey: None, ..with };
    assert_eq!(connect(&keyless).await.unwrap_err().kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn channel_binding_is_had_or_refused() {
    let stage = set().await;
    let required = Conninfo { channel_binding: ChannelBindingMode::Require, ..stage.plain("scram") };
    let required = Conninfo { password: password("of scram"), sslmode: SslMode::Require, ..required };
    assert!(is_encrypted(&required).await.unwrap());
    let in_clear = Conninfo { sslmode: SslMode::Disable, ..required.clone() };
    assert_eq!(connect(&in_clear).await.unwrap_err().kind(), ErrorKind::Auth);
    let by_trust = Conninfo { user: "encrypted".to_owned(), ..required };
    let refused = connect(&by_trust).await.unwrap_err();
    assert!(describe(&refused).contains("asked for no proof"), "{}", describe(&refused));
}

#[tokio::test]
async fn a_socket_in_a_folder_is_a_host_too() {
    let stage = set().await;
    let name = HostName::Unix(stage.cluster.directory().to_owned());
    let hosts = vec![Host { name, hostaddr: None, port: stage.cluster.port() }];
    // `require` says nothing about a socket of this machine, as in libpq.
    let conninfo = Conninfo { hosts, sslmode: SslMode::Require, ..stage.plain("postgres") };
    assert!(!is_encrypted(&conninfo).await.unwrap());
}

#[tokio::test]
async fn what_is_missing_has_its_own_error() {
    let stage = set().await;
    let port = stage.cluster.port();
    let missing = connect(&stage.plain("postgres").with_database("nowhere")).await.unwrap_err();
    assert_eq!(missing.sqlstate(), Some(SqlState::UNDEFINED_DATABASE));
    assert_ne!(missing.kind(), ErrorKind::Connect, "another try would not help");
    let stranger = connect(&stage.plain("nobody")).await.unwrap_err();
    assert_eq!(stranger.kind(), ErrorKind::Auth);

    let at = |hosts: Vec<Host>| Conninfo { hosts, ..stage.plain("postgres") };
    let down = connect(&at(vec![stage.named("down.test", 1)])).await.unwrap_err();
    assert_eq!(down.kind(), ErrorKind::Connect);
    assert!(describe(&down).contains("down.test:1"), "{}", describe(&down));
    let unknown = Host { name: HostName::Tcp("no-such-host.invalid".to_owned()), hostaddr: None, port };
    let unknown = connect(&at(vec![unknown])).await.unwrap_err();
    assert!(describe(&unknown).contains("does not resolve"), "{}", describe(&unknown));
    connect(&at(vec![stage.named("down.test", 1), stage.named("up.test", port)])).await.unwrap();
}

#[tokio::test]
async fn a_role_of_odd_habits_gets_our_settings_all_the_same() {
    let stage = set().await;
    let odd =
        Conninfo { options: Some("-c lc_monetary=C -c DateStyle=SQL".to_owned()), ..stage.plain("odd") };
    let expected = [
        ("datestyle", "ISO, MDY"),
        ("intervalstyle", "postgres"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        ("search_path", "\"\""),
        ("timezone", "UTC"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("idle_session_timeout", "0"),
        ("default_transaction_read_only", "off"),
        ("default_transaction_isolation", "read committed"),
        ("jit", "off"),
    ];
    for settings in [ConnectionSettings::sql("test"), ConnectionSettings::replication("test")] {
        let mut connection = Connection::connect(&odd, &settings).await.unwrap();
        for (name, value) in expected {
            let rows = connection.query(&format!("SHOW {name}")).await.unwrap();
            let shown = rows[0].get(0).unwrap_or_default();
            // `SET search_path = ''` and the same as a startup option show differently.
            let same = shown == value || (value == "\"\"" && shown.is_empty());
            assert!(same, "{name} is {shown:?} in {settings:?}");
        }
    }
    let session = Session::connect(&odd, &SessionSettings::role("test")).await.unwrap();
    let row = session.query_one("SELECT (0.1::float8 + 0.2)::text, '\\xff'::bytea::text", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("0.30000000000000004", "\\xff"));
}
