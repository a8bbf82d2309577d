//! One file per resource; handlers parse, ask and render.

mod apps;
mod batch;
mod brake;
mod changes;
mod cluster;
mod documents;
mod elections;
mod events;
mod heartbeats;
mod instances;
mod latches;
mod locks;
mod metrics;
mod overrides;
mod rings;
mod sentinel;
mod sessions;
mod shard_sets;
mod shards;
mod ui;
mod watch;
mod work;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get, post, put};

use crate::Api;

/// Every path that Roster serves.
pub(crate) fn all() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/apps", get(apps::list))
        .route("/v1/apps/{app}", get(apps::read).put(apps::put).delete(apps::delete))
        .route("/v1/apps/{app}/instances", get(instances::list))
        .route(
            "/v1/apps/{app}/instances/{id}",
            get(instances::read)
                .put(instances::register)
                .patch(instances::patch)
                .delete(instances::deregister),
        )
        .route("/v1/apps/{app}/instances/{id}/heartbeat", put(heartbeats::one))
        .route(
            "/v1/apps/{app}/instances/{id}/override",
            get(overrides::read).put(overrides::put).delete(overrides::clear),
        )
        .route("/v1/apps/{app}/documents", get(documents::list))
        .route(
            "/v1/apps/{app}/documents/{name}",
            get(documents::read).put(documents::put).delete(documents::delete),
        )
        .route("/v1/apps/{app}/ring", get(rings::read).put(rings::put).delete(rings::delete))
        .route("/v1/apps/{app}/ring/compact", post(rings::compact))
        .route("/v1/apps/{app}/ring/owners", get(rings::owners).post(rings::owners_of_many))
        .route("/v1/apps/{app}/ring/simulate", post(rings::simulate))
        .route("/v1/instances", get(instances::search))
        .route("/v1/instances:batch", post(batch::batch))
        .route("/v1/heartbeats", post(heartbeats::many))
        .route("/v1/sessions", post(sessions::open))
        .route("/v1/sessions/{session}", get(sessions::read).delete(sessions::close))
        .route("/v1/sessions/{session}/heartbeat", put(heartbeats::session))
        .route("/v1/shards", get(shards::list))
        .route("/v1/shard-sets", get(shard_sets::list))
        .route(
            "/v1/shard-sets/{set}",
            get(shard_sets::read).put(shard_sets::put).delete(shard_sets::delete),
        )
        .route("/v1/shard-sets/{set}/scaling", get(shard_sets::scaling))
        .route("/v1/shard-sets/{set}/plan", post(shard_sets::plan))
        .route("/v1/shard-sets/{set}/release", post(work::release_by_operator))
        .route("/v1/shard-sets/{set}/shards", get(work::shards))
        .route("/v1/shard-sets/{set}/workers", get(work::workers))
        .route("/v1/shard-sets/{set}/workers/{id}", get(work::worker))
        .route("/v1/shard-sets/{set}/workers/{id}/release", post(work::release_by_worker))
        .route("/v1/locks", get(locks::list))
        .route("/v1/locks/{name}", get(locks::read).delete(locks::break_it))
        .route("/v1/locks/{name}/acquire", post(locks::acquire))
        .route("/v1/locks/{name}/release", post(locks::release))
        .route("/v1/locks/{name}/check", get(locks::check))
        .route("/v1/elections", get(elections::list))
        .route("/v1/elections/{name}", get(elections::read).delete(elections::depose))
        .route("/v1/elections/{name}/campaign", post(elections::campaign))
        .route("/v1/elections/{name}/resign", post(elections::resign))
        .route("/v1/elections/{name}/check", get(elections::check))
        .route("/v1/events", get(events::events))
        .route("/v1/changes", get(changes::changes))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/cluster/brake", get(brake::read).put(brake::put).delete(brake::clear))
        .route("/v1/node", get(cluster::node))
        .route("/livez", get(cluster::livez))
        .route("/readyz", get(cluster::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/registry/machine", any(sentinel::beat))
        .route("/app/{app}/machine/remove.json", any(sentinel::remove))
        .route("/app/names.json", get(sentinel::names))
        .route("/app/briefinfos.json", get(sentinel::briefs))
        .route("/app/{app}/machines.json", get(sentinel::machines))
        .route("/version", get(sentinel::version))
        .route("/", get(ui::root))
        .route("/ui", get(ui::redirect))
        .route("/ui/", get(ui::index))
        .route("/ui/{*file}", get(ui::file))
}
