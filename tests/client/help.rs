//! `roster health`, `roster completion` and `roster man`.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::scripted::{Act, Scripted, endpoints, nobody, problem, within};

async fn roster(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roster"));
    let output = within("the end", command.args(arguments).output()).await.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn health_asks_each_node_by_itself_and_fails_if_one_is_not_well() {
    let ready = || Act::Answer(200, json!("ok"));
    let (first, second) = (Scripted::start([ready()]).await, Scripted::start([ready()]).await);
    let all = endpoints(&[&first, &second]);
    let (code, told, _) = roster(&["health", "--endpoint", &all]).await;
    assert_eq!(code, 0, "{told}");
    assert_eq!(told.lines().filter(|line| line.ends_with("ok")).count(), 2, "{told}");
    assert_eq!([first.lines(), second.lines()], [["GET /readyz"], ["GET /readyz"]]);

    let (first, second) = (
        Scripted::start([ready()]).await,
        Scripted::start([problem(503, "not-ready", "none")]).await,
    );
    let all = endpoints(&[&first, &second]);
    let (code, told, _) = roster(&["health", "-o", "json", "--endpoint", &all]).await;
    assert_eq!(code, 5, "{told}");
    let lines: Vec<Value> =
        told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["ok"], &lines[1]["ok"]), (&json!(true), &json!(false)));
    assert!(lines[1]["detail"].to_string().contains("not-ready"), "{told}");
}

#[tokio::test]
async fn health_of_a_node_that_is_not_there_is_5() {
    let nobody = nobody().await.to_string();
    let (code, told, _) = roster(&["health", "--live", "--endpoint", &nobody]).await;
    assert_eq!(code, 5);
    assert!(told.contains(&nobody) && !told.contains("ok"), "{told}");
}

#[tokio::test]
async fn shells_and_man_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, told, _) = roster(&["completion", shell]).await;
        assert_eq!(code, 0);
        assert!(told.contains("election") && told.contains("endpoint"), "{shell}");
    }
    let (_, told, _) = roster(&["man"]).await;
    assert!(told.starts_with(".ie") && told.contains("roster\\-serve"), "{told}");
    let (_, told, _) = roster(&["man", "lock", "run"]).await;
    assert!(told.contains("EXAMPLE") || told.contains("Example"), "{told}");
    for hidden in ["nothing", "run-for"] {
        let (code, _, told) = roster(&["man", hidden]).await;
        assert_eq!(code, 2);
        assert!(told.contains(hidden) && told.contains("roster help"), "{told}");
    }
}
