"""Tests of the page with the real command, a real browser and real uploads, over loopback only."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pytest
from mlflow import MlflowClient
from selenium.webdriver.common.by import By

from darkroom.photos.images import prepare_image
from darkroom.pipeline.paths import DVC_LOCK
from darkroom.serving.classifier import MAXIMUM_BYTES
from darkroom.tracking.lockfile import read_stages, result_key
from darkroom.tracking.store import COMMIT_TAG, KEY_TAG
from tests.browser import BROWSER, DRIVER, HOST, Pages, free_port, needs_browser, open_browser, run_server
from tests.examples import bmp_that_claims, encode, noise
from tests.project import ROOT
from tests.recorded_runs import create_store, record_run
from tests.result_workspace import HEIGHT, LABELS, WIDTH, make_model, write_result

pytestmark = pytest.mark.slow

COMMIT = "f0fbfe4abc314e32e4f8fe4ae7b7d313cfbaa9d4"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
TOO_LARGE = 50_000_000
SENT = "/gradio_api/upload?"
EXIT_SECONDS = 30  # about two on an idle machine
DELETION_SECONDS = 40  # about five on an idle machine
UNREADABLE = "This file cannot be read as a photo: not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file."
# The source of sitecustomize.py, which Python runs at startup: it logs the hosts that the process connects to.
CALL_LOGGER = """
import os, sys

def note(event, arguments):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
        os.write(FILE, f"{event} {host}\\n".encode())

FILE = os.open(os.environ["CALLED_HOSTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(note)
"""
WITHOUT_GRADIO = """
import runpy, sys
sys.modules["gradio"] = None
sys.argv = ["darkroom", "app"]
runpy.run_module("commands", run_name="__main__")
"""
IMAGE_SIZES = "return [...document.images].map(image => [image.naturalHeight, image.naturalWidth]);"
IMAGE_SOURCES = "return [...document.images].map(image => image.src);"
WIDTHS = "return [document.documentElement.scrollWidth, window.innerWidth];"


@dataclass(frozen=True)
class Served:
    """The running command, and the workspace and the model that it uses."""

    root: Path
    port: int
    run_id: str
    model: keras.Model
    process: subprocess.Popen[bytes]

    def photo(self, seed: int, name: str | None = None) -> Path:
        file = self.root / (name or f"{seed}.png")
        file.write_bytes(encode(noise(30, 40, seed=seed)))
        return file

    def expected(self, photo: Path) -> list[list[str]]:
        """The model's own three most likely labels, with probabilities as the page formats them."""
        pixels = prepare_image(photo.read_bytes(), (HEIGHT, WIDTH), resize="crop", resampling="bicubic", color="rgb")
        row = self.model.predict(pixels[None], verbose=0)[0].tolist()
        ranked = sorted(zip(row, LABELS, strict=True), reverse=True)[:3]
        return [[label, f"{probability:.3f}"] for probability, label in ranked]

    def uploads(self) -> set[Path]:
        """The files in the command's temporary folder that are not empty."""
        return {file for file in self.root.glob("tmp/**/*") if file.is_file() and file.stat().st_size}

    def upload(self, body: bytes, **headers: str) -> tuple[int, str]:
        """Send a form that contains this file."""
        return self.request("POST", "/gradio_api/upload", FORM_HEAD + body + FORM_END, FORM, **headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", **headers: str
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            connection.request(method, path, body, ({"Content-Type": kind} if kind else {}) | headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    model = make_model(3)
    write_result(root, model, "crop", "bicubic", "rgb")
    store = create_store(root)
    tags = {KEY_TAG: result_key(read_stages(root / DVC_LOCK)), COMMIT_TAG: COMMIT}
    run_id = record_run(store, {}, "calm-owl-7", tags)
    MlflowClient(store.address).log_metric(run_id, "test_accuracy", 0.875)

    (root / "tmp").mkdir()
    (root / "logger").mkdir()
    (root / "logger/sitecustomize.py").write_text(CALL_LOGGER)
    port = free_port()
    command = [sys.executable, "-m", "commands", "app", "--port", str(port)]
    with run_server(command, port, root, make_environment(root), path="/") as process:
        yield Served(root, port, run_id, model, process)


def make_environment(root: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GRADIO_"))}
    return {
        **inherited,
        "PYTHONPATH": f"{root / 'logger'}{os.pathsep}{ROOT}",
        "CALLED_HOSTS": str(root / "called_hosts"),
        "TMPDIR": str(root / "tmp"),
    }


@pytest.fixture(scope="module")
def pages(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield Pages(browser, f"http://{HOST}:{served.port}")


@pytest.fixture
def page(pages: Pages) -> Pages:
    """The page, just opened."""
    pages.open("")
    pages.wait_for_texts("Drop File Here")
    return pages


def upload(page: Pages, file: Path) -> None:
    page.browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(file))


def wait_for_prediction(page: Pages, served: Served, photo: Path) -> None:
    page.wait_until_equal(lambda: read_labels(page), served.expected(photo))


def read_labels(page: Pages) -> list[list[str]]:
    return [item.text.split("\n") for item in page.browser.find_elements(By.CSS_SELECTOR, ".prediction li")]


@needs_browser
class TestPage:
    def test_a_photo_gets_the_predicted_labels_and_an_overlay(self, page: Pages, served: Served) -> None:
        predicted = []
        for seed in range(3):
            photo = served.photo(seed)
            upload(page, photo)
            page.wait_for_texts(photo.name)
            wait_for_prediction(page, served, photo)
            predicted.append(read_labels(page))
        assert predicted[0] != predicted[1]
        assert page.run(IMAGE_SIZES) == [[480, 360], [480, 360]]
        assert len(set(page.run(IMAGE_SOURCES))) == 2
        page.wait_for_texts(f"Grad-CAM for {predicted[-1][0][0]}: ")

    def test_the_run_of_the_model_is_shown(self, page: Pages, served: Served) -> None:
        page.wait_for_texts(f"calm-owl-7 ({served.run_id})", "darkroom", "0.875", COMMIT, *LABELS)

    def test_the_reason_for_an_unreadable_file_is_shown_until_the_next_photo(self, page: Pages, served: Served) -> None:
        text = served.root / "notes.jpg"
        text.write_text("not an image")
        upload(page, text)
        page.wait_for_texts("notes.jpg", UNREADABLE)
        assert read_labels(page) == []
        photo = served.photo(4)
        upload(page, photo)
        wait_for_prediction(page, served, photo)
        assert UNREADABLE not in page.text()

    def test_a_file_that_claims_too_many_pixels_is_rejected(self, page: Pages, served: Served) -> None:
        bomb = served.root / "bomb.bmp"
        bomb.write_bytes(bmp_that_claims(65535, 65535))
        upload(page, bomb)
        page.wait_for_texts("bomb.bmp", "This file cannot be read as a photo: claims more than 89478485 pixels.")
        photo = served.photo(13)
        upload(page, photo)
        wait_for_prediction(page, served, photo)

    def test_a_file_that_is_too_large_is_not_uploaded(self, page: Pages, served: Served) -> None:
        large = served.root / "large.jpg"
        large.write_bytes(bytes(TOO_LARGE))
        list(list_requests(page))  # drops the requests of earlier tests: the browser reports each request once
        upload(page, large)
        page.wait_for_texts("exceed the maximum allowed size", "large.jpg")
        assert not any(SENT in address for address in list_requests(page))
        photo = served.photo(5)
        upload(page, photo)
        wait_for_prediction(page, served, photo)
        assert any(SENT in address for address in list_requests(page))

    def test_names_with_html_characters_and_long_names_are_shown(self, page: Pages, served: Served) -> None:
        for seed, name in ((6, "a&lt;i&gt;b.png"), (12, f"{'long' * 50}.png")):
            photo = served.photo(seed, name)
            upload(page, photo)
            wait_for_prediction(page, served, photo)
            (title, *_) = (heading.text for heading in page.shown("//h2"))
            assert title.removesuffix(".png")[:100] == name.removesuffix(".png")[:100]

    def test_the_page_fits_on_a_phone(self, page: Pages, served: Served) -> None:
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        try:
            assert page.run(WIDTHS) == [PHONE["width"]] * 2
            photo = served.photo(7, f"{'long' * 50}.png")
            upload(page, photo)
            wait_for_prediction(page, served, photo)
            assert page.run(WIDTHS) == [PHONE["width"]] * 2
        finally:
            page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_two_open_pages_each_show_their_own_photo(self, page: Pages, served: Served) -> None:
        browser, photos = page.browser, (served.photo(8), served.photo(9))
        first = browser.current_window_handle
        browser.switch_to.new_window("window")
        try:
            windows = first, browser.current_window_handle
            page.open("")
            page.wait_for_texts("Drop File Here")
            for window, photo in zip(windows, photos, strict=True):
                browser.switch_to.window(window)
                upload(page, photo)
            for window, photo in zip(windows, photos, strict=True):
                browser.switch_to.window(window)
                page.wait_for_texts(photo.name)
                wait_for_prediction(page, served, photo)
            browser.close()
        finally:
            browser.switch_to.window(first)

    def test_neither_the_browser_nor_the_server_connects_elsewhere(self, page: Pages, served: Served) -> None:
        before = (served.root / "called_hosts").read_text()
        upload(page, served.photo(10))
        page.wait_for_texts("10.png")
        called = {address for address in list_requests(page) if re.match(r"(https?|wss?):", address)}
        assert called
        assert [address for address in called if not address.startswith(f"{page.address}/")] == []

        lines = (served.root / "called_hosts").read_text().removeprefix(before).splitlines()
        hosts = {line.split()[1] for line in lines}
        assert hosts <= {HOST, "localhost", "::1"}


def list_requests(page: Pages) -> Iterator[str]:
    for entry in page.browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"]
        elif message["method"] == "Network.webSocketCreated":
            yield message["params"]["url"]


FORM = "multipart/form-data; boundary=x"
FORM_HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
FORM_END = b"\r\n--x--\r\n"


class TestServer:
    @pytest.mark.parametrize("path", ["dvc.lock", "{root}/dvc.lock", "/etc/passwd", "https://example.org/a.png"])
    def test_other_files_and_urls_are_not_served(self, served: Served, path: str) -> None:
        status, _ = served.request("GET", f"/gradio_api/file={path.format(root=served.root)}")
        assert status == 403

    @pytest.mark.parametrize(
        "headers",
        [{"Host": "evil.example"}, {"Host": "["}]
        + [{"Origin": origin} for origin in ("https://evil.example", "http://[", "null")],
        ids=str,
    )
    def test_requests_from_other_sites_are_rejected(self, served: Served, headers: dict[str, str]) -> None:
        assert served.request("GET", "/config", **headers)[0] == 403
        before = served.uploads()
        assert served.upload(b"not an image", **headers)[0] == 403
        assert served.uploads() == before

    def test_a_photo_that_is_uploaded_twice_is_classified_twice(self, served: Served) -> None:
        content = served.photo(14).read_bytes()
        own = {"Origin": f"http://{HOST}:{served.port}"}
        uploads = [served.upload(content, **own) for _ in range(2)]
        assert [status for status, _ in uploads] == [200, 200]
        for _, response in uploads:
            assert "data:image/png" in request_prediction(served, {"path": json.loads(response)[0]})

    def test_old_uploads_are_deleted(self, served: Served) -> None:
        before = served.uploads()
        assert served.upload(b"not an image: complete")[0] == 200
        with socket.create_connection((HOST, served.port)) as connection:  # an upload that is cut off
            headers = f"Host: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: 900000\r\n\r\n"
            connection.sendall(f"POST /gradio_api/upload HTTP/1.1\r\n{headers}".encode() + FORM_HEAD + bytes(400_000))
            assert wait_until(lambda: len(served.uploads() - before) == 2)
        uploaded = served.uploads() - before
        assert sorted(file.read_bytes()[:12] for file in uploaded) == [bytes(12), b"not an image"]
        for file in uploaded:
            os.utime(file, (0, 0))
        assert wait_until(lambda: not served.uploads() & uploaded)

    def test_a_local_file_that_was_not_uploaded_is_not_read(self, served: Served) -> None:
        assert "calm-owl-7" in served.request("GET", "/config")[1]
        photo = served.photo(11)
        assert "data:image/png" not in request_prediction(served, {"path": str(photo)})
        assert photo.exists()

    @pytest.mark.parametrize("address", ["https://example.org/a.png", "http://93.184.216.34/a.png"])
    def test_no_photo_is_downloaded(self, served: Served, address: str) -> None:
        before = (served.root / "called_hosts").read_text()
        assert "data:image/png" not in request_prediction(served, {"path": address, "url": address})
        assert "socket.connect" not in (served.root / "called_hosts").read_text().removeprefix(before)

    def test_an_upload_that_is_too_large_is_rejected_and_leaves_no_file(self, served: Served) -> None:
        before = served.uploads()
        try:
            status, _ = served.upload(bytes(MAXIMUM_BYTES + 1))
        except ConnectionError:  # the server closes the connection before the whole request is sent
            status = 413 if served.request("GET", "/config")[0] == 200 else 0
        assert status == 413
        assert served.uploads() <= before


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait until a condition is true, and return whether it is."""
    end = time.monotonic() + DELETION_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def request_prediction(served: Served, file: dict[str, Any]) -> str:
    """The server's response to a browser that claims to have uploaded this file."""
    config = json.loads(served.request("GET", "/config")[1])
    body = {
        "data": [{**file, "meta": {"_type": "gradio.FileData"}}],
        "fn_index": config["dependencies"][0]["id"],
        "session_hash": "0123456789",
    }
    status, response = served.request("POST", "/gradio_api/queue/join", json.dumps(body).encode(), "application/json")
    assert status == 200, response
    _, events = served.request("GET", "/gradio_api/queue/data?session_hash=0123456789")
    assert "process_completed" in events
    return events


class TestStart:
    def test_a_port_in_use_is_rejected(self, served: Served) -> None:
        message = run_failing(served, "-m", "commands", "app", "--port", str(served.port))
        assert message.startswith(
            f"app: the page cannot be served at port {served.port} of {HOST} (Address already in use); "
        )
        assert f"--port {served.port + 1}" in message

    def test_an_address_of_another_machine_is_rejected(self, served: Served) -> None:
        message = run_failing(served, "-m", "commands", "app", "--host", "192.0.2.1", "--port", "0")
        assert message.startswith(
            "app: the page cannot be served at '192.0.2.1', which is not an address of this machine ("
        )
        assert "--host 127.0.0.1" in message
        message = run_failing(served, "-m", "commands", "app", "--host", f"{'a' * 64}.example", "--port", "0")
        assert message.startswith("app: the page cannot be served at 'aaa")

    def test_without_gradio_the_message_says_what_to_do(self, served: Served) -> None:
        assert "make extras" in run_failing(served, "-c", WITHOUT_GRADIO)


def run_failing(served: Served, *arguments: str) -> str:
    """Run a command that fails, and return its only line on stderr."""
    environment = make_environment(served.root)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=served.root, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_a_signal_stops_the_server_of_an_open_page_and_no_files_are_left(
    request: pytest.FixtureRequest, served: Served
) -> None:
    """The last test of this file, because the others need the server."""
    if BROWSER and DRIVER:
        request.getfixturevalue("page")
    logged = (served.root / "log").read_text()
    assert len(list((served.root / "tmp").glob("darkroom-app-*"))) == 1
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(EXIT_SECONDS) == 128 + signal.SIGTERM
    assert list((served.root / "tmp").glob("darkroom-app-*")) == []
    assert "Traceback" not in (served.root / "log").read_text().removeprefix(logged)
