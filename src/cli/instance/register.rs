//! Registering and deregistering: one, or many from a file.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use super::super::asking::{
    CONFLICT, End, Output, Target, confirm, note, print, print_answer, print_json, print_name,
};
use super::super::progress::Progress;
use super::super::ring::word;
use super::super::session::tell_hearing;
use super::super::table::escaped;
use super::{Which, key_and_value, qualified};
use crate::client::{
    Call, Client, Ended, Error, Incarnation, KeptSession, Outcome, Registered, Registration,
    SessionSettings, Status,
};
use crate::config::Span;
use crate::shutdown;

/// Items of one call: what nodes take at once.
const ITEMS_MAX: usize = 5_000;

/// Bytes of one call, which nodes take with their default settings.
const BYTES_MAX: usize = 2 << 20;

/// Refusals that are told one by one; of further ones there is the number.
const TOLD_MAX: u64 = 20;

/// How long who waits for Ctrl-C holds what nobody else keeps, with --keep and a file.
const KEPT_TTL: Duration = Duration::from_secs(15);

/// What is said of a single instance: in a file each line says it.
const OF_ONE: [&str; 10] =
    ["app", "id", "ip", "port", "hostname", "version", "zone", "weight", "metadata", "create_only"];

#[derive(Debug, clap::Args)]
pub(super) struct Register {
    /// The app; or app and id in one: APP/ID
    #[arg(value_name = "APP", required_unless_present = "file")]
    app: Option<String>,
    /// The id
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Register what a file has, a JSON object per line; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_ONE)]
    file: Option<PathBuf>,
    /// Where it listens
    #[arg(long, default_value = "", value_name = "ADDRESS", hide_default_value = true)]
    ip: String,
    /// Where it listens; 0 for none
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
    /// The machine that it runs on
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    hostname: String,
    /// Its own version
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    version: String,
    /// Where it is, such as a data centre
    #[arg(long, default_value = "", value_name = "NAME", hide_default_value = true)]
    zone: String,
    /// Its part of the work, 1 to 1,024; 1 without it
    #[arg(long, value_name = "NUMBER")]
    weight: Option<u16>,
    /// What else is to be known of it; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    metadata: Vec<(String, String)>,
    /// How long it stays without a heartbeat, 1s to 24h; the app's default without it
    #[arg(long, value_name = "DURATION", conflicts_with = "session")]
    ttl: Option<Span>,
    /// The session that it hangs off; one of its own without it
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Replace a live instance of the same id
    #[arg(long, conflicts_with = "create_only")]
    takeover: bool,
    /// Only if there is no such instance
    #[arg(long, conflicts_with = "keep")]
    create_only: bool,
    /// Only if the app is there already
    #[arg(long)]
    known_app: bool,
    /// Send heartbeats until Ctrl-C, and deregister it then
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
pub(super) struct Deregister {
    /// The app; or app and id in one, as `-o name` prints them: APP/ID
    #[arg(value_name = "APP", required_unless_present = "file")]
    app: Option<String>,
    /// The id
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Deregister what a file has, a JSON object with `app` and `id` per line; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["app", "id", "reason", "incarnation"])]
    file: Option<PathBuf>,
    /// Only this life of it, and never a successor
    #[arg(long, value_name = "REVISION")]
    incarnation: Option<Incarnation>,
    /// Why an operator does it; without it the instance is taken to leave by itself
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask whether to go on
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

impl Register {
    pub async fn run(self) -> Result<(), End> {
        match (&self.file, self.keep) {
            (Some(file), false) => self.register_all(file, None).await,
            (Some(_), true) if self.session.is_some() => {
                let problem =
                    "--keep gives what is in a file a session of its own; leave --session out";
                Err(Error::Invalid(problem.into()).into())
            }
            (Some(file), true) => self.keep_all(file).await,
            (None, false) => self.register().await,
            (None, true) => self.keep_one().await,
        }
    }

    fn which(&self) -> Which {
        Which { app: self.app.clone().unwrap_or_default(), id: self.id.clone() }
    }

    fn registration(&self) -> Registration {
        Registration {
            ip: self.ip.clone(),
            port: self.port,
            hostname: self.hostname.clone(),
            version: self.version.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
            metadata: self.metadata.iter().cloned().collect(),
            ttl: self.ttl.map(|Span(ttl)| ttl),
            session: self.session.clone(),
            takeover: self.takeover,
            only_in_known_app: self.known_app,
            ..Registration::default()
        }
    }

    async fn register(&self) -> Result<(), End> {
        let which = self.which();
        let mut call = Call::put(which.path(&[])?).json(&self.registration())?;
        if self.takeover {
            call = call.query("takeover", true).not_repeatable();
        }
        if self.known_app {
            call = call.query("create_app", false);
        }
        if self.create_only {
            call = call.if_absent();
        }
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &which.name()?, || {
            let was = if answer.status == 201 { "registered" } else { "updated" };
            Ok(told(&answer.json()?, was))
        })
    }

    async fn keep_one(&self) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let (app, id) = self.which().key()?;
        let mut keep = self.target.client()?.keep_alive(&app, &id, self.registration()).await?;
        let mut ended = Ok(());
        if let Status::Alive(registered) = keep.status() {
            ended = self.tell_kept(&registered);
        }
        while ended.is_ok() {
            let status = tokio::select! {
                () = stop.cancelled() => break,
                status = keep.changed() => status,
            };
            match status {
                Status::Alive(_) => {}
                Status::Unheard { why, .. } => note(&format!("a heartbeat was not heard: {why}")),
                Status::Ended(Ended::Left) => break,
                Status::Ended(Ended::Refused(error)) => ended = Err(error.into()),
                Status::Ended(Ended::Replaced { .. }) => {
                    note(&format!("another one has taken over {}", qualified(&app, &id)));
                    ended = Err(End::Code(CONFLICT));
                }
            }
        }
        match (ended, keep.leave().await) {
            (Ok(()), Err(error)) => Err(error.into()),
            (ended, _) => ended,
        }
    }

    fn tell_kept(&self, registered: &Registered) -> Result<(), End> {
        let Registered { app, id, incarnation, session, ttl, revision, .. } = registered;
        match self.target.output {
            Output::Name => print_name(&qualified(app, id)),
            Output::Json => {
                let ttl = String::from(Span(*ttl));
                let told = json!({
                    "app": app, "id": id, "incarnation": incarnation, "session": session,
                    "ttl": ttl, "revision": revision,
                });
                print_json(&told.to_string())
            }
            Output::Table | Output::Wide => {
                print(&format!("{}; Ctrl-C deregisters it", told(registered, "registered")))
            }
        }
    }

    async fn register_all(&self, file: &Path, session: Option<&str>) -> Result<(), End> {
        let client = self.target.client()?;
        let given = self.session.as_deref().or(session).map(str::to_owned);
        let ttl = self.ttl.map(|Span(ttl)| format!("{}ms", ttl.as_millis()));
        let (takeover, known_app) = (self.takeover, self.known_app);
        let complete = |item: &mut Map<String, Value>| {
            item.insert("op".into(), "register".into());
            if let Some(session) = &given {
                item.remove("ttl");
                item.insert("session".into(), session.as_str().into());
            } else if let Some(ttl) = ttl.as_ref().filter(|_| !item.contains_key("ttl")) {
                item.insert("ttl".into(), ttl.as_str().into());
            }
            if takeover {
                item.insert("takeover".into(), true.into());
            }
            if known_app {
                item.insert("create_app".into(), false.into());
            }
        };
        let batches = Batches::new(&client, self.target.output, "registered");
        batches.send_file(file, complete).await
    }

    /// All of them hang off one session, and go with it.
    async fn keep_all(&self, file: &Path) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let ttl = self.ttl.map_or(KEPT_TTL, |Span(ttl)| ttl);
        let name = format!("roster instance register, pid {}", std::process::id());
        let settings = SessionSettings { name, ttl: Some(ttl) };
        let session = self.target.client()?.keep_session(&settings).await?;
        let mut kept = tokio::select! {
            registered = self.register_all(file, Some(session.id())) => registered,
            () = stop.cancelled() => Ok(()),
        };
        // Those that were not refused stay.
        if matches!(kept, Ok(()) | Err(End::NotAll(_))) && !stop.is_cancelled() {
            tokio::select! {
                lost = Self::stay(&session) => kept = lost,
                () = stop.cancelled() => {}
            }
        }
        session.close_soon().await;
        kept
    }

    /// Ends only when the session is gone.
    async fn stay(session: &KeptSession) -> Result<(), End> {
        note("they stay until Ctrl-C");
        Err(session.gone(|hearing| tell_hearing(session.id(), hearing)).await.into())
    }
}

fn told(registered: &Registered, was: &str) -> String {
    let Registered { app, id, incarnation, session, ttl, .. } = registered;
    let (name, ttl) = (escaped(&qualified(app, id)), humantime::format_duration(*ttl));
    let session = escaped(session);
    format!("instance {name} is {was}: incarnation {incarnation}, session {session}, TTL {ttl}")
}

impl Deregister {
    pub async fn run(self) -> Result<(), End> {
        match &self.file {
            Some(file) => self.deregister_all(file).await,
            None => self.deregister().await,
        }
    }

    async fn deregister(&self) -> Result<(), End> {
        let which = Which { app: self.app.clone().unwrap_or_default(), id: self.id.clone() };
        let mut call = Call::delete(which.path(&[])?);
        if let Some(incarnation) = self.incarnation {
            call = call.query("incarnation", incarnation);
        }
        if let Some(reason) = &self.reason {
            call = call.query("reason", reason);
        }
        let answer = self.target.client()?.send(call).await?;
        let name = which.name()?;
        print_answer(self.target.output, &answer, &name, || {
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("instance {} is gone since revision {revision}", escaped(&name)))
        })
    }

    async fn deregister_all(&self, file: &Path) -> Result<(), End> {
        confirm(self.yes, &format!("all instances in {} are deregistered", file.display()))?;
        let client = self.target.client()?;
        // Where a file is what was registered, only the names count.
        let complete = |item: &mut Map<String, Value>| {
            item.retain(|key, _| ["app", "id", "incarnation"].contains(&key.as_str()));
            item.insert("op".into(), "deregister".into());
        };
        let batches = Batches::new(&client, self.target.output, "deregistered");
        batches.send_file(file, complete).await
    }
}

/// A file on its way, call by call.
struct Batches<'a> {
    client: &'a Client,
    output: Output,
    /// What is done to each.
    done: &'static str,
    progress: Progress,
    items: Vec<Item>,
    bytes: usize,
    succeeded: u64,
    failed: u64,
}

/// One line, ready to be sent.
struct Item {
    line: u64,
    name: String,
    value: Value,
}

impl<'a> Batches<'a> {
    fn new(client: &'a Client, output: Output, done: &'static str) -> Self {
        let progress = Progress::of(done, 0);
        let items = Vec::new();
        Self { client, output, done, progress, items, bytes: 0, succeeded: 0, failed: 0 }
    }

    async fn send_file(
        self,
        file: &Path,
        complete: impl Fn(&mut Map<String, Value>),
    ) -> Result<(), End> {
        let opened = match file.as_os_str() == "-" {
            // /dev/stdin cannot be opened where it is a socket, as below ssh.
            true => {
                io::stdin().as_fd().try_clone_to_owned().map(|input| File::from_std(input.into()))
            }
            false => File::open(file).await,
        };
        let opened = opened.map_err(|e| unreadable(file, &e))?;
        self.send_lines(file, BufReader::new(opened), complete).await
    }

    async fn send_lines(
        mut self,
        file: &Path,
        input: impl AsyncBufRead + Unpin,
        complete: impl Fn(&mut Map<String, Value>),
    ) -> Result<(), End> {
        let mut lines = input.lines();
        let mut number = 0;
        loop {
            number += 1;
            let read = lines.next_line().await;
            let read = read.inspect_err(|_| {
                self.tell_end_before(self.first_waiting(number), Outcome::Nothing);
            });
            let Some(text) = read.map_err(|e| unreadable(file, &e))? else { break };
            if text.trim().is_empty() {
                continue;
            }
            match item_of(number, &text, &complete) {
                Ok(item) => {
                    if self.items.len() == ITEMS_MAX || self.bytes + text.len() > BYTES_MAX {
                        self.send().await?;
                    }
                    self.bytes += text.len();
                    self.items.push(item);
                }
                Err(problem) => self.refused(number, &problem),
            }
        }
        self.send().await?;
        self.end()
    }

    async fn send(&mut self) -> Result<(), End> {
        #[derive(Deserialize)]
        struct Results {
            results: Vec<Value>,
        }
        if self.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.items);
        self.bytes = 0;
        let values: Vec<&Value> = items.iter().map(|item| &item.value).collect();
        let call = Call::post("/v1/instances:batch".into()).json(&json!({ "items": values }))?;
        let call = call.once(&crate::client::once_key())?;
        let first = items.first().map_or(0, |item| item.line);
        let sent = self.client.send(call).await;
        let answer = sent.inspect_err(|why| self.tell_end_before(first, why.outcome()))?;
        let Results { results } = answer.json()?;
        for (item, result) in items.iter().zip(&results) {
            self.take(item, result)?;
        }
        for item in items.iter().skip(results.len()) {
            self.refused(item.line, &format!("{}: the answer does not tell of it", item.name));
        }
        self.progress.at(self.succeeded + self.failed);
        Ok(())
    }

    /// The first line that was not sent yet, where so many were read.
    fn first_waiting(&self, read: u64) -> u64 {
        self.items.first().map_or(read, |item| item.line)
    }

    /// It ends early: the user can go on from there.
    fn tell_end_before(&self, line: u64, outcome: Outcome) {
        self.progress.clear();
        let (done, what) = (self.succeeded, self.done);
        let rest = match outcome {
            Outcome::Nothing => "is not",
            Outcome::Unknown => "may be in part",
        };
        note(&format!("{done} are {what}; what comes from line {line} on {rest}"));
    }

    fn take(&mut self, item: &Item, result: &Value) -> Result<(), End> {
        match result["code"].as_str() {
            Some(code) => {
                let problem = format!("{}: {code}: {}", item.name, word(&result["detail"]));
                self.refused(item.line, &problem);
            }
            None => self.succeeded += 1,
        }
        match self.output {
            Output::Json => print_json(&result.to_string()),
            Output::Name if result["code"].is_null() => print_name(&item.name),
            Output::Name | Output::Table | Output::Wide => Ok(()),
        }
    }

    fn refused(&mut self, line: u64, problem: &str) {
        self.failed += 1;
        if self.failed <= TOLD_MAX {
            self.progress.clear();
            note(&format!("line {line}: {problem}"));
        }
    }

    fn end(self) -> Result<(), End> {
        let Self { succeeded, failed, done, output, progress, .. } = self;
        drop(progress);
        if failed > TOLD_MAX {
            note(&format!("and {} more", failed - TOLD_MAX));
        }
        match output {
            Output::Table | Output::Wide => print(&format!("{succeeded} instances are {done}"))?,
            Output::Json | Output::Name => {}
        }
        match failed {
            0 => Ok(()),
            _ => Err(End::NotAll("some lines were refused; all else is done")),
        }
    }
}

fn unreadable(file: &Path, e: &io::Error) -> Error {
    Error::Invalid(format!("cannot read {}: {e}", file.display()))
}

fn item_of(
    line: u64,
    text: &str,
    complete: impl Fn(&mut Map<String, Value>),
) -> Result<Item, String> {
    let mut item: Map<String, Value> =
        serde_json::from_str(text).map_err(|e| format!("no JSON object: {e}"))?;
    complete(&mut item);
    let field = |name: &str| match item.get(name).and_then(Value::as_str) {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{name:?} is missing")),
    };
    let name = qualified(&field("app")?, &field("id")?);
    Ok(Item { line, name, value: item.into() })
}
