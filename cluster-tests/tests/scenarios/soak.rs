//! A soak: many sessions beat, some of them fall silent, alone and together, and leaders are killed all
//! the while. None that beats is removed, and each that falls silent is removed once (S4, S6, S10).
//!
//! A short one runs with all other tests. The long one has 200,000 sessions, takes about 13 minutes and
//! wants a release build, or its nodes alone as one:
//!
//! ```text
//! cargo build --release
//! ROSTER_SOAK_BINARY=$PWD/target/release/roster \
//!     cargo test -p cluster-tests --test scenarios -- --ignored --nocapture two_hundred_thousand
//! ```
//!
//! | variable | changes of the long one |
//! |---|---|
//! | `ROSTER_SOAK_BINARY` | the program of the nodes, instead of the one that was built with the test |
//! | `ROSTER_SOAK_SESSIONS` | how many sessions there are, 200000 |
//! | `ROSTER_SOAK_LASTS` | for how long some fall silent and leaders are killed, `10m` |
//! | `ROSTER_SOAK_KILL_EVERY` | the time between two kills, `40s`; in less than two TTLs hardly anybody is removed |
//! | `ROSTER_SOAK_TTL` | of all sessions, `12s` |

mod population;
mod removals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster_tests::client::{At, Client, Listed};
use cluster_tests::cluster::{Cluster, Plan};
use cluster_tests::history::Life;
use cluster_tests::seed::Seed;
use cluster_tests::wait::until;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};

use population::{Member, Newcomer, Population};
use removals::{Follower, Removal};

/// What is to be done, and how long it takes.
#[derive(Clone, Debug)]
struct Soak {
    binary: PathBuf,
    sessions: usize,
    in_an_app: usize,
    /// Heartbeats in one body.
    in_a_herd: usize,
    ttl: Duration,
    /// For how long some fall silent and leaders are killed.
    lasts: Duration,
    kill_every: Duration,
    /// Of so many members one falls silent at a time of its own...
    one_of: usize,
    /// ...and of so many of those one comes back when it is gone.
    back_one_of: usize,
    /// The part of all that is one app, most of which falls silent at once...
    crowd_one_of: usize,
    /// ...so long after the beginning.
    crowd_after: Duration,
    brake_window: Duration,
    /// The brake removes a crowd within so long.
    brake_pace: Duration,
}

impl Soak {
    /// The first kill comes while the crowd is silent, the second while the brake removes it. Then there
    /// is more than a TTL left for those who stop under the last leader: a new one looks at everybody
    /// once, however it does afterwards.
    fn short() -> Self {
        Self {
            binary: env!("CARGO_BIN_EXE_roster-under-test").into(),
            sessions: 4_000,
            in_an_app: 100,
            in_a_herd: 100,
            ttl: Duration::from_secs(4),
            lasts: Duration::from_secs(18),
            kill_every: Duration::from_secs(6),
            one_of: 20,
            back_one_of: 4,
            crowd_one_of: 12,
            crowd_after: Duration::from_secs(3),
            brake_window: Duration::from_secs(2),
            brake_pace: Duration::from_secs(6),
        }
    }

    fn long() -> Self {
        let short = Self::short();
        Self {
            binary: given("ROSTER_SOAK_BINARY", short.binary),
            sessions: given("ROSTER_SOAK_SESSIONS", 200_000),
            in_an_app: 500,
            in_a_herd: 1_000,
            ttl: given("ROSTER_SOAK_TTL", Span(Duration::from_secs(12))).0,
            lasts: given("ROSTER_SOAK_LASTS", Span(Duration::from_secs(600))).0,
            kill_every: given("ROSTER_SOAK_KILL_EVERY", Span(Duration::from_secs(40))).0,
            one_of: 10,
            back_one_of: 4,
            crowd_one_of: 12,
            crowd_after: Duration::from_secs(225),
            brake_window: Duration::from_secs(30),
            brake_pace: Duration::from_secs(60),
        }
    }

    fn plan(&self) -> Plan {
        let text = |span| humantime::format_duration(span).to_string();
        Plan::new(&self.binary)
            .set("--brake-window", text(self.brake_window))
            .set("--brake-pace", text(self.brake_pace))
    }

    /// Longest that those who fell silent last may take to be gone: the brake may have let go of the
    /// crowd under several leaders, and the machine may be busy.
    fn gone_within(&self) -> Duration {
        self.ttl * 4 + self.brake_pace * 2 + Duration::from_secs(60)
    }

    /// The crowd's app, and then the others.
    fn newcomers(&self) -> Vec<Newcomer> {
        let crowd = self.sessions / self.crowd_one_of;
        let app_of = |number: usize| match number.checked_sub(crowd) {
            None => CROWD.to_owned(),
            Some(number) => format!("app-{}", number / self.in_an_app),
        };
        (0..self.sessions)
            .map(|number| Newcomer { app: app_of(number), id: format!("i{number}") })
            .collect()
    }
}

/// A span of time as people write it.
struct Span(Duration);

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text).map(Self)
    }
}

fn given<T: FromStr>(variable: &str, usual: T) -> T {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: {text:?} is no value")),
        Err(_) => usual,
    }
}

/// The app most of which falls silent at once.
const CROWD: &str = "crowd";

/// Of so many of the crowd one goes on beating.
const CROWD_BUT_ONE_OF: usize = 5;

/// Before those who are gone are looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Of those who are missing so many are named.
const SHOWN: usize = 5;

/// How long lists may be refused on a busy machine.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_leaders_are_killed_whoever_beats_stays_and_whoever_stops_is_removed_once() {
    soak(&Soak::short(), Seed::of_this_run("while_leaders_are_killed")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes 13 minutes and a release build: ROSTER_SOAK_BINARY=$PWD/target/release/roster cargo test -p cluster-tests --test scenarios -- --ignored --nocapture two_hundred_thousand"]
async fn two_hundred_thousand_beat_for_ten_minutes_of_killed_leaders_and_none_of_them_is_lost() {
    soak(&Soak::long(), Seed::of_this_run("two_hundred_thousand")).await;
}

async fn soak(soak: &Soak, mut seed: Seed) {
    let mut cluster = soak.plan().start().await;
    let client = cluster.client();
    let registering = Instant::now();
    let population =
        Population::start(&client, soak.newcomers(), soak.in_a_herd, soak.ttl, &mut seed).await;
    let population = Arc::new(population);
    println!("{} are registered after {:?}", soak.sessions, registering.elapsed());
    let (all_there, _) = everything(&client.at(cluster.leader().await)).await;
    let followers: Arc<[Follower]> =
        cluster.ids().into_iter().map(|node| Follower::start(&client, node, all_there)).collect();

    let begun = Instant::now();
    let silence = fall_silent(soak, &population, begun, &mut seed);
    let returning = Returning::start(soak, &population, &followers, &mut seed);
    let kills = kill_leaders(soak, &mut cluster, &population, begun, &mut seed).await;
    if population.lost().is_empty() {
        silence.await.expect("no panic");
    } else {
        silence.abort();
    }
    each_silent_one_is_gone(soak, &population, &followers).await;
    returning.end().await;
    no_brake_is_left(soak, &client, &followers).await;

    let members = population.members();
    let verdict = Verdict::of(&members, &population.lost(), &followers);
    for node in cluster.ids() {
        verdict.is_listed_at(node, &everything(&client.at(node)).await.1);
    }
    assert_eq!(population.lost(), [""; 0], "removed, though they went on beating");
    verdict.tell(soak, kills, population.acknowledged());
    population.stop().await;
}

/// Some, each at a time of its own, and most of one app at once.
fn fall_silent(
    soak: &Soak,
    population: &Population,
    begun: Instant,
    seed: &mut Seed,
) -> JoinHandle<()> {
    let members = population.members();
    let (crowd, others): (Vec<_>, Vec<_>) =
        members.into_iter().partition(|member| member.life.app == CROWD);
    let mut stops: Vec<(Duration, Arc<Member>)> = Vec::new();
    for member in crowd {
        if seed.below(CROWD_BUT_ONE_OF) > 0 {
            stops.push((soak.crowd_after, member));
        }
    }
    for member in others {
        if seed.below(soak.one_of) == 0 {
            let after_ms = seed.below(soak.lasts.as_millis() as usize) as u64;
            stops.push((Duration::from_millis(after_ms), member));
        }
    }
    stops.sort_by_key(|(after, _)| *after);
    tokio::spawn(async move {
        for (after, member) in stops {
            sleep_until((begun + after).into()).await;
            member.falls_silent();
        }
    })
}

/// Some of those who are gone register again: another life, which is to stay.
struct Returning {
    enough: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Returning {
    fn start(
        soak: &Soak,
        population: &Arc<Population>,
        followers: &Arc<[Follower]>,
        seed: &mut Seed,
    ) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let (population, followers) = (population.clone(), followers.clone());
        let (one_of, mut seed, stop) = (soak.back_one_of, seed.split(), enough.clone());
        let task = tokio::spawn(async move {
            let mut looked_at = 0;
            while !stop.load(Ordering::Relaxed) {
                let gone = followers[0].told(|told| told.order[looked_at..].to_vec());
                looked_at += gone.len();
                for life in gone {
                    if life.app != CROWD && seed.below(one_of) == 0 {
                        population.comes_back(&life, &mut seed).await;
                    }
                }
                sleep(LOOK_EVERY).await;
            }
        });
        Self { enough, task }
    }

    /// Lets it end what it is doing.
    async fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic");
    }
}

/// Kills leaders and starts them again for as long as it lasts and none is lost; returns how many.
async fn kill_leaders(
    soak: &Soak,
    cluster: &mut Cluster,
    population: &Population,
    begun: Instant,
    seed: &mut Seed,
) -> u32 {
    let mut kills = 0;
    loop {
        let next = begun + soak.kill_every * (kills + 1);
        if next >= begun + soak.lasts || !population.lost().is_empty() {
            return kills;
        }
        sleep_until(next.into()).await;
        // Not all at the same place of a round of heartbeats.
        sleep(soak.ttl.mul_f64(seed.below(100) as f64 / 1_000.0)).await;
        let leader = cluster.leader().await;
        cluster.kill(leader);
        cluster.leader_but(&[leader]).await;
        cluster.start(leader, &[]);
        cluster.ready().await;
        kills += 1;
    }
}

/// Waits until every watch has told as many removals as there are members who are silent, or until one
/// that beats is lost.
async fn each_silent_one_is_gone(soak: &Soak, population: &Population, followers: &[Follower]) {
    let silent = population.members().iter().filter(|member| member.is_silent()).count();
    until("each silent one is gone", soak.gone_within(), async || {
        let gone: Vec<_> = followers.iter().map(|f| f.told(|told| told.removals.len())).collect();
        let lost = population.lost();
        match gone.iter().all(|gone| *gone >= silent) || !lost.is_empty() {
            true => Ok(()),
            false => Err(format!("{gone:?} of {silent}")),
        }
    })
    .await;
}

/// The crowd was braked, and that is over.
async fn no_brake_is_left(soak: &Soak, client: &Client, followers: &[Follower]) {
    for follower in followers {
        let node = follower.node;
        until("no brake is left", soak.gone_within(), async || {
            let brakes =
                client.at(node).get("/v1/cluster/brake").await.map_err(|e| e.to_string())?;
            match brakes.json()["brakes"].as_array().map(Vec::len) {
                Some(0) => Ok(()),
                left => Err(format!("{left:?}: {}", brakes.text)),
            }
        })
        .await;
        let (suspicions, brakes) = follower.told(|told| (told.suspicions, told.brakes));
        assert!(suspicions > 0 && brakes.0 > 0, "nobody was braked: {suspicions} {brakes:?}");
    }
}

/// All instances at one node, page after page of one revision.
async fn everything(at: &At<'_>) -> (u64, Vec<Listed>) {
    #[derive(Deserialize)]
    struct Page {
        instances: Vec<Listed>,
        next_cursor: Option<String>,
        revision: u64,
    }
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/instances?limit=10000{cursor}");
        let page: Page =
            until("a page is listed", LISTED_WITHIN, async || at.get(&path).await).await.parse();
        listed.extend(page.instances);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (page.revision, listed),
        }
    }
}

/// What became of all, held against what they did.
struct Verdict<'a> {
    beating: BTreeSet<&'a Life>,
    removals: BTreeMap<&'a Life, Removal>,
    /// How long after their TTL those who fell silent alone were seen to be gone, at every node.
    lateness: Vec<Duration>,
    streams: usize,
    suspicions: usize,
}

impl<'a> Verdict<'a> {
    /// Panics if any was removed that beats, or early, or twice, or not for its silence; or if two
    /// nodes do not tell the same.
    fn of(members: &'a [Arc<Member>], lost: &[String], followers: &[Follower]) -> Self {
        let mut verdict = Self {
            beating: members.iter().filter(|m| !m.is_silent()).map(|m| &m.life).collect(),
            removals: BTreeMap::new(),
            lateness: Vec::new(),
            streams: 0,
            suspicions: 0,
        };
        let by_life: BTreeMap<_, _> = members.iter().map(|m| (&m.life, m)).collect();
        for follower in followers {
            let told = follower.told(Clone::clone);
            let node = follower.node;
            assert_eq!(told.twice, [""; 0], "S6: node {node} told removals twice");
            for (life, removal) in told.removals {
                let member = by_life.get(&life);
                let member = member.unwrap_or_else(|| panic!("nobody was {life:?}: {removal:?}"));
                verdict.removed(node, member, removal);
            }
            assert_eq!(
                verdict.removals.len(),
                members.len() - verdict.beating.len(),
                "not all silent ones were removed, or node {node} told less than another; lost: {lost:?}"
            );
            verdict.streams += told.streams;
            verdict.suspicions = verdict.suspicions.max(told.suspicions);
        }
        verdict.lateness.sort_unstable();
        verdict
    }

    fn removed(&mut self, node: u64, member: &'a Member, removal: Removal) {
        let (life, ttl) = (&member.life, member.ttl);
        // The call was sent before the leader heard it, and the removal seen after it was made.
        let silence = removal.seen.saturating_duration_since(member.last_heard());
        assert!(
            member.is_silent(),
            "S4: {life:?} beat and was removed: node {node} told {removal:?}, {silence:?} after its last acknowledged heartbeat; its TTL is {ttl:?}"
        );
        assert!(silence >= ttl, "S4: {life:?} was removed after {silence:?}: {removal:?}");
        assert_eq!(removal.reason, "expired", "{life:?} at node {node}");
        if life.app != CROWD {
            self.lateness.push(silence - ttl);
        }
        let revision = removal.revision;
        let first = self.removals.entry(life).or_insert(removal);
        assert_eq!(first.revision, revision, "S6: {life:?} was removed at two revisions");
    }

    fn is_listed_at(&self, node: u64, listed: &[Listed]) {
        let life =
            |l: &Listed| Life { app: l.app.clone(), id: l.id.clone(), incarnation: l.incarnation };
        let lives: Vec<_> = listed.iter().map(life).collect();
        let there: BTreeSet<_> = lives.iter().collect();
        let missing: Vec<_> = self.beating.difference(&there).take(SHOWN).collect();
        let too_many: Vec<_> = there.difference(&self.beating).take(SHOWN).collect();
        assert!(missing.is_empty(), "S4: node {node} does not list who beats: {missing:?}, …");
        assert!(too_many.is_empty(), "S6: node {node} lists who is gone: {too_many:?}, …");
        assert_eq!(listed.len(), there.len(), "node {node} lists somebody twice");
    }

    fn tell(&self, soak: &Soak, kills: u32, acknowledged: u64) {
        let late = |part: usize| self.lateness[(self.lateness.len() - 1) * part / 100];
        println!(
            "soak: {} sessions, {:?}, TTL {:?}; {kills} leaders killed, {acknowledged} heartbeats \
             acknowledged; {} removed, each once on every node, {} of them held as suspect first; {} \
             live, none of them lost; {} streams; of those who fell silent alone, removals seen after the \
             TTL, a new leader's patience in it: p50 {:.3?}, p99 {:.3?}, last {:.3?}",
            soak.sessions,
            soak.lasts,
            soak.ttl,
            self.removals.len(),
            self.suspicions,
            self.beating.len(),
            self.streams,
            late(50),
            late(99),
            late(100),
        );
    }
}
