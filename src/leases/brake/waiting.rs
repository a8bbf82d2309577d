//! Overdue sessions in groups of which each gets its turn, whatever its size.

use std::collections::BTreeMap;

use fastrand::Rng;
use roster_storage::names::{AppName, NodeId, SessionId};

/// Sessions that wait for the same: of one app (the first, of a session with instances of several;
/// `None` of one that has none), and held by the fault of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub app: Option<AppName>,
    pub fault_of: Option<NodeId>,
}

#[derive(Debug)]
struct Line {
    /// Its place in the order.
    at: usize,
    sessions: Vec<SessionId>,
}

#[derive(Debug, Default)]
pub struct Waiting {
    lines: BTreeMap<Group, Line>,
    /// All groups, so that one can be drawn.
    order: Vec<Group>,
    /// Where each session stands in its line.
    places: BTreeMap<SessionId, (Group, usize)>,
}

impl Waiting {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn add(&mut self, session: SessionId, group: Group) {
        self.remove(session);
        let line = self.lines.entry(group.clone()).or_insert_with(|| {
            self.order.push(group.clone());
            Line { at: self.order.len() - 1, sessions: Vec::new() }
        });
        self.places.insert(session, (group, line.sessions.len()));
        line.sessions.push(session);
    }

    pub fn remove(&mut self, session: SessionId) {
        let Some((group, place)) = self.places.remove(&session) else { return };
        let Some(line) = self.lines.get_mut(&group) else { return };
        line.sessions.swap_remove(place);
        if let Some(moved) = line.sessions.get(place)
            && let Some(known) = self.places.get_mut(moved)
        {
            known.1 = place;
        }
        if line.sessions.is_empty() {
            self.remove_line(&group);
        }
    }

    fn remove_line(&mut self, group: &Group) {
        let Some(line) = self.lines.remove(group) else { return };
        self.order.swap_remove(line.at);
        if let Some(moved) = self.order.get(line.at)
            && let Some(known) = self.lines.get_mut(moved)
        {
            known.at = line.at;
        }
    }

    /// Those that may go of up to `limit` groups, each once: any are looked at, as chance gives, and in an
    /// order that chance gives.
    pub fn some_groups(
        &self,
        chance: &mut Rng,
        limit: usize,
        may_go: impl Fn(&Group) -> bool,
    ) -> Vec<Group> {
        if self.order.is_empty() {
            return Vec::new();
        }
        let (before, after) = self.order.split_at(chance.usize(..self.order.len()));
        let looked_at = after.iter().chain(before).take(limit);
        let mut groups: Vec<_> = looked_at.filter(|group| may_go(group)).cloned().collect();
        chance.shuffle(&mut groups);
        groups
    }

    /// One of a group's sessions, as chance gives.
    pub fn draw(&self, group: &Group, chance: &mut Rng) -> Option<SessionId> {
        let sessions = &self.lines.get(group)?.sessions;
        sessions.get(chance.usize(..sessions.len())).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert_eq, proptest};

    use super::*;

    fn group(app: u64) -> Group {
        Group { app: Some(AppName::new(format!("app-{app}")).expect("a name")), fault_of: None }
    }

    proptest! {
        #[test]
        fn everyone_stands_in_one_line_and_every_line_can_be_drawn(
            acts in prop::collection::vec((0..40_u64, 0..6_u64, prop::bool::ANY), 1..200),
            seed in 0..u64::MAX,
        ) {
            let mut waiting = Waiting::default();
            let mut model = BTreeMap::new();
            let mut chance = Rng::with_seed(seed);
            for (session, app, comes) in acts {
                if comes {
                    waiting.add(SessionId(session), group(app));
                    model.insert(SessionId(session), group(app));
                } else {
                    waiting.remove(SessionId(session));
                    model.remove(&SessionId(session));
                }
                let mut groups = waiting.some_groups(&mut chance, 100, |_| true);
                groups.sort();
                let mut wanted: Vec<_> = model.values().cloned().collect();
                wanted.sort();
                wanted.dedup();
                prop_assert_eq!(&groups, &wanted);
                for group in groups {
                    let drawn = waiting.draw(&group, &mut chance).expect("nobody stands in a line");
                    prop_assert_eq!(model.get(&drawn), Some(&group));
                }
                prop_assert_eq!(waiting.len(), model.len());
            }
        }
    }
}
