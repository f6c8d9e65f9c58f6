"""Bring the photos together, a folder per label, each with its origin and its licence.

Reads   params.yaml                acquire
        the source                 scikit-learn's digits, or the folder that acquire.folder names
Writes  data/acquire/photos/       <label>/<photo>.<ending>, the files' own bytes
        data/acquire/photos.csv    a row per photo: see stages.lib.dataset.PhotoRow
        data/acquire/rejected.csv  a row per file that is no usable picture: photo, label, reason
        data/acquire/CREDITS.md    whose photos these are
        metrics/acquire.json       counts
Run as  python -m stages.acquire
"""

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from stages.lib.dataset import PhotoRow, RejectedRow, write_rows
from stages.lib.files import write_bytes, write_json, write_text
from stages.lib.images import FORMAT_ENDINGS, ImageError, decode_image, upright_rgb
from stages.lib.params import AcquireParams, read_params
from stages.lib.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_FOLDER,
    ACQUIRE_METRICS,
    ACQUIRE_PHOTOS,
    ACQUIRE_PHOTOS_FOLDER,
    ACQUIRE_REJECTED,
)
from stages.lib.sources.candidate import Candidate
from stages.lib.sources.digits import list_digits
from stages.lib.sources.folder import list_folder
from stages.lib.stage import StageError, run_stage

# A label and a photo's name become names of a folder and a file, on every system that shares the cached data.
UNSAFE_NAME = re.compile(r'[<>:"/\\|?*]|^[. ]|[. ]$')
NAME_BYTES = 200
SAFE_NAME = (
    f'expected 1 to {NAME_BYTES} bytes without any of < > : " / \\ | ? * or unprintable characters, not beginning or '
    "ending with a dot or a space"
)


def take_photo(candidate: Candidate, folder: Path) -> PhotoRow:
    """Check a candidate's bytes by decoding all of them, and lay them into `folder` unchanged.

    Raises:
        ImageError: the bytes are no usable picture.
    """
    content = candidate.read()
    image = decode_image(content)
    upright = upright_rgb(image)
    file = Path("photos", candidate.label, f"{candidate.photo}.{FORMAT_ENDINGS[image.format or '']}")
    write_bytes(folder / file, content)
    return PhotoRow(
        photo=candidate.photo,
        label=candidate.label,
        file=file.as_posix(),
        width=upright.width,
        height=upright.height,
        sha256=hashlib.sha256(content).hexdigest(),
        source=candidate.source,
        creator=candidate.creator,
        creator_url=candidate.creator_url,
        page_url=candidate.page_url,
        licence=candidate.licence,
        given_subset=candidate.given_subset,
    )


def take_photos(
    candidates: Iterable[Candidate], photos_per_class: int | None, folder: Path
) -> tuple[list[PhotoRow], list[RejectedRow]]:
    """Take the first `photos_per_class` usable candidates of each label (all of them if None), sorted by photo.

    Raises:
        StageError: a label cannot be a folder's name, two candidates bear one name, or there are not two labels.
    """
    photos: list[PhotoRow] = []
    rejected: list[RejectedRow] = []
    taken: Counter[str] = Counter()
    names: set[str] = set()
    for candidate in candidates:
        if not is_safe_name(candidate.label):
            raise StageError(f"label {candidate.label!r} cannot be a folder's name: {SAFE_NAME}; rename it")
        if not is_safe_name(candidate.photo):
            photo = candidate.photo.encode(errors="backslashreplace").decode()
            rejected.append(RejectedRow(photo, candidate.label, f"the name cannot be a file's: {SAFE_NAME}"))
            continue
        if candidate.photo in names:
            raise StageError(f"two files would be the photo {candidate.photo!r}; rename one of them or its class")
        names.add(candidate.photo)
        if photos_per_class is not None and taken[candidate.label] >= photos_per_class:
            continue
        try:
            photos.append(take_photo(candidate, folder))
        except ImageError as error:
            rejected.append(RejectedRow(candidate.photo, candidate.label, str(error)))
        else:
            taken[candidate.label] += 1
    check_classes(taken, rejected)
    return sorted(photos), sorted(rejected)


def is_safe_name(name: str) -> bool:
    size = len(name.encode(errors="replace"))
    return name.isprintable() and 1 <= size <= NAME_BYTES and not UNSAFE_NAME.search(name)


def check_classes(taken: Counter[str], rejected: Sequence[RejectedRow]) -> None:
    """A classifier needs two labels, each with photos."""
    empty = sorted({row.label for row in rejected} - set(taken))
    if empty:
        raise StageError(
            f"no usable photo for {', '.join(empty)}; the first reason: "
            f"{next(f'{row.photo}: {row.reason}' for row in rejected if row.label in empty)}"
        )
    if len(taken) < 2:
        raise StageError(f"expected photos of at least two classes, got {', '.join(taken) or 'none'}; add a class")


def write_credits(photos: Sequence[PhotoRow]) -> str:
    """Say in Markdown whose photos these are, how many of each, and under which licence."""
    lines = ["# Credits", "", f"{len(photos)} photos."]
    credits = Counter((row.source, row.creator, row.page_url, row.licence) for row in photos)
    for (source, creator, page_url, licence), count in sorted(credits.items()):
        who = f"[{creator or page_url}]({page_url})" if page_url else creator or "creator not known"
        lines += ["", f"* {count} from the source `{source}`: {who}, {licence or 'licence not known'}"]
    return "\n".join(lines) + "\n"


def open_source(source: str, folder: str, classes: dict[str, str]) -> Iterable[Candidate]:
    match source:
        case "folder":
            return list_folder(Path(folder), classes)
        case _:
            return list_digits(classes)


def main() -> None:
    params = read_params("acquire", AcquireParams)

    candidates = open_source(params.source, params.folder, params.classes)
    if ACQUIRE_PHOTOS_FOLDER.exists():  # DVC has removed it; a run by hand has not
        shutil.rmtree(ACQUIRE_PHOTOS_FOLDER)

    photos, rejected = take_photos(
        tqdm(candidates, "acquire", unit=" photos", disable=None), params.photos_per_class, ACQUIRE_FOLDER
    )

    write_rows(ACQUIRE_PHOTOS, PhotoRow, photos)
    write_rows(ACQUIRE_REJECTED, RejectedRow, rejected)
    write_text(ACQUIRE_CREDITS, write_credits(photos))
    labels = {row.label for row in photos}
    write_json(ACQUIRE_METRICS, {"labels": len(labels), "photos_taken": len(photos), "photos_rejected": len(rejected)})
    print(
        f"acquire: {len(photos)} photos of {len(labels)} labels from {params.source} -> {ACQUIRE_PHOTOS_FOLDER}, "
        f"{len(rejected)} rejected{f' (see {ACQUIRE_REJECTED})' if rejected else ''}"
    )


if __name__ == "__main__":
    run_stage("acquire", main)
