from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache, cached_property
from hashlib import sha256
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageFilter

from darkroom.photos.images import decode_image, prepare_image, upright_rgb
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.dataset import StoredImages
from darkroom.splitting import duplicates
from darkroom.splitting.duplicates import (
    THUMBNAIL_SIDE,
    DuplicatePair,
    Fingerprint,
    correlate,
    find_duplicates,
    fingerprint_images,
    hash_thumbnails,
    list_orientations,
    take_fingerprint,
)
from tests.examples import encode, noise
from tests.project import MATERIAL

needs_material = pytest.mark.skipif(not MATERIAL.is_dir(), reason=f"needs the real photos in {MATERIAL}")
SIMILARITY = 0.99
SHAPES = [(24, 24, 3), (24, 24, 1), (18, 30, 3), (18, 30, 1)]
Turn = Image.Transpose

# Changes that photos undergo on the web without a change of content.
CHANGES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "flipped": lambda photo: encode(photo.transpose(Turn.FLIP_LEFT_RIGHT), "BMP"),
    "upside down": lambda photo: encode(photo.transpose(Turn.FLIP_TOP_BOTTOM), "BMP"),
    "rotated by 90 degrees": lambda photo: encode(photo.transpose(Turn.ROTATE_90), "BMP"),
    "rotated by 270 degrees": lambda photo: encode(photo.transpose(Turn.ROTATE_270), "BMP"),
    "JPEG of quality 60": lambda photo: encode(photo, "JPEG", quality=60),
    "half the size": lambda photo: encode(halve(photo), "BMP"),
    "flipped, half the size, JPEG": lambda photo: encode(
        halve(photo).transpose(Turn.FLIP_LEFT_RIGHT), "JPEG", quality=60
    ),
    "rotated by 90 degrees, JPEG": lambda photo: encode(photo.transpose(Turn.ROTATE_90), "JPEG", quality=60),
    "transversed, half the size, JPEG": lambda photo: encode(
        halve(photo).transpose(Turn.TRANSVERSE), "JPEG", quality=60
    ),
}


def halve(photo: Image.Image) -> Image.Image:
    return photo.resize((max(1, photo.width // 2), max(1, photo.height // 2)))


def prepare(content: bytes, color: str = "rgb", image_size: tuple[int, int] = (100, 100)) -> Pixels:
    return prepare_image(content, image_size, "stretch", "bilinear", color)


@cache
def draw_scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Some blurred blobs of random position, size and color on a random background; seeds give different images."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = random.integers(-20, width), random.integers(-20, height)
        right, bottom = left + random.integers(10, 70), top + random.integers(10, 70)
        draw.ellipse((left, top, right, bottom), fill=tuple(random.integers(0, 256, 3).tolist()))
    return image.filter(ImageFilter.GaussianBlur(2))


@cache
def fingerprint_scene(seed: int, color: str = "rgb", image_size: tuple[int, int] = (100, 100)) -> Fingerprint:
    return take_fingerprint(prepare(encode(draw_scene(seed)), color, image_size))


def eight_orientations(pixels: Pixels) -> list[Pixels]:
    return [np.rot90(flipped, quarters) for flipped in (pixels, pixels[:, ::-1]) for quarters in range(4)]


def compare(one: Pixels, other: Pixels, similarity: float | None = SIMILARITY) -> list[DuplicatePair]:
    return find_duplicates([take_fingerprint(one), take_fingerprint(other)], similarity)


def kinds(pairs: Iterable[DuplicatePair]) -> list[str]:
    return [pair.kind for pair in pairs]


def clusters(edges: Iterable[Sequence[object]], count: int) -> set[frozenset[int]]:
    """The clusters of more than one, found the slow and simple way: merge the sets that each edge connects."""
    parts = [{number} for number in range(count)]
    for one, other, *_ in edges:
        joined = [part for part in parts if one in part or other in part]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return {frozenset(part) for part in parts if len(part) > 1}


class TestExact:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_an_image_equals_its_flipped_and_rotated_copies(self, shape: tuple[int, int, int]) -> None:
        copies = eight_orientations(noise(*shape))
        assert len({copy.tobytes() for copy in copies}) == 8
        pairs = find_duplicates([take_fingerprint(copy) for copy in copies], SIMILARITY)
        assert pairs == [DuplicatePair(0, other, "exact", 1.0) for other in range(1, 8)]

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_images_that_differ_in_one_value_are_not_equal(self, shape: tuple[int, int, int]) -> None:
        pixels, changed = noise(*shape), noise(*shape)
        changed[0, 0, 0] ^= 1
        assert compare(pixels, changed, similarity=None) == []
        assert kinds(compare(pixels, changed)) == ["near"]

    def test_the_same_bytes_in_another_shape_are_not_equal(self) -> None:
        pixels = np.full((4, 6, 3), 7, np.uint8)
        assert compare(pixels, pixels.reshape(3, 8, 3), similarity=None) == []
        assert compare(pixels, pixels.reshape(4, 18, 1), similarity=None) == []
        assert kinds(compare(pixels, pixels.reshape(6, 4, 3), similarity=None)) == ["exact"]

    def test_without_a_similarity_only_exact_duplicates_are_found(self) -> None:
        scene = prepare(encode(draw_scene(1)))
        images = [scene, prepare(encode(draw_scene(1), "JPEG", quality=60)), scene[:, ::-1]]
        fingerprints = [take_fingerprint(image) for image in images]
        assert find_duplicates(fingerprints, None) == [DuplicatePair(0, 2, "exact", 1.0)]
        assert [pair[:3] for pair in find_duplicates(fingerprints, SIMILARITY)] == [(0, 1, "near"), (0, 2, "exact")]

    def test_colors_of_equal_gray_are_not_equal(self) -> None:
        red, gray = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
        red[2:4, 1:6], gray[2:4, 1:6] = (255, 0, 0), (76, 76, 76)
        assert kinds(compare(red, gray)) == ["near"]

    def test_without_images_there_are_no_pairs(self) -> None:
        assert find_duplicates([], SIMILARITY) == []
        assert find_duplicates([take_fingerprint(noise(5, 5))], SIMILARITY) == []


class TestNear:
    @pytest.mark.parametrize("color", ["rgb", "gray"])
    @pytest.mark.parametrize("name", CHANGES)
    def test_a_changed_copy_is_found(self, name: str, color: str) -> None:
        for seed in range(20):
            copy = take_fingerprint(prepare(CHANGES[name](draw_scene(seed)), color))
            pairs = find_duplicates([fingerprint_scene(seed, color), copy], SIMILARITY)
            assert len(pairs) == 1, f"scene {seed}"
            assert pairs[0].similarity >= SIMILARITY
            if "JPEG" in name:
                assert pairs[0].kind == "near"

    @pytest.mark.parametrize("name", CHANGES)
    def test_a_changed_copy_is_found_among_non_square_images(self, name: str) -> None:
        for seed in range(10):
            original = fingerprint_scene(seed, image_size=(60, 90))
            copy = take_fingerprint(prepare(CHANGES[name](draw_scene(seed)), image_size=(60, 90)))
            assert len(find_duplicates([original, copy], SIMILARITY)) == 1, f"scene {seed}"

    def test_different_images_are_not_found(self) -> None:
        fingerprints = [fingerprint_scene(seed) for seed in range(100)]
        fingerprints += [take_fingerprint(noise(100, 100, seed=seed)) for seed in range(20)]
        assert find_duplicates(fingerprints, SIMILARITY) == []

    def test_the_similarity_decides(self) -> None:
        scene = prepare(encode(draw_scene(3)))
        copy = prepare(encode(draw_scene(3).filter(ImageFilter.GaussianBlur(3)), "JPEG", quality=30))
        ((_, _, _, similarity),) = compare(scene, copy, 0.9)
        assert 0.9 < similarity < 0.9999
        assert kinds(compare(scene, copy, similarity - 0.0001)) == ["near"]
        assert compare(scene, copy, similarity + 0.0001) == []

    def test_the_reported_similarity_is_enough(self) -> None:
        for seed in range(20):
            copies = prepare(encode(draw_scene(seed))), prepare(encode(draw_scene(seed), "JPEG", quality=30))
            ((_, _, _, similarity),) = compare(*copies, 0.9)
            assert kinds(compare(*copies, similarity)) == ["near"], f"scene {seed}"

    def test_the_similarity_is_the_correlation_of_the_thumbnails(self) -> None:
        one, other = (prepare(content) for content in (encode(draw_scene(4)), encode(draw_scene(4), "JPEG", quality=5)))
        ((_, _, _, similarity),) = compare(one, other, 0.9)
        values = [take_fingerprint(image).thumbnail.ravel() for image in (one, other)]
        assert similarity == pytest.approx(np.corrcoef(values)[0, 1], abs=1e-4)
        ((_, _, _, rotated),) = compare(one, np.rot90(other), 0.9)
        assert rotated == pytest.approx(similarity, abs=1e-3)

    def test_an_image_of_one_shade_has_only_exact_duplicates(self) -> None:
        shades = [np.full((20, 20, 3), shade, np.uint8) for shade in (0, 7, 7, 255)]
        images = [*shades, prepare(encode(draw_scene(5))), prepare(encode(draw_scene(6)))]
        pairs = find_duplicates([take_fingerprint(image) for image in images], 0.9)
        assert pairs == [DuplicatePair(1, 2, "exact", 1.0)]

    @pytest.mark.parametrize("side", [1, 2, 8])
    def test_tiny_images_are_compared_too(self, side: int) -> None:
        fingerprints = [take_fingerprint(noise(side, side, 1, seed)) for seed in (0, 1, 0)]
        assert [pair[:3] for pair in find_duplicates(fingerprints, SIMILARITY) if pair.kind == "exact"] == [
            (0, 2, "exact")
        ]

    @given(st.permutations(range(12)))
    @settings(deadline=None, max_examples=20)
    def test_the_order_of_the_images_does_not_matter(self, order: list[int]) -> None:
        fingerprints = copied_scenes()
        found = find_duplicates([fingerprints[index] for index in order], SIMILARITY)
        assert clusters(((order[first], order[second]) for first, second, *_ in found), 12) == {
            frozenset(range(4 * scene, 4 * scene + 4)) for scene in range(3)
        }

    def test_a_cluster_of_k_images_gives_k_minus_1_sorted_pairs(self) -> None:
        pairs = find_duplicates(copied_scenes(), SIMILARITY)
        assert len(pairs) == 9
        assert pairs == sorted(pairs)
        assert all(pair.first < pair.second for pair in pairs)
        assert sorted(kinds(pairs)) == ["exact"] * 3 + ["near"] * 6
        assert clusters(pairs, 12) == {frozenset(range(4 * scene, 4 * scene + 4)) for scene in range(3)}


@cache
def copied_scenes() -> list[Fingerprint]:
    """Three scenes, each unchanged, flipped (an exact duplicate), as JPEG, and small, rotated and as JPEG."""
    fingerprints = []
    for seed in range(3):
        scene = draw_scene(seed)
        contents = [
            encode(scene),
            CHANGES["JPEG of quality 60"](scene),
            CHANGES["transversed, half the size, JPEG"](scene),
        ]
        stored = [prepare(content) for content in contents]
        fingerprints += [take_fingerprint(image) for image in (*stored, stored[0][:, ::-1])]
    return fingerprints


thumbnails = arrays(np.uint8, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), fill=st.integers(0, 255)).filter(
    lambda thumbnail: thumbnail.min() < thumbnail.max()
)


def orientations(image: Pixels) -> Pixels:
    return np.array(list(list_orientations(image)))


def correlate_slowly(one: Pixels, other: Pixels) -> Decimal:
    """The correlation of two images, with exact integers and a result of fifty digits."""
    count, x, y = one.size, one.ravel().tolist(), other.ravel().tolist()
    product = count * sum(map(mul, x, y)) - sum(x) * sum(y)
    spreads = [count * sum(value**2 for value in values) - sum(values) ** 2 for values in (x, y)]
    with localcontext(prec=50):
        return Decimal(product) / (Decimal(spreads[0]) * Decimal(spreads[1])).sqrt()


class TestCorrelation:
    @given(thumbnails, thumbnails)
    @settings(deadline=None, max_examples=60)
    def test_it_is_the_largest_of_the_eight_to_four_digits(self, one: Pixels, other: Pixels) -> None:
        value = correlate(orientations(one), other)
        expected = max(correlate_slowly(copy, other) for copy in eight_orientations(one))
        assert abs(Decimal(float(value)) - expected) <= Decimal("0.00005000001")
        assert value == round(value, 4)

    @given(thumbnails, thumbnails, st.integers(0, 100))
    @settings(deadline=None, max_examples=60)
    def test_the_order_of_addition_does_not_matter(self, one: Pixels, other: Pixels, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(THUMBNAIL_SIDE**2)
        copies = orientations(one)
        reordered = copies.reshape(8, -1)[:, order].reshape(copies.shape)
        assert correlate(reordered, other.ravel()[order].reshape(other.shape)) == correlate(copies, other)

    @given(thumbnails, thumbnails)
    @settings(deadline=None, max_examples=60)
    def test_it_is_symmetric(self, one: Pixels, other: Pixels) -> None:
        assert correlate(orientations(one), other) == correlate(orientations(other), one)

    def test_the_correlation_with_orientations_and_brighter_copies_is_1(self) -> None:
        image = noise(THUMBNAIL_SIDE, THUMBNAIL_SIDE, 1)[..., 0] // 2
        for copy in eight_orientations(image):
            assert correlate(orientations(image), copy) == 1.0
            assert correlate(orientations(image), 2 * copy + 1) == 1.0

    def test_black_and_white_do_not_overflow(self) -> None:
        image = np.where(noise(THUMBNAIL_SIDE, THUMBNAIL_SIDE, 1)[..., 0] > 127, 255, 0).astype(np.uint8)
        assert correlate(orientations(image), image) == 1.0


class TestClusters:
    """Six images from one scene to another in small steps: neighbors are near duplicates, the ends are not."""

    @pytest.fixture(scope="class")
    def chain(self) -> list[Fingerprint]:
        ends = draw_scene(2), draw_scene(3)
        return [take_fingerprint(np.asarray(Image.blend(*ends, 0.05 * step))) for step in range(6)]

    def test_neighbors_are_near_duplicates_and_the_ends_are_not(self, chain: list[Fingerprint]) -> None:
        for one, other in pairwise(chain):
            assert kinds(find_duplicates([one, other], SIMILARITY)) == ["near"]
        assert find_duplicates([chain[0], chain[-1]], SIMILARITY) == []

    @given(order=st.permutations(range(6)), block=st.integers(1, 6))
    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_chain_is_one_cluster(
        self, chain: list[Fingerprint], monkeypatch: pytest.MonkeyPatch, order: list[int], block: int
    ) -> None:
        monkeypatch.setattr(duplicates, "BLOCK", block)
        pairs = find_duplicates([chain[index] for index in order], SIMILARITY)
        assert len(pairs) == 5
        assert clusters(pairs, 6) == {frozenset(range(6))}

    def test_a_chain_with_a_missing_link_is_two_clusters(self, chain: list[Fingerprint]) -> None:
        left = [chain[index] for index in (5, 0, 4, 1)]
        assert clusters(find_duplicates(left, SIMILARITY), 4) == {frozenset({0, 2}), frozenset({1, 3})}

    def test_an_exact_copy_does_not_hide_a_near_one(self, chain: list[Fingerprint]) -> None:
        pairs = find_duplicates([chain[0], chain[1], chain[0], chain[1], chain[2]], SIMILARITY)
        assert len(pairs) == 4
        assert [pair[:3] for pair in pairs if pair.kind == "exact"] == [(0, 2, "exact"), (1, 3, "exact")]
        assert clusters(pairs, 5) == {frozenset(range(5))}

    @pytest.mark.slow
    def test_more_near_duplicates_than_a_block_give_one_pair_less(self) -> None:
        count = duplicates.BLOCK + 20
        assert count * (count - 1) // 2 > duplicates.CANDIDATES_AT_ONCE
        scene = take_fingerprint(prepare(encode(draw_scene(1)))).thumbnail // 2
        shades = np.random.default_rng(0).integers(0, 3, (count, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
        fingerprints = [Fingerprint(number.to_bytes(4), scene + shade) for number, shade in enumerate(shades)]
        assert kinds(find_duplicates(fingerprints, SIMILARITY)) == ["near"] * (count - 1)


class TestScale:
    """Optimizations for large data sets must not change the duplicates that are found."""

    @pytest.fixture(scope="class")
    def fingerprints(self) -> list[Fingerprint]:
        """Ninety images: twenty scenes in up to eight variants, all but the first near duplicates of it."""
        scenes = [draw_scene(seed) for seed in range(20)]
        contents = [encode(scene) for scene in scenes]
        for number, scene in enumerate(scenes):
            contents += [change(scene) for change in list(CHANGES.values())[: number % 8]]
        return [take_fingerprint(prepare(content)) for content in contents]

    def test_the_block_size_does_not_change_the_clusters(
        self, fingerprints: list[Fingerprint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = len(fingerprints)
        expected = clusters(find_duplicates(fingerprints, SIMILARITY), count)
        assert len(expected) == 17  # scenes 0, 8 and 16 have no variants
        for block in (1, 7, count - 1, count):
            monkeypatch.setattr(duplicates, "BLOCK", block)
            found = find_duplicates(fingerprints, SIMILARITY)
            assert clusters(found, count) == expected
            assert len(found) == count - 20

    def test_the_batch_size_of_candidates_does_not_change_the_pairs(
        self, fingerprints: list[Fingerprint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = find_duplicates(fingerprints, SIMILARITY)
        monkeypatch.setattr(duplicates, "CANDIDATES_AT_ONCE", 3)
        assert find_duplicates(fingerprints, SIMILARITY) == expected

    def test_processes_give_the_same_hashes(
        self, fingerprints: list[Fingerprint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stacked = np.array([one.thumbnail for one in fingerprints])
        alone = hash_thumbnails(stacked)
        monkeypatch.setattr(duplicates, "PARALLEL_FROM", 1)
        monkeypatch.setattr(duplicates, "IMAGES_PER_TASK", 7)
        together = hash_thumbnails(stacked)
        assert alone.shape == (len(fingerprints), 8)
        np.testing.assert_array_equal(alone, together, strict=True)

    def test_stored_images_are_read_by_their_row_numbers(self, tmp_path: Path) -> None:
        images = np.stack([noise(6, 9, 3, seed) for seed in range(5)])
        np.save(tmp_path / "images.npy", images)
        found = fingerprint_images(StoredImages(tmp_path / "images.npy", 5), [4, 0])
        expected = [take_fingerprint(images[4]), take_fingerprint(images[0])]
        assert [one.digest for one in found] == [one.digest for one in expected]
        np.testing.assert_array_equal(
            [one.thumbnail for one in found], [one.thumbnail for one in expected], strict=True
        )


@dataclass
class RealPhotos:
    """A thousand real photos, and changed copies of some of them."""

    names: list[str]
    fingerprints: list[Fingerprint]  # of the photos, then of the copies
    copies: list[tuple[int, str]]  # the photo that each copy is of, and the name of the change

    @cached_property
    def pairs(self) -> list[DuplicatePair]:
        return find_duplicates(self.fingerprints, SIMILARITY)


@needs_material
@pytest.mark.slow
class TestRealPhotos:
    PHOTOS = 1000
    COPIED = 60
    # The number of real duplicates among the thousand photos, judged by eye, some rotated or in another color. A few
    # pairs of different photos may be found too: catalogs show several guitars in the very same way.
    NATURAL: ClassVar = {"guitars": 4, "monkeys/training": 32, "cats-dogs-flat": 0}
    FALSE_ALARMS = 5

    @pytest.fixture(scope="class", params=NATURAL)
    def photos(self, request: pytest.FixtureRequest) -> RealPhotos:
        files = sorted(
            file for file in (MATERIAL / request.param).rglob("*") if file.suffix in (".jpg", ".jpeg", ".png")
        )
        different = {sha256(content).digest(): (file, content) for file in files for content in [file.read_bytes()]}
        random = np.random.default_rng(0)
        chosen = [list(different.values())[number] for number in random.permutation(len(different))[: self.PHOTOS]]
        names = [file.relative_to(MATERIAL / request.param).with_suffix("").as_posix() for file, _ in chosen]
        copied = random.permutation(self.PHOTOS)[: self.COPIED].tolist()
        upright = {number: upright_rgb(decode_image(chosen[number][1])) for number in copied}
        contents = [content for _, content in chosen]
        contents += [change(upright[number]) for number in copied for change in CHANGES.values()]
        copies = [(number, name) for number in copied for name in CHANGES]
        return RealPhotos(names, [take_fingerprint(prepare(content)) for content in contents], copies)

    def test_every_copy_is_found(self, photos: RealPhotos) -> None:
        cluster_of = {
            number: cluster for cluster in clusters(photos.pairs, len(photos.fingerprints)) for number in cluster
        }
        missed = [
            f"{photos.names[original]}, {change}"
            for copy, (original, change) in enumerate(photos.copies, len(photos.names))
            if original not in cluster_of.get(copy, ())
        ]
        assert len(photos.names) == self.PHOTOS
        assert missed == []

    def test_false_alarms_are_few(self, photos: RealPhotos, request: pytest.FixtureRequest) -> None:
        pairs = find_duplicates(photos.fingerprints[: self.PHOTOS], SIMILARITY)
        named = [(photos.names[pair.first], photos.names[pair.second], pair.kind, pair.similarity) for pair in pairs]
        natural = self.NATURAL[request.node.callspec.params["photos"]]
        assert natural <= len(pairs) <= natural + self.FALSE_ALARMS, named

    @pytest.mark.parametrize(
        ("one", "other", "kind"),
        [
            pytest.param("fender_mustang/000012", "fender_mustang/000492", "exact", id="other bytes, equal pixels"),
            pytest.param("fender_mustang/000001", "fender_mustang/000470", "near", id="re-encoded"),
            pytest.param("gibson_Flying_V/000003", "gibson_Flying_V/000091", "near", id="flipped"),
            pytest.param("fender_telecaster/000038", "fender_telecaster/000148", "near", id="rotated"),
            pytest.param("fender_mustang/000026", "fender_mustang/000062", "near", id="rotated and smaller"),
        ],
    )
    def test_natural_duplicates_are_found(self, one: str, other: str, kind: str) -> None:
        contents = [(MATERIAL / "guitars" / f"{name}.jpg").read_bytes() for name in (one, other)]
        assert contents[0] != contents[1]
        assert kinds(compare(*map(prepare, contents))) == [kind]
