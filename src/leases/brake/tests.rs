use fastrand::Rng;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, prop_assume, prop_oneof,
    proptest,
};

use super::*;

const TTL: u64 = 15_000;
const TICK: u64 = 20;
const MINUTE: u64 = 60_000;

/// A registry that loses what the brake lets go.
struct World {
    brake: Brake,
    chance: Rng,
    now: u64,
    /// Between two turns, milliseconds.
    step: u64,
    live: BTreeMap<AppName, u64>,
    /// What is overdue and was neither heard nor let go.
    missing: BTreeMap<SessionId, Missing>,
    down: BTreeMap<NodeId, u64>,
    /// Every session that went, and when.
    went: Vec<(u64, Missing)>,
    turns: Vec<(u64, Turn)>,
    marked: BTreeSet<SessionId>,
    last_session: u64,
}

impl Sizes for BTreeMap<AppName, u64> {
    fn instances(&self) -> u64 {
        self.values().sum()
    }

    fn instances_of(&self, app: &AppName) -> u64 {
        self.get(app).copied().unwrap_or(0)
    }
}

fn app(name: &str) -> AppName {
    AppName::new(name).expect("a name")
}

fn about(name: Option<&str>) -> Scope {
    name.map_or(Scope::All, |name| Scope::App(app(name)))
}

impl World {
    fn new(apps: &[(&str, u64)]) -> Self {
        Self::with(BrakeSettings::default(), apps)
    }

    fn with(settings: BrakeSettings, apps: &[(&str, u64)]) -> Self {
        Self {
            brake: Brake::new(settings, 0),
            chance: Rng::with_seed(7),
            now: 0,
            step: TICK,
            live: apps.iter().map(|(name, count)| (app(name), *count)).collect(),
            missing: BTreeMap::new(),
            down: BTreeMap::new(),
            went: Vec::new(),
            turns: Vec::new(),
            marked: BTreeSet::new(),
            last_session: 0,
        }
    }

    /// So many instances of an app stop, each on a session of its own.
    fn stop(&mut self, name: &str, count: u64) {
        self.stop_by(name, count, Some(1));
    }

    fn stop_by(&mut self, name: &str, count: u64, via: Option<NodeId>) {
        (0..count).for_each(|_| self.stop_session(vec![(app(name), 1)], via));
    }

    fn stop_session(&mut self, carries: Vec<(AppName, u64)>, via: Option<NodeId>) {
        self.last_session += 1;
        let session = SessionId(self.last_session);
        let heard = self.now.saturating_sub(TTL);
        let touched = Revision(session.0);
        let by = via.map_or(HeardBy::NobodyYet, HeardBy::Node);
        let missing = Missing { session, touched, ttl_ms: TTL, heard, by, carries, suspect: false };
        self.missing.insert(session, missing.clone());
        assert!(self.brake.take(missing, self.now));
    }

    fn tick(&mut self) {
        self.now += self.step;
        self.brake.reach(&self.down, self.now);
        let turns = self.brake.judge(&self.live, self.now);
        self.turns.extend(turns.into_iter().map(|turn| (self.now, turn)));
        for session in self.brake.release(&mut self.chance, self.now) {
            let gone = self.missing.remove(&session).expect("it went, and was not there");
            for (app, count) in &gone.carries {
                *self.live.get_mut(app).expect("an app") -= count;
            }
            self.brake.gone(session);
            self.marked.remove(&session);
            self.went.push((self.now, gone));
        }
        for mark in self.brake.marks(1_000) {
            assert_ne!(self.marked.contains(&mark.session), mark.suspect, "marked twice");
            if mark.suspect {
                assert!(self.missing.contains_key(&mark.session), "it is not held");
                self.marked.insert(mark.session);
            } else {
                self.marked.remove(&mark.session);
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        (0..ms / self.step).for_each(|_| self.tick());
    }

    /// All that is missing of an app is heard again.
    fn recover(&mut self, name: &str) {
        let is_of = |missing: &Missing| missing.carries.iter().any(|(of, _)| *of == app(name));
        for (session, missing) in std::mem::take(&mut self.missing) {
            if is_of(&missing) {
                self.brake.heard(session);
            } else {
                self.missing.insert(session, missing);
            }
        }
    }

    fn gone_of(&self, name: &str) -> usize {
        let of = |gone: &Missing| gone.carries.iter().any(|(of, _)| *of == app(name));
        self.went.iter().filter(|(_, gone)| of(gone)).count()
    }

    fn brakes(&self) -> Vec<Scope> {
        self.brake.scopes().cloned().collect()
    }

    fn reasons(&self) -> Vec<BrakeEnd> {
        let reason = |(_, turn): &(u64, Turn)| match turn {
            Turn::Entered(..) => None,
            Turn::Left(_, reason) => Some(*reason),
        };
        self.turns.iter().filter_map(reason).collect()
    }

    fn say(&mut self, words: &[(Option<&str>, BrakeMode)]) {
        self.brake.set_words(words.iter().map(|(name, mode)| (about(*name), *mode)).collect());
    }
}

#[test]
fn small_losses_go_at_once_whatever_their_share() {
    let mut world = World::new(&[("pay", 10), ("search", 100)]);
    world.stop("pay", 10);
    world.stop("search", 10);
    world.pass(100);
    assert_eq!(world.went.len(), 20);
    assert_eq!(world.brakes(), []);
}

#[test]
fn a_loss_of_most_of_an_app_is_held_and_goes_within_the_pace_and_it_ends_by_itself() {
    let mut world = World::new(&[("pay", 100), ("search", 1_000)]);
    world.stop("pay", 90);
    world.pass(100);
    assert_eq!(world.brakes(), [Scope::App(app("pay"))]);
    assert_eq!(world.went.len(), 0);
    assert_eq!(world.marked.len(), 90, "all are told to be suspect");
    world.pass(MINUTE);
    assert!((5..=7).contains(&world.gone_of("pay")), "{}", world.gone_of("pay"));
    world.pass(15 * MINUTE);
    assert_eq!(world.gone_of("pay"), 90);
    world.pass(3 * MINUTE);
    assert_eq!(world.brakes(), []);
    assert_eq!(world.reasons(), [BrakeEnd::Removed]);
}

#[test]
fn who_is_heard_again_is_suspect_no_more_and_the_brake_ends() {
    let mut world = World::new(&[("pay", 100)]);
    world.stop("pay", 100);
    world.pass(1_000);
    let lost = world.went.len();
    world.recover("pay");
    world.pass(3 * MINUTE);
    assert_eq!(world.went.len(), lost, "somebody went that was heard");
    assert!(world.marked.is_empty());
    assert_eq!(world.brakes(), []);
    assert!(world.reasons().contains(&BrakeEnd::Recovered));
}

#[test]
fn what_already_went_within_the_window_counts_and_deregistrations_do_not() {
    let mut world = World::new(&[("pay", 100), ("other", 1_000)]);
    for _ in 0..10 {
        world.stop("pay", 5);
        world.pass(5_000);
    }
    assert_eq!(world.went.len(), 50, "half is not more than half");
    world.stop("pay", 5);
    world.pass(100);
    assert_eq!(world.brakes(), [Scope::App(app("pay"))]);

    let mut leaving = World::new(&[("pay", 100), ("other", 1_000)]);
    *leaving.live.get_mut(&app("pay")).expect("an app") = 30;
    leaving.stop("pay", 12);
    leaving.pass(100);
    assert_eq!(leaving.went.len(), 12, "70 left by themselves");
}

#[test]
fn a_single_departure_goes_at_once_beside_the_brake_of_another_app() {
    let mut world = World::new(&[("pay", 1_000), ("search", 20), ("large", 100_000)]);
    world.stop("pay", 900);
    world.pass(1_000);
    world.stop("search", 1);
    world.tick();
    assert_eq!(world.gone_of("search"), 1);
}

#[test]
fn single_departures_go_at_once_while_all_brake_for_another_app() {
    let mut world = World::new(&[("pay", 1_000), ("search", 20)]);
    world.stop("pay", 900);
    world.pass(1_000);
    assert!(world.brakes().contains(&Scope::All));
    let before = world.gone_of("pay");
    world.stop("search", 5);
    world.tick();
    assert_eq!(world.gone_of("search"), 5);
    assert!(world.gone_of("pay") <= before + 1);
}

#[test]
fn a_small_loss_in_each_of_many_apps_is_a_mass_loss_too() {
    let names: Vec<_> = (0..1_000).map(|n| format!("app-{n}")).collect();
    let apps: Vec<_> = names.iter().map(|name| (name.as_str(), 2)).collect();
    let mut world = World::new(&apps);
    names.iter().for_each(|name| world.stop(name, 1));
    world.pass(1_000);
    assert_eq!(world.brakes(), [Scope::All]);
    let exempt = world.brake.settings.exempt_of_all() as usize;
    assert!((exempt..exempt + 3).contains(&world.went.len()), "{}", world.went.len());
}

#[test]
fn who_was_heard_by_a_node_that_is_not_reached_is_held_until_it_is_back_and_a_ttl_passed() {
    let mut world = World::new(&[("pay", 10_000)]);
    world.down.insert(2, 200);
    world.tick();
    // The first one that is due is held, since so many others are late with it.
    world.stop_by("pay", 1, Some(2));
    world.pass(100);
    assert_eq!(world.brakes(), [Scope::Node(2)]);
    world.stop_by("pay", 199, Some(2));
    world.stop_by("pay", 1, Some(3));
    world.pass(1_000);
    assert_eq!(world.went.len(), 1, "only the one that was heard by another node");
    world.down.clear();
    world.pass(TTL - 1_000);
    assert!(world.went.len() <= 6, "by the pace alone, and {} went", world.went.len());
    world.recover("pay");
    world.pass(1_000);
    assert_eq!(world.brakes(), []);
    assert_eq!(world.reasons(), [BrakeEnd::Recovered]);
}

#[test]
fn who_does_not_come_back_with_its_node_goes() {
    let mut world = World::new(&[("pay", 10_000)]);
    world.down.insert(2, 200);
    world.tick();
    world.stop_by("pay", 200, Some(2));
    world.pass(1_000);
    world.down.clear();
    world.pass(TTL + 2_000);
    assert_eq!(world.went.len(), 200);
}

#[test]
fn a_node_that_takes_a_few_services_with_it_holds_none_of_them() {
    let mut world = World::new(&[("pay", 10_000)]);
    world.down.insert(2, 5);
    world.tick();
    world.stop_by("pay", 5, Some(2));
    world.pass(100);
    assert_eq!(world.went.len(), 5);
}

#[test]
fn under_a_new_leader_the_missing_node_may_be_whose_heartbeats_are_missing() {
    let mut world = World::new(&[("pay", 10_000)]);
    world.down.insert(1, 500);
    world.tick();
    world.stop_by("pay", 500, None);
    world.pass(10_000);
    assert_eq!(world.brakes(), [Scope::Node(1)]);
    assert!(world.went.len() <= 6, "{} went", world.went.len());
    assert_eq!(world.marked.len() + world.went.len(), 500);
}

#[test]
fn an_operator_lets_a_scope_go_at_the_ordinary_rate() {
    let mut world = World::new(&[("pay", 1_000), ("search", 10_000)]);
    world.stop("pay", 900);
    world.pass(1_000);
    world.say(&[(Some("pay"), BrakeMode::Release)]);
    world.pass(1_000);
    assert_eq!(world.gone_of("pay"), 900);
    assert!(world.reasons().contains(&BrakeEnd::Released));
}

#[test]
fn an_operator_holds_what_would_go_and_the_nearer_word_counts() {
    let mut world = World::new(&[("pay", 1_000), ("search", 1_000)]);
    world.say(&[(None, BrakeMode::Hold), (Some("search"), BrakeMode::Release)]);
    world.stop("pay", 3);
    world.stop("search", 3);
    world.pass(20 * MINUTE);
    assert_eq!((world.gone_of("pay"), world.gone_of("search")), (0, 3));
    assert_eq!(world.marked.len(), 3, "who is held is suspect");
    world.say(&[(None, BrakeMode::Release), (Some("pay"), BrakeMode::Hold)]);
    world.pass(1_000);
    assert_eq!(world.gone_of("pay"), 0);
    world.say(&[]);
    world.tick();
    assert_eq!(world.gone_of("pay"), 3);
}

#[test]
fn an_app_with_many_overdue_does_not_keep_a_small_one_waiting() {
    let settings = BrakeSettings { share_percent: 100, app_share_percent: 100, ..slow(1_000) };
    let mut world = World::with(settings, &[("large", 50_000), ("small", 20)]);
    world.stop("large", 20_000);
    world.pass(1_000);
    world.stop("small", 5);
    world.pass(200);
    assert_eq!(world.gone_of("small"), 5);
    assert!(world.gone_of("large") < 2_000);
}

fn slow(rate: u64) -> BrakeSettings {
    BrakeSettings { rate, ..BrakeSettings::default() }
}

#[test]
fn a_session_with_most_of_an_app_goes_last_and_not_first() {
    let mut world = World::new(&[("pay", 1_000), ("other", 100_000)]);
    world.stop_session(vec![(app("pay"), 900)], Some(1));
    world.pass(14 * MINUTE);
    assert_eq!(world.went.len(), 0);
    world.pass(2 * MINUTE);
    assert_eq!(world.went.len(), 1);
}

#[test]
fn a_new_leader_goes_on_with_the_brake_and_with_who_is_suspect() {
    let mut world = World::new(&[("pay", 1_000), ("other", 10_000)]);
    let pay = Scope::App(app("pay"));
    world.brake.resume(pay.clone(), Loss { missing: 700, peak: 900, of: 1_000 }, 0);
    let missing = |session| Missing {
        session: SessionId(session),
        touched: Revision(session),
        ttl_ms: TTL,
        heard: 0,
        by: HeardBy::NobodyYet,
        carries: vec![(app("pay"), 1)],
        suspect: true,
    };
    (1..=700).for_each(|session| world.brake.expect(missing(session), 0));
    world.pass(TTL);
    assert_eq!(world.went.len(), 0, "nobody goes before this leader found it overdue");
    assert_eq!(world.brakes(), std::slice::from_ref(&pay));
    // The old leader is gone, and that is not why they are missing.
    world.down.insert(1, 700);
    world.tick();
    for session in 1..=700 {
        world.missing.insert(SessionId(session), missing(session));
        world.marked.insert(SessionId(session));
        assert!(world.brake.take(missing(session), world.now));
    }
    world.pass(MINUTE);
    assert_eq!(world.brakes(), [pay]);
    assert!((50..=80).contains(&world.went.len()), "{} went", world.went.len());
}

#[test]
fn what_was_not_proposed_is_no_loss() {
    let mut world = World::new(&[("pay", 100)]);
    world.stop("pay", 10);
    world.brake.judge(&world.live, 100);
    let released = world.brake.release(&mut world.chance, 100);
    assert_eq!(released.len(), 10);
    released.into_iter().for_each(|session| world.brake.spared(session));
    assert_eq!(world.brake.of_all.lost(), 0);
    assert!(world.brake.under_way.is_empty());
}

#[test]
fn what_was_not_proposed_does_not_make_a_scope_that_brakes_any_faster() {
    let mut world = World::new(&[("pay", 1_000), ("other", 10), ("large", 500)]);
    world.stop("pay", 900);
    world.pass(1_000);
    world.stop("other", 1);
    assert_eq!(world.brakes(), [Scope::All]);
    let before = world.brake.loss(&Scope::All, &world.live).peak;
    let mut spared = 0;
    for _ in 0..3_000 {
        world.now += TICK;
        world.brake.judge(&world.live, world.now);
        for session in world.brake.release(&mut world.chance, world.now) {
            spared += 1;
            world.brake.spared(session);
            assert!(world.brake.take(world.missing[&session].clone(), world.now));
        }
    }
    assert!(spared > 1_000, "only {spared} were let go");
    let after = world.brake.loss(&Scope::All, &world.live).peak;
    assert!(after <= before + 1, "the rate was made of {before}, and is of {after}");
    assert_eq!(world.brake.singles.sum(), 0, "the small loss still has its turn");
}

#[test]
fn what_could_not_be_removed_for_a_while_does_not_go_at_once_afterwards() {
    let mut world = World::new(&[("pay", 1_000)]);
    world.stop("pay", 900);
    world.pass(1_000);
    let before = world.went.len();
    for _ in 0..10 * MINUTE / TICK {
        world.now += TICK;
        world.brake.judge(&world.live, world.now);
        world.brake.wait(world.now);
    }
    world.pass(MINUTE);
    let in_a_minute = world.went.len() - before;
    assert!((55..=65).contains(&in_a_minute), "{in_a_minute} went");
}

#[test]
fn a_node_that_comes_back_is_forgiven_a_piece_at_a_time_and_everybody_is() {
    let count = 3 * LOOKS_PER_TURN as u64 + 1;
    let mut world = World::new(&[("pay", 100 * count)]);
    world.down.insert(2, count);
    world.tick();
    world.stop_by("pay", count, Some(2));
    world.down.clear();
    world.tick();
    assert_eq!(world.brake.forgiven.len(), LOOKS_PER_TURN);
    world.pass(4 * TICK);
    assert_eq!(world.brake.forgiven.len() + world.went.len(), count as usize);
    world.pass(TTL - 10 * TICK);
    assert!((world.went.len() as u64) < count / 10, "by the pace alone");
    world.step = TICK;
    world.pass(1_000 + 10 * TICK);
    assert_eq!(world.went.len() as u64, count);
}

#[test]
fn no_group_is_looked_at_while_no_rate_lets_one_of_it_go() {
    let names: Vec<_> = (0..100).map(|n| format!("app-{n}")).collect();
    let apps: Vec<_> = names.iter().map(|name| (name.as_str(), 20)).collect();
    let mut world = World::new(&apps);
    names.iter().for_each(|name| world.stop(name, 20));
    world.pass(1_000);
    assert_eq!(world.brakes(), [Scope::All]);
    let groups = |world: &mut World| {
        let brake = &world.brake;
        brake.waiting.some_groups(&mut world.chance, 1_000, |group| brake.may_go(group)).len()
    };
    assert_eq!(groups(&mut world), 0);
    world.say(&[(Some("app-1"), BrakeMode::Release)]);
    assert_eq!(groups(&mut world), 100);
    let before = world.went.len();
    world.tick();
    assert!(world.went.len() >= before + 19, "what an operator lets go waits for no rate");
}

#[test]
fn who_is_held_again_while_its_mark_is_taken_off_is_marked_again() {
    let mut world = World::new(&[("pay", 100)]);
    world.stop("pay", 100);
    let marks = world.brake.marks(1_000);
    assert_eq!(marks.len(), 0, "nothing brakes yet");
    world.pass(1_000);
    let (session, missing) = world.missing.first_key_value().expect("one is held");
    let again = Missing { suspect: true, ..missing.clone() };
    let session = *session;
    world.brake.heard(session);
    assert!(world.brake.take(again, world.now));
    let taken_off = world.brake.marks(1_000);
    assert!(taken_off.iter().all(|mark| mark.session == session && !mark.suspect));
    assert_eq!(taken_off.len(), 1);
    // The state shows that it is suspect no more.
    world.brake.mark_again(session);
    let marks = world.brake.marks(1_000);
    assert!(marks.iter().any(|mark| mark.session == session && mark.suspect), "{marks:?}");
    world.brake.mark_again(SessionId(0));
    assert_eq!(world.brake.marks(1_000), []);
}

#[derive(Clone, Debug)]
enum Act {
    Stop { app: usize, count: u64, via: Option<NodeId> },
    StopLarge { apps: Vec<usize>, count: u64 },
    Recover { app: usize },
    Down { node: NodeId, late: u64 },
    Up { node: NodeId },
    Say { app: Option<usize>, mode: Option<BrakeMode> },
    Pass { ms: u64 },
}

const APPS: [(&str, u64); 4] = [("a", 5), ("b", 50), ("c", 400), ("d", 1_000)];

fn act() -> impl Strategy<Value = Act> {
    let app = 0..APPS.len();
    let mode = prop_oneof![Just(BrakeMode::Release), Just(BrakeMode::Hold)];
    prop_oneof![
        4 => (app.clone(), 1..200_u64, prop::option::of(1..4_u64))
            .prop_map(|(app, count, via)| Act::Stop { app, count, via }),
        1 => (prop::collection::vec(app.clone(), 0..3), 1..50_u64)
            .prop_map(|(apps, count)| Act::StopLarge { apps, count }),
        1 => app.clone().prop_map(|app| Act::Recover { app }),
        1 => (1..4_u64, 0..100_u64).prop_map(|(node, late)| Act::Down { node, late }),
        1 => (1..4_u64).prop_map(|node| Act::Up { node }),
        1 => (prop::option::of(app), prop::option::of(mode))
            .prop_map(|(app, mode)| Act::Say { app, mode }),
        4 => (0..90_000_u64).prop_map(|ms| Act::Pass { ms }),
    ]
}

/// The registry under any acts, with what must hold at every moment.
struct Any {
    world: World,
    words: BTreeMap<Scope, BrakeMode>,
}

impl Any {
    fn new() -> Self {
        Self { world: World::with(slow(100), &APPS), words: BTreeMap::new() }
    }

    fn do_it(&mut self, act: Act) {
        let world = &mut self.world;
        match act {
            Act::Stop { app: at, count, via } => {
                let (name, _) = APPS[at];
                let left = world.live[&app(name)] - missing_of(world, &app(name));
                world.stop_by(name, count.min(left), via);
            }
            Act::StopLarge { apps, count } => {
                let apps: BTreeSet<_> = apps.into_iter().map(|at| app(APPS[at].0)).collect();
                let carries: Vec<_> = apps
                    .into_iter()
                    .filter(|app| world.live[app] - missing_of(world, app) >= count)
                    .map(|app| (app, count))
                    .collect();
                world.stop_session(carries, Some(1));
            }
            Act::Recover { app } => world.recover(APPS[app].0),
            Act::Down { node, late } => {
                world.down.insert(node, late);
            }
            Act::Up { node } => {
                world.down.remove(&node);
            }
            Act::Say { app: at, mode } => {
                let about = about(at.map(|at| APPS[at].0));
                match mode {
                    Some(mode) => self.words.insert(about, mode),
                    None => self.words.remove(&about),
                };
                world.brake.set_words(self.words.clone());
            }
            Act::Pass { ms } => (0..ms / TICK).for_each(|_| self.tick()),
        }
    }

    fn tick(&mut self) {
        let before = self.world.went.len();
        self.world.tick();
        for (_, gone) in &self.world.went[before..] {
            for app in gone.apps() {
                let word = app.and_then(|app| self.words.get(&Scope::App(app.clone())));
                let word = word.or_else(|| self.words.get(&Scope::All));
                assert_ne!(word, Some(&BrakeMode::Hold), "an operator holds it");
            }
        }
        let held: Vec<_> = self.world.brake.held_after(None).collect();
        let missing: Vec<_> = self.world.missing.keys().copied().collect();
        assert_eq!(held, missing, "what is overdue is held or went, and never both");
    }

    /// No more of it within any time than the ordinary rate gives, beside one large session.
    fn went_at_the_ordinary_rate(&self) {
        let went = &self.world.went;
        let heaviest = went.iter().map(|(_, gone)| gone.weight()).max().unwrap_or(0);
        let rate = self.world.brake.settings.rate;
        let mut first = 0;
        let mut sum = 0;
        for (at, gone) in went {
            sum += gone.weight();
            while went[first].0 + 1_000 < *at {
                sum -= went[first].1.weight();
                first += 1;
            }
            let most = rate * (1_000 + ORDINARY_FULL_MS + TICK) / 1_000 + heaviest;
            assert!(sum <= most, "{sum} within a second, at {at}");
        }
    }
}

fn missing_of(world: &World, app: &AppName) -> u64 {
    let of = |missing: &Missing| {
        missing.carries.iter().filter(|(of, _)| of == app).map(|(_, count)| count).sum::<u64>()
    };
    world.missing.values().map(of).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nobody_is_held_and_removed_and_it_ends_by_itself(
        acts in prop::collection::vec(act(), 1..30),
    ) {
        let mut any = Any::new();
        acts.into_iter().for_each(|act| any.do_it(act));
        any.went_at_the_ordinary_rate();
        any.words.clear();
        any.world.brake.set_words(BTreeMap::new());
        any.world.down.clear();
        any.world.step = 25 * TICK;
        any.do_it(Act::Pass { ms: 20 * MINUTE });
        prop_assert_eq!(any.world.brake.len(), 0, "somebody is held for ever");
        any.world.pass(3 * MINUTE);
        prop_assert_eq!(any.world.brakes(), []);
        prop_assert!(any.world.brake.of_apps.is_empty());
        prop_assert!(any.world.marked.is_empty());
    }

    #[test]
    fn a_scope_that_brakes_loses_no_more_than_its_pace_gives(
        count in 60..400_u64,
        minutes in 1..14_u64,
        other in 0..10_u64,
    ) {
        let mut world = World::new(&[("pay", 100.max(count)), ("other", 100_000)]);
        world.stop("pay", count);
        world.pass(1_000);
        world.stop("other", other);
        world.tick();
        prop_assert_eq!(world.gone_of("other") as u64, other, "held beside another app's brake");
        world.pass(minutes * MINUTE);
        prop_assume!(!world.brakes().is_empty());
        let most = count * (minutes * MINUTE + 2_000) / (15 * MINUTE) + 1;
        prop_assert!(world.gone_of("pay") as u64 <= most, "{} went", world.gone_of("pay"));
    }
}
