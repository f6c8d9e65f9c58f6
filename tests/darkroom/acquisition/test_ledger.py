import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.acquisition.ledger import DATABASE, VERSION, Decoding, Download, Ledger, Quota, ledger_folder
from darkroom.acquisition.refresh import UNUSABLE
from darkroom.pipeline.stage import StageError

ROOT = Path(__file__).parents[3]
URL = "https://photos.example.org/1.jpg?w=3"
# Writes rows until it is killed, and prints their number after each.
WRITE_ON = """
import sys
from itertools import count
from pathlib import Path
from darkroom.acquisition.ledger import Download, Ledger

ledger = Ledger(Path(sys.argv[1]))
for number in count():
    ledger.save_download(f"https://photos.example.org/{number}", Download(sha256=str(number)))
    ledger.save_response(f"page {number}", "x" * 5000)
    print(number + 1, flush=True)
"""
WRITE_SOME = """
import sys
from pathlib import Path
from darkroom.acquisition.ledger import Download, Ledger

folder, name = sys.argv[1:]
ledger = Ledger(Path(folder))
print("open", flush=True)
sys.stdin.readline()
for number in range(200):
    ledger.save_download(f"{name} {number}", Download(sha256=name))
    ledger.save_download("shared", Download(sha256=name))
ledger.close()
"""
CLOSE_IN_USE = """
import sqlite3
import sys
import threading
from contextlib import suppress
from pathlib import Path
from darkroom.acquisition.ledger import Decoding, Ledger

def use(ledger, started):
    with suppress(sqlite3.ProgrammingError):
        for number in range(1_000_000):
            ledger.save_decoding(f"digest {number}", "a decoder", Decoding(4, 3, "png"))
            ledger.find_decoding(f"digest {number}", "a decoder")
            started.set()

for number in range(20):
    ledger = Ledger(Path(sys.argv[1]) / str(number))
    started = threading.Event()
    threads = [threading.Thread(target=use, args=(ledger, started)) for _ in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    ledger.close()
    for thread in threads:
        thread.join()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache/acquire"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    with closing(Ledger(folder)) as ledger:
        yield ledger


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


class TestRows:
    def test_unsaved_rows_are_not_found(self, ledger: Ledger) -> None:
        assert ledger.find_response("page 1") is None
        assert ledger.find_download(URL) is None
        assert ledger.find_decoding("a digest", "a decoder") is None
        assert ledger.find_quota("pexels") is None

    @pytest.mark.parametrize("body", ["", "{}", 'größer "than" \' -- ;\n\0', "x" * 3_000_000])
    def test_a_response_is_found_unchanged(self, ledger: Ledger, body: str) -> None:
        ledger.save_response("page 1", body)
        ledger.save_response("page 2", "another")
        assert ledger.find_response("page 1") == body

    @pytest.mark.parametrize(
        "download",
        [
            Download("a digest", '"an etag"'),
            Download(reason="HTTP 404"),
            Download(more_than_bytes=2**62),
            Download(),
        ],
    )
    def test_a_download_is_found_unchanged(self, ledger: Ledger, download: Download) -> None:
        ledger.save_download(URL, download)
        ledger.save_download(URL + "4", Download("another"))
        found = ledger.find_download(URL)
        assert found == download
        assert isinstance(found, Download)

    def test_a_decoding_belongs_to_a_photo_and_a_decoder(self, ledger: Ledger) -> None:
        saved = {
            ("one", "old"): Decoding(4, 3, "jpg"),
            ("one", "new"): Decoding(0, 0, "", "broken"),
            ("two", "old"): Decoding(8, 6, "png"),
        }
        for (sha256, decoder), decoding in saved.items():
            ledger.save_decoding(sha256, decoder, decoding)
        assert {key: ledger.find_decoding(*key) for key in saved} == saved
        assert ledger.find_decoding("two", "new") is None

    def test_a_quota_is_found_unchanged(self, ledger: Ledger) -> None:
        ledger.save_quota("pexels", Quota(20_000, 19_684, 1_789_000_000.25))
        assert ledger.find_quota("pexels") == Quota(20_000, 19_684, 1_789_000_000.25)
        assert ledger.find_quota("openverse") is None

    def test_the_last_row_counts(self, ledger: Ledger) -> None:
        for number in range(3):
            ledger.save_response("page 1", f"response {number}")
            ledger.save_download(URL, Download(f"digest {number}"))
            ledger.save_decoding("a digest", "a decoder", Decoding(number, number, "png"))
            ledger.save_quota("pexels", Quota(10, number, 5.0))
        assert ledger.find_response("page 1") == "response 2"
        assert ledger.find_download(URL) == Download("digest 2")
        assert ledger.find_decoding("a digest", "a decoder") == Decoding(2, 2, "png")
        assert ledger.find_quota("pexels") == Quota(10, 2, 5.0)

    def test_a_hostile_url_is_an_ordinary_value(self, ledger: Ledger) -> None:
        url = "'); DROP TABLE downloads; --"
        ledger.save_download(url, Download("a digest"))
        assert ledger.find_download(url) == Download("a digest")


class TestQuota:
    @pytest.mark.parametrize(
        ("quota", "allowed", "left"),
        [
            pytest.param(Quota(20_000, 19_000, 0), 20_000, 19_000, id="all of them are allowed"),
            pytest.param(Quota(20_000, 19_000, 0), 25_000, 19_000, id="more are allowed than exist"),
            pytest.param(Quota(20_000, 19_000, 0), 5_000, 4_000, id="1,000 of 5,000 are used up"),
            pytest.param(Quota(20_000, 15_000, 0), 5_000, 0, id="5,000 of 5,000 are used up"),
            pytest.param(Quota(20_000, 12_000, 0), 5_000, -3_000, id="more are used up than are allowed"),
            pytest.param(Quota(20_000, 0, 0), 20_000, 0, id="none is left"),
        ],
    )
    def test_remaining_requests_of_the_allowed_ones(self, quota: Quota, allowed: int, left: int) -> None:
        assert quota.remaining_of(allowed) == left


class TestOpening:
    def test_rows_are_there_when_it_is_opened_again(self, folder: Path) -> None:
        with closing(Ledger(folder)) as ledger:
            ledger.save_response("page 1", "found")
            ledger.save_download(URL, Download("a digest", '"an etag"'))
            ledger.save_decoding("a digest", "a decoder", Decoding(4, 3, "jpg"))
            ledger.save_quota("pexels", Quota(10, 7, 5.5))
        with closing(Ledger(folder)) as ledger:
            assert ledger.find_response("page 1") == "found"
            assert ledger.find_download(URL) == Download("a digest", '"an etag"')
            assert ledger.find_decoding("a digest", "a decoder") == Decoding(4, 3, "jpg")
            assert ledger.find_quota("pexels") == Quota(10, 7, 5.5)

    def test_rows_are_there_for_another_that_is_open_at_once(self, folder: Path) -> None:
        with closing(Ledger(folder)) as one, closing(Ledger(folder)) as other:
            one.save_download(URL, Download("a digest"))
            assert other.find_download(URL) == Download("a digest")

    def test_several_threads_use_one_at_once(self, ledger: Ledger) -> None:
        def save_and_find(number: int) -> Download | None:
            url = f"{URL}{number}"
            ledger.save_download(url, Download(f"digest {number}"))
            ledger.save_quota("pexels", Quota(1000, number, 0.0))
            return ledger.find_download(url)

        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(save_and_find, range(500)))
        assert found == [Download(f"digest {number}") for number in range(500)]
        assert ledger.find("SELECT count(*) FROM downloads") == (500,)

    def test_two_processes_write_at_once_and_every_row_is_there(self, folder: Path) -> None:
        writers = []
        for name in ("one", "two"):
            writer = start(WRITE_SOME, str(folder), name)
            assert writer.stdout
            assert writer.stdout.readline() == "open\n"
            writers.append(writer)
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            writer.communicate(timeout=60)
        assert [writer.returncode for writer in writers] == [0, 0]
        with closing(Ledger(folder)) as ledger:
            assert ledger.find("SELECT count(*) FROM downloads WHERE sha256 = 'one' AND address != 'shared'") == (200,)
            assert ledger.find("SELECT count(*) FROM downloads WHERE sha256 = 'two' AND address != 'shared'") == (200,)
            assert ledger.find("SELECT count(*) FROM downloads WHERE address = 'shared'") == (1,)

    def test_a_new_one_may_be_opened_by_several_at_once(self, tmp_path: Path) -> None:
        def open_ledger(folder: Path, together: threading.Barrier) -> Ledger:
            together.wait()
            return Ledger(folder)

        ledgers = []
        for number in range(10):
            together = threading.Barrier(8)
            with ThreadPoolExecutor(8) as pool:
                opening = [pool.submit(open_ledger, tmp_path / f"{number}", together) for _ in range(8)]
            ledgers += [future.result() for future in opening]
        for ledger in ledgers:
            ledger.save_response("page 1", "found")
            ledger.close()

    def test_it_may_be_closed_while_other_threads_still_use_it(self, tmp_path: Path) -> None:
        # In another process: an error here crashed the whole process.
        done = subprocess.run([sys.executable, "-c", CLOSE_IN_USE, str(tmp_path)], cwd=ROOT, timeout=100)
        assert done.returncode == 0

    @pytest.mark.parametrize("rows", [1, 40])
    def test_a_kill_between_writes_leaves_a_whole_database_with_every_row(self, folder: Path, rows: int) -> None:
        writer = start(WRITE_ON, str(folder))
        assert writer.stdout
        written = 0
        while written < rows:
            written = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate(timeout=60)
        written = max([written, *map(int, rest.split())])
        assert writer.returncode == -signal.SIGKILL
        with closing(Ledger(folder)) as ledger:
            assert ledger.find("PRAGMA integrity_check") == ("ok",)
            found = [ledger.find_download(f"https://photos.example.org/{number}") for number in range(written)]
            assert found == [Download(str(number)) for number in range(written)]
            assert ledger.find_response(f"page {written - 1}") == "x" * 5000
            ledger.save_download(URL, Download("one more"))
            assert ledger.find_download(URL) == Download("one more")


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [b"this is no database at all, but " * 100, b"SQLite format 3\0" + b"\xff" * 4096],
        ids=["another file", "a broken header"],
    )
    def test_a_damaged_database_is_refused_with_a_fix_and_the_photos_stay(self, folder: Path, content: bytes) -> None:
        with closing(Ledger(folder)) as ledger:
            photo = ledger.photo_file(URL)
        photo.parent.mkdir(parents=True)
        photo.write_bytes(b"photo")
        (folder / DATABASE).write_bytes(content)
        with pytest.raises(StageError) as caught:
            Ledger(folder)
        assert str(caught.value).startswith(f"{folder / DATABASE} is damaged (")
        assert str(caught.value).endswith("): remove it; the photos beside it stay and are reused")
        (folder / DATABASE).unlink()
        with closing(Ledger(folder)) as ledger:
            assert ledger.find_download(URL) is None
            assert ledger.photo_file(URL).read_bytes() == b"photo"

    def test_a_database_of_a_later_version_is_refused_and_left_as_it_is(self, folder: Path) -> None:
        Ledger(folder).close()
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        with pytest.raises(StageError) as caught:
            Ledger(folder)
        assert str(caught.value) == (
            f"{folder / DATABASE} was written by a later version of Darkroom: update Darkroom, or remove the file"
        )
        with closing(sqlite3.connect(folder / DATABASE)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION + 1,)

    def test_damage_found_while_reading_is_refused_with_a_fix(self, folder: Path) -> None:
        with closing(Ledger(folder)) as ledger:
            for number in range(200):
                ledger.save_response(f"page {number}", "x" * 5000)
        # The first page, which is read on opening, stays intact.
        with (folder / DATABASE).open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(8192)
            file.write(b"\xff" * (size - 8192))
        with closing(Ledger(folder)) as ledger, pytest.raises(StageError, match=r"is damaged \(.*\): remove it"):
            ledger.find_response("page 0")

    def test_a_database_that_cannot_be_opened_is_not_called_damaged(self, folder: Path) -> None:
        (folder / DATABASE).mkdir(parents=True)
        with pytest.raises(StageError, match=f"^{re.escape(str(folder / DATABASE))} cannot be"):
            Ledger(folder)


class TestFiles:
    @given(st.lists(st.text(), unique=True, max_size=20))
    def test_a_photo_is_inside_the_folder_for_every_url(
        self, tmp_path_factory: pytest.TempPathFactory, urls: list[str]
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "hypothesis ledger"
        with closing(Ledger(folder)) as ledger:
            files = [ledger.photo_file(url) for url in urls]
            assert files == [ledger.photo_file(url) for url in urls]
        assert all(file.parent.parent == folder / "photos" for file in files)
        assert all(file.name.isalnum() and file.parent.name.isalnum() for file in files)
        assert len(set(files)) == len(urls)

    @pytest.mark.parametrize("url", ["../../../etc/passwd", "/etc/passwd", "", ".", "x" * 10_000, "a\0b", "\n"])
    def test_a_photo_of_an_odd_url_can_be_written_inside_the_folder(
        self, ledger: Ledger, folder: Path, url: str
    ) -> None:
        file = ledger.photo_file(url)
        file.parent.mkdir(parents=True)
        file.write_bytes(b"photo")
        assert file.resolve().is_relative_to((folder / "photos").resolve())

    def test_a_photo_has_the_same_path_as_in_earlier_versions(self, ledger: Ledger, folder: Path) -> None:
        name = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert ledger.photo_file("abc") == folder / "photos" / "ba" / name

    def test_partial_files_have_different_paths_and_can_be_removed_together(self, ledger: Ledger) -> None:
        with ThreadPoolExecutor(16) as pool:
            files = list(pool.map(lambda _: ledger.partial_file(), range(100)))
        assert len(set(files)) == 100
        for file in files:
            file.write_bytes(b"half a photo")
        ledger.save_download(URL, Download("a digest"))
        ledger.remove_partial_files()
        assert not any(file.exists() for file in files)
        assert ledger.find_download(URL) == Download("a digest")
        ledger.partial_file().write_bytes(b"another")

    def test_there_may_be_no_partial_files_to_remove(self, ledger: Ledger, folder: Path) -> None:
        ledger.remove_partial_files()
        assert not (folder / "partial").exists()


class TestFolder:
    def test_it_is_in_the_project(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DVC_ROOT", raising=False)
        assert ledger_folder().resolve() == workspace.resolve() / ".cache/acquire"

    def test_an_experiment_in_another_folder_uses_the_ledger_of_its_project(
        self, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        project = tmp_path_factory.mktemp("project")
        monkeypatch.setenv("DVC_ROOT", str(project))
        assert ledger_folder() == project / ".cache/acquire"
        assert not ledger_folder().is_relative_to(workspace)

    def test_an_empty_project_variable_is_ignored(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DVC_ROOT", "")
        assert ledger_folder().resolve() == workspace.resolve() / ".cache/acquire"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("redirects to an address that is not on an allowed host: b", "redirect refused, host not allowed: b"),
        ("redirects to an address that is not an https address: ftp", "redirect refused, not an https URL: ftp"),
        ("redirects to an address that is not an address", "redirect refused, invalid URL"),
        ("redirects", "redirect refused"),
        ("no whole answer", "no complete response"),
        ("HTTP 404", "HTTP 404"),
    ],
)
def test_reasons_of_an_earlier_version_are_reworded(tmp_path: Path, old: str, new: str) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.save_download("https://a/1", Download(reason=old))
    reopen_as_version_1(tmp_path)
    with closing(Ledger(tmp_path)) as ledger:
        found = ledger.find_download("https://a/1")
    assert found is not None
    assert found.reason == new


def test_an_interrupted_refresh_of_an_earlier_version_keeps_its_changes(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.replace_download("https://a/1", Download(), "not usable at the source any more, kept as they were", 1)
    reopen_as_version_1(tmp_path)
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.find_refreshed("https://a/1", 0) == UNUSABLE


def reopen_as_version_1(folder: Path) -> None:
    with closing(sqlite3.connect(folder / DATABASE)) as database:
        database.execute("PRAGMA user_version = 1")
