//! `roster cluster brake`: how removals are slowed down after a mass loss, and what operators say about it.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::asking::{End, Target, print_answer};
use crate::cli::grid::Grid;
use crate::cli::ring::word;
use crate::cli::table::escaped;
use crate::client::{Call, Error, path};

#[derive(Debug, clap::Args)]
pub(super) struct Brake {
    #[command(subcommand)]
    what: Option<BrakeWhat>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Subcommand)]
enum BrakeWhat {
    /// Show what is slowed down, and what operators said about it
    #[command(after_help = "Example: roster cluster brake show")]
    Show(Show),
    /// Remove who is silent at the ordinary rate: they are really gone
    #[command(
        after_help = "Example: roster cluster brake release --app pay --reason 'scaled down'"
    )]
    Release(Word),
    /// Remove nobody who is silent
    #[command(
        after_help = "Example: roster cluster brake hold --reason 'network work' --expires 2h"
    )]
    Hold(Word),
    /// Leave it to the cluster again
    #[command(after_help = "Example: roster cluster brake clear --app pay")]
    Clear(Clear),
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Word {
    /// The app that is meant; all without it
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Why, for others who look at it
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Ends by itself after so long, or at such a time
    #[arg(long, value_name = "DURATION")]
    expires: Option<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Clear {
    /// The app that is meant; all without it
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Brake {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            None => show(&self.target).await,
            Some(BrakeWhat::Show(Show { target })) => show(&target).await,
            Some(BrakeWhat::Release(word)) => word.say("release", "go at the ordinary rate").await,
            Some(BrakeWhat::Hold(word)) => word.say("hold", "are held").await,
            Some(BrakeWhat::Clear(clear)) => clear.run().await,
        }
    }
}

/// What `-o name` calls it.
const BRAKE: &str = "brake";

fn brake_path() -> Result<String, Error> {
    path(&["v1", "cluster", "brake"])
}

#[derive(Deserialize)]
struct Status {
    settings: Settings,
    brakes: Vec<Value>,
    /// Brakes that the node left out, since they are too many.
    #[serde(default)]
    more: u64,
    overrides: Vec<Value>,
    #[serde(default)]
    more_overrides: u64,
    suspect: u64,
}

#[derive(Deserialize)]
struct Settings {
    share_percent: u64,
    app_share_percent: u64,
    window: String,
    exempt: u64,
    exempt_of_all: u64,
    pace: String,
    rate: u64,
}

async fn show(target: &Target) -> Result<(), End> {
    let answer = target.client()?.send(Call::get(brake_path()?)).await?;
    print_answer(target.output, &answer, BRAKE, || Ok(status_text(&answer.json()?)))
}

fn status_text(status: &Status) -> String {
    let Settings { share_percent, app_share_percent, window, exempt, exempt_of_all, pace, rate } =
        &status.settings;
    let mut text = match status.brakes.is_empty() {
        true => format!("no mass loss; {} instances are suspect", status.suspect),
        false => {
            let mut grid =
                Grid::new(&["SLOWED DOWN", "SINCE", ">MISSING", ">OF", ">REMOVED PER MINUTE"]);
            for brake in &status.brakes {
                let (missing, of) = (&brake["missing"], &brake["of"]);
                let since = word(&brake["since"]);
                grid.row(&[&scope_text(brake), &since, missing, of, &brake["removed_per_minute"]]);
            }
            let more = more_text(status.more, "brakes, of which less is missing");
            format!("mass loss; {} instances are suspect\n{}{more}", status.suspect, grid.text())
        }
    };
    if !status.overrides.is_empty() {
        let mut grid = Grid::new(&["OPERATOR SAYS", "ABOUT", "EXPIRES", "REASON"]);
        for said in &status.overrides {
            let mode = word(&said["mode"]);
            let (expires, reason) = (word(&said["expires"]), word(&said["reason"]));
            grid.row(&[&mode, &scope_text(said), &expires, &reason]);
        }
        let more = more_text(status.more_overrides, "words of operators");
        text += &format!("\n\n{}{more}", grid.text());
    }
    text + &format!(
        "\n\nslows down when within {window} more than {share_percent} % of all (and {exempt_of_all}) \
         or {app_share_percent} % of an app (and {exempt}) fall silent;\nthen all of them are removed \
         within {pace}, else up to {rate} per second"
    )
}

/// What an answer has left out.
fn more_text(count: u64, what: &str) -> String {
    match count {
        0 => String::new(),
        _ => format!("\nand {count} more {what}"),
    }
}

fn scope_text(of: &Value) -> String {
    match word(&of["scope"]) {
        "app" => format!("app {}", word(&of["app"])),
        "node" => format!("heard by node {}", word(&of["node"])),
        other => other.to_owned(),
    }
}

fn whose(app: Option<&str>) -> String {
    app.map_or_else(
        || "all silent instances".into(),
        |app| format!("silent instances of app {}", escaped(app)),
    )
}

#[derive(Deserialize)]
struct Changed {
    revision: u64,
}

impl Word {
    async fn say(self, mode: &str, what: &str) -> Result<(), End> {
        let mut body = match &self.app {
            Some(app) => json!({"scope": "app", "app": app}),
            None => json!({"scope": "all"}),
        };
        body["mode"] = mode.into();
        body["reason"] = self.reason.clone().into();
        if let Some(expires) = &self.expires {
            body["expires"] = expires.clone().into();
        }
        let answer = self.target.client()?.send(Call::put(brake_path()?).json(&body)?).await?;
        print_answer(self.target.output, &answer, BRAKE, || {
            let Changed { revision } = answer.json()?;
            Ok(format!("{} {what} since revision {revision}", whose(self.app.as_deref())))
        })
    }
}

impl Clear {
    async fn run(self) -> Result<(), End> {
        let mut call = Call::delete(brake_path()?);
        if let Some(app) = &self.app {
            call = call.query("scope", "app").query("app", app);
        }
        let answer = self.target.client()?.send(call).await?;
        print_answer(self.target.output, &answer, BRAKE, || {
            Ok(format!("{} are left to the cluster", whose(self.app.as_deref())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mass_loss_is_shown_with_what_operators_said() {
        let status = json!({
            "settings": {"share_percent": 25, "app_share_percent": 50, "window": "1m", "exempt": 10,
                         "exempt_of_all": 30, "pace": "15m", "rate": 10_000},
            "brakes": [{"scope": "app", "app": "pay", "since": "2026-11-21T20:36:19.350Z",
                        "missing": 900, "of": 1_000, "removed_per_minute": 60.0, "revision": 7}],
            "overrides": [{"scope": "all", "mode": "hold", "reason": "network work",
                           "expires": null, "revision": 9}],
            "more": 17, "more_overrides": 3, "suspect": 880, "revision": 9,
        });
        let text = status_text(&serde_json::from_value(status).expect("a status"));
        let parts = [
            "880 instances are suspect",
            "app pay",
            "900",
            "60.0",
            "and 17 more brakes",
            "hold",
            "network work",
            "and 3 more words",
        ];
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }
}
