import base64
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image

from commands.page.page import (
    PhotoPrediction,
    classify_photo,
    write_figure,
    write_origin,
    write_prediction,
    write_reason,
)
from darkroom.explanation.gradcam import GradCam
from darkroom.photos.images import CHANNELS, ImageError
from darkroom.photos.options import Color
from darkroom.photos.photo_file import UnreadableFile
from darkroom.pipeline.arrays import Pixels
from darkroom.runs.model_loading import Origin
from darkroom.serving.classifier import Classifier, Likely
from tests.examples import encode, noise
from tests.project import BAD_INPUTS
from tests.result_workspace import HEIGHT, LABELS, WIDTH, make_model

ORIGIN = Origin("0123abcd", "calm-owl-7", "guitars", 0.875, "f0fbfe4")
SHOWN_SIZE = (480, 360)  # 40 times the model's input


def make_classifier(color: Color = "rgb", model: keras.Model | None = None) -> Classifier:
    preparation = {"resize": "crop", "resampling": "bicubic", "color": color}
    return Classifier(model or make_model(CHANNELS[color]), LABELS, preparation)


def read_image(html: str) -> Pixels:
    """The pixels of the first image that is embedded in HTML."""
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        return np.asarray(image)


def list_texts(html: str) -> list[str]:
    """The texts between the tags."""
    return [text for text in re.sub("<[^>]*>", "\n", html).split("\n") if text.strip()]


class TestPrediction:
    @pytest.mark.parametrize("color", ["rgb", "gray"])
    def test_it_has_the_three_most_likely_labels_and_an_enlarged_photo(self, color: Color) -> None:
        classifier = make_classifier(color)
        content = encode(noise(30, 40))
        prediction = classify_photo(classifier, GradCam(classifier.model), content)

        row = classifier.model.predict(classifier.prepare(content)[None], verbose=0)[0].tolist()
        ranked = sorted(zip(row, LABELS, strict=True), reverse=True)[:3]
        assert [likely.label for likely in prediction.likeliest] == [label for _, label in ranked]
        assert [likely.probability for likely in prediction.likeliest] == pytest.approx([value for value, _ in ranked])
        assert prediction.photo.shape == (*SHOWN_SIZE, CHANNELS[color])
        assert prediction.overlay is not None
        assert prediction.overlay.shape == (*SHOWN_SIZE, 3)
        assert np.any(prediction.overlay != prediction.photo)
        assert prediction.input_size == (HEIGHT, WIDTH)

    def test_without_grad_cam_there_is_no_overlay(self) -> None:
        prediction = classify_photo(make_classifier(), None, encode(noise(30, 40)))
        assert prediction.overlay is None
        assert write_prediction("a.png", prediction).count("<img") == 1

    def test_with_fewer_than_three_labels_it_has_all_of_them(self) -> None:
        pixels = keras.Input((HEIGHT, WIDTH, 3))
        model = keras.Model(pixels, keras.layers.Dense(2, "softmax")(keras.layers.Flatten()(pixels)))
        classifier = Classifier(model, LABELS[:2], make_classifier(model=model).preparation)
        assert len(classify_photo(classifier, None, encode(noise(30, 40))).likeliest) == 2

    def test_a_file_that_is_not_an_image_is_rejected_with_the_reason(self) -> None:
        with pytest.raises(ImageError, match="^not a readable JPEG, PNG"):
            classify_photo(make_classifier(), None, b"not an image")

    @pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"needs the odd files in {BAD_INPUTS}")
    def test_each_unusual_or_broken_file_gets_a_prediction_or_a_reason(self) -> None:
        classifier = make_classifier()
        gradcam = GradCam(classifier.model)
        classified, reasons = 0, []
        for file in sorted(BAD_INPUTS.iterdir()):
            try:
                prediction = classify_photo(classifier, gradcam, file.read_bytes())
            except (ImageError, UnreadableFile) as error:
                reasons.append(str(error))
            else:
                assert prediction.photo.shape == (*SHOWN_SIZE, 3)
                classified += 1
        assert classified > 0
        assert "claims more than 89478485 pixels" in reasons
        assert all(reasons)


class TestHtml:
    def test_a_prediction_has_name_labels_probabilities_and_bars(self) -> None:
        likeliest = [Likely("cat", 0.75), Likely("dog", 0.2496), Likely("eel", 0.0004)]
        html = write_prediction("a.png", PhotoPrediction(likeliest, noise(24, 18), noise(24, 18), (HEIGHT, WIDTH)))
        assert list_texts(html)[:7] == ["a.png", "cat", "0.750", "dog", "0.250", "eel", "0.000"]
        assert re.findall("width: ([0-9.]+%)", html) == ["75.0%", "25.0%", "0.0%"]
        assert "Model input: the model sees this part at 9 x 12 pixels" in html
        assert "Grad-CAM for cat: red is strong evidence" in html

    @pytest.mark.parametrize("channels", [1, 3])
    def test_an_image_is_embedded_unchanged(self, channels: int) -> None:
        pixels = noise(24, 18, channels)
        html = write_figure(pixels, "Title", "remark")
        np.testing.assert_array_equal(read_image(html), pixels[..., 0] if channels == 1 else pixels)
        assert 'width="18" height="24" alt="Title: remark"' in html

    def test_names_labels_and_reasons_are_escaped(self) -> None:
        evil = "<script>\"'&"
        prediction = PhotoPrediction([Likely(evil, 1.0)], noise(24, 18), noise(24, 18), (HEIGHT, WIDTH))
        pages = [
            write_prediction(evil, prediction),
            write_reason(evil, evil),
            write_origin(ORIGIN._replace(name=evil, experiment=evil, commit=evil), "", [evil], evil),
        ]
        for html in pages:
            assert "<script>" not in html
            assert "&lt;script&gt;&quot;&#x27;&amp;" in html

    def test_the_known_facts_about_a_run_are_shown(self) -> None:
        known = ["Run", "calm-owl-7 (0123abcd)", "Experiment", "guitars"]
        score = ["Accuracy on test photos", "0.875"]
        labels = ["4 labels", "cat, dog, great owl, eel"]
        assert list_texts(write_origin(ORIGIN, "", LABELS, "")) == [
            "The model",
            *known,
            *score,
            "Commit",
            "f0fbfe4",
            *labels,
        ]
        unscored = ORIGIN._replace(accuracy=None, commit="")
        assert list_texts(write_origin(unscored, "", LABELS, "")) == ["The model", *known, *labels]

    def test_without_a_run_or_an_overlay_the_page_says_why(self) -> None:
        texts = list_texts(write_origin(None, "not recorded", LABELS, "no convolution"))
        assert texts[:3] == ["The model", "Run", "not recorded"]
        assert texts[-2:] == ["No Grad-CAM", "no convolution"]
