//! `GET /v1/events`: the history.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster_storage::events::{Interest, Kind, Kinds};
use roster_storage::names::{InstanceId, Revision};

use crate::answer::{Answer, Answered};
use crate::error::{ApiError, Invalid};
use crate::extract::{Params, Reading};
use crate::filter::Wanted;
use crate::lists::Paging;
use crate::openapi::parameters::{Interesting, WhichEvents};
use crate::openapi::refusals::{READ, Refused};
use crate::openapi::shapes::EventList;
use crate::registry::{Past, PastChanges};
use crate::wire::event::{HistoryView, pick};
use crate::{Api, Shared};

/// Changes that are read at once.
const STEP: usize = 256;

/// Time that one page may take: a search for rare events is given on in pages, however short.
const PAGE_TIME: Duration = Duration::from_secs(1);

/// The history. A page may be short and not the last.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "listEvents",
    tag = "events",
    params(Reading, Paging, Interesting, WhichEvents),
    responses(
        (status = 200, description = "A page of events.", body = EventList),
        Refused::<{ READ }>,
    ),
)]
pub(super) async fn events(State(api): Shared, mut params: Params) -> Answered {
    let (reading, paging) = (params.reading()?, params.paging()?);
    let interest = interest(&mut params)?;
    let newest_first = newest_first(&mut params)?;
    let since = params.text("since").map(|text| bound("since", &text)).transpose()?;
    let until = params.text("until").map(|text| bound("until", &text)).transpose()?;
    params.end()?;
    let version = api.read(reading).await?;
    let newest = version.revision();
    let here = api.clone();
    let asked = Asked { interest, newest_first, since, until, paging };
    let read = async move { read(&here, asked, newest).await };
    let body = api.aside(read).await??;
    Ok(Answer::json_body(body).at(newest).read(reading.consistency))
}

/// Which events are wanted.
struct Asked {
    interest: Interest,
    newest_first: bool,
    since: Option<Bound>,
    until: Option<Bound>,
    paging: Paging,
}

/// One page, as it is answered.
async fn read(api: &Api, asked: Asked, newest: Revision) -> Result<Body, ApiError> {
    let Asked { interest, newest_first, since, until, paging } = asked;
    let after = api.revision_of(since, Revision(0)).await;
    let upto = api.revision_of(until, newest).await.min(newest);
    let mut page = Page {
        past: Past { interest, after, upto, newest_first, count: STEP },
        begun: None,
        limit: paging.limit,
        view: HistoryView::default(),
    };
    if let Some(cursor) = paging.cursor() {
        page.go_on(cursor)?;
    }
    let next = page.fill(api).await?;
    let covered = api.registry.covered().await;
    let body = page.view.body(next.map(|next| next.text(newest_first)), &covered);
    Ok(body.into())
}

/// Where a page ends in the middle of the past: this event of this revision comes next. It is counted
/// among those that clients are told of, which are the same in memory, on disk and on every node.
#[derive(Clone, Copy)]
struct Next {
    revision: Revision,
    ordinal: usize,
}

impl Next {
    fn text(self, newest_first: bool) -> String {
        let order = if newest_first { "d" } else { "a" };
        URL_SAFE_NO_PAD.encode(format!("{order}/{}/{}", self.revision, self.ordinal))
    }

    fn read(cursor: &str, newest_first: bool) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.split('/');
        let (order, revision, ordinal) = (parts.next()?, parts.next()?, parts.next()?);
        (order == if newest_first { "d" } else { "a" })
            .then_some(Self { revision: revision.parse().ok()?, ordinal: ordinal.parse().ok()? })
    }
}

struct Page {
    past: Past,
    /// The page before ended in the middle of this revision.
    begun: Option<Next>,
    limit: usize,
    view: HistoryView,
}

impl Page {
    fn go_on(&mut self, cursor: &str) -> Result<(), Invalid> {
        let next = Next::read(cursor, self.past.newest_first).ok_or_else(|| {
            Invalid::new("cursor", "is not one that Roster gave for this order of events")
        })?;
        let revision = next.revision;
        match self.past.newest_first {
            true => self.past.upto = self.past.upto.min(revision),
            false => {
                let before = Revision(revision.0.saturating_sub(1));
                self.past.after = self.past.after.max(before);
            }
        }
        self.begun = Some(next);
        Ok(())
    }

    /// Reads until the page is full, the past is over, or the time is.
    async fn fill(&mut self, api: &Api) -> Result<Option<Next>, ApiError> {
        let started = Instant::now();
        while self.past.after < self.past.upto {
            let step = api.registry.past(self.past.clone()).await.map_err(ApiError::of_read)?;
            if let Some(next) = self.take(&step) {
                return Ok(Some(next));
            }
            match self.past.newest_first {
                true => self.past.upto = step.reached,
                false => self.past.after = step.reached,
            }
            if started.elapsed() > PAGE_TIME && self.past.after < self.past.upto {
                return Ok(Some(self.rest()));
            }
        }
        Ok(None)
    }

    /// What comes next where no event does.
    fn rest(&self) -> Next {
        match self.past.newest_first {
            true => Next { revision: self.past.upto, ordinal: usize::MAX },
            false => Next { revision: Revision(self.past.after.0 + 1), ordinal: 0 },
        }
    }

    /// Returns what comes next if the page is full.
    fn take(&mut self, step: &PastChanges) -> Option<Next> {
        for change in &step.changes {
            let revision = change.at.revision;
            let notices = change.notices().enumerate();
            let wanted = notices.filter(|(_, notice)| self.past.interest.wants(*notice));
            let mut wanted: Vec<_> = wanted.collect();
            if let Some(begun) = self.begun.filter(|begun| begun.revision == revision) {
                wanted.retain(|(ordinal, _)| match self.past.newest_first {
                    true => *ordinal <= begun.ordinal,
                    false => *ordinal >= begun.ordinal,
                });
            }
            if self.past.newest_first {
                wanted.reverse();
            }
            for (ordinal, notice) in wanted {
                if self.view.len() == self.limit {
                    return Some(Next { revision, ordinal });
                }
                let picked = pick(notice, &Wanted::default());
                picked.iter().for_each(|pick| self.view.add(change, pick));
            }
        }
        None
    }
}

/// A revision or a time.
#[derive(Clone, Copy)]
enum Bound {
    Revision(Revision),
    WallMs(u64),
}

fn bound(field: &'static str, text: &str) -> Result<Bound, Invalid> {
    if let Ok(revision) = text.parse() {
        return Ok(Bound::Revision(revision));
    }
    let wrong = || Invalid::new(field, "must be a revision or a time such as 2026-11-21T20:36:17Z");
    let time = humantime::parse_rfc3339(text).map_err(|_| wrong())?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong())?;
    u64::try_from(since.as_millis()).map(Bound::WallMs).map_err(|_| wrong())
}

impl Api {
    /// The last revision up to a bound.
    async fn revision_of(&self, bound: Option<Bound>, without: Revision) -> Revision {
        match bound {
            None => without,
            Some(Bound::Revision(revision)) => revision,
            Some(Bound::WallMs(wall_ms)) => {
                self.registry.revision_at(wall_ms.saturating_add(1)).await
            }
        }
    }
}

fn interest(params: &mut Params) -> Result<Interest, Invalid> {
    let mut interest = params.interest()?;
    let Some(instance) = params.text("instance") else { return Ok(interest) };
    let id = InstanceId::new(instance).map_err(Invalid::name("instance"))?;
    interest.id = Some(id.into());
    let of_instances = [Kind::Instance, Kind::Shard].into_iter();
    interest.kinds = of_instances.filter(|kind| interest.kinds.has(*kind)).collect::<Kinds>();
    if interest.kinds.is_empty() {
        let why = "must be instance or shard with instance=: other things have no instance";
        return Err(Invalid::new("kind", why));
    }
    Ok(interest)
}

fn newest_first(params: &mut Params) -> Result<bool, Invalid> {
    match params.text("order").as_deref() {
        None | Some("desc") => Ok(true),
        Some("asc") => Ok(false),
        Some(_) => Err(Invalid::new("order", "must be asc or desc")),
    }
}
