//! What clients see: HTTP in, HTTP out.
//!
//! A handler translates: it parses a request into domain types (errors become a 4xx here), asks the
//! node one question through [`registry::Registry`], and renders the answer. This crate knows no
//! Raft handle, no disk, no tasks and no peers.
//!
//! [`router`] is the public face. `wire` holds the shapes of JSON, `routes` one file per resource,
//! `error` alone knows status codes, and `conventions` puts the headers on every answer and the
//! body on every problem.

mod answer;
mod aside;
pub mod beats;
mod comeback;
mod conventions;
mod error;
mod extract;
mod filter;
mod lists;
mod openapi;
pub mod options;
mod pace;
mod poll;
pub mod registry;
mod reports;
mod routes;
pub mod traffic;
mod watching;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

pub use extract::{ClientAddress, Encoding};
pub use options::{ApiOptions, SentinelSettings};

use comeback::Comebacks;
use conventions::RequestIds;
use lists::{ListCache, Pins};
use registry::Registry;
use reports::Reports;

/// All routes, to be served on any listener. Never checks `Host`: Sentinel's transports send
/// whatever name their resolver gives them.
pub fn router(registry: Arc<dyn Registry>, options: ApiOptions) -> axum::Router {
    let api = Arc::new(Api {
        ids: RequestIds::new(registry.glance().node),
        pins: Pins::new(registry.glance().node),
        lists: ListCache::default(),
        comebacks: Comebacks::new(),
        watches_begun: AtomicU32::new(0),
        reports: Reports::default(),
        registry,
        options,
    });
    conventions::around(routes::all().into(), api)
}

/// What a client is told whose connection is one too many, in HTTP/1: `overloaded`, and that it is
/// closed. `limit`: how many are open. Each call tells the next one when to come back.
pub fn too_many_connections(registry: Arc<dyn Registry>, limit: usize) -> impl Fn() -> Vec<u8> {
    let comebacks = Comebacks::new();
    move || conventions::too_many_connections(&*registry, limit, &comebacks)
}

/// What handlers share.
struct Api {
    registry: Arc<dyn Registry>,
    options: ApiOptions,
    lists: ListCache,
    /// Wraps around.
    watches_begun: AtomicU32,
    pins: Pins,
    ids: RequestIds,
    comebacks: Comebacks,
    reports: Reports,
}

/// The state as handlers take it.
type Shared = axum::extract::State<Arc<Api>>;
