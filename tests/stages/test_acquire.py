import csv
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile
from typing import Any
from urllib.parse import urlencode

import pytest
from ruamel.yaml import YAML

from darkroom.acquisition.credits import write_credits
from darkroom.pipeline.dataset import PhotoRow, RejectedRow, read_photos
from darkroom.pipeline.files import read_table, write_bytes
from darkroom.pipeline.paths import (
    ACQUIRE_CREDITS,
    ACQUIRE_METRICS,
    ACQUIRE_PHOTOS,
    ACQUIRE_PHOTOS_FOLDER,
    ACQUIRE_REJECTED,
)
from darkroom.pipeline.stage import StageError
from stages.acquire import APP, check_classes, count_acquired, main
from tests.examples import encode, noise
from tests.fake_services import FakePexels
from tests.fake_web import FakeWeb, Request, Response
from tests.fork_server import start_forks
from tests.project import BAD_INPUTS, ROOT, read_recipe

pytestmark = pytest.mark.slow

PHOTO = encode(noise(3, 4))
KEY = "Xq7-the-secret-key-93Zt"
CLOSED_PROXY = "http://127.0.0.1:1"
OFFLINE = {name: CLOSED_PROXY for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")}
KILLS = 3


@dataclass
class AcquireProject:
    """A project folder that contains only params.yaml; the stage runs in it against a fake web."""

    root: Path
    web: FakeWeb
    params: dict[str, Any] = field(default_factory=dict)

    def set_params(self, **changes: Any) -> None:
        """Change the section acquire; "__" stands for the dot."""
        for name, value in changes.items():
            *blocks, key = name.split("__")
            section = self.params["acquire"]
            for block in blocks:
                section = section[block]
            section[key] = value
        YAML().dump(self.params, self.root / "params.yaml")

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
        return {**inherited, **self.web.environment, "PEXELS_API_KEY": KEY, "PYTHONPATH": str(ROOT), **extra}

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start the stage in a process of its own, which can be killed."""
        command = [sys.executable, "-m", "stages.acquire", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment(environment), stdout=pipe, stderr=pipe, text=True
        )

    def run_process(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the stage in a process of its own, and return all that it writes, Python's own messages too."""
        done = subprocess.run(
            [start_forks() / "python", "-m", "stages.acquire", *arguments],
            cwd=self.root,
            env=self.environment(environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return check_success(done) if check else done

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the stage in this process, which saves the time to start one."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.root)
            for name in [name for name in os.environ if name.startswith("DVC_")]:
                patch.delenv(name)
            for name, value in self.environment(environment).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                APP(list(arguments))
        code = ended.value.code or 0
        if isinstance(code, str):  # Python prints it, and exits with 1
            err.write(f"{code}\n")
            code = 1
        done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
        return check_success(done) if check else done

    def error(self, **environment: str) -> str:
        """Run the stage, and return the line with which it fails."""
        done = self.run(check=False, **environment)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        return line

    def outputs(self) -> dict[str, bytes]:
        paths = [*(self.root / "data").rglob("*"), self.root / ACQUIRE_METRICS]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths if path.is_file()}

    def saved_photos(self) -> set[str]:
        """The names of the photos in the ledger, which are digests of their URLs."""
        return {path.name for path in (self.root / ".cache/acquire/photos").rglob("*") if path.is_file()}

    def reasons(self) -> dict[str, str]:
        rows = read_table(self.root / ACQUIRE_REJECTED, RejectedRow._fields)
        return {row["photo"]: row["reason"] for row in rows}


def check_success(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def creatures(root: Path, web: FakeWeb, **changes: Any) -> AcquireProject:
    """A project with the recipe creatures, reduced to two classes of twelve photos, one attempt and a short timeout."""
    root.mkdir(exist_ok=True)
    project = AcquireProject(root, web, read_recipe("creatures"))
    small = {"classes": {"cats": "cats", "dogs": "dogs"}, "photos_per_class": 12, "minimum_side": 8}
    project.set_params(**{**small, "download__attempts": 1, "download__timeout_seconds": 10, **changes})
    return project


def from_folder(root: Path, folder: str, **changes: Any) -> AcquireProject:
    """A project with the recipe guitars_six, whose photos are in `folder`."""
    project = AcquireProject(root, FakeWeb(), read_recipe("guitars_six"))
    project.set_params(**{"folder": folder, "classes": {}, "photos_per_class": None, "minimum_side": 1, **changes})
    return project


def saved_name(request: Request) -> str:
    query = f"?{urlencode(request.query)}" if request.query else ""
    return hashlib.sha256(f"https://{request.host}{request.path}{query}".encode()).hexdigest()


def photo_of(label: str, number: int = 1) -> PhotoRow:
    return PhotoRow(f"{label}-{number}", label, "", 4, 3, "", "folder", "", "", "", "", "")


@pytest.fixture
def fake(web: FakeWeb) -> FakePexels:
    return FakePexels({"cats": range(1, 201), "dogs": range(201, 401)}, KEY).install(web)


@pytest.fixture
def project(tmp_path: Path, web: FakeWeb) -> AcquireProject:
    return creatures(tmp_path / "project", web)


class TestCheckClasses:
    def test_two_classes_with_photos_pass(self) -> None:
        check_classes(["cat", "dog"], {"cat": 1, "dog": 9}, [RejectedRow("cat-2", "cat", "broken")], is_searched=False)

    @pytest.mark.parametrize(("labels", "got"), [(["cat"], "cat"), ([], "none")])
    def test_less_than_two_classes_are_refused(self, labels: list[str], got: str) -> None:
        with pytest.raises(StageError) as caught:
            check_classes(labels, dict.fromkeys(labels, 5), [], is_searched=False)
        assert str(caught.value) == f"expected photos of at least two classes, got {got}; add a class"

    def test_a_class_without_a_usable_photo_is_refused_with_a_reason(self) -> None:
        rejected = [RejectedRow("bee-1", "bee", "broken"), RejectedRow("cat-1", "cat", "the file is empty")]
        with pytest.raises(StageError) as caught:
            check_classes(["cat", "ant", "bee", "dog"], {"bee": 1, "dog": 2}, rejected, is_searched=False)
        assert str(caught.value) == (
            "no usable photo for ant, cat: cat-1: the file is empty (all reasons: data/acquire/rejected.csv); add "
            "photos, relax the requirements in section acquire, or remove the class"
        )

    def test_a_class_without_photos_in_the_source_is_refused(self) -> None:
        with pytest.raises(StageError) as caught:
            check_classes(["cat", "dog"], {"dog": 2}, [], is_searched=True)
        assert str(caught.value) == (
            "no usable photo for cat: the source has none; add photos, relax the requirements in section acquire, or "
            "remove the class; to search again: python -m stages.acquire --refresh"
        )


def test_rejected_photos_are_counted_by_the_kind_of_reason() -> None:
    reasons = ["broken: cut short", "HTTP 404", "broken: no end", "smaller than 8 pixels: 4 x 4"]
    rejected = [RejectedRow(f"cat-{number}", "cat", reason) for number, reason in enumerate(reasons)]
    assert count_acquired([photo_of("cat", 1), photo_of("cat", 2), photo_of("dog")], rejected, 7) == {
        "labels": 2,
        "photos_accepted": 3,
        "photos_rejected": 4,
        "files_skipped": 7,
        "rejected_by_reason": {"HTTP 404": 1, "broken": 2, "smaller than 8 pixels": 1},
    }


class TestFolder:
    def test_the_stage_writes_its_outputs(
        self, workspace: Path, drawn_photos: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (drawn_photos / "circle/broken.png").write_bytes(b"no image")
        (drawn_photos / "circle/Thumbs.db").write_bytes(b"of a system")
        from_folder(workspace, "drawn", classes={"round": "circle", "flat": "square"})
        write_bytes(ACQUIRE_PHOTOS_FOLDER / "star/of-an-earlier-run.png", PHOTO)
        main()
        photos = read_photos(ACQUIRE_PHOTOS)
        assert [(row.photo, row.label) for row in photos] == [
            (f"{label}-{number:03d}", label) for label in ("flat", "round") for number in range(12)
        ]
        files = {path.relative_to("data/acquire").as_posix() for path in ACQUIRE_PHOTOS_FOLDER.rglob("*.*")}
        assert files == {row.file for row in photos}
        assert [row["photo"] for row in read_table(ACQUIRE_REJECTED, RejectedRow._fields)] == ["round-broken"]
        assert json.loads(ACQUIRE_METRICS.read_text()) == {
            "labels": 2,
            "photos_accepted": 24,
            "photos_rejected": 1,
            "files_skipped": 1,
            "rejected_by_reason": {"not a readable JPEG, PNG, WEBP, AVIF, HEIF, GIF, BMP, TIFF file": 1},
        }
        assert ACQUIRE_CREDITS.read_text() == write_credits(photos, None)
        assert capfd.readouterr().out == (
            "acquire: 24 photos of 2 labels from folder -> data/acquire/photos, "
            "1 rejected (see data/acquire/rejected.csv)\n"
        )

    @pytest.mark.usefixtures("drawn_photos")
    def test_photos_per_class_is_a_maximum_and_too_few_photos_are_reported(
        self, workspace: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (workspace / "drawn/circle/000.png").write_bytes(b"")
        for number in range(5, 12):
            (workspace / f"drawn/square/{number:03d}.png").unlink()
        from_folder(workspace, "drawn", photos_per_class=6)
        main()
        taken = Counter(row.label for row in read_photos(ACQUIRE_PHOTOS))
        assert taken == {"circle": 6, "square": 5, "triangle": 6}
        assert "acquire: square: 5 of 6 photos; the source has no more\n" in capfd.readouterr().out

    @pytest.mark.usefixtures("drawn_photos")
    def test_a_repetition_gives_the_same_bytes(self, workspace: Path) -> None:
        project = from_folder(workspace, "drawn", photos_per_class=5)
        main()
        first = project.outputs()
        main()
        assert project.outputs() == first
        assert len(first) == 15 + 4

    @pytest.mark.usefixtures("drawn_photos")
    @pytest.mark.parametrize("label", ["../x", "..", "a/b", "/tmp/x", "a\\b", ".hidden", "x ", "a:b", ""])
    def test_no_label_leaves_the_folder(self, workspace: Path, label: str) -> None:
        from_folder(workspace, "drawn", classes={label: "circle", "flat": "square"})
        before = {path for path in workspace.rglob("*") if ".cache" not in path.parts}
        with pytest.raises(StageError) as caught:
            main()
        assert str(caught.value).startswith(f"label {label!r} cannot be a folder name: expected 1 to 200 bytes")
        assert {path for path in workspace.rglob("*") if ".cache" not in path.parts} == before

    @pytest.mark.skipif(not BAD_INPUTS.is_dir(), reason=f"needs the odd files in {BAD_INPUTS}")
    def test_every_odd_or_broken_file_is_counted(self, tmp_path: Path) -> None:
        odd = sorted(path.name for path in BAD_INPUTS.iterdir())
        labels = ("cat", "dog")
        for label in labels:
            for number in range(3):
                write_bytes(tmp_path / f"odd/{label}/good{number}.png", encode(noise(9, 9, seed=number)))
            for name in odd:
                copyfile(BAD_INPUTS / name, tmp_path / f"odd/{label}/{name}")
        project = from_folder(tmp_path, "odd")
        project.run_process()  # which asserts exit code 0 and no output on stderr
        taken = {row.photo for row in read_photos(tmp_path / ACQUIRE_PHOTOS)}
        reasons = project.reasons()
        assert all(reasons.values())
        assert not taken & set(reasons)
        assert {f"{label}-good{number}" for label in labels for number in range(3)} <= taken
        # Files that differ only in their extensions keep them in their names.
        seen = {
            name for name in odd if all({f"{x}-{name}", f"{x}-{Path(name).stem}"} & {*taken, *reasons} for x in labels)
        }
        counts = json.loads((tmp_path / ACQUIRE_METRICS).read_text())
        assert set(odd) - seen == {name for name in odd if name.startswith(".") or name == "Thumbs.db"}
        assert counts["files_skipped"] == len(labels) * (len(odd) - len(seen))
        assert len(taken) + len(reasons) == len(labels) * (3 + len(seen))
        assert_counts_add_up(tmp_path)


def assert_counts_add_up(root: Path) -> None:
    """Check that metrics/acquire.json, the tables and the files agree."""
    counts = json.loads((root / ACQUIRE_METRICS).read_text())
    photos = read_photos(root / ACQUIRE_PHOTOS)
    files = {path.relative_to(root / "data/acquire").as_posix() for path in (root / ACQUIRE_PHOTOS_FOLDER).rglob("*.*")}
    assert files == {row.file for row in photos}
    assert counts["photos_accepted"] == len(photos)
    assert counts["labels"] == len({row.label for row in photos})
    rejected = read_table(root / ACQUIRE_REJECTED, RejectedRow._fields)
    assert counts["photos_rejected"] == len(rejected) == sum(counts["rejected_by_reason"].values())


def test_the_digits_need_no_folder_and_no_network(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    project = AcquireProject(workspace, FakeWeb(), read_recipe("digits"))
    project.set_params(classes={"zero": "0", "one": "1"}, photos_per_class=3, folder="nowhere", minimum_side=1)
    main()
    assert [row.photo[:-5] for row in read_photos(ACQUIRE_PHOTOS)] == ["one"] * 3 + ["zero"] * 3
    assert_counts_add_up(workspace)


class TestRepetition:
    def test_a_repetition_needs_neither_network_nor_key(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        fake.deleted, fake.photo_script = {3}, {5: [Response(200, b"<html>")]}
        project.run()
        first = project.outputs()
        assert project.reasons() == {
            "cats-3": "HTTP 404",
            "cats-5": "a web page, expected a photo",
        }
        assert_counts_add_up(project.root)
        web.requests.clear()
        for environment in (OFFLINE, {"PEXELS_API_KEY": ""}):
            project.run(**environment)
            assert project.outputs() == first
        assert web.requests == []
        assert len(first) == 24 + 4

    def test_each_photo_is_requested_once_and_no_more_than_needed(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        fake.deleted = {1, 2, 205}
        project.run()
        requested = Counter(request.path.split("/")[2] for request in web.requests_to(fake.PHOTO_HOST))
        assert requested == Counter(str(number) for number in [*range(1, 15), *range(201, 214)])
        assert len(web.requests_to(fake.API_HOST)) == 2

    def test_more_photos_per_class_request_only_new_pages_and_photos(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.run()
        web.requests.clear()
        project.set_params(photos_per_class=90)
        project.run()
        assert [request.query["page"] for request in web.requests_to(fake.API_HOST)] == ["2", "2"]
        requested = sorted(int(request.path.split("/")[2]) for request in web.requests_to(fake.PHOTO_HOST))
        assert requested == [*range(13, 91), *range(213, 291)]

    def test_fewer_photos_per_class_request_nothing(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.run()
        web.requests.clear()
        project.set_params(photos_per_class=5)
        project.run()
        assert len(read_photos(project.root / ACQUIRE_PHOTOS)) == 10
        assert (web.requests, fake.script) == ([], [])

    def test_another_photo_size_reuses_the_searches(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.run()
        web.requests.clear()
        project.set_params(pexels__photo_size="small")
        project.run()
        assert {request.host for request in web.requests} == {fake.PHOTO_HOST}
        assert {request.query["h"] for request in web.requests} == {"130"}
        assert {(row.width, row.height) for row in read_photos(project.root / ACQUIRE_PHOTOS)} == {(32, 24)}

    def test_a_photo_of_two_labels_is_selected_for_neither(self, fake: FakePexels, project: AcquireProject) -> None:
        fake.photos = {"cats": range(1, 30), "dogs": [5, *range(30, 60)]}
        project.run()
        assert project.reasons() == {"cats-5": "found for two labels", "dogs-5": "found for two labels"}
        assert_counts_add_up(project.root)
        first = project.outputs()
        project.set_params(download__parallel=1)
        project.run(**OFFLINE)
        assert project.outputs() == first

    def test_refresh_reports_what_the_source_changed(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.run()
        fake.changed, fake.deleted = {3}, {204}
        fake.photos["cats"] = [1, 2, 3, *range(5, 202)]
        web.requests.clear()
        out = project.run("--refresh").stdout
        assert [line for line in out.splitlines() if "refreshed" in line] == [
            "acquire: refreshed: 1 changed at the source: cats-3",
            "acquire: refreshed: 1 deleted at the source: dogs-204",
            "acquire: refreshed: 0 no longer usable at the source, saved copies used: none",
            "acquire: refreshed: 1 no longer on the requested pages of results: cats-4",
            "acquire: refreshed: 1 new on the requested pages of results: cats-81",
        ]
        unchanged = [request for request in web.requests if request.headers.get("If-None-Match")]
        assert len(unchanged) == 11 + 12
        assert project.reasons() == {"dogs-204": "HTTP 404"}
        first = project.outputs()
        project.run(**OFFLINE)
        assert project.outputs() == first

    def test_the_source_and_the_permission_are_printed_and_recorded(
        self, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.set_params(permission="granted by mail on 2 May", photos_per_class=3)
        out = project.run().stdout.splitlines()
        assert out[0].startswith("acquire: Photos provided by Pexels (https://www.pexels.com). ")
        assert out[1] == "acquire: permission on record in acquire.permission: granted by mail on 2 May"
        assert out[-1] == "acquire: 6 photos of 2 labels from pexels -> data/acquire/photos, 0 rejected"
        credit = (project.root / ACQUIRE_CREDITS).read_text()
        assert credit == write_credits(read_photos(project.root / ACQUIRE_PHOTOS), "granted by mail on 2 May")
        assert fake.month_remaining == fake.month_limit - 2

    def test_failed_photos_are_not_requested_again_before_a_refresh(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        # More failures than end a run if they are consecutive.
        fake.photo_script = {number: [Response(500)] for number in (*range(2, 14, 2), *range(202, 214, 2))}
        project.run()
        assert set(project.reasons().values()) == {"no complete response"}
        assert len(project.reasons()) == 12
        first = project.outputs()
        web.requests.clear()
        project.run()
        project.run(**OFFLINE)
        assert project.outputs() == first
        assert web.requests == []
        project.run("--refresh")
        assert project.reasons() == {}

    def test_a_host_that_refuses_everything_ends_the_run_and_no_photo_is_rejected(
        self, fake: FakePexels, project: AcquireProject
    ) -> None:
        fake.photo_script = {number: [Response(403)] for number in range(1, 401)}
        assert "photos in a row could not be downloaded (HTTP 403)" in project.error()
        fake.photo_script = {}
        project.run()
        assert project.reasons() == {}


class TestKills:
    def test_no_photo_saved_before_a_kill_is_requested_again(
        self, tmp_path: Path, web: FakeWeb, fake: FakePexels
    ) -> None:
        chance = random.Random(20)
        web.delay_seconds = 0.01
        project = creatures(tmp_path / "killed", web, photos_per_class=90, download__parallel=4)
        clean = creatures(tmp_path / "clean", web, photos_per_class=90)
        saved_at_kills: list[tuple[int, set[str]]] = []
        for _ in range(KILLS):
            before, enough = len(web.requests), chance.randint(1, 14)
            with project.start() as process:
                while process.poll() is None and len(web.requests) < before + enough:
                    time.sleep(0.001)
                time.sleep(chance.random() / 50)
                process.send_signal(signal.SIGKILL)
                process.communicate()
            assert process.returncode == -signal.SIGKILL
            saved_at_kills.append((len(web.requests), project.saved_photos()))
        project.run()

        assert saved_at_kills[-1][1]
        for number, saved in saved_at_kills:
            requested_later = {saved_name(request) for request in web.requests[number:]}
            assert not saved & requested_later
        assert not list((project.root / ".cache/acquire").glob("partial/*"))
        web.delay_seconds = 0
        clean.run()
        assert project.outputs() == clean.outputs()
        assert len(project.saved_photos()) == len(fake.photos) * 90

    def test_a_kill_while_the_outputs_are_written_damages_nothing(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.set_params(photos_per_class=80)
        project.run()
        first = project.outputs()
        web.requests.clear()
        chance = random.Random(0)
        photos = project.root / ACQUIRE_PHOTOS_FOLDER
        for _ in range(KILLS):
            with project.start() as process:
                # The old photos are deleted first, then the new ones are written.
                while process.poll() is None and photos.exists():
                    time.sleep(0.0001)
                time.sleep(chance.random() / 20)
                process.kill()
                process.communicate()
            project.run(**OFFLINE)
            assert project.outputs() == first
        assert (web.requests, fake.script) == ([], [])


class TestTwoAtOnce:
    def test_in_one_folder_they_download_each_photo_once(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        both_run = threading.Event()
        web.add(fake.API_HOST, lambda request: fake.handle_search(request) if both_run.wait(60) else Response(500))
        with project.start() as first:
            while first.poll() is None and not web.requests:
                time.sleep(0.01)
            with project.start() as second:
                assert second.stderr
                assert second.stderr.readline() == (
                    "acquire: waiting for an earlier acquire that is still running in this folder\n"
                )
                both_run.set()
                outs = [process.communicate(timeout=120) for process in (first, second)]
        assert [(process.returncode, err) for process, (_, err) in zip((first, second), outs, strict=True)] == [
            (0, "")
        ] * 2
        assert max(Counter(map(saved_name, web.requests_to(fake.PHOTO_HOST))).values()) == 1
        assert len(web.requests) == 2 + 24
        assert_counts_add_up(project.root)

    def test_experiments_in_other_folders_share_downloads(
        self, tmp_path: Path, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        web.delay_seconds = 0.05
        others = [creatures(tmp_path / name, web) for name in ("a", "b")]
        processes = [other.start(DVC_ROOT=str(project.root)) for other in others]
        outs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outs
        assert len(web.requests) == 2 + 24
        assert others[0].outputs() == others[1].outputs()
        assert len(project.saved_photos()) == 24
        assert fake.month_remaining == fake.month_limit - 2


class TestNetworkDown:
    def test_at_the_start_it_is_reported_in_one_line(self, fake: FakePexels, project: AcquireProject) -> None:
        assert project.error(**OFFLINE) == (
            "acquire: a request to Pexels failed: no connection. Downloads so far are saved; run again later"
        )
        project.run()
        assert fake.month_remaining == fake.month_limit - 2

    def test_in_the_middle_it_is_reported_in_one_line_and_nothing_is_lost(
        self, tmp_path: Path, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        fake.photo_script = {number: [Response(drop=True)] for number in [*range(6, 60), *range(206, 260)]}
        line = project.error()
        assert line.startswith("acquire: 1")
        assert (
            " photos in a row could not be downloaded (no connection): the network or the host seems to be down."
            in line
        )
        saved, number = project.saved_photos(), len(web.requests)
        assert saved
        fake.photo_script.clear()
        project.run()
        assert not saved & {saved_name(request) for request in web.requests[number:]}
        assert project.reasons() == {}
        clean = creatures(tmp_path / "clean", web)
        clean.run()
        assert project.outputs() == clean.outputs()

    def test_a_search_that_fails_in_the_middle_loses_nothing(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        project.run()
        project.set_params(photos_per_class=90)
        fake.script = [Response(502)]
        assert project.error() == (
            "acquire: a request to Pexels failed: HTTP 502. Downloads so far are saved; run again later"
        )
        saved, number = project.saved_photos(), len(web.requests)
        project.run()
        assert not saved & {saved_name(request) for request in web.requests[number:]}

    def test_without_a_key_one_line_names_where_to_get_one(self, web: FakeWeb, project: AcquireProject) -> None:
        assert project.error(PEXELS_API_KEY="").startswith("acquire: PEXELS_API_KEY is not set: ")
        assert web.requests == []

    def test_a_reached_limit_says_when_to_run_again(self, fake: FakePexels, project: AcquireProject) -> None:
        project.set_params(pexels__requests_per_hour=1, pexels__at_limit="stop")
        line = project.error()
        assert line.startswith("acquire: the limit of 1 requests per hour is reached; run again at 20")
        assert fake.month_remaining == fake.month_limit - 1


class TestKey:
    def test_it_is_in_no_file_no_output_and_no_url(
        self, web: FakeWeb, fake: FakePexels, project: AcquireProject
    ) -> None:
        fake.photo_script = {4: [Response(302, headers={"Location": "https://elsewhere.org/"})], 5: [Response(500)]}
        texts = [
            project.run_process(check=False, PEXELS_API_KEY=f"{KEY}\n{KEY}"),
            project.run_process(),
            project.run_process("--refresh"),
        ]
        fake.key = "another"
        texts += [project.run_process("--refresh", check=False)]
        fake.script = [Response(drop=True)]
        texts += [project.run_process(option, check=False) for option in ("--refresh", "--no-such-option")]
        assert [done.returncode for done in texts] == [1, 0, 0, 1, 1, 2]
        assert KEY not in "".join(done.stdout + done.stderr for done in texts)
        files = [path for path in project.root.rglob("*") if path.is_file()]
        assert {".cache", "data", "metrics"} <= {path.relative_to(project.root).parts[0] for path in files}
        assert not [path for path in files if KEY.encode() in path.read_bytes()]
        for request in web.requests:
            assert KEY not in f"{request.path}{request.query}"
            others = {name: value for name, value in request.headers.items() if name != "Authorization"}
            assert KEY not in str(others)
            assert ("Authorization" in request.headers) == (request.host == fake.API_HOST)


class TestHostile:
    @pytest.mark.parametrize("label", ["../x", "a\nb"])
    def test_no_label_leaves_the_folder_and_nothing_is_requested(
        self, web: FakeWeb, project: AcquireProject, label: str
    ) -> None:
        project.set_params(classes={label: "cats", "dogs": "dogs"})
        assert project.error().startswith(f"acquire: label {label!r} cannot be a folder name: ")
        assert {path.name for path in project.root.iterdir()} == {"params.yaml", ".cache"}
        assert {path.name for path in project.root.parent.iterdir()} == {"project"}
        assert web.requests == []

    def test_hostile_names_in_a_response_become_readable_rows(self, fake: FakePexels, project: AcquireProject) -> None:
        names = [
            '"quoted", and\nlines',
            "../../etc/passwd",
            "[a](javascript:x)",
            "\ud800",
            "=1+1",
            "-=DJ=-",
            "",
            "\x00",
        ]
        entries = [fake.describe(number) | {"photographer": name} for number, name in enumerate(names, 1)]
        body = json.dumps({"photos": entries, "total_results": len(entries)}).encode()
        fake.script = [Response(200, body)]
        project.set_params(photos_per_class=len(names))
        project.run()
        photos = read_photos(project.root / ACQUIRE_PHOTOS)
        assert len(photos) == 2 * len(names)
        text = (project.root / ACQUIRE_PHOTOS).read_text(encoding="utf-8")
        assert len(list(csv.reader(io.StringIO(text)))) == text.count("\n") == 1 + len(photos)
        # In the table, but not in the credits, an apostrophe keeps a spreadsheet from running a name.
        assert {"'=1+1", "'-=DJ=-"} < {photo.creator for photo in photos}
        named = [photo._replace(creator=photo.creator.removeprefix("'")) for photo in photos]
        assert (project.root / ACQUIRE_CREDITS).read_text(encoding="utf-8") == write_credits(named, None)
        assert_counts_add_up(project.root)
