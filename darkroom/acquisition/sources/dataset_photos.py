"""Shared code of the sources that read a published data set. Dims: N images, H height, W width."""

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
    """The training or the test images of a data set, in its own order; `name` is train or test."""

    name: str
    pixels: Pixels  # (N, H, W) gray or (N, H, W, 3) RGB
    class_ids: Pixels  # (N,), indices of the data set's classes


def prepare_folder(params: AcquireParams, ledger: Ledger, clock: Clock, url: str, sha256: Mapping[str, str]) -> Path:
    """Return the folder with the data set's files: the user's own, or one beside the ledger after downloading them.

    Args:
        url: where the files are published.
        sha256: their names and digests.

    Raises:
        StageError: a file cannot be downloaded, or is not the published one.
    """
    assert params.dataset
    if params.dataset.files == "folder":
        return Path(params.folder)
    assert params.download
    folder = ledger.folder / params.source
    with closing(open_client([str(urlsplit(url).hostname)], params.download, clock)) as client:
        fetch_files(client, url, sha256, folder, params.download.parallel)
    return folder


def choose_classes(source: str, names: Sequence[str], classes: Mapping[str, str]) -> dict[str, int]:
    """Map each label to the index of its class in `names`.

    Args:
        names: the data set's own classes.
        classes: label to one of `names`; empty for all of them, each labeled with itself.

    Raises:
        StageError: a class is not in the data set.
    """
    unknown = sorted(set(classes.values()) - set(names))
    if unknown:
        raise StageError(f"acquire.classes: the source {source} has {', '.join(names)}, got {', '.join(unknown)}")
    return {label: names.index(name) for label, name in (classes or {name: name for name in names}).items()}


def list_subsets(
    source: str, subsets: Sequence[Subset], class_ids: Mapping[str, int], creator: str, page_url: str, license: str
) -> Listing:
    """List the images of each label as candidates, one subset after the other, named after their index in the subset.

    Args:
        class_ids: label to class id, from `choose_classes`.
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
                    license=license,
                    given_subset=subset.name,
                )
                for subset in subsets
                for index in np.flatnonzero(subset.class_ids == class_id).tolist()
            ]
            for label, class_id in class_ids.items()
        }
    )


def describe_folder(folder: Path) -> str:
    """Name a folder for a message, and say if it is not a folder."""
    if folder.is_dir():
        return repr(str(folder))
    return f"{str(folder)!r} ({'a file' if folder.exists() else 'no such folder'})"
