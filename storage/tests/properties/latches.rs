//! Latches as their contract says it, in the plainest words: each is a list of claims in the order in
//! which they came. Held against the catalogue after every entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use roster_storage::catalog::{At, Catalog};
use roster_storage::command::{
    BreakLatch, ClaimLatch, Command, Outcome, Refusal, ReleaseLatch, Reply, WithdrawClaim,
    Withdrawn,
};
use roster_storage::latch::{Claim, Mode};
use roster_storage::names::{LatchKey, Revision, SessionId};

use super::told::latches_of;

/// Why a command is refused.
#[derive(Debug, PartialEq, Eq)]
enum No {
    UnknownSession,
    Held,
    Stale,
    Shared,
    UnknownLatch,
}

type Answer = Result<Reply, No>;

#[derive(Default)]
pub struct Model {
    queues: BTreeMap<LatchKey, Vec<Claim>>,
}

impl Model {
    /// Takes the entry at `at`, which the catalogue answered with `outcome`: `before` and `after` say
    /// which sessions there were.
    pub fn follow(
        &mut self,
        at: At,
        command: &Command,
        outcome: &Outcome,
        (before, after): (&Catalog, &Catalog),
    ) {
        let first_time = outcome.revision == at.revision;
        if first_time && outcome.result != Err(Refusal::KeyReused) {
            let expected = self.decide(at, command, before);
            assert_eq!(expected, expected.as_ref().and(answer(&outcome.result)), "{command}");
        }
        self.queues.values_mut().for_each(|queue| {
            queue.retain(|claim| after.session(claim.by.session).is_some());
            settle(at, queue);
        });
        self.queues.retain(|_, queue| !queue.is_empty());
        let latches = latches_of(after);
        let known: BTreeMap<_, Vec<_>> = latches
            .map(|(key, latch)| (key, latch.claims().map(|claim| Claim::clone(claim)).collect()))
            .collect();
        assert_eq!(self.queues, known, "after {command}");
    }

    /// `None` if it is not about latches.
    fn decide(&mut self, at: At, command: &Command, before: &Catalog) -> Option<Answer> {
        let there = |session: SessionId| before.session(session).is_some();
        let shared = |session| before.session(session).is_some_and(|s| !s.is_private());
        match command {
            Command::ClaimLatch(c) if !shared(c.by.session) => Some(Err(No::UnknownSession)),
            Command::WithdrawClaim(c) if !there(c.by.session) => Some(Err(No::UnknownSession)),
            Command::ClaimLatch(c) => Some(self.claim(at, c)),
            Command::WithdrawClaim(c) => Some(self.withdraw(c)),
            Command::ReleaseLatch(c) => Some(self.release(c)),
            Command::BreakLatch(c) => Some(self.break_up(c)),
            _other => None,
        }
    }

    fn claim(&mut self, at: At, c: &ClaimLatch) -> Answer {
        let queue = self.queues.entry(c.latch.clone()).or_default();
        let given_up = |claim: &Claim| claim.by == c.by && claim.token.is_none() && !c.waits;
        if let Some(place) = queue.iter().position(given_up) {
            queue.remove(place);
            return Ok(Reply::Withdrawn(Withdrawn::Gone));
        }
        if let Some(known) = queue.iter_mut().find(|claim| claim.by == c.by) {
            if known.mode != c.mode {
                return Err(No::Held);
            }
            known.value = c.value.clone();
            known.asked = at.revision;
            return Ok(Reply::Claimed { token: known.token });
        }
        queue.push(Claim {
            by: c.by.clone(),
            mode: c.mode,
            value: c.value.clone(),
            since: at.revision,
            token: None,
            asked: at.revision,
        });
        settle(at, queue);
        let token = queue.last().and_then(|claim| claim.token);
        if token.is_none() && !c.waits {
            queue.pop();
            return Err(No::Held);
        }
        Ok(Reply::Claimed { token })
    }

    fn withdraw(&mut self, c: &WithdrawClaim) -> Answer {
        let queue = self.queues.entry(c.latch.clone()).or_default();
        let Some(place) = queue.iter().position(|claim| claim.by == c.by) else {
            return Ok(Reply::Withdrawn(Withdrawn::NotThere));
        };
        let asked_again = c.asked.is_some_and(|asked| asked != queue[place].asked);
        if let Some(token) = queue[place].token.filter(|_| asked_again || !c.even_won) {
            return Ok(Reply::Withdrawn(Withdrawn::Won { token }));
        }
        if asked_again {
            return Ok(Reply::Withdrawn(Withdrawn::Kept));
        }
        queue.remove(place);
        Ok(Reply::Withdrawn(Withdrawn::Gone))
    }

    fn release(&mut self, c: &ReleaseLatch) -> Answer {
        let queue = self.queues.entry(c.latch.clone()).or_default();
        let meant = |claim: &Claim| {
            claim.token == Some(c.token) && c.by.as_ref().is_none_or(|by| *by == claim.by)
        };
        match queue.iter().filter(|claim| meant(claim)).count() {
            0 => Err(No::Stale),
            1 => {
                queue.retain(|claim| !meant(claim));
                Ok(Reply::LatchReleased)
            }
            _several => Err(No::Shared),
        }
    }

    fn break_up(&mut self, c: &BreakLatch) -> Answer {
        let queue = self.queues.get_mut(&c.latch).ok_or(No::UnknownLatch)?;
        let meant = |claim: &Claim| {
            claim.token.is_some() && c.token.is_none_or(|token| claim.token == Some(token))
        };
        let (broken, rest): (Vec<_>, Vec<_>) = queue.drain(..).partition(meant);
        *queue = rest;
        match broken.is_empty() {
            true => Err(No::Stale),
            false => Ok(Reply::LatchBroken(broken.into_iter().map(Arc::new).collect())),
        }
    }
}

/// In order, as long as nobody who waits is passed: the first one holds, and those that share with all
/// before them.
fn settle(at: At, queue: &mut [Claim]) {
    let mut all_share = true;
    for (place, claim) in queue.iter_mut().enumerate() {
        all_share &= claim.mode == Mode::Shared;
        if place > 0 && !all_share {
            return;
        }
        claim.token.get_or_insert(at.revision);
    }
}

fn answer(result: &Result<Reply, Refusal>) -> Option<Answer> {
    Some(Err(match result {
        Ok(reply) => return Some(Ok(reply.clone())),
        Err(Refusal::UnknownSession(_)) => No::UnknownSession,
        Err(Refusal::LatchHeld { token, .. }) if *token > Revision(0) => No::Held,
        Err(Refusal::StaleLatchToken { .. }) => No::Stale,
        Err(Refusal::TokenShared { .. }) => No::Shared,
        Err(Refusal::UnknownLatch { .. }) => No::UnknownLatch,
        Err(_) => return None,
    }))
}
