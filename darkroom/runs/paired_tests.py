"""Compare two classifiers on the same photos: whether their accuracies differ, and by how much.

Photos of a group, such as near duplicates, tend to be classified alike, so they are not treated as independent. If each
photo is a group of its own, test and interval are the usual ones for paired data. Dims: N photos, G groups.
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
    """The numbers of photos that both classifiers, only one of them, or neither classified correctly."""

    both: int
    only_first: int
    only_second: int
    neither: int


def count_cells(first: Correct, second: Correct) -> Cells:
    """Count photos by which classifiers are correct; `first` and `second` are (N,)."""
    return Cells(*(int(cell.sum()) for cell in (first & second, first & ~second, ~first & second, ~first & ~second)))


def unite_groups(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Merge two groupings of the same photos: photos that share a group in either are in one group.

    Args:
        first, second: the group of each photo, N names each; the names of the two groupings are unrelated.

    Returns:
        the group of each photo, N names.
    """
    names, numbers = np.unique(np.asarray(first), return_inverse=True)
    other_names, other_numbers = np.unique(np.asarray(second), return_inverse=True)
    size = len(names) + len(other_names)
    edges = (numbers, len(names) + other_numbers)  # a photo connects its two groups
    graph = coo_array((np.ones(len(first), bool), edges), shape=(size, size))
    united = connected_components(graph, directed=False)[1]
    return [str(group) for group in united[numbers]]


def mcnemar_p_value(first: Correct, second: Correct, groups: Sequence[str]) -> float:
    """Compute the two-sided p-value of McNemar's exact test (Q. McNemar, 1947), extended to photos in groups.

    The surplus of a group is the number of photos that only the first classifier got right, minus the number that only
    the second got right. If both classifiers are equally accurate, either sign of a surplus is equally likely. The
    p-value is the fraction of all 2**G choices of signs whose sum is at least as far from 0 as the observed one, as in
    R. A. Fisher's randomization test (The Design of Experiments, 1935). For groups of one photo it is the binomial
    test.

    Args:
        first, second: which photos each classifier got right, (N,).
        groups: the group of each photo, N names.

    Returns:
        the p-value, up to 1; 0 if it is too small for a float.
    """
    surplus = sum_by_group(first.astype(np.int64) - second, groups)
    weights, counts = np.unique(np.abs(surplus[surplus != 0]), return_counts=True)
    # The probability of each value, from 0 up, of the sum of the surpluses with a positive sign.
    distribution = np.ones(1)
    for weight, count in zip(weights.tolist(), counts.tolist(), strict=True):
        steps = np.zeros(weight * count + 1)
        steps[::weight] = binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, steps)
    largest = len(distribution) - 1
    sums = 2 * np.arange(largest + 1) - largest
    return min(1.0, float(distribution[np.abs(sums) >= abs(surplus.sum())].sum()))


def sum_by_group(values: npt.NDArray[np.int64], groups: Sequence[str]) -> npt.NDArray[np.int64]:
    """Sum the values (N,) of each group, (G,)."""
    members = np.unique(np.asarray(groups), return_inverse=True)[1]
    return np.bincount(members, values).astype(np.int64)


def difference_interval(first: Correct, second: Correct, groups: Sequence[str], confidence_level: float) -> Interval:
    """Compute the confidence interval of the first accuracy minus the second.

    This is the adjusted Wald interval for paired proportions of D. G. Bonett and R. M. Price (Journal of Educational
    and Behavioral Statistics 37, 2012), for the effective sample size of the groups.

    Args:
        first, second: which photos each classifier got right, (N,).
        groups: the group of each photo, N names.
        confidence_level: such as 0.95.

    Returns:
        the limits, -1 to 1; the whole range for a single group, which says nothing about other groups.
    """
    sizes = group_sizes(groups)
    total = len(first)
    if len(sizes) == 1:
        return Interval(-1.0, 1.0)
    effect = design_effect(first.astype(np.int64) - second, groups, (-1, 1))
    effect /= few_groups_factor(sizes, confidence_level)

    cells = count_cells(first, second)
    effective_size = total / effect
    better, worse = ((count / effect + 1) / (effective_size + 2) for count in (cells.only_first, cells.only_second))
    variance = (better + worse - (better - worse) ** 2) / (effective_size + 2)
    half = float(norm.ppf((1 + confidence_level) / 2)) * math.sqrt(variance)
    return Interval(max(-1.0, better - worse - half), min(1.0, better - worse + half))
