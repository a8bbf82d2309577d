"""What URLs say, and what is said of wrong ones."""

from __future__ import annotations

import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Iterator, Optional

import pytest
from tooz import coordination

from roster_openstack.tooz_driver import RosterDriver
from roster_openstack.url import Settings

from ..cluster import ENDPOINT, free_rows, needs_cluster


def settings(url: str, **options: Any) -> Settings:
    driver = coordination.get_coordinator(url, b"m", **options)
    assert isinstance(driver, RosterDriver)
    return driver._settings


def test_a_url_names_the_nodes_and_the_timeout() -> None:
    read = settings("roster://host1:7401,host2,[::1]:7403/?timeout=7.5&namespace=cloud/")
    assert read.endpoints == ("host1:7401", "host2:7400", "[::1]:7403")
    assert (read.timeout, read.namespace, read.tls) == (7.5, "cloud/", None)


def test_options_of_the_caller_go_before_those_of_the_url() -> None:
    assert settings("roster://a:1/?timeout=7&timeout=8").timeout == 8
    assert settings("roster://a:1/?timeout=7", timeout=9).timeout == 9
    assert settings("roster://a:1").timeout == 15


def test_the_other_scheme_means_tls() -> None:
    read = settings("roster+https://a:1").tls
    assert read is not None and read.verify_mode is ssl.CERT_REQUIRED and read.check_hostname
    trusting = settings("roster+https://a:1/?verify=false").tls
    assert trusting is not None and trusting.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("roster://", "names no host"),
        ("roster://,/", "names no host"),
        ("roster://a:b", "'a:b' is not HOST:PORT"),
        ("roster://a:", "'a:' is not HOST:PORT"),
        ("roster://a:0", "'a:0' is not HOST:PORT"),
        ("roster://a:99999", "'a:99999' is not HOST:PORT"),
        ("roster://a_b$%:1", "is not HOST:PORT"),
        ("roster://" + ",".join(f"a{n}:1" for n in range(69)), "69 endpoints; 1 to 64"),
        ("roster://user@a:1", "names a user"),
        ("roster://a:1/?namespace=\ud800", "is no text of at most 256 bytes"),
        ("roster://a:1/?timeout=soon", "timeout=soon is no number of seconds"),
        ("roster://a:1/?timeout=0.5", "timeout=0.5 is no number of seconds"),
        ("roster://a:1/?timeout=nan", "timeout=nan is no number of seconds"),
        ("roster+https://a:1/?ca_cert=/no/such/file", "certificates cannot be read"),
        ("roster+https://a:1/?verify=maybe", "neither true nor false"),
    ],
)
def test_a_wrong_url_is_told_in_toozs_own_words(url: str, why: str) -> None:
    with pytest.raises(coordination.ToozConnectionError, match=why):
        coordination.get_coordinator(url, b"m")


def test_what_means_nothing_is_named_in_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    coordination.get_coordinator("roster://a:1/cloud-1?timout=3", b"m")
    assert "The path '/cloud-1'" in caplog.text
    assert "timout" in caplog.text


@pytest.mark.parametrize("host", [None, "no-such-host.invalid:7401"])
def test_a_cluster_that_is_not_there_is_told_and_the_coordinator_can_be_started_again(
    host: Optional[str],
) -> None:
    endpoint = host or f"127.0.0.1:{free_rows()[0]}"
    coordinator = coordination.get_coordinator(f"roster://{endpoint}", b"m")
    for _ in range(2):
        with pytest.raises(coordination.ToozConnectionError):
            coordinator.start()
        assert not coordinator.is_started


@pytest.mark.parametrize("host", ["a..b:1", "a" * 70 + ":1"])
def test_a_host_that_no_name_server_can_be_asked_for_cannot_be_reached(host: str) -> None:
    coordinator = coordination.get_coordinator(f"roster://{host}", b"m")
    with pytest.raises(coordination.ToozConnectionError):
        coordinator.start()


@pytest.mark.parametrize("status", [200, 302, 403, 404, 500, 501])
def test_another_server_at_the_address_is_told_in_toozs_own_words(status: int) -> None:
    with another_server(status) as address:
        coordinator = coordination.get_coordinator(f"roster://{address}", b"m")
        with pytest.raises(coordination.ToozConnectionError, match="not answer like a Roster"):
            coordinator.start()


@needs_cluster
@pytest.mark.parametrize("status", [302, 403, 404, 501])
def test_a_node_is_found_behind_the_address_of_another_server(status: int) -> None:
    with another_server(status) as address:
        coordinator = coordination.get_coordinator(f"roster://{address},{ENDPOINT}", b"m")
        coordinator.start()
        coordinator.stop()


@contextlib.contextmanager
def another_server(status: int) -> Iterator[str]:
    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@pytest.mark.parametrize("what", ["join_group", "leave_group", "elected_as_leader"])
def test_a_callback_of_a_group_of_any_bytes_that_is_not_there_is_said(what: str) -> None:
    coordinator = coordination.get_coordinator("roster://a:1", b"m")
    with pytest.raises(coordination.WatchCallbackNotFound):
        getattr(coordinator, f"unwatch_{what}")(b"\xff", print)
