//! Whole clusters under test: real processes, real sockets, real disks.
//!
//! [`cluster`] starts and ends nodes, [`client`] speaks to them, [`load`] keeps them busy,
//! [`history`] remembers what was acknowledged and checks that the cluster kept it, [`churn`] makes
//! changes of every kind, [`watch`] listens to them and checks that all tell the same, [`rings`] holds
//! what is told of rings to one assignment per epoch, [`sets`] reads shard sets, [`faults`]
//! breaks files and disks, [`fleet`] is thousands of sessions that beat, each on its own schedule, [`wait`] waits for conditions. Workers of shard sets are programs of their
//! own (`bin/shard-worker.rs`), and so are those that hold a lock of the cluster (`bin/lock-holder.rs`):
//! [`workers`] starts, kills and freezes them, [`locks`] is how two that are at
//! work on one shard meet, [`ledger`] holds what they wrote down against each other. [`latches`] claims locks and elections, [`metrics`] reads what nodes tell Prometheus. The scenarios
//! themselves are in `tests/`.
//!
//! Nothing here knows how the registry works inside: what is checked is what a client can see, and
//! the nodes' own log lines of departures.

pub mod churn;
pub mod client;
pub mod cluster;
pub mod faults;
pub mod fleet;
pub mod history;
pub mod latches;
pub mod ledger;
pub mod load;
pub mod locks;
pub mod metrics;
pub mod ports;
pub mod rings;
pub mod seed;
pub mod sets;
pub mod wait;
pub mod watch;
pub mod workers;
