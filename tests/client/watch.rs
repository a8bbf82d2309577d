//! Watches over connections that break.

use std::time::Duration;

use roster::client::{Client, Error, Item, Options, Revision, Watch, WatchRequest};
use serde_json::json;

use crate::scripted::{
    Act, Hung, Scripted, Then, client, endpoints, nobody, problem, quick, stream, within,
};

const BEGIN: &str = r#"{"event":"snapshot-begin","revision":4}"#;
const END: &str = r#"{"event":"snapshot-end","revision":4}"#;

fn put(revision: u64, id: &str) -> String {
    format!(r#"{{"event":"put","kind":"instance","revision":{revision},"app":"pay","id":"{id}"}}"#)
}

/// An event after which another one of its revision comes.
fn put_and_more(revision: u64, id: &str) -> String {
    put(revision, id).replace('}', r#","more":true}"#)
}

fn from(revision: u64) -> WatchRequest {
    WatchRequest { from: Some(Revision(revision)), ..WatchRequest::default() }
}

fn told(item: &Item) -> String {
    match item {
        Item::SnapshotBegin { revision, .. } => format!("begin {revision}"),
        Item::Listed(event) => format!("listed {}", event.id),
        Item::SnapshotEnd { revision, .. } => format!("end {revision}"),
        Item::Changed(event) => format!("{} {}", event.revision, event.id),
        Item::Bookmark { revision, .. } => format!("bookmark {revision}"),
        Item::Compacted { restart_from, .. } => format!("compacted {restart_from}"),
        Item::Interrupted { .. } => "interrupted".into(),
        Item::Resumed { from: Some(from), .. } => format!("resumed {from}"),
        Item::Resumed { from: None, .. } => "resumed with a snapshot".into(),
    }
}

async fn next(watch: &mut Watch) -> Result<Item, Error> {
    within("the next item", watch.next()).await
}

/// What comes, up to and with `last`.
async fn items_until(watch: &mut Watch, last: &str) -> Vec<String> {
    let mut items = Vec::new();
    loop {
        let item = next(watch).await.expect("an item");
        items.push(told(&item));
        if items.last().is_some_and(|item| item == last) {
            return items;
        }
    }
}

#[tokio::test]
async fn a_broken_connection_is_resumed_on_the_next_node_after_the_last_revision() {
    let first = stream(&[BEGIN, &put(3, "a"), END, &put(5, "b")], Then::Break);
    let first = Scripted::start([first]).await;
    let second = Scripted::start([stream(&[&put(6, "c")], Then::Stay)]).await;
    let mut watch = client(&[&first, &second]).watch(WatchRequest::default());
    assert_eq!(
        items_until(&mut watch, "6 c").await,
        ["begin 4", "listed a", "end 4", "5 b", "interrupted", "resumed 5", "6 c"]
    );
    assert_eq!(first.lines(), ["GET /v1/watch"]);
    assert_eq!(second.lines(), ["GET /v1/watch?from=5&wait=5s"]);
    assert_eq!(watch.position(), Some(Revision(6)));
}

#[tokio::test]
async fn a_revision_that_breaks_in_the_middle_is_given_out_once_and_whole() {
    let half = [put(5, "a"), put_and_more(6, "b"), put_and_more(6, "c")];
    let half = half.each_ref().map(String::as_str);
    let first = Scripted::start([stream(&half, Then::Break)]).await;
    let whole = [put_and_more(6, "b"), put_and_more(6, "c"), put(6, "d")];
    let whole = whole.each_ref().map(String::as_str);
    let second = Scripted::start([stream(&whole, Then::Stay)]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    assert_eq!(
        items_until(&mut watch, "6 d").await,
        ["5 a", "interrupted", "resumed 5", "6 b", "6 c", "6 d"]
    );
    assert_eq!(second.lines(), ["GET /v1/watch?from=5&wait=5s"]);
}

#[tokio::test]
async fn a_line_that_breaks_in_the_middle_is_not_taken() {
    let text = format!("{}\n{}", put(5, "a"), put(6, "b"));
    let first = Scripted::start([Act::Stream(text, Then::Close)]).await;
    let second = Scripted::start([stream(&[&put(6, "b")], Then::Stay)]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    assert_eq!(items_until(&mut watch, "6 b").await, ["5 a", "interrupted", "resumed 5", "6 b"]);
}

#[tokio::test]
async fn a_snapshot_that_breaks_in_the_middle_is_begun_again() {
    let first = Scripted::start([stream(&[BEGIN, &put(3, "a")], Then::Break)]).await;
    let again = stream(&[BEGIN, &put(3, "a"), &put(4, "b"), END], Then::Stay);
    let second = Scripted::start([again]).await;
    let mut watch = client(&[&first, &second]).watch(WatchRequest::default());
    assert_eq!(
        items_until(&mut watch, "end 4").await,
        [
            "begin 4",
            "listed a",
            "interrupted",
            "resumed with a snapshot",
            "begin 4",
            "listed a",
            "listed b",
            "end 4"
        ]
    );
    assert_eq!(second.lines(), ["GET /v1/watch"]);
}

#[tokio::test]
async fn who_lags_goes_on_at_the_same_node_after_what_it_was_told() {
    let lagging = r#"{"event":"lagging","revision":8,"detail":"too slow"}"#;
    let script =
        [stream(&[&put(5, "a"), lagging], Then::Close), stream(&[&put(9, "b")], Then::Stay)];
    let first = Scripted::start(script).await;
    let second = Scripted::start([]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    assert_eq!(items_until(&mut watch, "9 b").await, ["5 a", "interrupted", "resumed 8", "9 b"]);
    assert_eq!(first.lines()[1], "GET /v1/watch?from=8&wait=5s");
    assert!(second.lines().is_empty());
}

#[tokio::test]
async fn a_node_that_stops_is_left_for_the_next_one() {
    let bye = r#"{"event":"bye","revision":7,"detail":"the node stops"}"#;
    let first = Scripted::start([stream(&[&put(5, "a"), bye], Then::Stay)]).await;
    let second = Scripted::start([stream(&[&put(8, "b")], Then::Stay)]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    items_until(&mut watch, "8 b").await;
    assert_eq!(second.lines(), ["GET /v1/watch?from=7&wait=5s"]);
}

#[tokio::test]
async fn a_node_that_sends_nothing_is_left_for_the_next_one() {
    let first = Scripted::start([stream(&[&put(5, "a")], Then::Stay)]).await;
    let second = Scripted::start([stream(&[&put(6, "b")], Then::Stay)]).await;
    let options = Options { silence_max: Duration::from_secs(1), ..quick() };
    let client = Client::with(&endpoints(&[&first, &second]), options).expect("a client");
    let mut watch = client.watch(from(4));
    let items = items_until(&mut watch, "6 b").await;
    assert_eq!(items, ["5 a", "interrupted", "resumed 5", "6 b"]);
}

#[tokio::test]
async fn a_watch_goes_on_through_nodes_that_are_down_or_cannot_serve() {
    let first = Scripted::start([stream(&[&put(5, "a")], Then::Break)]).await;
    let script = [
        problem(503, "no-leader", "none"),
        problem(504, "timeout", "none"),
        Act::Broken,
        stream(&[&put(6, "b")], Then::Stay),
    ];
    let second = Scripted::start(script).await;
    let list = format!("{},{},{}", first.address, nobody().await, second.address);
    let mut watch = Client::with(&list, quick()).expect("a client").watch(from(4));
    let mut items = items_until(&mut watch, "6 b").await;
    items.retain(|item| item != "interrupted");
    assert_eq!(items, ["5 a", "resumed 5", "6 b"]);
    assert!(second.lines().iter().all(|line| line == "GET /v1/watch?from=5&wait=5s"));
}

#[tokio::test]
async fn what_another_node_still_keeps_is_read_there() {
    let gone = || Act::Answer(410, json!({"code": "compacted", "restart_from": 90}));
    let first = Scripted::start([gone()]).await;
    let second = Scripted::start([stream(&[&put(5, "a")], Then::Stay)]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    assert_eq!(items_until(&mut watch, "5 a").await, ["5 a"]);
}

#[tokio::test]
async fn what_no_node_keeps_ends_the_watch_and_says_from_where_to_list() {
    let line = r#"{"event":"compacted","restart_from":90,"detail":"too old"}"#;
    let first = Scripted::start([stream(&[line], Then::Close)]).await;
    let gone = Act::Answer(410, json!({"code": "compacted", "detail": "gone", "restart_from": 95}));
    let second = Scripted::start([gone]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    let error = loop {
        match next(&mut watch).await {
            Ok(Item::Interrupted { .. }) => {}
            Ok(item) => panic!("{}", told(&item)),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Compacted { restart_from: Revision(95), .. }), "{error}");
    let again = next(&mut watch).await.expect_err("it has ended");
    assert_eq!(again.to_string(), error.to_string());
}

#[tokio::test]
async fn a_watch_that_may_begin_again_takes_the_snapshot_in_the_same_stream() {
    let compacted = r#"{"event":"compacted","restart_from":4,"detail":"too old"}"#;
    let script = stream(&[compacted, BEGIN, &put(3, "a"), END, &put(5, "b")], Then::Stay);
    let node = Scripted::start([script]).await;
    let request = WatchRequest { restart: true, ..from(1) };
    let mut watch = client(&[&node]).watch(request);
    assert_eq!(
        items_until(&mut watch, "5 b").await,
        ["compacted 4", "begin 4", "listed a", "end 4", "5 b"]
    );
    assert_eq!(node.lines(), ["GET /v1/watch?from=1&wait=5s&restart=snapshot"]);
}

#[tokio::test]
async fn a_restart_whose_snapshot_breaks_is_begun_again_without_the_old_revision() {
    let compacted = r#"{"event":"compacted","restart_from":4,"detail":"too old"}"#;
    for broken in [vec![compacted], vec![compacted, BEGIN]] {
        let first = Scripted::start([stream(&broken, Then::Break)]).await;
        let second = Scripted::start([stream(&[BEGIN, END], Then::Stay)]).await;
        let request = WatchRequest { restart: true, ..from(1) };
        let mut watch = client(&[&first, &second]).watch(request);
        items_until(&mut watch, "end 4").await;
        assert_eq!(second.lines(), ["GET /v1/watch?restart=snapshot"]);
    }
}

#[tokio::test]
async fn a_request_that_no_node_takes_ends_the_watch_at_once() {
    let first = Scripted::start([problem(400, "invalid-kind", "none")]).await;
    let second = Scripted::start([]).await;
    let mut watch = client(&[&first, &second]).watch(WatchRequest::default());
    let error = next(&mut watch).await.expect_err("a refusal");
    assert_eq!(error.code(), "invalid-kind");
    assert!(second.lines().is_empty());
}

#[tokio::test]
async fn a_watch_begins_and_goes_on_beside_a_node_that_hangs() {
    let hung = Hung::start().await;
    let script = [stream(&[&put(5, "a")], Then::Break), stream(&[&put(6, "b")], Then::Stay)];
    let second = Scripted::start(script).await;
    let options = Options { patience: Duration::ZERO, ..quick() };
    let client = Client::with(&hung.before(&[&second]), options).expect("a client");
    let mut watch = client.watch(WatchRequest { wait: Some(Duration::ZERO), ..from(4) });
    let mut items = items_until(&mut watch, "6 b").await;
    items.retain(|item| item != "interrupted");
    assert_eq!(items, ["5 a", "resumed 5", "6 b"]);
}

#[tokio::test]
async fn a_revision_that_is_too_large_to_hold_ends_the_watch_and_says_so() {
    let pad = "x".repeat(3 * 1024 * 1024);
    let large = put_and_more(6, "b").replace('}', &format!(r#","pad":"{pad}"}}"#));
    let mut lines = vec![large.as_str(); 22];
    let before = put(5, "a");
    lines.insert(0, &before);
    let first = Scripted::start([stream(&lines, Then::Stay)]).await;
    let second = Scripted::start([]).await;
    let mut watch = client(&[&first, &second]).watch(from(4));
    items_until(&mut watch, "5 a").await;
    let error = next(&mut watch).await.expect_err("it cannot get past it");
    assert!(matches!(error, Error::TooLarge { revision: Revision(6), .. }), "{error}");
    assert_eq!((first.lines().len(), second.lines().len()), (1, 0), "it would come again");
    assert_eq!(watch.position(), Some(Revision(5)));
}

#[tokio::test]
async fn a_watch_that_cannot_begin_says_why_when_patience_is_over() {
    let options = Options { patience: Duration::from_millis(50), ..quick() };
    let list = format!("{},{}", nobody().await, nobody().await);
    let mut watch = Client::with(&list, options).expect("a client").watch(WatchRequest::default());
    let error = next(&mut watch).await.expect_err("nobody is there").to_string();
    assert!(error.contains("refused") && error.contains(&list.replace(',', ", ")), "{error}");
}

#[tokio::test]
async fn all_that_was_asked_for_is_sent() {
    let node = Scripted::start([stream(&[BEGIN], Then::Stay)]).await;
    let mut watch = client(&[&node]).watch(WatchRequest {
        apps: vec!["a&b".into(), "c d".into()],
        kinds: vec!["instance".into(), "shard".into()],
        filter: Some("zone == \"a\"".into()),
        wait: Some(Duration::from_millis(1_500)),
        stale: true,
        ..from(7)
    });
    items_until(&mut watch, "begin 4").await;
    assert_eq!(
        node.lines(),
        ["GET /v1/watch?app=a%26b&app=c+d&kind=instance%2Cshard&filter=zone+%3D%3D+%22a%22\
          &from=7&wait=1500ms&consistency=stale"]
    );
    assert_eq!(node.asked()[0].headers["accept"], "application/x-ndjson");
}

#[tokio::test]
async fn an_item_is_not_lost_when_waiting_for_it_is_given_up() {
    let node = Scripted::start([stream(&[&put(5, "a"), &put(6, "b")], Then::Stay)]).await;
    let mut watch = client(&[&node]).watch(from(4));
    let mut items = Vec::new();
    while items.len() < 2 {
        tokio::select! {
            biased;
            item = watch.next() => items.push(told(&item.expect("an item"))),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(items, ["5 a", "6 b"]);
    assert_eq!(node.lines().len(), 1, "one connection, however often the waiting was given up");
}
