"""Find exact and near-duplicate images, including flipped copies and copies rotated by multiples of 90 degrees.

Dims: N images, S = 32 pixels, the side of the gray thumbnails that are compared.
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
Hashes = npt.NDArray[np.uint64]  # (N, 8), a 64-bit pHash for each orientation of an image
UnitVectors = npt.NDArray[np.float32]  # (..., S * S), each vector with mean 0 and length 1

THUMBNAIL_SIDE = 32
ORIENTATIONS = 8
# Bits of 64 that may differ. With this many, every flipped, rotated, halved and re-encoded copy of
# benchmarks/duplicates.py is found.
MAXIMUM_DIFFERING_BITS = 8
# Images per block of the all-pairs comparison: the values of a block stay in the processor's cache.
BLOCK = 512
CANDIDATES_AT_ONCE = 4096
# Upper bound for the rounding error of products of float32 unit vectors; pairs this close to the limit are computed
# exactly.
ROUNDING_ERROR = 0.001
# With fewer images, starting processes to compute the hashes takes more time than it saves.
PARALLEL_FROM = 3_000
IMAGES_PER_TASK = 100


class DuplicatePair(NamedTuple):
    """Two images by their indices, the smaller first; `similarity` is their correlation, 1 for exact duplicates."""

    first: int
    second: int
    kind: Kind
    similarity: float


class Fingerprint(NamedTuple):
    """`digest` is the same for all eight orientations of an image; `thumbnail` is gray, uint8 (S, S)."""

    digest: bytes
    thumbnail: Pixels


def find_duplicates(fingerprints: Sequence[Fingerprint], similarity: float | None) -> list[DuplicatePair]:
    """Find duplicate images, as just enough pairs to connect each cluster of duplicates.

    Two images are near duplicates if the perceptual hashes (pHash, C. Zauner 2010, from the package imagehash) of two
    of their orientations differ in few bits, and the correlation of their gray thumbnails is at least `similarity`.
    Either criterion alone also finds different photos of the same composition, such as two guitar models on white.

    Args:
        fingerprints: those of N images.
        similarity: up to 1; None finds exact duplicates only.

    Returns:
        k - 1 pairs for each cluster of k images, sorted.
    """
    members: dict[bytes, list[int]] = defaultdict(list)
    for number, fingerprint in enumerate(fingerprints):
        members[fingerprint.digest].append(number)
    pairs = [DuplicatePair(first, other, "exact", 1.0) for first, *others in members.values() for other in others]
    if similarity is not None:
        chosen = [first for first, *_ in members.values()]
        thumbnails = np.array([fingerprints[number].thumbnail for number in chosen])
        pairs += [
            DuplicatePair(chosen[first], chosen[second], "near", value)
            for first, second, value in find_near_duplicates(
                thumbnails.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE), similarity
            )
        ]
    return sorted(pairs)


def fingerprint_images(images: StoredImages, rows: Sequence[int]) -> list[Fingerprint]:
    """Compute the fingerprints of stored images, loading one at a time."""
    progress = tqdm(rows, "split: reading", unit=" photos", disable=None)
    return [take_fingerprint(images.take(np.array([row]))[0]) for row in progress]


def take_fingerprint(pixels: Pixels) -> Fingerprint:
    """Compute the fingerprint of an image of shape (H, W, C)."""
    digest = sha256(min(f"{copy.shape}".encode() + copy.tobytes() for copy in list_orientations(pixels))).digest()
    gray = Image.fromarray(np.squeeze(pixels, axis=2) if pixels.shape[2] == 1 else pixels).convert("L")
    # Bilinear, because Pillow's box filter weighs the two sides of an image differently: a flipped copy would differ.
    return Fingerprint(digest, np.asarray(gray.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)))


def list_orientations(pixels: Pixels) -> Iterator[Pixels]:
    """Yield an image's eight combinations of flips and 90-degree rotations; shape (H, W, ...) or (W, H, ...)."""
    for transposed in (pixels, pixels.swapaxes(0, 1)):
        for flipped in (transposed, transposed[:, ::-1]):
            yield from (np.ascontiguousarray(flipped), np.ascontiguousarray(flipped[::-1]))


def find_near_duplicates(thumbnails: Pixels, similarity: float) -> list[tuple[int, int, float]]:
    """Find pairs of similar thumbnails (N, S, S), just enough to connect each cluster."""
    hashes = hash_thumbnails(thumbnails)
    clusters = DisjointSet(range(len(thumbnails)))
    found: list[tuple[int, int, float]] = []
    starts = range(0, len(thumbnails), BLOCK)
    for start in tqdm(starts, "split: comparing", unit=" blocks", disable=None if len(starts) > 1 else True):
        orientations = np.array([list(list_orientations(each)) for each in thumbnails[start : start + BLOCK]])
        vectors = to_unit_vectors(orientations)
        for other in starts[start // BLOCK :]:
            candidates = find_candidates(
                hashes[start : start + BLOCK],
                hashes[other : other + BLOCK, 0],
                vectors,
                to_unit_vectors(thumbnails[other : other + BLOCK]),
                similarity - ROUNDING_ERROR,
            )
            for in_block, in_other in candidates:
                first, second = start + in_block, other + in_other
                if first < second and not clusters.connected(first, second):
                    value = correlate(orientations[in_block], thumbnails[second])
                    if value >= similarity:
                        clusters.merge(first, second)
                        found.append((first, second, value))
    return found


def hash_thumbnails(thumbnails: Pixels) -> Hashes:
    """Compute the hashes of thumbnails (N, S, S), in several processes if there are many."""
    if len(thumbnails) < PARALLEL_FROM:
        return np.array([hash_orientations(each) for each in thumbnails], np.uint64).reshape(-1, ORIENTATIONS)
    with open_worker_pool(len(thumbnails), "acquire.photos_per_class") as pool:
        hashed = pool.map(hash_orientations, thumbnails, chunksize=IMAGES_PER_TASK)
        return np.array(list(tqdm(hashed, "split: hashing", len(thumbnails), unit=" photos", disable=None)), np.uint64)


def hash_orientations(thumbnail: Pixels) -> list[int]:
    hashes = (imagehash.phash(Image.fromarray(copy)) for copy in list_orientations(thumbnail))
    return [int.from_bytes(np.packbits(found.hash).tobytes()) for found in hashes]


def find_candidates(
    hashes: Hashes,
    other_hashes: npt.NDArray[np.uint64],
    vectors: UnitVectors,
    other_vectors: UnitVectors,
    similarity: float,
) -> list[tuple[int, int]]:
    """Find the pairs of images of two blocks, the first in any orientation, that may be near duplicates.

    Args:
        hashes: those of the first block's images in all orientations, (A, 8).
        other_hashes: those of the other block's images as they are, (B,).
        vectors: unit vectors of the first block's images in all orientations, (A, 8, S * S).
        other_vectors: unit vectors of the other block's images as they are, (B, S * S).
        similarity: the smallest product of the two unit vectors.
    """
    found: set[tuple[int, int]] = set()
    for orientation in range(ORIENTATIONS):
        differing = np.bitwise_count(hashes[:, orientation, None] ^ other_hashes)
        # Takes a third of the time of np.nonzero in two dimensions.
        firsts, seconds = np.divmod(np.flatnonzero(differing <= MAXIMUM_DIFFERING_BITS), len(other_hashes))
        for start in range(0, len(firsts), CANDIDATES_AT_ONCE):
            first, second = (numbers[start : start + CANDIDATES_AT_ONCE] for numbers in (firsts, seconds))
            alike = np.einsum("pd,pd->p", vectors[first, orientation], other_vectors[second]) >= similarity
            found |= set(zip(first[alike].tolist(), second[alike].tolist(), strict=True))
    return sorted(found)


def to_unit_vectors(thumbnails: Pixels) -> UnitVectors:
    """Convert thumbnails (..., S, S) to vectors whose products are correlations; those of a single shade become 0."""
    vectors = thumbnails.reshape(*thumbnails.shape[:-2], -1).astype(np.float32)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit_vectors: UnitVectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit_vectors


def correlate(orientations: Pixels, other: Pixels) -> float:
    """Compute the largest correlation of an image's orientations (8, S, S) with another image (S, S).

    The result is the same on every machine: sums of integers are exact in any order.
    """
    vectors = orientations.reshape(ORIENTATIONS, -1).astype(np.int64)
    vector = other.reshape(-1).astype(np.int64)
    count = len(vector)
    products = count * (vectors @ vector) - vectors.sum(axis=1) * vector.sum()
    spreads = [float(count * (each @ each) - each.sum() ** 2) for each in (vectors[0], vector)]
    return round(float(products.max()) / math.sqrt(math.prod(spreads)), 4)
