//! Scenarios over three real processes. Each test starts a cluster of its own, so they run beside
//! each other. A failed test prints the ends of its nodes' logs.

mod departures;
mod first_start;
mod full_disks;
mod leader_death;
mod minorities;
mod pauses;
mod reads;
mod replaced_disks;
mod restarts;
mod sentinel;
mod start_up;
mod takeovers;

use cluster_tests::cluster::Plan;

/// Three nodes with default settings.
fn three_nodes() -> Plan {
    Plan::new(env!("CARGO_BIN_EXE_roster-under-test"))
}
