//! The JSON that programs lean on, letter by letter.

mod support;

use support::Server;

const RECORD: &str = r#"{"ip":"10.0.0.1","port":8719,"hostname":"h","version":"2.4","zone":"a",
    "weight":3,"metadata":{"team":"pay"},"payload":"AAEC","ttl":"30s"}"#;

#[tokio::test]
async fn the_life_of_an_instance() {
    let server = Server::new();
    let path = "/v1/apps/pay/instances/10.0.0.1:8719";
    let made = server.call(&format!("PUT {path}"), RECORD).await;
    insta::assert_snapshot!(made.text(), @r#"{"app":"pay","id":"10.0.0.1:8719","incarnation":1,"session":"1","ttl":"30s","heartbeat_every":"10s","revision":1}"#);
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"r1\""));
    let again = server.call(&format!("PUT {path}"), RECORD).await;
    assert_eq!(again.status.as_u16(), 200);
    insta::assert_snapshot!(server.get(path).await.text(), @r#"{"app":"pay","id":"10.0.0.1:8719","incarnation":1,"ip":"10.0.0.1","port":8719,"hostname":"h","version":"2.4","zone":"a","weight":3,"metadata":{"team":"pay"},"payload":"AAEC","state":"up","ttl":"30s","session":"1","registered_at":"2026-11-21T20:36:17.351Z","revision":2,"last_heartbeat":"2026-11-21T20:36:17.350Z"}"#);
    insta::assert_snapshot!(server.call(&format!("PUT {path}/heartbeat"), "").await.text(), @r#"{"ttl":"30s","heartbeat_every":"10s","revision":2}"#);
    let patch = r#"{"metadata":{"team":null,"x":"y"},"weight":null}"#;
    insta::assert_snapshot!(server.call(&format!("PATCH {path}"), patch).await.text(), @r#"{"app":"pay","id":"10.0.0.1:8719","incarnation":1,"revision":3}"#);
    let list = server.get("/v1/apps/pay/instances").await;
    insta::assert_snapshot!(list.text(), @r#"{"instances":[{"app":"pay","id":"10.0.0.1:8719","incarnation":1,"ip":"10.0.0.1","port":8719,"hostname":"h","version":"2.4","zone":"a","weight":1,"metadata":{"x":"y"},"payload":"AAEC","state":"up","ttl":"30s","session":"1","registered_at":"2026-11-21T20:36:17.351Z","revision":3}],"next_cursor":null,"revision":3}"#);
    assert_eq!(list.header("content-length"), list.body.len().to_string());
    insta::assert_snapshot!(
        server.get("/v1/apps/pay/instances?heartbeats=true").await.text(), @r#"{"instances":[{"app":"pay","id":"10.0.0.1:8719","incarnation":1,"ip":"10.0.0.1","port":8719,"hostname":"h","version":"2.4","zone":"a","weight":1,"metadata":{"x":"y"},"payload":"AAEC","state":"up","ttl":"30s","session":"1","registered_at":"2026-11-21T20:36:17.351Z","revision":3,"last_heartbeat":"2026-11-21T20:36:17.850Z"}],"next_cursor":null,"revision":3}"#);
    insta::assert_snapshot!(server.get("/v1/shards?app=pay").await.text(), @r#"{"shards":[{"shard":"pay/10.0.0.1:8719","app":"pay","instance":"10.0.0.1:8719","ip":"10.0.0.1","port":8719,"revision":1}],"next_cursor":null,"revision":3}"#);
    insta::assert_snapshot!(server.call(&format!("DELETE {path}"), "").await.text(), @r#"{"app":"pay","id":"10.0.0.1:8719","incarnation":1,"revision":4}"#);
    insta::assert_snapshot!(server.get("/v1/shards?app=pay").await.text(), @r#"{"shards":[],"next_cursor":null,"revision":4}"#);
}

#[tokio::test]
async fn apps() {
    let server = Server::new();
    let policy = r#"{"kind":1,"ttl":"20s","ttl_min":"5s","ttl_max":"1m30s","remove_when_empty_after":"24h"}"#;
    insta::assert_snapshot!(server.call("PUT /v1/apps/pay", policy).await.text(), @r#"{"app":"pay","kind":1,"ttl":"20s","ttl_min":"5s","ttl_max":"1m30s","remove_when_empty_after":"24h","revision":1}"#);
    server.call("PUT /v1/apps/pay/instances/a", "{}").await;
    insta::assert_snapshot!(server.get("/v1/apps/pay").await.text(), @r#"{"app":"pay","kind":1,"ttl":"20s","ttl_min":"5s","ttl_max":"1m30s","remove_when_empty_after":"24h","counts":{"up":1,"suspect":0,"draining":0,"maintenance":0},"revision":1}"#);
    insta::assert_snapshot!(server.get("/v1/apps").await.text(), @r#"{"apps":[{"app":"pay","kind":1,"counts":{"up":1,"suspect":0,"draining":0,"maintenance":0},"revision":1}],"next_cursor":null,"revision":2}"#);
    insta::assert_snapshot!(server.call("DELETE /v1/apps/pay?cascade=true", "").await.text(), @r#"{"app":"pay","instances":1,"revision":3}"#);
}

#[tokio::test]
async fn overrides() {
    let server = Server::new();
    let path = "/v1/apps/pay/instances/a/override";
    server.call("PUT /v1/apps/pay/instances/a", "{}").await;
    let word = r#"{"state":"draining","reason":"disk","expires":"2h"}"#;
    insta::assert_snapshot!(server.call(&format!("PUT {path}"), word).await.text(), @r#"{"app":"pay","id":"a","state":"draining","revision":2}"#);
    insta::assert_snapshot!(server.get(path).await.text(), @r#"{"app":"pay","id":"a","state":"draining","reason":"disk","expires":"2026-11-21T22:36:17.352Z","revision":2}"#);
    assert_eq!(server.get("/v1/apps/pay/instances/a").await.json()["state"], "draining");
    assert_eq!(server.get("/v1/apps/pay").await.json()["counts"]["draining"], 1);
    insta::assert_snapshot!(server.call(&format!("DELETE {path}"), "").await.text(), @r#"{"app":"pay","id":"a","revision":3}"#);
    assert_eq!(server.get("/v1/apps/pay/instances/a").await.json()["state"], "up");
}

#[tokio::test]
async fn documents() {
    let server = Server::new();
    let path = "/v1/apps/pay/documents/flow%2Frules";
    let rules = " [ {\"qps\": 1.0,\n \"big\": 12345678901234567890123} ] ";
    let made = server.call(&format!("PUT {path}?by=ops%20team"), rules).await;
    insta::assert_snapshot!(made.text(), @r#"{"app":"pay","name":"flow/rules","revision":1}"#);
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"r1\""));
    let read = server.get(path).await;
    insta::assert_snapshot!(read.text(), @r#"{"app":"pay","name":"flow/rules","value":[{"qps":1.0,"big":12345678901234567890123}],"by":"ops team","changed_at":"2026-11-21T20:36:17.351Z","revision":1}"#);
    assert_eq!(read.header("etag"), "\"r1\"");
    let again = server.call(&format!("PUT {path}"), "null").await;
    assert_eq!((again.status.as_u16(), again.header("etag")), (200, "\"r2\""));
    insta::assert_snapshot!(server.get("/v1/apps/pay/documents").await.text(), @r#"{"documents":[{"app":"pay","name":"flow/rules","value":null,"by":"unknown","changed_at":"2026-11-21T20:36:17.352Z","revision":2}],"next_cursor":null,"revision":2}"#);
    let deleted = server.call(&format!("DELETE {path}"), "").await;
    insta::assert_snapshot!(deleted.text(), @r#"{"app":"pay","name":"flow/rules","revision":3}"#);
    assert_eq!((deleted.status.as_u16(), deleted.header("etag")), (200, ""));
    insta::assert_snapshot!(server.get("/v1/apps/pay/documents").await.text(), @r#"{"documents":[],"next_cursor":null,"revision":3}"#);
}

#[tokio::test]
async fn sessions() {
    let server = Server::new();
    let body = r#"{"ttl":"1m","name":"worker"}"#;
    insta::assert_snapshot!(server.call("POST /v1/sessions", body).await.text(), @r#"{"session":"1","ttl":"1m","heartbeat_every":"20s","revision":1}"#);
    server.call("PUT /v1/apps/pay/instances/a", r#"{"session":"1"}"#).await;
    insta::assert_snapshot!(server.get("/v1/sessions/1").await.text(), @r#"{"session":"1","name":"worker","ttl":"1m","adopted":{},"instances":[{"app":"pay","id":"a","incarnation":2}],"locks":[],"elections":[]}"#);
    let beat = server.call("PUT /v1/sessions/1/heartbeat", r#"{"adopted":{}}"#).await;
    insta::assert_snapshot!(beat.text(), @r#"{"ttl":"1m","heartbeat_every":"20s","revision":2,"settled":{}}"#);
    insta::assert_snapshot!(server.call("DELETE /v1/sessions/1", "").await.text(), @r#"{"session":"1","instances":1,"revision":3}"#);
    assert_eq!(server.get("/v1/sessions/1").await.problem(), (404, "unknown-session".into()));
}

#[tokio::test]
async fn batches_and_heartbeats_of_many() {
    let server = Server::new();
    let body = r#"{"items":[
        {"op":"register","app":"pay","id":"a","ip":"10.0.0.1","ttl":"30s"},
        {"op":"register","app":"pay","id":"b","weight":0},
        {"op":"register","app":"pay","id":"b","colour":"red"},
        {"op":"register","app":"pay","id":""},
        {"op":"deregister","app":"pay","id":"c"},
        {"op":"deregister","app":"pay","id":"a"},
        {"op":"register","app":"pay","id":"a"}]}"#;
    insta::assert_snapshot!(server.call("POST /v1/instances:batch", body).await.text(), @r#"{"results":[{"app":"pay","id":"a","incarnation":1,"session":"1","ttl":"30s","heartbeat_every":"10s","revision":1},{"code":"invalid-weight","detail":"weight must be between 1 and 1024","outcome":"none"},{"code":"unknown-field","detail":"unknown field `colour`, expected one of `op`, `app`, `id`, `incarnation`, `takeover`, `create_app`, `ip`, `port`, `hostname`, `version`, `zone`, `weight`, `metadata`, `payload`, `ttl`, `session` at line 1 column 46","outcome":"none"},{"code":"invalid-id","detail":"id does not fit: must not be empty at line 1 column 37","outcome":"none"},{"code":"unknown-instance","detail":"app \"pay\" has no live instance \"c\"; register it again","outcome":"none"},{"app":"pay","id":"a","incarnation":1,"revision":2},{"app":"pay","id":"a","incarnation":3,"session":"2","ttl":"15s","heartbeat_every":"5s","revision":3}],"revision":3}"#);
    let body = r#"{"sessions":["2","77"],"instances":[{"app":"pay","id":"a"},
        {"app":"pay","id":"a","incarnation":9},{"app":"pay","id":"z"}]}"#;
    insta::assert_snapshot!(server.call("POST /v1/heartbeats", body).await.text(), @r#"{"renewed":2,"heartbeat_every":"5s","failed":[{"session":"77","code":"unknown-session","detail":"there is no session 77; open a new one"},{"app":"pay","id":"a","incarnation":3,"code":"stale-incarnation","detail":"incarnation 3 took over; stay away"},{"app":"pay","id":"z","code":"unknown-instance","detail":"there is no such live instance; register it again"}]}"#);
}

#[tokio::test]
async fn the_cluster_and_the_node() {
    let server = Server::new();
    server.call("PUT /v1/apps/pay/instances/a", "{}").await;
    insta::assert_snapshot!(server.get("/v1/cluster").await.text(), @r#"{"cluster_id":"c1","leader":"1","term":1,"nodes":[{"id":"1","api":"127.0.0.1:7401","peer":"127.0.0.1:7501","role":"leader","commit":9,"applied":7,"lag":2,"state_hash":"0000000000000abc","state_hash_at":7,"version":"0.1.0"},{"id":"2","api":"127.0.0.1:7402","peer":"127.0.0.1:7502","role":null,"commit":null,"applied":null,"lag":null,"state_hash":null,"state_hash_at":null,"version":null}],"alarms":[{"code":"disk-full","since":"2026-11-21T20:36:17.350Z","detail":"low"}],"brake":null,"counts":{"up":1,"suspect":0,"draining":0,"maintenance":0},"heartbeats_per_second":3,"pace":{"told":100,"held":100}}"#);
    insta::assert_snapshot!(server.get("/v1/node").await.text(), @r#"{"id":"1","cluster_id":"c1","role":"leader","leader":"1","term":1,"commit":1,"applied":1,"state_hash":"0000000000000abc","state_hashes":[[1024,"0000000000000def"]],"version":"0.1.0","cpu_seconds":1.5,"memory_bytes":4096}"#);
    insta::assert_snapshot!(server.get("/readyz?verbose").await.text(), @r"
[+] disk ok
[+] leader ok
");
}

#[tokio::test]
async fn a_problem() {
    let server = Server::new();
    let reply = server.call_with("GET /v1/apps/pay", &[("request-id", "mine-1")], "").await;
    insta::assert_snapshot!(reply.text(), @r#"{"type":"urn:roster:problem:unknown-app","title":"unknown app","status":404,"detail":"there is no app \"pay\"","code":"unknown-app","outcome":"none","retryable":false,"leader":"1","revision":0,"request_id":"mine-1","errors":[]}"#);
}
