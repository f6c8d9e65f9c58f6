"""Intervals of accuracies, for photos of which some belong together. Dims: N photos, G groups."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from darkroom.pipeline.arrays import Correct

# Of a group at either end, beside those that there are.
IMAGINED = 0.25


class Interval(NamedTuple):
    low: float
    high: float


def accuracy_interval(right: Correct, groups: Sequence[str], confidence_level: float) -> Interval:
    """The interval of an accuracy, from as many independent photos as the groups are worth.

    Photos of a group, such as two of one picture, tend to be right or wrong together. So Wilson's interval is taken
    for a number of photos that is divided by the design effect and corrected for few groups, as in N. Dean and
    M. Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys", 2015. Where each
    photo is a group of its own, it is Wilson's interval as it stands.

    Args:
        right: which photos were told right (N,).
        groups: the group of each photo, N names.
        confidence_level: such as 0.95.
    """
    effect = design_effect(right, groups, (0, 1))
    effective = len(right) / effect * few_groups_factor(group_sizes(groups), confidence_level)
    return wilson_interval(float(right.mean()), effective, confidence_level)


def design_effect(values: npt.ArrayLike, groups: Sequence[str], ends: tuple[int, int]) -> float:
    """How many times the variance of a mean is that of as many independent values (L. Kish, 1965), 1 to N.

    Where values seldom differ they tell little of how alike those of a group are, and where they never do, nothing. So
    a part of a group with the one end for all values, and as much of one with the other end, are imagined beside
    those that there are. A quarter is the least with which 95% intervals of simulated accuracies hold the truth in 93
    cases of 100 and more.

    Args:
        values: (N,).
        groups: the group of each value, N names. Those of a single group count as one value.
        ends: the least and the largest value that there can be.
    """
    values = np.asarray(values, np.float64)
    members, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)[1:]
    if len(sizes) == 1:
        return float(len(values))
    size = float((sizes**2).sum() / sizes.sum())  # of the group that a value is in, in the mean over values
    total, count = len(values) + 2 * IMAGINED * size, len(sizes) + 2 * IMAGINED
    mean = (float(values.sum()) + IMAGINED * size * sum(ends)) / total
    spread = [(end - mean) ** 2 for end in ends]
    clustered = float((np.bincount(members, values - mean) ** 2).sum()) + IMAGINED * size**2 * sum(spread)
    independent = float(((values - mean) ** 2).sum()) + IMAGINED * size * sum(spread)
    return float(np.clip(count / (count - 1) * clustered / (total / (total - 1) * independent), 1, len(values)))


def few_groups_factor(sizes: npt.NDArray[np.int64], confidence_level: float) -> float:
    """What Student's t for so few groups takes away from a number of photos; 1 where each photo is a group.

    Args:
        sizes: photos of each group (G,). Groups of which one has most photos count as few.
        confidence_level: such as 0.95.
    """
    total = int(sizes.sum())
    if len(sizes) == total:
        return 1.0
    worth = total**2 / float((sizes**2).sum())  # G for groups of one size
    tail = (1 + confidence_level) / 2
    return float((t.ppf(tail, total - 1) / t.ppf(tail, max(worth - 1, 1))) ** 2)


def group_sizes(groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """How many photos each group has, (G,)."""
    return np.unique(np.asarray(groups), return_counts=True)[1].astype(np.int64)


def wilson_interval(share: float, total: float, confidence_level: float) -> Interval:
    """The score interval of a share (E. B. Wilson, 1927), which holds for small numbers too.

    Args:
        share: 0 to 1.
        total: of how many, above 0; not whole where some of them belong together.
        confidence_level: such as 0.95.
    """
    z = float(norm.ppf((1 + confidence_level) / 2))
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # The ends of none and of all are exact, whatever the last digit of the formula is.
    return Interval(0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half)
