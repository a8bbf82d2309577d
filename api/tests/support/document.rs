//! The OpenAPI document as tests use it: whether it says of an answer what the answer is.

use std::sync::OnceLock;

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::Server;
use super::schema::Schemas;

/// The document of this binary.
pub struct Document(pub Value);

/// One method of one path.
#[derive(Clone, Copy)]
pub struct Operation<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub described: &'a Value,
    document: &'a Document,
}

impl Document {
    pub async fn of(server: &Server) -> &'static Self {
        static DOCUMENT: OnceLock<Document> = OnceLock::new();
        if let Some(known) = DOCUMENT.get() {
            return known;
        }
        let served = server.plain("GET /openapi.json").await;
        DOCUMENT.get_or_init(|| Document(served.json()))
    }

    pub fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        let paths = self.0["paths"].as_object().expect("paths").iter();
        paths.flat_map(move |(path, item)| {
            let methods = item.as_object().expect("methods").iter();
            methods.map(move |(method, described)| Operation {
                method,
                path,
                described,
                document: self,
            })
        })
    }

    /// What `$ref` stands for.
    pub fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(to) => self.0.pointer(to.trim_start_matches('#')).expect("it is there"),
            None => value,
        }
    }

    fn operation(&self, method: &str, path: &str) -> Option<Operation<'_>> {
        let method = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
        let of_path = |o: &Operation<'_>| o.method == method && fits(o.path, path);
        // A path that is written out comes before one with a parameter.
        self.operations().filter(of_path).min_by_key(|o| o.path.matches('{').count())
    }

    /// Fails if an answer is none that the document describes.
    pub fn describes(
        &self,
        (method, path): (&str, &str),
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) {
        let path = path.split('?').next().unwrap_or_default();
        let Some(operation) = self.operation(method, path) else {
            let undescribed = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
            let takes_any = path.starts_with("/registry/") || path.ends_with("/remove.json");
            assert!(undescribed.contains(&status) || takes_any, "{method} {path}: {status}");
            return;
        };
        let answer = operation.answer(status.as_u16());
        for (name, _) in answer["headers"].as_object().into_iter().flatten() {
            let later = ["Roster-Consistency", "ETag", "Retry-After"].contains(&name.as_str());
            assert!(later || headers.contains_key(name), "{method} {path}: no {name}");
        }
        let content_type = headers.get("content-type").map_or("", |v| v.to_str().expect("text"));
        let essence = content_type.split(';').next().unwrap_or_default();
        if body.is_empty() && answer["content"].is_null() {
            return;
        }
        let content = &answer["content"][essence];
        assert!(!content.is_null(), "{method} {path}: {status} is not described as {essence}");
        if essence == "application/problem+json" && method != "HEAD" {
            let problem: Value = serde_json::from_slice(body).expect("a problem");
            let code = problem["code"].as_str().expect("a code");
            let described = content["schema"].to_string();
            let known = described.contains(&format!("\"{code}\""))
                || (code.starts_with("invalid-") && described.contains("^invalid-."))
                || content["schema"]["$ref"].is_string();
            assert!(known, "{method} {path}: {status} {code} is not described");
        }
        if essence != "application/x-ndjson" && essence.ends_with("json") && method != "HEAD" {
            let value: Value = serde_json::from_slice(body).expect("JSON");
            let fits = Schemas(&self.0).fits(&content["schema"], &value);
            fits.unwrap_or_else(|why| {
                panic!("{method} {path}: {status} is not as described: {why}")
            });
        }
    }
}

impl<'a> Operation<'a> {
    fn answer(&self, status: u16) -> &'a Value {
        let answers = &self.described["responses"];
        let answer = &answers[status.to_string()];
        let (method, path) = (self.method, self.path);
        assert!(!answer.is_null(), "{method} {path}: {status} is not described");
        self.document.resolved(answer)
    }

    pub fn id(&self) -> &'a str {
        self.described["operationId"].as_str().expect("an id")
    }

    pub fn statuses(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let answers = self.described["responses"].as_object().expect("answers");
        answers.keys().map(String::as_str)
    }

    pub fn parameters(&self, place: &'a str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let document = self.document;
        let parameters = self.described["parameters"].as_array().into_iter().flatten();
        let resolved = parameters.map(|parameter| document.resolved(parameter));
        resolved.filter(move |parameter| parameter["in"] == place)
    }
}

/// Whether a path is one of a template's.
fn fits(template: &str, path: &str) -> bool {
    if let Some(folder) = template.strip_suffix("{file}") {
        return path.len() > folder.len() && path.starts_with(folder);
    }
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template.zip(path).all(|(part, segment)| match part.starts_with('{') {
            true => !segment.is_empty(),
            false => part == segment,
        })
}
