from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property
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
    SMALL_SIDE,
    DuplicatePair,
    Fingerprint,
    correlate,
    find_duplicates,
    fingerprint_images,
    hash_pictures,
    list_orientations,
    take_fingerprint,
)
from tests.examples import encode, noise
from tests.project import MATERIAL

needs_material = pytest.mark.skipif(not MATERIAL.is_dir(), reason=f"needs the real photos in {MATERIAL}")
SIMILARITY = 0.99
SHAPES = [(24, 24, 3), (24, 24, 1), (18, 30, 3), (18, 30, 1)]
Turn = Image.Transpose

# What may happen to a photo on its way through the web; its content stays.
CHANGES: Mapping[str, Callable[[Image.Image], bytes]] = {
    "mirrored": lambda photo: encode(photo.transpose(Turn.FLIP_LEFT_RIGHT), "BMP"),
    "upside down": lambda photo: encode(photo.transpose(Turn.FLIP_TOP_BOTTOM), "BMP"),
    "turned by 90 degrees": lambda photo: encode(photo.transpose(Turn.ROTATE_90), "BMP"),
    "turned by 270 degrees": lambda photo: encode(photo.transpose(Turn.ROTATE_270), "BMP"),
    "JPEG of quality 60": lambda photo: encode(photo, "JPEG", quality=60),
    "half the size": lambda photo: encode(halve(photo), "BMP"),
    "mirrored, half the size, JPEG": lambda photo: encode(
        halve(photo).transpose(Turn.FLIP_LEFT_RIGHT), "JPEG", quality=60
    ),
    "turned by 90 degrees, JPEG": lambda photo: encode(photo.transpose(Turn.ROTATE_90), "JPEG", quality=60),
    "transversed, half the size, JPEG": lambda photo: encode(
        halve(photo).transpose(Turn.TRANSVERSE), "JPEG", quality=60
    ),
}


def halve(photo: Image.Image) -> Image.Image:
    return photo.resize((max(1, photo.width // 2), max(1, photo.height // 2)))


def prepare(content: bytes, color: str = "rgb", image_size: tuple[int, int] = (100, 100)) -> Pixels:
    return prepare_image(content, image_size, "stretch", "bilinear", color)


def draw_scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Some blurred blobs of random place, size and color on a random ground: no two seeds are alike."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = random.integers(-20, width), random.integers(-20, height)
        right, bottom = left + random.integers(10, 70), top + random.integers(10, 70)
        draw.ellipse((left, top, right, bottom), fill=tuple(random.integers(0, 256, 3).tolist()))
    return image.filter(ImageFilter.GaussianBlur(2))


def eight_orientations(pixels: Pixels) -> list[Pixels]:
    return [np.rot90(picture, quarters) for picture in (pixels, pixels[:, ::-1]) for quarters in range(4)]


def compare(one: Pixels, other: Pixels, similarity: float | None = SIMILARITY) -> list[DuplicatePair]:
    return find_duplicates([take_fingerprint(one), take_fingerprint(other)], similarity)


def kinds(pairs: Iterable[DuplicatePair]) -> list[str]:
    return [pair.kind for pair in pairs]


def clusters(edges: Iterable[Sequence[object]], count: int) -> set[frozenset[int]]:
    """The clusters of more than one, by the slowest and plainest way: join sets until nothing changes."""
    parts = [{number} for number in range(count)]
    for one, other, *_ in edges:
        joined = [part for part in parts if one in part or other in part]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return {frozenset(part) for part in parts if len(part) > 1}


class TestExact:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_a_picture_equals_its_mirrored_and_turned_copies(self, shape: tuple[int, int, int]) -> None:
        turned = eight_orientations(noise(*shape))
        assert len({picture.tobytes() for picture in turned}) == 8
        pairs = find_duplicates([take_fingerprint(picture) for picture in turned], SIMILARITY)
        assert pairs == [DuplicatePair(0, other, "exact", 1.0) for other in range(1, 8)]

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_one_value_less_is_not_equal(self, shape: tuple[int, int, int]) -> None:
        pixels, changed = noise(*shape), noise(*shape)
        changed[0, 0, 0] ^= 1
        assert compare(pixels, changed, similarity=None) == []
        assert kinds(compare(pixels, changed)) == ["near"]

    def test_the_same_bytes_in_another_shape_are_not_equal(self) -> None:
        pixels = np.full((4, 6, 3), 7, np.uint8)
        assert compare(pixels, pixels.reshape(3, 8, 3), similarity=None) == []
        assert compare(pixels, pixels.reshape(4, 18, 1), similarity=None) == []
        assert kinds(compare(pixels, pixels.reshape(6, 4, 3), similarity=None)) == ["exact"]

    def test_without_a_similarity_only_equal_pictures_are_found(self) -> None:
        scene = prepare(encode(draw_scene(1)))
        pictures = [scene, prepare(encode(draw_scene(1), "JPEG", quality=60)), scene[:, ::-1]]
        fingerprints = [take_fingerprint(picture) for picture in pictures]
        assert find_duplicates(fingerprints, None) == [DuplicatePair(0, 2, "exact", 1.0)]
        assert [pair[:3] for pair in find_duplicates(fingerprints, SIMILARITY)] == [(0, 1, "near"), (0, 2, "exact")]

    def test_colors_that_are_the_same_gray_are_not_equal(self) -> None:
        red, gray = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
        red[2:4, 1:6], gray[2:4, 1:6] = (255, 0, 0), (76, 76, 76)
        assert kinds(compare(red, gray)) == ["near"]

    def test_without_pictures_there_are_no_pairs(self) -> None:
        assert find_duplicates([], SIMILARITY) == []
        assert find_duplicates([take_fingerprint(noise(5, 5))], SIMILARITY) == []


class TestNear:
    @pytest.mark.parametrize("color", ["rgb", "gray"])
    @pytest.mark.parametrize("name", CHANGES)
    def test_a_changed_copy_is_found(self, name: str, color: str) -> None:
        for seed in range(20):
            scene = draw_scene(seed)
            pairs = compare(prepare(encode(scene), color), prepare(CHANGES[name](scene), color))
            assert len(pairs) == 1, f"scene {seed}"
            assert pairs[0].similarity >= SIMILARITY
            if "JPEG" in name:
                assert pairs[0].kind == "near"

    @pytest.mark.parametrize("name", CHANGES)
    def test_a_changed_copy_is_found_where_images_are_stored_non_square(self, name: str) -> None:
        for seed in range(10):
            scene = draw_scene(seed)
            copies = (encode(scene), CHANGES[name](scene))
            assert len(compare(*(prepare(copy, image_size=(60, 90)) for copy in copies))) == 1, f"scene {seed}"

    def test_different_pictures_are_not_found(self) -> None:
        fingerprints = [take_fingerprint(prepare(encode(draw_scene(seed)))) for seed in range(100)]
        fingerprints += [take_fingerprint(noise(100, 100, seed=seed)) for seed in range(20)]
        assert find_duplicates(fingerprints, SIMILARITY) == []

    def test_the_similarity_decides(self) -> None:
        scene = prepare(encode(draw_scene(3)))
        copy = prepare(encode(draw_scene(3).filter(ImageFilter.GaussianBlur(3)), "JPEG", quality=30))
        ((_, _, _, similarity),) = compare(scene, copy, 0.9)
        assert 0.9 < similarity < 0.9999
        assert kinds(compare(scene, copy, similarity - 0.0001)) == ["near"]
        assert compare(scene, copy, similarity + 0.0001) == []

    def test_the_similarity_that_is_told_is_enough(self) -> None:
        for seed in range(20):
            copies = prepare(encode(draw_scene(seed))), prepare(encode(draw_scene(seed), "JPEG", quality=30))
            ((_, _, _, similarity),) = compare(*copies, 0.9)
            assert kinds(compare(*copies, similarity)) == ["near"], f"scene {seed}"

    def test_the_similarity_is_the_correlation_of_the_small_gray_pictures(self) -> None:
        one, other = (prepare(content) for content in (encode(draw_scene(4)), encode(draw_scene(4), "JPEG", quality=5)))
        ((_, _, _, similarity),) = compare(one, other, 0.9)
        small = [take_fingerprint(picture).small.ravel() for picture in (one, other)]
        assert similarity == pytest.approx(np.corrcoef(small)[0, 1], abs=1e-4)
        ((_, _, _, turned),) = compare(one, np.rot90(other), 0.9)
        assert turned == pytest.approx(similarity, abs=1e-3)

    def test_a_picture_of_one_shade_is_like_none_but_an_equal_one(self) -> None:
        shades = [np.full((20, 20, 3), shade, np.uint8) for shade in (0, 7, 7, 255)]
        pictures = [*shades, prepare(encode(draw_scene(5))), prepare(encode(draw_scene(6)))]
        pairs = find_duplicates([take_fingerprint(picture) for picture in pictures], 0.9)
        assert pairs == [DuplicatePair(1, 2, "exact", 1.0)]

    @pytest.mark.parametrize("side", [1, 2, 8])
    def test_tiny_pictures_are_compared_too(self, side: int) -> None:
        fingerprints = [take_fingerprint(noise(side, side, 1, seed)) for seed in (0, 1, 0)]
        assert [pair[:3] for pair in find_duplicates(fingerprints, SIMILARITY) if pair.kind == "exact"] == [
            (0, 2, "exact")
        ]

    @given(st.permutations(range(12)))
    @settings(deadline=None, max_examples=20)
    def test_the_order_of_the_pictures_does_not_matter(self, order: list[int]) -> None:
        fingerprints = copied_scenes()
        found = find_duplicates([fingerprints[place] for place in order], SIMILARITY)
        assert clusters(((order[first], order[second]) for first, second, *_ in found), 12) == {
            frozenset(range(4 * scene, 4 * scene + 4)) for scene in range(3)
        }

    def test_a_cluster_of_k_pictures_gives_k_minus_1_pairs_in_order(self) -> None:
        pairs = find_duplicates(copied_scenes(), SIMILARITY)
        assert len(pairs) == 9
        assert pairs == sorted(pairs)
        assert all(pair.first < pair.second for pair in pairs)
        assert sorted(kinds(pairs)) == ["exact"] * 3 + ["near"] * 6
        assert clusters(pairs, 12) == {frozenset(range(4 * scene, 4 * scene + 4)) for scene in range(3)}


def copied_scenes() -> list[Fingerprint]:
    """Three scenes, each of them as it is, mirrored (which is equal), as JPEG, and small, turned and as JPEG."""
    fingerprints = []
    for seed in range(3):
        scene = draw_scene(seed)
        contents = [
            encode(scene),
            CHANGES["JPEG of quality 60"](scene),
            CHANGES["transversed, half the size, JPEG"](scene),
        ]
        stored = [prepare(content) for content in contents]
        fingerprints += [take_fingerprint(picture) for picture in (*stored, stored[0][:, ::-1])]
    return fingerprints


small_pictures = arrays(np.uint8, (SMALL_SIDE, SMALL_SIDE), fill=st.integers(0, 255)).filter(
    lambda picture: picture.min() < picture.max()
)


def orientations(picture: Pixels) -> Pixels:
    return np.array(list(list_orientations(picture)))


def correlate_slowly(one: Pixels, other: Pixels) -> Decimal:
    """The correlation of two pictures in whole numbers of any size, and fifty digits at the end."""
    count, x, y = one.size, one.ravel().tolist(), other.ravel().tolist()
    product = count * sum(map(mul, x, y)) - sum(x) * sum(y)
    spreads = [count * sum(value**2 for value in values) - sum(values) ** 2 for values in (x, y)]
    with localcontext(prec=50):
        return Decimal(product) / (Decimal(spreads[0]) * Decimal(spreads[1])).sqrt()


class TestCorrelation:
    @given(small_pictures, small_pictures)
    @settings(deadline=None, max_examples=60)
    def test_it_is_the_greatest_of_the_eight_to_four_digits(self, one: Pixels, other: Pixels) -> None:
        value = correlate(orientations(one), other)
        expected = max(correlate_slowly(turned, other) for turned in eight_orientations(one))
        assert abs(Decimal(float(value)) - expected) <= Decimal("0.00005000001")
        assert value == round(value, 4)

    @given(small_pictures, small_pictures, st.integers(0, 100))
    @settings(deadline=None, max_examples=60)
    def test_the_order_of_adding_changes_no_bit(self, one: Pixels, other: Pixels, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(SMALL_SIDE**2)
        turned = orientations(one)
        moved = turned.reshape(8, -1)[:, order].reshape(turned.shape)
        assert correlate(moved, other.ravel()[order].reshape(other.shape)) == correlate(turned, other)

    @given(small_pictures, small_pictures)
    @settings(deadline=None, max_examples=60)
    def test_it_is_the_same_from_either_side(self, one: Pixels, other: Pixels) -> None:
        assert correlate(orientations(one), other) == correlate(orientations(other), one)

    def test_a_picture_correlates_wholly_with_its_orientations_and_brighter_copies(self) -> None:
        picture = noise(SMALL_SIDE, SMALL_SIDE, 1)[..., 0] // 2
        for turned in eight_orientations(picture):
            assert correlate(orientations(picture), turned) == 1.0
            assert correlate(orientations(picture), 2 * turned + 1) == 1.0

    def test_black_and_white_do_not_overflow(self) -> None:
        picture = np.where(noise(SMALL_SIDE, SMALL_SIDE, 1)[..., 0] > 127, 255, 0).astype(np.uint8)
        assert correlate(orientations(picture), picture) == 1.0


class TestClusters:
    """Six pictures from one scene to another in small steps: neighbours are near duplicates, the ends are not."""

    @pytest.fixture(scope="class")
    def chain(self) -> list[Fingerprint]:
        ends = draw_scene(2), draw_scene(3)
        return [take_fingerprint(np.asarray(Image.blend(*ends, 0.05 * step))) for step in range(6)]

    def test_neighbours_are_alike_and_the_ends_are_not(self, chain: list[Fingerprint]) -> None:
        for one, other in pairwise(chain):
            assert kinds(find_duplicates([one, other], SIMILARITY)) == ["near"]
        assert find_duplicates([chain[0], chain[-1]], SIMILARITY) == []

    @given(order=st.permutations(range(6)), block=st.integers(1, 6))
    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_chain_is_one_cluster(
        self, chain: list[Fingerprint], monkeypatch: pytest.MonkeyPatch, order: list[int], block: int
    ) -> None:
        monkeypatch.setattr(duplicates, "BLOCK", block)
        pairs = find_duplicates([chain[place] for place in order], SIMILARITY)
        assert len(pairs) == 5
        assert clusters(pairs, 6) == {frozenset(range(6))}

    def test_where_a_link_is_missing_there_are_two(self, chain: list[Fingerprint]) -> None:
        left = [chain[place] for place in (5, 0, 4, 1)]
        assert clusters(find_duplicates(left, SIMILARITY), 4) == {frozenset({0, 2}), frozenset({1, 3})}

    def test_an_exact_copy_does_not_hide_a_near_one(self, chain: list[Fingerprint]) -> None:
        pairs = find_duplicates([chain[0], chain[1], chain[0], chain[1], chain[2]], SIMILARITY)
        assert len(pairs) == 4
        assert [pair[:3] for pair in pairs if pair.kind == "exact"] == [(0, 2, "exact"), (1, 3, "exact")]
        assert clusters(pairs, 5) == {frozenset(range(5))}

    @pytest.mark.slow
    def test_two_thousand_pictures_that_are_all_alike_give_one_pair_less(self) -> None:
        scene = take_fingerprint(prepare(encode(draw_scene(1)))).small // 2
        shades = np.random.default_rng(0).integers(0, 3, (2000, SMALL_SIDE, SMALL_SIDE), np.uint8)
        fingerprints = [Fingerprint(number.to_bytes(4), scene + shade) for number, shade in enumerate(shades)]
        assert kinds(find_duplicates(fingerprints, SIMILARITY)) == ["near"] * 1999


class TestScale:
    """What is done to large sets for time and memory must not change what is found."""

    @pytest.fixture(scope="class")
    def fingerprints(self) -> list[Fingerprint]:
        """Ninety pictures: twenty scenes in up to eight variants, of which all but the first are near duplicates."""
        scenes = [draw_scene(seed) for seed in range(20)]
        contents = [encode(scene) for scene in scenes]
        for number, scene in enumerate(scenes):
            contents += [change(scene) for change in list(CHANGES.values())[: number % 8]]
        return [take_fingerprint(prepare(content)) for content in contents]

    def test_small_blocks_find_what_a_large_one_finds(
        self, fingerprints: list[Fingerprint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = len(fingerprints)
        expected = clusters(find_duplicates(fingerprints, SIMILARITY), count)
        assert len(expected) == 17  # of scenes 0, 8 and 16 there are no variants
        for block in (1, 7, count - 1, count):
            monkeypatch.setattr(duplicates, "BLOCK", block)
            found = find_duplicates(fingerprints, SIMILARITY)
            assert clusters(found, count) == expected
            assert len(found) == count - 20

    def test_candidates_are_compared_in_small_portions_too(
        self, fingerprints: list[Fingerprint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = find_duplicates(fingerprints, SIMILARITY)
        monkeypatch.setattr(duplicates, "CANDIDATES_AT_ONCE", 3)
        assert find_duplicates(fingerprints, SIMILARITY) == expected

    def test_processes_give_the_same_hashes(
        self, fingerprints: list[Fingerprint], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = np.array([one.small for one in fingerprints])
        alone = hash_pictures(small)
        monkeypatch.setattr(duplicates, "PARALLEL_FROM", 1)
        monkeypatch.setattr(duplicates, "PICTURES_PER_TASK", 7)
        together = hash_pictures(small)
        assert alone.shape == (len(fingerprints), 8)
        np.testing.assert_array_equal(alone, together, strict=True)

    def test_stored_images_are_read_by_their_row_numbers(self, tmp_path: Path) -> None:
        images = np.stack([noise(6, 9, 3, seed) for seed in range(5)])
        np.save(tmp_path / "images.npy", images)
        found = fingerprint_images(StoredImages(tmp_path / "images.npy", 5), [4, 0])
        expected = [take_fingerprint(images[4]), take_fingerprint(images[0])]
        assert [one.digest for one in found] == [one.digest for one in expected]
        np.testing.assert_array_equal([one.small for one in found], [one.small for one in expected], strict=True)


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
    # Among the thousand photos, the pairs that are the same shot to the eye, some of them turned or in another color.
    # Beyond them there may be a few pairs of different photos: catalogues show several guitars in the very same way.
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
            pytest.param("fender_mustang/000001", "fender_mustang/000470", "near", id="encoded anew"),
            pytest.param("gibson_Flying_V/000003", "gibson_Flying_V/000091", "near", id="mirrored"),
            pytest.param("fender_telecaster/000038", "fender_telecaster/000148", "near", id="turned"),
            pytest.param("fender_mustang/000026", "fender_mustang/000062", "near", id="turned and made smaller"),
        ],
    )
    def test_natural_duplicates_are_found(self, one: str, other: str, kind: str) -> None:
        contents = [(MATERIAL / "guitars" / f"{name}.jpg").read_bytes() for name in (one, other)]
        assert contents[0] != contents[1]
        assert kinds(compare(*map(prepare, contents))) == [kind]
