//! What takes long is done aside, and light requests are not.

mod support;

use std::mem::take;

use http::StatusCode;
use roster_api::registry::{IfBusy, Unavailable};
use serde_json::{Value, json};
use support::Server;

/// More than are listed at once.
const MANY: usize = 300;

async fn register(server: &Server, app: &str, count: usize) {
    let item = |id| json!({"op": "register", "app": app, "id": format!("i{id:04}"), "ttl": "30s"});
    let items: Vec<Value> = (0..count).map(item).collect();
    let reply = server.call("POST /v1/instances:batch", &json!({"items": items}).to_string()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
}

/// How much was done aside since the last look.
fn done_aside(server: &Server) -> Vec<IfBusy> {
    take(&mut *server.registry.aside.lock())
}

#[tokio::test]
async fn a_light_request_stays_where_it_is_and_a_long_one_goes_aside() {
    let server = Server::new();
    register(&server, "few", 100).await;
    register(&server, "many", MANY).await;
    for light in [
        "/v1/apps",
        "/v1/apps/few",
        "/v1/apps/few/instances",
        "/v1/apps/few/instances?filter=zone=='z'",
        "/v1/apps/few/instances/i0001",
        "/v1/apps/many/instances?limit=100",
    ] {
        assert_eq!(server.get(light).await.status, StatusCode::OK, "{light}");
        assert_eq!(done_aside(&server), [], "{light}");
    }
    for long in [
        "/v1/apps/many/instances",
        "/v1/apps/many/instances?limit=10&filter=zone=='z'",
        "/v1/instances?q=nowhere",
        "/v1/shards",
        "/v1/events",
        "/app/names.json",
    ] {
        assert_eq!(server.get(long).await.status, StatusCode::OK, "{long}");
        assert_eq!(done_aside(&server), [IfBusy::Refuse], "{long}");
    }
    // What is looked for, and what is shown of it once the leader has told who was heard.
    for in_two_turns in [
        "/v1/apps/many/instances?heartbeats=true",
        "/app/briefinfos.json",
        "/app/many/machines.json",
    ] {
        assert_eq!(server.get(in_two_turns).await.status, StatusCode::OK, "{in_two_turns}");
        assert_eq!(done_aside(&server), [IfBusy::Refuse; 2], "{in_two_turns}");
    }
}

#[tokio::test]
async fn who_waits_for_a_leader_keeps_nobody_from_a_stale_search() {
    let server = Server::new();
    register(&server, "many", MANY).await;
    *server.registry.fail.lock() = Some(Unavailable::NoLeader("no node has won".into()));
    for waits in [
        "/v1/apps/many/instances",
        "/v1/instances?q=i0001",
        "/v1/shards",
        "/v1/events",
        "/app/names.json",
        "/app/briefinfos.json",
        "/app/many/machines.json",
    ] {
        assert_eq!(server.get(waits).await.status, StatusCode::SERVICE_UNAVAILABLE, "{waits}");
        assert_eq!(done_aside(&server), [], "{waits}");
    }
    let stale = server.get("/v1/instances?q=i0001&consistency=stale").await;
    assert_eq!(stale.status, StatusCode::OK, "{}", stale.text());
    assert_eq!(done_aside(&server), [IfBusy::Refuse]);
}

#[tokio::test]
async fn a_long_list_is_made_once_for_all_who_ask_while_it_is_the_same() {
    let server = Server::new();
    register(&server, "many", MANY).await;
    let first = server.get("/v1/apps/many/instances").await.json();
    assert_eq!(first["instances"].as_array().map(Vec::len), Some(MANY));
    assert_eq!(done_aside(&server).len(), 1);
    assert_eq!(server.get("/v1/apps/many/instances").await.json(), first);
    assert_eq!(done_aside(&server), []);
    server.call("PUT /v1/apps/many/instances/new", "{}").await;
    let next = server.get("/v1/apps/many/instances").await.json();
    assert_eq!(next["instances"].as_array().map(Vec::len), Some(MANY + 1));
    assert_eq!(done_aside(&server).len(), 1);
}

#[tokio::test]
async fn a_node_with_too_many_searches_refuses_another_one_and_does_all_that_is_light() {
    let server = Server::new();
    register(&server, "few", 100).await;
    register(&server, "many", MANY).await;
    *server.registry.busy.lock() = Some(Unavailable::Overloaded("searches wait".into()));
    for long in ["/v1/instances?q=nowhere", "/v1/apps/many/instances", "/v1/events"] {
        let reply = server.get(long).await;
        assert_eq!(reply.problem(), (503, "overloaded".into()), "{long}");
        assert_eq!(reply.json()["outcome"], "none");
        let seconds: u32 = reply.header("retry-after").parse().expect("seconds");
        assert!(seconds > 0);
    }
    assert_eq!(server.get("/v1/apps/few/instances").await.status, StatusCode::OK);
    let beat = server.call("PUT /v1/apps/many/instances/i0001/heartbeat", "").await;
    assert_eq!(beat.status, StatusCode::OK, "{}", beat.text());
}

#[tokio::test]
async fn a_snapshot_that_began_waits_for_its_turn_instead_of_breaking_off() {
    let server = Server::new();
    register(&server, "many", MANY).await;
    *server.registry.busy.lock() = Some(Unavailable::Overloaded("searches wait".into()));
    let mut stream = server.lines("/v1/watch?app=many&kind=instance").await;
    let lines = stream.some(MANY + 2).await;
    assert!(lines.trim_end().ends_with(r#"{"event":"snapshot-end","revision":1}"#), "{lines:.200}");
    let pieces = done_aside(&server);
    assert!(!pieces.is_empty() && pieces.iter().all(|one| *one == IfBusy::Wait), "{pieces:?}");
}
