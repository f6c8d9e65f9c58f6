import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable, raise_unavailable
from darkroom.acquisition.selection import AMBIGUOUS, SAFE_NAME, Selection, Workers, is_safe_name, take_each
from darkroom.photos.images import ImageError
from darkroom.pipeline.dataset import PhotoRow, RejectedRow
from darkroom.pipeline.stage import StageError
from tests.examples import photo_row

BAD_NAMES = ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "x.", " x", "x ", "a:b", "a\nb", "a\x00", "?", "*"]
BAD_NAMES += ["ü" * 101, "\udcff", "a\u200bb", 'a"b', "a<b", "a>b", "a|b"]
GOOD_NAMES = ["x", "Great Dane", "x.y", "a-b_c", "Bär", "日本", "0", "ü" * 100, "it's", "a,b", "(1)", "…x"]


@dataclass(frozen=True)
class Offer:
    """A photo that a source offers: whether it is usable, and how long it takes to read."""

    identity: str = ""
    usable: bool = True
    milliseconds: int = 0


@dataclass
class FakeSource:
    """A source that records its photos: `drawn` from the iterator, `started` to be taken, and `taken` at present."""

    offers: Mapping[str, Sequence[Offer]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def candidates(self) -> dict[str, Iterator[Candidate]]:
        return {label: self.candidates_of(label) for label in self.offers}

    def candidates_of(self, label: str) -> Iterator[Candidate]:
        for number, offer in enumerate(self.offers[label]):
            self.drawn.append(f"{label}-{number}")
            yield candidate(f"{label}-{number}", label, identity=offer.identity)

    def take(self, candidate: Candidate) -> PhotoRow:
        with self.lock:
            self.started.append(candidate.photo)
        offer = self.offers[candidate.label][int(candidate.photo.rpartition("-")[2])]
        time.sleep(offer.milliseconds / 1000)
        if not offer.usable:
            raise ImageError(f"broken: {candidate.photo}")
        with self.lock:
            self.taken.add(candidate.photo)
        return photo_row(candidate.photo, candidate.label)

    def discard(self, photo: PhotoRow) -> None:
        with self.lock:
            self.taken.remove(photo.photo)


def candidate(photo: str, label: str, identity: str = "") -> Candidate:
    return Candidate(photo, label, read=lambda _: b"", source="folder", identity=identity)


def endless(label: str) -> Iterator[Candidate]:
    return (candidate(f"{label}-{number}", label) for number in count())


def take_row(candidate: Candidate) -> PhotoRow:
    candidate.read(0)
    return photo_row(candidate.photo, candidate.label)


@contextmanager
def threads(take: Callable[[Candidate], PhotoRow], parallel: int, batch_size: int = 1) -> Iterator[Workers]:
    with ThreadPoolExecutor(parallel) as pool:
        yield Workers(pool, partial(take_each, take_one=take), parallel, batch_size)


def run(
    offered: Mapping[str, Sequence[Candidate] | Iterator[Candidate]],
    photos_per_class: int | None = None,
    take: Callable[[Candidate], PhotoRow] = take_row,
    parallel: int = 4,
) -> tuple[list[str], list[RejectedRow]]:
    with threads(take, parallel) as workers:
        photos, rejected = Selection(offered, photos_per_class, lambda _: None).run(workers, lambda _: None)
    return [row.photo for row in photos], rejected


def run_source(
    source: FakeSource, photos_per_class: int | None, parallel: int, batch_size: int = 1
) -> tuple[list[str], list[RejectedRow]]:
    with threads(source.take, parallel, batch_size) as workers:
        selection = Selection(source.candidates(), photos_per_class, source.discard)
        photos, rejected = selection.run(workers, lambda _: None)
    return [row.photo for row in photos], rejected


def select_sequentially(
    offers: Mapping[str, Sequence[Offer]], photos_per_class: int | None
) -> tuple[list[str], list[RejectedRow]]:
    """The expected selection, computed sequentially: each label's first usable photos; then photos found for two
    labels are discarded, and the search for more continues until there are none."""
    left = {label: list(enumerate(some)) for label, some in offers.items()}
    taken: dict[str, dict[str, str]] = {label: {} for label in offers}
    rejected: list[RejectedRow] = []
    ambiguous: set[str] = set()
    while True:
        for label, rest in left.items():
            while rest and (photos_per_class is None or len(taken[label]) < photos_per_class):
                number, offer = rest.pop(0)
                photo = f"{label}-{number}"
                if offer.identity in ambiguous:
                    rejected.append(RejectedRow(photo, label, "found for two labels"))
                elif not offer.usable:
                    rejected.append(RejectedRow(photo, label, f"broken: {photo}"))
                else:
                    taken[label][photo] = offer.identity
        holders = [identity for photos in taken.values() for identity in photos.values() if identity]
        shared = {identity for identity in holders if holders.count(identity) > 1}
        if not shared:
            return sorted(photo for photos in taken.values() for photo in photos), sorted(rejected)
        ambiguous |= shared
        for label, photos in taken.items():
            for photo in [photo for photo, identity in photos.items() if identity in shared]:
                del photos[photo]
                rejected.append(RejectedRow(photo, label, "found for two labels"))


@st.composite
def source_offers(draw: st.DrawFn) -> dict[str, list[Offer]]:
    """Up to four labels that may share photos; within a label no photo occurs twice."""
    offers = {}
    for label in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        identities = draw(st.lists(st.integers(0, 15), max_size=14, unique=True))
        offers[label] = [
            # Every sixth identity is unknown, as for the photos of a folder.
            Offer(f"{identity}" if identity % 6 else "", draw(st.booleans()), draw(st.integers(0, 2)))
            for identity in identities
        ]
    return offers


class TestChoice:
    @settings(deadline=None, max_examples=150)
    @given(
        offers=source_offers(),
        photos_per_class=st.one_of(st.none(), st.integers(1, 6)),
        parallel=st.integers(1, 8),
        batch_size=st.integers(1, 4),
    )
    def test_any_number_of_threads_and_any_order_of_finishing_select_what_a_sequential_run_would(
        self, offers: dict[str, list[Offer]], photos_per_class: int | None, parallel: int, batch_size: int
    ) -> None:
        source = FakeSource(offers)
        photos, rejected = run_source(source, photos_per_class, parallel, batch_size)
        assert (photos, rejected) == select_sequentially(offers, photos_per_class)
        # Discarded photos are deleted, and nothing was started in vain or twice.
        assert source.taken == set(photos)
        unstarted = set(source.drawn) - set(source.started)
        assert sorted(source.drawn) == sorted(photos + [row.photo for row in rejected])
        assert sorted(set(source.started)) == sorted(source.started)
        assert all(row.reason == AMBIGUOUS for row in rejected if row.photo in unstarted)

    @pytest.mark.parametrize("parallel", [1, 3, 64])
    def test_candidates_are_submitted_only_as_needed(self, parallel: int) -> None:
        offers = {"cat": [Offer(usable=number not in (0, 3)) for number in range(50)], "dog": [Offer()] * 50}
        source = FakeSource(offers)
        run_source(source, 3, parallel)
        assert sorted(source.started) == sorted([*(f"cat-{number}" for number in range(5)), "dog-0", "dog-1", "dog-2"])
        assert sorted(source.drawn) == sorted(source.started)

    def test_a_source_that_never_ends_is_listed_only_as_far_as_needed(self) -> None:
        assert run({"cat": endless("cat"), "dog": endless("dog")}, 2) == (["cat-0", "cat-1", "dog-0", "dog-1"], [])

    def test_a_label_with_too_few_photos_gives_all(self) -> None:
        assert run_source(FakeSource({"cat": [Offer()] * 2, "dog": [], "owl": [Offer()] * 9}), 3, 4)[0] == [
            *("cat-0", "cat-1"),
            *("owl-0", "owl-1", "owl-2"),
        ]

    def test_photos_and_rejected_rows_are_sorted_by_their_names(self) -> None:
        source = FakeSource({"b": [Offer(usable=number % 2 == 0) for number in range(12)], "a": [Offer(usable=False)]})
        photos, rejected = run_source(source, None, 3)
        assert photos == ["b-0", "b-10", "b-2", "b-4", "b-6", "b-8"]
        assert [row.photo for row in rejected] == ["a-0", "b-1", "b-11", "b-3", "b-5", "b-7", "b-9"]

    def test_progress_counts_the_photos(self) -> None:
        reported: list[int] = []
        offers = {"cat": [Offer("1"), Offer("2", usable=False), Offer("3")], "dog": [Offer("1"), Offer("4")]}
        source = FakeSource(offers)
        with threads(source.take, 2) as workers:
            photos, _ = Selection(source.candidates(), 1, source.discard).run(workers, reported.append)
        assert sum(reported) == len(photos) == 2
        assert sorted(number for number in reported if number) == [-1, -1, 1, 1, 1, 1]


class TestPhotosOfTwoLabels:
    def test_a_photo_of_two_labels_is_selected_for_neither_and_others_are_selected_instead(self) -> None:
        source = FakeSource({"cat": [Offer("1"), Offer("2"), Offer("3")], "dog": [Offer("2"), Offer("4"), Offer("5")]})
        photos, rejected = run_source(source, 2, 2)
        assert photos == ["cat-0", "cat-2", "dog-1", "dog-2"]
        assert rejected == [RejectedRow("cat-1", "cat", AMBIGUOUS), RejectedRow("dog-0", "dog", AMBIGUOUS)]
        assert source.taken == set(photos)

    def test_a_third_label_does_not_get_it_later(self) -> None:
        offers = {"a": [Offer("1"), Offer("7")], "b": [Offer("1"), Offer("8")], "c": [Offer("9", False), Offer("1")]}
        photos, rejected = run_source(FakeSource(offers), 1, 1)
        assert photos == ["a-1", "b-1"]
        assert [(row.photo, row.reason) for row in rejected if row.label == "c"] == [
            ("c-0", "broken: c-0"),
            ("c-1", AMBIGUOUS),
        ]

    def test_a_label_that_takes_longer_to_get_it_loses_it_too(self) -> None:
        slow = [Offer("1", milliseconds=100), Offer("4")]
        source = FakeSource({"a": [Offer("1"), Offer("2")], "b": [Offer("1"), Offer("3")], "c": slow})
        assert run_source(source, 1, 4)[0] == ["a-1", "b-1", "c-1"]

    def test_a_known_photo_of_two_labels_is_not_read_again(self) -> None:
        offers = {"a": [Offer("1"), Offer("2")], "b": [Offer("1"), Offer("2")], "c": [Offer("3")]}
        offers = {label: [*some, Offer("x")] if label == "c" else some for label, some in offers.items()}
        source = FakeSource({**offers, "d": [Offer("3"), Offer("1"), Offer("4")]})
        run_source(source, 1, 2)
        assert "d-1" not in source.started
        assert "d-2" in source.started

    def test_a_photo_that_only_one_label_can_use_stays_with_it(self) -> None:
        source = FakeSource({"cat": [Offer("1", usable=False), Offer("2")], "dog": [Offer("1")]})
        photos, rejected = run_source(source, 1, 2)
        assert photos == ["cat-1", "dog-0"]
        assert [row.photo for row in rejected] == ["cat-0"]

    def test_photos_without_identity_are_never_mistaken_for_each_other(self) -> None:
        assert run_source(FakeSource({"cat": [Offer("")], "dog": [Offer("")]}), None, 2) == (["cat-0", "dog-0"], [])


class TestNames:
    @pytest.mark.parametrize("label", BAD_NAMES, ids=ascii)
    def test_a_label_that_cannot_be_a_folder_is_refused_before_anything_is_taken(self, label: str) -> None:
        drawn: list[str] = []
        offered = {label: (drawn.append(photo) or candidate(photo, label) for photo in ["x-1"]), "dog": iter(())}
        with pytest.raises(StageError) as caught:
            run(offered)
        assert str(caught.value) == f"label {label!r} cannot be a folder name: {SAFE_NAME}; rename it"
        assert drawn == []

    @pytest.mark.parametrize("label", GOOD_NAMES)
    def test_a_label_that_can_be_a_folder_is_taken(self, label: str) -> None:
        assert run({label: [candidate("1", label)]}) == (["1"], [])

    @pytest.mark.parametrize("photo", BAD_NAMES, ids=ascii)
    def test_a_photo_with_an_impossible_file_name_is_rejected_unread_and_the_run_continues(self, photo: str) -> None:
        read: list[str] = []
        offered = {"cat": [candidate(photo, "cat"), candidate("cat-1", "cat")]}
        photos, rejected = run(offered, 1, lambda candidate: read.append(candidate.photo) or take_row(candidate))
        assert photos == read == ["cat-1"]
        assert [row.reason for row in rejected] == [f"the name cannot be a file name: {SAFE_NAME}"]
        rejected[0].photo.encode()

    @given(name=st.text())
    def test_a_safe_name_is_a_single_path_component(self, name: str) -> None:
        if is_safe_name(name):
            assert len(name.encode()) <= 200
            assert not set(name) & set('<>:"/\\|?*\0\n\r')
            assert name.strip(". ") == name != ""

    def test_two_photos_with_the_same_name_are_refused(self) -> None:
        """Otherwise the split would confuse them, and put the rows of both into the same subset."""
        offered = {"cat": [candidate("cat-big-1", "cat")], "cat-big": [candidate("cat-big-1", "cat-big")]}
        with pytest.raises(StageError) as caught:
            run(offered)
        assert str(caught.value) == "two files would become the photo 'cat-big-1'; rename one of them or its class"


class TestErrors:
    def test_an_unavailable_photo_becomes_a_row(self) -> None:
        gone = Candidate("cat-1", "cat", read=lambda size: raise_unavailable("HTTP 404", size), source="pexels")
        assert run({"cat": [gone, candidate("cat-2", "cat")]}) == (
            ["cat-2"],
            [RejectedRow("cat-1", "cat", "HTTP 404")],
        )

    @pytest.mark.parametrize("parallel", [1, 4])
    def test_a_stage_error_in_a_thread_ends_the_run(self, parallel: int) -> None:
        def take(candidate: Candidate) -> PhotoRow:
            if candidate.photo == "cat-5":
                raise StageError("the network seems to be down")
            return take_row(candidate)

        with pytest.raises(StageError, match="^the network seems to be down$"):
            run({"cat": endless("cat")}, None, take, parallel)

    def test_a_stage_error_while_listing_ends_the_run(self) -> None:
        def listed() -> Iterator[Candidate]:
            yield candidate("cat-0", "cat")
            raise StageError("no more requests")

        with pytest.raises(StageError, match="^no more requests$"):
            run({"cat": listed()}, None)

    def test_only_unusable_photos_leave_rows_and_other_errors_are_not_hidden(self) -> None:
        def take(candidate: Candidate) -> PhotoRow:
            raise KeyError(candidate.photo)

        with pytest.raises(KeyError):
            run({"cat": [candidate("cat-1", "cat")]}, None, take)

    def test_the_number_of_pending_candidates_is_bounded(self) -> None:
        """No more candidates are drawn than the threads can take soon, however many a source lists."""
        drawn: list[int] = []
        ahead: list[int] = []

        def listed() -> Iterator[Candidate]:
            for number in range(200):
                drawn.append(number)
                yield candidate(f"cat-{number}", "cat")

        def take(candidate: Candidate) -> PhotoRow:
            ahead.append(len(drawn) - len(ahead))
            if int(candidate.photo[4:]) % 7 == 0:
                raise PhotoUnavailable("HTTP 404")
            return take_row(candidate)

        run({"cat": listed()}, None, take, 3)
        assert max(ahead) <= 2 * 3
