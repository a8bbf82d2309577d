//! `roster health`: whether nodes take requests, for health checks of containers and for people.

use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use super::asking::{End, Output, Target, print, print_json};
use super::lists::print_next;
use crate::client::{Call, Client, Error, Options, path};

/// How long a node has, all in all: a health check is asked again soon.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ask nodes whether they are ready
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: roster health --endpoint 127.0.0.1:7400")]
pub(super) struct Health {
    /// Ask only whether the process is alive, not whether it can serve
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    target: Target,
}

impl Health {
    /// Each node of the list by itself. It fails with the first of those that are not well.
    pub async fn run(self) -> Result<(), End> {
        let endpoints: Vec<_> = self.target.endpoints().collect();
        let answers = join_all(endpoints.iter().map(|endpoint| ask(endpoint, self.live))).await;
        let mut grid = self.target.grid(&["NODE", "HEALTH"]);
        for (endpoint, answer) in endpoints.iter().zip(&answers) {
            let health = answer.as_ref().map_or_else(ToString::to_string, |()| "ok".into());
            match self.target.output {
                Output::Table | Output::Wide => grid.row(&[endpoint, &health]),
                Output::Name => print(endpoint)?,
                Output::Json => {
                    print_json(
                        &json!({ "endpoint": endpoint, "ok": answer.is_ok(), "detail": health })
                            .to_string(),
                    )?;
                }
            }
        }
        if [Output::Table, Output::Wide].contains(&self.target.output) {
            print_next(&mut grid)?;
        }
        answers.into_iter().collect::<Result<(), Error>>().map_err(End::Told)
    }
}

async fn ask(endpoint: &str, live: bool) -> Result<(), Error> {
    let options =
        Options { call_timeout: PATIENCE, patience: Duration::ZERO, ..Options::default() };
    let what = if live { "livez" } else { "readyz" };
    Client::with(endpoint, options)?.send(Call::get(path(&[what])?)).await.map(drop)
}
