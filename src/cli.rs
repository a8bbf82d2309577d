//! The command line: `roster serve`, `roster dev`, `roster bench`; and what asks a running cluster:
//! `roster watch`, `roster events`.

mod asking;
mod events;
mod table;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Settings;
use crate::{bench, dev, process, shutdown, start, telemetry};

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
    /// Show what is there, then every change as it happens
    Watch(watch::Watch),
    /// Show past changes, with their reasons
    Events(events::Events),
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// A TOML file with settings; the environment and flags go over it
    #[arg(long, env = "ROSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Exit code for what failed in a way that has no code of its own.
const FAILED: u8 = 1;

/// Exit code for a wrong command line or setting.
const USAGE: u8 = 2;

/// Runs the command line. 0: all went well, 1: it failed, 2: a setting or an argument is wrong, 3:
/// not found, 4: conflict, 5: no leader, or nobody answered in time.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    process::raise_file_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(FAILED, &format!("cannot start the runtime: {e}")),
    };
    runtime.block_on(async {
        match cli.command {
            Sub::Serve(serve) => run_node(*serve).await,
            Sub::Dev(dev) => {
                dev::run(dev).await.map_or_else(|e| fail(FAILED, &e), |()| ExitCode::SUCCESS)
            }
            Sub::Bench(bench) => {
                bench::run(bench).await.map_or_else(|e| fail(FAILED, &e), |()| ExitCode::SUCCESS)
            }
            Sub::Watch(watch) => asking::exit(watch.run().await),
            Sub::Events(events) => asking::exit(events.run().await),
        }
    })
}

async fn run_node(serve: Serve) -> ExitCode {
    let settings = match serve.config.as_deref().map(Settings::from_file) {
        Some(Ok(file)) => serve.settings.over(file),
        Some(Err(e)) => return fail(USAGE, &e),
        None => serve.settings,
    };
    let log = settings.log.clone().unwrap_or_else(|| "info".into());
    if let Err(e) = telemetry::start(&log, settings.log_format.unwrap_or_default()) {
        return fail(USAGE, &e);
    }
    let config = match settings.resolve() {
        Ok(config) => config,
        Err(e) => return fail(USAGE, &e),
    };
    let stop = match shutdown::on_signal() {
        Ok(stop) => stop,
        Err(e) => return fail(FAILED, &format!("cannot listen for signals: {e}")),
    };
    match start::run(config, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e @ start::StartError::Config(_)) => fail(USAGE, &e),
        Err(e) => fail(FAILED, &e),
    }
}

fn fail(code: u8, problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("roster: {problem}");
    ExitCode::from(code)
}
