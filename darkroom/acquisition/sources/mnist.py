"""The source mnist: 60,000 + 10,000 handwritten digits, 28x28 gray, in the four idx files of the MNIST database.

Other data sets in the same four files can be read too. Format: http://yann.lecun.com/exdb/mnist/
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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

URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
FILES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
# Digests of the decompressed files. They distinguish MNIST from data sets that use the same file names, such as
# Fashion-MNIST, no matter how a copy was compressed.
CONTENTS = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
CREATOR = "Yann LeCun, Corinna Cortes and Christopher J. C. Burges"
PAGE_URL = "http://yann.lecun.com/exdb/mnist/"
LICENSE = "CC BY-SA 3.0"
DIGITS = tuple("0123456789")
UINT8 = 8  # the third byte of an idx file says what its values are
MAXIMUM_BYTES = 1_000_000_000


class IdxFile(NamedTuple):
    path: Path
    values: Pixels  # (N, H, W) or (N,), as the header says
    sha256: str  # of the decompressed file


def list_mnist(folder: Path, classes: Mapping[str, str], train_photos: int | None, test_photos: int | None) -> Listing:
    """List the digits in the data set's own order, the training set before the test set.

    Args:
        folder: contains the four `FILES`, each with or without `.gz`.
        classes: label to digit, such as {"zero": "0"}; empty for all ten, each labeled with itself.
        train_photos: how many photos to list from the start of the training set, over all digits; None for all.
        test_photos: the same for the test set.

    Raises:
        StageError: a class is not a digit, or a file is missing or does not have the expected format.
    """
    class_ids = choose_classes("mnist", DIGITS, classes)
    files = {name: read_idx(path, 3 if "idx3" in name else 1) for name, path in find_idx_files(folder).items()}
    subsets = [
        pair_images("train", files["train-images-idx3-ubyte.gz"], files["train-labels-idx1-ubyte.gz"], train_photos),
        pair_images("test", files["t10k-images-idx3-ubyte.gz"], files["t10k-labels-idx1-ubyte.gz"], test_photos),
    ]
    if all(files[name].sha256 == digest for name, digest in CONTENTS.items()):
        return list_subsets("mnist", subsets, class_ids, CREATOR, PAGE_URL, LICENSE)
    return list_subsets("mnist", subsets, class_ids, creator="", page_url="", license="")


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Find each of `FILES`, compressed or not."""
    # If both exist, take the compressed one: its digest was checked if it was downloaded.
    choices = {name: (folder / name.removesuffix(".gz"), folder / name) for name in FILES}
    found = {name: path for name, paths in choices.items() for path in paths if path.is_file()}
    missing = [name for name in FILES if name not in found]
    if missing:
        raise StageError(
            f"acquire.folder: expected the four files {', '.join(FILES)} of MNIST in {describe_folder(folder)}, "
            f"missing {', '.join(missing)}; put them there, with or without .gz, or set "
            "acquire.dataset.files to download"
        )
    return found


def read_idx(path: Path, dimensions: int) -> IdxFile:
    """Read an idx file of uint8 values; never decompress more than its header claims."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dimensions)
            shape = read_header(path, header, dimensions)
            content = file.read(math.prod(shape) + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StageError(
            f"acquire.folder: expected a complete gzip file in {str(path)!r}, got: {error}; download it again, or "
            "remove .gz from its name if it is not compressed"
        ) from None
    if len(content) != math.prod(shape):
        got = f"only {len(content):,}" if len(content) < math.prod(shape) else "more"
        raise StageError(
            f"acquire.folder: expected {math.prod(shape):,} bytes after the header of {str(path)!r}, as the "
            f"header says, got {got}; download it again"
        )
    digest = hashlib.sha256(header)
    digest.update(content)
    return IdxFile(path, np.frombuffer(content, np.uint8).reshape(shape), digest.hexdigest())


def read_header(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    """Return the shape that an idx file claims to have."""
    magic = bytes([0, 0, UINT8, dimensions])
    if len(header) < 4 + 4 * dimensions or header[:4] != magic:
        raise StageError(
            f"acquire.folder: expected {str(path)!r} to begin with the bytes {magic.hex(' ')} (an idx file of uint8 "
            f"in {dimensions} dimension(s)) and {dimensions} size(s), got {header.hex(' ') or 'an empty file'}; "
            "download it again"
        )
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    # Check the size of an image by itself too: zero images of any size have zero bytes.
    if not 1 <= math.prod(shape[1:]) <= MAXIMUM_BYTES or math.prod(shape) > MAXIMUM_BYTES:
        raise StageError(
            f"acquire.folder: expected images of at least 1 x 1 pixels and at most {MAXIMUM_BYTES:,} bytes in total in "
            f"{str(path)!r}, got a header with {' x '.join(map(str, shape))}; download it again"
        )
    return shape


def pair_images(name: str, images: IdxFile, labels: IdxFile, first: int | None) -> Subset:
    """Combine the `first` images of a subset, or all, with their digits."""
    if len(images.values) != len(labels.values):
        raise StageError(
            f"acquire.folder: expected as many images as labels, got {len(images.values):,} in {str(images.path)!r} "
            f"and {len(labels.values):,} in {str(labels.path)!r}; take both files from the same data set"
        )
    above = np.flatnonzero(labels.values >= len(DIGITS))
    if above.size:
        raise StageError(
            f"acquire.folder: expected labels from 0 to 9 in {str(labels.path)!r}, got {labels.values[above[0]]} for "
            f"image {above[0]}; the source mnist reads data sets of ten classes"
        )
    return Subset(name, images.values[:first], labels.values[:first])


def list_photos(params: AcquireParams, ledger: Ledger, clock: Clock) -> Listing:
    assert params.dataset
    folder = prepare_folder(params, ledger, clock, URL, FILES)
    return list_mnist(folder, params.classes, params.dataset.train_photos, params.dataset.test_photos)


SOURCE = ListedSource(list_photos=list_photos)
