//! How many workers a shard set should have. Up at once, down only after the need was lower for a
//! whole cool-down, with some shards in hand: a number that goes back and forth costs moves each
//! time.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// Going down, each worker is counted as if there were a tenth more shards, so that a few new ones
/// do not call the worker back.
const HEADROOM_PERCENT: u64 = 10;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingPolicy {
    /// At least 1; 0 is taken as 1.
    pub shards_per_worker: u32,
    /// Never fewer workers, also without shards.
    pub min: u32,
    /// Never more workers; if it is below `min`, `min` counts.
    pub max: u32,
    /// How long fewer workers must be enough, without interruption, before there are fewer.
    pub cooldown_ms: u64,
}

/// How many workers there should be, and since when fewer would be enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalingState {
    pub desired: u32,
    /// Since when fewer than `desired` have been enough, headroom counted. `None`: they are not.
    pub lower_since_ms: Option<u64>,
    /// The most that were needed since `lower_since_ms`, headroom counted: what `desired` becomes
    /// when the cool-down ends. As `desired` while there is no such time.
    pub lower_need: u32,
    /// When `desired` last changed.
    pub changed_at_ms: u64,
}

impl ScalingPolicy {
    /// The workers that these shards need, within the bounds.
    pub fn need(&self, shards: u64) -> u32 {
        self.clamped(self.unbounded(shards))
    }

    fn unbounded(&self, shards: u64) -> u64 {
        shards.div_ceil(u64::from(self.shards_per_worker.max(1)))
    }

    /// The workers that they need with the headroom.
    fn need_with_headroom(&self, shards: u64) -> u32 {
        let per_worker = u64::from(self.shards_per_worker.max(1));
        self.clamped(shards.saturating_mul(100 + HEADROOM_PERCENT).div_ceil(per_worker * 100))
    }

    fn clamped(&self, workers: u64) -> u32 {
        u32::try_from(workers).unwrap_or(u32::MAX).min(self.max).max(self.min)
    }
}

/// The state that follows `state` with this many shards at `now_ms`. `None`: the policy is new.
/// To be called at every change of the number of shards or of the policy, and when it is due
/// ([`due_ms`]). Calls at other times make no difference.
pub fn next(
    policy: &ScalingPolicy,
    state: Option<&ScalingState>,
    shards: u64,
    now_ms: u64,
) -> ScalingState {
    let need = policy.need(shards);
    let state = state.copied().unwrap_or(steady(need, now_ms));
    // More are needed, or the policy moved its bounds: at once.
    let desired = policy.clamped(u64::from(state.desired)).max(need);
    let state = if desired == state.desired { state } else { steady(desired, now_ms) };
    lowered(policy, state, shards, now_ms)
}

/// A state in which nothing says that fewer are enough.
fn steady(desired: u32, changed_at_ms: u64) -> ScalingState {
    ScalingState { desired, lower_since_ms: None, lower_need: desired, changed_at_ms }
}

/// Waits while fewer are enough, and goes down at the end of the cool-down.
fn lowered(policy: &ScalingPolicy, state: ScalingState, shards: u64, now_ms: u64) -> ScalingState {
    let need = policy.need_with_headroom(shards);
    if need >= state.desired {
        return ScalingState { lower_since_ms: None, lower_need: state.desired, ..state };
    }
    let (since_ms, lower_need) = match state.lower_since_ms {
        Some(since_ms) => (since_ms, state.lower_need.max(need)),
        None => (now_ms, need),
    };
    let waiting = ScalingState { lower_since_ms: Some(since_ms), lower_need, ..state };
    if now_ms.saturating_sub(since_ms) < policy.cooldown_ms {
        return waiting;
    }
    // Still fewer may be enough by now; that waits for a cool-down of its own.
    lowered(policy, steady(lower_need, now_ms), shards, now_ms)
}

/// When to look again though nothing changes. `None`: only a change can change the state.
pub fn due_ms(policy: &ScalingPolicy, state: &ScalingState) -> Option<u64> {
    state.lower_since_ms.map(|since_ms| since_ms.saturating_add(policy.cooldown_ms))
}

/// Why the state is what it is, for people.
pub fn reason(policy: &ScalingPolicy, state: &ScalingState, shards: u64, now_ms: u64) -> String {
    format!(
        "{} at {} per worker need {}; {}",
        counted(shards, "shard"),
        policy.shards_per_worker.max(1),
        policy.unbounded(shards),
        what_follows(policy, state, shards, now_ms),
    )
}

fn what_follows(policy: &ScalingPolicy, state: &ScalingState, shards: u64, now_ms: u64) -> String {
    let desired = state.desired;
    if let Some(since_ms) = state.lower_since_ms {
        let waited_ms = now_ms.saturating_sub(since_ms).min(policy.cooldown_ms);
        return format!(
            "going from {desired} to {} waits another {} s of the {} s cool-down",
            state.lower_need,
            (policy.cooldown_ms - waited_ms).div_ceil(1000),
            policy.cooldown_ms.div_ceil(1000),
        );
    }
    match policy.unbounded(shards).cmp(&u64::from(desired)) {
        Ordering::Greater => format!("{desired} is the maximum"),
        Ordering::Equal => "as many are wanted".into(),
        Ordering::Less if desired == policy.min => format!("{desired} is the minimum"),
        Ordering::Less => {
            format!("{desired} stay, since {HEADROOM_PERCENT} % more shards would need them")
        }
    }
}

fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
