//! Log lines: text or JSON, to standard error.

mod json;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use crate::config::{ConfigError, LogFormat};

/// openraft tells of every vote and every timeout; its errors are enough. chunked_wal warns at every
/// start of a file that is ours. openraft's heartbeats miss its core when the two end together.
const QUIET: &str = "openraft=error,openraft::core::heartbeat=off,raft_log=warn,chunked_wal=error,h2=warn,hyper=warn";

fn wrong(problem: String) -> ConfigError {
    ConfigError { setting: "--log".into(), problem }
}

/// What is logged where a filter says this.
///
/// # Errors
/// If it is no filter.
pub fn filter(filter: &str) -> Result<EnvFilter, ConfigError> {
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|e| {
        let example = "write a level such as info, or roster=debug";
        wrong(format!("{filter:?} is not a log filter: {e}; {example}"))
    })
}

/// Starts logging. Once per process.
pub fn start(given: &str, format: LogFormat) -> Result<(), ConfigError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(given)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let started = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => {
            lines.fmt_fields(JsonFields::new()).event_format(json::JsonLines).try_init()
        }
    };
    started.map_err(|e| wrong(e.to_string()))
}
