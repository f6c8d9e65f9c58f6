import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from stages import acquire
from stages.augment import check_disk, list_rows, main, read_pixels, reserve_disk, write_images
from stages.lib.dataset import ImageRow, PhotoRow, read_index, read_photos
from stages.lib.images import Variant, draw_variants, list_variants, prepare_image
from stages.lib.paths import ACQUIRE_FOLDER, ACQUIRE_PHOTOS, AUGMENT_IMAGES, AUGMENT_INDEX, AUGMENT_METRICS
from stages.lib.stage import StageError
from tests.lib.examples import photo_row
from tests.project import ROOT, write_params

VARIANTS = list_variants([-12, 90], horizontal_flip=True, vertical_flip=False)


@pytest.fixture
def photos(workspace: Path, drawn_photos: Path) -> list[PhotoRow]:
    """Twelve photos, laid out as the stage before does."""
    assert workspace == Path.cwd()
    write_params(
        ROOT / "recipes/guitars.yaml", folder=str(drawn_photos), classes={}, photos_per_class=4, minimum_side=1
    )
    acquire.main()
    return read_photos(ACQUIRE_PHOTOS)


def expected_images(photos: Sequence[PhotoRow], variants: Sequence[Variant], *preparation: object) -> np.ndarray:
    drawn = [
        draw_variants(prepare_image((ACQUIRE_FOLDER / row.file).read_bytes(), *preparation), variants) for row in photos
    ]
    return np.concatenate(drawn)


class Deadly:
    """Ends the process that unpickles it, as the system ends one for lack of memory."""

    def __reduce__(self) -> tuple:
        return os._exit, (1,)


class TestImages:
    @pytest.mark.parametrize(("resize", "color", "channels"), [("crop", "rgb", 3), ("pad", "gray", 1)])
    def test_the_rows_are_the_variants_of_each_photo(
        self, photos: list[PhotoRow], resize: str, color: str, channels: int
    ) -> None:
        shape = write_images(photos, VARIANTS, (10, 14), resize, color, AUGMENT_IMAGES)
        images = np.load(AUGMENT_IMAGES)
        assert shape == images.shape == (12 * 6, 10, 14, channels)
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        np.testing.assert_array_equal(images, expected_images(photos, VARIANTS, (10, 14), resize, color))
        assert [path.name for path in AUGMENT_IMAGES.parent.iterdir()] == ["images.npy"]

    @pytest.mark.parametrize(
        ("content", "reason"), [(b"", "the file is empty"), (None, "No such file")], ids=["emptied", "removed"]
    )
    def test_a_photo_that_cannot_be_read_ends_the_stage_and_leaves_nothing(
        self, photos: list[PhotoRow], content: bytes | None, reason: str
    ) -> None:
        file = ACQUIRE_FOLDER / photos[5].file
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(StageError) as caught:
            write_images(photos, VARIANTS, (4, 4), "stretch", "rgb", AUGMENT_IMAGES)
        assert str(caught.value).startswith(f"{file}: ")
        assert reason in str(caught.value)
        assert str(caught.value).endswith(
            "the acquired photos were changed by hand: `dvc repro --force --single-item acquire`"
        )
        assert not list(AUGMENT_IMAGES.parent.iterdir())

    def test_a_worker_that_was_ended_from_outside_becomes_one_line(self, photos: list[PhotoRow]) -> None:
        with pytest.raises(StageError) as caught:
            write_images(photos, VARIANTS, (4, 4), Deadly(), "rgb", AUGMENT_IMAGES)
        assert str(caught.value) == (
            "a worker process was ended from outside, most likely for lack of memory; end other programs or turn "
            "augment.image_size down, then run `dvc repro` again"
        )
        assert not list(AUGMENT_IMAGES.parent.iterdir())

    def test_pixels_are_those_that_prediction_sees(self, photos: list[PhotoRow]) -> None:
        file = ACQUIRE_FOLDER / photos[0].file
        np.testing.assert_array_equal(
            read_pixels(file, (5, 6), "pad", "gray"), prepare_image(file.read_bytes(), (5, 6), "pad", "gray")
        )


class TestDisk:
    def test_more_than_the_disk_has_is_refused_with_the_arithmetic(self, workspace: Path) -> None:
        assert workspace == Path.cwd()
        with pytest.raises(StageError) as caught:
            check_disk((10**9, 4096, 2048, 3), AUGMENT_IMAGES)
        message = str(caught.value)
        assert message.startswith(
            "data/augment/images.npy needs 1000000000 rows x 4096 x 2048 x 3 bytes = 25,165,824,000.0 MB, but "
        )
        assert message.endswith(
            " MB are free there; free some space, or turn augment.image_size, augment.rotation_degrees or "
            "acquire.photos_per_class down"
        )

    def test_nothing_is_written_when_the_disk_is_too_small(self, workspace: Path) -> None:
        rows = [photo_row()] * 2
        with pytest.raises(StageError, match="MB are free"):
            write_images(rows, VARIANTS * 10**6, (4096, 4096), "stretch", "rgb", AUGMENT_IMAGES)
        assert not [path for path in workspace.rglob("*") if path.is_file()]

    def test_what_fits_passes_and_the_folder_is_there(self, workspace: Path) -> None:
        check_disk((10, 4, 4, 3), AUGMENT_IMAGES)
        assert (workspace / AUGMENT_IMAGES).parent.is_dir()

    @pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve blocks")
    def test_the_blocks_of_a_file_with_holes_are_reserved(self, tmp_path: Path) -> None:
        path = tmp_path / "images.npy"
        with path.open("wb") as file:
            file.write(b"header")
            file.truncate(1_000_000)
        reserve_disk(path)
        assert path.stat().st_blocks * 512 >= 1_000_000
        assert path.read_bytes() == b"header" + bytes(1_000_000 - 6)


def test_the_index_has_a_row_per_image_with_the_original_first() -> None:
    variants = [Variant(0, "none"), Variant(90, "none"), Variant(0, "horizontal")]
    rows = list_rows([photo_row("cat-1", "cat"), photo_row("dog-1", "dog")], variants)
    assert rows == [
        ImageRow("cat-1", "cat", 0, "none"),
        ImageRow("cat-1", "cat", 90, "none"),
        ImageRow("cat-1", "cat", 0, "horizontal"),
        ImageRow("dog-1", "dog", 0, "none"),
        ImageRow("dog-1", "dog", 90, "none"),
        ImageRow("dog-1", "dog", 0, "horizontal"),
    ]
    assert [row.is_original for row in rows] == [True, False, False] * 2


def test_the_stage_writes_its_outputs(photos: list[PhotoRow], capfd: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(
        "augment: {image_size: [6, 8], resize: stretch, color: rgb, rotation_degrees: [15], horizontal_flip: true, "
        "vertical_flip: false}\n"
    )
    main()
    variants = list_variants([15], horizontal_flip=True, vertical_flip=False)
    assert read_index(AUGMENT_INDEX) == list_rows(photos, variants)
    np.testing.assert_array_equal(np.load(AUGMENT_IMAGES), expected_images(photos, variants, (6, 8), "stretch", "rgb"))
    assert json.loads(AUGMENT_METRICS.read_text()) == {"images": 48, "images_megabytes": 0.007, "variants": 4}
    assert capfd.readouterr().out == (
        "augment: 12 photos x 4 variants -> data/augment/images.npy 48 x 6 x 8 x 3, 0.007 MB\n"
    )
