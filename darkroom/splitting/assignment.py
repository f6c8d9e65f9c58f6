"""Assign photos to train, validation and test: groups stay whole, and each class gets its fractions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from darkroom.pipeline.paths import SUBSETS
from darkroom.pipeline.stage import StageError

HELD_OUT = ("validation", "test")
# Orders of the groups to try before reporting that a class cannot be split.
ATTEMPTS = 50


def assign_subsets(
    labels: Sequence[str],
    groups: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    given: Sequence[str],
) -> list[str]:
    """Assign each photo to a subset so that no group is divided and every label gets its fractions.

    Groups are assigned one by one, largest first and groups of equal size in seeded random order, each to the subset
    that lacks most photos of the group's labels. A label whose photos are all in groups of one gets its fractions
    exactly, up to the rounding of one photo.

    Photos with a given (predefined) subset stay in it, and the rest of their group joins them; see `fix_subsets`.

    Args:
        labels: the label of each photo.
        groups: the group of each photo; photos of a group stay together.
        validation_fraction, test_fraction: the fraction of each label's photos to draw for the subset.
        seed: decides the order of groups of the same size.
        given: the predefined subset of each photo, "" for none.

    Returns:
        "train", "validation" or "test" per photo.

    Raises:
        StageError: a label is missing from a subset.
    """
    fixed = fix_subsets(labels, groups, given)
    fractions = {"validation": validation_fraction, "test": test_fraction}
    drawn = {subset: fraction for subset, fraction in fractions.items() if subset not in given}
    for attempt in range(ATTEMPTS):
        order = [seed, attempt] if attempt else [seed]
        subsets = assign_groups(labels, groups, fixed, drawn, order, largest_first=attempt % 2 == 0)
        if not list_absent(labels, subsets):
            return subsets
    raise StageError(describe_absent(labels, groups, subsets, given))


def fix_subsets(labels: Sequence[str], groups: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the subset of each photo that is not drawn at random, and "" for the others.

    Photos given for validation or test stay there. Photos given for train stay there if nothing has to be drawn, or if
    enough other photos of the label can be drawn: MNIST and CIFAR-10 define train and test but no validation, which is
    then drawn from train. A photo without a given subset joins the photos of its group that have one. The photos of a
    group that are given for train stay together.
    """
    drawn = set(HELD_OUT) - set(given)
    groups_with_given = {group for group, subset in zip(groups, given, strict=True) if subset}
    free = {
        (label, group)
        for label, group, subset in zip(labels, groups, given, strict=True)
        if not subset and group not in groups_with_given
    }
    free_groups = Counter(label for label, _ in free)
    fixed = [
        subset if subset != "train" or free_groups[label] >= len(drawn) else ""
        for label, subset in zip(labels, given, strict=True)
    ]
    group_subsets: dict[str, Counter[str]] = defaultdict(Counter)
    for group, subset in zip(groups, fixed, strict=True):
        if subset:
            group_subsets[group][subset] += 1

    def follow_group(subset: str, given_subset: str, group: str) -> str:
        others = group_subsets.get(group, Counter())
        if given_subset == "train" and others["train"]:
            return "train"
        if not given_subset and others:
            return max(SUBSETS, key=lambda name: others[name])
        return subset if given_subset or drawn else "train"

    return [follow_group(*photo) for photo in zip(fixed, given, groups, strict=True)]


def assign_groups(
    labels: Sequence[str],
    groups: Sequence[str],
    fixed: Sequence[str],
    drawn: Mapping[str, float],
    seed: Sequence[int],
    largest_first: bool,
) -> list[str]:
    """Assign the photos that are not fixed to train and to the subsets of `drawn`, for one order of the groups."""
    pool = [photo for photo, subset in enumerate(fixed) if not subset]
    subsets = list(fixed)
    counts = Counter(labels[photo] for photo in pool)
    lacking = {label: subset_sizes(count, drawn) for label, count in sorted(counts.items())}
    members: dict[str, list[int]] = defaultdict(list)
    for photo in pool:
        members[groups[photo]].append(photo)
    names = sorted(members)
    shuffled = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    # Per label: the number of groups to assign, and the subsets without the label. Once there are no more groups than
    # such subsets, each group goes to one of them.
    waiting = Counter(label for group in members.values() for label in {labels[photo] for photo in group})
    absent = {label: {"train", *drawn} for label in lacking}
    for group in sorted(shuffled, key=lambda name: -len(members[name])) if largest_first else shuffled:
        group_labels = [labels[photo] for photo in members[group]]
        urgent = {subset for label in group_labels if waiting[label] <= len(absent[label]) for subset in absent[label]}
        choices = [subset for subset in ("train", *drawn) if not urgent or subset in urgent]
        subset = max(choices, key=lambda name: sum(lacking[label][name] for label in group_labels))
        for photo, label in zip(members[group], group_labels, strict=True):
            subsets[photo] = subset
            lacking[label][subset] -= 1
        for label in set(group_labels):
            waiting[label] -= 1
            absent[label].discard(subset)
    return subsets


def subset_sizes(count: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Compute how many of a label's photos go to train and to each subset of `fractions`.

    The sizes are the fractions rounded to whole photos, but at least one per subset if there are enough photos.
    """
    held_out = {subset: max(1, round(count * fraction)) for subset, fraction in fractions.items()}
    while sum(held_out.values()) >= count and max(held_out.values(), default=0) > 1:
        held_out[max(held_out, key=lambda subset: held_out[subset])] -= 1
    return {"train": count - sum(held_out.values()), **held_out}


def list_absent(labels: Sequence[str], subsets: Sequence[str]) -> dict[str, list[str]]:
    """List the subsets without photos of a label, for each label that has such subsets."""
    present = set(zip(labels, subsets, strict=True))
    absent = {label: [subset for subset in SUBSETS if (label, subset) not in present] for label in sorted(set(labels))}
    return {label: missing for label, missing in absent.items() if missing}


def describe_absent(labels: Sequence[str], groups: Sequence[str], subsets: Sequence[str], given: Sequence[str]) -> str:
    counts = Counter(labels)
    group_counts = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    problems = [
        f"{label} ({counts[label]} photo(s) in {group_counts[label]} group(s)) is missing from "
        + ", ".join(f"{subset} (predefined by the source)" if subset in given else subset for subset in missing)
        for label, missing in list_absent(labels, subsets).items()
    ]
    return (
        f"every class needs photos in train, validation and test: {'; '.join(problems)}; add different photos of the "
        "class (at least three), leave it out with acquire.classes, increase split.validation_fraction or "
        "split.test_fraction, or group fewer photos together (split.creators_together, split.given_subsets, "
        "split.near_duplicate_similarity)"
    )
