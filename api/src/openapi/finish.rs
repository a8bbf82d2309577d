//! What all operations have in common, added to the document as a whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::refusals::codes_of;
use crate::error::Code;

/// Operations that take more than one method are described once for each.
const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// The document with the headers of every answer, with the answers to what goes wrong, and with what
/// operations share told once.
pub(super) fn finished(description: OpenApi) -> Value {
    let mut document = serde_json::to_value(description).expect("a description is JSON");
    plain_paths(&mut document);
    distinct_operation_ids(&mut document);
    alternatives(&mut document);
    refusals(&mut document);
    headers(&mut document);
    limits_of_http(&mut document);
    share_parameters(&mut document);
    document
}

/// The router's `{*file}` is a parameter like any other.
fn plain_paths(document: &mut Value) {
    let Some(paths) = object(document, "paths") else { return };
    let named: Map<String, Value> =
        paths.iter().map(|(path, item)| (path.replace("{*", "{"), item.clone())).collect();
    *paths = named;
}

/// One of several shapes may have all that another one has, so a value may fit more than one. Only what is
/// something or null is exactly one of them.
fn alternatives(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let null = json!({"type": "null"});
            let of_shapes =
                |one_of: &Value| one_of.as_array().is_some_and(|of| !of.contains(&null));
            if members.get("oneOf").is_some_and(of_shapes)
                && let Some(shapes) = members.remove("oneOf")
            {
                members.insert("anyOf".to_owned(), shapes);
            }
            // Without a sign there is a bit more: this would name a smaller greatest number.
            if members.get("format") == Some(&json!("int64")) && members.contains_key("minimum") {
                members.insert("format".to_owned(), "uint64".into());
            }
            members.values_mut().for_each(alternatives);
        }
        Value::Array(items) => items.iter_mut().for_each(alternatives),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn distinct_operation_ids(document: &mut Value) {
    let mut known = BTreeSet::new();
    each_operation(document, |method, operation| {
        let Some(id) = operation.get("operationId").and_then(Value::as_str) else { return };
        let id =
            if known.contains(id) { format!("{id}By{}", capital(method)) } else { id.to_owned() };
        operation["operationId"] = id.clone().into();
        known.insert(id);
    });
}

fn capital(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_uppercase() + rest
}

/// Writes out the answers that operations name by their codes.
fn refusals(document: &mut Value) {
    let mut named = BTreeMap::new();
    each_response(document, |_, response| {
        let name =
            response.get("$ref").and_then(Value::as_str).and_then(|to| to.rsplit('/').next());
        if let Some(name) = name {
            named.insert(name.to_owned(), refusal(name));
        }
    });
    let responses: Map<_, _> = named.into_iter().collect();
    document["components"]["responses"] = responses.into();
    document["components"]["schemas"]["Code"] = all_codes();
}

/// The answer with one of some codes.
fn refusal(name: &str) -> Value {
    let codes: Vec<_> = codes_of(name).collect();
    let meanings: Vec<_> =
        codes.iter().map(|code| format!("`{}`: {}", code.word(), code.meaning())).collect();
    let status = codes.first().map_or(0, |code| code.status().as_u16());
    let one = json!({
        "type": "object",
        "properties": {"status": {"const": status}, "code": code_schema(&codes)},
    });
    let schema = json!({"allOf": [{"$ref": "#/components/schemas/Problem"}, one]});
    json!({
        "description": meanings.join(" "),
        "content": {"application/problem+json": {"schema": schema}},
    })
}

/// One of some words, where `invalid-<field>` stands for as many as there are fields.
fn code_schema(codes: &[Code]) -> Value {
    let words: Vec<_> =
        codes.iter().filter(|code| **code != Code::Invalid).map(|code| code.word()).collect();
    let any = json!({"type": "string", "pattern": "^invalid-."});
    match (codes.contains(&Code::Invalid), words.is_empty()) {
        (false, _) => json!({"type": "string", "enum": words}),
        (true, true) => any,
        (true, false) => json!({"anyOf": [{"type": "string", "enum": words}, any]}),
    }
}

fn all_codes() -> Value {
    let told = |code: &Code| {
        format!("- `{}` ({}): {}", code.word(), code.status().as_u16(), code.meaning())
    };
    let lines: Vec<_> = Code::ALL.iter().map(told).collect();
    let mut schema = code_schema(Code::ALL);
    schema["description"] =
        format!("What a problem is, in one word.\n\n{}", lines.join("\n")).into();
    schema
}

/// The headers of every answer, and of every read.
fn headers(document: &mut Value) {
    document["components"]["headers"] = json!({
        "Roster-Revision": header("The revision of this answer. It never goes back for a client that waits for one answer before it asks again.", json!({"$ref": "#/components/schemas/Number"})),
        "Roster-Node": header("The node that answered.", json!({"$ref": "#/components/schemas/Number"})),
        "Roster-Term": header("In which term it answered.", json!({"$ref": "#/components/schemas/Number"})),
        "Request-Id": header("The client's own, if it was printable and at most 128 bytes long, or one that was made here.", json!({"type": "string"})),
        "Roster-Consistency": header("How fresh the read was.", json!({"type": "string", "enum": ["linearizable", "stale"]})),
        "Retry-After": header("Seconds after which to try again: for each client another number, so that a crowd does not come back at once.", json!({"type": "integer", "minimum": 1})),
    });
    let mut reads = Vec::new();
    each_operation(document, |_, operation| {
        let parameters = operation.get("parameters").and_then(Value::as_array);
        let mut parameters = parameters.into_iter().flatten();
        if parameters.any(|parameter| parameter["name"] == "consistency") {
            reads.push(operation["operationId"].clone());
        }
    });
    each_operation(document, |_, operation| {
        let read = reads.contains(&operation["operationId"]);
        for (status, response) in members(operation, "responses") {
            if response.get("$ref").is_none() {
                add_headers(response, status, read && status.starts_with('2'));
            }
        }
    });
    for (name, response) in members(&mut document["components"], "responses") {
        let code = codes_of(name).next().expect("problems are named by their codes");
        add_headers(response, code.status().as_str(), false);
    }
}

fn header(description: &str, schema: Value) -> Value {
    json!({"description": description, "schema": schema})
}

fn add_headers(response: &mut Value, status: &str, read: bool) {
    let mut names = vec!["Roster-Revision", "Roster-Node", "Roster-Term", "Request-Id"];
    if read {
        names.push("Roster-Consistency");
    }
    if ["429", "503"].contains(&status) {
        names.push("Retry-After");
    }
    for name in names {
        response["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
}

/// What is answered before any operation is known: without a body and without Roster's headers.
fn limits_of_http(document: &mut Value) {
    let limits = [
        (
            "414",
            "uri-too-long",
            "The request line is too long: a path and a query have 65,534 bytes at most.",
        ),
        ("431", "headers-too-large", "The headers are too many or too long."),
    ];
    for (status, name, told) in limits {
        document["components"]["responses"][name] = json!({"description": told});
        let answer = json!({"$ref": format!("#/components/responses/{name}")});
        each_operation(document, |_, operation| operation["responses"][status] = answer.clone());
    }
}

/// Parameters that several operations take stand in the document once.
fn share_parameters(document: &mut Value) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    each_parameter(document, |parameter| *seen.entry(parameter.to_string()).or_default() += 1);
    let mut shared: Map<String, Value> = Map::new();
    each_parameter(document, |parameter| {
        if seen.get(&parameter.to_string()).is_none_or(|times| *times < 2) {
            return;
        }
        let name = (1..)
            .map(|n| name_of(parameter, n))
            .find(|name| shared.get(name).is_none_or(|known| known == parameter));
        let name = name.expect("numbers do not end");
        let reference = json!({"$ref": format!("#/components/parameters/{name}")});
        shared.insert(name, std::mem::replace(parameter, reference));
    });
    document["components"]["parameters"] = shared.into();
}

/// The `n`th parameter of one place and name that is described in another way.
fn name_of(parameter: &Value, n: usize) -> String {
    let part =
        |member: &str| parameter[member].as_str().expect("a parameter has a place and a name");
    let name = format!("{}.{}", part("in"), part("name"));
    if n == 1 { name } else { format!("{name}.{n}") }
}

fn each_parameter(document: &mut Value, mut act: impl FnMut(&mut Value)) {
    each_operation(document, |_, operation| {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        parameters.into_iter().flatten().for_each(&mut act);
    });
}

fn each_response(document: &mut Value, mut act: impl FnMut(&str, &mut Value)) {
    each_operation(document, |_, operation| {
        for (status, response) in members(operation, "responses") {
            act(status, response);
        }
    });
}

fn each_operation(document: &mut Value, mut act: impl FnMut(&str, &mut Value)) {
    for (_, item) in members(document, "paths") {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                act(method, operation);
            }
        }
    }
}

fn members<'a>(
    value: &'a mut Value,
    name: &str,
) -> impl Iterator<Item = (&'a String, &'a mut Value)> {
    object(value, name).into_iter().flatten()
}

fn object<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    value.get_mut(name)?.as_object_mut()
}
