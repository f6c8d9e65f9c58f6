"""Predictions of a small saved model with the real command: its output, its figures and its exit code."""

import errno
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import ExifTags, Image

from commands.command_line import APP
from darkroom.models.model_file import save_model
from darkroom.photos.images import CHANNELS, ImageError, prepare_image
from darkroom.photos.options import Color, Resampling, Resize
from darkroom.pipeline.dataset import write_labels
from darkroom.pipeline.files import write_bytes, write_text
from darkroom.pipeline.paths import AUGMENT_IMAGES, DVC_LOCK, PARAMS, PREDICT_GRADCAM, TRAIN_LABELS, TRAIN_MODEL
from darkroom.serving.classifier import BATCH_SIZE, MAXIMUM_BYTES
from darkroom.tracking.lockfile import file_digest
from tests.examples import encode, noise
from tests.project import BAD_INPUTS
from tests.result_workspace import HEIGHT, LABELS, WIDTH, make_model, write_result

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models() -> dict[int, keras.Model]:
    """A model for each number of channels."""
    return {channels: make_model(channels) for channels in CHANNELS.values()}


class Predict:
    """The command, in a workspace with the outputs of a training."""

    def __init__(self, models: dict[int, keras.Model], capsys: pytest.CaptureFixture[str]) -> None:
        self.models = models
        self.capsys = capsys
        self.set_up()

    def set_up(self, resize: Resize = "crop", resampling: Resampling = "bicubic", color: Color = "rgb") -> None:
        self.preparation = {"resize": resize, "resampling": resampling, "color": color}
        self.model = self.models[CHANNELS[color]]
        write_result(Path(), self.model, resize, resampling, color)

    def __call__(self, *arguments: object) -> tuple[list[str], int | str]:
        """The printed lines, and the exit code or the error message that the command exits with."""
        with pytest.raises(SystemExit) as exited:
            APP(["predict", *map(str, arguments)])
        return self.capsys.readouterr().out.splitlines(), exited.value.code or 0

    def as_json(self, *arguments: object) -> tuple[list[dict[str, Any]], str, int | str]:
        """The parsed lines of JSON, the last line on stderr, and the exit code or the error message."""
        with pytest.raises(SystemExit) as exited:
            APP(["predict", *map(str, arguments), "--json"])
        printed = self.capsys.readouterr()
        return [*map(json.loads, printed.out.splitlines())], printed.err.splitlines()[-1], exited.value.code or 0

    def error(self, *arguments: object) -> str:
        lines, code = self(*arguments)
        assert lines == []
        return str(code)

    def expected(self, file: Path | str, top: int = 3) -> dict[str, Any]:
        """The model's own prediction for a file's pixels, or the reason why the file cannot be read."""
        try:
            pixels = prepare_image(Path(file).read_bytes(), (HEIGHT, WIDTH), **self.preparation)
        except ImageError as error:
            return {"photo": str(file), "labels": [], "reason": str(error)}
        row = self.model.predict(pixels[None], verbose=0)[0].tolist()
        ranked = sorted(zip((-value for value in row), LABELS, strict=True))[:top]
        labels = [{"label": label, "probability": pytest.approx(-value, abs=1e-6)} for value, label in ranked]
        return {"photo": str(file), "labels": labels, "reason": None}


@pytest.fixture
def predict(workspace: Path, models: dict[int, keras.Model], capsys: pytest.CaptureFixture[str]) -> Predict:
    assert not any(workspace.iterdir())
    return Predict(models, capsys)


def draw(*files: str) -> None:
    for number, file in enumerate(files):
        write_bytes(Path(file), encode(noise(30, 40, seed=number)))


def list_photos(results: list[dict[str, Any]]) -> list[str]:
    return [line["photo"] for line in results]


class TestClassifying:
    @pytest.mark.parametrize(
        ("resize", "resampling", "color"),
        [("crop", "bicubic", "rgb"), ("pad", "nearest", "gray"), ("stretch", "lanczos", "rgb")],
    )
    def test_a_photo_is_prepared_as_in_training(
        self, predict: Predict, resize: Resize, resampling: Resampling, color: Color
    ) -> None:
        predict.set_up(resize, resampling, color)
        write_text(PARAMS, "augment: {image_size: [5, 5], resize: stretch, resampling: bilinear, color: rgb}\n")
        files = [f"{number}.png" for number in range(5)]
        draw(*files)
        results, message, code = predict.as_json(*files)
        assert results == [*map(predict.expected, files)]
        assert message == "predict: classified 5 of 5 files"
        assert code == 0
        assert len({line["labels"][0]["label"] for line in results}) > 1  # not the same label for all

    def test_photos_of_several_batches_each_get_their_own_prediction(self, predict: Predict) -> None:
        files = [f"{number:02}.png" for number in range(40)]
        draw(*files)
        write_text(Path("07.png"), "not an image")
        results, _, _ = predict.as_json(*files)
        assert list_photos(results) == files
        assert results[7]["reason"] == "not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file"
        assert [results[index] for index in (0, 8, 31, 32, 39)] == [
            predict.expected(files[index]) for index in (0, 8, 31, 32, 39)
        ]

    @pytest.mark.parametrize(("top", "count"), [(1, 1), (4, 4), (99, 4)])
    def test_top_limits_the_number_of_labels(self, predict: Predict, top: int, count: int) -> None:
        draw("a.png")
        (line,), _, _ = predict.as_json("a.png", "--top", top)
        assert line == predict.expected("a.png", top)
        assert len(line["labels"]) == count

    def test_top_must_be_at_least_1(self, predict: Predict) -> None:
        draw("a.png")
        assert predict("a.png", "--top", 0) == ([], 2)

    def test_unusual_image_modes_are_classified(self, predict: Predict) -> None:
        upright = noise(40, 30)
        odd = {
            "cmyk.jpg": encode(Image.fromarray(upright).convert("CMYK"), "JPEG"),
            "palette.png": encode(Image.fromarray(upright).convert("P")),
            "deep.png": encode(Image.fromarray(noise(40, 30, 1)[..., 0].astype(np.uint16) * 257)),
            "see_through.png": encode(noise(40, 30, 4)),
            "tiny.gif": encode(noise(1, 1), "GIF"),
        }
        for name, content in odd.items():
            write_bytes(Path(name), content)
        results, message, code = predict.as_json(*odd)
        assert results == [*map(predict.expected, odd)]
        assert message == "predict: classified 5 of 5 files"
        assert code == 0

    def test_a_photo_with_exif_orientation_is_classified_like_the_upright_one(self, predict: Predict) -> None:
        predict.set_up("stretch", "nearest")
        upright = noise(3 * HEIGHT, 3 * WIDTH)  # the center of each 3x3 block is taken, in every orientation
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # viewers rotate it clockwise
        write_bytes(Path("upright.png"), encode(upright))
        write_bytes(Path("rotated.png"), encode(np.rot90(upright), exif=exif))
        write_bytes(Path("rotated_without_exif.png"), encode(np.rot90(upright)))
        results, _, _ = predict.as_json("upright.png", "rotated.png", "rotated_without_exif.png")
        expected, rotated, without_exif = (line["labels"] for line in results)
        assert expected == rotated != without_exif


class TestFiles:
    def test_a_folder_is_expanded_to_its_files_in_sorted_order(self, predict: Predict) -> None:
        draw("photos/b.png", "photos/a/z.png", "photos/a/deeper/c.png", "photos/a b.png", "photos/B.PNG")
        draw("photos/.hidden.png", "photos/.cache/d.png", "photos/Thumbs.db", "photos/a/desktop.ini")
        results, _, code = predict.as_json("photos")
        assert list_photos(results) == [
            f"photos/{file}" for file in ("B.PNG", "a/deeper/c.png", "a/z.png", "a b.png", "b.png")
        ]
        assert code == 0

    def test_each_file_is_classified_once_in_the_order_of_the_arguments(self, predict: Predict) -> None:
        draw("z.png", "photos/a.png", "photos/b.png")
        results, message, _ = predict.as_json(
            "z.png", "photos/b.png", "./photos/", "photos", "./z.png", "./photos/**", Path("photos/a.png").resolve()
        )
        assert list_photos(results) == ["z.png", "photos/b.png", "photos/a.png"]
        assert message == "predict: classified 3 of 3 files"

    def test_a_pattern_is_expanded_to_the_matching_files_in_sorted_order(self, predict: Predict) -> None:
        draw("photos/b.png", "photos/a/z.png", "photos/c.jpg", "photos/[1].png", "photos/1.png")
        results, _, code = predict.as_json("photos/**/*.png")
        assert list_photos(results) == ["photos/1.png", "photos/[1].png", "photos/a/z.png", "photos/b.png"]
        assert code == 0
        results, _, _ = predict.as_json("photos/[1].png")  # a file has exactly this name
        assert list_photos(results) == ["photos/[1].png"]

    def test_a_pattern_may_match_folders(self, predict: Predict) -> None:
        draw("holidays/a/z.png", "holidays/b/c.png", "holidays/d.png")
        results, _, _ = predict.as_json("holidays/*")
        assert list_photos(results) == ["holidays/a/z.png", "holidays/b/c.png", "holidays/d.png"]

    def test_a_folder_that_cannot_be_listed_gets_a_reason(
        self, predict: Predict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw("photos/a.png", "photos/closed/b.png", "photos/d.png")
        scan = os.scandir

        def refuse_closed(folder: Path) -> Any:  # like the system, for every user but root
            if Path(folder).name == "closed":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return scan(folder)

        monkeypatch.setattr("darkroom.acquisition.sources.folder_files.os.scandir", refuse_closed)
        results, _, code = predict.as_json("photos")
        assert list_photos(results) == ["photos/a.png", "photos/closed", "photos/d.png"]
        assert [line["reason"] is None for line in results] == [True, False, True]
        assert code == 1

    def test_a_pattern_without_a_match_is_a_missing_file(self, predict: Predict) -> None:
        results, _, code = predict.as_json("photos/*.png")
        assert results == [{"photo": "photos/*.png", "labels": [], "reason": "No such file or directory"}]
        assert code == 1

    def test_a_photo_is_read_from_standard_input(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        draw("a.png", "b.png")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("a.png").read_bytes())))
        results, _, code = predict.as_json("-", "b.png")
        assert results == [predict.expected("a.png") | {"photo": "-"}, predict.expected("b.png")]
        assert code == 0

    def test_input_that_is_too_large_is_not_read(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        with Path("huge.jpg").open("wb") as file:
            file.truncate(MAXIMUM_BYTES + 1)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(MAXIMUM_BYTES + 1))))
        results, _, code = predict.as_json("huge.jpg", "-")
        assert {line["reason"] for line in results} == {f"larger than allowed: more than {MAXIMUM_BYTES} bytes"}
        assert code == 1

    def test_a_named_pipe_does_not_block(self, predict: Predict) -> None:
        os.mkfifo("pipe.jpg")
        results, _, _ = predict.as_json("pipe.jpg")
        assert [line["reason"] for line in results] == ["not a regular file"]

    def test_a_hidden_file_is_read_if_it_is_named(self, predict: Predict) -> None:
        draw(".hidden.png")
        results, _, code = predict.as_json(".hidden.png")
        assert (results, code) == ([predict.expected(".hidden.png")], 0)

    def test_an_empty_folder_is_an_error(self, predict: Predict) -> None:
        Path("empty").mkdir()
        message = "no files found in empty; expected photos, or folders with photos"
        assert predict.error("empty") == f"predict: {message}"

    def test_an_unreadable_file_gets_a_reason_and_the_others_are_classified(self, predict: Predict) -> None:
        draw("good.png", "last.png")
        write_bytes(Path("empty.jpg"), b"")
        write_text(Path("notes.txt"), "some words\n")
        write_bytes(Path("cut.png"), Path("good.png").read_bytes()[:200])
        os.symlink("nowhere", "link.png")
        long = f"{'x' * 300}.png"
        results, message, code = predict.as_json(
            "missing.png", "good.png", "empty.jpg", "notes.txt", "cut.png", "link.png", "good.png/a", long, "last.png"
        )
        assert results[1] == predict.expected("good.png")
        assert results[8] == predict.expected("last.png")
        assert results[4]["reason"].startswith("broken: ")
        reasons = {line["photo"]: line["reason"] for line in results if line["photo"] != "cut.png"}
        assert reasons == {
            "missing.png": "No such file or directory",
            "good.png": None,
            "empty.jpg": "the file is empty",
            "notes.txt": "not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file",
            "link.png": "No such file or directory",
            "good.png/a": "Not a directory",
            long: "File name too long",
            "last.png": None,
        }
        assert message == "predict: classified 2 of 9 files"
        assert code == 1

    def test_all_files_may_be_unreadable(self, predict: Predict) -> None:
        write_bytes(Path("empty.jpg"), b"")
        assert predict("empty.jpg", "--explain") == (
            [
                "photo      predicted        second           third",
                "empty.jpg  cannot be read: the file is empty",
                "predict: classified 0 of 1 files",
            ],
            1,
        )
        assert not PREDICT_GRADCAM.exists()
        draw("a.png")
        predict("a.png", "--explain")
        predict("empty.jpg", "--explain")
        assert not PREDICT_GRADCAM.exists()  # it would show another photo

    def test_file_names_may_have_any_bytes(self, predict: Predict) -> None:
        name = os.fsdecode("photos/Größe \xff.png".encode("latin-1"))
        draw(name, "photos/日本.png")
        results, _, code = predict.as_json("photos", "--explain")
        assert list_photos(results) == [r"photos/Gr\udcf6\udcdfe \udcff.png", "photos/日本.png"]
        assert code == 0

    @pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"needs the odd files in {BAD_INPUTS}")
    def test_each_unusual_or_broken_file_gets_a_prediction_or_a_reason(self, predict: Predict) -> None:
        skipped = ("Thumbs.db", "desktop.ini")
        names = [path.name for path in BAD_INPUTS.iterdir()]
        files = [BAD_INPUTS / name for name in sorted(names) if name[0] != "." and name not in skipped]
        results, message, code = predict.as_json(BAD_INPUTS)
        assert results == list(map(predict.expected, files))
        unreadable = sum(line["reason"] is not None for line in results)
        assert 0 < unreadable < len(files)
        assert message == f"predict: classified {len(files) - unreadable} of {len(files)} files"
        assert code == 1


class TestTable:
    def test_columns_are_aligned(self, predict: Predict) -> None:
        draw("a.png", "folder/longer.png")
        write_text(Path("b.txt"), "not an image")
        lines, code = predict("a.png", "b.txt", "folder", "--top", 4)
        results, _, _ = predict.as_json("a.png", "folder", "--top", 4)
        first, last = (
            "  ".join(f"{entry['label']:9} {entry['probability']:.3f}" for entry in line["labels"]) for line in results
        )
        assert lines == [
            "photo              predicted        second           third            no. 4",
            f"a.png              {first}",
            "b.txt              cannot be read: not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file",
            f"folder/longer.png  {last}",
            "predict: classified 2 of 3 files",
        ]
        assert code == 1

    def test_line_breaks_and_control_sequences_in_a_file_name_are_escaped(self, predict: Predict) -> None:
        draw("a\n\x1b[2Jb.png")
        (_, line, _), _ = predict("a\n\x1b[2Jb.png")
        assert line.startswith("a\\n\\x1b[2Jb.png  ")
        assert list_photos(predict.as_json("a\n\x1b[2Jb.png")[0]) == ["a\n\x1b[2Jb.png"]

    def test_line_breaks_and_control_sequences_in_a_label_are_escaped(self, predict: Predict) -> None:
        labels = ["a\n\x1b[2Jb", *LABELS[1:]]
        write_labels(TRAIN_LABELS, labels)
        write_text(
            DVC_LOCK,
            re.sub(f"(?<={TRAIN_LABELS}, hash: md5, md5: )\\w+", file_digest(TRAIN_LABELS), DVC_LOCK.read_text()),
        )
        draw("a.png")
        (_, line, _), code = predict("a.png", "--top", 4)
        assert "a\\n\\x1b[2Jb 0." in line
        assert code == 0

    def test_a_very_long_name_does_not_widen_the_other_rows(self, predict: Predict) -> None:
        draw("a.png", f"{'x' * 80}.png")
        (_, first, second, _), _ = predict("a.png", f"{'x' * 80}.png")
        assert first.startswith(f"{'a.png':60}  ")
        assert second.startswith(f"{'x' * 80}.png  ")


class TestGradCam:
    def test_the_same_photos_give_the_same_bytes(self, predict: Predict) -> None:
        draw("a.png", "photos/b.png")
        write_text(Path("photos/c.txt"), "not an image")
        lines, _ = predict("a.png", "photos", "--explain")
        first = PREDICT_GRADCAM.read_bytes()
        assert lines[-1] == f"predict: classified 2 of 3 files, Grad-CAM of 2 -> {PREDICT_GRADCAM}"
        with Image.open(PREDICT_GRADCAM) as sheet:
            assert sheet.format == "PNG"
        assert predict("a.png", "photos", "--explain")[0] == lines
        assert PREDICT_GRADCAM.read_bytes() == first
        predict("a.png", "--explain")
        assert PREDICT_GRADCAM.read_bytes() != first

    def test_nothing_is_drawn_without_explain(self, predict: Predict) -> None:
        draw("a.png")
        predict("a.png")
        assert not PREDICT_GRADCAM.exists()

    def test_of_many_photos_only_the_first_are_drawn_and_all_are_classified(
        self, predict: Predict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("commands.predict.MOST_EXPLAINED", BATCH_SIZE)
        files = [f"{number:03}.png" for number in range(BATCH_SIZE + 2)]
        draw(*files)
        results, message, _ = predict.as_json(*files, "--explain")
        assert list_photos(results) == files
        assert message.startswith(
            f"predict: classified {len(files)} of {len(files)} files, Grad-CAM of {BATCH_SIZE} -> "
        )


class TestErrors:
    def test_without_a_result_there_is_no_model(self, predict: Predict) -> None:
        draw("a.png")
        DVC_LOCK.unlink()
        assert predict.error("a.png") == (
            f"predict: there is no dvc.lock in {Path.cwd()}, so there is no result yet: run `dvc repro` in the "
            "project's folder"
        )

    @pytest.mark.parametrize("path", [TRAIN_MODEL, TRAIN_LABELS])
    def test_a_missing_file_is_named(self, predict: Predict, path: Path) -> None:
        draw("a.png")
        path.unlink()
        assert predict.error("a.png") == f"predict: {path} is missing: run `dvc checkout` or `dvc repro`"

    def test_the_model_of_another_training_is_rejected(self, predict: Predict) -> None:
        draw("a.png")
        save_model(make_model(3), TRAIN_MODEL.with_name("other.keras"))
        TRAIN_MODEL.write_bytes(TRAIN_MODEL.with_name("other.keras").read_bytes() + b"\n")
        assert predict.error("a.png").startswith(f"predict: {TRAIN_MODEL} differs from dvc.lock: run ")

    def test_a_model_is_rejected_if_its_training_images_have_changed(self, predict: Predict) -> None:
        draw("a.png")
        lock = DVC_LOCK.read_text()
        DVC_LOCK.write_text(lock.replace("'0123'", "'4567'", 1))
        assert predict.error("a.png") == (
            f"predict: {TRAIN_MODEL} was not trained on the current {AUGMENT_IMAGES} (see dvc.lock): run `dvc repro`"
        )

    def test_the_labels_of_another_training_are_rejected(self, predict: Predict) -> None:
        draw("a.png")
        write_labels(TRAIN_LABELS, LABELS[::-1])
        assert predict.error("a.png").startswith(f"predict: {TRAIN_LABELS} differs from dvc.lock: run ")

    def test_a_photo_is_required(self, predict: Predict) -> None:
        assert predict() == ([], 2)
