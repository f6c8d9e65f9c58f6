"""The content of the page: a photo's prediction and the origin of the model, as plain values and as HTML.

Dims: H and W, height and width of the photo as the page shows it, C channels.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from darkroom.explanation.gradcam import GradCam, lay_over
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import name_some
from darkroom.runs.model_loading import Origin
from darkroom.serving.classifier import Classifier, Likely, list_likeliest

TOP_LABELS = 3
# The longer side of a shown photo, in pixels; rounded down to a multiple of the model's input size.
SHOWN_SIDE = 480
MOST_LABELS_NAMED = 40
STYLE = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
.shown h2 { margin: 0 0 0.75rem; font-size: 1.1rem; overflow-wrap: anywhere; }
.shown p, .shown dd, .shown figcaption, .shown .label { overflow-wrap: anywhere; }
.prediction { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1.25rem; }
.prediction ol { list-style: none; margin: 0; padding: 0; }
.prediction li { margin: 0 0 0.9rem; }
.prediction .line { display: flex; justify-content: space-between; gap: 1rem; }
.prediction li:first-child .line { font-weight: 600; font-size: 1.15rem; }
.prediction .track { height: 0.6rem; border-radius: 0.3rem; background: var(--border-color-primary); overflow: hidden; }
.prediction .bar { height: 100%; background: var(--color-accent); }
.prediction figure { margin: 0; }
.prediction img { display: block; width: 100%; height: auto; max-width: 30rem;
  border: 1px solid var(--border-color-primary); border-radius: 0.3rem; }
.prediction figcaption, .origin { color: var(--body-text-color); font-size: 0.9rem; }
.prediction figcaption { margin-top: 0.4rem; }
.reason { border-left: 0.3rem solid #dc2626; padding: 0.75rem 1rem; background: var(--background-fill-secondary); }
.origin dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; margin: 0; }
.origin dt, .origin dd { margin: 0; }
@media (max-width: 30rem) {
  .origin dl { grid-template-columns: 1fr; gap: 0; }
  .origin dd { margin-bottom: 0.4rem; }
}
"""


@dataclass(frozen=True)
class PhotoPrediction:
    """The most likely labels of a photo, the predicted one first.

    `photo` is the part of the photo that the model sees, at a higher resolution (H, W, C), and `overlay` the same
    with Grad-CAM for the predicted label (H, W, 3), or None if the model does not support Grad-CAM.
    """

    likeliest: Sequence[Likely]
    photo: Pixels
    overlay: Pixels | None
    input_size: tuple[int, int]  # height and width of the model's input


def classify_photo(classifier: Classifier, gradcam: GradCam | None, content: bytes) -> PhotoPrediction:
    """Classify a photo, and draw Grad-CAM for the predicted label.

    Args:
        classifier: the model with its labels.
        gradcam: Grad-CAM of the same model; None leaves the overlay out.
        content: the bytes of the photo's file.

    Raises:
        ImageError: the file cannot be read as a photo; the message is the reason.
    """
    height, width = classifier.image_size
    pixels, photo = classifier.prepare_sizes(content, [1, max(1, SHOWN_SIDE // max(height, width))])
    likeliest = list_likeliest(classifier.model.predict_on_batch(pixels[None])[0], classifier.labels, TOP_LABELS)
    overlay = None if gradcam is None else lay_over(photo, gradcam.explain(pixels[None]).maps[0])
    return PhotoPrediction(likeliest, photo, overlay, (height, width))


def write_prediction(name: str, prediction: PhotoPrediction) -> str:
    """The HTML of the prediction for the file `name`."""
    lines = "".join(map(write_likely, prediction.likeliest))
    predicted = escape(prediction.likeliest[0].label)
    height, width = prediction.input_size
    figures = write_figure(prediction.photo, "Model input", f"the model sees this part at {width} x {height} pixels")
    if prediction.overlay is not None:
        colors = "red is strong evidence, blue is weak evidence, gray is none"
        figures += write_figure(prediction.overlay, f"Grad-CAM for {predicted}", colors)
    return (
        f'<section class="shown" role="status"><h2>{escape(name)}</h2><div class="prediction">'
        f'<ol aria-label="Most likely labels">{lines}</ol>{figures}</div></section>'
    )


def write_likely(likely: Likely) -> str:
    bar = f'<div class="bar" style="width: {likely.probability:.1%}"></div>'
    return (
        f'<li><div class="line"><span class="label">{escape(likely.label)}</span> '
        f'<span class="probability">{likely.probability:.3f}</span></div>'
        f'<div class="track" aria-hidden="true">{bar}</div></li>'
    )


def write_figure(pixels: Pixels, title: str, remark: str) -> str:
    """The HTML of an image (H, W, C), embedded as a data URL, so that no file is written."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    height, width = pixels.shape[:2]
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{title}: {remark}">'
        f"<figcaption>{title}: {remark}</figcaption></figure>"
    )


def write_reason(name: str, reason: str) -> str:
    """The HTML of the reason why the file `name` has no prediction."""
    return (
        f'<section class="shown reason" role="alert"><h2>{escape(name)}</h2>'
        f"<p>This file cannot be read as a photo: {escape(reason)}.</p></section>"
    )


def write_origin(origin: Origin | None, no_origin: str, labels: Sequence[str], no_gradcam: str) -> str:
    """The HTML of the section about the model.

    Args:
        origin: the run that recorded it; None if there is none, or it is unknown.
        no_origin: the reason why there is no run, or "".
        labels: the labels of the model.
        no_gradcam: the reason why the model does not support Grad-CAM, or "".
    """
    rows = list_origin(origin) if origin is not None else [("Run", no_origin)]
    rows.append((f"{len(labels)} labels", name_some(labels, MOST_LABELS_NAMED)))
    if no_gradcam:
        rows.append(("No Grad-CAM", no_gradcam))
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<section class="shown origin"><h2>The model</h2><dl>{lines}</dl></section>'


def list_origin(origin: Origin) -> list[tuple[str, str]]:
    """The known facts about a run, as names and values."""
    rows = [("Run", f"{origin.name} ({origin.run_id})"), ("Experiment", origin.experiment)]
    if origin.accuracy is not None:
        rows.append(("Accuracy on test photos", f"{origin.accuracy:.3f}"))
    if origin.commit:
        rows.append(("Commit", origin.commit))
    return rows
