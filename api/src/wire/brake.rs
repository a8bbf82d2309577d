//! The mass-loss brake as clients see it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use roster_storage::brake::{Brake, BrakeMode, BrakeOverride, Scope};
use roster_storage::catalog::Catalog;
use roster_storage::command::OverrideBrake;
use roster_storage::limits::REASON_BYTES_MAX;
use roster_storage::names::AppName;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use utoipa::ToSchema;

use super::instance::expires_in;
use super::scalar::{Millis, Moment};
use crate::error::Invalid;
use crate::openapi::schemas::{BrakeScope, Expires, Name, ReasonText};
use crate::registry::{Alarm, BrakeSettings};

/// A brake that is on.
#[derive(Serialize, ToSchema)]
#[schema(as = BrakeAlarm)]
pub(crate) struct AlarmView {
    #[schema(value_type = BrakeScope)]
    scope: &'static str,
    /// Of the scope `node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    since: Moment,
    /// Instances that were silent or removed when it was last told, and of how many.
    missing: u64,
    of: u64,
}

impl AlarmView {
    pub fn new(scope: &Scope, brake: &Brake) -> Self {
        Self {
            scope: scope.word(),
            node: scope.node().map(|node| node.to_string()),
            since: Moment(brake.since_ms),
            missing: brake.missing,
            of: brake.of,
        }
    }
}

/// One of the brakes that are on, with its app.
#[derive(Serialize, ToSchema)]
struct BrakeView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(flatten)]
    alarm: AlarmView,
    /// Instances that are removed in a minute while it is on; 0 while an operator holds them.
    removed_per_minute: f64,
    revision: u64,
}

/// What an operator decided, as it is told.
#[derive(Serialize, ToSchema)]
pub(crate) struct BrakeOverrideView<'a> {
    #[schema(value_type = ScopeWord)]
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[schema(value_type = ModeWord)]
    mode: &'static str,
    reason: &'a str,
    #[schema(required)]
    expires: Option<Moment>,
    revision: u64,
}

/// Brakes, and operators' words, that are shown at once; of others there is the number. After a large
/// loss each app may have one.
const SHOWN_MAX: usize = 100;

/// What is slowed down, and what operators say about it.
#[derive(Serialize, ToSchema)]
pub(crate) struct BrakesView<'a> {
    /// Those of which most is missing come first.
    brakes: Vec<BrakeView<'a>>,
    /// Brakes that are not among these.
    #[serde(skip_serializing_if = "is_none")]
    more: usize,
    overrides: Vec<BrakeOverrideView<'a>>,
    /// Operators' words that are not among these.
    #[serde(skip_serializing_if = "is_none")]
    more_overrides: usize,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

/// The brakes of which most is missing, and how many there are besides.
fn worst(catalog: &Catalog) -> (Vec<(&Scope, &Brake)>, usize) {
    let mut brakes: Vec<_> = catalog.brakes().collect();
    let more = brakes.len().saturating_sub(SHOWN_MAX);
    brakes.sort_by_key(|(_, brake)| Reverse(brake.missing));
    brakes.truncate(SHOWN_MAX);
    (brakes, more)
}

impl<'a> BrakesView<'a> {
    pub fn new(catalog: &'a Catalog, settings: BrakeSettings) -> Self {
        let (worst, more) = worst(catalog);
        let held = Held::by_operators(catalog);
        let brakes = worst.into_iter().map(|(scope, brake)| BrakeView {
            app: scope.app().map(AppName::as_str),
            alarm: AlarmView::new(scope, brake),
            removed_per_minute: if held.has(scope) { 0.0 } else { per_minute(settings, brake) },
            revision: brake.since.0,
        });
        let overrides = catalog.brake_overrides().map(|(scope, word)| BrakeOverrideView {
            scope: scope.word(),
            app: scope.app().map(AppName::as_str),
            mode: word.mode.word(),
            reason: &word.reason,
            expires: word.expires_wall_ms.map(Moment),
            revision: word.revision.0,
        });
        let more_overrides = catalog.brake_overrides().count().saturating_sub(SHOWN_MAX);
        let overrides = overrides.take(SHOWN_MAX).collect();
        Self { brakes: brakes.collect(), more, overrides, more_overrides }
    }

    /// `None` while nothing is slowed down and nobody has said anything about it.
    pub fn unless_idle(self) -> Option<Self> {
        (!self.brakes.is_empty() || !self.overrides.is_empty()).then_some(self)
    }
}

/// What operators hold.
struct Held<'a>(BTreeSet<&'a Scope>);

impl<'a> Held<'a> {
    fn by_operators(catalog: &'a Catalog) -> Self {
        let is_hold = |word: &BrakeOverride| word.mode == BrakeMode::Hold;
        Self(
            catalog.brake_overrides().filter(|(_, word)| is_hold(word)).map(|(of, _)| of).collect(),
        )
    }

    fn has(&self, scope: &Scope) -> bool {
        self.0.contains(scope) || self.0.contains(&Scope::All)
    }
}

fn per_minute(settings: BrakeSettings, brake: &Brake) -> f64 {
    let per_minute = brake.missing as f64 * 60_000.0 / settings.pace_ms as f64;
    (per_minute * 10.0).round() / 10.0
}

/// The brake as a whole.
#[derive(Serialize, ToSchema)]
pub(crate) struct BrakeStatus<'a> {
    settings: SettingsView,
    #[serde(flatten)]
    brakes: BrakesView<'a>,
    /// Instances that are silent and held.
    suspect: u64,
    revision: u64,
}

impl<'a> BrakeStatus<'a> {
    pub fn new(catalog: &'a Catalog, settings: BrakeSettings, revision: u64) -> Self {
        Self {
            settings: SettingsView::from(settings),
            brakes: BrakesView::new(catalog, settings),
            suspect: catalog.total_counts().suspect,
            revision,
        }
    }
}

/// The settings of the node that answers.
#[derive(Serialize, ToSchema)]
struct SettingsView {
    share_percent: u64,
    app_share_percent: u64,
    window: Millis,
    exempt: u64,
    exempt_of_all: u64,
    pace: Millis,
    rate: u64,
}

impl From<BrakeSettings> for SettingsView {
    fn from(settings: BrakeSettings) -> Self {
        Self {
            share_percent: settings.share_percent,
            app_share_percent: settings.app_share_percent,
            window: Millis(settings.window_ms),
            exempt: settings.exempt,
            exempt_of_all: settings.exempt_of_all(),
            pace: Millis(settings.pace_ms),
            rate: settings.rate,
        }
    }
}

/// The brakes as alarms of the cluster. If they are too many, the last one tells of the others.
pub(crate) fn alarms(catalog: &Catalog) -> Vec<Alarm> {
    let (worst, more) = worst(catalog);
    let mut alarms: Vec<_> = worst.into_iter().map(|(scope, on)| alarm(scope, on)).collect();
    if more > 0 {
        let since_ms = catalog.brakes().map(|(_, on)| on.since_ms).min().unwrap_or_default();
        let detail = format!(
            "{more} more apps or nodes are slowed down, of which less is missing (GET \
             /v1/apps/APP/instances shows which instances of an app are suspect)"
        );
        alarms.push(Alarm { code: "mass-loss", since_ms, detail });
    }
    alarms
}

fn alarm(scope: &Scope, brake: &Brake) -> Alarm {
    let Brake { missing, of, .. } = brake;
    let whose = match scope {
        Scope::All => String::new(),
        Scope::App(app) => format!(" of app {app}"),
        Scope::Node(node) => format!(", last heard by node {node},"),
    };
    let detail = format!(
        "{missing} of {of} instances{whose} fell silent; they are suspect and are removed slowly, \
         until they are heard again or an operator decides (PUT /v1/cluster/brake)"
    );
    Alarm { code: "mass-loss", since_ms: brake.since_ms, detail }
}

/// What `PUT` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BrakeOverrideBody {
    scope: ScopeWord,
    #[schema(value_type = Option<Name>)]
    app: Option<SmolStr>,
    mode: ModeWord,
    #[serde(default)]
    #[schema(value_type = ReasonText)]
    reason: SmolStr,
    /// A span (`"2h"`) or a moment, as `GET` writes it.
    #[schema(value_type = Option<Expires>)]
    expires: Option<SmolStr>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ScopeWord {
    All,
    App,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = BrakeMode)]
enum ModeWord {
    Release,
    Hold,
}

impl BrakeOverrideBody {
    pub fn into_override(self) -> Result<OverrideBrake, Invalid> {
        if self.reason.len() > REASON_BYTES_MAX {
            let why = format!("is over the limit of {REASON_BYTES_MAX} bytes");
            return Err(Invalid::new("reason", why));
        }
        Ok(OverrideBrake {
            scope: scope_of(self.scope, self.app)?,
            mode: match self.mode {
                ModeWord::Release => BrakeMode::Release,
                ModeWord::Hold => BrakeMode::Hold,
            },
            reason: self.reason,
            expires_in_ms: self.expires.as_deref().map(expires_in).transpose()?,
        })
    }
}

/// The scope that a query names: one app, or all without one.
pub(crate) fn scope_named(scope: Option<&str>, app: Option<String>) -> Result<Scope, Invalid> {
    let word = match scope {
        Some("all") => ScopeWord::All,
        Some("app") => ScopeWord::App,
        Some(_) => return Err(Invalid::new("scope", "must be all or app")),
        None if app.is_some() => ScopeWord::App,
        None => ScopeWord::All,
    };
    scope_of(word, app.map(SmolStr::from))
}

fn scope_of(word: ScopeWord, app: Option<SmolStr>) -> Result<Scope, Invalid> {
    match (word, app) {
        (ScopeWord::All, None) => Ok(Scope::All),
        (ScopeWord::All, Some(_)) => {
            Err(Invalid::new("app", "is only for scope app; all apps are meant"))
        }
        (ScopeWord::App, Some(app)) => {
            let app = AppName::new(app).map_err(|e| Invalid::new("app", e.to_string()))?;
            Ok(Scope::App(app))
        }
        (ScopeWord::App, None) => Err(Invalid::new("app", "is missing; scope app needs one")),
    }
}

/// The answer to a change of an operator's word.
#[derive(Serialize, ToSchema)]
pub(crate) struct BrakeOverrideChanged<'a> {
    #[schema(value_type = ScopeWord)]
    scope: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ModeWord>)]
    mode: Option<&'static str>,
    revision: u64,
}

impl<'a> BrakeOverrideChanged<'a> {
    pub fn new(scope: &'a Scope, mode: Option<BrakeMode>, revision: u64) -> Self {
        let app = scope.app().map(AppName::as_str);
        Self { scope: scope.word(), app, mode: mode.map(BrakeMode::word), revision }
    }
}
