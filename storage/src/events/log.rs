//! The newest changes in memory, by revision: what watchers read, and what the history is written
//! from.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Change;
use crate::names::Revision;

/// What one read gives at most, one change excepted: so much a slow reader may keep alive that is
/// forgotten here.
const READ_BYTES_MAX: u64 = 4 << 20;

/// How much of the past is kept in memory. Beyond either, the oldest changes are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLogLimits {
    pub changes_max: usize,
    /// By estimate: the changes and their shown form.
    pub bytes_max: u64,
}

/// The changes after a revision are not all in memory any more, or never were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// All after this one are kept.
    pub kept_after: Revision,
}

/// A run of changes without a gap: all with a revision above [`Self::floor`], up to
/// [`Self::newest`]. Entries that changed nothing are passed over.
#[derive(Debug)]
pub struct EventLog {
    floor: Revision,
    newest: Revision,
    changes: VecDeque<Arc<Change>>,
    bytes: u64,
    limits: EventLogLimits,
}

impl EventLog {
    /// An empty log that goes on after `revision`.
    pub fn starting_after(revision: Revision, limits: EventLogLimits) -> Self {
        Self { floor: revision, newest: revision, changes: VecDeque::new(), bytes: 0, limits }
    }

    /// All changes after this one, up to the newest, are kept.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// The newest revision that was passed.
    pub fn newest(&self) -> Revision {
        self.newest
    }

    /// How many changes are kept.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// What they take in memory, by estimate.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next change. Revisions must rise.
    pub fn push(&mut self, change: Arc<Change>) {
        debug_assert!(change.at.revision > self.newest, "revisions rise");
        self.newest = change.at.revision;
        if change.events.is_empty() {
            return;
        }
        self.bytes += change.bytes();
        self.changes.push_back(change);
        let limits = self.limits;
        // However large the newest is: it was not told to anybody yet.
        while self.changes.len() > 1
            && (self.changes.len() > limits.changes_max || self.bytes > limits.bytes_max)
        {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.floor = oldest.at.revision;
        }
    }

    /// Everything up to this revision was taken, whatever the last entries carried.
    pub fn pass(&mut self, revision: Revision) {
        self.newest = self.newest.max(revision);
    }

    /// The state jumped: what happened up to this revision is not known.
    pub fn jump(&mut self, revision: Revision) {
        *self = Self::starting_after(revision, self.limits);
    }

    /// At most `count` changes after `revision`, oldest first, and up to which revision they tell
    /// everything.
    pub fn after(
        &self,
        revision: Revision,
        count: usize,
    ) -> Result<(Vec<Arc<Change>>, Revision), Forgotten> {
        if revision < self.floor {
            return Err(Forgotten { kept_after: self.floor });
        }
        let from = self.changes.partition_point(|change| change.at.revision <= revision);
        let changes = some(self.changes.range(from..), count);
        let complete = from + changes.len() == self.changes.len();
        let upto = match changes.last() {
            Some(last) if !complete => last.at.revision,
            Some(_) | None => self.newest.max(revision),
        };
        Ok((changes, upto))
    }

    /// At most `count` changes before `revision` (exclusive), newest first, and down to which
    /// revision (exclusive) they tell everything.
    pub fn before(&self, revision: Revision, count: usize) -> (Vec<Arc<Change>>, Revision) {
        let end = self.changes.partition_point(|change| change.at.revision < revision);
        let changes = some(self.changes.range(..end).rev(), count);
        let downto = match changes.last() {
            Some(last) if changes.len() < end => Revision(last.at.revision.0 - 1),
            Some(_) | None => self.floor,
        };
        (changes, downto)
    }
}

/// At most so many, and at most so many bytes.
fn some<'a>(changes: impl Iterator<Item = &'a Arc<Change>>, count: usize) -> Vec<Arc<Change>> {
    let mut bytes = 0;
    let fits = |change: &&Arc<Change>| {
        let first = bytes == 0;
        bytes += change.bytes();
        first || bytes <= READ_BYTES_MAX
    };
    changes.take(count).take_while(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::At;
    use crate::command::AppPolicy;
    use crate::events::Event;
    use crate::names::AppName;

    fn change(revision: u64) -> Arc<Change> {
        let app = AppName::new("pay").expect("a name");
        let at = At { revision: Revision(revision), ..At::default() };
        Arc::new(Change::new(
            at,
            vec![Event::AppPut { app, policy: AppPolicy::default(), created: true }],
        ))
    }

    fn silent(revision: u64) -> Arc<Change> {
        Arc::new(Change::new(change(revision).at, Vec::new()))
    }

    fn log(changes_max: usize) -> EventLog {
        let limits = EventLogLimits { changes_max, bytes_max: u64::MAX };
        EventLog::starting_after(Revision(10), limits)
    }

    fn revisions(changes: &[Arc<Change>]) -> Vec<u64> {
        changes.iter().map(|change| change.at.revision.0).collect()
    }

    #[test]
    fn what_comes_after_a_revision_is_told_in_order_and_in_pieces() {
        let mut log = log(10);
        for revision in [12, 13, 17] {
            log.push(change(revision));
        }
        log.push(silent(20));
        let (changes, upto) = log.after(Revision(10), 2).expect("kept");
        assert_eq!((revisions(&changes), upto), (vec![12, 13], Revision(13)));
        let (changes, upto) = log.after(Revision(13), 2).expect("kept");
        assert_eq!((revisions(&changes), upto), (vec![17], Revision(20)));
        let (changes, upto) = log.after(Revision(99), 2).expect("kept");
        assert_eq!((revisions(&changes), upto), (vec![], Revision(99)));
    }

    #[test]
    fn what_was_forgotten_is_refused_and_never_passed_over() {
        let mut log = log(2);
        for revision in [11, 12, 13, 14] {
            log.push(change(revision));
        }
        assert_eq!(log.after(Revision(11), 9), Err(Forgotten { kept_after: Revision(12) }));
        assert_eq!(revisions(&log.after(Revision(12), 9).expect("kept").0), vec![13, 14]);
        log.jump(Revision(30));
        assert_eq!(log.after(Revision(29), 9), Err(Forgotten { kept_after: Revision(30) }));
        assert_eq!(log.after(Revision(30), 9), Ok((vec![], Revision(30))));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes() {
        let limits = EventLogLimits { changes_max: 100, bytes_max: 2_000 };
        let mut log = EventLog::starting_after(Revision(0), limits);
        for revision in 1..=100 {
            log.push(change(revision));
        }
        assert!(log.floor() >= Revision(95), "{:?}", log.floor());
        assert!(log.after(log.floor(), 100).is_ok_and(|(changes, _)| !changes.is_empty()));
    }

    #[test]
    fn a_change_that_is_larger_than_the_log_is_kept_until_the_next_one() {
        let limits = EventLogLimits { changes_max: 100, bytes_max: 1 };
        let mut log = EventLog::starting_after(Revision(0), limits);
        log.push(change(1));
        assert_eq!(revisions(&log.after(Revision(0), 9).expect("kept").0), vec![1]);
        log.push(change(2));
        assert_eq!(log.after(Revision(0), 9), Err(Forgotten { kept_after: Revision(1) }));
        assert_eq!(revisions(&log.after(Revision(1), 9).expect("kept").0), vec![2]);
    }

    #[test]
    fn the_past_is_told_backwards_in_pieces() {
        let mut log = log(3);
        for revision in [11, 12, 13, 14] {
            log.push(change(revision));
        }
        let (changes, downto) = log.before(Revision(14), 1);
        assert_eq!((revisions(&changes), downto), (vec![13], Revision(12)));
        let (changes, downto) = log.before(Revision(13), 9);
        assert_eq!((revisions(&changes), downto), (vec![12], Revision(11)));
    }
}
