import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import pytest
import requests
from PIL import Image

from tests.fake_services import FakeOpenverse, FakePexels
from tests.fake_web import FakeWeb, Response, json_response

HOST = "example.org"
SEARCH = "https://api.pexels.com/v1/search"
KEY = {"Authorization": "test-key"}
IMAGES = "https://api.openverse.org/v1/images/"
UUIDS = [str(UUID(int=number)) for number in range(300)]


def test_a_host_responds_over_verified_tls(web: FakeWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    web.add(HOST, lambda request: json_response({"requested": request.query["for"]}))
    assert requests.get(f"https://{HOST}/some/path?for=a+b", headers={"X-Name": "value"}).json() == {"requested": "a b"}
    (request,) = web.requests_to(HOST)
    assert (request.method, request.path, request.headers["x-name"]) == ("GET", "/some/path", "value")
    assert request.fully_sent
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://{HOST}/")


def test_another_process_finds_it(web: FakeWeb) -> None:
    web.add(HOST, lambda request: Response(body=request.body))
    code = f"import requests; print(requests.post('https://{HOST}/', data='sent').text)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | web.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "sent\n"


def test_a_session_keeps_its_connection(web: FakeWeb) -> None:
    responses = [
        Response(body=b"one"),
        Response(body=b"two" * 1000, chunked=True),
        Response(304),
        Response(body=b"four"),
    ]
    scripted = iter(responses)
    web.add(HOST, lambda _: next(scripted))
    with requests.Session() as session:
        contents = [session.get(f"https://{HOST}/").content for _ in responses]
    assert contents == [b"one", b"two" * 1000, b"", b"four"]
    assert len({request.connection for request in web.requests}) == 1


def test_many_connections_at_once(web: FakeWeb) -> None:
    web.delay_seconds = 0.05
    web.add(HOST, lambda request: Response(body=request.path.encode()))
    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(lambda number: requests.get(f"https://{HOST}/{number}").text, range(128)))
    assert texts == [f"/{number}" for number in range(128)]
    assert len(web.requests) == 128


def test_an_unknown_host_is_refused_and_so_is_plain_http(web: FakeWeb) -> None:
    with pytest.raises(requests.exceptions.ProxyError):
        requests.get("https://elsewhere.org/")
    assert requests.get("http://plain.org/").status_code == 502
    assert web.refused_hosts == ["elsewhere.org", "plain.org"]
    assert web.requests == []


@pytest.mark.parametrize(
    "response", [Response(body=b"x" * 5000, cut_after=3000), Response(body=b"x" * 5000, cut_after=0)]
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_body_raises(web: FakeWeb, response: Response, chunked: bool) -> None:
    web.add(HOST, lambda _: replace(response, chunked=chunked))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(f"https://{HOST}/")
    assert not web.requests[0].fully_sent


def test_a_dropped_request_raises(web: FakeWeb) -> None:
    web.add(HOST, lambda _: Response(drop=True))
    with pytest.raises(requests.ConnectionError):
        requests.get(f"https://{HOST}/")
    assert not web.requests[0].fully_sent


def test_a_body_may_come_without_its_length(web: FakeWeb) -> None:
    web.add(HOST, lambda _: Response(body=b"x" * 5000, omit_length=True))
    response = requests.get(f"https://{HOST}/")
    assert (response.content, "Content-Length" in response.headers) == (b"x" * 5000, False)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_slow_body_is_sent_in_pieces(web: FakeWeb, chunked: bool) -> None:
    web.add(HOST, lambda _: Response(body=b"x" * 200, seconds_per_kilobyte=0.01, chunked=chunked))
    assert requests.get(f"https://{HOST}/").content == b"x" * 200


def test_a_client_may_leave_and_the_server_may_stop_in_the_middle(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeWeb() as web, pytest.MonkeyPatch.context() as patch:
        for name, value in web.environment.items():
            patch.setenv(name, value)
        # It would take years.
        web.add(HOST, lambda _: Response(body=b"x" * 200, seconds_per_kilobyte=1e9))
        left, held = (requests.get(f"https://{HOST}/", stream=True) for _ in range(2))
        assert held.raw.read(64) == b"x" * 64
        left.close()
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        _ = held.content
    assert [request.fully_sent for request in web.requests] == [False, False]
    assert capfd.readouterr().err == ""


def test_pexels_pages_list_all_photos(web: FakeWeb) -> None:
    pexels = FakePexels({"red panda": range(1, 101)}).install(web)
    pexels.withheld = {3}
    url, pages = f"{SEARCH}?query=red+panda&per_page=40&orientation=landscape", []
    while url:
        response = requests.get(url, headers=KEY)
        pages.append(response.json())
        url = pages[-1].get("next_page")
    assert [photo["id"] for page in pages for photo in page["photos"]] == [1, 2, *range(4, 101)]
    assert pages[0]["next_page"] == f"{SEARCH}/?orientation=landscape&page=2&per_page=40&query=red+panda"
    assert {page["total_results"] for page in pages} == {100}
    assert response.headers["X-Ratelimit-Remaining"] == str(20_000 - 3)
    pexels.omit_next_page = pexels.omit_total = True
    assert set(requests.get(f"{SEARCH}?query=cat", headers=KEY).json()) == {"page", "per_page", "photos"}


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("query=cat", {}, 401),
        ("query=cat", {"Authorization": "Bearer test-key"}, 401),
        ("query=cat", KEY | {"User-Agent": ""}, 403),
        ("query=cat&per_page=81", KEY, 400),
        ("query=cat&per_page=many", KEY, 400),
        ("query=cat&size=vast", KEY, 400),
        ("query=cat", KEY, 200),
    ],
)
def test_pexels_refuses_a_bad_request(web: FakeWeb, query: str, headers: dict[str, str], status: int) -> None:
    FakePexels({"cat": [1]}).install(web)
    response = requests.get(f"{SEARCH}?{query}", headers=headers)
    assert response.status_code == status
    assert ("X-Ratelimit-Remaining" in response.headers) == (status == 200)
    if status == 401:
        assert response.json()["code"] == "Unauthorized"


def test_pexels_follows_its_script_and_counts_the_hour(web: FakeWeb) -> None:
    pexels = FakePexels({"cat": [1]}).install(web)
    pexels.hour_limit = 1
    pexels.script = [Response(429, headers={"Retry-After": "1"}), Response(body=b"<html>")]
    responses = [requests.get(f"{SEARCH}?query=cat", headers=KEY) for _ in range(4)]
    assert [response.status_code for response in responses] == [429, 200, 200, 429]
    assert responses[1].text == "<html>"
    assert (responses[3].content, dict(responses[3].headers)) == (b"", {"Content-Length": "0"})


def test_pexels_photos_have_sizes_and_etags_and_can_be_deleted(web: FakeWeb) -> None:
    pexels = FakePexels({"cat": [7]}).install(web)
    (photo,) = requests.get(f"{SEARCH}?query=cat", headers=KEY).json()["photos"]
    files = {name: requests.get(url) for name, url in photo["src"].items()}
    sizes = {name: Image.open(io.BytesIO(file.content)).size for name, file in files.items()}
    assert len(set(sizes.values())) == 8
    assert sizes["original"] == max(sizes.values())
    url, known = photo["src"]["large"], {"If-None-Match": files["large"].headers["ETag"]}
    assert requests.get(url, headers=known).status_code == 304
    pexels.changed = {7}
    assert requests.get(url, headers=known).status_code == 200
    pexels.photo_script[7] = [Response(500)]
    pexels.deleted = {7}
    assert [requests.get(url).status_code for _ in range(2)] == [500, 404]


def test_openverse_gives_twelve_pages(web: FakeWeb) -> None:
    FakeOpenverse({"cat": UUIDS}).install(web)
    pages = [requests.get(IMAGES, {"q": "cat", "page": str(page)}).json() for page in range(1, 14)]
    assert [photo["id"] for page in pages[:12] for photo in page["results"]] == UUIDS[:240]
    assert (pages[0]["page_count"], pages[0]["result_count"]) == (12, 240)
    assert pages[12] == {"detail": "pagination depth may not exceed 240 for anonymous requests"}


def test_openverse_gives_larger_pages_for_a_token(web: FakeWeb) -> None:
    FakeOpenverse({"cat": UUIDS}).install(web)
    form = {"client_id": "test-client", "client_secret": "test-secret", "grant_type": "client_credentials"}
    token = requests.post("https://api.openverse.org/v1/auth_tokens/token/", form).json()["access_token"]
    large = {"q": "cat", "page_size": "50"}
    assert requests.get(IMAGES, large).json() == {"detail": "page_size may not exceed 20 for anonymous requests"}
    assert len(requests.get(IMAGES, large, headers={"Authorization": f"Bearer {token}"}).json()["results"]) == 50
    assert requests.get(IMAGES, large, headers={"Authorization": "Bearer another"}).status_code == 401
    wrong = requests.post("https://api.openverse.org/v1/auth_tokens/token/", form | {"client_secret": "wrong"})
    assert wrong.status_code == 401


def test_openverse_filters_and_serves_photos(web: FakeWeb) -> None:
    openverse = FakeOpenverse({"cat": UUIDS[:8]}).install(web)
    openverse.licenses = {UUIDS[0]: "by-nc", UUIDS[1]: "cc0"}
    openverse.mature = {UUIDS[2]}
    openverse.other_hosts = {UUIDS[3]: "https://museum.example.org/4.jpg"}
    found = requests.get(IMAGES, {"q": "cat", "license": "by,cc0"}).json()["results"]
    assert [photo["id"] for photo in found] == [UUIDS[1], *UUIDS[3:8]]
    assert found[0]["license_url"] == "https://creativecommons.org/publicdomain/zero/1.0/"
    statuses = {
        photo["url"].split("/")[2]: requests.get(photo["url"]).status_code for photo in found if photo != found[1]
    }
    assert statuses == {"live.staticflickr.com": 200, "upload.wikimedia.org": 200}
    assert (found[1]["url"], web.refused_hosts) == ("https://museum.example.org/4.jpg", [])
    assert requests.get(found[2]["thumbnail"]).content != requests.get(found[2]["url"]).content
    openverse.script = [Response(429, headers={"Retry-After": "2"})]
    assert requests.get(IMAGES, {"q": "cat"}).headers["Retry-After"] == "2"
