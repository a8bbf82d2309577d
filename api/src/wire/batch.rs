//! `POST /v1/instances:batch`: many registrations and departures, each with an answer of its own.

use roster_storage::command::{BatchItem, Condition, Deregister, Reply};
use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey, Revision};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::entries::Entries;
use super::instance::{ChangedView, InstanceBody, RegisterHow, RegisteredView};
use super::scalar::{Millis, Object};
use crate::error::{ApiError, Invalid};
use crate::extract::{Content, item_from_json};
use crate::openapi::schemas::{
    MetadataText, Name, OutcomeWord, Payload, Port, SessionText, ShortText, Weight,
};

/// Many registrations and departures, at most 5,000. One that is wrong does not sink the others.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({"items": [
    {"op": "register", "app": "pay", "id": "10.0.0.1:8719", "ip": "10.0.0.1", "port": 8719, "ttl": "30s"},
    {"op": "deregister", "app": "pay", "id": "10.0.0.2:8719"},
]})))]
pub(crate) struct BatchBody<'a> {
    #[schema(value_type = Vec<ItemBody>)]
    // Text until each is read by itself.
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// The same where all items are well written, which is nearly always so: read in one go.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WellWritten<'a> {
    #[serde(borrow)]
    items: Vec<Object<ItemBody<'a>>>,
}

/// Reads the items of a batch, each in its place, or why it is none.
pub(crate) fn items(content: &Content) -> Result<Vec<Result<BatchItem, ItemFailed>>, ApiError> {
    if let Some(Object(WellWritten { items })) = content.json_if_well_written() {
        let read = |Object(body)| into_item(body).map_err(ItemFailed::from);
        return Ok(items.into_iter().map(read).collect());
    }
    let body: BatchBody<'_> = content.json()?;
    Ok(body.items.iter().map(|raw| item(raw)).collect())
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Op {
    Register,
    Deregister,
}

/// One of a batch: the operation, the instance, and what a registration says of it.
//
// Written out, since serde cannot refuse unknown fields of a flattened record.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemBody<'a> {
    op: Op,
    #[schema(value_type = Name)]
    app: AppName,
    #[schema(value_type = Name)]
    id: InstanceId,
    incarnation: Option<u64>,
    #[serde(default)]
    takeover: bool,
    create_app: Option<bool>,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    ip: SmolStr,
    #[serde(default)]
    #[schema(value_type = Port)]
    port: u16,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    hostname: SmolStr,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    version: SmolStr,
    #[serde(default)]
    #[schema(value_type = ShortText)]
    zone: SmolStr,
    #[schema(value_type = Option<Weight>)]
    weight: Option<u16>,
    #[serde(borrow, default)]
    #[schema(value_type = MetadataText)]
    metadata: Entries<'a>,
    #[serde(default)]
    #[schema(value_type = Payload)]
    payload: String,
    ttl: Option<Millis>,
    #[schema(value_type = Option<SessionText>)]
    session: Option<SmolStr>,
}

/// Reads one item by itself.
fn item(raw: &RawValue) -> Result<BatchItem, ItemFailed> {
    let body: ItemBody<'_> = item_from_json(raw.get()).map_err(|(code, detail)| ItemFailed {
        code,
        detail,
        outcome: "none",
    })?;
    into_item(body).map_err(ItemFailed::from)
}

fn into_item(body: ItemBody<'_>) -> Result<BatchItem, Invalid> {
    let key = InstanceKey::new(body.app, body.id);
    let condition = Condition::Any;
    match body.op {
        Op::Deregister => {
            let incarnation = body.incarnation.map(Incarnation);
            Ok(BatchItem::Deregister(Deregister {
                key,
                incarnation,
                by_operator: false,
                reason: SmolStr::default(),
                condition,
            }))
        }
        Op::Register if body.incarnation.is_some() => {
            Err(Invalid::new("incarnation", "is given by the registration, not to it"))
        }
        Op::Register => {
            let create_app = body.create_app.unwrap_or(true);
            let how = RegisterHow { create_app, takeover: body.takeover, condition };
            let record = InstanceBody {
                ip: body.ip,
                port: body.port,
                hostname: body.hostname,
                version: body.version,
                zone: body.zone,
                weight: body.weight,
                metadata: body.metadata,
                payload: body.payload,
                ttl: body.ttl,
                session: body.session,
            };
            record.into_register(key, how).map(BatchItem::Register)
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct BatchView<'a> {
    pub results: Vec<ItemView<'a>>,
    pub revision: u64,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ItemView<'a> {
    Registered(RegisteredView<'a>),
    Deregistered(ChangedView<'a>),
    Failed(ItemFailed),
}

/// Why an item came to nothing, or may have.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ItemFailed {
    code: String,
    detail: String,
    #[schema(value_type = OutcomeWord)]
    outcome: &'static str,
}

impl ItemFailed {
    /// For items behind one that got no answer: they were not sent at all.
    pub fn never_sent(mut self) -> Self {
        self.outcome = "none";
        self
    }

    /// For items that the cluster said nothing of, which would be a bug in it.
    pub fn missing() -> Self {
        let detail = "the cluster gave no answer for this item".to_owned();
        Self { code: "timeout".to_owned(), detail, outcome: "unknown" }
    }
}

impl From<Invalid> for ItemFailed {
    fn from(invalid: Invalid) -> Self {
        Self { code: invalid.code(), detail: invalid.detail(), outcome: "none" }
    }
}

impl From<&ApiError> for ItemFailed {
    fn from(error: &ApiError) -> Self {
        Self {
            code: error.code().to_owned(),
            detail: error.detail().to_owned(),
            outcome: error.outcome(),
        }
    }
}

impl<'a> ItemView<'a> {
    /// What came of a decided item.
    pub fn new(key: &'a InstanceKey, revision: Revision, result: Result<Reply, ApiError>) -> Self {
        match result {
            Ok(Reply::Registered(registered)) => {
                Self::Registered(RegisteredView::new(key, registered, revision))
            }
            Ok(Reply::Deregistered { incarnation }) => {
                Self::Deregistered(ChangedView::new(key, incarnation, revision))
            }
            Ok(other) => Self::Failed((&ApiError::unexpected(&other)).into()),
            Err(refused) => Self::Failed((&refused).into()),
        }
    }
}
