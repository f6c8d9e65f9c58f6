"""The source cifar10: 50,000 + 10,000 photos of ten classes, 32x32 RGB, from the binary version of CIFAR-10.

The Python version of CIFAR-10 is a pickle, which can run any code when it is read; it is never opened.
Format: https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version"
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from darkroom.acquisition.candidate import Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.sources.dataset_photos import (
    Subset,
    choose_classes,
    describe_folder,
    list_subsets,
    prepare_folder,
)
from darkroom.acquisition.sources.source import ListedSource
from darkroom.params.acquire import AcquireParams
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import StageError

URL = "https://www.cs.toronto.edu/~kriz/"
ARCHIVE = "cifar-10-binary.tar.gz"
FILES = {ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}
CREATOR = "Alex Krizhevsky, Vinod Nair and Geoffrey Hinton"
PAGE_URL = "https://www.cs.toronto.edu/~kriz/cifar.html"
# The order of the data set's batches.meta.txt.
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
INNER_FOLDER = "cifar-10-batches-bin"
TRAIN_BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_BATCH = "test_batch.bin"
BATCHES = (*TRAIN_BATCHES, TEST_BATCH)
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE  # the class, then the red, green and blue planes, row by row
BATCH_BYTES = 10_000 * RECORD_BYTES
ARCHIVE_BYTES = 200_000_000  # decompressed: six batches have 184 million, the rest is a readme and the headers of tar


def list_cifar10(
    folder: Path, classes: Mapping[str, str], train_photos: int | None, test_photos: int | None
) -> Listing:
    """List the photos in the data set's own order, the training set before the test set.

    Args:
        folder: contains the archive, its unpacked folder, or the files of that folder.
        classes: label to one of `CLASSES`; empty for all ten, each labeled with itself.
        train_photos: how many photos to list from the start of the training set, over all classes; None for all.
        test_photos: the same for the test set.

    Raises:
        StageError: a class is not in the data set, or a file is missing or does not have the expected format.
    """
    class_ids = choose_classes("cifar10", CLASSES, classes)
    batches = read_batches(folder)
    train = np.concatenate([batches[name] for name in TRAIN_BATCHES])
    subsets = [split_records("train", train[:train_photos]), split_records("test", batches[TEST_BATCH][:test_photos])]
    return list_subsets("cifar10", subsets, class_ids, CREATOR, PAGE_URL, license="")


def read_batches(folder: Path) -> dict[str, Pixels]:
    """Read the records of each of `BATCHES`, (N, 3073), from the archive or the unpacked files."""
    if (folder / ARCHIVE).is_file():
        location, contents = repr(str(folder / ARCHIVE)), read_archive(folder / ARCHIVE)
    else:
        inner = folder / INNER_FOLDER if (folder / INNER_FOLDER).is_dir() else folder
        location, contents = describe_folder(inner), read_files(inner)
    missing = [name for name in BATCHES if name not in contents]
    if missing:
        raise StageError(
            f"acquire.folder: expected the six files {', '.join(BATCHES)} of CIFAR-10 in {location}, missing "
            f"{', '.join(missing)}; put {ARCHIVE} (the binary version) into acquire.folder, or set "
            "acquire.dataset.files to download"
        )
    return {name: read_records(f"{name} in {location}", contents[name]) for name in BATCHES}


def read_files(folder: Path) -> dict[str, bytes]:
    """Read the `BATCHES` that exist, each up to one byte more than allowed."""
    contents = {}
    for name in BATCHES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                contents[name] = file.read(BATCH_BYTES + 1)
    return contents


def read_archive(path: Path) -> dict[str, bytes]:
    """Read the `BATCHES` from the archive, in memory: no name in it is ever used as a path."""
    wanted = {f"{INNER_FOLDER}/{name}": name for name in BATCHES}
    contents = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(inflate(path)), mode="r:") as archive:
            for member in archive:
                if member.name in wanted and member.isreg() and (stream := archive.extractfile(member)):
                    contents[wanted[member.name]] = stream.read(BATCH_BYTES + 1)
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two for sizes below 0 or above 2**63
        raise StageError(
            f"acquire.folder: expected a tar archive in {str(path)!r}, got: {error}; download it again"
        ) from None
    return contents


def inflate(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            inflated = file.read(ARCHIVE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StageError(
            f"acquire.folder: expected a complete gzip file in {str(path)!r}, got: {error}; download it again"
        ) from None
    if len(inflated) > ARCHIVE_BYTES:
        raise StageError(
            f"acquire.folder: expected at most {ARCHIVE_BYTES:,} bytes in {str(path)!r} after decompression, got "
            "more; download it again"
        )
    return inflated


def read_records(batch: str, content: bytes) -> Pixels:
    """Split a batch into records, (N, 3073), and check their classes."""
    if not content or len(content) % RECORD_BYTES or len(content) > BATCH_BYTES:
        got = f"{len(content):,}" if len(content) <= BATCH_BYTES else "more"
        raise StageError(
            f"acquire.folder: expected 1 to 10,000 records of {RECORD_BYTES} bytes in {batch}, {BATCH_BYTES:,} bytes "
            f"at most, got {got}; download it again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    above = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if above.size:
        raise StageError(
            f"acquire.folder: expected classes from 0 to 9 in {batch}, got {records[above[0], 0]} in record "
            f"{above[0]}; download it again"
        )
    return records


def split_records(name: str, records: Pixels) -> Subset:
    """Separate the class ids from the pixels, whose color planes become channels."""
    planes = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
    return Subset(name, planes.transpose(0, 2, 3, 1), records[:, 0])


def list_photos(params: AcquireParams, ledger: Ledger, clock: Clock) -> Listing:
    assert params.dataset
    folder = prepare_folder(params, ledger, clock, URL, FILES)
    return list_cifar10(folder, params.classes, params.dataset.train_photos, params.dataset.test_photos)


SOURCE = ListedSource(list_photos=list_photos)
