//! The history, page by page.

use roster::client::{Event, EventsRequest, Order, Page, Revision};
use serde_json::json;

use crate::scripted::{Act, Scripted, client, problem};

fn page(revisions: &[u64], next: Option<&str>) -> Act {
    let events: Vec<_> = revisions
        .iter()
        .map(|revision| json!({"event": "put", "kind": "app", "revision": revision, "app": "pay"}))
        .collect();
    Act::Answer(200, json!({"events": events, "next_cursor": next, "covered": [[1, 4], [6, 9]]}))
}

fn revisions(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event: &Event| event.revision.0).collect()
}

#[tokio::test]
async fn pages_follow_one_another_up_to_the_limit() {
    let node = Scripted::start([page(&[9, 8], Some("c&1")), page(&[7, 6], Some("c2"))]).await;
    let mut events = client(&[&node]).events(EventsRequest {
        app: Some("pay".into()),
        instance: Some("a b".into()),
        kinds: vec!["app".into(), "latch".into()],
        locks: vec!["a/b".into()],
        elections: vec!["e".into()],
        since: Some("2".into()),
        until: Some("2026-11-21T20:36:17Z".into()),
        limit: Some(3),
        order: Order::Ascending,
    });
    let first = events.next_page().await.expect("a page").expect("a first one");
    assert_eq!(revisions(&first), [9, 8]);
    assert_eq!(first.covered, [(Revision(1), Revision(4)), (Revision(6), Revision(9))]);
    let second = events.next_page().await.expect("a page").expect("a second one");
    assert_eq!(revisions(&second), [7]);
    assert!(events.next_page().await.expect("the end").is_none());
    let asked = |limit, cursor| {
        format!(
            "GET /v1/events?limit={limit}&app=pay&instance=a+b&since=2&until=2026-11-21T20%3A36%3A17Z\
             {cursor}&lock=a%2Fb&election=e&kind=app%2Clatch&order=asc"
        )
    };
    assert_eq!(node.lines(), [asked(3, ""), asked(1, "&cursor=c%261")]);
}

#[tokio::test]
async fn an_empty_history_is_one_page_that_says_what_is_covered() {
    let node = Scripted::start([page(&[], None)]).await;
    let mut events = client(&[&node]).events(EventsRequest::default());
    let first = events.next_page().await.expect("a page").expect("a first one");
    assert!(first.events.is_empty());
    assert!(events.next_page().await.expect("the end").is_none());
}

#[tokio::test]
async fn every_page_says_what_is_missing_also_one_without_events() {
    let node = Scripted::start([page(&[9], Some("c1")), page(&[], Some("c2")), page(&[], None)]);
    let node = node.await;
    let since = Some("2".into());
    let mut events = client(&[&node]).events(EventsRequest { since, ..Default::default() });
    for _ in 0..3 {
        let page = events.next_page().await.expect("a page").expect("not the end");
        assert_eq!(page.missing, [(Revision(5), Revision(5))]);
    }
    assert!(events.next_page().await.expect("the end").is_none());
}

#[tokio::test]
async fn a_page_that_failed_can_be_asked_for_again() {
    let gone = problem(410, "compacted", "none");
    let node = Scripted::start([page(&[9], Some("c")), gone, page(&[8], None)]).await;
    let mut events = client(&[&node]).events(EventsRequest::default());
    events.next_page().await.expect("a page");
    assert_eq!(events.next_page().await.expect_err("gone").code(), "compacted");
    let again = events.next_page().await.expect("a page").expect("a second one");
    assert_eq!(revisions(&again), [8]);
}

#[tokio::test]
async fn a_cursor_that_leads_nowhere_is_not_followed_for_ever() {
    let node = Scripted::start([page(&[9], Some("c")), page(&[9], Some("c"))]).await;
    let mut events = client(&[&node]).events(EventsRequest::default());
    events.next_page().await.expect("a page");
    let error = events.next_page().await.expect_err("it goes in a circle");
    assert!(error.to_string().contains("cursor"), "{error}");
}
