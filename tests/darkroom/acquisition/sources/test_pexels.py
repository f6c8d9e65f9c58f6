import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger, Quota
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.sources.pexels import KEY, LICENSE, Pexels
from darkroom.acquisition.sources.search import Search
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import RateLimiter
from darkroom.pipeline.dataset import PhotoRow, read_photos, write_photos, write_rows
from darkroom.pipeline.stage import StageError
from tests.examples import photo_row
from tests.fake_services import FakePexels, draw_photo
from tests.fake_web import FakeWeb, json_response
from tests.project import MATERIAL

NO_FILTERS = {"orientation": "any", "size": "any", "color": "any", "locale": "any"}
LIMIT = 100_000
DESCRIBED = FakePexels({}).describe(7)
RESPONSES = MATERIAL / "pexels-responses"
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def pexels(filters: Mapping[str, str] = NO_FILTERS, photo_size: str = "medium") -> Pexels:
    return Pexels(filters, photo_size, 200, 20_000)


def page(*entries: object, **values: object) -> dict[str, object]:
    return {"page": 1, "per_page": 80, "total_results": len(entries), "photos": list(entries), **values}


@contextmanager
def search(folder: Path, service: Pexels | None = None) -> Iterator[Search]:
    service, clock = service or pexels(), Clock()
    with (
        closing(Ledger(folder)) as ledger,
        closing(WebClient(service.hosts, 5, 1, 4, clock)) as client,
        closing(RateLimiter(folder / "pexels.sqlite", service.windows, "stop", clock)) as rate_limiter,
    ):
        fetcher = PhotoFetcher(client, ledger, PhotoCheck(ledger, PhotoLimits(1, 10_000, LIMIT)), None)
        yield Search(service, client, fetcher, ledger, rate_limiter, clock, None)


def find(folder: Path, service: Pexels | None = None, words: str = "cats") -> list[Candidate]:
    with search(folder, service) as opened:
        return list(opened.list_photos({"cat": words}).candidates["cat"])


@pytest.fixture(autouse=True)
def set_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "test-key")


@pytest.fixture
def fake(web: FakeWeb) -> FakePexels:
    return FakePexels({"cats": [1, 2, 3]}).install(web)


class TestRequests:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("orientation", "square"),
            ("size", "large"),
            ("color", "turquoise"),
            ("color", "#ff00aa"),
            ("locale", "pt-BR"),
        ],
    )
    def test_every_filter_is_passed_on(
        self, web: FakeWeb, fake: FakePexels, tmp_path: Path, name: str, value: str
    ) -> None:
        assert len(find(tmp_path, pexels(NO_FILTERS | {name: value}))) == 3
        (request,) = web.requests_to(fake.API_HOST)
        assert request.query == {"query": "cats", "page": "1", "per_page": "80", name: value}

    def test_any_is_not_passed_on(self, web: FakeWeb, fake: FakePexels, tmp_path: Path) -> None:
        find(tmp_path)
        (request,) = web.requests_to(fake.API_HOST)
        assert request.path == "/v1/search"
        assert request.query == {"query": "cats", "page": "1", "per_page": "80"}

    def test_another_filter_is_another_request(self, web: FakeWeb, fake: FakePexels, tmp_path: Path) -> None:
        for size in ("any", "large", "small", "large"):
            find(tmp_path, pexels(NO_FILTERS | {"size": size}))
        assert [request.query.get("size") for request in web.requests_to(fake.API_HOST)] == [None, "large", "small"]

    def test_the_key_is_sent_alone_in_its_header_beside_a_user_agent(
        self, web: FakeWeb, fake: FakePexels, tmp_path: Path
    ) -> None:
        for candidate in find(tmp_path):
            assert candidate.source == "pexels"
        (request,) = web.requests_to(fake.API_HOST)
        assert request.headers["Authorization"] == "test-key"
        assert request.headers["User-Agent"].startswith("Darkroom python-requests/")


class TestKey:
    @pytest.mark.parametrize("key", ["test-key ", "\ttest-key\n"])
    def test_white_space_around_it_is_ignored(
        self, fake: FakePexels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv(KEY, key)
        assert len(find(tmp_path)) == len(fake.photos["cats"])

    @pytest.mark.parametrize("key", [None, "", "  "])
    def test_a_missing_one_is_reported_only_when_a_request_is_needed(
        self, web: FakeWeb, fake: FakePexels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
    ) -> None:
        find(tmp_path)
        monkeypatch.delenv(KEY) if key is None else monkeypatch.setenv(KEY, key)
        assert [candidate.photo for candidate in find(tmp_path)] == ["cat-1", "cat-2", "cat-3"]
        with pytest.raises(StageError) as caught:
            find(tmp_path, words="dogs")
        assert str(caught.value) == (
            "PEXELS_API_KEY is not set: the source pexels needs a key; get one at https://www.pexels.com/api/"
        )
        assert len(web.requests_to(fake.API_HOST)) == 1

    @pytest.mark.parametrize(
        "key", ["sec ret", "sec\nret", "sec\rret", "secret\u2026", "sécret", "sec\x7fret", "sec\tret"]
    )
    def test_one_with_stray_characters_is_refused_without_a_request_and_not_shown(
        self, web: FakeWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
    ) -> None:
        monkeypatch.setenv(KEY, key)
        with pytest.raises(StageError) as caught:
            find(tmp_path)
        assert str(caught.value) == "PEXELS_API_KEY contains characters that a key cannot have; set it to the key alone"
        assert web.requests == []

    def test_a_wrong_one_is_reported_but_not_shown(
        self, fake: FakePexels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(KEY, "wrong-secret")
        with pytest.raises(StageError) as caught:
            find(tmp_path)
        assert str(caught.value) == (
            "Pexels rejected the request: HTTP 401; check the key in PEXELS_API_KEY at https://www.pexels.com/api/"
        )
        monkeypatch.setenv(KEY, fake.key)
        assert len(find(tmp_path)) == 3


class TestResponses:
    def test_a_candidate_names_the_creator(self, fake: FakePexels, tmp_path: Path) -> None:
        described = fake.describe(1)
        first = find(tmp_path)[0]
        assert (first.photo, first.label, first.identity, first.source) == ("cat-1", "cat", "1", "pexels")
        assert first.creator == described["photographer"]
        assert first.creator_url == described["photographer_url"]
        assert first.page_url == described["url"]
        assert first.license == LICENSE

    @pytest.mark.parametrize("photo_size", ["original", "large2x", "large", "medium", "small"])
    def test_the_photo_size_chooses_the_url_with_its_query(
        self, web: FakeWeb, fake: FakePexels, tmp_path: Path, photo_size: str
    ) -> None:
        query, (width, height) = fake.SIZES[photo_size]
        with search(tmp_path, pexels(photo_size=photo_size)) as opened:
            content = next(iter(opened.list_photos({"cat": "cats"}).candidates["cat"])).read(LIMIT)
        assert content == draw_photo("pexels 1", width, height)
        (request,) = web.requests_to(fake.PHOTO_HOST)
        assert "&".join(f"{name}={value}" for name, value in request.query.items()) == query.lstrip("?")

    @pytest.mark.parametrize(
        "src",
        [
            {"medium": "https://elsewhere.org/1.jpeg"},
            {"medium": "http://images.pexels.com/photos/1/pexels-photo-1.jpeg"},
            {"medium": "https://images.pexels.com.elsewhere.org/1.jpeg"},
            {"medium": "https://images.pexels.com@elsewhere.org/1.jpeg"},
            {"medium": "https://images.pexels.com:bad/1.jpeg"},
            {"medium": "https://[images.pexels.com/1.jpeg"},
            {"medium": "https://elsewhere.org/\ud800.jpeg"},
            {"medium": "file:///etc/passwd"},
            {"medium": "javascript:alert(1)"},
            {"medium": ""},
            {"medium": None},
            {"medium": ["https://images.pexels.com/"]},
            {"large": "https://images.pexels.com/photos/1/pexels-photo-1.jpeg"},
            {},
            None,
            "https://images.pexels.com/photos/1/pexels-photo-1.jpeg",
        ],
        ids=ascii,
    )
    def test_a_photo_with_an_invalid_url_is_rejected_every_time_and_the_next_ones_are_not(
        self, web: FakeWeb, fake: FakePexels, tmp_path: Path, src: object
    ) -> None:
        fake.script = [json_response(page(fake.describe(1) | {"src": src}, fake.describe(2)))]
        reasons = set()
        for _ in range(2):
            with search(tmp_path) as opened:
                first, second = opened.list_photos({"cat": "cats"}).candidates["cat"]
                with pytest.raises(PhotoUnavailable) as caught:
                    first.read(LIMIT)
                reasons.add(str(caught.value))
                assert second.read(LIMIT).startswith(b"\xff\xd8")
        (reason,) = reasons
        assert reason.encode()
        # Only the other one was requested, and once.
        assert [request.path for request in web.requests_to(fake.PHOTO_HOST)] == ["/photos/2/pexels-photo-2.jpeg"]
        assert web.refused_hosts == []

    @pytest.mark.parametrize(
        "text",
        [
            "two\nlines\r\n",
            '"quoted", and',
            "=HYPERLINK(1)",
            "\ud800 half a letter",
            "nul \x00 bell \x07",
            "\u202eturned round",
            "x" * 100_000,
        ],
        ids=lambda text: ascii(text[:20]),
    )
    def test_hostile_text_stays_on_one_line_of_a_table(self, fake: FakePexels, tmp_path: Path, text: str) -> None:
        entry = fake.describe(1) | {"photographer": text, "url": f"https://x.org/{text}", "photographer_url": text}
        fake.script = [json_response(page(entry))]
        (candidate,) = find(tmp_path)
        table = tmp_path / "photos.csv"
        row = photo_row(creator=candidate.creator, creator_url=candidate.creator_url, page_url=candidate.page_url)
        write_rows(table, PhotoRow, [row])
        assert len(table.read_text(encoding="utf-8").split("\n")) == 3
        assert candidate.creator_url == ""

    def test_text_is_cleaned_and_links_are_quoted(self) -> None:
        entry = DESCRIBED | {
            "photographer": "\x1b[31mA.\u202e Person\n",
            "photographer_url": "https://x.org/\u202e<b>\\",
            "url": "https://x.org/a|b(c)%20\x07",
        }
        (photo,), _ = pexels().read_page(page(entry), 1)
        assert photo.creator == "[31mA. Person"
        assert photo.creator_url == "https://x.org/%E2%80%AE%3Cb%3E%5C"
        assert photo.page_url == "https://x.org/a%7Cb(c)%20%07"

    def test_text_of_any_length_can_be_read_from_the_table_again(self, tmp_path: Path) -> None:
        entry = DESCRIBED | {"photographer": "x" * 200_000, "url": "https://x.org/" + "x" * 200_000}
        (photo,), _ = pexels().read_page(page(entry), 1)
        row = photo_row(creator=photo.creator, page_url=photo.page_url)
        write_photos(tmp_path / "photos.csv", [row])
        assert read_photos(tmp_path / "photos.csv") == [row]
        assert (photo.creator, photo.page_url) == ("x" * 999 + "…", "")

    def test_the_url_of_a_file_is_not_cleaned(self) -> None:
        url = "https://images.pexels.com/a\u200e(b)"
        (photo,), _ = pexels().read_page(page(DESCRIBED | {"src": {"medium": url}}), 1)
        assert photo.url == url

    @pytest.mark.parametrize("value", [None, 5, ["a"], {"a": 1}, True])
    def test_values_that_are_not_text_count_as_missing(self, value: object) -> None:
        entry = DESCRIBED | {"photographer": value, "photographer_url": value, "url": value}
        (photo,), _ = pexels().read_page(page(entry), 1)
        assert (photo.creator, photo.creator_url, photo.page_url) == ("", "", "")

    @pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//x.org", "https://x.org/a b"])
    def test_links_that_a_page_must_not_show_are_left_out(self, url: str) -> None:
        (photo,), _ = pexels().read_page(page(DESCRIBED | {"photographer_url": url, "url": url}), 1)
        assert (photo.creator_url, photo.page_url) == ("", "")

    @pytest.mark.parametrize(
        "entry", [{}, {"id": None}, {"id": "7"}, {"id": 7.5}, {"id": [7]}, None, 7, "photo", []], ids=str
    )
    def test_an_entry_without_an_id_is_left_out_and_the_others_are_not(self, entry: object) -> None:
        photos, is_last = pexels().read_page(page(entry, DESCRIBED, total_results=2), 1)
        assert [photo.id for photo in photos] == ["7"]
        assert is_last

    @pytest.mark.parametrize("total", [-1, 0, 79, False])
    def test_a_total_below_the_results_so_far_does_not_end_the_search(self, total: int) -> None:
        full = page(*[DESCRIBED] * 80, total_results=total)
        assert not pexels().read_page(full, 1).is_last
        assert pexels().read_page(page(DESCRIBED, total_results=total), 1).is_last

    @given(document=ANY_JSON | st.fixed_dictionaries({"photos": ANY_JSON | st.lists(ANY_JSON, max_size=3)}))
    def test_other_documents_are_not_mistaken_for_a_page(self, document: Any) -> None:
        try:
            photos, _ = pexels().read_page(document, 1)
        except (LookupError, TypeError, ValueError):
            return
        assert photos == []

    @given(
        changes=st.dictionaries(st.sampled_from([*DESCRIBED, "src"]), ANY_JSON, min_size=1),
        more=st.dictionaries(st.sampled_from(["total_results", "next_page"]), ANY_JSON),
    )
    def test_an_entry_with_odd_values_never_spoils_a_page(
        self, changes: dict[str, object], more: dict[str, object]
    ) -> None:
        photos, _ = pexels().read_page(page(DESCRIBED | changes, copy.deepcopy(DESCRIBED), **more), 1)
        assert "7" in [photo.id for photo in photos]
        assert all(isinstance(value, str) and "\n" not in value for photo in photos for value in photo)

    @pytest.mark.skipif(not RESPONSES.is_dir(), reason=f"needs the recorded responses in {RESPONSES}")
    def test_recorded_responses_are_read(self) -> None:
        pages = [
            document
            for path in sorted(RESPONSES.rglob("*.json"))
            if isinstance(document := json.loads(path.read_text(encoding="utf-8")), dict) and "photos" in document
        ]
        assert pages
        for document in pages:
            photos, _ = pexels().read_page(document, document.get("page", 1))
            assert len(photos) == len(document["photos"])
            assert all(photo.url.startswith("https://images.pexels.com/") for photo in photos)


class TestQuota:
    def test_the_headers_have_the_monthly_quota(self) -> None:
        headers = {"X-Ratelimit-Limit": "20000", "X-Ratelimit-Remaining": "19684", "X-Ratelimit-Reset": "1590529646"}
        assert pexels().read_quota(headers) == Quota(20_000, 19_684, 1_590_529_646)

    @pytest.mark.parametrize("name", ["X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"])
    @pytest.mark.parametrize("value", [None, "", "soon", "-5", "5.5", "1e3", "1_000", "\xb2", "9" * 13, "9" * 5000])
    def test_without_all_of_them_nothing_is_known(self, name: str, value: str | None) -> None:
        headers = dict.fromkeys(("X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset"), "5")
        headers = {**headers, name: value} if value is not None else {key: "5" for key in headers if key != name}
        assert pexels().read_quota(headers) is None
