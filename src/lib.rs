//! One running node: time, sockets, tasks.
//!
//! Decisions are in `roster-storage`, HTTP shapes in `roster-api`; this crate brings them together
//! with Raft, the other nodes and the clock. `start` tells how a node starts and stops, `node` what
//! it is asked, `forward` and `leading` how a request reaches the leader and what happens there,
//! `leases` who is still alive.

mod aside;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod demo;
mod departures;
mod detour;
pub mod dev;
mod disk_guard;
mod forward;
mod gather;
pub mod history;
mod housekeeping;
mod identity;
mod leaders;
mod leading;
mod leases;
mod loading;
mod metrics;
pub mod node;
mod nudge;
mod past;
mod peers;
mod process;
mod raft;
mod rebalance;
mod serve;
pub mod shutdown;
pub mod start;
mod telemetry;
mod threads;
mod watch;
