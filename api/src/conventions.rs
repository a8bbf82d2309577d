//! What every answer carries: the node, its term, the revision and the request's id; and the body
//! of every problem. One hand-written layer, since each heartbeat passes through it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use roster_storage::names::NodeId;
use tower::{Layer, Service};

use crate::Api;
use crate::comeback::Comebacks;
use crate::error::ApiError;
use crate::registry::{Registry, Unavailable};

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
        Around { inner, api: self.0.clone() }
    }
}

#[derive(Clone)]
struct Around<S> {
    inner: S,
    api: Arc<Api>,
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
        let request_id = self.api.ids.of(&request);
        Answering { inner: self.inner.call(request), request_id, api: self.api.clone() }
    }
}

struct Answering<F> {
    inner: F,
    request_id: HeaderValue,
    api: Arc<Api>,
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response, E>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.inner).poll(context))?;
        finish(&mut response, &self.request_id, &self.api);
        Poll::Ready(Ok(response))
    }
}

fn finish(response: &mut Response, request_id: &HeaderValue, api: &Api) {
    let glance = api.registry.glance();
    let error = response.extensions_mut().remove::<ApiError>();
    let decided_at = error.as_ref().and_then(ApiError::revision).unwrap_or(glance.applied);
    let headers = response.headers_mut();
    headers.entry(REVISION).or_insert_with(|| decided_at.0.into());
    headers.insert(NODE, glance.node.into());
    headers.insert(TERM, glance.term.into());
    headers.insert(REQUEST_ID, request_id.clone());
    let Some(error) = error else { return };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if error.passes() {
        headers.insert(RETRY_AFTER, api.comebacks.next().into());
    }
    let body = error.body(request_id.to_str().unwrap_or_default(), &glance);
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
