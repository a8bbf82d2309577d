//! 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 no leader or no answer: for every command alike.

use futures::stream::{StreamExt, iter};
use serde_json::json;

use crate::run::{Cluster, ended};
use crate::scripted::{Act, Scripted, endpoints, nobody};

/// Each as it would succeed.
const COMMANDS: &[&str] = &[
    "app list",
    "app show pay",
    "app put pay",
    "app delete pay",
    "app delete pay --cascade --yes",
    "app documents pay",
    "app document show pay flow",
    "app document delete pay flow",
    "instance list",
    "instance list pay",
    "instance search text",
    "instance show pay a",
    "instance show pay/a -o json",
    "instance register pay a",
    "instance register pay a --keep",
    "instance deregister pay a",
    "instance heartbeat pay a",
    "instance update pay a --weight 2",
    "instance drain pay a",
    "instance maintenance pay a",
    "instance resume pay a",
    "session create",
    "session show 1",
    "session keep",
    "session keep 1",
    "session destroy 1",
    "ring get pay",
    "ring lookup pay key",
    "ring lookup pay key --local",
    "ring simulate pay",
    "ring create pay",
    "ring delete pay",
    "ring compact pay",
    "shards list set",
    "shards workers set",
    "shards sets",
    "shards plan set",
    "shards release set pay/a",
    "shards get set",
    "shards create set --workers f --apps pay",
    "shards delete set",
    "shards scaling set",
    "lock list",
    "lock get db",
    "lock acquire db --session 1",
    "lock release db --token 1",
    "lock break db",
    "election list",
    "election get e",
    "election resign e --token 1",
    "election depose e",
    "cluster show",
    "cluster brake show",
    "cluster brake release",
    "cluster brake hold",
    "cluster brake clear",
    "service list",
    "watch",
    "events",
    "health",
    "top --once",
];

/// At a time.
const AT_ONCE: usize = 12;

/// All commands end with this code; `more` goes after each.
async fn all_end_with(code: i32, endpoints: &str, more: &[&str]) {
    let all = COMMANDS.iter().map(|command| async move {
        let arguments: Vec<&str> = command.split(' ').chain(more.iter().copied()).collect();
        (command, ended(&arguments, endpoints).await)
    });
    let ends: Vec<_> = iter(all).buffered(AT_ONCE).collect().await;
    let wrong: Vec<_> = ends.iter().filter(|(_, ended)| ended.code != Some(code)).collect();
    assert!(wrong.is_empty(), "other than {code}: {wrong:#?}");
    let silent: Vec<_> =
        ends.iter().filter(|(_, ended)| (ended.error.clone() + &ended.out).is_empty()).collect();
    assert!(silent.is_empty(), "no word about it: {silent:#?}");
}

#[tokio::test]
async fn what_a_node_refuses_gives_every_command_the_same_exit_code() {
    for (status, code) in [(400, 2), (404, 3), (409, 4), (412, 4), (500, 1), (503, 5), (504, 5)] {
        let refusal = move || {
            let detail = format!("as the test says: {status}");
            let document = json!({
                "code": "said", "detail": detail, "outcome": "none", "retryable": false,
            });
            Act::Answer(status, document)
        };
        let node = Scripted::on([("/", vec![Act::Always(Box::new(refusal))])]).await;
        all_end_with(code, &endpoints(&[&node]), &[]).await;
    }
}

#[tokio::test]
async fn where_nobody_listens_every_command_ends_with_5() {
    let nobody = nobody().await.to_string();
    all_end_with(5, &nobody, &[]).await;
    for command in ["bench", "demo"] {
        let ended = ended(&[command], &nobody).await;
        assert_eq!(ended.code, Some(5), "{command}: {ended:?}");
    }
}

#[tokio::test]
async fn what_is_typed_wrong_is_2_for_every_command() {
    let nobody = nobody().await.to_string();
    all_end_with(2, &nobody, &["--no-such-flag"]).await;
    all_end_with(2, "no-address", &[]).await;
    let wrong = [
        "app",
        "app show",
        "app list --limit 0",
        "app list -o xml",
        "app list --color maybe",
        "app put pay --create-only --if-revision 3",
        "instance show pay",
        "instance register",
        "instance register pay a --metadata novalue",
        "instance register pay a --ttl soon",
        "instance register pay a --ttl 5s --session 1",
        "instance update pay a",
        "session keep 1 --ttl 5s",
        "session keep --once",
        "instance register --file /not/there.ndjson",
        "instance deregister --file /not/there.ndjson",
        "app document put pay flow /not/there.json",
        "top",
        "list",
    ];
    for command in wrong {
        let arguments: Vec<&str> = command.split(' ').collect();
        let ended = ended(&arguments, &nobody).await;
        assert_eq!(ended.code, Some(2), "{command}: {ended:?}");
    }
}

#[tokio::test]
async fn a_cluster_without_a_majority_is_5_and_a_conflict_is_4() {
    let cluster = Cluster::start(3).await;
    let endpoints = cluster.endpoints();
    for (command, code) in [
        ("app put pay --create-only", 0),
        ("app put pay --create-only", 4),
        ("instance register pay a --ttl 10m", 0),
        ("app delete pay", 4),
        ("instance deregister pay a --incarnation 1", 4),
        ("app show nobody", 3),
        ("instance show pay b", 3),
        ("lock get free", 3),
    ] {
        let ended = ended(&command.split(' ').collect::<Vec<_>>(), &endpoints).await;
        assert_eq!(ended.code, Some(code), "{command}: {ended:?}");
        if command == "app delete pay" {
            assert!(ended.error.contains("--cascade"), "it names the flag: {ended:?}");
        }
    }
    cluster.kill(0);
    cluster.kill(1);
    for command in ["app put pay", "app list", "instance heartbeat pay a", "health", "bench"] {
        let ended = ended(&command.split(' ').collect::<Vec<_>>(), &endpoints).await;
        assert_eq!(ended.code, Some(5), "{command}: {ended:?}");
        if ["app put pay", "app list"].contains(&command) {
            let expected = [
                format!("{}: ", cluster.nodes[2]),
                format!("not reached: {}, {} (Connection", cluster.nodes[0], cluster.nodes[1]),
            ];
            let is_told = expected.iter().all(|part| ended.error.contains(part));
            assert!(is_told && ended.error.contains("no-leader"), "{command}: {ended:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_command_that_is_not_there_is_127_as_shells_have_it() {
    let nobody = nobody().await.to_string();
    for (program, why) in [
        ("no-such-command", "no-such-command: there is no such command"),
        ("/no/such/file", "/no/such/file: there is no such file"),
    ] {
        let ended = ended(&["lock", "run", "db", "--", program], &nobody).await;
        assert_eq!(ended.code, Some(127), "{ended:?}");
        assert!(ended.error.contains(why), "{ended:?}");
    }
}
