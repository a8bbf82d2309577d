"""Nova's ``servicegroup.API`` in this process, on nodes of its own."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from . import cluster as clusters
from .cluster import Cluster

# The driver needs nova's libraries; test_servicegroup.py says so.
if importlib.util.find_spec("nova") is None:
    collect_ignore = [
        *("test_local_copy.py", "test_options.py", "test_presence.py", "test_renewal_times.py")
    ]

PROGRAM = Path(__file__).parent / "real" / "service_process.py"


class Timers:
    """A service's timers, which a test runs by hand."""

    def __init__(self) -> None:
        self.timers: List[Tuple[float, Callable[..., None], List[Any], float]] = []

    def add_timer_args(
        self, interval: float, callback: Callable[..., None], args: List[Any], initial_delay: float
    ) -> None:
        self.timers.append((interval, callback, args, initial_delay))

    def run(self) -> None:
        for _, callback, args, _ in self.timers:
            callback(*args)


def service(topic: str = "compute", report_interval: float = 1) -> Any:
    """What a driver sees of a service, with timers that nobody runs."""
    return SimpleNamespace(
        binary=f"nova-{topic}",
        topic=topic,
        report_interval=report_interval,
        tg=Timers(),
        model_disconnected=False,
        stop=lambda: None,
    )


def row(host: str, topic: str = "compute", **more: Any) -> Dict[str, Any]:
    """A service as nova's database has it."""
    return {"host": host, "topic": topic, "binary": f"nova-{topic}", "updated_at": None, **more}


class Nova:
    """Nova's API on a cluster, and processes that join its groups."""

    def __init__(self, cluster: Cluster, folder: Path, service_down_time: int = 3) -> None:
        import nova.conf
        from nova import servicegroup

        self.cluster = cluster
        self.closed = False
        self.conf = nova.conf.CONF
        self._folder = folder
        self._processes: List[subprocess.Popen[bytes]] = []
        self.config_file = folder / "nova.conf"
        self.config_file.write_text(
            "[DEFAULT]\n"
            "config_source = roster\n"
            "servicegroup_driver = roster\n"
            f"service_down_time = {service_down_time}\n"
            "report_interval = 1\n"
            "[roster]\n"
            "driver = roster\n"
            f"endpoints = {','.join(cluster.endpoints)}\n"
        )
        self.conf(
            ["--config-file", str(self.config_file)], project="nova", default_config_files=[]
        )
        self.api = servicegroup.API()

    @property
    def driver(self) -> Any:
        return self.api._driver

    def is_up(self, host: str, topic: str = "compute") -> bool:
        return bool(self.api.service_is_up(row(host, topic)))

    def start(
        self, host: str, topic: str = "compute", workers: int = 1, eventlet: bool = False
    ) -> subprocess.Popen[bytes]:
        """A process of this host, which joins by itself."""
        patching = {"OS_NOVA_DISABLE_EVENTLET_PATCHING": "0" if eventlet else "1"}
        with open(self._folder / f"{host}-{len(self._processes)}.log", "wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, str(PROGRAM), str(self.config_file)),
                    *(host, topic, str(workers)),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, **patching},
                # With its workers, so that all can be ended.
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As a power cut: with all its workers, without a word."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def close(self) -> None:
        from roster_openstack.servicegroup import process

        self.closed = True
        for each in self._processes:
            self.kill(each)
        for shared in list(process._processes.values()):
            shared.close()
        process.forget()
        self.conf.reset()


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For tests that leave the nodes alone."""
    if not clusters.PROGRAM:
        pytest.skip("ROSTER_BINARY is not set: no nodes to test against")
    pytest.importorskip("nova", reason="nova is not installed")
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def nova(shared_cluster: Cluster, tmp_path: Path) -> Iterator[Nova]:
    told = Nova(shared_cluster, tmp_path)
    yield told
    told.close()


@pytest.fixture
def patient_nova(shared_cluster: Cluster, tmp_path: Path) -> Iterator[Nova]:
    """With a ``service_down_time`` that no test waits for."""
    told = Nova(shared_cluster, tmp_path, service_down_time=600)
    yield told
    told.close()


@pytest.fixture
def own_nova(tmp_path: Path) -> Iterator[Nova]:
    """On nodes that the test may stop."""
    if not clusters.PROGRAM:
        pytest.skip("ROSTER_BINARY is not set: no nodes to test against")
    pytest.importorskip("nova", reason="nova is not installed")
    with Cluster(tmp_path) as cluster:
        told = Nova(cluster, tmp_path)
        yield told
        told.close()
