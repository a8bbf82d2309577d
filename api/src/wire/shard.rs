//! Shards: one per live instance.

use roster_storage::catalog::Instance;
use roster_storage::names::{AppName, InstanceId, InstanceKey};
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct ShardView<'a> {
    shard: String,
    app: &'a str,
    instance: &'a str,
    ip: &'a str,
    port: u32,
    /// When it was made: with its instance.
    revision: u64,
}

impl<'a> ShardView<'a> {
    pub fn new(app: &'a AppName, id: &'a InstanceId, instance: &'a Instance) -> Self {
        Self {
            shard: InstanceKey::new(app.clone(), id.clone()).shard_id(),
            app: app.as_str(),
            instance: id.as_str(),
            ip: &instance.profile.ip,
            port: instance.profile.port,
            revision: instance.incarnation.0,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct ShardList<'a> {
    pub shards: Vec<ShardView<'a>>,
    pub next_cursor: Option<String>,
    pub revision: u64,
}
