//! What Sentinel's dashboard answers, name by name.

use roster_storage::catalog::{App, Instance};
use serde::Serialize;
use utoipa::ToSchema;

use super::scalar::Moment;
use crate::conventions::unix_ms;
use crate::options::SentinelSettings;
use crate::registry::Heard;

/// The metadata key under which a machine's app type is kept.
pub(crate) const APP_TYPE: &str = "app_type";

/// Every JSON answer of the dashboard; nulls are written out.
#[derive(Serialize, ToSchema)]
pub(crate) struct Envelope<T> {
    success: bool,
    code: i32,
    msg: String,
    #[schema(required)]
    data: Option<T>,
}

impl<T> Envelope<T> {
    pub fn success(data: Option<T>) -> Self {
        Self { success: true, code: 0, msg: "success".into(), data }
    }
}

impl Envelope<()> {
    pub fn fail(code: i32, msg: impl Into<String>) -> Self {
        Self { success: false, code, msg: msg.into(), data: None }
    }
}

/// What the dashboard's framework says of a value that is not a number, before the dashboard sees
/// it.
#[derive(Serialize, ToSchema)]
pub(crate) struct BadRequest<'a> {
    timestamp: Moment,
    status: u16,
    error: &'static str,
    path: &'a str,
}

impl<'a> BadRequest<'a> {
    pub fn at(path: &'a str, status: u16) -> Self {
        Self { timestamp: Moment(unix_ms()), status, error: "Bad Request", path }
    }
}

/// An app of `briefinfos.json`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppInfo<'a> {
    app: &'a str,
    app_type: i32,
    machines: Vec<MachineInfo<'a>>,
    shown: bool,
    dead: bool,
}

impl<'a> AppInfo<'a> {
    pub fn new(
        name: &'a str,
        app: &'a App,
        machines: Vec<MachineInfo<'a>>,
        settings: &SentinelSettings,
    ) -> Self {
        let newest = machines.iter().map(|machine| machine.ago_ms).min();
        Self {
            app: name,
            app_type: app.record.policy.kind,
            machines,
            shown: settings.app_shown(newest),
            dead: settings.app_dead(newest),
        }
    }
}

/// A machine of `machines.json`, and with two fields more of `briefinfos.json`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MachineInfo<'a> {
    app: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_type: Option<i32>,
    #[schema(required)]
    hostname: Option<&'a str>,
    ip: &'a str,
    port: u32,
    last_heartbeat: u64,
    heartbeat_version: i64,
    version: &'a str,
    healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<bool>,
    #[serde(skip)]
    ago_ms: u64,
}

impl<'a> MachineInfo<'a> {
    /// `heard` is what the leader knows; nothing, if the machine left meanwhile.
    pub fn new(
        app: &'a str,
        instance: &'a Instance,
        heard: Option<Heard>,
        settings: &SentinelSettings,
    ) -> Self {
        let profile = &instance.profile;
        let last_heartbeat = heard.map_or(0, |heard| heard.wall_ms);
        let ago_ms = heard.map_or(u64::MAX, |heard| heard.ago_ms);
        Self {
            app,
            app_type: None,
            hostname: Some(profile.hostname()).filter(|name| !name.is_empty()),
            ip: profile.ip(),
            port: profile.port(),
            last_heartbeat,
            heartbeat_version: heard
                .and_then(|heard| heard.mark)
                .unwrap_or_else(|| i64::try_from(last_heartbeat).unwrap_or(i64::MAX)),
            version: profile.version(),
            healthy: settings.healthy(ago_ms),
            dead: None,
            ago_ms,
        }
    }

    /// As `briefinfos.json` has it.
    pub fn brief(mut self, instance: &Instance, kind: i32, settings: &SentinelSettings) -> Self {
        let own = instance.profile.metadata().get(APP_TYPE).and_then(|text| text.parse().ok());
        self.app_type = Some(own.unwrap_or(kind));
        self.dead = Some(settings.machine_dead(self.ago_ms));
        self
    }
}
