//! Against a real cluster: what is shown while it changes.

use rustix::process::Signal;

use crate::run::{Cluster, Running, ended, out};

#[tokio::test]
async fn lists_that_are_watched_show_what_comes_changes_and_goes() {
    let cluster = Cluster::start(1).await;
    let endpoints = cluster.endpoints();
    out(&["app", "put", "pay"], &endpoints).await;
    let mut instances = Running::start(&["instance", "list", "pay", "-w"], &endpoints);
    let mut apps = Running::start(&["app", "list", "--watch"], &endpoints);
    instances.line_with("ADDRESS").await;
    apps.line_with("pay").await;

    let register = ["instance", "register", "pay", "a", "--ip", "10.0.0.1", "--ttl", "10m"];
    out(&register, &endpoints).await;
    assert!(instances.line_with("10.0.0.1").await.contains("up"));
    let row = apps.line_with("pay").await;
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["pay", "1", "1", "0", "0", "0"]);

    out(&["instance", "drain", "pay/a", "--reason", "new disk"], &endpoints).await;
    instances.line_with("draining").await;
    let shown = out(&["instance", "show", "pay", "a"], &endpoints).await;
    assert!(shown.contains("OPERATOR SAYS") && shown.contains("new disk"), "{shown}");
    out(&["instance", "resume", "pay/a", "--reason", "it is in"], &endpoints).await;
    instances.line_with("up").await;
    let events = out(&["events", "--app", "pay", "--instance", "a"], &endpoints).await;
    assert!(events.contains("new disk") && events.contains("it is in"), "{events}");

    out(&["instance", "deregister", "pay", "a"], &endpoints).await;
    instances.line_with("gone, deregistered").await;
    out(&["app", "delete", "pay"], &endpoints).await;
    apps.line_with("gone").await;
    assert_eq!(instances.signal(Signal::INT).await, Some(0));
    assert_eq!(apps.signal(Signal::TERM).await, Some(0));
    cluster.stop().await;
}

#[tokio::test]
async fn a_session_keeps_what_hangs_off_it_and_takes_it_along() {
    let cluster = Cluster::start(1).await;
    let endpoints = cluster.endpoints();
    let mut keep = Running::start(&["session", "keep", "--ttl", "10m", "-o", "name"], &endpoints);
    let id = keep.line_with("").await;
    out(&["instance", "register", "pay", "a", "--session", &id], &endpoints).await;
    out(&["lock", "acquire", "db", "--session", &id], &endpoints).await;
    let shown = out(&["session", "show", &id], &endpoints).await;
    assert!(shown.contains("instance  pay/a") && shown.contains("lock      db"), "{shown}");
    assert_eq!(keep.signal(Signal::INT).await, Some(0));
    for gone in
        [&["session", "show", &id][..], &["instance", "show", "pay", "a"], &["lock", "get", "db"]]
    {
        assert_eq!(ended(gone, &endpoints).await.code, Some(3), "{gone:?}");
    }
    let id = out(&["session", "create", "--ttl", "10m", "-o", "name"], &endpoints).await;
    out(&["session", "keep", id.trim(), "--once"], &endpoints).await;
    out(&["session", "destroy", id.trim()], &endpoints).await;
    cluster.stop().await;
}

#[tokio::test]
async fn documents_are_written_only_over_what_was_read() {
    let cluster = Cluster::start(1).await;
    let endpoints = cluster.endpoints();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "{\"qps\": 10}\n").expect("written");
    let path = file.path().display().to_string();
    let put = ["app", "document", "put", "pay", "flow", &path];
    out(&[&put[..], &["--create-only", "--by", "ops"]].concat(), &endpoints).await;
    assert_eq!(
        out(&["app", "document", "show", "pay", "flow"], &endpoints).await,
        "{\"qps\":10}\n"
    );
    assert_eq!(ended(&[&put[..], &["--create-only"]].concat(), &endpoints).await.code, Some(4));
    let other = ended(&[&put[..], &["--if-revision", "1"]].concat(), &endpoints).await;
    assert_eq!(other.code, Some(4), "{other:?}");
    assert!(out(&["app", "documents", "pay"], &endpoints).await.contains("ops"));
    out(&["app", "document", "delete", "pay", "flow"], &endpoints).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_newcomer_is_told_the_address_and_the_next_command_which_goes_on_until_it_is_stopped() {
    let cluster = Cluster::start(1).await;
    let dashboard = format!("http://{}/ui/", cluster.nodes[0]);
    assert!(cluster.welcome.iter().any(|line| line.contains(&dashboard)), "{:?}", cluster.welcome);
    let demo = cluster.welcome.iter().find(|line| line.contains(" demo ")).expect("the command");
    // What is told can be typed as it stands; this program runs the same without a shell.
    let (program, arguments) = demo.trim().split_once(' ').expect("arguments");
    assert!(program.ends_with("roster") || program == "cargo", "{demo}");
    let arguments: Vec<&str> = arguments.split(' ').skip_while(|word| *word != "demo").collect();
    let few = ["--transports", "10", "--fetchers", "2", "--rate", "600", "--seed", "7"];
    let mut demo = Running::start(&[&arguments[..], &few].concat(), "");
    demo.line_with("Until Ctrl-C things come and go").await;
    for happens in ["ring that owns keys", "registered; each is a shard more", "left", "= "] {
        demo.line_with(happens).await;
    }
    assert_eq!(demo.signal(Signal::INT).await, Some(0));
    assert_eq!(out(&["app", "list", "-o", "name"], &cluster.endpoints()).await, "", "left behind");
    cluster.stop().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_nodes_of_a_cluster_for_trying_things_out_end_with_it_also_when_it_is_killed() {
    Cluster::start(3).await.kill_all_at_once().await;
}
