"""A local server for a test, and its pages in a real browser."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

HOST = "127.0.0.1"
SERVER_SECONDS = 120
PAGE_SECONDS = 40
POLL_SECONDS = 0.3
START_POLL_SECONDS = 0.1
END_SECONDS = 10
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
    # MLflow's list of runs renders only the columns that fit into the window.
    "--window-size=2400,1600",
)
TEXT_AT_CROSSING = """
    const row = arguments[0].getBoundingClientRect();
    const column = arguments[1].getBoundingClientRect();
    return document.elementFromPoint(column.left + 3, row.top + row.height / 2)?.innerText.trim();
"""
needs_browser = pytest.mark.skipif(
    not (BROWSER and DRIVER) and os.environ.get("CI") != "true", reason="chromium or chromedriver is not installed"
)


@dataclass(frozen=True)
class Pages:
    """The pages of a server in a browser window."""

    browser: webdriver.Chrome
    address: str

    def open(self, route: str) -> None:
        # Without this, the browser treats another route as another position in the current page, and does not load it.
        self.browser.get("about:blank")
        self.browser.get(f"{self.address}/#{route}")

    def run(self, script: str, *elements: WebElement) -> Any:
        return self.browser.execute_script(script, *elements)

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return self.wait().until(lambda _: condition())
        except TimeoutException:
            pytest.fail(f"no {what} after {PAGE_SECONDS} s on this page:\n{self.text()}")

    def wait_until_equal(self, read: Callable[[], Any], expected: Any) -> None:
        """Wait until a page shows what is expected; if it does not, fail with what it shows."""
        seen = None

        def shows_expected(_: webdriver.Chrome) -> bool:
            nonlocal seen
            seen = read()
            return seen == expected

        with suppress(TimeoutException):
            self.wait().until(shows_expected)
        assert seen == expected

    def wait_for_texts(self, *texts: str) -> None:
        def found() -> list[str]:
            page = self.text()
            return [text for text in texts if text in page]

        self.wait_until_equal(found, list(texts))

    def wait(self) -> WebDriverWait[webdriver.Chrome]:
        return WebDriverWait(self.browser, PAGE_SECONDS, POLL_SECONDS, [StaleElementReferenceException])

    def text(self) -> str:
        return self.browser.find_element(By.TAG_NAME, "body").text

    def shown(self, path: str) -> list[WebElement]:
        return [element for element in self.browser.find_elements(By.XPATH, path) if element.is_displayed()]

    def find(self, path: str) -> WebElement:
        """Wait for a visible element that matches an XPath, and scroll the first one to the middle of the window."""
        element = self.wait_for(lambda: next(iter(self.shown(path)), None), path)
        self.run("arguments[0].scrollIntoView({block: 'center'});", element)
        return element

    def click(self, path: str) -> None:
        self.find(path).click()

    def read_row(self, row: str, columns: list[str]) -> list[str]:
        """The texts in a table row: at the height of one element and below or above others, all given as XPaths."""
        heads = [self.find(column) for column in columns]
        row_head = self.find(row)
        return [self.run(TEXT_AT_CROSSING, row_head, head) for head in heads]


def with_text(text: str) -> str:
    """The XPath of elements with exactly this text, not in child elements."""
    return f'//*[normalize-space(text())="{text}"]'


@contextmanager
def open_browser(folder: Path) -> Iterator[webdriver.Chrome]:
    """A headless Chromium, with its profile in `folder` and a log of the requests of its pages."""
    assert BROWSER, "chromium is not installed"
    assert DRIVER, "chromedriver is not installed"
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    # Given the path of a driver, Selenium does not try to download one.
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield browser
    finally:
        browser.quit()


@contextmanager
def run_server(
    command: Sequence[str], port: int, folder: Path, environment: Mapping[str, str], path: str = "/health"
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in `folder` for a block, with its output in the file `log`; enter the block once it responds at
    `path`."""
    log = folder / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        ) as process,
    ):
        try:
            wait_for_server(process, port, log, path)
            yield process
        finally:
            end_group(process)


def free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return listener.getsockname()[1]


def wait_for_server(process: subprocess.Popen[bytes], port: int, log: Path, path: str = "/health") -> None:
    try:
        WebDriverWait(process, SERVER_SECONDS, START_POLL_SECONDS).until(
            lambda _: process.poll() is not None or is_healthy(port, path)
        )
    except TimeoutException:
        pytest.fail(f"the server does not respond after {SERVER_SECONDS} s:\n{log.read_text()}")
    assert process.poll() is None, f"the server exited:\n{log.read_text()}"


def is_healthy(port: int, path: str) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children, which are in its process group."""
    with suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
