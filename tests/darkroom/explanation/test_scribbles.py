import cv2
import numpy as np
import numpy.typing as npt
import pytest

from darkroom.explanation.scribbles import PEN_WIDTHS, draw_strokes, scribble
from tests.examples import noise

SIZES = [(16, 16), (100, 100), (224, 224), (40, 90)]
CHANNELS = [1, 3]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mask_scribbles(height: int, width: int, percent: int, random: np.random.Generator) -> npt.NDArray[np.bool_]:
    """The covered pixels (H, W), even if a stroke has the color of the pixels that it covers."""
    return draw_strokes(height, width, percent, random)[0] > 0


class TestScribbles:
    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("percent", [0, 5, 10, 20, 50])
    def test_the_covered_area_is_the_given_percentage(self, percent: int, size: tuple[int, int]) -> None:
        wanted = percent / 100 * size[0] * size[1]
        dot = (max(1, round(PEN_WIDTHS[1] * min(size))) + 1) ** 2
        for seed in range(8):
            assert wanted <= mask_scribbles(*size, percent, generator(seed)).sum() < wanted + dot

    def test_0_percent_covers_nothing(self) -> None:
        assert not mask_scribbles(50, 50, 0, generator()).any()

    @pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 30), (16, 16), (30, 100)])
    def test_a_whole_image_can_be_covered(self, size: tuple[int, int]) -> None:
        assert mask_scribbles(*size, 100, generator()).all()

    @pytest.mark.parametrize("channels", CHANNELS)
    def test_only_the_covered_pixels_change(self, channels: int) -> None:
        black, white = (np.full((60, 80, channels), shade, np.uint8) for shade in (0, 255))
        over_black, over_white = (scribble(pixels, 20, generator(3)) for pixels in (black, white))
        mask = mask_scribbles(60, 80, 20, generator(3))
        np.testing.assert_array_equal((over_black == over_white).all(axis=2), mask)
        assert not over_black[~mask].any()
        assert (over_white[~mask] == 255).all()

    def test_each_stroke_has_its_own_color(self) -> None:
        pixels = noise(100, 100)
        numbers, colors = draw_strokes(100, 100, 20, generator())
        scribbled = scribble(pixels, 20, generator())
        assert len(colors) > 2
        assert len({color.tobytes() for color in colors}) == len(colors)
        for number in range(1, len(colors)):
            assert (scribbled[numbers == number] == colors[number]).all()

    @pytest.mark.parametrize("size", SIZES)
    def test_a_higher_percentage_adds_to_the_strokes_of_a_lower_one(self, size: tuple[int, int]) -> None:
        for seed in range(5):
            masks = [mask_scribbles(*size, percent, generator(seed)) for percent in (0, 1, 5, 6, 20, 50, 80)]
            for fewer, more in zip(masks, masks[1:], strict=False):
                assert fewer.sum() < more.sum()
                assert not (fewer & ~more).any()

    def test_strokes_are_long_and_continuous(self) -> None:
        spans = []
        for seed in range(30):
            numbers, _ = draw_strokes(100, 100, 10, generator(seed))
            first = (numbers == 1).astype(np.uint8)
            # A stroke may leave the photo and return; the second one may cross it.
            assert cv2.connectedComponents(first, connectivity=8)[0] - 1 <= 8
            y, x = np.nonzero(first)
            spans.append(max(np.ptp(x), np.ptp(y)))
        assert np.median(spans) > 60

    def test_pens_have_the_specified_widths(self) -> None:
        widths = []
        for seed in range(20):
            mask = mask_scribbles(400, 400, 2, generator(seed))
            widths.append(2 * cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5).max())
        assert np.percentile(widths, 10) > 400 * PEN_WIDTHS[0] - 2
        assert np.percentile(widths, 80) < 400 * PEN_WIDTHS[1] + 4
        assert np.ptp(widths) > 4

    def test_strokes_are_the_same_in_every_size(self) -> None:
        small, large = (draw_strokes(side, side, 20, generator(1)) for side in (100, 200))
        np.testing.assert_array_equal(small[1][:3], large[1][:3])
        shrunk = large[0][::2, ::2] > 0
        assert (shrunk & (small[0] > 0)).sum() > 0.7 * (shrunk | (small[0] > 0)).sum()

    def test_different_seeds_give_different_scribbles(self) -> None:
        masks = {mask_scribbles(50, 50, 10, generator(seed)).tobytes() for seed in range(10)}
        assert len(masks) == 10
