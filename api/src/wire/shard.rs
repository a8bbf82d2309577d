//! Shards: one per live instance.

use roster_storage::catalog::Instance;
use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Serialize, ToSchema)]
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
        let profile = &instance.profile;
        Self::of(app, id, profile.ip(), profile.port(), instance.incarnation)
    }

    pub fn of(
        app: &'a AppName,
        id: &'a InstanceId,
        ip: &'a str,
        port: u32,
        incarnation: Incarnation,
    ) -> Self {
        Self {
            shard: InstanceKey::new(app.clone(), id.clone()).shard_id(),
            app: app.as_str(),
            instance: id.as_str(),
            ip,
            port,
            revision: incarnation.0,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ShardList<'a> {
    pub shards: Vec<ShardView<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}
