//! What handlers take out of a request: names from the path, parameters, conditions, bodies. All
//! that can be wrong with them becomes a 4xx that names the field.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::{percent_decode, percent_decode_str};
use roster_storage::command::{Condition, Request as Once};
use roster_storage::limits::DOCUMENT_BYTES_MAX;
use roster_storage::names::{
    AppName, DocumentName, IdempotencyKey, InstanceId, InstanceKey, InvalidName, LatchName,
    Revision, SessionId, ShardSetName,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smol_str::{SmolStr, ToSmolStr};
use twox_hash::XxHash64;

use crate::Api;
use crate::error::{ApiError, Invalid};
use crate::registry::Consistency;
use crate::wire::document::DocumentBody;
use crate::wire::scalar::short_text;

/// `{app}` of the path.
pub(crate) struct App(pub AppName);

/// `{app}` and `{id}` of the path.
pub(crate) struct Key(pub InstanceKey);

/// `{app}` and `{name}` of the path.
#[derive(Clone)]
pub(crate) struct DocumentKey {
    pub app: AppName,
    pub name: DocumentName,
}

/// `{session}` of the path.
pub(crate) struct Session(pub SessionId);

/// `{set}` of the path.
pub(crate) struct Set(pub ShardSetName);

/// `{name}` of the path: of a lock or of an election.
pub(crate) struct Latch(pub LatchName);

/// `{set}` and `{id}` of the path: a worker of a shard set.
pub(crate) struct SetWorker {
    pub set: ShardSetName,
    pub worker: InstanceId,
}

impl<S: Send + Sync> FromRequestParts<S> for App {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(app) =
            Path::<SmolStr>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(AppName::new(app).map_err(Invalid::name("app"))?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((app, id)) =
            Path::<(SmolStr, SmolStr)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(InstanceKey {
            app: AppName::new(app).map_err(Invalid::name("app"))?,
            id: InstanceId::new(id).map_err(Invalid::name("id"))?,
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DocumentKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((app, name)) =
            Path::<(SmolStr, SmolStr)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self {
            app: AppName::new(app).map_err(Invalid::name("app"))?,
            name: DocumentName::new(name).map_err(Invalid::name("name"))?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(session) =
            Path::<SmolStr>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(session.parse().map_err(Invalid::name("session"))?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Set {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(set) =
            Path::<SmolStr>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(ShardSetName::new(set).map_err(Invalid::name("set"))?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Latch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(name) =
            Path::<SmolStr>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self(LatchName::new(name).map_err(Invalid::name("name"))?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SetWorker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((set, worker)) =
            Path::<(SmolStr, SmolStr)>::from_request_parts(parts, state).await.map_err(bad_path)?;
        Ok(Self {
            set: ShardSetName::new(set).map_err(Invalid::name("set"))?,
            worker: InstanceId::new(worker).map_err(Invalid::name("id"))?,
        })
    }
}

fn bad_path(rejection: PathRejection) -> ApiError {
    if let PathRejection::FailedToDeserializePathParams(failed) = &rejection
        && let ErrorKind::InvalidUtf8InPathParam { key } = failed.kind()
    {
        return Invalid::new(key.clone(), "is not UTF-8").into();
    }
    Invalid::new("path", rejection.body_text()).into()
}

/// The query's parameters. A handler takes those it knows and then calls [`Params::end`], so that
/// a typing mistake is not silence.
pub(crate) struct Params {
    /// What nobody took yet.
    left: Vec<(String, String)>,
    /// The same for those whose value may be any bytes.
    left_bytes: Vec<(String, Vec<u8>)>,
    taken: Vec<String>,
}

/// Whether a name may stand in a code. One that is known is such a word, and others come from anybody.
fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Parameters whose value need not be text: the keys that a ring spreads.
const OF_BYTES: [&str; 1] = ["key"];

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl Params {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut left: Vec<(String, String)> = Vec::new();
        let mut left_bytes: Vec<(String, Vec<u8>)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = form_text(name).ok_or_else(|| Invalid::new("query", "is not UTF-8"))?;
            if OF_BYTES.contains(&&*name) {
                left_bytes.push((name.into_owned(), form_bytes(value.as_bytes())));
                continue;
            }
            let Some(value) = form_text(value) else {
                let field = if is_word(&name) { name.into_owned() } else { "query".to_owned() };
                return Err(Invalid::new(field, "is not UTF-8").into());
            };
            left.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { left, left_bytes, taken: Vec::new() })
    }

    /// The bytes of a parameter that need not be text.
    pub fn bytes(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.left_bytes.iter().position(|(known, _)| known == name)?;
        let (name, value) = self.left_bytes.remove(at);
        self.taken.push(name);
        Some(value)
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        let at = self.left.iter().position(|(known, _)| known == name)?;
        let (name, value) = self.left.remove(at);
        self.taken.push(name);
        Some(value)
    }

    /// All values of a parameter that may come several times.
    pub fn all(&mut self, name: &str) -> Vec<String> {
        let taken = self.left.extract_if(.., |(known, _)| known == name);
        taken.map(|(_, value)| value).collect()
    }

    pub fn number(&mut self, name: &'static str) -> Result<Option<u64>, Invalid> {
        let not_a_number = |_| Invalid::new(name, "is not a number");
        self.text(name).map(|text| text.parse().map_err(not_a_number)).transpose()
    }

    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, Invalid> {
        match self.text(name).as_deref() {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(Invalid::new(name, "must be true or false")),
        }
    }

    /// How to read: `?consistency=` and `?min_revision=`.
    pub fn reading(&mut self) -> Result<Reading, Invalid> {
        let consistency = match self.text("consistency").as_deref() {
            None | Some("linearizable") => Consistency::Linearizable,
            Some("stale") => Consistency::Stale,
            Some(_) => {
                return Err(Invalid::new("consistency", "must be linearizable or stale"));
            }
        };
        let min_revision = self.number("min_revision")?.map(Revision);
        Ok(Reading { consistency, min_revision })
    }

    /// A parameter that is a name.
    pub fn name<N>(
        &mut self,
        field: &'static str,
        name: impl Fn(String) -> Result<N, InvalidName>,
    ) -> Result<Option<N>, Invalid> {
        self.text(field).map(name).transpose().map_err(Invalid::name(field))
    }

    /// Who makes a change, for people: `?by=`, else the caller.
    pub fn by(&mut self, caller: Caller) -> Result<SmolStr, Invalid> {
        match self.text("by") {
            None => Ok(caller.0),
            Some(by) if by.is_empty() => Err(Invalid::new("by", "must not be empty")),
            Some(by) => short_text("by", by.into()),
        }
    }

    /// All parameters must have been taken.
    pub fn end(self) -> Result<(), ApiError> {
        let names = self.left.into_iter().map(|(name, _)| name);
        let mut names = names.chain(self.left_bytes.into_iter().map(|(name, _)| name));
        match names.next() {
            None => Ok(()),
            Some(name) if self.taken.contains(&name) => {
                Err(Invalid::new(name, "is there twice").into())
            }
            Some(name) => Err(ApiError::unknown_parameter(name)),
        }
    }
}

/// The address that a request came from. Whoever serves the router puts it into the extensions of
/// each request; without it the history tells `unknown` where a client does not name itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Who asks, if it does not name itself: the address, or `unknown`.
pub(crate) struct Caller(SmolStr);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(match parts.extensions.get::<ClientAddress>() {
            Some(ClientAddress(address)) => address.to_canonical().to_smolstr(),
            None => SmolStr::new_static("unknown"),
        }))
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    pub consistency: Consistency,
    pub min_revision: Option<Revision>,
}

/// Text as forms and queries write it: `+` is a space. `None` if it is not UTF-8.
pub(crate) fn form_text(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains(['+', '%']) {
        return Some(Cow::Borrowed(raw));
    }
    let spaced = raw.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()))
}

/// Bytes as forms and queries write them: `+` is a space.
fn form_bytes(raw: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = raw.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_decode(&spaced).collect()
}

/// The pairs of a form or a query, as forgiving as a servlet container: what is not UTF-8 is
/// replaced.
pub(crate) fn form_pairs(raw: &[u8]) -> impl Iterator<Item = (String, String)> + '_ {
    let text = |part: &[u8]| String::from_utf8_lossy(&form_bytes(part)).into_owned();
    raw.split(|b| *b == b'&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (text(&pair[..end]), text(pair.get(end + 1..).unwrap_or_default()))
    })
}

/// `If-None-Match: *` or `If-Match: "r<revision>"`.
pub(crate) struct When(pub Condition);

impl<S: Send + Sync> FromRequestParts<S> for When {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        condition(&parts.headers).map(Self).map_err(ApiError::from)
    }
}

fn condition(headers: &HeaderMap) -> Result<Condition, Invalid> {
    match (headers.get(IF_NONE_MATCH), headers.get(IF_MATCH)) {
        (None, None) => Ok(Condition::Any),
        (Some(_), Some(_)) => Err(Invalid::new("if-match", "and If-None-Match exclude each other")),
        (Some(star), None) if star == "*" => Ok(Condition::Absent),
        (Some(_), None) => Err(Invalid::new("if-none-match", "can only be *")),
        (None, Some(tag)) => tag
            .to_str()
            .ok()
            .and_then(|tag| tag.strip_prefix("\"r")?.strip_suffix('"')?.parse().ok())
            .map(Condition::Unchanged)
            .ok_or_else(|| {
                Invalid::new("if-match", "must be an ETag of Roster's: \"r<revision>\"")
            }),
    }
}

/// For writes that take no condition: one that is given must not be ignored.
pub(crate) struct Unconditional;

impl<S: Send + Sync> FromRequestParts<S> for Unconditional {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        for name in [IF_MATCH, IF_NONE_MATCH] {
            if parts.headers.contains_key(&name) {
                return Err(Invalid::new(name.as_str().to_owned(), "is not taken here").into());
            }
        }
        Ok(Self)
    }
}

/// How a body is written, where it can be either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    Json,
    Msgpack,
}

impl Encoding {
    /// Our shapes have text for keys and no floats but finite ones, so they encode.
    pub(crate) fn write(self, value: &impl Serialize) -> Bytes {
        match self {
            Self::Json => serde_json::to_vec(value).unwrap_or_default().into(),
            Self::Msgpack => rmp_serde::to_vec_named(value).unwrap_or_default().into(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Encoding {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(encoding(&parts.headers))
    }
}

/// As `Accept` names it, else like the body.
fn encoding(headers: &HeaderMap) -> Encoding {
    let accepts = |wanted: fn(&str) -> bool| {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| wanted(essence(value)))
    };
    match (accepts(is_msgpack), accepts(is_json), kind_of(headers)) {
        (true, ..) | (false, false, Kind::Msgpack) => Encoding::Msgpack,
        (false, true, _) | (false, false, Kind::Json | Kind::Form | Kind::Other) => Encoding::Json,
    }
}

/// A request's body, within the limit, with what tells how to read it.
pub(crate) struct Content {
    pub bytes: Bytes,
    kind: Kind,
    path: String,
    idempotency_key: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Msgpack,
    Form,
    Other,
}

impl FromRequest<Arc<Api>> for Content {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, ApiError> {
        let kind = kind_of(request.headers());
        let key = request.headers().get("idempotency-key").map(|key| key.as_bytes().to_vec());
        // Only what is made at most once needs to know where it was sent.
        let path = key.as_ref().map(|_| request.uri().to_string()).unwrap_or_default();
        let bytes = read(request.into_body(), api.options.body_bytes_max).await?;
        Ok(Self { bytes, kind, path, idempotency_key: key })
    }
}

async fn read(body: axum::body::Body, limit: usize) -> Result<Bytes, ApiError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = || ApiError::too_large(format!("the body is over the limit of {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(e) => Err(ApiError::malformed(format!("the body did not arrive: {e}"))),
    }
}

fn kind_of(headers: &HeaderMap) -> Kind {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Kind::Json };
    let essence = essence(value.to_str().unwrap_or("?"));
    if is_json(essence) {
        Kind::Json
    } else if is_msgpack(essence) {
        Kind::Msgpack
    } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        Kind::Form
    } else {
        Kind::Other
    }
}

/// A media type without its parameters.
fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

fn is_json(essence: &str) -> bool {
    essence.eq_ignore_ascii_case("application/json")
        || essence.to_ascii_lowercase().ends_with("+json")
}

fn is_msgpack(essence: &str) -> bool {
    ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

impl Content {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How the body is written, where it can be either.
    pub fn encoding(&self) -> Result<Encoding, ApiError> {
        match self.kind {
            Kind::Json => Ok(Encoding::Json),
            Kind::Msgpack => Ok(Encoding::Msgpack),
            Kind::Form | Kind::Other => {
                Err(ApiError::content_type("application/json or application/msgpack"))
            }
        }
    }

    /// A form's pairs, as they stand there.
    pub fn form(&self) -> &[u8] {
        if self.kind == Kind::Form { &self.bytes } else { b"" }
    }

    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, ApiError> {
        match self.kind {
            Kind::Json => from_json(&self.bytes),
            Kind::Msgpack | Kind::Form | Kind::Other => {
                Err(ApiError::content_type("application/json"))
            }
        }
    }

    /// JSON of this shape; `None` whatever is wrong with it.
    pub fn json_if_well_written<'a, T: Deserialize<'a>>(&'a self) -> Option<T> {
        (self.kind == Kind::Json).then(|| serde_json::from_slice(&self.bytes).ok()).flatten()
    }

    /// A body that is itself the value, of whatever kind: a document.
    pub fn document(&self) -> Result<DocumentBody, ApiError> {
        if self.kind != Kind::Json {
            return Err(ApiError::content_type("application/json"));
        }
        if self.bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(ApiError::too_large(format!(
                "the document is {} bytes; the limit is {DOCUMENT_BYTES_MAX}",
                self.bytes.len()
            )));
        }
        DocumentBody::read(&self.bytes)
    }

    /// As [`Content::json`], but nothing at all is the default.
    pub fn json_or_default<'a, T: Deserialize<'a> + Default>(&'a self) -> Result<T, ApiError> {
        if self.is_empty() { Ok(T::default()) } else { self.json() }
    }

    pub fn json_or_msgpack<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        match self.encoding()? {
            Encoding::Json => from_json(&self.bytes),
            Encoding::Msgpack => from_msgpack(&self.bytes),
        }
    }

    /// As [`Content::json_or_msgpack`], but nothing at all is the default.
    pub fn json_or_msgpack_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, ApiError> {
        if self.is_empty() { Ok(T::default()) } else { self.json_or_msgpack() }
    }

    /// What makes this POST happen at most once, if its sender asked for that.
    pub fn once(&self) -> Result<Option<Once>, Invalid> {
        let Some(key) = &self.idempotency_key else { return Ok(None) };
        let invalid = |why: String| Invalid::new("idempotency-key", why);
        let text = str::from_utf8(key).map_err(|_| invalid("is not UTF-8".into()))?;
        let key = IdempotencyKey::new(text).map_err(|e| invalid(e.to_string()))?;
        Ok(Some(Once { key, digest: (self.digest(1), self.digest(2)), part: 0 }))
    }

    /// Refuses an idempotency key where it would have no effect, `why` telling so.
    pub fn never_once(&self, why: &str) -> Result<(), Invalid> {
        match &self.idempotency_key {
            Some(_) => Err(Invalid::new("idempotency-key", why)),
            None => Ok(()),
        }
    }

    fn digest(&self, seed: u64) -> u64 {
        let mut hasher = XxHash64::with_seed(seed);
        std::hash::Hasher::write(&mut hasher, self.path.as_bytes());
        std::hash::Hasher::write(&mut hasher, &[0]);
        std::hash::Hasher::write(&mut hasher, &self.bytes);
        std::hash::Hasher::finish(&hasher)
    }
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    // serde would take an array for an object, field by field.
    if bytes.trim_ascii_start().starts_with(b"[") {
        return Err(Invalid::new("body", "must be a JSON object").into());
    }
    serde_json::from_slice(bytes).map_err(|_| explain_json::<T>(bytes))
}

/// Reads once more, slowly, to say where it went wrong.
fn explain_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> ApiError {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => ApiError::malformed("there is something after the end of the JSON document"),
        Err(e) if e.inner().is_data() => data_error(e.path(), &e.inner().to_string()),
        Err(e) => ApiError::malformed(format!("this is not JSON: {}", e.inner())),
    }
}

fn from_msgpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut rest = bytes;
    match rmp_serde::from_read(&mut rest) {
        Ok(value) if rest.is_empty() => Ok(value),
        Ok(_) => {
            Err(ApiError::malformed("there is something after the end of the msgpack document"))
        }
        Err(_) => Err(explain_msgpack::<T>(bytes)),
    }
}

/// Reads once more, slowly, to say where it went wrong.
fn explain_msgpack<T: DeserializeOwned>(bytes: &[u8]) -> ApiError {
    let mut reader = rmp_serde::Deserializer::new(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => ApiError::malformed("this is not msgpack of the right shape"),
        Err(e) => match e.inner() {
            rmp_serde::decode::Error::Syntax(why) => data_error(e.path(), why),
            why => ApiError::malformed(format!("this is not msgpack of the right shape: {why}")),
        },
    }
}

/// JSON that is JSON but does not fit: named after the field.
pub(crate) fn data_error(path: &serde_path_to_error::Path, why: &str) -> ApiError {
    match misfit(path, why) {
        Misfit::Unknown(field) => ApiError::unknown_field(field, why.to_owned()),
        Misfit::Invalid(invalid) => invalid.into(),
    }
}

enum Misfit {
    Unknown(String),
    Invalid(Invalid),
}

fn misfit(path: &serde_path_to_error::Path, why: &str) -> Misfit {
    if let Some(field) = quoted_after(why, "unknown field ") {
        return Misfit::Unknown(field);
    }
    let named =
        quoted_after(why, "missing field ").or_else(|| quoted_after(why, "duplicate field "));
    let field = named.or_else(|| last_name(path)).unwrap_or_else(|| "body".to_owned());
    Misfit::Invalid(Invalid::new(field, format!("does not fit: {why}")))
}

fn quoted_after(text: &str, before: &str) -> Option<String> {
    let rest = text.strip_prefix(before)?.strip_prefix('`')?;
    rest.split_once('`').map(|(name, _)| name.to_owned())
}

/// The outermost field where what is in it is told by its name (`metadata`), else the innermost.
fn last_name(path: &serde_path_to_error::Path) -> Option<String> {
    let mut name = None;
    for segment in path.iter() {
        if let serde_path_to_error::Segment::Map { key } = segment {
            name = Some(key.clone());
            if ["metadata", "adopted", "scaling"].contains(&key.as_str()) {
                break;
            }
        }
    }
    name
}

/// One item of a batch, whose mistakes do not sink the others: the code and the detail.
pub(crate) fn item_from_json<'a, T: Deserialize<'a>>(raw: &'a str) -> Result<T, (String, String)> {
    if raw.starts_with('[') {
        let invalid = Invalid::new("item", "must be a JSON object");
        return Err((invalid.code(), invalid.detail()));
    }
    serde_json::from_str(raw).or_else(|_| {
        // Read once more, slowly, to say where it went wrong.
        let mut reader = serde_json::Deserializer::from_str(raw);
        serde_path_to_error::deserialize(&mut reader).map_err(|e| {
            match misfit(e.path(), &e.inner().to_string()) {
                Misfit::Unknown(_) => ("unknown-field".to_owned(), e.inner().to_string()),
                Misfit::Invalid(invalid) => (invalid.code(), invalid.detail()),
            }
        })
    })
}
