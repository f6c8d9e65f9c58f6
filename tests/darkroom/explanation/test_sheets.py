import io
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from darkroom.contact_sheet import SheetRow, draw_contact_sheet
from darkroom.explanation.corruptions import CORRUPTIONS, NO_CORRUPTIONS, corrupt_images
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
CORRECT = f"Correct: photo, evidence for its class ({LEGEND})"
MISCLASSIFIED = f"Misclassified: photo, evidence for the predicted class, evidence for the true class ({LEGEND})"
CORRUPTED = f"photo-4, clean and corrupted, with the evidence for the predicted class ({LEGEND})"


@pytest.fixture(scope="module", params=[1, 3], ids=["gray", "color"])
def model(request: pytest.FixtureRequest) -> keras.Model:
    """An untrained network, for photos of one or three channels."""
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
    """Six photos, two of each label, stored after the images of other photos."""
    stored = np.stack([noise(12, 10, model.input_shape[-1], seed) for seed in range(9)])
    return LabelledImages(store_images(tmp_path, stored), np.arange(3, 9), PHOTOS, np.array([0, 0, 1, 1, 2, 2]))


def pixels_of(photos: LabelledImages, index: int) -> Pixels:
    return photos.images.take(photos.rows[[index]])[0]


def expected_map(model: keras.Model, gradcam: GradCam, pixels: Pixels, class_id: int) -> Captioned:
    """Grad-CAM's map for a class, with the model's probability."""
    weights = gradcam.explain(pixels[None], np.array([class_id])).maps[0]
    probability = model.predict(pixels[None], verbose=0)[0, class_id]
    return Captioned(lay_over(pixels, weights), f"for {LABELS[class_id]}\nprobability {probability:.3f}")


def check_images(shown: list[Captioned], expected: list[Captioned]) -> None:
    assert [caption for _, caption in shown] == [caption for _, caption in expected]
    for (image, caption), (other, _) in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(image, other, caption)


def draw_sheet(rows: list[tuple[str, list[Captioned]]], columns: int = COLUMNS) -> bytes:
    sheet = [
        SheetRow(title, [image for image, _ in captioned], [caption for _, caption in captioned])
        for title, captioned in rows
    ]
    return draw_contact_sheet(sheet, columns, CAPTION_WIDTH, SHEET_WIDTH)


def size_of(sheet: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(sheet)) as image:
        return image.size


class TestOnePhoto:
    def test_the_predicted_class_is_explained_by_default(self, model: keras.Model, gradcam: GradCam) -> None:
        for seed in range(5):
            pixels = noise(12, 10, model.input_shape[-1], seed)
            predicted = int(model.predict(pixels[None], verbose=0).argmax())
            shown = list(explain_photo(gradcam, pixels, "a photo", LABELS))
            check_images(shown, [Captioned(pixels, "a photo"), expected_map(model, gradcam, pixels, predicted)])

    def test_each_given_class_has_a_map(self, model: keras.Model, gradcam: GradCam) -> None:
        pixels = noise(12, 10, model.input_shape[-1])
        shown = list(explain_photo(gradcam, pixels, "a photo", LABELS, [2, 0]))
        maps = [expected_map(model, gradcam, pixels, class_id) for class_id in (2, 0)]
        check_images(shown, [Captioned(pixels, "a photo"), *maps])
        assert (maps[0].image != maps[1].image).any()

    def test_any_number_of_photos_is_drawn_in_one_row(self, model: keras.Model, gradcam: GradCam) -> None:
        shown = list(explain_photo(gradcam, noise(12, 10, model.input_shape[-1]), "a photo", LABELS))
        assert draw_explained("A title", shown * 4) == draw_sheet([(f"A title ({LEGEND})", shown * 4)])
        assert size_of(draw_explained("A title", []))[0] == SHEET_WIDTH


class TestExamples:
    PREDICTED = np.array([0, 1, 1, 1, 2, 0])

    def expected(self, model: keras.Model, gradcam: GradCam, photos: LabelledImages, index: int) -> list[Captioned]:
        """A photo, and the maps for its predicted and its true class."""
        pixels, true_id = pixels_of(photos, index), int(photos.class_ids[index])
        predicted_id = int(self.PREDICTED[index])
        class_ids = [true_id] if predicted_id == true_id else [predicted_id, true_id]
        maps = [expected_map(model, gradcam, pixels, class_id) for class_id in class_ids]
        return [Captioned(pixels, f"{PHOTOS[index]}\ntrue: {LABELS[true_id]}"), *maps]

    def test_a_misclassified_photo_has_a_map_for_the_true_class_too(
        self, model: keras.Model, gradcam: GradCam, photos: LabelledImages
    ) -> None:
        shown = list(list_explained(gradcam, photos, np.array([5, 0]), self.PREDICTED, LABELS))
        expected = [image for index in (5, 0) for image in self.expected(model, gradcam, photos, index)]
        check_images(shown, expected)
        assert [caption.split("\n")[0] for _, caption in shown] == [
            "photo-5",
            "for cat",
            "for eel",
            "photo-0",
            "for cat",
        ]

    @pytest.mark.parametrize(
        ("examples", "correct", "misclassified"), [(1, [0], [1]), (3, [0, 2, 4], [1, 5]), (9, [0, 2, 3, 4], [1, 5])]
    )
    def test_correct_photos_come_before_misclassified_ones_with_all_labels_in_turn(
        self,
        model: keras.Model,
        gradcam: GradCam,
        photos: LabelledImages,
        examples: int,
        correct: list[int],
        misclassified: list[int],
    ) -> None:
        rows = [
            (title, [image for index in indices for image in self.expected(model, gradcam, photos, index)])
            for title, indices in ((CORRECT, correct), (MISCLASSIFIED, misclassified))
        ]
        assert draw_examples(gradcam, photos, self.PREDICTED, LABELS, examples) == draw_sheet(rows)

    @pytest.mark.parametrize(("is_correct", "empty"), [(True, MISCLASSIFIED), (False, CORRECT)])
    def test_a_row_without_photos_says_so(
        self, gradcam: GradCam, photos: LabelledImages, is_correct: bool, empty: str
    ) -> None:
        predicted: ClassIds = photos.class_ids if is_correct else (photos.class_ids + 1) % 3
        explained = list(list_explained(gradcam, photos, np.arange(6), predicted, LABELS))
        none = empty.replace(f" ({LEGEND})", ": none")
        rows = [(title, [] if title is empty else explained) for title in (CORRECT, MISCLASSIFIED)]
        expected = draw_sheet([(none if title is empty else title, shown) for title, shown in rows])
        assert draw_examples(gradcam, photos, predicted, LABELS, 6) == expected


class TestCorrupted:
    def test_a_photo_is_shown_clean_and_at_each_level(
        self, model: keras.Model, gradcam: GradCam, photos: LabelledImages
    ) -> None:
        levels = {"scribbles": [20], "noise": [64, 8], "rotation": [], "jpeg": [5]}
        original = pixels_of(photos, 4)
        rows = [(CORRUPTED, [])]
        for name in ("scribbles", "noise", "jpeg"):
            versions = {"clean": original} | {
                str(level): corrupt_images(original[None], CORRUPTIONS[name], level, 7, photos.rows[[4]])[0]
                for level in sorted(levels[name])
            }
            explained = []
            for caption, pixels in versions.items():
                predicted = int(model.predict(pixels[None], verbose=0).argmax())
                explained += [Captioned(pixels, caption), expected_map(model, gradcam, pixels, predicted)]
            rows.append((f"{name} ({CORRUPTIONS[name].axis_label})", explained))

        sheet = draw_corrupted(gradcam, photos, 4, LABELS, levels, 7)

        assert sheet == draw_sheet(rows, columns=6)
        assert draw_corrupted(gradcam, photos, 4, LABELS, levels, 8) != sheet

    def test_without_any_level_the_sheet_says_so(self, gradcam: GradCam, photos: LabelledImages) -> None:
        levels = {name: [] for name in CORRUPTIONS}
        assert draw_corrupted(gradcam, photos, 4, LABELS, levels, 7) == draw_sheet([(NO_CORRUPTIONS, [])], columns=1)
