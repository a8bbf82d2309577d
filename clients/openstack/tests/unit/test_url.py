"""What URLs say, and what is said of wrong ones."""

from __future__ import annotations

import ssl
from typing import Any, Optional

import pytest
from tooz import coordination

from roster_openstack.tooz_driver import RosterDriver
from roster_openstack.url import Settings

from ..cluster import free_rows


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
        ("roster://user@a:1", "names a user"),
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
