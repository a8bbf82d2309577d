//! The document says what is served. Besides, every answer of every other test in this folder is held to it
//! (`support/document.rs`).

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::Server;
use support::document::{Document, Operation};
use support::schema::Schemas;

const HTTP_API: &str = include_str!("../../docs/http-api.md");

/// All operations, so that a change of the document is seen in review.
#[tokio::test]
async fn the_document_has_these_operations() {
    let document = Document::of(&Server::new()).await;
    let lines: Vec<_> = document
        .operations()
        .map(|operation| {
            let Operation { method, path, .. } = operation;
            let statuses: Vec<_> = operation.statuses().collect();
            let method = method.to_uppercase();
            format!("{method} {path} {}: {}", operation.id(), statuses.join(" "))
        })
        .collect();
    insta::assert_snapshot!("operations", lines.join("\n"));
}

#[tokio::test]
async fn operations_have_ids_of_their_own_and_words_for_people() {
    let document = Document::of(&Server::new()).await;
    let mut ids = BTreeSet::new();
    for operation in document.operations() {
        let (id, described) = (operation.id(), operation.described);
        assert!(ids.insert(id), "{id} is there twice");
        assert!(described["summary"].as_str().is_some_and(|text| text.len() > 5), "{id}");
        assert_eq!(described["tags"].as_array().map(Vec::len), Some(1), "{id}");
        for status in operation.statuses() {
            let answer = document.resolved(&described["responses"][status]);
            assert!(answer["description"].as_str().is_some_and(|d| !d.is_empty()), "{id} {status}");
        }
    }
}

#[tokio::test]
async fn the_document_says_what_it_is_of() {
    let document = Document::of(&Server::new()).await;
    let info = &document.0["info"];
    assert_eq!(document.0["openapi"], "3.1.0");
    assert_eq!(info["title"], "Roster");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["license"]["name"], "Apache-2.0");
}

#[tokio::test]
async fn who_has_the_document_already_does_not_get_it_again() {
    let server = Server::new();
    let served = server.get("/openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    let tag = served.header("etag");
    let again = server.call_with("GET /openapi.json", &[("if-none-match", tag)], "").await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
}

/// The router is filled by what takes the description with the handler, and by nothing else.
#[test]
fn no_route_is_without_a_description() {
    let routes = include_str!("../src/routes/mod.rs");
    for other in [".route(", ".nest(", ".merge(", "_service("] {
        assert!(!routes.contains(other), "{other}…) adds what the document does not know");
    }
}

/// Each operation is asked with each parameter that any of them has: the ones that it does not know are
/// refused as unknown, the others are not.
#[tokio::test]
async fn operations_take_the_query_parameters_that_are_described_and_no_others() {
    let server = Server::new();
    let document = Document::of(&server).await;
    let all: BTreeSet<_> = document.operations().flat_map(names).collect();
    for operation in document.operations() {
        // Sentinel's dashboard knows no wrong parameter; files take none, and `/livez` looks at nothing.
        let takes_any = ["sentinel", "dashboard"].contains(&tag(&operation))
            || ["livez", "readOpenApi"].contains(&operation.id());
        if takes_any {
            continue;
        }
        let known: BTreeSet<_> = names(operation).collect();
        for name in &all {
            let line = line(&operation, name);
            // What is missing in the query, or wrong in the body, is told before or after that.
            let reply = server.problem_at(&line).await;
            let refused = reply.is_some_and(|problem| {
                problem["code"] == "unknown-field"
                    && problem["errors"][0]["field"].as_str() == Some(*name)
            });
            assert_eq!(refused, !known.contains(name), "{line}");
        }
    }
}

fn names<'a>(operation: Operation<'a>) -> impl Iterator<Item = &'a str> {
    operation.parameters("query").map(|parameter| parameter["name"].as_str().expect("a name"))
}

fn tag<'a>(operation: &Operation<'a>) -> &'a str {
    operation.described["tags"][0].as_str().unwrap_or_default()
}

/// A request with a parameter, and with those without which there is no answer at all.
fn line(operation: &Operation<'_>, name: &str) -> String {
    let path = ["{app}", "{id}", "{name}", "{set}", "{session}"]
        .into_iter()
        .fold(operation.path.to_owned(), |path, parameter| path.replace(parameter, "7"));
    let value = |name: &str| match name {
        "consistency" => "stale",
        "wait" => "1ms",
        "state" => "up",
        "kind" => "instance",
        "order" => "asc",
        "scope" => "all",
        "restart" => "snapshot",
        "create_app" | "takeover" | "cascade" | "gone" | "standbys" | "heartbeats" => "true",
        "filter" => "true",
        "cursor" => "",
        _ => "1",
    };
    let mut query = format!("{name}={}", value(name));
    if name == "index" && names(*operation).any(|known| known == "wait") {
        query += "&wait=1ms";
    }
    let required = operation.parameters("query").filter(|parameter| parameter["required"] == true);
    for other in required.filter_map(|parameter| parameter["name"].as_str()) {
        if other != name {
            query += &format!("&{other}={}", value(other));
        }
    }
    format!("{} {path}?{query}", operation.method.to_uppercase())
}

/// The bodies that most programs begin with, and what they are sent to. Each takes what the ones before it made.
const BODIES_WITH_EXAMPLES: [(&str, &str, u16); 10] = [
    ("POST /v1/sessions", "SessionBody", 201),
    ("PUT /v1/apps/pay", "PolicyBody", 201),
    ("PUT /v1/apps/pay/instances/10.0.0.1:8719", "InstanceBody", 201),
    ("PUT /v1/apps/pay/instances/10.0.0.1:8719/heartbeat", "InstanceBody", 200),
    ("POST /v1/instances:batch", "BatchBody", 200),
    ("POST /v1/heartbeats", "HeartbeatsBody", 200),
    ("POST /v1/locks/nightly/acquire", "AcquireBody", 200),
    ("PUT /v1/apps/fetchers", "PolicyBody", 201),
    ("PUT /v1/shard-sets/poll", "ShardSetBody", 201),
    ("PUT /v1/apps/pay/ring", "RingBody", 201),
];

fn example<'a>(document: &'a Document, shape: &str) -> &'a Value {
    let example = &document.0["components"]["schemas"][shape]["examples"][0];
    assert!(!example.is_null(), "{shape} has no example");
    example
}

#[tokio::test]
async fn examples_are_what_their_schemas_say() {
    let document = Document::of(&Server::new()).await;
    let shapes = document.0["components"]["schemas"].as_object().expect("schemas");
    for (name, schema) in shapes {
        for example in schema["examples"].as_array().into_iter().flatten() {
            let fits = Schemas(&document.0).fits(schema, example);
            fits.unwrap_or_else(|why| panic!("the example of {name}: {why}"));
        }
    }
    for answer in ["Problem", "RegisteredView", "RenewedView"] {
        example(document, answer);
    }
}

#[tokio::test]
async fn examples_of_requests_are_taken_as_they_are() {
    let server = Server::new();
    let document = Document::of(&server).await;
    for (line, shape, status) in BODIES_WITH_EXAMPLES {
        let reply = server.call(line, &example(document, shape).to_string()).await;
        assert_eq!(reply.status.as_u16(), status, "{line}: {}", reply.text());
    }
}

/// The table of the codes in the text for people has those of the document, and no others.
#[tokio::test]
async fn the_text_and_the_document_have_the_same_codes() {
    let document = Document::of(&Server::new()).await;
    let errors = HTTP_API.split("## Errors").nth(1).expect("a chapter");
    let table =
        errors.lines().filter(|line| line.starts_with("| ") && line[2..5].parse::<u16>().is_ok());
    let told: BTreeSet<_> = table
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(|word| {
            word.contains('-') || ["malformed", "compacted", "overloaded", "timeout"].contains(word)
        })
        .filter(|word| !["Retry-After"].contains(word) && !word.contains('_'))
        .collect();
    let of_document = &document.0["components"]["schemas"]["Code"]["anyOf"][0]["enum"];
    let words = of_document.as_array().expect("words").iter();
    let known: BTreeSet<_> = words.filter_map(Value::as_str).chain(["invalid-<field>"]).collect();
    assert_eq!(told, known);
}

/// Every path is in the text for people, whole or after an ellipsis.
#[tokio::test]
async fn the_text_tells_of_every_path() {
    let document = Document::of(&Server::new()).await;
    let paths: BTreeSet<_> = document.operations().map(|operation| operation.path).collect();
    let missing: Vec<_> = paths.iter().filter(|path| !is_told(path)).collect();
    assert!(missing.is_empty(), "docs/http-api.md does not tell of {missing:?}");
}

fn is_told(path: &str) -> bool {
    let ends = path.match_indices('/').skip(1).map(|(at, _)| format!("…{}", &path[at..]));
    let whole = [format!("{path}`"), format!("{path} "), format!("{path}?"), format!("{path}\n")];
    whole.into_iter().chain(ends).any(|text| HTTP_API.contains(&text))
}

/// What the text says with its method is there.
#[tokio::test]
async fn the_text_tells_of_nothing_that_is_not_there() {
    let document = Document::of(&Server::new()).await;
    let known: BTreeSet<_> =
        document.operations().map(|o| format!("{} {}", o.method.to_uppercase(), o.path)).collect();
    for method in ["GET", "PUT", "POST", "PATCH", "DELETE"] {
        for (at, found) in HTTP_API.match_indices(&format!("{method} /")) {
            let ends = |c: char| c.is_whitespace() || "`?,;".contains(c);
            let path = HTTP_API[at + found.len() - 1..].split(ends).next().unwrap_or_default();
            let told = format!("{method} {path}");
            let generic = told.replace("{s}", "{session}");
            assert!(known.contains(&generic), "docs/http-api.md tells of {told}");
        }
    }
}
