//! What the binary may set about the API.

use roster_storage::limits::SENTINEL_TTL_MS;

use crate::traffic::Traffic;

/// How the API behaves; all of it is fixed at start.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// A larger request body is answered 413 `too-large`.
    pub body_bytes_max: usize,
    pub sentinel: SentinelSettings,
    /// Roster's version, as `/version` tells it.
    pub version: String,
    /// Where requests are counted.
    pub traffic: Traffic,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            // A batch of 5,000 ordinary registrations takes about half of it.
            body_bytes_max: 4 * 1024 * 1024,
            sentinel: SentinelSettings::default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            traffic: Traffic::default(),
        }
    }
}

/// The four settings of Sentinel's dashboard that shape what its paths say, in milliseconds. They
/// remove nothing: in Roster only the TTL does, which is a setting too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentinelSettings {
    /// `sentinel.dashboard.unhealthyMachineMillis`
    unhealthy_machine_ms: u64,
    /// `sentinel.dashboard.autoRemoveMachineMillis`; 0 is off
    auto_remove_machine_ms: u64,
    /// `sentinel.dashboard.app.hideAppNoMachineMillis`; 0 is off
    hide_app_no_machine_ms: u64,
    /// `sentinel.dashboard.removeAppNoMachineMillis`; 0 is off
    remove_app_no_machine_ms: u64,
    /// The TTL of machines.
    ttl_ms: u64,
}

impl Default for SentinelSettings {
    fn default() -> Self {
        Self::new(0, 0, 0, 0)
    }
}

impl SentinelSettings {
    /// As the dashboard reads them: 0 is the default, and what is lower than the least value is
    /// raised to it.
    pub fn new(
        unhealthy_machine_ms: i64,
        auto_remove_machine_ms: i64,
        hide_app_no_machine_ms: i64,
        remove_app_no_machine_ms: i64,
    ) -> Self {
        Self {
            unhealthy_machine_ms: setting(unhealthy_machine_ms, 60_000, 30_000),
            auto_remove_machine_ms: setting(auto_remove_machine_ms, 0, 300_000),
            hide_app_no_machine_ms: setting(hide_app_no_machine_ms, 0, 60_000),
            remove_app_no_machine_ms: setting(remove_app_no_machine_ms, 0, 120_000),
            ttl_ms: SENTINEL_TTL_MS,
        }
    }

    /// The same with another TTL of machines that register from now on.
    #[must_use]
    pub fn with_ttl(self, ttl_ms: u64) -> Self {
        Self { ttl_ms, ..self }
    }

    /// How long a machine lives after its last beat.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_ms
    }

    pub fn unhealthy_ms(&self) -> u64 {
        self.unhealthy_machine_ms
    }

    /// `None`: off, here and below.
    pub fn dead_ms(&self) -> Option<u64> {
        Some(self.auto_remove_machine_ms).filter(|ms| *ms > 0)
    }

    pub fn hide_app_ms(&self) -> Option<u64> {
        Some(self.hide_app_no_machine_ms).filter(|ms| *ms > 0)
    }

    pub fn remove_app_ms(&self) -> Option<u64> {
        Some(self.remove_app_no_machine_ms).filter(|ms| *ms > 0)
    }

    /// Whether a machine that was heard `ago_ms` ago is healthy.
    pub fn healthy(&self, ago_ms: u64) -> bool {
        ago_ms < self.unhealthy_machine_ms
    }

    /// Whether the dashboard would have removed a machine that was heard `ago_ms` ago.
    pub fn machine_dead(&self, ago_ms: u64) -> bool {
        self.auto_remove_machine_ms > 0 && ago_ms > self.auto_remove_machine_ms
    }

    /// Whether an app is shown, by how long ago its last heard machine was heard.
    pub fn app_shown(&self, newest_ago_ms: Option<u64>) -> bool {
        self.app_rule(newest_ago_ms, self.hide_app_no_machine_ms)
    }

    pub fn app_dead(&self, newest_ago_ms: Option<u64>) -> bool {
        !self.app_rule(newest_ago_ms, self.remove_app_no_machine_ms)
    }

    /// An app without machines never passes; one with a healthy machine always does.
    fn app_rule(&self, newest_ago_ms: Option<u64>, threshold_ms: u64) -> bool {
        newest_ago_ms
            .is_some_and(|ago| threshold_ms == 0 || self.healthy(ago) || ago < threshold_ms)
    }
}

fn setting(value: i64, default: u64, least: u64) -> u64 {
    match value {
        0 => default,
        value => u64::try_from(value).unwrap_or(0).max(least),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_default_and_too_little_is_raised_to_the_least_value() {
        let raised = SentinelSettings::new(1, -5, 59_999, 120_001);
        assert!(raised.healthy(29_999) && !raised.healthy(30_000));
        assert!(raised.machine_dead(300_001) && !raised.machine_dead(300_000));
        assert_eq!(raised.hide_app_no_machine_ms, 60_000);
        assert_eq!(raised.remove_app_no_machine_ms, 120_001);
        assert_eq!(SentinelSettings::default().unhealthy_machine_ms, 60_000);
    }

    #[test]
    fn an_app_without_machines_is_dead_and_not_shown_whatever_the_settings() {
        for settings in [SentinelSettings::default(), SentinelSettings::new(0, 0, 60_000, 120_000)]
        {
            assert!(settings.app_dead(None));
            assert!(!settings.app_shown(None));
        }
    }

    #[test]
    fn an_app_of_silent_machines_is_hidden_after_its_threshold_only_if_that_is_on() {
        assert!(SentinelSettings::default().app_shown(Some(1 << 40)));
        let settings = SentinelSettings::new(0, 0, 90_000, 120_000);
        assert!(settings.app_shown(Some(89_999)));
        assert!(!settings.app_shown(Some(90_000)));
        assert!(!settings.app_dead(Some(119_999)));
        assert!(settings.app_dead(Some(120_000)));
    }
}
