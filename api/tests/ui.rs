//! The dashboard's files: how they are served, and what they may not do.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use support::{Reply, Server};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ui")
}

/// Paths below the folder, with `/` between their parts.
fn files() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder()).expect("below the folder");
                let parts = name.iter().map(|part| part.to_str().expect("text"));
                found.insert(parts.collect::<Vec<_>>().join("/"));
            }
        }
    }
    found
}

fn is_guarded(reply: &Reply) {
    assert_eq!(reply.header("content-security-policy"), POLICY);
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("referrer-policy"), "no-referrer");
    assert_eq!(reply.header("cache-control"), "no-cache");
}

#[tokio::test]
async fn every_file_of_the_folder_is_served_as_it_is_with_its_type_and_the_policy() {
    let server = Server::new();
    let files = files();
    assert!(files.len() > 5, "the folder is somewhere else: {files:?}");
    for name in files {
        let reply = server.get(&format!("/ui/{name}")).await;
        assert_eq!(reply.status, 200, "{name} is not in the table of files");
        assert_eq!(reply.body, fs::read(folder().join(&name)).expect("a file"), "{name}");
        let content_type = match name.rsplit_once('.').expect("an ending").1 {
            "html" => "text/html; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("no type is known for .{other}"),
        };
        assert_eq!(reply.header("content-type"), content_type, "{name}");
        is_guarded(&reply);
    }
}

#[tokio::test]
async fn the_page_is_at_the_folder_and_browsers_are_led_there() {
    let server = Server::new();
    let page = server.get("/ui/").await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    assert!(page.text().contains("<title>Roster</title>"), "{}", page.text());
    is_guarded(&page);
    let redirect = server.get("/ui").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (307, "ui/"));
    let browser = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
    let redirect = server.call_with("GET /", &[browser], "").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (307, "ui/"));
    for headers in [&[][..], &[("accept", "*/*")], &[("accept", "application/json")]] {
        let other = server.call_with("GET /", headers, "").await;
        assert_eq!(other.problem(), (404, "unknown-route".into()));
    }
}

#[tokio::test]
async fn who_has_a_file_already_gets_no_body_and_the_same_policy() {
    let server = Server::new();
    let first = server.get("/ui/main.js").await;
    let tag = first.header("etag").to_owned();
    assert!(tag.len() > 10, "{tag}");
    let known = [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()];
    for tags in &known {
        let again = server.call_with("GET /ui/main.js", &[("if-none-match", tags)], "").await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{tags}");
        assert_eq!(again.header("etag"), tag);
        is_guarded(&again);
    }
    let other = server.call_with("GET /ui/main.js", &[("if-none-match", "\"other\"")], "").await;
    assert_eq!((other.status.as_u16(), other.body), (200, first.body));
    assert_ne!(server.get("/ui/dom.js").await.header("etag"), tag);
}

#[tokio::test]
async fn head_says_what_get_would_without_the_body() {
    let server = Server::new();
    let get = server.get("/ui/style.css").await;
    let head = server.call_with("HEAD /ui/style.css", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    for name in ["content-type", "etag", "content-security-policy"] {
        assert_eq!(head.header(name), get.header(name));
    }
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

#[tokio::test]
async fn nothing_but_the_files_is_served_and_nothing_can_be_written() {
    let server = Server::new();
    for path in [
        "/ui/nothing.js",
        "/ui/pages",
        "/ui/pages/",
        "/ui/../Cargo.toml",
        "/ui/..%2fCargo.toml",
        "/ui/%2e%2e/Cargo.toml",
        "/ui//main.js",
        "/ui/main.js/",
        "/ui/MAIN.JS",
    ] {
        assert_eq!(server.get(path).await.problem(), (404, "unknown-route".into()), "{path}");
    }
    let put = server.call("PUT /ui/main.js", "{}").await;
    assert_eq!(put.problem(), (405, "method-not-allowed".into()));
}

/// What turns text into markup or into a program, or what the policy would stop.
const FORBIDDEN: [&str; 13] = [
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "createContextualFragment",
    "DOMParser",
    "srcdoc",
    "document.write",
    "eval(",
    "new Function",
    "setTimeout('",
    "javascript:",
    "style=\"",
    "setAttribute('style'",
];

#[test]
fn the_pages_make_text_nodes_only() {
    for name in files() {
        let text = fs::read_to_string(folder().join(&name)).expect("text");
        for word in FORBIDDEN {
            assert!(!text.contains(word), "{name} has {word}");
        }
        assert_eq!(handler(&text), None, "{name} has a handler as an attribute");
    }
}

#[test]
fn the_pages_load_nothing_from_elsewhere() {
    for name in files() {
        let text = fs::read_to_string(folder().join(&name)).expect("text");
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for word in ["http://", "https://", "//cdn", "@import", "url("] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

/// The first `on…=` in text, as in `<a onclick="…">` or `node.onclick = …`.
fn handler(text: &str) -> Option<&str> {
    text.match_indices("on").find_map(|(at, _)| {
        let starts = text[..at].chars().next_back().is_some_and(|c| c.is_whitespace() || c == '.');
        let rest = &text[at..];
        let word = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
        let after = rest[word..].trim_start();
        let sets = after.starts_with('=') && !after.starts_with("==") && !after.starts_with("=>");
        // A variable may be called `on` or `once`.
        (starts && sets && HANDLERS.contains(&&rest[..word])).then_some(&rest[..word])
    })
}

const HANDLERS: [&str; 12] = [
    "onclick",
    "onload",
    "onerror",
    "onmessage",
    "onchange",
    "oninput",
    "onsubmit",
    "onfocus",
    "onblur",
    "onkeydown",
    "onmouseover",
    "ontoggle",
];

#[test]
fn a_handler_as_an_attribute_is_found() {
    assert_eq!(handler("<a onclick=\"x()\">"), Some("onclick"));
    assert_eq!(handler("node.onerror = x"), Some("onerror"));
    assert_eq!(handler("const on = button(); if (onload === 1) {}"), None);
}
