//! How many tables are how far, for `pgstream_tables`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::pg::QualifiedName;
use crate::telemetry::{DatabaseMetrics, TableState};

/// Counts each table under exactly one state. A clone is a reference.
#[derive(Clone)]
pub(super) struct TableGauge {
    metrics: DatabaseMetrics,
    states: Arc<Mutex<States>>,
}

#[derive(Default)]
struct States {
    of: HashMap<QualifiedName, TableState>,
    counts: [u64; TableState::ALL.len()],
}

impl States {
    fn set(&mut self, table: &QualifiedName, state: TableState) {
        if let Some(before) = self.of.insert(table.clone(), state) {
            self.counts[before as usize] -= 1;
        }
        self.counts[state as usize] += 1;
    }
}

impl TableGauge {
    pub(super) fn new(metrics: DatabaseMetrics) -> TableGauge {
        TableGauge { metrics, states: Arc::default() }
    }

    /// Puts tables into a state, wherever they were.
    pub(super) fn set<'a>(&self, tables: impl IntoIterator<Item = &'a QualifiedName>, state: TableState) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for table in tables {
            states.set(table, state);
        }
        for state in TableState::ALL {
            self.metrics.tables(*state, states.counts[*state as usize]);
        }
    }
}
