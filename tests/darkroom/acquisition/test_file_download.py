import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.file_download import MAXIMUM_BYTES, fetch_file, fetch_files
from darkroom.acquisition.web.client import WebClient
from darkroom.pipeline.stage import StageError
from tests.fake_web import FakeWeb, Request, Response

HOST = "files.example.org"
URL = f"https://{HOST}/set/"
FILES = {f"{number}.gz": f"the content of file {number} ".encode() * 1000 for number in range(4)}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
CONTENT = FILES["1.gz"]
# If threads wait longer for each other, something is wrong.
TOGETHER_SECONDS = 20


class QuickClock(Clock):
    """Pauses between attempts take no time."""

    def sleep(self, seconds: float, wake: object = None) -> None:
        pass


class FileHost:
    """Serves `files` by name; `script` has the responses to the next requests instead."""

    def __init__(self, web: FakeWeb) -> None:
        self.web = web
        self.files = dict(FILES)
        self.script: list[Response] = []

    def respond(self, request: Request) -> Response:
        if self.script:
            return self.script.pop(0)
        folder, _, name = request.path.rpartition("/")
        return Response(200, self.files[name]) if folder == "/set" and name in self.files else Response(404)

    @property
    def requested(self) -> list[str]:
        return [request.path.removeprefix("/set/") for request in self.web.requests_to(HOST)]


@pytest.fixture(autouse=True)
def host(web: FakeWeb) -> FileHost:
    host = FileHost(web)
    web.add(HOST, host.respond)
    return host


@pytest.fixture
def client() -> Iterator[WebClient]:
    with closing(WebClient([HOST], 5, 2, 8, QuickClock())) as client:
        yield client


class TestFetchFile:
    def fetch(self, client: WebClient, path: Path, sha256: str = SHA256["1.gz"]) -> int:
        """Download a file, and return the number of bytes that were reported."""
        sizes: list[int] = []
        fetch_file(client, f"{URL}1.gz", path, sha256, sizes.append)
        return sum(sizes)

    def test_a_file_with_the_expected_digest_is_downloaded_once(
        self, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        path = tmp_path / "1.gz"
        assert [self.fetch(client, path) for _ in range(2)] == [len(CONTENT), 0]
        assert path.read_bytes() == CONTENT
        assert host.requested == ["1.gz"]
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("damaged", [CONTENT[:-1], b"", CONTENT[::-1]], ids=["short", "empty", "another"])
    def test_a_damaged_file_is_downloaded_again(self, client: WebClient, tmp_path: Path, damaged: bytes) -> None:
        path = tmp_path / "1.gz"
        path.write_bytes(damaged)
        self.fetch(client, path)
        assert path.read_bytes() == CONTENT

    def test_a_partial_file_of_a_killed_run_is_replaced(self, client: WebClient, tmp_path: Path) -> None:
        path = tmp_path / "1.gz"
        (tmp_path / ".1.gz.partial").write_bytes(bytes(2 * len(CONTENT)))
        self.fetch(client, path)
        assert path.read_bytes() == CONTENT
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("response", [Response(503), Response(200, CONTENT, cut_after=99)], ids=["503", "cut"])
    def test_a_temporary_error_is_retried(
        self, host: FileHost, client: WebClient, tmp_path: Path, response: Response
    ) -> None:
        host.script = [response]
        self.fetch(client, tmp_path / "1.gz")
        assert (tmp_path / "1.gz").read_bytes() == CONTENT
        assert host.requested == ["1.gz", "1.gz"]

    def test_a_file_with_another_digest_is_refused_and_not_saved(self, client: WebClient, tmp_path: Path) -> None:
        with pytest.raises(StageError) as caught:
            self.fetch(client, tmp_path / "1.gz", sha256="0" * 64)
        assert str(caught.value) == (
            f"https://files.example.org/set/1.gz has changed: expected SHA-256 {'0' * 64}, got "
            f"{SHA256['1.gz']}; get the file from another site, put it into the folder named by acquire.folder, "
            "and set acquire.dataset.files to folder"
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("response", "reason"),
        [
            (Response(404), "HTTP 404"),
            (Response(503), "HTTP 503"),
            (Response(200, headers={"Content-Length": str(MAXIMUM_BYTES + 1)}), f"more than {MAXIMUM_BYTES} bytes"),
            (Response(200, CONTENT, cut_after=9), "the response was incomplete or garbled (ProtocolError)"),
            (
                Response(302, headers={"Location": "https://elsewhere.org/1.gz"}),
                "redirect refused, host not allowed: elsewhere.org",
            ),
        ],
        ids=["refused", "no response", "too large", "cut", "redirected"],
    )
    def test_a_failed_download_is_reported_with_a_fix(
        self, host: FileHost, client: WebClient, tmp_path: Path, response: Response, reason: str
    ) -> None:
        host.script = [response] * 2
        with pytest.raises(StageError) as caught:
            self.fetch(client, tmp_path / "1.gz")
        assert str(caught.value) == (
            f"https://files.example.org/set/1.gz cannot be downloaded ({reason}): run again later, with a larger "
            "acquire.download.timeout_seconds if it timed out; or put the file into the folder named by "
            "acquire.folder, and set acquire.dataset.files to folder"
        )
        assert list(tmp_path.iterdir()) == []


class TestFetchFiles:
    @pytest.mark.parametrize("parallel", [1, 2, 8])
    def test_all_files_are_downloaded_once(
        self, host: FileHost, client: WebClient, tmp_path: Path, parallel: int
    ) -> None:
        folder = tmp_path / "cache" / "set"
        for _ in range(2):
            fetch_files(client, URL, SHA256, folder, parallel)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
        assert sorted(host.requested) == sorted(FILES)

    def test_they_are_downloaded_in_parallel(
        self, web: FakeWeb, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        all_requested = threading.Barrier(len(FILES))

        def respond_when_all_are_requested(request: Request) -> Response:
            try:
                all_requested.wait(TOGETHER_SECONDS)
            except threading.BrokenBarrierError:
                return Response(404)
            return host.respond(request)

        web.add(HOST, respond_when_all_are_requested)
        fetch_files(client, URL, SHA256, tmp_path, len(FILES))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES

    def test_parallel_1_downloads_one_at_a_time(
        self, web: FakeWeb, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        busy = threading.Lock()

        def respond_alone(request: Request) -> Response:
            if not busy.acquire(blocking=False):
                return Response(404)
            threading.Event().wait(0.1)  # time for another request to arrive
            busy.release()
            return host.respond(request)

        web.add(HOST, respond_alone)
        fetch_files(client, URL, SHA256, tmp_path, 1)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES

    def test_only_missing_or_damaged_files_are_requested(
        self, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        (tmp_path / "0.gz").write_bytes(FILES["0.gz"])
        (tmp_path / "1.gz").write_bytes(b"damaged")
        (tmp_path / "3.gz").write_bytes(FILES["3.gz"])
        fetch_files(client, URL, SHA256, tmp_path, 8)
        assert sorted(host.requested) == ["1.gz", "2.gz"]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES

    @pytest.mark.parametrize("parallel", [1, 8])
    def test_one_bad_digest_ends_it_and_the_whole_ones_stay(
        self, host: FileHost, client: WebClient, tmp_path: Path, parallel: int
    ) -> None:
        host.files["2.gz"] = b"another file"
        with pytest.raises(StageError, match=r"^https://files\.example\.org/set/2\.gz has changed: expected"):
            fetch_files(client, URL, SHA256, tmp_path, parallel)
        assert (tmp_path / "0.gz").read_bytes() == FILES["0.gz"]
        assert {path.name for path in tmp_path.iterdir()} <= {"0.gz", "1.gz", "3.gz"}
        host.files["2.gz"] = FILES["2.gz"]
        fetch_files(client, URL, SHA256, tmp_path, parallel)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
        # Complete files were not requested again.
        assert host.requested.count("0.gz") == 1
