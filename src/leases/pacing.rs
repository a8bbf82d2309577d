//! How far clients are asked to slow down: by how much every TTL, and with it the time between two
//! heartbeats, is lengthened. Pure: it is told once a second what came in, and says what it wants.
//!
//! Two things say that heartbeats are too many: more calls than the cluster is set up for, and
//! heartbeats that wait for their confirmation for too long, second after second. The first says by
//! how much, since a client that is told to come half as often does; the second asks for one step at a
//! time and waits to see what it does.
//!
//! A client hears of a change with its next heartbeat only. Until all have heard of it the calls that
//! come in tell of the demand under what was told *before*. So an estimate that may lengthen takes the
//! smallest stretch that was told lately, and one that may shorten the largest: constant demand is never
//! estimated too high on the way up nor too low on the way down, and so the stretch does not swing.
//!
//! Not every client does as it is told: Sentinel's transports beat at a time of their own. A step that
//! all have heard of and that took few calls away shows how many those are. From then on they are left
//! out of the demand: nobody else's TTL is lengthened, or kept long, for what no stretch makes less.

use std::collections::VecDeque;

/// The stretches that there are, in percent of what clients asked for.
pub const STRETCHES: [u32; 7] = [UNSTRETCHED, 150, 200, 300, 400, 600, 800];

/// Nothing is lengthened.
pub const UNSTRETCHED: u32 = 100;

/// A heartbeat that waited for longer than this, from its reception on any node until the leader
/// confirmed it, was late, milliseconds.
pub const LATE_MS: u64 = 500;

/// So many seconds in a row with late heartbeats ask for a step.
const LATE_SECONDS: u32 = 2;

/// More than one in so many must be late for a second to count as late.
const LATE_PARTS: u64 = 100;

/// Below this part of the rate that the cluster is set up for, load is not why heartbeats are late.
const IDLE_PARTS: u64 = 100;

/// How long a step that was taken for late heartbeats is given to show what it does, seconds.
const REACTION_SECONDS: u64 = 10;

/// Calls are counted as the mean of so many seconds before the stretch grows...
const RISING_SECONDS: usize = 3;

/// ...and of so many before it falls.
const FALLING_SECONDS: usize = 10;

/// The stretch falls only if the calls would stay below this part of the rate, in percent.
const HEADROOM_PERCENT: u64 = 80;

/// While clients hear of a fall, those who have heard of it and those who have not come at the same time,
/// and so more than the rate: nothing rises for it until they are more than so much of it, percent.
const OVERLAP_PERCENT: u64 = 150;

/// A step was in vain if it took away less than one in so many of the calls that it takes away where
/// all do as they are told.
const IN_VAIN_PARTS: u64 = 4;

/// Those who do as they are told have at least one in so many calls of the rate, however many the
/// others make.
const ROOM_PARTS: u64 = 5;

/// How often the time of calm is doubled when heartbeats turn late again each time the stretch falls.
const DOUBLINGS_MAX: u32 = 4;

/// How the stretch is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacingLimits {
    /// Heartbeat calls per second over all nodes that the cluster is to serve.
    pub calls_per_second: u64,
    /// How long there must be less to do before the stretch falls by a step, seconds.
    pub calm_seconds: u64,
    /// How long it takes at most until every client has heard of a change, seconds.
    pub heard_by_all_seconds: usize,
}

/// What came in within one second, over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Heartbeat calls, refused ones too. A call may carry many heartbeats.
    pub calls: u64,
    /// Those of them that waited for longer than [`LATE_MS`], or were refused.
    pub late: u64,
}

/// Finds the stretch, for as long as one node leads.
#[derive(Debug)]
pub struct Pacing {
    limits: PacingLimits,
    /// Calls of the last seconds, the newest last.
    calls: VecDeque<u64>,
    /// What clients were told in the last seconds, the newest last.
    told: VecDeque<u32>,
    /// Seconds in a row with late heartbeats.
    late_for: u32,
    /// Seconds in a row in which a smaller stretch would have done.
    calm_for: u64,
    /// Seconds since what clients are told has changed.
    unchanged_for: u64,
    /// How often in a row heartbeats were late again once the stretch had fallen.
    relapses: u32,
    /// The last change was a fall.
    fell: bool,
    /// The steps that were taken for too many calls since all had heard of the last change, until it
    /// shows what they did.
    trial: Option<Trial>,
    /// Calls per second that no stretch makes less, as the last step in vain has shown.
    unmoved: u64,
}

/// Steps that were taken for too many calls.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Calls per second before the first of them, from clients that were all told `before`.
    calls: u64,
    before: u32,
    /// What the last one has them told.
    told: u32,
}

impl Trial {
    /// What a smaller step takes away is not much more than what comes and goes anyway.
    fn is_large(&self) -> bool {
        self.told * 2 >= self.before * 3
    }

    /// The calls that did not get less by them, if so few did that they were in vain; `now` is what comes
    /// in since all have heard of the last one.
    fn unmoved(&self, now: u64) -> Option<u64> {
        let (before, told) = (u64::from(self.before), u64::from(self.told));
        let hoped_for = self.calls - self.calls * before / told;
        let was_in_vain = now + hoped_for / IN_VAIN_PARTS > self.calls;
        // What they are if the rest changed by as much as it was told to.
        let unmoved = (now * told).saturating_sub(self.calls * before) / (told - before);
        was_in_vain.then_some(unmoved.min(now))
    }
}

impl Pacing {
    /// `told` is what clients were told before this node led.
    pub fn new(limits: PacingLimits, told: u32) -> Self {
        Self {
            limits,
            calls: VecDeque::new(),
            told: VecDeque::from([told]),
            late_for: 0,
            calm_for: 0,
            unchanged_for: REACTION_SECONDS.max(limits.heard_by_all_seconds as u64),
            relapses: 0,
            fell: false,
            trial: None,
            unmoved: 0,
        }
    }

    /// A second has passed in which clients were told `told`, percent. Returns what they should be
    /// told from now on: the same, or another one of [`STRETCHES`].
    pub fn second(&mut self, load: Load, told: u32) -> u32 {
        self.note(load, told);
        self.learn(told);
        let wanted = self.wanted(told);
        if wanted != told {
            self.fell = wanted < told;
            if self.fell {
                self.trial = None;
            }
            self.calm_for = 0;
            self.late_for = 0;
        }
        wanted
    }

    fn note(&mut self, load: Load, told: u32) {
        let changed = self.told.back().is_some_and(|before| *before != told);
        self.unchanged_for = if changed { 0 } else { self.unchanged_for + 1 };
        push(&mut self.calls, load.calls, self.limits.heard_by_all_seconds.max(FALLING_SECONDS));
        push(&mut self.told, told, self.limits.heard_by_all_seconds.max(1));
        let is_busy = load.calls > self.limits.calls_per_second / IDLE_PARTS;
        let is_late = is_busy && load.late > load.calls / LATE_PARTS;
        self.late_for = if is_late { self.late_for + 1 } else { 0 };
        let is_calm = !is_late && self.needed_to_fall() < told;
        self.calm_for =
            if is_calm || told == UNSTRETCHED && !is_late { self.calm_for + 1 } else { 0 };
    }

    /// What the last steps show once all have heard of them, and have come once more since: clients that
    /// heard of a step together come in waves, so only the mean of a whole round tells how many they are.
    fn learn(&mut self, told: u32) {
        let round = self.limits.heard_by_all_seconds;
        let calls = self.calls_of_a_round();
        self.unmoved = self.unmoved.min(calls);
        if self.unchanged_for >= 2 * round as u64
            && let Some(trial) = self.trial.take()
            && trial.told == told
            && trial.is_large()
        {
            self.unmoved = trial.unmoved(calls).unwrap_or(0);
        }
    }

    /// Notes a step that is taken for too many calls. Nothing is learned from one that is taken while not
    /// all had heard of a fall: nobody knows then what those were told who come.
    fn try_out(&mut self, told: u32, needed: u32) {
        let round = self.limits.heard_by_all_seconds;
        let all_heard = self.unchanged_for >= round as u64;
        let begin = || Trial { calls: self.calls_of_a_round(), before: told, told: needed };
        let begun = self.trial.or_else(|| all_heard.then(begin));
        self.trial = begun.map(|trial| Trial { told: needed, ..trial });
    }

    /// All have heard of the last steps, and no more calls come than before them: whether one more helps
    /// is known once these have shown what they did.
    fn awaits_what_the_trial_shows(&self) -> bool {
        let all_heard = self.unchanged_for + 1 >= self.limits.heard_by_all_seconds as u64;
        let no_more_came = |trial: &Trial| self.mean_calls(RISING_SECONDS) <= trial.calls;
        all_heard && self.trial.as_ref().is_some_and(no_more_came)
    }

    fn wanted(&mut self, told: u32) -> u32 {
        let needed = self.needed_to_rise();
        if needed > told && !self.awaits_what_the_trial_shows() {
            self.try_out(told, needed);
            return needed;
        }
        if self.late_for >= LATE_SECONDS && self.unchanged_for >= REACTION_SECONDS {
            self.relapses = (self.relapses + u32::from(self.fell)).min(DOUBLINGS_MAX);
            return above(told);
        }
        if self.calm_for >= self.limits.calm_seconds << self.relapses {
            self.relapses = if told == UNSTRETCHED { 0 } else { self.relapses };
            return below(told);
        }
        told
    }

    /// The stretch that the demand needs if it is as low as it can be.
    fn needed_to_rise(&self) -> u32 {
        let told = self.told.iter().min().copied().unwrap_or(UNSTRETCHED);
        let overlaps = self.fell && self.unchanged_for < self.limits.heard_by_all_seconds as u64;
        let percent = if overlaps { OVERLAP_PERCENT } else { 100 };
        let rate = self.limits.calls_per_second * percent / 100;
        self.needed(self.mean_calls(RISING_SECONDS), told, rate)
    }

    /// The stretch that the demand needs if it is as high as it can be.
    fn needed_to_fall(&self) -> u32 {
        let told = self.told.iter().max().copied().unwrap_or(UNSTRETCHED);
        let rate = self.limits.calls_per_second * HEADROOM_PERCENT / 100;
        self.needed(self.mean_calls(FALLING_SECONDS), told, rate)
    }

    /// What those who do as they are told need to fit into what the others leave them.
    fn needed(&self, calls: u64, told: u32, rate: u64) -> u32 {
        let room = rate.saturating_sub(self.unmoved).max(rate / ROOM_PARTS);
        needed(calls.saturating_sub(self.unmoved), told, room)
    }

    /// Calls per second while everybody came once, or since this node leads.
    fn calls_of_a_round(&self) -> u64 {
        self.calls.iter().sum::<u64>() / (self.calls.len() as u64).max(1)
    }

    fn mean_calls(&self, seconds: usize) -> u64 {
        let recent = self.calls.iter().rev().take(seconds);
        recent.sum::<u64>() / seconds as u64
    }
}

/// Keeps the last `count`.
fn push<T>(kept: &mut VecDeque<T>, value: T, count: usize) {
    kept.push_back(value);
    while kept.len() > count {
        kept.pop_front();
    }
}

/// The smallest stretch under which so many `calls`, from clients that were told `told`, become no
/// more than `rate`; the largest one if none does.
fn needed(calls: u64, told: u32, rate: u64) -> u32 {
    let demand = u128::from(calls) * u128::from(told);
    let fits = |stretch: &&u32| demand <= u128::from(rate) * u128::from(**stretch);
    STRETCHES.iter().find(fits).copied().unwrap_or(STRETCHES[STRETCHES.len() - 1])
}

/// The next larger stretch.
fn above(told: u32) -> u32 {
    STRETCHES.iter().find(|stretch| **stretch > told).copied().unwrap_or(told)
}

/// The next smaller stretch.
fn below(told: u32) -> u32 {
    STRETCHES.iter().rev().find(|stretch| **stretch < told).copied().unwrap_or(told)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 1_000;
    const LIMITS: PacingLimits =
        PacingLimits { calls_per_second: RATE, calm_seconds: 60, heard_by_all_seconds: 45 };

    /// Parts of a second in which the clients of the model beat.
    const PARTS: u64 = 10;

    /// A great many clients that all want to beat as often, and do as they were told with their last
    /// answer. Times are in parts of a second.
    struct Fleet {
        /// How often each wants to beat.
        every: u64,
        /// How many beat at a time to come, by what they were told last: so many that any part of them
        /// is of many, too.
        due: BTreeMap<(u64, u32), f64>,
    }

    impl Fleet {
        fn new(per_second: u64, every_seconds: u64) -> Self {
            let every = every_seconds * PARTS;
            let each = per_second as f64 / PARTS as f64;
            Self { every, due: (0..every).map(|at| ((at, UNSTRETCHED), each)).collect() }
        }

        /// How many beat in this second, under this stretch.
        fn beat(&mut self, second: u64, told: u32) -> u64 {
            let mut calls = 0.0;
            while let Some(first) = self.due.first_entry()
                && first.key().0 < (second + 1) * PARTS
            {
                let ((now, before), count) = first.remove_entry();
                calls += count;
                let pauses = self.pauses(before, told);
                for pause in &pauses {
                    let at = now + (*pause).max(1);
                    *self.due.entry((at, told)).or_default() += count / pauses.len() as f64;
                }
            }
            calls.round() as u64
        }

        /// As clients wait: those who are told to come more often begin anew, each at another time;
        /// those who are told to come more seldom do not all leave out the same turn, and none is
        /// exact: each is up to a tenth sooner or later.
        fn pauses(&self, before: u32, told: u32) -> Vec<u64> {
            let stretched = self.every * u64::from(told) / 100;
            let usual = self.every * u64::from(before) / 100;
            let part = |whole: u64, percent: u64| (whole * percent + 50) / 100;
            if told < before {
                return (10..=100).step_by(5).map(|percent| part(stretched, percent)).collect();
            }
            let turns = 1..=stretched.div_ceil(usual);
            let turns = turns.map(|turn: u64| (usual * turn).min(stretched));
            turns.flat_map(|pause| [90, 95, 100, 105, 110].map(|p| part(pause, p))).collect()
        }
    }

    /// Runs for so many seconds; returns what was told in each of them.
    fn run(
        pacing: &mut Pacing,
        seconds: std::ops::Range<u64>,
        mut load: impl FnMut(u64, u32) -> Load,
    ) -> Vec<u32> {
        let mut told = pacing.told.back().copied().unwrap_or(UNSTRETCHED);
        seconds
            .map(|now| {
                told = pacing.second(load(now, told), told);
                told
            })
            .collect()
    }

    fn calls(calls: u64) -> Load {
        Load { calls, late: 0 }
    }

    #[test]
    fn too_many_calls_lengthen_within_seconds_and_by_what_is_needed() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let told = run(&mut pacing, 0..4, |_, _| calls(RATE * 5 / 2));
        assert_eq!(told.last(), Some(&300), "{told:?}");
    }

    #[test]
    fn no_more_calls_than_the_cluster_is_set_up_for_never_lengthen() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let told = run(&mut pacing, 0..600, |_, _| calls(RATE));
        assert!(told.iter().all(|told| *told == UNSTRETCHED), "{told:?}");
    }

    #[test]
    fn a_few_calls_too_many_from_clients_that_do_not_listen_are_tried_once() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let told = run(&mut pacing, 0..3_600, |_, _| calls(RATE * 105 / 100));
        let mut steps = told;
        steps.dedup();
        assert_eq!(steps, [UNSTRETCHED, 150, UNSTRETCHED]);
    }

    #[test]
    fn who_listens_is_still_slowed_down_after_a_step_in_vain() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        run(&mut pacing, 0..3_600, |_, _| calls(RATE * 105 / 100));
        let grown = |_, told| calls(RATE * 105 / 100 + RATE * 2 * 100 / u64::from(told));
        let told = run(&mut pacing, 3_600..7_200, grown);
        assert!(*told.last().expect("some") >= 400, "{told:?}");
    }

    #[test]
    fn a_single_second_of_many_calls_is_no_reason() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let peak = |now, _| calls(if now == 5 { RATE * 2 } else { RATE / 2 });
        let told = run(&mut pacing, 0..60, peak);
        assert!(told.iter().all(|told| *told == UNSTRETCHED), "{told:?}");
    }

    #[test]
    fn heartbeats_that_wait_lengthen_step_by_step_and_each_step_gets_its_time() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let late = |_, _| Load { calls: RATE / 2, late: RATE / 10 };
        let told = run(&mut pacing, 0..12, late);
        assert_eq!(told[0], UNSTRETCHED, "one second may be an election's");
        assert_eq!(told[1], 150);
        assert_eq!(told[10], 150, "the step has had no time to help yet");
        assert!(run(&mut pacing, 12..14, late).contains(&200));
    }

    #[test]
    fn heartbeats_that_wait_without_load_are_not_the_clients_to_help() {
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let told = run(&mut pacing, 0..60, |_, _| Load { calls: RATE / 100, late: RATE / 100 });
        assert!(told.iter().all(|told| *told == UNSTRETCHED), "{told:?}");
    }

    #[test]
    fn without_load_it_comes_back_step_by_step_after_a_time_of_calm_each() {
        let mut pacing = Pacing::new(LIMITS, 800);
        let told = run(&mut pacing, 0..LIMITS.calm_seconds - 1, |_, _| calls(0));
        assert!(told.iter().all(|told| *told == 800), "{told:?}");
        let steps = STRETCHES.len() as u64 - 1;
        let told = run(&mut pacing, 59..LIMITS.calm_seconds * steps, |_, _| calls(0));
        assert_eq!(told.last(), Some(&UNSTRETCHED), "{told:?}");
        let mut seen = told;
        seen.dedup();
        assert!(seen.iter().rev().eq(&STRETCHES[..STRETCHES.len() - 1]), "{seen:?}");
    }

    #[test]
    fn a_stretch_that_is_needed_again_each_time_it_falls_falls_more_and_more_seldom() {
        // The machine serves less than what it was set up for: it says so by being late.
        let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
        let late_at_full_rate = |_, told| match told {
            UNSTRETCHED => Load { calls: RATE * 7 / 10, late: RATE / 10 },
            _ => calls(RATE * 7 / 20),
        };
        let told = run(&mut pacing, 0..7_200, late_at_full_rate);
        let falls = told.windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((3..=13).contains(&falls), "{falls} falls in two hours");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Whatever the clients' intervals: it settles at the smallest stretch that does, or one step
        /// of hysteresis above, and stays there.
        #[test]
        fn constant_demand_comes_to_rest(
            every in 1..=40u64,
            percent_of_rate in 1..=700u64,
            begin in 0..STRETCHES.len(),
        ) {
            let mut fleet = Fleet::new(RATE * percent_of_rate / 100, every);
            let limits = PacingLimits { heard_by_all_seconds: 400, calm_seconds: 450, ..LIMITS };
            let mut pacing = Pacing::new(limits, STRETCHES[begin]);
            let told = run(&mut pacing, 0..12_000, |now, told| calls(fleet.beat(now, told)));
            let (_, rest) = told.split_at(9_000);
            prop_assert!(rest.iter().all(|told| *told == rest[0]), "it swings: {:?}", rest);
            let smallest = needed(percent_of_rate, UNSTRETCHED, 100);
            prop_assert!(rest[0] >= smallest, "{} does not do", rest[0]);
            if begin == 0 {
                let most = *told.iter().max().expect("some");
                prop_assert!(most <= above(smallest), "{} for {}", most, smallest);
            }
        }

        /// Sentinel's transports alone: what does not get less is no reason to keep anybody waiting.
        #[test]
        fn clients_that_do_not_listen_lengthen_nobodys_ttl_for_long(
            percent_of_rate in 101..=2_000u64,
        ) {
            let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
            let steady = |_, _| calls(RATE * percent_of_rate / 100);
            let told = run(&mut pacing, 0..900, steady);
            prop_assert_eq!(told.last(), Some(&UNSTRETCHED));
            let told = run(&mut pacing, 900..7_200, steady);
            prop_assert!(told.iter().all(|told| *told == UNSTRETCHED), "{:?}", told);
        }

        /// Beside clients that do not listen, those who do are slowed down as far as that helps, and it
        /// comes to rest.
        #[test]
        fn clients_that_listen_make_room_beside_some_that_do_not(
            every in 1..=40u64,
            percent_that_listen in 1..=300u64,
            percent_that_do_not in 1..=150u64,
        ) {
            let mut fleet = Fleet::new(RATE * percent_that_listen / 100, every);
            let others = RATE * percent_that_do_not / 100;
            let limits = PacingLimits { heard_by_all_seconds: 400, calm_seconds: 450, ..LIMITS };
            let mut pacing = Pacing::new(limits, UNSTRETCHED);
            let mut came = 0;
            let told = run(&mut pacing, 0..24_000, |now, told| {
                came = fleet.beat(now, told) + others;
                calls(came)
            });
            let (_, rest) = told.split_at(20_000);
            prop_assert!(rest.iter().all(|told| *told == rest[0]), "it swings: {:?}", rest);
            let most = RATE.max(others + RATE / ROOM_PARTS) + others / (IN_VAIN_PARTS - 1);
            prop_assert!(came <= most * 11 / 10, "{} calls at {}", came, rest[0]);
        }

        /// Whatever comes in, what is wanted is one of the stretches, and less than the rate with
        /// nobody late asks for none.
        #[test]
        fn nothing_is_lengthened_without_load(
            seconds in proptest::collection::vec((0..=RATE, 0..=RATE / 100), 1..300),
        ) {
            let mut pacing = Pacing::new(LIMITS, UNSTRETCHED);
            for (came, late) in seconds {
                let load = Load { calls: came, late: late.min(came / LATE_PARTS) };
                prop_assert_eq!(pacing.second(load, UNSTRETCHED), UNSTRETCHED);
            }
        }
    }
}
