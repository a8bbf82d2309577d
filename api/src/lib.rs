//! What clients see: HTTP in, HTTP out.
//!
//! A handler translates: it parses a request into domain types (errors become a 4xx here), asks the
//! node one question through [`registry::Registry`], and renders the answer. This crate knows no
//! Raft handle, no disk, no tasks and no peers.

pub mod registry;
