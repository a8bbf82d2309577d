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
mod openapi;
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

use axum::handler::Handler;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::Api;

/// A handler for whatever method comes, of which the document describes those that clients use.
fn any_method<H, T>(
    (schemas, paths, methods): UtoipaMethodRouter<Arc<Api>>,
    handler: H,
) -> UtoipaMethodRouter<Arc<Api>>
where
    H: Handler<T, Arc<Api>>,
    T: 'static,
{
    (schemas, paths, methods.fallback(handler))
}

/// Every path that Roster serves, each with what the document says of it: a route cannot be without.
pub(crate) fn all() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(apps::list))
        .routes(routes!(apps::read, apps::put, apps::delete))
        .routes(routes!(instances::list))
        .routes(routes!(
            instances::register,
            instances::read,
            instances::patch,
            instances::deregister
        ))
        .routes(routes!(heartbeats::one))
        .routes(routes!(overrides::read, overrides::put, overrides::clear))
        .routes(routes!(documents::list))
        .routes(routes!(documents::read, documents::put, documents::delete))
        .routes(routes!(rings::read, rings::put, rings::delete))
        .routes(routes!(rings::compact))
        .routes(routes!(rings::owners, rings::owners_of_many))
        .routes(routes!(rings::simulate))
        .routes(routes!(instances::search))
        .routes(routes!(batch::batch))
        .routes(routes!(heartbeats::many))
        .routes(routes!(sessions::open))
        .routes(routes!(sessions::read, sessions::close))
        .routes(routes!(heartbeats::session))
        .routes(routes!(shards::list))
        .routes(routes!(shard_sets::list))
        .routes(routes!(shard_sets::read, shard_sets::put, shard_sets::delete))
        .routes(routes!(shard_sets::scaling))
        .routes(routes!(shard_sets::plan))
        .routes(routes!(work::release_by_operator))
        .routes(routes!(work::shards))
        .routes(routes!(work::workers))
        .routes(routes!(work::worker))
        .routes(routes!(work::release_by_worker))
        .routes(routes!(locks::list))
        .routes(routes!(locks::read, locks::break_it))
        .routes(routes!(locks::acquire))
        .routes(routes!(locks::release))
        .routes(routes!(locks::check))
        .routes(routes!(elections::list))
        .routes(routes!(elections::read, elections::depose))
        .routes(routes!(elections::campaign))
        .routes(routes!(elections::resign))
        .routes(routes!(elections::check))
        .routes(routes!(events::events))
        .routes(routes!(changes::changes))
        .routes(routes!(watch::watch))
        .routes(routes!(cluster::cluster))
        .routes(routes!(brake::read, brake::put, brake::clear))
        .routes(routes!(cluster::node))
        .routes(routes!(cluster::livez))
        .routes(routes!(cluster::readyz))
        .routes(routes!(metrics::metrics))
        .routes(any_method(routes!(sentinel::beat), sentinel::beat))
        .routes(any_method(routes!(sentinel::remove), sentinel::remove))
        .routes(routes!(sentinel::names))
        .routes(routes!(sentinel::briefs))
        .routes(routes!(sentinel::machines))
        .routes(routes!(sentinel::version))
        .routes(routes!(openapi::document))
        .routes(routes!(ui::root))
        .routes(routes!(ui::redirect))
        .routes(routes!(ui::index))
        .routes(routes!(ui::file))
}
