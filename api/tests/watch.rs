//! Watches and long polls, as clients see them.

mod support;

use std::future::Future;

use futures::future::{join, select};
use serde_json::Value;
use support::{Server, Stream};

const BODY: &str = r#"{"ip":"10.0.0.1","port":8719,"zone":"a","ttl":"30s"}"#;

async fn register(server: &Server, app: &str, id: &str, body: &str) {
    let answer = server.call(&format!("PUT /v1/apps/{app}/instances/{id}"), body).await;
    assert!(answer.status.is_success(), "{}", answer.text());
}

/// The events of so many lines, in short.
async fn told(stream: &mut Stream, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let line = stream.line().await.expect("a line");
        let event: Value = serde_json::from_str(&line).expect("JSON");
        let text = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
        let revision = event["revision"].as_u64().unwrap_or(0);
        let more = if event["more"] == true { " more" } else { "" };
        told.push(format!("{} {} {} r{revision}{more}", text("event"), text("kind"), text("id")));
    }
    told
}

#[tokio::test]
async fn a_watch_begins_with_what_stands_there_and_goes_on_with_what_changes() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    register(&server, "cart", "b", BODY).await;
    let mut stream = server.lines("/v1/watch?app=pay").await;
    assert_eq!(stream.headers["content-type"], "application/x-ndjson");
    assert_eq!(stream.headers["roster-revision"], "2");
    assert_eq!(stream.headers["roster-consistency"], "linearizable");
    insta::assert_snapshot!(stream.some(5).await, @r#"
    {"event":"snapshot-begin","revision":2}
    {"event":"put","kind":"app","revision":1,"app":"pay","id":"pay","value":{"app":"pay","kind":0,"ttl":null,"ttl_min":null,"ttl_max":null,"remove_when_empty_after":null,"revision":1}}
    {"event":"put","kind":"instance","revision":1,"app":"pay","id":"a","incarnation":1,"value":{"app":"pay","id":"a","incarnation":1,"ip":"10.0.0.1","port":8719,"hostname":"","version":"","zone":"a","weight":1,"metadata":{},"payload":"","state":"up","ttl":"30s","session":"1","registered_at":"2026-11-21T20:36:17.351Z","revision":1}}
    {"event":"put","kind":"shard","revision":1,"app":"pay","id":"pay/a","incarnation":1,"value":{"shard":"pay/a","app":"pay","instance":"a","ip":"10.0.0.1","port":8719,"revision":1}}
    {"event":"snapshot-end","revision":2}
    "#);
    register(&server, "cart", "c", BODY).await;
    server.call("DELETE /v1/apps/pay/instances/a", "").await;
    insta::assert_snapshot!(stream.some(2).await, @r#"
    {"event":"delete","kind":"instance","revision":4,"time":"2026-11-21T20:36:17.354Z","app":"pay","id":"a","incarnation":1,"reason":"deregistered","detail":"left by itself","more":true}
    {"event":"delete","kind":"shard","revision":4,"time":"2026-11-21T20:36:17.354Z","app":"pay","id":"pay/a","incarnation":1,"reason":"deregistered","detail":"left by itself"}
    "#);
}

#[tokio::test]
async fn only_the_last_event_of_a_revision_has_an_id_to_resume_from() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    let mut stream = server.stream("/v1/watch?from=0&kind=instance,shard", &[]).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    let lines = stream.some(7).await;
    let names: Vec<_> = lines.lines().map(|line| line.split("{").next().expect("text")).collect();
    assert_eq!(names, ["event: put", "data: ", "", "event: put", "id: 1", "data: ", ""]);
}

#[tokio::test]
async fn a_watch_of_an_app_that_is_not_there_is_empty_and_then_tells_of_it() {
    let server = Server::new();
    let mut stream = server.lines("/v1/watch?app=pay&app=cart&kind=instance").await;
    assert_eq!(told(&mut stream, 2).await, ["snapshot-begin - - r0", "snapshot-end - - r0"]);
    register(&server, "other", "x", BODY).await;
    register(&server, "cart", "a", BODY).await;
    assert_eq!(told(&mut stream, 1).await, ["put instance a r2"]);
}

/// It begins with its instance and takes its new address; what else becomes of that is no news of the shard.
#[tokio::test]
async fn a_shard_is_told_again_where_its_instance_has_a_new_address() {
    let server = Server::new();
    let mut stream = server.lines("/v1/watch?app=pay&kind=shard").await;
    assert_eq!(told(&mut stream, 2).await, ["snapshot-begin - - r0", "snapshot-end - - r0"]);
    register(&server, "pay", "a", r#"{"ip":"10.0.0.1","port":1,"zone":"a"}"#).await;
    register(&server, "pay", "a", r#"{"ip":"10.0.0.1","port":1,"zone":"b"}"#).await;
    server.call("PATCH /v1/apps/pay/instances/a", r#"{"weight":7}"#).await;
    server.call("PUT /v1/apps/pay/instances/a/override", r#"{"state":"draining"}"#).await;
    register(&server, "pay", "a", r#"{"ip":"10.0.0.1","port":2,"zone":"b"}"#).await;
    register(&server, "pay", "a", r#"{"ip":"10.0.0.2","port":2,"zone":"b"}"#).await;
    server.call("DELETE /v1/apps/pay/instances/a", "").await;
    assert_eq!(
        told(&mut stream, 4).await,
        ["put shard pay/a r1", "put shard pay/a r5", "put shard pay/a r6", "delete shard pay/a r7"]
    );
    let changed = async |after: u64| {
        let reply = server.get(&format!("/v1/changes?kind=shard&index={after}&wait=0s")).await;
        reply.json()["changed"].as_array().map_or(0, Vec::len)
    };
    assert_eq!((changed(4).await, changed(7).await), (1, 0));
}

#[tokio::test]
async fn what_leaves_a_filter_is_deleted_for_who_watches_with_it() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    register(&server, "pay", "b", r#"{"zone":"b"}"#).await;
    let mut stream =
        server.lines("/v1/watch?app=pay&filter=zone+==+%22a%22+%26%26+state+==+%22up%22").await;
    assert_eq!(
        told(&mut stream, 3).await,
        ["snapshot-begin - - r2", "put instance a r1", "snapshot-end - - r2"]
    );
    register(&server, "pay", "b", r#"{"zone":"a"}"#).await;
    register(&server, "pay", "a", r#"{"zone":"b"}"#).await;
    register(&server, "pay", "a", r#"{"zone":"c"}"#).await;
    server.call("PUT /v1/apps/pay/instances/b/override", r#"{"state":"draining"}"#).await;
    server.call("DELETE /v1/apps/pay/instances/b", "").await;
    register(&server, "pay", "c", BODY).await;
    server.call("DELETE /v1/apps/pay/instances/c", "").await;
    assert_eq!(
        told(&mut stream, 5).await,
        [
            "put instance b r3",
            "delete instance a r4",
            "delete instance b r6",
            "put instance c r8",
            "delete instance c r9"
        ]
    );
}

#[tokio::test]
async fn an_event_source_that_comes_back_goes_on_after_the_last_event_it_has() {
    let server = Server::new();
    for id in ["a", "b", "c"] {
        register(&server, "pay", id, BODY).await;
    }
    let headers = [("last-event-id", "2"), ("accept", "application/x-ndjson")];
    let mut stream = server.stream("/v1/watch?from=1&kind=instance", &headers).await;
    assert_eq!(told(&mut stream, 1).await, ["put instance c r3"]);
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_refused_or_begun_again_with_a_snapshot() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    server.registry.log.forget();
    let refused = server.get("/v1/watch?from=0").await;
    assert_eq!(refused.problem(), (410, "compacted".into()));
    assert_eq!(refused.json()["restart_from"], 1);
    let mut stream = server.lines("/v1/watch?from=0&kind=instance&restart=snapshot").await;
    assert_eq!(
        told(&mut stream, 4).await,
        ["compacted - - r0", "snapshot-begin - - r1", "put instance a r1", "snapshot-end - - r1"]
    );
}

#[tokio::test]
async fn a_stream_whose_future_is_forgotten_ends_and_says_from_where_to_list() {
    let server = Server::new();
    let mut ends = server.lines("/v1/watch?from=0&kind=instance").await;
    let mut restarts = server.lines("/v1/watch?from=0&kind=instance&restart=snapshot").await;
    register(&server, "pay", "a", BODY).await;
    server.registry.log.forget();
    let line: Value = serde_json::from_str(&ends.rest().await).expect("one line");
    assert_eq!((&line["event"], &line["restart_from"]), (&"compacted".into(), &1.into()));
    assert_eq!(
        told(&mut restarts, 4).await,
        ["compacted - - r0", "snapshot-begin - - r1", "put instance a r1", "snapshot-end - - r1"]
    );
}

#[tokio::test]
async fn a_node_that_stops_says_goodbye_and_how_far_it_was() {
    let server = Server::new();
    let mut stream = server.lines("/v1/watch?from=0&kind=instance").await;
    register(&server, "pay", "a", BODY).await;
    assert_eq!(told(&mut stream, 1).await, ["put instance a r1"]);
    server.registry.log.stop();
    insta::assert_snapshot!(stream.rest().await, @r#"{"event":"bye","revision":1,"detail":"this node stops; resume on another one"}"#);
}

#[tokio::test]
async fn a_watch_that_makes_no_sense_is_refused_by_name() {
    let server = Server::new();
    for (query, code) in [
        ("from=-1", "invalid-from"),
        ("from=x", "invalid-from"),
        ("kind=instances", "invalid-kind"),
        ("kind=session", "invalid-kind"),
        ("kind=instance,", "invalid-kind"),
        ("app=", "invalid-app"),
        ("restart=list", "invalid-restart"),
        ("wait=11m", "invalid-wait"),
        ("wait=5", "invalid-wait"),
        ("filter=zone+==", "invalid-filter"),
        ("filter=zone+==+%22a%22&kind=app", "invalid-filter"),
        ("consistency=maybe", "invalid-consistency"),
        ("form=1", "unknown-field"),
    ] {
        let refused = server.get(&format!("/v1/watch?{query}")).await;
        assert_eq!(refused.problem(), (400, code.into()), "{query}");
    }
    let many: String = (0..1_001).map(|app| format!("app=a{app}&")).collect();
    for path in [format!("/v1/watch?{many}"), format!("/v1/changes?{many}index=0")] {
        assert_eq!(server.get(&path).await.problem(), (400, "invalid-app".into()));
    }
    let header = server.call_with("GET /v1/watch", &[("last-event-id", "a")], "").await;
    assert_eq!(header.problem(), (400, "invalid-last-event-id".into()));
    let ahead = server.get("/v1/watch?from=7&wait=1ms").await;
    assert_eq!(ahead.problem(), (504, "timeout".into()));
    assert_eq!(ahead.json()["revision"], 0);
    *server.registry.fail.lock() = Some(roster_api::registry::Unavailable::Overloaded("x".into()));
    let full = server.get("/v1/watch?from=0").await;
    assert_eq!((full.problem(), full.header("retry-after")), ((503, "overloaded".into()), "1"));
}

/// The answer of a long poll, and whether it came before `write` was done.
async fn polled<F: Future<Output = ()>>(
    server: &Server,
    path: &str,
    unrelated: F,
    write: impl Future<Output = ()>,
) -> (u16, u64) {
    let mut poll = Box::pin(server.get(path));
    let mut unrelated = Box::pin(unrelated);
    // First the poll gets to wait, then the unrelated changes come.
    match select(&mut poll, &mut unrelated).await {
        futures::future::Either::Left((answer, _)) => panic!("woken: {}", answer.text()),
        futures::future::Either::Right(((), _)) => {}
    }
    let (answer, ()) = join(poll, write).await;
    let revision = answer.header("roster-revision").parse().expect("a revision");
    (answer.status.as_u16(), revision)
}

#[tokio::test]
async fn a_long_poll_wakes_for_its_own_result_only() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    register(&server, "pay", "b", r#"{"zone":"b"}"#).await;
    let cases = [
        ("pay/instances/a", "cart/instances/x", "pay/instances/a"),
        ("pay/instances/a", "pay/instances/b", "pay/instances/a/override"),
        ("pay/instances", "cart/instances/x", "pay/instances/b"),
        ("pay", "pay/instances/b", "pay/instances/c"),
        ("pay", "cart/instances/x", "pay/instances/c/override"),
        ("cart", "pay/instances/b", "cart/instances/y"),
        ("cart/instances", "cart", "cart/instances/z"),
        ("empty/instances", "pay", "empty"),
        ("pay/documents/flow", "pay/documents/other", "pay/documents/flow"),
        ("pay/documents", "pay/instances/b", "pay/documents/other"),
        ("new/documents", "pay/documents/other", "new/documents/flow"),
        ("none", "pay/instances/b", "none"),
    ];
    for (path, unrelated, own) in cases {
        let index = server.registry.version().revision().0;
        let put = |what: &'static str| {
            let body = if what.ends_with("override") { r#"{"state":"draining"}"# } else { "{}" };
            let server = &server;
            async move {
                server.call(&format!("PUT /v1/apps/{what}"), body).await;
            }
        };
        let path = format!("/v1/apps/{path}?index={index}");
        let polled = polled(&server, &path, put(unrelated), put(own)).await;
        assert_eq!(polled, (200, index + 2), "{path}");
    }
}

#[tokio::test]
async fn a_long_poll_with_a_filter_looks_at_what_matches_before_and_after() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    register(&server, "pay", "b", r#"{"zone":"b"}"#).await;
    let path = "/v1/apps/pay/instances?filter=zone==%22a%22&index=2";
    let unrelated = async { register(&server, "pay", "b", r#"{"zone":"c"}"#).await };
    let own = async { register(&server, "pay", "a", r#"{"zone":"b"}"#).await };
    assert_eq!(polled(&server, path, unrelated, own).await, (200, 4));
}

#[tokio::test]
async fn a_long_poll_knows_of_what_went_before_it_was_asked() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    server.call("DELETE /v1/apps/pay/instances/a", "").await;
    register(&server, "cart", "b", BODY).await;
    let gone = server.get("/v1/apps/pay/instances/a?index=1").await;
    assert_eq!(gone.problem(), (404, "unknown-instance".into()));
    // Where nobody can know any more, it answers rather than waits.
    server.registry.log.forget();
    assert_eq!(server.get("/v1/apps/pay/instances/a?index=1").await.status.as_u16(), 404);
}

#[tokio::test]
async fn a_long_poll_of_a_session_wakes_when_something_leaves_it_and_when_it_ends() {
    let server = Server::new();
    server.call("POST /v1/sessions", r#"{"ttl":"30s"}"#).await;
    register(&server, "pay", "a", r#"{"session":"1"}"#).await;
    let again = async { register(&server, "pay", "a", r#"{"session":"1","zone":"b"}"#).await };
    let leave = async {
        server.call("DELETE /v1/apps/pay/instances/a", "").await;
    };
    assert_eq!(polled(&server, "/v1/sessions/1?index=2", again, leave).await, (200, 4));
    let other = async { register(&server, "pay", "b", BODY).await };
    let end = async {
        server.call("DELETE /v1/sessions/1", "").await;
    };
    assert_eq!(polled(&server, "/v1/sessions/1?index=4", other, end).await, (404, 6));
}

#[tokio::test]
async fn a_long_poll_of_a_session_that_is_gone_is_answered_at_once() {
    let server = Server::new();
    server.call("POST /v1/sessions", r#"{"ttl":"30s"}"#).await;
    server.call("DELETE /v1/sessions/1", "").await;
    let gone = server.get("/v1/sessions/1?index=2").await;
    assert_eq!(gone.problem(), (404, "unknown-session".into()));
}

#[tokio::test]
async fn a_long_poll_of_a_revision_that_does_not_come_is_not_answered_from_before_it() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    let ahead = server.get("/v1/apps/pay/instances/a?index=7&wait=1ms&consistency=stale").await;
    assert_eq!(ahead.problem(), (504, "timeout".into()));
    assert_eq!(ahead.json()["revision"], 1);
}

#[tokio::test]
async fn an_event_source_that_is_cut_off_within_a_snapshot_begins_it_again() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    server.registry.log.forget();
    let mut stream = server.stream("/v1/watch?kind=instance&from=0&restart=snapshot", &[]).await;
    let text = stream.some(15).await;
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with("data")).collect();
    assert_eq!(
        lines,
        [
            "event: compacted",
            "id:",
            "",
            "event: snapshot-begin",
            "id:",
            "",
            "event: put",
            "",
            "event: snapshot-end",
            "id: 1",
            ""
        ]
    );
    let mut again = server.stream("/v1/watch?kind=instance", &[("last-event-id", "")]).await;
    assert_eq!(again.some(1).await, "event: snapshot-begin\n");
}

#[tokio::test]
async fn a_cursor_of_the_history_counts_only_what_clients_are_told_of() {
    let server = Server::new();
    // An app, a session, an instance and a shard.
    register(&server, "pay", "a", BODY).await;
    let page = server.get("/v1/events?order=asc&limit=1").await.json();
    // The instance is the second of three told, wherever it is read from.
    let second = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, "a/1/1");
    assert_eq!(page["next_cursor"], second);
}

#[tokio::test]
async fn a_long_poll_gives_what_there_is_at_the_end_of_its_wait() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    let same = server.get("/v1/apps/pay/instances/a?index=1&wait=20ms").await;
    assert_eq!((same.status.as_u16(), same.header("etag")), (200, "\"r1\""));
    for (query, code) in [
        ("wait=1s", "invalid-wait"),
        ("index=1&wait=11m", "invalid-wait"),
        ("index=a", "invalid-index"),
    ] {
        let refused = server.get(&format!("/v1/apps/pay/instances?{query}")).await;
        assert_eq!(refused.problem(), (400, code.into()), "{query}");
    }
    let search = server.get("/v1/instances?index=1&wait=1s").await;
    assert_eq!(search.problem(), (400, "unknown-field".into()));
}

#[tokio::test]
async fn one_small_answer_tells_what_changed_in_many_apps() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    register(&server, "cart", "b", BODY).await;
    register(&server, "other", "c", BODY).await;
    server.call("DELETE /v1/apps/pay/instances/a", "").await;
    let changes = server.get("/v1/changes?app=pay&app=cart&kind=instance&index=1").await;
    insta::assert_snapshot!(changes.text(), @r#"{"revision":4,"changed":[{"kind":"instance","app":"cart","id":"b"},{"kind":"instance","app":"pay","id":"a"}]}"#);
    let none = server.get("/v1/changes?app=pay&index=4").await;
    insta::assert_snapshot!(none.text(), @r#"{"revision":4,"changed":[]}"#);
    let path = "/v1/changes?app=pay&kind=instance,shard&index=4&wait=10s";
    let unrelated = async { register(&server, "cart", "b", BODY).await };
    let own = async { register(&server, "pay", "a", BODY).await };
    assert_eq!(polled(&server, path, unrelated, own).await, (200, 6));
    assert_eq!(server.get("/v1/changes").await.problem(), (400, "invalid-index".into()));
    server.registry.log.forget();
    assert_eq!(server.get("/v1/changes?index=4").await.problem(), (410, "compacted".into()));
}

#[tokio::test]
async fn a_put_tells_that_an_operator_changed_the_state() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    let mut stream = server.lines("/v1/watch?from=1&kind=instance").await;
    server.call("PUT /v1/apps/pay/instances/a/override", r#"{"state":"draining"}"#).await;
    register(&server, "pay", "a", BODY).await;
    let by_operator: Value =
        serde_json::from_str(&stream.line().await.expect("a line")).expect("JSON");
    assert_eq!(
        (&by_operator["reason"], &by_operator["detail"]),
        (&"operator".into(), &"draining, was up".into())
    );
    let by_itself: Value =
        serde_json::from_str(&stream.line().await.expect("a line")).expect("JSON");
    assert_eq!((&by_itself["value"]["state"], by_itself.get("reason")), (&"draining".into(), None));
}

#[tokio::test]
async fn documents_are_watched_like_everything_else() {
    let server = Server::new();
    server.call("PUT /v1/apps/pay/documents/flow?by=ann", "{ \"qps\" : [ 1.50,\n 2 ] }").await;
    let mut stream = server.lines("/v1/watch?app=pay&kind=document").await;
    server.call("DELETE /v1/apps/pay/documents/flow?by=bob", "").await;
    insta::assert_snapshot!(stream.some(4).await, @r#"
    {"event":"snapshot-begin","revision":1}
    {"event":"put","kind":"document","revision":1,"app":"pay","id":"flow","value":{"app":"pay","name":"flow","value":{"qps":[1.50,2]},"by":"ann","changed_at":"2026-11-21T20:36:17.351Z","revision":1}}
    {"event":"snapshot-end","revision":1}
    {"event":"delete","kind":"document","revision":2,"time":"2026-11-21T20:36:17.352Z","app":"pay","id":"flow","reason":"operator","detail":"removed by an operator","by":"bob"}
    "#);
}

/// Kinds, ids and revisions of a page of the history.
fn page(reply: &support::Reply) -> Vec<String> {
    let json = reply.json();
    let events = json["events"].as_array().expect("events");
    events.iter().map(|e| format!("{} {} r{}", e["event"], e["id"], e["revision"])).collect()
}

#[tokio::test]
async fn the_history_is_read_from_either_end_in_pages_and_by_what_it_is_about() {
    let server = Server::new();
    register(&server, "pay", "a", BODY).await;
    register(&server, "cart", "b", BODY).await;
    server.call("DELETE /v1/apps/pay/instances/a", "").await;
    let all = server.get("/v1/events?kind=instance,app,shard&order=asc").await;
    let told = [
        r#""put" "pay" r1"#,
        r#""put" "a" r1"#,
        r#""put" "pay/a" r1"#,
        r#""put" "cart" r2"#,
        r#""put" "b" r2"#,
        r#""put" "cart/b" r2"#,
        r#""delete" "a" r3"#,
        r#""delete" "pay/a" r3"#,
    ];
    assert_eq!(page(&all), told);
    assert_eq!(all.json()["covered"], serde_json::json!([[1, 3]]));
    for (order, backwards) in [("asc", false), ("desc", true)] {
        for limit in 1..=told.len() {
            let mut pages = Vec::new();
            let mut cursor = String::new();
            loop {
                let path = format!(
                    "/v1/events?kind=instance,app,shard&order={order}&limit={limit}{cursor}"
                );
                let reply = server.get(&path).await;
                assert!(page(&reply).len() <= limit);
                pages.extend(page(&reply));
                match reply.json()["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            if backwards {
                pages.reverse();
            }
            assert_eq!(pages, told, "{order} by {limit}");
        }
    }
    let of = async |query: &str| {
        server.get(&format!("/v1/events?order=asc&kind=instance&{query}")).await
    };
    for query in [
        "instance=a",
        "app=pay",
        "since=2026-11-21T20:36:17.350Z&until=2026-11-21T20:36:17.353Z&app=pay",
    ] {
        assert_eq!(page(&of(query).await), [told[1], told[6]], "{query}");
    }
    for query in ["since=1&until=2", "until=2026-11-21T20:36:17.352Z&since=1"] {
        assert_eq!(page(&of(query).await), [told[4]], "{query}");
    }
    for (query, code) in [
        ("since=yesterday", "invalid-since"),
        ("until=-1", "invalid-until"),
        ("order=up", "invalid-order"),
        ("cursor=x", "invalid-cursor"),
        ("instance=", "invalid-instance"),
        ("instance=a&kind=app", "invalid-kind"),
        ("limit=0", "invalid-limit"),
    ] {
        assert_eq!(server.get(&format!("/v1/events?{query}")).await.problem(), (400, code.into()));
    }
}
