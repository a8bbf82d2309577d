"""When the next heartbeat is due, for many clients at once."""

from __future__ import annotations

from typing import List

import pytest

from roster_client.rhythm import EVERY_SECONDS_MAX, EVERY_SECONDS_MIN, Rhythm

EVERY = 5.0
SAFE = 12.0
SOON = 0.002
CHANCES = [i / 1_000 + 0.000_4 for i in range(1_000)]


def pauses(rhythm: Rhythm, safe_for: float = SAFE) -> List[float]:
    return [rhythm.pause(safe_for, chance) for chance in CHANCES]


def going(every: float = EVERY) -> Rhythm:
    rhythm = Rhythm(every)
    rhythm.answered(every, SOON)
    return rhythm


def are_spread(pauses: List[float], span: float) -> bool:
    tenths = [0] * 10
    for pause in pauses:
        tenths[min(int(pause / span * 10), 9)] += 1
    return all(80 < count < 140 for count in tenths[1:])


def test_those_who_begin_together_are_spread_over_the_whole_time_at_once() -> None:
    assert are_spread(pauses(Rhythm(EVERY)), EVERY)


def test_later_ones_come_about_as_often_as_asked_for() -> None:
    assert all(EVERY * 0.9 <= pause <= EVERY * 1.1 for pause in pauses(going()))
    assert going().pause(SAFE, 0.000_9) > going().pause(SAFE, 0.000_1)


def test_what_an_answer_asks_for_counts_from_then_on() -> None:
    rhythm = going()
    rhythm.answered(EVERY * 3, SOON)
    rhythm.answered(EVERY * 3, SOON)
    assert all(pause >= EVERY * 2.7 for pause in pauses(rhythm))
    rhythm.answered(EVERY, SOON)
    assert are_spread(pauses(rhythm), EVERY)
    rhythm.answered(EVERY, SOON)
    assert all(pause <= EVERY * 1.1 for pause in pauses(rhythm))
    rhythm.answered(0, SOON)
    assert all(pause >= EVERY_SECONDS_MIN for pause in pauses(rhythm))


def test_a_fleet_that_is_to_come_half_as_often_does_not_leave_out_the_same_turn() -> None:
    rhythm = going()
    rhythm.answered(EVERY * 2, SOON)
    early = sum(pause < EVERY * 1.5 for pause in pauses(rhythm))
    assert 450 < early < 550


def test_failures_are_followed_more_and_more_seldom_and_by_each_at_another_time() -> None:
    rhythm = going()
    longest = []
    for _ in range(6):
        rhythm.failed()
        longest.append(max(pauses(rhythm, 0)))
    assert longest[0] <= EVERY / 10
    assert longest == sorted(longest)
    assert EVERY * 0.99 < longest[-1] <= EVERY
    assert are_spread(pauses(rhythm, 0), EVERY)


@pytest.mark.parametrize("refused", [True, False])
def test_those_who_lost_their_cluster_together_are_spread_once_it_answers(refused: bool) -> None:
    rhythm = going()
    if refused:
        rhythm.failed()
    # Who waited all the time is answered at the same moment as the others who did.
    rhythm.answered(EVERY, SOON if refused else 2.0)
    assert are_spread(pauses(rhythm), EVERY)


def test_what_a_node_asks_for_is_kept_and_many_who_were_asked_the_same_come_apart() -> None:
    rhythm = going()
    rhythm.failed(2.0)
    assert min(pauses(rhythm)) >= 2.0
    assert max(pauses(rhythm)) - min(pauses(rhythm)) > 0.4


def test_no_node_can_ask_for_so_much_that_the_lease_is_lost_by_it() -> None:
    rhythm = going()
    rhythm.failed(1e9)
    assert max(pauses(rhythm)) <= SAFE / 2


def test_after_an_outage_longer_than_the_lease_all_are_back_within_what_a_leader_gives() -> None:
    ttl = EVERY * 3
    rhythm = going()
    for _ in range(20):
        rhythm.failed(ttl * 2)
        assert max(pauses(rhythm, 0)) <= ttl / 2
        assert max(pauses(rhythm, 0)) - min(pauses(rhythm, 0)) > ttl / 5


def test_whatever_a_proxy_asks_for_the_next_one_is_sent_within_days() -> None:
    rhythm = going(1e300)
    assert max(pauses(rhythm)) <= EVERY_SECONDS_MAX * 2
    rhythm.failed(1e300)
    assert max(pauses(rhythm, 0)) <= 60 * 60
