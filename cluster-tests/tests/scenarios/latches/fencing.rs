//! Processes that hold one lock in turn, with a mark beside it, while whatever can die or stand still
//! does.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use cluster_tests::client::Client;
use cluster_tests::cluster::Cluster;
use cluster_tests::latches::{all_nodes_agree, release};
use cluster_tests::ledger::{self, Entry, Life};
use cluster_tests::locks::Locks;
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use cluster_tests::workers::{Employer, TTL, Worker};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::three_nodes;

const LOCK: &str = "db";
const HOLDERS: usize = 4;

/// So many times the lock is to change hands after each turn.
const HANDOVERS: usize = 8;

/// How long that may take: a lease of the dead, a TTL, an election, on a busy machine.
const GOES_ON_WITHIN: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
enum Turn {
    TheLeaderIsKilled,
    TheLeaderIsPaused,
    TheLeaderIsRestarted,
    AFollowerIsKilled,
    TheHolderIsKilled,
    TheHolderIsFrozen,
}

const TURNS: [Turn; 7] = [
    Turn::TheLeaderIsKilled,
    Turn::TheLeaderIsPaused,
    Turn::TheLeaderIsRestarted,
    Turn::AFollowerIsKilled,
    Turn::TheHolderIsKilled,
    Turn::TheHolderIsFrozen,
    Turn::TheHolderIsFrozen,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lock_has_two_holders_and_it_goes_on_moving_whatever_happens() {
    let mut seed = Seed::of_this_run("no_lock_has_two_holders");
    let mut story = Story::begin().await;
    story.goes_on().await;
    let stale = story.stale_releases(&mut seed);
    let mut turns = TURNS.to_vec();
    while !turns.is_empty() {
        let turn = turns.swap_remove(seed.below(turns.len()));
        let begun = Instant::now();
        match turn {
            Turn::TheLeaderIsKilled => story.the_leader_is_killed().await,
            Turn::TheLeaderIsPaused => story.the_leader_is_paused().await,
            Turn::TheLeaderIsRestarted => story.the_leader_is_restarted().await,
            Turn::AFollowerIsKilled => story.a_follower_is_killed(&mut seed).await,
            Turn::TheHolderIsKilled => story.the_holder_is_killed().await,
            Turn::TheHolderIsFrozen => story.the_holder_is_frozen().await,
        }
        story.goes_on().await;
        println!("{turn:?}: {} ms", begun.elapsed().as_millis());
    }
    stale.abort();
    let refused = stale.await.expect_err("it was ended").is_cancelled();
    assert!(refused, "a stale release was not refused");
    let checked = ledger::check(&story.ends());
    println!("{checked:?}");
    assert!(checked.spans > TURNS.len() * HANDOVERS, "too little was done: {checked:?}");
    all_nodes_agree(&story.cluster, &story.client, "lock=db").await;
}

struct Story {
    cluster: Cluster,
    client: Client,
    employer: Employer,
    locks: Locks,
    holders: BTreeMap<String, Worker>,
    lives: Vec<Life>,
    started: usize,
    folder: TempDir,
}

impl Story {
    async fn begin() -> Self {
        let cluster = three_nodes().start().await;
        let folder = TempDir::with_prefix("roster-holders-").expect("a folder");
        let [marks, logs] = ["marks", "logs"].map(|name| folder.path().join(name));
        for made in [&marks, &logs] {
            fs::create_dir(made).expect("a folder");
        }
        let employer = Employer {
            binary: env!("CARGO_BIN_EXE_lock-holder").into(),
            nodes: cluster.endpoints(0),
            set: LOCK.into(),
            app: "-".into(),
            locks: marks.clone(),
            logs,
        };
        let mut story = Self {
            client: cluster.client(),
            cluster,
            employer,
            locks: Locks::in_folder(&marks),
            holders: BTreeMap::new(),
            lives: Vec::new(),
            started: 0,
            folder,
        };
        for _ in 0..HOLDERS {
            story.a_holder_starts();
        }
        story
    }

    /// Each asks another node first.
    fn a_holder_starts(&mut self) {
        let id = format!("h{}", self.started);
        self.employer.nodes = self.cluster.endpoints(self.started);
        let holder = self.employer.start(&id, "-", self.started);
        self.started += 1;
        self.holders.insert(id, holder);
    }

    fn begun(&self) -> usize {
        let lives = self.lives.iter().map(|life| begins(&life.entries));
        lives.chain(self.holders.values().map(|one| begins(&one.entries()))).sum()
    }

    /// Waits until the lock has changed hands some more times, and nobody found two holders.
    async fn goes_on(&mut self) {
        let wanted = self.begun() + HANDOVERS;
        until("the lock changes hands", GOES_ON_WITHIN, async || {
            let now = self.begun();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted} times")) }
        })
        .await;
        if let Some(violations) = self.locks.violations() {
            panic!("two held the lock:\n{violations}");
        }
        for (id, holder) in &mut self.holders {
            let ended = holder.ended();
            assert_eq!(ended, None, "{id} ended by itself:\n{}", holder.said());
        }
    }

    async fn the_leader_is_killed(&mut self) {
        let leader = self.cluster.leader().await;
        self.cluster.kill(leader);
        self.goes_on().await;
        self.is_back(leader).await;
    }

    async fn the_leader_is_restarted(&mut self) {
        let leader = self.cluster.leader().await;
        self.cluster.stop(leader).await;
        self.is_back(leader).await;
    }

    async fn a_follower_is_killed(&mut self, seed: &mut Seed) {
        let (_, followers) = self.cluster.leader_and_followers().await;
        let killed = followers[seed.below(followers.len())];
        self.cluster.kill(killed);
        self.goes_on().await;
        self.is_back(killed).await;
    }

    async fn is_back(&mut self, node: u64) {
        self.cluster.start(node, &[]);
        self.cluster.ready().await;
    }

    /// Also whoever waits there: it has to notice, and to ask elsewhere.
    async fn the_leader_is_paused(&mut self) {
        let leader = self.cluster.leader().await;
        self.cluster.pause(leader);
        self.goes_on().await;
        self.cluster.wake(leader);
        self.cluster.leader().await;
    }

    /// Who is at work, caught in the act: `act` on it, and it was.
    async fn caught(&mut self, act: impl Fn(&mut Worker), back: impl Fn(&mut Worker)) -> String {
        let (locks, holders) = (self.locks.clone(), &mut self.holders);
        until("somebody is caught in the act", GOES_ON_WITHIN, async || {
            let mark = locks.all().remove(LOCK).ok_or("nobody holds it")?;
            let holder = holders.iter_mut().find(|(_, one)| one.pid() == mark.pid);
            let (id, holder) = holder.ok_or("it is held by the dead")?;
            locks.will_be_frozen(mark.pid);
            act(holder);
            if is_at_work(&holder.entries(), mark.grant) {
                return Ok(id.clone());
            }
            back(holder);
            locks.has_noticed(mark.pid);
            Err("it had stopped by then")
        })
        .await
    }

    async fn the_holder_is_frozen(&mut self) {
        let id = self.caught(Worker::freeze, Worker::thaw).await;
        let grant = last_begin(&self.holders[&id].entries());
        // The others have it in turn, long after the TTL of the frozen one.
        self.goes_on().await;
        let holder = self.holders.get_mut(&id).expect("it is there");
        let pid = holder.pid();
        holder.thaw();
        until("the thawed holder has stopped", TTL * 10, async || {
            if is_at_work(&holder.entries(), grant) { Err(holder.said()) } else { Ok(()) }
        })
        .await;
        self.locks.has_noticed(pid);
    }

    async fn the_holder_is_killed(&mut self) {
        let id = self.caught(Worker::freeze, Worker::thaw).await;
        let mut holder = self.holders.remove(&id).expect("it is there");
        holder.kill();
        self.lives.push(holder.life());
        self.a_holder_starts();
    }

    /// Releases by tokens that are over, at all nodes, for as long as the test lasts.
    fn stale_releases(&self, seed: &mut Seed) -> JoinHandle<()> {
        let (client, logs, mut seed) =
            (self.client.clone(), self.employer.logs.clone(), seed.split());
        tokio::spawn(async move {
            loop {
                let mut tokens = tokens_in(&logs);
                // The newest one may hold.
                tokens.pop();
                let near = tokens.len().saturating_sub(HANDOVERS);
                let token = tokens[near + seed.below(tokens.len() - near)];
                let at = 1 + seed.below(3) as u64;
                match release(&client.at(at), LOCK, token).await {
                    Ok(answer) => panic!("{token} was released, but is over: {}", answer.text),
                    Err(failed) if failed.status().is_some_and(|status| status < 500) => {
                        assert_eq!(failed.code(), "stale-token", "{failed}");
                    }
                    // The node is dead, or has no leader.
                    Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }

    fn ends(&mut self) -> Vec<Life> {
        while let Some((_, mut holder)) = self.holders.pop_first() {
            holder.kill();
            self.lives.push(holder.life());
        }
        assert!(self.folder.path().exists(), "the logs were read before");
        std::mem::take(&mut self.lives)
    }
}

/// All tokens under which somebody began, in order.
fn tokens_in(logs: &std::path::Path) -> Vec<u64> {
    let files = fs::read_dir(logs).expect("the logs").map(|entry| entry.expect("a file").path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let texts: Vec<_> = logs.map(|log| fs::read_to_string(log).expect("a log")).collect();
    let lines = texts.iter().flat_map(|text| text.split_inclusive('\n'));
    let mut tokens: Vec<_> = lines
        .filter_map(|line| match Entry::parse(line)? {
            Entry::Begin { grant, .. } => Some(grant),
            Entry::End { .. } | Entry::Work { .. } => None,
        })
        .collect();
    tokens.sort_unstable();
    tokens
}

fn begins(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| matches!(entry, Entry::Begin { .. })).count()
}

fn last_begin(entries: &[Entry]) -> u64 {
    let mut grants = entries.iter().filter_map(|entry| match entry {
        Entry::Begin { grant, .. } => Some(*grant),
        Entry::End { .. } | Entry::Work { .. } => None,
    });
    grants.next_back().expect("it was caught at work")
}

/// Whether what was begun under this token has not ended.
fn is_at_work(entries: &[Entry], token: u64) -> bool {
    let began = |entry: &Entry| matches!(entry, Entry::Begin { grant, .. } if *grant == token);
    let ended = |entry: &Entry| matches!(entry, Entry::End { grant, .. } if *grant == token);
    entries.iter().any(began) && !entries.iter().any(ended)
}
