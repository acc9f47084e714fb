//! Scenarios on real servers.
