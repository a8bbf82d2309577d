//! `roster instance`: who is registered, registering, and an operator's word about somebody.

mod register;

use std::borrow::Cow;

use serde_json::{Value, json};

use super::asking::{
    End, Output, Target, note, output_closed, print, print_answer, print_json, print_name,
};
use super::grid::Grid;
use super::lists::{Follow, Paging, Source, print_next};
use super::ring::word;
use super::table::escaped;
use crate::client::{Action, Call, Error, Event, Incarnation, Item, WatchRequest, path};
use crate::shutdown;

/// Show, register, drain and deregister instances
#[derive(Debug, clap::Args)]
pub(super) struct Instance {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the instances of an app, or of all apps
    #[command(after_help = "Example: roster instance list pay --filter 'zone == \"a\"' --watch")]
    List(List),
    /// Find instances of all apps by a text in their names, addresses or metadata
    #[command(after_help = "Example: roster instance search 10.0.0. --limit 20")]
    Search(Search),
    /// Show an instance, its metadata and what an operator said of it
    #[command(
        visible_alias = "get",
        after_help = "Example: roster instance show pay 10.0.0.1:8719"
    )]
    Show(Show),
    /// Register an instance, or update one that is there; many from a file
    ///
    /// It is removed when no heartbeat comes for its TTL. With --keep this command sends them until
    /// Ctrl-C, and deregisters it then; when another one takes the id over it ends with exit code 4.
    ///
    /// A file has a JSON object per line, as the API's instances:batch takes them, with `op` left out:
    /// {"app":"pay","id":"a","ip":"10.0.0.1","port":8080,"ttl":"30s"}. They are sent 5,000 at a time.
    /// What is refused is told by its line, and the exit code is 4 then; all else is registered.
    #[command(
        after_help = "Example: roster instance register pay a --ip 10.0.0.1 --port 8080 --keep\n\
                      roster instance register --file instances.ndjson"
    )]
    Register(register::Register),
    /// Deregister an instance, or many from a file
    #[command(
        visible_alias = "delete",
        after_help = "Example: roster instance deregister pay 10.0.0.1:8719 --reason 'moved'"
    )]
    Deregister(register::Deregister),
    /// Send one heartbeat for an instance
    #[command(after_help = "Example: roster instance heartbeat pay 10.0.0.1:8719")]
    Heartbeat(Heartbeat),
    /// Change the weight or the metadata of an instance
    #[command(after_help = "Example: roster instance update pay a --weight 2 --metadata build=48")]
    Update(Update),
    /// Take an instance out of rings and shard sets: it keeps what it holds until it lets go
    #[command(after_help = "Example: roster instance drain pay 10.0.0.1:8719 --expires 2h")]
    Drain(Override),
    /// Mark an instance as being in maintenance
    #[command(after_help = "Example: roster instance maintenance pay a --reason 'new disk'")]
    Maintenance(Override),
    /// Take back what an operator said of an instance: it is as it says itself again
    #[command(
        visible_alias = "undrain",
        after_help = "Example: roster instance resume pay 10.0.0.1:8719"
    )]
    Resume(Resume),
}

/// Which instance, in one argument or two.
#[derive(Clone, Debug, clap::Args)]
struct Which {
    /// The app; or app and id in one, as `-o name` prints them: APP/ID
    #[arg(value_name = "APP")]
    app: String,
    /// The id
    #[arg(value_name = "ID")]
    id: Option<String>,
}

impl Which {
    /// App and id.
    fn key(&self) -> Result<(String, String), Error> {
        if let Some(id) = &self.id {
            return Ok((self.app.clone(), id.clone()));
        }
        let (app, id) = self.app.split_once('/').ok_or_else(|| {
            Error::Invalid(format!("the id is missing: {:?} alone is an app", self.app))
        })?;
        Ok((app.replace("%2F", "/").replace("%25", "%"), id.to_owned()))
    }

    fn path(&self, more: &[&str]) -> Result<String, Error> {
        let (app, id) = self.key()?;
        path(&[&["v1", "apps", &app, "instances", &id], more].concat())
    }

    fn name(&self) -> Result<String, Error> {
        let (app, id) = self.key()?;
        Ok(qualified(&app, &id))
    }
}

/// App and id in one, as shards are named: `%` and `/` of the app are `%25` and `%2F`.
pub(super) fn qualified(app: &str, id: &str) -> String {
    let app = match app.contains(['%', '/']) {
        true => Cow::Owned(app.replace('%', "%25").replace('/', "%2F")),
        false => Cow::Borrowed(app),
    };
    format!("{app}/{id}")
}

#[derive(Debug, clap::Args)]
struct List {
    /// The app; all apps without it
    app: Option<String>,
    /// Only those for which this CEL expression is true, such as 'zone == "a"'
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Only those with this text in their names, addresses or metadata
    #[arg(short, value_name = "TEXT")]
    q: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Search {
    /// What is looked for
    text: String,
    /// Only those for which this CEL expression is true
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    follow: Follow,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Heartbeat {
    #[command(flatten)]
    which: Which,
    /// Only for this life of it
    #[arg(long, value_name = "REVISION")]
    incarnation: Option<Incarnation>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
#[group(id = "changes", required = true, multiple = true, args = ["weight", "metadata", "forget"])]
struct Update {
    #[command(flatten)]
    which: Which,
    /// Its part of the work, 1 to 1,024
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u16>,
    /// Adds or replaces this; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    metadata: Vec<(String, String)>,
    /// Removes this from its metadata; may be given more than once
    #[arg(long, value_name = "KEY")]
    forget: Vec<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Override {
    #[command(flatten)]
    which: Which,
    /// Why, for others who look at it
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    reason: String,
    /// Ends by itself after so long, or at such a time
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Resume {
    #[command(flatten)]
    which: Which,
    /// Why, for others who look at it
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    target: Target,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        Some(_) | None => Err("must be KEY=VALUE".into()),
    }
}

impl Instance {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::List(list) => list.run().await,
            What::Search(search) => search.run().await,
            What::Show(show) => show.run().await,
            What::Register(register) => register.run().await,
            What::Deregister(deregister) => deregister.run().await,
            What::Heartbeat(heartbeat) => heartbeat.run().await,
            What::Update(update) => update.run().await,
            What::Drain(word) => word.say("draining").await,
            What::Maintenance(word) => word.say("maintenance").await,
            What::Resume(resume) => resume.run().await,
        }
    }
}

/// Rows of a snapshot that are shown at once.
const ROWS_MAX: usize = 1_000;

const COLUMNS: [&str; 14] = [
    "APP",
    "ID",
    "ADDRESS",
    "STATE",
    "ZONE",
    "VERSION",
    ">WEIGHT",
    "+HOSTNAME",
    "+TTL",
    "+SESSION",
    "+>INCARNATION",
    "+REGISTERED AT",
    "+LAST HEARTBEAT",
    "+METADATA",
];

fn row(grid: &mut Grid, instance: &Value) {
    let [app, id, state, zone, version] =
        ["app", "id", "state", "zone", "version"].map(|field| or_dash(&instance[field]));
    let [hostname, ttl, session, registered_at, last_heartbeat] =
        ["hostname", "ttl", "session", "registered_at", "last_heartbeat"]
            .map(|field| or_dash(&instance[field]));
    let metadata = instance["metadata"].as_object().into_iter().flatten();
    let metadata: Vec<_> = metadata.map(|(key, value)| format!("{key}={}", word(value))).collect();
    let weight = instance["weight"].as_u64().map_or_else(|| "-".into(), |w| w.to_string());
    grid.row(&[
        &app,
        &id,
        &address(instance),
        &state,
        &zone,
        &version,
        &weight,
        &hostname,
        &ttl,
        &session,
        &instance["incarnation"],
        &registered_at,
        &last_heartbeat,
        &if metadata.is_empty() { "-".into() } else { metadata.join(",") },
    ]);
}

/// Each column has a word, so that programs which split lines find it.
fn or_dash(value: &Value) -> &str {
    match word(value) {
        "" => "-",
        text => text,
    }
}

fn address(instance: &Value) -> String {
    match (instance["ip"].as_str().filter(|ip| !ip.is_empty()), instance["port"].as_u64()) {
        (Some(ip), Some(port)) if port > 0 => format!("{ip}:{port}"),
        (Some(ip), _) => ip.to_owned(),
        (None, _) => "-".into(),
    }
}

fn name(instance: &Value) -> String {
    qualified(word(&instance["app"]), word(&instance["id"]))
}

fn source(target: &Target, call: Call) -> Source<'_> {
    let items = Some("instances");
    Source { target, call, items, columns: &COLUMNS, row, name, limit: None }
}

impl Search {
    async fn run(self) -> Result<(), End> {
        let Self { text, filter, paging, target } = self;
        List { app: None, filter, q: Some(text), paging, target }.run().await
    }
}

impl List {
    async fn run(self) -> Result<(), End> {
        let mut call = match &self.app {
            Some(app) => Call::get(path(&["v1", "apps", app, "instances"])?),
            None => Call::get("/v1/instances".into()),
        };
        if let Some(filter) = &self.filter {
            call = call.query("filter", filter);
        }
        if let Some(text) = &self.q {
            call = call.query("q", text);
        }
        if self.target.output == Output::Wide {
            call = call.query("heartbeats", true);
        }
        let request = WatchRequest {
            apps: self.app.clone().into_iter().collect(),
            kinds: vec!["instance".into()],
            filter: self.filter.clone(),
            restart: true,
            ..WatchRequest::default()
        };
        // Events tell all of an instance, but not whether a text is in it.
        match self.paging.follow.watch && self.q.is_none() {
            true => self.follow(request).await,
            false => {
                let source = source(&self.target, call);
                let source = Source { limit: self.paging.limit(), ..source };
                source.show(self.paging.follow, request).await
            }
        }
    }

    /// What is there and what changes, by events alone: little is kept, however many there are.
    async fn follow(&self, request: WatchRequest) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let mut watch = self.target.client()?.watch(request);
        let mut grid = self.target.grid(&COLUMNS);
        let follow = async {
            loop {
                match watch.next().await? {
                    Item::Listed(event) => {
                        self.show_event(&mut grid, &event)?;
                        if grid.rows() >= ROWS_MAX {
                            self.show_rows(&mut grid)?;
                        }
                    }
                    Item::Changed(event) => {
                        self.show_event(&mut grid, &event)?;
                        self.show_rows(&mut grid)?;
                    }
                    Item::SnapshotEnd { .. } => self.show_rows(&mut grid)?,
                    Item::Bookmark { .. } if output_closed() => return Err(End::OutputClosed),
                    Item::Interrupted { endpoint, why } => {
                        note(&format!("{endpoint}: {why}; trying to go on"));
                    }
                    Item::Compacted { detail, .. } => {
                        note(&format!(
                            "{detail}; all that is there now follows, the others are gone"
                        ));
                    }
                    Item::SnapshotBegin { .. } | Item::Bookmark { .. } | Item::Resumed { .. } => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = follow => end,
        }
    }

    fn show_rows(&self, grid: &mut Grid) -> Result<(), End> {
        match self.target.output {
            Output::Table | Output::Wide => print_next(grid),
            Output::Json | Output::Name => Ok(()),
        }
    }

    fn show_event(&self, grid: &mut Grid, event: &Event) -> Result<(), End> {
        let instance = match event.action {
            Action::Put => event.value_as::<Value>().unwrap_or_default(),
            Action::Delete => gone(event),
        };
        match (self.target.output, event.action) {
            (Output::Json, _) => print_json(&instance.to_string()),
            (Output::Name, Action::Put) => print_name(&name(&instance)),
            (Output::Name, Action::Delete) => Ok(()),
            (Output::Table | Output::Wide, _) => {
                row(grid, &instance);
                Ok(())
            }
        }
    }
}

/// An instance that is gone, or does not match any more: its state says why.
fn gone(event: &Event) -> Value {
    let reason = event.reason.as_deref().unwrap_or("deleted");
    let state = format!("gone, {reason}");
    let incarnation = event.incarnation.map(|Incarnation(revision)| revision);
    json!({
        "app": event.app, "id": event.id, "incarnation": incarnation, "state": state, "gone": true,
    })
}

impl Show {
    async fn run(self) -> Result<(), End> {
        let call = Call::get(self.which.path(&[])?);
        let is_text = [Output::Table, Output::Wide].contains(&self.target.output);
        if is_text && !self.follow.watch {
            return self.describe(call).await;
        }
        let (app, _) = self.which.key()?;
        let kinds = vec!["instance".into()];
        let request = WatchRequest { apps: vec![app], kinds, ..WatchRequest::default() };
        let source = Source { items: None, ..source(&self.target, call) };
        source.show(self.follow, request).await
    }

    /// Its row, then what does not fit into one.
    async fn describe(&self, call: Call) -> Result<(), End> {
        let client = self.target.client()?;
        let instance: Value = client.send(call).await?.json()?;
        let mut grid = self.target.grid(&COLUMNS);
        row(&mut grid, &instance);
        let mut text = grid.text();
        if let Some(metadata) = instance["metadata"].as_object().filter(|all| !all.is_empty()) {
            let mut grid = self.target.grid(&["METADATA", "VALUE"]);
            metadata.iter().for_each(|(key, value)| grid.row(&[key, &word(value)]));
            text += &format!("\n\n{}", grid.text());
        }
        match client.send(Call::get(self.which.path(&["override"])?)).await {
            Ok(answer) => {
                let said: Value = answer.json()?;
                let [state, reason, expires] =
                    ["state", "reason", "expires"].map(|field| word(&said[field]));
                let mut grid = self.target.grid(&["OPERATOR SAYS", "EXPIRES", "REASON"]);
                grid.row(&[&state, &expires, &reason]);
                text += &format!("\n\n{}", grid.text());
            }
            // Nobody has said anything, or it is gone meanwhile.
            Err(error) if error.code().starts_with("unknown-") => {}
            Err(error) => return Err(error.into()),
        }
        print(&text)
    }
}

impl Heartbeat {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::put(self.which.path(&["heartbeat"])?);
        if let Some(incarnation) = self.incarnation {
            call = call.query("incarnation", incarnation);
        }
        let answer = self.target.client()?.send(call).await?;
        let name = self.which.name()?;
        print_answer(self.target.output, &answer, &name, || {
            let renewed: Value = answer.json()?;
            let [ttl, every] = ["ttl", "heartbeat_every"].map(|field| word(&renewed[field]));
            let name = escaped(&name);
            Ok(format!(
                "instance {name} was heard; its TTL is {ttl}, a heartbeat is due each {every}"
            ))
        })
    }
}

impl Update {
    async fn run(self) -> Result<(), End> {
        let mut patch = json!({});
        if let Some(weight) = self.weight {
            patch["weight"] = weight.into();
        }
        for (key, value) in &self.metadata {
            patch["metadata"][key] = value.as_str().into();
        }
        for key in &self.forget {
            patch["metadata"][key] = Value::Null;
        }
        let call = Call::patch(self.which.path(&[])?).json(&patch)?;
        let answer = self.target.client()?.send(call).await?;
        let name = self.which.name()?;
        print_answer(self.target.output, &answer, &name, || {
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("instance {} was changed at revision {revision}", escaped(&name)))
        })
    }
}

impl Override {
    async fn say(self, state: &str) -> Result<(), End> {
        let mut body = json!({"state": state, "reason": self.reason});
        if let Some(expires) = &self.expires {
            body["expires"] = expires.as_str().into();
        }
        let client = self.target.client()?;
        // A word about somebody who is not there is taken by nodes, but is mostly a typing mistake.
        client.send(Call::get(self.which.path(&[])?).query("consistency", "stale")).await?;
        let call = Call::put(self.which.path(&["override"])?).json(&body)?;
        let answer = client.send(call).await?;
        let name = self.which.name()?;
        print_answer(self.target.output, &answer, &name, || {
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("instance {} is {} since revision {revision}", escaped(&name), said(state)))
        })
    }
}

fn said(state: &str) -> String {
    match state {
        "maintenance" => "in maintenance".into(),
        other => other.into(),
    }
}

impl Resume {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::delete(self.which.path(&["override"])?);
        if !self.reason.is_empty() {
            call = call.query("reason", &self.reason);
        }
        let answer = self.target.client()?.send(call).await?;
        let name = self.which.name()?;
        print_answer(self.target.output, &answer, &name, || {
            Ok(format!("instance {} is left to itself again", escaped(&name)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_and_id_in_one_argument_are_what_a_name_says() {
        for (app, id) in [("pay", "10.0.0.1:8719"), ("a/b%2F", "c/d"), ("x", "y")] {
            let which = Which { app: qualified(app, id), id: None };
            assert_eq!(which.key().expect("a key"), (app.to_owned(), id.to_owned()));
        }
        let two = Which { app: "a/b".into(), id: Some("c".into()) };
        assert_eq!(two.key().expect("a key"), ("a/b".to_owned(), "c".to_owned()));
        let alone = Which { app: "pay".into(), id: None };
        assert!(alone.key().expect_err("no id").to_string().contains("the id is missing"));
    }
}
