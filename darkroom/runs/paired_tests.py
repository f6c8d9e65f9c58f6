"""Two classifiers on the same photos: whether their accuracies differ, and by how much. Dims: N photos, G groups.

Photos of a group, such as two of one picture, tend to be right or wrong together, so no count takes them for
independent. Where each photo is a group of its own, test and interval are the plain ones for pairs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binom, norm

from darkroom.pipeline.arrays import Correct
from darkroom.scores.intervals import Interval, design_effect, few_groups_factor, group_sizes


class Cells(NamedTuple):
    """How many of N photos both classifiers have right, one of them alone, or neither."""

    both: int
    only_first: int
    only_second: int
    neither: int


def count_cells(first: Correct, second: Correct) -> Cells:
    """Count the photos (N,) by who has them right."""
    return Cells(*(int(cell.sum()) for cell in (first & second, first & ~second, ~first & second, ~first & ~second)))


def unite_groups(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Join two groupings of the same photos, closed over both: photos that either puts together are together.

    Args:
        first, second: the group of each photo, N names each; a name of one means nothing to the other.

    Returns:
        the group of each photo, N names.
    """
    ours, numbers = np.unique(np.asarray(first), return_inverse=True)
    theirs, other_numbers = np.unique(np.asarray(second), return_inverse=True)
    size = len(ours) + len(theirs)
    edges = (numbers, len(ours) + other_numbers)  # a photo ties its two groups together
    graph = coo_array((np.ones(len(first), bool), edges), shape=(size, size))
    united = connected_components(graph, directed=False)[1]
    return [str(group) for group in united[numbers]]


def mcnemar_p_value(first: Correct, second: Correct, groups: Sequence[str]) -> float:
    """The p-value of McNemar's exact test, two-sided, for photos in groups (Q. McNemar, 1947).

    If both classifiers are equally good, the surplus of a group, which is the photos that only the first has right
    less those that only the second has right, is as likely to have the other sign. The p-value is the share of all
    2**G choices of signs whose sum is at least as far from 0 as the one that was seen, as in R. A. Fisher's
    randomization test (The Design of Experiments, 1935). Of groups of one photo it is the binomial test.

    Args:
        first, second: which photos each has right (N,).
        groups: the group of each photo, N names.

    Returns:
        above 0 to 1; or 0, where it is too small for a float.
    """
    surplus = sum_by_group(first.astype(np.int64) - second, groups)
    weights, counts = np.unique(np.abs(surplus[surplus != 0]), return_counts=True)
    # Of the sum of the surpluses with a plus, the probability of each value from 0 up.
    distribution = np.ones(1)
    for weight, count in zip(weights.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(weight * count + 1)
        steps[::weight] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, steps)
    largest = len(distribution) - 1
    sums = 2 * np.arange(largest + 1) - largest
    return min(1.0, float(distribution[np.abs(sums) >= abs(surplus.sum())].sum()))


def sum_by_group(values: npt.NDArray[np.int64], groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """The sum of the values (N,) of each group (G,)."""
    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    return np.bincount(members, values).astype(np.int64)


def difference_interval(first: Correct, second: Correct, groups: Sequence[str], confidence_level: float) -> Interval:
    """The interval of the first accuracy less the second one.

    It is the adjusted Wald interval for paired proportions of D. G. Bonett and R. M. Price (Journal of Educational and
    Behavioral Statistics 37, 2012), for as many independent photos as the groups are worth.

    Args:
        first, second: which photos each has right (N,).
        groups: the group of each photo, N names.
        confidence_level: such as 0.95.

    Returns:
        its ends, -1 to 1; all of that for a single group, which tells nothing of others.
    """
    sizes = group_sizes(groups)
    total = len(first)
    if len(sizes) == 1:
        return Interval(-1.0, 1.0)
    effect = design_effect(first.astype(np.int64) - second, groups, (-1, 1))
    effect /= few_groups_factor(sizes, confidence_level)

    cells = count_cells(first, second)
    worth = total / effect
    better, worse = ((count / effect + 1) / (worth + 2) for count in (cells.only_first, cells.only_second))
    variance = (better + worse - (better - worse) ** 2) / (worth + 2)
    half = float(norm.ppf((1 + confidence_level) / 2)) * math.sqrt(variance)
    return Interval(max(-1.0, better - worse - half), min(1.0, better - worse + half))
