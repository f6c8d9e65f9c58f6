from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.acquisition.candidate import Candidate, PhotoUnavailable
from darkroom.acquisition.clock import Clock
from darkroom.acquisition.ledger import Ledger
from darkroom.acquisition.photo_check import PhotoCheck, PhotoLimits
from darkroom.acquisition.photo_download import PhotoFetcher
from darkroom.acquisition.sources.openverse import ID, SECRET, Openverse, read_license
from darkroom.acquisition.sources.search import Search
from darkroom.acquisition.web.client import WebClient
from darkroom.acquisition.web.rate_limit import RateLimiter
from darkroom.params.acquire import AtLimit
from darkroom.pipeline.dataset import PhotoRow, write_rows
from darkroom.pipeline.stage import StageError
from tests.examples import photo_row
from tests.fake_services import FakeOpenverse
from tests.fake_web import FakeWeb, Request, Response, json_response

LIMIT = 100_000
UUIDS = [str(UUID(int=number)) for number in range(1, 300)]
HOSTS = (FakeOpenverse.FLICKR_HOST, FakeOpenverse.WIKIMEDIA_HOST)
LICENSES = ("cc0", "pdm", "by", "by-sa")
NO_TOKENS = (None, 5, True, ["text"], {"text": 1}, "", "sécret", "two\nlines", "nul\0")
DESCRIBED = FakeOpenverse({}).describe(UUIDS[0])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class QuickClock(Clock):
    """Pauses between attempts take no time."""

    def sleep(self, seconds: float, wake: object = None) -> None:
        pass


def openverse(
    licenses: Sequence[str] = LICENSES,
    hosts: Sequence[str] = HOSTS,
    page_size: int = 20,
    requests_per_minute: int = 100,
) -> Openverse:
    return Openverse(licenses, hosts, page_size, requests_per_minute, 10_000)


def page(*entries: object, page_count: object = 1) -> dict[str, object]:
    return {"result_count": len(entries), "page_count": page_count, "page_size": 20, "page": 1, "results": [*entries]}


@contextmanager
def search(folder: Path, service: Openverse | None = None, at_limit: AtLimit = "stop") -> Iterator[Search]:
    service, clock = service or openverse(), QuickClock()
    with (
        closing(Ledger(folder)) as ledger,
        closing(WebClient(service.hosts, 5, 2, 4, clock)) as client,
        closing(RateLimiter(folder / "openverse.sqlite", service.windows, at_limit, clock)) as rate_limiter,
    ):
        fetcher = PhotoFetcher(client, ledger, PhotoCheck(ledger, PhotoLimits(1, 10_000, LIMIT)), None)
        yield Search(service, client, fetcher, ledger, rate_limiter, clock, None)


def find(folder: Path, service: Openverse | None = None, words: str = "cats") -> list[Candidate]:
    with search(folder, service) as opened:
        return list(opened.list_photos({"cat": words}).candidates["cat"])


def error(folder: Path, service: Openverse | None = None, words: str = "cats") -> str:
    with pytest.raises(StageError) as caught:
        find(folder, service, words)
    return str(caught.value)


def read_all(folder: Path, service: Openverse | None = None) -> dict[str, str]:
    """Read all photos; return the reason of each failure, or "", by identity."""
    outcomes = {}
    with search(folder, service) as opened:
        for candidate in opened.list_photos({"cat": "cats"}).candidates["cat"]:
            try:
                candidate.read(LIMIT)
                outcomes[candidate.identity] = ""
            except PhotoUnavailable as error:
                outcomes[candidate.identity] = str(error)
    return outcomes


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ID, SECRET):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake(web: FakeWeb) -> FakeOpenverse:
    return FakeOpenverse({"cats": UUIDS[:45]}).install(web)


@pytest.fixture
def credentials(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - it comes first
    monkeypatch.setenv(ID, "test-client")
    monkeypatch.setenv(SECRET, "test-secret")


def searches(web: FakeWeb) -> list[Request]:
    return [request for request in web.requests_to(FakeOpenverse.API_HOST) if request.path == "/v1/images/"]


class TestRequests:
    def test_without_credentials_no_token_is_requested(self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path) -> None:
        assert [candidate.identity for candidate in find(tmp_path)] == fake.photos["cats"]
        assert [request.path for request in web.requests] == ["/v1/images/"] * 3
        assert all("Authorization" not in request.headers for request in web.requests)

    def test_licenses_and_the_kind_of_photo_are_requested(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        fake.photos["Bär & Co"] = UUIDS[:1]
        find(tmp_path, openverse(licenses=("pdm", "by", "cc0"), page_size=7), "Bär & Co")
        assert [request.query for request in searches(web)] == [
            {
                "q": "Bär & Co",
                "page": "1",
                "page_size": "7",
                "license": "by,cc0,pdm",
                "category": "photograph",
                "mature": "false",
            }
        ]

    def test_the_order_of_the_licenses_makes_no_new_request(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        assert find(tmp_path, openverse(licenses=("by", "cc0")))[0].identity == fake.photos["cats"][0]
        find(tmp_path, openverse(licenses=("cc0", "by")))
        assert len(searches(web)) == 3

    def test_the_page_count_ends_the_paging(self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path) -> None:
        """Openverse responds with 400 or 401 to a page after the last."""
        fake.photos["cats"] = UUIDS[:40]
        assert len(find(tmp_path)) == 40
        assert [request.query["page"] for request in searches(web)] == ["1", "2"]

    def test_the_maximum_depth_of_openverse_ends_the_paging_too(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        fake.photos["cats"] = UUIDS
        assert len(find(tmp_path)) == fake.DEPTH
        assert len(searches(web)) == fake.DEPTH // 20

    @pytest.mark.usefixtures("fake")
    def test_no_results_are_an_empty_list(self, web: FakeWeb, tmp_path: Path) -> None:
        assert find(tmp_path, words="words that nothing has") == []
        assert len(searches(web)) == 1

    def test_sensitive_photos_are_not_found(self, fake: FakeOpenverse, tmp_path: Path) -> None:
        fake.mature = {UUIDS[0]}
        assert len(find(tmp_path)) == 44

    @pytest.mark.usefixtures("fake")
    def test_a_page_size_that_needs_credentials_is_explained(self, tmp_path: Path) -> None:
        assert error(tmp_path, openverse(page_size=50)) == (
            "Openverse rejected the request: HTTP 401; a page_size above 20 needs credentials in "
            "OPENVERSE_CLIENT_ID and OPENVERSE_CLIENT_SECRET"
        )

    def test_a_used_up_daily_limit_stops_the_run_at_once_and_loses_nothing(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        fake.day_remaining = 2
        assert error(tmp_path).startswith("Openverse returned HTTP 429 (too many requests); run again at ")
        fake.day_remaining = 200
        web.requests.clear()
        assert len(find(tmp_path)) == 45
        assert [request.query["page"] for request in searches(web)] == ["3"]

    @pytest.mark.usefixtures("fake")
    def test_the_minute_is_counted_by_the_client(self, web: FakeWeb, tmp_path: Path) -> None:
        message = error(tmp_path, openverse(requests_per_minute=2))
        assert message.startswith("the limit of 2 requests per minute is reached; run again at ")
        assert len(searches(web)) == 2


@pytest.mark.usefixtures("credentials")
class TestCredentials:
    def test_a_token_is_requested_once_and_used_for_every_page(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        fake.day_remaining = 0  # of anonymous requests
        assert len(find(tmp_path, openverse(page_size=40))) == 45
        token_request, *requested = web.requests_to(fake.API_HOST)
        assert (token_request.method, token_request.path, token_request.query) == ("POST", "/v1/auth_tokens/token/", {})
        assert [request.headers["Authorization"] for request in requested] == ["Bearer test-token"] * 2

    def test_no_photo_is_requested_with_the_token(self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path) -> None:
        assert set(read_all(tmp_path).values()) == {""}
        photos = [request for request in web.requests if request.host != fake.API_HOST]
        assert len(photos) == 45
        assert all("Authorization" not in request.headers for request in photos)

    def test_saved_pages_need_no_token(self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path) -> None:
        find(tmp_path)
        web.requests.clear()
        assert len(find(tmp_path)) == len(fake.photos["cats"])
        assert web.requests == []

    @pytest.mark.parametrize("name", [ID, SECRET])
    @pytest.mark.usefixtures("fake")
    def test_one_without_the_other_is_refused_without_a_request(
        self, web: FakeWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, "")
        assert error(tmp_path) == (
            "only one of OPENVERSE_CLIENT_ID and OPENVERSE_CLIENT_SECRET is set: set both, or unset both"
        )
        assert web.requests == []

    @pytest.mark.parametrize(("name", "value"), [(ID, "wrong"), (SECRET, "wrong")])
    @pytest.mark.usefixtures("fake")
    def test_wrong_ones_are_reported_but_not_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        assert error(tmp_path) == (
            "Openverse rejected the credentials in OPENVERSE_CLIENT_ID and OPENVERSE_CLIENT_SECRET (HTTP 401): correct "
            "them, or unset both"
        )

    @pytest.mark.parametrize(
        "response",
        [
            json_response({}),
            json_response(None),
            json_response([1]),
            Response(200, b"<html>"),
            Response(200, b"\xff"),
            Response(200, b"[" * 100_000),
            *(json_response({"access_token": token}) for token in NO_TOKENS),
        ],
        ids=["no member", "null", "list", "html", "bytes", "deep", *map(ascii, NO_TOKENS)],
    )
    def test_a_response_without_a_token_stops_the_run(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path, response: Response
    ) -> None:
        fake.script = [response]
        assert error(tmp_path) == "Openverse returned no token: run again later, or unset both credentials"
        assert len(web.requests) == 1

    @pytest.mark.usefixtures("fake")
    def test_the_token_request_counts_for_the_rate_limit(self, web: FakeWeb, tmp_path: Path) -> None:
        message = error(tmp_path, openverse(requests_per_minute=3))
        assert message.startswith("the limit of 3 requests per minute is reached; run again at ")
        assert [request.path for request in web.requests] == ["/v1/auth_tokens/token/", *["/v1/images/"] * 2]

    def test_every_attempt_to_get_the_token_counts(self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path) -> None:
        fake.script = [Response(503)] * 2
        message = error(tmp_path, openverse(requests_per_minute=1))
        assert message.startswith("the limit of 1 requests per minute is reached; run again at ")
        assert [request.path for request in web.requests] == ["/v1/auth_tokens/token/"]

    @pytest.mark.usefixtures("fake")
    def test_the_token_request_waits_for_a_slot(self, web: FakeWeb, tmp_path: Path) -> None:
        find(tmp_path, openverse(requests_per_minute=4))
        web.requests.clear()
        message = error(tmp_path, openverse(requests_per_minute=4), "dogs")
        assert message.startswith("the limit of 4 requests per minute is reached; run again at ")
        assert web.requests == []

    def test_a_failed_token_request_is_retried(self, fake: FakeOpenverse, tmp_path: Path) -> None:
        fake.script = [Response(503)]
        assert len(find(tmp_path)) == 45

    def test_the_secret_is_in_no_file_and_no_url(self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path) -> None:
        read_all(tmp_path)
        for path in tmp_path.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert b"test-secret" not in content
            assert fake.access_token.encode() not in content
        assert not [request for request in web.requests if "test-secret" in f"{request.path}{request.query}"]


class TestLicenses:
    def test_a_photo_whose_license_was_not_requested_is_rejected_without_a_download(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        entries = [
            fake.describe(UUIDS[0]) | {"license": "by-nc-nd"},
            fake.describe(UUIDS[1]) | {"license": None},
            fake.describe(UUIDS[2]),
        ]
        fake.script = [json_response(page(*entries))]
        assert read_all(tmp_path) == {
            UUIDS[0]: "license not requested: by-nc-nd",
            UUIDS[1]: "license not requested: none",
            UUIDS[2]: "",
        }
        assert len(web.requests) == 2

    @pytest.mark.parametrize(
        ("license", "cited"),
        [
            ("by", "CC BY 2.0 (https://creativecommons.org/licenses/by/2.0/)"),
            ("by-nc-sa", "CC BY-NC-SA 2.0 (https://creativecommons.org/licenses/by-nc-sa/2.0/)"),
            ("cc0", "CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/)"),
            ("pdm", "Public Domain Mark 1.0 (https://creativecommons.org/publicdomain/mark/1.0/)"),
        ],
    )
    def test_it_is_cited_with_version_and_url(
        self, fake: FakeOpenverse, tmp_path: Path, license: str, cited: str
    ) -> None:
        fake.photos["cats"], fake.licenses = UUIDS[:1], {UUIDS[0]: license}
        (candidate,) = find(tmp_path, openverse(licenses=(license,)))
        assert candidate.license == cited

    @pytest.mark.parametrize(
        ("entry", "cited"),
        [
            ({}, ""),
            ({"license": "by"}, "CC BY"),
            ({"license": "by", "license_version": 2.0}, "CC BY"),
            ({"license": "cc0", "license_url": "javascript:x"}, "CC0"),
            ({"license": "by\n#", "license_version": "2.0"}, "CC BY # 2.0"),
        ],
    )
    def test_what_is_missing_or_odd_is_left_out(self, entry: dict[str, object], cited: str) -> None:
        assert read_license(entry) == cited


class TestResponses:
    def test_a_candidate_names_the_creator(self, fake: FakeOpenverse, tmp_path: Path) -> None:
        described, first = fake.describe(UUIDS[0]), find(tmp_path)[0]
        assert (first.photo, first.label, first.source) == (f"cat-{UUIDS[0]}", "cat", "openverse")
        assert (first.creator, first.creator_url) == (described["creator"], described["creator_url"])
        assert (first.page_url, first.identity) == (described["foreign_landing_url"], UUIDS[0])

    def test_photos_come_from_the_hosts_that_are_allowed_and_from_no_other(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        fake.photos["cats"] = UUIDS[:3]
        fake.other_hosts = {UUIDS[1]: "https://elsewhere.org/1.jpg", UUIDS[2]: "https://third.org/2.jpg"}
        for host in ("elsewhere.org", "third.org"):
            web.add(host, fake.handle_photo)
        expected = {UUIDS[0]: "", UUIDS[1]: "host not allowed: elsewhere.org"}
        expected |= {UUIDS[2]: "host not allowed: third.org"}
        assert read_all(tmp_path) == read_all(tmp_path) == expected
        assert web.requests_to("elsewhere.org") == []
        # Allowing one later downloads it, and repeats no other request.
        count = len(web.requests)
        assert read_all(tmp_path, openverse(hosts=(*HOSTS, "third.org"))) == expected | {UUIDS[2]: ""}
        assert [request.host for request in web.requests[count:]] == ["third.org"]

    def test_a_saved_photo_of_a_host_that_is_no_longer_allowed_is_not_used(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path
    ) -> None:
        fake.photos["cats"] = UUIDS[:1]
        fake.other_hosts = {UUIDS[0]: "https://third.org/1.jpg"}
        web.add("third.org", fake.handle_photo)
        assert read_all(tmp_path, openverse(hosts=("third.org",))) == {UUIDS[0]: ""}
        assert read_all(tmp_path) == {UUIDS[0]: "host not allowed: third.org"}

    @pytest.mark.parametrize(
        ("changes", "end"),
        [
            (
                {"url": "https://elsewhere.org/1.jpg"},
                "host not allowed: elsewhere.org (100); add hosts to acquire.openverse.hosts, or use other search "
                "terms",
            ),
            (
                {"license": "by-nc"},
                "license not requested: by-nc (100); add licenses to acquire.openverse.licenses, or use other search "
                "terms",
            ),
        ],
        ids=["host", "license"],
    )
    def test_a_hundred_photos_that_are_not_allowed_end_the_search(
        self,
        web: FakeWeb,
        fake: FakeOpenverse,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, str],
        end: str,
    ) -> None:
        described = [fake.describe(photo) | changes for photo in UUIDS]
        pages = [described[at : at + 20] for at in range(0, 240, 20)]
        fake.script = [json_response(page(*entries, page_count=1_000_000)) for entries in pages]
        assert [candidate.identity for candidate in find(tmp_path)] == UUIDS[:100]
        assert len(searches(web)) == 5
        assert capsys.readouterr().out == (
            "acquire: cat: the search for 'cats' ends after page 5, because the last 5 pages have no new usable photo: "
            f"{end}\n"
        )

    def test_small_pages_do_not_end_a_search_early(self, fake: FakeOpenverse, tmp_path: Path) -> None:
        fake.photos["cats"] = UUIDS[:9]
        fake.other_hosts = dict.fromkeys(UUIDS[:8], "https://elsewhere.org/1.jpg")
        assert len(find(tmp_path, openverse(page_size=1))) == 9

    @pytest.mark.parametrize(
        "url", [None, "", 5, [], "x.jpg", "https://[::1/x.jpg", "https://live.staticflickr.com:x/"]
    )
    def test_a_photo_with_an_invalid_url_is_rejected_and_the_next_ones_are_not(
        self, web: FakeWeb, fake: FakeOpenverse, tmp_path: Path, url: object
    ) -> None:
        fake.script = [json_response(page(fake.describe(UUIDS[0]) | {"url": url}, fake.describe(UUIDS[1])))]
        first, again = read_all(tmp_path), read_all(tmp_path)
        assert first == again
        assert first[UUIDS[0]]
        assert first[UUIDS[1]] == ""
        assert len(web.requests) == 2

    @pytest.mark.parametrize("entry", [{}, {"id": None}, {"id": 5}, {"id": " "}, None, 5, "photo", []], ids=str)
    def test_an_entry_without_an_id_is_left_out_and_the_others_are_not(self, entry: object) -> None:
        photos, _ = openverse().read_page(page(entry, DESCRIBED), 1)
        assert [photo.id for photo in photos] == [UUIDS[0]]

    @pytest.mark.parametrize(
        "text", ["two\nlines", "\ud800", '"', "nul \x00", "x" * 100_000], ids=lambda t: ascii(t[:9])
    )
    def test_hostile_text_stays_on_one_line_of_a_table(self, fake: FakeOpenverse, tmp_path: Path, text: str) -> None:
        entry = fake.describe(UUIDS[0]) | {"creator": text, "creator_url": text, "license_version": text}
        entry |= {"foreign_landing_url": f"https://x.org/{text}"}
        fake.script = [json_response(page(entry))]
        (candidate,) = find(tmp_path)
        row = photo_row(creator=candidate.creator, page_url=candidate.page_url, license=candidate.license)
        table = tmp_path / "photos.csv"
        write_rows(table, PhotoRow, [row])
        assert len(table.read_text(encoding="utf-8").split("\n")) == 3
        assert candidate.creator_url == ""

    @pytest.mark.parametrize("page_count", ["many", None, [], float("inf"), float("nan")])
    def test_a_page_with_an_invalid_page_count_is_rejected(self, page_count: object) -> None:
        with pytest.raises((LookupError, TypeError, ValueError)):
            openverse().read_page(page(DESCRIBED, page_count=page_count), 1)

    @given(
        document=ANY_JSON
        | st.fixed_dictionaries({"results": ANY_JSON | st.lists(ANY_JSON, max_size=3), "page_count": ANY_JSON})
    )
    def test_other_documents_are_not_mistaken_for_a_page(self, document: Any) -> None:
        try:
            photos, _ = openverse().read_page(document, 1)
        except (LookupError, TypeError, ValueError):
            return
        assert photos == []

    @given(changes=st.dictionaries(st.sampled_from([*DESCRIBED]), ANY_JSON, min_size=1))
    def test_an_entry_with_odd_values_never_spoils_a_page(self, changes: dict[str, object]) -> None:
        photos, is_last = openverse().read_page(page(DESCRIBED | changes, dict(DESCRIBED)), 1)
        assert UUIDS[0] in [photo.id for photo in photos]
        assert all(isinstance(value, str) and "\n" not in value for photo in photos for value in photo)
        assert is_last
