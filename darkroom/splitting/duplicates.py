"""Pictures that are the same one: equal pixels, or nearly equal ones, mirrored and turned by quarters too.

Dims: N pictures, S = 32 pixels, the side of the small gray pictures that are compared.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from tqdm import tqdm

from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import StoredImages
from darkroom.pipeline.worker_pool import open_worker_pool

Kind = Literal["exact", "near"]
Hashes = npt.NDArray[np.uint64]  # (N, 8), a 64-bit pHash for each orientation of a picture
Directions = npt.NDArray[np.float32]  # (..., S * S), each vector of mean 0 and length 1

SMALL_SIDE = 32
ORIENTATIONS = 8
# Of 64 bits. So many leave every mirrored, turned, halved and re-encoded copy of benchmarks/duplicates.py to be found.
HASH_BITS = 8
# Pictures per block of the comparison of all with all: the numbers of a block stay in the processor's cache.
BLOCK = 512
CANDIDATES_AT_ONCE = 4096
# How far products of float32 directions may be off; what is so near the limit is computed exactly.
ROUGHNESS = 0.001
# From so many pictures on, starting processes for their hashes takes less time than it saves.
PARALLEL_FROM = 3_000
PICTURES_PER_TASK = 100


class DuplicatePair(NamedTuple):
    """Two pictures by their numbers, the smaller first; `similarity` is their correlation, 1 for exact duplicates."""

    first: int
    second: int
    kind: Kind
    similarity: float


class Fingerprint(NamedTuple):
    """`digest` is the same for a picture and its mirrored and quarter-turned copies; `small` is uint8 (S, S), gray."""

    digest: bytes
    small: Pixels


def find_duplicates(fingerprints: Sequence[Fingerprint], similarity: float | None) -> list[DuplicatePair]:
    """Find the pictures that are the same one, and enough pairs of them to hold each cluster together.

    Pictures are near duplicates where the perceptual hashes (pHash, C. Zauner 2010, by the package imagehash) of two
    of their orientations differ in few bits, and the correlation of the small gray pictures is at least `similarity`.
    Either alone finds pictures of the same composition too, such as guitars of two models on white.

    Args:
        fingerprints: of N pictures.
        similarity: up to 1; None finds exact duplicates only.

    Returns:
        for a cluster of k pictures k - 1 pairs that connect it; sorted.
    """
    members: dict[bytes, list[int]] = defaultdict(list)
    for number, fingerprint in enumerate(fingerprints):
        members[fingerprint.digest].append(number)
    pairs = [DuplicatePair(first, other, "exact", 1.0) for first, *others in members.values() for other in others]
    if similarity is not None:
        chosen = [first for first, *_ in members.values()]
        small = np.array([fingerprints[number].small for number in chosen]).reshape(-1, SMALL_SIDE, SMALL_SIDE)
        pairs += [
            DuplicatePair(chosen[first], chosen[second], "near", value)
            for first, second, value in find_near(small, similarity)
        ]
    return sorted(pairs)


def fingerprint_images(images: StoredImages, rows: Sequence[int]) -> list[Fingerprint]:
    """Sum up stored images, one at a time."""
    progress = tqdm(rows, "split: reading", unit=" photos", disable=None)
    return [take_fingerprint(images.take(np.array([row]))[0]) for row in progress]


def take_fingerprint(pixels: Pixels) -> Fingerprint:
    """Sum up a picture of shape (H, W, C)."""
    digest = sha256(min(f"{turned.shape}".encode() + turned.tobytes() for turned in list_orientations(pixels))).digest()
    picture = Image.fromarray(np.squeeze(pixels, axis=2) if pixels.shape[2] == 1 else pixels).convert("L")
    # Bilinear: Pillow's box filter weighs the two sides of a picture differently, so that a mirrored one would differ.
    return Fingerprint(digest, np.asarray(picture.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BILINEAR)))


def list_orientations(pixels: Pixels) -> Iterator[Pixels]:
    """The picture, mirrored and turned by quarters in all eight ways; shape (H, W, ...) or (W, H, ...)."""
    for turned in (pixels, pixels.swapaxes(0, 1)):
        for flipped in (turned, turned[:, ::-1]):
            yield from (np.ascontiguousarray(flipped), np.ascontiguousarray(flipped[::-1]))


def find_near(small: Pixels, similarity: float) -> list[tuple[int, int, float]]:
    """Find pairs of small pictures, (N, S, S), that are alike; just as many as connect each cluster."""
    hashes = hash_pictures(small)
    clusters = DisjointSet(range(len(small)))
    found: list[tuple[int, int, float]] = []
    starts = range(0, len(small), BLOCK)
    for start in tqdm(starts, "split: comparing", unit=" blocks", disable=None if len(starts) > 1 else True):
        turned = np.array([list(list_orientations(picture)) for picture in small[start : start + BLOCK]])
        directions = to_directions(turned)
        for other in starts[start // BLOCK :]:
            candidates = find_candidates(
                hashes[start : start + BLOCK],
                hashes[other : other + BLOCK, 0],
                directions,
                to_directions(small[other : other + BLOCK]),
                similarity - ROUGHNESS,
            )
            for in_block, in_other in candidates:
                first, second = start + in_block, other + in_other
                if first < second and not clusters.connected(first, second):
                    value = correlate(turned[in_block], small[second])
                    if value >= similarity:
                        clusters.merge(first, second)
                        found.append((first, second, value))
    return found


def hash_pictures(small: Pixels) -> Hashes:
    """The hashes of small pictures, (N, S, S), in processes where they are many."""
    if len(small) < PARALLEL_FROM:
        return np.array([hash_orientations(picture) for picture in small], np.uint64).reshape(-1, ORIENTATIONS)
    with open_worker_pool(len(small), "acquire.photos_per_class") as pool:
        hashed = pool.map(hash_orientations, small, chunksize=PICTURES_PER_TASK)
        return np.array(list(tqdm(hashed, "split: hashing", len(small), unit=" photos", disable=None)), np.uint64)


def hash_orientations(picture: Pixels) -> list[int]:
    hashes = (imagehash.phash(Image.fromarray(turned)) for turned in list_orientations(picture))
    return [int.from_bytes(np.packbits(found.hash).tobytes()) for found in hashes]


def find_candidates(
    hashes: Hashes, other_hashes: npt.NDArray[np.uint64], turned: Directions, upright: Directions, similarity: float
) -> list[tuple[int, int]]:
    """Find which pictures of one block, in any orientation, are about as similar to which of another.

    Args:
        hashes: (A, 8).
        other_hashes: of the upright pictures of the other block, (B,).
        turned: directions of the first block's pictures in all orientations, (A, 8, S * S).
        upright: directions of the other block's pictures, (B, S * S).
        similarity: the least product of two directions.
    """
    found: set[tuple[int, int]] = set()
    for orientation in range(ORIENTATIONS):
        differing = np.bitwise_count(hashes[:, orientation, None] ^ other_hashes)
        # A third of the time that np.nonzero takes for two dimensions.
        firsts, seconds = np.divmod(np.flatnonzero(differing <= HASH_BITS), len(other_hashes))
        for start in range(0, len(firsts), CANDIDATES_AT_ONCE):
            first, second = (numbers[start : start + CANDIDATES_AT_ONCE] for numbers in (firsts, seconds))
            alike = np.einsum("pd,pd->p", turned[first, orientation], upright[second]) >= similarity
            found |= set(zip(first[alike].tolist(), second[alike].tolist(), strict=True))
    return sorted(found)


def to_directions(small: Pixels) -> Directions:
    """Pictures, (..., S, S), as vectors whose products are correlations; one of a single shade is like none: 0."""
    vectors = small.reshape(*small.shape[:-2], -1).astype(np.float32)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    directions: Directions = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return directions


def correlate(turned: Pixels, other: Pixels) -> float:
    """The greatest correlation of a picture's orientations, (8, S, S), with another picture, (S, S).

    It is the same on every machine: the sums are of whole numbers, and so exact in whatever order they are added.
    """
    rows = turned.reshape(ORIENTATIONS, -1).astype(np.int64)
    column = other.reshape(-1).astype(np.int64)
    count = len(column)
    products = count * (rows @ column) - rows.sum(axis=1) * column.sum()
    spreads = [float(count * (vector @ vector) - vector.sum() ** 2) for vector in (rows[0], column)]
    return round(float(products.max()) / math.sqrt(math.prod(spreads)), 4)
