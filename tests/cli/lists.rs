//! Lists: every page, as a table, as names, as JSON, up to a limit.

use serde_json::{Value, json};

use crate::run::{ended, out};
use crate::scripted::{Act, Scripted, endpoints};

fn instance(id: &str, state: &str) -> Value {
    json!({
        "app": "a/b", "id": id, "incarnation": 7, "ip": "10.0.0.1", "port": 8719, "hostname": "h",
        "version": "1.0", "zone": "", "weight": 1, "metadata": {"build": "47"}, "payload": "",
        "state": state, "ttl": "30s", "session": "4", "registered_at": "2026-11-21T20:36:17.350Z",
        "revision": 7,
    })
}

fn page(ids: &[(&str, &str)], next: Option<&str>) -> Act {
    let instances: Vec<Value> = ids.iter().map(|(id, state)| instance(id, state)).collect();
    Act::Answer(200, json!({"instances": instances, "next_cursor": next, "revision": 9}))
}

fn two_pages() -> [Act; 2] {
    [page(&[("x", "up"), ("a-longer-id", "suspect")], Some("c1")), page(&[("z", "up")], None)]
}

const HEADER: &str = "APP  ID           ADDRESS        STATE    ZONE  VERSION  WEIGHT";

#[tokio::test]
async fn all_pages_are_one_table() {
    let node = Scripted::start(two_pages()).await;
    let table = out(&["instance", "list", "a/b"], &endpoints(&[&node])).await;
    let lines = [
        HEADER,
        "a/b  x            10.0.0.1:8719  up       -     1.0           1",
        "a/b  a-longer-id  10.0.0.1:8719  suspect  -     1.0           1",
        "a/b  z            10.0.0.1:8719  up       -     1.0           1",
    ];
    assert_eq!(table.lines().collect::<Vec<_>>(), lines);
    let path = "GET /v1/apps/a%2Fb/instances?limit=10000";
    assert_eq!(node.lines(), [path.to_owned(), format!("{path}&cursor=c1")]);
}

#[tokio::test]
async fn names_are_what_other_commands_take() {
    let node = Scripted::start(two_pages()).await;
    let names = out(&["instance", "list", "-o", "name"], &endpoints(&[&node])).await;
    assert_eq!(names, "a%2Fb/x\na%2Fb/a-longer-id\na%2Fb/z\n");
    let renewed = json!({"ttl": "30s", "heartbeat_every": "10s", "revision": 9});
    let node = Scripted::start([Act::Answer(200, renewed)]).await;
    out(&["instance", "heartbeat", "a%2Fb/x"], &endpoints(&[&node])).await;
    assert_eq!(node.lines(), ["PUT /v1/apps/a%2Fb/instances/x/heartbeat"]);
}

#[tokio::test]
async fn json_is_what_the_node_sent_page_by_page() {
    let node = Scripted::start(two_pages()).await;
    let told = out(&["instance", "list", "-o", "json"], &endpoints(&[&node])).await;
    let pages: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(pages.len(), 2);
    assert_eq!(pages[0]["instances"][1]["id"], "a-longer-id");
    assert_eq!(pages[0]["next_cursor"], "c1");
}

#[tokio::test]
async fn a_limit_ends_the_list_and_asks_for_no_more_than_that() {
    let node = Scripted::start(two_pages()).await;
    let arguments = ["instance", "list", "--limit", "3", "-o", "name", "--filter", "weight > 0"];
    let names = out(&arguments, &endpoints(&[&node])).await;
    assert_eq!(names.lines().count(), 3);
    let path = "GET /v1/instances?filter=weight+%3E+0&limit=";
    assert_eq!(node.lines(), [format!("{path}3"), format!("{path}1&cursor=c1")]);
}

#[tokio::test]
async fn wide_tables_have_more_columns_and_bare_ones_no_header() {
    let node = Scripted::start([page(&[("x", "up")], None)]).await;
    let wide = out(&["instance", "list", "-o", "wide"], &endpoints(&[&node])).await;
    assert!(wide.contains("LAST HEARTBEAT") && wide.contains("build=47"), "{wide}");
    assert_eq!(node.lines(), ["GET /v1/instances?heartbeats=true&limit=10000"]);
    let node = Scripted::start([page(&[("x", "up")], None)]).await;
    let bare = out(&["instance", "list", "--no-headers"], &endpoints(&[&node])).await;
    assert_eq!(bare.lines().count(), 1, "{bare}");
    let node = Scripted::start([page(&[], None)]).await;
    assert_eq!(out(&["instance", "list", "--no-headers"], &endpoints(&[&node])).await, "");
}

#[tokio::test]
async fn states_are_coloured_only_where_that_is_wanted() {
    for (flags, is_coloured) in [(&[][..], false), (&["--color", "always"], true)] {
        let node = Scripted::start([page(&[("x", "suspect")], None)]).await;
        let table = [&["instance", "list"], flags].concat();
        let table = out(&table, &endpoints(&[&node])).await;
        assert_eq!(table.contains("\x1b[31msuspect\x1b[0m"), is_coloured, "{table:?}");
    }
}

#[tokio::test]
async fn what_the_brake_leaves_out_is_counted() {
    let status = json!({
        "settings": {"share_percent": 25, "app_share_percent": 50, "window": "1m", "exempt": 10,
                     "exempt_of_all": 30, "pace": "15m", "rate": 10_000},
        "brakes": [{"scope": "all", "since": "2026-11-21T20:36:19.350Z", "missing": 9, "of": 10,
                    "removed_per_minute": 1.0, "revision": 7}],
        "more": 41, "overrides": [], "suspect": 9, "revision": 9,
    });
    let node = Scripted::start([Act::Answer(200, status)]).await;
    let shown = out(&["cluster", "brake", "show"], &endpoints(&[&node])).await;
    assert!(shown.contains("and 41 more brakes"), "{shown}");
}

#[tokio::test]
async fn who_deletes_much_must_say_so_where_nobody_can_be_asked() {
    let app = json!({"app": "pay", "counts": {"up": 3, "draining": 2}, "revision": 5});
    let node = Scripted::start([Act::Answer(200, app)]).await;
    let refused = ended(&["app", "delete", "pay", "--cascade"], &endpoints(&[&node])).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.error.contains("5 instances") && refused.error.contains("--yes"),
        "{refused:?}"
    );
    assert_eq!(node.lines(), ["GET /v1/apps/pay"], "nothing was deleted");
    let deleted = json!({"app": "pay", "instances": 5, "revision": 6});
    let node = Scripted::start([Act::Answer(200, deleted)]).await;
    out(&["app", "delete", "pay", "--cascade", "--yes"], &endpoints(&[&node])).await;
    assert_eq!(node.lines(), ["DELETE /v1/apps/pay?cascade=true"]);
}
