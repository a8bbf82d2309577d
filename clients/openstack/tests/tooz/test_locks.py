"""Locks on a real cluster."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, List

import pytest
import tooz
from tooz import coordination

from roster_client import Client, Outcome, Unavailable
from roster_openstack import waiting as waiting_for_locks

from ..cluster import needs_cluster, wait_for
from .coordinators import Coordinators, Requests, coordinators, fresh, requests

__all__ = ["coordinators", "requests"]

pytestmark = needs_cluster


def waiting(coordinators: Coordinators, lock: Any) -> int:
    return coordinators.client.get_lock(lock._latch).waiting


def test_a_released_token_never_holds_again_and_tokens_only_grow(
    coordinators: Coordinators,
) -> None:
    name = fresh("lock")
    one, two = coordinators().get_lock(name), coordinators().get_lock(name)
    tokens: List[Any] = []
    for lock in (one, two, one):
        assert lock.token is None and not lock.acquired
        with lock:
            tokens.append(lock.token)
            assert lock.acquired and lock.is_still_owner()
        assert not lock.is_still_owner()
    assert tokens == sorted(set(tokens))


def test_who_waits_longer_than_a_request_lasts_keeps_its_place_in_the_queue(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch, requests: Requests
) -> None:
    monkeypatch.setattr(waiting_for_locks, "PIECE_SECONDS", 10.0)
    monkeypatch.setattr(waiting_for_locks, "OVERLAP_SECONDS", 9.5)
    name = fresh("lock")
    held, first, second = (coordinators().get_lock(name) for _ in range(3))
    assert held.acquire()

    def asked() -> int:
        return sum(target.endswith("/acquire") for _, target in requests)

    with ThreadPoolExecutor(2) as pool:
        first_acquired = pool.submit(first.acquire)
        wait_for(lambda: waiting(coordinators, held) == 1, "the first one who waits")
        second_acquired = pool.submit(second.acquire)
        wait_for(lambda: waiting(coordinators, held) == 2, "the second one who waits")
        requests.clear()
        wait_for(lambda: asked() >= 4, "each to ask again, twice")
        assert waiting(coordinators, held) == 2
        assert held.release()
        assert first_acquired.result() is True
        assert first.is_still_owner() and not second_acquired.done()
        assert first.release()
        assert second_acquired.result() is True
    assert second.is_still_owner()


def test_who_waits_longer_than_all_requests_last_is_told_no_at_the_end(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch, requests: Requests
) -> None:
    monkeypatch.setattr(waiting_for_locks, "PIECE_SECONDS", 0.4)
    monkeypatch.setattr(waiting_for_locks, "OVERLAP_SECONDS", 0.2)
    name = fresh("lock")
    held, wanted = coordinators().get_lock(name), coordinators().get_lock(name)
    assert held.acquire()
    requests.clear()
    assert wanted.acquire(timeout=1) is False
    assert sum(target.endswith("/acquire") for _, target in requests) > 2
    wait_for(lambda: waiting(coordinators, held) == 0, "an empty queue")


def test_a_wait_for_seconds_ends_without_the_lock_and_without_a_place_in_the_queue(
    coordinators: Coordinators,
) -> None:
    name = fresh("lock")
    held, wanted = coordinators().get_lock(name), coordinators().get_lock(name)
    assert held.acquire()
    assert wanted.acquire(blocking=0.05) is False
    assert wanted.acquire(timeout=0.05) is False
    assert wanted.acquire(blocking=False) is False
    assert waiting(coordinators, held) == 0
    assert not wanted.acquired


def test_the_session_is_kept_while_a_lock_is_waited_for_though_no_heart_beats(
    coordinators: Coordinators, requests: Requests
) -> None:
    name = fresh("lock")
    holder, waiter = coordinators(), coordinators(timeout=3)
    held, wanted = holder.get_lock(name), waiter.get_lock(name)
    assert held.acquire()
    session = waiter.session().id
    beaten = f"/v1/sessions/{session}/heartbeat"
    with ThreadPoolExecutor(1) as pool:
        acquired = pool.submit(wanted.acquire)
        # They are more than a timeout apart.
        wait_for(lambda: [t for _, t in requests].count(beaten) >= 5, "five heartbeats")
        assert held.release()
        assert acquired.result() is True
    assert waiter.session().id == session


def test_two_threads_of_one_lock_object_release_each_their_own(coordinators: Coordinators) -> None:
    driver, name = coordinators(), fresh("lock")
    lock = driver.get_lock(name)
    with ThreadPoolExecutor(1) as pool:
        assert lock.acquire()
        acquired = pool.submit(lock.acquire)
        wait_for(lambda: waiting(coordinators, lock) == 1, "one who waits")
        assert driver.get_lock(name).break_()
        assert acquired.result() is True
        # What the other thread holds is not what this one had.
        assert lock.release() is False
        assert lock.is_still_owner()
        assert pool.submit(lock.release).result() is True
    assert not lock.acquired


def test_shared_holders_hold_together_and_keep_out_who_wants_it_alone(
    coordinators: Coordinators,
) -> None:
    name = fresh("lock")
    one, two, alone = (coordinators().get_lock(name) for _ in range(3))
    assert one.acquire(shared=True) and two.acquire(shared=True) and one.acquire(shared=True)
    assert not alone.acquire(blocking=False)
    assert [one.release() for _ in range(3)] == [True, True, False]
    assert two.is_still_owner()
    assert not alone.acquire(blocking=False)
    assert two.release()
    assert alone.acquire(blocking=False)


def test_a_lock_whose_session_was_lost_says_so_and_its_release_harms_nobody(
    coordinators: Coordinators,
) -> None:
    name = fresh("lock")
    driver, other = coordinators(), coordinators()
    lock, next_lock = driver.get_lock(name), other.get_lock(name)
    assert lock.acquire()
    coordinators.lose_session(driver)
    assert next_lock.acquire(blocking=False)
    driver.heartbeat()
    assert not lock.acquired and lock.token is None
    assert lock.release() is False
    assert lock.heartbeat() is False
    assert not lock.is_still_owner()
    assert next_lock.is_still_owner()
    assert next_lock.release()
    # And it can be acquired again on the next session.
    assert lock.acquire(blocking=False) and lock.heartbeat()


def test_who_waits_when_the_session_is_lost_waits_on_with_another_one(
    coordinators: Coordinators,
) -> None:
    name = fresh("lock")
    holder, waiter = coordinators(), coordinators()
    held, wanted = holder.get_lock(name), waiter.get_lock(name)
    assert held.acquire()
    with ThreadPoolExecutor(1) as pool:
        acquired = pool.submit(wanted.acquire)
        wait_for(lambda: waiting(coordinators, held) == 1, "one who waits")
        coordinators.lose_session(waiter)
        wait_for(lambda: waiting(coordinators, held) == 1, "one who waits again")
        assert held.release()
        assert acquired.result() is True
    assert wanted.is_still_owner()


def test_a_stop_ends_a_wait(coordinators: Coordinators) -> None:
    name = fresh("lock")
    held, waiter = coordinators().get_lock(name), coordinators()
    assert held.acquire()
    with ThreadPoolExecutor(1) as pool:
        acquired = pool.submit(waiter.get_lock(name).acquire)
        wait_for(lambda: waiting(coordinators, held) == 1, "one who waits")
        waiter.stop()
        with pytest.raises(tooz.ToozError):
            acquired.result()
    assert waiting(coordinators, held) == 0


def test_what_was_won_without_an_answer_is_given_back(
    coordinators: Coordinators, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, name = coordinators(), fresh("lock")
    lock = driver.get_lock(name)
    acquire = Client.acquire_lock
    broken = Unavailable("the line broke", outcome=Outcome.UNKNOWN, retryable=True)

    def unheard(client: Client, *arguments: Any, **named: Any) -> Any:
        acquire(client, *arguments, **named)
        raise broken

    def unreachable(client: Client, *arguments: Any) -> Any:
        raise broken

    with monkeypatch.context() as patched:
        patched.setattr(Client, "acquire_lock", unheard)
        patched.setattr(Client, "abandon_lock", unreachable)
        with pytest.raises(tooz.ToozError):
            lock.acquire()
    assert not lock.acquired
    assert not driver.get_lock(name).acquire(blocking=False)
    driver.heartbeat()
    assert driver.get_lock(name).acquire(blocking=False)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_wait_of_no_number_of_seconds_is_refused(
    coordinators: Coordinators, seconds: float
) -> None:
    lock = coordinators().get_lock(fresh("lock"))
    for wait in ({"blocking": seconds}, {"timeout": seconds}):
        with pytest.raises(ValueError, match="no number of seconds"):
            lock.acquire(**wait)  # type: ignore[arg-type]
    assert not lock.acquired


def test_a_lock_of_a_name_that_is_not_utf_8_fails_as_others_do(coordinators: Coordinators) -> None:
    name = fresh("lock") + b"\xff"
    held, wanted = coordinators().get_lock(name), coordinators().get_lock(name)
    with held, pytest.raises(coordination.LockAcquireFailed, match="xff"):
        with wanted(blocking=False):
            pass


def test_breaking_what_nobody_holds_is_false(coordinators: Coordinators) -> None:
    lock = coordinators().get_lock(fresh("lock"))
    assert lock.break_() is False
    assert lock.heartbeat() is False
    with pytest.raises(ValueError, match="name"):
        coordinators().get_lock(b"")


def test_threads_exclude_each_other(coordinators: Coordinators) -> None:
    driver, name = coordinators(), fresh("lock")
    inside, most = [0], [0]

    def work() -> None:
        with driver.get_lock(name):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside[0], most[0]) == (0, 1)
