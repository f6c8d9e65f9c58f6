"""Classify photos with the model of the last `dvc repro` or of a recorded run.

Reads   photos                    files, folders (all files below them), patterns, or one photo from standard input
        data/train/model.keras    pixels in, probabilities out; with --run that of a run in MLflow
        data/train/labels.json    the labels in the order of the outputs
        dvc.lock                  how photos were prepared for training
Writes  data/predict/gradcam.png  with --explain: Grad-CAM for the predicted label of each photo
Run as  darkroom predict PHOTO... [--top 3] [--explain] [--json] [--run RUN]

The exit code is 1 if a file cannot be read as a photo.
"""

import glob
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from darkroom.acquisition.sources.folder_files import walk_files
from darkroom.explanation.gradcam import GradCam
from darkroom.explanation.sheets import Captioned, draw_explained, explain_photo
from darkroom.photos.photo_file import check_size, read_photo_file
from darkroom.pipeline.files import write_bytes
from darkroom.pipeline.paths import PREDICT_GRADCAM
from darkroom.pipeline.stage import LOCKS_FOLDER, StageError, hold_lock
from darkroom.runs.model_loading import choose_model
from darkroom.serving.classifier import BATCH_SIZE, MAXIMUM_BYTES, BatchPredictions, Likely, list_likeliest

STANDARD_INPUT = "-"
MOST_EXPLAINED = 3 * BATCH_SIZE
COLUMN_HEADS = ("predicted", "second", "third")
WIDEST_NAME = 60  # characters; cells after a longer name are not aligned

FormatResult = Callable[["FileResult"], str]


class FileResult(NamedTuple):
    """The most likely labels of a file, or the reason why it cannot be read."""

    file: str
    likeliest: Sequence[Likely]
    reason: str


def find_photo_files(photos: Sequence[str]) -> list[str]:
    """List the named files, and those of folders and patterns in sorted order; each file once, at its first mention.

    A pattern, such as "photos/**/*.jpg", is expanded only if no file has that name. A folder that cannot be listed is
    listed itself, and gets its reason like a file that cannot be read.
    """
    found: list[str] = []
    for photo in photos:
        is_pattern = photo != STANDARD_INPUT and not os.path.lexists(photo) and glob.has_magic(photo)
        matching = sorted(glob.iglob(photo, recursive=True)) if is_pattern else []
        for path in matching or [photo]:
            # Path.is_dir would raise for a name that is too long, which gets its reason later, like any other file.
            if os.path.isdir(path):
                found += [str(Path(path, file)) for file in walk_files(Path(path), keep_unlistable=True)[0]]
            else:
                found.append(path)
    by_path: dict[str, str] = {}
    for file in found:
        by_path.setdefault(file if file == STANDARD_INPUT else os.path.abspath(file), file)
    return list(by_path.values())


def read_photo(file: str, standard_input: bytes) -> bytes:
    """The bytes of a file, or those of standard input.

    Raises:
        UnreadableFile: the file is too large, or the system cannot read it.
    """
    if file != STANDARD_INPUT:
        return read_photo_file(file, MAXIMUM_BYTES)
    check_size(len(standard_input), MAXIMUM_BYTES)
    return standard_input


def read_standard_input() -> bytes:
    """Read standard input, but no more than it takes to know that it is too large."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read(MAXIMUM_BYTES + 1)


def list_results(
    files: Sequence[str], predictions: BatchPredictions, labels: Sequence[str], top: int
) -> Iterator[FileResult]:
    """The result of each file of a batch, with the `top` most likely of K labels."""
    for file, (probabilities, reason) in zip(files, predictions.per_photo(), strict=True):
        yield FileResult(decode_name(file), [] if reason else list_likeliest(probabilities, labels, top), reason)


def format_json_line(result: FileResult) -> str:
    """A line for programs: photo, labels (each with label and probability, the most likely first) and reason."""
    labels = [likely._asdict() for likely in result.likeliest]
    return json.dumps({"photo": result.file, "labels": labels, "reason": result.reason or None}, ensure_ascii=False)


def make_table(files: Sequence[str], labels: Sequence[str], top: int) -> tuple[str, FormatResult]:
    """The head of a table for people, and a function that formats its rows; columns are as wide as the longest name of
    a file or label."""
    name_width = min(WIDEST_NAME, max(len("photo"), *(len(escape_control(decode_name(file))) for file in files)))
    cell_width = max(*map(len, COLUMN_HEADS), *(len(escape_control(label)) + len(" 0.000") for label in labels))
    ranks = range(len(COLUMN_HEADS) + 1, len(labels) + 1)
    heads = [*COLUMN_HEADS, *(f"no. {rank}" for rank in ranks)][: min(top, len(labels))]

    def format_row(result: FileResult) -> str:
        file = escape_control(result.file)
        if result.reason:
            return f"{file:{name_width}}  cannot be read: {result.reason}"
        width = cell_width - len(" 0.000")
        cells = [f"{escape_control(likely.label):{width}} {likely.probability:.3f}" for likely in result.likeliest]
        return "  ".join([f"{file:{name_width}}", *cells])

    return "  ".join([f"{'photo':{name_width}}", *(f"{head:{cell_width}}" for head in heads)]).rstrip(), format_row


def explain_photos(
    gradcam: GradCam, files: Sequence[str], predictions: BatchPredictions, labels: Sequence[str]
) -> Iterator[Captioned]:
    """Give each photo of a batch, and after it Grad-CAM for its predicted label."""
    photos = [decode_name(Path(file).name) for index, file in enumerate(files) if index not in predictions.reasons]
    for name, pixels in zip(photos, predictions.pixels, strict=True):
        yield from explain_photo(gradcam, pixels, name, labels)


def decode_name(file: str) -> str:
    """A file's name as valid text: bytes that are not UTF-8 are escaped."""
    return file.encode(errors="backslashreplace").decode()


def escape_control(name: str) -> str:
    """Escape line breaks, terminal control sequences and other characters that are not printable."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def main(photos: Sequence[str], top: int, explain: bool, as_json: bool, wanted: str | None) -> None:
    files = find_photo_files(photos)
    if not files:
        raise StageError(f"no files found in {', '.join(photos)}; expected photos, or folders with photos")
    standard_input = read_standard_input() if STANDARD_INPUT in files else b""
    classifier = choose_model(wanted).classifier
    labels = classifier.labels
    gradcam = GradCam(classifier.model) if explain else None

    head, format_result = ("", format_json_line) if as_json else make_table(files, labels, top)
    explained: list[Captioned] = []
    unreadable = 0
    with tqdm(total=len(files), desc="predict", unit="photo", disable=None) as bar:
        if head:
            tqdm.write(head)
        batches = (files[start : start + BATCH_SIZE] for start in range(0, len(files), BATCH_SIZE))
        reads = [partial(read_photo, file, standard_input) for file in files]
        for batch, predictions in zip(batches, classifier.classify(reads), strict=True):
            for result in list_results(batch, predictions, labels, top):
                tqdm.write(format_result(result))
            sys.stdout.flush()  # a program that reads from a pipe may wait for these lines
            if gradcam is not None and len(explained) < 2 * MOST_EXPLAINED:
                explained += explain_photos(gradcam, batch, predictions, labels)
            unreadable += len(predictions.reasons)
            bar.update(len(batch))

    written = ""
    if explained:
        sheet = draw_explained("Grad-CAM for the predicted label", explained)
        waiting = f"predict: waiting for another process that writes {PREDICT_GRADCAM}"
        with hold_lock(LOCKS_FOLDER / "predict.lock", waiting):
            write_bytes(PREDICT_GRADCAM, sheet)
        written = f", Grad-CAM of {len(explained) // 2} -> {PREDICT_GRADCAM}"
    elif explain:
        PREDICT_GRADCAM.unlink(missing_ok=True)  # it shows photos of an earlier call
    # With --json, standard output holds nothing but lines of JSON.
    message = f"predict: classified {len(files) - unreadable} of {len(files)} files{written}"
    print(message, file=sys.stderr if as_json else sys.stdout)
    if unreadable:
        sys.exit(1)
