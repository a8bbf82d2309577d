//! Failures in the log: each answer of 5xx is told once, and of a storm of them only the first few in
//! each second, with how many were left out before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::StatusCode;

use crate::error::ApiError;
use crate::registry::Glance;

/// Lines in a second: a cluster without a leader refuses thousands of heartbeats in each.
const TOLD_PER_SECOND: u64 = 10;

/// Their answer says whether the node serves: that is no failure.
const PROBES: [&str; 2] = ["/readyz", "/livez"];

pub(crate) struct Reports {
    origin: Instant,
    second: AtomicU64,
    told: AtomicU64,
    left_out: AtomicU64,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            second: AtomicU64::new(0),
            told: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        }
    }
}

impl Reports {
    pub fn tell(&self, error: &ApiError, request_id: &str, route: &str, glance: &Glance) {
        if !error.status().is_server_error() || PROBES.contains(&route) {
            return;
        }
        let Some(left_out) = self.turn(self.origin.elapsed().as_secs()) else { return };
        let left_out = Some(left_out).filter(|count| *count > 0);
        let status = error.status().as_u16();
        let (code, detail, outcome) = (error.code(), error.detail(), error.outcome());
        let (term, revision) = (glance.term, glance.applied.0);
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    request_id,
                    route,
                    status,
                    code,
                    outcome,
                    term,
                    revision,
                    left_out,
                    "a request failed: {detail}"
                )
            };
        }
        // What passes by itself, and what a client can ask again, is no defect of this node.
        if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tell!(error);
        } else {
            tell!(warn);
        }
    }

    /// How many were left out since the last line, if this one may be told.
    fn turn(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.told.store(0, Ordering::Relaxed);
        }
        if self.told.fetch_add(1, Ordering::Relaxed) < TOLD_PER_SECOND {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_storm_the_beginning_is_told_and_how_many_more_there_were() {
        let reports = Reports::default();
        let told = (0..1_000).filter_map(|_| reports.turn(7)).count();
        assert_eq!(told as u64, TOLD_PER_SECOND);
        assert_eq!(reports.turn(8), Some(1_000 - TOLD_PER_SECOND));
        assert_eq!(reports.turn(8), Some(0));
    }
}
