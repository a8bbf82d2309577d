//! `roster session`: one heartbeat for all that hangs off it.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep_until};

use super::asking::{End, Output, Target, note, print, print_answer, print_json, print_name};
use super::grid::Grid;
use super::instance::qualified;
use super::lists::{Follow, Source};
use super::ring::word;
use super::table::escaped;
use crate::client::{Call, Error, Hearing, SessionSettings, WatchRequest, path};
use crate::config::Span;
use crate::shutdown;

/// Open, keep, show and end sessions
#[derive(Debug, clap::Args)]
pub(super) struct Session {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Open a session and print its id; it ends when nobody keeps it for its TTL
    #[command(after_help = "Example: id=$(roster session create --ttl 1m -o name)")]
    Create(Create),
    /// Show a session and what hangs off it
    #[command(visible_alias = "get", after_help = "Example: roster session show 17")]
    Show(Show),
    /// Keep a session alive until Ctrl-C; without an id a new one, which is ended then
    #[command(
        visible_alias = "keep-alive",
        after_help = "Example: roster session keep --ttl 10s --name worker-1"
    )]
    Keep(Keep),
    /// End a session: all that hangs off it is gone when this is over
    #[command(visible_alias = "revoke", after_help = "Example: roster session destroy 17")]
    Destroy(Destroy),
}

#[derive(Debug, clap::Args)]
struct Create {
    #[command(flatten)]
    as_it_is_to_be: AsItIsToBe,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct AsItIsToBe {
    /// How long it stays without a heartbeat, 1s to 24h
    #[arg(long, default_value = "15s", value_name = "DURATION")]
    ttl: Span,
    /// Whose it is, for people
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    name: String,
}

impl AsItIsToBe {
    fn settings(&self) -> SessionSettings {
        let Span(ttl) = self.ttl;
        SessionSettings { name: self.name.clone(), ttl: Some(ttl) }
    }
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The session's id
    session: String,
    #[command(flatten)]
    follow: Follow,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Keep {
    /// The id of a session that is there already; it stays when this ends
    #[arg(conflicts_with_all = ["ttl", "name"])]
    session: Option<String>,
    /// One heartbeat alone
    #[arg(long, requires = "session")]
    once: bool,
    #[command(flatten)]
    as_it_is_to_be: AsItIsToBe,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Destroy {
    /// The session's id
    session: String,
    #[command(flatten)]
    target: Target,
}

impl Session {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::Create(create) => create.run().await,
            What::Show(show) => show.run().await,
            What::Keep(keep) => keep.run().await,
            What::Destroy(destroy) => destroy.run().await,
        }
    }
}

fn session_path(session: &str, more: &[&str]) -> Result<String, Error> {
    path(&[&["v1", "sessions", session], more].concat())
}

fn tell_opened(output: Output, id: &str, ttl: Duration, more: &str) -> Result<(), End> {
    match output {
        Output::Json => {
            print_json(&json!({"session": id, "ttl": String::from(Span(ttl))}).to_string())
        }
        Output::Name => print_name(id),
        Output::Table | Output::Wide => {
            let ttl = humantime::format_duration(ttl);
            print(&format!("session {} is open, with a TTL of {ttl}{more}", escaped(id)))
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), End> {
        let opened = self.target.client()?.open_session(&self.as_it_is_to_be.settings()).await?;
        tell_opened(self.target.output, &opened.session, opened.ttl, "")
    }
}

impl Show {
    async fn run(self) -> Result<(), End> {
        let source = Source {
            target: &self.target,
            call: Call::get(session_path(&self.session, &[])?),
            items: None,
            columns: &["SESSION", "NAME", "TTL", "HOLDS", "WHAT", "+>TOKEN"],
            row: rows,
            name: |session| word(&session["session"]).to_owned(),
            limit: None,
        };
        let kinds = ["instance", "latch"].map(String::from).to_vec();
        source.show(self.follow, WatchRequest { kinds, ..WatchRequest::default() }).await
    }
}

/// A row for each that hangs off it; one if nothing does.
fn rows(grid: &mut Grid, session: &Value) {
    let [id, name, ttl] = ["session", "name", "ttl"].map(|field| word(&session[field]));
    let mut is_empty = true;
    let mut row = |kind: &str, what: &str, token: &Value| {
        is_empty = false;
        let token = token.as_u64().map_or_else(|| "-".into(), |token| token.to_string());
        grid.row(&[&id, &name, &ttl, &kind, &what, &token]);
    };
    let list = |field: &str| session[field].as_array().cloned().unwrap_or_default();
    for instance in list("instances") {
        let what = qualified(word(&instance["app"]), word(&instance["id"]));
        row("instance", &what, &Value::Null);
    }
    for lock in list("locks") {
        let kind = if lock["token"].is_null() { "lock, waits" } else { "lock" };
        row(kind, word(&lock["name"]), &lock["token"]);
    }
    for election in list("elections") {
        let kind = if election["token"].is_null() { "candidacy" } else { "lead" };
        row(kind, word(&election["name"]), &election["token"]);
    }
    if is_empty {
        grid.row(&[&id, &name, &ttl, &"nothing", &"-", &"-"]);
    }
}

/// The answer to a heartbeat.
#[derive(Deserialize)]
struct Renewed {
    heartbeat_every: String,
}

impl Keep {
    async fn run(self) -> Result<(), End> {
        match self.session.clone() {
            Some(session) => self.keep_known(&session).await,
            None => self.keep_new().await,
        }
    }

    async fn keep_new(self) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let settings = self.as_it_is_to_be.settings();
        let ttl = settings.ttl.unwrap_or_default();
        let session = self.target.client()?.keep_session(&settings).await?;
        let told = tell_opened(self.target.output, session.id(), ttl, "; Ctrl-C ends it");
        let kept = match told {
            Ok(()) => tokio::select! {
                () = stop.cancelled() => Ok(()),
                gone = session.gone(|hearing| tell_hearing(session.id(), hearing)) => Err(gone.into()),
            },
            Err(end) => Err(end),
        };
        session.close_soon().await;
        kept
    }

    async fn keep_known(&self, session: &str) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        let client = self.target.client()?;
        let (mut is_first, mut is_unheard) = (true, false);
        loop {
            let begun = Instant::now();
            let call = Call::put(session_path(session, &["heartbeat"])?);
            let next = match client.send(call).await {
                Ok(answer) => {
                    if std::mem::take(&mut is_unheard) {
                        tell_hearing(session, Hearing::HeardAgain);
                    }
                    if std::mem::take(&mut is_first) {
                        let id = escaped(session);
                        let text = || Ok(format!("session {id} was heard"));
                        print_answer(self.target.output, &answer, session, text)?;
                    }
                    let Renewed { heartbeat_every } = answer.json()?;
                    humantime::parse_duration(&heartbeat_every).unwrap_or(AGAIN_AFTER)
                }
                Err(error) if error.is_retryable() && !is_first && !self.once => {
                    note(&format!("a heartbeat was not heard, it goes on: {error}"));
                    is_unheard = true;
                    AGAIN_AFTER
                }
                Err(error) => return Err(error.into()),
            };
            if self.once {
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep_until(begun + next) => {}
            }
        }
    }
}

/// An outage of the cluster may last longer than the TTL and the session be there all the same: a new
/// leader gives each its full TTL.
pub(super) fn tell_hearing(session: &str, hearing: Hearing) {
    note(&match hearing {
        Hearing::Unheard => {
            format!("no heartbeat of session {session} was answered in time; it goes on")
        }
        Hearing::HeardAgain => format!("session {session} was heard again"),
    });
}

/// After a heartbeat that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Destroy {
    async fn run(self) -> Result<(), End> {
        let call = Call::delete(session_path(&self.session, &[])?);
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, &self.session, || {
            let ended: Value = answer.json()?;
            let (instances, revision) = (&ended["instances"], &ended["revision"]);
            let id = escaped(&self.session);
            Ok(format!(
                "session {id} and its {instances} instances are gone since revision {revision}"
            ))
        })
    }
}
