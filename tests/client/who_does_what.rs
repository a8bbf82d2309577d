//! `roster ring` and `roster shards`, as a terminal or a script sees them.

use serde_json::{Value, json};

use crate::commands::output;
use crate::scripted::{Act, Scripted, problem};

fn ring() -> Value {
    json!({
        "v": 1, "kind": "jump-probe-1", "group": "fetchers", "epoch": 42, "seed": 0, "replicas": 2,
        "workers": [["f1", 1], ["f2", 3]], "slots": [0, 1, -1, 1, 1],
    })
}

/// A command against a node that gives these answers: exit code, output, errors, and what was asked.
async fn run(
    arguments: &[&str],
    answers: Vec<Act>,
) -> (Option<i32>, String, String, Vec<(String, Value)>) {
    let node = Scripted::start(answers).await;
    let (code, out, error) = output(arguments, &[&node]).await;
    let asked = node.asked().into_iter();
    let asked = asked.map(|one| (one.line, serde_json::from_str(&one.body).unwrap_or_default()));
    (code, out, error, asked.collect())
}

fn answer(body: Value) -> Vec<Act> {
    vec![Act::Answer(200, body)]
}

#[tokio::test]
async fn a_ring_is_shown_as_a_table_or_as_the_node_sent_it() {
    let (code, out, error, asked) = run(&["ring", "get", "fetchers"], answer(ring())).await;
    assert_eq!(code, Some(0), "{error}");
    let lines = [
        "ring fetchers: epoch 42, 2 workers, 5 slots, 1 vacant, seed 0, replicas 2",
        "WORKER  WEIGHT    SHARE",
        "f1           1  25.00 %",
        "f2           3  75.00 %",
        "",
    ];
    assert_eq!(out, lines.join("\n"));
    assert_eq!(asked[0].0, "GET /v1/apps/fetchers/ring");
    let (_, out, _, _) = run(&["ring", "get", "fetchers", "-o", "json"], answer(ring())).await;
    assert_eq!(out, format!("{}\n", ring()));
}

#[tokio::test]
async fn owners_are_asked_for_or_computed_and_look_the_same() {
    let found =
        json!({"epoch": 42, "results": [{"owners": ["f2", "f1"]}, {"owners": ["f1", "f2"]}]});
    let lookup = ["ring", "lookup", "fetchers", "disk-1", "disk-2", "--replicas", "2"];
    let (code, out, error, asked) = run(&lookup, answer(found)).await;
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(out, "epoch 42\nKEY     OWNERS\ndisk-1  f2, f1\ndisk-2  f1, f2\n");
    assert_eq!(asked[0].1, json!({"keys": ["disk-1", "disk-2"], "replicas": 2}));

    let local = [&lookup[..], &["--local", "-o", "json"]].concat();
    let (code, out, error, asked) = run(&local, answer(ring())).await;
    assert_eq!((code, asked[0].0.as_str()), (Some(0), "GET /v1/apps/fetchers/ring"), "{error}");
    let computed: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(computed["epoch"], 42);
    assert_eq!(computed["results"].as_array().expect("results").len(), 2);
}

#[tokio::test]
async fn a_simulation_tells_what_would_move() {
    let simulated = json!({
        "epoch": 42, "keys": 1, "moved": 1,
        "moves": [{"key": "k", "from": "f1", "to": "f9"}], "moves_left_off": 0,
        "workers": [{"id": "f1", "weight_before": 1, "weight_after": 0, "share_before": 0.5,
            "share_after": 0.0}],
    });
    let simulate =
        ["ring", "simulate", "fetchers", "--leave", "f1", "--join", "f9=2", "--key", "k"];
    let (code, out, error, asked) = run(&simulate, answer(simulated)).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(out.starts_with("epoch 42: 1 of 1 keys would move (100.00 %)\n"), "{out}");
    assert!(out.contains("KEY  FROM  TO\nk    f1    f9\n"), "{out}");
    let body = json!({"leave": ["f1"], "join": [{"id": "f9", "weight": 2}], "keys": ["k"]});
    assert_eq!(asked[0], ("POST /v1/apps/fetchers/ring/simulate".into(), body));
}

#[tokio::test]
async fn rings_are_switched_on_and_off() {
    let changed = json!({"app": "fetchers", "epoch": 50, "revision": 51});
    let create = ["ring", "create", "fetchers", "--seed", "7", "--replicas", "3"];
    let (_, out, _, asked) = run(&create, vec![Act::Answer(201, changed.clone())]).await;
    assert_eq!(out, "the ring of fetchers is on; it is at epoch 50\n");
    assert_eq!(asked[0].1, json!({"seed": 7, "replicas": 3}));
    let (_, _, _, asked) = run(&["ring", "compact", "fetchers"], answer(changed.clone())).await;
    assert_eq!(asked[0].0, "POST /v1/apps/fetchers/ring/compact");
    let (_, out, _, asked) = run(&["ring", "delete", "fetchers"], answer(changed)).await;
    assert_eq!(out, "the ring of fetchers is off since revision 51\n");
    assert_eq!(asked[0].0, "DELETE /v1/apps/fetchers/ring");
    let no_ring = vec![problem(404, "no-ring", "none")];
    assert_eq!(run(&["ring", "get", "fetchers"], no_ring).await.0, Some(3));
    assert_eq!(run(&["ring", "simulate", "f", "--join", "=2"], vec![]).await.0, Some(2));
}

#[tokio::test]
async fn a_ring_that_is_there_keeps_what_is_not_named_and_what_became_of_it_is_told() {
    let there = || vec![problem(412, "ring-exists", "none"), Act::Answer(200, ring())];
    let create = ["ring", "create", "fetchers"];
    let (code, out, error, asked) = run(&create, there()).await;
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(
        out,
        "the ring of fetchers is as it was before, with replicas 2; it is at epoch 42\n"
    );
    assert_eq!(asked.len(), 2, "nothing is written: {asked:?}");
    let (_, out, _, _) = run(&[&create[..], &["-o", "json"]].concat(), there()).await;
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(told, json!({"app": "fetchers", "epoch": 42, "revision": 42}));

    let changed = json!({"app": "fetchers", "epoch": 50, "revision": 50});
    let answers = there().into_iter().chain(answer(changed)).collect();
    let with = ["--replicas", "3"];
    let (_, out, error, asked) = run(&[&create[..], &with].concat(), answers).await;
    assert_eq!(
        out, "the ring of fetchers has replicas 3 now, 2 before; it is at epoch 50\n",
        "{error}"
    );
    assert_eq!(asked[2].1, json!({"seed": 0, "replicas": 3}));

    let fixed = vec![problem(400, "invalid-seed", "none")];
    let answers = there().into_iter().chain(fixed).collect();
    let (code, _, error, asked) = run(&[&create[..], &["--seed", "7"]].concat(), answers).await;
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(asked[2].1, json!({"seed": 7, "replicas": 2}));
}

#[tokio::test]
async fn a_number_of_replicas_that_nodes_refuse_is_refused_here_too() {
    for replicas in ["0", "17", "99"] {
        let lookup = ["ring", "lookup", "fetchers", "k", "--local", "--replicas", replicas];
        let (code, out, error, _) = run(&lookup, answer(ring())).await;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{error}");
        assert!(error.contains("must be 1 to 16"), "{error}");
    }
    let most = ["ring", "lookup", "fetchers", "k", "--local", "--replicas", "16"];
    assert_eq!(run(&most, answer(ring())).await.0, Some(0));
}

#[tokio::test]
async fn workers_that_are_left_out_of_a_full_ring_are_shown() {
    let mut full = ring();
    full["left_out"] = json!(["f8", "f\u{1b}9"]);
    let (_, out, error, _) = run(&["ring", "get", "fetchers"], answer(full)).await;
    let last = out.lines().last().expect("a line");
    assert_eq!(last, r"left out, since the ring is full: f8, f\u{1b}9", "{error}");
}

fn shard(name: &str, holder: Option<&str>, grant: u64) -> Value {
    json!({"shard": name, "app": "pay", "instance": "a", "ip": "10.0.0.1", "port": 1,
        "holder": holder, "grant": grant, "next": null, "gone": false})
}

fn page(shards: &[Value], next: Option<&str>) -> Act {
    Act::Answer(200, json!({"shards": shards, "next_cursor": next, "revision": 9}))
}

#[tokio::test]
async fn shards_are_listed_page_by_page() {
    let pages = || {
        let mut moving = shard("pay/b", Some("f1"), 4);
        moving["next"] = json!("f2");
        vec![page(&[moving], Some("c1")), page(&[shard("pay/c", None, 0)], None)]
    };
    let list = ["shards", "list", "polling", "--worker", "f1", "--app", "pay", "--gone"];
    let (code, out, error, asked) = run(&list, pages()).await;
    assert_eq!(code, Some(0), "{error}");
    let lines = [
        "SHARD  ADDRESS     HOLDER  GRANT  NEXT  STATE",
        "pay/b  10.0.0.1:1  f1          4  f2    moving",
        "pay/c  10.0.0.1:1  -           0  -     orphaned",
        "",
    ];
    assert_eq!(out, lines.join("\n"));
    let first = "GET /v1/shard-sets/polling/shards?worker=f1&app=pay&gone=true&limit=10000";
    assert_eq!((asked[0].0.as_str(), &asked[1].0), (first, &format!("{first}&cursor=c1")));
    let (_, out, _, _) = run(&["shards", "list", "polling", "-o", "json"], pages()).await;
    assert_eq!(out.lines().count(), 2, "a document per page: {out}");
}

#[tokio::test]
async fn a_release_reads_the_grants_first_and_tells_what_was_not_released() {
    let results = json!({"results": [
        {"shard": "pay/a"}, {"shard": "pay/b", "code": "stale-token", "detail": "it moved"},
    ], "revision": 12});
    let held =
        [shard("pay/a", Some("f1"), 4), shard("pay/b", Some("f1"), 5), shard("pay/c", None, 0)];
    let answers = vec![page(&held, None), Act::Answer(200, results)];
    let release = ["shards", "release", "polling", "pay/a", "pay/b", "pay/c"];
    let (code, out, error, asked) = run(&release, answers).await;
    let lines = [
        "SHARD  GRANT  RESULT",
        "pay/a      4  released",
        "pay/b      5  stale-token: it moved",
        "",
    ];
    assert_eq!(out, lines.join("\n"));
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("nobody holds pay/c"), "{error}");
    let shards = json!([{"shard": "pay/a", "grant": 4}, {"shard": "pay/b", "grant": 5}]);
    let asked_for = ("POST /v1/shard-sets/polling/release".into(), json!({"shards": shards}));
    assert_eq!(asked[1], asked_for);

    let nobody = ["shards", "release", "polling", "pay/c"];
    let (code, out, error, _) = run(&nobody, vec![page(&held, None)]).await;
    assert_eq!((code, out.as_str()), (Some(0), ""), "{error}");
    let nobody = [&nobody[..], &["-o", "json"]].concat();
    let (code, out, error, _) = run(&nobody, vec![page(&held, None)]).await;
    assert_eq!((code, out.as_str()), (Some(0), "{\"results\":[]}\n"), "{error}");

    let results = json!({"results": [{"shard": "pay/a"}], "revision": 12});
    let under = ["shards", "release", "polling", "pay/a", "--grant", "4"];
    let (code, _, error, asked) = run(&under, answer(results)).await;
    assert_eq!((code, asked.len()), (Some(0), 1), "{error}");
}

#[tokio::test]
async fn shard_sets_are_made_shown_and_removed() {
    let create = [
        "shards",
        "create",
        "polling",
        "--workers",
        "fetchers",
        "--apps",
        "pay,cart",
        "--copies",
        "2",
        "--shards-per-worker",
        "50",
        "--max",
        "9",
        "--cooldown",
        "90s",
    ];
    let changed = json!({"set": "polling", "revision": 7});
    let (_, out, error, asked) = run(&create, vec![Act::Answer(201, changed.clone())]).await;
    assert_eq!(out, "shard set polling was made at revision 7\n", "{error}");
    let scaling = json!({"shards_per_worker": 50, "max": 9, "cooldown": "90000ms"});
    let body =
        json!({"workers": "fetchers", "apps": ["pay", "cart"], "copies": 2, "scaling": scaling});
    assert_eq!(asked[0], ("PUT /v1/shard-sets/polling".into(), body));

    let scaling = json!({"desired": 2, "current": 3, "min": 1, "max": 9, "reason": "too many",
        "victims": ["f3"], "shards": 90});
    let (_, out, _, _) = run(&["shards", "scaling", "polling"], answer(scaling)).await;
    assert_eq!(out, "2 workers wanted, 3 there (min 1, max 9): too many\nstop first: f3\n");

    let plan = json!({"epoch": 5, "moves": [{"shard": "pay/a", "from": "f1", "to": "f2"}],
        "moves_left_off": 0, "voluntary": 0, "fewest": 0,
        "loads": [{"worker": "f1", "before": 1, "after": 0}]});
    let planned = ["shards", "plan", "polling", "--leave", "f1", "--join", "f2"];
    let (_, out, _, asked) = run(&planned, answer(plan)).await;
    assert!(out.contains("SHARD  FROM  TO\npay/a  f1    f2\n"), "{out}");
    assert_eq!(asked[0].1, json!({"join": [{"id": "f2"}], "leave": ["f1"]}));

    let (_, out, _, _) = run(&["shards", "delete", "polling"], answer(changed)).await;
    assert_eq!(out, "shard set polling is gone since revision 7\n");
}

#[tokio::test]
async fn workers_are_shown_with_their_load() {
    let worker = json!({"id": "f1", "ip": "10.0.0.1", "port": 1, "weight": 2, "zone": "", "state": "up",
        "held": 5, "incoming": 1, "releasing": 0, "load": 6});
    let list = json!({"workers": [worker], "next_cursor": null, "revision": 9});
    let (_, out, error, _) = run(&["shards", "workers", "polling"], answer(list)).await;
    let lines = [
        "WORKER  ADDRESS     STATE  ZONE  WEIGHT  HELD  INCOMING  RELEASING  LOAD",
        "f1      10.0.0.1:1  up                2     5         1          0     6",
        "",
    ];
    assert_eq!(out, lines.join("\n"), "{error}");
}
