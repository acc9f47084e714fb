//! One throwaway server, and on it a source and a target database for each test.
//!
//! The stream is read through `pg_logical_slot_get_binary_changes`: the bytes are those of a walsender, and a
//! test decides how they are cut into deliveries.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use pgstream::apply::{
    Applier, ApplyOptions, ApplyStats, LaneId, PROGRESS_DDL, Positions, TableWatermarks, begin_progress,
    read_progress,
};
use pgstream::catalog::{self, ReplicaRole};
use pgstream::error::Result;
use pgstream::pg::{Conninfo, Environment, Files, Lsn, PgTimestamp, QualifiedName, SlotName};
use pgstream::replication::StreamItem;
use pgstream::wire::{Session, SessionSettings};

/// A server that stops when the last test lets go of it.
struct Server {
    directory: PathBuf,
    port: u16,
}

const PORTS: std::ops::Range<u16> = 56_500..56_600;
const BINARIES: &str = "/usr/lib/postgresql/15/bin";

impl Server {
    fn shared() -> Arc<Server> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Server::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Server {
        let port = PORTS
            .into_iter()
            .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
            .expect("a port is free");
        let directory = std::env::temp_dir().join("pgs-apply").join(std::process::id().to_string());
        std::fs::create_dir_all(&directory).unwrap();
        let owned = Command::new("chown").arg("postgres:postgres").arg(&directory).status().unwrap();
        assert!(owned.success());
        let data = directory.join("data");
        as_postgres(
            "initdb",
            &["-D", text(&data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
        );
        let settings = format!(
            "-p {port} -k {} -c listen_addresses=127.0.0.1 -c fsync=off -c wal_level=logical \
             -c max_replication_slots=50 -c max_connections=200 -c logical_decoding_work_mem=64kB",
            text(&directory)
        );
        let log = directory.join("log");
        as_postgres("pg_ctl", &["-D", text(&data), "-l", text(&log), "-o", &settings, "-w", "start"]);
        Server { directory, port }
    }

    fn conninfo(&self, database: &str) -> Conninfo {
        let environment =
            Environment { variables: BTreeMap::new(), home: None, user: None, files: Box::new(NoFiles) };
        let (directory, port) = (text(&self.directory), self.port);
        let text = format!("host={directory} port={port} user=postgres dbname={database} sslmode=disable");
        Conninfo::resolve(&text, &environment).unwrap()
    }

    async fn session(&self, database: &str) -> Session {
        let settings = SessionSettings { role: "test", extra: vec![] };
        Session::connect(&self.conninfo(database), &settings).await.unwrap()
    }
}

/// A machine without service files, passfiles and certificates.
struct NoFiles;

impl Files for NoFiles {
    fn exists(&self, _: &Path) -> bool {
        false
    }

    fn read(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn read_private(&self, _: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.directory.join("data");
        as_postgres("pg_ctl", &["-D", text(&data), "-m", "immediate", "-w", "stop"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn as_postgres(program: &str, arguments: &[&str]) {
    let output = Command::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(format!("{BINARIES}/{program}"))
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(output.success(), "{program} {arguments:?}");
}

/// How values travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Text,
    Binary,
}

/// A source and a target database.
pub(crate) struct Stage {
    server: Arc<Server>,
    names: [String; 2],
    pub(crate) source: Session,
    pub(crate) target: Session,
    pub(crate) slot: SlotName,
    pub(crate) values: Values,
    /// Of tables that were copied later than the slot's start.
    pub(crate) watermarks: Vec<(QualifiedName, Lsn)>,
}

impl Stage {
    /// Both databases with the same definitions, and a slot.
    pub(crate) async fn new(definitions: &str) -> Stage {
        Stage::with(definitions, definitions, Values::Text).await
    }

    pub(crate) async fn with(source_ddl: &str, target_ddl: &str, values: Values) -> Stage {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let server = Server::shared();
        let names = ["source", "target"].map(|role| format!("{role}_{number}"));
        let admin = server.session("postgres").await;
        for name in &names {
            admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
        }
        let [source, target] = [server.session(&names[0]).await, server.session(&names[1]).await];
        source.batch_execute("SET search_path = public").await.unwrap();
        target.batch_execute("SET search_path = public").await.unwrap();
        source.batch_execute(source_ddl).await.unwrap();
        target.batch_execute(target_ddl).await.unwrap();
        source.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.unwrap();
        let slot: SlotName = format!("slot_{number}").parse().unwrap();
        let sql = "SELECT lsn::text FROM pg_create_logical_replication_slot($1::text, 'pgoutput')";
        let start: String = source.query_one(sql, &[&slot.as_str()]).await.unwrap().get(0);
        target.batch_execute(PROGRESS_DDL).await.unwrap();
        begin_progress(&target, &slot, LaneId::FIRST, start.parse().unwrap()).await.unwrap();
        Stage { server, names, source, target, slot, values, watermarks: vec![] }
    }

    pub(crate) async fn run(&self, sql: &str) {
        self.source.batch_execute(sql).await.unwrap();
    }

    /// What the source has sent since the last time, and a keepalive behind it.
    pub(crate) async fn items(&self) -> Vec<StreamItem> {
        let end = self.lsn().await;
        let sql = format!(
            "SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes($1::text, NULL, NULL, \
             'proto_version', '3', 'publication_names', 'p', 'streaming', 'on', 'messages', 'true', \
             'binary', '{}')",
            self.values == Values::Binary
        );
        let rows = self.source.query(&sql, &[&self.slot.as_str()]).await.unwrap();
        let data = |row: tokio_postgres::Row| {
            let start: Lsn = row.get::<_, String>(0).parse().unwrap();
            let message = Bytes::from(row.get::<_, Vec<u8>>(1));
            StreamItem::Data { start, wal_end: start, sent: PgTimestamp::from_micros(0), message }
        };
        let keepalive = StreamItem::Keepalive { wal_end: end, sent: PgTimestamp::from_micros(0) };
        rows.into_iter().map(data).chain([keepalive]).collect()
    }

    pub(crate) async fn lsn(&self) -> Lsn {
        let row = self.source.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
        row.get::<_, String>(0).parse().unwrap()
    }

    pub(crate) async fn progress(&self) -> Lsn {
        read_progress(&self.target, &self.slot, LaneId::FIRST).await.unwrap().unwrap().end_lsn
    }

    pub(crate) async fn options(&self) -> ApplyOptions {
        let tables = catalog::load(&self.target).await.unwrap().tables;
        let mut options = ApplyOptions::new(
            self.server.conninfo(&self.names[1]),
            self.slot.clone(),
            3,
            self.progress().await,
        );
        let all = tables.iter().map(|table| (table.name.clone(), Lsn::ZERO));
        options.watermarks = all.chain(self.watermarks.iter().cloned()).collect::<TableWatermarks>();
        options.tables = tables;
        options.replica_role = ReplicaRole::Settable;
        options
    }

    pub(crate) async fn applier(&self) -> Applier {
        Applier::start(self.options().await).await.unwrap()
    }

    /// Applies what the source has sent since the last time.
    pub(crate) async fn apply(&self) -> (Positions, Arc<ApplyStats>) {
        let items = self.items().await;
        self.apply_items(items).await.unwrap()
    }

    pub(crate) async fn apply_items(&self, items: Vec<StreamItem>) -> Result<(Positions, Arc<ApplyStats>)> {
        let applier = self.applier().await;
        let stats = applier.stats();
        // Refused only when the applier has failed; finishing it tells why.
        let _ = applier.input().send(items).await;
        Ok((applier.finish().await?, stats))
    }

    /// Every table holds the same rows, to the letter of their text.
    pub(crate) async fn assert_equal(&self) {
        for table in tables(&self.source).await {
            let [source, target] = [rows(&self.source, &table).await, rows(&self.target, &table).await];
            assert_eq!(source, target, "{table}");
        }
    }
}

async fn tables(session: &Session) -> Vec<String> {
    let sql = "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' \
        AND c.relnamespace = 'public'::regnamespace ORDER BY 1";
    session.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The rows of a table as text, columns by name.
pub(crate) async fn rows(session: &Session, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT string_agg(format('%L || ''='' || coalesce(quote_literal(%I::text), ''NULL'')', attname, attname), \
         ' || '', '' || ' ORDER BY attname COLLATE \"C\") FROM pg_attribute \
         WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped",
        table.replace('\'', "''")
    );
    let expression: Option<String> = session.query_one(&sql, &[]).await.unwrap().get(0);
    let expression = expression.unwrap_or_else(|| "''".into());
    let sql = format!("SELECT ({expression}) COLLATE \"C\" FROM ONLY {table} ORDER BY 1");
    session.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
