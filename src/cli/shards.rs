//! `roster shards`: who works on which shard.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::asking::{End, Output, Target, note, print_answer, print_json};
use super::grid::Grid;
use super::lists::{Follow, Paging, Source, shown_anew};
use super::ring::{Joiner, word};
use super::table::escaped;
use crate::client::{Call, Client, Error, Grant, Revision, WatchRequest, path};
use crate::config::Span;

/// The largest page of a list.
const PAGE: usize = 10_000;

/// Show who works on which shard; make and change shard sets
#[derive(Debug, clap::Args)]
pub(super) struct Shards {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the shards of a set and who holds them
    #[command(after_help = "Example: roster shards list polling --worker f1")]
    List(List),
    /// Show the workers of a set and their load
    #[command(after_help = "Example: roster shards workers polling")]
    Workers(Workers),
    /// Show all shard sets and how far the work of each is shared out
    #[command(after_help = "Example: roster shards sets --watch")]
    Sets(Sets),
    /// Show what would move if workers joined or left; nothing happens
    #[command(after_help = "Example: roster shards plan polling --leave f1")]
    Plan(Plan),
    /// Take shards from who holds them, so that they are planned anew; the holder may still be at
    /// work on them
    #[command(after_help = "Example: roster shards release polling pay/10.0.0.1:8719")]
    Release(Release),
    /// Show a set and how far its work is shared out
    #[command(visible_alias = "show", after_help = "Example: roster shards get polling")]
    Get(Shown),
    /// Make a shard set, or change it
    #[command(
        after_help = "Example: roster shards create polling --workers fetchers --apps pay,cart"
    )]
    Create(Create),
    /// Remove a shard set; its shards and workers stay registered
    #[command(after_help = "Example: roster shards delete polling")]
    Delete(Set),
    /// Show how many workers a set should have, and why
    #[command(after_help = "Example: roster shards scaling polling")]
    Scaling(Shown),
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The shard set
    set: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Shown {
    #[command(flatten)]
    of: Set,
    #[command(flatten)]
    follow: Follow,
}

#[derive(Debug, clap::Args)]
struct Workers {
    /// The shard set
    set: String,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Sets {
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct List {
    /// The shard set
    set: String,
    /// Only what this worker holds
    #[arg(long, value_name = "ID")]
    worker: Option<String>,
    /// Only shards of this app
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Also shards whose instance is gone and that their holder has not let go yet
    #[arg(long)]
    gone: bool,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Plan {
    /// The shard set
    set: String,
    /// This worker joins or has another weight then; may be given more than once
    #[arg(long, value_name = "ID[=WEIGHT]")]
    join: Vec<Joiner>,
    /// This worker leaves; may be given more than once
    #[arg(long, value_name = "ID")]
    leave: Vec<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Release {
    /// The shard set
    set: String,
    /// Which ones, as `roster shards list` names them
    #[arg(required = true, value_name = "SHARD")]
    shards: Vec<String>,
    /// Only if the shard is held under this grant; otherwise under the one that is read first
    #[arg(long, value_name = "REVISION")]
    grant: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Create {
    /// The shard set
    set: String,
    /// The app whose instances are the workers
    #[arg(long, value_name = "APP")]
    workers: String,
    /// The apps whose instances are the shards, or '*' for all but the workers' own
    #[arg(long, required = true, value_delimiter = ',', value_name = "APP,…")]
    apps: Vec<String>,
    /// How many workers stand for a shard: its holder and its standbys
    #[arg(long, value_name = "COUNT")]
    copies: Option<u16>,
    /// Tell how many workers there should be, one for so many shards
    #[arg(long, value_name = "COUNT", requires = "max")]
    shards_per_worker: Option<u32>,
    /// Never fewer workers
    #[arg(long, value_name = "COUNT", requires = "shards_per_worker")]
    min: Option<u32>,
    /// Never more workers
    #[arg(long, value_name = "COUNT", requires = "shards_per_worker")]
    max: Option<u32>,
    /// How long fewer workers must be enough before there are fewer
    #[arg(long, value_name = "DURATION", requires = "shards_per_worker")]
    cooldown: Option<Span>,
    #[command(flatten)]
    target: Target,
}

impl Shards {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::List(list) => list.run().await,
            What::Workers(workers) => workers.run().await,
            What::Sets(sets) => sets.run().await,
            What::Plan(plan) => plan.run().await,
            What::Release(release) => release.run().await,
            What::Get(shown) => shown.get().await,
            What::Create(create) => create.run().await,
            What::Delete(set) => set.delete().await,
            What::Scaling(shown) => shown.scaling().await,
        }
    }
}

fn set_path(set: &str, more: &[&str]) -> Result<String, Error> {
    path(&[&["v1", "shard-sets", set], more].concat())
}

impl List {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::get(set_path(&self.set, &["shards"])?);
        if let Some(worker) = &self.worker {
            call = call.query("worker", worker);
        }
        if let Some(app) = &self.app {
            call = call.query("app", app);
        }
        if self.gone {
            call = call.query("gone", true);
        }
        let request = WatchRequest {
            kinds: ["worker", "shard"].map(String::from).to_vec(),
            ..WatchRequest::default()
        };
        let source = Source {
            target: &self.target,
            call,
            items: Some("shards"),
            columns: &["SHARD", "ADDRESS", "HOLDER", ">GRANT", "NEXT", "STATE"],
            row: shard_row,
            name: |shard| word(&shard["shard"]).to_owned(),
            limit: self.paging.limit(),
        };
        source.show(self.paging.follow, request).await
    }
}

fn shard_row(grid: &mut Grid, shard: &Value) {
    let [name, holder, next] = ["shard", "holder", "next"].map(|field| word(&shard[field]));
    let (address, state) = (address(shard), shard_state(shard));
    grid.row(&[&name, &address, &holder, &shard["grant"], &next, &state]);
}

fn shard_state(shard: &Value) -> &'static str {
    match (shard["gone"].as_bool(), shard["holder"].is_string(), shard["next"].is_string()) {
        (Some(true), _, _) => "gone, held",
        (_, false, _) => "orphaned",
        (_, true, true) => "moving",
        (_, true, false) => "held",
    }
}

fn address(item: &Value) -> String {
    match (item["ip"].as_str(), item["port"].as_u64()) {
        (Some(ip), Some(port)) => format!("{ip}:{port}"),
        _ => "-".into(),
    }
}

impl Workers {
    async fn run(self) -> Result<(), End> {
        let request = WatchRequest {
            kinds: ["worker", "instance"].map(String::from).to_vec(),
            ..WatchRequest::default()
        };
        let columns = [
            "WORKER",
            "ADDRESS",
            "STATE",
            "ZONE",
            ">WEIGHT",
            ">HELD",
            ">INCOMING",
            ">RELEASING",
            ">LOAD",
        ];
        let source = Source {
            target: &self.target,
            call: Call::get(set_path(&self.set, &["workers"])?),
            items: Some("workers"),
            columns: &columns,
            row: worker_row,
            name: |worker| word(&worker["id"]).to_owned(),
            limit: self.paging.limit(),
        };
        source.show(self.paging.follow, request).await
    }
}

fn worker_row(grid: &mut Grid, worker: &Value) {
    let [id, state, zone] = ["id", "state", "zone"].map(|field| word(&worker[field]));
    let numbers = ["weight", "held", "incoming", "releasing", "load"];
    let [weight, held, incoming, releasing, load] = numbers.map(|name| &worker[name]);
    grid.row(&[&id, &address(worker), &state, &zone, weight, held, incoming, releasing, load]);
}

impl Sets {
    async fn run(self) -> Result<(), End> {
        let request = WatchRequest {
            kinds: ["worker", "instance"].map(String::from).to_vec(),
            ..WatchRequest::default()
        };
        let columns = [
            "SET",
            "WORKERS",
            ">SHARDS",
            ">ASSIGNED",
            ">PENDING",
            ">ORPHANED",
            ">AVAILABLE",
            "+APPS",
            "+>COPIES",
            "+>EPOCH",
        ];
        let source = Source {
            target: &self.target,
            call: Call::get("/v1/shard-sets".into()),
            items: Some("shard_sets"),
            columns: &columns,
            row: sets_row,
            name: |set| word(&set["set"]).to_owned(),
            limit: self.paging.limit(),
        };
        source.show(self.paging.follow, request).await
    }
}

fn sets_row(grid: &mut Grid, set: &Value) {
    let counts = &set["counts"];
    let numbers = ["shards", "assigned", "pending", "orphaned", "available_workers"];
    let [shards, assigned, pending, orphaned, available] = numbers.map(|name| &counts[name]);
    let apps = set["apps"].as_array().into_iter().flatten().map(word).collect::<Vec<_>>();
    grid.row(&[
        &word(&set["set"]),
        &word(&set["workers"]),
        shards,
        assigned,
        pending,
        orphaned,
        available,
        &apps.join(","),
        &set["copies"],
        &set["epoch"],
    ]);
}

impl Set {
    async fn delete(self) -> Result<(), End> {
        let answer = self.target.client()?.send(Call::delete(set_path(&self.set, &[])?)).await?;
        print_answer(self.target.output, &answer, &self.set, || {
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("shard set {} is gone since revision {revision}", escaped(&self.set)))
        })
    }
}

impl Shown {
    async fn get(self) -> Result<(), End> {
        let target = &self.of.target;
        self.show(&[], |set| set_text(target, set)).await
    }

    async fn scaling(self) -> Result<(), End> {
        self.show(&["scaling"], scaling_text).await
    }

    /// Counts and scaling follow from who is there and from who holds what.
    async fn show(&self, what: &[&str], text: impl Fn(&Value) -> String) -> Result<(), End> {
        let Set { set, target } = &self.of;
        let kinds = ["worker", "instance"].map(String::from).to_vec();
        let request = WatchRequest { kinds, ..WatchRequest::default() };
        let call = Call::get(set_path(set, what)?);
        shown_anew(target, self.follow, request, call, |answer| {
            print_answer(target.output, answer, set, || Ok(text(&answer.json()?)))
        })
        .await
    }
}

fn set_text(target: &Target, set: &Value) -> String {
    let counts = &set["counts"];
    let apps = set["apps"].as_array().into_iter().flatten().map(word).collect::<Vec<_>>();
    let mut grid = target.grid(&["SET", "WORKERS", "APPS", ">COPIES", ">EPOCH"]);
    let name = word(&set["set"]);
    let workers = word(&set["workers"]);
    grid.row(&[&name, &workers, &apps.join(","), &set["copies"], &set["epoch"]]);
    let columns = [
        ">SHARDS",
        ">ASSIGNED",
        ">PENDING",
        ">ORPHANED",
        ">GONE",
        ">WORKERS",
        ">AVAILABLE",
        ">IMBALANCE",
    ];
    let mut counted = target.grid(&columns);
    let names =
        ["shards", "assigned", "pending", "orphaned", "gone", "workers", "available_workers"];
    let [shards, assigned, pending, orphaned, gone, workers, available] =
        names.map(|name| &counts[name]);
    let imbalance = &set["imbalance"];
    counted.row(&[shards, assigned, pending, orphaned, gone, workers, available, imbalance]);
    format!("{}\n\n{}", grid.text(), counted.text())
}

fn scaling_text(scaling: &Value) -> String {
    let number = |name: &str| scaling[name].to_string();
    let victims = scaling["victims"].as_array().into_iter().flatten().map(word);
    let victims = victims.collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "{} workers wanted, {} there (min {}, max {}): {}",
        number("desired"),
        number("current"),
        number("min"),
        number("max"),
        escaped(word(&scaling["reason"])),
    );
    if !victims.is_empty() {
        text += &format!("\nstop first: {}", escaped(&victims));
    }
    text
}

impl Plan {
    async fn run(self) -> Result<(), End> {
        let body = json!({"join": self.join, "leave": self.leave});
        let call = Call::post(set_path(&self.set, &["plan"])?).json(&body)?;
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.set, || Ok(plan_text(&answer.json()?)))
    }
}

fn plan_text(plan: &Value) -> String {
    let list = |name: &str| plan[name].as_array().cloned().unwrap_or_default();
    let (moves, left_off) = (list("moves"), plan["moves_left_off"].as_u64().unwrap_or(0));
    let mut text = format!(
        "epoch {}: {} shards would move; {} of them from workers that stay, where the fewest \
         possible is {}\n\n",
        plan["epoch"],
        moves.len() as u64 + left_off,
        plan["voluntary"],
        plan["fewest"],
    );
    let mut grid = Grid::new(&["WORKER", ">SHARDS", ">AFTER"]);
    for load in list("loads") {
        grid.row(&[&word(&load["worker"]), &load["before"], &load["after"]]);
    }
    text += &grid.text();
    if !moves.is_empty() {
        let mut grid = Grid::new(&["SHARD", "FROM", "TO"]);
        for one in &moves {
            grid.row(&[&word(&one["shard"]), &word(&one["from"]), &word(&one["to"])]);
        }
        text += &format!("\n\n{}", grid.text());
    }
    if left_off > 0 {
        text += &format!("\n{left_off} more moves are not listed");
    }
    text
}

/// What is known of who holds a shard.
#[derive(Deserialize)]
struct Held {
    shard: String,
    holder: Option<String>,
    grant: Revision,
}

impl Release {
    async fn run(self) -> Result<(), End> {
        let client = self.target.client()?;
        let grants = match self.grant {
            Some(grant) => self.under(grant),
            None => self.read_grants(&client).await?,
        };
        if grants.is_empty() {
            return self.tell_nothing();
        }
        let call =
            Call::post(set_path(&self.set, &["release"])?).json(&json!({"shards": grants}))?;
        let answer = client.send(call).await?;
        let results: Value = answer.json()?;
        print_answer(self.target.output, &answer, &self.set, || {
            Ok(released_text(&results, &grants))
        })?;
        let results = results["results"].as_array().into_iter().flatten();
        match results.filter(|one| !one["code"].is_null()).count() {
            0 => Ok(()),
            _ => Err(End::NotAll("some shards were not released")),
        }
    }

    /// That nobody holds any of them has been told; programs get the answer to a release of nothing.
    fn tell_nothing(&self) -> Result<(), End> {
        match self.target.output {
            Output::Json => print_json(&json!({"results": []}).to_string()),
            Output::Table | Output::Wide | Output::Name => Ok(()),
        }
    }

    fn under(&self, grant: Revision) -> Vec<Grant> {
        self.shards.iter().map(|shard| Grant { shard: shard.clone(), grant }).collect()
    }

    /// Says which ones cannot be released.
    async fn read_grants(&self, client: &Client) -> Result<Vec<Grant>, End> {
        let known = all_held(client, &self.set).await?;
        let mut grants = Vec::new();
        for shard in &self.shards {
            match known.get(shard) {
                Some(Held { holder: Some(_), grant, .. }) => {
                    grants.push(Grant { shard: shard.clone(), grant: *grant });
                }
                Some(_) => note(&format!("nobody holds {shard}; there is nothing to release")),
                None => {
                    let problem = format!("shard set {:?} has no shard {shard:?}", self.set);
                    return Err(Error::Invalid(problem).into());
                }
            }
        }
        Ok(grants)
    }
}

/// All shards of a set, gone ones too, by id.
async fn all_held(client: &Client, set: &str) -> Result<BTreeMap<String, Held>, End> {
    #[derive(Deserialize)]
    struct Page {
        shards: Vec<Held>,
        next_cursor: Option<String>,
    }
    let path = set_path(set, &["shards"])?;
    let mut known = BTreeMap::new();
    let mut cursor = None::<String>;
    loop {
        let mut call = Call::get(path.clone()).query("gone", true).query("limit", PAGE);
        if let Some(cursor) = &cursor {
            call = call.query("cursor", cursor);
        }
        let page: Page = client.send(call).await?.json()?;
        known.extend(page.shards.into_iter().map(|held| (held.shard.clone(), held)));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(known);
        }
    }
}

fn released_text(answer: &Value, grants: &[Grant]) -> String {
    let mut grid = Grid::new(&["SHARD", ">GRANT", "RESULT"]);
    let results = answer["results"].as_array().into_iter().flatten();
    for (result, Grant { grant, .. }) in results.zip(grants) {
        let told = match result["code"].as_str() {
            None => "released".to_owned(),
            Some(code) => format!("{code}: {}", word(&result["detail"])),
        };
        grid.row(&[&word(&result["shard"]), grant, &told]);
    }
    grid.text()
}

impl Create {
    async fn run(self) -> Result<(), End> {
        let call = Call::put(set_path(&self.set, &[])?).json(&self.body())?;
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.set, || {
            let revision = answer.json::<Value>()?["revision"].clone();
            let was = if answer.status == 201 { "made" } else { "kept or changed" };
            Ok(format!("shard set {} was {was} at revision {revision}", escaped(&self.set)))
        })
    }

    fn body(&self) -> Value {
        let mut body = json!({"workers": self.workers, "apps": self.apps});
        if let Some(copies) = self.copies {
            body["copies"] = copies.into();
        }
        if let Some(shards_per_worker) = self.shards_per_worker {
            let mut scaling = json!({"shards_per_worker": shards_per_worker, "max": self.max});
            if let Some(min) = self.min {
                scaling["min"] = min.into();
            }
            if let Some(Span(cooldown)) = self.cooldown {
                scaling["cooldown"] = format!("{}ms", cooldown.as_millis()).into();
            }
            body["scaling"] = scaling;
        }
        body
    }
}
