//! Workers as programs, with a lock per shard, while workers, transports and the leader come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster_tests::client::{Client, instance};
use cluster_tests::cluster::{Cluster, READY_WITHIN};
use cluster_tests::ledger::{self, Entry, Life};
use cluster_tests::locks::{Locks, Mark};
use cluster_tests::seed::Seed;
use cluster_tests::sets::{SetShard, put_set, shards};
use cluster_tests::wait::until;
use cluster_tests::workers::{Employer, TTL, Worker};
use roster::client::{Client as Registering, KeepAlive, Registration};
use serde_json::Value;
use tempfile::TempDir;

use super::{PLANNED_WITHIN, are_even, by_id, loads};
use crate::three_nodes;

const SET: &str = "poll";
const WORKERS_APP: &str = "fetchers";
const APPS: [&str; 3] = ["ads", "orders", "pay"];
const ZONES: [&str; 2] = ["east", "west"];
const WORKERS: usize = 6;
const TRANSPORTS: usize = 60;
const TRANSPORT_TTL: Duration = Duration::from_secs(3);

/// What happens, in an order that the seed decides.
#[derive(Clone, Copy, Debug)]
enum Turn {
    AWorkerIsKilled,
    AWorkerStops,
    AWorkerIsFrozen,
    TheLeaderIsKilled,
    TransportsComeAndGo,
}

const TURNS: [Turn; 9] = [
    Turn::AWorkerIsKilled,
    Turn::AWorkerIsKilled,
    Turn::AWorkerStops,
    Turn::AWorkerIsFrozen,
    Turn::AWorkerIsFrozen,
    Turn::TheLeaderIsKilled,
    Turn::TransportsComeAndGo,
    Turn::TransportsComeAndGo,
    Turn::TransportsComeAndGo,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_shard_is_worked_on_by_two_and_none_is_left_out_whatever_happens() {
    let mut seed = Seed::of_this_run("no_shard_is_worked_on_by_two");
    let mut story = Story::begin(&mut seed).await;
    story.comes_to_rest().await;
    for turn in shuffled(&TURNS, &mut seed) {
        let begun = Instant::now();
        match turn {
            Turn::AWorkerIsKilled => story.a_worker_is_killed(&mut seed).await,
            Turn::AWorkerStops => story.a_worker_stops(&mut seed).await,
            Turn::AWorkerIsFrozen => story.a_worker_is_frozen(&mut seed).await,
            Turn::TheLeaderIsKilled => story.the_leader_is_killed().await,
            Turn::TransportsComeAndGo => story.transports_come_and_go(&mut seed).await,
        }
        println!("{turn:?}: {} ms", begun.elapsed().as_millis());
        story.nobody_complains();
    }
    story.comes_to_rest().await;
    story.locks_are_what_is_held().await;
    story.all_nodes_tell_the_same().await;
    story.each_departed_shard_was_deleted_once().await;
    let checked = ledger::check(&story.ends());
    println!("{checked:?}");
    assert!(
        checked.spans > TRANSPORTS && checked.pieces > 1_000,
        "too little was done: {checked:?}"
    );
}

fn shuffled(turns: &[Turn], seed: &mut Seed) -> Vec<Turn> {
    let mut turns = turns.to_vec();
    for at in (1..turns.len()).rev() {
        turns.swap(at, seed.below(at + 1));
    }
    turns
}

/// The cluster, the workers and the transports of one test.
struct Story {
    cluster: Cluster,
    client: Client,
    registering: Registering,
    employer: Employer,
    locks: Locks,
    workers: BTreeMap<String, Worker>,
    transports: BTreeMap<(String, String), KeepAlive>,
    /// Registrations that were given up, by app, id and incarnation.
    departed: BTreeSet<(String, String, u64)>,
    /// Processes that have ended.
    lives: Vec<Life>,
    started: usize,
    made: usize,
    folder: TempDir,
}

impl Story {
    async fn begin(seed: &mut Seed) -> Self {
        let cluster = three_nodes().start().await;
        let client = cluster.client();
        let folder = TempDir::with_prefix("roster-workers-").expect("a folder");
        let [locks, logs] = ["locks", "logs"].map(|name| made(folder.path().join(name)));
        let employer = Employer {
            binary: env!("CARGO_BIN_EXE_shard-worker").into(),
            nodes: cluster.endpoints(seed.below(3)),
            set: SET.into(),
            app: WORKERS_APP.into(),
            locks: locks.clone(),
            logs,
        };
        let registering = Registering::new(&employer.nodes).expect("a client");
        let leader = client.at(cluster.leader().await);
        leader.put(&format!("/v1/apps/{WORKERS_APP}"), &serde_json::json!({})).await.expect("made");
        put_set(&leader, SET, WORKERS_APP, &APPS).await;
        let mut story = Self {
            client,
            registering,
            employer,
            locks: Locks::in_folder(&locks),
            workers: BTreeMap::new(),
            transports: BTreeMap::new(),
            departed: BTreeSet::new(),
            lives: Vec::new(),
            started: 0,
            made: 0,
            folder,
            cluster,
        };
        for _ in 0..WORKERS {
            story.a_worker_starts();
        }
        for _ in 0..TRANSPORTS {
            story.a_transport_comes().await;
        }
        story
    }

    fn a_worker_starts(&mut self) {
        let zone = ZONES[self.started % ZONES.len()];
        let free = |id: &String| !self.workers.contains_key(id);
        let id = (0..).map(|number| format!("w{number}")).find(free).expect("there are many");
        let worker = self.employer.start(&id, zone, self.started);
        self.started += 1;
        self.workers.insert(id, worker);
    }

    /// One that is registered.
    async fn any_worker(&self, seed: &mut Seed) -> String {
        let ids: Vec<_> = self.workers.keys().cloned().collect();
        let id = ids[seed.below(ids.len())].clone();
        let at = self.client.at(self.cluster.leader().await);
        let path = instance(WORKERS_APP, &id);
        until("it is registered", READY_WITHIN, async || at.get(&path).await.map(drop)).await;
        id
    }

    fn has_ended(&mut self, id: &str) {
        let worker = self.workers.remove(id).expect("a worker");
        self.lives.push(worker.life());
    }

    /// kill -9. What it leaves behind is nobody's business until the cluster has removed it.
    async fn a_worker_is_killed(&mut self, seed: &mut Seed) {
        let id = self.any_worker(seed).await;
        let pid = self.workers[&id].pid();
        self.workers.get_mut(&id).expect("it is there").kill();
        let left = self.locks_of(pid);
        self.is_removed_with_its_locks_alone_until_then(&id, pid, &left).await;
        self.has_ended(&id);
        self.a_worker_starts();
    }

    async fn a_worker_stops(&mut self, seed: &mut Seed) {
        let id = self.any_worker(seed).await;
        let worker = self.workers.get_mut(&id).expect("it is there");
        let pid = worker.pid();
        worker.tell_to_stop();
        let ended = until("it ends", READY_WITHIN, async || worker.ended().ok_or("it runs")).await;
        assert!(ended.success(), "{id} ended with {ended}: {}", worker.said());
        assert_eq!(self.locks_of(pid), BTreeMap::new(), "{id} left locks behind");
        self.has_ended(&id);
        self.a_worker_starts();
    }

    /// Frozen until others may have its shards. When it runs again it has to stop by itself.
    async fn a_worker_is_frozen(&mut self, seed: &mut Seed) {
        let id = self.any_worker(seed).await;
        let pid = self.workers[&id].pid();
        self.locks.will_be_frozen(pid);
        self.workers.get_mut(&id).expect("it is there").freeze();
        let left = self.locks_of(pid);
        self.is_removed_with_its_locks_alone_until_then(&id, pid, &left).await;
        let others = until("others have its shards", PLANNED_WITHIN, async || {
            self.others_have(&id, left.keys()).await
        })
        .await;
        assert!(others, "the cluster has removed it");
        let worker = self.workers.get_mut(&id).expect("it is there");
        let at_work = at_work(&worker.entries());
        worker.thaw();
        until("the thawed worker has stopped all that it did", READY_WITHIN, async || {
            let (ended, since) = (worker.ended(), worker.entries());
            assert_eq!(ended, None, "{id} was thawed and ended:\n{}", worker.said());
            let left: Vec<_> = at_work.iter().filter(|held| !has_ended(&since, held)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        self.locks.has_noticed(pid);
    }

    async fn others_have<'a>(
        &self,
        id: &str,
        shards: impl Iterator<Item = &'a String>,
    ) -> Result<bool, String> {
        let leader = self.cluster.leader().await;
        let now = by_id(&self.client.at(leader), SET).await;
        for shard in shards {
            let holder = now.get(shard).map(|shard| shard.holder.as_deref());
            match holder {
                // It was deleted meanwhile.
                None => {}
                Some(Some(holder)) if holder != id => {}
                Some(holder) => return Err(format!("{shard} is held by {holder:?}")),
            }
        }
        Ok(true)
    }

    fn locks_of(&self, pid: u32) -> BTreeMap<String, Mark> {
        self.locks.all().into_iter().filter(|(_, mark)| mark.pid == pid).collect()
    }

    async fn is_removed_with_its_locks_alone_until_then(
        &mut self,
        id: &str,
        pid: u32,
        left: &BTreeMap<String, Mark>,
    ) {
        let path = instance(WORKERS_APP, id);
        let client = &self.client;
        let nodes = self.cluster.ids();
        let mut turn = nodes.iter().cycle();
        until("it is removed", TTL * 5, async || {
            let now = self.locks_of(pid);
            // Asked after the locks were read: what is still there was there then.
            let node = turn.next().expect("they come again");
            match client.at(*node).get(&path).await {
                Ok(_) if now == *left => Err("it is there".to_owned()),
                Ok(_) => panic!("{id} is not removed, but of its {left:?} it has {now:?}"),
                Err(failed) if failed.code() == "unknown-instance" => Ok(()),
                Err(failed) => Err(failed.to_string()),
            }
        })
        .await;
    }

    async fn the_leader_is_killed(&mut self) {
        let leader = self.cluster.leader().await;
        self.cluster.kill(leader);
        self.cluster.leader().await;
        self.cluster.start(leader, &[]);
        self.cluster.ready().await;
    }

    async fn transports_come_and_go(&mut self, seed: &mut Seed) {
        for _ in 0..3 {
            let known: Vec<_> = self.transports.keys().cloned().collect();
            let key = known[seed.below(known.len())].clone();
            let kept = self.transports.remove(&key).expect("it is there");
            self.departs(key, kept, seed.below(2) == 0).await;
            self.a_transport_comes().await;
        }
    }

    async fn a_transport_comes(&mut self) {
        let app = APPS[self.made % APPS.len()].to_owned();
        let id = format!("10.0.0.{}:8719", self.made);
        self.made += 1;
        let registration = Registration {
            ip: "192.0.2.2".into(),
            port: 8719,
            ttl: Some(TRANSPORT_TTL),
            ..Registration::default()
        };
        let kept = self.registering.keep_alive(&app, &id, registration).await.expect("registered");
        self.transports.insert((app, id), kept);
    }

    /// In order, or by falling silent.
    async fn departs(&mut self, (app, id): (String, String), kept: KeepAlive, in_order: bool) {
        let path = instance(&app, &id);
        let node = self.cluster.ids()[0];
        let now = self.client.at(node).get(&path).await.expect("it is registered").json();
        let incarnation = now["incarnation"].as_u64().expect("an incarnation");
        if in_order {
            kept.leave().await.expect("it leaves");
        } else {
            drop(kept);
        }
        self.departed.insert((app, id, incarnation));
    }

    /// What must never be, at any time.
    fn nobody_complains(&mut self) {
        if let Some(violations) = self.locks.violations() {
            panic!("two were at work at once:\n{violations}");
        }
        for (id, worker) in &mut self.workers {
            let ended = worker.ended();
            assert_eq!(ended, None, "{id} ended by itself:\n{}", worker.said());
        }
    }

    /// Waits until each worker has its share, and nothing is about to change.
    async fn comes_to_rest(&mut self) {
        let (wanted, workers) = (self.transports.len(), self.workers.len());
        let leader = self.cluster.leader().await;
        let at = self.client.at(leader);
        until("the shards are at rest", PLANNED_WITHIN * 2, async || {
            let now = shards(&at, SET).await.map_err(|e| e.to_string())?;
            let rests =
                |shard: &SetShard| shard.holder.is_some() && shard.next.is_none() && !shard.gone;
            if now.len() == wanted && now.iter().all(rests) && are_even(&now, workers) {
                return Ok(());
            }
            let restless = now.iter().filter(|shard| !rests(shard)).count();
            let count = now.len();
            Err(format!("{restless} of {count} shards are not, {wanted} wanted: {:?}", loads(&now)))
        })
        .await;
        self.nobody_complains();
    }

    async fn locks_are_what_is_held(&mut self) {
        let at = self.client.at(self.cluster.ids()[0]);
        let pids: BTreeMap<_, _> =
            self.workers.iter().map(|(id, worker)| (id.clone(), worker.pid())).collect();
        until("the locks are what is held", PLANNED_WITHIN, async || {
            let held: BTreeMap<_, _> = by_id(&at, SET)
                .await
                .into_iter()
                .map(|(id, shard)| {
                    let holder = shard.holder.expect("all is held");
                    (id, Mark { pid: pids[&holder], grant: shard.grant })
                })
                .collect();
            let locks: BTreeMap<_, _> = self
                .locks
                .all()
                .into_iter()
                // What the dead left of shards that are deleted, nobody takes away.
                .filter(|(shard, mark)| {
                    held.contains_key(shard) || pids.values().any(|pid| *pid == mark.pid)
                })
                .collect();
            if locks == held { Ok(()) } else { Err(format!("{locks:?} are locked, {held:?} held")) }
        })
        .await;
        self.nobody_complains();
    }

    async fn all_nodes_tell_the_same(&self) {
        self.cluster.settled().await;
        let mut first = None;
        for node in self.cluster.ids() {
            let now = by_id(&self.client.at(node), SET).await;
            let first = first.get_or_insert_with(|| now.clone());
            assert_eq!(now, *first, "node {node} tells other shards");
        }
    }

    async fn each_departed_shard_was_deleted_once(&self) {
        let mut first = None;
        for node in self.cluster.ids() {
            let deletes = until("its history has them all", READY_WITHIN, async || {
                let deletes = self.deletes_at(node).await;
                let missing = self.departed.iter().find(|life| !deletes.contains_key(life));
                missing.map_or(Ok(deletes.clone()), |life| Err(format!("{life:?} is not deleted")))
            })
            .await;
            let first = first.get_or_insert_with(|| deletes.clone());
            assert_eq!(deletes, *first, "node {node} tells other deletes");
        }
        println!("{} shards were deleted, each once", first.map_or(0, |deletes| deletes.len()));
    }

    /// By app, instance and incarnation: at which revision the shard was deleted.
    async fn deletes_at(&self, node: u64) -> BTreeMap<(String, String, u64), u64> {
        let path = "/v1/events?kind=shard&limit=1000";
        let page = self.client.at(node).get(path).await.expect("events").json();
        assert!(page["next_cursor"].is_null(), "one page should do");
        let events: &Vec<Value> = page["events"].as_array().expect("events");
        let mut deletes = BTreeMap::new();
        for event in events.iter().filter(|event| event["event"] == "delete") {
            let app = event["app"].as_str().expect("an app");
            let id = event["id"].as_str().and_then(|id| id.strip_prefix(&format!("{app}/")));
            let number = |name: &str| event[name].as_u64().expect("a number");
            let life = (app.to_owned(), id.expect("its id").to_owned(), number("incarnation"));
            let before = deletes.insert(life, number("revision"));
            assert_eq!(before, None, "node {node} tells it twice: {event}");
        }
        deletes
    }

    /// Ends all, and gives what everybody wrote down.
    fn ends(&mut self) -> Vec<Life> {
        while let Some((_, mut worker)) = self.workers.pop_first() {
            worker.kill();
            self.lives.push(worker.life());
        }
        assert!(self.folder.path().exists(), "the logs were read before");
        std::mem::take(&mut self.lives)
    }
}

fn made(folder: PathBuf) -> PathBuf {
    fs::create_dir(&folder).expect("a folder");
    folder
}

/// What was begun and has not ended: shards and grants.
fn at_work(entries: &[Entry]) -> BTreeSet<(String, u64)> {
    let mut at_work = BTreeSet::new();
    for entry in entries {
        match entry {
            Entry::Begin { shard, grant, .. } => {
                at_work.insert((shard.clone(), *grant));
            }
            Entry::End { shard, grant, .. } => {
                at_work.remove(&(shard.clone(), *grant));
            }
            Entry::Work { .. } => {}
        }
    }
    at_work
}

/// Whether the work on this came to an end.
fn has_ended(entries: &[Entry], held: &(String, u64)) -> bool {
    !at_work(entries).contains(held)
}
