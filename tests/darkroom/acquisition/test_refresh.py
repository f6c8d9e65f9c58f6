import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.acquisition.refresh import CHANGED, CURRENT_SECONDS, DELETED, UNCHANGED, UNUSABLE, Refresh

ROOT = Path(__file__).parents[3]
NO_CHANGES = [
    "0 changed at the source: none",
    "0 deleted at the source: none",
    "0 no longer usable at the source, saved copies used: none",
    "0 no longer on the requested pages of results: none",
    "0 new on the requested pages of results: none",
]
# Replaces a response, and is killed just before the first SQL statement that begins with the given words.
REPLACE_UNTIL = """
import os
import signal
import sys
from pathlib import Path
from darkroom.acquisition.ledger import Ledger, Download

folder, words = sys.argv[1:]
ledger = Ledger(Path(folder))

def kill(statement):
    if statement.startswith(words):
        os.kill(os.getpid(), signal.SIGKILL)

ledger.connection.set_trace_callback(kill)
ledger.replace_response("page 1", "new", "old", 5.0)
"""


@dataclass
class SimulatedClock(Clock):
    """Time passes only by setting `timestamp`."""

    timestamp: float = 1_900_000_000.0

    def now(self) -> float:
        return self.timestamp


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path)) as ledger:
        yield ledger


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


class TestNotes:
    @pytest.mark.parametrize("change", [UNCHANGED, CHANGED, DELETED, UNUSABLE])
    def test_a_note_is_found(self, ledger: Ledger, clock: SimulatedClock, change: str) -> None:
        refresh = Refresh(ledger, clock)
        assert refresh.find("1") is None
        refresh.replace_download("1", Download(), change)
        assert refresh.find("1") == change
        assert refresh.find("2") is None

    def test_the_last_note_counts(self, ledger: Ledger, clock: SimulatedClock) -> None:
        refresh = Refresh(ledger, clock)
        refresh.replace_download("1", Download(), CHANGED)
        refresh.replace_download("1", Download(), DELETED)
        assert refresh.find("1") == DELETED

    @pytest.mark.parametrize("before", ["", "an older page"])
    def test_a_response_is_replaced_and_the_previous_one_is_found(
        self, ledger: Ledger, clock: SimulatedClock, before: str
    ) -> None:
        ledger.save_response("page 1", before)
        refresh = Refresh(ledger, clock)
        assert refresh.find("page 1") is None
        refresh.replace_response("page 1", "a new page", before)
        assert ledger.find_response("page 1") == "a new page"
        assert refresh.find("page 1") == before

    @pytest.mark.parametrize("words", ["BEGIN", "REPLACE INTO answers", "REPLACE INTO refreshed", "COMMIT"])
    def test_a_kill_leaves_the_old_response_and_no_note(
        self, ledger: Ledger, clock: SimulatedClock, tmp_path: Path, words: str
    ) -> None:
        ledger.save_response("page 1", "old")
        done = subprocess.run([sys.executable, "-c", REPLACE_UNTIL, str(tmp_path), words], cwd=ROOT, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert ledger.find_response("page 1") == "old"
        clock.timestamp = 5.0
        assert Refresh(ledger, clock).find("page 1") is None


class TestOneDay:
    @pytest.mark.parametrize(
        ("seconds", "is_found"), [(0, True), (CURRENT_SECONDS, True), (CURRENT_SECONDS + 1, False)]
    )
    def test_an_interrupted_one_resumes_for_a_day(
        self, ledger: Ledger, clock: SimulatedClock, seconds: int, is_found: bool
    ) -> None:
        before = Refresh(ledger, clock)
        before.replace_download("1", Download(), CHANGED)
        before.replace_response("page 1", "new", "old")
        clock.timestamp += seconds
        refresh = Refresh(ledger, clock)
        assert (refresh.find("1"), refresh.find("page 1")) == ((CHANGED, "old") if is_found else (None, None))

    def test_a_day_counts_from_the_start_not_from_each_lookup(self, ledger: Ledger, clock: SimulatedClock) -> None:
        """The notes of a refresh are valid until it ends, however long that takes."""
        refresh = Refresh(ledger, clock)
        refresh.replace_download("1", Download(), CHANGED)
        clock.timestamp += 3 * CURRENT_SECONDS
        assert refresh.find("1") == CHANGED
        assert refresh.finish({"1": "cat-1"}, {"1": "cat-1"})[0] == "1 changed at the source: cat-1"

    def test_changes_older_than_a_day_are_not_reported(self, ledger: Ledger, clock: SimulatedClock) -> None:
        Refresh(ledger, clock).replace_download("1", Download(), CHANGED)
        clock.timestamp += CURRENT_SECONDS + 1
        assert Refresh(ledger, clock).finish({"1": "cat-1"}, {"1": "cat-1"}) == NO_CHANGES


class TestFinish:
    def test_no_changes_are_reported_as_zeros(self, ledger: Ledger, clock: SimulatedClock) -> None:
        refresh = Refresh(ledger, clock)
        refresh.replace_download("1", Download(), UNCHANGED)
        assert refresh.finish({"1": "cat-1", "2": "cat-2"}, {"2": "cat-2", "1": "cat-1"}) == NO_CHANGES

    def test_each_kind_of_change_has_a_line_with_sorted_names(self, ledger: Ledger, clock: SimulatedClock) -> None:
        refresh = Refresh(ledger, clock)
        notes = {"1": CHANGED, "2": DELETED, "3": UNUSABLE, "4": UNCHANGED, "5": CHANGED, "6": DELETED}
        for key, change in notes.items():
            refresh.replace_download(key, Download(), change)
        everywhere = {"5": "cat-5", "3": "cat-3", "1": "cat-1", "2": "cat-2", "4": "cat-4"}
        assert refresh.finish(everywhere | {"6": "cat-6", "7": "cat-7"}, everywhere | {"9": "cat-9", "8": "cat-8"}) == [
            "2 changed at the source: cat-1, cat-5",
            "2 deleted at the source: cat-2, cat-6",
            "1 no longer usable at the source, saved copies used: cat-3",
            "2 no longer on the requested pages of results: cat-6, cat-7",
            "2 new on the requested pages of results: cat-8, cat-9",
        ]

    def test_many_names_are_cut_short(self, ledger: Ledger, clock: SimulatedClock) -> None:
        found = {str(number): f"cat-{number:02d}" for number in range(30)}
        *_, line = Refresh(ledger, clock).finish({}, found)
        assert line == f"30 new on the requested pages of results: {', '.join(sorted(found.values())[:20])} and 10 more"

    def test_changes_of_other_searches_are_not_reported(self, ledger: Ledger, clock: SimulatedClock) -> None:
        refresh = Refresh(ledger, clock)
        refresh.replace_download("1", Download(), CHANGED)
        assert refresh.finish({"2": "cat-2"}, {"2": "cat-2"}) == NO_CHANGES

    def test_afterwards_nothing_counts_as_requested(self, ledger: Ledger, clock: SimulatedClock) -> None:
        refresh = Refresh(ledger, clock)
        refresh.replace_download("1", Download(), CHANGED)
        refresh.replace_response("page 1", "new", "old")
        refresh.finish({}, {})
        for one in (refresh, Refresh(ledger, clock)):
            assert one.find("1") is None
            assert one.find("page 1") is None
        assert ledger.find_response("page 1") == "new"
