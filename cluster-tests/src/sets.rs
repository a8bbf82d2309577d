//! Shard sets as clients see them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Answer, At, Failed};

/// A shard of a set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SetShard {
    pub shard: String,
    pub app: String,
    pub instance: String,
    pub holder: Option<String>,
    #[serde(default)]
    pub grant: u64,
    pub next: Option<String>,
    pub gone: bool,
}

/// How many there are of what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Counts {
    pub shards: usize,
    pub assigned: usize,
    pub pending: usize,
    pub orphaned: usize,
    pub gone: usize,
    pub workers: usize,
}

/// What a worker holds.
#[derive(Clone, Debug, Deserialize)]
pub struct View {
    pub epoch: u64,
    pub shards: Vec<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Held {
    pub shard: String,
    pub grant: u64,
    /// Whether it is to be let go.
    pub release: bool,
}

/// Makes or replaces a set.
pub async fn put_set(at: &At<'_>, set: &str, workers: &str, apps: &[&str]) -> Answer {
    let body = json!({"workers": workers, "apps": apps});
    at.put(&format!("/v1/shard-sets/{set}"), &body).await.expect("the set is made")
}

/// All shards, also those that are gone and not let go yet.
pub async fn shards(at: &At<'_>, set: &str) -> Result<Vec<SetShard>, Failed> {
    #[derive(Deserialize)]
    struct List {
        shards: Vec<SetShard>,
        next_cursor: Option<String>,
    }
    let path = format!("/v1/shard-sets/{set}/shards?gone=true&limit=10000");
    let list: List = at.get(&path).await?.parse();
    assert_eq!(list.next_cursor, None, "one page should do");
    Ok(list.shards)
}

pub async fn counts(at: &At<'_>, set: &str) -> Result<Counts, Failed> {
    let answer = at.get(&format!("/v1/shard-sets/{set}")).await?.json();
    Ok(Counts::deserialize(&answer["counts"]).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

pub async fn view(at: &At<'_>, set: &str, worker: &str) -> Result<View, Failed> {
    Ok(at.get(&format!("/v1/shard-sets/{set}/workers/{worker}")).await?.parse())
}

/// Lets go, as the worker; gives one result per shard.
pub async fn release(
    at: &At<'_>,
    set: &str,
    worker: &str,
    shards: &[(&str, u64)],
) -> Result<Vec<Value>, Failed> {
    let shards: Vec<_> =
        shards.iter().map(|(shard, grant)| json!({"shard": shard, "grant": grant})).collect();
    let path = format!("/v1/shard-sets/{set}/workers/{worker}/release");
    let request = at.request(reqwest::Method::POST, &path).json(&json!({ "shards": shards }));
    let answer = at.send(request).await?.json();
    Ok(answer["results"].as_array().expect("results").clone())
}
