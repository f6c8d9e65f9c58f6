"""What the page shows: a photo's answer, and where the model came from, as plain values and as HTML.

Dims: H and W, height and width of the photo as it is shown, C channels.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from darkroom.explanation.gradcam import GradCam, lay_over
from darkroom.photos.images import ImageError
from darkroom.pipeline.arrays import Pixels
from darkroom.pipeline.stage import name_some
from darkroom.runs.model_loading import Origin
from darkroom.serving.classifier import Classifier, Likely, list_likeliest

LIKELIEST = 3
# A photo is shown at the multiple of the network's own size that comes next below.
SHOWN_SIDE = 480
LABELS_NAMED = 40
STYLE = """
.gradio-container { max-width: 1100px !important; margin: 0 auto !important; }
.shown h2 { margin: 0 0 0.75rem; font-size: 1.1rem; overflow-wrap: anywhere; }
.shown p, .shown dd, .shown figcaption, .shown .label { overflow-wrap: anywhere; }
.answer { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 1.25rem; }
.answer ol { list-style: none; margin: 0; padding: 0; }
.answer li { margin: 0 0 0.9rem; }
.answer .line { display: flex; justify-content: space-between; gap: 1rem; }
.answer li:first-child .line { font-weight: 600; font-size: 1.15rem; }
.answer .track { height: 0.6rem; border-radius: 0.3rem; background: var(--border-color-primary); overflow: hidden; }
.answer .bar { height: 100%; background: var(--color-accent); }
.answer figure { margin: 0; }
.answer img { display: block; width: 100%; height: auto; max-width: 30rem;
  border: 1px solid var(--border-color-primary); border-radius: 0.3rem; }
.answer figcaption, .origin { color: var(--body-text-color); font-size: 0.9rem; }
.answer figcaption { margin-top: 0.4rem; }
.reason { border-left: 0.3rem solid #dc2626; padding: 0.75rem 1rem; background: var(--background-fill-secondary); }
.origin dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; margin: 0; }
.origin dt, .origin dd { margin: 0; }
@media (max-width: 30rem) {
  .origin dl { grid-template-columns: 1fr; gap: 0; }
  .origin dd { margin-bottom: 0.4rem; }
}
"""


@dataclass(frozen=True)
class PhotoAnswer:
    """What the network tells of a photo: its likeliest labels, the first one first.

    `photo` shows the part that the network sees, with more pixels (H, W, C), and `overlay` what speaks there for the
    first label (H, W, 3), or None if the network cannot be explained.
    """

    likeliest: Sequence[Likely]
    photo: Pixels
    overlay: Pixels | None
    seen_size: tuple[int, int]  # height and width, as the network takes them


def answer_photo(classifier: Classifier, gradcam: GradCam | None, content: bytes) -> PhotoAnswer:
    """Ask a network what a photo shows, and what in it speaks for that.

    Args:
        classifier: who is asked.
        gradcam: of the same network; None leaves the overlay out.
        content: the bytes of the photo's file, as the user has it.

    Raises:
        ImageError: they are no photo that can be read; the text is the reason.
    """
    (answers,) = classifier.classify([lambda: content])
    if answers.reasons:
        raise ImageError(answers.reasons[0])
    likeliest = list_likeliest(answers.probabilities[0], classifier.labels, LIKELIEST)
    height, width = classifier.image_size
    photo = classifier.prepare(content, max(1, SHOWN_SIDE // max(height, width)))
    overlay = None if gradcam is None else lay_over(photo, gradcam.explain(answers.pixels).maps[0])
    return PhotoAnswer(likeliest, photo, overlay, (height, width))


def write_answer(name: str, answer: PhotoAnswer) -> str:
    """The HTML of what the network tells of the file `name`."""
    lines = "".join(map(write_likely, answer.likeliest))
    first = escape(answer.likeliest[0].label)
    height, width = answer.seen_size
    figures = write_figure(answer.photo, "The part of the photo that the network sees", f"at {width} x {height} pixels")
    if answer.overlay is not None:
        colors = "red where much speaks for it, blue where little does, gray where nothing does"
        figures += write_figure(answer.overlay, f"What speaks for {first} (Grad-CAM)", colors)
    return (
        f'<section class="shown" role="status"><h2>{escape(name)}</h2><div class="answer">'
        f'<ol aria-label="The likeliest labels">{lines}</ol>{figures}</div></section>'
    )


def write_likely(likely: Likely) -> str:
    bar = f'<div class="bar" style="width: {likely.probability:.1%}"></div>'
    return (
        f'<li><div class="line"><span class="label">{escape(likely.label)}</span> '
        f'<span class="probability">{likely.probability:.3f}</span></div>'
        f'<div class="track" aria-hidden="true">{bar}</div></li>'
    )


def write_figure(pixels: Pixels, title: str, remark: str) -> str:
    """The HTML of a picture (H, W, C), which lies in it: so no file of it is ever written."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    height, width = pixels.shape[:2]
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{title}: {remark}">'
        f"<figcaption>{title}: {remark}</figcaption></figure>"
    )


def write_reason(name: str, reason: str) -> str:
    """The HTML of why the file `name` has no answer."""
    return (
        f'<section class="shown reason" role="alert"><h2>{escape(name)}</h2>'
        f"<p>This file cannot be read as a photo: {escape(reason)}.</p></section>"
    )


def write_origin(origin: Origin | None, unknown: str, labels: Sequence[str], unexplained: str) -> str:
    """The HTML of where the model came from.

    Args:
        origin: the recorded run; None if there is none, or nobody knows.
        unknown: then why, a sentence.
        labels: what the network tells apart.
        unexplained: why the network has no overlays, or "".
    """
    rows = list_origin(origin) if origin is not None else [("Run", unknown)]
    rows.append((f"{len(labels)} labels", name_some(labels, LABELS_NAMED)))
    if unexplained:
        rows.append(("No overlay", unexplained))
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<section class="shown origin"><h2>The model</h2><dl>{lines}</dl></section>'


def list_origin(origin: Origin) -> list[tuple[str, str]]:
    """What is known of a run, by name."""
    rows = [("Run", f"{origin.name} ({origin.run_id})"), ("Experiment", origin.experiment)]
    if origin.accuracy is not None:
        rows.append(("Accuracy on test photos", f"{origin.accuracy:.3f}"))
    if origin.commit:
        rows.append(("Commit", origin.commit))
    return rows
