"""The browser, and what the tests ask of a page."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from cluster import PATIENCE

T = TypeVar("T")

# A node that lost its leader for a moment says so, and the page asks again: a busy machine, no error of the page.
ALWAYS_ALLOWED = re.compile(r"/v1/.* status of 503")

ROWS = """
return [...document.querySelectorAll('table')].filter(table => table.caption.textContent === arguments[0])
    .flatMap(table => [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent.trim())))
"""
FIGURES = """
return Object.fromEntries([...document.querySelectorAll('main .figure')].map(figure => [
    figure.querySelector('dt').textContent, figure.querySelector('dd').textContent]))
"""
TEXT = "return document.querySelector(arguments[0])?.textContent ?? ''"


class Browser:
    """One page in a browser without a window."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._allowed: list[re.Pattern[str]] = []

    def open(self, base: str, *parts: str, query: str = "") -> None:
        """Opens a page of the dashboard, by the parts of its address."""
        address = "#/" + "/".join(quote(part, safe="") for part in parts) + query
        here = self.driver.current_url
        if here.startswith(f"{base}/ui/") and not here.endswith(address):
            # As a link would. Emptied, so that the page before is not taken for this one.
            self.run("document.getElementById('main').replaceChildren(); location.hash = arguments[0]", address)
        else:
            self.driver.get("about:blank")
            self.driver.get(f"{base}/ui/{address}")
        self.until("the page is open", lambda: self.run("return !!document.querySelector('main .body:not([aria-busy])')"))
        self.run("window.neverReloaded = true")

    def was_never_reloaded(self) -> bool:
        return self.run("return window.neverReloaded === true")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, what: str, condition: Callable[[], T], patience: float = PATIENCE) -> T:
        waiting = WebDriverWait(self.driver, patience, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"not within {patience:.0f} seconds: {what}") from None

    def rows(self, table: str) -> list[list[str]]:
        """The cells of the table with this caption."""
        return self.run(ROWS, table)

    def row(self, table: str, begin: str) -> list[str] | None:
        """The row whose first cell is this text."""
        return next((row for row in self.rows(table) if row[0] == begin), None)

    def figures(self) -> dict[str, str]:
        """The captions of the page with what stands below each."""
        return self.run(FIGURES)

    def text(self, selector: str = "main") -> str:
        return self.run(TEXT, selector)

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        """On the keyboard, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """The accessible name of what has the focus, or its id."""
        return self.run("const on = document.activeElement; return on.getAttribute('aria-label') || on.id || on.textContent")

    @contextlib.contextmanager
    def of_width(self, width: int) -> Iterator[None]:
        """As in a window, or on a telephone, of so many pixels."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @contextlib.contextmanager
    def of_colours(self, scheme: str) -> Iterator[None]:
        """As where the system is `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def elements(self) -> int:
        return self.run("return document.getElementsByTagName('*').length")

    def allow(self, pattern: str) -> None:
        """This test makes the browser complain so."""
        self._allowed.append(re.compile(pattern))

    def console(self) -> list[str]:
        """What the browser complained of since the last call."""
        return [f"{entry['level']} {entry['source']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def errors(self) -> list[str]:
        """Complaints since the last call that no test allowed. Forgets what was allowed."""
        allowed = [ALWAYS_ALLOWED, *self._allowed]
        self._allowed = []
        severe = [line for line in self.console() if line.startswith("SEVERE") or "Content Security Policy" in line]
        return [line for line in severe if not any(pattern.search(line) for pattern in allowed)]


@contextlib.contextmanager
def running_browser(width: int = 1280, height: int = 800) -> Iterator[Browser]:
    profile = tempfile.mkdtemp(prefix="browser-")
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={profile}", f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)
