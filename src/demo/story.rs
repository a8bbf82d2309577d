//! The story, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::sleep;

use super::fleet::{Deletions, Fleet, TTL};
use super::ledger::{Holders, Ledger};
use crate::cli::asking::{End, print};
use crate::cli::grid::Grid;
use crate::client::{Action, Error, Event, Item, Revision, Watch, WatchRequest};

/// Nothing that is waited for takes longer, unless something is wrong.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Transports that die.
const DEAD: usize = 5;

pub(super) struct Story<'a> {
    fleet: &'a mut Fleet,
}

/// What came of the deaths.
struct After {
    /// Since the last heartbeats of the dead, until others were at work on all shards.
    covered: Duration,
    holders: Holders,
    /// What a watch told.
    deleted: Vec<Event>,
    /// What the history of each node has.
    recorded: Vec<Deletions>,
}

impl After {
    fn deletions(&self) -> Deletions {
        let mut all: Deletions =
            self.deleted.iter().map(|event| (event.revision, event.id.clone())).collect();
        all.sort();
        all
    }
}

impl<'a> Story<'a> {
    pub fn of(fleet: &'a mut Fleet) -> Self {
        Self { fleet }
    }

    /// The error says what was not as promised.
    pub async fn tell(mut self) -> Result<(), End> {
        self.gather().await?;
        self.share_out().await?;
        let before = self.fleet.floor.holders();
        let (fetcher, transports) = self.choose_dead(&before);
        let after = self.bury(&fetcher, &transports).await?;
        self.compare(&before, &after)?;
        let scaling = self.fleet.scaling().await.map_err(told)?;
        print(&format!("\n   Scaling signal: {}", scaling_text(&scaling)))?;
        Ok(self.judge(&before, &after, &transports)?)
    }

    async fn gather(&mut self) -> Result<(), End> {
        let begun = Instant::now();
        self.fleet.make_apps().await.map_err(told)?;
        self.fleet.register_transports().await.map_err(told)?;
        let all: BTreeSet<String> = self.fleet.transports.iter().map(|one| one.shard()).collect();
        self.wait_for("every node to know all transports", async |fleet| {
            for node in &fleet.nodes {
                if fleet.known_at(node).await? != all {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        print(&format!(
            "\n1. {} transports of {} apps registered, each on one of the nodes in turn; every node \
             knows all of them ({:.1} s). Each is a shard.",
            all.len(),
            self.fleet.services().len(),
            begun.elapsed().as_secs_f64(),
        ))?;
        Ok(())
    }

    async fn share_out(&mut self) -> Result<(), End> {
        let begun = Instant::now();
        self.fleet.make_shard_set().await.map_err(told)?;
        self.fleet.start_fetchers().await.map_err(told)?;
        let fetchers: Vec<String> = self.fleet.fetchers.keys().cloned().collect();
        let holders = self.wait_until_shared(&fetchers).await?;
        print(&format!(
            "\n2. {} fetchers joined and share the shards ({:.1} s):\n",
            fetchers.len(),
            begun.elapsed().as_secs_f64()
        ))?;
        print(&indented(&self.shares(&fetchers, &holders)))?;
        let scaling = self.fleet.scaling().await.map_err(told)?;
        print(&format!("\n   Scaling signal: {}", scaling_text(&scaling)))?;
        Ok(())
    }

    /// By fetcher, with the shards of each app.
    fn shares(&self, fetchers: &[String], holders: &Holders) -> String {
        let mut grid = Grid::new(&["FETCHER", ">SHARDS", "OF APPS"]);
        for fetcher in fetchers {
            let mut of_apps = BTreeMap::<&str, usize>::new();
            for (shard, _) in holders.iter().filter(|(_, holder)| *holder == fetcher) {
                let app = shard.split('/').next().unwrap_or_default();
                let service = app.rsplit('-').next().unwrap_or_default();
                *of_apps.entry(service).or_default() += 1;
            }
            let shards: usize = of_apps.values().sum();
            let of_apps: Vec<_> =
                of_apps.iter().map(|(service, count)| format!("{service} {count}")).collect();
            grid.row(&[fetcher, &shards, &of_apps.join(", ")]);
        }
        grid.text()
    }

    /// The last fetcher, and transports of all fetchers in turn.
    fn choose_dead(&self, holders: &Holders) -> (String, Vec<String>) {
        let mut of_each: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for (shard, holder) in holders {
            of_each.entry(holder).or_default().push(shard);
        }
        for shards in of_each.values_mut() {
            // By instance, so that the dead are of different apps.
            shards.sort_by_key(|shard| shard.split('/').next_back());
        }
        let longest = of_each.values().map(Vec::len).max().unwrap_or(0);
        let in_turn = (0..longest)
            .flat_map(|turn| of_each.values().filter_map(move |shards| shards.get(turn)));
        let transports = in_turn.take(DEAD).map(|shard| (*shard).clone()).collect();
        let last = self.fleet.fetchers.keys().next_back().cloned().unwrap_or_default();
        (last, transports)
    }

    async fn bury(&mut self, fetcher: &str, transports: &[String]) -> Result<After, End> {
        let (mut watch, since) = self.watch_shards().await.map_err(told)?;
        self.fleet.kill(fetcher, transports).await.map_err(told)?;
        let silent = Instant::now();
        print(&format!(
            "\n3. {fetcher} and {} transports die: no more heartbeats. Their TTL is {} s.",
            transports.len(),
            TTL.as_secs()
        ))?;
        let alive: Vec<String> = self.fleet.fetchers.keys().cloned().collect();
        let expected: BTreeSet<String> =
            self.fleet.transports.iter().map(|one| one.shard()).collect();
        let covered = self
            .wait_for("the living fetchers to be at work on all shards", async |fleet| {
                let at_work = fleet.floor.holders();
                let all = at_work.keys().eq(expected.iter());
                let living = at_work.values().all(|holder| alive.contains(holder));
                Ok((all && living).then(|| silent.elapsed()))
            })
            .await?;
        self.wait_for("every node to forget the dead transports", async |fleet| {
            for node in &fleet.nodes {
                if fleet.known_at(node).await? != expected {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        let holders = self.wait_until_shared(&alive).await?;
        let deleted = deletions(&mut watch, transports.len()).await?;
        let recorded = self.read_histories(since, &deleted).await?;
        Ok(After { covered, holders, deleted, recorded })
    }

    /// What each node's history has, once it is so far. A history that is not the same everywhere is
    /// told, not waited for.
    async fn read_histories(
        &self,
        since: Revision,
        deleted: &[Event],
    ) -> Result<Vec<Deletions>, String> {
        let until = deleted.iter().map(|event| event.revision).max().unwrap_or(since);
        self.wait_for("the history of every node", async |fleet| {
            let mut all = Vec::new();
            for node in &fleet.nodes {
                match fleet.deletions_at(node, since, until).await? {
                    Some(deletions) => all.push(deletions),
                    None => return Ok(None),
                }
            }
            Ok(Some(all))
        })
        .await
    }

    /// All changes of the transports' shards after a revision, which is given too.
    async fn watch_shards(&self) -> Result<(Watch, Revision), Error> {
        let mut watch = self.fleet.client(0).watch(WatchRequest {
            apps: self.fleet.services(),
            kinds: vec!["shard".into()],
            ..WatchRequest::default()
        });
        loop {
            if let Item::SnapshotEnd { revision, .. } = watch.next().await? {
                return Ok((watch, revision));
            }
        }
    }

    fn compare(&self, before: &Holders, after: &After) -> Result<(), End> {
        let covered = after.covered.as_secs_f64();
        print(&format!(
            "\n4. After {covered:.1} s, of which {} s are the TTL, the others are at work on all \
             {} remaining shards.\n",
            TTL.as_secs(),
            after.holders.len(),
        ))?;
        let alive: Vec<String> = self.fleet.fetchers.keys().cloned().collect();
        let ledger = Ledger { before, after: &after.holders };
        print(&indented(&ownership(&ledger, &alive)))?;
        let (moved, fewest) = (ledger.moved(), ledger.fewest(&alive));
        print(&format!("\n   Shards that moved: {moved}; the fewest possible: {fewest}."))?;
        let same = after.recorded.iter().filter(|recorded| **recorded == after.deletions()).count();
        print(&format!(
            "   The dead transports' shards were deleted, with one event each, the same in the \
             histories of {same} of {} nodes:\n",
            after.recorded.len()
        ))?;
        print(&indented(&deletions_table(&after.deleted)))
    }

    /// Whether all was as promised.
    fn judge(&self, before: &Holders, after: &After, transports: &[String]) -> Result<(), String> {
        let alive: Vec<String> = self.fleet.fetchers.keys().cloned().collect();
        let ledger = Ledger { before, after: &after.holders };
        let (moved, fewest) = (ledger.moved(), ledger.fewest(&alive));
        let mut broken = Vec::new();
        if moved != fewest {
            broken.push(format!("{moved} shards moved where {fewest} would do"));
        }
        let twice = self.fleet.floor.twice();
        if !twice.is_empty() {
            broken.push(format!("two fetchers were at work at once on {twice:?}"));
        }
        let deleted: Vec<&String> = after.deleted.iter().map(|event| &event.id).collect();
        let each_once = deleted.iter().collect::<BTreeSet<_>>().len() == deleted.len();
        let of_the_dead = deleted.iter().all(|shard| transports.contains(shard));
        if !each_once || !of_the_dead || deleted.len() != transports.len() {
            broken.push(format!("these shards were deleted: {deleted:?}, not {transports:?}"));
        }
        let expected = after.deletions();
        for (node, recorded) in after.recorded.iter().enumerate() {
            if *recorded != expected {
                let (has, told) = (listed(recorded), listed(&expected));
                broken.push(format!(
                    "the history of node {} has these deletions: {has}; the watch told: {told}",
                    node + 1
                ));
            }
        }
        match broken.is_empty() {
            true => Ok(()),
            false => Err(format!("not as promised: {}", broken.join("; "))),
        }
    }

    /// Until these fetchers are at work on exactly what the cluster says that they hold, on all
    /// shards, and as evenly as can be.
    async fn wait_until_shared(&self, fetchers: &[String]) -> Result<Holders, String> {
        let shards = self.fleet.transports.len();
        self.wait_for("all shards to be shared out", async |fleet| {
            let at_work = fleet.floor.holders();
            let (holders, pending) = fleet.holders().await?;
            let of = |fetcher| holders.values().filter(|holder| *holder == fetcher).count();
            let even = fetchers.iter().all(|fetcher| {
                let share = shards / fetchers.len();
                (share..=share + 1).contains(&of(fetcher))
            });
            let settled = pending == 0 && holders.len() == shards && holders == at_work;
            Ok((settled && even).then_some(holders))
        })
        .await
    }

    async fn wait_for<T>(
        &self,
        what: &str,
        mut there: impl AsyncFnMut(&Fleet) -> Result<Option<T>, Error>,
    ) -> Result<T, String> {
        let until = Instant::now() + WAIT_MAX;
        while Instant::now() < until {
            if let Some(found) = there(self.fleet).await.map_err(told)? {
                return Ok(found);
            }
            sleep(LOOK_EVERY).await;
        }
        Err(format!("waited {} s in vain for {what}", WAIT_MAX.as_secs()))
    }
}

fn told(error: Error) -> String {
    error.to_string()
}

/// The deletions of shards, until there are so many and all of their revisions came.
async fn deletions(watch: &mut Watch, count: usize) -> Result<Vec<Event>, String> {
    let mut deleted = Vec::new();
    let all = async {
        while deleted.len() < count {
            match watch.next().await.map_err(told)? {
                Item::Changed(event) if event.action == Action::Delete => deleted.push(event),
                Item::SnapshotBegin { .. }
                | Item::Listed(_)
                | Item::SnapshotEnd { .. }
                | Item::Changed(_)
                | Item::Bookmark { .. }
                | Item::Compacted { .. }
                | Item::Interrupted { .. }
                | Item::Resumed { .. } => {}
            }
        }
        Ok(())
    };
    let late = |_| Err("the shards' deletions were not told".to_owned());
    tokio::time::timeout(WAIT_MAX, all).await.unwrap_or_else(late)?;
    Ok(deleted)
}

fn ownership(ledger: &Ledger<'_>, alive: &[String]) -> String {
    let mut grid = Grid::new(&["FETCHER", ">BEFORE", ">AFTER", ">KEPT", ">GAINED", ""]);
    let all: BTreeSet<&String> = ledger.before.values().chain(alive).collect();
    for fetcher in all {
        let (before, after, kept) = ledger.of(fetcher);
        let fate = if alive.contains(fetcher) { "" } else { "dead" };
        grid.row(&[fetcher, &before, &after, &kept, &(after - kept), &fate]);
    }
    grid.text()
}

fn deletions_table(deleted: &[Event]) -> String {
    let mut grid = Grid::new(&[">REVISION", "SHARD", "REASON"]);
    for event in deleted {
        let reason = event.reason.as_deref().unwrap_or("-");
        let detail = event.detail.as_deref().unwrap_or_default();
        let Revision(revision) = event.revision;
        grid.row(&[&revision, &event.id, &format!("{reason}: {detail}")]);
    }
    grid.text()
}

fn listed(deletions: &Deletions) -> String {
    let texts = deletions.iter().map(|(revision, shard)| format!("{shard} at {revision}"));
    texts.collect::<Vec<_>>().join(", ")
}

fn scaling_text(scaling: &Value) -> String {
    let reason = scaling["reason"].as_str().unwrap_or_default();
    format!("{} fetchers wanted, {} there ({reason})", scaling["desired"], scaling["current"])
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("   {line}")).collect::<Vec<_>>().join("\n")
}
