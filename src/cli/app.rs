//! `roster app`: apps, their policies and their documents.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::asking::{End, Target, confirm, print_answer};
use super::grid::Grid;
use super::lists::{Follow, Paging, Source};
use super::ring::word;
use super::table::{escaped, escaped_json};
use crate::client::{Call, Error, Revision, WatchRequest, path};
use crate::config::Span;

/// Show, make and delete apps; their documents
#[derive(Debug, clap::Args)]
pub(super) struct App {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show all apps with their instances by state
    #[command(after_help = "Example: roster app list --state suspect --watch")]
    List(List),
    /// Show an app, its policy and its instances by state
    #[command(visible_alias = "get", after_help = "Example: roster app show pay -o wide")]
    Show(Show),
    /// Make an app, or give it another policy; what is not named is the default again
    #[command(
        visible_alias = "create",
        after_help = "Example: roster app put pay --ttl 30s --remove-when-empty-after 1h"
    )]
    Put(Put),
    /// Delete an app; with --cascade its instances and documents too
    #[command(after_help = "Example: roster app delete pay --cascade --yes")]
    Delete(Delete),
    /// Show the documents of an app
    #[command(after_help = "Example: roster app documents pay")]
    Documents(Documents),
    /// Show, write and delete one document of an app
    #[command(visible_alias = "doc")]
    Document(Document),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only apps with this text in their names
    #[arg(short, value_name = "TEXT")]
    q: Option<String>,
    /// Only apps with an instance in this state: up, suspect, draining or maintenance
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The app
    app: String,
    #[command(flatten)]
    follow: Follow,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Put {
    /// The app
    app: String,
    /// A number that agents of Sentinel tell kinds of apps by
    #[arg(long, default_value_t = 0, value_name = "NUMBER", allow_negative_numbers = true)]
    kind: i32,
    /// How long its instances stay without a heartbeat, if they do not say; 15s without it
    #[arg(long, value_name = "DURATION")]
    ttl: Option<Span>,
    /// The shortest TTL that an instance may have, 1s without it
    #[arg(long, value_name = "DURATION")]
    ttl_min: Option<Span>,
    /// The longest, 24h without it
    #[arg(long, value_name = "DURATION")]
    ttl_max: Option<Span>,
    /// Delete the app when it had no instance for so long; never without it
    #[arg(long, value_name = "DURATION")]
    remove_when_empty_after: Option<Span>,
    /// Only if there is no such app yet
    #[arg(long, conflicts_with = "if_revision")]
    create_only: bool,
    /// Only if its policy was last changed at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Delete {
    /// The app
    app: String,
    /// With its instances, documents and ring
    #[arg(long)]
    cascade: bool,
    /// Do not ask whether to go on
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Documents {
    /// The app
    app: String,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Document {
    #[command(subcommand)]
    what: DocumentWhat,
}

#[derive(Debug, clap::Subcommand)]
enum DocumentWhat {
    /// Print a document
    #[command(visible_alias = "get", after_help = "Example: roster app document show pay flow")]
    Show(DocumentShow),
    /// Write a document from a file or from standard input
    #[command(after_help = "Example: echo '{\"qps\":10}' | roster app document put pay flow -")]
    Put(DocumentPut),
    /// Delete a document
    #[command(after_help = "Example: roster app document delete pay flow")]
    Delete(DocumentDelete),
}

#[derive(Debug, clap::Args)]
struct DocumentName {
    /// The app
    app: String,
    /// The document
    name: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct DocumentShow {
    #[command(flatten)]
    of: DocumentName,
}

#[derive(Debug, clap::Args)]
struct DocumentPut {
    #[command(flatten)]
    of: DocumentName,
    /// Where the JSON is; - for standard input. At most 128 KiB
    file: PathBuf,
    /// Only if there is no such document yet
    #[arg(long, conflicts_with = "if_revision")]
    create_only: bool,
    /// Only if it was last changed at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
    /// Who makes the change, for others who look at it
    #[arg(long, value_name = "TEXT")]
    by: Option<String>,
}

#[derive(Debug, clap::Args)]
struct DocumentDelete {
    #[command(flatten)]
    of: DocumentName,
    /// Only if it was last changed at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<Revision>,
}

impl App {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::List(list) => list.run().await,
            What::Show(show) => show.run().await,
            What::Put(put) => put.run().await,
            What::Delete(delete) => delete.run().await,
            What::Documents(documents) => documents.run().await,
            What::Document(document) => match document.what {
                DocumentWhat::Show(show) => show.run().await,
                DocumentWhat::Put(put) => put.run().await,
                DocumentWhat::Delete(delete) => delete.run().await,
            },
        }
    }
}

const COLUMNS: [&str; 12] = [
    "APP",
    ">INSTANCES",
    ">UP",
    ">SUSPECT",
    ">DRAINING",
    ">MAINTENANCE",
    "+>KIND",
    "+TTL",
    "+TTL MIN",
    "+TTL MAX",
    "+REMOVED WHEN EMPTY",
    "+>REVISION",
];

/// Of a list, which does not tell policies.
const LISTED: [&str; 8] =
    ["APP", ">INSTANCES", ">UP", ">SUSPECT", ">DRAINING", ">MAINTENANCE", "+>KIND", "+>REVISION"];

fn listed_row(grid: &mut Grid, app: &Value) {
    let [instances, up, suspect, draining, maintenance] = counts(app);
    let (kind, revision) = (&app["kind"], &app["revision"]);
    let name = word(&app["app"]);
    grid.row(&[&name, &instances, &up, &suspect, &draining, &maintenance, kind, revision]);
}

fn row(grid: &mut Grid, app: &Value) {
    let [instances, up, suspect, draining, maintenance] = counts(app);
    let spans = ["ttl", "ttl_min", "ttl_max", "remove_when_empty_after"];
    let [ttl, min, max, empty] = spans.map(|field| word(&app[field]));
    grid.row(&[
        &word(&app["app"]),
        &instances,
        &up,
        &suspect,
        &draining,
        &maintenance,
        &app["kind"],
        &ttl,
        &min,
        &max,
        &empty,
        &app["revision"],
    ]);
}

/// All instances, then those of each state.
fn counts(app: &Value) -> [u64; 5] {
    let states = ["up", "suspect", "draining", "maintenance"].map(|state| count(app, state));
    let [up, suspect, draining, maintenance] = states;
    [states.iter().sum(), up, suspect, draining, maintenance]
}

fn count(app: &Value, state: &str) -> u64 {
    app["counts"][state].as_u64().unwrap_or(0)
}

fn source<'a>(target: &'a Target, call: Call, items: Option<&'static str>) -> Source<'a> {
    let name = |app: &Value| word(&app["app"]).to_owned();
    Source { target, call, items, columns: &COLUMNS, row, name, limit: None }
}

/// An app's line tells of its instances too.
fn of_apps(apps: Vec<String>) -> WatchRequest {
    let kinds = ["app", "instance"].map(String::from).to_vec();
    WatchRequest { apps, kinds, ..WatchRequest::default() }
}

impl List {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::get("/v1/apps".into());
        if let Some(text) = &self.q {
            call = call.query("q", text);
        }
        if let Some(state) = &self.state {
            call = call.query("state", state);
        }
        let source = Source {
            columns: &LISTED,
            row: listed_row,
            limit: self.paging.limit(),
            ..source(&self.target, call, Some("apps"))
        };
        source.show(self.paging.follow, of_apps(Vec::new())).await
    }
}

fn app_path(app: &str, more: &[&str]) -> Result<String, Error> {
    path(&[&["v1", "apps", app], more].concat())
}

impl Show {
    async fn run(self) -> Result<(), End> {
        let call = Call::get(app_path(&self.app, &[])?);
        source(&self.target, call, None).show(self.follow, of_apps(vec![self.app])).await
    }
}

/// With the conditions that a write was given.
fn conditional(call: Call, create_only: bool, if_revision: Option<Revision>) -> Call {
    match (create_only, if_revision) {
        (true, _) => call.if_absent(),
        (false, Some(revision)) => call.if_unchanged_since(revision),
        (false, None) => call,
    }
}

impl Put {
    async fn run(self) -> Result<(), End> {
        let mut policy = json!({"kind": self.kind});
        let spans = [
            ("ttl", self.ttl),
            ("ttl_min", self.ttl_min),
            ("ttl_max", self.ttl_max),
            ("remove_when_empty_after", self.remove_when_empty_after),
        ];
        for (name, span) in spans {
            if let Some(Span(span)) = span {
                policy[name] = format!("{}ms", span.as_millis()).into();
            }
        }
        let call = Call::put(app_path(&self.app, &[])?).json(&policy)?;
        let call = conditional(call, self.create_only, self.if_revision);
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.app, || {
            let was = if answer.status == 201 { "made" } else { "kept, with this policy," };
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("app {} was {was} at revision {revision}", escaped(&self.app)))
        })
    }
}

impl Delete {
    async fn run(self) -> Result<(), End> {
        let client = self.target.client()?;
        let mut call = Call::delete(app_path(&self.app, &[])?);
        if self.cascade {
            call = call.query("cascade", true);
            if !self.yes {
                let there: Value =
                    client.send(Call::get(app_path(&self.app, &[])?)).await?.json()?;
                let [instances, ..] = counts(&there);
                let app = escaped(&self.app);
                confirm(self.yes, &format!("app {app} goes with its {instances} instances"))?;
            }
        }
        let answer = client.send(call).await.map_err(by_flag)?;
        print_answer(self.target.output, &answer, &self.app, || {
            let deleted: Value = answer.json()?;
            let (instances, revision) = (&deleted["instances"], &deleted["revision"]);
            let app = escaped(&self.app);
            Ok(format!("app {app} and {instances} instances are gone since revision {revision}"))
        })
    }
}

/// A refusal names what the request lacks; here that is a flag.
fn by_flag(mut error: Error) -> Error {
    if let Error::Refused(problem) = &mut error {
        problem.detail = problem.detail.replace("?cascade=true", "--cascade");
    }
    error
}

impl Documents {
    async fn run(self) -> Result<(), End> {
        let source = Source {
            target: &self.target,
            call: Call::get(app_path(&self.app, &["documents"])?),
            items: Some("documents"),
            columns: &["DOCUMENT", ">BYTES", "CHANGED AT", "BY", ">REVISION"],
            row: document_row,
            name: |document| word(&document["name"]).to_owned(),
            limit: self.paging.limit(),
        };
        let kinds = vec!["document".into()];
        let apps = vec![self.app];
        let request = WatchRequest { apps, kinds, ..WatchRequest::default() };
        source.show(self.paging.follow, request).await
    }
}

fn document_row(grid: &mut Grid, document: &Value) {
    let [name, changed_at, by] = ["name", "changed_at", "by"].map(|field| word(&document[field]));
    let bytes = document["value"].to_string().len();
    grid.row(&[&name, &bytes, &changed_at, &by, &document["revision"]]);
}

impl DocumentName {
    fn path(&self) -> Result<String, Error> {
        app_path(&self.app, &["documents", &self.name])
    }
}

impl DocumentShow {
    /// To people the document alone, as it was written.
    async fn run(self) -> Result<(), End> {
        #[derive(serde::Deserialize)]
        struct Shown {
            value: Box<RawValue>,
        }
        let answer = self.of.target.client()?.send(Call::get(self.of.path()?)).await?;
        print_answer(self.of.target.output, &answer, &self.of.name, || {
            let value = answer.json::<Shown>()?.value;
            Ok(match io::stdout().is_terminal() {
                true => escaped_json(value.get()),
                false => value.get().to_owned(),
            })
        })
    }
}

/// A longer one is refused by every node: this one need not be sent.
const DOCUMENT_BYTES_MAX: u64 = 128 * 1024;

/// What is in a file, or in standard input.
fn read_document(file: &Path) -> Result<Box<RawValue>, Error> {
    let problem = |why: &dyn std::fmt::Display| {
        Error::Invalid(format!("cannot read the document from {}: {why}", file.display()))
    };
    let mut text = String::new();
    let most = DOCUMENT_BYTES_MAX + 1;
    let read = match file.as_os_str() == "-" {
        true => io::stdin().lock().take(most).read_to_string(&mut text),
        false => {
            std::fs::File::open(file).and_then(|opened| opened.take(most).read_to_string(&mut text))
        }
    };
    read.map_err(|e| problem(&e))?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(problem(&format!("it is over the limit of {DOCUMENT_BYTES_MAX} bytes")));
    }
    serde_json::from_str(&text).map_err(|e| problem(&format!("it is not JSON: {e}")))
}

impl DocumentPut {
    async fn run(self) -> Result<(), End> {
        let document = read_document(&self.file)?;
        let mut call = Call::put(self.of.path()?).json(&document)?;
        if let Some(by) = &self.by {
            call = call.query("by", by);
        }
        let call = conditional(call, self.create_only, self.if_revision);
        let answer = self.of.target.client()?.send(call).await?;
        print_answer(self.of.target.output, &answer, &self.of.name, || {
            let was = if answer.status == 201 { "made" } else { "replaced" };
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("document {} was {was} at revision {revision}", escaped(&self.of.name)))
        })
    }
}

impl DocumentDelete {
    async fn run(self) -> Result<(), End> {
        let call = conditional(Call::delete(self.of.path()?), false, self.if_revision);
        let answer = self.of.target.client()?.send(call).await?;
        print_answer(self.of.target.output, &answer, &self.of.name, || {
            let revision = answer.json::<Value>()?["revision"].clone();
            Ok(format!("document {} is gone since revision {revision}", escaped(&self.of.name)))
        })
    }
}
