//! Requests that carry an idempotency key: the first answer is kept and given again (invariant
//! S13), for `IDEMPOTENCY_MS` of cluster time, in the replicated state, so that every node knows.

use super::{Applied, At, Catalog, Kept};
use crate::command::{Outcome, Refusal, Request};
use crate::limits::{IDEMPOTENCY_BYTES_MAX, IDEMPOTENCY_ENTRIES_MAX, IDEMPOTENCY_MS};

impl Catalog {
    /// Decides a request, or gives its first answer again, with the revision of that time.
    pub(super) fn at_most_once(
        &mut self,
        at: At,
        request: Option<&Request>,
        decide: impl FnOnce(&mut Self) -> Applied,
    ) -> Outcome {
        let here = |result| Outcome { revision: at.revision, result };
        let Some(request) = request else { return here(decide(self)) };
        if let Some(first) = self.kept.get(&(request.key.clone(), request.part)) {
            if first.digest != request.digest {
                return here(Err(Refusal::KeyReused));
            }
            return first.outcome.clone();
        }
        if self.kept.len() >= IDEMPOTENCY_ENTRIES_MAX || self.kept_bytes >= IDEMPOTENCY_BYTES_MAX {
            return here(Err(Refusal::TooManyKeys));
        }
        let outcome = here(decide(self));
        let kept = Kept {
            digest: request.digest,
            bytes: request.key.as_str().len() as u64 + size_of(&outcome),
            outcome: outcome.clone(),
            until_ms: self.clock.cluster_ms.saturating_add(IDEMPOTENCY_MS),
        };
        self.insert_kept(request.key.clone(), request.part, kept);
        outcome
    }
}

fn size_of(outcome: &Outcome) -> u64 {
    rmp_serde::to_vec(outcome).map_or(0, |bytes| bytes.len() as u64)
}
