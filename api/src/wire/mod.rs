//! The JSON shapes, one file per resource, apart from the domain types that they are made from.

pub(crate) mod app;
pub(crate) mod batch;
pub(crate) mod brake;
pub(crate) mod cluster;
pub(crate) mod document;
pub(crate) mod entries;
pub(crate) mod event;
pub(crate) mod heartbeat;
pub(crate) mod instance;
pub(crate) mod keys;
pub(crate) mod latch;
pub(crate) mod ring;
pub(crate) mod scalar;
pub(crate) mod sentinel;
pub(crate) mod session;
pub(crate) mod shard;
pub(crate) mod shard_set;
pub(crate) mod work;
