"""What the settings in ``nova.conf`` stand for."""

from __future__ import annotations

import pytest

from roster_openstack.servicegroup.options import with_port


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("host1", "host1:7400"),
        ("10.0.0.1", "10.0.0.1:7400"),
        ("[fd00::1]", "[fd00::1]:7400"),
        ("host1:7401", "host1:7401"),
        ("[fd00::1]:7401", "[fd00::1]:7401"),
        # Refused where it is used.
        ("no address", "no address"),
        ("fd00::1", "fd00::1"),
    ],
)
def test_a_port_that_is_not_given_is_that_of_a_node(given: str, meant: str) -> None:
    assert with_port(given) == meant
