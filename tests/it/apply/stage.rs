//! One throwaway server, and on it a source and a target database for each test.
//!
//! The stream is read through `pg_logical_slot_get_binary_changes`: the bytes are those of a walsender, and a
//! test decides how they are cut into deliveries.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pgstream::apply::{
    Applier, ApplyOptions, ApplyStats, PROGRESS_DDL, Positions, SourceNow, TableWatermarks, ValueFormat,
    begin_progress, read_progress,
};
use pgstream::catalog::{self, ReplicaRole};
use pgstream::demo::{Cluster, ClusterOptions, Shutdown};
use pgstream::error::Result;
use pgstream::pg::{Lsn, PgTimestamp, QualifiedName, SlotName};
use pgstream::replication::StreamItem;
use pgstream::wire::Session;

use crate::support::eventually;

/// A server that stops when the last test lets go of it.
fn shared_server() -> Cluster {
    static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared.get_or_insert_with(start_server).clone()
}

fn start_server() -> Cluster {
    let settings =
        [("max_replication_slots", "50"), ("max_connections", "200"), ("logical_decoding_work_mem", "64kB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Cluster::start_blocking(&ClusterOptions { settings, ..ClusterOptions::default() }).unwrap()
}

/// How values travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    Text,
    Binary,
}

/// A source and a target database.
pub(crate) struct Stage {
    server: Cluster,
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
        Stage::on(shared_server(), source_ddl, target_ddl, values).await
    }

    /// On a server that is the test's own.
    pub(crate) async fn on(server: Cluster, source_ddl: &str, target_ddl: &str, values: Values) -> Stage {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let names = ["source", "target"].map(|role| format!("{role}_{number}"));
        let admin = server.session("postgres").await.unwrap();
        for name in &names {
            admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
        }
        let [source, target] =
            [server.session(&names[0]).await.unwrap(), server.session(&names[1]).await.unwrap()];
        source.batch_execute("SET search_path = public").await.unwrap();
        target.batch_execute("SET search_path = public").await.unwrap();
        source.batch_execute(source_ddl).await.unwrap();
        target.batch_execute(target_ddl).await.unwrap();
        source.batch_execute("CREATE PUBLICATION p FOR ALL TABLES").await.unwrap();
        let slot: SlotName = format!("slot_{number}").parse().unwrap();
        let sql = "SELECT lsn::text FROM pg_create_logical_replication_slot($1::text, 'pgoutput')";
        let start: String = source.query_one(sql, &[&slot.as_str()]).await.unwrap().get(0);
        target.batch_execute(PROGRESS_DDL).await.unwrap();
        begin_progress(&target, &slot, start.parse().unwrap()).await.unwrap();
        Stage { server, names, source, target, slot, values, watermarks: vec![] }
    }

    /// Crashes the server, and connects again when it has recovered.
    pub(crate) async fn crash(&mut self) {
        self.server.restart(Shutdown::Immediate).await.unwrap();
        self.source = self.server.session(&self.names[0]).await.unwrap();
        self.target = self.server.session(&self.names[1]).await.unwrap();
        self.source.batch_execute("SET search_path = public").await.unwrap();
        self.target.batch_execute("SET search_path = public").await.unwrap();
    }

    /// Another session on the target.
    pub(crate) async fn beside(&self) -> Session {
        let session = self.server.session(&self.names[1]).await.unwrap();
        session.batch_execute("SET search_path = public").await.unwrap();
        session
    }

    /// Waits until no session of an applier is left.
    pub(crate) async fn quiet(&self) {
        let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND application_name LIKE 'pgstream apply%'";
        eventually("the applier's sessions end", async || {
            self.target.query_one(ours, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
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
        read_progress(&self.target, &self.slot).await.unwrap().unwrap().end_lsn
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
        if self.values == Values::Binary {
            let source = catalog::load(&self.source).await.unwrap().tables;
            options.values = ValueFormat::choose(&source, &tables, &options.watermarks).unwrap();
        }
        let as_of = self.lsn().await;
        options.source = SourceNow::new(catalog::load(&self.source).await.unwrap().tables, as_of);
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
