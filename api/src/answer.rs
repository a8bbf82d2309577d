//! A success, on its way to become a response.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue};
use roster_storage::names::Revision;
use serde::Serialize;

use crate::conventions::{CONSISTENCY, REVISION};
use crate::error::ApiError;
use crate::extract::Encoding;
use crate::registry::Consistency;
use crate::wire::event::Format;

pub(crate) type Answered = Result<Answer, ApiError>;

pub(crate) struct Answer(Response);

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const MSGPACK: HeaderValue = HeaderValue::from_static("application/msgpack");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

impl Answer {
    fn new(content_type: HeaderValue, body: Body) -> Self {
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        Self(response)
    }

    /// 200 with JSON. Our shapes have text for keys and no floats but finite ones, so they encode.
    pub fn json(value: &impl Serialize) -> Self {
        Self::json_body(Body::from(serde_json::to_vec(value).unwrap_or_default()))
    }

    pub fn json_body(body: Body) -> Self {
        Self::new(JSON, body)
    }

    /// 200 as it was asked for.
    pub fn encoded(encoding: Encoding, value: &impl Serialize) -> Self {
        Self::encoded_body(encoding, encoding.write(value).into())
    }

    /// 200 with what is encoded already.
    pub fn encoded_body(encoding: Encoding, body: Body) -> Self {
        match encoding {
            Encoding::Json => Self::new(JSON, body),
            Encoding::Msgpack => Self::new(MSGPACK, body),
        }
    }

    /// A body without an end, that nobody on the way may keep or hold back.
    pub fn stream(format: Format, body: Body) -> Self {
        let content_type = match format {
            Format::Sse => HeaderValue::from_static("text/event-stream"),
            Format::Lines => HeaderValue::from_static("application/x-ndjson"),
        };
        let mut answer = Self::new(content_type, body);
        let headers = answer.0.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        answer
    }

    pub fn text(text: impl Into<Body>) -> Self {
        Self::new(TEXT, text.into())
    }

    /// 201 if something was made.
    pub fn created(mut self, created: bool) -> Self {
        if created {
            *self.0.status_mut() = StatusCode::CREATED;
        }
        self
    }

    /// The revision of this answer.
    pub fn at(mut self, revision: Revision) -> Self {
        self.0.headers_mut().insert(REVISION, revision.0.into());
        self
    }

    /// How fresh the read was.
    pub fn read(mut self, consistency: Consistency) -> Self {
        let word = HeaderValue::from_static(consistency.word());
        self.0.headers_mut().insert(CONSISTENCY, word);
        self
    }

    /// The revision of the object's own last change, which `If-Match` takes.
    pub fn etag(mut self, revision: Revision) -> Self {
        if let Ok(tag) = HeaderValue::try_from(format!("\"r{revision}\"")) {
            self.0.headers_mut().insert(ETAG, tag);
        }
        self
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        self.0
    }
}
