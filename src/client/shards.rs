//! What a worker of a shard set holds, and letting go of it.

use roster_storage::limits::RELEASES_MAX;
use roster_storage::names::Revision;
use serde::{Deserialize, Serialize};

use super::Client;
use super::call::{Call, path};
use super::error::Error;
use super::ring::poll_text;

/// A shard that is held since a revision, for as long as the cluster does not give it another one:
/// together they name one holder for ever. The revision goes with each effect on the outside, as a
/// fencing token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// `<app>/<instance>`.
    pub shard: String,
    /// When it was granted.
    pub grant: Revision,
}

/// A shard that a worker holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkerShard {
    /// Which one, since when.
    #[serde(flatten)]
    pub held: Grant,
    /// Whether the worker is to stop work on it and let go.
    #[serde(default)]
    pub release: bool,
}

/// What a worker holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkerView {
    /// What the cluster says is of this revision or a later one.
    pub epoch: Revision,
    /// In the order of ids.
    pub shards: Vec<WorkerShard>,
}

/// What became of one shard that was to be let go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Released {
    /// Which one.
    pub shard: String,
    /// Why it was not let go; `stale-token`: it is not held under that grant any more.
    pub code: Option<String>,
    /// The same for people.
    #[serde(default)]
    pub detail: String,
}

impl Released {
    /// Whether the worker does not hold it under that grant any more.
    pub fn is_done(&self) -> bool {
        self.code.as_deref().is_none_or(|code| code == "stale-token")
    }
}

#[derive(Serialize)]
struct ReleaseBody<'a> {
    shards: &'a [Grant],
}

#[derive(Deserialize)]
struct ReleaseAnswer {
    results: Vec<Released>,
}

fn worker_path(set: &str, worker: &str, more: &[&str]) -> Result<String, Error> {
    let segments = [&["v1", "shard-sets", set, "workers", worker], more].concat();
    path(&segments)
}

impl Client {
    /// What a worker holds; once it is something else than after `index`, or after 10 s, if that is
    /// given.
    ///
    /// # Errors
    /// See [`Client::send`]; `unknown-shard-set`, and `unknown-instance` if it is no worker of it.
    pub async fn worker_view(
        &self,
        set: &str,
        worker: &str,
        index: Option<Revision>,
    ) -> Result<WorkerView, Error> {
        let mut call = Call::get(worker_path(set, worker, &[])?);
        if let Some(index) = index {
            call = call.query("index", index).query("wait", poll_text()).within(self.polling());
        }
        self.send(call).await?.json()
    }

    /// Lets go of shards on which work has stopped, at most 10,000. Doing it twice is the same as
    /// doing it once: a shard that was granted anew has another grant.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn release_shards(
        &self,
        set: &str,
        worker: &str,
        shards: &[Grant],
    ) -> Result<Vec<Released>, Error> {
        if shards.len() > RELEASES_MAX {
            let (count, max) = (shards.len(), RELEASES_MAX);
            return Err(Error::Invalid(format!("{count} shards are over the limit of {max}")));
        }
        let call = Call::post(worker_path(set, worker, &["release"])?);
        let call = call.json(&ReleaseBody { shards })?.repeatable();
        let ReleaseAnswer { results } = self.send(call).await?.json()?;
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_is_held_under_another_grant_is_let_go_already() {
        let is_done = |json: &str| serde_json::from_str::<Released>(json).expect(json).is_done();
        assert!(is_done(r#"{"shard":"a/1"}"#));
        assert!(is_done(r#"{"shard":"a/1","code":"stale-token","detail":"","outcome":"none"}"#));
        assert!(!is_done(r#"{"shard":"a/1","code":"timeout","detail":"","outcome":"unknown"}"#));
    }
}
