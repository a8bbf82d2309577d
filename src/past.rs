//! Reading back what a node keeps of the past: from memory as far as that goes, from the history
//! behind it. Missing ranges are passed over here; whoever reads is told which ranges there are.

use std::sync::Arc;

use roster_api::registry::{Past, PastChanges};
use roster_storage::events::{Change, Interest};
use roster_storage::history::History;
use roster_storage::names::Revision;
use tokio::task::spawn_blocking;

use crate::watch::Watches;

/// Changes that are looked at in memory at once.
const STEP: usize = 1_024;

impl Watches {
    /// One step through the past, in the order asked for.
    pub async fn past(&self, past: Past) -> PastChanges {
        let floor = self.log().lock().floor();
        if past.newest_first {
            match past.upto > floor {
                true => self.backwards_in_memory(&past),
                false => backwards(self.opened_history().await, past).await,
            }
        } else {
            match past.after >= floor {
                true => self.forwards_in_memory(&past),
                false => forwards(self.opened_history().await, past, floor).await,
            }
        }
    }

    fn forwards_in_memory(&self, past: &Past) -> PastChanges {
        let read = self.log().lock().after(past.after, STEP);
        match read {
            Ok((changes, upto)) => told(changes, past, upto.min(past.upto)),
            // Forgotten since a moment ago: the next step reads the history.
            Err(_) => told(Vec::new(), past, past.after),
        }
    }

    fn backwards_in_memory(&self, past: &Past) -> PastChanges {
        let (changes, downto) = self.log().lock().before(next(past.upto), STEP);
        told(changes, past, downto.max(past.after))
    }

    /// The ranges of revisions of which every change is kept here: the first and the last of each.
    pub async fn covered(&self) -> Vec<(Revision, Revision)> {
        let history = self.opened_history().await;
        let mut covered = history.map(|history| history.covered()).unwrap_or_default();
        let (floor, newest) = {
            let log = self.log().lock();
            (log.floor(), log.newest())
        };
        match covered.last_mut() {
            Some(last) if last.1 >= floor => last.1 = last.1.max(newest),
            Some(_) | None if newest > floor => covered.push((next(floor), newest)),
            Some(_) | None => {}
        }
        covered
    }

    /// The last revision that was told before a wall time; 0 if none of those kept was.
    pub async fn revision_at(&self, wall_ms: u64) -> Revision {
        let floor = self.log().lock().floor();
        let in_memory = self.log().lock().last_before(wall_ms);
        if let Some(revision) = in_memory {
            return revision;
        }
        let Some(history) = self.opened_history().await else { return Revision(0) };
        let found = spawn_blocking(move || history.revision_at(wall_ms)).await;
        found.ok().flatten().unwrap_or_default().min(floor)
    }
}

fn next(revision: Revision) -> Revision {
    Revision(revision.0.saturating_add(1))
}

/// What of these changes was asked for; all that is kept between the start and `reached` was read.
fn told(mut changes: Vec<Arc<Change>>, past: &Past, reached: Revision) -> PastChanges {
    changes.retain(|change| {
        let revision = change.at.revision;
        revision > past.after && revision <= past.upto && past.interest.touched_by(change)
    });
    PastChanges { changes, reached }
}

async fn forwards(history: Option<Arc<History>>, past: Past, floor: Revision) -> PastChanges {
    let read = |history: &History, past: &Past, interest: &Interest| {
        history.after(past.after, interest, past.count)
    };
    let to_memory = floor.min(past.upto);
    let Some((past, read)) = off_thread(history, past.clone(), read).await else {
        return told(Vec::new(), &past, to_memory);
    };
    match read {
        Ok((changes, upto)) if upto > past.after => told(changes, &past, upto.min(past.upto)),
        // It ends here, before memory begins.
        Ok(_) => told(Vec::new(), &past, to_memory),
        Err(gap) => told(Vec::new(), &past, gap.upto.min(past.upto).max(next(past.after))),
    }
}

async fn backwards(history: Option<Arc<History>>, past: Past) -> PastChanges {
    let read = |history: &History, past: &Past, interest: &Interest| {
        history.before(next(past.upto), interest, past.count)
    };
    let Some((past, read)) = off_thread(history, past.clone(), read).await else {
        return told(Vec::new(), &past, past.after);
    };
    match read {
        Ok((changes, downto)) if downto < past.upto => told(changes, &past, downto.max(past.after)),
        // There is nothing before it.
        Ok(_) => told(Vec::new(), &past, past.after),
        Err(gap) => told(Vec::new(), &past, gap.after.max(past.after)),
    }
}

/// Reads the history where waiting for the disk does no harm. `None` if there is none.
async fn off_thread<T: Send + 'static>(
    history: Option<Arc<History>>,
    past: Past,
    read: impl FnOnce(&History, &Past, &Interest) -> T + Send + 'static,
) -> Option<(Past, T)> {
    let history = history?;
    let read = spawn_blocking(move || {
        let read = read(&history, &past, &past.interest);
        (past, read)
    });
    read.await.ok()
}
