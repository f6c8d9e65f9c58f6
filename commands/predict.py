"""Tell what photos show, with the model of the last `dvc repro` or of a recorded run.

Reads   photos                    files, all files in folders, patterns, or one photo from standard input
        data/train/model.keras    pixels in, probabilities out; with --run that of a run in MLflow
        data/train/labels.json    the labels in the order of the outputs
        dvc.lock                  how photos were prepared for the training
Writes  data/predict/gradcam.png  with --explain: what speaks for the likeliest label of each photo
Run as  darkroom predict PHOTO... [--top 3] [--explain] [--json] [--run RUN]

It exits with 1 if a file cannot be read as a photo.
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
HEADS = ("likeliest", "second", "third")
WIDEST_NAME = 60  # characters; longer names move the cells behind them to the right

WriteRow = Callable[["Told"], str]


class Told(NamedTuple):
    """What is told of a file: its likeliest labels, or why it cannot be read."""

    file: str
    likeliest: Sequence[Likely]
    reason: str


def list_files(photos: Sequence[str]) -> list[str]:
    """The files that are named, and those in folders and of patterns, both sorted; each once, as it was named first.

    A pattern, such as "photos/**/*.jpg", counts where there is no file of that very name. A folder that cannot be
    listed stands for itself, to have its reason as a file has.
    """
    found: list[str] = []
    for photo in photos:
        is_pattern = photo != STANDARD_INPUT and not os.path.lexists(photo) and glob.has_magic(photo)
        fitting = sorted(glob.iglob(photo, recursive=True)) if is_pattern else []
        for path in fitting or [photo]:
            # Not Path.is_dir: a name that is too long is to have its reason later, as any other file.
            if os.path.isdir(path):
                found += [str(Path(path, file)) for file in walk_files(Path(path), keep_unlistable=True)[0]]
            else:
                found.append(path)
    places: dict[str, str] = {}
    for file in found:
        places.setdefault(file if file == STANDARD_INPUT else os.path.abspath(file), file)
    return list(places.values())


def read_photo(file: str, standard_input: bytes) -> bytes:
    """The bytes of a file, or those of standard input.

    Raises:
        UnreadableFile: there are too many, or the system does not give them.
    """
    if file != STANDARD_INPUT:
        return read_photo_file(file, MAXIMUM_BYTES)
    check_size(len(standard_input), MAXIMUM_BYTES)
    return standard_input


def read_standard_input() -> bytes:
    """What comes from standard input, or as much of it as tells that it is too large."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read(MAXIMUM_BYTES + 1)


def tell(files: Sequence[str], answers: BatchPredictions, labels: Sequence[str], top: int) -> Iterator[Told]:
    """Say what is told of each file of a batch: the `top` likeliest of K labels."""
    for file, (probabilities, reason) in zip(files, answers.per_photo(), strict=True):
        yield Told(escape(file), [] if reason else list_likeliest(probabilities, labels, top), reason)


def write_json_line(told: Told) -> str:
    """A file as a line for programs: photo, labels (label and probability each, the likeliest first) and reason."""
    labels = [likely._asdict() for likely in told.likeliest]
    return json.dumps({"photo": told.file, "labels": labels, "reason": told.reason or None}, ensure_ascii=False)


def shape_table(files: Sequence[str], labels: Sequence[str], top: int) -> tuple[str, WriteRow]:
    """The head of a table for people, and what writes its rows, as wide as the names of all files and labels need."""
    wide = min(WIDEST_NAME, max(len("photo"), *(len(show(escape(file))) for file in files)))
    cell = max(*map(len, HEADS), *(len(show(label)) + len(" 0.000") for label in labels))
    names = [*HEADS, *(f"no. {place}" for place in range(len(HEADS) + 1, len(labels) + 1))][: min(top, len(labels))]

    def write_row(told: Told) -> str:
        file = show(told.file)
        if told.reason:
            return f"{file:{wide}}  cannot be read: {told.reason}"
        width = cell - len(" 0.000")
        cells = [f"{show(likely.label):{width}} {likely.probability:.3f}" for likely in told.likeliest]
        return "  ".join([f"{file:{wide}}", *cells])

    return "  ".join([f"{'photo':{wide}}", *(f"{name:{cell}}" for name in names)]).rstrip(), write_row


def explain_photos(
    gradcam: GradCam, files: Sequence[str], answers: BatchPredictions, labels: Sequence[str]
) -> Iterator[Captioned]:
    """Give each photo of a batch with what speaks for its likeliest label."""
    photos = [escape(Path(file).name) for place, file in enumerate(files) if place not in answers.reasons]
    for name, pixels in zip(photos, answers.pixels, strict=True):
        yield from explain_photo(gradcam, pixels, name, labels)


def escape(file: str) -> str:
    """A file's name as text, though it may be of bytes that are none."""
    return file.encode(errors="backslashreplace").decode()


def show(name: str) -> str:
    """A name without what would break a line or command a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def main(photos: Sequence[str], top: int, explain: bool, as_json: bool, wanted: str | None) -> None:
    files = list_files(photos)
    if not files:
        raise StageError(f"there are no files in {', '.join(photos)}; name photos, or folders with photos")
    standard_input = read_standard_input() if STANDARD_INPUT in files else b""
    classifier = choose_model(wanted).classifier
    labels = classifier.labels
    gradcam = GradCam(classifier.model) if explain else None

    head, write = ("", write_json_line) if as_json else shape_table(files, labels, top)
    explained: list[Captioned] = []
    unread = 0
    with tqdm(total=len(files), desc="predict", unit="photo", disable=None) as bar:
        if head:
            tqdm.write(head)
        batches = (files[start : start + BATCH_SIZE] for start in range(0, len(files), BATCH_SIZE))
        reads = [partial(read_photo, file, standard_input) for file in files]
        for batch, answers in zip(batches, classifier.classify(reads), strict=True):
            for told in tell(batch, answers, labels, top):
                tqdm.write(write(told))
            sys.stdout.flush()  # a program may wait for the lines at the other end of a pipe
            if gradcam is not None and len(explained) < 2 * MOST_EXPLAINED:
                explained += explain_photos(gradcam, batch, answers, labels)
            unread += len(answers.reasons)
            bar.update(len(batch))

    where = ""
    if explained:
        sheet = draw_explained("What speaks for the likeliest label", explained)
        with hold_lock(LOCKS_FOLDER / "predict.lock", f"predict: waiting for another that writes {PREDICT_GRADCAM}"):
            write_bytes(PREDICT_GRADCAM, sheet)
        where = f", {len(explained) // 2} explained -> {PREDICT_GRADCAM}"
    elif explain:
        PREDICT_GRADCAM.unlink(missing_ok=True)  # it is of other photos
    # Programs read lines of JSON from standard output and nothing else.
    message = f"predict: {len(files) - unread} of {len(files)} files could be read{where}"
    print(message, file=sys.stderr if as_json else sys.stdout)
    if unread:
        sys.exit(1)
