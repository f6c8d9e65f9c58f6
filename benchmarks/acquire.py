"""Duration of the acquire stage, compared with common alternatives.

    python -m benchmarks.acquire search    300 photos from a loopback server with a latency of 100 ms, compared with
                                           the sequential loop of tutorials
    python -m benchmarks.acquire folder    10,000 photos in a folder, compared with `cp -r` of the same folder

Prints the median seconds of both over several rounds, and their ratio.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median

import requests

from tests.fake_services import FakePexels
from tests.fake_web import FakeWeb
from tests.project import ROOT, write_params

GUITARS = ROOT.parent / "shared/material/guitars"
CLASSES = ("cats", "dogs", "birds", "monkeys", "fish", "lizards")
PHOTOS = 300
FOLDER_PHOTOS = 10_000
ANSWER_SECONDS = 0.1
ROUNDS = 5


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run_stage(folder: Path) -> None:
    """Run acquire in its own process, as DVC does; the start and the imports are included."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DVC_ROOT": str(folder)}
    subprocess.run(
        [sys.executable, "-m", "stages.acquire"], cwd=folder, env=environment, check=True, capture_output=True
    )


def run_tutorial(folder: Path, photos_per_class: int) -> None:
    """Search and download sequentially, as in tutorials, but without their pauses."""
    for words in CLASSES:
        (folder / words).mkdir(parents=True)
        taken = 0
        for page in count(1):
            found = requests.get(
                "https://api.pexels.com/v1/search",
                params={"query": words, "page": page, "per_page": 80},
                headers={"Authorization": os.environ["PEXELS_API_KEY"]},
                timeout=60,
            ).json()["photos"]
            for photo in found[: photos_per_class - taken]:
                content = requests.get(photo["src"]["medium"], timeout=60).content
                (folder / words / f"{photo['id']}.jpg").write_bytes(content)
                taken += 1
            if taken == photos_per_class or not found:
                break


@contextmanager
def fake_pexels() -> Iterator[FakeWeb]:
    """Fake Pexels, and direct this process and its children to it through the environment."""
    with FakeWeb() as web:
        FakePexels(
            {words: range(1000 * number, 1000 * number + 200) for number, words in enumerate(CLASSES, 1)}
        ).install(web)
        web.delay_seconds = ANSWER_SECONDS
        os.environ.update(web.environment, PEXELS_API_KEY="test-key")
        yield web


def compare_search(folder: Path) -> None:
    per_class = PHOTOS // len(CLASSES)
    tutorial, acquire = [], []
    with fake_pexels() as web:
        for number in range(ROUNDS):
            there = folder / f"tutorial-{number}"
            tutorial.append(seconds_of(lambda there=there: run_tutorial(there, per_class)))
            here = folder / f"acquire-{number}"
            here.mkdir()
            write_params("creatures", here / "params.yaml", photos_per_class=per_class)
            before = len(web.requests_to("api.pexels.com")), len(web.requests_to("images.pexels.com"))
            acquire.append(seconds_of(lambda here=here: run_stage(here)))
            api = len(web.requests_to("api.pexels.com")) - before[0]
            photos = len(web.requests_to("images.pexels.com")) - before[1]
            taken = json.loads((here / "metrics/acquire.json").read_text())["photos_accepted"]
            print(f"round {number + 1}: {taken} photos, {api} requests to the API, {photos} downloads", flush=True)
    report("tutorial loop", tutorial, "acquire", acquire)
    print(f"ratio: {median(tutorial) / median(acquire):.1f}")


def compare_folder(folder: Path) -> None:
    source = folder / "photos"
    make_folder(source)
    copied, first, again = [], [], []
    for number in range(ROUNDS):
        there, here = folder / f"copy-{number}", folder / f"acquire-{number}"
        copied.append(seconds_of(lambda there=there: subprocess.run(["cp", "-r", source, there], check=True)))
        here.mkdir()
        write_params(
            "guitars_six",
            here / "params.yaml",
            folder=str(source),
            classes={},
            photos_per_class=None,
        )
        first.append(seconds_of(lambda here=here: run_stage(here)))
        again.append(seconds_of(lambda here=here: run_stage(here)))
        shutil.rmtree(there)
        shutil.rmtree(here)
    report("cp -r", copied, "acquire", first)
    report("cp -r", copied, "acquire again", again)
    print(f"ratio: {median(first) / median(copied):.1f}, again {median(again) / median(copied):.1f}")


def make_folder(source: Path) -> None:
    """Fill ten classes with photos; a suffix after the end of the image makes each file unique."""
    photos = sorted(GUITARS.rglob("*.jpg")) or sys.exit(f"no photos in {GUITARS}")
    for number in range(FOLDER_PHOTOS):
        target = source / f"class{number % 10}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(photos[number % len(photos)].read_bytes() + number.to_bytes(4))


def report(baseline: str, baseline_seconds: list[float], name: str, seconds: list[float]) -> None:
    print(f"{baseline}: median {median(baseline_seconds):.2f} s; {name}: median {median(seconds):.2f} s")


def main() -> None:
    compare = {"search": compare_search, "folder": compare_folder}.get(" ".join(sys.argv[1:]))
    if compare is None:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder))


if __name__ == "__main__":
    main()
