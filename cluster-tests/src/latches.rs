//! Locks and elections over plain HTTP.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{At, Client, Failed, Said};
use crate::cluster::Cluster;
use crate::wait::until;

/// How long a claim may take to be seen, on a busy machine.
const SEEN_WITHIN: Duration = Duration::from_secs(20);

/// A session without anybody who keeps it alive.
pub async fn session(at: &At<'_>, name: &str, ttl: &str) -> String {
    let body = json!({"name": name, "ttl": ttl});
    let opened = at.post_once("/v1/sessions", &format!("session {name}"), &body).await;
    let opened = opened.unwrap_or_else(|e| panic!("{name}: {e}")).json();
    opened["session"].as_str().expect("a session").to_owned()
}

async fn post(at: &At<'_>, path: &str, body: &Value) -> Said {
    at.send(at.request(reqwest::Method::POST, path).json(body)).await
}

/// Asks for a lock, and gives its token.
pub async fn acquire(at: &At<'_>, lock: &str, session: &str, wait: &str) -> Result<u64, Failed> {
    let body = json!({"session": session, "wait": wait});
    let answer = post(at, &format!("/v1/locks/{lock}/acquire"), &body).await?;
    Ok(answer.json()["token"].as_u64().expect("a token"))
}

/// Releases what is held under a token.
pub async fn release(at: &At<'_>, lock: &str, token: u64) -> Said {
    post(at, &format!("/v1/locks/{lock}/release"), &json!({"token": token})).await
}

/// Gives up the lead that is held under a token.
pub async fn resign(at: &At<'_>, election: &str, token: u64) -> Said {
    post(at, &format!("/v1/elections/{election}/resign"), &json!({"token": token})).await
}

/// Whether a lock is held under a token.
pub async fn holds(at: &At<'_>, lock: &str, token: u64) -> Result<bool, Failed> {
    let answer = at.get(&format!("/v1/locks/{lock}/check?token={token}")).await?;
    Ok(answer.json()["holds"].as_bool().expect("an answer"))
}

/// Waits until so many wait for a lock or to lead: `path` is its own.
pub async fn so_many_wait(at: &At<'_>, path: &str, count: u64) {
    until(&format!("{count} wait"), SEEN_WITHIN, async || {
        let latch = at.get(path).await.map_err(|e| e.to_string())?.json();
        if latch["waiting"] == count { Ok(()) } else { Err(latch.to_string()) }
    })
    .await;
}

/// What an event tells of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub revision: u64,
    /// `put`, or the reason of a `delete`.
    pub what: String,
    pub session: String,
    pub token: Option<u64>,
}

impl Told {
    /// Reads an event of kind `latch`.
    pub fn of(event: &Value) -> Self {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let deleted = event["event"] == "delete";
        Self {
            revision: event["revision"].as_u64().expect("a revision"),
            what: word(&event[if deleted { "reason" } else { "event" }]),
            session: word(&event["value"]["session"]),
            token: event["value"]["token"].as_u64(),
        }
    }
}

/// All that a node tells of one latch, in order, once `is_enough` of it: `query` is `lock=NAME` or
/// `election=NAME`.
pub async fn told(at: &At<'_>, query: &str, is_enough: impl Fn(&[Told]) -> bool) -> Vec<Told> {
    #[derive(Deserialize)]
    struct Page {
        events: Vec<Value>,
        next_cursor: Option<String>,
    }
    until("the history tells it", SEEN_WITHIN, async || {
        let path = format!("/v1/events?{query}&order=asc&limit=1000");
        let mut told = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = at.get(&format!("{path}{cursor}")).await.map_err(|e| e.to_string())?;
            let page: Page = page.parse();
            told.extend(page.events.iter().map(Told::of));
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        if is_enough(&told) { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .await
}

/// All nodes have the same state, by its hash, and tell the same of a latch.
pub async fn all_nodes_agree(cluster: &Cluster, client: &Client, query: &str) {
    let statuses = cluster.settled().await;
    let hashes: Vec<_> = statuses.iter().map(|status| &status.state_hash).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "the states differ: {hashes:?}");
    let newest = statuses[0].applied;
    let mut first = None;
    for node in cluster.ids() {
        let until_now = format!("{query}&until={newest}");
        let events = told(&client.at(node), &until_now, |told| {
            first.as_ref().is_none_or(|first: &Vec<Told>| first.len() <= told.len())
        })
        .await;
        let first = first.get_or_insert_with(|| events.clone());
        assert_eq!(events, *first, "node {node} tells another story");
    }
}
