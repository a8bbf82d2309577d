//! Latches: who claims them, who wins, and when a claim ends. What an entry frees goes to whoever is
//! next at the end of that entry, so that nobody wins who ends in it too. An entry carries one command
//! about latches at most, so none meets what was freed before it and not granted yet.

use std::sync::Arc;

use super::{Applied, At, Catalog};
use crate::command::{
    BreakLatch, ClaimLatch, Refusal, ReleaseLatch, Reply, WithdrawClaim, Withdrawn,
};
use crate::events::{Event, Reason};
use crate::latch::{Claim, Claimant, Latch};
use crate::limits::LATCH_CLAIMS_MAX;
use crate::names::{LatchKey, LatchKind, LatchName, Revision, SessionId};

impl Catalog {
    pub(super) fn claim_latch(
        &mut self,
        at: At,
        c: &ClaimLatch,
        events: &mut Vec<Event>,
    ) -> Applied {
        debug_assert!(self.touched.latches.is_empty(), "what this entry freed is not granted yet");
        let known = self.claim_of(&c.by, &c.latch).cloned();
        if let Some(waits) = known.as_ref().filter(|known| known.token.is_none() && !c.waits) {
            // Whoever asks and does not want to wait has done with waiting.
            self.end_claim(at, &c.latch, waits, &Reason::GaveUp, events);
            return Ok(Reply::Withdrawn(Withdrawn::Gone));
        }
        let token = match &known {
            Some(known) => self.claim_again(at, c, known, events)?,
            None => self.begin_claim(at, c, events)?,
        };
        if let Some(mut session) = self.sessions.get(&c.by.session).cloned() {
            session.touched = at.revision;
            session.things += u16::from(known.is_none());
            self.touch(at, c.by.session, session, events);
        }
        Ok(Reply::Claimed { token })
    }

    /// Returns the token, if it holds at once.
    fn begin_claim(
        &mut self,
        at: At,
        c: &ClaimLatch,
        events: &mut Vec<Event>,
    ) -> Result<Option<Revision>, Refusal> {
        self.room_on(Some(c.by.session), None)?;
        let latch = self.latches.get(&c.latch);
        let free = latch.is_none_or(|latch| latch.is_free_for(c.mode));
        if let Some(latch) = latch {
            if !free && !c.waits {
                return Err(held(&c.latch, latch));
            }
            if latch.len() >= LATCH_CLAIMS_MAX {
                let limit = LATCH_CLAIMS_MAX as u64;
                return Err(Refusal::LatchFull { latch: c.latch.clone(), limit });
            }
        }
        let token = free.then_some(at.revision);
        let claim = Claim {
            by: c.by.clone(),
            mode: c.mode,
            value: c.value.clone(),
            since: at.revision,
            token,
            asked: at.revision,
        };
        self.claim_changed(at, &c.latch, Arc::new(claim), events);
        Ok(token)
    }

    /// The same claimant asks once more: it keeps its place, and this request is the one that counts.
    fn claim_again(
        &mut self,
        at: At,
        c: &ClaimLatch,
        known: &Arc<Claim>,
        events: &mut Vec<Event>,
    ) -> Result<Option<Revision>, Refusal> {
        if let Some(latch) = self.latches.get(&c.latch).filter(|_| known.mode != c.mode) {
            return Err(held(&c.latch, latch));
        }
        let (asked, value) = (at.revision, c.value.clone());
        let claim = Arc::new(Claim { asked, value, ..Claim::clone(known) });
        if claim.value == known.value {
            self.insert_claim(&c.latch, claim);
        } else {
            self.claim_changed(at, &c.latch, claim, events);
        }
        Ok(known.token)
    }

    pub(super) fn withdraw_claim(
        &mut self,
        at: At,
        c: &WithdrawClaim,
        events: &mut Vec<Event>,
    ) -> Applied {
        if !self.sessions.contains_key(&c.by.session) {
            return Err(Refusal::UnknownSession(c.by.session));
        }
        let Some(known) = self.claim_of(&c.by, &c.latch).cloned() else {
            return Ok(Reply::Withdrawn(Withdrawn::NotThere));
        };
        let asked_again = c.asked.is_some_and(|asked| asked != known.asked);
        let reason = match known.token {
            Some(token) if asked_again || !c.even_won => {
                return Ok(Reply::Withdrawn(Withdrawn::Won { token }));
            }
            None if asked_again => return Ok(Reply::Withdrawn(Withdrawn::Kept)),
            Some(_) => Reason::LetGo,
            None => Reason::GaveUp,
        };
        self.end_claim(at, &c.latch, &known, &reason, events);
        Ok(Reply::Withdrawn(Withdrawn::Gone))
    }

    pub(super) fn release_latch(
        &mut self,
        at: At,
        c: &ReleaseLatch,
        events: &mut Vec<Event>,
    ) -> Applied {
        let meant: Vec<_> = match (&c.by, self.latches.get(&c.latch)) {
            (Some(by), _) => {
                let claim = self.claim_of(by, &c.latch);
                claim.filter(|claim| claim.token == Some(c.token)).into_iter().cloned().collect()
            }
            (None, Some(latch)) => latch.held_under(c.token).cloned().collect(),
            (None, None) => Vec::new(),
        };
        match meant.as_slice() {
            [] => Err(self.stale_token(&c.latch)),
            [claim] => {
                self.end_claim(at, &c.latch, claim, &Reason::LetGo, events);
                Ok(Reply::LatchReleased)
            }
            several => Err(Refusal::TokenShared {
                latch: c.latch.clone(),
                token: c.token,
                holders: several.len() as u64,
            }),
        }
    }

    pub(super) fn break_latch(
        &mut self,
        at: At,
        c: &BreakLatch,
        events: &mut Vec<Event>,
    ) -> Applied {
        let Some(latch) = self.latches.get(&c.latch) else {
            return Err(Refusal::UnknownLatch { latch: c.latch.clone() });
        };
        let meant = |claim: &&Arc<Claim>| c.token.is_none() || claim.token == c.token;
        let broken: Vec<_> = latch.holders().filter(meant).cloned().collect();
        if broken.is_empty() {
            return Err(self.stale_token(&c.latch));
        }
        for claim in &broken {
            self.end_claim(at, &c.latch, claim, &Reason::Operator, events);
        }
        Ok(Reply::LatchBroken(broken))
    }

    /// All claims of a session end.
    pub(super) fn end_claims(
        &mut self,
        at: At,
        session: SessionId,
        reason: &Reason,
        events: &mut Vec<Event>,
    ) {
        let claims: Vec<_> =
            self.claims_of(session).map(|(latch, claim)| (latch.clone(), claim.clone())).collect();
        for (latch, claim) in claims {
            self.end_claim(at, &latch, &claim, reason, events);
        }
    }

    fn end_claim(
        &mut self,
        at: At,
        latch: &LatchKey,
        claim: &Arc<Claim>,
        reason: &Reason,
        events: &mut Vec<Event>,
    ) {
        self.remove_claim(latch, claim);
        self.set_latch_revision(latch, at.revision);
        if let Some(mut session) = self.sessions.get(&claim.by.session).cloned() {
            session.things -= 1;
            self.insert_session(claim.by.session, session);
        }
        let (claim, reason) = (claim.clone(), reason.clone());
        events.push(Event::ClaimEnded { latch: latch.clone(), claim, reason });
        self.touched.latches.insert(latch.clone());
    }

    /// At the end of an entry: who was next in the queues that it freed has won.
    pub(super) fn settle_latches(&mut self, at: At, events: &mut Vec<Event>) {
        for key in std::mem::take(&mut self.touched.latches) {
            let Some(latch) = self.latches.get(&key) else { continue };
            if latch.is_empty() {
                self.remove_latch(&key);
                continue;
            }
            for claim in Latch::clone(latch).grant(at.revision) {
                self.claim_changed(at, &key, claim, events);
            }
        }
    }

    fn claim_changed(
        &mut self,
        at: At,
        latch: &LatchKey,
        claim: Arc<Claim>,
        events: &mut Vec<Event>,
    ) {
        self.insert_claim(latch, claim.clone());
        self.set_latch_revision(latch, at.revision);
        events.push(Event::ClaimPut { latch: latch.clone(), claim });
    }

    fn stale_token(&self, key: &LatchKey) -> Refusal {
        let holder = self.latches.get(key).and_then(|latch| latch.holders().next());
        let current = holder.and_then(|claim| claim.token).unwrap_or_default();
        Refusal::StaleLatchToken { latch: key.clone(), current }
    }

    // Reading.

    /// A latch that somebody holds or waits for.
    pub fn latch(&self, key: &LatchKey) -> Option<&Arc<Latch>> {
        self.latches.get(key)
    }

    /// All latches, in the order of their kinds and names, from `after` (exclusive) on.
    pub fn all_latches_after<'a>(
        &'a self,
        after: Option<&LatchKey>,
    ) -> impl Iterator<Item = &'a LatchKey> + 'a {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |after| Excluded(after.clone()));
        self.latches.range::<_, LatchKey>((from, Unbounded)).map(|(key, _)| key)
    }

    /// All latches of one kind in name order, from `after` (exclusive) on.
    pub fn latches_after<'a>(
        &'a self,
        kind: LatchKind,
        after: Option<&LatchName>,
    ) -> impl Iterator<Item = (&'a LatchName, &'a Arc<Latch>)> + 'a {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = match after {
            Some(after) => Excluded(LatchKey::new(kind, after.clone())),
            None => Included(LatchKey::new(kind, lowest_name())),
        };
        self.latches
            .range::<_, LatchKey>((from, Unbounded))
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(key, latch)| (&key.name, latch))
    }

    /// Why a latch cannot be had now.
    pub fn latch_held(&self, key: &LatchKey) -> Refusal {
        let latch = self.latches.get(key);
        latch.map_or_else(|| held(key, &Latch::default()), |latch| held(key, latch))
    }

    /// The claim of a claimant on a latch.
    pub fn claim_of(&self, by: &Claimant, latch: &LatchKey) -> Option<&Arc<Claim>> {
        let since = self.claims.get(&(by.clone(), latch.clone()))?;
        self.latches.get(latch)?.claim(*since)
    }

    /// What a session holds and waits for, in the order of owners and latches.
    pub fn claims_of(&self, session: SessionId) -> impl Iterator<Item = (&LatchKey, &Arc<Claim>)> {
        let first = Claimant { session, owner: Default::default() };
        let lowest = LatchKey::new(LatchKind::Lock, lowest_name());
        self.claims
            .range((first, lowest)..)
            .take_while(move |((by, _), _)| by.session == session)
            .filter_map(|((_, key), since)| Some((key, self.latches.get(key)?.claim(*since)?)))
    }
}

fn held(key: &LatchKey, latch: &Latch) -> Refusal {
    let first = latch.claims().next();
    Refusal::LatchHeld {
        latch: key.clone(),
        holder: first.map(|claim| claim.by.clone()),
        token: first.and_then(|claim| claim.token).unwrap_or_default(),
        waiting: latch.waiting() as u64,
    }
}

fn lowest_name() -> LatchName {
    LatchName::new(" ").expect("a space is a name")
}
