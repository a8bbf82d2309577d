//! How far a start came with the state, for those who wait for it.

use std::fmt;

use parking_lot::Mutex;
use roster_storage::names::Revision;
use roster_storage::version::Loaded;

/// What a node that starts is doing with its state. Cheap to change: called for each block that is read.
#[derive(Debug, Default)]
pub struct Loading(Mutex<Option<Stage>>);

#[derive(Clone, Copy, Debug)]
enum Stage {
    Checkpoint(Loaded),
    Log { from: Revision, applied: Revision, upto: Revision },
}

impl Loading {
    pub fn checkpoint(&self, loaded: Loaded) {
        *self.0.lock() = Some(Stage::Checkpoint(loaded));
    }

    /// The checkpoint is loaded; the log goes on from it, and some of it is applied again.
    pub fn log(&self, from: Revision, upto: Revision) {
        *self.0.lock() = Some(Stage::Log { from, applied: from, upto });
    }

    pub fn applied(&self, revision: Revision) {
        if let Some(Stage::Log { applied, .. }) = &mut *self.0.lock() {
            *applied = revision;
        }
    }

    /// `None` before it began to load.
    pub fn told(&self) -> Option<String> {
        self.0.lock().map(|stage| stage.to_string())
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = "Heartbeats are taken meanwhile, for all else use another node";
        match self {
            Self::Checkpoint(Loaded { records, of }) => write!(
                f,
                "the node loads its state: {} of {} records so far. {hint}",
                grouped(*records),
                grouped(*of)
            ),
            Self::Log { from, applied, upto } => write!(
                f,
                "the node applies its log again: {} of at most {} entries so far. {hint}",
                grouped(applied.0.saturating_sub(from.0)),
                grouped(upto.0.saturating_sub(from.0))
            ),
        }
    }
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_how_far_it_came() {
        let loading = Loading::default();
        assert_eq!(loading.told(), None);
        loading.applied(Revision(7));
        assert_eq!(loading.told(), None, "nothing is applied before a state is there");
        loading.checkpoint(Loaded { records: 430_000, of: 1_000_001 });
        let told = loading.told().expect("it loads");
        assert!(told.contains("430,000 of 1,000,001 records"), "{told}");
        loading.log(Revision(100), Revision(1_300));
        loading.applied(Revision(1_299));
        let told = loading.told().expect("it applies");
        assert!(told.contains("1,199 of at most 1,200 entries"), "{told}");
    }
}
