//! Registrations that are kept alive.

use std::sync::Arc;
use std::time::Duration;

use roster::client::{Ended, Incarnation, Options, Outcome, Registration, Status};
use serde_json::json;
use tokio::sync::Notify;

use crate::scripted::{Act, Scripted, client, endpoints, problem, quick, within};

/// Heartbeats are asked for so often that no test waits for them.
fn registered(incarnation: u64) -> Act {
    let body = json!({
        "app": "pay", "id": "a", "incarnation": incarnation, "session": "1",
        "ttl": "30ms", "heartbeat_every": "10ms", "revision": incarnation,
    });
    Act::Answer(201, body)
}

fn renewed() -> Act {
    Act::Answer(200, json!({"ttl": "30ms", "heartbeat_every": "10ms", "revision": 9}))
}

fn gone(code: &str) -> Act {
    problem(404, code, "none")
}

fn stale() -> Act {
    let mut body = json!({"code": "stale-incarnation", "detail": "", "outcome": "none"});
    body["retryable"] = json!(false);
    body["incarnation"] = json!(42);
    Act::Answer(409, body)
}

const REGISTER: &str = "PUT /v1/apps/pay/instances/a";

fn beat(incarnation: u64) -> String {
    format!("PUT /v1/apps/pay/instances/a/heartbeat?incarnation={incarnation}")
}

#[tokio::test]
async fn heartbeats_name_the_incarnation_and_share_one_connection() {
    let node = Scripted::start([registered(7), renewed(), renewed(), renewed()]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let kept = kept.expect("registered");
    node.asked_times(4).await;
    drop(kept);
    let asked = node.asked();
    assert_eq!(node.lines()[..4], [REGISTER.to_owned(), beat(7), beat(7), beat(7)]);
    assert!(asked.iter().all(|one| one.from == asked[0].from), "{asked:?}");
}

#[tokio::test]
async fn a_heartbeat_that_one_node_does_not_take_goes_to_the_next_one() {
    let first = [registered(7), renewed(), problem(503, "no-leader", "none")];
    let first = Scripted::start(first).await;
    let second = Scripted::start([renewed(), renewed()]).await;
    let kept = client(&[&first, &second]).keep_alive("pay", "a", Registration::default()).await;
    let kept = kept.expect("registered");
    second.asked_times(2).await;
    assert_eq!(second.lines()[..2], [beat(7), beat(7)]);
    drop(kept);
}

#[tokio::test]
async fn an_instance_that_expired_is_registered_again_without_taking_over() {
    for code in ["unknown-instance", "unknown-app", "unknown-session"] {
        let node = Scripted::start([registered(7), gone(code), registered(8), renewed()]).await;
        let registration = Registration { takeover: true, port: 8719, ..Registration::default() };
        let kept = client(&[&node]).keep_alive("pay", "a", registration).await;
        let mut kept = kept.expect("registered");
        node.asked_times(4).await;
        let first = format!("{REGISTER}?takeover=true");
        assert_eq!(node.lines()[..4], [first, beat(7), REGISTER.to_owned(), beat(8)], "{code}");
        assert_eq!(node.asked()[0].body, node.asked()[2].body, "{code}");
        let Status::Alive(now) = within("the new life", kept.changed()).await else {
            panic!("{:?}", kept.status())
        };
        assert_eq!(now.incarnation, Incarnation(8), "{code}");
    }
}

#[tokio::test]
async fn who_expired_stays_away_from_the_life_of_another_process() {
    let taken = problem(412, "instance-exists", "none");
    let node = Scripted::start([registered(7), gone("unknown-instance"), taken]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let mut kept = kept.expect("registered");
    let ended = within("the end", kept.ended()).await;
    assert!(matches!(ended, Ended::Replaced { by: None }), "{ended:?}");
    assert_eq!(node.asked()[2].headers["if-none-match"], "*");
    assert!(!node.asked()[0].headers.contains_key("if-none-match"), "the first one may update");
    kept.leave().await.expect("there is nothing to leave");
    assert_eq!(node.lines(), [REGISTER.to_owned(), beat(7), REGISTER.to_owned()]);
}

#[tokio::test]
async fn a_life_that_may_be_its_own_is_left_to_expire_and_then_begun_anew() {
    let taken = || problem(412, "instance-exists", "none");
    let script = [
        registered(7),
        gone("unknown-instance"),
        Act::Broken,
        taken(),
        taken(),
        registered(9),
        renewed(),
    ];
    let node = Scripted::start(script).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let kept = kept.expect("registered");
    node.asked_times(7).await;
    let again = || REGISTER.to_owned();
    let expected = [again(), beat(7), again(), again(), again(), again(), beat(9)];
    assert_eq!(node.lines()[..7], expected, "no heartbeat for a life that is not surely its own");
    drop(kept);
}

#[tokio::test]
async fn who_was_replaced_stops_and_tells_by_whom() {
    let node = Scripted::start([registered(7), renewed(), stale()]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let mut kept = kept.expect("registered");
    let ended = within("the end", kept.ended()).await;
    assert!(matches!(ended, Ended::Replaced { by: Some(Incarnation(42)) }), "{ended:?}");
    kept.leave().await.expect("there is nothing to leave");
    assert_eq!(node.lines(), [REGISTER.to_owned(), beat(7), beat(7)], "the successor stays");
}

#[tokio::test]
async fn an_instance_that_is_refused_stops_and_tells_why() {
    let refused = problem(400, "invalid-ttl", "none");
    let node = Scripted::start([registered(7), gone("unknown-instance"), refused]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let ended = within("the end", kept.expect("registered").ended()).await;
    assert!(matches!(&ended, Ended::Refused(error) if error.code() == "invalid-ttl"), "{ended:?}");
}

#[tokio::test]
async fn an_instance_that_nobody_hears_says_so_and_goes_on() {
    let node = Scripted::start([registered(7), problem(503, "no-leader", "none")]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let mut kept = kept.expect("registered");
    let status = within("another status", kept.changed()).await;
    assert!(matches!(&status, Status::Unheard { .. }), "{status:?}");
    node.asked_times(node.lines().len() + 2).await;
}

#[tokio::test]
async fn leaving_removes_this_life_only() {
    let quiet = Act::Answer(
        201,
        json!({"app": "pay", "id": "a", "incarnation": 7, "session": "1", "ttl": "3h",
            "heartbeat_every": "1h", "revision": 7}),
    );
    let node = Scripted::start([quiet, Act::Answer(200, json!({}))]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    within("the departure", kept.expect("registered").leave()).await.expect("left");
    let leave = "DELETE /v1/apps/pay/instances/a?incarnation=7".to_owned();
    assert_eq!(node.lines(), [REGISTER.to_owned(), leave]);
}

#[tokio::test]
async fn leaving_waits_for_a_registration_that_is_on_its_way() {
    let gate = Arc::new(Notify::new());
    let late = Act::After(gate.clone(), Box::new(registered(8)));
    let left = Act::Answer(200, json!({}));
    let node = Scripted::start([registered(7), gone("unknown-instance"), late, left]).await;
    let kept = client(&[&node]).keep_alive("pay", "a", Registration::default()).await;
    let kept = kept.expect("registered");
    node.asked_times(3).await;
    let leaving = async {
        // The registration is answered while the departure is being waited for.
        let (left, ()) = tokio::join!(kept.leave(), async { gate.notify_one() });
        left
    };
    within("the departure", leaving).await.expect("left");
    let leave = "DELETE /v1/apps/pay/instances/a?incarnation=8".to_owned();
    assert_eq!(node.lines().last(), Some(&leave), "{:?}", node.lines());
}

#[tokio::test]
async fn a_first_registration_that_fails_is_an_error_at_once() {
    let node = Scripted::start([Act::Broken]).await;
    let options = Options { patience: Duration::ZERO, ..quick() };
    let client = roster::client::Client::with(&endpoints(&[&node]), options).expect("a client");
    let error = client.keep_alive("pay", "a", Registration::default()).await.expect_err("broken");
    assert_eq!(error.outcome(), Outcome::Unknown);
}
