//! Shard sets: the published vectors, what holds of every plan and of every sequence of operations,
//! and the cases with a name.

#[path = "shards/acts.rs"]
mod acts;
#[path = "shards/groups.rs"]
mod groups;
#[path = "shards/plans.rs"]
mod plans;
#[path = "shards/reference.rs"]
mod reference;
#[path = "shards/scaling.rs"]
mod scaling;
#[path = "shards/scenarios.rs"]
mod scenarios;
#[path = "shards/vectors.rs"]
mod vectors;
#[path = "shards/workers.rs"]
mod workers;
