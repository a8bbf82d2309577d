//! Shard sets over HTTP: who works on what, and how shards go from one worker to the next.

mod support;

use std::pin::pin;
use std::sync::atomic::Ordering;

use futures::future::join;
use futures::poll;
use roster_api::registry::Unavailable;
use roster_storage::command::{Command, EncodedCommand};
use serde_json::{Value, json};
use support::Server;

const SET: &str = "/v1/shard-sets/main";
const JSON: (&str, &str) = ("content-type", "application/json");

async fn register(server: &Server, app: &str, id: &str) {
    let body = r#"{"ip":"10.0.0.1","port":8719,"zone":"z","ttl":"30s"}"#;
    let app = app.replace('%', "%25").replace('/', "%2F");
    let answer = server.call(&format!("PUT /v1/apps/{app}/instances/{id}"), body).await;
    assert!(answer.status.is_success(), "{}", answer.text());
}

/// So many workers `f1` on, and so many shards `pay/s1` on, planned.
async fn set_of(workers: usize, shards: usize) -> Server {
    let server = Server::new();
    server.call("PUT /v1/apps/fetchers", "{}").await;
    for n in 1..=workers {
        register(&server, "fetchers", &format!("f{n}")).await;
    }
    for n in 1..=shards {
        register(&server, "pay", &format!("s{n}")).await;
    }
    put_set(&server, r#"{"workers":"fetchers","apps":["pay"]}"#).await;
    server.registry.rebalance("main").await;
    server
}

async fn put_set(server: &Server, body: &str) {
    let answer = server.call(&format!("PUT {SET}"), body).await;
    assert!(answer.status.is_success(), "{}", answer.text());
}

/// What a worker holds: the shards, the grants, and what it is to let go.
async fn held(server: &Server, worker: &str) -> Vec<(String, u64, bool)> {
    let view = server.get(&format!("{SET}/workers/{worker}")).await.json();
    let shards = view["shards"].as_array().expect("shards").iter();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let held = |shard: &Value| {
        let grant = shard["grant"].as_u64().expect("a grant");
        (text(&shard["shard"]), grant, shard["release"].as_bool().expect("a flag"))
    };
    shards.map(held).collect()
}

fn releases(held: &[(String, u64, bool)]) -> String {
    let shards = held.iter().map(|(shard, grant, _)| json!({"shard": shard, "grant": grant}));
    json!({"shards": shards.collect::<Vec<_>>()}).to_string()
}

async fn listed(server: &Server, query: &str) -> Vec<String> {
    let list = server.get(&format!("{SET}/shards{query}")).await.json();
    let shards = list["shards"].as_array().unwrap_or_else(|| panic!("{list}")).iter();
    shards.map(|shard| shard["shard"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_set_is_made_read_changed_and_deleted() {
    let server = Server::new();
    let body = r#"{"workers":"fetchers","apps":["*"],"copies":2,
        "scaling":{"shards_per_worker":4,"max":9}}"#;
    let refused = server.call(&format!("PUT {SET}"), body).await;
    assert_eq!(refused.problem(), (404, "unknown-app".into()));
    register(&server, "fetchers", "f1").await;
    register(&server, "pay", "a").await;
    let made = server.call(&format!("PUT {SET}"), body).await;
    insta::assert_snapshot!(made.text(), @r#"{"set":"main","revision":4}"#);
    assert_eq!((made.status.as_u16(), made.header("etag")), (201, "\"r4\""));
    server.registry.rebalance("main").await;
    let read = server.get(SET).await;
    insta::assert_snapshot!(read.text(), @r#"{"set":"main","workers":"fetchers","apps":["*"],"copies":2,"scaling":{"shards_per_worker":4,"min":1,"max":9,"cooldown":"5m"},"counts":{"shards":1,"assigned":1,"pending":0,"orphaned":0,"gone":0,"workers":1,"available_workers":1},"imbalance":0,"epoch":5,"revision":4}"#);
    assert_eq!(read.header("etag"), "\"r4\"", "its shards are not the set");
    let list = server.get("/v1/shard-sets").await;
    insta::assert_snapshot!(list.text(), @r#"{"shard_sets":[{"set":"main","workers":"fetchers","apps":["*"],"copies":2,"scaling":{"shards_per_worker":4,"min":1,"max":9,"cooldown":"5m"},"counts":{"shards":1,"assigned":1,"pending":0,"orphaned":0,"gone":0,"workers":1,"available_workers":1},"imbalance":0,"epoch":5,"revision":4}],"next_cursor":null,"revision":5}"#);
    let body = r#"{"workers":"fetchers","apps":["pay","cart"]}"#;
    let changed = server.call(&format!("PUT {SET}"), body).await;
    assert_eq!((changed.status.as_u16(), changed.header("etag")), (200, "\"r6\""));
    let read = server.get(SET).await.json();
    assert_eq!((&read["apps"], &read["scaling"]), (&json!(["cart", "pay"]), &Value::Null));
    insta::assert_snapshot!(server.call(&format!("DELETE {SET}"), "").await.text(), @r#"{"set":"main","revision":7}"#);
    for line in [
        format!("GET {SET}"),
        format!("DELETE {SET}"),
        format!("GET {SET}/shards"),
        format!("GET {SET}/workers"),
        format!("GET {SET}/workers/f1"),
        format!("GET {SET}/workers/f1?index=1&wait=10m"),
        format!("GET {SET}/scaling"),
        format!("POST {SET}/plan"),
    ] {
        let reply = server.call(&line, "").await;
        assert_eq!(reply.problem(), (404, "unknown-shard-set".into()), "{line}");
    }
    for line in [format!("POST {SET}/release"), format!("POST {SET}/workers/f1/release")] {
        let reply = server.call(&line, r#"{"shards":[]}"#).await;
        assert_eq!(reply.problem(), (404, "unknown-shard-set".into()), "{line}");
    }
}

#[tokio::test]
async fn conditions_guard_sets() {
    let server = set_of(1, 1).await;
    let body = r#"{"workers":"fetchers","apps":["pay"]}"#;
    let create = [JSON, ("if-none-match", "*")];
    let reply = server.call_with(&format!("PUT {SET}"), &create, body).await;
    assert_eq!(reply.problem(), (412, "shard-set-exists".into()));
    for line in [format!("PUT {SET}"), format!("DELETE {SET}")] {
        let reply = server.call_with(&line, &[JSON, ("if-match", "\"r1\"")], body).await;
        assert_eq!(reply.problem(), (412, "precondition-failed".into()), "{line}");
    }
    let tag = server.get(SET).await.header("etag").to_owned();
    let reply = server.call_with(&format!("DELETE {SET}"), &[("if-match", &tag)], "").await;
    assert_eq!(reply.status.as_u16(), 200);
}

#[tokio::test]
async fn bad_input_names_the_field_and_leaves_the_log_alone() {
    let server = set_of(1, 1).await;
    let written = server.registry.written();
    let set = |rest: &str| format!(r#"{{"workers":"fetchers",{rest}}}"#);
    let scaling = |policy: &str| set(&format!(r#""apps":["pay"],"scaling":{{{policy}}}"#));
    let apps: Vec<_> = (0..1001).map(|n| format!("a{n}")).collect();
    let many_apps = set(&format!(r#""apps":{}"#, json!(apps)));
    let shard = r#"{"shard":"pay/s1","grant":1}"#;
    let many = format!(r#"{{"shards":[{}{shard}]}}"#, format!("{shard},").repeat(10_000));
    let crowd = format!(r#"{{"leave":[{}"a"]}}"#, r#""a","#.repeat(10_000));
    let (put, plan) = (format!("PUT {SET}"), format!("POST {SET}/plan"));
    let release = format!("POST {SET}/workers/f1/release");
    for (line, body, status, code) in [
        (put.as_str(), r#"{"apps":["pay"]}"#.to_owned(), 400, "invalid-workers"),
        (&put, r#"{"workers":"","apps":["pay"]}"#.into(), 400, "invalid-workers"),
        (&put, r#"{"workers":"fetchers"}"#.into(), 400, "invalid-apps"),
        (&put, set(r#""apps":[]"#), 400, "invalid-apps"),
        (&put, set(r#""apps":["*","pay"]"#), 400, "invalid-apps"),
        (&put, set(r#""apps":["pay",""]"#), 400, "invalid-apps"),
        (&put, set(r#""apps":["pay",7]"#), 400, "invalid-apps"),
        (&put, many_apps, 400, "invalid-apps"),
        (&put, set(r#""apps":["pay"],"copies":0"#), 400, "invalid-copies"),
        (&put, set(r#""apps":["pay"],"copies":17"#), 400, "invalid-copies"),
        (&put, set(r#""apps":["pay"],"copies":300"#), 400, "invalid-copies"),
        (&put, set(r#""apps":["pay"],"standbys":2"#), 400, "unknown-field"),
        (&put, scaling(""), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":1"#), 400, "invalid-scaling"),
        (&put, scaling(r#""max":1"#), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":0,"max":1"#), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":1,"max":0,"min":0"#), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":1,"max":2,"min":3"#), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":1,"max":-2"#), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":1,"max":2,"cooldown":5"#), 400, "invalid-scaling"),
        (&put, scaling(r#""shards_per_worker":1,"max":2,"cool":"5s""#), 400, "unknown-field"),
        ("PUT /v1/shard-sets/%FF", set(r#""apps":["pay"]"#), 400, "invalid-set"),
        ("PUT /v1/shard-sets/a%00", set(r#""apps":["pay"]"#), 400, "invalid-set"),
        (&format!("GET {SET}/workers/%00"), String::new(), 400, "invalid-id"),
        (&format!("GET {SET}/workers/f2"), String::new(), 404, "unknown-instance"),
        (&format!("GET {SET}/shards?worker=f2"), String::new(), 404, "unknown-instance"),
        (&format!("GET {SET}/shards?limit=0"), String::new(), 400, "invalid-limit"),
        (&format!("GET {SET}/shards?cursor=x"), String::new(), 400, "invalid-cursor"),
        (&format!("GET {SET}/shards?gone=maybe"), String::new(), 400, "invalid-gone"),
        (&release, "{}".into(), 400, "invalid-shards"),
        (&release, r#"{"shards":[{"shard":"pay/s1"}]}"#.into(), 400, "invalid-grant"),
        (&release, r#"{"shards":[{"shard":"","grant":1}]}"#.into(), 400, "invalid-shard"),
        (&release, many, 413, "too-large"),
        (&plan, r#"{"leave":["f2"]}"#.into(), 400, "invalid-leave"),
        (&plan, r#"{"join":[{"id":"f2","weight":1025}]}"#.into(), 400, "invalid-weight"),
        (&plan, r#"{"join":[{"id":"f2","zone":"a\nb"}]}"#.into(), 400, "invalid-zone"),
        (&plan, crowd, 413, "too-large"),
    ] {
        let reply = server.call(line, &body).await;
        assert_eq!(reply.problem(), (status, code.into()), "{line}: {}", reply.text());
    }
    assert_eq!(server.registry.written(), written);
}

#[tokio::test]
async fn a_shard_goes_to_its_next_worker_when_its_holder_lets_it_go() {
    let server = set_of(1, 4).await;
    register(&server, "fetchers", "f2").await;
    server.registry.rebalance("main").await;
    let of_one = held(&server, "f1").await;
    let leaving: Vec<_> = of_one.iter().filter(|(_, _, release)| *release).cloned().collect();
    assert_eq!((of_one.len(), leaving.len()), (4, 2), "{of_one:?}");
    assert_eq!(held(&server, "f2").await, []);
    let workers = server.get(&format!("{SET}/workers")).await.text();
    insta::assert_snapshot!(workers, @r#"{"workers":[{"id":"f1","ip":"10.0.0.1","port":8719,"weight":1,"zone":"z","state":"up","held":4,"incoming":0,"releasing":2,"load":2},{"id":"f2","ip":"10.0.0.1","port":8719,"weight":1,"zone":"z","state":"up","held":0,"incoming":2,"releasing":0,"load":2}],"next_cursor":null,"revision":10}"#);

    let (shard, grant, _) = leaving[0].clone();
    let stale =
        format!(r#"{{"shard":"pay/none","grant":{grant}}},{{"shard":"{shard}","grant":1}}"#);
    let body = releases(&leaving).replace("]}", &format!(",{stale}]}}"));
    let answer = server.call(&format!("POST {SET}/workers/f1/release"), &body).await;
    insta::assert_snapshot!(answer.text(), @r#"{"results":[{"shard":"pay/s1"},{"shard":"pay/s4"},{"shard":"pay/none","code":"stale-token","detail":"nobody holds it under this grant any more","outcome":"none","holder":null,"grant":0},{"shard":"pay/s1","code":"stale-token","detail":"\"f2\" holds it under grant 11","outcome":"none","holder":"f2","grant":11}],"revision":11}"#);
    let got: Vec<_> = held(&server, "f2").await;
    let revision = answer.json()["revision"].as_u64().expect("a revision");
    let expected: Vec<_> =
        leaving.into_iter().map(|(shard, _, _)| (shard, revision, false)).collect();
    assert_eq!(got, expected, "the new grants are of the release");
}

#[tokio::test]
async fn only_the_holder_lets_go_and_an_operator_for_it() {
    let server = set_of(2, 2).await;
    let of_one = held(&server, "f1").await;
    let body = releases(&of_one);
    let other = server.call(&format!("POST {SET}/workers/f2/release"), &body).await.json();
    assert_eq!(other["results"][0]["code"], "stale-token");
    assert_eq!(other["results"][0]["holder"], "f1");
    assert_eq!(other["results"][0]["grant"], of_one[0].1);
    assert_eq!(held(&server, "f1").await, of_one);
    let operator = server.call(&format!("POST {SET}/release"), &body).await.json();
    assert_eq!(operator["results"], json!([{"shard": of_one[0].0}]));
    assert_eq!(held(&server, "f1").await, []);
    let again = server.call(&format!("POST {SET}/release"), &body).await.json();
    assert_eq!(again["results"][0]["code"], "stale-token", "under that grant it is held no more");
}

#[tokio::test]
async fn a_deleted_shard_is_shown_to_its_holder_until_that_lets_go() {
    let server = set_of(1, 2).await;
    server.call("DELETE /v1/apps/pay/instances/s1", "").await;
    assert_eq!(listed(&server, "").await, ["pay/s2"]);
    let gone = server.get(&format!("{SET}/shards?gone=true")).await;
    insta::assert_snapshot!(gone.text(), @r#"{"shards":[{"shard":"pay/s1","app":"pay","instance":"s1","ip":null,"port":null,"holder":"f1","grant":6,"next":null,"gone":true},{"shard":"pay/s2","app":"pay","instance":"s2","ip":"10.0.0.1","port":8719,"holder":"f1","grant":6,"next":null,"gone":false}],"next_cursor":null,"revision":7}"#);
    assert_eq!(listed(&server, "?worker=f1").await, ["pay/s2"]);
    assert_eq!(listed(&server, "?worker=f1&gone=true").await, ["pay/s1", "pay/s2"]);
    let of_one = held(&server, "f1").await;
    assert_eq!(of_one.iter().map(|(_, _, release)| *release).collect::<Vec<_>>(), [true, false]);
    server.call(&format!("POST {SET}/workers/f1/release"), &releases(&of_one[..1])).await;
    assert_eq!(listed(&server, "?gone=true").await, ["pay/s2"]);
}

#[tokio::test]
async fn shards_are_listed_in_the_order_of_their_ids_whatever_apps_are_called() {
    let server = Server::new();
    register(&server, "fetchers", "f1").await;
    // The end of the app's name sorts otherwise before a "/" than before the end of a text.
    for app in ["a", "a-b", "a/b", "a%", "a0", "b"] {
        for id in ["x", "y", "z"] {
            register(&server, app, id).await;
        }
    }
    put_set(&server, r#"{"workers":"fetchers","apps":["*"]}"#).await;
    server.registry.rebalance("main").await;
    for app in ["a-b", "a%25", "b"] {
        server.call(&format!("DELETE /v1/apps/{app}/instances/y"), "").await;
    }
    let all = listed(&server, "?gone=true").await;
    let mut sorted = all.clone();
    sorted.sort();
    assert_eq!((all.len(), &all), (18, &sorted));
    for (query, expected) in [
        ("?gone=true", all.clone()),
        ("?app=a%25&gone=true", vec!["a%25/x".into(), "a%25/y".into(), "a%25/z".into()]),
        ("?app=a%2Fb", vec!["a%2Fb/x".into(), "a%2Fb/y".into(), "a%2Fb/z".into()]),
        ("?app=fetchers", vec![]),
        ("?app=nobody", vec![]),
        ("?worker=f1&gone=true", all.clone()),
        ("?", all.iter().filter(|id| !is_gone(id)).cloned().collect()),
    ] {
        assert_eq!(in_pages_of_one(&server, query).await, expected, "{query}");
    }
}

fn is_gone(id: &str) -> bool {
    ["a-b/y", "a%25/y", "b/y"].contains(&id)
}

async fn in_pages_of_one(server: &Server, query: &str) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("{SET}/shards{query}&limit=1{cursor}");
        let page = server.get(&path).await.json();
        let shards = page["shards"].as_array().unwrap_or_else(|| panic!("{path}: {page}"));
        all.extend(shards.iter().map(|shard| shard["shard"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { return all };
        assert_eq!(shards.len(), 1);
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn cursors_of_sets_and_workers_go_on_where_the_page_ended() {
    let server = set_of(3, 0).await;
    server.call("PUT /v1/shard-sets/second", r#"{"workers":"fetchers","apps":["pay"]}"#).await;
    for (path, list, member, expected) in [
        ("/v1/shard-sets", "shard_sets", "set", vec!["main", "second"]),
        ("/v1/shard-sets/main/workers", "workers", "id", vec!["f1", "f2", "f3"]),
    ] {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("{path}?limit=1{cursor}")).await.json();
            all.push(page[list][0][member].as_str().expect("a name").to_owned());
            let Some(next) = page["next_cursor"].as_str() else { break };
            let other = server.get(&format!("/v1/apps?cursor={next}")).await;
            assert_eq!(other.problem(), (400, "invalid-cursor".into()));
            cursor = format!("&cursor={next}");
        }
        assert_eq!(all, expected);
    }
}

#[tokio::test]
async fn standbys_are_other_workers_and_told_on_request() {
    let server = set_of(4, 6).await;
    let shards = |query: &'static str| {
        let server = &server;
        async move { server.get(&format!("{SET}/shards{query}")).await.json()["shards"].clone() }
    };
    assert_eq!(shards("").await[0].get("standbys"), None);
    assert_eq!(shards("?standbys=true").await[0]["standbys"], json!([]));
    put_set(&server, r#"{"workers":"fetchers","apps":["pay"],"copies":3}"#).await;
    let shards = shards("?standbys=true").await;
    for shard in shards.as_array().expect("shards") {
        let standbys = shard["standbys"].as_array().expect("standbys");
        assert_eq!(standbys.len(), 2);
        assert!(!standbys.contains(&shard["holder"]) && standbys[0] != standbys[1], "{shard}");
    }
}

/// What `f1` holds in another set.
async fn listed_of(set: &str, server: &Server) -> Vec<String> {
    let view = server.get(&format!("/v1/shard-sets/{set}/workers/f1")).await.json();
    let shards = view["shards"].as_array().expect("shards").iter();
    shards.map(|shard| shard["shard"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_long_poll_of_a_worker_waits_for_what_it_holds() {
    let server = set_of(2, 2).await;
    let body = r#"{"workers":"fetchers","apps":["cart"]}"#;
    server.call("PUT /v1/shard-sets/other", body).await;
    let view = server.get(&format!("{SET}/workers/f1")).await.json();
    let path = format!("{SET}/workers/f1?index={}&wait=10m", view["epoch"]);
    let mut poll = pin!(server.get(&path));
    assert!(poll!(&mut poll).is_pending());
    register(&server, "cart", "x").await;
    server.registry.rebalance("other").await;
    assert_eq!(listed_of("other", &server).await, ["cart/x"], "it holds more, of another set");
    let of_two = held(&server, "f2").await;
    server.call(&format!("POST {SET}/release"), &releases(&of_two)).await;
    register(&server, "fetchers", "f1").await;
    assert!(poll!(&mut poll).is_pending(), "nothing of this changes what it holds in this set");
    let of_one = held(&server, "f1").await;
    server.call(&format!("DELETE /v1/apps/pay/instances/{}", &of_one[0].0[4..]), "").await;
    let answer = poll.await;
    assert_eq!(answer.json()["shards"][0]["release"], true, "{}", answer.text());
    assert_eq!(server.get(&path).await.text(), answer.text(), "it has changed since: at once");
    let epoch = answer.json()["epoch"].clone();
    let unchanged = server.get(&format!("{SET}/workers/f1?index={epoch}&wait=20ms")).await;
    assert_eq!(unchanged.text(), answer.text());
    let path = format!("{SET}/workers/f2?index={epoch}&wait=10m");
    let leaves = server.call("DELETE /v1/apps/fetchers/instances/f2", "");
    let (gone, _) = join(server.get(&path), leaves).await;
    assert_eq!(gone.problem(), (404, "unknown-instance".into()), "it held nothing, and left");
}

#[tokio::test]
async fn a_dry_run_of_the_plan_tells_what_then_happens_and_changes_nothing() {
    let server = set_of(3, 9).await;
    let (before, written) = (server.get(SET).await.text(), server.registry.written());
    let body = r#"{"leave":["f1"],"join":[{"id":"f4","weight":2,"zone":"b"}]}"#;
    let told = server.call(&format!("POST {SET}/plan"), body).await.json();
    assert_eq!((server.get(SET).await.text(), server.registry.written()), (before, written));
    let nothing = server.call(&format!("POST {SET}/plan"), "").await;
    insta::assert_snapshot!(nothing.text(), @r#"{"epoch":15,"moves":[],"moves_left_off":0,"voluntary":0,"fewest":0,"loads":[{"worker":"f1","before":3,"after":3},{"worker":"f2","before":3,"after":3},{"worker":"f3","before":3,"after":3}]}"#);

    let planned = |list: &Value| -> Vec<(Value, Value)> {
        let shards = list["shards"].as_array().expect("shards").iter();
        let planned = |shard: &Value| match &shard["next"] {
            Value::Null => shard["holder"].clone(),
            next => next.clone(),
        };
        shards.map(|shard| (shard["shard"].clone(), planned(shard))).collect()
    };
    let path = format!("{SET}/shards");
    let before = planned(&server.get(&path).await.json());
    server.call("DELETE /v1/apps/fetchers/instances/f1", "").await;
    server.call("PUT /v1/apps/fetchers/instances/f4", r#"{"weight":2,"zone":"b"}"#).await;
    server.registry.rebalance("main").await;
    let after = planned(&server.get(&path).await.json());
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
    let moved: Vec<_> =
        moved.map(|((s, from), (_, to))| json!({"shard": s, "from": from, "to": to})).collect();
    assert!(!moved.is_empty());
    assert_eq!(told["moves"], json!(moved));
    assert_eq!((&told["moves_left_off"], &told["voluntary"]), (&json!(0), &told["fewest"]));
    let load = |moved: &[(Value, Value)], id: &str| moved.iter().filter(|(_, w)| w == id).count();
    for (n, id) in ["f1", "f2", "f3", "f4"].iter().enumerate() {
        let expected =
            json!({"worker": id, "before": load(&before, id), "after": load(&after, id)});
        assert_eq!(told["loads"][n], expected);
    }
}

#[tokio::test]
async fn a_large_release_is_cut_into_entries_and_answered_in_order() {
    let server = set_of(1, 3).await;
    let held = held(&server, "f1").await;
    let unknown = |n| json!({"shard": format!("pay/{n:0>250}"), "grant": 1});
    let mut shards: Vec<_> = (0..3_000).map(unknown).collect();
    for (n, (shard, grant, _)) in held.iter().enumerate() {
        shards.insert(n * 1_400, json!({"shard": shard, "grant": grant}));
    }
    let body = json!({"shards": shards}).to_string();
    let (line, before) = (format!("POST {SET}/workers/f1/release"), server.registry.written());
    let answer = server.call(&line, &body).await.json();
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), shards.len());
    for (shard, result) in shards.iter().zip(results) {
        assert_eq!(shard["shard"], result["shard"]);
        let is_held = held.iter().any(|(held, _, _)| shard["shard"] == **held);
        assert_eq!(result.get("code").is_none(), is_held, "{result}");
    }
    let commands = server.registry.commands.lock();
    let entries = &commands[before..];
    assert!(entries.len() > 2, "{}", entries.len());
    for command in entries {
        assert!(EncodedCommand::new(command).is_ok() && matches!(command, Command::Release(_)));
    }
}

#[tokio::test]
async fn a_release_that_breaks_off_tells_what_may_have_happened() {
    let server = set_of(1, 1).await;
    let shard = |n| json!({"shard": format!("pay/{n:0>1000}"), "grant": 1});
    let shards: Vec<_> = (0..600).map(shard).collect();
    let body = json!({"shards": shards}).to_string();
    let written = server.registry.written() as u64;
    server.registry.fail_after.store(written + 1, Ordering::Relaxed);
    *server.registry.fail.lock() = Some(Unavailable::Unknown("cut off".into()));
    let answer = server.call(&format!("POST {SET}/release"), &body).await;
    let answer = answer.json();
    let mut told: Vec<_> = answer["results"].as_array().expect("results").iter().collect();
    assert_eq!(told.len(), 600);
    told.dedup_by_key(|result| (result["code"].clone(), result["outcome"].clone()));
    let told: Vec<_> = told.iter().map(|r| (&r["code"], &r["outcome"])).collect();
    let expected = [("stale-token", "none"), ("timeout", "unknown"), ("timeout", "none")];
    assert_eq!(told.len(), 3, "{told:?}");
    for ((code, outcome), expected) in told.iter().zip(expected) {
        assert_eq!((code.as_str(), outcome.as_str()), (Some(expected.0), Some(expected.1)));
    }
    server.registry.fail_after.store(0, Ordering::Relaxed);
    let refused = server.call(&format!("POST {SET}/release"), &body).await;
    assert_eq!(refused.problem(), (504, "timeout".into()), "nothing was decided at all");
}

#[tokio::test]
async fn scaling_tells_how_many_workers_and_whom_to_stop() {
    let server = set_of(4, 6).await;
    let path = format!("{SET}/scaling");
    let off = server.get(&path).await;
    assert_eq!(off.problem(), (404, "no-scaling".into()));
    assert!(off.text().contains("PUT /v1/shard-sets"), "{}", off.text());
    let body = r#"{"workers":"fetchers","apps":["pay"],
        "scaling":{"shards_per_worker":2,"min":1,"max":5,"cooldown":"0s"}}"#;
    put_set(&server, body).await;
    insta::assert_snapshot!(server.get(&path).await.text(), @r#"{"desired":3,"current":4,"min":1,"max":5,"reason":"6 shards at 2 per worker need 3; as many are wanted","victims":["f3"],"shards":6}"#);
    // One that drains is none of those that are too many.
    let drained = "PUT /v1/apps/fetchers/instances/f1/override";
    server.call(drained, r#"{"state":"draining"}"#).await;
    let three = server.get(&path).await.json();
    assert_eq!((&three["current"], &three["victims"]), (&json!(3), &json!([])));
    for n in 3..=6 {
        server.call(&format!("DELETE /v1/apps/pay/instances/s{n}"), "").await;
    }
    let fewer = server.get(&path).await.json();
    assert_eq!(fewer["current"], 3);
    let victims = fewer["victims"].as_array().expect("ids");
    let desired = fewer["desired"].as_u64().expect("a plain number");
    assert_eq!(victims.len() as u64, 3 - desired);
    assert!(!victims.contains(&json!("f1")), "{fewer}");
}

#[tokio::test]
async fn the_app_of_a_sets_workers_is_in_use() {
    let server = set_of(1, 1).await;
    let reply = server.call("DELETE /v1/apps/fetchers?cascade=true", "").await;
    assert_eq!(reply.problem(), (409, "app-in-use".into()));
    assert!(reply.json()["detail"].to_string().contains("main"), "{}", reply.text());
    let covered = server.call("DELETE /v1/apps/pay?cascade=true", "").await;
    assert_eq!(covered.status.as_u16(), 200);
}

#[tokio::test]
async fn sets_have_a_limit() {
    let server = set_of(0, 0).await;
    let body = r#"{"workers":"fetchers","apps":["pay"]}"#;
    for n in 1..64 {
        let reply = server.call(&format!("PUT /v1/shard-sets/s{n}"), body).await;
        assert_eq!(reply.status.as_u16(), 201);
    }
    let reply = server.call("PUT /v1/shard-sets/s64", body).await;
    assert_eq!(reply.problem(), (429, "rate-limited".into()));
    assert_eq!(server.call("PUT /v1/shard-sets/s63", body).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_watch_of_a_worker_begins_with_what_it_holds_and_tells_what_it_gets_and_loses() {
    let server = set_of(2, 3).await;
    server.call("PUT /v1/shard-sets/other", r#"{"workers":"fetchers","apps":["pay"]}"#).await;
    server.registry.rebalance("other").await;
    let of_one = held(&server, "f1").await;
    let path = "/v1/watch?app=fetchers&kind=worker&id=f1&set=main";
    let mut stream = server.lines(path).await;
    insta::assert_snapshot!(stream.some(of_one.len() + 2).await, @r#"
{"event":"snapshot-begin","revision":10}
{"event":"put","kind":"worker","revision":8,"app":"fetchers","id":"f1","set":"main","shard":"pay/s2","value":{"set":"main","worker":"f1","shard":"pay/s2","grant":8,"release":false}}
{"event":"put","kind":"worker","revision":8,"app":"fetchers","id":"f1","set":"main","shard":"pay/s3","value":{"set":"main","worker":"f1","shard":"pay/s3","grant":8,"release":false}}
{"event":"snapshot-end","revision":10}
"#);
    let (shard, grant, _) = &of_one[0];
    let release = json!({"shards": [{"shard": shard, "grant": grant}]}).to_string();
    let other = "/v1/shard-sets/other/workers";
    let unseen = server.get(&format!("{other}/f1")).await.json()["shards"].clone();
    let unseen = [&unseen[0]["shard"], &unseen[0]["grant"]];
    let unseen = json!({"shards": [{"shard": unseen[0], "grant": unseen[1]}]}).to_string();
    let let_go = server.call(&format!("POST {other}/f1/release"), &unseen).await.json();
    assert_eq!(let_go["results"][0].get("code"), None, "work of another set changes too");
    let of_two = held(&server, "f2").await;
    server.call(&format!("POST {SET}/release"), &releases(&of_two)).await;
    server.call(&format!("POST {SET}/workers/f1/release"), &release).await;
    server.registry.rebalance("main").await;
    server.call("DELETE /v1/apps/fetchers/instances/f1", "").await;
    insta::assert_snapshot!(stream.some(4).await, @r#"
{"event":"delete","kind":"worker","revision":13,"time":"2026-11-21T20:36:17.363Z","app":"fetchers","id":"f1","set":"main","shard":"pay/s2","grant":8,"reason":"released","detail":"let go by its worker"}
{"event":"put","kind":"worker","revision":14,"time":"2026-11-21T20:36:17.364Z","app":"fetchers","id":"f1","set":"main","shard":"pay/s2","value":{"set":"main","worker":"f1","shard":"pay/s2","grant":14,"release":false}}
{"event":"delete","kind":"worker","revision":15,"time":"2026-11-21T20:36:17.365Z","app":"fetchers","id":"f1","set":"main","shard":"pay/s2","grant":14,"reason":"worker-gone","detail":"its worker is gone","more":true}
{"event":"delete","kind":"worker","revision":15,"time":"2026-11-21T20:36:17.365Z","app":"fetchers","id":"f1","set":"main","shard":"pay/s3","grant":8,"reason":"worker-gone","detail":"its worker is gone"}
"#);
}

#[tokio::test]
async fn a_snapshot_of_work_has_each_held_shard_once() {
    let server = set_of(3, 40).await;
    server.call("PUT /v1/shard-sets/other", r#"{"workers":"fetchers","apps":["pay"]}"#).await;
    server.registry.rebalance("other").await;
    server.call("PUT /v1/shard-sets/empty", r#"{"workers":"fetchers","apps":["cart"]}"#).await;
    let mut stream = server.lines("/v1/watch?kind=worker").await;
    let mut told = Vec::new();
    for line in stream.some(82).await.lines().filter(|line| line.contains("\"put\"")) {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let set = event["set"].as_str().expect("a set").to_owned();
        let worker = event["id"].as_str().expect("a worker").to_owned();
        told.push((set, worker, event["shard"].as_str().expect("a shard").to_owned()));
    }
    let mut expected = Vec::new();
    for set in ["main", "other"] {
        for worker in ["f1", "f2", "f3"] {
            let view = server.get(&format!("/v1/shard-sets/{set}/workers/{worker}")).await.json();
            for held in view["shards"].as_array().expect("shards") {
                let shard = held["shard"].as_str().expect("an id").to_owned();
                expected.push((set.to_owned(), worker.to_owned(), shard));
            }
        }
    }
    assert_eq!(told.len(), 80);
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_watch_of_one_id_tells_of_nothing_else() {
    let server = set_of(1, 2).await;
    server.call("PUT /v1/apps/pay/documents/s1", "1").await;
    server.call("PUT /v1/apps/pay/documents/s2", "2").await;
    server.call("PUT /v1/apps/pay/ring", "").await;
    let mut stream = server.lines("/v1/watch?app=pay&id=s1").await;
    let kinds = |lines: String| -> Vec<String> {
        let event = |line| serde_json::from_str::<Value>(line).expect("JSON");
        let short = |event: Value| format!("{} {} {}", event["event"], event["kind"], event["id"]);
        lines.lines().map(|line| short(event(line)).replace('"', "")).collect()
    };
    let begin = kinds(stream.some(5).await);
    let puts = ["put instance s1", "put shard pay/s1", "put document s1"];
    assert_eq!(begin[1..4], puts);
    server.call("DELETE /v1/apps/pay/instances/s2", "").await;
    server.call("PUT /v1/apps/pay/documents/s2", "3").await;
    server.call("PUT /v1/apps/pay/documents/s1", "3").await;
    server.call("DELETE /v1/apps/pay/instances/s1", "").await;
    let changes = kinds(stream.some(3).await);
    assert_eq!(changes, ["put document s1", "delete instance s1", "delete shard pay/s1"]);
    for (query, code) in [
        ("kind=ring,app&id=a", "invalid-id"),
        ("id=", "invalid-id"),
        ("kind=ring&set=main", "invalid-set"),
        ("set=", "invalid-set"),
        ("set=main&filter=true", "invalid-set"),
    ] {
        let reply = server.get(&format!("/v1/watch?{query}")).await;
        assert_eq!(reply.problem(), (400, code.into()), "{query}");
    }
}

#[tokio::test]
async fn changes_and_the_history_tell_of_rings_and_work() {
    let server = set_of(1, 1).await;
    server.call("PUT /v1/apps/fetchers/ring", "").await;
    let path = "/v1/changes?app=fetchers&kind=ring,worker&index=0";
    let changed = server.get(path).await.json()["changed"].clone();
    let expected = json!([
        {"kind": "ring", "app": "fetchers", "id": "fetchers"},
        {"kind": "worker", "app": "fetchers", "id": "f1"},
    ]);
    assert_eq!(changed, expected);
    let events = server.get("/v1/events?kind=ring,worker&order=asc").await.json()["events"].clone();
    let kinds: Vec<_> = events.as_array().expect("events").iter().map(|e| &e["kind"]).collect();
    assert_eq!(kinds, ["worker", "ring"]);
}

#[tokio::test]
async fn one_shard_is_found_by_its_id_among_those_that_match() {
    let server = set_of(2, 3).await;
    assert_eq!(listed(&server, "?shard=pay/s2").await, ["pay/s2"]);
    assert_eq!(listed(&server, "?shard=pay/s9").await, [""; 0]);
    assert_eq!(listed(&server, "?shard=pay/s2&app=cart").await, [""; 0]);
    let all = server.get(&format!("{SET}/shards?shard=pay/s2")).await.json();
    let holder = all["shards"][0]["holder"].as_str().expect("a holder").to_owned();
    let other = if holder == "f1" { "f2" } else { "f1" };
    assert_eq!(listed(&server, &format!("?shard=pay/s2&worker={holder}")).await, ["pay/s2"]);
    assert_eq!(listed(&server, &format!("?shard=pay/s2&worker={other}")).await, [""; 0]);
    // Deleted, and not let go of yet.
    server.call("DELETE /v1/apps/pay/instances/s2", "").await;
    assert_eq!(listed(&server, "?shard=pay/s2").await, [""; 0]);
    assert_eq!(listed(&server, "?shard=pay/s2&gone=true").await, ["pay/s2"]);
    assert_eq!(listed(&server, "?after=pay/s1&gone=true").await, ["pay/s2", "pay/s3"]);
}
