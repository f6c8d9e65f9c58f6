import io
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from darkroom.contact_sheet import SheetRow, draw_contact_sheet
from darkroom.explanation.corruptions import CORRUPTIONS, NOTHING, corrupt_images
from darkroom.explanation.gradcam import GradCam, lay_over
from darkroom.explanation.sheets import (
    CAPTION_WIDTH,
    COLUMNS,
    LEGEND,
    SHEET_WIDTH,
    Captioned,
    draw_corrupted,
    draw_examples,
    draw_explained,
    explain_photo,
    list_explained,
)
from darkroom.pipeline.arrays import ClassIds, Pixels
from darkroom.scores.trained_model import LabelledImages
from tests.examples import noise
from tests.trainings import store_images

pytestmark = pytest.mark.slow

LABELS = ["cat", "dog", "eel"]
PHOTOS = [f"photo-{number}" for number in range(6)]
RIGHT = f"Told right: the photo, and what speaks for its label ({LEGEND})"
DISTURBED = f"photo-4, disturbed, and what speaks for the label that it is then told as ({LEGEND})"
WRONG = f"Told wrong: the photo, what speaks for the label that it was told as, and for the true one ({LEGEND})"


@pytest.fixture(scope="module", params=[1, 3], ids=["gray", "color"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    """A network that was never trained, for photos of one or of three channels."""
    keras.utils.set_random_seed(1)
    wide = keras.initializers.RandomNormal(stddev=0.5)
    pixels = keras.Input((12, 10, request.param))
    values = keras.layers.Rescaling(1 / 127.5, -1)(pixels)
    values = keras.layers.Conv2D(6, 3, activation="relu", kernel_initializer=wide)(values)
    values = keras.layers.Flatten()(values)
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax", kernel_initializer=wide)(values))


@pytest.fixture(scope="module")
def gradcam(model: keras.Model) -> GradCam:
    return GradCam(model)


@pytest.fixture
def photos(model: keras.Model, tmp_path: Path) -> LabelledImages:
    """Six photos, two of each label; the images of others are stored before them."""
    stored = np.stack([noise(12, 10, model.input_shape[-1], seed) for seed in range(9)])
    return LabelledImages(store_images(tmp_path, stored), np.arange(3, 9), PHOTOS, np.array([0, 0, 1, 1, 2, 2]))


def pixels_of(photos: LabelledImages, place: int) -> Pixels:
    return photos.images.take(photos.rows[[place]])[0]


def expected_map(model: keras.Model, gradcam: GradCam, pixels: Pixels, number: int) -> Captioned:
    """What speaks for a label as Grad-CAM itself tells it, with the model's own probability."""
    weights = gradcam.explain(pixels[None], np.array([number])).maps[0]
    probability = model.predict(pixels[None], verbose=0)[0, number]
    return Captioned(lay_over(pixels, weights), f"for {LABELS[number]}\nprobability {probability:.3f}")


def check_pictures(shown: list[Captioned], expected: list[Captioned]) -> None:
    assert [caption for _, caption in shown] == [caption for _, caption in expected]
    for (picture, caption), (other, _) in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(picture, other, caption)


def draw_sheet(rows: list[tuple[str, list[Captioned]]], columns: int = COLUMNS) -> bytes:
    sheet = [
        SheetRow(title, [picture for picture, _ in pictures], [caption for _, caption in pictures])
        for title, pictures in rows
    ]
    return draw_contact_sheet(sheet, columns, CAPTION_WIDTH, SHEET_WIDTH)


def size_of(sheet: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(sheet)) as image:
        return image.size


class TestOnePhoto:
    def test_without_a_question_the_likeliest_label_is_asked_about(self, model: keras.Model, gradcam: GradCam) -> None:
        for seed in range(5):
            pixels = noise(12, 10, model.input_shape[-1], seed)
            likeliest = int(model.predict(pixels[None], verbose=0).argmax())
            shown = list(explain_photo(gradcam, pixels, "a photo", LABELS))
            check_pictures(shown, [Captioned(pixels, "a photo"), expected_map(model, gradcam, pixels, likeliest)])

    def test_each_label_that_is_asked_about_has_a_map(self, model: keras.Model, gradcam: GradCam) -> None:
        pixels = noise(12, 10, model.input_shape[-1])
        shown = list(explain_photo(gradcam, pixels, "a photo", LABELS, [2, 0]))
        maps = [expected_map(model, gradcam, pixels, number) for number in (2, 0)]
        check_pictures(shown, [Captioned(pixels, "a photo"), *maps])
        assert (maps[0].picture != maps[1].picture).any()

    def test_photos_of_any_number_are_drawn_in_one_row(self, model: keras.Model, gradcam: GradCam) -> None:
        shown = list(explain_photo(gradcam, noise(12, 10, model.input_shape[-1]), "a photo", LABELS))
        assert draw_explained("A title", shown * 4) == draw_sheet([(f"A title ({LEGEND})", shown * 4)])
        assert size_of(draw_explained("A title", []))[0] == SHEET_WIDTH


class TestExamples:
    PREDICTED = np.array([0, 1, 1, 1, 2, 0])

    def expected(self, model: keras.Model, gradcam: GradCam, photos: LabelledImages, place: int) -> list[Captioned]:
        """A photo, and the maps for the label that it was told as, and for the true one."""
        pixels, target = pixels_of(photos, place), int(photos.class_ids[place])
        told = int(self.PREDICTED[place])
        numbers = [told] if told == target else [told, target]
        maps = [expected_map(model, gradcam, pixels, number) for number in numbers]
        return [Captioned(pixels, f"{PHOTOS[place]}\ntrue: {LABELS[target]}"), *maps]

    def test_of_a_photo_told_wrong_the_true_label_is_asked_about_too(
        self, model: keras.Model, gradcam: GradCam, photos: LabelledImages
    ) -> None:
        shown = list(list_explained(gradcam, photos, np.array([5, 0]), self.PREDICTED, LABELS))
        expected = [picture for place in (5, 0) for picture in self.expected(model, gradcam, photos, place)]
        check_pictures(shown, expected)
        assert [caption.split("\n")[0] for _, caption in shown] == [
            "photo-5",
            "for cat",
            "for eel",
            "photo-0",
            "for cat",
        ]

    @pytest.mark.parametrize(
        ("examples", "right", "wrong"), [(1, [0], [1]), (3, [0, 2, 4], [1, 5]), (9, [0, 2, 3, 4], [1, 5])]
    )
    def test_photos_told_right_stand_above_ones_told_wrong_of_all_labels_in_turn(
        self,
        model: keras.Model,
        gradcam: GradCam,
        photos: LabelledImages,
        examples: int,
        right: list[int],
        wrong: list[int],
    ) -> None:
        rows = [
            (title, [picture for place in places for picture in self.expected(model, gradcam, photos, place)])
            for title, places in ((RIGHT, right), (WRONG, wrong))
        ]
        assert draw_examples(gradcam, photos, self.PREDICTED, LABELS, examples) == draw_sheet(rows)

    @pytest.mark.parametrize(("is_right", "empty"), [(True, WRONG), (False, RIGHT)])
    def test_a_row_without_photos_says_so(
        self, gradcam: GradCam, photos: LabelledImages, is_right: bool, empty: str
    ) -> None:
        predicted: ClassIds = photos.class_ids if is_right else (photos.class_ids + 1) % 3
        pictures = list(list_explained(gradcam, photos, np.arange(6), predicted, LABELS))
        none = empty.replace(f" ({LEGEND})", ": none")
        rows = [(title, [] if title is empty else pictures) for title in (RIGHT, WRONG)]
        expected = draw_sheet([(none if title is empty else title, shown) for title, shown in rows])
        assert draw_examples(gradcam, photos, predicted, LABELS, 6) == expected


class TestCorrupted:
    def test_a_photo_is_shown_as_it_is_and_at_each_level(
        self, model: keras.Model, gradcam: GradCam, photos: LabelledImages
    ) -> None:
        levels = {"scribbles": [20], "noise": [64, 8], "rotation": [], "jpeg": [5]}
        original = pixels_of(photos, 4)
        rows = [(DISTURBED, [])]
        for name in ("scribbles", "noise", "jpeg"):
            disturbed = {"as it is": original} | {
                str(level): corrupt_images(original[None], CORRUPTIONS[name], level, 7, photos.rows[[4]])[0]
                for level in sorted(levels[name])
            }
            pictures = []
            for caption, pixels in disturbed.items():
                likeliest = int(model.predict(pixels[None], verbose=0).argmax())
                pictures += [Captioned(pixels, caption), expected_map(model, gradcam, pixels, likeliest)]
            rows.append((f"{name} ({CORRUPTIONS[name].axis_label})", pictures))

        sheet = draw_corrupted(gradcam, photos, 4, LABELS, levels, 7)

        assert sheet == draw_sheet(rows, columns=6)
        assert draw_corrupted(gradcam, photos, 4, LABELS, levels, 8) != sheet

    def test_without_any_level_the_sheet_says_so(self, gradcam: GradCam, photos: LabelledImages) -> None:
        levels = {name: [] for name in CORRUPTIONS}
        assert draw_corrupted(gradcam, photos, 4, LABELS, levels, 7) == draw_sheet([(NOTHING, [])], columns=1)
