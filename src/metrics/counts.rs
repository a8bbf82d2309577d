//! What a node counts that nothing else needs to know. Each is a relaxed addition.

use std::sync::atomic::{AtomicU64, Ordering};

use roster_api::registry::Unavailable;
use roster_storage::command::Outcome;

/// Since the start.
#[derive(Debug, Default)]
pub struct Counts {
    proposals: [AtomicU64; PROPOSED.len()],
    detoured: AtomicU64,
}

/// Every result of a proposal, in the order of [`place_of`].
const PROPOSED: [&str; 9] = [
    "decided",
    "refused",
    "no-leader",
    "not-ready",
    "overloaded",
    "read-only",
    "unknown",
    "timeout",
    "too-large",
];

fn place_of(told: &Result<Outcome, Unavailable>) -> usize {
    match told {
        Ok(outcome) if outcome.result.is_ok() => 0,
        Ok(_) => 1,
        Err(Unavailable::NoLeader(_)) => 2,
        Err(Unavailable::NotReady(_)) => 3,
        Err(Unavailable::Overloaded(_)) => 4,
        Err(Unavailable::ReadOnly(_)) => 5,
        Err(Unavailable::Unknown(_)) => 6,
        Err(Unavailable::Timeout(_)) => 7,
        Err(Unavailable::TooLarge(_)) => 8,
    }
}

impl Counts {
    /// A client's write has its answer.
    pub fn proposed(&self, told: &Result<Outcome, Unavailable>) {
        self.proposals[place_of(told)].fetch_add(1, Ordering::Relaxed);
    }

    /// Each result with how often it came.
    pub fn proposals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.proposals.iter().map(|count| count.load(Ordering::Relaxed));
        PROPOSED.into_iter().zip(counts)
    }

    /// A heartbeat call came before this node runs, and goes to the leader all the same.
    pub fn detoured(&self) {
        self.detoured.fetch_add(1, Ordering::Relaxed);
    }

    pub fn heartbeats_detoured(&self) -> u64 {
        self.detoured.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roster_storage::command::{Refusal, Reply};
    use roster_storage::names::Revision;

    use super::*;

    #[test]
    fn each_result_of_a_proposal_has_its_own_word() {
        let decided = |result| Ok(Outcome { revision: Revision(1), result });
        let told = [
            (decided(Ok(Reply::Done)), "decided"),
            (decided(Err(Refusal::KeyReused)), "refused"),
            (Err(Unavailable::NoLeader(String::new())), "no-leader"),
            (Err(Unavailable::NotReady(String::new())), "not-ready"),
            (Err(Unavailable::Overloaded(String::new())), "overloaded"),
            (Err(Unavailable::ReadOnly(String::new())), "read-only"),
            (Err(Unavailable::Unknown(String::new())), "unknown"),
            (Err(Unavailable::Timeout(Duration::ZERO)), "timeout"),
        ];
        for (result, word) in told {
            assert_eq!(PROPOSED[place_of(&result)], word);
        }
    }
}
