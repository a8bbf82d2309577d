//! Members that the leader does not reach, and whose silence is their fault.

use std::collections::BTreeMap;

use roster_storage::brake::Scope;
use roster_storage::names::NodeId;

use super::{Brake, HeardBy, Held, LOOKS_PER_TURN, Missing};

/// A node that came back is remembered for so long beyond the window: longer than any TTL that a
/// client is likely to wait for.
const BACK_REMEMBERED_MS: u64 = 120_000;

/// A member that is not reached, or was not until lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fault {
    /// When it came back, if it did.
    pub back: Option<u64>,
    /// Sessions last heard by it that have missed a beat.
    pub late: u64,
    /// Overdue sessions that are its fault, and their instances.
    pub sessions: u64,
    pub instances: u64,
}

impl Brake {
    /// Which members the leader does not reach, each with how many sessions have missed a beat that
    /// were last heard by it, or by nobody since this leader leads.
    pub fn reach(&mut self, down: &BTreeMap<NodeId, u64>, now: u64) {
        for (node, late) in down {
            let fault = self.faults.entry(*node).or_default();
            (fault.back, fault.late) = (None, *late);
        }
        let back: Vec<_> = self
            .faults
            .iter_mut()
            .filter(|(node, fault)| !down.contains_key(node) && fault.back.is_none())
            .map(|(node, fault)| {
                fault.back = Some(now);
                *node
            })
            .collect();
        for node in back {
            self.to_forgive.insert(node, None);
        }
        self.forgive_later();
        self.forgive(now);
        let remembered = BACK_REMEMBERED_MS + self.settings.window_ms;
        self.faults.retain(|_, fault| {
            fault.sessions > 0 || fault.back.is_none_or(|back| now < back + remembered)
        });
    }

    /// The node that may have kept a session's heartbeats from the leader.
    pub(super) fn fault_in(&self, missing: &Missing, now: u64) -> Option<NodeId> {
        let by = |node: NodeId| match missing.by {
            HeardBy::Node(by) => by == node,
            HeardBy::Registration => false,
            HeardBy::NobodyYet => true,
        };
        let may_be = |node: NodeId, fault: &Fault| {
            by(node)
                && fault
                    .back
                    .is_none_or(|back| missing.heard <= back && now < back + missing.ttl_ms)
        };
        self.faults.iter().find(|(node, fault)| may_be(**node, fault)).map(|(node, _)| *node)
    }

    /// Nodes are back: those that are their fault have their TTL once more to be heard by them. Who is
    /// taken from then on is noted when it is taken.
    fn forgive_later(&mut self) {
        use std::ops::Bound::{Excluded, Unbounded};
        for (node, after) in std::mem::take(&mut self.to_forgive) {
            let Some(back) = self.faults.get(&node).and_then(|fault| fault.back) else { continue };
            let from = after.map_or(Unbounded, Excluded);
            let mut piece = self.held.range((from, Unbounded)).take(LOOKS_PER_TURN).peekable();
            while let Some((session, held)) = piece.next() {
                if held.fault_of == Some(node) {
                    self.forgiven.insert((back + held.missing.ttl_ms, *session));
                }
                if piece.peek().is_none() {
                    self.to_forgive.insert(node, Some(*session));
                }
            }
        }
    }

    fn forgive(&mut self, now: u64) {
        for _ in 0..LOOKS_PER_TURN {
            let Some((when, session)) = self.forgiven.first().copied() else { return };
            if when > now {
                return;
            }
            self.forgiven.pop_first();
            // The node may be gone once more, or back for less long than this told.
            let is_over = |held: &Held| {
                let fault = held.fault_of.and_then(|node| self.faults.get(&node));
                let back = fault.and_then(|fault| fault.back);
                back.is_some_and(|back| back + held.missing.ttl_ms <= now)
            };
            if self.held.get(&session).is_some_and(is_over)
                && let Some(held) = self.drop_held(session)
            {
                self.hold(Held { fault_of: None, ..held });
            }
        }
    }

    /// A node that is reached again, and nobody waits for any more.
    pub(super) fn is_back_and_empty(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All | Scope::App(_) => false,
            Scope::Node(node) => self
                .faults
                .get(node)
                .is_none_or(|fault| fault.back.is_some() && fault.sessions == 0),
        }
    }
}
