//! Rings over HTTP: what clients fetch, and who owns a key.

mod support;

use std::collections::BTreeMap;
use std::pin::pin;

use futures::future::join;
use futures::poll;
use roster_storage::ring::{Description, View};
use serde_bytes::Bytes;
use serde_json::{Value, json};
use support::{Reply, Server};

const RING: &str = "/v1/apps/fetchers/ring";
const JSON: (&str, &str) = ("content-type", "application/json");
const MSGPACK: (&str, &str) = ("content-type", "application/msgpack");

/// With so many workers, `f1` on, and a ring over them.
async fn ring_of(workers: usize) -> Server {
    let server = Server::new();
    server.call("PUT /v1/apps/fetchers", "{}").await;
    for n in 1..=workers {
        join_ring(&server, &format!("f{n}")).await;
    }
    let made = server.call(&format!("PUT {RING}"), "").await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.text());
    server
}

async fn join_ring(server: &Server, id: &str) {
    let body = r#"{"ip":"10.0.1.1","port":9000,"ttl":"30s"}"#;
    server.call(&format!("PUT /v1/apps/fetchers/instances/{id}"), body).await;
}

async fn owners(server: &Server, keys: &[String], replicas: usize) -> Vec<Vec<String>> {
    let body = json!({"keys": keys, "replicas": replicas}).to_string();
    let answer = server.call(&format!("POST {RING}/owners"), &body).await.json();
    let results = answer["results"].as_array().expect("results");
    let owners = |result: &Value| serde_json::from_value(result["owners"].clone()).expect("ids");
    results.iter().map(owners).collect()
}

/// Of a single key's owners.
fn ids(answer: &Value) -> Value {
    let owners = answer["owners"].as_array().expect("owners");
    owners.iter().map(|owner| owner["id"].clone()).collect()
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("key-{n}")).collect()
}

fn from_msgpack(reply: &Reply) -> Value {
    assert_eq!(reply.header("content-type"), "application/msgpack", "{}", reply.text());
    rmp_serde::from_slice(&reply.body).expect("msgpack")
}

#[tokio::test]
async fn a_ring_is_switched_on_changed_and_switched_off() {
    let server = Server::new();
    assert_eq!(server.get(RING).await.problem(), (404, "unknown-app".into()));
    for line in [format!("PUT {RING}"), format!("DELETE {RING}"), format!("POST {RING}/compact")] {
        assert_eq!(server.call(&line, "").await.problem(), (404, "unknown-app".into()), "{line}");
    }
    join_ring(&server, "f1").await;
    for line in [
        format!("GET {RING}"),
        format!("GET {RING}/owners?key=k"),
        format!("DELETE {RING}"),
        format!("POST {RING}/compact"),
        format!("POST {RING}/simulate"),
    ] {
        assert_eq!(server.call(&line, "").await.problem(), (404, "no-ring".into()), "{line}");
    }
    let made = server.call(&format!("PUT {RING}"), r#"{"seed":7,"replicas":2}"#).await;
    insta::assert_snapshot!(made.text(), @r#"{"app":"fetchers","epoch":7,"revision":7}"#);
    assert_eq!(made.status.as_u16(), 201);
    let read = server.get(RING).await;
    insta::assert_snapshot!(read.text(), @r#"{"v":1,"kind":"jump-probe-1","group":"fetchers","epoch":7,"seed":7,"replicas":2,"workers":[["f1",1]],"slots":[0]}"#);
    assert_eq!(read.header("etag"), made.header("etag"));
    let same = server.call(&format!("PUT {RING}"), r#"{"seed":7,"replicas":2}"#).await;
    insta::assert_snapshot!(same.text(), @r#"{"app":"fetchers","epoch":7,"revision":8}"#);
    let changed = server.call(&format!("PUT {RING}"), r#"{"seed":7,"replicas":3}"#).await;
    insta::assert_snapshot!(changed.text(), @r#"{"app":"fetchers","epoch":9,"revision":9}"#);
    assert_eq!((same.status.as_u16(), changed.status.as_u16()), (200, 200));
    let other = server.call(&format!("PUT {RING}"), r#"{"seed":8,"replicas":3}"#).await;
    assert_eq!(other.problem(), (400, "invalid-seed".into()));
    insta::assert_snapshot!(server.call(&format!("DELETE {RING}"), "").await.text(), @r#"{"app":"fetchers","revision":11}"#);
    assert_eq!(server.get(RING).await.problem(), (404, "no-ring".into()));
}

#[tokio::test]
async fn conditions_guard_rings() {
    let server = ring_of(2).await;
    let create = [JSON, ("if-none-match", "*")];
    let reply = server.call_with(&format!("PUT {RING}"), &create, "").await;
    assert_eq!(reply.problem(), (412, "ring-exists".into()));
    for line in [format!("PUT {RING}"), format!("POST {RING}/compact"), format!("DELETE {RING}")] {
        let reply = server.call_with(&line, &[JSON, ("if-match", "\"r1\"")], "").await;
        assert_eq!(reply.problem(), (412, "precondition-failed".into()), "{line}");
    }
    let tag = server.get(RING).await.header("etag").to_owned();
    let reply = server.call_with(&format!("DELETE {RING}"), &[("if-match", &tag)], "").await;
    assert_eq!(reply.status.as_u16(), 200);
}

#[tokio::test]
async fn bad_input_names_the_field_and_leaves_the_log_alone() {
    let server = ring_of(1).await;
    let written = server.registry.written();
    let many = format!(r#"{{"keys":[{}"a"]}}"#, r#""a","#.repeat(10_000));
    let long = format!(r#"{{"keys":["a","{}"]}}"#, "k".repeat(64 * 1024 + 1));
    let crowd = format!(r#"{{"leave":[{}"a"]}}"#, r#""a","#.repeat(10_000));
    let (put, many_owners) = (format!("PUT {RING}"), format!("POST {RING}/owners"));
    let simulate = format!("POST {RING}/simulate");
    for (line, body, status, code) in [
        (put.as_str(), r#"{"seed":9007199254740992}"#, 400, "invalid-seed"),
        (&put, r#"{"seed":-1}"#, 400, "invalid-seed"),
        (&put, r#"{"replicas":0}"#, 400, "invalid-replicas"),
        (&put, r#"{"replicas":17}"#, 400, "invalid-replicas"),
        (&put, r#"{"replicas":300}"#, 400, "invalid-replicas"),
        (&put, r#"{"replica":1}"#, 400, "unknown-field"),
        (&format!("GET {RING}/owners"), "", 400, "invalid-key"),
        (&format!("GET {RING}/owners?key=a&key=b"), "", 400, "invalid-key"),
        (&format!("GET {RING}/owners?key=a&replicas=0"), "", 400, "invalid-replicas"),
        (&format!("GET {RING}/owners?key=a&replicas=17"), "", 400, "invalid-replicas"),
        (&format!("GET {RING}/owners?key=a&epoch=x"), "", 400, "invalid-epoch"),
        (&format!("GET {RING}?key=a"), "", 400, "unknown-field"),
        (&many_owners, "{}", 400, "invalid-keys"),
        (&many_owners, r#"{"keys":["a",7]}"#, 400, "invalid-keys"),
        (&many_owners, r#"{"keys":"a"}"#, 400, "invalid-keys"),
        (&many_owners, r#"{"keys":["a"],"replicas":17}"#, 400, "invalid-replicas"),
        (&many_owners, &long, 400, "invalid-key"),
        (&many_owners, &many, 413, "too-large"),
        (&simulate, &many, 413, "too-large"),
        (&simulate, &crowd, 413, "too-large"),
        (&simulate, r#"{"leave":["f2"]}"#, 400, "invalid-leave"),
        (&simulate, r#"{"leave":["f1","f1"]}"#, 400, "invalid-leave"),
        (&simulate, r#"{"join":[{"id":"f2","weight":0}]}"#, 400, "invalid-weight"),
        (&simulate, r#"{"join":[{"id":"f2","weight":1025}]}"#, 400, "invalid-weight"),
        (&simulate, r#"{"join":[{"weight":1}]}"#, 400, "invalid-id"),
        (&simulate, r#"{"joins":[]}"#, 400, "unknown-field"),
    ] {
        let reply = server.call(line, body).await;
        assert_eq!(reply.problem(), (status, code.into()), "{line}: {}", reply.text());
    }
    assert_eq!(server.registry.written(), written);
}

#[tokio::test]
async fn a_description_gives_a_client_the_owners_that_the_node_gives() {
    let server = ring_of(7).await;
    server.call("PATCH /v1/apps/fetchers/instances/f3", r#"{"weight":5}"#).await;
    server.call("DELETE /v1/apps/fetchers/instances/f5", "").await;
    let description: Description =
        serde_json::from_slice(&server.get(RING).await.body).expect("a description");
    let epoch = description.epoch;
    let view = View::try_from(description).expect("well-formed");
    let keys = keys(200);
    for replicas in [1, 3] {
        let told = owners(&server, &keys, replicas).await;
        for (key, told) in keys.iter().zip(&told) {
            assert_eq!(view.owners(key.as_bytes(), replicas), *told);
            let path = format!("{RING}/owners?key={key}&replicas={replicas}&epoch={epoch}");
            let one = server.get(&path).await.json();
            assert_eq!(ids(&one), json!(told));
        }
    }
}

#[tokio::test]
async fn the_description_is_the_same_map_in_msgpack() {
    let server = ring_of(3).await;
    let json = server.get(RING).await;
    let accept = [("accept", "application/x-msgpack")];
    let msgpack = server.call_with(&format!("GET {RING}"), &accept, "").await;
    assert_eq!(from_msgpack(&msgpack), json.json());
    assert_eq!(msgpack.header("etag"), json.header("etag"));
    let both = [("accept", "text/html, application/json;q=0.9"), MSGPACK];
    let reply = server.call_with(&format!("GET {RING}"), &both, "").await;
    assert_eq!(reply.header("content-type"), "application/json");
}

#[tokio::test]
async fn who_drains_leaves_the_ring_and_comes_back_to_its_own_keys() {
    let server = ring_of(5).await;
    let keys = keys(300);
    let before = owners(&server, &keys, 1).await;
    let path = "/v1/apps/fetchers/instances/f2/override";
    server.call(&format!("PUT {path}"), r#"{"state":"draining"}"#).await;
    let workers = server.get(RING).await.json()["workers"].to_string();
    assert_eq!(workers, r#"[["f1",1],["f3",1],["f4",1],["f5",1]]"#);
    let meanwhile = owners(&server, &keys, 1).await;
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert_ne!(meanwhile, &["f2"]);
        assert!(before == meanwhile || before == &["f2"], "only its own keys moved");
    }
    server.call(&format!("DELETE {path}"), "").await;
    assert_eq!(owners(&server, &keys, 1).await, before);
}

#[tokio::test]
async fn a_key_is_any_bytes() {
    let server = ring_of(9).await;
    let path = |key: &str| format!("{RING}/owners?key={key}&replicas=2");
    let keys: [(&str, &[u8]); 5] = [
        ("", b""),
        ("%ff%00", b"\xff\0"),
        ("a%20b", b"a b"),
        ("a+b", b"a b"),
        ("%2b%C3%A9", "+é".as_bytes()),
    ];
    let body: Vec<_> = keys.iter().map(|(_, bytes)| Bytes::new(bytes)).collect();
    let body = rmp_serde::to_vec_named(&Asking { keys: body, replicas: 2 }).expect("msgpack");
    let many = server.call_with(&format!("POST {RING}/owners"), &[MSGPACK], body).await;
    let many = from_msgpack(&many);
    for (n, (key, bytes)) in keys.iter().enumerate() {
        let one = server.get(&path(key)).await;
        assert_eq!(ids(&one.json()), many["results"][n]["owners"], "{key}");
        match str::from_utf8(bytes) {
            Ok(text) => assert_eq!(one.json()["key"], text),
            Err(_) => assert_eq!(one.json()["key_base64"], "/wA="),
        }
    }
    insta::assert_snapshot!(server.get(&path("k")).await.text(), @r#"{"epoch":11,"key":"k","owners":[{"id":"f8","ip":"10.0.1.1","port":9000,"incarnation":9},{"id":"f4","ip":"10.0.1.1","port":9000,"incarnation":5}]}"#);
}

#[derive(serde::Serialize)]
struct Asking<'a> {
    keys: Vec<&'a Bytes>,
    replicas: usize,
}

#[tokio::test]
async fn text_and_bytes_are_the_same_key() {
    let server = ring_of(9).await;
    let text = keys(50);
    let bytes = text.iter().map(|key| Bytes::new(key.as_bytes())).collect();
    let body = rmp_serde::to_vec_named(&Asking { keys: bytes, replicas: 3 }).expect("msgpack");
    let headers = [MSGPACK, ("accept", "application/json")];
    let reply = server.call_with(&format!("POST {RING}/owners"), &headers, body).await;
    let told = reply.json()["results"].clone();
    let expected = owners(&server, &text, 3).await;
    let expected: Vec<_> = expected.into_iter().map(|ids| json!({"owners": ids})).collect();
    assert_eq!(told, Value::from(expected));
}

#[tokio::test]
async fn a_ring_without_workers_has_no_owners() {
    let server = ring_of(0).await;
    let one = server.get(&format!("{RING}/owners?key=k&replicas=3")).await;
    assert_eq!((one.status.as_u16(), one.json()["owners"].clone()), (200, json!([])));
    assert_eq!(owners(&server, &keys(2), 2).await, [Vec::<String>::new(), Vec::new()]);
    let none = server.call(&format!("POST {RING}/owners"), r#"{"keys":[]}"#).await;
    assert_eq!(none.json()["results"], json!([]));
    let joined = r#"{"join":[{"id":"f1"}],"keys":["k"]}"#;
    let joined = server.call(&format!("POST {RING}/simulate"), joined).await;
    insta::assert_snapshot!(joined.text(), @r#"{"epoch":2,"keys":1,"moved":1,"moves":[{"key":"k","from":null,"to":"f1"}],"moves_left_off":0,"workers":[{"id":"f1","weight_before":0,"weight_after":1,"share_before":0.0,"share_after":1.0}]}"#);
}

#[tokio::test]
async fn replicas_are_the_rings_own_where_nobody_says() {
    let server = ring_of(4).await;
    server.call(&format!("PUT {RING}"), r#"{"replicas":3}"#).await;
    let count = |answer: &Value| answer["owners"].as_array().map(Vec::len);
    assert_eq!(count(&server.get(&format!("{RING}/owners?key=k")).await.json()), Some(3));
    let many = server.call(&format!("POST {RING}/owners"), r#"{"keys":["k"]}"#).await.json();
    assert_eq!(count(&many["results"][0]), Some(3));
    assert_eq!(
        count(&server.get(&format!("{RING}/owners?key=k&replicas=16")).await.json()),
        Some(4)
    );
}

#[tokio::test]
async fn who_asks_under_another_epoch_is_told_the_rings() {
    let server = ring_of(2).await;
    let epoch = server.get(RING).await.json()["epoch"].as_u64().expect("an epoch");
    join_ring(&server, "f9").await;
    let one = server.get(&format!("{RING}/owners?key=k&epoch={epoch}")).await;
    let body = format!(r#"{{"keys":["k"],"epoch":{epoch}}}"#);
    let many = server.call(&format!("POST {RING}/owners"), &body).await;
    for reply in [one, many] {
        assert_eq!(reply.problem(), (409, "stale-epoch".into()));
        assert_eq!(reply.json()["epoch"], epoch + 1);
    }
}

#[tokio::test]
async fn a_dry_run_tells_what_then_happens_and_changes_nothing() {
    let server = ring_of(6).await;
    let keys = keys(4_096);
    let before = owners(&server, &keys, 1).await;
    let (ring, written) = (server.get(RING).await.text(), server.registry.written());
    let body = json!({"leave": ["f2"], "join": [{"id": "f7", "weight": 3}], "keys": keys});
    let told = server.call(&format!("POST {RING}/simulate"), &body.to_string()).await.json();
    assert_eq!((server.get(RING).await.text(), server.registry.written()), (ring, written));

    let batch = r#"{"items":[{"op":"deregister","app":"fetchers","id":"f2"},
        {"op":"register","app":"fetchers","id":"f7","weight":3}]}"#;
    server.call("POST /v1/instances:batch", batch).await;
    let after = owners(&server, &keys, 1).await;
    let moved = keys.iter().zip(before.iter().zip(&after)).filter(|(_, (from, to))| from != to);
    let moved: Vec<_> =
        moved.map(|(key, (from, to))| json!({"key": key, "from": from[0], "to": to[0]})).collect();
    assert!(moved.len() > 1_000, "{}", moved.len());
    assert_eq!(told["moved"], moved.len());
    assert_eq!(told["moves"].as_array().expect("moves")[..], moved[..1_000]);
    assert_eq!(told["moves_left_off"], moved.len() - 1_000);
    assert_eq!(told["keys"], 4_096);
    let share = |owners: &[Vec<String>], id: &str| {
        owners.iter().filter(|owners| owners[0] == id).count() as f64 / 4_096.0
    };
    for (n, id) in ["f1", "f2", "f3", "f4", "f5", "f6", "f7"].iter().enumerate() {
        let worker = &told["workers"][n];
        assert_eq!(worker["id"], *id);
        assert_eq!(worker["share_before"], share(&before, id));
        assert_eq!(worker["share_after"], share(&after, id));
    }
    let probed = server.call(&format!("POST {RING}/simulate"), r#"{"leave":["f1"]}"#).await.json();
    assert_eq!((&probed["keys"], &probed["moves"]), (&json!(10_000), &json!([])));
    assert_eq!(probed["moved"], probed["moves_left_off"]);
}

#[tokio::test]
async fn a_long_poll_waits_for_the_rings_next_epoch() {
    let server = ring_of(2).await;
    server.call("PUT /v1/apps/pay/instances/a", "{}").await;
    let epoch = server.get(RING).await.json()["epoch"].clone();
    let unchanged = server.get(&format!("{RING}?index={epoch}&wait=20ms")).await;
    assert_eq!(unchanged.json()["epoch"], epoch);
    let path = format!("{RING}?index={epoch}&wait=10m");
    let mut poll = pin!(server.get(&path));
    assert!(poll!(&mut poll).is_pending());
    server.call("PUT /v1/apps/pay/ring", "").await;
    server.call("PATCH /v1/apps/fetchers/instances/f1", r#"{"metadata":{"a":"b"}}"#).await;
    assert!(poll!(&mut poll).is_pending(), "neither changes this ring");
    join_ring(&server, "f3").await;
    let answer = poll.await;
    assert_eq!(answer.json()["workers"].as_array().map(Vec::len), Some(3));
    let at_once = server.get(&path).await;
    assert_eq!(at_once.text(), answer.text());
    let path = format!("{RING}?index={}&wait=10m", answer.json()["epoch"]);
    let (gone, _) = join(server.get(&path), server.call(&format!("DELETE {RING}"), "")).await;
    assert_eq!(gone.problem(), (404, "no-ring".into()));
}

#[tokio::test]
async fn who_found_no_slot_left_is_named() {
    let server = Server::new();
    let item =
        |n| json!({"op": "register", "app": "fetchers", "id": format!("f{n:04}"), "weight": 1024});
    let items: Vec<_> = (0..1026).map(item).collect();
    server.call("POST /v1/instances:batch", &json!({"items": items}).to_string()).await;
    server.call(&format!("PUT {RING}"), "").await;
    let ring = server.get(RING).await.json();
    assert_eq!(ring["left_out"], json!(["f1024", "f1025"]));
    let path = "/v1/apps/fetchers/instances/f1024/override";
    server.call(&format!("PUT {path}"), r#"{"state":"maintenance"}"#).await;
    let ring = server.get(RING).await.json();
    assert_eq!(ring["left_out"], json!(["f1025"]), "the other would not be on it anyway");
    server.call("DELETE /v1/apps/fetchers/instances/f1025", "").await;
    assert_eq!(server.get(RING).await.json().get("left_out"), None);
}

#[tokio::test]
async fn heartbeats_tell_what_was_adopted_and_are_told_what_is_settled() {
    let server = ring_of(1).await;
    let beat = server.call("PUT /v1/apps/fetchers/instances/f1/heartbeat?adopted=3", "").await;
    assert_eq!(beat.json()["settled"], json!({"fetchers": 3}));
    let quiet = server.call("PUT /v1/apps/fetchers/instances/f1/heartbeat", "").await;
    assert_eq!(quiet.json().get("settled"), None, "who adopts nothing is told nothing");
    let session = server.call("POST /v1/sessions", "{}").await.json()["session"].clone();
    let path = format!("PUT /v1/sessions/{}/heartbeat", session.as_str().expect("an id"));
    let beat = server.call(&path, r#"{"adopted":{"fetchers":3,"pay":9}}"#).await;
    assert_eq!(beat.json()["settled"], json!({"fetchers": 3, "pay": 9}));
    let beats = server.registry.beats.lock().clone();
    let adopted = |n: usize| {
        let adopted = &beats[n].adopted;
        adopted.iter().map(|(app, epoch)| format!("{app} {epoch}")).collect::<Vec<_>>()
    };
    assert_eq!(adopted(0), ["fetchers 3"], "an instance adopts for the ring of its own app");
    assert_eq!((adopted(1), adopted(2)), (vec![], vec!["fetchers 3".into(), "pay 9".into()]));
    let many = r#"{"instances":[{"app":"fetchers","id":"f1","adopted":3}]}"#;
    let beat = server.call("POST /v1/heartbeats", many).await;
    assert_eq!(beat.json()["settled"], json!({"fetchers": 3}));
    let too_many: BTreeMap<_, _> = (0..=100).map(|n| (format!("app-{n}"), 1)).collect();
    for (line, body) in [
        ("PUT /v1/apps/fetchers/instances/f1/heartbeat?adopted=x", ""),
        (path.as_str(), r#"{"adopted":{"fetchers":-1}}"#),
        (&path, r#"{"adopted":[1]}"#),
        (&path, &json!({"adopted": too_many}).to_string()),
    ] {
        assert_eq!(server.call(line, body).await.problem(), (400, "invalid-adopted".into()));
    }
}

#[tokio::test]
async fn a_watch_of_rings_begins_with_the_description_and_tells_each_change_once() {
    let server = ring_of(2).await;
    let mut stream = server.lines("/v1/watch?app=fetchers&kind=ring").await;
    insta::assert_snapshot!(stream.some(3).await, @r#"
{"event":"snapshot-begin","revision":4}
{"event":"put","kind":"ring","revision":4,"app":"fetchers","id":"fetchers","value":{"v":1,"kind":"jump-probe-1","group":"fetchers","epoch":4,"seed":0,"replicas":1,"workers":[["f1",1],["f2",1]],"slots":[0,1]}}
{"event":"snapshot-end","revision":4}
"#);
    server.call("PATCH /v1/apps/fetchers/instances/f1", r#"{"weight":2}"#).await;
    server.call("DELETE /v1/apps/fetchers?cascade=true", "").await;
    insta::assert_snapshot!(stream.some(2).await, @r#"
{"event":"put","kind":"ring","revision":5,"time":"2026-11-21T20:36:17.355Z","app":"fetchers","id":"fetchers","value":{"v":1,"kind":"jump-probe-1","group":"fetchers","epoch":5,"seed":0,"replicas":1,"workers":[["f1",2],["f2",1]],"slots":[0,1,0]}}
{"event":"delete","kind":"ring","revision":6,"time":"2026-11-21T20:36:17.356Z","app":"fetchers","id":"fetchers","reason":"operator","detail":"removed by an operator"}
"#);
}
