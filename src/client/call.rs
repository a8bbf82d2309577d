//! One request to the cluster, and its way to a node that answers it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Response;
use reqwest::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER,
};
use reqwest::{Method, StatusCode};
use roster_storage::names::Revision;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::error::{Error, Outcome, Problem};
use super::patience::{Limits, Patience};
use super::pauses::Pauses;
use super::tries::Tries;
use super::{Client, endpoints};

/// A longer answer is not read: the largest page that nodes give is smaller.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A problem document is short.
const PROBLEM_BYTES_MAX: usize = 64 * 1024;

pub(super) const MSGPACK: &str = "application/msgpack";

/// Who has a place in a queue and asks without any wait keeps the place and hears that others are ahead.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// How often a node is looked at that lets a call wait.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What a path segment may hold as it is.
const IN_SEGMENTS: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A path of these segments, each percent-encoded: `path(&["v1", "apps", "a/b"])` is
/// `/v1/apps/a%2Fb`.
///
/// # Errors
/// [`Error::Invalid`] for a segment that is empty, `.` or `..`: URLs cannot carry it.
pub fn path(segments: &[&str]) -> Result<String, Error> {
    let mut path = String::new();
    for segment in segments {
        if ["", ".", ".."].contains(segment) {
            return Err(Error::Invalid(format!("{segment:?} cannot stand in the path of a URL")));
        }
        path.push('/');
        path.extend(utf8_percent_encode(segment, IN_SEGMENTS));
    }
    Ok(path)
}

/// A request. It is sent again after an unknown outcome if the API lets it be repeated: GET, and PUT,
/// PATCH and DELETE without a condition; POST only with an idempotency key.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Option<Bytes>,
    repeatable: bool,
    limits: Option<Limits>,
}

impl Call {
    fn new(method: Method, path: String, repeatable: bool) -> Self {
        let (query, headers) = (Vec::new(), HeaderMap::new());
        Self { method, path, query, headers, body: None, repeatable, limits: None }
    }

    /// Reads.
    pub fn get(path: String) -> Self {
        Self::new(Method::GET, path, true)
    }

    /// Puts without a body.
    pub fn put(path: String) -> Self {
        Self::new(Method::PUT, path, true)
    }

    /// A JSON merge patch: what it names is set, so that doing it twice is the same as doing it once.
    pub fn patch(path: String) -> Self {
        Self::new(Method::PATCH, path, true)
    }

    /// Deletes.
    pub fn delete(path: String) -> Self {
        Self::new(Method::DELETE, path, true)
    }

    /// A POST is done at most once per try; with [`Call::once`] at most once at all.
    pub fn post(path: String) -> Self {
        Self::new(Method::POST, path, false)
    }

    /// A query parameter; the same name may be given more than once.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// A JSON body.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not JSON, such as a map with keys that are no text.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, Error> {
        let body = serde_json::to_vec(body)
            .map_err(|e| Error::Invalid(format!("the body cannot be written as JSON: {e}")))?;
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = Some(body.into());
        Ok(self)
    }

    /// Only if the object was last changed at this revision. Not repeated after an unknown outcome:
    /// the second try would be refused because of the first.
    #[must_use]
    pub fn if_unchanged_since(mut self, revision: Revision) -> Self {
        let tag = HeaderValue::try_from(format!("\"r{revision}\""));
        // Digits and quotes are a header value.
        self.headers.extend(tag.ok().map(|tag| (IF_MATCH, tag)));
        self.not_repeatable()
    }

    /// Only if the object is not there yet. Not repeated after an unknown outcome.
    #[must_use]
    pub fn if_absent(mut self) -> Self {
        self.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
        self.not_repeatable()
    }

    /// Makes a POST happen at most once per key, for 10 minutes, so that it may be repeated.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the key cannot be a header's value.
    pub fn once(mut self, key: &str) -> Result<Self, Error> {
        let key = HeaderValue::from_str(key)
            .map_err(|_| Error::Invalid(format!("idempotency key {key:?} is no header value")))?;
        self.headers.insert(HeaderName::from_static("idempotency-key"), key);
        self.repeatable = true;
        Ok(self)
    }

    /// Doing it twice is the same as doing it once.
    pub(crate) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// Doing it twice is not the same as doing it once.
    pub(crate) fn not_repeatable(mut self) -> Self {
        self.repeatable = false;
        self
    }

    pub(super) fn accept(mut self, kind: &'static str) -> Self {
        self.headers.insert(reqwest::header::ACCEPT, HeaderValue::from_static(kind));
        self
    }

    pub(super) fn within(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    fn may_go_on_after(&self, error: &Error) -> bool {
        match error.outcome() {
            Outcome::Nothing => error.is_retryable(),
            Outcome::Unknown => error.is_retryable() && self.repeatable,
        }
    }
}

/// A success.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status, 2xx.
    pub status: u16,
    /// The revision of the answer, if it names one.
    pub revision: Option<Revision>,
    /// As it came, at most 256 MiB.
    pub body: Bytes,
    is_msgpack: bool,
    endpoint: String,
}

impl Answer {
    /// Reads the body.
    ///
    /// # Errors
    /// [`Error::NotRoster`] if it has another shape. A write was done all the same.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|e| self.not_understood(e.to_string()))
    }

    /// Reads the body, which is JSON or, if the answer says so, MessagePack.
    pub(super) fn json_or_msgpack<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self.is_msgpack {
            true => rmp_serde::from_slice(&self.body)
                .map_err(|e| self.not_understood(format!("{e} in its MessagePack"))),
            false => self.json(),
        }
    }

    pub(super) fn not_understood(&self, detail: String) -> Error {
        let endpoint = self.endpoint.clone();
        Error::NotRoster { endpoint, detail, outcome: Outcome::Unknown }
    }
}

impl Client {
    /// Sends a call to one node after the other until one answers it, or says no, or all were asked
    /// and the client's patience is at its end.
    ///
    /// # Errors
    /// A refusal that no other node would change, as it came. After all were tried in vain the most
    /// telling failure, with what came of the other nodes: what a node said comes before what nobody
    /// said. [`Error::outcome`] takes all tries into account.
    pub async fn send(&self, call: Call) -> Result<Answer, Error> {
        let only_reads = call.method == Method::GET;
        let sent = self.send_to_any(call).await;
        sent.map_err(|error| if only_reads { error.of_a_read() } else { error })
    }

    async fn send_to_any(&self, call: Call) -> Result<Answer, Error> {
        let limits = self.limits_of(&call);
        let mut patience = Patience::new(self.endpoints.count(), limits, Instant::now());
        let mut at = self.endpoints.current();
        let mut pauses = Pauses::new(self.endpoints.count(), &self.options);
        let mut tries = Tries::new(self.endpoints.count());
        let mut unknown = false;
        loop {
            let begin = patience.ask(Instant::now(), tries.is_alone(at));
            let error = match self.send_to(at, &call, begin, limits.each).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let goes_on = call.may_go_on_after(&error);
            unknown |= error.outcome() == Outcome::Unknown;
            tries.note(at, &error);
            let error = if unknown { error.after_unknown() } else { error };
            if error.is_retryable() {
                // Also where this call ends: the next one may be better off elsewhere.
                self.endpoints.leave(at);
            }
            if !goes_on {
                return Err(error);
            }
            let pause = pauses.next(error.retry_after());
            if patience.is_over(Instant::now() + pause) {
                let error = tries.most_telling(&self.endpoints, error);
                return Err(if unknown { error.after_unknown() } else { error });
            }
            sleep(pause).await;
            at = self.endpoints.after(at);
        }
    }

    /// Sends a call that a node may leave unanswered for up to `wait`, until something has happened.
    /// `call` makes it with what is left of the wait, which is never nothing if `wait` was something;
    /// it must be such that it may be repeated. The
    /// client's patience begins anew when a node fails that has let it wait. A node that does not even
    /// answer `/livez` meanwhile is left.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub(super) async fn send_waiting(
        &self,
        wait: Duration,
        call: impl Fn(Duration) -> Result<Call, Error>,
    ) -> Result<Answer, Error> {
        let (count, until) = (self.endpoints.count(), Instant::now() + wait);
        let mut patience = Patience::new(count, self.limits(), Instant::now());
        let mut pauses = Pauses::new(count, &self.options);
        let mut at = self.endpoints.current();
        let mut tries = Tries::new(self.endpoints.count());
        let mut unknown = false;
        loop {
            let asked = Instant::now();
            let left = until.saturating_duration_since(asked).max(wait.min(WAIT_MIN));
            let begin = left + patience.ask(asked, tries.is_alone(at));
            let call = call(left)?.repeatable();
            let answered = self.send_to(at, &call, begin, left + self.options.call_timeout);
            let result = tokio::select! {
                result = answered => result,
                silence = self.falls_silent(at) => Err(silence),
            };
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let goes_on = call.may_go_on_after(&error);
            unknown |= error.outcome() == Outcome::Unknown;
            tries.note(at, &error);
            let error = if unknown { error.after_unknown() } else { error };
            if error.is_retryable() {
                self.endpoints.leave(at);
            }
            if !goes_on {
                return Err(error);
            }
            if asked.elapsed() > self.options.patience {
                patience = Patience::new(count, self.limits(), Instant::now());
                pauses.reset();
            }
            let pause = pauses.next(error.retry_after());
            if patience.is_over(Instant::now() + pause) {
                let error = tries.most_telling(&self.endpoints, error);
                return Err(if unknown { error.after_unknown() } else { error });
            }
            sleep(pause).await;
            at = self.endpoints.after(at);
        }
    }

    /// Ends when a node does not answer at all any more, as one that was stopped does not.
    async fn falls_silent(&self, at: usize) -> Error {
        let live = Call::get("/livez".into());
        let limit = self.limits().share;
        loop {
            sleep(LOOK_EVERY).await;
            // Whatever it says, it runs.
            if let Err(error @ Error::NoAnswer { .. }) = self.open_within(limit, at, &live).await {
                return error.after_unknown();
            }
        }
    }

    /// What must not be repeated cannot be given to another node once it was sent, so that it gets
    /// all the time of one node.
    fn limits_of(&self, call: &Call) -> Limits {
        let limits = call.limits.unwrap_or_else(|| self.limits());
        match call.repeatable {
            true => limits,
            false => Limits { share: limits.each, ..limits },
        }
    }

    /// Sends a call to one node, which must begin its answer within `begin` and end it within
    /// `limit`.
    async fn send_to(
        &self,
        at: usize,
        call: &Call,
        begin: Duration,
        limit: Duration,
    ) -> Result<Answer, Error> {
        let endpoint = self.endpoints.get(at);
        let answered = async {
            let response = self.open_within(begin, at, call).await?;
            let status = response.status().as_u16();
            let revision = number(response.headers(), "roster-revision").map(Revision);
            let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let is_msgpack = kind.is_some_and(|kind| kind.starts_with(MSGPACK));
            let body = read(endpoint, response, ANSWER_BYTES_MAX).await?;
            Ok(Answer { status, revision, body, is_msgpack, endpoint: endpoint.to_string() })
        };
        match timeout(limit, answered).await {
            Ok(result) => result,
            Err(_) => Err(no_answer_within(endpoint, limit)),
        }
    }

    /// Sends a call to one node and waits so long for the beginning of its answer, which is a
    /// success.
    pub(super) async fn open_within(
        &self,
        limit: Duration,
        at: usize,
        call: &Call,
    ) -> Result<Response, Error> {
        let late = |_| Err(no_answer_within(self.endpoints.get(at), limit));
        timeout(limit, self.open(at, call)).await.unwrap_or_else(late)
    }

    async fn open(&self, at: usize, call: &Call) -> Result<Response, Error> {
        let endpoint = self.endpoints.get(at);
        let mut request = self
            .http
            .request(call.method.clone(), endpoint.url(&call.path))
            .query(&call.query)
            .headers(call.headers.clone());
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let response = request.send().await.map_err(|e| {
            if e.is_builder() {
                Error::Invalid(format!("this cannot be a request: {e}"))
            } else {
                Error::without_answer(endpoint, &e)
            }
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(endpoint, response).await)
    }
}

fn no_answer_within(endpoint: &endpoints::Endpoint, limit: Duration) -> Error {
    // A share of a limit may have parts of a millisecond, which say nothing to people.
    let limit = Duration::from_millis(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
    Error::NoAnswer {
        endpoint: endpoint.to_string(),
        detail: format!("no answer within {}", humantime::format_duration(limit)),
        outcome: Outcome::Unknown,
    }
}

async fn refusal(endpoint: &endpoints::Endpoint, response: Response) -> Error {
    let status = response.status();
    if status.is_redirection() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Error::NotRoster {
            endpoint: endpoint.to_string(),
            detail: format!("{status}, but no node redirects"),
            outcome: Outcome::Unknown,
        };
    }
    let retry_after = number(response.headers(), RETRY_AFTER.as_str()).map(Duration::from_secs);
    match read(endpoint, response, PROBLEM_BYTES_MAX).await {
        Ok(body) => Error::Refused(Box::new(Problem::parse(status, retry_after, &body))),
        Err(error) => error,
    }
}

async fn read(
    endpoint: &endpoints::Endpoint,
    mut response: Response,
    bytes_max: usize,
) -> Result<Bytes, Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|e| Error::without_answer(endpoint, &e))?
    {
        if body.len() + chunk.len() > bytes_max {
            return Err(Error::NotRoster {
                endpoint: endpoint.to_string(),
                detail: format!("the answer is over the limit of {bytes_max} bytes"),
                outcome: Outcome::Unknown,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_segment_of_a_path_stays_one_segment() {
        let made = path(&["v1", "apps", "a/b c%", "10.0.0.1:8719", "应"]).expect("a path");
        assert_eq!(made, "/v1/apps/a%2Fb%20c%25/10.0.0.1%3A8719/%E5%BA%94");
        for wrong in ["", ".", ".."] {
            assert!(matches!(path(&["v1", wrong]), Err(Error::Invalid(_))), "{wrong:?}");
        }
    }
}
