//! `roster demo`: a hundred transports, three fetchers that share their shards, and what happens when
//! a fetcher and five transports die. Then it goes on, so that there is something to see.
//!
//! [`Story`] tells the first, [`Life`] is what comes after it, [`Fleet`] is who takes part, [`Ledger`]
//! says who was to move. All of it runs against a real cluster with the client that any program uses;
//! what it makes has names of its own and is deleted at the end.

mod fleet;
mod ledger;
mod life;
mod story;

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::bench::find_nodes;
use crate::bench::http::Connection;
use crate::cli::asking::{ENDPOINTS, End, print};
use crate::config::Span;
use crate::dev::LocalCluster;
use crate::shutdown::{self, Asked};
use fleet::Fleet;
use life::{Life, Pace};
use story::Story;

/// A node of a running cluster that does not answer within this is none.
const FIND_TIMEOUT: Duration = Duration::from_secs(1);

/// Tell a story of workers that share shards, and of what happens when some die; then let things come
/// and go until Ctrl-C
///
/// After the story transports come, leave and die, fetchers follow the scaling signal, a ring turns and
/// an operator drains somebody now and then, so that there is something to see on the dashboard. All that
/// was made is deleted at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: roster demo --rate 120 --duration 5m")]
pub struct Demo {
    /// API addresses of the nodes, HOST:PORT,…; without it what `roster dev` serves, or else a
    /// cluster of its own in a temporary folder
    #[arg(long, env = "ROSTER_ENDPOINT", value_name = "LIST")]
    endpoint: Option<String>,
    /// Start a cluster of its own, whether one is named or running or not
    #[arg(long)]
    own_cluster: bool,
    /// How many transports register; each is a shard
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(10..=5_000))]
    transports: u16,
    /// How many fetchers share the shards
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=50))]
    fetchers: u16,
    /// How long it goes on after the story, 0s for the story alone; until Ctrl-C without it
    #[arg(long, value_name = "DURATION")]
    duration: Option<Span>,
    /// How many things happen in a minute after the story
    #[arg(long, default_value_t = 60, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=600))]
    rate: u16,
    /// Draws the same things again: what happens after the story follows from this number and from the
    /// answers of the cluster
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
}

/// Runs to the end, to Ctrl-C, or until nobody reads the output any more. Without an error all was as
/// promised, as far as it was told. Whatever was made is cleared
/// away.
pub(crate) async fn run(demo: Demo) -> Result<(), End> {
    let asked = shutdown::on_signals().map_err(|e| format!("cannot listen for signals: {e}"))?;
    let begun = Instant::now();
    let cluster = tokio::select! {
        cluster = Cluster::of(&demo) => cluster?,
        () = asked.stop.cancelled() => return Err(End::Failed(INTERRUPTED.into())),
    };
    let told = tell(&cluster, &demo, begun, &asked).await;
    cluster.stop(&asked.hurry).await;
    told?;
    let seconds = begun.elapsed().as_secs_f64();
    print(&format!("\nAll that was made is deleted. The whole took {seconds:.1} s."))
}

/// Tells the story and clears away what it made.
async fn tell(
    cluster: &Cluster,
    demo: &Demo,
    begun: Instant,
    Asked { stop, hurry }: &Asked,
) -> Result<(), End> {
    let (welcome, dashboard) = (cluster.welcome(), cluster.dashboard());
    let seconds = begun.elapsed().as_secs_f64();
    print(&format!("{welcome} ({seconds:.1} s)\nDashboard: {dashboard}"))?;
    let fleet = Fleet::new(&cluster.nodes, demo.transports, demo.fetchers);
    let mut fleet = fleet.map_err(|e| e.to_string())?;
    let told = tokio::select! {
        told = Story::of(&mut fleet).tell() => told,
        () = stop.cancelled() => Err(End::Failed(INTERRUPTED.into())),
    };
    let told = match told {
        Ok(()) => go_on(&mut fleet, demo, &dashboard, stop).await,
        Err(end) => Err(end),
    };
    let by_hand = fleet.cleared_by_hand();
    let cleared = tokio::select! {
        cleared = fleet.clear_away() => cleared,
        () = hurry.cancelled() => Err(match cluster.own {
            Some(_) => format!("{HURRIED}; it goes with the cluster of its own"),
            None => format!("{HURRIED}; what is left is deleted by: {by_hand}"),
        }),
    };
    match (told, cleared) {
        // What is left behind must be known, even to who reads no further.
        (Ok(()) | Err(End::OutputClosed), Err(left)) => Err(left.into()),
        (Err(End::Failed(why)), Err(left)) => Err(End::Failed(format!("{why}; {left}"))),
        (told, _) => told,
    }
}

/// What comes after the story, until its time is over or Ctrl-C.
async fn go_on(
    fleet: &mut Fleet,
    demo: &Demo,
    dashboard: &str,
    stop: &CancellationToken,
) -> Result<(), End> {
    let until = match demo.duration {
        Some(Span(Duration::ZERO)) => return Ok(()),
        Some(Span(duration)) => format!("For {}", humantime::format_duration(duration)),
        None => "Until Ctrl-C".into(),
    };
    print(&format!("\n5. {until} things come and go; look at {dashboard}\n"))?;
    let pace = Pace { rate: demo.rate, seed: demo.seed.unwrap_or_else(|| fastrand::u64(..)) };
    let over = async {
        match demo.duration {
            Some(Span(duration)) => sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        end = Life::of(fleet, pace).live() => end,
        () = over => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}

/// Asked once more to stop while it cleared away.
const HURRIED: &str = "stopped before all that was made was deleted";

const INTERRUPTED: &str = "stopped before the end of the story";

/// Where the story happens.
struct Cluster {
    /// The API addresses of all nodes.
    nodes: Vec<String>,
    own: Option<LocalCluster>,
}

impl Cluster {
    async fn of(demo: &Demo) -> Result<Self, End> {
        match demo.own_cluster {
            true => Self::start().await,
            false => Self::find_or_start(demo.endpoint.as_deref()).await,
        }
    }

    async fn find_or_start(given: Option<&str>) -> Result<Self, End> {
        if let Some(endpoints) = given {
            return Ok(Self { nodes: find_nodes(endpoints).await?, own: None });
        }
        match timeout(FIND_TIMEOUT, find_ready(ENDPOINTS)).await {
            Ok(Ok(nodes)) => Ok(Self { nodes, own: None }),
            Ok(Err(_)) | Err(_) => Self::start().await,
        }
    }

    async fn start() -> Result<Self, End> {
        let own = LocalCluster::start().await?;
        let nodes = find_nodes(&own.endpoints()).await?;
        Ok(Self { nodes, own: Some(own) })
    }

    fn welcome(&self) -> String {
        let nodes = self.nodes.join(" ");
        match self.own {
            Some(_) => format!("A cluster of {} nodes was started: {nodes}", self.nodes.len()),
            None => format!("A cluster of {} nodes was found: {nodes}", self.nodes.len()),
        }
    }

    fn dashboard(&self) -> String {
        let node = self.nodes.first().map_or("", String::as_str);
        format!("http://{node}/ui/")
    }

    async fn stop(self, hurry: &CancellationToken) {
        if let Some(own) = self.own {
            own.stop(hurry).await;
        }
    }
}

/// The nodes of a cluster that serves.
async fn find_ready(endpoints: &str) -> Result<Vec<String>, End> {
    let nodes = find_nodes(endpoints).await?;
    for node in &nodes {
        let ready = Connection::open(node).await?.get("/readyz").await?;
        if !ready.status.is_success() {
            return Err(End::TooLate(format!("node {node} is not ready: {ready}")));
        }
    }
    Ok(nodes)
}
