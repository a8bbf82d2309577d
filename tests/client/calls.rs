//! Which calls are sent again, and what their errors say.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use roster::client::{
    Call, Client, Error, Incarnation, Options, Outcome, Registration, Revision, WatchRequest,
};
use serde_json::json;

use crate::scripted::{Act, Hung, Scripted, client, endpoints, nobody, problem, quick, within};

fn done() -> Act {
    Act::Answer(200, json!({}))
}

fn put() -> Call {
    Call::put("/v1/apps/pay".into()).json(&json!({"kind": 1})).expect("JSON")
}

#[tokio::test]
async fn a_put_of_unknown_outcome_is_sent_to_the_next_node() {
    let first = Scripted::start([Act::Broken]).await;
    let second = Scripted::start([problem(504, "timeout", "unknown")]).await;
    let third = Scripted::start([done()]).await;
    client(&[&first, &second, &third]).send(put()).await.expect("the third takes it");
    for node in [first, second, third] {
        assert_eq!(node.lines(), ["PUT /v1/apps/pay"]);
        assert_eq!(node.asked()[0].body, r#"{"kind":1}"#);
    }
}

#[tokio::test]
async fn what_is_not_the_same_when_done_twice_is_not_sent_again_after_an_unknown_outcome() {
    let takeover = Registration { takeover: true, ..Registration::default() };
    for case in ["if-match", "if-none-match", "post", "takeover"] {
        let first = Scripted::start([Act::Broken]).await;
        let second = Scripted::start([done()]).await;
        let client = client(&[&first, &second]);
        let result = match case {
            "if-match" => client.send(put().if_unchanged_since(Revision(7))).await.map(drop),
            "if-none-match" => client.send(put().if_absent()).await.map(drop),
            "post" => client.send(Call::post("/v1/sessions".into())).await.map(drop),
            _ => client.register("pay", "a", &takeover).await.map(drop),
        };
        assert_eq!(result.expect_err(case).outcome(), Outcome::Unknown, "{case}");
        assert_eq!(first.lines().len(), 1, "{case}");
        assert!(second.lines().is_empty(), "{case}");
    }
}

#[tokio::test]
async fn whatever_was_certainly_not_done_is_sent_again() {
    let first = Scripted::start([problem(503, "no-leader", "none")]).await;
    let second = Scripted::start([done()]).await;
    let list = format!("{},{}", nobody().await, endpoints(&[&first, &second]));
    let client = Client::with(&list, quick()).expect("a client");
    client.send(put().if_unchanged_since(Revision(7))).await.expect("the last takes it");
    assert_eq!(second.asked()[0].headers["if-match"], "\"r7\"");
}

#[tokio::test]
async fn a_post_with_a_key_is_sent_again_with_the_same_key() {
    let first = Scripted::start([Act::Broken]).await;
    let second = Scripted::start([done()]).await;
    let call = Call::post("/v1/sessions".into()).once("k-1").expect("a key");
    client(&[&first, &second]).send(call).await.expect("the second takes it");
    for node in [first, second] {
        assert_eq!(node.asked()[0].headers["idempotency-key"], "k-1");
    }
}

#[tokio::test]
async fn a_refusal_after_a_try_of_unknown_outcome_says_unknown() {
    let first = Scripted::start([Act::Broken]).await;
    let second = Scripted::start([problem(409, "app-not-empty", "none")]).await;
    let error = client(&[&first, &second]).send(put()).await.expect_err("a refusal");
    assert_eq!((error.code(), error.outcome()), ("app-not-empty", Outcome::Unknown));
}

#[tokio::test]
async fn a_departure_that_an_earlier_try_brought_about_is_a_success() {
    let first = Scripted::start([Act::Broken]).await;
    let second = Scripted::start([problem(404, "unknown-instance", "none")]).await;
    let client_of_both = client(&[&first, &second]);
    client_of_both.deregister("pay", "a/b", Some(Incarnation(7))).await.expect("it is gone");
    assert_eq!(second.lines(), ["DELETE /v1/apps/pay/instances/a%2Fb?incarnation=7"]);

    let node = Scripted::start([problem(404, "unknown-instance", "none")]).await;
    let error = client(&[&node]).deregister("pay", "a", None).await.expect_err("it never was");
    assert_eq!((error.code(), error.outcome()), ("unknown-instance", Outcome::Nothing));
}

#[tokio::test]
async fn a_node_that_does_not_answer_in_time_is_left_for_the_next_one() {
    let first = Scripted::start([Act::Silence]).await;
    let second = Scripted::start([done(), done()]).await;
    let options = Options { call_timeout: Duration::from_secs(1), ..quick() };
    let client = Client::with(&endpoints(&[&first, &second]), options).expect("a client");
    client.send(put()).await.expect("the second takes it");
    client.send(put()).await.expect("and is asked first from now on");
    assert_eq!((first.lines().len(), second.lines().len()), (1, 2));
}

#[tokio::test]
async fn a_node_that_hangs_leaves_time_for_the_others() {
    let hung = Hung::start().await;
    let second = Scripted::start([problem(503, "no-leader", "none")]).await;
    let third = Scripted::start([done()]).await;
    let impatient = Options { patience: Duration::ZERO, ..quick() };
    let client = Client::with(&hung.before(&[&second, &third]), impatient).expect("a client");
    within("an answer", client.send(put())).await.expect("the third takes it");
    assert_eq!((second.lines().len(), third.lines().len()), (1, 1));
}

#[tokio::test]
async fn after_a_call_that_cannot_be_repeated_the_next_one_asks_another_node() {
    let hung = Hung::start().await;
    let second = Scripted::start([done()]).await;
    let options = Options { call_timeout: Duration::from_secs(1), ..quick() };
    let client = Client::with(&hung.before(&[&second]), options).expect("a client");
    let error = client.send(put().if_absent()).await.expect_err("nobody knows");
    assert_eq!(error.outcome(), Outcome::Unknown);
    client.send(put().if_absent()).await.expect("the second takes it");
}

#[tokio::test]
async fn what_nobody_answered_may_have_changed_something_unless_it_only_reads() {
    let hung = Hung::start().await;
    let refusals = [problem(503, "no-leader", "none"), problem(503, "no-leader", "none")];
    let second = Scripted::start(refusals).await;
    let list = hung.before(&[&second]);
    let error = async |call| {
        let call_timeout = Duration::from_millis(200);
        let impatient = Options { call_timeout, patience: Duration::ZERO, ..quick() };
        let client = Client::with(&list, impatient).expect("a client");
        client.send(call).await.expect_err("one hangs, and the other knows no leader")
    };
    let (wrote, read) = (error(put()).await, error(Call::get("/v1/apps".into())).await);
    assert_eq!((wrote.outcome(), read.outcome()), (Outcome::Unknown, Outcome::Nothing));
    let note = "(it may have taken effect)";
    assert!(wrote.to_string().contains(note), "{wrote}");
    assert!(!read.to_string().contains(note), "{read}");
}

#[tokio::test]
async fn after_all_failed_a_node_that_said_why_is_told_before_those_that_are_gone() {
    let node = Scripted::start([]).await;
    let (first, last) = (nobody().await, nobody().await);
    let list = format!("{first},{},{last}", node.address);
    let impatient = Options { patience: Duration::ZERO, ..quick() };
    let client = Client::with(&list, impatient).expect("a client");
    let error = client.send(Call::get("/v1/apps".into())).await.expect_err("nobody serves");
    assert_eq!((error.code(), error.is_retryable()), ("not-ready", true));
    let expected = format!(
        "not-ready: {}: said not-ready; not reached: {first}, {last} (Connection refused)",
        node.address
    );
    assert_eq!(error.to_string(), expected);
    let watched = client.watch(WatchRequest::default()).next().await.expect_err("nor a watch");
    assert_eq!(watched.to_string(), expected);
}

#[tokio::test]
async fn nodes_that_are_gone_are_not_mentioned_beside_an_answer_that_no_other_would_change() {
    let node = Scripted::start([problem(404, "unknown-app", "none")]).await;
    let list = format!("{},{},{}", nobody().await, nobody().await, node.address);
    let client = Client::with(&list, quick()).expect("a client");
    let error = client.send(Call::get("/v1/apps/pay".into())).await.expect_err("there is none");
    assert_eq!(error.to_string(), "unknown-app: said unknown-app");
}

#[tokio::test]
async fn what_is_no_roster_node_is_called_so() {
    let moved = Response::builder().status(302).header("location", "http://127.0.0.1:1/");
    let node = Scripted::start([Act::Raw(moved.body(Body::empty()).expect("a response"))]).await;
    let options = Options { patience: Duration::ZERO, ..quick() };
    let client = Client::with(&endpoints(&[&node]), options).expect("a client");
    let error = client.send(Call::get("/v1/cluster".into())).await.expect_err("a redirection");
    assert!(matches!(error, Error::NotRoster { .. }), "{error}");

    let node = Scripted::start([done()]).await;
    let result =
        crate::scripted::client(&[&node]).register("a", "b", &Registration::default()).await;
    let error = result.expect_err("an answer of another shape");
    assert_eq!(error.outcome(), Outcome::Unknown, "{error}");
}
