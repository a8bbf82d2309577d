//! What every answer carries: the node, its term, the revision and the request's id; and the body
//! of every problem. It counts requests, and gives the lines of the log that are written for one its id.
//! One hand-written layer, since each heartbeat passes through it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use roster_storage::names::NodeId;
use tower::{Layer, Service};
use tracing::Span;

use crate::Api;
use crate::comeback::Comebacks;
use crate::error::ApiError;
use crate::registry::{Registry, Unavailable};
use crate::traffic::{Answered, AtOnePlace, Begun};

pub(crate) const REVISION: HeaderName = HeaderName::from_static("roster-revision");
pub(crate) const CONSISTENCY: HeaderName = HeaderName::from_static("roster-consistency");
const NODE: HeaderName = HeaderName::from_static("roster-node");
const TERM: HeaderName = HeaderName::from_static("roster-term");
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// A client's own request id is echoed if it is no longer than this, and printable.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Puts the conventions around all routes.
pub(crate) fn around(routes: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    routes
        .fallback(async || ApiError::unknown_route())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(Conventions(api.clone()))
        .with_state(api)
}

#[derive(Clone)]
struct Conventions(Arc<Api>);

impl<S> Layer<S> for Conventions {
    type Service = Around<S>;

    fn layer(&self, inner: S) -> Around<S> {
        // Called once for each place in the router.
        let place = self.0.options.traffic.at_one_place();
        Around { inner, here: Arc::new(Here { api: self.0.clone(), place }) }
    }
}

/// What all requests share that come to one place in the router.
struct Here {
    api: Arc<Api>,
    place: AtOnePlace,
}

#[derive(Clone)]
struct Around<S> {
    inner: S,
    here: Arc<Here>,
}

impl<S> Service<Request> for Around<S>
where
    S: Service<Request, Response = Response>,
    S::Future: Unpin,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let here = self.here.clone();
        let request_id = here.api.ids.of(&request);
        let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let begun = here.place.begin(request.method(), template);
        let span = span(&here.place, &request_id);
        let inner = span.in_scope(|| self.inner.call(request));
        Answering { inner, request_id, here, begun: Some(begun), span }
    }
}

/// What every line carries that is written while a request is served. Heartbeats have it only where they
/// have a line of their own: else it would cost each of them more than its renewal does.
fn span(place: &AtOnePlace, request_id: &HeaderValue) -> Span {
    let id = || request_id.to_str().unwrap_or_default();
    match place.is_of_heartbeats() {
        true => tracing::debug_span!(target: ACCESS, "request", request_id = id()),
        false => tracing::info_span!(target: ACCESS, "request", request_id = id()),
    }
}

/// Names the lines of single requests for `--log`.
const ACCESS: &str = "roster::access";

struct Answering<F> {
    inner: F,
    request_id: HeaderValue,
    here: Arc<Here>,
    /// Until it is answered.
    begun: Option<Begun>,
    span: Span,
}

impl<F> Drop for Answering<F> {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            self.here.place.end(begun, Answered::HungUp);
        }
    }
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { inner, request_id, here, begun, span } = &mut *self;
        let polled = span.in_scope(|| Pin::new(inner).poll(context));
        let mut response = ready!(polled)?;
        if let Some(begun) = begun.take() {
            finish(&mut response, request_id, begun, here);
        }
        Poll::Ready(Ok(response))
    }
}

fn finish(response: &mut Response, request_id: &HeaderValue, begun: Begun, here: &Here) {
    let Here { api, place } = here;
    let took = place.end(begun, Answered::of(response.status()));
    let glance = api.registry.glance();
    let error = response.extensions_mut().remove::<ApiError>();
    let decided_at = error.as_ref().and_then(ApiError::revision).unwrap_or(glance.applied);
    let headers = response.headers_mut();
    headers.entry(REVISION).or_insert_with(|| decided_at.0.into());
    headers.insert(NODE, glance.node.into());
    headers.insert(TERM, glance.term.into());
    headers.insert(REQUEST_ID, request_id.clone());
    let id = || request_id.to_str().unwrap_or_default();
    tracing::debug!(
        target: ACCESS,
        request_id = id(),
        method = begun.method(),
        route = place.route(),
        status = response.status().as_u16(),
        seconds = took.as_secs_f64(),
        revision = decided_at.0,
        "answered"
    );
    let Some(error) = error else { return };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if error.passes() {
        headers.insert(RETRY_AFTER, api.comebacks.next().into());
    }
    api.reports.tell(&error, id(), place.route(), &glance);
    let body = error.body(id(), &glance);
    *response.body_mut() = Body::from(body);
}

/// What a client is told whose connection is one too many: a whole answer of HTTP/1, after which it is
/// closed.
pub(crate) fn too_many_connections(
    registry: &dyn Registry,
    limit: usize,
    comebacks: &Comebacks,
) -> Vec<u8> {
    let why = format!(
        "{limit} connections are open to this node, its limit (--connections); try another node or \
         later"
    );
    let error = ApiError::from(Unavailable::Overloaded(why));
    let (status, glance) = (error.status(), registry.glance());
    let body = error.body("-", &glance);
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\nroster-node: {}\r\n\
         retry-after: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        glance.node,
        comebacks.next(),
        body.len()
    );
    [head.into_bytes(), body].concat()
}

/// Ids for requests that bring none: the node, when it started, and a count. No randomness needed.
pub(crate) struct RequestIds {
    prefix: String,
    count: AtomicU64,
}

impl RequestIds {
    pub fn new(node: NodeId) -> Self {
        Self { prefix: format!("{node}-{:x}-", unix_ms()), count: AtomicU64::new(1) }
    }

    fn of(&self, request: &Request) -> HeaderValue {
        match request.headers().get(REQUEST_ID) {
            Some(id) if is_sane(id.as_bytes()) => id.clone(),
            Some(_) | None => self.next(),
        }
    }

    fn next(&self) -> HeaderValue {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        HeaderValue::try_from(format!("{}{count}", self.prefix))
            .unwrap_or(HeaderValue::from_static("-"))
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The wall clock, for display and for names that should differ between starts.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
