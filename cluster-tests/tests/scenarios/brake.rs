//! The mass-loss brake: many who fall silent together are held as suspect, slowly removed or heard
//! again; single departures go on (invariant L4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use cluster_tests::client::{At, Client};
use cluster_tests::cluster::{Cluster, Plan};
use cluster_tests::history::departures;
use cluster_tests::wait::{until, while_it_holds};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::three_nodes;

const TTL: Duration = Duration::from_secs(2);

/// Between two heartbeats of a crowd.
const BEAT_EVERY: Duration = Duration::from_millis(400);

/// How long whatever the brake decides may take to be seen, on a busy machine.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

/// So slow that nobody is removed within a test.
const HARDLY: &str = "24h";

/// Three nodes whose brake forgets soon.
fn braking(pace: &str) -> Plan {
    three_nodes().set("--brake-window", "2s").set("--brake-pace", pace)
}

/// Instances that beat together, by way of one node, but for the silent ones.
struct Crowd {
    ids: Vec<String>,
    silent: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Crowd {
    async fn start(client: &Client, via: u64, app: &str, name: &str, count: usize) -> Self {
        let ids: Vec<_> = (0..count).map(|n| format!("{name}-{n}")).collect();
        let ttl = format!("{}ms", TTL.as_millis());
        let items: Vec<_> = ids
            .iter()
            .map(|id| {
                json!({"op": "register", "app": app, "id": id, "ip": "192.0.2.1", "port": 1,
                             "ttl": ttl})
            })
            .collect();
        let batch = client.at(via).request(Method::POST, "/v1/instances:batch");
        let answer = client.at(via).send(batch.json(&json!({"items": items}))).await;
        assert_eq!(
            answer.expect("registered").json()["results"].as_array().map(Vec::len),
            Some(count)
        );
        let silent = Arc::new(Mutex::new(BTreeSet::new()));
        let beats = beat(client.clone(), via, app.to_owned(), ids.clone(), silent.clone());
        Self { ids, silent, task: tokio::spawn(beats) }
    }

    /// The first so many of them stop.
    fn stop(&self, count: usize) {
        self.silent.lock().expect("a lock").extend(self.ids.iter().take(count).cloned());
    }

    /// All beat again.
    fn resume(&self) {
        self.silent.lock().expect("a lock").clear();
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(
    client: Client,
    via: u64,
    app: String,
    ids: Vec<String>,
    silent: Arc<Mutex<BTreeSet<String>>>,
) {
    let client = client.patient(Duration::from_secs(1));
    loop {
        let beating: Vec<_> = {
            let silent = silent.lock().expect("a lock");
            let beats = ids.iter().filter(|id| !silent.contains(*id));
            beats.map(|id| json!({"app": app, "id": id})).collect()
        };
        let request = client.at(via).request(Method::POST, "/v1/heartbeats");
        // Whatever fails is tried again soon: the TTL has room for several.
        drop(client.at(via).send(request.json(&json!({"instances": beating}))).await);
        sleep(BEAT_EVERY).await;
    }
}

/// How many instances of an app there are, by state.
async fn states(at: &At<'_>, app: &str) -> Result<BTreeMap<String, usize>, String> {
    let path = format!("/v1/apps/{app}/instances?limit=10000");
    let list = at.get(&path).await.map_err(|e| e.to_string())?.json();
    let mut states = BTreeMap::new();
    for instance in list["instances"].as_array().into_iter().flatten() {
        let state = instance["state"].as_str().unwrap_or_default().to_owned();
        *states.entry(state).or_default() += 1;
    }
    Ok(states)
}

/// Waits until an app has so many instances that are up and so many that are suspect.
async fn wait_for(at: &At<'_>, app: &str, up: usize, suspect: usize) {
    let wanted: BTreeMap<String, usize> = [("up", up), ("suspect", suspect)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| (state.to_owned(), count))
        .collect();
    until(&format!("{app} has {wanted:?}"), SEEN_WITHIN, async || {
        let states = states(at, app).await?;
        if states == wanted { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
}

/// The scopes that brake, as text.
async fn brakes(at: &At<'_>) -> Result<Vec<String>, String> {
    let status = at.get("/v1/cluster/brake").await.map_err(|e| e.to_string())?.json();
    let scope = |brake: &Value| {
        let of = ["scope", "app", "node"].map(|field| brake[field].as_str().unwrap_or_default());
        of.join(" ").trim_end().to_owned()
    };
    Ok(status["brakes"].as_array().into_iter().flatten().map(scope).collect())
}

async fn wait_for_brakes(at: &At<'_>, wanted: &[&str]) {
    until(&format!("{wanted:?} brake"), SEEN_WITHIN, async || {
        let brakes = brakes(at).await?;
        if brakes == wanted { Ok(()) } else { Err(format!("{brakes:?}")) }
    })
    .await;
}

/// An operator's word about an app.
async fn say(at: &At<'_>, app: &str, mode: &str) {
    let body = json!({"scope": "app", "app": app, "mode": mode, "reason": "a test"});
    at.put("/v1/cluster/brake", &body).await.expect("an operator may");
}

/// Why the last brake ended, as the history tells it.
async fn last_end(at: &At<'_>) -> Option<String> {
    let events = at.get("/v1/events?kind=alarm&limit=1000").await.ok()?.json();
    let mut events = events["events"].as_array()?.iter();
    let end = events.find(|event| event["event"] == "delete")?;
    end["reason"].as_str().map(str::to_owned)
}

async fn wait_for_end(at: &At<'_>, reason: &str) {
    until("the history tells why it ended", SEEN_WITHIN, async || {
        let end = last_end(at).await;
        if end.as_deref() == Some(reason) { Ok(()) } else { Err(format!("{end:?}")) }
    })
    .await;
}

/// That each of an app went once, at one revision on all nodes.
fn each_went_once(cluster: &Cluster, app: &str, count: usize) {
    let mut went: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for departure in departures(cluster).into_iter().filter(|d| d.life.app == app) {
        went.entry(departure.life.id.clone())
            .or_default()
            .push((departure.node, departure.revision));
    }
    assert_eq!(went.len(), count, "{went:?}");
    for (id, seen) in went {
        let nodes: BTreeSet<_> = seen.iter().map(|(node, _)| node).collect();
        let revisions: BTreeSet<_> = seen.iter().map(|(_, revision)| revision).collect();
        assert_eq!((nodes.len(), revisions.len()), (seen.len(), 1), "{id} went more than once");
    }
}

#[tokio::test]
async fn most_of_an_app_that_falls_silent_is_suspect_and_nobody_is_lost_when_it_is_heard_again() {
    let cluster = braking(HARDLY).start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let pay = Crowd::start(&client, followers[0], "pay", "p", 40).await;
    let other = Crowd::start(&client, followers[1], "other", "o", 200).await;
    let at = client.at(leader);
    pay.stop(35);
    wait_for(&at, "pay", 5, 35).await;
    wait_for_brakes(&at, &["app pay"]).await;
    let seen = client.at(followers[0]).get("/v1/cluster").await.expect("the cluster").json();
    assert_eq!(seen["alarms"][0]["code"], "mass-loss", "{seen}");
    assert_eq!(seen["counts"]["suspect"], 35, "{seen}");

    // A single departure elsewhere goes on.
    other.stop(1);
    wait_for(&at, "other", 199, 0).await;
    assert_eq!(states(&at, "pay").await.expect("a list")["suspect"], 35);

    pay.resume();
    wait_for(&at, "pay", 40, 0).await;
    wait_for_brakes(&at, &[]).await;
    wait_for_end(&at, "recovered").await;
    each_went_once(&cluster, "pay", 0);
}

#[tokio::test]
async fn who_stays_silent_is_removed_slowly_each_once_and_the_brake_ends_by_itself() {
    let cluster = braking("20s").start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let pay = Crowd::start(&client, followers[0], "pay", "p", 40).await;
    let _other = Crowd::start(&client, followers[0], "other", "o", 200).await;
    let at = client.at(leader);
    pay.stop(40);
    wait_for_brakes(&at, &["app pay"]).await;
    until("some are removed while the others are held", SEEN_WITHIN, async || {
        let states = states(&at, "pay").await?;
        match states.get("suspect") {
            Some(1..40) => Ok(()),
            _ => Err(format!("{states:?}")),
        }
    })
    .await;
    wait_for(&at, "pay", 0, 0).await;
    wait_for_brakes(&at, &[]).await;
    wait_for_end(&at, "removed").await;
    cluster.settled().await;
    each_went_once(&cluster, "pay", 40);
}

#[tokio::test]
async fn an_operator_holds_a_small_loss_and_releases_a_large_one() {
    let cluster = braking(HARDLY).start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let pay = Crowd::start(&client, leader, "pay", "p", 40).await;
    let _other = Crowd::start(&client, leader, "other", "o", 200).await;
    let at = client.at(followers[0]);
    say(&at, "pay", "hold").await;
    pay.stop(3);
    wait_for(&at, "pay", 37, 3).await;
    at.delete("/v1/cluster/brake?scope=app&app=pay").await.expect("cleared");
    wait_for(&at, "pay", 37, 0).await;

    pay.stop(40);
    wait_for_brakes(&at, &["app pay"]).await;
    wait_for(&at, "pay", 0, 37).await;
    say(&at, "pay", "release").await;
    wait_for(&at, "pay", 0, 0).await;
    wait_for_brakes(&at, &[]).await;
    wait_for_end(&at, "operator").await;
    cluster.settled().await;
    each_went_once(&cluster, "pay", 40);
}

#[tokio::test]
async fn who_beats_by_a_node_that_is_cut_off_is_not_removed() {
    let cluster = braking(HARDLY).start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    // Too few of their app for its share to tell.
    let _near = Crowd::start(&client, leader, "pay", "near", 100).await;
    let _far = Crowd::start(&client, followers[0], "pay", "far", 20).await;
    let single = Crowd::start(&client, followers[1], "pay", "single", 1).await;
    let at = client.at(leader);
    wait_for(&at, "pay", 121, 0).await;
    cluster.pause(followers[0]);
    let by_node = format!("node  {}", followers[0]);
    wait_for(&at, "pay", 101, 20).await;
    wait_for_brakes(&at, &[&by_node]).await;
    single.stop(1);
    wait_for(&at, "pay", 100, 20).await;
    while_it_holds("nobody is removed", TTL * 2, async || {
        let states = states(&at, "pay").await?;
        if states.values().sum::<usize>() == 120 { Ok(()) } else { Err(format!("{states:?}")) }
    })
    .await;
    cluster.wake(followers[0]);
    wait_for(&at, "pay", 120, 0).await;
    wait_for_brakes(&at, &[]).await;
    each_went_once(&cluster, "pay", 1);
}

#[tokio::test]
async fn a_new_leader_goes_on_holding_whom_the_old_one_held() {
    let mut cluster = braking(HARDLY).start().await;
    let client = cluster.client();
    let (leader, followers) = cluster.leader_and_followers().await;
    let pay = Crowd::start(&client, followers[0], "pay", "p", 40).await;
    let _other = Crowd::start(&client, followers[0], "other", "o", 200).await;
    pay.stop(35);
    wait_for(&client.at(leader), "pay", 5, 35).await;
    cluster.kill(leader);
    let next = cluster.leader_but(&[leader]).await;
    let at = client.at(next);
    while_it_holds("they are held by the new leader", TTL * 3, async || {
        let states = states(&at, "pay").await.unwrap_or_default();
        match states.get("suspect") {
            Some(35) | None => Ok(()),
            Some(_) => Err(format!("{states:?}")),
        }
    })
    .await;
    wait_for(&at, "pay", 5, 35).await;
    assert_eq!(brakes(&at).await.expect("the brakes"), ["app pay"]);
    // Who is heard by the new leader is suspect no more.
    pay.resume();
    wait_for(&at, "pay", 40, 0).await;
    pay.stop(35);
    wait_for(&at, "pay", 5, 35).await;
    say(&at, "pay", "release").await;
    wait_for(&at, "pay", 5, 0).await;
    cluster.start(leader, &[]);
    cluster.ready().await;
    cluster.settled().await;
    each_went_once(&cluster, "pay", 35);
}
