//! `roster instance register`: kept alive, and many from a file.

use std::fmt::Write as _;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::run::{Running, ended, out};
use crate::scripted::{Act, Scripted, endpoints};

fn registered() -> Act {
    let answer = json!({
        "app": "pay", "id": "a", "incarnation": 2, "session": "1", "ttl": "60s",
        "heartbeat_every": "20s", "revision": 2,
    });
    Act::Answer(201, answer)
}

#[tokio::test]
async fn a_kept_registration_leaves_when_it_is_stopped() {
    let gone = json!({"app": "pay", "id": "a", "incarnation": 2, "revision": 3});
    let node = Scripted::on([
        ("PUT /v1/apps/pay/instances/a", vec![registered()]),
        ("DELETE", vec![Act::Answer(200, gone)]),
    ]);
    let node = node.await;
    let arguments = ["instance", "register", "pay", "a", "--port", "80", "--keep"];
    let mut keep = Running::start(&arguments, &endpoints(&[&node]));
    let told = keep.line_with("is registered").await;
    assert!(told.contains("pay/a") && told.contains("Ctrl-C deregisters it"), "{told}");
    assert_eq!(keep.signal(Signal::INT).await, Some(0));
    let lines = node.lines();
    assert_eq!(
        lines.last().map(String::as_str),
        Some("DELETE /v1/apps/pay/instances/a?incarnation=2")
    );
}

fn results(items: &[Value]) -> Act {
    Act::Answer(200, json!({"results": items, "revision": 9}))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[tokio::test]
async fn a_file_is_sent_5000_lines_at_a_time() {
    let mut text = String::new();
    for number in 0..7_000 {
        writeln!(text, r#"{{"app":"pay","id":"i{number}","ttl":"10m"}}"#).expect("text");
    }
    let file = file(&text);
    let done = || json!({"app": "pay", "id": "i", "incarnation": 2});
    let node = Scripted::start([results(&vec![done(); 5_000]), results(&vec![done(); 2_000])]);
    let node = node.await;
    let path = file.path().display().to_string();
    let told = out(&["instance", "register", "--file", &path], &endpoints(&[&node])).await;
    assert_eq!(told, "7000 instances are registered\n");
    let sent: Vec<usize> = node
        .asked()
        .iter()
        .map(|asked| {
            let body: Value = serde_json::from_str(&asked.body).expect("JSON");
            assert_eq!(body["items"][0]["op"], "register");
            body["items"].as_array().expect("items").len()
        })
        .collect();
    assert_eq!(sent, [5_000, 2_000]);
}

#[tokio::test]
async fn what_is_refused_of_a_file_is_told_by_its_line_and_all_else_is_done() {
    let file = file(
        "{\"app\":\"pay\",\"id\":\"a\"}\n\nno JSON\n{\"app\":\"pay\"}\n{\"app\":\"pay\",\"id\":\"b\"}\n",
    );
    let done = json!({"app": "pay", "id": "a", "incarnation": 2});
    let refused = json!({"code": "invalid-ip", "detail": "too long", "outcome": "none"});
    let node = Scripted::start([results(&[done, refused])]).await;
    let path = file.path().display().to_string();
    let told = ended(&["instance", "register", "--file", &path], &endpoints(&[&node])).await;
    assert_eq!((told.code, told.out.as_str()), (Some(4), "1 instances are registered\n"));
    for part in ["line 3: no JSON object", "line 4: \"id\" is missing", "line 5: pay/b: invalid-ip"]
    {
        assert!(told.error.contains(part), "{part}: {}", told.error);
    }
}

#[tokio::test]
async fn a_file_of_what_was_registered_serves_to_deregister_it() {
    let file = file("{\"app\":\"pay\",\"id\":\"a\",\"ip\":\"10.0.0.1\",\"ttl\":\"10m\"}\n");
    let done = json!({"app": "pay", "id": "a", "incarnation": 2});
    let node = Scripted::start([results(&[done])]).await;
    let path = file.path().display().to_string();
    let arguments = ["instance", "deregister", "--file", &path];
    assert_eq!(ended(&arguments, &endpoints(&[&node])).await.code, Some(2), "not without --yes");
    out(&[&arguments[..], &["--yes"]].concat(), &endpoints(&[&node])).await;
    let body: Value = serde_json::from_str(&node.asked()[0].body).expect("JSON");
    assert_eq!(body["items"], json!([{"op": "deregister", "app": "pay", "id": "a"}]));
}

#[tokio::test]
async fn what_is_kept_from_a_file_stays_though_a_line_was_refused() {
    let file = file("{\"app\":\"pay\",\"id\":\"a\"}\nno JSON\n");
    let done = json!({"app": "pay", "id": "a", "incarnation": 2});
    let opened = json!({"session": "4", "ttl": "60s", "heartbeat_every": "20s", "revision": 2});
    let closed = json!({"session": "4", "instances": 1, "revision": 9});
    let node = Scripted::on([
        ("POST /v1/sessions", vec![Act::Answer(201, opened)]),
        ("POST /v1/instances:batch", vec![results(&[done])]),
        ("DELETE /v1/sessions/4", vec![Act::Answer(200, closed)]),
    ]);
    let node = node.await;
    let path = file.path().display().to_string();
    let arguments = ["instance", "register", "--file", &path, "--keep"];
    let mut keep = Running::start(&arguments, &endpoints(&[&node]));
    keep.line_with("1 instances are registered").await;
    keep.error_with("they stay until Ctrl-C").await;
    assert!(!node.lines().iter().any(|line| line.starts_with("DELETE")));
    assert_eq!(keep.signal(Signal::INT).await, Some(4), "a line was refused");
    assert_eq!(node.lines().last().map(String::as_str), Some("DELETE /v1/sessions/4"));
}

#[tokio::test]
async fn an_item_that_the_answer_does_not_tell_of_is_no_success() {
    let file = file("{\"app\":\"pay\",\"id\":\"a\"}\n{\"app\":\"pay\",\"id\":\"b\"}\n");
    let done = json!({"app": "pay", "id": "a", "incarnation": 2});
    let node = Scripted::start([results(&[done])]).await;
    let path = file.path().display().to_string();
    let told = ended(&["instance", "register", "--file", &path], &endpoints(&[&node])).await;
    assert_eq!((told.code, told.out.as_str()), (Some(4), "1 instances are registered\n"));
    assert!(told.error.contains("line 2: pay/b: the answer does not tell of it"), "{told:?}");
}

#[tokio::test]
async fn what_would_be_left_unheeded_is_refused() {
    let register = ["instance", "register", "--file", "-"];
    for flags in [&["--create-only"][..], &["--zone", "a"], &["--keep", "--session", "4"]] {
        let told = ended(&[&register, flags].concat(), "127.0.0.1:1").await;
        assert_eq!(told.code, Some(2), "{flags:?}: {told:?}");
    }
    let list = ["instance", "list", "pay", "--limit", "3", "--watch"];
    assert_eq!(ended(&list, "127.0.0.1:1").await.code, Some(2));
}
