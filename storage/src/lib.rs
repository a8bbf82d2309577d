//! What is true: the replicated registry.
//!
//! [`catalog::Catalog`] is the state that every node agrees on, [`command::Command`] is all that can
//! change it, [`catalog::Catalog::apply`] is the only door. Nothing here reads a clock, draws a
//! random number or opens a socket; time comes in as an argument, so that the same commands give the
//! same state on every node (invariant S9). `disk` keeps the Raft log, the vote and the
//! checkpoints; it takes no decisions either. [`history::History`] keeps what was told, longer than
//! memory does.
//!
//! Calls go one way: `roster` (sockets, tasks, time) and `roster-api` (HTTP) call this crate; it
//! calls neither.

pub mod brake;
pub mod catalog;
pub mod command;
pub mod compact_map;
pub mod disk;
pub mod events;
pub mod histogram;
pub mod history;
pub mod latch;
pub mod limits;
mod msgpack;
pub mod names;
pub mod profile;
pub mod raft_types;
pub mod ring;
pub mod shards;
pub mod version;
