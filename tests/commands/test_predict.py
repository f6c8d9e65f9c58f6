"""Photos told by a small saved model, as users name them: what is printed, what is drawn, and the exit code."""

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
from tests.asked_workspace import HEIGHT, LABELS, WIDTH, make_model, write_result
from tests.examples import encode, noise
from tests.project import BAD_INPUTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models() -> dict[int, keras.Model]:
    """A model for photos of so many channels."""
    return {channels: make_model(channels) for channels in CHANNELS.values()}


class Predict:
    """The command, in a workspace with the result of a training."""

    def __init__(self, models: dict[int, keras.Model], capsys: pytest.CaptureFixture[str]) -> None:
        self.models = models
        self.capsys = capsys
        self.set_up()

    def set_up(self, resize: Resize = "crop", resampling: Resampling = "bicubic", color: Color = "rgb") -> None:
        self.preparation = {"resize": resize, "resampling": resampling, "color": color}
        self.model = self.models[CHANNELS[color]]
        write_result(Path(), self.model, resize, resampling, color)

    def __call__(self, *arguments: object) -> tuple[list[str], int | str]:
        """The lines that it prints, and what it ends with: an exit code, or the message on stderr."""
        with pytest.raises(SystemExit) as ended:
            APP(["predict", *map(str, arguments)])
        return self.capsys.readouterr().out.splitlines(), ended.value.code or 0

    def as_json(self, *arguments: object) -> tuple[list[dict[str, Any]], str, int | str]:
        """What its lines of JSON hold, its last line on stderr, and what it ends with."""
        with pytest.raises(SystemExit) as ended:
            APP(["predict", *map(str, arguments), "--json"])
        printed = self.capsys.readouterr()
        return [*map(json.loads, printed.out.splitlines())], printed.err.splitlines()[-1], ended.value.code or 0

    def fault(self, *arguments: object) -> str:
        lines, code = self(*arguments)
        assert lines == []
        return str(code)

    def expected(self, file: Path | str, top: int = 3) -> dict[str, Any]:
        """What the model itself tells of a file's pixels, or why there are none."""
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


def told_files(told: list[dict[str, Any]]) -> list[str]:
    return [line["photo"] for line in told]


class TestTelling:
    @pytest.mark.parametrize(
        ("resize", "resampling", "color"),
        [("crop", "bicubic", "rgb"), ("pad", "nearest", "gray"), ("stretch", "lanczos", "rgb")],
    )
    def test_a_photo_is_prepared_as_those_of_the_training_were(
        self, predict: Predict, resize: Resize, resampling: Resampling, color: Color
    ) -> None:
        predict.set_up(resize, resampling, color)
        write_text(PARAMS, "augment: {image_size: [5, 5], resize: stretch, resampling: bilinear, color: rgb}\n")
        files = [f"{number}.png" for number in range(5)]
        draw(*files)
        told, message, code = predict.as_json(*files)
        assert told == [*map(predict.expected, files)]
        assert message == "predict: 5 of 5 files could be read"
        assert code == 0
        assert len({line["labels"][0]["label"] for line in told}) > 1  # not the same label for all

    def test_more_photos_than_fit_into_a_batch_are_told_each_by_itself(self, predict: Predict) -> None:
        files = [f"{number:02}.png" for number in range(40)]
        draw(*files)
        write_text(Path("07.png"), "no picture")
        told, _, _ = predict.as_json(*files)
        assert told_files(told) == files
        assert told[7]["reason"] == "not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file"
        assert [told[place] for place in (0, 8, 31, 32, 39)] == [
            predict.expected(files[place]) for place in (0, 8, 31, 32, 39)
        ]

    @pytest.mark.parametrize(("top", "told"), [(1, 1), (4, 4), (99, 4)])
    def test_so_many_of_the_likeliest_labels_are_told(self, predict: Predict, top: int, told: int) -> None:
        draw("a.png")
        (line,), _, _ = predict.as_json("a.png", "--top", top)
        assert line == predict.expected("a.png", top)
        assert len(line["labels"]) == told

    def test_no_label_at_all_cannot_be_asked_for(self, predict: Predict) -> None:
        draw("a.png")
        assert predict("a.png", "--top", 0) == ([], 2)

    def test_odd_pictures_are_told_too(self, predict: Predict) -> None:
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
        told, message, code = predict.as_json(*odd)
        assert told == [*map(predict.expected, odd)]
        assert message == "predict: 5 of 5 files could be read"
        assert code == 0

    def test_a_photo_that_lies_on_its_side_is_told_as_the_upright_one(self, predict: Predict) -> None:
        predict.set_up("stretch", "nearest")
        upright = noise(3 * HEIGHT, 3 * WIDTH)  # of each nine pixels the one in the middle is taken, from any side
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # turned clockwise by its viewer
        write_bytes(Path("upright.png"), encode(upright))
        write_bytes(Path("lying.png"), encode(np.rot90(upright), exif=exif))
        write_bytes(Path("lying_untold.png"), encode(np.rot90(upright)))
        told, _, _ = predict.as_json("upright.png", "lying.png", "lying_untold.png")
        upright_told, lying_told, untold = (line["labels"] for line in told)
        assert upright_told == lying_told != untold


class TestFiles:
    def test_a_folder_stands_for_all_its_files_sorted(self, predict: Predict) -> None:
        draw("photos/b.png", "photos/a/z.png", "photos/a/deeper/c.png", "photos/a b.png", "photos/B.PNG")
        draw("photos/.hidden.png", "photos/.cache/d.png", "photos/Thumbs.db", "photos/a/desktop.ini")
        told, _, code = predict.as_json("photos")
        assert told_files(told) == [
            f"photos/{file}" for file in ("B.PNG", "a/deeper/c.png", "a/z.png", "a b.png", "b.png")
        ]
        assert code == 0

    def test_files_and_folders_are_told_in_the_order_in_which_they_are_named_each_once(self, predict: Predict) -> None:
        draw("z.png", "photos/a.png", "photos/b.png")
        told, message, _ = predict.as_json(
            "z.png", "photos/b.png", "./photos/", "photos", "./z.png", "./photos/**", Path("photos/a.png").resolve()
        )
        assert told_files(told) == ["z.png", "photos/b.png", "photos/a.png"]
        assert message == "predict: 3 of 3 files could be read"

    def test_a_pattern_stands_for_the_files_that_it_fits_sorted(self, predict: Predict) -> None:
        draw("photos/b.png", "photos/a/z.png", "photos/c.jpg", "photos/[1].png", "photos/1.png")
        told, _, code = predict.as_json("photos/**/*.png")
        assert told_files(told) == ["photos/1.png", "photos/[1].png", "photos/a/z.png", "photos/b.png"]
        assert code == 0
        told, _, _ = predict.as_json("photos/[1].png")  # there is a file of that very name
        assert told_files(told) == ["photos/[1].png"]

    def test_a_pattern_may_fit_folders(self, predict: Predict) -> None:
        draw("holidays/a/z.png", "holidays/b/c.png", "holidays/d.png")
        told, _, _ = predict.as_json("holidays/*")
        assert told_files(told) == ["holidays/a/z.png", "holidays/b/c.png", "holidays/d.png"]

    def test_a_folder_that_cannot_be_listed_has_its_reason(
        self, predict: Predict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draw("photos/a.png", "photos/closed/b.png", "photos/d.png")
        scan = os.scandir

        def refuse_closed(folder: Path) -> Any:  # as the system does to all but root
            if Path(folder).name == "closed":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return scan(folder)

        monkeypatch.setattr("darkroom.acquisition.sources.folder_files.os.scandir", refuse_closed)
        told, _, code = predict.as_json("photos")
        assert told_files(told) == ["photos/a.png", "photos/closed", "photos/d.png"]
        assert [line["reason"] is None for line in told] == [True, False, True]
        assert code == 1

    def test_a_pattern_that_fits_nothing_is_a_file_that_is_missing(self, predict: Predict) -> None:
        told, _, code = predict.as_json("photos/*.png")
        assert told == [{"photo": "photos/*.png", "labels": [], "reason": "No such file or directory"}]
        assert code == 1

    def test_a_photo_comes_from_standard_input(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        draw("a.png", "b.png")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("a.png").read_bytes())))
        told, _, code = predict.as_json("-", "b.png")
        assert told == [predict.expected("a.png") | {"photo": "-"}, predict.expected("b.png")]
        assert code == 0

    def test_what_is_too_large_is_not_read(self, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
        with Path("huge.jpg").open("wb") as file:
            file.truncate(MAXIMUM_BYTES + 1)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(MAXIMUM_BYTES + 1))))
        told, _, code = predict.as_json("huge.jpg", "-")
        assert {line["reason"] for line in told} == {f"larger than allowed: more than {MAXIMUM_BYTES} bytes"}
        assert code == 1

    def test_what_is_no_regular_file_is_not_waited_for(self, predict: Predict) -> None:
        os.mkfifo("pipe.jpg")
        told, _, _ = predict.as_json("pipe.jpg")
        assert [line["reason"] for line in told] == ["not a regular file"]

    def test_a_file_that_is_named_is_read_though_it_is_hidden(self, predict: Predict) -> None:
        draw(".hidden.png")
        told, _, code = predict.as_json(".hidden.png")
        assert (told, code) == ([predict.expected(".hidden.png")], 0)

    def test_an_empty_folder_has_no_photos(self, predict: Predict) -> None:
        Path("empty").mkdir()
        message = "there are no files in empty; name photos, or folders with photos"
        assert predict.fault("empty") == f"predict: {message}"

    def test_a_file_that_is_no_photo_has_its_reason_and_the_others_are_told(self, predict: Predict) -> None:
        draw("good.png", "last.png")
        write_bytes(Path("empty.jpg"), b"")
        write_text(Path("notes.txt"), "some words\n")
        write_bytes(Path("cut.png"), Path("good.png").read_bytes()[:200])
        os.symlink("nowhere", "link.png")
        long = f"{'x' * 300}.png"
        told, message, code = predict.as_json(
            "missing.png", "good.png", "empty.jpg", "notes.txt", "cut.png", "link.png", "good.png/a", long, "last.png"
        )
        assert told[1] == predict.expected("good.png")
        assert told[8] == predict.expected("last.png")
        assert told[4]["reason"].startswith("broken: ")
        reasons = {line["photo"]: line["reason"] for line in told if line["photo"] != "cut.png"}
        assert reasons == {
            "missing.png": "No such file or directory",
            "good.png": None,
            "empty.jpg": "the file is empty",
            "notes.txt": "not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file",
            "link.png": "No such file or directory",
            "good.png/a": "Not a directory",
            long: "File name too long",
            "last.png": None,
        }
        assert message == "predict: 2 of 9 files could be read"
        assert code == 1

    def test_there_may_be_nothing_but_unreadable_files(self, predict: Predict) -> None:
        write_bytes(Path("empty.jpg"), b"")
        assert predict("empty.jpg", "--explain") == (
            [
                "photo      likeliest        second           third",
                "empty.jpg  cannot be read: the file is empty",
                "predict: 0 of 1 files could be read",
            ],
            1,
        )
        assert not PREDICT_GRADCAM.exists()
        draw("a.png")
        predict("a.png", "--explain")
        predict("empty.jpg", "--explain")
        assert not PREDICT_GRADCAM.exists()  # it would be of another photo

    def test_names_of_any_bytes_are_told(self, predict: Predict) -> None:
        name = os.fsdecode("photos/Größe \xff.png".encode("latin-1"))
        draw(name, "photos/日本.png")
        told, _, code = predict.as_json("photos", "--explain")
        assert told_files(told) == [r"photos/Gr\udcf6\udcdfe \udcff.png", "photos/日本.png"]
        assert code == 0

    @pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"needs the odd files in {BAD_INPUTS}")
    def test_of_odd_and_broken_files_each_is_told_or_has_its_reason(self, predict: Predict) -> None:
        passed_over = ("Thumbs.db", "desktop.ini")
        names = [path.name for path in BAD_INPUTS.iterdir()]
        files = [BAD_INPUTS / name for name in sorted(names) if name[0] != "." and name not in passed_over]
        told, message, code = predict.as_json(BAD_INPUTS)
        assert told == list(map(predict.expected, files))
        unread = sum(line["reason"] is not None for line in told)
        assert 0 < unread < len(files)
        assert message == f"predict: {len(files) - unread} of {len(files)} files could be read"
        assert code == 1


class TestTable:
    def test_cells_stand_below_one_another(self, predict: Predict) -> None:
        draw("a.png", "folder/longer.png")
        write_text(Path("b.txt"), "no picture")
        lines, code = predict("a.png", "b.txt", "folder", "--top", 4)
        told, _, _ = predict.as_json("a.png", "folder", "--top", 4)
        first, last = (
            "  ".join(f"{entry['label']:9} {entry['probability']:.3f}" for entry in line["labels"]) for line in told
        )
        assert lines == [
            "photo              likeliest        second           third            no. 4",
            f"a.png              {first}",
            "b.txt              cannot be read: not a readable JPEG, PNG, WEBP, GIF, BMP, TIFF file",
            f"folder/longer.png  {last}",
            "predict: 2 of 3 files could be read",
        ]
        assert code == 1

    def test_a_name_cannot_break_a_line_or_command_the_terminal(self, predict: Predict) -> None:
        draw("a\n\x1b[2Jb.png")
        (_, line, _), _ = predict("a\n\x1b[2Jb.png")
        assert line.startswith("a\\n\\x1b[2Jb.png  ")
        assert told_files(predict.as_json("a\n\x1b[2Jb.png")[0]) == ["a\n\x1b[2Jb.png"]

    def test_nor_can_a_label(self, predict: Predict) -> None:
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

    def test_a_very_long_name_does_not_widen_the_others_rows(self, predict: Predict) -> None:
        draw("a.png", f"{'x' * 80}.png")
        (_, first, second, _), _ = predict("a.png", f"{'x' * 80}.png")
        assert first.startswith(f"{'a.png':60}  ")
        assert second.startswith(f"{'x' * 80}.png  ")


class TestExplaining:
    def test_what_speaks_for_the_likeliest_label_is_drawn_the_same_each_time(self, predict: Predict) -> None:
        draw("a.png", "photos/b.png")
        write_text(Path("photos/c.txt"), "no picture")
        lines, _ = predict("a.png", "photos", "--explain")
        first = PREDICT_GRADCAM.read_bytes()
        assert lines[-1] == f"predict: 2 of 3 files could be read, 2 explained -> {PREDICT_GRADCAM}"
        with Image.open(PREDICT_GRADCAM) as sheet:
            assert sheet.format == "PNG"
        assert predict("a.png", "photos", "--explain")[0] == lines
        assert PREDICT_GRADCAM.read_bytes() == first
        predict("a.png", "--explain")
        assert PREDICT_GRADCAM.read_bytes() != first

    def test_nothing_is_drawn_that_was_not_asked_for(self, predict: Predict) -> None:
        draw("a.png")
        predict("a.png")
        assert not PREDICT_GRADCAM.exists()

    def test_of_many_photos_the_first_are_explained_and_all_are_told(
        self, predict: Predict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("commands.predict.MOST_EXPLAINED", BATCH_SIZE)
        files = [f"{number:03}.png" for number in range(BATCH_SIZE + 2)]
        draw(*files)
        told, message, _ = predict.as_json(*files, "--explain")
        assert told_files(told) == files
        assert message.startswith(
            f"predict: {len(files)} of {len(files)} files could be read, {BATCH_SIZE} explained -> "
        )


class TestFaults:
    def test_without_a_result_there_is_no_model_to_ask(self, predict: Predict) -> None:
        draw("a.png")
        DVC_LOCK.unlink()
        assert predict.fault("a.png") == (
            f"predict: there is no dvc.lock in {Path.cwd()}, so there is no result yet: run `dvc repro` in the "
            "project's folder"
        )

    @pytest.mark.parametrize("path", [TRAIN_MODEL, TRAIN_LABELS])
    def test_what_is_not_there_is_asked_for(self, predict: Predict, path: Path) -> None:
        draw("a.png")
        path.unlink()
        assert predict.fault("a.png") == (f"predict: {path} differs from dvc.lock: run `dvc repro` or `dvc checkout`")

    def test_the_model_of_another_training_is_refused(self, predict: Predict) -> None:
        draw("a.png")
        save_model(make_model(3), TRAIN_MODEL.with_name("other.keras"))
        TRAIN_MODEL.write_bytes(TRAIN_MODEL.with_name("other.keras").read_bytes() + b"\n")
        assert predict.fault("a.png").startswith(f"predict: {TRAIN_MODEL} differs from dvc.lock: run ")

    def test_photos_that_were_prepared_anew_since_the_training_are_refused(self, predict: Predict) -> None:
        draw("a.png")
        lock = DVC_LOCK.read_text()
        DVC_LOCK.write_text(lock.replace("md5: 0123", "md5: 4567", 1))
        assert predict.fault("a.png") == (
            f"predict: {TRAIN_MODEL} was not trained on the current {AUGMENT_IMAGES} (see dvc.lock): run `dvc repro`"
        )

    def test_the_labels_of_another_training_are_refused(self, predict: Predict) -> None:
        draw("a.png")
        write_labels(TRAIN_LABELS, LABELS[::-1])
        assert predict.fault("a.png").startswith(f"predict: {TRAIN_LABELS} differs from dvc.lock: run ")

    def test_a_photo_is_asked_for(self, predict: Predict) -> None:
        assert predict() == ([], 2)
