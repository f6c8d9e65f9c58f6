from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.pipeline.dataset import PhotoRow
from darkroom.splitting.duplicates import DuplicatePair
from darkroom.splitting.groups import close_groups
from tests.examples import photo_row

Randoms = st.randoms(use_true_random=False)


def near(first: int, second: int) -> DuplicatePair:
    return DuplicatePair(first, second, "near", 0.995)


def partition(groups: Iterable[str]) -> list[list[int]]:
    """The indices of the photos of each group."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return sorted(members.values())


def group_slowly(photos: list[PhotoRow], pairs: list[DuplicatePair], creators_together: bool) -> list[list[int]]:
    """Group photos the slow and simple way: compare all pairs, and merge until nothing changes."""
    paired = {(pair.first, pair.second) for pair in pairs}
    group = list(range(len(photos)))
    changed = True
    while changed:
        changed = False
        for one, photo in enumerate(photos):
            for other, another in enumerate(photos):
                same_creator = creators_together and bool(identity(photo)[1]) and identity(photo) == identity(another)
                together = photo.sha256 == another.sha256 or same_creator or (one, other) in paired
                if together and group[one] != group[other]:
                    group = [min(group[one], group[other]) if g in (group[one], group[other]) else g for g in group]
                    changed = True
    return partition(map(str, group))


def identity(photo: PhotoRow) -> tuple[str, str]:
    return photo.source, photo.creator_url or photo.creator


@st.composite
def related_photos(draw: st.DrawFn) -> tuple[list[PhotoRow], list[DuplicatePair]]:
    """Up to a dozen photos, some of them of the same file, of the same creator, or near duplicates."""
    kinds = st.tuples(
        st.sampled_from("uvwxyz"),
        st.sampled_from(["pexels", "openverse"]),
        st.sampled_from(["", "", "", "Ann", "Bob"]),
        st.sampled_from(["", "https://example.org/1"]),
    )
    drawn = draw(st.lists(kinds, min_size=1, max_size=12))
    photos = [
        photo_row(f"cat-{number}", sha256=digest, source=source, creator=creator, creator_url=url)
        for number, (digest, source, creator, url) in enumerate(drawn)
    ]
    indices = st.integers(0, len(photos) - 1)
    ends = draw(st.sets(st.tuples(indices, indices).filter(lambda pair: pair[0] < pair[1]), max_size=3))
    return photos, [near(*pair) for pair in sorted(ends)]


class TestKinds:
    def test_unrelated_photos_are_separate_groups(self) -> None:
        groups = close_groups([photo_row("cat-1"), photo_row("cat-2")], [], creators_together=True)
        assert groups == ["sha256 of cat-1", "sha256 of cat-2"]

    def test_the_same_file_is_one_group(self) -> None:
        photos = [photo_row("cat-1", sha256="x"), photo_row("cat-2", sha256="y"), photo_row("dog-1", "dog", sha256="x")]
        assert close_groups(photos, [], creators_together=False) == ["x", "y", "x"]

    @pytest.mark.parametrize("kind", ["exact", "near"])
    def test_duplicates_are_one_group(self, kind: str) -> None:
        photos = [photo_row(sha256=digest) for digest in "zyx"]
        pairs = [DuplicatePair(0, 2, kind, 1.0)]
        assert close_groups(photos, pairs, creators_together=False) == ["x", "y", "x"]

    def test_the_photos_of_a_creator_are_one_group_if_wanted(self) -> None:
        creators = {"a": "Ann", "b": "Bob", "c": "Ann"}
        photos = [photo_row(sha256=digest, creator=name) for digest, name in creators.items()]
        assert close_groups(photos, [], creators_together=True) == ["a", "b", "a"]
        assert close_groups(photos, [], creators_together=False) == ["a", "b", "c"]

    @pytest.mark.parametrize(
        ("one", "other", "together"),
        [
            pytest.param({}, {}, False, id="no creator"),
            pytest.param({"creator_url": "u"}, {"creator_url": "u"}, True, id="the same address without a name"),
            pytest.param(
                {"creator": "Ann", "creator_url": "u"}, {"creator": "Ann"}, False, id="one without an address"
            ),
            pytest.param({"creator": "Ann"}, {}, False, id="one without a creator"),
            pytest.param({"creator": "Ann"}, {"creator": "Ann"}, True, id="the same name"),
            pytest.param(
                {"creator": "Ann", "source": "pexels"},
                {"creator": "Ann", "source": "openverse"},
                False,
                id="two sources",
            ),
            pytest.param(
                {"creator": "Ann", "creator_url": "u"},
                {"creator": "Ann", "creator_url": "v"},
                False,
                id="the same name at two addresses",
            ),
            pytest.param(
                {"creator": "Ann", "creator_url": "u"}, {"creator": "Anna", "creator_url": "u"}, True, id="renamed"
            ),
            pytest.param(
                {"creator": "Ann", "creator_url": "u", "source": "pexels"},
                {"creator": "Ann", "creator_url": "u", "source": "openverse"},
                False,
                id="the same address in two sources",
            ),
        ],
    )
    def test_a_creator_is_identified_by_source_and_address_or_name(
        self, one: dict, other: dict, together: bool
    ) -> None:
        first, second = close_groups([photo_row("cat-1", **one), photo_row("cat-2", **other)], [], True)
        assert (first == second) == together


class TestClosure:
    def test_chains_of_different_kinds_are_followed(self) -> None:
        photos = [
            photo_row(sha256="e", creator="Ann"),
            photo_row(sha256="d", creator="Ann"),  # of the same creator as the first
            photo_row(sha256="d", creator="Bob"),  # the same file as the second
            photo_row(sha256="c"),  # a near duplicate of the third
            photo_row(sha256="b", creator="Cid"),  # a near duplicate of the fourth
            photo_row(sha256="a", creator="Cid"),  # of the same creator as the fifth
            photo_row(sha256="f", creator="Dan"),
        ]
        assert close_groups(photos, [near(2, 3), near(3, 4)], creators_together=True) == ["a"] * 6 + ["f"]
        assert close_groups(photos, [near(2, 3), near(3, 4)], creators_together=False) == [
            *["e", "b", "b", "b", "b", "a", "f"]
        ]

    @given(related_photos(), st.booleans())
    @settings(deadline=None, max_examples=300)
    def test_groups_equal_those_of_a_plain_search(
        self, drawn: tuple[list[PhotoRow], list[DuplicatePair]], creators_together: bool
    ) -> None:
        photos, pairs = drawn
        groups = close_groups(photos, pairs, creators_together)
        assert partition(groups) == group_slowly(photos, pairs, creators_together)

    def test_a_long_chain_is_one_group(self) -> None:
        photos = [photo_row(sha256=f"{number:05d}") for number in range(5000)]
        groups = close_groups(photos, [near(number, number + 1) for number in range(4999)], creators_together=False)
        assert set(groups) == {"00000"}


class TestNames:
    @given(related_photos(), st.booleans(), Randoms)
    @settings(deadline=None, max_examples=200)
    def test_names_depend_neither_on_the_order_nor_on_the_names_of_the_photos(
        self, drawn: tuple[list[PhotoRow], list[DuplicatePair]], creators_together: bool, random
    ) -> None:
        photos, pairs = drawn
        order = list(range(len(photos)))
        random.shuffle(order)
        index_of = {number: index for index, number in enumerate(order)}
        shuffled = [photos[number]._replace(photo=f"dog-{index}", label="dog") for index, number in enumerate(order)]
        shuffled_pairs = [near(*sorted((index_of[pair.first], index_of[pair.second]))) for pair in reversed(pairs)]
        groups = close_groups(photos, pairs, creators_together)
        assert close_groups(shuffled, shuffled_pairs, creators_together) == [groups[number] for number in order]

    @given(related_photos(), st.booleans())
    @settings(deadline=None, max_examples=100)
    def test_a_group_is_named_after_its_smallest_digest(
        self, drawn: tuple[list[PhotoRow], list[DuplicatePair]], creators_together: bool
    ) -> None:
        photos, pairs = drawn
        groups = close_groups(photos, pairs, creators_together)
        for group in set(groups):
            assert group == min(photo.sha256 for photo, name in zip(photos, groups, strict=True) if name == group)
