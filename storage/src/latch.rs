//! A latch: an ordered queue of claims, the first of which hold it. Locks and elections are both
//! latches.
//!
//! A claim is taken in order: nobody passes anybody who waits before it, so a claim that would share
//! waits behind one that would not. Whoever holds has a token, the revision at which it won, which
//! grows from holder to holder: whatever the latch guards can refuse one that is older than the
//! newest it has seen (fencing).

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::names::{Revision, SessionId};

/// Whether others may hold the latch at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    #[default]
    Exclusive,
    /// With all others that share.
    Shared,
}

impl Mode {
    /// The word that clients see.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        }
    }
}

/// Who claims a latch: the owner tells two claims of one session apart; it may be empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claimant {
    pub session: SessionId,
    /// At most `OWNER_BYTES_MAX` bytes, checked at the door.
    pub owner: SmolStr,
}

/// A place in the queue of a latch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub by: Claimant,
    pub mode: Mode,
    /// What a candidate publishes while it leads. At most `CAMPAIGN_VALUE_BYTES_MAX` bytes, checked
    /// at the door; empty for locks.
    pub value: Arc<str>,
    /// The revision that began it: its place in the queue.
    pub since: Revision,
    /// The revision at which it won; `None` while it waits.
    pub token: Option<Revision>,
    /// The last time that it was asked for. A request that gives up does so for itself alone: not for
    /// a later one of the same claimant, which took over its place.
    pub asked: Revision,
}

/// The claims on one latch, in the order of their places. Those that hold come before all that wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latch {
    claims: OrdMap<Revision, Arc<Claim>>,
    /// The place of the last one that holds.
    last_holder: Option<Revision>,
    /// How many hold.
    holding: usize,
    /// Its last change: a claim that began, won, changed its value or ended.
    pub revision: Revision,
}

impl Latch {
    /// How many hold or wait.
    pub fn len(&self) -> usize {
        self.claims.len()
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.claims.len() - self.holding
    }

    /// How many hold.
    pub fn holding(&self) -> usize {
        self.holding
    }

    /// All claims, in the order of their places.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.claims.values()
    }

    pub fn holders(&self) -> impl Iterator<Item = &Arc<Claim>> {
        self.claims.values().take(self.holding)
    }

    pub fn waiters(&self) -> impl Iterator<Item = &Arc<Claim>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.last_holder.map_or(Unbounded, Excluded);
        self.claims.range::<_, Revision>((from, Unbounded)).map(|(_, claim)| claim)
    }

    /// The claim with this place.
    pub fn claim(&self, since: Revision) -> Option<&Arc<Claim>> {
        self.claims.get(&since)
    }

    /// Those that hold under a token: several of those that share may have won in one revision.
    pub fn held_under(&self, token: Revision) -> impl Iterator<Item = &Arc<Claim>> {
        self.holders().filter(move |claim| claim.token == Some(token))
    }

    /// Whether a new claim would hold at once.
    pub fn is_free_for(&self, mode: Mode) -> bool {
        self.waiting() == 0 && self.could_hold(mode)
    }

    /// Whether one could hold beside those who do.
    fn could_hold(&self, mode: Mode) -> bool {
        match self.claims.values().next().filter(|_| self.holding > 0) {
            Some(holder) => holder.mode == Mode::Shared && mode == Mode::Shared,
            None => true,
        }
    }

    /// Puts a claim in its place. One that holds must be in a place where it may.
    pub(crate) fn insert(&mut self, claim: Arc<Claim>) {
        let (since, holds) = (claim.since, claim.token.is_some());
        let old = self.claims.insert(since, claim);
        match (old.is_some_and(|old| old.token.is_some()), holds) {
            (false, true) => {
                self.holding += 1;
                self.last_holder = self.last_holder.max(Some(since));
            }
            (true, false) => debug_assert!(false, "whoever holds does not wait again"),
            (true, true) | (false, false) => {}
        }
    }

    pub(crate) fn remove(&mut self, since: Revision) -> Option<Arc<Claim>> {
        let claim = self.claims.remove(&since)?;
        if claim.token.is_some() {
            self.holding -= 1;
            if self.last_holder == Some(since) {
                let before = self.claims.range::<_, Revision>(..since).next_back();
                self.last_holder = before.map(|(since, _)| *since);
            }
        }
        Some(claim)
    }

    /// Who holds from now on, as far as there is room: the first that wait, in order. Their token is
    /// this revision.
    pub(crate) fn grant(&mut self, token: Revision) -> Vec<Arc<Claim>> {
        let mut won = Vec::new();
        loop {
            let Some(next) = self.waiters().next() else { return won };
            if !self.could_hold(next.mode) {
                return won;
            }
            let claim = Arc::new(Claim { token: Some(token), ..Claim::clone(next) });
            self.insert(claim.clone());
            won.push(claim);
        }
    }

    /// Whether its counts belong to its claims, and whoever could hold does.
    pub(crate) fn verify(&self) -> Result<(), String> {
        let holders = self.claims.values().filter(|claim| claim.token.is_some());
        let places: Vec<_> = holders.map(|claim| claim.since).collect();
        let known = (places.len(), places.last().copied());
        if known != (self.holding, self.last_holder) {
            return Err(format!("{known:?} hold, not {:?}", (self.holding, self.last_holder)));
        }
        if self.claims.iter().any(|(place, claim)| *place != claim.since) {
            return Err("a claim is in another one's place".into());
        }
        let first_waits = self.waiters().next();
        if let Some(late) =
            first_waits.filter(|first| self.claims.range(..first.since).count() != self.holding)
        {
            return Err(format!("somebody holds behind {late:?}"));
        }
        let exclusive = self.holders().any(|holder| holder.mode == Mode::Exclusive);
        if exclusive && self.holding > 1 {
            return Err(format!("{} hold what one has alone", self.holding));
        }
        match first_waits {
            Some(first) if self.could_hold(first.mode) => {
                Err(format!("{first:?} waits for nobody"))
            }
            Some(_) | None => Ok(()),
        }
    }
}
