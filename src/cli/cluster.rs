//! `roster cluster`: the nodes, and what operators decide about the cluster as a whole.

mod brake;

use serde::Deserialize;

use super::asking::{End, Output, Target, print_answer, print_name};
use super::grid::Grid;
use super::table::escaped;
use crate::client::{Call, path};

/// Show and change what concerns the cluster as a whole
#[derive(Debug, clap::Args)]
pub(super) struct Cluster {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show the nodes, who leads, and what is wrong
    #[command(after_help = "Example: roster cluster show -o wide")]
    Show(Show),
    /// Show how removals are slowed down after a mass loss of heartbeats; release or hold them
    Brake(brake::Brake),
}

impl Cluster {
    pub async fn run(self) -> Result<(), End> {
        match self.what {
            What::Show(show) => show.run().await,
            What::Brake(brake) => brake.run().await,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    target: Target,
}

/// What `/v1/cluster` says, as far as it is shown.
#[derive(Deserialize)]
struct Status {
    cluster_id: Option<String>,
    leader: Option<String>,
    term: u64,
    nodes: Vec<Member>,
    alarms: Vec<Alarm>,
    heartbeats_per_second: Option<u64>,
}

/// A node; what only its own answer tells is not there if it gave none.
#[derive(Deserialize)]
struct Member {
    id: String,
    api: String,
    peer: String,
    role: Option<String>,
    applied: Option<u64>,
    lag: Option<u64>,
    state_hash: Option<String>,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Alarm {
    code: String,
    since: String,
    detail: String,
}

impl Show {
    async fn run(self) -> Result<(), End> {
        let answer = self.target.client()?.send(Call::get(path(&["v1", "cluster"])?)).await?;
        if self.target.output == Output::Name {
            let status: Status = answer.json()?;
            return status.nodes.iter().try_for_each(|node| print_name(&node.id));
        }
        print_answer(self.target.output, &answer, "", || {
            let grid = self.target.grid(&COLUMNS);
            Ok(status_text(&answer.json()?, grid))
        })
    }
}

const COLUMNS: [&str; 8] =
    ["NODE", "ROLE", "API", "+PEER", ">APPLIED", ">LAG", "+STATE HASH", "VERSION"];

fn status_text(status: &Status, mut grid: Grid) -> String {
    for node in &status.nodes {
        let role = node.role.as_deref().unwrap_or("not reached");
        let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |n| n.to_string());
        grid.row(&[
            &node.id,
            &role,
            &node.api,
            &node.peer,
            &number(node.applied),
            &number(node.lag),
            &node.state_hash.as_deref().unwrap_or("-"),
            &node.version.as_deref().unwrap_or("-"),
        ]);
    }
    let mut text = format!("{}\n\n{}", headline(status), grid.text());
    if !status.alarms.is_empty() {
        let mut grid = Grid::new(&["ALARM", "SINCE", "WHAT"]);
        for alarm in &status.alarms {
            grid.row(&[&alarm.code, &alarm.since, &alarm.detail]);
        }
        text += &format!("\n\n{}", grid.text());
    }
    text
}

fn headline(status: &Status) -> String {
    let id = status.cluster_id.as_deref().map_or_else(|| "not formed yet".into(), escaped);
    let leader = match &status.leader {
        Some(leader) => format!("node {} leads in term {}", escaped(leader), status.term),
        None => format!("no leader is known in term {}: nothing can be written", status.term),
    };
    let beats = status.heartbeats_per_second;
    let beats = beats.map(|beats| format!("; {beats} heartbeats per second")).unwrap_or_default();
    format!("cluster {id}; {leader}{beats}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_shown_as_not_reached_and_alarms_below() {
        let status = json!({
            "cluster_id": "01J", "leader": null, "term": 7, "heartbeats_per_second": null,
            "nodes": [
                {"id": "1", "api": "127.0.0.1:7401", "peer": "127.0.0.1:7501", "role": "follower",
                 "commit": 9, "applied": 8, "lag": 1, "state_hash": "ab", "version": "0.1.0"},
                {"id": "2", "api": "127.0.0.1:7402", "peer": "127.0.0.1:7502", "role": null,
                 "commit": null, "applied": null, "lag": null, "state_hash": null, "version": null},
            ],
            "alarms": [{"code": "disk-full", "since": "2026-11-21T20:36:19.350Z",
                        "detail": "node 1 takes no writes"}],
        });
        let status = serde_json::from_value(status).expect("a status");
        let text = status_text(&status, Grid::new(&COLUMNS));
        let parts = ["no leader is known in term 7", "follower", "not reached", "disk-full"];
        for part in parts {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!text.contains("7501"), "only wide tables have the peers' addresses:\n{text}");
    }
}
