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
from tests.fake_web import Answer, FakeWeb, Request

HOST = "files.example.org"
ADDRESS = f"https://{HOST}/set/"
FILES = {f"{number}.gz": f"the content of file {number} ".encode() * 1000 for number in range(4)}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
CONTENT = FILES["1.gz"]
# Threads that wait for one another in vain have gone wrong.
TOGETHER_SECONDS = 20


class QuickClock(Clock):
    """Pauses between attempts take no time."""

    def sleep(self, seconds: float, wake: object = None) -> None:
        pass


class FileHost:
    """Gives `files` by name; `script` holds what the next requests get instead."""

    def __init__(self, web: FakeWeb) -> None:
        self.web = web
        self.files = dict(FILES)
        self.script: list[Answer] = []

    def answer(self, request: Request) -> Answer:
        if self.script:
            return self.script.pop(0)
        folder, _, name = request.path.rpartition("/")
        return Answer(200, self.files[name]) if folder == "/set" and name in self.files else Answer(404)

    @property
    def asked(self) -> list[str]:
        return [request.path.removeprefix("/set/") for request in self.web.requests_to(HOST)]


@pytest.fixture(autouse=True)
def host(web: FakeWeb) -> FileHost:
    host = FileHost(web)
    web.add(HOST, host.answer)
    return host


@pytest.fixture
def client() -> Iterator[WebClient]:
    with closing(WebClient([HOST], 5, 2, 8, QuickClock())) as client:
        yield client


class TestFetchFile:
    def fetch(self, client: WebClient, path: Path, sha256: str = SHA256["1.gz"]) -> int:
        """Fetch a file, and tell how many bytes were said to have come."""
        sizes: list[int] = []
        fetch_file(client, f"{ADDRESS}1.gz", path, sha256, sizes.append)
        return sum(sizes)

    def test_a_file_of_the_right_digest_is_kept_and_not_fetched_again(
        self, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        path = tmp_path / "1.gz"
        assert [self.fetch(client, path) for _ in range(2)] == [len(CONTENT), 0]
        assert path.read_bytes() == CONTENT
        assert host.asked == ["1.gz"]
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("damaged", [CONTENT[:-1], b"", CONTENT[::-1]], ids=["short", "empty", "another"])
    def test_a_damaged_file_is_fetched_anew(self, client: WebClient, tmp_path: Path, damaged: bytes) -> None:
        path = tmp_path / "1.gz"
        path.write_bytes(damaged)
        self.fetch(client, path)
        assert path.read_bytes() == CONTENT

    def test_what_a_kill_left_is_not_in_the_way(self, client: WebClient, tmp_path: Path) -> None:
        path = tmp_path / "1.gz"
        (tmp_path / ".1.gz.partial").write_bytes(bytes(2 * len(CONTENT)))
        self.fetch(client, path)
        assert path.read_bytes() == CONTENT
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("answer", [Answer(503), Answer(200, CONTENT, cut_after=99)], ids=["503", "cut"])
    def test_trouble_that_passes_is_tried_again(
        self, host: FileHost, client: WebClient, tmp_path: Path, answer: Answer
    ) -> None:
        host.script = [answer]
        self.fetch(client, tmp_path / "1.gz")
        assert (tmp_path / "1.gz").read_bytes() == CONTENT
        assert host.asked == ["1.gz", "1.gz"]

    def test_a_file_of_another_digest_is_refused_and_not_kept(self, client: WebClient, tmp_path: Path) -> None:
        with pytest.raises(StageError) as caught:
            self.fetch(client, tmp_path / "1.gz", sha256="0" * 64)
        assert str(caught.value) == (
            f"https://files.example.org/set/1.gz has changed: expected a file of sha256 {'0' * 64}, got "
            f"{SHA256['1.gz']}; get it elsewhere, put it into the folder that acquire.folder names, and set "
            "acquire.dataset.files to folder"
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (Answer(404), "HTTP 404"),
            (Answer(503), "HTTP 503"),
            (Answer(200, headers={"Content-Length": str(MAXIMUM_BYTES + 1)}), f"more than {MAXIMUM_BYTES} bytes"),
            (Answer(200, CONTENT, cut_after=9), "the answer was cut short or garbled (ProtocolError)"),
            (
                Answer(302, headers={"Location": "https://elsewhere.org/1.gz"}),
                "redirects to an address that is not on an allowed host: elsewhere.org",
            ),
        ],
        ids=["refused", "no answer", "too large", "cut", "redirected"],
    )
    def test_a_file_that_does_not_come_is_told_with_what_to_do(
        self, host: FileHost, client: WebClient, tmp_path: Path, answer: Answer, reason: str
    ) -> None:
        host.script = [answer] * 2
        with pytest.raises(StageError) as caught:
            self.fetch(client, tmp_path / "1.gz")
        assert str(caught.value) == (
            f"https://files.example.org/set/1.gz cannot be fetched ({reason}): run again later, with a longer "
            "acquire.download.timeout_seconds if that was too short; or put the file into the folder that "
            "acquire.folder names, and set acquire.dataset.files to folder"
        )
        assert list(tmp_path.iterdir()) == []


class TestFetchFiles:
    @pytest.mark.parametrize("parallel", [1, 2, 8])
    def test_all_are_there_afterwards_and_none_is_asked_again(
        self, host: FileHost, client: WebClient, tmp_path: Path, parallel: int
    ) -> None:
        folder = tmp_path / "cache" / "set"
        for _ in range(2):
            fetch_files(client, ADDRESS, SHA256, folder, parallel)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
        assert sorted(host.asked) == sorted(FILES)

    def test_they_are_fetched_side_by_side(
        self, web: FakeWeb, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        all_asked = threading.Barrier(len(FILES))

        def answer_when_all_are_asked(request: Request) -> Answer:
            try:
                all_asked.wait(TOGETHER_SECONDS)
            except threading.BrokenBarrierError:
                return Answer(404)
            return host.answer(request)

        web.add(HOST, answer_when_all_are_asked)
        fetch_files(client, ADDRESS, SHA256, tmp_path, len(FILES))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES

    def test_one_at_a_time_where_no_more_are_allowed(
        self, web: FakeWeb, host: FileHost, client: WebClient, tmp_path: Path
    ) -> None:
        busy = threading.Lock()

        def answer_alone(request: Request) -> Answer:
            if not busy.acquire(blocking=False):
                return Answer(404)
            threading.Event().wait(0.1)  # for others to come in between
            busy.release()
            return host.answer(request)

        web.add(HOST, answer_alone)
        fetch_files(client, ADDRESS, SHA256, tmp_path, 1)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES

    def test_only_what_is_missing_or_damaged_is_asked(self, host: FileHost, client: WebClient, tmp_path: Path) -> None:
        (tmp_path / "0.gz").write_bytes(FILES["0.gz"])
        (tmp_path / "1.gz").write_bytes(b"damaged")
        (tmp_path / "3.gz").write_bytes(FILES["3.gz"])
        fetch_files(client, ADDRESS, SHA256, tmp_path, 8)
        assert sorted(host.asked) == ["1.gz", "2.gz"]
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES

    @pytest.mark.parametrize("parallel", [1, 8])
    def test_one_bad_digest_ends_it_and_the_whole_ones_stay(
        self, host: FileHost, client: WebClient, tmp_path: Path, parallel: int
    ) -> None:
        host.files["2.gz"] = b"another file"
        with pytest.raises(StageError, match=r"^https://files\.example\.org/set/2\.gz has changed: expected"):
            fetch_files(client, ADDRESS, SHA256, tmp_path, parallel)
        assert (tmp_path / "0.gz").read_bytes() == FILES["0.gz"]
        assert {path.name for path in tmp_path.iterdir()} <= {"0.gz", "1.gz", "3.gz"}
        host.files["2.gz"] = FILES["2.gz"]
        fetch_files(client, ADDRESS, SHA256, tmp_path, parallel)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
        # What had come whole was not asked for again.
        assert host.asked.count("0.gz") == 1
