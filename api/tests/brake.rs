//! The mass-loss brake: what is shown of it, and an operator's word.

mod support;

use roster_api::registry::Registry;
use roster_storage::brake::Scope;
use roster_storage::command::{BrakeChange, BrakeEnd, Command, SetBrake};
use roster_storage::names::AppName;
use serde_json::Value;
use support::Server;

const BRAKE: &str = "/v1/cluster/brake";

async fn ok(server: &Server, line: &str, body: &str) -> Value {
    let reply = server.call(line, body).await;
    assert!(reply.status.is_success(), "{line}: {}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_brake_is_shown_as_a_status_and_as_an_alarm() {
    let server = Server::new();
    ok(&server, "PUT /v1/apps/pay/instances/a", "{}").await;
    let idle = ok(&server, "GET /v1/cluster", "").await;
    assert!(idle["brake"].is_null(), "{idle}");
    let scope = Scope::App(AppName::new("pay").expect("a name"));
    let set = |change| Command::Brake(SetBrake { term: 1, scope: scope.clone(), change });
    let on = set(BrakeChange::On { missing: 90, of: 100 });
    server.registry.propose(on).await.expect("decided");
    let status = ok(&server, &format!("GET {BRAKE}"), "").await;
    assert_eq!(status["brakes"][0]["app"], "pay", "{status}");
    assert_eq!(status["brakes"][0]["removed_per_minute"], 6.0, "{status}");
    assert_eq!(status["settings"]["pace"], "15m");
    let cluster = ok(&server, "GET /v1/cluster", "").await;
    assert_eq!(cluster["alarms"][1]["code"], "mass-loss", "{cluster}");
    assert_eq!(cluster["brake"]["brakes"][0]["app"], "pay", "{cluster}");
    let off = set(BrakeChange::Off { because: BrakeEnd::Removed });
    server.registry.propose(off).await.expect("decided");
    let status = ok(&server, &format!("GET {BRAKE}"), "").await;
    assert_eq!(status["brakes"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn of_many_brakes_the_worst_are_shown_and_the_number_of_the_others() {
    let server = Server::new();
    for missing in 1..=150 {
        let app = format!("app-{missing}");
        ok(&server, &format!("PUT /v1/apps/{app}"), "{}").await;
        let (scope, change) =
            (Scope::App(AppName::new(app).expect("a name")), BrakeChange::On { missing, of: 200 });
        let on = Command::Brake(SetBrake { term: 1, scope, change });
        server.registry.propose(on).await.expect("decided");
    }
    let status = ok(&server, &format!("GET {BRAKE}"), "").await;
    let missing = |brake: &Value| brake["missing"].as_u64().expect("a number");
    let shown: Vec<_> = status["brakes"].as_array().expect("a list").iter().map(missing).collect();
    assert_eq!(shown, (51..=150).rev().collect::<Vec<_>>());
    assert_eq!(status["more"], 50, "{status}");
    let cluster = ok(&server, "GET /v1/cluster", "").await;
    let alarms = cluster["alarms"].as_array().expect("a list");
    let of_brakes = alarms.iter().filter(|alarm| alarm["code"] == "mass-loss");
    assert_eq!(of_brakes.count(), 101, "{cluster}");
    let last = alarms.last().expect("some")["detail"].as_str().expect("text");
    assert!(last.starts_with("50 more"), "{last}");

    ok(&server, &format!("PUT {BRAKE}"), r#"{"scope":"app","app":"app-150","mode":"hold"}"#).await;
    let rates = async || {
        let status = ok(&server, &format!("GET {BRAKE}"), "").await;
        let rate = |at: usize| status["brakes"][at]["removed_per_minute"].as_f64();
        (rate(0).expect("a number"), rate(1).expect("a number"))
    };
    let (held, other) = rates().await;
    assert!(held == 0.0 && other > 0.0, "{held} {other}");
    ok(&server, &format!("PUT {BRAKE}"), r#"{"scope":"all","mode":"hold"}"#).await;
    assert_eq!(rates().await, (0.0, 0.0));
}

/// Found by the chronicle of `whoever_resumes_anywhere`: what a snapshot leaves out, the changes after
/// it cannot bring back.
#[tokio::test]
async fn a_snapshot_shows_the_alarms_that_stand() {
    let server = Server::new();
    ok(&server, "PUT /v1/apps/pay/instances/a", "{}").await;
    for scope in [Scope::All, Scope::App(AppName::new("pay").expect("a name"))] {
        let change = BrakeChange::On { missing: 90, of: 100 };
        let on = Command::Brake(SetBrake { term: 1, scope, change });
        server.registry.propose(on).await.expect("decided");
    }
    for (query, apps) in [
        ("kind=alarm", vec![None, Some("pay")]),
        ("kind=alarm&app=pay", vec![Some("pay")]),
        ("kind=alarm&app=cart", vec![]),
        ("kind=latch", vec![]),
    ] {
        let mut stream = server.lines(&format!("/v1/watch?{query}")).await;
        let lines = stream.some(2 + apps.len()).await;
        let events: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let shown: Vec<_> =
            events[1..=apps.len()].iter().map(|e| (e["id"].as_str(), e["app"].as_str())).collect();
        let wanted: Vec<_> = apps.into_iter().map(|app| (Some("mass-loss"), app)).collect();
        assert_eq!(shown, wanted, "{query}: {lines}");
        assert_eq!(events.last().expect("lines")["event"], "snapshot-end", "{query}: {lines}");
    }
}

#[tokio::test]
async fn an_operator_holds_and_leaves_it_to_the_cluster_again() {
    let server = Server::new();
    ok(&server, "PUT /v1/apps/pay/instances/a", "{}").await;
    let hold = r#"{"scope":"app","app":"pay","mode":"hold","reason":"work","expires":"2h"}"#;
    let said = ok(&server, &format!("PUT {BRAKE}"), hold).await;
    assert_eq!((said["app"].as_str(), said["mode"].as_str()), (Some("pay"), Some("hold")));
    let status = ok(&server, &format!("GET {BRAKE}"), "").await;
    assert_eq!(status["overrides"][0]["reason"], "work", "{status}");
    assert!(status["overrides"][0]["expires"].is_string(), "{status}");
    for _ in 0..2 {
        ok(&server, &format!("DELETE {BRAKE}?scope=app&app=pay"), "").await;
    }
    let status = ok(&server, &format!("GET {BRAKE}"), "").await;
    assert_eq!(status["overrides"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn a_word_that_cannot_be_meant_is_refused_with_the_field() {
    let server = Server::new();
    let put = format!("PUT {BRAKE}");
    for (line, body, status, code) in [
        (put.as_str(), r#"{"scope":"app","mode":"hold"}"#, 400, "invalid-app"),
        (&put, r#"{"scope":"all","app":"pay","mode":"hold"}"#, 400, "invalid-app"),
        (&put, r#"{"scope":"node","mode":"hold"}"#, 400, "invalid-scope"),
        (&put, r#"{"scope":"all","mode":"wait"}"#, 400, "invalid-mode"),
        (&put, r#"{"scope":"all","mode":"hold","expires":"0s"}"#, 400, "invalid-expires"),
        (&put, r#"{"scope":"app","app":"none","mode":"hold"}"#, 404, "unknown-app"),
        (&format!("DELETE {BRAKE}?scope=node"), "", 400, "invalid-scope"),
    ] {
        let refused = server.call(line, body).await.problem();
        assert_eq!(refused, (status, code.to_owned()), "{line} {body}");
    }
}
