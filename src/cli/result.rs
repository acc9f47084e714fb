//! What `migrate` came to: one JSON document, or a table for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::exit::Failure;
use crate::migrate;
use crate::telemetry::text;

/// How a run, or one database of it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// In step when it was interrupted; the source still keeps WAL for us, and running again goes on.
    Running,
    /// Everything that was asked for is done.
    Done,
    /// It failed; running again is safe.
    Failed,
    /// Interrupted before it was in step; running again goes on.
    Cancelled,
}

impl Status {
    /// The status of several databases together; of none it is done.
    #[must_use]
    pub fn worst(statuses: impl IntoIterator<Item = Status>) -> Status {
        let badness = |status: &Status| match status {
            Status::Done => 0,
            Status::Running => 1,
            Status::Cancelled => 2,
            Status::Failed => 3,
        };
        statuses.into_iter().max_by_key(badness).unwrap_or(Status::Done)
    }
}

/// How the rows came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Copied under a snapshot, then every change since.
    Replication,
    /// Copied once.
    Dump,
}

impl From<migrate::Method> for Method {
    fn from(method: migrate::Method) -> Method {
        match method {
            migrate::Method::Replication => Method::Replication,
            migrate::Method::Dump => Method::Dump,
        }
    }
}

/// What became of one role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleStatus {
    /// Made on the target.
    Created,
    /// Was there.
    Exists,
    /// Could not be made.
    Failed,
    /// Left out.
    Skipped,
}

/// One role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleResult {
    /// Its name.
    pub rolname: String,
    /// What became of it.
    pub status: RoleStatus,
    /// Why, if there is something to say.
    pub message: Option<String>,
    /// The password that it was given, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolpassword: Option<String>,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DatabaseResult {
    /// Its name on the source.
    pub dbname: String,
    /// How the rows came over.
    pub method: Method,
    /// How it ended.
    pub status: Status,
    /// Why, if there is something to say.
    pub message: Option<String>,
    /// Tables that are on the target.
    pub tables: u64,
    /// Rows copied by COPY.
    pub rows_copied: u64,
    /// Bytes of COPY data.
    pub bytes_copied: u64,
    /// Source transactions applied since.
    pub transactions_applied: u64,
    /// Changes in them.
    pub changes_applied: u64,
    /// WAL not yet applied when it ended; null where nothing is streamed.
    pub lag_bytes: Option<u64>,
    /// From beginning to end.
    pub seconds: f64,
}

/// The document that `migrate --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MigrateResult {
    /// The worst of the databases.
    pub status: Status,
    /// Roles carried over.
    pub roles: Vec<RoleResult>,
    /// Databases moved.
    pub databases: Vec<DatabaseResult>,
    /// What was met that a person should know.
    pub warnings: Vec<String>,
    /// What ended the run, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
}

impl MigrateResult {
    /// The document, on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data with text keys always serializes")
    }

    /// The result for people, ending in a line break.
    #[must_use]
    pub fn to_table(&self) -> String {
        let head = ["database", "method", "status", "tables", "rows", "copied", "changes", "lag", "time"];
        let mut rows: Vec<[String; COLUMNS]> = vec![head.map(str::to_owned)];
        rows.extend(self.databases.iter().map(DatabaseResult::cells));
        let mut table = aligned(&rows);
        for database in &self.databases {
            if let Some(message) = &database.message {
                writeln_printable(&mut table, &format!("{}: {message}", database.dbname));
            }
        }
        for role in self.roles.iter().filter(|role| role.status == RoleStatus::Failed) {
            let why = role.message.as_deref().unwrap_or("no reason given");
            writeln_printable(&mut table, &format!("role {} could not be created: {why}", role.rolname));
        }
        for role in &self.roles {
            if let Some(password) = &role.rolpassword {
                writeln_printable(&mut table, &format!("role {} has the password {password}", role.rolname));
            }
        }
        for warning in &self.warnings {
            writeln_printable(&mut table, &format!("warning: {warning}"));
        }
        table
    }
}

const COLUMNS: usize = 9;
/// Columns of words come first; numbers follow and are set flush right.
const WORD_COLUMNS: usize = 3;

impl DatabaseResult {
    /// A result without figures.
    #[must_use]
    pub fn short(dbname: &str, status: Status, message: Option<String>) -> DatabaseResult {
        DatabaseResult {
            dbname: dbname.to_owned(),
            method: Method::Replication,
            status,
            message,
            tables: 0,
            rows_copied: 0,
            bytes_copied: 0,
            transactions_applied: 0,
            changes_applied: 0,
            lag_bytes: None,
            seconds: 0.0,
        }
    }

    fn cells(&self) -> [String; COLUMNS] {
        [
            text::printable(&self.dbname).into_owned(),
            match self.method {
                Method::Replication => "replication",
                Method::Dump => "dump",
            }
            .to_owned(),
            match self.status {
                Status::Running => "running",
                Status::Done => "done",
                Status::Failed => "failed",
                Status::Cancelled => "cancelled",
            }
            .to_owned(),
            text::count(self.tables),
            text::count(self.rows_copied),
            text::bytes(self.bytes_copied),
            text::count(self.changes_applied),
            self.lag_bytes.map_or_else(|| "-".to_owned(), text::bytes),
            text::duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default()),
        ]
    }
}

fn aligned(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut table = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let blanks = " ".repeat(width - cell.chars().count());
            let (before, after) = if column < WORD_COLUMNS { ("", &*blanks) } else { (&*blanks, "") };
            let gap = if column == 0 { "" } else { "  " };
            line += &format!("{gap}{before}{cell}{after}");
        }
        writeln_printable(&mut table, line.trim_end());
    }
    table
}

fn writeln_printable(to: &mut String, line: &str) {
    writeln!(to, "{}", text::printable(line)).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> MigrateResult {
        MigrateResult {
            status: Status::Done,
            roles: vec![
                RoleResult {
                    rolname: "app".to_owned(),
                    status: RoleStatus::Created,
                    message: None,
                    rolpassword: None,
                },
                RoleResult {
                    rolname: "root".to_owned(),
                    status: RoleStatus::Failed,
                    message: Some("permission denied".to_owned()),
                    rolpassword: None,
                },
            ],
            databases: vec![
                DatabaseResult {
                    dbname: "shop".to_owned(),
                    method: Method::Replication,
                    status: Status::Done,
                    message: None,
                    tables: 12,
                    rows_copied: 1_234_567,
                    bytes_copied: 3 << 29,
                    transactions_applied: 40,
                    changes_applied: 4_000,
                    lag_bytes: Some(0),
                    seconds: 61.25,
                },
                DatabaseResult {
                    dbname: "Ärger\u{1b}".to_owned(),
                    method: Method::Dump,
                    status: Status::Failed,
                    message: Some("disk full".to_owned()),
                    tables: 0,
                    rows_copied: 0,
                    bytes_copied: 0,
                    transactions_applied: 0,
                    changes_applied: 0,
                    lag_bytes: None,
                    seconds: 0.5,
                },
            ],
            warnings: vec!["table t has no key".to_owned()],
            error: None,
        }
    }

    #[test]
    fn the_document_has_the_promised_shape() {
        let document: serde_json::Value = serde_json::from_str(&result().to_json()).unwrap();
        let expected = serde_json::json!({
            "status": "done",
            "roles": [
                {"rolname": "app", "status": "created", "message": null},
                {"rolname": "root", "status": "failed", "message": "permission denied"},
            ],
            "databases": [
                {
                    "dbname": "shop", "method": "replication", "status": "done", "message": null,
                    "tables": 12, "rows_copied": 1_234_567, "bytes_copied": 1_610_612_736_u64,
                    "transactions_applied": 40, "changes_applied": 4_000, "lag_bytes": 0, "seconds": 61.25,
                },
                {
                    "dbname": "Ärger\u{1b}", "method": "dump", "status": "failed", "message": "disk full",
                    "tables": 0, "rows_copied": 0, "bytes_copied": 0,
                    "transactions_applied": 0, "changes_applied": 0, "lag_bytes": null, "seconds": 0.5,
                },
            ],
            "warnings": ["table t has no key"],
        });
        assert_eq!(document, expected);
    }

    #[test]
    fn several_databases_have_the_worst_of_their_statuses() {
        use Status::{Cancelled, Done, Failed, Running};
        assert_eq!(Status::worst([]), Done);
        assert_eq!(Status::worst([Done, Running]), Running);
        assert_eq!(Status::worst([Running, Cancelled, Done]), Cancelled);
        assert_eq!(Status::worst([Failed, Cancelled]), Failed);
    }

    #[test]
    fn the_table_is_aligned_and_printable() {
        assert_eq!(
            result().to_table(),
            "database  method       status  tables       rows   copied  changes      lag    time\n\
             shop      replication  done        12  1 234 567  1.50 GB    4 000  0 bytes  1m 01s\n\
             Ärger     dump         failed       0          0  0 bytes        0        -    0.5s\n\
             Ärger : disk full\n\
             role root could not be created: permission denied\n\
             warning: table t has no key\n"
        );
    }
}
