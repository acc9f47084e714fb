//! Scenarios on real servers, in one binary.
//!
//! `support` is the scenery: a pair of clusters, the engine as a child process, a proxy that misbehaves.
//! Everything else is claims.

mod aiven_extras;
mod apply;
mod cleanup;
mod cluster;
mod cluster_roles;
mod copy_builds;
mod copy_faults;
mod copy_pace;
mod copy_shapes;
mod copy_worker;
mod demo;
mod digest;
mod drift;
mod dump;
mod fault;
mod fault_lock;
mod fault_target;
mod filters;
mod floors;
mod kill;
mod lanes;
mod messages;
mod metrics;
mod migrate;
mod migrate_change;
mod migrate_choice;
mod migrate_cluster;
mod migrate_format;
mod pipeline;
mod precheck;
mod precheck_objects;
mod precheck_server;
mod precheck_trial;
mod quarantine;
mod rights;
mod roles;
mod scenery;
#[allow(dead_code, reason = "what the engine will call, too")]
mod schema;
mod secrets;
mod signals;
mod soak;
mod splice;
mod spool;
mod spool_behind;
mod status;
mod strange;
#[allow(dead_code, reason = "support is written for scenarios to come as well")]
mod support;
mod wire;
