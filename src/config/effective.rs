//! All settings as they are in force, and where each comes from: what `roster config show` tells.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::{Config, ConfigError, Settings, Span};

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    File(PathBuf),
    /// The variable's name.
    Environment(String),
    /// The flag as it is written.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One setting as it is in force. `null` where it is off.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

impl Effective {
    /// A line of a settings file.
    pub fn line(&self) -> String {
        match &self.value {
            Value::Null => format!("# {} is not set", self.key),
            // TOML's basic strings, numbers and booleans are written like those of JSON.
            value => format!("{} = {value}", self.key),
        }
    }
}

impl Settings {
    /// What is set, by its key in a file.
    pub fn given(&self) -> BTreeMap<String, Value> {
        let all = serde_json::to_value(self).unwrap_or_default();
        let fields = all.as_object().cloned().unwrap_or_default();
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// The keys of all settings, in the order of the alphabet.
    pub fn keys() -> Vec<String> {
        let all = serde_json::to_value(Self::default()).unwrap_or_default();
        all.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default()
    }

    /// With every setting that has a value without being set. Checks all of them.
    pub fn completed(self) -> Result<Self, ConfigError> {
        let (log, log_format) = (self.log.clone(), self.log_format.unwrap_or_default());
        let allow_unauthenticated = self.allow_unauthenticated.unwrap_or(false);
        Ok(Self {
            log: Some(log.unwrap_or_else(|| super::LOG.into())),
            log_format: Some(log_format),
            allow_unauthenticated: Some(allow_unauthenticated),
            ..self.resolve()?.settings()
        })
    }
}

fn mib(bytes: u64) -> Option<u64> {
    Some(bytes >> 20)
}

fn span_ms(ms: u64) -> Option<Span> {
    Some(Span(std::time::Duration::from_millis(ms)))
}

impl Config {
    /// The settings that come to this. Those of the log are not here.
    fn settings(&self) -> Settings {
        let number = |count: usize| Some(count as u64);
        let sentinel = &self.sentinel;
        Settings {
            node_id: Some(self.node_id),
            data_dir: Some(self.data_dir.clone()),
            listen: Some(self.listen),
            peer_listen: Some(self.peer_listen),
            advertise_api: Some(self.advertise_api.clone()),
            advertise_peer: Some(self.advertise_peer.clone()),
            cluster: Some(self.cluster.to_string()),
            allow_unauthenticated: None,
            replace_disk: Some(self.replace_disk),
            raft_heartbeat: Some(Span(self.timings.heartbeat)),
            election_timeout_min: Some(Span(self.timings.election_min)),
            election_timeout_max: Some(Span(self.timings.election_max)),
            lease_reads: Some(self.lease_reads),
            heartbeat_rate: Some(self.heartbeat_rate),
            pace_calm: Some(Span(self.pace_calm)),
            checkpoint_every: Some(self.checkpoint_every),
            checkpoint_every_mib: mib(self.checkpoint_every_bytes),
            log_keep: Some(self.log_keep),
            disk_reserve_mib: mib(self.disk_reserve_bytes),
            workers: number(self.threads.clients),
            raft_workers: number(self.threads.core),
            background_workers: number(self.threads.background),
            connections: number(self.connections_max),
            watches_max: number(self.watch.followers_max),
            watch_queue: number(self.watch.queue_changes_max),
            event_log: number(self.watch.log.changes_max),
            event_log_mib: mib(self.watch.log.bytes_max),
            history_mib: mib(self.history.as_ref().map_or(0, |history| history.bytes_max)),
            history_age: self.history.as_ref().and_then(|history| span_ms(history.age_max_ms)),
            rebalance_after_loss: Some(Span(self.rebalance.after_loss)),
            rebalance_after_gain: Some(Span(self.rebalance.after_gain)),
            brake_share: Some(self.brake.share_percent),
            brake_app_share: Some(self.brake.app_share_percent),
            brake_window: span_ms(self.brake.window_ms),
            brake_exempt: Some(self.brake.exempt),
            brake_pace: span_ms(self.brake.pace_ms),
            expiry_rate: Some(self.brake.rate),
            request_timeout: Some(Span(self.request_timeout)),
            body_limit_kib: Some(self.body_limit >> 10),
            log: None,
            log_format: None,
            sentinel_ttl: span_ms(sentinel.ttl_ms()),
            sentinel_unhealthy: span_ms(sentinel.unhealthy_ms()),
            sentinel_dead: sentinel.dead_ms().and_then(span_ms),
            sentinel_hide_app: sentinel.hide_app_ms().and_then(span_ms),
            sentinel_remove_app: sentinel.remove_app_ms().and_then(span_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that users copy.
    const EXAMPLE: &str = include_str!("../../deploy/roster.toml");

    /// What depends on the machine or on other settings: the example shows how it looks.
    const SHOWN: [&str; 9] = [
        "node_id",
        "data_dir",
        "cluster",
        "advertise_api",
        "advertise_peer",
        "workers",
        "raft_workers",
        "background_workers",
        "connections",
    ];

    /// What nothing stands for: the example shows how it looks.
    const OFF: [&str; 3] = ["sentinel_dead", "sentinel_hide_app", "sentinel_remove_app"];

    fn least() -> Settings {
        Settings {
            node_id: Some(1),
            data_dir: Some("/var/lib/roster".into()),
            cluster: Some("1=127.0.0.1:7500".into()),
            ..Settings::default()
        }
    }

    fn file(text: &str) -> Settings {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("roster.toml");
        std::fs::write(&path, text).expect("written");
        Settings::from_file(&path).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The example with its defaults set: a setting that stands there as a comment has no blank after
    /// the sign.
    fn uncommented() -> Settings {
        let is_setting = |line: &str| {
            let key = line.trim_start_matches('#').split(" = ").next().unwrap_or_default();
            !key.is_empty() && !key.contains(' ') && line.contains(" = ")
        };
        let lines: Vec<_> = EXAMPLE.lines().filter(|line| is_setting(line)).collect();
        file(
            &lines
                .iter()
                .map(|line| format!("{}\n", line.trim_start_matches('#')))
                .collect::<String>(),
        )
    }

    #[test]
    fn what_is_in_force_can_be_written_to_a_file_and_comes_to_the_same() {
        let completed = least().completed().expect("complete");
        let lines: Vec<_> = completed
            .given()
            .into_iter()
            .map(|(key, value)| Effective { key, value, origin: Origin::Default }.line())
            .collect();
        let again = file(&lines.join("\n"));
        assert_eq!(again, completed);
        assert_eq!(again.clone().completed().expect("complete"), again);
        let unset: Vec<_> = Settings::keys()
            .into_iter()
            .filter(|key| !completed.given().contains_key(key))
            .collect();
        assert_eq!(unset, OFF);
    }

    #[test]
    fn the_example_names_every_setting_with_its_default() {
        let (example, defaults) = (uncommented().given(), least().completed().expect("complete"));
        let mut keys = Settings::keys();
        keys.sort();
        assert_eq!(example.keys().cloned().collect::<Vec<_>>(), keys);
        for (key, value) in defaults.given() {
            if !SHOWN.contains(&key.as_str()) {
                assert_eq!(example[&key], value, "{key}");
            }
        }
        uncommented().resolve().expect("all can be set together, on any machine");
    }

    #[test]
    fn the_example_is_a_whole_file_as_it_stands() {
        let config = file(EXAMPLE).resolve().expect("complete");
        assert_eq!(config.cluster.0.len(), 3);
    }
}
