"""Split the photos into train, validation and test subsets, and keep groups of related photos together.

Reads   params.yaml               split
        data/acquire/photos.csv   digest, creator and predefined subset (given_subset) of each photo
        data/augment/images.csv   a row per image: photo, label, rotation_degrees, flip
        data/augment/images.npy   pixels, to find duplicates
Writes  data/split/train.npy      int64 row numbers of data/augment/images.npy: all variants
        data/split/validation.npy the same, originals only
        data/split/test.npy       the same, originals only
        data/split/photos.csv     photo, label, subset, group
        data/split/duplicates.csv pairs of exact and near duplicates
        metrics/split/classes.csv a row per label: number and fraction of photos, number in each subset
        metrics/split.json        counts
Run as  python -m stages.split
"""

from collections.abc import Mapping, Sequence

import numpy as np

from darkroom.params.section import read_params
from darkroom.params.split import SplitParams
from darkroom.pipeline.arrays import RowNumbers
from darkroom.pipeline.dataset import (
    ImageRow,
    PhotoRow,
    StoredImages,
    SubsetRow,
    read_index,
    read_photos,
    write_rows,
)
from darkroom.pipeline.files import whole_file, write_json, written_again
from darkroom.pipeline.paths import (
    ACQUIRE_PHOTOS,
    AUGMENT_IMAGES,
    AUGMENT_INDEX,
    SPLIT_CLASSES,
    SPLIT_DUPLICATES,
    SPLIT_METRICS,
    SPLIT_PHOTOS,
    SUBSETS,
    subset_rows,
)
from darkroom.pipeline.stage import StageError, refuse_arguments, run_stage
from darkroom.splitting.assignment import assign_subsets
from darkroom.splitting.audit import ClassCount, DuplicateRow, audit_subsets, count_classes, count_split, report_split
from darkroom.splitting.duplicates import find_duplicates, fingerprint_images
from darkroom.splitting.groups import close_groups


def list_subset_rows(index: Sequence[ImageRow], subset_of: Mapping[str, str]) -> dict[str, RowNumbers]:
    """List the row numbers of each subset: all variants for training, originals only for validation and test."""
    row_numbers: dict[str, list[int]] = {subset: [] for subset in SUBSETS}
    for number, row in enumerate(index):
        subset = subset_of[row.photo]
        if subset == "train" or row.is_original:
            row_numbers[subset].append(number)
    return {subset: np.array(numbers, np.int64) for subset, numbers in row_numbers.items()}


def find_originals(index: Sequence[ImageRow], photos: Sequence[PhotoRow]) -> list[int]:
    """Find the row number of each photo's original.

    Raises:
        StageError: there are no photos, or the index lists different ones.
    """
    if not photos:
        raise StageError(f"{ACQUIRE_PHOTOS} has no rows; {written_again(ACQUIRE_PHOTOS)}")
    originals = {row.photo: number for number, row in enumerate(index) if row.is_original}
    if originals.keys() != {row.photo for row in photos}:
        raise StageError(f"{AUGMENT_INDEX} and {ACQUIRE_PHOTOS} list different photos; {written_again(AUGMENT_INDEX)}")
    return [originals[row.photo] for row in photos]


def main() -> None:
    params = read_params("split", SplitParams)

    photos = read_photos(ACQUIRE_PHOTOS)
    index = read_index(AUGMENT_INDEX)
    images = StoredImages(AUGMENT_IMAGES, len(index))
    originals = find_originals(index, photos)

    pairs = find_duplicates(fingerprint_images(images, originals), params.near_duplicate_similarity)
    labels = [row.label for row in photos]
    groups = close_groups(photos, pairs, params.creators_together)
    given = [row.given_subset if params.given_subsets else "" for row in photos]
    subsets = assign_subsets(labels, groups, params.validation_fraction, params.test_fraction, params.seed, given)
    assigned = [SubsetRow(row.photo, row.label, *rest) for row, *rest in zip(photos, subsets, groups, strict=True)]
    row_numbers = list_subset_rows(index, {row.photo: row.subset for row in assigned})
    duplicates = audit_subsets(row_numbers, index, photos, pairs, groups, given)

    for subset in SUBSETS:
        with whole_file(subset_rows(subset)) as partial, partial.open("wb") as file:
            np.save(file, row_numbers[subset])
    write_rows(SPLIT_PHOTOS, SubsetRow, assigned)
    write_rows(SPLIT_DUPLICATES, DuplicateRow, duplicates)
    write_rows(SPLIT_CLASSES, ClassCount, count_classes(labels, subsets))
    counts = count_split(assigned, len(row_numbers["train"]), duplicates)
    write_json(SPLIT_METRICS, counts)
    print(report_split(counts, {subset: len(row_numbers[subset]) for subset in SUBSETS}))


if __name__ == "__main__":
    refuse_arguments("split", __doc__)
    run_stage("split", main)
