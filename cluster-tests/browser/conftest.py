"""One cluster per module, one browser for all of them, and a test fails on any error that the browser tells."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest
from selenium.common.exceptions import WebDriverException
from urllib3.exceptions import HTTPError

from browser import Browser, running_browser
from cluster import Cluster, running_cluster


def pytest_configure() -> None:
    # What was started is ended by the fixtures, and they must be left for that.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as started:
        yield started


@pytest.fixture(scope="session")
def one_browser() -> Iterator[Browser]:
    with running_browser() as started:
        yield started


@pytest.fixture
def browser(one_browser: Browser) -> Iterator[Browser]:
    yield one_browser
    errors = one_browser.errors()
    # Nothing of the page goes on into the next test.
    one_browser.driver.get("about:blank")
    one_browser.console()
    assert not errors, "the browser told of errors:\n" + "\n".join(errors)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    browser = getattr(item, "funcargs", {}).get("browser")
    if report.when == "call" and report.failed and browser is not None:
        # The browser may be what failed.
        with contextlib.suppress(WebDriverException, HTTPError):
            report.sections.append(("what the page shows", browser.driver.current_url + "\n" + browser.find("body").text))
            report.sections.append(("what the browser told", "\n".join(browser.console())))
    return report
