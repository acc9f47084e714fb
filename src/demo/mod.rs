//! A stage to play on: throwaway clusters, an awkward database, and a writer that never stops.
//!
//! Hazard: a demo that only shows tidy tables proves nothing, and one that leaves servers behind is
//! worse than none. The `pgstream demo` command, the scenarios and the benches all stand on this.

mod cluster;
mod dice;
mod initdb;
mod installation;
mod script;
mod seed;
mod server;
mod stage;
mod workload;

pub use cluster::{Cluster, ClusterOptions, Durability, Listen};
pub use dice::Dice;
pub use installation::{Installation, SERVER_BIN, ServerChoice};
pub use seed::{SeedOptions, seed};
pub use server::Shutdown;
pub use stage::{Stage, StageOptions};
pub use workload::{Workload, WorkloadCounts, WorkloadOptions, WorkloadReport};
