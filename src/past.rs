//! Reading back what a node keeps of the past: from memory as far as that goes, from the history
//! behind it. Missing ranges are passed over here; whoever reads is told which ranges there are.

use std::sync::Arc;
use std::time::Duration;

use roster_api::registry::{Past, PastChanges};
use roster_storage::events::Change;
use roster_storage::history::{Gap, GapReason, History};
use roster_storage::names::Revision;
use tokio::time::sleep;

use crate::watch::Watches;

/// Changes that are looked at in memory at once.
const STEP: usize = 1_024;

/// Between two looks whether the log is where the state is, and how many there are.
const A_MOMENT: Duration = Duration::from_millis(2);
const LOOKS_MAX: u32 = 500;

/// Between two looks whether something was written.
const WRITING_PAUSE: Duration = Duration::from_millis(50);

impl Watches {
    /// One step through the past, in the order asked for. May come no further, if what comes next is
    /// about to be written.
    pub async fn past(&self, past: Past) -> PastChanges {
        self.wait_for(past.upto).await;
        let in_memory = match past.newest_first {
            true => self.backwards_in_memory(&past),
            false => self.forwards_in_memory(&past),
        };
        match in_memory {
            Ok(read) => read,
            Err(_) if past.newest_first => self.backwards(past).await,
            Err(floor) => self.forwards(past, floor).await,
        }
    }

    /// The state is published a moment before its changes are in the log.
    async fn wait_for(&self, revision: Revision) {
        for _ in 0..LOOKS_MAX {
            if self.log().lock().newest() >= revision {
                return;
            }
            sleep(A_MOMENT).await;
        }
    }

    /// The error is where memory begins.
    fn forwards_in_memory(&self, past: &Past) -> Result<PastChanges, Revision> {
        let read = self.log().lock().after(past.after, STEP);
        let (changes, upto) = read.map_err(|forgotten| forgotten.kept_after)?;
        Ok(told(changes, past, upto.min(past.upto)))
    }

    fn backwards_in_memory(&self, past: &Past) -> Result<PastChanges, Revision> {
        let (floor, (changes, downto)) = {
            let log = self.log().lock();
            (log.floor(), log.before(next(past.upto), STEP))
        };
        if past.upto <= floor {
            return Err(floor);
        }
        Ok(told(changes, past, downto.max(past.after)))
    }

    async fn forwards(&self, past: Past, floor: Revision) -> PastChanges {
        let to_memory = floor.min(past.upto);
        let asked = past.clone();
        let read = move |history: &History| {
            let read = history.after(asked.after, &asked.interest, asked.count);
            (read, history.appended())
        };
        match self.read_history(read).await {
            Some((Ok((changes, upto)), _)) if upto > past.after => {
                told(changes, &past, upto.min(past.upto))
            }
            // It is written within a second.
            Some((Ok(_), appended)) if appended > Some(past.after) => {
                sleep(WRITING_PAUSE).await;
                told(Vec::new(), &past, past.after)
            }
            // It ends here, before memory begins.
            Some((Ok(_), _)) | None => told(Vec::new(), &past, to_memory),
            Some((Err(gap), _)) => {
                told(Vec::new(), &past, gap.upto.max(next(past.after)).min(to_memory))
            }
        }
    }

    async fn backwards(&self, past: Past) -> PastChanges {
        let asked = past.clone();
        let read = move |history: &History| {
            let read = history.before(next(asked.upto), &asked.interest, asked.count);
            (read, history.newest(), history.appended())
        };
        match self.read_history(read).await {
            // It is written within a second.
            Some((Err(Gap { reason: GapReason::NotYet, .. }), newest, appended))
                if appended > newest =>
            {
                sleep(WRITING_PAUSE).await;
                told(Vec::new(), &past, past.upto)
            }
            Some((Ok((changes, downto)), ..)) if downto < past.upto => {
                told(changes, &past, downto.max(past.after))
            }
            // There is nothing before it.
            Some((Ok(_), ..)) | None => told(Vec::new(), &past, past.after),
            Some((Err(gap), ..)) => {
                told(Vec::new(), &past, gap.after.max(past.after).min(past.upto))
            }
        }
    }

    /// The ranges of revisions of which every change is kept here: the first and the last of each.
    pub async fn covered(&self) -> Vec<(Revision, Revision)> {
        let mut covered = self.read_history(History::covered).await.unwrap_or_default();
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

    /// The last revision that was told before a wall time; 0 if none of those kept was. Wall clocks
    /// may have gone back: what was told later is later, whatever its time.
    pub async fn revision_at(&self, wall_ms: u64) -> Revision {
        let mut before = Revision(u64::MAX);
        loop {
            // In pieces: apply waits for the log.
            let (floor, (changes, downto)) = {
                let log = self.log().lock();
                (log.floor(), log.before(before, STEP))
            };
            let found = changes.iter().find(|change| change.at.stamp.wall_ms < wall_ms);
            if let Some(found) = found {
                return found.at.revision;
            }
            if downto <= floor {
                let read = move |history: &History| history.revision_at(wall_ms);
                return self.read_history(read).await.flatten().unwrap_or_default().min(floor);
            }
            before = next(downto);
        }
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
