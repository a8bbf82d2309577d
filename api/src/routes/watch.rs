//! `GET /v1/watch`

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use futures::stream::unfold;
use http::HeaderMap;
use http::header::ACCEPT;
use roster_storage::events::{Interest, Kind, Kinds};
use roster_storage::names::{
    AppName, InstanceId, InvalidName, LatchKey, LatchKind, LatchName, Revision, ShardSetName,
};
use smol_str::SmolStr;

use crate::Shared;
use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid};
use crate::extract::{Params, Reading};
use crate::filter::Wanted;
use crate::openapi::parameters::{Interesting, Watched};
use crate::openapi::refusals::{LIST, Refused};
use crate::openapi::shapes::WatchLine;
use crate::watching::{Asked, Watching};
use crate::wire::event::Format;

/// How long a node may take to reach the revision to go on from, unless the request says.
const PATIENCE: Duration = Duration::from_secs(5);

/// Apps, locks or elections of one request; who wants more watches all.
const NAMES_MAX: usize = 1_000;

/// What an `EventSource` sends when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";

/// Tells every change, in order, once, as a stream.
#[utoipa::path(
    get,
    path = "/v1/watch",
    operation_id = "watch",
    tag = "events",
    params(Reading, Interesting, Watched),
    responses(
        (
            status = 200,
            description = "The stream. Each line of NDJSON, and each `data` of an event, is a `WatchLine`.",
            content((String = "text/event-stream"), (WatchLine = "application/x-ndjson")),
        ),
        Refused::<{ LIST }>,
    ),
)]
pub(super) async fn watch(State(api): Shared, headers: HeaderMap, mut params: Params) -> Answered {
    let asked = asked(&mut params, &headers)?;
    params.end()?;
    let consistency = asked.from.is_none().then_some(asked.reading.consistency);
    let format = asked.format;
    let (watching, revision) = Watching::begin(Arc::clone(&api), asked).await?;
    let pieces = unfold(watching, |mut watching| async move {
        let piece = watching.piece().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), watching))
    });
    let answer = Answer::stream(format, Body::from_stream(pieces)).at(revision);
    Ok(match consistency {
        Some(consistency) => answer.read(consistency),
        None => answer,
    })
}

fn asked(params: &mut Params, headers: &HeaderMap) -> Result<Asked, ApiError> {
    let from = match last_event_id(headers)? {
        // An `EventSource` asks for the same URL again, so its header is the newer word.
        Some(id) => {
            params.number("from")?;
            Some(id)
        }
        None => params.number("from")?.map(Revision),
    };
    let filter = params.text("filter");
    let mut interest = params.interest()?;
    if filter.is_some() {
        let why = "is over the fields of instances; watch kind=instance with it";
        interest.kinds = this_kind_alone(interest.kinds, Kind::Instance, "filter", why)?;
    }
    let set = params.text("set").map(ShardSetName::new).transpose();
    let set = set.map_err(Invalid::name("set"))?;
    if set.is_some() {
        let why = "is of what workers hold; watch kind=worker with it";
        interest.kinds = this_kind_alone(interest.kinds, Kind::Worker, "set", why)?;
    }
    if let Some(id) = params.text("id") {
        // All ids keep the same rules.
        interest.id = Some(InstanceId::new(id).map_err(Invalid::name("id"))?.into());
        interest.kinds = kinds_with_ids(interest.kinds)?;
    }
    Ok(Asked {
        interest,
        wanted: Wanted::new(filter.as_deref(), None)?,
        set,
        format: format(headers),
        from,
        restart: restart(params)?,
        reading: params.reading()?,
        patience: params.wait()?.unwrap_or(PATIENCE),
    })
}

/// For a parameter that makes sense for one kind alone, `why` telling so.
fn this_kind_alone(
    kinds: Kinds,
    kind: Kind,
    parameter: &'static str,
    why: &str,
) -> Result<Kinds, Invalid> {
    let alone = [kind].into_iter().collect();
    if kinds == Kinds::told() || kinds == alone {
        return Ok(alone);
    }
    Err(Invalid::new(parameter, why))
}

/// Of the kinds, those of which an app has several, each with an id.
fn kinds_with_ids(kinds: Kinds) -> Result<Kinds, Invalid> {
    let with_ids = [Kind::Instance, Kind::Shard, Kind::Document, Kind::Worker].into_iter();
    let kinds: Kinds = with_ids.filter(|kind| kinds.has(*kind)).collect();
    if kinds.is_empty() {
        let why =
            "is of an instance, a shard's instance, a document or a worker; watch those with it";
        return Err(Invalid::new("id", why));
    }
    Ok(kinds)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Revision>, Invalid> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let revision = id.to_str().ok().and_then(|id| id.parse().ok());
    revision.map(Some).ok_or_else(|| Invalid::new(LAST_EVENT_ID, "is not a revision"))
}

fn restart(params: &mut Params) -> Result<bool, Invalid> {
    match params.text("restart").as_deref() {
        None => Ok(false),
        Some("snapshot") => Ok(true),
        Some(_) => Err(Invalid::new("restart", "can only be snapshot")),
    }
}

fn format(headers: &HeaderMap) -> Format {
    let lines = |accept: &http::HeaderValue| {
        accept.to_str().is_ok_and(|text| text.contains("application/x-ndjson"))
    };
    if headers.get_all(ACCEPT).iter().any(lines) { Format::Lines } else { Format::Sse }
}

impl Params {
    /// Whose changes: `app=`, `lock=`, `election=` and `kind=`, each also several times; `kind=` with
    /// commas too. Latches that are named alone are all that is wanted; without any that is named,
    /// those that are named like the apps.
    pub fn interest(&mut self) -> Result<Interest, Invalid> {
        let apps: BTreeSet<_> = self.names("app", AppName::new)?;
        let mut latches = BTreeSet::new();
        for (field, kind) in [("lock", LatchKind::Lock), ("election", LatchKind::Election)] {
            let named: BTreeSet<_> = self.names(field, LatchName::new)?;
            latches.extend(named.into_iter().map(|name| LatchKey::new(kind, name)));
        }
        let kinds = self.all("kind");
        let words = kinds.iter().flat_map(|words| words.split(','));
        let kinds = words.map(kind).collect::<Result<Kinds, _>>()?;
        let only_latches = apps.is_empty() && !latches.is_empty();
        let kinds = match (kinds.is_empty(), only_latches) {
            (false, _) => kinds,
            (true, true) => [Kind::Latch].into_iter().collect(),
            (true, false) => Kinds::told(),
        };
        if !latches.is_empty() && !kinds.has(Kind::Latch) {
            let why = "must have latch with lock= and election=: nothing else is of those";
            return Err(Invalid::new("kind", why));
        }
        if latches.is_empty() && kinds.has(Kind::Latch) {
            latches.extend(apps.iter().flat_map(latches_of));
        }
        Ok(Interest {
            apps: (!apps.is_empty()).then_some(apps),
            kinds,
            latches: (!latches.is_empty()).then_some(latches),
            ..Interest::default()
        })
    }

    /// All values of a parameter that are names.
    fn names<N: Ord>(
        &mut self,
        field: &'static str,
        name: impl Fn(String) -> Result<N, InvalidName>,
    ) -> Result<BTreeSet<N>, Invalid> {
        let names = self.all(field).into_iter().map(name).collect::<Result<BTreeSet<_>, _>>();
        let names = names.map_err(Invalid::name(field))?;
        if names.len() > NAMES_MAX {
            let why = format!("is there {} times; the limit is {NAMES_MAX}", names.len());
            return Err(Invalid::new(field, why));
        }
        Ok(names)
    }
}

/// The lock and the election that are named like an app.
fn latches_of(app: &AppName) -> [LatchKey; 2] {
    let name = LatchName::new(SmolStr::from(app.clone())).expect("an app's name is a latch's name");
    [LatchKind::Lock, LatchKind::Election].map(|kind| LatchKey::new(kind, name.clone()))
}

fn kind(word: &str) -> Result<Kind, Invalid> {
    Kind::TOLD.into_iter().find(|kind| kind.word() == word).ok_or_else(|| {
        let known = Kind::TOLD.map(Kind::word).join(", ");
        Invalid::new("kind", format!("{word:?} is not known; there are {known}"))
    })
}
