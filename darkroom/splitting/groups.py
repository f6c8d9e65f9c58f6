"""Group related photos, which must be in the same subset."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from darkroom.pipeline.dataset import PhotoRow
from darkroom.splitting.duplicates import DuplicatePair


def close_groups(photos: Sequence[PhotoRow], pairs: Sequence[DuplicatePair], creators_together: bool) -> list[str]:
    """Group photos of the same file, duplicates and, if wanted, photos of the same creator.

    The relation is transitive: if A belongs with B, and B with C, all three are one group.

    Args:
        photos: N rows.
        pairs: pairs of duplicates, as indices into `photos`.
        creators_together: whether the photos of a creator are one group; a photo without a creator's name or address
            is not grouped this way.

    Returns:
        the name of each photo's group, which is the smallest digest in it: it depends on the content of the photos,
        not on their names or order.
    """
    edges = [(pair.first, pair.second) for pair in pairs]
    first_of: dict[tuple[str, ...], int] = {}
    for number, photo in enumerate(photos):
        keys: list[tuple[str, ...]] = [("file", photo.sha256)]
        if creators_together and photo.creator_key:
            keys.append(("creator", *photo.creator_key))
        edges += [(first_of.setdefault(key, number), number) for key in keys]
    first, second = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(photos), len(photos)))
    numbers = connected_components(graph, directed=False)[1].tolist()
    names: dict[int, str] = {}
    for number, photo in zip(numbers, photos, strict=True):
        names[number] = min(names.get(number, photo.sha256), photo.sha256)
    return [names[number] for number in numbers]
