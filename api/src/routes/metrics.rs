//! What a node tells those who watch it, in the form of Prometheus.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

use crate::Shared;
use crate::error::ApiError;
use crate::extract::Params;
use crate::openapi::refusals::{ANY, NOT_READY, Refused, TIMEOUT};
use crate::registry::Exposition;

/// What this node counts and measures, for Prometheus; without a leader and while it loads too.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "readMetrics",
    tag = "health",
    responses(
        (
            status = 200,
            description = "All metrics: as OpenMetrics, or as the older text to whom takes nothing else.",
            content(
                (String = "application/openmetrics-text; version=1.0.0; charset=utf-8"),
                (String = "text/plain; version=0.0.4; charset=utf-8"),
            ),
        ),
        Refused::<{ ANY | NOT_READY | TIMEOUT }>,
    ),
)]
// Works without a leader and while the node loads. Made aside: it looks at many things.
pub(super) async fn metrics(
    State(api): Shared,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    params.end()?;
    let form = wanted(&headers);
    let registry = api.registry.clone();
    let text = api.aside_in_turn(async move { registry.metrics(form) }).await?;
    Ok(([(CONTENT_TYPE, form.content_type())], text).into_response())
}

/// OpenMetrics, but to who asks for the older text only.
fn wanted(headers: &HeaderMap) -> Exposition {
    let accepts = |word: &str| {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        accepted.into_iter().any(|value| value.contains(word))
    };
    match accepts("text/plain") && !accepts("application/openmetrics-text") {
        true => Exposition::Text,
        false => Exposition::OpenMetrics,
    }
}
