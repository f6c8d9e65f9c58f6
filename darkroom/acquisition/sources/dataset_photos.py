"""What the sources share that read a published data set. Dims: N images, H height, W width."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from darkroom.acquisition.candidate import Candidate, Listing
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.file_download import fetch_files
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.sources.png import read_png
from darkroom.acquisition.web.client import open_client
from darkroom.params.acquire import AcquireParams
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import StageError


class Subset(NamedTuple):
    """The images that a data set itself calls `train` or `test`, in its own order."""

    name: str
    pixels: Pixels  # (N, H, W) gray or (N, H, W, 3) RGB
    numbers: Pixels  # (N,), each image's class, as its place among the data set's classes


def prepare_folder(
    params: AcquireParams, ledger: Ledger, clock: Clock, address: str, sha256: Mapping[str, str]
) -> Path:
    """The folder that has the data set's files: the user's own, or one beside the ledger, with the files downloaded.

    Args:
        address: where the files are published.
        sha256: their names and digests.

    Raises:
        StageError: a file cannot be downloaded, or is not the published one.
    """
    assert params.dataset
    if params.dataset.files == "folder":
        return Path(params.folder)
    assert params.download
    folder = ledger.folder / params.source
    with closing(open_client([str(urlsplit(address).hostname)], params.download, clock)) as client:
        fetch_files(client, address, sha256, folder, params.download.parallel)
    return folder


def choose_classes(source: str, names: Sequence[str], classes: Mapping[str, str]) -> dict[str, int]:
    """Map each label to the place of its class among `names`.

    Args:
        names: the data set's own classes.
        classes: label to one of `names`; empty for all of them, each labelled with itself.

    Raises:
        StageError: a class names something that the data set does not have.
    """
    unknown = sorted(set(classes.values()) - set(names))
    if unknown:
        raise StageError(f"acquire.classes: the source {source} has {', '.join(names)}, got {', '.join(unknown)}")
    return {label: names.index(name) for label, name in (classes or {name: name for name in names}).items()}


def list_subsets(
    source: str, subsets: Sequence[Subset], numbers: Mapping[str, int], creator: str, page_url: str, licence: str
) -> Listing:
    """List the images of each label, one subset after the other, as candidates named after their place in the subset.

    Args:
        numbers: label to class, from `choose_classes`.
    """
    return Listing(
        {
            label: [
                Candidate(
                    photo=f"{label}-{subset.name}-{index:05d}",
                    label=label,
                    read=partial(read_png, subset.pixels[index]),
                    source=source,
                    creator=creator,
                    page_url=page_url,
                    licence=licence,
                    given_subset=subset.name,
                )
                for subset in subsets
                for index in np.flatnonzero(subset.numbers == number).tolist()
            ]
            for label, number in numbers.items()
        }
    )


def describe_folder(folder: Path) -> str:
    """The folder as messages name it, with what is wrong with it."""
    if folder.is_dir():
        return repr(str(folder))
    return f"{str(folder)!r} ({'a file' if folder.exists() else 'no such folder'})"
