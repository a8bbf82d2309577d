//! `roster bench lock`: locks that are free, and one that many want.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use super::http::Connection;
use super::load::{Job, Load, Request};
use super::{JSON, MANY, header, measure};

/// One that waits its turn among all others; none should come near it.
const WAIT: &str = "1m";

/// Opens a session, runs all loads, and ends it with all its locks.
pub async fn run(nodes: &[String], duration: Duration, only: Option<&str>) -> Result<(), String> {
    let node = nodes.first().ok_or("the cluster has no nodes")?;
    let session = open_session(node).await?;
    header(nodes, duration);
    let mut result = Ok(());
    for load in loads(&session) {
        if only.is_some_and(|only| !load.name.contains(only)) {
            continue;
        }
        match measure(nodes, &load, duration).await {
            Ok(line) => println!("{line}"),
            Err(e) => result = Err(format!("{}: {e}", load.name)),
        }
    }
    if let Err(e) = close_session(node, &session).await {
        eprintln!("session {session} is left behind for an hour: {e}");
    }
    result
}

/// What is measured, in this order.
fn loads(session: &str) -> Vec<Load> {
    let of_its_own = |connections: usize| Load {
        name: format!(
            "acquire, then release a free lock, {connections} connection{}",
            if connections == 1 { "" } else { "s" }
        ),
        connections,
        per_call: 1,
        round: 2,
        job: take_and_release(session, |worker| format!("of-{worker}")),
    };
    let of_all = Load {
        name: format!("one lock, {MANY} connections in turn"),
        connections: MANY,
        per_call: 1,
        round: 2,
        job: take_and_release(session, |_| "of-all".into()),
    };
    vec![of_its_own(1), of_its_own(MANY), of_all]
}

/// Each connection is an owner; it acquires, then releases, and so on.
fn take_and_release(session: &str, lock: impl Fn(usize) -> String + Send + Sync + 'static) -> Job {
    let session = session.to_owned();
    Arc::new(move |worker, call| {
        let path = format!("/v1/locks/bench-{session}-{}", lock(worker));
        let (path, wait) = match call % 2 {
            0 => (format!("{path}/acquire"), format!(r#","wait":"{WAIT}""#)),
            _ => (format!("{path}/release"), String::new()),
        };
        let body = format!(r#"{{"session":"{session}","owner":"{worker}"{wait}}}"#);
        Request { method: Method::POST, path, content_type: JSON, body: Bytes::from(body) }
    })
}

#[derive(Deserialize)]
struct Opened {
    session: String,
}

async fn open_session(node: &str) -> Result<String, String> {
    let body = Bytes::from_static(br#"{"ttl":"1h","name":"roster bench lock"}"#);
    let answer =
        Connection::open(node).await?.send(Method::POST, "/v1/sessions", JSON, body).await?;
    if !answer.status.is_success() {
        return Err(format!("cannot open the session that is to hold the locks: {answer}"));
    }
    Ok(answer.json::<Opened>()?.session)
}

async fn close_session(node: &str, session: &str) -> Result<(), String> {
    let path = format!("/v1/sessions/{session}");
    let answer =
        Connection::open(node).await?.send(Method::DELETE, &path, "", Bytes::new()).await?;
    if answer.status.is_success() { Ok(()) } else { Err(answer.to_string()) }
}
