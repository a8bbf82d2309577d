//! `roster demo`: a hundred transports, three fetchers that share their shards, and what happens when
//! a fetcher and five transports die.
//!
//! [`Story`] tells it, [`Fleet`] is who takes part, [`Ledger`] says who was to move. All of it runs
//! against a real cluster with the client that any program uses; what it makes has names of its own
//! and is deleted at the end.

mod fleet;
mod ledger;
mod story;

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::bench::find_nodes;
use crate::bench::http::Connection;
use crate::cli::asking::ENDPOINTS;
use crate::client::Client;
use crate::dev::LocalCluster;
use crate::shutdown;
use fleet::Fleet;
use story::Story;

/// A node of a running cluster that does not answer within this is none.
const FIND_TIMEOUT: Duration = Duration::from_secs(1);

/// Shows what Roster is for, against a running cluster or one of its own, within 30 seconds
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// API addresses of the nodes, HOST:PORT,…; without it what `roster dev` serves, or else a
    /// cluster of its own in a temporary folder
    #[arg(long, env = "ROSTER_ENDPOINT", value_name = "LIST")]
    endpoint: Option<String>,
    /// How many transports register; each is a shard
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(10..=5_000))]
    transports: u16,
    /// How many fetchers share the shards
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=50))]
    fetchers: u16,
}

/// Runs to the end or to Ctrl-C. The error is for the terminal; without one all was as promised.
pub async fn run(demo: Demo) -> Result<(), String> {
    let stop = shutdown::on_signal().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let begun = Instant::now();
    let cluster = tokio::select! {
        cluster = Cluster::find_or_start(demo.endpoint.as_deref()) => cluster?,
        () = stop.cancelled() => return Err(INTERRUPTED.into()),
    };
    println!("{} ({:.1} s)", cluster.welcome(), begun.elapsed().as_secs_f64());
    let told = match Fleet::new(&cluster.nodes, demo.transports, demo.fetchers) {
        Ok(mut fleet) => {
            let told = tokio::select! {
                told = Story::of(&mut fleet).tell() => told,
                () = stop.cancelled() => Err(INTERRUPTED.into()),
            };
            let cleared = fleet.clear_away().await;
            told.and(cleared)
        }
        Err(e) => Err(e.to_string()),
    };
    cluster.stop().await;
    if told.is_ok() {
        let seconds = begun.elapsed().as_secs_f64();
        println!("\nAll that was made is deleted. The whole took {seconds:.1} s.");
    }
    told
}

const INTERRUPTED: &str = "stopped before the end of the story";

/// Where the story happens.
struct Cluster {
    /// The API addresses of all nodes.
    nodes: Vec<String>,
    own: Option<LocalCluster>,
}

impl Cluster {
    async fn find_or_start(given: Option<&str>) -> Result<Self, String> {
        if let Some(endpoints) = given {
            // Says what is wrong with the list.
            Client::new(endpoints).map_err(|e| format!("--endpoint: {e}"))?;
            return Ok(Self { nodes: find_nodes(endpoints).await?, own: None });
        }
        match timeout(FIND_TIMEOUT, find_ready(ENDPOINTS)).await {
            Ok(Ok(nodes)) => Ok(Self { nodes, own: None }),
            Ok(Err(_)) | Err(_) => {
                let own = LocalCluster::start().await?;
                let nodes = find_nodes(&own.endpoints()).await?;
                Ok(Self { nodes, own: Some(own) })
            }
        }
    }

    fn welcome(&self) -> String {
        let nodes = self.nodes.join(" ");
        match self.own {
            Some(_) => format!("A cluster of {} nodes was started: {nodes}", self.nodes.len()),
            None => format!("A cluster of {} nodes was found: {nodes}", self.nodes.len()),
        }
    }

    async fn stop(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }
}

/// The nodes of a cluster that serves.
async fn find_ready(endpoints: &str) -> Result<Vec<String>, String> {
    let nodes = find_nodes(endpoints).await?;
    for node in &nodes {
        let ready = Connection::open(node).await?.get("/readyz").await?;
        if !ready.status.is_success() {
            return Err(format!("node {node} is not ready: {ready}"));
        }
    }
    Ok(nodes)
}
