"""The order of the tests."""

from __future__ import annotations

from typing import List

import pytest


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """The longest first: where several run at once, none waits for it alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_suite.py")
