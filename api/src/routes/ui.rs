//! `/ui/`: the dashboard's files, as they are in the folder `ui`. They use the public API like any
//! other client, and nothing here knows what they show.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
    LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};
use twox_hash::XxHash64;

use crate::error::ApiError;
use crate::openapi::parameters::{Cached, DashboardFile};
use crate::openapi::refusals::{INVALID, OVERLOADED, Refused, UNKNOWN_ROUTE};

/// Names of instances are whatever anybody registered. If one ever became markup, this keeps it
/// from running, from loading anything and from sending anything elsewhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

struct File {
    /// Below `/ui/`.
    name: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

macro_rules! files {
    ($($content_type:ident $name:literal,)*) => {
        &[$(File {
            name: $name,
            content_type: $content_type,
            body: include_bytes!(concat!("../../../ui/", $name)),
        }),*]
    };
}

/// Every file there is. A path is looked up here and nowhere else, so none leads out of the folder.
const FILES: &[File] = files![
    HTML "index.html",
    CSS "style.css",
    SVG "icon.svg",
    SCRIPT "main.js",
    SCRIPT "api.js",
    SCRIPT "chart.js",
    SCRIPT "cluster.js",
    SCRIPT "colour.js",
    SCRIPT "dialogs.js",
    SCRIPT "dom.js",
    SCRIPT "events.js",
    SCRIPT "live.js",
    SCRIPT "table.js",
    SCRIPT "pages/app.js",
    SCRIPT "pages/apps.js",
    SCRIPT "pages/cluster.js",
    SCRIPT "pages/events.js",
    SCRIPT "pages/instance.js",
    SCRIPT "pages/overview.js",
    SCRIPT "pages/ring.js",
    SCRIPT "pages/scaling.js",
    SCRIPT "pages/shards.js",
];

/// Leads readers of pages to the dashboard; for others there is nothing here.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "root",
    tag = "dashboard",
    responses(
        (status = 307, description = "The dashboard is at `ui/`."),
        Refused::<{ UNKNOWN_ROUTE | OVERLOADED }>,
    ),
)]
pub(super) async fn root(headers: HeaderMap) -> Result<Response, ApiError> {
    let html = |accept: &HeaderValue| accept.to_str().is_ok_and(|text| text.contains("text/html"));
    if headers.get_all(ACCEPT).iter().any(html) {
        Ok(redirect().await)
    } else {
        Err(ApiError::unknown_route())
    }
}

/// Leads to `/ui/`.
#[utoipa::path(
    get,
    path = "/ui",
    operation_id = "dashboardFolder",
    tag = "dashboard",
    responses(
        (status = 307, description = "The dashboard is at `ui/`."),
        Refused::<{ OVERLOADED }>,
    ),
)]
pub(super) async fn redirect() -> Response {
    let to = [(LOCATION, HeaderValue::from_static("ui/"))];
    (StatusCode::TEMPORARY_REDIRECT, to).into_response()
}

/// The dashboard.
#[utoipa::path(
    get,
    path = "/ui/",
    operation_id = "dashboard",
    tag = "dashboard",
    params(Cached),
    responses(
        (
            status = 200,
            description = "The page.",
            body = String,
            content_type = "text/html",
            headers(("ETag" = String)),
        ),
        (status = 304, description = "The client has it already.", headers(("ETag" = String))),
        Refused::<{ OVERLOADED }>,
    ),
)]
pub(super) async fn index(headers: HeaderMap) -> Result<Response, ApiError> {
    serve("index.html", &headers)
}

/// A file of the dashboard.
#[utoipa::path(
    get,
    path = "/ui/{*file}",
    operation_id = "dashboardFile",
    tag = "dashboard",
    params(DashboardFile, Cached),
    responses(
        (
            status = 200,
            description = "The file.",
            content((String = "text/html"), (String = "text/css"), (String = "text/javascript"), (String = "image/svg+xml")),
            headers(("ETag" = String)),
        ),
        (status = 304, description = "The client has it already.", headers(("ETag" = String))),
        Refused::<{ INVALID | UNKNOWN_ROUTE | OVERLOADED }>,
    ),
)]
pub(super) async fn file(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    serve(&name, &headers)
}

fn serve(name: &str, asked: &HeaderMap) -> Result<Response, ApiError> {
    let file = FILES.iter().find(|file| file.name == name).ok_or_else(ApiError::unknown_route)?;
    let tag = format!("\"{:016x}\"", XxHash64::oneshot(0, file.body));
    let mut response = if has(asked, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.body.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    // Asked for again each time, so that a node's new version is seen at once; the tag saves the body.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(ETAG, tag);
    }
    Ok(response)
}

/// Whether the client has it already. Something on the way may have made its tag a weak one.
pub(super) fn has(asked: &HeaderMap, tag: &str) -> bool {
    let tags = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = tags.flat_map(|tags| tags.split(',')).map(str::trim);
    tags.any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}
