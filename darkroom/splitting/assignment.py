"""Which photo falls into which subset: groups are dealt out whole, and classes keep their shares."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from darkroom.pipeline.paths import SUBSETS
from darkroom.pipeline.stage import StageError

HELD_OUT = ("validation", "test")
# Orders of the groups that are tried before a class is said to be impossible to split.
ATTEMPTS = 50


def assign_subsets(
    labels: Sequence[str],
    groups: Sequence[str],
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    given: Sequence[str],
) -> list[str]:
    """Assign each photo to a subset, so that no group is divided and every label keeps its shares.

    Groups go one by one, the largest first and else in seeded random order, to the subset that lacks most of their
    labels. A label whose photos are all groups of their own gets its shares exactly, to the rounding of one photo.

    Photos with a given subset stay there, and the rest of their group comes to them; see `fix_subsets`.

    Args:
        labels: a label per photo.
        groups: a group per photo; photos of one group stay together.
        validation_fraction, test_fraction: shares of each label's photos that are drawn.
        seed: decides the order of groups of the same size.
        given: the subset that the source gives each photo, "" for none.

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
        subsets = deal_groups(labels, groups, fixed, drawn, order, largest_first=attempt % 2 == 0)
        if not list_absent(labels, subsets):
            return subsets
    raise StageError(describe_absent(labels, groups, subsets, given))


def fix_subsets(labels: Sequence[str], groups: Sequence[str], given: Sequence[str]) -> list[str]:
    """Tell the subset of each photo that is not drawn; "" for the others.

    What is given for validation or test stays. What is given for train stays where there is nothing to draw, or where
    enough other photos of the label can be drawn: MNIST and CIFAR-10 give train and test and no validation, which is
    then drawn from train. A photo without a given subset goes to those of its group that have one, and the photos of
    a group that are given for train stay together.
    """
    drawn = set(HELD_OUT) - set(given)
    led = {group for group, subset in zip(groups, given, strict=True) if subset}
    free = {
        (label, group)
        for label, group, subset in zip(labels, groups, given, strict=True)
        if not subset and group not in led
    }
    free_groups = Counter(label for label, _ in free)
    fixed = [
        subset if subset != "train" or free_groups[label] >= len(drawn) else ""
        for label, subset in zip(labels, given, strict=True)
    ]
    of_group: dict[str, Counter[str]] = defaultdict(Counter)
    for group, subset in zip(groups, fixed, strict=True):
        if subset:
            of_group[group][subset] += 1

    def follow(subset: str, wish: str, group: str) -> str:
        others = of_group.get(group, Counter())
        if wish == "train" and others["train"]:
            return "train"
        if not wish and others:
            return max(SUBSETS, key=lambda name: others[name])
        return subset if wish or drawn else "train"

    return [follow(*photo) for photo in zip(fixed, given, groups, strict=True)]


def deal_groups(
    labels: Sequence[str],
    groups: Sequence[str],
    fixed: Sequence[str],
    drawn: Mapping[str, float],
    seed: Sequence[int],
    largest_first: bool,
) -> list[str]:
    """Deal the photos that are not fixed out to train and to the subsets of `drawn`, in one order of the groups."""
    pool = [photo for photo, subset in enumerate(fixed) if not subset]
    subsets = list(fixed)
    counts = Counter(labels[photo] for photo in pool)
    lacking = {label: subset_sizes(count, drawn) for label, count in sorted(counts.items())}
    members: dict[str, list[int]] = defaultdict(list)
    for photo in pool:
        members[groups[photo]].append(photo)
    names = sorted(members)
    shuffled = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
    # Groups of a label that wait, and subsets that it is not in yet: where both are as many, each gets one.
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
    """How many of a label's photos belong into train and into each subset of `fractions`: as near the fractions as
    whole photos allow, but at least one in each where there are as many."""
    held_out = {subset: max(1, round(count * fraction)) for subset, fraction in fractions.items()}
    while sum(held_out.values()) >= count and max(held_out.values(), default=0) > 1:
        held_out[max(held_out, key=lambda subset: held_out[subset])] -= 1
    return {"train": count - sum(held_out.values()), **held_out}


def list_absent(labels: Sequence[str], subsets: Sequence[str]) -> dict[str, list[str]]:
    """The subsets that each label is missing from, where there are any."""
    present = set(zip(labels, subsets, strict=True))
    absent = {label: [subset for subset in SUBSETS if (label, subset) not in present] for label in sorted(set(labels))}
    return {label: missing for label, missing in absent.items() if missing}


def describe_absent(labels: Sequence[str], groups: Sequence[str], subsets: Sequence[str], given: Sequence[str]) -> str:
    counts = Counter(labels)
    group_counts = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    faults = [
        f"{label} ({counts[label]} photo(s) in {group_counts[label]} group(s)) is missing from "
        + ", ".join(f"{subset}, which the source gives" if subset in given else subset for subset in missing)
        for label, missing in list_absent(labels, subsets).items()
    ]
    return (
        f"every class must stand in train, validation and test: {'; '.join(faults)}; add different photos of the "
        "class (at least three), leave it out with acquire.classes, turn split.validation_fraction or "
        "split.test_fraction up, or let less belong together: split.creators_together, split.given_subsets, "
        "split.near_duplicate_similarity"
    )
