//! Sessions: what heartbeats, and what everything ephemeral hangs off. A session ends with all it
//! carries in one entry.

use super::{Applied, At, Catalog, Session};
use crate::command::{CloseSession, Expire, OpenSession, Refusal, Reply};
use crate::events::{Event, Reason};
use crate::limits::TTL_MS_DEFAULT;
use crate::names::SessionId;

impl Catalog {
    pub(super) fn open_session(
        &mut self,
        at: At,
        c: &OpenSession,
        events: &mut Vec<Event>,
    ) -> Reply {
        let session = self.next_session();
        let ttl_ms = c.ttl_ms.unwrap_or(TTL_MS_DEFAULT);
        let mut value = Session::of_ttl(ttl_ms).named(c.name.clone());
        value.touched = at.revision;
        self.insert_session(session, value);
        events.push(Event::SessionPut { session, ttl_ms, touched: at.revision });
        Reply::SessionOpened { session, ttl_ms }
    }

    pub(super) fn close_session(
        &mut self,
        at: At,
        c: &CloseSession,
        events: &mut Vec<Event>,
    ) -> Applied {
        if !self.sessions.contains_key(&c.session) {
            return Err(Refusal::UnknownSession(c.session));
        }
        let instances = self.end_session(at, c.session, &Reason::SessionClosed, events);
        Ok(Reply::SessionClosed { instances })
    }

    /// Ends the sessions that the leader of this very entry's term saw dying, unless something
    /// touched them since (invariants S5, S6).
    pub(super) fn expire(&mut self, at: At, c: &Expire, events: &mut Vec<Event>) -> Reply {
        let (mut ended, mut dropped) = (0, 0);
        for expiry in &c.sessions {
            let touched = self.sessions.get(&expiry.session).map(|s| s.touched);
            if c.term == at.term && touched == Some(expiry.touched) {
                let reason = Reason::Expired { silent_ms: expiry.silent_ms };
                self.end_session(at, expiry.session, &reason, events);
                ended += 1;
            } else {
                dropped += 1;
            }
        }
        Reply::Expired { ended, dropped }
    }

    /// Returns how many instances went with it.
    fn end_session(
        &mut self,
        at: At,
        session: SessionId,
        reason: &Reason,
        events: &mut Vec<Event>,
    ) -> u64 {
        let keys: Vec<_> = self.held_by(session).collect();
        for key in &keys {
            self.depart(at, key, reason, events);
        }
        self.end_claims(at, session, reason, events);
        // A private session went with its instance.
        if self.remove_session(session).is_some() {
            events.push(Event::SessionEnded { session, reason: reason.clone() });
        }
        keys.len() as u64
    }

    pub(super) fn next_session(&mut self) -> SessionId {
        self.clock.last_session += 1;
        SessionId(self.clock.last_session)
    }
}
