//! Apps and their policies.

use roster_storage::catalog::{App, Catalog, Counts};
use roster_storage::command::AppPolicy;
use roster_storage::limits::{TTL_MS_MAX, TTL_MS_MIN};
use roster_storage::names::{AppName, Revision};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scalar::{Millis, ttl};
use crate::error::Invalid;
use crate::openapi::schemas::AppKind;

/// What `PUT` takes; what is left out is the default again.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(examples(json!({
    "kind": 0, "ttl": "15s", "ttl_min": "5s", "ttl_max": "1m", "remove_when_empty_after": "1h",
})))]
pub(crate) struct PolicyBody {
    #[serde(default)]
    #[schema(value_type = AppKind)]
    kind: i32,
    ttl: Option<Millis>,
    ttl_min: Option<Millis>,
    ttl_max: Option<Millis>,
    remove_when_empty_after: Option<Millis>,
}

impl PolicyBody {
    pub fn into_policy(self) -> Result<AppPolicy, Invalid> {
        let policy = AppPolicy {
            kind: self.kind,
            ttl_ms: ttl("ttl", self.ttl)?,
            ttl_min_ms: ttl("ttl_min", self.ttl_min)?,
            ttl_max_ms: ttl("ttl_max", self.ttl_max)?,
            remove_when_empty_after_ms: self.remove_when_empty_after.map(|ms| ms.0),
        };
        let (min, max) =
            (policy.ttl_min_ms.unwrap_or(TTL_MS_MIN), policy.ttl_max_ms.unwrap_or(TTL_MS_MAX));
        if min > max {
            return Err(Invalid::new("ttl_min", "must not be over ttl_max"));
        }
        if policy.ttl_ms.is_some_and(|ttl| !(min..=max).contains(&ttl)) {
            return Err(Invalid::new("ttl", "must be between ttl_min and ttl_max"));
        }
        Ok(policy)
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AppView<'a> {
    app: &'a str,
    kind: i32,
    #[schema(required)]
    ttl: Option<Millis>,
    #[schema(required)]
    ttl_min: Option<Millis>,
    #[schema(required)]
    ttl_max: Option<Millis>,
    #[schema(required)]
    remove_when_empty_after: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<CountsView>,
    revision: u64,
}

impl<'a> AppView<'a> {
    pub fn new(
        app: &'a AppName,
        policy: &AppPolicy,
        counts: Option<Counts>,
        revision: Revision,
    ) -> Self {
        Self {
            app: app.as_str(),
            kind: policy.kind,
            ttl: policy.ttl_ms.map(Millis),
            ttl_min: policy.ttl_min_ms.map(Millis),
            ttl_max: policy.ttl_max_ms.map(Millis),
            remove_when_empty_after: policy.remove_when_empty_after_ms.map(Millis),
            counts: counts.map(CountsView::from),
            revision: revision.0,
        }
    }
}

/// Live instances by state.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct CountsView {
    up: u64,
    suspect: u64,
    draining: u64,
    maintenance: u64,
}

impl From<Counts> for CountsView {
    fn from(counts: Counts) -> Self {
        let Counts { up, suspect, draining, maintenance } = counts;
        Self { up, suspect, draining, maintenance }
    }
}

/// One line of `GET /v1/apps`.
#[derive(Serialize, ToSchema)]
pub(crate) struct AppLine<'a> {
    app: &'a str,
    kind: i32,
    counts: CountsView,
    revision: u64,
}

impl<'a> AppLine<'a> {
    pub fn of(catalog: &'a Catalog, name: &'a AppName, app: &App) -> Self {
        Self {
            app: name.as_str(),
            kind: app.record.policy.kind,
            counts: catalog.counts(name).into(),
            revision: app.record.revision.0,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AppList<'a> {
    pub apps: Vec<AppLine<'a>>,
    #[schema(required)]
    pub next_cursor: Option<String>,
    pub revision: u64,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct AppDeleted<'a> {
    pub app: &'a str,
    pub instances: u64,
    pub revision: u64,
}
