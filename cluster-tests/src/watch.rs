//! Watches over plain HTTP, with the connection in the test's own hand.
//!
//! [`Stream`] gives the lines of one watch, [`Listener`] checks each against what was told before
//! (S10), and [`Chronicle`] holds what all listeners, lists and writers of a test saw against each
//! other: it must be one history.

mod chronicle;
mod listener;

use std::io::BufRead;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::client::{At, Failed, Problem};

pub use chronicle::{Checked, Chronicle, Write};
pub use listener::{Interest, Listener, Run, Snapshot};

/// How long a node may take to begin a stream, beside what it was told to wait.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// No stream of a test lasts so long.
const STREAM_TIMEOUT: Duration = Duration::from_secs(600);

/// So little that a node notices at once that nobody reads.
const SMALL_BUFFER: u32 = 4 * 1024;

/// One line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    SnapshotBegin(u64),
    SnapshotEnd(u64),
    /// A change, or an object of a snapshot.
    Event(Event),
    Bookmark(u64),
    Lagging(u64),
    Compacted {
        restart_from: u64,
    },
    Bye(u64),
}

/// The object of an event, without its `more`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub revision: u64,
    /// Whether another event of this revision follows.
    pub more: bool,
    pub object: Value,
}

impl Event {
    pub fn word(&self, name: &str) -> &str {
        self.object[name].as_str().unwrap_or_default()
    }
}

impl Line {
    pub fn parse(text: &str) -> Self {
        let mut object: Value =
            serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in the line {text}"));
        let number = |name: &str| {
            object[name].as_u64().unwrap_or_else(|| panic!("there is no {name} in {text}"))
        };
        match object["event"].as_str() {
            Some("snapshot-begin") => Self::SnapshotBegin(number("revision")),
            Some("snapshot-end") => Self::SnapshotEnd(number("revision")),
            Some("bookmark") => Self::Bookmark(number("revision")),
            Some("lagging") => Self::Lagging(number("revision")),
            Some("bye") => Self::Bye(number("revision")),
            Some("compacted") => Self::Compacted { restart_from: number("restart_from") },
            Some("put" | "delete") => {
                let revision = number("revision");
                let more = object.as_object_mut().and_then(|fields| fields.remove("more"));
                let more = more == Some(Value::Bool(true));
                Self::Event(Event { revision, more, object })
            }
            _ => panic!("an unknown line: {text}"),
        }
    }
}

/// How a stream ended that told nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection broke, as it does when a node dies.
    Broke(String),
    /// The node ended its answer in good order.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Lines,
    /// Server-Sent Events; each is checked against the object that it carries.
    Sse,
}

/// A watch that is open at one node. Dropping it closes the connection.
pub struct Stream {
    source: Source,
    form: Form,
    buffer: Vec<u8>,
    /// SSE gives ids only behind a snapshot.
    in_snapshot: bool,
}

enum Source {
    Http(Response),
    Raw(TcpStream),
}

impl Stream {
    /// `query` as in `app=pay&from=812`. A refusal that comes instead of a stream is an error.
    pub async fn open(at: &At<'_>, query: &str, form: Form) -> Result<Self, Failed> {
        Self::open_after(at, query, form, None).await
    }

    /// The same with a `Last-Event-ID`, as an `EventSource` sends it.
    pub async fn open_after(
        at: &At<'_>,
        query: &str,
        form: Form,
        last_event_id: Option<u64>,
    ) -> Result<Self, Failed> {
        let accept = match form {
            Form::Lines => "application/x-ndjson",
            Form::Sse => "text/event-stream",
        };
        let mut request = at.request(Method::GET, &format!("/v1/watch?{query}"));
        request = request.header("accept", accept).timeout(STREAM_TIMEOUT);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        match timeout(BEGINS_WITHIN, at.begin(request)).await {
            Ok(response) => Ok(Self::of(Source::Http(response?), form)),
            Err(_) => Err(Failed::Nothing(Problem {
                status: None,
                code: "no-answer".into(),
                detail: format!("no stream began within {BEGINS_WITHIN:?}"),
                body: Value::Null,
                retry_after: None,
            })),
        }
    }

    /// A stream whose reader can hardly buffer anything, so that what it does not read stays with
    /// the node.
    pub async fn open_small(address: SocketAddr, query: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(SMALL_BUFFER).expect("a small buffer");
        let mut connection = socket.connect(address).await.expect("it takes connections");
        // HTTP/1.0: the lines come as they are, up to the end of the connection.
        let request = format!(
            "GET /v1/watch?{query} HTTP/1.0\r\nhost: {address}\r\naccept: application/x-ndjson\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.expect("a head"));
        }
        assert!(head.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&head));
        Self::of(Source::Raw(connection), Form::Lines)
    }

    fn of(source: Source, form: Form) -> Self {
        Self { source, form, buffer: Vec::new(), in_snapshot: false }
    }

    /// The next line; waits for it.
    pub async fn next(&mut self) -> Result<Line, End> {
        let line = match self.form {
            Form::Lines => Line::parse(&self.text().await?),
            Form::Sse => self.event().await?,
        };
        match line {
            Line::SnapshotBegin(_) => self.in_snapshot = true,
            Line::SnapshotEnd(_) => self.in_snapshot = false,
            Line::Event(_)
            | Line::Bookmark(_)
            | Line::Lagging(_)
            | Line::Compacted { .. }
            | Line::Bye(_) => {}
        }
        Ok(line)
    }

    /// The next line that comes within `limit`.
    pub async fn next_within(&mut self, limit: Duration) -> Option<Result<Line, End>> {
        // Nothing is lost: what was read of a line stays in the buffer.
        timeout(limit, self.next()).await.ok()
    }

    /// One Server-Sent Event: its name and its id must say what the object says.
    async fn event(&mut self) -> Result<Line, End> {
        let (mut name, mut id, mut data, mut reset) = (None, None, None, false);
        while data.is_none() {
            // Read as a whole, so that a reader that gives up waiting loses no part of one.
            let block = self.until(b"\n\n").await?;
            for line in block.lines() {
                if line == "id:" {
                    reset = true;
                    continue;
                }
                match line.split_once(": ") {
                    Some(("event", text)) => name = Some(text.to_owned()),
                    Some(("id", text)) => id = Some(text.parse().expect("an id is a revision")),
                    Some(("data", text)) => data = Some(text.to_owned()),
                    Some(_) | None => panic!("not a line of an event: {line:?}"),
                }
            }
        }
        let data = data.unwrap_or_default();
        let line = Line::parse(&data);
        let object: Value = serde_json::from_str(&data).expect("it was parsed");
        assert_eq!(name.as_deref(), object["event"].as_str(), "the event's name: {data}");
        assert_eq!(id, self.resume_from(&line), "S10: the id of {data}");
        let begins_anew = matches!(line, Line::SnapshotBegin(_) | Line::Compacted { .. });
        assert_eq!(reset, begins_anew, "S10: nothing to resume from within a snapshot: {data}");
        Ok(line)
    }

    /// Up to where everything was told with this line.
    fn resume_from(&self, line: &Line) -> Option<u64> {
        match line {
            Line::Event(event) if !event.more && !self.in_snapshot => Some(event.revision),
            Line::SnapshotEnd(at) | Line::Bookmark(at) | Line::Lagging(at) | Line::Bye(at) => {
                Some(*at)
            }
            Line::Event(_) | Line::SnapshotBegin(_) | Line::Compacted { .. } => None,
        }
    }

    /// The next line as it is, where each line is one.
    pub async fn text(&mut self) -> Result<String, End> {
        assert_eq!(self.form, Form::Lines, "events of another form are several lines");
        self.until(b"\n").await
    }

    /// What comes before the next `end`.
    async fn until(&mut self, end: &[u8]) -> Result<String, End> {
        let mut looked_at = 0;
        loop {
            let found = position(&self.buffer[looked_at..], end);
            if let Some(at) = found {
                let text = self.buffer[..looked_at + at].to_vec();
                self.buffer.drain(..looked_at + at + end.len());
                return Ok(String::from_utf8(text).expect("text"));
            }
            looked_at = (self.buffer.len() + 1).saturating_sub(end.len());
            let more = self.source.read().await?;
            self.buffer.extend_from_slice(&more);
        }
    }
}

/// Where `end` begins. Lines are found fast in debug builds too: some tests read hundreds of thousands.
fn position(bytes: &[u8], end: &[u8]) -> Option<usize> {
    let [end] = end else { return bytes.windows(end.len()).position(|part| part == end) };
    let upto = (&mut &*bytes).skip_until(*end).expect("bytes in memory can be read");
    upto.checked_sub(1).filter(|at| bytes[*at] == *end)
}

impl Source {
    async fn read(&mut self) -> Result<Vec<u8>, End> {
        match self {
            Self::Http(response) => match response.chunk().await {
                Ok(Some(bytes)) => Ok(bytes.to_vec()),
                Ok(None) => Err(End::Closed),
                Err(e) => Err(End::Broke(format!("{e:?}"))),
            },
            Self::Raw(connection) => {
                let mut bytes = vec![0; 16 * 1024];
                match connection.read(&mut bytes).await {
                    Ok(0) => Err(End::Closed),
                    Ok(count) => {
                        bytes.truncate(count);
                        Ok(bytes)
                    }
                    Err(e) => Err(End::Broke(e.to_string())),
                }
            }
        }
    }
}
