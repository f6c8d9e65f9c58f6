"""Tell what photos show, with the model of the last `dvc repro`. It is no stage of the pipeline.

Reads   photos                    files, and all files in folders
        data/train/model.keras    pixels in, probabilities out
        data/train/labels.json    the labels in the order of the outputs
        dvc.lock                  how photos were prepared for the training
Writes  data/predict/gradcam.png  with --explain: what speaks for the likeliest label of each photo
Run as  python -m stages.predict PHOTO... [--top 3] [--explain]

It exits with 1 if a file cannot be read as a photo.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import keras
import numpy as np
import typer
from tqdm import tqdm

from stages.lib.arrays import Pixels, Probabilities
from stages.lib.command_line import make_app
from stages.lib.dataset import read_labels
from stages.lib.explanation_sheets import Captioned, draw_explained, explain_photo
from stages.lib.files import write_bytes
from stages.lib.gradcam import GradCam
from stages.lib.images import ImageError, prepare_image
from stages.lib.lockfile import Stages, check_finished, file_digest, output_digests, read_stages
from stages.lib.modelfile import load_model
from stages.lib.paths import DVC_LOCK, PARAMS, PREDICT_GRADCAM, TRAIN_LABELS, TRAIN_MODEL
from stages.lib.sources.folder_files import walk_files
from stages.lib.stage import StageError, run_stage

BATCH_SIZE = 32
MOST_EXPLAINED = 3 * BATCH_SIZE
APP = make_app()


class Prepared(NamedTuple):
    """Files of which some are photos: `pixels` has those, (B, H, W, C), and `reasons` why the others are none."""

    files: Sequence[str]
    pixels: Pixels
    reasons: dict[str, str]


def read_preparation(stages: Stages, outputs: Sequence[Path]) -> dict[str, Any]:
    """How photos were prepared when dvc.lock's model was trained: resize, resampling and color.

    Raises:
        StageError: there is no training yet, or one of `outputs` is not what came of it.
    """
    check_finished(stages, "train", DVC_LOCK)
    for path in outputs:
        if not path.exists() or file_digest(path) != output_digests(stages)[path.as_posix()]:
            raise StageError(f"{path} is not the one that {DVC_LOCK} tells of: run `dvc repro`, or `dvc checkout`")
    augment = stages["augment"]["params"][str(PARAMS)]["augment"]
    return {name: augment[name] for name in ("resize", "resampling", "color")}


def list_files(photos: Sequence[Path]) -> list[str]:
    """The files that are named, and those in folders, sorted; each once."""
    found: list[str] = []
    for photo in photos:
        # Not Path.is_dir: a name that is too long is to have its reason later, as any other file.
        found += [str(photo / file) for file in walk_files(photo)[0]] if os.path.isdir(photo) else [str(photo)]
    return list(dict.fromkeys(found))


def prepare_photos(files: Sequence[str], image_shape: tuple[int, int, int], preparation: dict[str, Any]) -> Prepared:
    """Read files as photos of the shape (H, W, C) that the model takes."""
    pixels, reasons = [], {}
    for file in files:
        try:
            pixels.append(prepare_image(Path(file).read_bytes(), image_shape[:2], **preparation))
        except ImageError as error:
            reasons[file] = str(error)
        except OSError as error:
            reasons[file] = error.strerror or type(error).__name__
    return Prepared(files, np.stack(pixels) if pixels else np.empty((0, *image_shape), np.uint8), reasons)


def list_lines(prepared: Prepared, probabilities: Probabilities, labels: Sequence[str], top: int) -> Iterator[str]:
    """A line for each file: its likeliest labels with their probabilities, or why it is no photo.

    Args:
        prepared: files of which B are photos.
        probabilities: of the photos, (B, K).
        labels: K labels.
        top: how many of them.
    """
    rows = iter(probabilities)
    for file in prepared.files:
        name = escape(file)
        if file in prepared.reasons:
            yield f"{name}  cannot be read: {prepared.reasons[file]}"
        else:
            row = next(rows)
            likeliest = np.argsort(-row, kind="stable")[:top]
            yield f"{name}  " + "  ".join(f"{labels[number]} ({row[number]:.3f})" for number in likeliest)


def explain_photos(gradcam: GradCam, prepared: Prepared, labels: Sequence[str]) -> Iterator[Captioned]:
    """Give each photo with what speaks for its likeliest label."""
    photos = [escape(Path(file).name) for file in prepared.files if file not in prepared.reasons]
    for name, pixels in zip(photos, prepared.pixels, strict=True):
        yield from explain_photo(gradcam, pixels, name, labels)


def escape(file: str) -> str:
    """A file's name as text, though it may be of bytes that are none."""
    return file.encode(errors="backslashreplace").decode()


def main(photos: Sequence[Path], top: int, explain: bool) -> None:
    preparation = read_preparation(read_stages(DVC_LOCK), (TRAIN_MODEL, TRAIN_LABELS))
    labels = read_labels(TRAIN_LABELS)
    model = load_model(TRAIN_MODEL)
    gradcam = GradCam(model) if explain else None
    files = list_files(photos)
    if not files:
        raise StageError(f"there are no files in {', '.join(map(str, photos))}; name photos, or folders with photos")

    explained: list[Captioned] = []
    unread = 0
    with tqdm(total=len(files), desc="predict", unit="photo", disable=None) as bar:
        for start in range(0, len(files), BATCH_SIZE):
            prepared = prepare_photos(files[start : start + BATCH_SIZE], model.input_shape[1:], preparation)
            for line in list_lines(prepared, ask(model, prepared.pixels), labels, top):
                tqdm.write(line)
            if gradcam is not None and len(explained) < 2 * MOST_EXPLAINED:
                explained += explain_photos(gradcam, prepared, labels)
            unread += len(prepared.reasons)
            bar.update(len(prepared.files))

    where = ""
    if explained:
        write_bytes(PREDICT_GRADCAM, draw_explained("What speaks for the likeliest label", explained))
        where = f", {len(explained) // 2} of them explained -> {PREDICT_GRADCAM}"
    print(f"predict: {len(files) - unread} photos{where}, {unread} files cannot be read")
    if unread:
        sys.exit(1)


def ask(model: keras.Model, pixels: Pixels) -> Probabilities:
    """The probabilities of photos (B, K), which may be none."""
    if not len(pixels):
        return np.empty((0, model.output_shape[-1]), np.float32)
    probabilities: Probabilities = model.predict_on_batch(pixels)
    return probabilities


@APP.command()
def start(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Picture files, and folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many of the likeliest labels are told.")] = 3,
    explain: Annotated[
        bool, typer.Option("--explain", help=f"Draw what speaks for the likeliest label into {PREDICT_GRADCAM}.")
    ] = False,
) -> None:
    """Tell what photos show, with the model of the last `dvc repro`."""
    run_stage("predict", partial(main, photos, top, explain))


if __name__ == "__main__":
    APP()
