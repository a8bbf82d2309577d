//! `/openapi.json`: what this binary serves.

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue};
use http::{HeaderMap, StatusCode};

use super::ui::has;
use crate::openapi::DOCUMENT;
use crate::openapi::parameters::Cached;
use crate::openapi::refusals::{OVERLOADED, Refused};

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "readOpenApi",
    tag = "cluster",
    params(Cached),
    responses(
        (status = 200, description = "The document.", body = Value, headers(("ETag" = String))),
        (status = 304, description = "The client has it already.", headers(("ETag" = String))),
        Refused::<{ OVERLOADED }>,
    ),
)]
pub(super) async fn document(asked: HeaderMap) -> Response {
    let mut response = if has(&asked, &DOCUMENT.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        DOCUMENT.json.clone().into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::try_from(&DOCUMENT.tag) {
        headers.insert(ETAG, tag);
    }
    response
}
