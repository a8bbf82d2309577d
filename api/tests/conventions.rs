//! What holds for all calls: conditions, headers, problems, lists, at most once.

mod support;

use std::sync::atomic::Ordering;

use axum::body::Body;
use roster_api::registry::Unavailable;
use roster_api::{ApiOptions, Encoding};
use support::Server;

const INSTANCE: &str = "/v1/apps/pay/instances/a";
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn bad_input_gets_a_problem_that_names_the_field_and_nothing_in_the_log() {
    let server = Server::with(ApiOptions { body_bytes_max: 200_000, ..ApiOptions::default() });
    let put = format!("PUT {INSTANCE}");
    let long = "x".repeat(1025);
    let record = |field: &str, value: &str| format!("{{\"{field}\":{value}}}");
    let payload = format!("\"{}\"", "A".repeat(100_000));
    let metadata = format!("{{\"k\":\"{}\"}}", "v".repeat(17_000));
    let text = format!("\"{long}\"");
    let document = "PUT /v1/apps/pay/documents/flow";
    for (line, body, status, code) in [
        (put.as_str(), "{".to_owned(), 400, "malformed"),
        (&put, "".into(), 400, "malformed"),
        (&put, "{} {}".into(), 400, "malformed"),
        (&put, "[]".into(), 400, "invalid-body"),
        (&put, record("colour", "1"), 400, "unknown-field"),
        (&put, record("ttl", "15"), 400, "invalid-ttl"),
        (&put, record("ttl", "\"soon\""), 400, "invalid-ttl"),
        (&put, record("ttl", "\"999ms\""), 400, "invalid-ttl"),
        (&put, record("ttl", "\"25h\""), 400, "invalid-ttl"),
        (&put, record("payload", "\"%%\""), 400, "invalid-payload"),
        (&put, record("payload", &payload), 400, "invalid-payload"),
        (&put, record("weight", "0"), 400, "invalid-weight"),
        (&put, record("weight", "1025"), 400, "invalid-weight"),
        (&put, record("weight", "-1"), 400, "invalid-weight"),
        (&put, record("port", "65536"), 400, "invalid-port"),
        (&put, record("port", "\"80\""), 400, "invalid-port"),
        (&put, record("ip", &text), 400, "invalid-ip"),
        (&put, record("hostname", "\"a\\nb\""), 400, "invalid-hostname"),
        (&put, record("metadata", &metadata), 400, "invalid-metadata"),
        (&put, record("metadata", "{\"a\":1}"), 400, "invalid-metadata"),
        (&put, record("session", "\"x\""), 400, "invalid-session"),
        (&put, "{\"session\":\"1\",\"ttl\":\"10s\"}".into(), 400, "invalid-ttl"),
        (&put, record("zone", &format!("\"{}\"", "z".repeat(200_000))), 413, "too-large"),
        ("PUT /v1/apps/%FF/instances/a", "{}".into(), 400, "invalid-app"),
        ("PUT /v1/apps/pay/instances/%FF", "{}".into(), 400, "invalid-id"),
        ("PUT /v1/apps/a%00b", "{}".into(), 400, "invalid-app"),
        ("PUT /v1/apps/pay/instances/a%0Ab", "{}".into(), 400, "invalid-id"),
        (&format!("PUT /v1/apps/{long}"), "{}".into(), 400, "invalid-app"),
        (&format!("PUT /v1/apps/pay/instances/{long}"), "{}".into(), 400, "invalid-id"),
        (
            "PUT /v1/apps/pay",
            "{\"ttl_min\":\"9s\",\"ttl_max\":\"8s\"}".into(),
            400,
            "invalid-ttl_min",
        ),
        ("PUT /v1/apps/pay", "{\"ttl\":\"9s\",\"ttl_max\":\"8s\"}".into(), 400, "invalid-ttl"),
        ("PUT /v1/apps/pay?casade=true", "{}".into(), 400, "unknown-field"),
        ("DELETE /v1/apps/pay?cascade=yes", "".into(), 400, "invalid-cascade"),
        (
            "PUT /v1/apps/pay/instances/a/override",
            "{\"state\":\"up\"}".into(),
            400,
            "invalid-state",
        ),
        ("PUT /v1/apps/pay/instances/a/override", "{}".into(), 400, "invalid-state"),
        (
            "PUT /v1/apps/pay/instances/a/override",
            "{\"state\":\"draining\",\"expires\":\"1999-01-01T00:00:00Z\"}".into(),
            400,
            "invalid-expires",
        ),
        ("POST /v1/sessions", "{\"ttl\":\"1ms\"}".into(), 400, "invalid-ttl"),
        ("PUT /v1/sessions/x/heartbeat", "".into(), 400, "invalid-session"),
        (
            "POST /v1/heartbeats",
            "{\"instances\":[{\"app\":\"\",\"id\":\"a\"}]}".into(),
            400,
            "invalid-app",
        ),
        ("POST /v1/heartbeats", "{\"instances\":[{\"app\":\"a\"}]}".into(), 400, "invalid-id"),
        ("POST /v1/heartbeats", "{\"session\":[]}".into(), 400, "unknown-field"),
        ("POST /v1/instances:batch", "{}".into(), 400, "invalid-items"),
        (document, "".into(), 400, "malformed"),
        (document, "{\"a\":}".into(), 400, "malformed"),
        (document, "1 2".into(), 400, "malformed"),
        (document, "\"\\ud800\"".into(), 400, "malformed"),
        (document, "[".repeat(101) + &"]".repeat(101), 400, "invalid-value"),
        (document, format!("\"{}\"", "x".repeat(128 * 1024 - 1)), 413, "too-large"),
        (document, "1".to_owned() + &" ".repeat(128 * 1024), 413, "too-large"),
        ("PUT /v1/apps/pay/documents/flow?by=", "1".into(), 400, "invalid-by"),
        ("PUT /v1/apps/pay/documents/flow?by=a%0Ab", "1".into(), 400, "invalid-by"),
        (&format!("DELETE /v1/apps/pay/documents/flow?by={long}"), "".into(), 400, "invalid-by"),
        ("PUT /v1/apps/pay/documents/flow?who=me", "1".into(), 400, "unknown-field"),
        ("PUT /v1/apps/pay/documents/a%0Ab", "1".into(), 400, "invalid-name"),
        ("PUT /v1/apps/pay/documents/%FF", "1".into(), 400, "invalid-name"),
        (&format!("GET /v1/apps/pay/documents/{long}"), "".into(), 400, "invalid-name"),
        ("GET /v1/apps/a%00b/documents", "".into(), 400, "invalid-app"),
        ("PATCH /v1/apps/pay/documents/flow", "1".into(), 405, "method-not-allowed"),
        ("GET /v1/apps?limit=0", "".into(), 400, "invalid-limit"),
        ("GET /v1/apps?limit=10001", "".into(), 400, "invalid-limit"),
        ("GET /v1/apps?cursor=x", "".into(), 400, "invalid-cursor"),
        ("GET /v1/apps?consistency=maybe", "".into(), 400, "invalid-consistency"),
        ("GET /v1/apps?min_revision=x", "".into(), 400, "invalid-min_revision"),
        ("GET /v1/instances?filter=zone%20=", "".into(), 400, "invalid-filter"),
        ("GET /v1/instances?q=%FF", "".into(), 400, "invalid-q"),
        ("GET /v1/instances?q=a&q=b", "".into(), 400, "invalid-q"),
        ("GET /v2/apps", "".into(), 404, "unknown-route"),
        ("GET /v1/apps/", "".into(), 404, "unknown-route"),
        ("POST /v1/apps/pay", "{}".into(), 405, "method-not-allowed"),
    ] {
        let reply = server.call(line, &body).await;
        assert_eq!(reply.problem(), (status, code.to_owned()), "{line} {:.80}", body);
        let json = reply.json();
        assert_eq!(json["outcome"], "none");
        if let Some(field) = code.strip_prefix("invalid-") {
            assert_eq!(json["errors"][0]["field"], field, "{json}");
        }
    }
    assert_eq!(server.registry.written(), 0);
}

#[tokio::test]
async fn malformed_json_says_where() {
    let reply = Server::new().call("PUT /v1/apps/pay", "{\n  \"kind\": ?}").await;
    let detail = reply.json()["detail"].to_string();
    assert!(detail.contains("line 2 column 11"), "{detail}");
}

#[tokio::test]
async fn another_content_type_is_415() {
    let server = Server::new();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/msgpack"] {
        let line = format!("PUT {INSTANCE}");
        let reply = server.call_with(&line, &[("content-type", kind)], "{}").await;
        assert_eq!(reply.problem(), (415, "invalid-content-type".into()), "{kind}");
    }
    let merge = [("content-type", "application/merge-patch+json; charset=utf-8")];
    let reply = server.call_with(&format!("PATCH {INSTANCE}"), &merge, "{}").await;
    assert_eq!(reply.problem(), (404, "unknown-app".into()));
}

#[tokio::test]
async fn a_percent_encoded_slash_stays_in_its_segment() {
    let server = Server::new();
    let path = "/v1/apps/a%2Fb/instances/c%2Fd%25";
    assert_eq!(server.call(&format!("PUT {path}"), "{}").await.status.as_u16(), 201);
    let json = server.get(path).await.json();
    assert_eq!((&json["app"], &json["id"]), (&"a/b".into(), &"c/d%".into()));
    let shards = server.get("/v1/shards?app=a/b").await.json();
    assert_eq!(shards["shards"][0]["shard"], "a%2Fb/c/d%");
}

#[tokio::test]
async fn every_answer_says_who_gave_it_and_at_which_revision() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    for (path, consistency) in [
        ("/v1/apps", "linearizable"),
        ("/v1/apps?consistency=stale", "stale"),
        ("/v1/apps/pay/instances?consistency=stale", "stale"),
        ("/v1/nowhere", ""),
    ] {
        let reply = server.get(path).await;
        assert_eq!(reply.header("roster-revision"), "1");
        assert_eq!(reply.header("roster-node"), "1");
        assert_eq!(reply.header("roster-term"), "1");
        assert_eq!(reply.header("roster-consistency"), consistency);
        assert!(!reply.header("request-id").is_empty());
    }
    let (a, b) = (server.get("/livez").await, server.get("/livez").await);
    assert_ne!(a.header("request-id"), b.header("request-id"));
    for (sent, echoed) in [("mine", true), ("a b", false), (&"x".repeat(129), false)] {
        let reply = server.call_with("GET /livez", &[("request-id", sent)], "").await;
        assert_eq!(reply.header("request-id") == sent, echoed, "{sent}");
    }
}

#[tokio::test]
async fn conditions_guard_writes() {
    let server = Server::new();
    let put = format!("PUT {INSTANCE}");
    let create = [JSON, ("if-none-match", "*")];
    assert_eq!(server.call_with(&put, &create, "{}").await.status.as_u16(), 201);
    let reply = server.call_with(&put, &create, "{}").await;
    assert_eq!(reply.problem(), (412, "instance-exists".into()));
    let reply = server.call_with(&put, &[JSON, ("if-match", "\"r9\"")], "{}").await;
    assert_eq!(reply.problem(), (412, "precondition-failed".into()));
    assert_eq!(reply.header("roster-revision"), "3");
    let tag = server.get(INSTANCE).await.header("etag").to_owned();
    let reply = server.call_with(&put, &[JSON, ("if-match", &tag)], "{}").await;
    assert_eq!((reply.status.as_u16(), reply.header("etag")), (200, "\"r4\""));
    for (name, value) in [("if-match", "r4"), ("if-match", "*"), ("if-none-match", "\"r4\"")] {
        let reply = server.call_with(&put, &[JSON, (name, value)], "{}").await;
        assert_eq!(reply.problem(), (400, format!("invalid-{name}")));
    }
    let reply = server.call_with("PUT /v1/apps/pay", &create, "{}").await;
    assert_eq!(reply.problem(), (412, "app-exists".into()));
    let path = format!("PUT {INSTANCE}/override");
    let headers = [JSON, ("if-match", "\"r4\"")];
    let reply = server.call_with(&path, &headers, "{\"state\":\"draining\"}").await;
    assert_eq!(reply.problem(), (400, "invalid-if-match".into()));
}

#[tokio::test]
async fn an_old_incarnation_is_told_the_current_one() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    server.call(&format!("PUT {INSTANCE}?takeover=true"), "{}").await;
    for line in [
        format!("PUT {INSTANCE}/heartbeat?incarnation=1"),
        format!("DELETE {INSTANCE}?incarnation=1"),
    ] {
        let reply = server.call(&line, "").await;
        assert_eq!(reply.problem(), (409, "stale-incarnation".into()));
        assert_eq!(reply.json()["incarnation"], 2);
    }
}

#[tokio::test]
async fn a_heartbeat_registers_an_unknown_instance_only_with_its_record() {
    let server = Server::new();
    let beat = format!("PUT {INSTANCE}/heartbeat");
    assert_eq!(server.call(&beat, "").await.status.as_u16(), 404);
    assert_eq!(server.call(&beat, "{\"ttl\":\"30s\"}").await.status.as_u16(), 201);
    let reply = server.call(&beat, "{\"ttl\":\"30s\"}").await;
    assert_eq!((reply.status.as_u16(), server.registry.written()), (200, 1));
    let unknown = "PUT /v1/apps/new/instances/a/heartbeat?create_app=false";
    assert_eq!(server.call(unknown, "{}").await.problem(), (404, "unknown-app".into()));
}

#[tokio::test]
async fn what_the_node_cannot_do_says_whether_something_may_have_happened() {
    let server = Server::new();
    let timeout = std::time::Duration::from_secs(1);
    for (why, status, code, outcome) in [
        (Unavailable::NoLeader("x".into()), 503, "no-leader", "none"),
        (Unavailable::NotReady("x".into()), 503, "not-ready", "none"),
        (Unavailable::Overloaded("x".into()), 503, "overloaded", "none"),
        (Unavailable::ReadOnly("x".into()), 503, "read-only", "none"),
        (Unavailable::Unknown("x".into()), 504, "timeout", "unknown"),
        (Unavailable::Timeout(timeout), 504, "timeout", "unknown"),
    ] {
        *server.registry.fail.lock() = Some(why);
        let write = server.call(&format!("PUT {INSTANCE}"), "{}").await;
        assert_eq!(write.problem(), (status, code.into()));
        assert_eq!(
            (write.json()["outcome"].as_str(), write.json()["retryable"].as_bool()),
            (Some(outcome), Some(true))
        );
        // Nobody else waits, so soon.
        assert_eq!(["1", "2"].contains(&write.header("retry-after")), status == 503);
        let read = server.get("/v1/apps").await;
        assert_eq!((read.problem().0, read.json()["outcome"].as_str()), (status, Some("none")));
    }
    assert_eq!(server.get("/v1/apps?consistency=stale").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_post_with_a_key_happens_once() {
    let server = Server::new();
    let headers = [JSON, ("idempotency-key", "k1")];
    let open = "POST /v1/sessions";
    let first = server.call_with(open, &headers, "{\"ttl\":\"9s\"}").await;
    let again = server.call_with(open, &headers, "{\"ttl\":\"9s\"}").await;
    assert_eq!((first.status.as_u16(), first.text()), (201, again.text()));
    let other = server.call_with(open, &headers, "{\"ttl\":\"8s\"}").await;
    assert_eq!(other.problem(), (422, "key-reused".into()));
    let bad = server.call_with(open, &[JSON, ("idempotency-key", "")], "{}").await;
    assert_eq!(bad.problem(), (400, "invalid-idempotency-key".into()));
    let headers = [JSON, ("idempotency-key", "k2")];
    let batch = "{\"items\":[{\"op\":\"register\",\"app\":\"a\",\"id\":\"1\"},
        {\"op\":\"register\",\"app\":\"a\",\"id\":\"1\",\"takeover\":true}]}";
    let first = server.call_with("POST /v1/instances:batch", &headers, batch).await;
    let again = server.call_with("POST /v1/instances:batch", &headers, batch).await;
    assert_eq!(first.text(), again.text());
    let results = first.json()["results"].take();
    assert_ne!(results[0]["incarnation"], results[1]["incarnation"]);
}

#[tokio::test]
async fn a_large_batch_is_cut_and_a_failure_in_its_middle_is_told_item_by_item() {
    let server = Server::new();
    let payload = "A".repeat(40_000);
    let item = |id| {
        format!("{{\"op\":\"register\",\"app\":\"a\",\"id\":\"{id}\",\"payload\":\"{payload}\"}}")
    };
    let items = |ids: std::ops::Range<u32>| {
        format!("{{\"items\":[{}]}}", ids.map(item).collect::<Vec<_>>().join(","))
    };
    let reply = server.call("POST /v1/instances:batch", &items(0..20)).await;
    assert_eq!(reply.json()["results"].as_array().map(Vec::len), Some(20));
    assert_eq!(server.registry.written(), 3);
    assert_eq!(reply.json()["revision"], 3);
    *server.registry.fail.lock() = Some(Unavailable::Unknown("broken".into()));
    server.registry.fail_after.store(4, Ordering::Relaxed);
    let json = server.call("POST /v1/instances:batch", &items(20..50)).await.json();
    let outcome = |at: usize| json["results"][at]["outcome"].as_str();
    assert_eq!((outcome(0), outcome(8), outcome(29)), (None, Some("unknown"), Some("none")));
}

#[tokio::test]
async fn a_cursor_pins_its_revision() {
    let server = Server::new();
    for id in ["a", "b", "c", "d", "e"] {
        server.call(&format!("PUT /v1/apps/pay/instances/{id}"), "{\"zone\":\"z\"}").await;
        server.call(&format!("PUT /v1/apps/shop/instances/{id}"), "{}").await;
        server.call(&format!("PUT /v1/apps/pay/documents/{id}"), "{}").await;
    }
    for (path, lines, wanted) in [
        ("/v1/apps/pay/instances?limit=2", "instances", 5),
        ("/v1/instances?limit=3", "instances", 10),
        ("/v1/instances?limit=2&filter=zone=='z'", "instances", 5),
        ("/v1/instances?limit=2&q=SHOP", "instances", 5),
        ("/v1/shards?limit=3", "shards", 10),
        ("/v1/apps?limit=1", "apps", 2),
        ("/v1/apps/pay/documents?limit=2", "documents", 5),
    ] {
        let mut page = server.get(path).await.json();
        let revision = page["revision"].clone();
        server.call("PUT /v1/apps/pay/instances/zz", "{\"zone\":\"z\"}").await;
        server.call("PUT /v1/apps/pay/documents/zz", "{}").await;
        let mut seen = page[lines].as_array().expect("lines").len();
        while let Some(cursor) = page["next_cursor"].as_str() {
            page = server.get(&format!("{path}&cursor={cursor}")).await.json();
            assert_eq!(page["revision"], revision, "{page}");
            seen += page[lines].as_array().expect("lines").len();
        }
        assert_eq!(seen, wanted, "{path}");
        server.call("DELETE /v1/apps/pay/instances/zz", "").await;
        server.call("DELETE /v1/apps/pay/documents/zz", "").await;
    }
    let page = server.get("/v1/instances?limit=1").await.json();
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let other = server.get(&format!("/v1/shards?cursor={cursor}")).await;
    assert_eq!(other.problem(), (400, "invalid-cursor".into()));
}

#[tokio::test]
async fn a_cursor_of_another_run_is_compacted() {
    // A run is told by the millisecond in which it began.
    let millisecond = || {
        let since = std::time::UNIX_EPOCH.elapsed().expect("it is later than 1970");
        since.as_millis()
    };
    let first = Server::new();
    let begun = millisecond();
    while millisecond() == begun {
        tokio::task::yield_now().await;
    }
    let second = Server::new();
    for id in ["a", "b"] {
        first.call(&format!("PUT /v1/apps/pay/instances/{id}"), "{}").await;
    }
    let page = first.get("/v1/instances?limit=1").await.json();
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let reply = second.get(&format!("/v1/instances?cursor={cursor}")).await;
    assert_eq!(reply.problem(), (410, "compacted".into()));
    assert_eq!(reply.json()["restart_from"], 0);
}

#[tokio::test]
async fn a_cached_list_is_never_old() {
    let server = Server::new();
    let list = "/v1/apps/pay/instances";
    let path = format!("PUT {INSTANCE}");
    server.call(&path, "{}").await;
    let mut before = server.get(list).await.text();
    for line in [
        path.as_str(),
        "PUT /v1/apps/pay/instances/c",
        "DELETE /v1/apps/pay/instances/a",
        "PUT /v1/apps/pay/instances/b",
    ] {
        if line.ends_with("/b") {
            server.call("DELETE /v1/apps/pay?cascade=true", "").await;
        }
        server.call(line, "{}").await;
        let reply = server.get(list).await;
        assert_ne!(reply.text(), before, "{line}");
        assert_eq!(reply.header("content-length"), reply.body.len().to_string());
        assert_eq!(reply.text(), server.get(list).await.text());
        before = reply.text();
    }
    server.call("PUT /v1/apps/pay/instances/b/override", "{\"state\":\"maintenance\"}").await;
    assert_eq!(server.get(list).await.json()["instances"][0]["state"], "maintenance");
}

#[tokio::test]
async fn every_answer_to_a_heartbeat_has_the_leaders_revision_refused_or_not() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    server.registry.ahead.store(100, Ordering::Relaxed);
    let here = server.registry.version().revision().0;
    let sentinel = "POST /registry/machine?app=pay&ip=10.0.0.1&port=8719";
    for (request, status) in [
        (format!("PUT {INSTANCE}/heartbeat"), 200),
        (format!("PUT {INSTANCE}/heartbeat?incarnation=77"), 409),
        ("PUT /v1/apps/pay/instances/none/heartbeat".into(), 404),
        ("PUT /v1/sessions/1/heartbeat".into(), 200),
        ("PUT /v1/sessions/99/heartbeat".into(), 404),
    ] {
        let reply = server.call(&request, "").await;
        assert_eq!(reply.status.as_u16(), status, "{request}");
        assert_eq!(reply.header("roster-revision"), (here + 100).to_string(), "{request}");
    }
    let reply = server.call("POST /v1/heartbeats", "{\"sessions\":[\"99\"]}").await;
    assert_eq!(reply.header("roster-revision"), (here + 100).to_string());

    let registered = server.call(sentinel, "").await;
    assert_eq!(registered.header("roster-revision"), (here + 1).to_string());
    let beaten = server.call(sentinel, "").await;
    assert_eq!(beaten.header("roster-revision"), (here + 101).to_string());
}

#[tokio::test]
async fn heartbeats_of_many_come_as_msgpack_too() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    let body = serde_json::json!({"instances": [{"app": "pay", "id": "a"}], "sessions": ["1"]});
    let bytes = rmp_serde::to_vec_named(&body).expect("encodes");
    let headers = [("content-type", "application/msgpack")];
    let reply = server.call_with("POST /v1/heartbeats", &headers, bytes.clone()).await;
    assert_eq!(reply.header("content-type"), "application/msgpack", "{}", reply.text());
    let json: serde_json::Value = rmp_serde::from_slice(&reply.body).expect("msgpack");
    assert_eq!(json, serde_json::json!({"renewed": 2, "heartbeat_every": "5s", "failed": []}));
    for broken in [&bytes[1..], &bytes[..9], &b"\xc1"[..], b""] {
        let reply =
            server.call_with("POST /v1/heartbeats", &headers, Body::from(broken.to_vec())).await;
        assert_eq!(reply.problem().0, 400);
    }
    let ids = vec!["\"1\""; 10_001].join(",");
    let reply = server.call("POST /v1/heartbeats", &format!("{{\"sessions\":[{ids}]}}")).await;
    assert_eq!(reply.problem(), (413, "too-large".into()));
}

#[tokio::test]
async fn what_is_no_batch_of_heartbeats_or_too_long_for_one_does_not_come_to_the_leader() {
    let server = Server::new();
    let json = "application/json";
    let msgpack = "application/msgpack";
    for (kind, body, problem) in [
        (json, b"".to_vec(), (400, "malformed")),
        (json, b"\x00".repeat(1_000_000), (400, "malformed")),
        (json, b" [".repeat(1_000_000), (400, "invalid-body")),
        (json, b"\"sessions\"".to_vec(), (400, "invalid-body")),
        (json, b"{\"sessions\":[\"1\"]}".repeat(200_000), (413, "too-large")),
        (msgpack, b"\x00".repeat(1_000_000), (400, "invalid-body")),
        (msgpack, b"\xc1".to_vec(), (400, "malformed")),
    ] {
        let begin = body[..body.len().min(12)].to_vec();
        let headers = [("content-type", kind)];
        let reply = server.call_with("POST /v1/heartbeats", &headers, Body::from(body)).await;
        let (status, code) = reply.problem();
        assert_eq!((status, code.as_str()), problem, "{begin:?}: {}", reply.text());
        assert_eq!(server.registry.bodies.lock().len(), 0, "{begin:?}");
    }
    let told = server.call("POST /v1/heartbeats", " {\"sessions\":[]}").await;
    assert_eq!(told.status.as_u16(), 200, "{}", told.text());
    assert_eq!(server.registry.bodies.lock().len(), 1);
}

#[tokio::test]
async fn heartbeats_of_many_are_answered_alike_by_a_leader_that_does_not_read_bodies() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    let whole = r#"{"instances": [{"app": "pay", "id": "a"}, {"id": "\u0061", "app": "no"}],
        "sessions": ["1", "2"]}"#;
    let bodies = [
        whole,
        "{}",
        "",
        "[]",
        "{\"sessions\":[1]}",
        "{\"sessions\":[\"+1\"]}",
        "{\"sessions\":[\"1\"]} x",
        "{\"instances\":[{\"app\":\"\",\"id\":\"a\"}]}",
        "{\"instances\":[{\"app\":\"a\\n\",\"id\":\"a\"}]}",
        "{\"instances\":[{\"app\":\"a\"}]}",
        "{\"instances\":[{\"app\":\"a\",\"id\":\"a\",\"incarnation\":-1}]}",
        "{\"more\":1}",
    ];
    let msgpack = |body: &str| {
        let value = serde_json::from_str::<serde_json::Value>(body).ok()?;
        rmp_serde::to_vec_named(&value).ok()
    };
    let binary = |more: &'static [u8]| {
        bodies.iter().filter_map(move |b| Some([&msgpack(b)?, more].concat()))
    };
    let json = bodies.iter().map(|body| ("application/json", body.as_bytes().to_vec()));
    let binary = [&b""[..], b"\x93", b"\xc3"].into_iter().flat_map(binary);
    for (kind, body) in json.chain(binary.map(|body| ("application/msgpack", body))) {
        let headers = [("content-type", kind), ("request-id", "r")];
        let mut answers = Vec::new();
        for earlier in [false, true] {
            server.registry.takes_no_bodies.store(earlier, Ordering::Relaxed);
            let body = Body::from(body.clone());
            let reply = server.call_with("POST /v1/heartbeats", &headers, body).await;
            answers.push((reply.status, reply.header("content-type").to_owned(), reply.body));
        }
        assert_eq!(answers[0], answers[1], "{}", String::from_utf8_lossy(&body));
    }
}

/// Whoever gets a body does not know what is in it: only so a batch costs little on a node that does not
/// lead.
#[tokio::test]
async fn a_body_of_many_heartbeats_is_passed_on_byte_by_byte_whatever_it_is() {
    let server = Server::new();
    let bodies: [(&str, &'static [u8]); 5] = [
        ("application/json", b" { \"sessions\" : [ \"1\" ] }\n"),
        ("application/json", b"{\"instances\":[{\"id\":\"\\u0061\",\"app\":\"pay\"}]}"),
        ("application/json", b"{no JSON"),
        ("application/msgpack", b"\x81\xa8sessions\xdc\x00\x01\xa11"),
        ("application/msgpack", b"\x81\xc1"),
    ];
    for (kind, body) in bodies {
        let headers = [("content-type", kind)];
        server.call_with("POST /v1/heartbeats", &headers, Body::from(body)).await;
        let passed_on = std::mem::take(&mut *server.registry.bodies.lock());
        let [passed_on] = &passed_on[..] else { panic!("{kind} {body:?}: {passed_on:?}") };
        assert_eq!(passed_on.bytes, body);
        assert_eq!(passed_on.encoding == Encoding::Json, kind == "application/json");
    }
}

#[tokio::test]
async fn a_node_that_is_not_ready_lives_all_the_same() {
    let server = Server::new();
    assert_eq!(server.get("/readyz").await.text(), "ok\n");
    server.registry.not_ready.store(true, Ordering::Relaxed);
    assert_eq!(server.get("/readyz").await.problem(), (503, "not-ready".into()));
    let verbose = server.get("/readyz?verbose").await;
    assert_eq!(verbose.status.as_u16(), 503);
    assert!(verbose.text().contains("[-] leader: no leader is known"), "{}", verbose.text());
    assert_eq!(server.get("/livez").await.text(), "ok\n");
}

#[tokio::test]
async fn a_list_begins_behind_any_line_of_the_newest_state() {
    let server = Server::new();
    for id in ["a", "b", "c", "d"] {
        server.call(&format!("PUT /v1/apps/pay/instances/{id}"), "{}").await;
        server.call(&format!("PUT /v1/apps/{id}"), "{}").await;
    }
    let ids = async |path: &str, list: &str, id: &str| -> Vec<String> {
        let json = server.get(path).await.json();
        let lines = json[list].as_array().unwrap_or_else(|| panic!("{json}")).iter();
        lines.map(|line| line[id].as_str().expect("text").to_owned()).collect()
    };
    let page = "/v1/apps/pay/instances?limit=2&after=b";
    assert_eq!(ids(page, "instances", "id").await, ["c", "d"]);
    // Also behind one that is gone, and with what came since.
    server.call("DELETE /v1/apps/pay/instances/b", "").await;
    server.call("PUT /v1/apps/pay/instances/bb", "{}").await;
    assert_eq!(ids(page, "instances", "id").await, ["bb", "c"]);
    let filtered = "/v1/apps/pay/instances?after=bb&filter=id%20!=%20%22c%22";
    assert_eq!(ids(filtered, "instances", "id").await, ["d"]);
    assert_eq!(ids("/v1/apps?after=b&limit=2", "apps", "app").await, ["c", "d"]);
    let first = server.get("/v1/apps?limit=1").await.json();
    let cursor = first["next_cursor"].as_str().expect("more");
    let both = server.get(&format!("/v1/apps?cursor={cursor}&after=b")).await;
    assert_eq!(both.problem(), (400, "invalid-after".into()));
    let polled = server.get("/v1/apps/pay/instances?after=b&index=1&wait=1s").await;
    assert_eq!(polled.problem(), (400, "invalid-index".into()));
}

#[tokio::test]
async fn apps_are_found_by_their_name_and_by_the_state_of_their_instances() {
    let server = Server::new();
    for app in ["Pay", "payments", "cart"] {
        server.call(&format!("PUT /v1/apps/{app}/instances/a"), "{}").await;
    }
    let word = r#"{"state":"draining"}"#;
    server.call("PUT /v1/apps/payments/instances/a/override", word).await;
    let apps = async |query: &str| -> Vec<String> {
        let json = server.get(&format!("/v1/apps?{query}")).await.json();
        let lines = json["apps"].as_array().unwrap_or_else(|| panic!("{json}")).iter();
        lines.map(|line| line["app"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(apps("q=PAY").await, ["Pay", "payments"]);
    assert_eq!(apps("q=pay&limit=1").await, ["Pay"]);
    assert_eq!(apps("state=draining").await, ["payments"]);
    assert_eq!(apps("q=cart&state=draining").await, [""; 0]);
    let first = server.get("/v1/apps?q=pay&limit=1").await.json();
    let cursor = first["next_cursor"].as_str().expect("more").to_owned();
    assert_eq!(apps(&format!("q=pay&cursor={cursor}")).await, ["payments"]);
    let other = server.get(&format!("/v1/apps?q=cart&cursor={cursor}")).await;
    assert_eq!(other.problem(), (400, "invalid-cursor".into()));
    assert_eq!(server.get("/v1/apps?state=gone").await.problem(), (400, "invalid-state".into()));
}

#[tokio::test]
async fn an_operator_who_removes_an_instance_is_told_of_with_the_reason() {
    let server = Server::new();
    for (query, reason, detail) in [
        ("", "deregistered", "left by itself"),
        ("?reason=host%20retired", "operator", "removed by an operator: host retired"),
        ("?reason=", "operator", "removed by an operator"),
    ] {
        server.call(&format!("PUT {INSTANCE}"), "{}").await;
        let gone = server.call(&format!("DELETE {INSTANCE}{query}"), "").await;
        assert_eq!(gone.status, 200, "{}", gone.text());
        let json = server.get("/v1/events?kind=instance&limit=1").await.json();
        let event = &json["events"][0];
        assert_eq!(
            (event["event"].as_str(), event["reason"].as_str()),
            (Some("delete"), Some(reason))
        );
        assert_eq!(event["detail"], detail);
    }
    let long = "x".repeat(1025);
    let refused = server.call(&format!("DELETE {INSTANCE}?reason={long}"), "").await;
    assert_eq!(refused.problem(), (400, "invalid-reason".into()));
}

#[tokio::test]
async fn a_code_names_no_parameter_that_nobody_knows() {
    let server = Server::new();
    for query in ["=1&=2", "%C3%97%20x=1&%C3%97%20x=2", "nothing=1&nothing=2"] {
        let reply = server.get(&format!("/v1/apps?{query}")).await;
        assert_eq!(reply.problem(), (400, "unknown-field".into()), "{query}");
    }
    for query in ["=%FF", "%C3%97=%FF"] {
        let reply = server.get(&format!("/v1/apps?{query}")).await;
        assert_eq!(reply.problem(), (400, "invalid-query".into()), "{query}");
    }
    let twice = server.get("/v1/apps?limit=1&limit=2").await;
    assert_eq!(twice.problem(), (400, "invalid-limit".into()));
}

#[tokio::test]
async fn what_an_operator_said_of_an_instance_is_told_with_the_change_it_made() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    let path = format!("{INSTANCE}/override");
    let word =
        |state: &str, reason: &str| format!("{{\"state\":\"{state}\",\"reason\":\"{reason}\"}}");
    for (call, body, reason, detail) in [
        ("PUT", word("draining", "rack 7"), Some("operator"), "draining, was up: rack 7"),
        ("PUT", word("draining", "all of it"), Some("operator"), "draining: all of it"),
        ("PUT", word("maintenance", ""), Some("operator"), "maintenance, was draining"),
        ("PUT", word("maintenance", ""), None, ""),
        ("DELETE", String::new(), Some("operator"), "up, was maintenance"),
    ] {
        let reply = server.call(&format!("{call} {path}"), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let json = server.get("/v1/events?kind=instance&limit=1").await.json();
        let event = &json["events"][0];
        assert_eq!(event["reason"].as_str(), reason, "{event}");
        assert_eq!(event["detail"].as_str().unwrap_or_default(), detail);
    }
    server.call(&format!("PUT {path}"), &word("draining", "rack 7")).await;
    server.call(&format!("DELETE {path}?reason=mended"), "").await;
    let json = server.get("/v1/events?kind=instance&limit=1").await.json();
    assert_eq!(json["events"][0]["detail"], "up, was draining: mended");
    let long = "x".repeat(1025);
    let refused = server.call(&format!("DELETE {path}?reason={long}"), "").await;
    assert_eq!(refused.problem(), (400, "invalid-reason".into()));
}

#[tokio::test]
async fn who_names_the_session_of_one_instance_is_told_whose_it_is() {
    let server = Server::new();
    server.call(&format!("PUT {INSTANCE}"), "{}").await;
    let other = "PUT /v1/apps/pay/instances/b";
    let item = r#"{"items":[{"op":"register","app":"pay","id":"b","session":"1"}]}"#;
    for (call, body) in [
        (other, r#"{"session":"1"}"#),
        ("POST /v1/locks/backup/acquire", r#"{"session":"1","owner":"o","mode":"exclusive"}"#),
        ("POST /v1/elections/lead/campaign", r#"{"session":"1"}"#),
    ] {
        let refused = server.call(call, body).await;
        assert_eq!(refused.problem(), (404, "unknown-session".into()), "{call}");
        let detail = refused.json()["detail"].clone();
        assert!(whose(&detail), "{call}: {detail}");
    }
    let json = server.call("POST /v1/instances:batch", item).await.json();
    assert_eq!(json["results"][0]["code"], "unknown-session");
    assert!(whose(&json["results"][0]["detail"]), "{json}");
    let none = server.call(other, r#"{"session":"99"}"#).await.json();
    assert_eq!(none["detail"], "there is no session 99; it ended or was never opened");
}

fn whose(detail: &serde_json::Value) -> bool {
    detail
        .as_str()
        .is_some_and(|text| text.starts_with("session 1 belongs to instance pay/a alone"))
}
