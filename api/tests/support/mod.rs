//! A registry of one: the real state machine without a log, and a client that talks to the real
//! router.

#![allow(dead_code, reason = "each test file uses its part of it")]

pub mod document;
pub mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use document::Document;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use roster_api::beats::{Batch, BeatsBody, BodyAnswer, Summary};
use roster_api::registry::*;
use roster_api::{ApiOptions, router};
use roster_storage::catalog::At;
use roster_storage::command::{Command, EncodedCommand, Outcome, Rebalance, Stamp};
use roster_storage::events::{Change, EventLog, EventLogLimits, Interest};
use roster_storage::names::{NodeId, Revision, SessionId};
use roster_storage::raft_types::LogId;
use roster_storage::version::Version;
use serde_json::Value;
use tokio::sync::Notify;
use tower::ServiceExt;

tokio::task_local! {
    /// Set where work is done aside.
    static IN_TURN: ();
}

/// Without a leader this takes seconds, and others wait for the turn.
fn holds_no_turn() {
    assert!(IN_TURN.try_with(|()| ()).is_err(), "the leader is waited for in a turn");
}

pub const NODE: NodeId = 1;
pub const STARTED_MS: u64 = 1_795_293_377_350;

#[derive(Default)]
pub struct Alone {
    version: Mutex<Arc<Version>>,
    heard: Mutex<BTreeMap<SessionId, Heard>>,
    pub commands: Mutex<Vec<Command>>,
    /// All that came in.
    pub beats: Mutex<Vec<Beat>>,
    pub fail: Mutex<Option<Unavailable>>,
    /// Only commands after so many fail.
    pub fail_after: AtomicU64,
    /// Commands that failed.
    pub failed: AtomicU64,
    pub not_ready: AtomicBool,
    pub ago_ms: AtomicU64,
    /// As an earlier version: heartbeats come read already.
    pub takes_no_bodies: AtomicBool,
    /// The bodies of many heartbeats that came to the leader, as they were.
    pub bodies: Mutex<Vec<BeatsBody>>,
    /// How many entries the leader is ahead of this node when it answers heartbeats.
    pub ahead: AtomicU64,
    /// What took long, and what was to become of it if others did too.
    pub aside: Mutex<Vec<IfBusy>>,
    /// Why nothing that takes long is begun.
    pub busy: Mutex<Option<Unavailable>>,
    pub log: Arc<Told>,
}

/// What was told so far, and whoever waits for more.
pub struct Told {
    log: Mutex<EventLog>,
    grown: Notify,
    pub stopping: AtomicBool,
}

impl Default for Told {
    fn default() -> Self {
        let limits = EventLogLimits { changes_max: 10_000, bytes_max: u64::MAX };
        Self {
            log: Mutex::new(EventLog::starting_after(Revision(0), limits)),
            grown: Notify::new(),
            stopping: AtomicBool::new(false),
        }
    }
}

impl Told {
    /// Everything so far is forgotten, as after a checkpoint of another node.
    pub fn forget(&self) {
        let mut log = self.log.lock();
        let newest = log.newest();
        log.jump(newest);
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.grown.notify_waiters();
    }
}

/// Reads the log from one position on.
struct Following {
    told: Arc<Told>,
    interest: Interest,
    position: Revision,
}

#[async_trait]
impl Feed for Following {
    async fn next(&mut self, patience: Duration) -> roster_api::registry::Told {
        use roster_api::registry::Told as Next;
        loop {
            let grown = self.told.grown.notified();
            if self.told.stopping.load(Ordering::Relaxed) {
                return Next::Stopping(self.position);
            }
            let step = self.told.log.lock().after(self.position, 1);
            let (mut changes, upto) = match step {
                Ok(step) => step,
                Err(_) => return Next::Compacted { restart_from: self.told.log.lock().newest() },
            };
            // Also past entries that changed nothing.
            self.position = upto;
            if changes.is_empty() && tokio::time::timeout(patience, grown).await.is_err() {
                return Next::UpTo(self.position);
            }
            changes.retain(|change| self.interest.touched_by(change));
            if !changes.is_empty() {
                return Next::Changes(changes);
            }
        }
    }
}

impl Alone {
    /// What the leader proposes when what a plan rests on has changed.
    pub async fn rebalance(&self, set: &str) {
        let sets = vec![set.parse().expect("a name")];
        let outcome = self.propose(Command::Rebalance(Rebalance { sets })).await;
        outcome.expect("an answer").result.expect("a plan");
    }

    fn check(&self) -> Result<(), Unavailable> {
        self.fail.lock().clone().map_or(Ok(()), Err)
    }

    pub fn version(&self) -> Arc<Version> {
        self.version.lock().clone()
    }

    pub fn written(&self) -> usize {
        self.commands.lock().len()
    }
}

/// A place in the log; made as one comes off the wire, since openraft's own types stay in storage.
fn log_id(index: u64) -> LogId {
    let text = serde_json::json!({"leader_id": 1, "index": index});
    serde_json::from_value(text).expect("a log id")
}

#[async_trait]
impl Registry for Alone {
    async fn propose(&self, command: Command) -> Result<Outcome, Unavailable> {
        if self.written() as u64 >= self.fail_after.load(Ordering::Relaxed) {
            self.check().inspect_err(|_| {
                self.failed.fetch_add(1, Ordering::Relaxed);
            })?;
        }
        let command = EncodedCommand::new(&command)?.decode().expect("it was just encoded");
        let mut current = self.version.lock();
        let mut next = Version::clone(&current);
        let index = next.revision().0 + 1;
        let stamp = Stamp { cluster_ms: index * 10, wall_ms: STARTED_MS + index };
        let at = At { revision: Revision(index), term: 1, stamp };
        let (outcome, events) = next.catalog.apply(at, &command);
        next.applied = Some(log_id(index));
        *current = Arc::new(next);
        self.log.log.lock().push(Arc::new(Change::new(at, events)));
        self.log.grown.notify_waiters();
        self.commands.lock().push(command);
        Ok(outcome)
    }

    async fn read(
        &self,
        consistency: Consistency,
        _: Option<Revision>,
    ) -> Result<Arc<Version>, Unavailable> {
        match consistency {
            Consistency::Linearizable => {
                holds_no_turn();
                self.check()?;
            }
            Consistency::Stale => {}
        }
        Ok(self.version())
    }

    fn newest(&self) -> Arc<Version> {
        self.version()
    }

    async fn follow(
        &self,
        interest: Interest,
        after: Revision,
        _: Duration,
    ) -> Result<Box<dyn Feed>, NotFollowed> {
        let current = self.version().revision();
        if current < after {
            return Err(NotFollowed::Ahead { current });
        }
        if let Some(why) = self.fail.lock().clone() {
            return Err(why.into());
        }
        let told = self.log.clone();
        if told.log.lock().after(after, 1).is_err() {
            return Err(NotFollowed::Compacted { restart_from: current });
        }
        Ok(Box::new(Following { told, interest, position: after }))
    }

    async fn past(&self, past: Past) -> Result<PastChanges, Unavailable> {
        let log = self.log.log.lock();
        let (mut changes, reached) = match past.newest_first {
            true => log.before(Revision(past.upto.0 + 1), 1),
            false => log.after(past.after.max(log.floor()), 1).expect("it is kept"),
        };
        changes.retain(|change| {
            change.at.revision > past.after
                && change.at.revision <= past.upto
                && past.interest.touched_by(change)
        });
        let reached = match past.newest_first {
            true => reached.max(past.after),
            false => reached.min(past.upto),
        };
        Ok(PastChanges { changes, reached })
    }

    async fn covered(&self) -> Vec<(Revision, Revision)> {
        let log = self.log.log.lock();
        vec![(Revision(log.floor().0 + 1), log.newest())]
    }

    async fn revision_at(&self, wall_ms: u64) -> Revision {
        let (changes, _) = self.log.log.lock().before(Revision(u64::MAX), usize::MAX);
        let found = changes.iter().find(|change| change.at.stamp.wall_ms < wall_ms);
        found.map(|change| change.at.revision).unwrap_or_default()
    }

    async fn heartbeat(&self, beats: Vec<Beat>) -> Result<BeatAnswers, Unavailable> {
        self.check()?;
        let version = self.version();
        let catalog = &version.catalog;
        let mut each = Vec::new();
        self.beats.lock().extend(beats.iter().cloned());
        for Beat { target, mark, adopted } in beats {
            let session = match &target {
                BeatTarget::Session(session) => Ok(*session),
                BeatTarget::Instance { key, incarnation } => match catalog.instance(key) {
                    None => Err(BeatRefused::UnknownInstance),
                    Some(live) if incarnation.is_some_and(|i| i != live.incarnation) => {
                        Err(BeatRefused::StaleIncarnation { current: live.incarnation })
                    }
                    Some(live) => Ok(live.session),
                },
            };
            each.push(session.and_then(|session| {
                let known = catalog.session(session).ok_or(BeatRefused::UnknownSession(session))?;
                // Nobody else is here who could adopt less.
                let heard = Heard { wall_ms: STARTED_MS + 500, ago_ms: 0, mark };
                self.heard.lock().insert(session, heard);
                Ok(Renewed { session, ttl_ms: known.ttl_ms(), settled: adopted.clone() })
            }));
        }
        let revision = Revision(version.revision().0 + self.ahead.load(Ordering::Relaxed));
        Ok(BeatAnswers { revision, each })
    }

    async fn heartbeats(&self, body: BeatsBody) -> Result<(Revision, BodyAnswer), Unavailable> {
        self.check()?;
        self.bodies.lock().push(body.clone());
        let Some(batch) =
            Batch::read(&body).filter(|_| !self.takes_no_bodies.load(Ordering::Relaxed))
        else {
            return Ok((self.version().revision(), BodyAnswer::NotRead));
        };
        let sessions = batch.sessions().map(|session| Beat::of(BeatTarget::Session(session)));
        let instances = batch.instances().iter().map(|beat| {
            let key = beat.key().expect("it was checked");
            let adopted = beat.adopted.map(|epoch| (key.app.clone(), epoch)).into_iter().collect();
            let target = BeatTarget::Instance { key, incarnation: beat.incarnation };
            Beat { adopted, ..Beat::of(target) }
        });
        let beats: Vec<_> = sessions.chain(instances).collect();
        let BeatAnswers { revision, each } = self.heartbeat(beats.clone()).await?;
        let mut summary = Summary::default();
        for (beat, answer) in beats.into_iter().zip(each) {
            match answer {
                Ok(renewed) => {
                    summary.renewed(renewed.ttl_ms);
                    summary.settled(renewed.settled);
                }
                Err(why) => summary.failed(&beat.target, why),
            }
        }
        Ok((revision, BodyAnswer::Renewed(summary.write(body.encoding))))
    }

    async fn last_heard(
        &self,
        sessions: Vec<SessionId>,
    ) -> Result<Vec<Option<Heard>>, Unavailable> {
        holds_no_turn();
        self.check()?;
        let heard = self.heard.lock();
        let fresh = Heard { wall_ms: STARTED_MS, ago_ms: 0, mark: None };
        let ago_ms = self.ago_ms.load(Ordering::Relaxed);
        let of = |id| Heard { ago_ms, ..heard.get(id).copied().unwrap_or(fresh) };
        Ok(sessions.iter().map(|id| Some(of(id))).collect())
    }

    async fn aside(
        &self,
        work: BoxFuture<'static, ()>,
        if_busy: IfBusy,
    ) -> Result<(), Unavailable> {
        self.aside.lock().push(if_busy);
        if let (Some(why), IfBusy::Refuse) = (self.busy.lock().clone(), if_busy) {
            return Err(why);
        }
        IN_TURN.scope((), work).await;
        Ok(())
    }

    fn glance(&self) -> Glance {
        let leader = if self.fail.lock().is_some() { None } else { Some(NODE) };
        Glance { node: NODE, term: 1, leader, applied: self.version().revision() }
    }

    fn node(&self) -> NodeStatus {
        let version = self.version();
        let result = match self.not_ready.load(Ordering::Relaxed) {
            true => Err("no leader is known".to_owned()),
            false => Ok(()),
        };
        NodeStatus {
            id: NODE,
            cluster_id: Some("c1".into()),
            role: Role::Leader,
            leader: Some(NODE),
            term: 1,
            commit: version.revision().0,
            applied: version.revision().0,
            state_hash: 0xabc,
            state_hashes: vec![(1024, 0xdef)],
            version: "0.1.0",
            checks: vec![Check { name: "disk", result: Ok(()) }, Check { name: "leader", result }],
            cpu_seconds: 1.5,
            memory_bytes: 4096,
            loading: None,
        }
    }

    fn metrics(&self, form: Exposition) -> String {
        format!("{form:?}")
    }

    fn brake_settings(&self) -> BrakeSettings {
        BrakeSettings::default()
    }

    async fn cluster(&self) -> ClusterStatus {
        let answer = ClusterNodeAnswer {
            role: Role::Leader,
            commit: 9,
            applied: 7,
            state_hash: 0xabc,
            version: "0.1.0".into(),
        };
        let node = |id, answer| ClusterNode {
            id,
            api: format!("127.0.0.1:740{id}"),
            peer: format!("127.0.0.1:750{id}"),
            answer,
        };
        ClusterStatus {
            cluster_id: Some("c1".into()),
            leader: Some(NODE),
            term: 1,
            nodes: vec![node(1, Some(answer)), node(2, None)],
            alarms: vec![Alarm { code: "disk-full", since_ms: STARTED_MS, detail: "low".into() }],
            heartbeats_per_second: Some(3),
        }
    }
}

/// The router around a registry of one.
pub struct Server {
    pub registry: Arc<Alone>,
    router: Router,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Server {
    pub fn new() -> Self {
        Self::with(ApiOptions::default())
    }

    pub fn with(options: ApiOptions) -> Self {
        let registry = Arc::new(Alone::default());
        Self { router: router(registry.clone(), options), registry }
    }

    /// The answer, which must be one that the document describes.
    pub async fn send(&self, request: Request<Body>) -> Reply {
        let (method, path) = (request.method().to_string(), request.uri().to_string());
        let reply = self.send_plainly(request).await;
        let document = Document::of(self).await;
        document.describes((&method, &path), reply.status, &reply.headers, &reply.body);
        reply
    }

    async fn send_plainly(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes().to_vec();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// An answer that is not compared with the document.
    async fn plain(&self, line: &str) -> Reply {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let request = Request::builder().method(method).uri(path);
        self.send_plainly(request.body(Body::empty()).expect("a request")).await
    }

    /// `call("PUT /v1/apps/a", "{}")`; an empty body is none.
    pub async fn call(&self, line: &str, body: &str) -> Reply {
        self.call_with(line, &[("content-type", "application/json")], body.to_owned()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call_with(&format!("GET {path}"), &[], "").await
    }

    pub async fn call_with(
        &self,
        line: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).expect("a request")).await
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Status and code of a problem, checked to be a whole one.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let json = self.json();
        for member in [
            "type",
            "title",
            "status",
            "detail",
            "code",
            "outcome",
            "retryable",
            "leader",
            "revision",
            "request_id",
            "errors",
        ] {
            assert!(json.get(member).is_some(), "no {member} in {json}");
        }
        assert_eq!(json["request_id"], self.header("request-id"));
        assert_eq!(json["status"], self.status.as_u16());
        (self.status.as_u16(), json["code"].as_str().expect("a code").to_owned())
    }
}

/// An answer without an end, read line by line.
pub struct Stream {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Body,
    read: Vec<u8>,
}

impl Server {
    pub async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        Stream { status: parts.status, headers: parts.headers, body, read: Vec::new() }
    }

    /// The problem that is answered, if it is one; nothing else is read, since it may have no end.
    pub async fn problem_at(&self, line: &str) -> Option<Value> {
        let (method, path) = line.split_once(' ').expect("a method and a path");
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        let response = self.router.clone().oneshot(request.expect("a request")).await;
        let response = response.expect("infallible");
        if response.headers()["content-type"] != "application/problem+json" {
            return None;
        }
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Some(serde_json::from_slice(&body).expect("a problem"))
    }

    /// One JSON object per line.
    pub async fn lines(&self, path: &str) -> Stream {
        self.stream(path, &[("accept", "application/x-ndjson")]).await
    }
}

impl Stream {
    /// The next line without its end; `None` at the end of the stream.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=end).take(end).collect();
                return Some(String::from_utf8(line).expect("text"));
            }
            let frame = self.body.frame().await?.expect("a frame");
            self.read.extend_from_slice(&frame.into_data().expect("data"));
        }
    }

    pub async fn some(&mut self, count: usize) -> String {
        let mut text = String::new();
        for _ in 0..count {
            text += &self.line().await.expect("a line");
            text.push('\n');
        }
        text
    }

    /// What is left, up to the end of the stream.
    pub async fn rest(&mut self) -> String {
        let mut text = String::new();
        while let Some(line) = self.line().await {
            text += &line;
            text.push('\n');
        }
        text
    }
}
