//! What goes on after the story, until somebody ends it: transports come, leave and die in waves,
//! fetchers follow the scaling signal, a ring turns, and an operator drains somebody now and then.
//!
//! A call that fails is told, and life goes on: a node may be killed meanwhile to see what happens.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::fleet::{Fleet, TTL, Transport};
use crate::cli::asking::{End, print};
use crate::client::{Call, Error, path};

/// The number of transports swings around what was asked for, by this share of it.
const WAVE: f64 = 0.4;

/// From one crest to the next.
const WAVE_EVERY: Duration = Duration::from_secs(120);

/// Transports that come or go at once, as a part of all.
const TOGETHER: usize = 25;

/// Transports that die at once, at most.
const DIE_TOGETHER: usize = 3;

/// At most so many die within a minute, whoever they are: where more than 10 of an app do, the cluster
/// takes it for a mass loss and holds them back.
const DEATHS_MAX: usize = 8;
const DEATHS_WITHIN: Duration = Duration::from_secs(60);

/// Members of the ring.
const CACHES_MIN: usize = 3;
const CACHES_MAX: usize = 8;

/// How long an operator drains somebody.
const DRAINED_FOR: Duration = Duration::from_secs(15);

/// Who is drained at the same time.
const DRAINED_MAX: usize = 2;

/// A line with the numbers comes after so many things that happened.
const SUMMARY_EVERY: u32 = 10;

/// How fast, and which things are drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Things that happen in a minute, at least 1.
    pub rate: u16,
    pub seed: u64,
}

pub(super) struct Life<'a> {
    fleet: &'a mut Fleet,
    pause: Duration,
    chance: fastrand::Rng,
    begun: Instant,
    drained: Vec<Drained>,
    /// When the last ones died.
    deaths: Vec<Instant>,
    happened: u32,
}

/// Somebody whom the operator drains.
struct Drained {
    app: String,
    id: String,
    until: Instant,
}

impl<'a> Life<'a> {
    pub fn of(fleet: &'a mut Fleet, pace: Pace) -> Self {
        Self {
            fleet,
            pause: Duration::from_secs(60) / u32::from(pace.rate.max(1)),
            chance: fastrand::Rng::with_seed(pace.seed),
            begun: Instant::now(),
            drained: Vec::new(),
            // Those of the story.
            deaths: vec![Instant::now(); DEATHS_MAX],
            happened: 0,
        }
    }

    /// Ends only when nobody reads what is told.
    pub async fn live(mut self) -> Result<(), End> {
        let ring = self.begin_ring().await;
        self.tell(ring)?;
        loop {
            sleep(self.pause).await;
            let happened = self.act().await;
            self.tell(happened)?;
            self.happened += 1;
            if self.happened.is_multiple_of(SUMMARY_EVERY) {
                let summary = self.summary().await;
                self.tell(summary)?;
            }
        }
    }

    /// What happened, or what failed.
    fn tell(&self, happened: Result<String, Error>) -> Result<(), End> {
        let seconds = self.begun.elapsed().as_secs();
        let text = happened.unwrap_or_else(|error| format!("that failed: {error}"));
        print(&format!("   {:>2}:{:02}  {text}", seconds / 60, seconds % 60))
    }

    async fn act(&mut self) -> Result<String, Error> {
        if let Some(over) = self.drained.iter().position(|one| one.until <= Instant::now()) {
            let drained = self.drained.swap_remove(over);
            return self.resume(drained).await;
        }
        match self.chance.u8(0..100) {
            0..50 => self.move_transports().await,
            50..70 => self.scale_fetchers().await,
            70..88 => self.turn_ring().await,
            _ => self.drain().await,
        }
    }

    async fn begin_ring(&mut self) -> Result<String, Error> {
        self.fleet.make_ring().await?;
        while self.fleet.caches.len() < CACHES_MIN + 1 {
            self.fleet.start_cache().await?;
        }
        let count = self.fleet.caches.len();
        Ok(format!("{count} caches make a ring that owns keys: {}", self.fleet.caches_app()))
    }

    /// How many transports there should be now.
    fn wave(&self) -> usize {
        let turn = self.begun.elapsed().as_secs_f64() / WAVE_EVERY.as_secs_f64();
        let swing = 1.0 + WAVE * (turn * std::f64::consts::TAU).sin();
        (self.fleet.transports_wanted as f64 * swing) as usize
    }

    /// Towards what the wave says.
    async fn move_transports(&mut self) -> Result<String, Error> {
        let together = (self.fleet.transports_wanted / TOGETHER).max(1);
        let count = self.chance.usize(1..=together);
        if self.fleet.transports.len() < self.wave() {
            return self.arrive(count).await;
        }
        let dying = count.min(DIE_TOGETHER);
        if self.chance.u8(0..3) == 0 && self.may_die(dying) {
            return self.die(dying);
        }
        self.leave(count).await
    }

    /// Whether so many more may die now.
    fn may_die(&mut self, count: usize) -> bool {
        self.deaths.retain(|at| at.elapsed() < DEATHS_WITHIN);
        self.deaths.len() + count <= DEATHS_MAX
    }

    fn died(&mut self, count: usize) {
        self.deaths.extend(std::iter::repeat_n(Instant::now(), count));
    }

    async fn arrive(&mut self, count: usize) -> Result<String, Error> {
        let came = self.fleet.register_more(count).await?;
        let told = named(&came);
        self.fleet.transports.extend(came);
        Ok(format!("{told} registered; each is a shard more"))
    }

    fn pick_transports(&mut self, count: usize) -> Vec<Transport> {
        let mut picked = Vec::new();
        while picked.len() < count && !self.fleet.transports.is_empty() {
            let at = self.chance.usize(0..self.fleet.transports.len());
            picked.push(self.fleet.transports.swap_remove(at));
        }
        picked
    }

    async fn leave(&mut self, count: usize) -> Result<String, Error> {
        let going = self.pick_transports(count);
        let told = format!("{} left; their shards go with them", named(&going));
        for transport in going {
            transport.leave().await?;
        }
        Ok(told)
    }

    fn die(&mut self, count: usize) -> Result<String, Error> {
        let dead = self.pick_transports(count);
        self.died(dead.len());
        let ttl = TTL.as_secs();
        Ok(format!("{} died: no more heartbeats, gone in {ttl} s", named(&dead)))
    }

    /// As many fetchers as the cluster wants; where there are so many, one dies.
    async fn scale_fetchers(&mut self) -> Result<String, Error> {
        let scaling = self.fleet.scaling().await?;
        let wanted = scaling["desired"].as_u64().unwrap_or(0) as usize;
        let there = self.fleet.fetchers.len();
        let signal = format!("{wanted} fetchers wanted, {there} there");
        if there < wanted {
            let id = self.fleet.start_fetcher().await?;
            return Ok(format!("{signal}: {id} joins and gets its share"));
        }
        if there > wanted {
            // The cluster names those whose departure moves least.
            let victims = scaling["victims"].as_array().into_iter().flatten();
            let victim = victims
                .filter_map(|id| id.as_str())
                .find_map(|id| self.fleet.fetchers.remove_entry(id));
            if let Some((id, fetcher)) = victim {
                fetcher.leave().await?;
                return Ok(format!("{signal}: {id} let go of its shards and left"));
            }
        }
        if !self.may_die(1) {
            return self.move_transports().await;
        }
        let ids: Vec<String> = self.fleet.fetchers.keys().cloned().collect();
        let Some(id) = self.chance.choice(&ids) else {
            return Ok(format!("{signal}: nobody works"));
        };
        drop(self.fleet.fetchers.remove(id));
        self.fleet.floor.died(id);
        self.died(1);
        Ok(format!("{id} died; the others take over its shards in {} s", TTL.as_secs()))
    }

    async fn turn_ring(&mut self) -> Result<String, Error> {
        let there = self.fleet.caches.len();
        let grows = there <= CACHES_MIN || (there < CACHES_MAX && self.chance.bool());
        if grows {
            let id = self.fleet.start_cache().await?;
            return Ok(format!("{id} joined the ring and owns keys of the others"));
        }
        let ids: Vec<String> = self.fleet.caches.keys().cloned().collect();
        let id = &ids[self.chance.usize(0..ids.len())];
        if self.chance.u8(0..3) == 0 {
            return self.weigh(id).await;
        }
        if let Some(cache) = self.fleet.caches.remove(id) {
            cache.leave().await?;
        }
        Ok(format!("{id} left the ring; only its keys move"))
    }

    async fn weigh(&mut self, id: &str) -> Result<String, Error> {
        let weight = self.chance.u16(1..=4);
        let app = self.fleet.caches_app();
        let call = Call::patch(path(&["v1", "apps", &app, "instances", id])?);
        self.fleet.client(0).send(call.json(&json!({"weight": weight}))?).await?;
        Ok(format!("{id} has weight {weight} on the ring now"))
    }

    /// A cache, a fetcher or a transport.
    async fn drain(&mut self) -> Result<String, Error> {
        let Some((app, id)) = self.pick_to_drain() else {
            return self.move_transports().await;
        };
        let call = Call::put(override_of(&app, &id)?).json(&json!({
            "state": "draining",
            "reason": "roster demo",
            "expires": format!("{}s", 2 * DRAINED_FOR.as_secs()),
        }))?;
        self.fleet.client(0).send(call).await?;
        let told = format!("an operator drains {id} for {} s", DRAINED_FOR.as_secs());
        self.drained.push(Drained { app, id, until: Instant::now() + DRAINED_FOR });
        Ok(told)
    }

    fn pick_to_drain(&mut self) -> Option<(String, String)> {
        if self.drained.len() >= DRAINED_MAX {
            return None;
        }
        let (app, ids): (String, Vec<&String>) = match self.chance.u8(0..3) {
            0 => (self.fleet.fetchers_app(), self.fleet.fetchers.keys().collect()),
            1 => (self.fleet.caches_app(), self.fleet.caches.keys().collect()),
            _ => {
                let all = &self.fleet.transports;
                let at = self.chance.usize(0..all.len().max(1));
                return all.get(at).map(|one| (one.app.clone(), one.id.clone()));
            }
        };
        let at = self.chance.usize(0..ids.len().max(1));
        let id = ids.get(at).map(|id| (*id).clone())?;
        (!self.drained.iter().any(|one| one.id == id)).then_some((app, id))
    }

    async fn resume(&self, drained: Drained) -> Result<String, Error> {
        let Drained { app, id, .. } = drained;
        self.fleet.client(0).send(Call::delete(override_of(&app, &id)?)).await?;
        Ok(format!("the operator lets {id} work again"))
    }

    async fn summary(&self) -> Result<String, Error> {
        let scaling = self.fleet.scaling().await?;
        Ok(format!(
            "= {} transports, {} fetchers ({} wanted), a ring of {}",
            self.fleet.transports.len(),
            self.fleet.fetchers.len(),
            scaling["desired"],
            self.fleet.caches.len(),
        ))
    }
}

fn override_of(app: &str, id: &str) -> Result<String, Error> {
    path(&["v1", "apps", app, "instances", id, "override"])
}

/// One by its name, several by their number.
fn named(transports: &[Transport]) -> String {
    match transports {
        [one] => format!("transport {}", one.id),
        several => format!("{} transports", several.len()),
    }
}
