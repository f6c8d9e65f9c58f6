"""Split the photos into train, validation and test subsets, all rows of a photo together.

Reads   params.yaml               split
        data/acquire/photos.csv   which photos are the same file
        data/augment/images.csv   a row per image: photo, label, rotation_degrees, flip
Writes  data/split/train.npy      int64 row numbers into data/augment/images.npy: every variant
        data/split/validation.npy the same, originals only
        data/split/test.npy       the same, originals only
        data/split/photos.csv     photo, label, subset
        metrics/split.json        counts
Run as  python -m stages.split
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from stages.lib.arrays import RowNumbers
from stages.lib.dataset import (
    SUBSETS,
    ImageRow,
    PhotoRow,
    SubsetRow,
    read_index,
    read_photos,
    write_rows,
)
from stages.lib.files import whole_file, write_json, written_again
from stages.lib.params import SplitParams, read_params
from stages.lib.paths import (
    ACQUIRE_PHOTOS,
    AUGMENT_INDEX,
    SPLIT_METRICS,
    SPLIT_PHOTOS,
    subset_rows,
)
from stages.lib.stage import StageError, run_stage


def assign_subsets(
    labels: Sequence[str],
    groups: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> list[str]:
    """Assign each photo to a subset, so that no group is divided and every label keeps its shares.

    Groups go one by one, the largest first and else in seeded random order, to the subset that lacks most of their
    labels. A label whose photos are all groups of their own gets its shares exactly, to the rounding of one photo.

    Args:
        labels: a label per photo.
        groups: a group per photo; photos of one group stay together.
        validation_fraction, test_fraction: shares of each label's photos.
        seed: decides the order of groups of the same size.

    Returns:
        "train", "validation" or "test" per photo.

    Raises:
        StageError: a label is missing from a subset.
    """
    counts = Counter(labels)
    lacking = {
        label: subset_sizes(count, validation_fraction, test_fraction) for label, count in sorted(counts.items())
    }
    members: dict[str, list[int]] = defaultdict(list)
    for photo, group in enumerate(groups):
        members[group].append(photo)
    names = sorted(members)
    shuffled = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    subsets = [""] * len(labels)
    # Groups of a label that wait, and subsets that it is not in yet: where both are as many, each gets one.
    waiting = Counter(label for group in members.values() for label in {labels[photo] for photo in group})
    absent = {label: set(SUBSETS) for label in counts}
    for group in sorted(shuffled, key=lambda name: -len(members[name])):
        group_labels = [labels[photo] for photo in members[group]]
        urgent = {subset for label in group_labels if waiting[label] <= len(absent[label]) for subset in absent[label]}
        choices = [subset for subset in SUBSETS if subset in urgent] or SUBSETS
        subset = max(choices, key=lambda name: sum(lacking[label][name] for label in group_labels))
        for photo, label in zip(members[group], group_labels, strict=True):
            subsets[photo] = subset
            lacking[label][subset] -= 1
        for label in set(group_labels):
            waiting[label] -= 1
            absent[label].discard(subset)
    check_subsets(labels, subsets)
    return subsets


def subset_sizes(count: int, validation_fraction: float, test_fraction: float) -> dict[str, int]:
    """How many of a label's photos belong into each subset: as near the fractions as whole photos allow, but at least
    one in each where there are three."""
    held_out = {
        "validation": max(1, round(count * validation_fraction)),
        "test": max(1, round(count * test_fraction)),
    }
    while sum(held_out.values()) >= count and max(held_out.values()) > 1:
        held_out[max(held_out, key=lambda subset: held_out[subset])] -= 1
    return {"train": count - sum(held_out.values()), **held_out}


def check_subsets(labels: Sequence[str], subsets: Sequence[str]) -> None:
    present = set(zip(labels, subsets, strict=True))
    counts = Counter(labels)
    faults = [
        f"{label} ({counts[label]} photo(s)) is missing from {', '.join(absent)}"
        for label in sorted(counts)
        if (absent := [subset for subset in SUBSETS if (label, subset) not in present])
    ]
    if faults:
        raise StageError(
            f"every class must stand in train, validation and test: {'; '.join(faults)}; add different photos of the "
            "class (at least three), leave it out with acquire.classes, or turn split.validation_fraction or "
            "split.test_fraction up"
        )


def group_photos(photos: Sequence[PhotoRow]) -> list[str]:
    """Name each photo's group: photos that are the same file, byte for byte, are one."""
    return [row.sha256 for row in photos]


def list_subset_rows(index: Sequence[ImageRow], subset_of: Mapping[str, str]) -> dict[str, RowNumbers]:
    """List the rows of each subset: every variant for training, originals only where scores are taken."""
    rows: dict[str, list[int]] = {subset: [] for subset in SUBSETS}
    for number, row in enumerate(index):
        subset = subset_of[row.photo]
        if subset == "train" or row.is_original:
            rows[subset].append(number)
    return {subset: np.array(numbers, np.int64) for subset, numbers in rows.items()}


def main() -> None:
    params = read_params("split", SplitParams)

    photos = read_photos(ACQUIRE_PHOTOS)
    index = read_index(AUGMENT_INDEX)
    if {row.photo for row in index} != {row.photo for row in photos}:
        raise StageError(f"{AUGMENT_INDEX} and {ACQUIRE_PHOTOS} name other photos; {written_again(AUGMENT_INDEX)}")

    subsets = assign_subsets(
        [row.label for row in photos],
        group_photos(photos),
        params.validation_fraction,
        params.test_fraction,
        params.seed,
    )
    assigned = [SubsetRow(row.photo, row.label, subset) for row, subset in zip(photos, subsets, strict=True)]
    rows = list_subset_rows(index, {row.photo: row.subset for row in assigned})

    for subset in SUBSETS:
        with whole_file(subset_rows(subset)) as partial, partial.open("wb") as file:
            np.save(file, rows[subset])
    write_rows(SPLIT_PHOTOS, SubsetRow, assigned)
    counts = {subset: subsets.count(subset) for subset in SUBSETS}
    groups = len(set(group_photos(photos)))
    sizes = {f"{subset}_photos": count for subset, count in counts.items()}
    write_json(SPLIT_METRICS, {"groups": groups, **sizes, "train_images": len(rows["train"])})
    print(
        f"split: {len(photos)} photos -> "
        + ", ".join(f"{subset} {counts[subset]} photos / {len(rows[subset])} images" for subset in SUBSETS)
    )


if __name__ == "__main__":
    run_stage("split", main)
