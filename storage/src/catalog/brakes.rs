//! Suspects, the mass-loss brake and the pace of heartbeats: what the leader decided from its memory,
//! so that the next leader and all who watch know it too, and what operators say about it.

use smol_str::SmolStr;

use super::{Applied, At, Catalog, State};
use crate::brake::{Brake, BrakeOverride, Pace, Scope};
use crate::command::{BrakeChange, BrakeEnd, OverrideBrake, Reply, SetBrake, SetPace, Suspect};
use crate::events::{Event, Reason, Seen};
use crate::limits::{STRETCH_PERCENT_MAX, STRETCHED_TTL_MS_MAX};
use crate::names::SessionId;

/// Cluster time is stamped by leaders one after the other and judged by their own clocks; so much more
/// than the longest TTL is waited before deadlines get shorter, in milliseconds.
const PACE_MARGIN_MS: u64 = 10_000;

impl Catalog {
    /// Nobody is ended by it: an instance that is suspect keeps all that it has.
    pub(super) fn suspect(&mut self, at: At, c: &Suspect, events: &mut Vec<Event>) -> Reply {
        let (mut changed, mut dropped) = (0, 0);
        for suspicion in &c.sessions {
            let known = self.sessions.get(&suspicion.session).cloned();
            match known.filter(|s| c.term == at.term && s.touched == suspicion.touched) {
                Some(mut session) if session.suspect != suspicion.suspect => {
                    session.suspect = suspicion.suspect;
                    self.insert_session(suspicion.session, session);
                    let was = if suspicion.suspect { State::Up } else { State::Suspect };
                    self.tell_suspicion(at, suspicion.session, was, events);
                    changed += 1;
                }
                Some(_) => {}
                None => dropped += 1,
            }
        }
        Reply::Suspected { changed, dropped }
    }

    /// Tells that the state changed of all that hangs off a session, where no operator's word hides it.
    pub(super) fn tell_suspicion(
        &mut self,
        at: At,
        session: SessionId,
        was: State,
        events: &mut Vec<Event>,
    ) {
        let ttl_ms = self.session(session).map_or(0, |session| session.ttl_ms());
        let keys: Vec<_> = self.held_by(session).collect();
        for key in keys {
            if self.overrides.contains_key(&key) {
                continue;
            }
            let Some(instance) = self.instance(&key).cloned() else { continue };
            self.change_app(&key.app, |record| record.members_changed = at.revision);
            let now = Seen { instance: instance.clone(), state: self.state_of(&key) };
            let before = Some(Seen { instance, state: was });
            let said = SmolStr::default();
            events.push(Event::InstancePut { key, now, ttl_ms, before, said });
        }
    }

    /// A scope that is gone meanwhile is passed over.
    pub(super) fn set_brake(&mut self, at: At, c: &SetBrake, events: &mut Vec<Event>) -> Reply {
        if c.term != at.term || !self.has_scope(&c.scope) {
            return Reply::Done;
        }
        match c.change {
            BrakeChange::On { missing, of } => {
                let fresh = Brake { since: at.revision, since_ms: self.clock.wall_ms, missing, of };
                let known = self.brakes.get(&c.scope).cloned().unwrap_or(fresh);
                let brake = Brake { missing, of, ..known };
                if self.brakes.get(&c.scope) == Some(&brake) {
                    return Reply::Done;
                }
                self.insert_brake(c.scope.clone(), brake.clone());
                events.push(Event::AlarmPut { scope: c.scope.clone(), brake });
            }
            BrakeChange::Off { because } => {
                if !self.end_brake(&c.scope, &because.into(), events) {
                    return Reply::Done;
                }
            }
        }
        Reply::BrakeSet
    }

    /// Returns whether it was on.
    pub(super) fn end_brake(
        &mut self,
        scope: &Scope,
        reason: &Reason,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(brake) = self.remove_brake(scope) else { return false };
        events.push(Event::AlarmEnded { scope: scope.clone(), brake, reason: reason.clone() });
        true
    }

    pub(super) fn override_brake(&mut self, at: At, c: &OverrideBrake) -> Applied {
        if let Some(app) = c.scope.app() {
            self.known_app(app)?;
        }
        let in_force = c.expires_in_ms;
        let word = BrakeOverride {
            mode: c.mode,
            reason: c.reason.clone(),
            expires_at_ms: in_force.map(|ms| self.clock.cluster_ms.saturating_add(ms)),
            expires_wall_ms: in_force.map(|ms| self.clock.wall_ms.saturating_add(ms)),
            revision: at.revision,
        };
        self.insert_brake_override(c.scope.clone(), word);
        Ok(Reply::BrakeOverridePut)
    }

    pub(super) fn clear_brake_override(&mut self, scope: &Scope) -> Reply {
        match self.brake_overrides.contains_key(scope) {
            true => self.remove_brake_override(scope),
            false => return Reply::Done,
        }
        Reply::BrakeOverrideCleared
    }

    /// What is told more is held at once; what is told less is held when nobody can rely on more.
    pub(super) fn set_pace(&mut self, at: At, c: SetPace) -> Reply {
        let told_percent = c.percent.clamp(100, STRETCH_PERCENT_MAX);
        if c.term != at.term || told_percent == self.clock.pace.told_percent {
            return Reply::Done;
        }
        let before = self.clock.pace;
        let held_percent = before.held_percent.max(told_percent);
        let held_until_ms = match held_percent > told_percent {
            true => self.clock.cluster_ms + STRETCHED_TTL_MS_MAX + PACE_MARGIN_MS,
            false => 0,
        };
        self.insert_pace(Pace { told_percent, held_percent, held_until_ms });
        Reply::PaceSet
    }

    /// Called when nobody can rely any more on what was told before.
    pub(super) fn end_pace(&mut self) {
        let told_percent = self.clock.pace.told_percent;
        self.insert_pace(Pace { told_percent, held_percent: told_percent, held_until_ms: 0 });
    }

    /// Whether there is what the scope is about; nodes are Raft's to know.
    pub(super) fn has_scope(&self, scope: &Scope) -> bool {
        scope.app().is_none_or(|app| self.apps.contains_key(app))
    }
}

impl From<BrakeEnd> for Reason {
    fn from(end: BrakeEnd) -> Self {
        match end {
            BrakeEnd::Recovered => Self::Recovered,
            BrakeEnd::Removed => Self::Removed,
            BrakeEnd::Released => Self::Operator,
        }
    }
}
