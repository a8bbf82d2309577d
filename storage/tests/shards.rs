//! Shard sets: the published vectors, what holds always, and the cases with a name.

#[path = "shards/scenarios.rs"]
mod scenarios;
#[path = "shards/vectors.rs"]
mod vectors;
