//! The paths of Sentinel's dashboard that its transports and its page use.
//!
//! A transport knows one server and never follows a redirect, so every node takes every beat. Only
//! HTTP 200 counts for it, and refusals are HTTP 200 too, with a code in the body. A beat costs a
//! log entry only if the machine is new or says something new of itself.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::Uri;
use roster_storage::catalog::{App as AppEntry, Instance};
use roster_storage::command::{Command, Condition, Deregister, Profile, Refusal, Register};
use roster_storage::limits::TEXT_BYTES_MAX;
use roster_storage::names::{AppName, InstanceId, InstanceKey, Revision, SessionId};
use roster_storage::version::Version;
use smol_str::{SmolStr, format_smolstr};

use super::heartbeats;
use crate::answer::Answer;
use crate::conventions::unix_ms;
use crate::error::ProblemDocument;
use crate::error::{ApiError, decided, sentinel_bad_request};
use crate::extract::{App, Content, Reading, form_pairs};
use crate::openapi::parameters::{MachineFields, RemovedFields};
use crate::openapi::refusals::{
    INVALID, NO_LEADER, NOT_READY, OVERLOADED, RATE_LIMITED, READ_ONLY, Refused, STALE_INCARNATION,
    TIMEOUT, TOO_LARGE, UNKNOWN_SESSION,
};
use crate::openapi::shapes::{MachineForm, Machines, RemovedForm, Told, ToldVersion};
use crate::registry::{Beat, BeatRefused, BeatTarget, Consistency, Heard, Renewed, Unavailable};
use crate::wire::sentinel::{APP_TYPE, AppInfo, BadRequest, Envelope, MachineInfo};
use crate::{Api, Shared};

/// The dashboard's own bounds, in UTF-16 units as it counts them.
const APP_UNITS_MAX: usize = 256;
const IP_UNITS_MAX: usize = 128;
const HOSTNAME_UNITS_MAX: usize = 256;

const NOW: Reading = Reading { consistency: Consistency::Linearizable, min_revision: None };

/// Why there is no success: the dashboard's word, its framework's, or Roster's.
enum Declined {
    /// HTTP 200 with `code` and `msg`.
    Told(i32, String),
    /// A value that should be a number: HTTP 400.
    NotANumber,
    Error(ApiError),
}

impl<E: Into<ApiError>> From<E> for Declined {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

fn answer(uri: &Uri, result: Result<Answer, Declined>) -> Response {
    match result {
        Ok(answer) => answer.into_response(),
        Err(Declined::Told(code, msg)) => Answer::json(&Envelope::fail(code, msg)).into_response(),
        Err(Declined::NotANumber) => sentinel_bad_request(uri.path()),
        Err(Declined::Error(error)) => error.into_response(),
    }
}

fn success() -> Answer {
    Answer::json(&Envelope::<()>::success(None))
}

/// The parameters of a request: the query's come before the form's.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn of(uri: &Uri, content: &Content) -> Self {
        let query = uri.query().unwrap_or_default().as_bytes();
        Self(form_pairs(query).chain(form_pairs(content.form())).collect())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Declined> {
        match self.text(name).map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| Declined::NotANumber),
        }
    }
}

/// A heartbeat that passed the dashboard's checks.
struct MachineBeat {
    key: InstanceKey,
    ip: SmolStr,
    port: u32,
    hostname: SmolStr,
    version: SmolStr,
    app_type: i32,
    mark: i64,
}

/// The dashboard's checks, in its order and words.
fn checked(fields: &Fields) -> Result<MachineBeat, Declined> {
    let app_type: i32 = fields.number("app_type")?.unwrap_or(0);
    let mark: Option<i64> = fields.number("version")?;
    let port: Option<i32> = fields.number("port")?;
    let told = |msg: String| Declined::Told(-1, msg);

    let app = fields.text("app").unwrap_or_default();
    let name = AppName::new(app).ok().filter(|_| !app.trim().is_empty());
    let name = name.filter(|_| units(app) <= APP_UNITS_MAX);
    let name = name.ok_or_else(|| told("invalid appName".into()))?;

    let ip = fields.text("ip");
    let invalid_ip = || told(format!("invalid ip: {}", ip.unwrap_or("null")));
    let ip = ip.filter(|ip| units(ip) <= IP_UNITS_MAX).ok_or_else(invalid_ip)?;
    let address: IpAddr = ip.parse().map_err(|_| invalid_ip())?;

    let invalid_port = || told("invalid port".into());
    let port = port.filter(|port| *port >= -1).ok_or_else(invalid_port)?;
    let hostname = fields.text("hostname").unwrap_or_default();
    if units(hostname) > HOSTNAME_UNITS_MAX {
        return Err(told("hostname too long".into()));
    }
    let port = u32::try_from(port).map_err(|_| told("your port not set yet".into()))?;

    let version = fields.text("v").filter(|v| !v.trim().is_empty()).unwrap_or("unknown");
    if version.len() > TEXT_BYTES_MAX {
        return Err(told("version too long".into()));
    }
    let id = match address {
        IpAddr::V4(_) => format_smolstr!("{ip}:{port}"),
        IpAddr::V6(_) => format_smolstr!("[{ip}]:{port}"),
    };
    let id = InstanceId::new(id).map_err(|_| told(format!("invalid ip: {ip}")))?;
    Ok(MachineBeat {
        key: InstanceKey::new(name, id),
        ip: ip.into(),
        port,
        hostname: hostname.into(),
        version: version.into(),
        app_type,
        mark: mark.unwrap_or_else(|| i64::try_from(unix_ms()).unwrap_or(i64::MAX)),
    })
}

fn units(text: &str) -> usize {
    text.encode_utf16().count()
}

/// A heartbeat of a transport, which registers it. Any method will do; what stands in the query
/// comes before the form.
#[utoipa::path(
    method(get, post),
    path = "/registry/machine",
    operation_id = "sentinelHeartbeat",
    tag = "sentinel",
    params(MachineFields),
    request_body(content = MachineForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (
            status = 200,
            description = "Whether it was taken: `code` 0, or another one with the reason in `msg`.",
            body = Told,
        ),
        (status = 400, description = "A number is none.", body = BadRequest),
        Refused::<{
            NO_LEADER | NOT_READY | OVERLOADED | READ_ONLY | TIMEOUT | TOO_LARGE
            | RATE_LIMITED | UNKNOWN_SESSION | STALE_INCARNATION
        }>,
    ),
)]
pub(super) async fn beat(State(api): Shared, uri: Uri, content: Content) -> Response {
    answer(&uri, take_beat(&api, &Fields::of(&uri, &content)).await)
}

async fn take_beat(api: &Api, fields: &Fields) -> Result<Answer, Declined> {
    let machine = checked(fields)?;
    let (beaten, answer) = send(api, &machine).await?;
    let revision = match answer {
        // What this node has may be old; it is enough to see that something is new. A node that still
        // loads has nothing, and the session is renewed all the same.
        Ok(_) => match api.registry.read(Consistency::Stale, None).await {
            Ok(version) => match version.catalog.instance(&machine.key) {
                Some(live) if !machine.is_described_by(live) => {
                    register(api, &machine, Some(live)).await?
                }
                Some(_) | None => beaten,
            },
            Err(Unavailable::NotReady(_)) => beaten,
            Err(why) => return Err(ApiError::from(why).at(beaten).into()),
        },
        Err(BeatRefused::UnknownApp(_) | BeatRefused::UnknownInstance) => {
            let registered = register(api, &machine, None).await?;
            // The registration was the sign of life; this only leaves the client's mark.
            let _ = send(api, &machine).await;
            registered
        }
        Err(refused) => return Err(ApiError::from(refused).at(beaten).into()),
    };
    Ok(success().at(revision))
}

async fn send(
    api: &Api,
    machine: &MachineBeat,
) -> Result<(Revision, Result<Renewed, BeatRefused>), ApiError> {
    let target = BeatTarget::Instance { key: machine.key.clone(), incarnation: None };
    heartbeats::beat(api, Beat { mark: Some(machine.mark), ..Beat::of(target) }).await
}

/// Writes what is new of a machine. A change loses against a newer one that came in between: the
/// next beat sees to it. Returns where that was decided.
async fn register(
    api: &Api,
    machine: &MachineBeat,
    live: Option<&Arc<Instance>>,
) -> Result<Revision, ApiError> {
    let command = Register {
        key: machine.key.clone(),
        profile: machine.profile(live.map(|live| live.profile.unpacked())).into(),
        session: None,
        // A machine that came by REST keeps the TTL that it asked for.
        ttl_ms: live.is_none().then_some(api.options.sentinel.ttl_ms()),
        takeover: false,
        create_app: Some(machine.app_type),
        condition: live.map_or(Condition::Any, |live| Condition::Unchanged(live.revision)),
    };
    let outcome = api.registry.propose(Command::Register(command)).await?;
    match outcome.result {
        Err(Refusal::PreconditionFailed { .. }) => Ok(outcome.revision),
        Ok(_) | Err(_) => decided(outcome).map(|(revision, _)| revision),
    }
}

impl MachineBeat {
    fn is_described_by(&self, live: &Instance) -> bool {
        let app_type = live.profile.metadata().get(APP_TYPE).unwrap_or("0");
        live.profile.hostname() == self.hostname
            && live.profile.version() == self.version
            && app_type.parse() == Ok(self.app_type)
    }

    /// What the beat says, over what else is known of the machine.
    fn profile(&self, known: Option<Profile>) -> Profile {
        let mut profile = known.unwrap_or(Profile { weight: 1, ..Profile::default() });
        profile.ip = self.ip.clone();
        profile.port = self.port;
        profile.hostname = self.hostname.clone();
        profile.version = self.version.clone();
        let app_type = format_smolstr!("{}", self.app_type);
        Arc::make_mut(&mut profile.metadata).insert(APP_TYPE.into(), app_type);
        profile
    }
}

/// The names of all apps.
#[utoipa::path(
    get,
    path = "/app/names.json",
    operation_id = "sentinelNames",
    tag = "sentinel",
    responses(
        (status = 200, description = "The names.", body = Envelope<Vec<String>>),
        Refused::<{ NO_LEADER | NOT_READY | OVERLOADED | TIMEOUT }>,
    ),
)]
pub(super) async fn names(State(api): Shared) -> Result<Answer, ApiError> {
    let version = api.read(NOW).await?;
    let render = async move {
        let names = version.catalog.apps_after(None).map(|(name, _)| name.as_str());
        let names: Vec<_> = names.collect();
        Answer::json(&Envelope::success(Some(names))).at(version.revision())
    };
    api.aside(render).await
}

/// All apps with their machines.
#[utoipa::path(
    get,
    path = "/app/briefinfos.json",
    operation_id = "sentinelBriefInfos",
    tag = "sentinel",
    responses(
        (status = 200, description = "The apps.", body = Envelope<Vec<AppInfo>>),
        Refused::<{ NO_LEADER | NOT_READY | OVERLOADED | TIMEOUT }>,
    ),
)]
pub(super) async fn briefs(State(api): Shared) -> Result<Answer, ApiError> {
    let version = api.read(NOW).await?;
    let there = version.clone();
    let sessions = api.aside(async move { sessions_of_all(&there) }).await?;
    let heard = heard_of(&api, sessions).await?;
    let here = api.clone();
    api.aside(async move { render_briefs(&here, &version, heard) }).await
}

fn sessions_of_all(version: &Version) -> Vec<SessionId> {
    let apps = version.catalog.apps_after(None);
    let instances = apps.flat_map(|(_, app)| app.instances.values());
    instances.map(|instance| instance.session).collect()
}

/// `heard`: of [`sessions_of_all`].
fn render_briefs(api: &Api, version: &Version, heard: Vec<Option<Heard>>) -> Answer {
    let settings = &api.options.sentinel;
    let mut heard = heard.into_iter();
    let mut infos = Vec::new();
    for (name, app) in version.catalog.apps_after(None) {
        let kind = app.record.policy.kind;
        let machines = app.instances.values().map(|instance| {
            let heard = heard.next().flatten();
            let info = MachineInfo::new(name.as_str(), instance, heard, settings);
            info.brief(instance, kind, settings)
        });
        let machines = machines.collect();
        infos.push(AppInfo::new(name.as_str(), app, machines, settings));
    }
    Answer::json(&Envelope::success(Some(infos))).at(version.revision())
}

/// It asks the leader, so no turn is held meanwhile.
async fn heard_of(api: &Api, sessions: Vec<SessionId>) -> Result<Vec<Option<Heard>>, ApiError> {
    api.registry.last_heard(sessions).await.map_err(ApiError::of_read)
}

/// The machines of an app.
#[utoipa::path(
    get,
    path = "/app/{app}/machines.json",
    operation_id = "sentinelMachines",
    tag = "sentinel",
    params(App),
    responses(
        (
            status = 200,
            description = "The machines; `data` is null where there is no such app.",
            body = Machines,
        ),
        Refused::<{ INVALID | NO_LEADER | NOT_READY | OVERLOADED | TIMEOUT }>,
    ),
)]
pub(super) async fn machines(State(api): Shared, App(name): App) -> Result<Answer, ApiError> {
    let version = api.read(NOW).await?;
    let revision = version.revision();
    if version.catalog.app(&name).is_none() {
        return Ok(success().at(revision));
    }
    let of_app = name.clone();
    let instances = api.aside(async move { by_address(&version, &of_app) }).await?;
    let sessions = instances.iter().map(|instance| instance.session).collect();
    let heard = heard_of(&api, sessions).await?;
    let here = api.clone();
    let render = async move {
        let settings = &here.options.sentinel;
        let machines = instances.iter().zip(heard);
        let machines: Vec<_> = machines
            .map(|(instance, heard)| MachineInfo::new(name.as_str(), instance, heard, settings))
            .collect();
        Answer::json(&Envelope::success(Some(machines))).at(revision)
    };
    api.aside(render).await
}

fn by_address(version: &Version, app: &AppName) -> Vec<Arc<Instance>> {
    let instances = version.catalog.app(app).into_iter().flat_map(|app| app.instances.values());
    let mut instances: Vec<_> = instances.cloned().collect();
    instances.sort_by(|one, other| {
        let (one, other) = (&one.profile, &other.profile);
        (one.ip(), one.port()).cmp(&(other.ip(), other.port()))
    });
    instances
}

/// Removes a machine. Any method will do; what stands in the query comes before the form.
#[utoipa::path(
    method(get, post),
    path = "/app/{app}/machine/remove.json",
    operation_id = "sentinelRemove",
    tag = "sentinel",
    params(App, RemovedFields),
    request_body(content = RemovedForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (
            status = 200,
            description = "Whether it is gone: `code` 0, or another one with the reason in `msg`.",
            body = Told,
        ),
        (
            status = 400,
            description = "A number is missing or none; or the app cannot be one.",
            content((BadRequest = "application/json"), (ProblemDocument = "application/problem+json")),
        ),
        Refused::<{ NO_LEADER | NOT_READY | OVERLOADED | READ_ONLY | TIMEOUT | TOO_LARGE }>,
    ),
)]
pub(super) async fn remove(
    State(api): Shared,
    App(name): App,
    uri: Uri,
    content: Content,
) -> Response {
    answer(&uri, take_removal(&api, name, &Fields::of(&uri, &content)).await)
}

async fn take_removal(api: &Api, name: AppName, fields: &Fields) -> Result<Answer, Declined> {
    let ip = fields.text("ip").ok_or(Declined::NotANumber)?;
    let port: i64 = fields.number("port")?.ok_or(Declined::NotANumber)?;
    let version: Arc<Version> = api.read(NOW).await?;
    let failed = || Declined::Told(1, "remove failed".into());
    let Some(app) = version.catalog.app(&name) else { return Ok(success()) };
    let (id, live) = machine_at(app, ip, port).ok_or_else(failed)?;
    let command = Deregister {
        key: InstanceKey::new(name, id.clone()),
        incarnation: Some(live.incarnation),
        by_operator: true,
        reason: SmolStr::default(),
        condition: Condition::Any,
    };
    let outcome = api.registry.propose(Command::Deregister(command)).await?;
    match outcome.result {
        // It left, or came back as another life, in between.
        Err(Refusal::UnknownInstance { .. } | Refusal::StaleIncarnation { .. }) => Err(failed()),
        Err(Refusal::UnknownApp(_)) => Ok(success()),
        Ok(_) | Err(_) => Ok(success().at(decided(outcome)?.0)),
    }
}

/// The machine with this address, whatever its id: the page knows it by nothing else.
fn machine_at<'a>(
    app: &'a AppEntry,
    ip: &str,
    port: i64,
) -> Option<(&'a InstanceId, &'a Arc<Instance>)> {
    app.instances.iter().find(|(_, instance)| {
        instance.profile.ip() == ip && i64::from(instance.profile.port()) == port
    })
}

/// The version, as the dashboard tells it.
#[utoipa::path(
    get,
    path = "/version",
    operation_id = "sentinelVersion",
    tag = "sentinel",
    responses(
        (status = 200, description = "The version.", body = ToldVersion),
        Refused::<{ OVERLOADED }>,
    ),
)]
pub(super) async fn version(State(api): Shared) -> Answer {
    match api.options.version.split('-').next() {
        Some(version) if !version.is_empty() => Answer::json(&Envelope::success(Some(version))),
        Some(_) | None => Answer::json(&Envelope::fail(1, "version is empty")),
    }
}
