import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from stages.acquire import main, open_source, take_photo, take_photos, write_credits
from stages.lib.dataset import read_photos
from stages.lib.files import read_table, write_bytes
from stages.lib.images import FORMAT_ENDINGS, ImageError
from stages.lib.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_METRICS,
    ACQUIRE_PHOTOS,
    ACQUIRE_PHOTOS_FOLDER,
    ACQUIRE_REJECTED,
)
from stages.lib.sources.candidate import Candidate
from stages.lib.sources.folder import list_folder
from stages.lib.stage import StageError
from tests.lib.examples import encode, noise, photo_row

PICTURE = encode(noise(3, 4))
BAD_LABELS = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    ".hidden",
    "x.",
    " x",
    "x ",
    "a:b",
    "a\nb",
    "a\x00",
    "?",
    "*",
    "ü" * 101,
]
GOOD_LABELS = ["x", "Great Dane", "x.y", "a-b_c", "Bär", "日本", "0", "ü" * 100, "it's", "a,b", "(1)"]


def candidate(photo: str, label: str, content: bytes = PICTURE) -> Candidate:
    return Candidate(photo, label, lambda: content, "folder")


def candidates(*named: tuple[str, bytes]) -> list[Candidate]:
    """Candidates of the class "cat", and a picture of the class "dog", because one class alone is refused."""
    cats = [candidate(photo, "cat", content) for photo, content in named]
    return [*cats, candidate("dog-1", "dog")]


class TestTaking:
    @pytest.mark.parametrize("name", FORMAT_ENDINGS)
    def test_a_photo_keeps_its_bytes_and_gets_the_ending_of_its_format(self, tmp_path: Path, name: str) -> None:
        frames = {"save_all": True, "append_images": [Image.new("RGB", (4, 3))]} if name == "MPO" else {}
        content = encode(Image.fromarray(noise(3, 4)), name, **frames)
        row = take_photo(candidate("cat-1", "cat", content), tmp_path)
        assert row.file == f"photos/cat/cat-1.{FORMAT_ENDINGS[name]}"
        assert (tmp_path / row.file).read_bytes() == content
        assert row.sha256 == hashlib.sha256(content).hexdigest()
        assert (row.width, row.height) == (4, 3)

    def test_the_size_is_that_of_the_upright_photo(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        row = take_photo(candidate("cat-1", "cat", encode(noise(3, 4), "JPEG", exif=exif)), tmp_path)
        assert (row.width, row.height) == (3, 4)

    def test_what_the_source_says_is_kept(self, tmp_path: Path) -> None:
        origin = {
            "source": "somewhere",
            "creator": "A. Person",
            "creator_url": "https://example.org/a",
            "page_url": "https://example.org/a/1",
            "licence": "CC BY 4.0",
            "given_subset": "test",
        }
        row = take_photo(Candidate("cat-1", "cat", lambda: PICTURE, **origin), tmp_path)
        assert {name: value for name, value in row._asdict().items() if name in origin} == origin
        assert (row.photo, row.label) == ("cat-1", "cat")

    def test_photos_are_sorted_by_their_names(self, tmp_path: Path) -> None:
        photos, _ = take_photos(candidates(("cat-2", PICTURE), ("cat-10", PICTURE), ("cat-1", PICTURE)), None, tmp_path)
        assert [row.photo for row in photos] == ["cat-1", "cat-10", "cat-2", "dog-1"]

    def test_a_broken_image_becomes_a_rejected_row(self, tmp_path: Path) -> None:
        photos, rejected = take_photos(
            candidates(("cat-1", PICTURE), ("cat-3", PICTURE[:50]), ("cat-2", b"")), None, tmp_path
        )
        assert [row.photo for row in photos] == ["cat-1", "dog-1"]
        assert [(row.photo, row.label) for row in rejected] == [("cat-2", "cat"), ("cat-3", "cat")]
        assert [row.reason.partition(":")[0] for row in rejected] == ["the file is empty", "broken"]
        assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["cat-1.png", "dog-1.png"]

    def test_a_picture_without_a_known_range_becomes_a_rejected_row(self, tmp_path: Path) -> None:
        content = encode(Image.new("F", (4, 3)), "TIFF")
        with pytest.raises(ImageError):
            take_photo(candidate("cat-2", "cat", content), tmp_path)
        _, (rejected,) = take_photos(candidates(("cat-1", PICTURE), ("cat-2", content)), None, tmp_path)
        assert (rejected.photo, rejected.reason) == ("cat-2", "pixels are floats of no known range")

    def test_only_usable_photos_count_towards_the_number_per_class(self, tmp_path: Path) -> None:
        cats = [(f"cat-{number}", b"" if number < 2 else PICTURE) for number in range(5)]
        photos, rejected = take_photos(candidates(*cats), 2, tmp_path)
        assert [row.photo for row in photos] == ["cat-2", "cat-3", "dog-1"]
        assert [row.photo for row in rejected] == ["cat-0", "cat-1"]

    def test_candidates_beyond_the_number_per_class_are_not_read(self, tmp_path: Path) -> None:
        read: list[str] = []

        def noted(photo: str) -> Callable[[], bytes]:
            return lambda: read.append(photo) or PICTURE

        cats = [Candidate(f"cat-{number}", "cat", noted(f"cat-{number}"), "folder") for number in range(4)]
        take_photos([*cats, candidate("dog-1", "dog")], 2, tmp_path)
        assert read == ["cat-0", "cat-1"]

    def test_the_same_source_gives_the_same_rows_and_bytes(self, tmp_path: Path, drawn_photos: Path) -> None:
        rows = [take_photos(list_folder(drawn_photos, {}), 5, tmp_path / name) for name in ("first", "again")]
        assert rows[0] == rows[1]
        first, again = (
            {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.png")}
            for name in ("first", "again")
        )
        assert first == again
        assert len(first) == 15

    @pytest.mark.parametrize("label", GOOD_LABELS)
    def test_a_label_that_can_be_a_folder_is_taken(self, tmp_path: Path, label: str) -> None:
        photos, _ = take_photos([candidate("1", label), candidate("2", "dog")], None, tmp_path)
        assert (tmp_path / f"photos/{label}/1.png").read_bytes() == PICTURE
        assert photos[0].label == label


class TestFaults:
    @pytest.mark.parametrize("label", BAD_LABELS, ids=repr)
    def test_a_label_that_cannot_be_a_folder_is_refused(self, tmp_path: Path, label: str) -> None:
        with pytest.raises(StageError) as caught:
            take_photos([candidate("cat-1", label), candidate("dog-1", "dog")], None, tmp_path / "out")
        assert str(caught.value) == (
            f"label {label!r} cannot be a folder's name: expected 1 to 200 bytes without any of "
            '< > : " / \\ | ? * or unprintable characters, not beginning or ending with a dot or a space; rename it'
        )
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("photo", ["../../x", "10:20", "dots.", "a\nb", "x" * 201, "\udcff"])
    def test_a_photo_whose_name_no_file_can_bear_is_rejected_and_the_run_goes_on(
        self, tmp_path: Path, photo: str
    ) -> None:
        candidates = [candidate(photo, "cat"), candidate("cat-1", "cat"), candidate("dog-1", "dog")]
        photos, rejected = take_photos(candidates, None, tmp_path / "out")
        assert [row.photo for row in photos] == ["cat-1", "dog-1"]
        assert [row.reason[:29] for row in rejected] == ["the name cannot be a file's: "]
        rejected[0].photo.encode()
        assert {path.name for path in tmp_path.iterdir()} == {"out"}

    def test_two_photos_of_one_name_are_refused(self, tmp_path: Path) -> None:
        """Else the split would take them for one, and put the rows of both where the one belongs."""
        for file in ("cat/big-1.png", "cat-big/1.png"):
            write_bytes(tmp_path / "photos" / file, PICTURE)
        with pytest.raises(StageError, match="'cat-big-1'.*rename"):
            take_photos(list_folder(tmp_path / "photos", {}), None, tmp_path / "out")

    @pytest.mark.parametrize(("labels", "got"), [(["cat", "cat"], "cat"), ([], "none")])
    def test_less_than_two_classes_are_refused(self, tmp_path: Path, labels: list[str], got: str) -> None:
        with pytest.raises(StageError) as caught:
            take_photos([candidate(f"{n}", label) for n, label in enumerate(labels)], None, tmp_path)
        assert str(caught.value) == f"expected photos of at least two classes, got {got}; add a class"

    def test_a_class_without_a_usable_photo_is_refused(self, tmp_path: Path) -> None:
        broken = [candidate("cat-1", "cat", b""), candidate("ant-1", "ant", b"no picture"), candidate("bee-1", "bee")]
        with pytest.raises(StageError) as caught:
            take_photos([*broken, candidate("dog-1", "dog")], None, tmp_path)
        assert str(caught.value) == "no usable photo for ant, cat; the first reason: cat-1: the file is empty"


class TestCredits:
    def test_photos_of_one_origin_share_a_line(self) -> None:
        origin = {"source": "digits", "creator": "A. Person", "page_url": "https://example.org", "licence": "CC BY 4.0"}
        photos = [photo_row("a-1", "a", **origin), photo_row("b-1", "b", **origin), photo_row("c-1", "c")]
        assert write_credits(photos) == (
            "# Credits\n"
            "\n"
            "3 photos.\n"
            "\n"
            "* 2 from the source `digits`: [A. Person](https://example.org), CC BY 4.0\n"
            "\n"
            "* 1 from the source `folder`: creator not known, licence not known\n"
        )

    def test_a_creator_without_a_page_is_named(self) -> None:
        assert "`folder`: A. Person, licence not known" in write_credits([photo_row(creator="A. Person")])

    def test_the_text_does_not_depend_on_the_order_of_the_photos(self) -> None:
        photos = [photo_row(f"cat-{number}", creator=f"person {number % 3}") for number in range(7)]
        assert write_credits(photos) == write_credits(photos[::-1])


class TestSources:
    def test_a_folder_may_be_relative_to_the_project(self, workspace: Path, drawn_photos: Path) -> None:
        found = {candidate.label for candidate in open_source("folder", str(drawn_photos.relative_to(workspace)), {})}
        assert found == {"circle", "square", "triangle"}

    def test_the_digits_need_no_folder(self) -> None:
        assert {candidate.source for candidate in open_source("digits", "nowhere", {"a": "0"})} == {"digits"}


def test_the_stage_writes_its_outputs(workspace: Path, drawn_photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (drawn_photos / "circle/broken.png").write_bytes(b"no picture")
    (workspace / "params.yaml").write_text(
        "acquire: {source: folder, folder: drawn, classes: {round: circle, flat: square}, photos_per_class: null}\n"
    )
    write_bytes(ACQUIRE_PHOTOS_FOLDER / "star/of-an-earlier-run.png", PICTURE)
    main()
    photos = read_photos(ACQUIRE_PHOTOS)
    assert [(row.photo, row.label) for row in photos] == [
        (f"{label}-{number:03d}", label) for label in ("flat", "round") for number in range(12)
    ]
    files = {path.relative_to("data/acquire").as_posix() for path in ACQUIRE_PHOTOS_FOLDER.rglob("*.*")}
    assert files == {row.file for row in photos}
    assert [row["photo"] for row in read_table(ACQUIRE_REJECTED, ("photo", "label", "reason"))] == ["round-broken"]
    assert json.loads(ACQUIRE_METRICS.read_text()) == {"labels": 2, "photos_taken": 24, "photos_rejected": 1}
    assert ACQUIRE_CREDITS.read_text() == write_credits(photos)
    assert capfd.readouterr().out == (
        "acquire: 24 photos of 2 labels from folder -> data/acquire/photos, "
        "1 rejected (see data/acquire/rejected.csv)\n"
    )
