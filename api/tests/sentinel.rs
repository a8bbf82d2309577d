//! What Sentinel's transports and its dashboard page see.

mod support;

use std::sync::atomic::Ordering;

use roster_api::registry::Unavailable;
use roster_api::{ApiOptions, SentinelSettings};
use support::{Reply, Server};

const FORM: &str = "application/x-www-form-urlencoded; charset=UTF-8";
/// As it was captured from the simple-http transport.
const BEAT: &str = "app=%E5%BA%94%E7%94%A8+a%2Fb%26c&hostname=vm&app_type=1&port=8720&v=1.8.9&ip=192.0.2.2&version=1795293377350";
const SUCCESS: &str = r#"{"success":true,"code":0,"msg":"success","data":null}"#;

async fn beat(server: &Server, form: &str) -> Reply {
    let headers = [("content-type", FORM), ("host", "svc-1.my_net")];
    server.call_with("POST /registry/machine", &headers, form.to_owned()).await
}

async fn machine(server: &Server, app: &str, port: u16) {
    let form = format!("app={app}&ip=10.0.0.9&port={port}&v=1.8.9&hostname=h&version=7");
    assert_eq!(beat(server, &form).await.text(), SUCCESS);
}

#[tokio::test]
async fn a_captured_beat_registers_once_and_then_costs_no_log_entry() {
    let server = Server::new();
    for _ in 0..3 {
        let reply = beat(&server, BEAT).await;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, SUCCESS));
        assert_eq!(reply.header("content-length"), SUCCESS.len().to_string());
        assert_eq!(reply.header("content-type"), "application/json");
    }
    assert_eq!(server.registry.written(), 1);
    let path = "/v1/apps/%E5%BA%94%E7%94%A8%20a%2Fb%26c/instances/192.0.2.2:8720";
    let instance = server.get(path).await.json();
    assert_eq!(instance["ttl"], "1m");
    assert_eq!(instance["metadata"]["app_type"], "1");
    insta::assert_snapshot!(server.get("/app/briefinfos.json").await.text(), @r#"{"success":true,"code":0,"msg":"success","data":[{"app":"应用 a/b&c","appType":1,"machines":[{"app":"应用 a/b&c","appType":1,"hostname":"vm","ip":"192.0.2.2","port":8720,"lastHeartbeat":1795293377850,"heartbeatVersion":1795293377350,"version":"1.8.9","healthy":true,"dead":false}],"shown":true,"dead":false}]}"#);
    let path = "/app/%E5%BA%94%E7%94%A8%20a%2Fb%26c/machines.json";
    insta::assert_snapshot!(server.get(path).await.text(), @r#"{"success":true,"code":0,"msg":"success","data":[{"app":"应用 a/b&c","hostname":"vm","ip":"192.0.2.2","port":8720,"lastHeartbeat":1795293377850,"heartbeatVersion":1795293377350,"version":"1.8.9","healthy":true}]}"#);
}

#[tokio::test]
async fn a_beat_by_query_is_as_good_and_the_query_comes_before_the_form() {
    let server = Server::new();
    let query = "GET /registry/machine?app=a&app_type=0&v=1.8.9&version=5&hostname=h&ip=10.0.0.1&port=8719&pid=7";
    assert_eq!(server.call_with(query, &[], "").await.text(), SUCCESS);
    let both = "POST /registry/machine?app=b";
    let form = "app=c&ip=10.0.0.1&port=1";
    assert_eq!(server.call_with(both, &[("content-type", FORM)], form).await.text(), SUCCESS);
    assert_eq!(server.get("/app/names.json").await.json()["data"], serde_json::json!(["a", "b"]));
}

#[tokio::test]
async fn a_changed_profile_is_written_once_and_keeps_what_else_is_known() {
    let server = Server::new();
    machine(&server, "a", 1).await;
    let path = "/v1/apps/a/instances/10.0.0.9:1";
    server.call(&format!("PATCH {path}"), r#"{"metadata":{"k":"v"}}"#).await;
    for _ in 0..2 {
        beat(&server, "app=a&ip=10.0.0.9&port=1&v=1.9.0&hostname=h2&app_type=11").await;
    }
    assert_eq!(server.registry.written(), 3);
    let instance = server.get(path).await.json();
    assert_eq!(instance["hostname"], "h2");
    assert_eq!(instance["version"], "1.9.0");
    assert_eq!(instance["incarnation"], 1);
    assert_eq!(instance["metadata"], serde_json::json!({"app_type": "11", "k": "v"}));
    // The app's type stays what its first machine said.
    assert_eq!(server.get("/app/briefinfos.json").await.json()["data"][0]["appType"], 0);
}

#[tokio::test]
async fn refusals_have_the_dashboards_order_and_words() {
    let server = Server::new();
    let (long_app, long_ip, long_host) = ("a".repeat(257), "1".repeat(129), "h".repeat(257));
    for (form, msg) in [
        ("".to_owned(), "invalid appName".to_owned()),
        ("app=+".into(), "invalid appName".into()),
        (format!("app={long_app}&ip=1.1.1.1&port=1"), "invalid appName".into()),
        ("app=a%07&ip=1.1.1.1&port=1".into(), "invalid appName".into()),
        ("app=a".into(), "invalid ip: null".into()),
        ("app=a&ip=".into(), "invalid ip: ".into()),
        (format!("app=a&ip={long_ip}"), format!("invalid ip: {long_ip}")),
        ("app=a&ip=localhost".into(), "invalid ip: localhost".into()),
        ("app=a&ip=[::1]".into(), "invalid ip: [::1]".into()),
        ("app=a&ip=1.2.3".into(), "invalid ip: 1.2.3".into()),
        ("app=a&ip=1.1.1.1".into(), "invalid port".into()),
        ("app=a&ip=1.1.1.1&port=-2".into(), "invalid port".into()),
        (format!("app=a&ip=1.1.1.1&port=-1&hostname={long_host}"), "hostname too long".into()),
        ("app=a&ip=1.1.1.1&port=-1".into(), "your port not set yet".into()),
    ] {
        let reply = beat(&server, &form).await;
        let expected = serde_json::json!({"success": false, "code": -1, "msg": msg, "data": null});
        assert_eq!((reply.status.as_u16(), reply.json()), (200, expected), "{form}");
    }
    assert_eq!(server.registry.written(), 0);
    for form in ["app=a&ip=1.1.1.1&port=0", "app=a&ip=::1&port=70000"] {
        assert_eq!(beat(&server, form).await.text(), SUCCESS, "{form}");
    }
    assert_eq!(server.get("/v1/apps/a/instances/%5B::1%5D:70000").await.status.as_u16(), 200);
}

#[tokio::test]
async fn what_is_not_a_number_is_400_with_the_frameworks_object() {
    let server = Server::new();
    for form in ["port=x", "port=99999999999", "version=x", "app_type=x"] {
        let reply = beat(&server, &format!("app=a&ip=1.1.1.1&{form}")).await;
        assert_eq!(reply.status.as_u16(), 400, "{form}");
        let mut json = reply.json();
        assert!(json["timestamp"].take().is_string());
        insta::allow_duplicates! {
            insta::assert_snapshot!(json, @r#"{"error":"Bad Request","path":"/registry/machine","status":400,"timestamp":null}"#);
        }
    }
}

#[tokio::test]
async fn without_a_leader_a_beat_and_the_page_get_503() {
    let server = Server::new();
    machine(&server, "a", 1).await;
    *server.registry.fail.lock() = Some(Unavailable::NoLeader("election".into()));
    let reply = beat(&server, BEAT).await;
    assert_eq!(reply.problem(), (503, "no-leader".into()));
    assert_eq!(reply.header("retry-after"), "1");
    for path in ["/app/names.json", "/app/briefinfos.json", "/app/a/machines.json"] {
        assert_eq!(server.get(path).await.problem(), (503, "no-leader".into()), "{path}");
    }
    assert_eq!(server.get("/version").await.status.as_u16(), 200);
}

#[tokio::test]
async fn machines_are_sorted_by_ip_as_text_then_port_as_number() {
    let server = Server::new();
    for (ip, port) in [("10.0.0.9", 9), ("10.0.0.10", 80), ("10.0.0.9", 10), ("::1", 1)] {
        assert_eq!(beat(&server, &format!("app=a&ip={ip}&port={port}")).await.text(), SUCCESS);
    }
    let data = server.get("/app/a/machines.json").await.json()["data"].take();
    let order: Vec<_> = data
        .as_array()
        .expect("an array")
        .iter()
        .map(|m| (m["ip"].as_str().expect("ip").to_owned(), m["port"].as_u64().expect("port")))
        .collect();
    let expected = [("10.0.0.10", 80), ("10.0.0.9", 9), ("10.0.0.9", 10), ("::1", 1)];
    assert_eq!(order, expected.map(|(ip, port)| (ip.to_owned(), port)));
    assert!(data[0]["hostname"].is_null());
    assert_eq!(data[0]["version"], "unknown");
}

#[tokio::test]
async fn an_unknown_app_is_a_success_without_data() {
    let server = Server::new();
    assert_eq!(server.get("/app/nobody/machines.json").await.text(), SUCCESS);
    let remove = "POST /app/nobody/machine/remove.json?ip=1.1.1.1&port=1";
    assert_eq!(server.call_with(remove, &[], "").await.text(), SUCCESS);
}

#[tokio::test]
async fn a_machine_is_removed_by_form_and_by_query() {
    let server = Server::new();
    machine(&server, "a", 1).await;
    machine(&server, "a", 2).await;
    let path = "/app/a/machine/remove.json";
    let headers = [("content-type", FORM)];
    let post = format!("POST {path}");
    assert_eq!(server.call_with(&post, &headers, "ip=10.0.0.9&port=1").await.text(), SUCCESS);
    let get = format!("GET {path}?ip=10.0.0.9&port=2");
    assert_eq!(server.call_with(&get, &[], "").await.text(), SUCCESS);
    insta::assert_snapshot!(server.call_with(&get, &[], "").await.text(), @r#"{"success":false,"code":1,"msg":"remove failed","data":null}"#);
    for wrong in ["ip=10.0.0.9", "port=1", "ip=10.0.0.9&port=x"] {
        let reply = server.call_with(&post, &headers, wrong).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]), (400, &"Bad Request".into()));
    }
    insta::assert_snapshot!(server.get("/app/briefinfos.json").await.text(), @r#"{"success":true,"code":0,"msg":"success","data":[{"app":"a","appType":0,"machines":[],"shown":false,"dead":true}]}"#);
}

#[tokio::test]
async fn health_follows_the_settings() {
    let sentinel = SentinelSettings::new(30_000, 300_000, 60_000, 120_000);
    let server = Server::with(ApiOptions { sentinel, ..ApiOptions::default() });
    machine(&server, "a", 1).await;
    let mut seen = Vec::new();
    for ago_ms in [0, 29_999, 30_000, 60_000, 120_000, 300_001] {
        server.registry.ago_ms.store(ago_ms, Ordering::Relaxed);
        let info = server.get("/app/briefinfos.json").await.json()["data"][0].take();
        let machine = &info["machines"][0];
        let words = [&machine["healthy"], &machine["dead"], &info["shown"], &info["dead"]];
        seen.push(words.map(|word| word.as_bool().expect("a bool")));
    }
    assert_eq!(
        seen,
        [
            [true, false, true, false],
            [true, false, true, false],
            [false, false, true, false],
            [false, false, false, false],
            [false, false, false, true],
            [false, true, false, true],
        ]
    );
}

#[tokio::test]
async fn the_version_ends_at_its_first_dash() {
    let server = Server::with(ApiOptions { version: "1.2.3-dev".into(), ..ApiOptions::default() });
    assert_eq!(server.get("/version").await.json()["data"], "1.2.3");
    let server = Server::with(ApiOptions { version: String::new(), ..ApiOptions::default() });
    assert_eq!(server.get("/version").await.json()["code"], 1);
}
