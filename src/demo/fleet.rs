//! Who takes part: transports that are registered, and fetchers that work on their shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{StreamExt, TryStreamExt, iter};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::ledger::Holders;
use crate::cli::progress::Progress;
use crate::client::{
    Action, Call, Client, Error, EventsRequest, Grant, KeepAlive, Options, Order, Registration,
    Revision, RingMember, RingView, RingWork, ShardWork, ShardWorker, ShardWorkerSettings, path,
};

/// How long anybody lives without a heartbeat. Real transports would take longer.
pub(super) const TTL: Duration = Duration::from_secs(5);

/// A busy machine may be without a leader for a while; the demo goes on behind it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the transports are agents of.
const SERVICES: [&str; 3] = ["cart", "pay", "search"];

/// Where they are, in turn.
const ZONES: [&str; 3] = ["a", "b", "c"];

/// Registrations that are under way at once.
const AT_ONCE: usize = 16;

/// Which shards were deleted at which revisions, in this order.
pub(super) type Deletions = Vec<(Revision, String)>;

/// Everything that the story makes. Its names begin with one that nobody else has.
pub(super) struct Fleet {
    name: String,
    /// One client per node, which asks that node first.
    pub clients: Vec<Client>,
    /// One client per node, which asks nobody else.
    pub nodes: Vec<Client>,
    pub floor: Arc<Floor>,
    pub transports: Vec<Transport>,
    pub fetchers: BTreeMap<String, ShardWorker>,
    /// The members of the ring, by id.
    pub caches: BTreeMap<String, RingMember>,
    pub transports_wanted: usize,
    fetchers_wanted: usize,
    /// How many of each kind there ever were: no name comes twice.
    transports_ever: usize,
    fetchers_ever: usize,
    caches_ever: usize,
}

/// A registered transport. Its heartbeats end when this is dropped.
pub(super) struct Transport {
    pub app: String,
    pub id: String,
    keep: KeepAlive,
}

impl Transport {
    /// None of the demo's names has anything to escape in it.
    pub fn shard(&self) -> String {
        format!("{}/{}", self.app, self.id)
    }

    /// Deregisters it.
    pub async fn leave(self) -> Result<(), Error> {
        self.keep.leave().await
    }
}

/// Where the work is done: who is at work on which shard.
#[derive(Default)]
pub(super) struct Floor {
    at_work: Mutex<Holders>,
    /// Shards that two were at work on at once.
    twice: Mutex<BTreeSet<String>>,
}

impl Floor {
    pub fn holders(&self) -> Holders {
        self.at_work.lock().clone()
    }

    pub fn twice(&self) -> BTreeSet<String> {
        self.twice.lock().clone()
    }

    /// Who died does not work any more.
    pub fn died(&self, fetcher: &str) {
        self.at_work.lock().retain(|_, holder| holder != fetcher);
    }
}

/// One fetcher's place there.
struct Place {
    floor: Arc<Floor>,
    fetcher: String,
}

#[async_trait]
impl ShardWork for Place {
    fn start(&self, shard: &Grant) {
        let before = self.floor.at_work.lock().insert(shard.shard.clone(), self.fetcher.clone());
        if before.is_some() {
            self.floor.twice.lock().insert(shard.shard.clone());
        }
    }

    async fn stop(&self, shard: &Grant) {
        let mut at_work = self.floor.at_work.lock();
        if at_work.get(&shard.shard) == Some(&self.fetcher) {
            at_work.remove(&shard.shard);
        }
    }
}

/// A cache that has nothing to stop.
struct Idle;

#[async_trait]
impl RingWork for Idle {
    async fn stop_lost(&self, _: &RingView, _: &RingView) {}

    async fn stop_all(&self) {}
}

impl Fleet {
    pub fn new(nodes: &[String], transports: u16, fetchers: u16) -> Result<Self, Error> {
        let options = Options { patience: PATIENCE, ..Options::default() };
        let turned = |first: usize| {
            let order = nodes.iter().cycle().skip(first).take(nodes.len());
            Client::with(&order.cloned().collect::<Vec<_>>().join(","), options)
        };
        Ok(Self {
            name: format!("demo-{:08x}", fastrand::u32(..)),
            clients: (0..nodes.len()).map(turned).collect::<Result<_, _>>()?,
            nodes: nodes
                .iter()
                .map(|node| Client::with(node, options))
                .collect::<Result<_, _>>()?,
            floor: Arc::default(),
            transports: Vec::new(),
            fetchers: BTreeMap::new(),
            caches: BTreeMap::new(),
            transports_wanted: transports.into(),
            fetchers_wanted: fetchers.into(),
            transports_ever: 0,
            fetchers_ever: 0,
            caches_ever: 0,
        })
    }

    /// The client that others of the same number share.
    pub fn client(&self, number: usize) -> &Client {
        &self.clients[number % self.clients.len()]
    }

    /// The shard set.
    pub fn set(&self) -> &str {
        &self.name
    }

    /// The apps of the transports.
    pub fn services(&self) -> Vec<String> {
        SERVICES.iter().map(|service| format!("{}-{service}", self.name)).collect()
    }

    /// The app of the workers that share the shards.
    pub fn fetchers_app(&self) -> String {
        format!("{}-fetchers", self.name)
    }

    /// The app of the ring.
    pub fn caches_app(&self) -> String {
        format!("{}-caches", self.name)
    }

    fn apps(&self) -> Vec<String> {
        [self.services(), vec![self.fetchers_app(), self.caches_app()]].concat()
    }

    /// Makes the apps first: a registration that is under way when all is deleted must not make them
    /// anew.
    pub async fn make_apps(&self) -> Result<(), Error> {
        for app in &self.apps() {
            let call = Call::put(path(&["v1", "apps", app])?).json(&json!({}))?;
            self.client(0).send(call).await?;
        }
        Ok(())
    }

    pub async fn register_transports(&mut self) -> Result<(), Error> {
        let registered = self.register_more(self.transports_wanted).await?;
        self.transports.extend(registered);
        Ok(())
    }

    /// So many more transports, each on one node, the nodes in turn.
    pub async fn register_more(&mut self, count: usize) -> Result<Vec<Transport>, Error> {
        let first = self.transports_ever;
        self.transports_ever += count;
        let services = self.services();
        let registering = (first..first + count).map(|number| {
            let (client, app) = (self.client(number), services[number % services.len()].clone());
            async move {
                let ip = address_of("10.20", number);
                let id = format!("{ip}:8719");
                let keep = client.keep_alive(&app, &id, registration(&ip, number)).await?;
                Ok::<_, Error>(Transport { app, id, keep })
            }
        });
        let registering: Vec<_> = registering.collect();
        let mut progress = Progress::of("registering transports", count as u64);
        let mut registered = Vec::new();
        let mut all = iter(registering).buffered(AT_ONCE);
        while let Some(transport) = all.try_next().await? {
            registered.push(transport);
            progress.at(registered.len() as u64);
        }
        Ok(registered)
    }

    pub async fn make_shard_set(&self) -> Result<(), Error> {
        let per_worker = self.transports_wanted.div_ceil(self.fetchers_wanted);
        let set = json!({
            "workers": self.fetchers_app(),
            "apps": self.services(),
            "scaling": {"shards_per_worker": per_worker, "max": 1_000, "cooldown": "1s"},
        });
        let call = Call::put(path(&["v1", "shard-sets", self.set()])?).json(&set)?;
        self.client(0).send(call).await?;
        Ok(())
    }

    pub async fn start_fetchers(&mut self) -> Result<(), Error> {
        for _ in 0..self.fetchers_wanted {
            self.start_fetcher().await?;
        }
        Ok(())
    }

    /// One more; gives its id.
    pub async fn start_fetcher(&mut self) -> Result<String, Error> {
        let number = self.fetchers_ever;
        self.fetchers_ever += 1;
        let id = format!("fetcher-{}", number + 1);
        let settings = ShardWorkerSettings {
            set: self.set().to_owned(),
            app: self.fetchers_app(),
            id: id.clone(),
            registration: registration(&address_of("10.30", number), number),
        };
        let place = Arc::new(Place { floor: self.floor.clone(), fetcher: id.clone() });
        let fetcher = self.client(number).work_on_shards(settings, place).await?;
        self.fetchers.insert(id.clone(), fetcher);
        Ok(id)
    }

    /// Switches on the ring of the caches.
    pub async fn make_ring(&self) -> Result<(), Error> {
        let call =
            Call::put(path(&["v1", "apps", &self.caches_app(), "ring"])?).json(&json!({}))?;
        self.client(0).send(call).await.map(drop)
    }

    /// One more member of the ring; gives its id.
    pub async fn start_cache(&mut self) -> Result<String, Error> {
        let number = self.caches_ever;
        self.caches_ever += 1;
        let id = format!("cache-{}", number + 1);
        let registration = registration(&address_of("10.40", number), number);
        let app = self.caches_app();
        let cache = self.client(number).join_ring(&app, &id, registration, Arc::new(Idle)).await?;
        self.caches.insert(id.clone(), cache);
        Ok(id)
    }

    /// The fetcher and these transports send a last heartbeat, so that all of them are silent from
    /// the same moment on, and are gone.
    pub async fn kill(&mut self, fetcher: &str, transports: &[String]) -> Result<(), Error> {
        drop(self.fetchers.remove(fetcher));
        let doomed = |transport: &Transport| transports.contains(&transport.shard());
        let (dead, alive) = self.transports.drain(..).partition(doomed);
        self.transports = alive;
        let dead: Vec<(String, String)> =
            dead.into_iter().map(|transport: Transport| (transport.app, transport.id)).collect();
        let app = self.fetchers_app();
        let client = self.client(0);
        let all = dead.iter().map(|(app, id)| (app.as_str(), id.as_str()));
        let beats = all.chain([(app.as_str(), fetcher)]).map(|(app, id)| async move {
            let call = Call::put(path(&["v1", "apps", app, "instances", id, "heartbeat"])?);
            client.send(call).await
        });
        futures::future::try_join_all(beats).await?;
        self.floor.died(fetcher);
        Ok(())
    }

    /// Who holds each shard as the cluster sees it, and how many moves it waits for.
    pub async fn holders(&self) -> Result<(Holders, usize), Error> {
        let (mut holders, mut pending) = (Holders::new(), 0);
        let call = Call::get(path(&["v1", "shard-sets", self.set(), "shards"])?);
        let list: Value = self.client(0).send(call.query("limit", 10_000)).await?.json()?;
        for shard in list["shards"].as_array().into_iter().flatten() {
            let text = |name: &str| shard[name].as_str().map(str::to_owned);
            pending += usize::from(shard["next"].is_string() || shard["holder"].is_null());
            if let (Some(shard), Some(holder)) = (text("shard"), text("holder")) {
                holders.insert(shard, holder);
            }
        }
        Ok((holders, pending))
    }

    /// The shards of all transports that one node knows.
    pub async fn known_at(&self, node: &Client) -> Result<BTreeSet<String>, Error> {
        let mut known = BTreeSet::new();
        for app in self.services() {
            let call = Call::get(path(&["v1", "apps", &app, "instances"])?);
            let call = call.query("consistency", "stale").query("limit", 10_000);
            let list: Value = node.send(call).await?.json()?;
            let ids = list["instances"].as_array().into_iter().flatten();
            known.extend(ids.filter_map(|one| Some(format!("{app}/{}", one["id"].as_str()?))));
        }
        Ok(known)
    }

    /// The deletions of shards that one node's history has after `since` and up to `until`; `None`
    /// while it does not have all of that.
    pub async fn deletions_at(
        &self,
        node: &Client,
        since: Revision,
        until: Revision,
    ) -> Result<Option<Deletions>, Error> {
        let mut deletions = Deletions::new();
        for app in self.services() {
            let mut pages = node.events(EventsRequest {
                app: Some(app),
                kinds: vec!["shard".into()],
                since: Some(since.to_string()),
                until: Some(until.to_string()),
                order: Order::Ascending,
                ..EventsRequest::default()
            });
            while let Some(page) = pages.next_page().await? {
                if !page.missing.is_empty() {
                    return Ok(None);
                }
                let deleted = page.events.into_iter().filter(|one| one.action == Action::Delete);
                deletions.extend(deleted.map(|event| (event.revision, event.id)));
            }
        }
        deletions.sort();
        Ok(Some(deletions))
    }

    pub async fn scaling(&self) -> Result<Value, Error> {
        let call = Call::get(path(&["v1", "shard-sets", self.set(), "scaling"])?);
        self.client(0).send(call).await?.json()
    }

    /// Stops everybody and deletes all that was made. The error names what is left behind.
    pub async fn clear_away(mut self) -> Result<(), String> {
        // At once, since a cluster that is gone lets each of them wait. What they leave goes with their app.
        let leaving = std::mem::take(&mut self.fetchers).into_values().map(ShardWorker::leave);
        drop(futures::future::join_all(leaving).await);
        self.transports.clear();
        self.caches.clear();
        let mut left = Vec::new();
        let set = path(&["v1", "shard-sets", self.set()]).map(Call::delete);
        self.delete(set, &format!("shard set {}", self.set()), &mut left).await;
        for app in &self.apps() {
            let call = path(&["v1", "apps", app]).map(Call::delete);
            let call = call.map(|call| call.query("cascade", true));
            self.delete(call, &format!("app {app}"), &mut left).await;
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("left behind: {}", left.join("; "))),
        }
    }

    /// The commands that do what [`Fleet::clear_away`] does.
    pub fn cleared_by_hand(&self) -> String {
        let mut commands = vec![format!("roster shards delete {}", self.set())];
        let apps = self.apps();
        commands.extend(apps.iter().map(|app| format!("roster app delete {app} --cascade --yes")));
        commands.join("; ")
    }

    async fn delete(&self, call: Result<Call, Error>, what: &str, left: &mut Vec<String>) {
        let deleted = async { self.client(0).send(call?).await };
        match deleted.await {
            Ok(_) => {}
            Err(error) if error.code().starts_with("unknown-") => {}
            Err(error) => left.push(format!("{what} ({error})")),
        }
    }
}

/// None comes twice, as long as there are not 62,500 of a kind.
fn address_of(network: &str, number: usize) -> String {
    format!("{network}.{}.{}", number / 250 % 250, number % 250 + 1)
}

fn registration(ip: &str, number: usize) -> Registration {
    Registration {
        ip: ip.into(),
        port: 8719,
        hostname: format!("host-{number}"),
        zone: ZONES[number % ZONES.len()].into(),
        version: "1.8.9".into(),
        ttl: Some(TTL),
        only_in_known_app: true,
        ..Registration::default()
    }
}
