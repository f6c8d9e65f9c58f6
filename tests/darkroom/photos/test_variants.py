import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from darkroom.photos.images import CHANNELS
from darkroom.photos.variants import (
    ORIGINAL,
    Variant,
    caption_variant,
    draw_variants,
    list_variants,
    map_rotation,
    use_one_thread,
)
from darkroom.pipeline.arrays import Pixels
from tests.examples import noise
from tests.imports import loaded_modules

RESAMPLINGS = ("nearest", "bilinear", "bicubic", "lanczos")
FILL_MODES = ("constant", "edge", "reflect")
FLIPS = ("none", "horizontal", "vertical", "both")
FLIPPED = {
    "none": lambda pixels: pixels,
    "horizontal": lambda pixels: pixels[:, ::-1],
    "vertical": lambda pixels: pixels[::-1],
    "both": lambda pixels: pixels[::-1, ::-1],
}


def draw(pixels: Pixels, *variant: object, resampling: str = "bilinear", fill_mode: str = "constant") -> Pixels:
    return draw_variants(pixels, [Variant(*variant)], resampling, fill_mode)[0]


def soft(height: int, width: int) -> Pixels:
    """Blurred noise, without sharp edges: different interpolations of it give nearly the same pixels."""
    return cv2.GaussianBlur(noise(height, width), (0, 0), 3)


class TestList:
    def test_without_rotations_and_flips_there_is_only_the_original(self) -> None:
        assert list_variants([], horizontal_flip=False, vertical_flip=False) == [ORIGINAL]

    def test_rotations_and_flips_are_combined(self) -> None:
        assert list_variants([-12, 12], horizontal_flip=True, vertical_flip=False) == [
            Variant(0, "none"),
            Variant(-12, "none"),
            Variant(12, "none"),
            Variant(0, "horizontal"),
            Variant(-12, "horizontal"),
            Variant(12, "horizontal"),
        ]

    def test_both_flips_together_are_a_rotation_by_180_degrees(self) -> None:
        assert list_variants([180], horizontal_flip=True, vertical_flip=True) == [
            Variant(0, "none"),
            Variant(180, "none"),
            Variant(0, "horizontal"),
            Variant(180, "horizontal"),
        ]

    @pytest.mark.parametrize("rotation_degrees", [[0], [360], [-360, 0, 360], [0.0, -0.0]])
    def test_rotations_by_360_degrees_are_the_original(self, rotation_degrees: list[float]) -> None:
        assert list_variants(rotation_degrees, horizontal_flip=False, vertical_flip=False) == [ORIGINAL]

    @given(st.lists(st.integers(-4, 4), max_size=6), st.booleans(), st.booleans())
    @settings(deadline=None, max_examples=100)
    def test_with_right_angles_every_image_is_drawn_once(
        self, quarters: list[int], horizontal_flip: bool, vertical_flip: bool
    ) -> None:
        pixels = noise(7, 7)
        flips = ["none"]
        flips += ["horizontal"] if horizontal_flip else []
        flips += ["vertical"] if vertical_flip else []
        flips += ["both"] if horizontal_flip and vertical_flip else []
        expected = {FLIPPED[flip](np.rot90(pixels, quarter)).tobytes() for flip in flips for quarter in [0, *quarters]}

        variants = list_variants([90.0 * quarter for quarter in quarters], horizontal_flip, vertical_flip)
        drawn = [variant.tobytes() for variant in draw_variants(pixels, variants, "bilinear", "constant")]

        assert len(drawn) == len(set(drawn))
        assert set(drawn) == expected
        assert drawn[0] == pixels.tobytes()
        assert variants[0] == ORIGINAL

    @given(
        st.lists(st.tuples(st.integers(-1800, 1800), st.sampled_from([-1800, 0, 1800])), max_size=3),
        st.booleans(),
        st.booleans(),
    )
    @settings(deadline=None, max_examples=100)
    def test_angles_with_a_decimal_place_are_listed_once_too(
        self, angles: list[tuple[int, int]], horizontal_flip: bool, vertical_flip: bool
    ) -> None:
        tenths = [tenth for angle, offset in angles for tenth in (angle, angle + offset)]
        rotations = {tenth % 3600 for tenth in [0, *tenths]}
        opposite = {(rotation + 1800) % 3600 for rotation in rotations}
        unflipped = rotations | opposite if horizontal_flip and vertical_flip else rotations
        flipped = (rotations if horizontal_flip else set()) | (opposite if vertical_flip else set())

        variants = list_variants([tenth / 10 for tenth in tenths], horizontal_flip, vertical_flip)

        assert len(variants) == len(unflipped) + len(flipped)


class TestRotations:
    @pytest.mark.parametrize("size", [(64, 64), (63, 63), (40, 75), (75, 40)])
    @pytest.mark.parametrize("degrees", [-170, -90, -30, -6, 0.5, 24, 45, 135, 270])
    def test_direction_and_center_of_a_rotation_match_pillow(self, size: tuple[int, int], degrees: float) -> None:
        pixels = soft(*size)
        drawn = draw(pixels, degrees, "none").astype(int)
        expected = np.asarray(Image.fromarray(pixels).rotate(degrees, Image.Resampling.BILINEAR))
        # At the border, Pillow's pixels are black or not, but OpenCV interpolates with black.
        inside = cv2.erode((expected.any(axis=2)).astype(np.uint8), np.ones((5, 5)), borderValue=0).astype(bool)
        assert inside.mean() > 0.3
        assert np.abs(drawn - expected)[inside].max() <= 3

    @pytest.mark.parametrize("resampling", RESAMPLINGS)
    @pytest.mark.parametrize("fill_mode", FILL_MODES)
    @pytest.mark.parametrize("side", [1, 2, 9, 10, 100])
    def test_right_angles_are_exact_for_a_square(self, side: int, fill_mode: str, resampling: str) -> None:
        for channels in CHANNELS.values():
            pixels = noise(side, side, channels)
            for quarter in range(-4, 5):
                drawn = draw(pixels, 90.0 * quarter, "none", resampling=resampling, fill_mode=fill_mode)
                np.testing.assert_array_equal(drawn, np.rot90(pixels, quarter))

    @pytest.mark.parametrize("resampling", RESAMPLINGS)
    def test_180_degrees_are_exact_for_every_shape(self, resampling: str) -> None:
        pixels = noise(6, 11)
        np.testing.assert_array_equal(draw(pixels, 180, "none", resampling=resampling), pixels[::-1, ::-1])

    def test_nearest_creates_no_new_shades(self) -> None:
        pixels = noise(30, 30, 1) // 64 * 64
        assert set(np.unique(draw(pixels, 33, "none", resampling="nearest"))) <= {0, 64, 128, 192}

    def test_the_filters_give_different_pixels(self) -> None:
        drawn = {draw(noise(30, 30), 20, "none", resampling=name).tobytes() for name in RESAMPLINGS}
        assert len(drawn) == len(RESAMPLINGS)

    def test_an_image_of_the_largest_size_is_rotated(self) -> None:
        pixels = np.zeros((4096, 8, 1), np.uint8)
        pixels[:4] = 200
        assert draw(pixels, 180, "none")[-4:].min() == 200
        wide = draw(np.full((8, 4096, 1), 200, np.uint8), 90, "none")
        assert wide[:, 2044:2052].min() == 200
        assert not wide[:, :2000].any()

    def test_maps_are_cached_for_all_images_of_a_size(self) -> None:
        map_rotation.cache_clear()
        for seed in range(3):
            draw_variants(noise(8, 9, seed=seed), list_variants([5, 7], True, True), "bilinear", "edge")
        assert map_rotation.cache_info().misses == 2


class TestFilling:
    def test_the_corners_that_a_rotation_uncovers_are_black(self) -> None:
        drawn = draw(np.full((21, 21, 3), 200, np.uint8), 45, "none")
        assert not drawn[[0, 0, -1, -1], [0, -1, 0, -1]].any()
        assert np.unique(drawn[5:16, 5:16]).tolist() == [200]

    @pytest.mark.parametrize("fill_mode", ["edge", "reflect"])
    def test_an_image_of_one_color_stays_one(self, fill_mode: str) -> None:
        drawn = draw(np.full((21, 33, 3), 200, np.uint8), 45, "none", fill_mode=fill_mode)
        assert np.unique(drawn).tolist() == [200]

    @pytest.mark.parametrize(
        ("fill_mode", "beyond"),
        [("constant", [0, 0, 0]), ("edge", [10, 10, 10]), ("reflect", [10, 20, 30])],
    )
    def test_pixels_beyond_the_border(self, fill_mode: str, beyond: list[int]) -> None:
        """A horizontal strip rotated by 90 degrees: the pixels above it come from beyond its right border."""
        strip = np.array([[70, 60, 50, 40, 30, 20, 10]], np.uint8)
        pixels = np.repeat(strip, 13, axis=0)[..., None]
        drawn = draw(pixels, 90, "none", fill_mode=fill_mode)
        column = drawn[:, 3, 0].tolist()
        assert column[3:10] == [10, 20, 30, 40, 50, 60, 70]
        assert column[2::-1] == beyond


class TestFlips:
    @given(st.floats(-360, 360), st.sampled_from(FLIPS), st.sampled_from(RESAMPLINGS), st.sampled_from(FILL_MODES))
    @settings(deadline=None, max_examples=60)
    def test_a_flipped_variant_is_the_flipped_rotated_one(
        self, degrees: float, flip: str, resampling: str, fill_mode: str
    ) -> None:
        for channels in CHANNELS.values():
            pixels = noise(6, 9, channels)
            variants = [ORIGINAL, Variant(degrees, flip), Variant(degrees, "none")]
            original, flipped, rotated = draw_variants(pixels, variants, resampling, fill_mode)
            assert original.shape == (6, 9, channels)
            np.testing.assert_array_equal(original, pixels)
            np.testing.assert_array_equal(flipped, FLIPPED[flip](rotated))

    def test_the_rotation_comes_before_the_flip(self) -> None:
        pixels = noise(8, 8)
        np.testing.assert_array_equal(draw(pixels, 90, "horizontal"), np.rot90(pixels)[:, ::-1])

    @given(st.floats(-360, 360))
    @settings(deadline=None, max_examples=50)
    def test_both_flips_add_180_degrees_to_a_rotation(self, degrees: float) -> None:
        assume(abs(degrees % 90) > 1e-6)
        pixels = soft(25, 25)
        both, rotated = draw(pixels, degrees, "both").astype(int), draw(pixels, degrees + 180, "none")
        assert np.abs(both - rotated)[5:-5, 5:-5].max() <= 4

    def test_the_input_is_not_modified(self) -> None:
        pixels = noise(9, 7)
        pixels.flags.writeable = False
        draw_variants(pixels, list_variants([10, 20], True, True), "bilinear", "reflect")
        np.testing.assert_array_equal(pixels, noise(9, 7))


@pytest.mark.parametrize(
    ("variant", "caption"),
    [
        (ORIGINAL, "original"),
        (Variant(-30.0, "none"), "-30°"),
        (Variant(12.5, "none"), "12.5°"),
        (Variant(0.0, "horizontal"), "flipped"),
        (Variant(-30.0, "horizontal"), "-30°, flipped"),
        (Variant(6.0, "vertical"), "6°, flipped ↕"),
        (Variant(360.0, "both"), "flipped ↔↕"),
    ],
)
def test_captions(variant: Variant, caption: str) -> None:
    assert caption_variant(variant) == caption


def test_the_number_of_threads_does_not_change_the_pixels() -> None:
    pixels, before = soft(300, 400), cv2.getNumThreads()
    variants = list_variants([7, 33], True, False)
    try:
        cv2.setNumThreads(4)
        many = draw_variants(pixels, variants, "bicubic", "reflect")
        use_one_thread()
        assert cv2.getNumThreads() == 1
        np.testing.assert_array_equal(draw_variants(pixels, variants, "bicubic", "reflect"), many)
    finally:
        cv2.setNumThreads(before)


def test_serving_does_not_import_opencv() -> None:
    assert "cv2" not in loaded_modules("darkroom.photos.images")
