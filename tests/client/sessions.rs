//! `roster session keep` through an outage of the cluster.

use rustix::process::Signal;
use serde_json::json;

use crate::commands::{Running, output};
use crate::scripted::{Act, Scripted, problem};

const OPEN: &str = "POST /v1/sessions";
const BEAT: &str = "PUT /v1/sessions/4/heartbeat";
const CLOSE: &str = "DELETE /v1/sessions/4";

/// With a TTL that is over after a few heartbeats which nobody answers.
fn opened() -> Act {
    let session = json!({"session": "4", "ttl": "30ms", "heartbeat_every": "10ms", "revision": 4});
    Act::Answer(201, session)
}

fn heard() -> Act {
    Act::Answer(200, json!({"ttl": "30ms", "heartbeat_every": "10ms", "revision": 4}))
}

/// A node where a session can be opened and closed, and that plays this for its heartbeats.
async fn node(beats: Vec<Act>) -> Scripted {
    let closed = Act::Answer(200, json!({"instances": 0, "revision": 9}));
    Scripted::on([(BEAT, beats), (OPEN, vec![opened()]), (CLOSE, vec![closed])]).await
}

/// So many heartbeats that the TTL is over.
fn outage() -> impl Iterator<Item = Act> {
    (0..20).map(|_| problem(503, "no-leader", "none"))
}

#[tokio::test]
async fn a_session_that_is_still_there_after_an_outage_longer_than_its_ttl_is_kept_on() {
    let always = vec![Act::Always(Box::new(heard))];
    let node = node(outage().chain(always).collect()).await;
    let mut keep = Running::start(&["session", "keep", "-o", "name"], &[&node]);
    assert_eq!(keep.line().await, "4");
    node.asked_with_times(BEAT, 30).await;
    let (code, error) = keep.signal(Signal::INT).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(
        error.contains("no heartbeat of session 4 was answered in time; it goes on"),
        "{error}"
    );
    assert!(error.contains("session 4 was heard again"), "{error}");
    assert_eq!(node.asked_with(CLOSE).len(), 1, "Ctrl-C ends it");
}

#[tokio::test]
async fn a_session_that_is_gone_after_an_outage_ends_the_command_with_3_and_the_reason() {
    let gone = [problem(404, "unknown-session", "none")];
    let node = node(outage().chain(gone).collect()).await;
    let (code, _, error) = output(&["session", "keep"], &[&node]).await;
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("unknown-session: said unknown-session"), "{error}");
}
