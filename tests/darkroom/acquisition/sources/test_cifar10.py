import csv
import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from darkroom.acquisition.candidate import Candidate, Listing
from darkroom.acquisition.sources.cifar10 import ARCHIVE, BATCHES, CLASSES, list_cifar10
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.stage import StageError
from tests.examples import noise
from tests.project import MATERIAL

CIFAR10_FOLDER = MATERIAL / "cifar10-png/image_data_format_1"
LIMIT = 1_000_000
INNER = "cifar-10-batches-bin"
# frog, truck; truck, deer; automobile; frog; bird; and the test batch: frog, cat
CLASS_IDS = dict(zip(BATCHES, [[6, 9], [9, 4], [1], [6], [2], [6, 3]], strict=True))
IMAGES = {name: [noise(32, 32, seed=10 * index + n) for n in range(2)] for index, name in enumerate(BATCHES)}


def record(class_id: int, image: Pixels) -> bytes:
    """A record in the format of CIFAR-10: the class, then all red, all green and all blue values, row by row."""
    return bytes([class_id, *(int(image[y, x, c]) for c in range(3) for y in range(32) for x in range(32))])


CONTENTS = {
    name: b"".join(record(class_id, image) for class_id, image in zip(class_ids, IMAGES[name], strict=False))
    for name, class_ids in CLASS_IDS.items()
}


def archive(contents: Mapping[str, bytes], folder: str = INNER) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in {"readme.html": b"<html>", **contents}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bytes(tmp_path / ARCHIVE, archive(CONTENTS))
    return tmp_path


def listed(listing: Listing) -> list[Candidate]:
    return [candidate for candidates in listing.candidates.values() for candidate in candidates]


def pixels(candidate: Candidate) -> Pixels:
    image = Image.open(io.BytesIO(candidate.read(LIMIT)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
    return np.asarray(image)


def error(folder: Path, classes: dict[str, str] | None = None) -> str:
    with pytest.raises(StageError) as caught:
        list_cifar10(folder, classes or {}, None, None)
    return str(caught.value).replace(str(folder), "x")


def test_every_class_has_its_photos_with_the_training_set_first(folder: Path) -> None:
    candidates = list_cifar10(folder, {}, None, None).candidates
    assert {label: [candidate.photo for candidate in found] for label, found in candidates.items()} == {
        "airplane": [],
        "automobile": ["automobile-train-00004"],
        "bird": ["bird-train-00006"],
        "cat": ["cat-test-00001"],
        "deer": ["deer-train-00003"],
        "dog": [],
        "frog": ["frog-train-00000", "frog-train-00005", "frog-test-00000"],
        "horse": [],
        "ship": [],
        "truck": ["truck-train-00001", "truck-train-00002"],
    }
    assert tuple(candidates) == CLASSES


def test_a_photo_has_its_label_its_subset_and_its_creator(folder: Path) -> None:
    candidates = listed(list_cifar10(folder, {}, None, None))
    for candidate in candidates:
        label, subset, _ = candidate.photo.split("-")
        assert (candidate.label, candidate.given_subset) == (label, subset)
    assert {(one.source, one.creator, one.page_url, one.license) for one in candidates} == {
        (
            "cifar10",
            "Alex Krizhevsky, Vinod Nair and Geoffrey Hinton",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            "",
        )
    }


def test_every_photo_has_the_exact_pixels(folder: Path) -> None:
    train = [image for name in BATCHES[:5] for image in IMAGES[name][: len(CLASS_IDS[name])]]
    originals = {"train": train, "test": IMAGES[BATCHES[5]]}
    candidates = listed(list_cifar10(folder, {}, None, None))
    assert len(candidates) == 9
    for candidate in candidates:
        index = int(candidate.photo.rpartition("-")[2])
        assert np.array_equal(pixels(candidate), originals[candidate.given_subset][index])


@pytest.mark.parametrize("inner", [INNER, "."])
def test_the_archive_may_be_unpacked(folder: Path, inner: str) -> None:
    packed = [(one.photo, one.read(LIMIT)) for one in listed(list_cifar10(folder, {}, None, None))]
    (folder / ARCHIVE).unlink()
    for name, content in CONTENTS.items():
        write_bytes(folder / inner / name, content)
    assert [(one.photo, one.read(LIMIT)) for one in listed(list_cifar10(folder, {}, None, None))] == packed


def test_classes_choose_and_give_labels(folder: Path) -> None:
    candidates = list_cifar10(folder, {"lorry": "truck", "kitten": "cat"}, None, None).candidates
    assert {label: [candidate.photo for candidate in found] for label, found in candidates.items()} == {
        "lorry": ["lorry-train-00001", "lorry-train-00002"],
        "kitten": ["kitten-test-00001"],
    }


@pytest.mark.parametrize(
    ("train_photos", "test_photos", "expected"),
    [
        (5, None, ["frog-train-00000", "frog-test-00000"]),
        (6, 0, ["frog-train-00000", "frog-train-00005"]),
        (0, 1, ["frog-test-00000"]),
        (999, 999, ["frog-train-00000", "frog-train-00005", "frog-test-00000"]),
    ],
)
def test_limits_are_counted_over_all_classes_and_batches(
    folder: Path, train_photos: int | None, test_photos: int | None, expected: list[str]
) -> None:
    listing = list_cifar10(folder, {"frog": "frog"}, train_photos, test_photos)
    assert [candidate.photo for candidate in listed(listing)] == expected


def test_nothing_is_unpacked_and_no_other_member_is_read(folder: Path) -> None:
    extra = {"../../data_batch_1.bin": b"x", "deeper/data_batch_1.bin": b"y", "/data_batch_1.bin": b"z"}
    (folder / ARCHIVE).write_bytes(archive(CONTENTS | extra))
    assert len(listed(list_cifar10(folder, {}, None, None))) == 9
    assert [file.name for file in folder.rglob("*")] == [ARCHIVE]


def test_a_class_that_the_data_set_lacks_is_refused(folder: Path) -> None:
    assert error(folder, {"cat": "cat", "plane": "plane"}) == (
        "acquire.classes: the source cifar10 has airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck, "
        "got plane"
    )


@pytest.mark.parametrize(("made", "index"), [(None, "'x' (no such folder)"), (".", "'x'"), (INNER, f"'x/{INNER}'")])
def test_missing_files_are_named(tmp_path: Path, made: str | None, index: str) -> None:
    folder = tmp_path / "photos"
    if made is not None:
        (folder / made).mkdir(parents=True)
    assert error(folder) == (
        "acquire.folder: expected the six files data_batch_1.bin, data_batch_2.bin, data_batch_3.bin, "
        f"data_batch_4.bin, data_batch_5.bin, test_batch.bin of CIFAR-10 in {index}, missing data_batch_1.bin, "
        "data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin, test_batch.bin; put "
        "cifar-10-binary.tar.gz (the binary version) into acquire.folder, or set acquire.dataset.files to download"
    )


def test_batches_that_the_archive_lacks_are_named(folder: Path) -> None:
    incomplete = {
        name: content for name, content in CONTENTS.items() if name not in ("data_batch_2.bin", "test_batch.bin")
    }
    (folder / ARCHIVE).write_bytes(archive(incomplete))
    assert f"of CIFAR-10 in 'x/{ARCHIVE}', missing data_batch_2.bin, test_batch.bin; put" in error(folder)


def test_a_link_in_the_archive_is_not_followed(folder: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(f"{INNER}/{name}")
            member.size = len(content)
            if name == "test_batch.bin":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "data_batch_1.bin", 0
            tar.addfile(member, io.BytesIO(content))
    (folder / ARCHIVE).write_bytes(file.getvalue())
    assert "missing test_batch.bin; put" in error(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<html>", "a complete gzip file in 'x/cifar-10-binary.tar.gz', got: Not a gzipped file (b'<h')"),
        (
            archive(CONTENTS)[:-9],
            "a complete gzip file in 'x/cifar-10-binary.tar.gz', got: Compressed file ended before",
        ),
        (gzip.compress(b"no tar" * 200), "a tar archive in 'x/cifar-10-binary.tar.gz', got: "),
        (
            gzip.compress(gzip.decompress(archive(CONTENTS))[:9_000]),
            "a tar archive in 'x/cifar-10-binary.tar.gz', got: ",
        ),
    ],
    # The ids of pytest would contain the time, which gzip writes, and so differ between processes.
    ids=["no gzip", "cut gzip", "no tar", "cut tar"],
)
def test_a_broken_archive_is_refused(folder: Path, content: bytes, expected: str) -> None:
    (folder / ARCHIVE).write_bytes(content)
    message = error(folder)
    assert message.startswith(f"acquire.folder: expected {expected}")
    assert message.endswith("; download it again")


@pytest.mark.parametrize("size", [2**70, -(2**70), -100_000, -1])
def test_a_member_of_an_impossible_size_is_refused(folder: Path, size: int) -> None:
    member = tarfile.TarInfo(f"{INNER}/data_batch_1.bin")
    member.size = size
    (folder / ARCHIVE).write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)))
    assert error(folder).startswith("acquire.folder: expected ")


def test_a_decompression_bomb_is_not_fully_decompressed(folder: Path) -> None:
    with gzip.open(folder / ARCHIVE, "wb", compresslevel=1) as file:
        for _ in range(201):
            file.write(bytes(1_000_000))
    assert error(folder) == (
        f"acquire.folder: expected at most 200,000,000 bytes in 'x/{ARCHIVE}' after decompression, got more; "
        "download it again"
    )


@pytest.mark.parametrize(
    ("size", "got"), [(0, "0"), (1, "1"), (3072, "3,072"), (3074, "3,074"), (10_001 * 3073, "more")]
)
def test_a_batch_of_the_wrong_size_is_refused(folder: Path, size: int, got: str) -> None:
    (folder / ARCHIVE).unlink()
    for name in BATCHES:
        (folder / name).write_bytes(bytes(size if name == "data_batch_3.bin" else 3073))
    assert error(folder) == (
        "acquire.folder: expected 1 to 10,000 records of 3073 bytes in data_batch_3.bin in 'x', 30,730,000 bytes at "
        f"most, got {got}; download it again"
    )


def test_a_class_above_9_is_refused(folder: Path) -> None:
    worse = bytes(3073) + record(10, IMAGES["test_batch.bin"][0])
    (folder / ARCHIVE).write_bytes(archive(CONTENTS | {"test_batch.bin": worse}))
    assert error(folder) == (
        f"acquire.folder: expected classes from 0 to 9 in test_batch.bin in 'x/{ARCHIVE}', got 10 in record 1; "
        "download it again"
    )


@pytest.mark.skipif(not CIFAR10_FOLDER.is_dir(), reason="shared/material/cifar10-png is not on this machine")
def test_real_photos_come_back_exactly(tmp_path: Path) -> None:
    with (CIFAR10_FOLDER / "trainLabels.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    images = [np.asarray(Image.open(CIFAR10_FOLDER / "train" / name)) for name, _ in rows]
    records = [record(CLASSES.index(label), image) for (_, label), image in zip(rows, images, strict=True)]
    for index, name in enumerate(BATCHES):
        write_bytes(tmp_path / name, b"".join(records[index * 33 : (index + 1) * 33]))
    candidates = {candidate.photo: candidate for candidate in listed(list_cifar10(tmp_path, {}, None, None))}
    assert len(candidates) == 198
    for index, ((_, label), image) in enumerate(zip(rows[:198], images, strict=False)):
        photo = f"{label}-train-{index:05d}" if index < 165 else f"{label}-test-{index - 165:05d}"
        assert np.array_equal(pixels(candidates[photo]), image)
