import base64
import io
import re

import keras
import numpy as np
import pytest
from PIL import Image

from commands.page.page import PhotoAnswer, answer_photo, write_answer, write_figure, write_origin, write_reason
from darkroom.explanation.gradcam import GradCam
from darkroom.photos.images import CHANNELS, ImageError
from darkroom.photos.options import Color
from darkroom.photos.photo_file import UnreadableFile
from darkroom.pipeline.arrays import Pixels
from darkroom.runs.model_loading import Origin
from darkroom.serving.classifier import Classifier, Likely
from tests.asked_workspace import HEIGHT, LABELS, WIDTH, make_model
from tests.examples import encode, noise
from tests.project import BAD_INPUTS

ORIGIN = Origin("0123abcd", "calm-owl-7", "guitars", 0.875, "f0fbfe4")
LARGE = (480, 360)  # 40 times what the network takes


def make_classifier(color: Color = "rgb", model: keras.Model | None = None) -> Classifier:
    preparation = {"resize": "crop", "resampling": "bicubic", "color": color}
    return Classifier(model or make_model(CHANNELS[color]), LABELS, preparation)


def read_picture(html: str) -> Pixels:
    """The pixels of the first picture that lies in HTML."""
    found = re.search(r'src="data:image/png;base64,([^"]+)"', html)
    assert found
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
        return np.asarray(picture)


def write_texts(html: str) -> list[str]:
    """The texts between the tags."""
    return [text for text in re.sub("<[^>]*>", "\n", html).split("\n") if text.strip()]


class TestAnswer:
    @pytest.mark.parametrize("color", ["rgb", "gray"])
    def test_the_three_likeliest_labels_are_told_and_shown_larger(self, color: Color) -> None:
        classifier = make_classifier(color)
        content = encode(noise(30, 40))
        answer = answer_photo(classifier, GradCam(classifier.model), content)

        row = classifier.model.predict(classifier.prepare(content)[None], verbose=0)[0].tolist()
        ranked = sorted(zip(row, LABELS, strict=True), reverse=True)[:3]
        assert [likely.label for likely in answer.likeliest] == [label for _, label in ranked]
        assert [likely.probability for likely in answer.likeliest] == pytest.approx([value for value, _ in ranked])
        assert answer.photo.shape == (*LARGE, CHANNELS[color])
        assert answer.overlay is not None
        assert answer.overlay.shape == (*LARGE, 3)
        assert np.any(answer.overlay != answer.photo)
        assert answer.seen_size == (HEIGHT, WIDTH)

    def test_a_network_that_cannot_be_explained_has_no_overlay(self) -> None:
        answer = answer_photo(make_classifier(), None, encode(noise(30, 40)))
        assert answer.overlay is None
        assert write_answer("a.png", answer).count("<img") == 1

    def test_of_fewer_labels_than_three_all_are_told(self) -> None:
        pixels = keras.Input((HEIGHT, WIDTH, 3))
        model = keras.Model(pixels, keras.layers.Dense(2, "softmax")(keras.layers.Flatten()(pixels)))
        classifier = Classifier(model, LABELS[:2], make_classifier(model=model).preparation)
        assert len(answer_photo(classifier, None, encode(noise(30, 40))).likeliest) == 2

    def test_what_is_no_photo_has_its_reason(self) -> None:
        with pytest.raises(ImageError, match="^not a readable JPEG, PNG"):
            answer_photo(make_classifier(), None, b"no picture")

    @pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"needs the odd files in {BAD_INPUTS}")
    def test_of_odd_and_broken_files_each_has_an_answer_or_its_reason(self) -> None:
        classifier = make_classifier()
        gradcam = GradCam(classifier.model)
        answered, reasons = 0, []
        for file in sorted(BAD_INPUTS.iterdir()):
            try:
                answer = answer_photo(classifier, gradcam, file.read_bytes())
            except (ImageError, UnreadableFile) as error:
                reasons.append(str(error))
            else:
                assert answer.photo.shape == (*LARGE, 3)
                answered += 1
        assert answered > 0
        assert "claims more than 89478485 pixels" in reasons
        assert all(reasons)


class TestHtml:
    def test_an_answer_has_name_labels_probabilities_and_bars(self) -> None:
        likeliest = [Likely("cat", 0.75), Likely("dog", 0.2496), Likely("eel", 0.0004)]
        html = write_answer("a.png", PhotoAnswer(likeliest, noise(24, 18), noise(24, 18), (HEIGHT, WIDTH)))
        assert write_texts(html)[:7] == ["a.png", "cat", "0.750", "dog", "0.250", "eel", "0.000"]
        assert re.findall("width: ([0-9.]+%)", html) == ["75.0%", "25.0%", "0.0%"]
        assert "The part of the photo that the network sees: at 9 x 12 pixels" in html
        assert "What speaks for cat (Grad-CAM)" in html

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_picture_lies_in_the_page_as_it_is(self, channels: int) -> None:
        pixels = noise(24, 18, channels)
        html = write_figure(pixels, "Title", "remark")
        np.testing.assert_array_equal(read_picture(html), pixels[..., 0] if channels == 1 else pixels)
        assert 'width="18" height="24" alt="Title: remark"' in html

    def test_names_labels_and_reasons_are_text_and_no_html(self) -> None:
        evil = "<script>\"'&"
        answer = PhotoAnswer([Likely(evil, 1.0)], noise(24, 18), noise(24, 18), (HEIGHT, WIDTH))
        pages = [
            write_answer(evil, answer),
            write_reason(evil, evil),
            write_origin(ORIGIN._replace(name=evil, experiment=evil, commit=evil), "", [evil], evil),
        ]
        for html in pages:
            assert "<script>" not in html
            assert "&lt;script&gt;&quot;&#x27;&amp;" in html

    def test_the_run_of_a_model_is_told_by_what_is_known_of_it(self) -> None:
        known = ["Run", "calm-owl-7 (0123abcd)", "Experiment", "guitars"]
        score = ["Accuracy on test photos", "0.875"]
        labels = ["4 labels", "cat, dog, great owl, eel"]
        assert write_texts(write_origin(ORIGIN, "", LABELS, "")) == [
            "The model",
            *known,
            *score,
            "Commit",
            "f0fbfe4",
            *labels,
        ]
        unscored = ORIGIN._replace(accuracy=None, commit="")
        assert write_texts(write_origin(unscored, "", LABELS, "")) == ["The model", *known, *labels]

    def test_without_a_run_or_an_overlay_the_page_says_why(self) -> None:
        texts = write_texts(write_origin(None, "not recorded", LABELS, "no convolution"))
        assert texts[:3] == ["The model", "Run", "not recorded"]
        assert texts[-2:] == ["No overlay", "no convolution"]
