//! The command line: `roster serve`, `roster dev`, `roster bench`, `roster demo`; and what asks a
//! running cluster: `roster app`, `roster instance`, `roster session`, `roster watch`, `roster top`, `roster events`,
//! `roster ring`, `roster shards`, `roster lock`, `roster election`, `roster cluster`, `roster service`,
//! `roster health`. And `roster config`, `roster completion`, `roster man`, which ask nobody.

mod app;
pub(crate) mod asking;
mod cluster;
mod config;
mod election;
mod events;
pub(crate) mod grid;
mod health;
mod instance;
mod lists;
mod lock;
mod manual;
pub(crate) mod progress;
mod ring;
mod service;
mod session;
mod shards;
mod table;
pub(crate) mod tied;
mod top;
mod under;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::variables::{own_names, unknown_variables};
use crate::config::{Config, ConfigError, LOG, Settings};
use crate::threads::{Places, Threads};
use crate::{bench, demo, dev, process, shutdown, start, telemetry};

/// A replicated registry: who is here, and who does what.
#[derive(Debug, Parser)]
#[command(name = "roster", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Run one node of a cluster
    Serve(Box<Serve>),
    /// Run a whole cluster in this terminal, to try things out
    Dev(dev::Dev),
    /// Measure a running cluster
    Bench(bench::Bench),
    /// Tell a story of workers that share shards, and of what happens when some die
    Demo(demo::Demo),
    /// Show, make and delete apps; their documents
    App(app::App),
    /// Show, register, drain and deregister instances
    Instance(instance::Instance),
    /// Open, keep, show and end sessions
    Session(session::Session),
    /// Show what is there, then every change as it happens
    Watch(watch::Watch),
    /// Show the cluster in this terminal, alive: nodes, instances, apps, shard sets, events
    Top(top::Top),
    /// Show past changes, with their reasons
    Events(events::Events),
    /// Show who owns which key of an app's ring; switch rings on and off
    Ring(ring::Ring),
    /// Show who works on which shard; make and change shard sets
    Shards(shards::Shards),
    /// Run a command while holding a lock; show, acquire and release locks
    Lock(lock::Lock),
    /// Stand for election, run a command while leading; show and watch who leads
    Election(election::Election),
    /// Show the nodes, who leads and what is wrong; the mass-loss brake
    Cluster(cluster::Cluster),
    /// Show what services of OpenStack are here
    Service(service::Service),
    /// Ask nodes whether they are ready
    Health(health::Health),
    /// Check a node's settings; show them with where each comes from
    Config(Box<config::Config>),
    /// Print the completions of a shell
    Completion(manual::Completion),
    /// Print the manual page
    #[command(name = "man")]
    Manual(manual::Manual),
    /// Become a command that is killed when its parent ends
    #[command(hide = true)]
    RunFor(tied::RunFor),
    /// Kill the own process group when the input ends
    #[command(hide = true)]
    GuardGroup(tied::GuardGroup),
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// A TOML file with settings; the environment and flags go over it
    #[arg(long, env = "ROSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// What the file says, if there is one.
    fn file(&self) -> Result<Option<Settings>, ConfigError> {
        self.config.as_deref().map(Settings::from_file).transpose()
    }
}

/// Exit code for what failed in a way that has no code of its own.
const FAILED: u8 = 1;

/// Exit code for a wrong command line or setting.
const USAGE: u8 = 2;

/// Runs the command line. 0: all went well, 1: it failed, 2: a setting or an argument is wrong, 3:
/// not found, 4: conflict, 5: no leader, or nobody answered in time. What runs a command passes its
/// exit code on.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    process::raise_file_limit();
    match cli.command {
        Sub::Health(health) => on_runtime(Some(1), async { asking::exit(health.run().await) }),
        Sub::Completion(completion) => asking::exit(completion.run()),
        Sub::Manual(manual) => asking::exit(manual.run()),
        Sub::Config(config) => asking::exit(config.run(&matches)),
        Sub::Serve(serve) => match settle(*serve) {
            Ok(config) => serve_node(config),
            Err(code) => code,
        },
        Sub::Dev(dev) => on_runtime(None, async { asking::exit(dev::run(dev).await) }),
        Sub::Bench(bench) => on_runtime(None, async { asking::exit(bench::run(bench).await) }),
        Sub::Demo(demo) => on_runtime(None, async { asking::exit(demo::run(demo).await) }),
        Sub::App(app) => on_runtime(None, async { asking::exit(app.run().await) }),
        Sub::Instance(it) => on_runtime(None, async { asking::exit(it.run().await) }),
        Sub::Session(session) => on_runtime(None, async { asking::exit(session.run().await) }),
        Sub::Ring(ring) => on_runtime(None, async { asking::exit(ring.run().await) }),
        Sub::Shards(shards) => on_runtime(None, async { asking::exit(shards.run().await) }),
        Sub::Lock(lock) => on_runtime(None, async { asking::exit(lock.run().await) }),
        Sub::Election(election) => on_runtime(None, async { asking::exit(election.run().await) }),
        Sub::Cluster(cluster) => on_runtime(None, async { asking::exit(cluster.run().await) }),
        Sub::Service(service) => on_runtime(None, async { asking::exit(service.run().await) }),
        Sub::RunFor(run) => run.run(),
        Sub::GuardGroup(guard) => on_runtime(Some(1), async { asking::exit(guard.run().await) }),
        Sub::Watch(watch) => on_runtime(None, async { asking::exit(watch.run().await) }),
        Sub::Top(top) => on_runtime(None, async { asking::exit(top.run().await) }),
        Sub::Events(events) => on_runtime(None, async { asking::exit(events.run().await) }),
    }
}

/// Runs a command on so many threads; on one per core without a number.
fn on_runtime(workers: Option<usize>, command: impl Future<Output = ExitCode>) -> ExitCode {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = workers {
        runtime.worker_threads(workers);
    }
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(e) => fail(FAILED, &format!("cannot start the runtime: {e}")),
    }
}

/// Puts a node's settings together, and begins the log. An error has been told.
fn settle(serve: Serve) -> Result<Config, ExitCode> {
    let settings = match serve.file() {
        Ok(Some(file)) => serve.settings.over(file),
        Ok(None) => serve.settings,
        Err(e) => return Err(fail(USAGE, &e)),
    };
    let log = settings.log.clone().unwrap_or_else(|| LOG.into());
    telemetry::start(&log, settings.log_format.unwrap_or_default()).map_err(|e| fail(USAGE, &e))?;
    for warning in unknown_variables(own_names()) {
        tracing::warn!("{warning}");
    }
    settings.resolve().map_err(|e| fail(USAGE, &e))
}

/// Runs a node on threads of its own.
fn serve_node(config: Config) -> ExitCode {
    match Threads::start(config.threads) {
        Ok(threads) => {
            let places = threads.places();
            threads.run(run_node(config, places))
        }
        Err(e) => fail(FAILED, &format!("cannot start the threads of the node: {e}")),
    }
}

async fn run_node(config: Config, places: Places) -> ExitCode {
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(e) => return fail(FAILED, &format!("cannot listen for signals: {e}")),
    };
    match start::run(config, places, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e @ start::StartError::Config(_)) => fail(USAGE, &e),
        Err(e) => fail(FAILED, &e),
    }
}

fn fail(code: u8, problem: &dyn std::fmt::Display) -> ExitCode {
    // The exit code tells it too, where nobody reads this.
    let _ = writeln!(std::io::stderr(), "roster: {problem}");
    ExitCode::from(code)
}
