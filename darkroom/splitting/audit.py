"""Check a split for leaks, and report on it: label conflicts, duplicates and the class distribution."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.cluster.hierarchy import DisjointSet

from darkroom.pipeline.arrays import RowNumbers
from darkroom.pipeline.dataset import ImageRow, PhotoRow, SubsetRow
from darkroom.pipeline.paths import SPLIT_DUPLICATES, SUBSETS
from darkroom.pipeline.stage import StageError, name_some
from darkroom.splitting.duplicates import DuplicatePair


class DuplicateRow(NamedTuple):
    """A row of data/split/duplicates.csv: a pair of duplicate photos; `kind` is "exact" or "near"."""

    photo: str
    label: str
    subset: str
    duplicate: str
    duplicate_label: str
    duplicate_subset: str
    kind: str
    similarity: float


class ClassCount(NamedTuple):
    """A row of metrics/split/classes.csv: the number of a label's photos, their fraction of all, and the number in each
    subset."""

    label: str
    photos: int
    fraction: float
    train: int
    validation: int
    test: int


def locate_photos(rows: Mapping[str, RowNumbers], index: Sequence[ImageRow]) -> dict[str, str]:
    """Find the subset of each photo from the row numbers that the stage writes, not from the intended assignment.

    Raises:
        StageError: rows of the same photo are in two subsets.
    """
    subset_of: dict[str, str] = {}
    divided = set()
    for subset, numbers in rows.items():
        for number in numbers:
            photo = index[number].photo
            if subset_of.setdefault(photo, subset) != subset:
                divided.add(photo)
    if divided:
        raise StageError(f"rows of the same photo are in two subsets: {name_some(sorted(divided))}")
    return subset_of


def audit_subsets(
    rows: Mapping[str, RowNumbers],
    index: Sequence[ImageRow],
    photos: Sequence[PhotoRow],
    pairs: Sequence[DuplicatePair],
    groups: Sequence[str],
    given: Sequence[str],
) -> list[DuplicateRow]:
    """Check the row numbers that the stage is about to write against the duplicates found in the pixels.

    Args:
        rows: row numbers of each subset.
        index: the table that the row numbers refer to.
        photos: N photos.
        pairs: pairs of duplicates, as indices into `photos`.
        groups: the group of each photo.
        given: the predefined subset of each photo as far as the split uses it, "" for none.

    Returns:
        the pairs with labels and subsets.

    Raises:
        StageError: rows of the same photo are in two subsets; or two duplicates are, and the source has not predefined
            two subsets for their group.
    """
    subset_of = locate_photos(rows, index)
    given_to_group: dict[str, set[str]] = defaultdict(set)
    for group, subset in zip(groups, given, strict=True):
        given_to_group[group] |= {subset} - {""}
    duplicates, leaks = [], []
    for pair in pairs:
        one, other = photos[pair.first], photos[pair.second]
        sides = (one.photo, one.label, subset_of[one.photo], other.photo, other.label, subset_of[other.photo])
        row = DuplicateRow(*sides, pair.kind, pair.similarity)
        duplicates.append(row)
        if row.subset != row.duplicate_subset and len(given_to_group[groups[pair.first]]) < 2:
            leaks.append(f"{row.photo} in {row.subset}, {row.duplicate} in {row.duplicate_subset} ({row.kind})")
    if leaks:
        raise StageError(
            "\n".join(
                [
                    f"{len(leaks)} pair(s) of duplicate photos are in two subsets, which would inflate the scores; "
                    "remove one photo of each pair:",
                    *leaks,
                ]
            )
        )
    return duplicates


def cluster_duplicates(duplicates: Sequence[DuplicateRow]) -> list[list[tuple[str, str]]]:
    """Join pairs of duplicates into clusters: a list per cluster with the label and subset of each photo."""
    members = {row.photo: (row.label, row.subset) for row in duplicates}
    members |= {row.duplicate: (row.duplicate_label, row.duplicate_subset) for row in duplicates}
    clusters = DisjointSet(members)
    for row in duplicates:
        clusters.merge(row.photo, row.duplicate)
    return [[members[photo] for photo in cluster] for cluster in clusters.subsets()]


def count_classes(labels: Sequence[str], subsets: Sequence[str]) -> list[ClassCount]:
    counts = Counter(labels)
    both = Counter(zip(labels, subsets, strict=True))
    return [
        ClassCount(label, count, count / len(labels), *(both[label, subset] for subset in SUBSETS))
        for label, count in sorted(counts.items())
    ]


def count_split(assigned: Sequence[SubsetRow], train_images: int, duplicates: Sequence[DuplicateRow]) -> dict[str, int]:
    """Count what metrics/split.json reports."""
    group_sizes = Counter(row.group for row in assigned)
    subset_sizes = Counter(row.subset for row in assigned)
    subsets_of_group = Counter(group for group, _ in {(row.group, row.subset) for row in assigned})
    clusters = cluster_duplicates(duplicates)
    return {
        **{f"{subset}_photos": subset_sizes[subset] for subset in SUBSETS},
        "train_images": train_images,
        "groups": len(group_sizes),
        "largest_group": max(group_sizes.values()),
        "divided_groups": sum(count > 1 for count in subsets_of_group.values()),
        "exact_pairs": sum(row.kind == "exact" for row in duplicates),
        "near_pairs": sum(row.kind == "near" for row in duplicates),
        "conflicting_clusters": sum(len({label for label, _ in cluster}) > 1 for cluster in clusters),
        "leaking_clusters": sum(len({subset for _, subset in cluster}) > 1 for cluster in clusters),
    }


def report_split(counts: Mapping[str, int], image_counts: Mapping[str, int]) -> str:
    """Return the closing line, preceded by a line for each problem to look at."""
    sizes = [f"{subset} {counts[f'{subset}_photos']} photos / {image_counts[subset]} images" for subset in SUBSETS]
    lines = []
    if counts["conflicting_clusters"]:
        lines.append(
            f"split: {counts['conflicting_clusters']} set(s) of exact or near duplicates have different labels: check "
            f"them in {SPLIT_DUPLICATES}, and remove mislabeled photos from their source"
        )
    if counts["divided_groups"]:
        lines.append(
            f"split: the source's predefined subsets divide {counts['divided_groups']} group(s) and "
            f"{counts['leaking_clusters']} set(s) of duplicates, which inflates the scores: see {SPLIT_DUPLICATES}; "
            "set split.given_subsets to false to draw new subsets"
        )
    lines.append(
        f"split: {counts['groups']} groups, {counts['exact_pairs']} exact and {counts['near_pairs']} near-duplicate "
        f"pairs -> {', '.join(sizes)}"
    )
    return "\n".join(lines)
