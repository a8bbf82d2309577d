//! Takes up what is overdue, from the lease table into the brake. A session that has left the wheel
//! is held by the brake, under way, or gone: what the brake does not take goes back into the wheel.

use roster_storage::brake::stretched;
use roster_storage::catalog::Catalog;
use roster_storage::names::{AppName, SessionId};

use super::brake::{Brake, HeardBy, Missing, Sizes};
use super::{LeaseTable, Overdue};

/// Leases looked at by one judgement of the time, so that a long turn is not judged by an old one.
pub const PIECE: usize = 1_024;

/// Pieces taken in one turn: what fell due at once is taken up within some turns.
const PIECES_PER_TURN: usize = 16;

/// Removals wait for so long at most until all that fell due is taken up, milliseconds: a million
/// sessions with one deadline take 61 turns.
const BEHIND_MS_MAX: u64 = 2_000;

/// Takes up what fell due, in turns.
#[derive(Debug, Default)]
pub struct Taking {
    /// Since when each turn has left something due to the next one.
    behind_since: Option<u64>,
}

impl Taking {
    /// One turn; `tick` is asked for the time of each piece. What `missing` does not know is gone: its
    /// end is published, and the table is told of it next.
    pub fn take_up(
        &mut self,
        table: &LeaseTable,
        brake: &mut Brake,
        mut tick: impl FnMut() -> u64,
        missing: impl Fn(Overdue) -> Option<Missing>,
    ) {
        let mut now = 0;
        for _ in 0..PIECES_PER_TURN {
            now = tick();
            let Some(piece) = table.take_due(now, PIECE) else {
                self.behind_since = None;
                return;
            };
            for overdue in piece {
                if let Some(missing) = missing(overdue)
                    && !brake.take(missing, now)
                {
                    table.keep(overdue.session, now);
                }
            }
        }
        self.behind_since.get_or_insert(now);
    }

    /// Whether the brake may let anybody go: not while it has seen a part only of what fell due at once,
    /// which may be small enough to go where the whole is a mass loss.
    pub fn has_seen_all(&self, now: u64) -> bool {
        self.behind_since.is_none_or(|since| now >= since + BEHIND_MS_MAX)
    }
}

/// What the brake must know of an overdue session. `None`: it is there no more.
pub fn missing(table: &LeaseTable, catalog: &Catalog, overdue: Overdue) -> Option<Missing> {
    let session = catalog.session(overdue.session)?;
    let by = match overdue.via {
        Some(node) => HeardBy::Node(node),
        None if table.is_as_found(overdue.heard) => HeardBy::NobodyYet,
        None => HeardBy::Registration,
    };
    Some(Missing {
        session: overdue.session,
        touched: overdue.touched,
        ttl_ms: table.counted(session.ttl_ms()),
        heard: overdue.heard,
        by,
        carries: carried(catalog, overdue.session),
        suspect: session.suspect,
    })
}

/// A session that the state says is suspect, and that this leader has not found overdue yet.
pub fn expected(catalog: &Catalog, session: SessionId, now: u64) -> Option<Missing> {
    let known = catalog.session(session)?;
    Some(Missing {
        session,
        touched: known.touched,
        ttl_ms: stretched(known.ttl_ms(), catalog.pace().held_percent),
        heard: now,
        by: HeardBy::NobodyYet,
        carries: carried(catalog, session),
        suspect: true,
    })
}

/// How many instances of which apps hang off a session, in the order of the apps.
fn carried(catalog: &Catalog, session: SessionId) -> Vec<(AppName, u64)> {
    let mut carried: Vec<(AppName, u64)> = Vec::new();
    for key in catalog.held_by(session) {
        match carried.last_mut() {
            Some((app, count)) if *app == key.app => *count += 1,
            Some(_) | None => carried.push((key.app, 1)),
        }
    }
    carried
}

impl Sizes for Catalog {
    fn instances(&self) -> u64 {
        self.instance_count()
    }

    fn instances_of(&self, app: &AppName) -> u64 {
        self.app(app).map_or(0, |app| app.instances.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use fastrand::Rng;
    use proptest::prelude::{ProptestConfig, Strategy, prop, prop_oneof, proptest};
    use roster_api::registry::BrakeSettings;
    use roster_storage::catalog::At;
    use roster_storage::command::{Command, OpenSession, SetPace, Stamp, Suspect, Suspicion};
    use roster_storage::names::{NodeId, Revision};

    use super::super::{Due, Ended, Looked, SLOT_MS};
    use super::*;

    const TTL: u64 = 100;
    const S: SessionId = SessionId(1);

    /// How many instances there are.
    struct Size(u64);

    impl Sizes for Size {
        fn instances(&self) -> u64 {
            self.0
        }

        fn instances_of(&self, _: &AppName) -> u64 {
            self.0
        }
    }

    /// The sessions of one leader, with an app of which each carries an instance.
    struct World {
        table: LeaseTable,
        brake: Brake,
        taking: Taking,
        chance: Rng,
        now: u64,
        revision: u64,
        /// By the state: when each session was touched last.
        live: BTreeMap<SessionId, Revision>,
        /// Removals in the order of the log that are not answered yet.
        proposed: VecDeque<Due>,
        /// Sessions that were let go.
        let_go: u64,
    }

    impl World {
        fn new() -> Self {
            Self {
                table: LeaseTable::new(1),
                // Whoever is silent goes at once.
                brake: Brake::new(BrakeSettings { exempt: 1_000, ..BrakeSettings::default() }, 0),
                taking: Taking::default(),
                chance: Rng::with_seed(7),
                now: 0,
                revision: 0,
                live: BTreeMap::new(),
                proposed: VecDeque::new(),
                let_go: 0,
            }
        }

        /// A registration is applied.
        fn touch(&mut self, session: SessionId) {
            self.revision += 1;
            let touched = Revision(self.revision);
            self.live.insert(session, touched);
            self.table.touch(session, TTL, touched, self.now);
        }

        fn beat(&mut self, session: SessionId) {
            // One that ends is told to register again.
            self.table.renew(session, None, 3, self.now).ok();
        }

        fn turn(&mut self) {
            self.now += SLOT_MS;
            let (now, live) = (self.now, &self.live);
            let app = AppName::new("pay").expect("a name");
            self.taking.take_up(
                &self.table,
                &mut self.brake,
                || now,
                |overdue| {
                    live.get(&overdue.session).map(|_| Missing {
                        session: overdue.session,
                        touched: overdue.touched,
                        ttl_ms: TTL,
                        heard: overdue.heard,
                        by: HeardBy::Registration,
                        carries: vec![(app.clone(), 1)],
                        suspect: false,
                    })
                },
            );
            let held: Vec<_> = self.brake.held_after(None).take(100).collect();
            for session in held {
                match self.table.look(session, now) {
                    Looked::Overdue(_) => {}
                    Looked::Lives => self.brake.heard(session),
                    Looked::Gone => self.brake.gone(session),
                }
            }
            self.brake.judge(&Size(self.live.len() as u64), now);
            if self.taking.has_seen_all(now) {
                self.release();
            }
        }

        fn release(&mut self) {
            for session in self.brake.release(&mut self.chance, self.now) {
                self.let_go += 1;
                match self.table.end(session, self.now) {
                    Ended::Due(due) => self.proposed.push_back(due),
                    Ended::Lives => self.brake.heard_in_time(session),
                    Ended::Gone => self.brake.gone(session),
                }
            }
        }

        fn pass(&mut self, ms: u64) {
            (0..ms.div_ceil(SLOT_MS)).for_each(|_| self.turn());
        }

        /// The oldest removal is applied, or was certainly not appended.
        fn answer(&mut self, appended: bool) {
            let Some(due) = self.proposed.pop_front() else { return };
            if !appended {
                self.brake.spared(due.session);
                self.table.spare([due], self.now);
                return;
            }
            if self.live.get(&due.session) == Some(&due.touched) {
                self.live.remove(&due.session);
                self.table.forget(due.session);
            }
            self.brake.gone(due.session);
        }
    }

    #[test]
    fn who_registers_while_its_removal_is_under_way_and_falls_silent_is_removed() {
        for appended in [true, false] {
            let mut world = World::new();
            world.touch(S);
            world.pass(2 * TTL);
            assert_eq!(world.proposed.len(), 1);
            world.touch(S);
            world.pass(2 * TTL);
            world.answer(appended);
            assert!(world.live.contains_key(&S), "its removal named an older registration");
            world.pass(2 * SLOT_MS);
            world.answer(true);
            assert!(!world.live.contains_key(&S), "it is in no wheel and held by nobody");
        }
    }

    #[test]
    fn nobody_goes_before_all_that_fell_due_at_once_is_seen() {
        let mut world = World::new();
        let settings = BrakeSettings { app_share_percent: 100, ..BrakeSettings::default() };
        world.brake = Brake::new(settings, 0);
        let in_one_turn = (PIECE * PIECES_PER_TURN) as u64;
        let all = 6 * in_one_turn;
        (0..all).for_each(|session| world.touch(SessionId(session)));
        while world.brake.scopes().next().is_none() {
            world.turn();
            let few = world.let_go + world.brake.len() as u64 <= all / 4;
            assert!(few || world.brake.scopes().next().is_some(), "the loss was not seen");
        }
        assert_eq!(world.let_go, 0, "they went before the brake had seen the loss");
    }

    #[test]
    fn removals_do_not_wait_for_ever_for_what_falls_due_without_end() {
        let table = LeaseTable::new(1);
        let mut brake = Brake::new(BrakeSettings::default(), 0);
        let mut taking = Taking::default();
        let in_one_turn = (PIECE * PIECES_PER_TURN) as u64;
        (0..2 * in_one_turn).for_each(|s| table.touch(SessionId(s), TTL, Revision(1), 0));
        let begin = 2 * TTL;
        taking.take_up(&table, &mut brake, || begin, |_| None);
        assert!(!taking.has_seen_all(begin));
        assert!(!taking.has_seen_all(begin + BEHIND_MS_MAX - 1));
        assert!(taking.has_seen_all(begin + BEHIND_MS_MAX));
        for turn in 1..=2 {
            taking.take_up(&table, &mut brake, || begin + turn * SLOT_MS, |_| None);
        }
        assert!(taking.has_seen_all(begin + 2 * SLOT_MS));
    }

    /// Sessions of a state with a pace, the table of its leader, and their TTL as they are told it.
    fn paced(percent: u32) -> (LeaseTable, Catalog, u64) {
        let mut catalog = Catalog::default();
        let table = LeaseTable::new(1);
        let mut revision = 0;
        let mut apply = |command: Command| {
            revision += 1;
            let at = At { revision: Revision(revision), term: 1, stamp: Stamp::default() };
            catalog.apply(at, &command).0.result.expect("not refused");
        };
        apply(Command::Pace(SetPace { term: 1, percent }));
        for _ in 0..20 {
            let open = OpenSession { ttl_ms: Some(15_000), name: "one".into(), request: None };
            apply(Command::OpenSession(open));
        }
        table.set_stretch(catalog.pace().held_percent);
        let mut ttl_ms = 0;
        let sessions: Vec<_> =
            catalog.sessions().map(|(id, s)| (id, s.ttl_ms(), s.touched)).collect();
        for (session, ttl, touched) in sessions {
            table.touch(session, ttl, touched, 0);
            ttl_ms = ttl;
        }
        (table, catalog, stretched(ttl_ms, percent))
    }

    #[test]
    fn whose_node_comes_back_has_its_whole_ttl_as_it_was_told_to_be_heard_again() {
        const NODE: NodeId = 2;
        for is_expected in [false, true] {
            let (table, catalog, told_ttl) = paced(800);
            let mut brake = Brake::new(BrakeSettings::default(), 0);
            let down = [(NODE, 100)].into();
            for (session, _) in catalog.sessions() {
                table.renew(session, None, NODE, 0).expect("it lives");
            }
            let mut now = 2 * told_ttl;
            brake.reach(&down, now);
            if is_expected {
                for (session, _) in catalog.sessions() {
                    brake.expect(expected(&catalog, session, now).expect("it is there"), now);
                }
            } else {
                let tick = now;
                let missing = |overdue| missing(&table, &catalog, overdue);
                Taking::default().take_up(&table, &mut brake, || tick, missing);
            }
            brake.judge(&catalog, now);
            let back = now + 1;
            while now < back + told_ttl - SLOT_MS {
                now += SLOT_MS;
                brake.reach(&BTreeMap::new(), now);
                brake.judge(&catalog, now);
                let is_its_fault = brake.scopes().any(|scope| scope.node() == Some(NODE));
                assert!(is_its_fault, "forgiven {} ms after it is back", now - back);
            }
            brake.reach(&BTreeMap::new(), back + told_ttl + SLOT_MS);
            brake.judge(&catalog, back + told_ttl + 1_000);
            assert!(brake.scopes().all(|scope| scope.node().is_none()), "never forgiven");
        }
    }

    #[test]
    fn the_suspects_of_the_state_are_walked_in_pieces_each_once() {
        let (_, mut catalog, _) = paced(100);
        let suspicion = |(session, known): (SessionId, &roster_storage::catalog::Session)| {
            Suspicion { session, touched: known.touched, suspect: true }
        };
        let sessions: Vec<_> = catalog.sessions().map(suspicion).collect();
        let all: Vec<_> = sessions.iter().map(|suspicion| suspicion.session).collect();
        let at = At { revision: Revision(100), term: 1, stamp: Stamp::default() };
        catalog.apply(at, &Command::Suspect(Suspect { term: 1, sessions }));
        let (mut walked, mut after) = (Vec::new(), None);
        loop {
            let piece: Vec<_> = catalog.suspects_after(after).take(7).collect();
            let Some(last) = piece.last() else { break };
            after = Some(*last);
            walked.extend(piece);
        }
        assert_eq!(walked, all);
    }

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Touch(u64),
        Beat(u64),
        Answer(bool),
        Pass(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            2 => (0..4_u64).prop_map(Act::Touch),
            1 => (0..4_u64).prop_map(Act::Beat),
            1 => prop::bool::weighted(0.8).prop_map(Act::Answer),
            2 => (1..3 * TTL).prop_map(Act::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

        #[test]
        fn whoever_falls_silent_is_removed_whatever_came_before(
            acts in prop::collection::vec(act(), 1..60),
        ) {
            let mut world = World::new();
            for act in acts {
                match act {
                    Act::Touch(session) => world.touch(SessionId(session)),
                    Act::Beat(session) => world.beat(SessionId(session)),
                    Act::Answer(appended) => world.answer(appended),
                    Act::Pass(ms) => world.pass(ms),
                }
            }
            for _ in 0..3 {
                world.pass(2 * TTL);
                while !world.proposed.is_empty() {
                    world.answer(true);
                }
            }
            assert!(world.live.is_empty(), "{:?} are never removed", world.live);
        }
    }
}
