import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.contact_sheet import SheetRow, draw_contact_sheet
from darkroom.params.augment import AugmentParams
from darkroom.photos.images import prepare_image
from darkroom.photos.variants import Variant, caption_variant, draw_variants, list_variants
from darkroom.pipeline.dataset import ImageRow, PhotoRow, StoredImages, read_index, read_photos
from darkroom.pipeline.paths import (
    ACQUIRE_FOLDER,
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    AUGMENT_METRICS,
    AUGMENT_PREVIEW,
)
from darkroom.pipeline.processors import count_processors
from darkroom.pipeline.stage import StageError
from stages import acquire
from stages.augment import (
    PREVIEW_COLUMNS,
    check_disk,
    draw_photo_variants,
    draw_preview,
    list_index,
    main,
    make_drawing,
    reserve_disk,
    write_images,
    write_photo,
)
from tests.examples import photo_row
from tests.imports import loaded_modules
from tests.project import draw_photos, write_params

VARIANTS = list_variants([-12, 90], horizontal_flip=True, vertical_flip=False)
PARAMS = AugmentParams(
    image_size=[4, 4],
    resize="stretch",
    resampling="bilinear",
    color="rgb",
    rotation_degrees=[-12, 90],
    fill_mode="constant",
    horizontal_flip=True,
    vertical_flip=False,
)
DRAWING = make_drawing(PARAMS, VARIANTS)


@pytest.fixture(scope="module")
def acquired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the stage acquire has run."""
    folder = tmp_path_factory.mktemp("acquired")
    draw_photos(folder / "drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params("guitars_six", folder="drawn", classes={}, photos_per_class=4, minimum_side=1)
        acquire.main()
    return folder


@pytest.fixture
def photos(workspace: Path, acquired: Path) -> list[PhotoRow]:
    """Twelve photos, as written by the stage acquire."""
    shutil.copytree(acquired / ACQUIRE_FOLDER, workspace / ACQUIRE_FOLDER)
    return read_photos(ACQUIRE_PHOTOS)


def expected_images(photos: Sequence[PhotoRow], params: AugmentParams, variants: Sequence[Variant]) -> np.ndarray:
    preparation = params.image_size, params.resize, params.resampling, params.color
    pixels = [prepare_image((ACQUIRE_FOLDER / row.file).read_bytes(), *preparation) for row in photos]
    return np.concatenate([draw_variants(each, variants, params.resampling, params.fill_mode) for each in pixels])


@contextmanager
def use_processors(count: int | None) -> Iterator[None]:
    """Restrict this process and those that it starts to `count` processors; None allows all."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(usable)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


class ProcessKiller:
    """Ends the process that unpickles it, as the system does when memory runs out."""

    def __reduce__(self) -> tuple:
        return os._exit, (1,)


class TestImages:
    @pytest.mark.parametrize("processors", [None, 1], ids=["in processes", "in this process"])
    @pytest.mark.parametrize(
        ("resize", "resampling", "color", "channels", "fill_mode"),
        [("crop", "bilinear", "rgb", 3, "reflect"), ("pad", "nearest", "gray", 1, "edge")],
    )
    def test_the_images_are_the_variants_of_each_photo(
        self,
        photos: list[PhotoRow],
        resize: str,
        resampling: str,
        color: str,
        channels: int,
        fill_mode: str,
        processors: int | None,
    ) -> None:
        choices = {"resize": resize, "resampling": resampling, "color": color, "fill_mode": fill_mode}
        params = PARAMS.model_copy(update=choices | {"image_size": [10, 14]})
        with use_processors(processors):
            shape = write_images(photos, make_drawing(params, VARIANTS), AUGMENT_IMAGES)
        images = np.load(AUGMENT_IMAGES)
        assert shape == images.shape == (12 * 6, 10, 14, channels)
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        np.testing.assert_array_equal(images, expected_images(photos, params, VARIANTS))
        assert [path.name for path in AUGMENT_IMAGES.parent.iterdir()] == ["images.npy"]

    @pytest.mark.parametrize("processors", [None, 1], ids=["in processes", "in this process"])
    @pytest.mark.parametrize(
        ("content", "reason"), [(b"", "the file is empty"), (None, "No such file")], ids=["emptied", "removed"]
    )
    def test_an_unreadable_photo_is_an_error_and_nothing_is_written(
        self, photos: list[PhotoRow], content: bytes | None, reason: str, processors: int | None
    ) -> None:
        file = ACQUIRE_FOLDER / photos[5].file
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with use_processors(processors), pytest.raises(StageError) as caught:
            write_images(photos, DRAWING, AUGMENT_IMAGES)
        assert str(caught.value).startswith(f"{file}: ")
        assert reason in str(caught.value)
        assert str(caught.value).endswith(
            "an acquired photo was changed or removed; restore it with `dvc repro --force --single-item acquire`"
        )
        assert not list(AUGMENT_IMAGES.parent.iterdir())

    @pytest.mark.skipif(count_processors() == 1, reason="on a single processor there are no workers")
    def test_a_killed_worker_is_an_error_of_one_line(self, photos: list[PhotoRow]) -> None:
        with pytest.raises(StageError) as caught:
            write_images(photos, DRAWING._replace(draw=ProcessKiller()), AUGMENT_IMAGES)
        assert str(caught.value) == (
            "a worker process was killed, most likely because memory ran out; close other programs or reduce "
            "augment.image_size, then run `dvc repro` again"
        )
        assert not list(AUGMENT_IMAGES.parent.iterdir())

    def test_the_first_image_is_prepared_as_for_prediction(self, photos: list[PhotoRow]) -> None:
        file = ACQUIRE_FOLDER / photos[0].file
        choices = {"image_size": [5, 6], "resize": "pad", "resampling": "lanczos", "color": "gray"}
        drawing = make_drawing(PARAMS.model_copy(update=choices), VARIANTS)
        np.testing.assert_array_equal(
            draw_photo_variants(file, drawing)[0], prepare_image(file.read_bytes(), (5, 6), "pad", "lanczos", "gray")
        )

    def test_a_photo_is_written_only_to_its_own_place(self, photos: list[PhotoRow], tmp_path: Path) -> None:
        path, size = tmp_path / "rows", len(VARIANTS) * 4 * 4 * 3
        path.write_bytes(b"\xee" * (7 + 3 * size))
        write_photo((1, photos[0]), DRAWING, path, 7)
        content = path.read_bytes()
        assert content[: 7 + size] == b"\xee" * (7 + size)
        assert content[7 + size : 7 + 2 * size] == expected_images(photos[:1], PARAMS, VARIANTS).tobytes()
        assert content[7 + 2 * size :] == b"\xee" * size


class TestDisk:
    def test_the_error_for_too_little_disk_space_shows_the_calculation(self, workspace: Path) -> None:
        assert workspace == Path.cwd()
        with pytest.raises(StageError) as caught:
            check_disk((10**9, 4096, 2048, 3), AUGMENT_IMAGES)
        message = str(caught.value)
        assert message.startswith(
            "data/augment/images.npy needs 1000000000 images x 4096 x 2048 x 3 bytes = 25,165,824,000.0 MB, but only "
        )
        assert message.endswith(
            " MB are free there; free some space, or reduce augment.image_size, augment.rotation_degrees or "
            "acquire.photos_per_class"
        )

    def test_nothing_is_written_if_the_disk_is_too_small(self, workspace: Path) -> None:
        rows = [photo_row()] * 2
        with pytest.raises(StageError, match="MB are free"):
            write_images(rows, DRAWING._replace(shape=(10**6, 4096, 4096, 3)), AUGMENT_IMAGES)
        assert not [path for path in workspace.rglob("*") if path.is_file()]

    def test_an_array_that_fits_passes_and_its_folder_is_created(self, workspace: Path) -> None:
        check_disk((10, 4, 4, 3), AUGMENT_IMAGES)
        assert (workspace / AUGMENT_IMAGES).parent.is_dir()

    @pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve blocks")
    def test_the_blocks_of_a_sparse_file_are_reserved(self, tmp_path: Path) -> None:
        path = tmp_path / "images.npy"
        with path.open("wb") as file:
            file.write(b"header")
            file.truncate(1_000_000)
        reserve_disk(path)
        assert path.stat().st_blocks * 512 >= 1_000_000
        assert path.read_bytes() == b"header" + bytes(1_000_000 - 6)


def test_the_index_has_a_row_per_image_with_the_original_first() -> None:
    variants = [Variant(0, "none"), Variant(90, "none"), Variant(0, "horizontal")]
    rows = list_index([photo_row("cat-1", "cat"), photo_row("dog-1", "dog")], variants)
    assert rows == [
        ImageRow("cat-1", "cat", 0, "none"),
        ImageRow("cat-1", "cat", 90, "none"),
        ImageRow("cat-1", "cat", 0, "horizontal"),
        ImageRow("dog-1", "dog", 0, "none"),
        ImageRow("dog-1", "dog", 90, "none"),
        ImageRow("dog-1", "dog", 0, "horizontal"),
    ]
    assert [row.is_original for row in rows] == [True, False, False] * 2


class TestPreview:
    def test_it_shows_the_stored_images_of_photos_of_each_label(self, photos: list[PhotoRow]) -> None:
        with use_processors(1):
            write_images(photos, DRAWING, AUGMENT_IMAGES)
        stored = np.load(AUGMENT_IMAGES).reshape(12, 6, 4, 4, 3)
        captions = [caption_variant(variant) for variant in VARIANTS]
        chosen = (0, 1, 4, 5, 8, 9)  # two of each of three labels
        rows = [SheetRow(f"{photos[n].photo} ({photos[n].label})", stored[n], captions) for n in chosen]

        preview = draw_preview(photos, VARIANTS, StoredImages(AUGMENT_IMAGES, 12 * 6))

        assert preview == draw_contact_sheet(rows, PREVIEW_COLUMNS)

    def test_it_is_drawn_from_the_stored_images(self, photos: list[PhotoRow]) -> None:
        with use_processors(1):
            write_images(photos, DRAWING, AUGMENT_IMAGES)
        images = StoredImages(AUGMENT_IMAGES, 12 * 6)
        before = draw_preview(photos, VARIANTS, images)
        np.load(AUGMENT_IMAGES, mmap_mode="r+")[3] ^= 255
        assert draw_preview(photos, VARIANTS, images) != before


def test_workers_import_nothing_that_only_the_main_process_needs() -> None:
    unneeded = {"pydantic", "ruamel.yaml", "tqdm", "matplotlib", "keras"}
    assert unneeded.isdisjoint(loaded_modules("stages.augment"))


def test_the_stage_writes_its_outputs(photos: list[PhotoRow], capfd: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text(
        "augment: {image_size: [6, 8], resize: stretch, resampling: bicubic, color: rgb, rotation_degrees: [15], "
        "fill_mode: edge, horizontal_flip: true, vertical_flip: false}\n"
    )
    main()
    variants = list_variants([15], horizontal_flip=True, vertical_flip=False)
    assert read_index(AUGMENT_INDEX) == list_index(photos, variants)
    params = PARAMS.model_copy(update={"image_size": [6, 8], "resampling": "bicubic", "fill_mode": "edge"})
    np.testing.assert_array_equal(np.load(AUGMENT_IMAGES), expected_images(photos, params, variants))
    preview = AUGMENT_PREVIEW.read_bytes()
    # Four images of 96 x 72 side by side, six rows with a title and captions.
    assert Image.open(io.BytesIO(preview)).size == (2 * 16 + 4 * 96 + 3 * 8, 2 * 16 + 6 * (24 + 72 + 18 + 8 + 8))
    assert json.loads(AUGMENT_METRICS.read_text()) == {"images": 48, "images_megabytes": 0.007, "variants": 4}
    assert capfd.readouterr().out == (
        "augment: 12 photos x 4 variants -> data/augment/images.npy 48 x 6 x 8 x 3, 0.007 MB\n"
    )
    main()
    assert AUGMENT_PREVIEW.read_bytes() == preview
