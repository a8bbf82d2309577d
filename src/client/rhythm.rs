//! When the next heartbeat is due. Pure: chance and times are arguments.
//!
//! A fleet that starts, or loses its cluster, or is told another pace, must not beat as one from then on.
//! So after a beginning, after failures, and where heartbeats are wanted more often than before, the
//! first pause is a random part of the usual one, which spreads those who began together evenly. Later
//! pauses vary by a tenth, so that what chance or a stall brings together drifts apart.

use std::time::Duration;

use super::pauses::RETRY_AFTER_MAX;

/// Heartbeats are not sent more often than this, whatever a node says.
const EVERY_MIN: Duration = Duration::from_millis(10);

/// Nor more seldom than this, which is the longest TTL there is: times are added to the clock's.
const EVERY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A pause is at most so much shorter or longer than asked for.
const JITTER: f64 = 0.1;

/// The first pause is at least this part of the usual one.
const FIRST_MIN: f64 = 0.1;

/// A heartbeat that nobody answered is followed by the next one within this part of the usual time...
const FIRST_RETRY_PARTS: u32 = 10;

/// ...and, if that is longer, within this: an outage that ends is noticed soon, whatever the TTL. Each
/// further one may take twice as long, up to the usual time.
const FIRST_RETRY_MAX: Duration = Duration::from_secs(1);

/// Of the time for which the lease is safe yet, no pause takes more than this part after a failure,
/// whatever a node asks for: one more try is made while it counts...
const SAFE_PARTS: u32 = 2;

/// ...nor, once that time is over, more than so many halves of the usual time: heartbeats are wanted
/// three times in a TTL, so this is half of it. A new leader gives every lease its TTL, so who comes
/// that soon is heard while that counts.
const FAILING_HALVES_MAX: u32 = 3;

/// An answer that took longer than this part of the usual time came to many at one moment, as at the
/// end of an outage.
const LATE_PARTS: u32 = 10;

/// The rhythm of one kept registration or session: for who sends heartbeats by other means than
/// [`KeepAlive`](super::KeepAlive) and [`KeptSession`](super::KeptSession), which both keep to it.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    every: Duration,
    /// How often before the last answer said otherwise.
    before: Duration,
    /// Nobody who began at the same moment has gone another way yet.
    fresh: bool,
    failures: u32,
    /// What the last refusal asked for.
    retry_after: Option<Duration>,
}

impl Rhythm {
    /// Begins with the answer to a registration.
    pub fn new(every: Duration) -> Self {
        let every = bounded(every);
        Self { every, before: every, fresh: true, failures: 0, retry_after: None }
    }

    /// How often nodes want to hear of it.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// A heartbeat was answered after it `took` so long, and the next ones are wanted so often.
    pub fn answered(&mut self, every: Duration, took: Duration) {
        let sooner = bounded(every) < self.every;
        let fresh = sooner || self.failures > 0 || took > self.every / LATE_PARTS;
        *self = Self { before: self.every, fresh, ..Self::new(every) };
    }

    /// Nobody acknowledged it; the last node may have said when to come back.
    pub fn failed(&mut self, retry_after: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        self.retry_after = retry_after;
    }

    /// Whether nobody acknowledged the last one.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// How long to wait before the next one. The lease is safe for so long yet; `chance` is evenly
    /// spread over 0 to 1.
    pub fn pause(&self, safe_for: Duration, chance: f64) -> Duration {
        let pause = match self.failures {
            0 if self.fresh => self.every.mul_f64(FIRST_MIN + chance * (1.0 - FIRST_MIN)),
            0 => self.usual(chance),
            failures => self.after(failures, safe_for, chance),
        };
        pause.max(EVERY_MIN)
    }

    fn usual(&self, chance: f64) -> Duration {
        let every = self.turn(chance);
        // What lies behind the digits that chose the turn.
        let drift = (chance * 1_000.0).fract();
        every.mul_f64(1.0 - JITTER + 2.0 * JITTER * drift)
    }

    /// Those who are told to come half as often must not all leave out the same turn: each waits for
    /// another number of the turns that it used to take.
    fn turn(&self, chance: f64) -> Duration {
        let turns = (self.every.as_secs_f64() / self.before.as_secs_f64()).ceil().max(1.0);
        let turn = (chance * turns).floor() + 1.0;
        self.before.mul_f64(turn).min(self.every)
    }

    /// A random part of a limit that doubles. What a node asked for comes first, and a part of the
    /// limit on top, since it asks many for the same.
    fn after(&self, failures: u32, safe_for: Duration, chance: f64) -> Duration {
        let first = (self.every / FIRST_RETRY_PARTS).min(FIRST_RETRY_MAX);
        let limit = first.saturating_mul(1 << (failures - 1).min(16)).min(self.every);
        let asked = self.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let pause = asked + limit.mul_f64(chance);
        let most = self.every / 2 * FAILING_HALVES_MAX;
        match safe_for.is_zero() {
            true if pause > most => spread_below(most, chance),
            true => pause,
            false => pause.min(safe_for / SAFE_PARTS),
        }
    }
}

fn bounded(every: Duration) -> Duration {
    every.clamp(EVERY_MIN, EVERY_MAX)
}

/// Many who may not wait for as long as they were asked to do not come back as one either.
fn spread_below(most: Duration, chance: f64) -> Duration {
    most.mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);
    const SAFE: Duration = Duration::from_secs(12);
    const SOON: Duration = Duration::from_millis(2);

    fn chances() -> impl Iterator<Item = f64> {
        (0..1_000).map(|i| f64::from(i) / 1_000.0 + 0.000_4)
    }

    fn pauses(rhythm: Rhythm, safe_for: Duration) -> Vec<Duration> {
        chances().map(|chance| rhythm.pause(safe_for, chance)).collect()
    }

    fn going(every: Duration) -> Rhythm {
        let mut rhythm = Rhythm::new(every);
        rhythm.answered(every, SOON);
        rhythm
    }

    /// How many of a thousand lie in each tenth of `span`.
    fn tenths(pauses: &[Duration], span: Duration) -> [usize; 10] {
        pauses.iter().fold([0; 10], |mut tenths, pause| {
            let at = (pause.as_secs_f64() / span.as_secs_f64() * 10.0) as usize;
            tenths[at.min(9)] += 1;
            tenths
        })
    }

    #[test]
    fn those_who_begin_together_are_spread_over_the_whole_time_at_once() {
        let tenths = tenths(&pauses(Rhythm::new(EVERY), SAFE), EVERY);
        assert!(tenths[1..].iter().all(|count| (80..140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn later_ones_come_about_as_often_as_asked_for() {
        let mut rhythm = going(EVERY);
        for pause in pauses(rhythm, SAFE) {
            assert!((EVERY.mul_f64(0.9)..=EVERY.mul_f64(1.1)).contains(&pause), "{pause:?}");
        }
        rhythm.answered(EVERY, SOON);
        let spread = |at: f64| rhythm.pause(SAFE, at);
        assert!(spread(0.000_9) > spread(0.000_1), "they never drift apart");
    }

    #[test]
    fn what_an_answer_asks_for_counts_from_then_on() {
        let mut rhythm = going(EVERY);
        rhythm.answered(EVERY * 3, SOON);
        rhythm.answered(EVERY * 3, SOON);
        assert!(pauses(rhythm, SAFE).iter().all(|pause| *pause >= EVERY.mul_f64(2.7)));
        rhythm.answered(EVERY, SOON);
        let tenths = tenths(&pauses(rhythm, SAFE), EVERY);
        assert!(tenths[1..].iter().all(|count| (80..140).contains(count)), "{tenths:?}");
        rhythm.answered(EVERY, SOON);
        assert!(pauses(rhythm, SAFE).iter().all(|pause| *pause <= EVERY.mul_f64(1.1)));
        rhythm.answered(Duration::ZERO, SOON);
        assert!(pauses(rhythm, SAFE).iter().all(|pause| *pause >= EVERY_MIN));
    }

    #[test]
    fn a_fleet_that_is_to_come_half_as_often_does_not_leave_out_the_same_turn() {
        let mut rhythm = going(EVERY);
        rhythm.answered(EVERY * 2, SOON);
        let (early, late): (Vec<_>, Vec<_>) =
            pauses(rhythm, SAFE).into_iter().partition(|pause| *pause < EVERY.mul_f64(1.5));
        assert!(early.len().abs_diff(late.len()) < 100, "{} and {}", early.len(), late.len());
    }

    #[test]
    fn failures_are_followed_sooner_at_first_and_then_more_and_more_seldom() {
        let mut rhythm = going(EVERY);
        let mut longest = Vec::new();
        for _ in 0..6 {
            rhythm.failed(None);
            longest.push(*pauses(rhythm, Duration::ZERO).iter().max().expect("some"));
        }
        assert!(longest[0] <= EVERY / 10, "{longest:?}");
        assert!(longest.windows(2).all(|pair| pair[0] <= pair[1]), "{longest:?}");
        assert!(longest[5] > EVERY.mul_f64(0.99) && longest[5] <= EVERY, "{longest:?}");
        let all = tenths(&pauses(rhythm, Duration::ZERO), EVERY);
        assert!(all.iter().all(|count| (80..=120).contains(count)), "not spread: {all:?}");
    }

    #[test]
    fn those_who_lost_their_cluster_together_are_spread_once_it_answers_again() {
        let mut rhythm = going(EVERY);
        rhythm.failed(None);
        rhythm.answered(EVERY, SOON);
        let after_a_refusal = tenths(&pauses(rhythm, SAFE), EVERY);
        // Who waited all the time is answered at the same moment as the others who did.
        let mut rhythm = going(EVERY);
        rhythm.answered(EVERY, Duration::from_secs(2));
        for tenths in [after_a_refusal, tenths(&pauses(rhythm, SAFE), EVERY)] {
            assert!(tenths[1..].iter().all(|count| (80..140).contains(count)), "{tenths:?}");
        }
    }

    #[test]
    fn what_a_node_asks_for_is_kept_and_many_who_were_asked_the_same_come_apart() {
        let mut rhythm = going(EVERY);
        rhythm.failed(Some(Duration::from_secs(2)));
        let pauses = pauses(rhythm, SAFE);
        let (soonest, latest) =
            (pauses.iter().min().expect("some"), pauses.iter().max().expect("some"));
        assert!(*soonest >= Duration::from_secs(2), "{soonest:?}");
        assert!(*latest - *soonest > Duration::from_millis(400), "{soonest:?} to {latest:?}");
    }

    #[test]
    fn no_node_can_ask_for_so_much_that_the_lease_is_lost_by_it() {
        let mut rhythm = going(EVERY);
        rhythm.failed(Some(Duration::MAX));
        assert!(pauses(rhythm, SAFE).iter().all(|pause| *pause <= SAFE / 2));
    }

    #[test]
    fn after_an_outage_that_outlasted_the_lease_all_are_back_within_what_a_new_leader_gives() {
        let ttl = EVERY * 3;
        let mut rhythm = going(EVERY);
        for _ in 0..20 {
            rhythm.failed(Some(ttl * 2));
            let pauses = pauses(rhythm, Duration::ZERO);
            assert!(pauses.iter().all(|pause| *pause <= ttl / 2), "{pauses:?}");
            let (soonest, latest) = (pauses.iter().min(), pauses.iter().max());
            let apart = latest.expect("some").abs_diff(*soonest.expect("some"));
            assert!(apart > ttl / 5, "they come back as one: {pauses:?}");
        }
    }

    #[test]
    fn whatever_a_proxy_asks_for_the_next_one_is_sent_within_days() {
        let mut rhythm = going(Duration::MAX);
        assert!(pauses(rhythm, SAFE).iter().all(|pause| *pause <= EVERY_MAX * 2));
        rhythm.failed(Some(Duration::MAX));
        let hour = Duration::from_secs(60 * 60);
        assert!(pauses(rhythm, Duration::ZERO).iter().all(|pause| *pause <= hour));
    }
}
