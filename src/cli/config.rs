//! `roster config`: a node's settings, without starting the node.

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde_json::{Value, json};

use super::Serve;
use super::asking::{End, note, print};
use super::table::escaped;
use crate::config::effective::{Effective, Origin};
use crate::config::variables::{own_names, unknown_variables, variable};
use crate::config::{ConfigError, Settings};

/// Check a node's settings; show them with where each comes from
#[derive(Debug, clap::Args)]
pub(super) struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Check all settings as `roster serve` would, without starting anything
    #[command(after_help = "Example: roster config check --config /etc/roster/roster.toml")]
    Check(Check),
    /// Show the settings that were given, with where each comes from
    #[command(after_help = "Example: roster config show --effective --config roster.toml")]
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Check {
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// All settings as they are in force, also those that nobody gave
    #[arg(long)]
    effective: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Form::Toml, value_name = "FORMAT")]
    output: Form,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A file as `roster serve --config` takes it, with comments
    Toml,
    /// For programs
    Json,
}

impl Config {
    /// `matches`: of the whole command line.
    pub fn run(self, matches: &ArgMatches) -> Result<(), End> {
        let of_config = matches.subcommand_matches("config");
        match self.what {
            What::Check(check) => check.run(),
            What::Show(show) => show.run(of_config.and_then(|m| m.subcommand_matches("show"))),
        }
    }
}

impl Check {
    fn run(self) -> Result<(), End> {
        for warning in unknown_variables(own_names()) {
            note(&warning);
        }
        let file = self.serve.file()?.unwrap_or_default();
        let config = self.serve.settings.over(file).resolve()?;
        print(&format!(
            "all settings are right: node {} of {} ({}), data in {}",
            config.node_id,
            config.cluster.0.len(),
            config.cluster,
            escaped(&config.data_dir.display().to_string())
        ))
    }
}

impl Show {
    fn run(self, matches: Option<&ArgMatches>) -> Result<(), End> {
        let file = self.serve.file()?.unwrap_or_default();
        let in_file = file.given();
        let given = self.serve.settings.clone().over(file);
        let values = match self.effective {
            true => given.completed()?.given(),
            false => given.given(),
        };
        let origin = |key: &str| {
            let said = matches.and_then(|matches| said(matches, key));
            let file = self.serve.config.clone().filter(|_| in_file.contains_key(key));
            said.or(file.map(Origin::File)).unwrap_or(Origin::Default)
        };
        let settings = Settings::keys().into_iter().filter_map(|key| {
            let value = values.get(&key).cloned();
            let origin = origin(&key);
            let value = value.or(self.effective.then_some(Value::Null))?;
            Some(Effective { key, value, origin })
        });
        match self.output {
            Form::Toml => print(&lines(&settings.collect::<Vec<_>>())),
            Form::Json => print(&object(settings).to_string()),
        }
    }
}

/// Whether the setting was given on the command line or in the environment, and how.
fn said(matches: &ArgMatches, key: &str) -> Option<Origin> {
    match matches.value_source(key)? {
        ValueSource::CommandLine => Some(Origin::Flag(format!("--{}", key.replace('_', "-")))),
        ValueSource::EnvVariable => Some(Origin::Environment(variable(key))),
        _ => None,
    }
}

fn lines(settings: &[Effective]) -> String {
    let lines: Vec<_> = settings.iter().map(Effective::line).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let commented = lines.iter().zip(settings).map(|(line, setting)| match setting.value {
        Value::Null => line.clone(),
        _ => format!("{line:<width$}  # {}", escaped(&setting.origin.to_string())),
    });
    commented.collect::<Vec<_>>().join("\n")
}

fn object(settings: impl Iterator<Item = Effective>) -> Value {
    let entry = |setting: Effective| {
        let origin = setting.origin.to_string();
        (setting.key, json!({ "value": setting.value, "origin": origin }))
    };
    Value::Object(settings.map(entry).collect())
}

impl From<ConfigError> for End {
    fn from(error: ConfigError) -> Self {
        Self::Settings(error)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_setting_has_a_flag_and_a_variable_of_its_name() {
        let cli = Cli::command();
        let serve = cli.find_subcommand("serve").expect("it is there");
        for key in Settings::keys() {
            let arg = serve.get_arguments().find(|arg| arg.get_id() == key.as_str());
            let arg = arg.unwrap_or_else(|| panic!("{key} has no flag"));
            assert_eq!(arg.get_long(), Some(key.replace('_', "-").as_str()));
            let name = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned);
            assert_eq!(name, Some(variable(&key)));
        }
    }
}
