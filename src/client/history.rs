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
    /// The next page, with at least one event unless it is the first; `None` after the last one.
    ///
    /// # Errors
    /// See [`Client::send`]. The same page is asked for again by another call.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        while !self.over {
            let first = self.cursor.is_none();
            let page = self.read().await?;
            if first || !page.events.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
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
        Ok(Page { events, covered })
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
        if !request.kinds.is_empty() {
            call = call.query("kind", request.kinds.join(","));
        }
        match request.order {
            Order::Ascending => call.query("order", "asc"),
            Order::Descending => call.query("order", "desc"),
        }
    }
}
