//! `roster ring`: who owns which key.

use roster_storage::limits::RING_REPLICAS_MAX;
use serde::Deserialize;
use serde_json::{Value, json};

use super::asking::{End, Output, Target, print, print_answer, print_json, print_name};
use super::grid::Grid;
use super::lists::{Follow, shown_anew};
use super::table::escaped;
use crate::client::{
    Answer, Call, Client, Error, Revision, RingDescription, RingView, WatchRequest, path,
};

/// Show who owns which key of an app's ring; switch rings on and off
#[derive(Debug, clap::Args)]
pub(super) struct Ring {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show a ring: its workers and the share of each
    #[command(visible_alias = "show", after_help = "Example: roster ring get fetchers")]
    Get(Get),
    /// Show who owns keys
    #[command(after_help = "Example: roster ring lookup fetchers disk-17 disk-18 --replicas 2")]
    Lookup(Lookup),
    /// Show what would move if workers left and joined; nothing happens
    #[command(after_help = "Example: roster ring simulate fetchers --leave f1 --join f9=2")]
    Simulate(Simulate),
    /// Switch a ring on, or change its number of replicas; what is not named stays as it is
    #[command(after_help = "Example: roster ring create fetchers --replicas 2")]
    Create(Create),
    /// Switch a ring off
    #[command(after_help = "Example: roster ring delete fetchers")]
    Delete(App),
    /// Close the gaps that departed workers left; moves many keys
    #[command(after_help = "Example: roster ring compact fetchers")]
    Compact(App),
}

#[derive(Debug, clap::Args)]
struct App {
    /// The app whose live instances are the workers
    app: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Get {
    #[command(flatten)]
    of: App,
    #[command(flatten)]
    follow: Follow,
}

#[derive(Debug, clap::Args)]
struct Lookup {
    /// The app whose live instances are the workers
    app: String,
    /// Whose owners are asked for
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// So many owners of each key; the ring's own number, if not given
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u64>,
    /// Fetch the ring and compute here, as a client does
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Simulate {
    /// The app whose live instances are the workers
    app: String,
    /// This worker leaves; may be given more than once
    #[arg(long, value_name = "ID")]
    leave: Vec<String>,
    /// This worker joins or has another weight then; may be given more than once
    #[arg(long, value_name = "ID[=WEIGHT]")]
    join: Vec<Joiner>,
    /// Tell whether this key moves, instead of counting 10,000 made-up ones; may be given more than
    /// once
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// The app whose live instances are the workers
    app: String,
    /// What keys are hashed with; cannot be changed later
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How many workers hold a key; 1 for a new ring, if not given
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u64>,
    #[command(flatten)]
    target: Target,
}

/// A worker that joins, and its weight if it is not 1.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Joiner {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u64>,
}

impl std::str::FromStr for Joiner {
    type Err = String;

    /// What comes after the last `=` is the weight.
    fn from_str(text: &str) -> Result<Self, String> {
        let (id, weight) = match text.rsplit_once('=') {
            None => (text, None),
            Some((id, weight)) => match weight.parse() {
                Ok(weight) => (id, Some(weight)),
                Err(_) => return Err(format!("the weight {weight:?} is not a number")),
            },
        };
        match id {
            "" => Err("the id is missing".into()),
            id => Ok(Self { id: id.into(), weight }),
        }
    }
}

impl Ring {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::Get(get) => get.run().await,
            What::Lookup(lookup) => lookup.run().await,
            What::Simulate(simulate) => simulate.run().await,
            What::Create(create) => create.run().await,
            What::Delete(app) => app.delete().await,
            What::Compact(app) => app.compact().await,
        }
    }
}

fn ring_path(app: &str, more: &[&str]) -> Result<String, Error> {
    path(&[&["v1", "apps", app, "ring"], more].concat())
}

/// The answer to a write.
#[derive(Deserialize)]
struct Changed {
    epoch: Option<u64>,
    revision: u64,
}

impl App {
    async fn delete(self) -> Result<(), End> {
        let call = Call::delete(ring_path(&self.app, &[])?);
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.app, || {
            let Changed { revision, .. } = answer.json()?;
            Ok(format!("the ring of {} is off since revision {revision}", escaped(&self.app)))
        })
    }

    async fn compact(self) -> Result<(), End> {
        let call = Call::post(ring_path(&self.app, &["compact"])?);
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.app, || {
            let Changed { epoch, .. } = answer.json()?;
            let epoch = epoch.unwrap_or_default();
            Ok(format!("the ring of {} has no gaps; it is at epoch {epoch}", escaped(&self.app)))
        })
    }
}

impl Get {
    async fn run(self) -> Result<(), End> {
        let App { app, target } = &self.of;
        let (apps, kinds) = (vec![app.clone()], vec!["ring".into()]);
        let request = WatchRequest { apps, kinds, ..WatchRequest::default() };
        let call = Call::get(ring_path(app, &[])?);
        shown_anew(target, self.follow, request, call, |answer| {
            print_answer(target.output, answer, app, || {
                let LeftOut { left_out } = answer.json()?;
                Ok(ring_text(target, &answer.json()?, &left_out))
            })
        })
        .await
    }
}

/// Workers that have no place on a ring, since it is full.
#[derive(Deserialize)]
struct LeftOut {
    #[serde(default)]
    left_out: Vec<String>,
}

fn ring_text(target: &Target, ring: &RingDescription, left_out: &[String]) -> String {
    let RingDescription { group, epoch, seed, replicas, workers, slots, .. } = ring;
    let vacant = slots.iter().filter(|holder| **holder < 0).count();
    let total: u64 = workers.iter().map(|(_, weight)| weight).sum();
    let mut grid = target.grid(&["WORKER", ">WEIGHT", ">SHARE"]);
    for (id, weight) in workers {
        grid.row(&[id, weight, &percent(*weight as f64 / total.max(1) as f64)]);
    }
    let summary = format!(
        "ring {}: epoch {epoch}, {} workers, {} slots, {vacant} vacant, seed {seed}, replicas \
         {replicas}",
        escaped(group),
        workers.len(),
        slots.len(),
    );
    let mut text = format!("{summary}\n{}", grid.text());
    if !left_out.is_empty() {
        let ids = left_out.iter().map(|id| escaped(id)).collect::<Vec<_>>().join(", ");
        text += &format!("\nleft out, since the ring is full: {ids}");
    }
    text
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

impl Lookup {
    async fn run(self) -> Result<(), End> {
        let client = self.target.client()?;
        match self.local {
            true => self.compute(&client).await,
            false => self.ask(&client).await,
        }
    }

    async fn ask(&self, client: &Client) -> Result<(), End> {
        let mut body = json!({"keys": self.keys});
        if let Some(replicas) = self.replicas {
            body["replicas"] = replicas.into();
        }
        let call = Call::post(ring_path(&self.app, &["owners"])?).json(&body)?;
        let answer = client.send(call).await?;
        print_answer(self.target.output, &answer, &self.app, || self.text(answer.json()?))
    }

    /// The same document, made here.
    async fn compute(&self, client: &Client) -> Result<(), End> {
        let named = self.replicas.map(replicas_within_limits).transpose()?;
        let view: RingView = client.ring(&self.app).await?;
        let replicas = named.map_or(view.replicas(), usize::from);
        let results = self.keys.iter().map(|key| {
            let owners = view.owners(key.as_bytes(), replicas);
            Owners { owners: owners.into_iter().map(str::to_owned).collect() }
        });
        let found = Found { epoch: view.epoch().0, results: results.collect() };
        match self.target.output {
            Output::Json => print_json(&json!(found).to_string()),
            Output::Name => print_name(&self.app),
            Output::Table | Output::Wide => print(&self.text(found)?),
        }
    }

    fn text(&self, found: Found) -> Result<String, Error> {
        let mut grid = Grid::new(&["KEY", "OWNERS"]);
        for (key, Owners { owners }) in self.keys.iter().zip(&found.results) {
            let owners = match owners.is_empty() {
                true => "(no workers)".into(),
                false => owners.join(", "),
            };
            grid.row(&[key, &owners]);
        }
        Ok(format!("epoch {}\n{}", found.epoch, grid.text()))
    }
}

/// A node would refuse it otherwise.
fn replicas_within_limits(replicas: u64) -> Result<u8, Error> {
    let within = u8::try_from(replicas).ok().filter(|n| (1..=RING_REPLICAS_MAX).contains(n));
    within.ok_or_else(|| {
        Error::Invalid(format!("--replicas is {replicas}; it must be 1 to {RING_REPLICAS_MAX}"))
    })
}

#[derive(serde::Serialize, Deserialize)]
struct Found {
    epoch: u64,
    results: Vec<Owners>,
}

#[derive(serde::Serialize, Deserialize)]
struct Owners {
    owners: Vec<String>,
}

impl Simulate {
    async fn run(self) -> Result<(), End> {
        let mut body = json!({"leave": self.leave, "join": self.join});
        if !self.keys.is_empty() {
            body["keys"] = self.keys.clone().into();
        }
        let call = Call::post(ring_path(&self.app, &["simulate"])?).json(&body)?;
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.app, || Ok(simulated_text(&answer.json()?)))
    }
}

#[derive(Deserialize)]
struct Simulated {
    epoch: u64,
    keys: u64,
    moved: u64,
    moves: Vec<Value>,
    #[serde(default)]
    moves_left_off: u64,
    workers: Vec<Share>,
}

#[derive(Deserialize)]
struct Share {
    id: String,
    weight_before: u64,
    weight_after: u64,
    share_before: f64,
    share_after: f64,
}

fn simulated_text(simulated: &Simulated) -> String {
    let Simulated { epoch, keys, moved, moves, moves_left_off, workers } = simulated;
    let part = percent(*moved as f64 / (*keys).max(1) as f64);
    let mut text = format!("epoch {epoch}: {moved} of {keys} keys would move ({part})\n\n");
    let mut grid = Grid::new(&["WORKER", ">WEIGHT", ">AFTER", ">SHARE", ">AFTER"]);
    for worker in workers {
        let (before, after) = (percent(worker.share_before), percent(worker.share_after));
        grid.row(&[&worker.id, &worker.weight_before, &worker.weight_after, &before, &after]);
    }
    text += &grid.text();
    if !moves.is_empty() {
        let mut grid = Grid::new(&["KEY", "FROM", "TO"]);
        for one in moves {
            grid.row(&[&word(&one["key"]), &word(&one["from"]), &word(&one["to"])]);
        }
        text += &format!("\n\n{}", grid.text());
    }
    // Without keys of the caller's own, none are listed.
    if !moves.is_empty() && *moves_left_off > 0 {
        text += &format!("\n{moves_left_off} more moves are not listed");
    }
    text
}

/// A text, or a dash where there is none.
pub(super) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// What a ring is made with.
#[derive(Clone, Copy)]
struct Parameters {
    seed: Option<u64>,
    replicas: Option<u64>,
}

impl Create {
    async fn run(self) -> Result<(), End> {
        let client = self.target.client()?;
        let named = Parameters { seed: self.seed, replicas: self.replicas };
        match client.send(self.put(named)?.if_absent()).await {
            Ok(answer) => self.tell(&answer, "is on"),
            Err(error) if error.code() == "ring-exists" => self.change(&client).await,
            Err(error) => Err(error.into()),
        }
    }

    /// A node takes what a call does not name for the default, so all of it is named.
    async fn change(&self, client: &Client) -> Result<(), End> {
        let there = client.send(Call::get(ring_path(&self.app, &[])?)).await?;
        let ring: RingDescription = there.json()?;
        let had = Parameters { seed: Some(ring.seed), replicas: Some(ring.replicas) };
        let wanted =
            Parameters { seed: self.seed.or(had.seed), replicas: self.replicas.or(had.replicas) };
        if (wanted.seed, wanted.replicas) == (had.seed, had.replicas) {
            return self.tell_unchanged(&there, &ring);
        }
        let answer = client.send(self.put(wanted)?).await?;
        let (replicas, before) = (wanted.replicas.unwrap_or_default(), ring.replicas);
        match answer.status {
            // Somebody has switched it off meanwhile.
            201 => self.tell(&answer, "is on"),
            _ => self.tell(&answer, &format!("has replicas {replicas} now, {before} before")),
        }
    }

    fn put(&self, Parameters { seed, replicas }: Parameters) -> Result<Call, Error> {
        let mut body = json!({});
        if let Some(seed) = seed {
            body["seed"] = seed.into();
        }
        if let Some(replicas) = replicas {
            body["replicas"] = replicas.into();
        }
        Call::put(ring_path(&self.app, &[])?).json(&body)
    }

    fn tell(&self, answer: &Answer, what: &str) -> Result<(), End> {
        print_answer(self.target.output, answer, &self.app, || {
            let Changed { epoch, .. } = answer.json()?;
            Ok(self.text(what, epoch.unwrap_or_default()))
        })
    }

    /// Nothing was written; programs get what a write would have been answered with.
    fn tell_unchanged(&self, there: &Answer, ring: &RingDescription) -> Result<(), End> {
        let Revision(epoch) = ring.epoch;
        match self.target.output {
            Output::Json => {
                let revision = there.revision.unwrap_or(ring.epoch);
                let answer = json!({"app": self.app, "epoch": epoch, "revision": revision});
                print_json(&answer.to_string())
            }
            Output::Name => print_name(&self.app),
            Output::Table | Output::Wide => {
                let what = format!("is as it was before, with replicas {}", ring.replicas);
                print(&self.text(&what, epoch))
            }
        }
    }

    fn text(&self, what: &str, epoch: u64) -> String {
        format!("the ring of {} {what}; it is at epoch {epoch}", escaped(&self.app))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joiner_may_have_a_weight_and_an_id_with_an_equals_sign() {
        let joiner = |text: &str| text.parse::<Joiner>();
        let expect = |id: &str, weight| Ok(Joiner { id: id.into(), weight });
        assert_eq!(joiner("f9"), expect("f9", None));
        assert_eq!(joiner("f9=4"), expect("f9", Some(4)));
        assert_eq!(joiner("zone=a=4"), expect("zone=a", Some(4)));
        assert!(joiner("f9=heavy").is_err());
        assert!(joiner("=4").is_err());
    }
}
