//! `roster lock`: who holds which lock, and holding one.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::pin::pin;

use serde_json::{Value, json};

use super::asking::{End, Output, Target, print, print_answer, print_json, print_name};
use super::grid::Grid;
use super::lists::{Follow, Paging, Source};
use super::ring::word;
use super::table::escaped;
use super::under::{Signals, Under, look_up};
use crate::client::{
    AcquiredLock, Call, Client, Error, Latch, LockMode, LockSettings, Revision, SessionSettings,
    WatchRequest,
};
use crate::config::Span;

/// Run a command while holding a lock; show, acquire and release locks
#[derive(Debug, clap::Args)]
pub(super) struct Lock {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show all locks that are held and who holds them
    #[command(after_help = "Example: roster lock list")]
    List(List),
    /// Show who holds a lock
    #[command(visible_alias = "show", after_help = "Example: roster lock get backup/db1")]
    Get(Named),
    /// Acquire a lock and print its token
    ///
    /// Without --session it is held by a session that nobody keeps alive: until it is released, or
    /// until --ttl is over.
    #[command(after_help = "Example: roster lock acquire backup/db1 --ttl 10m --wait 30s")]
    Acquire(Acquire),
    /// Release a lock by the token under which it is held
    #[command(after_help = "Example: roster lock release backup/db1 --token 813")]
    Release(Release),
    /// Take a lock from whoever holds it, who may still be at work; the next who waits gets it
    #[command(name = "break", after_help = "Example: roster lock break backup/db1 --token 813")]
    Break(Break),
    /// Run a command while holding a lock, and end with the command's exit code
    ///
    /// The command finds ROSTER_LOCK_NAME and ROSTER_LOCK_TOKEN in its environment. When the lock may
    /// be another's soon, since no node was reached for most of the TTL, or is another's, since an
    /// operator broke it, the command and what it has started get SIGTERM, and SIGKILL a tenth of the
    /// TTL later, or when the command has ended; the exit code is 4 then, as it is if the lock was not
    /// free in time. While it waits, the exit code is 5 if the cluster goes away, 3 if its session was
    /// ended. Signals are passed on. Unless standard input is a terminal, the command has a process
    /// group of its own, and signals are for all of it.
    ///
    /// If this program itself is killed (SIGKILL, out of memory), the command and its process group are
    /// killed with it, by SIGKILL: nobody is left who could send SIGTERM first. At a terminal, where
    /// there is no such group, that is the command alone, and what it has started goes on. Out of
    /// reach always are daemons that the command has detached from itself, programs that change who
    /// they run as (sudo), and what goes on while this program alone is stopped (SIGSTOP).
    #[command(
        after_help = "Example: roster lock run backup/db1 --wait 30s -- pg_dump -f db1.sql db1"
    )]
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// The lock
    name: String,
    #[command(flatten)]
    follow: Follow,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Acquire {
    /// The lock
    name: String,
    /// Hold it by this session, which somebody else keeps alive
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Which holder of the session; the same one acquiring again gets the same token
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    owner: String,
    /// How long the lock is held if nobody releases it
    #[arg(long, default_value = "15s", value_name = "DURATION", conflicts_with = "session")]
    ttl: Span,
    /// How long to wait until it is free, at most 10m
    #[arg(long, default_value = "0s", value_name = "DURATION")]
    wait: Span,
    /// Hold it together with others who share it
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Release {
    /// The lock
    name: String,
    /// The token that the acquisition gave
    #[arg(long, value_name = "REVISION", required_unless_present = "session")]
    token: Option<Revision>,
    /// Whose; without a token also a place in the queue is given up
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Which holder of the session
    #[arg(long, value_name = "TEXT", requires = "session")]
    owner: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Break {
    /// The lock
    name: String,
    /// Only if it is held under this token
    #[arg(long, value_name = "REVISION")]
    token: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The lock
    name: String,
    /// How long to wait until it is free, at most 10m
    #[arg(long, default_value = "10m", value_name = "DURATION")]
    wait: Span,
    /// How long the lock stays held when nothing is heard of this process
    #[arg(long, default_value = "15s", value_name = "DURATION")]
    ttl: Span,
    /// Hold it together with others who share it
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    target: Target,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Lock {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::List(list) => list.run().await,
            What::Get(named) => named.get().await,
            What::Acquire(acquire) => acquire.run().await,
            What::Release(release) => release.run().await,
            What::Break(it) => it.run().await,
            What::Run(run) => run.run().await,
        }
    }
}

const COLUMNS: [&str; 6] = ["LOCK", "MODE", ">TOKEN", "SESSION", "OWNER", ">WAITING"];

/// A row per holder.
fn rows(grid: &mut Grid, lock: &Value) {
    for holder in lock["holders"].as_array().into_iter().flatten() {
        grid.row(&[
            &word(&lock["name"]),
            &word(&holder["mode"]),
            &holder["token"],
            &word(&holder["session"]),
            &word(&holder["owner"]),
            &lock["waiting"],
        ]);
    }
}

fn mode(shared: bool) -> LockMode {
    if shared { LockMode::Shared } else { LockMode::Exclusive }
}

impl List {
    async fn run(self) -> Result<(), End> {
        let request = WatchRequest { kinds: vec!["latch".into()], ..WatchRequest::default() };
        let source = source(&self.target, Call::get("/v1/locks".into()), Some("locks"));
        Source { limit: self.paging.limit(), ..source }.show(self.paging.follow, request).await
    }
}

impl Named {
    async fn get(self) -> Result<(), End> {
        let call = Call::get(Latch::Lock.path(&self.name, &[])?);
        let request = WatchRequest { locks: vec![self.name], ..WatchRequest::default() };
        source(&self.target, call, None).show(self.follow, request).await
    }
}

fn source<'a>(target: &'a Target, call: Call, items: Option<&'static str>) -> Source<'a> {
    let name = |lock: &Value| word(&lock["name"]).to_owned();
    Source { target, call, items, columns: &COLUMNS, row: rows, name, limit: None }
}

impl Acquire {
    async fn run(self) -> Result<(), End> {
        let client = self.target.client()?;
        let (session, acquired) = match &self.session {
            Some(session) => (session.clone(), self.acquire(&client, session).await?),
            None => self.acquire_with_own(&client).await?,
        };
        let AcquiredLock { token, revision, mode } = acquired;
        match self.target.output {
            Output::Json => {
                let name = &self.name;
                let told = json!({
                    "name": name, "token": token, "mode": mode, "session": session,
                    "revision": revision,
                });
                print_json(&told.to_string())
            }
            Output::Name => print_name(&self.name),
            Output::Table | Output::Wide => {
                let (name, session) = (escaped(&self.name), escaped(&session));
                print(&format!("lock {name} is held under token {token} by session {session}"))
            }
        }
    }

    async fn acquire(&self, client: &Client, session: &str) -> Result<AcquiredLock, Error> {
        let (mode, Span(wait)) = (mode(self.shared), self.wait);
        client.acquire_lock(&self.name, session, &self.owner, mode, wait).await
    }

    /// Its session lives for the TTL from now on, and while it waits is kept alive.
    async fn acquire_with_own(&self, client: &Client) -> Result<(String, AcquiredLock), End> {
        let settings = session_settings("roster lock acquire", self.ttl);
        let mut signals = Signals::caught()?;
        let opened = client.keep_session_unless(&settings, pin!(signals.ended())).await?;
        let session = match opened {
            ControlFlow::Continue(session) => session,
            ControlFlow::Break(end) => return Err(end),
        };
        let acquired = tokio::select! {
            acquired = self.acquire(client, session.id()) => acquired.map_err(End::from),
            lost = session.lost_because() => Err(lost.into()),
            end = signals.ended() => Err(end),
        };
        match acquired {
            Ok(acquired) => Ok((session.id().to_owned(), acquired)),
            Err(end) => {
                session.close_soon().await;
                Err(end)
            }
        }
    }
}

/// Of a session that this program opens for a command.
pub(super) fn session_settings(name: &str, Span(ttl): Span) -> SessionSettings {
    SessionSettings { name: format!("{name}, pid {}", std::process::id()), ttl: Some(ttl) }
}

/// The answer to what gives something up: at which revision.
pub(super) async fn let_go(
    target: &Target,
    call: Call,
    name: &str,
    text: impl FnOnce(&Value) -> String,
) -> Result<(), End> {
    let answer = target.client()?.send(call).await?;
    print_answer(target.output, &answer, name, || Ok(text(&answer.json()?)))
}

impl Release {
    async fn run(self) -> Result<(), End> {
        let mut body = json!({});
        if let Some(token) = self.token {
            body["token"] = json!(token);
        }
        if let Some(session) = &self.session {
            body["session"] = json!(session);
            body["owner"] = json!(self.owner.as_deref().unwrap_or_default());
        }
        let call = Call::post(Latch::Lock.path(&self.name, &["release"])?).json(&body)?;
        let call = call.once(&crate::client::once_key())?;
        let name = escaped(&self.name);
        let_go(&self.target, call, &self.name, |answer| {
            format!("lock {name} was released at revision {}", answer["revision"])
        })
        .await
    }
}

impl Break {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::delete(Latch::Lock.path(&self.name, &[])?).not_repeatable();
        if let Some(token) = self.token {
            call = call.query("token", token).repeatable();
        }
        let name = escaped(&self.name);
        let_go(&self.target, call, &self.name, |answer| broken_text("lock", &name, answer)).await
    }
}

/// Who lost it.
pub(super) fn broken_text(latch: &str, name: &str, answer: &Value) -> String {
    let broken = answer["broken"].as_array().into_iter().flatten();
    let sessions = broken.map(|holder| escaped(word(&holder["session"]))).collect::<Vec<_>>();
    let revision = &answer["revision"];
    format!("{latch} {name} was taken from session {} at revision {revision}", sessions.join(", "))
}

impl Run {
    async fn run(self) -> Result<(), End> {
        look_up(&self.command)?;
        let mut signals = Signals::caught()?;
        let client = self.target.client()?;
        let (Span(wait), Span(ttl)) = (self.wait, self.ttl);
        let session = session_settings("roster lock run", self.ttl);
        let settings = LockSettings { session, mode: mode(self.shared), wait };
        let held = match client.lock_unless(&self.name, &settings, signals.ended()).await? {
            ControlFlow::Continue(held) => held,
            ControlFlow::Break(end) => return Err(end),
        };
        let under = Under {
            what: format!("lock {:?}", self.name),
            environment: &[("ROSTER_LOCK_NAME", &self.name)],
            token: "ROSTER_LOCK_TOKEN",
            command: &self.command,
            ttl,
        };
        under.run(held, &mut signals).await
    }
}
