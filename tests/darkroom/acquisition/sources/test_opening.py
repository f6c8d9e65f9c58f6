import gzip
import hashlib
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.sources import mnist
from darkroom.acquisition.sources.opening import SOURCES, open_source
from darkroom.acquisition.sources.source import SearchedSource
from darkroom.params.acquire import SOURCE_SCHEMAS, AcquireParams
from darkroom.params.recipes import list_recipes
from darkroom.pipeline.stage import StageError
from tests.fake_web import FakeWeb, Response
from tests.project import ROOT, read_recipe

SEARCHED = {name: source for name, source in SOURCES.items() if isinstance(source, SearchedSource)}
DIGITS = bytes([5, 0, 4, 1, 9, 2, 1, 3, 1, 4])


def digit_files() -> dict[str, bytes]:
    """The four files of a data set with ten training digits and ten test digits."""
    images = np.random.default_rng(3).integers(0, 256, (10, 28, 28), np.uint8)
    contents = {
        "images-idx3": struct.pack(">IIII", 0x803, 10, 28, 28) + images.tobytes(),
        "labels-idx1": struct.pack(">II", 0x801, 10) + DIGITS,
    }
    return {
        f"{part}-{kind}-ubyte.gz": gzip.compress(content, mtime=0)
        for part in ("train", "t10k")
        for kind, content in contents.items()
    }


@pytest.fixture
def check(tmp_path: Path) -> Iterator[PhotoCheck]:
    with closing(Ledger(tmp_path / "cache")) as ledger:
        yield PhotoCheck(ledger, PhotoLimits(1, 10_000, 1_000_000))


def read_section(name: str, **changes: object) -> AcquireParams:
    section = dict(read_recipe(name)["acquire"]) | changes
    return AcquireParams.model_validate(section)


def listed(params: AcquireParams, check: PhotoCheck, *, refresh: bool = False) -> dict[str, list[str]]:
    with open_source(params, check.ledger, check, Clock(), refresh=refresh) as source:
        offered = source.listing.candidates
        return {label: [candidate.photo for candidate in candidates] for label, candidates in offered.items()}


def find_recipe(source: str) -> AcquireParams:
    return next(params for params in map(read_section, list_recipes(ROOT / "recipes")) if params.source == source)


class TestTable:
    def test_the_schema_and_the_table_have_the_same_sources(self) -> None:
        missing = {
            "SOURCES of darkroom/acquisition/sources/opening.py": set(SOURCE_SCHEMAS) - set(SOURCES),
            "SOURCE_SCHEMAS of darkroom/params/acquire.py": set(SOURCES) - set(SOURCE_SCHEMAS),
        }
        lines = [f"{table} lacks {', '.join(sorted(names))}" for table, names in missing.items() if names]
        assert not lines, "; ".join(lines)

    @pytest.mark.parametrize("name", sorted(SOURCES.keys() & SOURCE_SCHEMAS.keys()))
    def test_schema_and_table_agree_on_whether_a_source_is_searched(self, name: str) -> None:
        assert SOURCE_SCHEMAS[name].is_searched == isinstance(SOURCES[name], SearchedSource)

    @pytest.mark.parametrize("name", SEARCHED)
    def test_photos_and_ledger_name_a_searched_source_as_the_table_does(self, name: str) -> None:
        assert SEARCHED[name].make_service(find_recipe(name))[0].name == name


class TestDataSets:
    def test_the_files_are_fetched_once_and_then_read_without_the_network(
        self, web: FakeWeb, check: PhotoCheck, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = digit_files()
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        monkeypatch.setattr(mnist, "FILES", digests)
        web.add(
            "storage.googleapis.com",
            lambda request: Response(body=files[request.path.removeprefix("/cvdf-datasets/mnist/")]),
        )
        first = listed(read_section("mnist"), check)
        assert first["1"] == [f"1-{part}-{number:05d}" for part in ("train", "test") for number in (3, 6, 8)]
        assert len(web.requests) == 4
        assert listed(read_section("mnist"), check) == first
        assert len(web.requests) == 4

    def test_downloaded_files_must_be_the_published_ones(self, web: FakeWeb, check: PhotoCheck) -> None:
        files = digit_files()
        web.add("storage.googleapis.com", lambda request: Response(body=files[request.path.rpartition("/")[2]]))
        with pytest.raises(StageError, match="ubyte.gz has changed: expected SHA-256 440f"):
            listed(read_section("mnist"), check)
        assert not [path for path in (check.ledger.folder / "mnist").iterdir() if path.is_file()]

    def test_files_in_a_folder_need_no_network(self, tmp_path: Path, check: PhotoCheck) -> None:
        for name, content in digit_files().items():
            (tmp_path / name).write_bytes(content)
        dataset = {"files": "folder", "train_photos": 4, "test_photos": 0}
        offered = listed(read_section("mnist", folder=str(tmp_path), dataset=dataset), check)
        assert {label: photos for label, photos in offered.items() if photos} == {
            "0": ["0-train-00001"],
            "1": ["1-train-00003"],
            "4": ["4-train-00002"],
            "5": ["5-train-00000"],
        }


@pytest.mark.parametrize("recipe", ["digits", "guitars", "mnist", "cifar10"])
def test_a_source_that_is_always_read_again_cannot_be_refreshed(recipe: str, check: PhotoCheck) -> None:
    params = read_section(recipe)
    with pytest.raises(StageError) as caught:
        listed(params, check, refresh=True)
    assert str(caught.value) == f"--refresh is for sources that are searched; {params.source} is always read again"
