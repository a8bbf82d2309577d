"""Nova's own ``servicegroup.API`` with this driver, real processes, and real nodes."""

from __future__ import annotations

import datetime
import functools
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, List

import pytest
from roster_client import Call, Client, NotFound
from roster_client.transport import json_body

from .cluster import wait_until
from .conftest import Nova, row, service

pytest.importorskip("nova", reason="nova is not installed")


def a_host() -> str:
    return f"host-{uuid.uuid4().hex[:8]}"


class Sampling:
    """Asks whether a host is up, again and again, in a thread of its own."""

    def __init__(self, nova: Nova, host: str, topic: str = "compute") -> None:
        self._nova = nova
        self._host = host
        self._topic = topic
        self._over = threading.Event()
        self.questions = 0
        self.answers: List[Any] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._over.is_set() and not self._nova.closed:
            try:
                answer: Any = self._nova.is_up(self._host, self._topic)
            except Exception as error:
                answer = error
            self.questions += 1
            if not self.answers or self.answers[-1] is not answer:
                self.answers.append(answer)
            time.sleep(0.001)

    def stop(self) -> List[Any]:
        """The answers, each time they changed."""
        self._over.set()
        self._thread.join()
        return self.answers


def instances(nova: Nova, topic: str = "compute") -> List[Any]:
    with Client(nova.cluster.endpoints) as client:
        try:
            return client.instances(f"nova.{topic}")
        except NotFound:
            # Nobody has joined yet.
            return []


def ids_of(nova: Nova, host: str, topic: str = "compute") -> List[str]:
    return [each["id"] for each in instances(nova, topic) if each["metadata"]["host"] == host]


def test_a_service_is_up_once_it_joined_and_down_when_it_reports_no_more(nova: Nova) -> None:
    host, running = a_host(), service()
    assert not nova.is_up(host)
    nova.api.join(host, "compute", running)
    wait_until(lambda: nova.is_up(host), "up")
    [(interval, _, _, initial_delay)] = running.tg.timers
    assert (interval, initial_delay) == (1, 1)
    wait_until(lambda: not nova.is_up(host), "down")
    # Its session is gone: the next report joins again.
    running.tg.run()
    wait_until(lambda: nova.is_up(host), "up again")
    nova.driver.leave(host, "compute")


def test_reports_keep_a_service_up(nova: Nova) -> None:
    host, running = a_host(), service()
    nova.api.join(host, "compute", running)
    wait_until(lambda: nova.is_up(host), "up")
    first = nova.api.get_updated_time(row(host))
    samples = Sampling(nova, host)

    def reported_for_two_lives() -> bool:
        running.tg.run()
        time.sleep(0.1)
        heard = nova.api.get_updated_time(row(host))
        return bool(heard - first > datetime.timedelta(seconds=6))

    wait_until(reported_for_two_lives, "reports for twice the service_down_time")
    assert samples.stop() == [True]
    nova.driver.leave(host, "compute")


def test_what_is_registered_says_what_a_listing_needs(nova: Nova) -> None:
    host, running = a_host(), service("scheduler")
    nova.api.join(host, "scheduler", running)
    [found] = [each for each in instances(nova, "scheduler") if each["hostname"] == host]
    assert found["id"] == f"{host}/{os.getpid()}"
    assert found["zone"] == "internal"
    assert found["metadata"] == {
        "servicegroup": "nova",
        "binary": "nova-scheduler",
        "topic": "scheduler",
        "host": host,
        "pid": str(os.getpid()),
    }
    nova.driver.leave(host, "scheduler")


@pytest.mark.parametrize("eventlet", [False, True], ids=["threads", "eventlet"])
def test_a_killed_service_goes_down_and_comes_back_under_the_same_name(
    nova: Nova, eventlet: bool
) -> None:
    host = a_host()
    first = nova.start(host, eventlet=eventlet)
    wait_until(lambda: nova.is_up(host), "up")
    nova.kill(first)
    wait_until(lambda: not nova.is_up(host), "down")
    nova.start(host, eventlet=eventlet)
    wait_until(lambda: nova.is_up(host), "up again")


def test_a_quick_restart_is_not_seen_and_the_old_life_ends_alone(nova: Nova) -> None:
    host = a_host()
    first = nova.start(host)
    wait_until(lambda: nova.is_up(host), "up")
    [old] = ids_of(nova, host)
    second = nova.start(host)
    wait_until(lambda: len(ids_of(nova, host)) == 2, "the new process")
    samples = Sampling(nova, host)
    nova.kill(first)
    wait_until(lambda: old not in ids_of(nova, host), "the end of the old one")
    asked = samples.questions
    wait_until(lambda: samples.questions > asked + 10, "more questions")
    assert samples.stop() == [True]
    assert ids_of(nova, host) == [f"{host}/{second.pid}"]


@pytest.mark.parametrize("eventlet", [False, True], ids=["threads", "eventlet"])
def test_a_stopped_service_is_down_at_once(patient_nova: Nova, eventlet: bool) -> None:
    host = a_host()
    running = patient_nova.start(host, eventlet=eventlet)
    wait_until(lambda: patient_nova.is_up(host), "up")
    running.send_signal(signal.SIGTERM)
    wait_until(lambda: not patient_nova.is_up(host), "down, long before service_down_time")


def test_a_host_is_up_while_any_of_its_workers_is(nova: Nova) -> None:
    host = a_host()
    # Forked by oslo's launcher, which made the API before.
    nova.start(host, "scheduler", workers=2)
    wait_until(lambda: len(ids_of(nova, host, "scheduler")) == 2, "two workers")
    alone = nova.start(host, "scheduler")
    wait_until(lambda: len(ids_of(nova, host, "scheduler")) == 3, "a third process")
    assert nova.driver.get_all("scheduler").count(host) == 1
    nova.kill(nova._processes[0])
    samples = Sampling(nova, host, "scheduler")
    wait_until(lambda: ids_of(nova, host, "scheduler") == [f"{host}/{alone.pid}"], "one left")
    assert samples.stop() == [True]
    nova.kill(alone)
    wait_until(lambda: not nova.is_up(host, "scheduler"), "down")


def test_a_forced_down_service_is_down_whatever_it_reports(nova: Nova) -> None:
    host, running = a_host(), service()
    nova.api.join(host, "compute", running)
    wait_until(lambda: nova.is_up(host), "up")
    assert not nova.api.service_is_up(row(host, forced_down=True))
    running.tg.run()
    assert not nova.api.service_is_up(row(host, forced_down=True))
    assert nova.api.service_is_up(row(host, forced_down=False))
    nova.driver.leave(host, "compute")


def test_who_leaves_is_down_at_once_and_does_not_come_back(patient_nova: Nova) -> None:
    host, running = a_host(), service()
    patient_nova.api.join(host, "compute", running)
    wait_until(lambda: patient_nova.is_up(host), "up")
    wait_until(lambda: host in patient_nova.driver.get_all("compute"), "a place on the list")
    patient_nova.driver.leave(host, "compute")
    wait_until(lambda: not patient_nova.is_up(host), "down")
    running.tg.run()
    assert ids_of(patient_nova, host) == []
    patient_nova.driver.leave("nobody", "compute")
    assert patient_nova.driver.get_one("a-group-that-nobody-joined") is None


def two_lives(nova: Nova, host: str) -> Any:
    """Two processes with one process id, as two containers have, or one that was restarted."""
    from roster_openstack.servicegroup import process

    old, old_api = service(), nova.driver
    old_api.join(host, "compute", old)
    kept = process.of(old_api._settings)
    process.forget()
    new = service()
    nova.driver.join(host, "compute", new)
    return old, new, kept


def test_the_same_process_id_takes_its_old_self_over_at_once(patient_nova: Nova) -> None:
    nova, host = patient_nova, a_host()
    old, _, kept = two_lives(nova, host)
    # At once: the old session would live for ten minutes.
    assert ids_of(nova, host) == [f"{host}/{os.getpid()}"]
    wait_until(lambda: nova.is_up(host), "up")
    samples = Sampling(nova, host)
    # The end of the old session does not touch the new life.
    old.stop()
    assert ids_of(nova, host) == [f"{host}/{os.getpid()}"]
    other, other_service = a_host(), service()
    nova.driver.join(other, "compute", other_service)
    wait_until(lambda: nova.is_up(other), "what happened after it")
    assert samples.stop() == [True]
    kept.close()


def test_two_live_processes_with_one_process_id_both_count(patient_nova: Nova) -> None:
    nova, host = patient_nova, a_host()
    old, new, kept = two_lives(nova, host)
    # The older one finds its name taken, and goes on under another one.
    old.tg.run()
    ids = ids_of(nova, host)
    assert len(ids) == 2
    new.tg.run()
    old.tg.run()
    assert ids_of(nova, host) == ids
    wait_until(lambda: nova.is_up(host), "up")
    samples = Sampling(nova, host)
    new.stop()
    assert len(ids_of(nova, host)) == 1
    other = a_host()
    nova.driver.join(other, "compute", service())
    wait_until(lambda: nova.is_up(other), "what happened after it")
    assert samples.stop() == [True]
    old.stop()
    wait_until(lambda: not nova.is_up(host), "down")
    kept.close()


def test_without_a_quorum_nobody_is_said_to_be_down(own_nova: Nova) -> None:
    from roster_openstack.servicegroup.driver import ServiceGroupUnavailable

    nova, host = own_nova, a_host()
    nova.start(host)
    wait_until(lambda: nova.is_up(host), "up")
    wait_until(lambda: nova.api.get_updated_time(row(host)) is not None, "a time")
    samples = Sampling(nova, host)
    # The third one lives, and so does the watch if it is there.
    nova.cluster.freeze(0)
    nova.cluster.freeze(1)
    wait_until(lambda: isinstance(samples.answers[-1], Exception), "an end of the list's credit")
    answers = samples.stop()
    assert answers[0] is True and False not in answers
    assert all(isinstance(answer, ServiceGroupUnavailable) for answer in answers[1:])
    with pytest.raises(ServiceGroupUnavailable) as raised:
        nova.is_up("another-host")
    assert raised.value.code == 503
    assert nova.driver.get_one("compute") is None
    assert nova.api.get_updated_time(row(host)) is not None, "what was known is told"
    # Nova answers this by itself.
    assert not nova.api.service_is_up(row(host, forced_down=True))
    with pytest.raises(ServiceGroupUnavailable):
        scheduler_filter_passes(host)
    nova.cluster.thaw(0)
    nova.cluster.thaw(1)
    after: List[Any] = []

    def told_again() -> bool:
        try:
            after.append(nova.is_up(host))
        except ServiceGroupUnavailable:
            return False
        return True

    wait_until(told_again, "an answer")
    assert after == [True]
    assert scheduler_filter_passes(host)


def scheduler_filter_passes(host: str) -> bool:
    from types import SimpleNamespace

    from nova.scheduler.filters import compute_filter

    state = SimpleNamespace(service={**row(host), "disabled": False, "forced_down": False})
    return bool(compute_filter.ComputeFilter().host_passes(state, None))


def test_a_first_question_without_a_quorum_ends_and_says_why(
    own_nova: Nova, caplog: pytest.LogCaptureFixture
) -> None:
    from roster_openstack.servicegroup.driver import ServiceGroupUnavailable

    own_nova.cluster.freeze(0)
    own_nova.cluster.freeze(1)
    with pytest.raises(ServiceGroupUnavailable) as raised:
        own_nova.is_up("anybody")
    # Users see it: no address of Roster's is for them. Its cause, in the log, says more.
    assert str(raised.value) == "It cannot be told at this time which services are up."
    assert "was never listed" in str(raised.value.__cause__)
    with pytest.raises(ServiceGroupUnavailable):
        own_nova.is_up("somebody-else")
    lost = [record for record in caplog.records if "was never listed" in record.getMessage()]
    assert len(lost) == 1


def test_a_killed_leader_downs_nobody(own_nova: Nova) -> None:
    nova, host = own_nova, a_host()
    nova.start(host)
    wait_until(lambda: nova.is_up(host), "up")
    samples = Sampling(nova, host)
    leader = nova.cluster.leader()
    assert leader is not None
    nova.cluster.kill(leader)
    wait_until(lambda: nova.cluster.leader() is not None, "another leader")
    elected = datetime.datetime.now(datetime.timezone.utc)

    def two_lives_later() -> bool:
        heard = nova.api.get_updated_time(row(host))
        return bool(heard - elected > datetime.timedelta(seconds=6))

    wait_until(two_lives_later, "reports to the new leader")
    assert samples.stop() == [True]


def test_a_join_is_seen_past_a_node_that_hangs(own_nova: Nova) -> None:
    from roster_openstack.servicegroup import process

    nova = own_nova
    nova.driver.join("first", "compute", service(report_interval=1))
    wait_until(lambda: nova.is_up("first"), "up")
    shared = process.of(nova.driver._settings)
    watch: Any = shared.group("compute")._watch
    nova.cluster.freeze(watch._node)
    host, running = a_host(), service()

    def seen() -> bool:
        if not running.tg.timers:
            nova.driver.join(host, "compute", running)
        running.tg.run()
        try:
            return nova.is_up(host)
        except Exception:
            return False

    # A silent stream alone is given up after 20 s only.
    until = time.monotonic() + 15
    while not seen():
        assert time.monotonic() < until, "the join was not seen"
        time.sleep(0.05)


def test_the_updated_time_is_the_later_of_the_last_report_and_the_row(nova: Nova) -> None:
    host, running = a_host(), service()
    nova.api.join(host, "compute", running)
    wait_until(lambda: nova.api.get_updated_time(row(host)) is not None, "a time")
    heard = nova.api.get_updated_time(row(host))
    now = datetime.datetime.now(datetime.timezone.utc)
    assert heard.utcoffset() == datetime.timedelta(0)
    assert abs(now - heard) < datetime.timedelta(minutes=1)
    earlier, later = datetime.datetime(2020, 1, 1), datetime.datetime(2999, 1, 1)
    utc = datetime.timezone.utc
    assert nova.api.get_updated_time(row(host, updated_at=earlier)) >= heard
    assert nova.api.get_updated_time(row(host, updated_at=later)) == later.replace(tzinfo=utc)
    aware = datetime.datetime(2999, 1, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    assert nova.api.get_updated_time(row(host, updated_at=aware)) == later.replace(tzinfo=utc)
    text = "2999-01-01T00:00:00.000000"
    assert nova.api.get_updated_time(row(host, updated_at=text)) == later.replace(tzinfo=utc)
    assert nova.api.get_updated_time(row("nobody")) is None
    unknown = nova.api.get_updated_time(row("nobody", updated_at=earlier))
    assert unknown == earlier.replace(tzinfo=utc)
    running.tg.run()
    wait_until(lambda: nova.api.get_updated_time(row(host)) > heard, "a later report")
    nova.driver.leave(host, "compute")
    later_still = nova.api.get_updated_time(row(host))
    assert later_still is not None and later_still > heard, "what was last heard stays known"


def test_questions_cost_no_requests_and_a_listing_costs_one(
    patient_nova: Nova, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib3

    nova, host = patient_nova, a_host()
    nova.api.join(host, "compute", service())
    wait_until(lambda: nova.is_up(host), "up")
    mine: List[str] = []
    here, urlopen = threading.current_thread(), urllib3.HTTPConnectionPool.urlopen

    def counted(self: Any, method: str, url: str, *args: Any, **more: Any) -> Any:
        if threading.current_thread() is here:
            mine.append(f"{method} {url}")
        return urlopen(self, method, url, *args, **more)

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", counted)
    began = time.perf_counter()
    assert all(nova.is_up(host) for _ in range(10_000))
    each = (time.perf_counter() - began) / 10_000
    assert mine == []
    monkeypatch.setattr("roster_openstack.servicegroup.group._TIMES_SECONDS_MAX", 60)
    shared = nova.driver._process()
    shared._times.clear()
    monkeypatch.setattr(shared.times("compute"), "_every", 60)
    for number in range(1_000):
        nova.api.get_updated_time(row(f"host-{number}"))
    assert mine == ["GET /v1/apps/nova.compute/instances?limit=10000&heartbeats=true"]
    print(f"\none question: {each * 1e6:.1f} us")
    nova.driver.leave(host, "compute")


def test_a_join_reaches_who_follows_a_thousand_members(patient_nova: Nova) -> None:
    nova = patient_nova
    with Client(nova.cluster.endpoints) as client:
        hosts = [a_host() for _ in range(1_000)]
        session = client.open_session(ttl=600).session
        items = [
            {
                **{"op": "register", "app": "nova.compute", "id": f"{host}/1", "ip": "10.0.0.1"},
                **{"port": 0, "session": session, "metadata": {"host": host}},
            }
            for host in hosts
        ]
        client.send(
            Call(
                "POST",
                "/v1/instances:batch",
                body=json_body({"items": items}),
                headers={"Content-Type": "application/json"},
            )
        )
        wait_until(lambda: set(hosts) <= set(nova.driver.get_all("compute")), "a thousand members")
        taken: List[float] = []
        for _ in range(20):
            host = a_host()
            nova.driver.join(host, "compute", service())
            joined = time.perf_counter()
            wait_until(functools.partial(nova.is_up, host), "up")
            taken.append((time.perf_counter() - joined) * 1e3)
            nova.driver.leave(host, "compute")
        client.close_session(session)
    taken.sort()
    print(f"\nfrom the answered join to the copy: {taken[10]:.1f} ms, worst {taken[-1]:.1f} ms")


def test_a_forked_child_has_a_session_and_a_copy_of_its_own(patient_nova: Nova) -> None:
    nova, host, later = patient_nova, a_host(), a_host()
    nova.api.join(host, "compute", service())
    wait_until(lambda: nova.is_up(host), "up")
    child = os.fork()
    if child == 0:
        try:
            nova.api.join(host, "compute", service())
            nova.api.join(later, "compute", service())
            # Only a copy that somebody keeps shows it.
            wait_until(lambda: nova.is_up(later), "what happened after the fork")
            os._exit(0 if nova.is_up(host) else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    joined = {each["id"]: each["session"] for each in instances(nova) if each["hostname"] == host}
    assert set(joined) == {f"{host}/{os.getpid()}", f"{host}/{child}"}
    assert len(set(joined.values())) == 2
    nova.driver.leave(host, "compute")


def test_a_service_starts_without_roster_and_joins_later(
    own_nova: Nova, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    nova, host, running = own_nova, a_host(), service()
    nova.cluster.freeze(0)
    nova.cluster.freeze(1)
    nova.api.join(host, "compute", running)
    running.tg.run()
    assert running.model_disconnected
    nova.cluster.thaw(0)
    nova.cluster.thaw(1)

    def reported() -> bool:
        running.tg.run()
        return not running.model_disconnected

    wait_until(reported, "a report")
    told = [record.getMessage() for record in caplog.records if "connection" in record.message]
    assert len(told) == 2
    assert told[0].startswith("Lost connection to Roster for reporting service status")
    assert told[1] == "Recovered connection to Roster for reporting service status."
    wait_until(lambda: nova.is_up(host), "up")


ASK = """
import sys
from nova import monkey_patch
monkey_patch.patch(backend="threading")
import nova.conf
nova.conf.CONF(["--config-file", sys.argv[1]], project="nova", default_config_files=[])
from nova import servicegroup
api = servicegroup.API()
rows = [{"host": host, "topic": "compute", "updated_at": None} for host in sys.argv[2:]]
told = [api.service_is_up(row) for row in rows], api.get_updated_time(rows[0]) is not None
print(monkey_patch.MONKEY_PATCHED, *told)
"""


@pytest.mark.parametrize("eventlet", [False, True], ids=["threads", "eventlet"])
def test_the_first_question_of_a_process_is_answered_with_the_list(
    patient_nova: Nova, eventlet: bool
) -> None:
    nova, host = patient_nova, a_host()
    nova.api.join(host, "compute", service())
    patching = {"OS_NOVA_DISABLE_EVENTLET_PATCHING": "0" if eventlet else "1"}
    told = subprocess.run(
        [sys.executable, "-c", ASK, str(nova.config_file), host, "nobody"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **patching},
    )
    assert told.stdout == f"{eventlet} [True, False] True\n", told.stderr
    nova.driver.leave(host, "compute")


def run_with(folder: Path, config: str, program: str) -> subprocess.CompletedProcess[str]:
    file = folder / "nova.conf"
    file.write_text(config)
    run = f"FILE = {str(file)!r}\n{program}"
    return subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, timeout=120, check=False
    )


MAKE_API = """
import nova.conf
nova.conf.CONF(["--config-file", FILE], project="nova", default_config_files=[])
from nova import servicegroup
print(type(servicegroup.API()._driver).__name__)
"""

ON = "[DEFAULT]\nconfig_source = roster\nservicegroup_driver = roster\n[roster]\ndriver = roster\n"


def test_nova_conf_switches_the_driver_on(tmp_path: Path) -> None:
    told = run_with(tmp_path, f"{ON}endpoints = 127.0.0.1:1\n", MAKE_API)
    assert told.stdout == "RosterDriver\n", told.stderr


def test_a_half_switched_on_driver_is_refused(tmp_path: Path) -> None:
    told = run_with(tmp_path, "[DEFAULT]\nservicegroup_driver = roster\n", MAKE_API)
    assert told.returncode != 0 and "servicegroup_driver" in told.stderr
    told = run_with(tmp_path, ON, MAKE_API)
    assert told.returncode != 0 and "set endpoints in [roster]" in told.stderr
    told = run_with(tmp_path, f"{ON}endpoints = no address\n", MAKE_API)
    assert told.returncode != 0 and "[roster] endpoints" in told.stderr


def test_without_the_choice_nova_keeps_its_own_driver(tmp_path: Path) -> None:
    config = "[DEFAULT]\nconfig_source = roster\n[roster]\ndriver = roster\n"
    told = run_with(tmp_path, config, MAKE_API)
    assert told.stdout == "DbDriver\n", told.stderr


def test_programs_without_a_nova_conf_can_switch_it_on(tmp_path: Path) -> None:
    program = """
import nova.conf
from roster_openstack.servicegroup import enable
enable()
CONF = nova.conf.CONF
CONF([], project="nova", default_config_files=[])
CONF.set_override("servicegroup_driver", "roster")
CONF.set_override("endpoints", ["127.0.0.1:1"], group="roster")
from nova import servicegroup
print(type(servicegroup.API()._driver).__name__)
"""
    told = run_with(tmp_path, "", program)
    assert told.stdout == "RosterDriver\n", told.stderr


def test_who_only_reads_nova_conf_gets_nothing_of_nova(tmp_path: Path) -> None:
    program = """
import sys
from oslo_config import cfg
cfg.ConfigOpts()(["--config-file", FILE], default_config_files=[])
print([name for name in ("nova", "roster_client", "eventlet") if name in sys.modules])
"""
    told = run_with(tmp_path, f"{ON}endpoints = 127.0.0.1:1\n", program)
    assert told.stdout == "[]\n", told.stderr
