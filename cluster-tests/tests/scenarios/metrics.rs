//! What nodes tell Prometheus, and that what is built on it names nothing that they do not tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cluster_tests::client::{At, Client};
use cluster_tests::cluster::READY_WITHIN;
use cluster_tests::metrics::{Family, Metrics};
use cluster_tests::wait::until;
use reqwest::Method;
use serde_json::json;

use crate::three_nodes;

/// In a name where the unit stands, what is no base unit.
const NO_BASE_UNITS: [&str; 8] =
    ["ms", "milliseconds", "minutes", "hours", "kilobytes", "megabytes", "mib", "percent"];

/// A name that a client may give, and that Prometheus' text has to quote.
const HOSTILE: &str = r#"evil"} 1%0A# EOF"#;

async fn told(at: &At<'_>) -> Metrics {
    Metrics::of(at).await.expect("it tells")
}

/// Waits until a node's metrics are as wanted.
async fn until_told(at: &At<'_>, what: &str, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
    until(what, READY_WITHIN, async || {
        let metrics = Metrics::of(at).await.map_err(|e| e.to_string())?;
        if wanted(&metrics) { Ok(metrics) } else { Err(format!("{:?}", metrics.samples)) }
    })
    .await
}

fn conventional(name: &str, family: &Family) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("{name}: {what}"));
    if !name.starts_with("roster_") && !name.starts_with("process_") {
        return wrong("of whom is it?");
    }
    if !family.help.ends_with('.') {
        return wrong("its help is no sentence");
    }
    if !["counter", "gauge", "histogram"].contains(&&*family.kind) {
        return wrong("it has no type");
    }
    if !family.unit.is_empty() && !name.ends_with(&format!("_{}", family.unit)) {
        return wrong("it does not end in its unit");
    }
    if ["_seconds", "_bytes"].iter().any(|end| name.ends_with(end)) && family.unit.is_empty() {
        return wrong("it ends in a unit that it does not tell");
    }
    if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)) {
        return wrong("samples end so, families do not");
    }
    if name.split('_').any(|word| NO_BASE_UNITS.contains(&word)) {
        return wrong("it is not in a base unit");
    }
    Ok(())
}

#[tokio::test]
async fn every_family_has_a_help_and_a_name_as_the_conventions_want_it() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let of_leader = told(&client.at(leader)).await;
    for (name, family) in &of_leader.families {
        conventional(name, family).unwrap_or_else(|why| panic!("{why}"));
    }
    let of_follower = told(&client.at(followers[0])).await;
    assert!(of_leader.families.keys().eq(of_follower.families.keys()), "each tells all families");
    let known = of_leader.sample_names();
    let strange = of_leader.samples.iter().find(|sample| !known.contains(&sample.name));
    assert!(strange.is_none(), "{strange:?}");

    let form = async |accept: &str| {
        let at = client.at(leader);
        let request = at.request(Method::GET, "/metrics").header("accept", accept);
        let answer = request.send().await.expect("an answer");
        let form = answer.headers()["content-type"].to_str().expect("text").to_owned();
        (form, answer.text().await.expect("a body"))
    };
    let (open, text) = form("application/openmetrics-text;version=1.0.0,text/plain;q=0.3").await;
    assert_eq!(open, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(text.contains("# TYPE roster_proposals counter\n") && text.ends_with("# EOF\n"));
    let (older, text) = form("text/plain").await;
    assert_eq!(older, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("# TYPE roster_proposals_total counter\n") && !text.contains("# EOF"));
}

#[tokio::test]
async fn counters_move_when_the_thing_happens() {
    let cluster = three_nodes().start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let (leads, follows) = (client.at(leader), client.at(followers[0]));
    let before = (told(&leads).await, told(&follows).await);

    let one = follows.register("pay", "a", "1h").await.expect("registered");
    leads.register("pay", "gone", "1s").await.expect("registered");
    follows.beat("pay", "a", one.incarnation).await.expect("it lives");
    let many = json!({"instances": [{"app": "pay", "id": "a"}, {"app": "pay", "id": "nobody"}]});
    follows.post_once("/v1/heartbeats", "", &many).await.expect("taken");
    follows.get("/v1/apps/none/instances/none").await.expect_err("there is none");
    follows.delete("/v1/apps/none").await.expect_err("there is none");
    let watch = follows.request(Method::GET, "/v1/watch?app=pay");
    let watch = follows.begin(watch).await.expect("it begins");

    // What is read of one state is of one moment; counters beside it may be a moment ahead.
    let after = until_told(&leads, "an expiry is counted", |metrics| {
        metrics.value("roster_expiry_lateness_seconds_count", &[]) == 1.0
            && metrics.value("roster_instances", &[("state", "up")]) == 1.0
    })
    .await;
    assert_eq!(after.value("roster_sessions", &[]), 1.0);
    assert_eq!(after.value("roster_apps", &[]), 1.0);
    let more = |name| after.value(name, &[]) - before.0.value(name, &[]);
    assert_eq!(more("roster_heartbeats_total"), 3.0, "one, and two in a body");
    assert!(more("roster_raft_applied_index") >= 3.0);
    assert!(more("roster_raft_log_write_duration_seconds_count") >= 3.0);
    assert!(more("roster_raft_apply_batch_entries_sum") >= 3.0);
    assert_eq!(after.value("roster_raft_leading", &[]), 1.0);

    // The watcher has heard of the expiry, or is about to.
    let after = until_told(&follows, "a change was handed to the watcher", |metrics| {
        metrics.value("roster_watch_changes_total", &[]) >= 1.0
    })
    .await;
    let more = |name, labels: &[(&str, &str)]| {
        after.sum(name, labels).unwrap_or(0.0) - before.1.sum(name, labels).unwrap_or(0.0)
    };
    assert_eq!(more("roster_watchers", &[]), 1.0);
    assert_eq!(more("roster_heartbeat_calls_total", &[("form", "single")]), 1.0);
    assert_eq!(more("roster_heartbeat_calls_total", &[("form", "batched")]), 1.0);
    assert!(more("roster_forwarded_calls_total", &[("purpose", "heartbeats")]) >= 2.0);
    assert!(more("roster_forwarded_calls_total", &[("purpose", "writes")]) >= 1.0);
    assert_eq!(more("roster_proposals_total", &[("result", "decided")]), 1.0);
    assert_eq!(more("roster_proposals_total", &[("result", "refused")]), 1.0);
    let instance = "/v1/apps/{app}/instances/{id}";
    let of = |route, method, answer| {
        let labels = [("route", route), ("method", method), ("answer", answer)];
        more("roster_http_requests_total", &labels)
    };
    assert_eq!(of(instance, "PUT", "2xx"), 1.0);
    assert_eq!(of(instance, "GET", "4xx"), 1.0);
    assert_eq!(of("/v1/watch", "GET", "2xx"), 1.0);
    let times = more("roster_http_request_duration_seconds_count", &[("route", instance)]);
    assert_eq!(times, 2.0);
    drop(watch);
    until_told(&follows, "the watcher has gone", |m| m.value("roster_watchers", &[]) == 0.0).await;
}

#[tokio::test]
async fn nothing_that_clients_name_becomes_a_label_and_labels_stay_bounded() {
    let cluster = three_nodes().nodes(1).start().await;
    let client = cluster.client();
    let at = client.at(1);
    let hostile = HOSTILE.replace('"', "%22").replace(' ', "%20").replace('#', "%23");
    at.register("secret-app", "secret-id", "1h").await.expect("registered");
    drop(at.register(&hostile, &hostile, "1h").await);
    drop(at.get(&format!("/v1/apps/{hostile}")).await);
    let before = told(&at).await;
    for number in 0..1_000 {
        let path = match number % 3 {
            0 => format!("/nowhere-{number}/x"),
            1 => format!("/v1/apps/app-{number}/instances/{number}"),
            _ => format!("/v1/locks/{hostile}-{number}"),
        };
        let method = Method::from_bytes(format!("M{}", number % 7).as_bytes()).expect("a method");
        let method = if number % 2 == 0 { Method::GET } else { method };
        drop(at.send(at.request(method, &path)).await);
    }
    let after = at.get("/metrics").await.expect("it tells").text;
    for word in ["secret", "evil", "nowhere", "app-1", "M3"] {
        assert!(!after.contains(word), "{word}: {after}");
    }
    let after = Metrics::read(&after);
    let series = |metrics: &Metrics| metrics.samples.len();
    // Three routes with two kinds of methods each, at most 25 series of each.
    assert!(series(&after) < series(&before) + 6 * 25, "{}", series(&after));
    let unmatched = [("route", "unmatched"), ("answer", "4xx")];
    assert_eq!(after.value("roster_http_requests_total", &unmatched), 334.0);
}

#[tokio::test]
async fn a_node_that_waits_for_the_others_tells_so() {
    let mut cluster = three_nodes().lay_out();
    cluster.start(1, &[]);
    let client = cluster.client();
    let at = client.at(1);
    let alone = until_told(&at, "it answers", |_| true).await;
    assert_eq!(alone.value("roster_starting", &[]), 1.0);
    assert_eq!(alone.value("roster_ready", &[]), 0.0);
    assert_eq!(alone.value("roster_ready_check", &[("check", "cluster")]), 0.0);
    assert_eq!(alone.sum("roster_raft_term", &[]), None);
    cluster.start(2, &[]);
    cluster.start(3, &[]);
    cluster.ready().await;
    let ready = told(&at).await;
    assert_eq!(ready.value("roster_ready", &[]), 1.0);
    assert_eq!(ready.value("roster_starting", &[]), 0.0);
    assert!(ready.families.keys().eq(alone.families.keys()));

    // Nobody can lead any more; what was is told all the same.
    cluster.kill(2);
    cluster.kill(3);
    let alone = until_told(&at, "no leader is known", |metrics| {
        metrics.value("roster_ready", &[]) == 0.0
            && metrics.value("roster_ready_check", &[("check", "leader")]) == 0.0
    })
    .await;
    assert!(alone.value("roster_raft_applied_index", &[]) >= 1.0);
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words in a text that name metrics of Roster or of its process.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let is_name = |word: &&str| word.starts_with("roster_") || word.starts_with("process_");
    words.filter(is_name).map(str::to_owned).collect()
}

async fn one_nodes_metrics(client: &Client) -> Metrics {
    told(&client.at(1)).await
}

#[tokio::test]
async fn alerts_dashboard_and_documentation_name_what_nodes_tell() {
    let cluster = three_nodes().nodes(1).start().await;
    let live = one_nodes_metrics(&cluster.client().patient(Duration::from_secs(30))).await;
    let samples = live.sample_names();
    for file in ["deploy/alerts.yml", "deploy/grafana-dashboard.json"] {
        let text = fs::read_to_string(repository().join(file)).expect(file);
        let named = names_in(&text);
        assert!(!named.is_empty(), "{file} names no metric");
        let unknown: Vec<_> = named.difference(&samples).collect();
        assert!(unknown.is_empty(), "{file} names what no node tells: {unknown:?}");
    }

    let text = fs::read_to_string(repository().join("docs/metrics.md")).expect("docs/metrics.md");
    // | `name` | type | labels | meaning |
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeSet<String> = rows
        .map(|row| {
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            format!("{} {} {}", cells[0].trim_matches('`'), cells[1], cells[3])
        })
        .collect();
    let live: BTreeSet<String> = live
        .families
        .iter()
        .map(|(name, family)| {
            let end = if family.kind == "counter" { "_total" } else { "" };
            format!("{name}{end} {} {}", family.kind, family.help)
        })
        .collect();
    let missing: Vec<_> = live.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&live).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in docs/metrics.md: {missing:#?}; no node tells: {gone:#?}"
    );
}
