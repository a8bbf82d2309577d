//! The number of workers: up at once, down late, never back and forth.

use proptest::collection::vec;
use proptest::prelude::*;
use roster_storage::shards::scaling::{ScalingPolicy, ScalingState, due_ms, next, reason};

const COOLDOWN_MS: u64 = 300_000;

fn policy() -> ScalingPolicy {
    ScalingPolicy { shards_per_worker: 100, min: 2, max: 20, cooldown_ms: COOLDOWN_MS }
}

fn some_policy() -> impl Strategy<Value = ScalingPolicy> {
    (1..50_u32, 0..10_u32, 0..40_u32, 0..100_000_u64).prop_map(|(per, min, more, cooldown_ms)| {
        ScalingPolicy { shards_per_worker: per, min, max: min + more, cooldown_ms }
    })
}

/// How much later, and how many shards then.
fn changes() -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec((0..60_000_u64, 0..2_000_u64), 1..60)
}

/// What the registry does: looks at each change, and in between whenever it is due.
fn follow(
    policy: &ScalingPolicy,
    changes: &[(u64, u64)],
    mut seen: impl FnMut(u64, u64, Option<&ScalingState>, &ScalingState) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let (mut now_ms, mut shards, mut state) = (0, 0, None);
    for (later_ms, changed) in changes {
        let change_ms = now_ms + later_ms;
        while let Some(due) =
            state.as_ref().and_then(|s| due_ms(policy, s)).filter(|d| *d <= change_ms)
        {
            now_ms = due;
            let after = next(policy, state.as_ref(), shards, now_ms);
            seen(now_ms, shards, state.as_ref(), &after)?;
            state = Some(after);
        }
        (now_ms, shards) = (change_ms, *changed);
        let after = next(policy, state.as_ref(), shards, now_ms);
        seen(now_ms, shards, state.as_ref(), &after)?;
        state = Some(after);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_number_is_within_its_bounds_and_enough(policy in some_policy(), changes in changes()) {
        follow(&policy, &changes, |_, shards, _, state| {
            prop_assert!((policy.min..=policy.max).contains(&state.desired));
            prop_assert!(state.desired >= policy.need(shards));
            Ok(())
        })?;
    }

    #[test]
    fn it_goes_down_only_after_a_whole_cool_down(policy in some_policy(), changes in changes()) {
        let mut enough_since = 0;
        follow(&policy, &changes, |now_ms, shards, before, after| {
            let Some(before) = before else { return Ok(()) };
            // What was so before this look lasted until now.
            let fewer = policy.need(shards + shards / 10 + u64::from(shards % 10 > 0));
            if after.desired < before.desired {
                prop_assert!(now_ms - enough_since >= policy.cooldown_ms);
                enough_since = now_ms;
            } else if after.desired > before.desired || fewer >= after.desired {
                enough_since = now_ms;
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_stays_within_the_headroom_changes_nothing(
        policy in some_policy(),
        base in 1..2_000_u64,
        loads in vec((0..600_000_u64, 0..=1_000_u64), 1..50),
    ) {
        let mut state = next(&policy, None, base, 0);
        let desired = state.desired;
        // Between the fewest shards that still need all of them with the headroom, and the base.
        let fewest = (base * 10).div_ceil(11);
        let mut now_ms = 0;
        for (later_ms, part) in loads {
            now_ms += later_ms;
            let shards = fewest + (base - fewest) * part / 1_000;
            state = next(&policy, Some(&state), shards, now_ms);
            prop_assert_eq!(state.desired, desired, "{} of {} shards", shards, base);
        }
    }

    #[test]
    fn looking_more_often_makes_no_difference(
        policy in some_policy(),
        changes in changes(),
        peek in 1..20_000_u64,
    ) {
        follow(&policy, &changes, |now_ms, shards, _, after| {
            let soon = now_ms + peek;
            let due = due_ms(&policy, after).unwrap_or(u64::MAX);
            let looked = if soon < due { next(&policy, Some(after), shards, soon) } else { *after };
            prop_assert_eq!(looked, *after);
            Ok(())
        })?;
    }

    #[test]
    fn any_number_has_a_reason(policy: (u32, u32, u32, u64), shards: u64, times: [u64; 3]) {
        let (shards_per_worker, min, max, cooldown_ms) = policy;
        let policy = ScalingPolicy { shards_per_worker, min, max, cooldown_ms };
        let state = next(&policy, None, shards, times[0]);
        let state = next(&policy, Some(&state), shards / 2, times[1]);
        due_ms(&policy, &state);
        prop_assert!(!reason(&policy, &state, shards / 2, times[2]).is_empty());
    }
}

#[test]
fn more_shards_call_for_more_workers_at_once() {
    let state = next(&policy(), None, 1_000, 0);
    assert_eq!(state.desired, 10);
    let state = next(&policy(), Some(&state), 1_001, 5);
    assert_eq!((state.desired, state.changed_at_ms), (11, 5));
    assert_eq!(due_ms(&policy(), &state), None);
}

#[test]
fn fewer_shards_wait_for_the_cool_down_and_then_keep_some_in_hand() {
    let state = next(&policy(), None, 1_400, 0);
    let state = next(&policy(), Some(&state), 1_100, 1_000);
    assert_eq!(state.desired, 14);
    assert_eq!(due_ms(&policy(), &state), Some(1_000 + COOLDOWN_MS));
    let early = next(&policy(), Some(&state), 1_100, COOLDOWN_MS + 999);
    assert_eq!(early, state);
    let state = next(&policy(), Some(&state), 1_100, COOLDOWN_MS + 1_000);
    assert_eq!(state.desired, 13, "1100 shards and a tenth more");
    assert_eq!(due_ms(&policy(), &state), None);
}

#[test]
fn a_peak_during_the_cool_down_is_remembered() {
    let state = next(&policy(), None, 1_800, 0);
    let state = next(&policy(), Some(&state), 500, 10);
    let state = next(&policy(), Some(&state), 1_500, 20);
    let state = next(&policy(), Some(&state), 500, 30);
    let state = next(&policy(), Some(&state), 500, 10 + COOLDOWN_MS);
    assert_eq!(state.desired, 17, "1500 shards and a tenth more");
    assert_eq!(due_ms(&policy(), &state), Some(10 + 2 * COOLDOWN_MS), "then on to 6");
}

#[test]
fn a_need_that_comes_back_ends_the_wait() {
    let state = next(&policy(), None, 1_400, 0);
    let waiting = next(&policy(), Some(&state), 1_000, 10);
    let back = next(&policy(), Some(&waiting), 1_400, 20);
    assert_eq!(back, state);
}

#[test]
fn a_policy_moves_its_bounds_at_once() {
    let state = next(&policy(), None, 1_400, 0);
    let smaller = ScalingPolicy { max: 5, ..policy() };
    assert_eq!(next(&smaller, Some(&state), 1_400, 10).desired, 5);
    let larger = ScalingPolicy { min: 16, ..policy() };
    assert_eq!(next(&larger, Some(&state), 1_400, 10).desired, 16);
}

#[test]
fn reasons_are_in_plain_words() {
    let policy = policy();
    let told = |first: u64, shards: u64, now_ms: u64| {
        let state = next(&policy, Some(&next(&policy, None, first, 0)), shards, 0);
        reason(&policy, &state, shards, now_ms)
    };
    assert_eq!(told(950, 950, 0), "950 shards at 100 per worker need 10; as many are wanted");
    assert_eq!(
        told(1_400, 1_150, 60_000),
        "1150 shards at 100 per worker need 12; going from 14 to 13 waits another 240 s of the 300 s cool-down"
    );
    assert_eq!(
        told(1_400, 1_299, 0),
        "1299 shards at 100 per worker need 13; 14 stay, since 10 % more shards would need them"
    );
    assert_eq!(told(1, 1, 0), "1 shard at 100 per worker need 1; 2 is the minimum");
    assert_eq!(told(2_900, 2_900, 0), "2900 shards at 100 per worker need 29; 20 is the maximum");
}
