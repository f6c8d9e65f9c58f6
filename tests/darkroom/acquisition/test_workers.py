import hashlib
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable, raise_unavailable
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.selection import Selection, Workers
from darkroom.acquisition.sources.folder import list_folder
from darkroom.acquisition.workers import PHOTOS_PER_TASK, discard_photo, open_processes, open_threads, store_photo
from darkroom.photos.formats import FORMAT_EXTENSIONS
from darkroom.photos.images import ImageError
from darkroom.pipeline.dataset import PhotoRow, RejectedRow
from tests.examples import encode, noise
from tests.project import draw_photos

PHOTO = encode(noise(3, 4))


def candidate(content: bytes = PHOTO, photo: str = "cat-1", **origin: str) -> Candidate:
    return Candidate(photo, "cat", lambda _: content, **({"source": "folder"} | origin))


@pytest.fixture
def check(tmp_path: Path) -> Iterator[PhotoCheck]:
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        yield PhotoCheck(ledger, PhotoLimits(2, 1000, 2000))


class TestStorePhoto:
    @pytest.mark.parametrize("name", FORMAT_EXTENSIONS)
    def test_a_photo_keeps_its_bytes_and_gets_the_extension_of_its_format(
        self, tmp_path: Path, check: PhotoCheck, name: str
    ) -> None:
        frames = {"save_all": True, "append_images": [Image.new("RGB", (4, 3))]} if name == "MPO" else {}
        content = encode(Image.fromarray(noise(3, 4)), name, **frames)
        row = store_photo(candidate(content), check, tmp_path)
        assert row.file == f"photos/cat/cat-1.{FORMAT_EXTENSIONS[name]}"
        assert (tmp_path / row.file).read_bytes() == content
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        assert (row.width, row.height) == (4, 3)

    def test_the_size_is_that_of_the_upright_photo(self, tmp_path: Path, check: PhotoCheck) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        row = store_photo(candidate(encode(noise(3, 4), "JPEG", exif=exif)), check, tmp_path)
        assert (row.width, row.height) == (3, 4)

    def test_the_origin_is_recorded(self, tmp_path: Path, check: PhotoCheck) -> None:
        origin = {
            "source": "somewhere",
            "creator": "A. Person",
            "creator_url": "https://example.org/a",
            "page_url": "https://example.org/a/1",
            "license": "CC BY 4.0",
            "given_subset": "test",
        }
        row = store_photo(candidate(**origin), check, tmp_path)
        assert {name: value for name, value in row._asdict().items() if name in origin} == origin
        assert (row.photo, row.label) == ("cat-1", "cat")

    def test_the_limit_of_bytes_is_passed_to_the_source(self, tmp_path: Path, check: PhotoCheck) -> None:
        requested: list[int] = []
        store_photo(Candidate("cat-1", "cat", lambda size: requested.append(size) or PHOTO, "folder"), check, tmp_path)
        assert requested == [2000]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "the file is empty"),
            (b"no image", "not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file"),
            (PHOTO[:50], "broken: "),
            (encode(Image.new("F", (4, 3)), "TIFF"), "pixels are floats of unknown range"),
            (encode(noise(1, 9)), "smaller than 2 pixels: 9 x 1"),
            (encode(Image.new("L", (101, 10))), "claims more than 1000 pixels"),
        ],
        ids=["empty", "no image", "broken", "floats", "small", "large"],
    )
    def test_an_unusable_photo_is_refused_with_its_reason_and_writes_nothing(
        self, tmp_path: Path, check: PhotoCheck, content: bytes, reason: str
    ) -> None:
        with pytest.raises(ImageError) as caught:
            store_photo(candidate(content), check, tmp_path / "out")
        assert str(caught.value).startswith(reason)
        assert not (tmp_path / "out").exists()

    def test_an_unavailable_photo_is_reported(self, tmp_path: Path, check: PhotoCheck) -> None:
        gone = Candidate("cat-1", "cat", lambda size: raise_unavailable("HTTP 404", size), "pexels")
        with pytest.raises(PhotoUnavailable, match="^HTTP 404$"):
            store_photo(gone, check, tmp_path)


class TestWorkers:
    def test_processes_take_what_a_thread_takes(self, tmp_path: Path, check: PhotoCheck) -> None:
        photos = tmp_path / "photos"
        draw_photos(photos, photos_per_class=PHOTOS_PER_TASK + 5)
        (photos / "square/000.png").write_bytes(b"no image")
        (photos / "square/001.png").write_bytes(PHOTO * 100)
        in_thread, in_processes = tmp_path / "thread", tmp_path / "processes"
        with open_threads(check, in_thread, 1, lambda: None) as workers:
            expected = take(photos, workers)
        other = PhotoCheck(check.ledger, check.limits)
        with open_processes(other, in_processes, 120) as workers:
            taken = take(photos, workers)
        assert taken == expected
        assert len(taken[0]) == 3 * (PHOTOS_PER_TASK + 5) - 2
        assert [row.reason for row in taken[1]] == [
            "not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file",
            "larger than allowed: more than 2000 bytes",
        ]
        assert stored_files(in_processes) == stored_files(in_thread)

    def test_threads_are_stopped_and_waited_for(self, tmp_path: Path, check: PhotoCheck) -> None:
        reported: list[str] = []

        def read(_: int) -> bytes:
            started.set()
            assert stopped.wait(60)
            reported.append("read to its end")
            return PHOTO

        started, stopped = threading.Event(), threading.Event()
        with open_threads(check, tmp_path / "out", 2, stopped.set) as workers:
            workers.pool.submit(workers.take, [Candidate("cat-1", "cat", read, "pexels")])
            assert started.wait(60)
        assert reported == ["read to its end"]


def take(photos: Path, workers: Workers) -> tuple[list[PhotoRow], list[RejectedRow]]:
    listing = list_folder(photos, {}, "folder", None, {})
    return Selection(listing.candidates, None, lambda _: None).run(workers, lambda _: None)


def stored_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_a_discarded_photo_leaves_no_file(tmp_path: Path, check: PhotoCheck) -> None:
    row = store_photo(candidate(), check, tmp_path / "out")
    assert list(stored_files(tmp_path / "out")) == [row.file]
    discard_photo(row, tmp_path / "out")
    assert stored_files(tmp_path / "out") == {}
