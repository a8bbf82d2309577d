//! What everybody was told of rings, which must be one assignment per epoch, for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{At, Client, Failed};
use crate::seed::Seed;
use crate::watch::Run;

/// How long one node is given before the next one is asked.
const NODE_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Between two questions of a reader.
const PAUSE: Duration = Duration::from_millis(5);

/// Keys that a reader asks for at once.
const KEYS_ASKED: usize = 40;

/// Kept by all readers of a test together. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RingBook(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// By app and epoch: the description, and who was the first to be told it.
    rings: BTreeMap<(String, u64), (Value, String)>,
    /// By app, epoch and key: the owners, and who was the first to be told them.
    owners: BTreeMap<(String, u64, String), (Value, String)>,
    /// Answers that were held against these.
    answers: usize,
}

impl RingBook {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("no test task panicked meanwhile")
    }

    /// A description, as a node gave it or told it.
    pub fn described(&self, who: &str, app: &str, description: &Value) {
        let epoch = epoch_of(description);
        let told = (computed_from(description), who.to_owned());
        let mut seen = self.lock();
        seen.answers += 1;
        let first = seen.rings.entry((app.to_owned(), epoch)).or_insert_with(|| told.clone());
        assert_eq!(
            first.0, told.0,
            "epoch {epoch} of the ring of {app} was the left for {}, and the right for {}",
            first.1, told.1
        );
    }

    /// Who owns these keys, as a node answered.
    fn owned(&self, who: &str, app: &str, keys: &[String], answer: &Value) {
        let epoch = epoch_of(answer);
        let results = answer["results"].as_array().expect("results");
        assert_eq!(results.len(), keys.len(), "{who}: one result per key");
        let mut seen = self.lock();
        seen.answers += 1;
        for (key, result) in keys.iter().zip(results) {
            let told = (result["owners"].clone(), who.to_owned());
            let place = (app.to_owned(), epoch, key.clone());
            let first = seen.owners.entry(place).or_insert_with(|| told.clone());
            assert_eq!(
                first.0, told.0,
                "key {key} at epoch {epoch} of {app} was the left's for {}, the right's for {}",
                first.1, told.1
            );
        }
    }

    /// What a watch of rings told: each epoch at its own revision, as everybody else has it.
    pub fn told(&self, run: &Run) {
        for (revision, events) in &run.revisions {
            for event in events.iter().filter(|event| event["event"] == "put") {
                let app = event["app"].as_str().expect("an app");
                assert_eq!(epoch_of(&event["value"]), *revision, "{}: {event}", run.who);
                self.described(&run.who, app, &event["value"]);
            }
        }
    }

    /// All epochs of an app's ring that anybody saw, from low to high.
    pub fn epochs(&self, app: &str) -> Vec<u64> {
        self.lock().rings.keys().filter(|(of, _)| of == app).map(|(_, epoch)| *epoch).collect()
    }

    /// Answers that were held against each other.
    pub fn answers(&self) -> usize {
        self.lock().answers
    }

    /// Calls `with` for each epoch of each ring with its description, and with the keys and owners
    /// that nodes named under it.
    pub fn for_each_epoch(&self, mut with: impl FnMut(&Value, &[(&str, &Value)])) {
        let seen = self.lock();
        for ((app, epoch), (description, _)) in &seen.rings {
            let from = (app.clone(), *epoch, String::new());
            let of_epoch = seen.owners.range(from..);
            let named: Vec<_> = of_epoch
                .take_while(|((of, at, _), _)| of == app && at == epoch)
                .map(|((_, _, key), (owners, _))| (key.as_str(), owners))
                .collect();
            with(description, &named);
        }
    }
}

/// Of a description or of an answer about owners.
pub fn epoch_of(answer: &Value) -> u64 {
    answer["epoch"].as_u64().unwrap_or_else(|| panic!("there is no epoch in {answer}"))
}

/// The part of a description that owners follow from.
pub fn computed_from(description: &Value) -> Value {
    let names = ["v", "kind", "group", "epoch", "seed", "replicas", "workers", "slots"];
    let fields = names.iter().map(|name| ((*name).to_owned(), description[*name].clone()));
    Value::Object(fields.collect())
}

/// The description at a node.
pub async fn ring(at: &At<'_>, app: &str) -> Result<Value, Failed> {
    Ok(at.get(&format!("/v1/apps/{app}/ring")).await?.json())
}

/// The owners of keys, as `replicas` or the ring say how many.
pub async fn owners(
    at: &At<'_>,
    app: &str,
    keys: &[String],
    replicas: Option<u8>,
) -> Result<Value, Failed> {
    let mut body = json!({ "keys": keys });
    if let Some(replicas) = replicas {
        body["replicas"] = replicas.into();
    }
    let request = at.request(reqwest::Method::POST, &format!("/v1/apps/{app}/ring/owners"));
    Ok(at.send(request.json(&body)).await?.json())
}

/// `key-0` and so on.
pub fn keys(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("key-{i}")).collect()
}

/// Clients that ask all nodes about rings all the time.
pub struct RingReaders {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl RingReaders {
    pub fn start(
        client: &Client,
        book: &RingBook,
        apps: &[&'static str],
        readers: usize,
        seed: &mut Seed,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for number in 0..readers {
            let reader = Reader {
                number,
                client: client.patient(NODE_TIMEOUT),
                book: book.clone(),
                apps: apps.to_vec(),
                newest: BTreeMap::new(),
                seed: seed.split(),
            };
            tasks.spawn(reader.read(stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Lets each reader end what it is doing.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no reader panicked");
        }
    }
}

struct Reader {
    number: usize,
    client: Client,
    book: RingBook,
    apps: Vec<&'static str>,
    /// By app: the highest epoch that it was told, by whichever node.
    newest: BTreeMap<&'static str, u64>,
    seed: Seed,
}

impl Reader {
    async fn read(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if let Err(failed) = self.ask().await {
                // Nodes may be dead, and there may be no leader: that is as planned.
                let planned = failed.status().is_none_or(|status| status >= 500);
                assert!(planned, "reader {} was refused: {failed}", self.number);
            }
            sleep(PAUSE).await;
        }
    }

    async fn ask(&mut self) -> Result<(), Failed> {
        let ids = self.client.ids();
        let node = ids[self.seed.below(ids.len())];
        let app = self.apps[self.seed.below(self.apps.len())];
        let client = self.client.clone();
        let at = client.at(node);
        let who = format!("reader {} at node {node}", self.number);
        let answer = if self.seed.below(2) == 0 {
            let description = ring(&at, app).await?;
            self.book.described(&who, app, &description);
            description
        } else {
            let keys = keys(KEYS_ASKED);
            let answer = owners(&at, app, &keys, Some(2)).await?;
            self.book.owned(&who, app, &keys, &answer);
            answer
        };
        self.goes_on(&who, app, epoch_of(&answer));
        Ok(())
    }

    /// These reads are linearizable, so an epoch that was seen is seen by all later ones, wherever.
    fn goes_on(&mut self, who: &str, app: &'static str, epoch: u64) {
        let newest = self.newest.entry(app).or_default();
        assert!(epoch >= *newest, "{who}: the ring of {app} went back from {newest} to {epoch}");
        *newest = epoch;
    }
}
