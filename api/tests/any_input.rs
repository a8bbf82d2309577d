//! No input makes a 5xx or a panic.

mod support;

use axum::body::Body;
use http::{HeaderValue, Request, Uri};
use proptest::prelude::*;
use support::Server;

const PATHS: [&str; 43] = [
    "/v1/apps",
    "/v1/apps/{}",
    "/v1/apps/{}/instances",
    "/v1/apps/{}/instances/{}",
    "/v1/apps/{}/instances/{}/heartbeat",
    "/v1/apps/{}/instances/{}/override",
    "/v1/apps/{}/documents",
    "/v1/apps/{}/documents/{}",
    "/v1/apps/{}/ring",
    "/v1/apps/{}/ring/compact",
    "/v1/apps/{}/ring/owners",
    "/v1/apps/{}/ring/simulate",
    "/v1/shard-sets",
    "/v1/shard-sets/{}",
    "/v1/shard-sets/{}/shards",
    "/v1/shard-sets/{}/workers",
    "/v1/shard-sets/{}/workers/{}",
    "/v1/shard-sets/{}/workers/{}/release",
    "/v1/shard-sets/{}/release",
    "/v1/shard-sets/{}/plan",
    "/v1/shard-sets/{}/scaling",
    "/v1/instances",
    "/v1/instances:batch",
    "/v1/heartbeats",
    "/v1/sessions",
    "/v1/sessions/{}",
    "/v1/sessions/{}/heartbeat",
    "/v1/shards",
    "/v1/locks",
    "/v1/locks/{}",
    "/v1/locks/{}/acquire",
    "/v1/locks/{}/release",
    "/v1/locks/{}/check",
    "/v1/elections",
    "/v1/elections/{}",
    "/v1/elections/{}/campaign",
    "/v1/elections/{}/resign",
    "/v1/elections/{}/check",
    "/v1/changes",
    "/v1/events",
    "/registry/machine",
    "/app/{}/machines.json",
    "/app/{}/machine/remove.json",
];

const METHODS: [&str; 6] = ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"];

/// Bytes as a path or a query may carry them, every one escaped.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

fn query() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec![
        "limit",
        "cursor",
        "filter",
        "q",
        "consistency",
        "min_revision",
        "incarnation",
        "app",
        "ip",
        "port",
        "version",
        "heartbeats",
        "verbose",
        "by",
        "create_app",
        "key",
        "replicas",
        "epoch",
        "adopted",
        "worker",
        "gone",
        "standbys",
        "token",
        "session",
        "owner",
        "lock",
        "election",
        "kind",
        "other",
    ]);
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| escaped(&bytes)),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("true".to_owned()),
        Just("%zz%".to_owned()),
    ];
    prop::collection::vec((name, value), 0..4).prop_map(|pairs| {
        pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("&")
    })
}

/// A JSON document that looks like what Roster takes, with wrong things in it.
fn document() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"10s\"".to_owned()),
        Just("\"1\"".to_owned()),
        Just("\"register\"".to_owned()),
        Just("\"18446744073709551615ms\"".to_owned()),
        Just("\"draining\"".to_owned()),
        Just("\"shared\"".to_owned()),
        Just("\"1ms\"".to_owned()),
        Just("\"9999-12-31T23:59:59Z\"".to_owned()),
        Just("{\"a\":\"b\",\"c\":null}".to_owned()),
        Just("[{\"op\":\"register\",\"app\":\"a\",\"id\":\"b\"},{\"app\":\"a\"},7]".to_owned()),
        Just("[\"a\",\"b\",7]".to_owned()),
        Just("[\"a\"]".to_owned()),
        Just("\"a\"".to_owned()),
        Just("[\"*\"]".to_owned()),
        Just("[{\"id\":\"a\",\"weight\":9},{\"id\":\"b\",\"zone\":\"z\"}]".to_owned()),
        Just("[{\"shard\":\"a/a\",\"grant\":3},{\"shard\":\"b\",\"grant\":0}]".to_owned()),
        Just("{\"shards_per_worker\":1,\"max\":4294967295,\"min\":0}".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    let name = prop::sample::select(vec![
        "seed",
        "replicas",
        "keys",
        "epoch",
        "leave",
        "join",
        "workers",
        "apps",
        "copies",
        "scaling",
        "shards",
        "ttl",
        "ttl_min",
        "ttl_max",
        "remove_when_empty_after",
        "kind",
        "session",
        "sessions",
        "instances",
        "items",
        "metadata",
        "payload",
        "weight",
        "port",
        "ip",
        "state",
        "expires",
        "reason",
        "name",
        "adopted",
        "token",
        "owner",
        "mode",
        "value",
        "wait",
    ]);
    prop::collection::vec((name, value), 0..4).prop_map(|fields| {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn nothing_that_comes_in_makes_a_5xx_or_a_panic(
        path in prop::sample::select(PATHS.to_vec()),
        method in prop::sample::select(METHODS.to_vec()),
        segment in prop_oneof![
            Just("a".to_owned()),
            Just("1".to_owned()),
            prop::collection::vec(any::<u8>(), 1..8).prop_map(|bytes| escaped(&bytes)),
        ],
        query in query(),
        body in prop_oneof![document(), prop::collection::vec(any::<u8>(), 0..64)],
        kind in prop::sample::select(vec![
            "application/json", "application/msgpack", "application/x-www-form-urlencoded", "",
        ]),
        header in prop::collection::vec(any::<u8>(), 0..16),
        name in prop::sample::select(vec![
            "if-match", "if-none-match", "idempotency-key", "request-id", "content-type", "accept",
        ]),
    ) {
        let uri = format!("{}?{query}", path.replace("{}", &segment));
        let uri: Uri = uri.parse().expect("escaped");
        let mut request = Request::builder().method(method).uri(uri);
        request = request.header("content-type", kind);
        if let Ok(value) = HeaderValue::from_bytes(&header) {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let reply = runtime.block_on(async {
            let server = Server::new();
            server.call("PUT /v1/apps/a/instances/a", "{}").await;
            server.call("PUT /v1/apps/a/documents/a", "{}").await;
            server.call("PUT /v1/apps/a/ring", "").await;
            server.call("PUT /v1/apps/b/instances/b", "{}").await;
            let set = r#"{"workers":"a","apps":["b"],"scaling":{"shards_per_worker":1,"max":9}}"#;
            server.call("PUT /v1/shard-sets/a", set).await;
            server.registry.rebalance("a").await;
            server.call("POST /v1/sessions", "{}").await;
            let claim = r#"{"session":"3"}"#;
            server.call("POST /v1/locks/a/acquire", claim).await;
            server.call("POST /v1/elections/a/campaign", claim).await;
            server.send(request).await
        });
        prop_assert!(reply.status.as_u16() < 500, "{}: {}", reply.status, reply.text());
        prop_assert!(!reply.header("request-id").is_empty());
    }
}
