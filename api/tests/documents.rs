//! What documents promise over HTTP beside their shapes.

mod support;

use axum::body::Body;
use http::Request;
use roster_api::ClientAddress;
use roster_api::registry::Unavailable;
use support::Server;

const JSON: (&str, &str) = ("content-type", "application/json");
const FLOW: &str = "/v1/apps/pay/documents/flow";

#[tokio::test]
async fn conditions_guard_documents() {
    let server = Server::new();
    let (put, delete) = (format!("PUT {FLOW}"), format!("DELETE {FLOW}"));
    let create = [JSON, ("if-none-match", "*")];
    assert_eq!(server.call_with(&put, &create, "1").await.status.as_u16(), 201);
    let reply = server.call_with(&put, &create, "2").await;
    assert_eq!(reply.problem(), (412, "document-exists".into()));
    for line in [&put, &delete] {
        let reply = server.call_with(line, &[JSON, ("if-match", "\"r9\"")], "2").await;
        assert_eq!(reply.problem(), (412, "precondition-failed".into()));
    }
    assert_eq!(server.get(FLOW).await.json()["value"], 1);
    let tag = server.get(FLOW).await.header("etag").to_owned();
    let reply = server.call_with(&put, &[JSON, ("if-match", &tag)], "2").await;
    assert_eq!(reply.status.as_u16(), 200);
    let reply = server.call_with(&put, &[JSON, ("if-match", &tag)], "3").await;
    assert_eq!(reply.problem(), (412, "precondition-failed".into()));
    assert_eq!(reply.header("roster-revision"), "6", "a refusal says where it was decided");
    let tag = server.get(FLOW).await.header("etag").to_owned();
    let reply = server.call_with(&delete, &[("if-match", &tag)], "").await;
    assert_eq!(reply.status.as_u16(), 200);
    assert_eq!(server.get(FLOW).await.problem(), (404, "unknown-document".into()));
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let server = Server::new();
    for line in [
        format!("GET {FLOW}"),
        format!("DELETE {FLOW}"),
        format!("PUT {FLOW}?create_app=false"),
        "GET /v1/apps/pay/documents".into(),
    ] {
        let reply = server.call(&line, if line.starts_with("PUT") { "1" } else { "" }).await;
        assert_eq!(reply.problem(), (404, "unknown-app".into()), "{line}");
    }
    server.call(&format!("PUT {FLOW}"), "1").await;
    assert_eq!(server.get("/v1/apps/pay").await.status.as_u16(), 200, "it makes its app");
    for line in ["GET /v1/apps/pay/documents/other", "DELETE /v1/apps/pay/documents/other"] {
        let reply = server.call(line, "").await;
        assert_eq!(reply.problem(), (404, "unknown-document".into()), "{line}");
    }
}

#[tokio::test]
async fn any_json_value_is_a_document_and_comes_back_as_it_was_written() {
    let server = Server::new();
    for value in [
        "null",
        "true",
        "-0.10e+2",
        "\"a \\u0041 \\n b\"",
        "[]",
        "{}",
        "{\"b\":1,\"a\":[2,{\"c\":null}],\"b\":3}",
    ] {
        server.call(&format!("PUT {FLOW}"), value).await;
        let text = server.get(FLOW).await.text();
        assert!(text.contains(&format!("\"value\":{value},\"by\":")), "{text}");
    }
    let merge = [("content-type", "application/vnd.rules+json; charset=utf-8")];
    assert_eq!(server.call_with(&format!("PUT {FLOW}"), &merge, "1").await.status.as_u16(), 200);
    let text = [("content-type", "text/plain")];
    let reply = server.call_with(&format!("PUT {FLOW}"), &text, "1").await;
    assert_eq!(reply.problem(), (415, "invalid-content-type".into()));
}

#[tokio::test]
async fn documents_have_a_limit_each_and_together() {
    let server = Server::new();
    let largest = format!("\"{}\"", "x".repeat(128 * 1024 - 2));
    for n in 0..8 {
        let reply = server.call(&format!("PUT /v1/apps/pay/documents/{n}"), &largest).await;
        assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
    }
    let reply = server.call(&format!("PUT {FLOW}"), "1").await;
    assert_eq!(reply.problem(), (413, "too-large".into()));
    let list = server.get("/v1/apps/pay/documents").await.json();
    assert_eq!(list["documents"].as_array().map(Vec::len), Some(8));
    server.call("DELETE /v1/apps/pay/documents/0", "").await;
    assert_eq!(server.call(&format!("PUT {FLOW}"), "1").await.status.as_u16(), 201);
}

#[tokio::test]
async fn an_app_with_documents_is_deleted_only_with_cascade() {
    let server = Server::new();
    server.call(&format!("PUT {FLOW}"), "1").await;
    let reply = server.call("DELETE /v1/apps/pay", "").await;
    assert_eq!(reply.problem(), (409, "app-not-empty".into()));
    let detail = reply.json()["detail"].to_string();
    assert!(detail.contains("0 instances and 1 documents"), "{detail}");
    assert_eq!(server.call("DELETE /v1/apps/pay?cascade=true", "").await.status.as_u16(), 200);
    assert_eq!(server.get(FLOW).await.problem(), (404, "unknown-app".into()));
}

/// As a node gets it: with the address of the connection.
fn from(address: &str, line: &str) -> Request<Body> {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let address = ClientAddress(address.parse().expect("an address"));
    let request = Request::builder().method(method).uri(path).extension(address);
    request.body("1".into()).expect("a request")
}

#[tokio::test]
async fn who_changed_a_document_is_who_it_says_or_where_it_came_from() {
    let server = Server::new();
    for (address, line, by) in [
        ("192.0.2.7", format!("PUT {FLOW}?by=ops"), "ops"),
        ("192.0.2.7", format!("PUT {FLOW}"), "192.0.2.7"),
        ("::ffff:192.0.2.8", format!("PUT {FLOW}"), "192.0.2.8"),
        ("2001:db8::1", format!("PUT {FLOW}"), "2001:db8::1"),
    ] {
        server.send(from(address, &line)).await;
        assert_eq!(server.get(FLOW).await.json()["by"], by);
    }
    server.call(&format!("PUT {FLOW}"), "1").await;
    assert_eq!(server.get(FLOW).await.json()["by"], "unknown", "nobody said where it came from");
}

#[tokio::test]
async fn a_stale_read_of_documents_needs_no_leader() {
    let server = Server::new();
    server.call(&format!("PUT {FLOW}"), "1").await;
    *server.registry.fail.lock() = Some(Unavailable::NoLeader("x".into()));
    for path in [FLOW, "/v1/apps/pay/documents"] {
        assert_eq!(server.get(path).await.problem(), (503, "no-leader".into()));
        let stale = server.get(&format!("{path}?consistency=stale")).await;
        assert_eq!((stale.status.as_u16(), stale.header("roster-consistency")), (200, "stale"));
    }
}
