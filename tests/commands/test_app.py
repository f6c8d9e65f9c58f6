"""The page as its users see it: the real command, a real browser, a real upload, nothing beyond loopback."""

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
from tests.asked_workspace import HEIGHT, LABELS, WIDTH, make_model, write_result
from tests.browser import BROWSER, DRIVER, HOST, Pages, free_port, needs_browser, open_browser, run_server
from tests.examples import bmp_that_claims, encode, noise
from tests.project import ROOT
from tests.recorded_runs import create_store, record_run

pytestmark = pytest.mark.slow

COMMIT = "f0fbfe4abc314e32e4f8fe4ae7b7d313cfbaa9d4"
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
TOO_LARGE = 50_000_000
SENT = "/gradio_api/upload?"
ENDING_SECONDS = 30  # two or so, on a machine that does nothing else
DELETING_SECONDS = 40  # five, on such a machine
UNREADABLE = "This file cannot be read as a photo: not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file."
# Python runs a module of this name before anything else: here it writes down whom the process calls.
WITNESS = """
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
SIZES_OF_PICTURES = "return [...document.images].map(image => [image.naturalHeight, image.naturalWidth]);"
SOURCES_OF_PICTURES = "return [...document.images].map(image => image.src);"
WIDTHS = "return [document.documentElement.scrollWidth, window.innerWidth];"


@dataclass(frozen=True)
class Served:
    """The command over a workspace; `model` is the network that it asks."""

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
        """The three likeliest labels that the model itself tells, and their probabilities as the page writes them."""
        pixels = prepare_image(photo.read_bytes(), (HEIGHT, WIDTH), resize="crop", resampling="bicubic", color="rgb")
        row = self.model.predict(pixels[None], verbose=0)[0].tolist()
        ranked = sorted(zip(row, LABELS, strict=True), reverse=True)[:3]
        return [[label, f"{probability:.3f}"] for probability, label in ranked]

    def uploads(self) -> set[Path]:
        """Files with something in them that lie in the command's temporary folder."""
        return {file for file in self.root.glob("tmp/**/*") if file.is_file() and file.stat().st_size}

    def upload(self, body: bytes, **headers: str) -> tuple[int, str]:
        """Send a form with this file in it."""
        return self.request("POST", "/gradio_api/upload", FORM_HEAD + body + FORM_END, FORM, **headers)

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "", **headers: str
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            connection.request(method, path, body, ({"Content-Type": kind} if kind else {}) | headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("asked")
    model = make_model(3)
    write_result(root, model, "crop", "bicubic", "rgb")
    store = create_store(root)
    tags = {KEY_TAG: result_key(read_stages(root / DVC_LOCK)), COMMIT_TAG: COMMIT}
    run_id = record_run(store, {}, "calm-owl-7", tags)
    MlflowClient(store.address).log_metric(run_id, "test_accuracy", 0.875)

    (root / "tmp").mkdir()
    (root / "witness").mkdir()
    (root / "witness/sitecustomize.py").write_text(WITNESS)
    port = free_port()
    command = [sys.executable, "-m", "commands", "app", "--port", str(port)]
    with run_server(command, port, root, make_environment(root), path="/") as process:
        yield Served(root, port, run_id, model, process)


def make_environment(root: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GRADIO_"))}
    return {
        **inherited,
        "PYTHONPATH": f"{root / 'witness'}{os.pathsep}{ROOT}",
        "CALLED_HOSTS": str(root / "called_hosts"),
        "TMPDIR": str(root / "tmp"),
    }


@pytest.fixture(scope="module")
def pages(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield Pages(browser, f"http://{HOST}:{served.port}")


@pytest.fixture
def page(pages: Pages) -> Pages:
    """The page as it is when it has just been opened."""
    pages.open("")
    pages.wait_for_texts("Drop File Here")
    return pages


def upload(page: Pages, file: Path) -> None:
    page.browser.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys(str(file))


def wait_for_answer(page: Pages, served: Served, photo: Path) -> None:
    page.wait_until_equal(lambda: read_labels(page), served.expected(photo))


def read_labels(page: Pages) -> list[list[str]]:
    return [item.text.split("\n") for item in page.browser.find_elements(By.CSS_SELECTOR, ".answer li")]


@needs_browser
class TestPage:
    def test_a_photo_has_the_labels_that_the_model_tells_and_an_overlay(self, page: Pages, served: Served) -> None:
        told = []
        for seed in range(3):
            photo = served.photo(seed)
            upload(page, photo)
            page.wait_for_texts(photo.name)
            wait_for_answer(page, served, photo)
            told.append(read_labels(page))
        assert told[0] != told[1]
        assert page.run(SIZES_OF_PICTURES) == [[480, 360], [480, 360]]
        assert len(set(page.run(SOURCES_OF_PICTURES))) == 2
        page.wait_for_texts(f"What speaks for {told[-1][0][0]} (Grad-CAM)")

    def test_the_run_that_the_model_came_from_is_named(self, page: Pages, served: Served) -> None:
        page.wait_for_texts(f"calm-owl-7 ({served.run_id})", "darkroom", "0.875", COMMIT, *LABELS)

    def test_an_unreadable_file_keeps_its_reason_until_the_next_photo(self, page: Pages, served: Served) -> None:
        text = served.root / "notes.jpg"
        text.write_text("no picture")
        upload(page, text)
        page.wait_for_texts("notes.jpg", UNREADABLE)
        assert read_labels(page) == []
        photo = served.photo(4)
        upload(page, photo)
        wait_for_answer(page, served, photo)
        assert UNREADABLE not in page.text()

    def test_a_picture_that_claims_too_many_pixels_is_refused(self, page: Pages, served: Served) -> None:
        bomb = served.root / "bomb.bmp"
        bomb.write_bytes(bmp_that_claims(65535, 65535))
        upload(page, bomb)
        page.wait_for_texts("bomb.bmp", "This file cannot be read as a photo: claims more than 89478485 pixels.")
        photo = served.photo(13)
        upload(page, photo)
        wait_for_answer(page, served, photo)

    def test_a_file_that_is_too_large_is_not_even_sent(self, page: Pages, served: Served) -> None:
        large = served.root / "large.jpg"
        large.write_bytes(bytes(TOO_LARGE))
        list(list_requests(page))  # of earlier tests, which are told once
        upload(page, large)
        page.wait_for_texts("exceed the maximum allowed size", "large.jpg")
        assert not any(SENT in address for address in list_requests(page))
        photo = served.photo(5)
        upload(page, photo)
        wait_for_answer(page, served, photo)
        assert any(SENT in address for address in list_requests(page))

    def test_names_with_signs_of_html_and_long_ones_are_shown(self, page: Pages, served: Served) -> None:
        for seed, name in ((6, "a&lt;i&gt;b.png"), (12, f"{'long' * 50}.png")):
            photo = served.photo(seed, name)
            upload(page, photo)
            wait_for_answer(page, served, photo)
            (title, *_) = (heading.text for heading in page.shown("//h2"))
            assert title.removesuffix(".png")[:100] == name.removesuffix(".png")[:100]

    def test_nothing_is_wider_than_a_phone(self, page: Pages, served: Served) -> None:
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        try:
            assert page.run(WIDTHS) == [PHONE["width"]] * 2
            photo = served.photo(7, f"{'long' * 50}.png")
            upload(page, photo)
            wait_for_answer(page, served, photo)
            assert page.run(WIDTHS) == [PHONE["width"]] * 2
        finally:
            page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_two_pages_are_answered_each_with_its_own_photo(self, page: Pages, served: Served, tmp_path: Path) -> None:
        with open_browser(tmp_path) as browser:
            other = Pages(browser, page.address)
            other.open("")
            other.wait_for_texts("Drop File Here")
            photos = served.photo(8), served.photo(9)
            upload(page, photos[0])
            upload(other, photos[1])
            for pages, photo in zip((page, other), photos, strict=True):
                pages.wait_for_texts(photo.name)
                wait_for_answer(pages, served, photo)

    def test_neither_the_browser_nor_the_server_calls_anybody_else(self, page: Pages, served: Served) -> None:
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
    def test_no_file_and_no_page_of_elsewhere_is_given(self, served: Served, path: str) -> None:
        status, _ = served.request("GET", f"/gradio_api/file={path.format(root=served.root)}")
        assert status == 403

    @pytest.mark.parametrize(
        "headers",
        [{"Host": "evil.example"}, {"Host": "["}]
        + [{"Origin": origin} for origin in ("https://evil.example", "http://[", "null")],
        ids=str,
    )
    def test_pages_from_elsewhere_are_not_answered(self, served: Served, headers: dict[str, str]) -> None:
        assert served.request("GET", "/config", **headers)[0] == 403
        before = served.uploads()
        assert served.upload(b"no picture", **headers)[0] == 403
        assert served.uploads() == before

    def test_a_photo_that_is_sent_twice_is_answered_twice(self, served: Served) -> None:
        content = served.photo(14).read_bytes()
        own = {"Origin": f"http://{HOST}:{served.port}"}
        sent = [served.upload(content, **own) for _ in range(2)]
        assert [status for status, _ in sent] == [200, 200]
        for _, answer in sent:
            assert "data:image/png" in ask(served, {"path": json.loads(answer)[0]})

    def test_what_was_sent_is_deleted_when_it_is_old(self, served: Served) -> None:
        before = served.uploads()
        assert served.upload(b"no picture: whole")[0] == 200
        with socket.create_connection((HOST, served.port)) as connection:  # and ends in the middle of a file
            headers = f"Host: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: 900000\r\n\r\n"
            connection.sendall(f"POST /gradio_api/upload HTTP/1.1\r\n{headers}".encode() + FORM_HEAD + bytes(400_000))
            assert wait_until(lambda: len(served.uploads() - before) == 2)
        sent = served.uploads() - before
        assert sorted(file.read_bytes()[:10] for file in sent) == [bytes(10), b"no picture"]
        for file in sent:
            os.utime(file, (0, 0))
        assert wait_until(lambda: not served.uploads() & sent)

    def test_a_file_of_this_machine_that_was_not_uploaded_is_not_read(self, served: Served) -> None:
        assert "calm-owl-7" in served.request("GET", "/config")[1]
        photo = served.photo(11)
        assert "data:image/png" not in ask(served, {"path": str(photo)})
        assert photo.exists()

    @pytest.mark.parametrize("address", ["https://example.org/a.png", "http://93.184.216.34/a.png"])
    def test_no_photo_is_fetched(self, served: Served, address: str) -> None:
        before = (served.root / "called_hosts").read_text()
        assert "data:image/png" not in ask(served, {"path": address, "url": address})
        assert "socket.connect" not in (served.root / "called_hosts").read_text().removeprefix(before)

    def test_too_much_is_refused_and_leaves_nothing(self, served: Served) -> None:
        before = served.uploads()
        try:
            status, _ = served.upload(bytes(MAXIMUM_BYTES + 1))
        except ConnectionError:  # it does not wait for the end of what it refuses
            status = 413 if served.request("GET", "/config")[0] == 200 else 0
        assert status == 413
        assert served.uploads() <= before


def wait_until(condition: Callable[[], bool]) -> bool:
    """Give something time to come true, and tell whether it did."""
    end = time.monotonic() + DELETING_SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


def ask(served: Served, file: dict[str, Any]) -> str:
    """What the page's server answers to a browser that says that this file was uploaded."""
    config = json.loads(served.request("GET", "/config")[1])
    question = {
        "data": [{**file, "meta": {"_type": "gradio.FileData"}}],
        "fn_index": config["dependencies"][0]["id"],
        "session_hash": "0123456789",
    }
    status, answer = served.request("POST", "/gradio_api/queue/join", json.dumps(question).encode(), "application/json")
    assert status == 200, answer
    _, answers = served.request("GET", "/gradio_api/queue/data?session_hash=0123456789")
    assert "process_completed" in answers
    return answers


class TestBegin:
    def test_a_port_that_is_taken_is_refused(self, served: Served) -> None:
        message = run_refused(served, "-m", "commands", "app", "--port", str(served.port))
        assert message.startswith(f"app: the page cannot have port {served.port} of {HOST} (Address already in use); ")
        assert f"--port {served.port + 1}" in message

    def test_an_address_of_no_machine_is_refused(self, served: Served) -> None:
        message = run_refused(served, "-m", "commands", "app", "--host", "192.0.2.1", "--port", "0")
        assert message.startswith("app: the page cannot be at '192.0.2.1', which is no address of this machine (")
        assert "--host 127.0.0.1" in message
        message = run_refused(served, "-m", "commands", "app", "--host", f"{'a' * 64}.example", "--port", "0")
        assert message.startswith("app: the page cannot be at 'aaa")

    def test_without_gradio_what_to_do_is_told(self, served: Served) -> None:
        assert "make extras" in run_refused(served, "-c", WITHOUT_GRADIO)


def run_refused(served: Served, *arguments: str) -> str:
    """The one line that a command ends with."""
    environment = make_environment(served.root)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=served.root, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_a_signal_ends_it_while_its_page_is_open_and_nothing_is_left(
    request: pytest.FixtureRequest, served: Served
) -> None:
    """The last test of this file: those before it need the server."""
    if BROWSER and DRIVER:
        request.getfixturevalue("page")
    logged = (served.root / "log").read_text()
    assert len(list((served.root / "tmp").glob("darkroom-app-*"))) == 1
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(ENDING_SECONDS) == 128 + signal.SIGTERM
    assert list((served.root / "tmp").glob("darkroom-app-*")) == []
    assert "Traceback" not in (served.root / "log").read_text().removeprefix(logged)
