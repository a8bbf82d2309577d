//! Tells in the log who departed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use roster_storage::events::{Change, Event};
use roster_storage::names::Revision;
use tracing::Level;

/// More departures of one entry are told in one line: apply waits for each.
const EACH_TOLD_MAX: usize = 8;

/// What is told, and at which level: at `info` what departs while the node runs, one line each unless
/// they are many; the others at `debug`.
#[derive(Debug, Default)]
pub struct Departures {
    /// The end of the log when the process started.
    replayed_to: AtomicU64,
}

macro_rules! departed {
    ($level:expr, $at:expr, $key:expr, $incarnation:expr, $reason:expr) => {
        tracing::event!(
            $level,
            revision = $at.0,
            instance = %$key,
            incarnation = %$incarnation,
            reason = $reason.word(),
            detail = %$reason.detail(),
            "departed, with its shard"
        )
    };
}

impl Departures {
    /// Entries up to this one were in the log when the process started: an earlier process told of
    /// them, or another node.
    pub fn replayed_to(&self, end: Revision) {
        self.replayed_to.store(end.0, Ordering::Release);
    }

    pub fn tell(&self, changes: &[Arc<Change>]) {
        for change in changes {
            self.tell_one(change);
        }
    }

    fn tell_one(&self, change: &Change) {
        let departed = || {
            change.events.iter().filter_map(|event| match event {
                Event::InstanceDeleted { key, last, reason } => {
                    Some((key, last.instance.incarnation, reason))
                }
                Event::AppPut { .. }
                | Event::AppDeleted { .. }
                | Event::InstancePut { .. }
                | Event::SessionPut { .. }
                | Event::SessionEnded { .. }
                | Event::ShardDeleted { .. }
                | Event::DocumentPut { .. }
                | Event::DocumentDeleted { .. }
                | Event::RingPut { .. }
                | Event::RingDeleted { .. }
                | Event::WorkPut { .. }
                | Event::WorkEnded { .. }
                | Event::ClaimPut { .. }
                | Event::ClaimEnded { .. }
                | Event::AlarmPut { .. }
                | Event::AlarmEnded { .. } => None,
            })
        };
        let at = change.at.revision;
        let count = departed().count();
        let live = at.0 > self.replayed_to.load(Ordering::Acquire);
        if live && count <= EACH_TOLD_MAX {
            departed().for_each(|(key, incarnation, reason)| {
                departed!(Level::INFO, at, key, incarnation, reason);
            });
            return;
        }
        if live && let Some((first, _, reason)) = departed().next() {
            tracing::info!(
                revision = at.0,
                count,
                %first,
                reason = reason.word(),
                "many departed, with their shards"
            );
        }
        if tracing::enabled!(Level::DEBUG) {
            departed().for_each(|(key, incarnation, reason)| {
                departed!(Level::DEBUG, at, key, incarnation, reason);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use parking_lot::Mutex;
    use roster_storage::catalog::{At, Instance, State};
    use roster_storage::command::{Profile, Stamp};
    use roster_storage::events::{Reason, Seen};
    use roster_storage::names::{AppName, Incarnation, InstanceId, InstanceKey, SessionId};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is told at `info` of an entry with so many departures.
    fn told(departures: &Departures, revision: u64, count: usize) -> Vec<String> {
        let app = AppName::new("pay").expect("a name");
        let instance = Arc::new(Instance {
            profile: Profile::default().into(),
            session: SessionId(1),
            incarnation: Incarnation(1),
            revision: Revision(1),
            registered_at_ms: 0,
        });
        let one = |i: usize| Event::InstanceDeleted {
            key: InstanceKey::new(app.clone(), InstanceId::new(format!("i{i}")).expect("an id")),
            last: Seen { instance: instance.clone(), state: State::Up },
            reason: Reason::SessionClosed,
        };
        let stamp = Stamp { cluster_ms: 0, wall_ms: 0 };
        let at = At { revision: Revision(revision), term: 1, stamp };
        let change = Arc::new(Change::new(at, (0..count).map(one).collect()));
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || departures.tell(&[change]));
        let text = String::from_utf8(lines.0.lock().clone()).expect("text");
        text.lines().map(Into::into).collect()
    }

    #[test]
    fn few_departures_are_told_one_by_one_and_many_in_one_line() {
        let departures = Departures::default();
        let few = told(&departures, 5, EACH_TOLD_MAX);
        assert_eq!(few.len(), EACH_TOLD_MAX);
        assert!(
            few[7].contains("departed, with its shard") && few[7].contains("pay/i7"),
            "{few:?}"
        );
        let many = told(&departures, 6, 10_000);
        assert_eq!(many.len(), 1);
        assert!(many[0].contains("count=10000") && many[0].contains("pay/i0"), "{many:?}");
    }

    #[test]
    fn what_was_in_the_log_at_the_start_is_not_told_again() {
        let departures = Departures::default();
        departures.replayed_to(Revision(5));
        assert_eq!(told(&departures, 5, 1), Vec::<String>::new());
        assert_eq!(told(&departures, 5, 100), Vec::<String>::new());
        assert_eq!(told(&departures, 6, 1).len(), 1);
    }
}
