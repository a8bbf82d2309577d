//! The cluster, this node, and whether it lives and serves.

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, ProblemDocument};
use crate::extract::Params;
use crate::openapi::parameters::Verbose;
use crate::openapi::refusals::{ANY, INVALID, OVERLOADED, Refused, UNKNOWN_FIELD};
use crate::registry::{Check, Consistency};
use crate::wire::cluster::{ClusterView, NodeView};

/// The cluster as this node sees it, without a leader too.
#[utoipa::path(
    get,
    path = "/v1/cluster",
    operation_id = "readCluster",
    tag = "cluster",
    responses(
        (
            status = 200,
            description = "The cluster.",
            body = ClusterView,
            headers(("Roster-Consistency" = String)),
        ),
        Refused::<{ ANY }>,
    ),
)]
pub(super) async fn cluster(State(api): Shared, params: Params) -> Answered {
    params.end()?;
    let status = api.registry.cluster().await;
    let version = api.registry.read(Consistency::Stale, None).await.ok();
    let catalog = version.as_ref().map(|version| &version.catalog);
    let view = ClusterView::new(status, catalog, api.registry.brake_settings());
    Ok(Answer::json(&view).read(Consistency::Stale))
}

/// This node alone, without a leader too.
#[utoipa::path(
    get,
    path = "/v1/node",
    operation_id = "readNode",
    tag = "cluster",
    responses(
        (
            status = 200,
            description = "The node.",
            body = NodeView,
            headers(("Roster-Consistency" = String)),
        ),
        Refused::<{ ANY }>,
    ),
)]
pub(super) async fn node(State(api): Shared, params: Params) -> Answered {
    params.end()?;
    let status = api.registry.node();
    Ok(Answer::json(&NodeView::from(status)).read(Consistency::Stale))
}

/// Alive is who answers.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    tag = "health",
    responses(
        (
            status = 200,
            description = "It is alive.",
            body = String,
            content_type = "text/plain",
        ),
        Refused::<{ OVERLOADED }>,
    ),
)]
pub(super) async fn livez() -> Answer {
    Answer::text("ok\n")
}

/// Whether this node serves.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "health",
    params(Verbose),
    responses(
        (status = 200, description = "It serves.", body = String, content_type = "text/plain"),
        (
            status = 503,
            description = "It does not serve, or too many connections are open. With `verbose` the checks, as text.",
            content((ProblemDocument = "application/problem+json"), (String = "text/plain")),
        ),
        Refused::<{ UNKNOWN_FIELD | INVALID }>,
    ),
)]
pub(super) async fn readyz(State(api): Shared, mut params: Params) -> Result<Response, ApiError> {
    let verbose = params.text("verbose").is_some();
    params.end()?;
    let status = api.registry.node();
    let listing = listing(&status.checks);
    match (status.is_ready(), verbose) {
        (true, true) => Ok(Answer::text(listing).into_response()),
        (true, false) => Ok(Answer::text("ok\n").into_response()),
        (false, true) => {
            let not_ready = ApiError::not_ready("").status();
            Ok((not_ready, Answer::text(listing)).into_response())
        }
        (false, false) => Err(ApiError::not_ready(failures(&status.checks))),
    }
}

fn listing(checks: &[Check]) -> String {
    checks.iter().fold(String::new(), |mut text, check| {
        // Writing to a string does not fail.
        let _ = match &check.result {
            Ok(()) => writeln!(text, "[+] {} ok", check.name),
            Err(why) => writeln!(text, "[-] {}: {why}", check.name),
        };
        text
    })
}

fn failures(checks: &[Check]) -> String {
    let failed = checks.iter().filter_map(|check| {
        check.result.as_ref().err().map(|why| format!("{}: {why}", check.name))
    });
    failed.collect::<Vec<_>>().join("; ")
}
