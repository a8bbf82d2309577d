//! Keeps the node from filling its disk: below a reserve of free space it takes no more writes, says
//! so, hands the leadership on, and comes back by itself when there is room (invariant L6). What
//! Raft must still write then (votes, a checkpoint) fits into the reserve.

use std::path::PathBuf;
use std::time::Duration;

use parking_lot::RwLock;

use crate::leading::wall_ms;

/// How often free space is looked at. At 500 MB/s a reserve of 256 MiB lasts for two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A large reserve must not ask for as much again.
const BACK_AFTER_MAX: u64 = 32 << 20;

#[derive(Debug)]
pub struct DiskGuard {
    path: PathBuf,
    reserve_bytes: u64,
    full: RwLock<Option<Full>>,
}

#[derive(Clone, Debug)]
pub struct Full {
    pub since_ms: u64,
    pub why: String,
}

impl DiskGuard {
    pub fn new(path: PathBuf, reserve_bytes: u64) -> Self {
        let guard = Self { path, reserve_bytes, full: RwLock::default() };
        guard.look();
        guard
    }

    /// `Err` says why not, and what to do.
    pub fn writable(&self) -> Result<(), String> {
        match self.full.read().as_ref() {
            None => Ok(()),
            Some(full) => Err(full.why.clone()),
        }
    }

    pub fn full(&self) -> Option<Full> {
        self.full.read().clone()
    }

    /// Free bytes for this user on the disk.
    pub fn free_bytes(&self) -> std::io::Result<u64> {
        let fs = rustix::fs::statvfs(&self.path)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    /// Looks at the free space and switches over if need be. A tenth more than the reserve, but
    /// not more than [`BACK_AFTER_MAX`], is wanted to come back, so that it does not flap.
    pub fn look(&self) {
        let free = match self.free_bytes() {
            Ok(free) => free,
            Err(e) => {
                return tracing::warn!("cannot see the free space of {}: {e}", self.path.display());
            }
        };
        let mut full = self.full.write();
        let more = if full.is_some() { (self.reserve_bytes / 10).min(BACK_AFTER_MAX) } else { 0 };
        let wanted = self.reserve_bytes.saturating_add(more);
        match (free >= wanted, full.is_some()) {
            (true, true) => {
                tracing::warn!(free_mib = free >> 20, "there is room again; taking writes");
                *full = None;
            }
            (false, false) => {
                let why = format!(
                    "{} MiB are free on the disk of {}, less than the reserve of {} MiB \
                     (--disk-reserve-mib); make room and the node comes back by itself",
                    free >> 20,
                    self.path.display(),
                    self.reserve_bytes >> 20
                );
                tracing::error!("read-only: {why}");
                *full = Some(Full { since_ms: wall_ms(), why });
            }
            (true, false) | (false, true) => {}
        }
    }
}
