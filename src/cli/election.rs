//! `roster election`: who leads, and standing for it.

use std::ffi::OsString;
use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::{Value, json};

use super::asking::{
    End, Output, Target, note, output_closed, print, print_answer, print_json, print_name,
};
use super::grid::Grid;
use super::lists::{Follow, Paging, Source, shown_anew};
use super::lock::{broken_text, let_go, session_settings};
use super::ring::word;
use super::table::escaped;
use super::under::{Signals, Under, look_up};
use crate::client::{Action, Call, CandidateSettings, Event, Item, Latch, Revision, WatchRequest};
use crate::config::Span;
use crate::shutdown;

/// Stand for election, run a command while leading; show and watch who leads
#[derive(Debug, clap::Args)]
pub(super) struct Election {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show all elections and who leads them
    #[command(after_help = "Example: roster election list")]
    List(List),
    /// Show who leads, and who would be next
    #[command(visible_alias = "show", after_help = "Example: roster election get scheduler")]
    Get(Get),
    /// Stand for election until Ctrl-C, or run a command once it leads
    ///
    /// Without a command it prints a line when it leads and stands until it is stopped; when the lead
    /// is lost it ends with exit code 4. A command finds ROSTER_ELECTION_NAME and ROSTER_ELECTION_TOKEN
    /// in its environment. When the lead may be another's soon, the command and what it has started get
    /// SIGTERM, and SIGKILL a tenth of the TTL later; the exit code is 4 then, otherwise the command's.
    /// Signals are passed on. What happens when this program itself is killed, and what is out of its
    /// reach, is as for `roster lock run`.
    #[command(
        after_help = "Example: roster election campaign scheduler --value 10.0.0.1:8719 -- ./scheduler"
    )]
    Campaign(Campaign),
    /// Give a lead up, or a candidacy
    #[command(after_help = "Example: roster election resign scheduler --token 813")]
    Resign(Resign),
    /// Take the lead from whoever has it; the next candidate leads
    #[command(after_help = "Example: roster election depose scheduler --token 813")]
    Depose(Depose),
    /// Print who leads, now and whenever it changes, until Ctrl-C
    #[command(after_help = "Example: roster election observe scheduler")]
    Observe(Named),
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
    /// The election
    name: String,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Get {
    #[command(flatten)]
    of: Named,
    #[command(flatten)]
    follow: Follow,
}

#[derive(Debug, clap::Args)]
struct Campaign {
    /// The election
    name: String,
    /// What is published while it leads, such as an address
    #[arg(long, value_name = "TEXT")]
    value: String,
    /// How long it stays a candidate, or leads, when nothing is heard of this process
    #[arg(long, default_value = "15s", value_name = "DURATION")]
    ttl: Span,
    #[command(flatten)]
    target: Target,
    /// What to run while it leads
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
struct Resign {
    /// The election
    name: String,
    /// The token under which it leads
    #[arg(long, value_name = "REVISION", required_unless_present = "session")]
    token: Option<Revision>,
    /// The candidate's session; it need not lead
    #[arg(long, value_name = "ID", conflicts_with = "token")]
    session: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Depose {
    /// The election
    name: String,
    /// Only if it leads under this token
    #[arg(long, value_name = "REVISION")]
    token: Option<Revision>,
    #[command(flatten)]
    target: Target,
}

impl Election {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::List(list) => list.run().await,
            What::Get(get) => get.run().await,
            What::Campaign(campaign) => campaign.run().await,
            What::Resign(resign) => resign.run().await,
            What::Depose(depose) => depose.run().await,
            What::Observe(named) => named.observe().await,
        }
    }
}

const COLUMNS: [&str; 5] = ["ELECTION", "VALUE", ">TOKEN", "LEADER", ">WAITING"];

fn row(grid: &mut Grid, election: &Value) {
    let [name, value, leader] = ["name", "value", "leader"].map(|field| word(&election[field]));
    grid.row(&[&name, &value, &number(&election["token"]), &leader, &election["waiting"]]);
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), |number| number.to_string())
}

fn election_text(target: &Target, election: &Value) -> String {
    let mut leader = target.grid(&COLUMNS);
    row(&mut leader, election);
    let candidates = election["candidates"].as_array().map_or(&[][..], Vec::as_slice);
    if candidates.is_empty() {
        return leader.text();
    }
    let mut next = target.grid(&["NEXT", "SESSION", "VALUE"]);
    for (place, candidate) in candidates.iter().enumerate() {
        next.row(&[&(place + 1), &word(&candidate["session"]), &word(&candidate["value"])]);
    }
    format!("{}\n\n{}", leader.text(), next.text())
}

impl List {
    async fn run(self) -> Result<(), End> {
        let request = WatchRequest { kinds: vec!["latch".into()], ..WatchRequest::default() };
        let source = Source {
            target: &self.target,
            call: Call::get("/v1/elections".into()),
            items: Some("elections"),
            columns: &COLUMNS,
            row,
            name: |election| word(&election["name"]).to_owned(),
            limit: self.paging.limit(),
        };
        source.show(self.paging.follow, request).await
    }
}

impl Get {
    async fn run(self) -> Result<(), End> {
        let Named { name, target } = &self.of;
        let elections = vec![name.clone()];
        let request = WatchRequest { elections, ..WatchRequest::default() };
        let call = Call::get(Latch::Election.path(name, &[])?);
        shown_anew(target, self.follow, request, call, |answer| {
            print_answer(target.output, answer, name, || Ok(election_text(target, &answer.json()?)))
        })
        .await
    }
}

impl Named {
    async fn observe(self) -> Result<(), End> {
        let stop = shutdown::on_signal().map_err(End::Signals)?;
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            end = self.follow() => end,
        }
    }

    async fn follow(&self) -> Result<(), End> {
        let elections = vec![self.name.clone()];
        let request = WatchRequest { elections, restart: true, ..WatchRequest::default() };
        let mut watch = self.target.client()?.watch(request);
        let mut seat = Seat::default();
        loop {
            let known = match watch.next().await? {
                Item::SnapshotBegin { .. } => {
                    seat.leader = None;
                    None
                }
                Item::Listed(event) => {
                    seat.take(&event);
                    None
                }
                Item::SnapshotEnd { revision, .. } => Some(revision),
                Item::Changed(event) => {
                    seat.take(&event);
                    (!event.more).then_some(event.revision)
                }
                Item::Interrupted { endpoint, why } => {
                    note(&format!("{endpoint}: {why}; trying to go on"));
                    None
                }
                Item::Bookmark { .. } if output_closed() => return Err(End::OutputClosed),
                Item::Bookmark { .. } | Item::Compacted { .. } | Item::Resumed { .. } => None,
            };
            if let Some(revision) = known.filter(|_| seat.changed()) {
                print(&self.told(&seat, revision))?;
            }
        }
    }

    fn told(&self, seat: &Seat, revision: Revision) -> String {
        let leader = seat.leader.as_ref();
        match (self.target.output, leader) {
            (Output::Json, _) => {
                let session = leader.map(|leader| &leader.session);
                let value = leader.map(|leader| &leader.value);
                let token = leader.and_then(|leader| leader.token);
                let name = &self.name;
                json!({
                    "name": name, "leader": session, "value": value, "token": token,
                    "revision": revision,
                })
                .to_string()
            }
            (Output::Name, _) => leader.map_or_else(String::new, |leader| escaped(&leader.session)),
            (Output::Table | Output::Wide, None) => format!("revision {revision}: nobody leads"),
            (Output::Table | Output::Wide, Some(Claim { session, value, .. })) => {
                let (session, value) = (escaped(session), escaped(value));
                format!("revision {revision}: session {session} leads with {value}")
            }
        }
    }
}

/// A candidate, as events tell of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Claim {
    session: String,
    #[serde(default)]
    value: String,
    /// Of the leader.
    token: Option<Revision>,
}

/// Who leads, and who was told to.
#[derive(Default)]
struct Seat {
    leader: Option<Claim>,
    told: Option<Option<Claim>>,
}

impl Seat {
    fn take(&mut self, event: &Event) {
        let Some(claim) = event.value_as::<Claim>().filter(|claim| claim.token.is_some()) else {
            return;
        };
        match event.action {
            Action::Put => self.leader = Some(claim),
            Action::Delete => {
                let token = self.leader.as_ref().and_then(|leader| leader.token);
                if token == claim.token {
                    self.leader = None;
                }
            }
        }
    }

    /// Since this was asked last; the first time always.
    fn changed(&mut self) -> bool {
        let changed = self.told.as_ref() != Some(&self.leader);
        self.told = Some(self.leader.clone());
        changed
    }
}

impl Campaign {
    async fn run(self) -> Result<(), End> {
        look_up(&self.command)?;
        let mut signals = Signals::caught()?;
        let client = self.target.client()?;
        let session = session_settings("roster election campaign", self.ttl);
        let settings = CandidateSettings { session, value: self.value.clone() };
        let standing = client.stand_unless(&self.name, &settings, signals.ended());
        let candidate = match standing.await? {
            ControlFlow::Continue(candidate) => candidate,
            ControlFlow::Break(end) => return Err(end),
        };
        let led = tokio::select! {
            token = candidate.leads() => token.map_err(End::from),
            end = signals.ended() => Err(end),
        };
        let held = match led {
            Ok(token) => candidate.into_held(token),
            Err(end) => {
                // Whatever fails here ends with the TTL.
                drop(candidate.leave().await);
                return Err(end);
            }
        };
        if self.command.is_empty() {
            return self.lead(held, &mut signals).await;
        }
        let Span(ttl) = self.ttl;
        let under = Under {
            what: format!("the lead of {:?}", self.name),
            environment: &[("ROSTER_ELECTION_NAME", &self.name)],
            token: "ROSTER_ELECTION_TOKEN",
            command: &self.command,
            ttl,
        };
        under.run(held, &mut signals).await
    }

    /// Until it is stopped, which is no failure.
    async fn lead(&self, mut held: crate::client::Held, signals: &mut Signals) -> Result<(), End> {
        let (token, session) = (held.token(), held.session());
        let printed = match self.target.output {
            Output::Json => {
                let name = &self.name;
                let told =
                    json!({"name": name, "leader": true, "token": token, "session": session});
                print_json(&told.to_string())
            }
            Output::Name => print_name(&self.name),
            Output::Table | Output::Wide => print(&format!(
                "session {session} leads {} under token {token}",
                escaped(&self.name)
            )),
        };
        let led = match printed {
            Ok(()) => tokio::select! {
                _ = signals.ended() => Ok(()),
                loss = held.lost() => {
                    note(&format!("the lead of {:?} may be another's: {loss}", self.name));
                    Err(End::Code(super::asking::CONFLICT))
                }
            },
            Err(end) => Err(end),
        };
        // Whatever fails here ends with the TTL.
        drop(held.release().await);
        led
    }
}

impl Resign {
    async fn run(self) -> Result<(), End> {
        let body = match (self.token, &self.session) {
            (Some(token), _) => json!({"token": token}),
            (None, session) => json!({"session": session}),
        };
        let call = Call::post(Latch::Election.path(&self.name, &["resign"])?).json(&body)?;
        let call = call.once(&crate::client::once_key())?;
        let name = escaped(&self.name);
        let_go(&self.target, call, &self.name, |answer| {
            format!("the candidacy in {name} was given up at revision {}", answer["revision"])
        })
        .await
    }
}

impl Depose {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::delete(Latch::Election.path(&self.name, &[])?).not_repeatable();
        if let Some(token) = self.token {
            call = call.query("token", token).repeatable();
        }
        let name = escaped(&self.name);
        let_go(&self.target, call, &self.name, |answer| broken_text("the lead of", &name, answer))
            .await
    }
}
