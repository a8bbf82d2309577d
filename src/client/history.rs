//! The history: past events, page by page.

use roster_storage::names::Revision;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Client;
use super::call::Call;
use super::error::Error;
use super::event::Event;

/// No page is larger.
const PAGE_MAX: usize = 1_000;

/// In which order the history is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By revision.
    Ascending,
    /// The newest first.
    #[default]
    Descending,
}

/// Which past events to read. The default is all of them, the newest first.
#[derive(Clone, Debug, Default)]
pub struct EventsRequest {
    /// Only of this app.
    pub app: Option<String>,
    /// Only of this instance.
    pub instance: Option<String>,
    /// Of all latches only these locks, and `elections`; as a watch takes them.
    pub locks: Vec<String>,
    /// Of all latches only these elections, and `locks`.
    pub elections: Vec<String>,
    /// Only of these kinds; all, if there are none.
    pub kinds: Vec<String>,
    /// After this revision or RFC 3339 time.
    pub since: Option<String>,
    /// Up to this revision or RFC 3339 time.
    pub until: Option<String>,
    /// In which order.
    pub order: Order,
    /// At most so many; all, if not given.
    pub limit: Option<usize>,
}

/// Some of the asked events.
#[derive(Clone, Debug)]
pub struct Page {
    /// In the asked order.
    pub events: Vec<Event>,
    /// The revisions that the node's history has, from and to, both included. What lies between two
    /// of them is not known there.
    pub covered: Vec<(Revision, Revision)>,
    /// The revisions that were asked for and that the node's history does not have, from and to, both
    /// included: what happened in them is not in the events. If nothing is missing there are none.
    /// Which revision belongs to a time is not known here: `since` a time counts as from the
    /// beginning on, `until` a time as up to now.
    pub missing: Vec<(Revision, Revision)>,
}

/// A walk through the history.
#[derive(Debug)]
pub struct Events {
    client: Client,
    request: EventsRequest,
    cursor: Option<String>,
    given: usize,
    over: bool,
}

#[derive(Deserialize)]
struct Wire {
    events: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
    #[serde(default)]
    covered: Vec<(Revision, Revision)>,
}

impl Client {
    /// Begins to read the history; nothing is sent before [`Events::next_page`] is called.
    pub fn events(&self, request: EventsRequest) -> Events {
        Events { client: self.clone(), request, cursor: None, given: 0, over: false }
    }
}

impl Events {
    /// The next page; `None` after the last one. A page may be empty and not the last: a node does
    /// not search for long before it answers.
    ///
    /// # Errors
    /// See [`Client::send`]. The same page is asked for again by another call.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        match self.over {
            true => Ok(None),
            false => self.read().await.map(Some),
        }
    }

    async fn read(&mut self) -> Result<Page, Error> {
        let answer = self.client.send(self.call()).await?;
        let Wire { events, next_cursor, covered } = answer.json()?;
        let mut events = events
            .iter()
            .map(|event| Event::parse(event.get()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| answer.not_understood(why))?;
        if next_cursor.is_some() && next_cursor == self.cursor {
            return Err(answer.not_understood("the cursor of the next page is this one's".into()));
        }
        events.truncate(self.left());
        self.given += events.len();
        self.over = next_cursor.is_none() || self.left() == 0;
        self.cursor = next_cursor;
        // A node tells in each answer where it is; what it knows is at most that.
        let newest = answer.revision.or(covered.last().map(|(_, to)| *to)).unwrap_or_default();
        let missing = self.request.asked(newest).missing_in(&covered);
        Ok(Page { events, covered, missing })
    }

    fn left(&self) -> usize {
        self.request.limit.map_or(usize::MAX, |limit| limit.saturating_sub(self.given))
    }

    fn call(&self) -> Call {
        let request = &self.request;
        let mut call =
            Call::get("/v1/events".into()).query("limit", self.left().clamp(1, PAGE_MAX));
        let texts = [
            ("app", &request.app),
            ("instance", &request.instance),
            ("since", &request.since),
            ("until", &request.until),
            ("cursor", &self.cursor),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                call = call.query(name, text);
            }
        }
        for (name, values) in [("lock", &request.locks), ("election", &request.elections)] {
            for value in values {
                call = call.query(name, value);
            }
        }
        if !request.kinds.is_empty() {
            call = call.query("kind", request.kinds.join(","));
        }
        match request.order {
            Order::Ascending => call.query("order", "asc"),
            Order::Descending => call.query("order", "desc"),
        }
    }
}

/// All revisions after one, up to another one.
#[derive(Clone, Copy, Debug)]
struct Range {
    after: Revision,
    upto: Revision,
}

impl EventsRequest {
    /// What is asked for, of a node that is at this revision.
    fn asked(&self, newest: Revision) -> Range {
        let revision = |bound: &Option<String>| bound.as_deref()?.parse::<Revision>().ok();
        let after = revision(&self.since).unwrap_or_default();
        Range { after, upto: revision(&self.until).unwrap_or(newest).min(newest) }
    }
}

impl Range {
    /// What lies in none of these ranges, which are in ascending order.
    fn missing_in(self, covered: &[(Revision, Revision)]) -> Vec<(Revision, Revision)> {
        let next = |revision: Revision| Revision(revision.0.saturating_add(1));
        let mut missing = Vec::new();
        let mut known = self.after;
        for (from, to) in covered {
            let before = Revision(from.0.saturating_sub(1)).min(self.upto);
            if before > known {
                missing.push((next(known), before));
            }
            known = known.max(*to);
        }
        if self.upto > known {
            missing.push((next(known), self.upto));
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(
        since: Option<&str>,
        until: Option<&str>,
        covered: &[(u64, u64)],
    ) -> Vec<(u64, u64)> {
        let request = EventsRequest {
            since: since.map(Into::into),
            until: until.map(Into::into),
            ..EventsRequest::default()
        };
        let covered: Vec<_> =
            covered.iter().map(|(from, to)| (Revision(*from), Revision(*to))).collect();
        let missing = request.asked(Revision(90)).missing_in(&covered);
        missing.into_iter().map(|(from, to)| (from.0, to.0)).collect()
    }

    #[test]
    fn what_was_asked_for_and_lies_in_no_range_is_missing() {
        let ranges = [(11, 20), (31, 80)];
        assert_eq!(missing(None, None, &ranges), [(1, 10), (21, 30), (81, 90)]);
        assert_eq!(missing(Some("4"), Some("25"), &ranges), [(5, 10), (21, 25)]);
        assert_eq!(missing(Some("22"), Some("40"), &ranges), [(23, 30)]);
        assert_eq!(missing(Some("30"), Some("80"), &ranges), []);
        assert_eq!(missing(Some("10"), Some("20"), &ranges), []);
        assert_eq!(missing(None, None, &[]), [(1, 90)]);
        assert_eq!(missing(None, None, &[(1, 90)]), []);
    }

    #[test]
    fn what_has_not_happened_yet_is_not_missing() {
        assert_eq!(missing(None, Some("500"), &[(1, 90)]), []);
        assert_eq!(missing(Some("100"), None, &[(1, 90)]), []);
        assert_eq!(missing(Some("100"), Some("50"), &[]), []);
    }

    #[test]
    fn a_time_may_lie_in_whatever_is_missing() {
        let time = Some("2026-11-21T20:36:17Z");
        assert_eq!(missing(time, time, &[(11, 80)]), [(1, 10), (81, 90)]);
    }
}
