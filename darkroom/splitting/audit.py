"""What a split must not do, and what whoever made it should know: leaks, label conflicts, shares of the classes."""

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
    """A row of data/split/duplicates.csv: two photos that are the same picture, "exact" or "near"."""

    photo: str
    label: str
    subset: str
    duplicate: str
    duplicate_label: str
    duplicate_subset: str
    kind: str
    similarity: float


class ClassShares(NamedTuple):
    """A row of metrics/split/classes.csv: how many photos of a label there are, their share of all, and how many are in
    each subset."""

    label: str
    photos: int
    share: float
    train: int
    validation: int
    test: int


def locate_photos(rows: Mapping[str, RowNumbers], index: Sequence[ImageRow]) -> dict[str, str]:
    """Tell the subset of each photo from the row numbers that are handed on, and not from what was meant.

    Raises:
        StageError: rows of one photo stand in two subsets.
    """
    subset_of: dict[str, str] = {}
    divided = set()
    for subset, numbers in rows.items():
        for number in numbers:
            photo = index[number].photo
            if subset_of.setdefault(photo, subset) != subset:
                divided.add(photo)
    if divided:
        raise StageError(f"rows of one photo stand in two subsets: {name_some(sorted(divided))}")
    return subset_of


def audit_subsets(
    rows: Mapping[str, RowNumbers],
    index: Sequence[ImageRow],
    photos: Sequence[PhotoRow],
    pairs: Sequence[DuplicatePair],
    groups: Sequence[str],
    given: Sequence[str],
) -> list[DuplicateRow]:
    """Hold the rows that are about to be handed on against what the pixels say.

    Args:
        rows: row numbers of each subset.
        index: whose rows they are.
        photos: N photos.
        pairs: photos that are the same picture, by their place in `photos`.
        groups: the group of each photo.
        given: the subset that is honoured for each photo, "" for none.

    Returns:
        the pairs with labels and subsets.

    Raises:
        StageError: rows of one photo, or photos that are the same picture, stand in two subsets, and not because the
            source has put their group into two.
    """
    subset_of = locate_photos(rows, index)
    given_to_group: dict[str, set[str]] = defaultdict(set)
    for group, subset in zip(groups, given, strict=True):
        given_to_group[group] |= {subset} - {""}
    duplicates, faults = [], []
    for pair in pairs:
        one, other = photos[pair.first], photos[pair.second]
        sides = (one.photo, one.label, subset_of[one.photo], other.photo, other.label, subset_of[other.photo])
        row = DuplicateRow(*sides, pair.kind, pair.similarity)
        duplicates.append(row)
        if row.subset != row.duplicate_subset and len(given_to_group[groups[pair.first]]) < 2:
            faults.append(f"{row.photo} in {row.subset}, {row.duplicate} in {row.duplicate_subset} ({row.kind})")
    if faults:
        raise StageError(
            "\n".join(
                [
                    f"{len(faults)} pair(s) of photos that are the same picture stand in two subsets, so that the "
                    "scores would flatter; remove one photo of each:",
                    *faults,
                ]
            )
        )
    return duplicates


def cluster_duplicates(duplicates: Sequence[DuplicateRow]) -> list[list[tuple[str, str]]]:
    """Gather the photos that are the same picture: label and subset of each, a list per picture."""
    members = {row.photo: (row.label, row.subset) for row in duplicates}
    members |= {row.duplicate: (row.duplicate_label, row.duplicate_subset) for row in duplicates}
    clusters = DisjointSet(members)
    for row in duplicates:
        clusters.merge(row.photo, row.duplicate)
    return [[members[photo] for photo in cluster] for cluster in clusters.subsets()]


def list_shares(labels: Sequence[str], subsets: Sequence[str]) -> list[ClassShares]:
    counts = Counter(labels)
    both = Counter(zip(labels, subsets, strict=True))
    return [
        ClassShares(label, count, count / len(labels), *(both[label, subset] for subset in SUBSETS))
        for label, count in sorted(counts.items())
    ]


def count_split(assigned: Sequence[SubsetRow], train_images: int, duplicates: Sequence[DuplicateRow]) -> dict[str, int]:
    """The figures of metrics/split.json."""
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
        "conflicting_pictures": sum(len({label for label, _ in cluster}) > 1 for cluster in clusters),
        "leaking_pictures": sum(len({subset for _, subset in cluster}) > 1 for cluster in clusters),
    }


def report_split(counts: Mapping[str, int], image_counts: Mapping[str, int]) -> str:
    """The closing line, and a line for each thing that somebody should look at."""
    sizes = [f"{subset} {counts[f'{subset}_photos']} photos / {image_counts[subset]} images" for subset in SUBSETS]
    lines = []
    if counts["conflicting_pictures"]:
        lines.append(
            f"split: {counts['conflicting_pictures']} picture(s) stand, or seem to stand, under two labels: look at "
            f"them in {SPLIT_DUPLICATES}, and remove what is wrong where it came from"
        )
    if counts["divided_groups"]:
        lines.append(
            f"split: the source's own subsets divide {counts['divided_groups']} group(s), and have "
            f"{counts['leaking_pictures']} picture(s) on both sides, so that the scores flatter: see "
            f"{SPLIT_DUPLICATES}; split.given_subsets: false draws anew"
        )
    lines.append(
        f"split: {counts['groups']} groups, {counts['exact_pairs']} exact and {counts['near_pairs']} near-duplicate "
        f"pairs -> {', '.join(sizes)}"
    )
    return "\n".join(lines)
