//! Definitions: carried by `pg_dump` and `pg_restore`, chosen, filtered and judged by us.
//!
//! Hazard: a dump is a program written by the source and run with our rights on the target. It never meets
//! psql, whose meta-commands run shell (P57); passwords never meet an argument list (P94); and an error of
//! `pg_restore` is judged by what failed, never by how many "errors were ignored" (P77).
//!
//! ```text
//! tool ─► dump ─► toc ─► filter ─┬─► pre_data      restore (pg_restore -L)        before the copy
//!                                ├─► builds        schedule ─► build (a session)  as each table's copy ends
//!                                ├─► last          restore                        after the builds
//!                                ├─► foreign_keys  schedule ─► build              after every build
//!                                └─► armed         restore                        at the very end, or at the cutover
//! ```
//!
//! Every restore comes back with warnings; those of privileges go through `privilege` once more.
//!
//! What belongs to the server and not to one database comes before all that: `role` and `database`.
//!
//! `pg_dump` is the one tool that knows every kind of object, so it writes the definitions and `pg_restore`
//! replays most of them. Indexes and constraints we build ourselves: each must be scheduled behind its own
//! table, judged by SQLSTATE, and tried again alone.

mod allowance;
mod attempt;
mod build;
mod database;
mod definition;
mod dump;
mod entry;
mod environment;
mod filter;
mod judge;
mod lane;
mod owner;
mod plan;
mod private;
mod privilege;
mod process;
mod restore;
mod role;
mod schedule;
mod setting;
mod toc;
mod tool;

pub use allowance::{Allowance, ParallelSize, TargetSize};
pub use build::{BuildSettings, Built, Tablespaces, announce, build, build_together};
pub use database::{
    CreatedDatabase, Creation, DatabaseDefinition, DatabaseLocale, DatabaseRight, DatabaseSetting,
    LocaleProvider, RightsKind, Stage, carry_database_properties, create_database, read_databases,
};
pub use dump::{Archive, DumpEncoding, DumpSettings, ToastCompression, dump_definitions};
pub use entry::{Definition, DumpId, Entry, Section};
pub use judge::{RestoreFailure, RestoreRun, RestoreWarning, RestoreWarningKind};
pub use owner::settle_owners;
pub use plan::{Build, BuildForm, BuildKind, Chosen, EventTriggers, FilterSettings, Plan, Schema, Skipped};
pub use private::PrivateFile;
pub use privilege::restore_privileges;
pub use restore::{Flush, RestoreSettings, Restored, restore};
pub use role::{
    CarriedRole, CarriedRoles, RolePattern, RoleSettings, RoleStatus, carry_roles, is_service_database,
    join_roles, leave_roles, owners_in_use, roles_to_join,
};
pub use schedule::Schedule;
pub use setting::Setting;
pub use toc::{Toc, TocError};
pub use tool::{Installation, Tools, ToolsError, choose_tools, find_tools};
