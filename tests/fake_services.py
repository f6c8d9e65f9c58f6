"""Fake Pexels and Openverse services, with invented photos, people and names.

A service is installed into a `FakeWeb`, and its attributes may be changed while it runs:

    pexels = FakePexels({"red panda": range(1, 101)}).install(web)
    pexels.script = [Response(429), Response(500)]  # the responses to the next two requests to the API
    pexels.photo_script[7] = [Response(drop=True)]  # and to the next one for photo 7
    pexels.deleted.add(8)

They follow the documentation of Pexels and Openverse, and recorded responses.
"""

import hashlib
import re
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Self
from urllib.parse import parse_qsl, urlencode

from PIL import Image

from tests.examples import encode, noise
from tests.fake_web import FakeWeb, Request, Response, json_response

# Invented names; the index in this list is part of the creator's id.
PEOPLE = ("Tilda Quennerby", "Oskar Vantreel", "Mirembe Aldous-Ray", "Zoë Haldermann", "Ciro Pellworth")
NOT_FOUND = 404


@cache
def draw_photo(seed: str, width: int, height: int) -> bytes:
    """A JPEG file of coarse noise: the same scene for a seed in every size, another one for every seed."""
    scene = noise(6, 8, seed=int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
    return encode(Image.fromarray(scene).resize((width, height), Image.Resampling.BILINEAR), "JPEG")


def photo_response(request: Request, seed: str, width: int, height: int) -> Response:
    """The photo with an ETag, or 304 if the client has it already."""
    content = draw_photo(seed, width, height)
    headers = {"ETag": f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"', "Cache-Control": "max-age=86400"}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(304, headers=headers)
    return Response(200, content, {"Content-Type": "image/jpeg", **headers})


def whole_number(text: str) -> int:
    """The number, or -1 for any other text."""
    return int(text) if text.isascii() and text.isdigit() else -1


class FakePexels:
    """`photos` maps search terms to photo ids, in the order of the results.

    Attributes:
        script: the responses to the next requests to the API, before anything else is checked.
        photo_script: the same for the photo files, by id.
        deleted, changed: ids of files that are deleted, or have other bytes than before.
        withheld: ids that count as results but are missing from their pages, which are then short.
        hour_limit: number of searches, then bare 429s until a test sets `hour_used` to 0.
        month_remaining, month_reset: in the headers; 429 when none remain. The reset is a Unix time.
        total_results_extra: how many more results are claimed than exist.
    """

    API_HOST = "api.pexels.com"
    PHOTO_HOST = "images.pexels.com"
    # By name: the query of a photo's URL, and the size of the fake file (real ones are about ten times as large).
    SIZES: Mapping[str, tuple[str, tuple[int, int]]] = {
        "original": ("", (96, 72)),
        "large2x": ("?auto=compress&cs=tinysrgb&dpr=2&h=650&w=940", (80, 60)),
        "large": ("?auto=compress&cs=tinysrgb&h=650&w=940", (64, 48)),
        "medium": ("?auto=compress&cs=tinysrgb&h=350", (48, 36)),
        "small": ("?auto=compress&cs=tinysrgb&h=130", (32, 24)),
        "portrait": ("?auto=compress&cs=tinysrgb&fit=crop&h=1200&w=800", (32, 48)),
        "landscape": ("?auto=compress&cs=tinysrgb&fit=crop&h=627&w=1200", (64, 33)),
        "tiny": ("?auto=compress&cs=tinysrgb&dpr=1&fit=crop&h=200&w=280", (28, 20)),
    }

    def __init__(self, photos: Mapping[str, Sequence[int]], key: str = "test-key") -> None:
        self.photos = dict(photos)
        self.key = key
        self.script: list[Response] = []
        self.photo_script: dict[int, list[Response]] = {}
        self.deleted: set[int] = set()
        self.changed: set[int] = set()
        self.withheld: set[int] = set()
        self.hour_limit: int | None = None
        self.hour_used = 0
        self.month_limit = 20_000
        self.month_remaining = 20_000
        self.month_reset = int(time.time()) + 30 * 86_400
        self.omit_next_page = False
        self.omit_total = False
        self.total_results_extra = 0
        self._lock = threading.Lock()

    def install(self, web: FakeWeb) -> Self:
        web.add(self.API_HOST, self.handle_search)
        web.add(self.PHOTO_HOST, self.handle_photo)
        return self

    def handle_search(self, request: Request) -> Response:
        with self._lock:
            if self.script:
                return self.script.pop(0)
            refusal = self._refuse(request)
            if refusal:
                return refusal
            self.hour_used += 1
            self.month_remaining -= 1
            limits = {
                "X-Ratelimit-Limit": str(self.month_limit),
                "X-Ratelimit-Remaining": str(self.month_remaining),
                "X-Ratelimit-Reset": str(self.month_reset),
            }
        return json_response(self._page(request.query), headers=limits)

    def _refuse(self, request: Request) -> Response | None:
        if not request.headers.get("User-Agent"):
            # The response of Cloudflare, in front of the API.
            return Response(403, b"error code: 1010", {"Content-Type": "text/plain; charset=UTF-8"})
        given = request.headers.get("Authorization")
        if given != self.key:
            return pexels_error(401, "Unauthorized", "Invalid API key" if given else "Missing API key")
        if request.method != "GET" or request.path.rstrip("/") != "/v1/search":
            return pexels_error(NOT_FOUND, "Not Found", f"No {request.method} {request.path}")
        if (self.hour_limit is not None and self.hour_used >= self.hour_limit) or self.month_remaining <= 0:
            return Response(429)
        query = request.query
        if not query.get("query"):
            return pexels_error(400, "Bad Request", "No query parameter given")
        if not 1 <= whole_number(query.get("per_page", "15")) <= 80:
            return pexels_error(400, "Bad Request", "per_page must be between 1 and 80")
        if whole_number(query.get("page", "1")) < 1:
            return pexels_error(400, "Bad Request", "page must be at least 1")
        for name, known in {
            "orientation": ("landscape", "portrait", "square"),
            "size": ("large", "medium", "small"),
        }.items():
            if query.get(name, known[0]) not in known:
                return pexels_error(400, "Bad Request", f"{name} must be one of {', '.join(known)}")
        return None

    def _page(self, query: Mapping[str, str]) -> dict[str, object]:
        """A page of results; the filters are passed on to the next page and do not change the results."""
        found = self.photos.get(query["query"], ())
        page, per_page = int(query.get("page", "1")), int(query.get("per_page", "15"))
        total = len(found) + self.total_results_extra
        shown = [photo for photo in found[(page - 1) * per_page : page * per_page] if photo not in self.withheld]
        response: dict[str, object] = {
            "page": page,
            "per_page": per_page,
            "photos": [self.describe(photo) for photo in shown],
        }
        if not self.omit_total:
            response["total_results"] = total
        if page * per_page < total and not self.omit_next_page:
            response["next_page"] = self._page_url(query, page + 1, per_page)
        if page > 1:
            response["prev_page"] = self._page_url(query, page - 1, per_page)
        return response

    def _page_url(self, query: Mapping[str, str], page: int, per_page: int) -> str:
        parts = dict(query) | {"page": str(page), "per_page": str(per_page)}
        return f"https://{self.API_HOST}/v1/search/?{urlencode(sorted(parts.items()))}"

    def describe(self, photo: int) -> dict[str, object]:
        """A photo as an entry of the results."""
        person = photo % len(PEOPLE)
        file = f"https://{self.PHOTO_HOST}/photos/{photo}/pexels-photo-{photo}.jpeg"
        return {
            "id": photo,
            "width": 4000 + photo % 7 * 100,
            "height": 3000,
            "url": f"https://www.pexels.com/photo/an-invented-scene-{photo}/",
            "photographer": PEOPLE[person],
            "photographer_url": f"https://www.pexels.com/@invented-{person + 1}",
            "photographer_id": 900_000_001 + person,
            "avg_color": f"#{photo * 2_654_435_761 % 2**24:06X}",
            "src": {name: file + query for name, (query, _) in self.SIZES.items()},
            "liked": False,
            "alt": f"An Invented Scene, Number {photo}",
        }

    def handle_photo(self, request: Request) -> Response:
        """A photo's file. An unknown query gets the file of `large`."""
        match = re.fullmatch(r"/photos/(\d+)/pexels-photo-\1\.jpeg", request.path)
        if not match:
            return Response(NOT_FOUND)
        photo = int(match[1])
        with self._lock:
            script = self.photo_script.get(photo)
            if script:
                return script.pop(0)
        if photo in self.deleted or not any(photo in found for found in self.photos.values()):
            return Response(NOT_FOUND)
        sizes = {tuple(parse_qsl(query.lstrip("?"))): size for query, size in self.SIZES.values()}
        width, height = sizes.get(tuple(request.query.items()), self.SIZES["large"][1])
        return photo_response(request, f"pexels {photo}{' changed' * (photo in self.changed)}", width, height)


def pexels_error(status: int, code: str, message: str) -> Response:
    return json_response({"status": status, "code": code, "message": message}, status)


class FakeOpenverse:
    """`photos` maps search terms to photo ids, which are UUIDs, in the order of the results.

    Photos with an even hash are on Flickr, the others on Wikimedia; both hosts are installed too.

    Attributes:
        script: the responses to the next requests to the API, before anything else is checked.
        photo_script: the same for the photo files, by id.
        deleted, changed: ids of files that are deleted, or have other bytes than before.
        licenses: the license by id, such as cc0 or by-nc-sa; every other photo has by 2.0.
        mature: ids that are results only if the client requests mature ones.
        other_hosts: by id, the URL of a file on a third host, which a test installs.
        day_remaining: how many anonymous requests are left; then 429 with Retry-After.
        access_token: the valid token; a change invalidates earlier ones.
    """

    API_HOST = "api.openverse.org"
    FLICKR_HOST = "live.staticflickr.com"
    WIKIMEDIA_HOST = "upload.wikimedia.org"
    DEPTH = 240
    ANONYMOUS_PAGE_SIZE = 20
    KNOWN_PAGE_SIZE = 50
    SIZE = (64, 48)
    THUMBNAIL_SIZE = (48, 36)

    def __init__(
        self,
        photos: Mapping[str, Sequence[str]],
        client_id: str = "test-client",
        client_secret: str = "test-secret",
    ) -> None:
        self.photos = dict(photos)
        self.client_id = client_id
        self.client_secret = client_secret
        self.access_token = "test-token"
        self.script: list[Response] = []
        self.photo_script: dict[str, list[Response]] = {}
        self.deleted: set[str] = set()
        self.changed: set[str] = set()
        self.licenses: dict[str, str] = {}
        self.mature: set[str] = set()
        self.other_hosts: dict[str, str] = {}
        self.day_remaining = 200
        self._lock = threading.Lock()

    def install(self, web: FakeWeb) -> Self:
        web.add(self.API_HOST, self.handle_api)
        web.add(self.FLICKR_HOST, self.handle_photo)
        web.add(self.WIKIMEDIA_HOST, self.handle_photo)
        return self

    def handle_api(self, request: Request) -> Response:
        with self._lock:
            if self.script and not request.path.endswith("/thumb/"):
                return self.script.pop(0)
        if request.method == "POST" and request.path == "/v1/auth_tokens/token/":
            return self._give_token(dict(parse_qsl(request.body.decode())))
        if request.method != "GET":
            return json_response({"detail": f'Method "{request.method}" not allowed.'}, 405)
        if request.path == "/v1/images/":
            return self._search(request)
        if request.path == "/v1/images":
            target = f"https://{self.API_HOST}/v1/images/?{urlencode(request.query)}"
            return Response(301, headers={"Location": target})
        match = re.fullmatch("/v1/images/([^/]+)/thumb/", request.path)
        if match and match[1] in self._ids():
            return self._file(request, match[1], self.THUMBNAIL_SIZE)
        return json_response({"detail": "Not found."}, NOT_FOUND)

    def _give_token(self, form: Mapping[str, str]) -> Response:
        if form.get("grant_type") != "client_credentials":
            return json_response({"error": "unsupported_grant_type"}, 400)
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            return json_response({"error": "invalid_client"}, 401)
        return json_response(
            {
                "access_token": self.access_token,
                "expires_in": 36_000,
                "token_type": "Bearer",
                "scope": "read write groups",
            }
        )

    def _search(self, request: Request) -> Response:
        given = request.headers.get("Authorization")
        if given not in (None, f"Bearer {self.access_token}"):
            challenge = 'Bearer realm="api",error="invalid_token",error_description="The access token has expired."'
            detail = {"detail": "Authentication credentials were not provided."}
            return json_response(detail, 401, {"WWW-Authenticate": challenge})
        who, largest = ("authenticated", self.KNOWN_PAGE_SIZE) if given else ("anonymous", self.ANONYMOUS_PAGE_SIZE)
        limits = {}
        if given is None:
            with self._lock:
                if self.day_remaining <= 0:
                    detail = {"detail": "Request was throttled. Expected available in 3600 seconds."}
                    return json_response(detail, 429, {"Retry-After": "3600"})
                self.day_remaining -= 1
                limits = {
                    "X-RateLimit-Limit-anon_burst": "20/min",
                    "X-RateLimit-Available-anon_burst": "19",
                    "X-RateLimit-Limit-anon_sustained": "200/day",
                    "X-RateLimit-Available-anon_sustained": str(self.day_remaining),
                }
        page, size = (
            whole_number(request.query.get(name, value)) for name, value in (("page", "1"), ("page_size", "20"))
        )
        if page < 1 or size < 1:
            name = "page" if page < 1 else "page_size"
            return json_response({"detail": {name: ["A valid integer is required."]}}, 400, limits)
        if size > largest:
            return json_response({"detail": f"page_size may not exceed {largest} for {who} requests"}, 401, limits)
        if page * size > self.DEPTH:
            detail = {"detail": f"pagination depth may not exceed {self.DEPTH} for {who} requests"}
            return json_response(detail, 401, limits)
        return json_response(self._page(request.query, page, size), headers=limits)

    def _page(self, query: Mapping[str, str], page: int, size: int) -> dict[str, object]:
        found = [photo for photo in self.photos.get(query.get("q", ""), ()) if self._fits(photo, query)]
        return {
            "result_count": min(len(found), self.DEPTH),
            "page_count": min(-(-len(found) // size), self.DEPTH // size),
            "page_size": size,
            "page": page,
            "results": [self.describe(photo) for photo in found[(page - 1) * size : page * size]],
        }

    def _fits(self, photo: str, query: Mapping[str, str]) -> bool:
        """Whether a photo passes the filters for license and maturity; other filters are ignored."""
        license = self.licenses.get(photo, "by")
        wanted = query.get("license", "").lower().split(",") if query.get("license") else [license]
        uses = query.get("license_type", "").split(",")
        return (
            license in wanted
            and not ("commercial" in uses and "-nc" in license)
            and not ("modification" in uses and "-nd" in license)
            and (photo not in self.mature or query.get("mature") == "true")
        )

    def describe(self, photo: str) -> dict[str, object]:
        """A photo as an entry of the results."""
        license = self.licenses.get(photo, "by")
        version = {"cc0": "1.0", "pdm": "1.0"}.get(license, "2.0")
        legal = {"cc0": "publicdomain/zero", "pdm": "publicdomain/mark"}.get(license, f"licenses/{license}")
        number = hash_number(photo)
        provider = "wikimedia" if number % 2 else "flickr"
        creator, title = PEOPLE[number % len(PEOPLE)], f"An invented scene, number {number}"
        name = {"cc0": "CC0", "pdm": "Public Domain Mark"}.get(license, f"CC {license.upper()}")
        license_url = f"https://creativecommons.org/{legal}/{version}/"
        profile = f"https://www.flickr.com/photos/invented-{number % len(PEOPLE) + 1}"
        page = {
            "wikimedia": f"https://commons.wikimedia.org/w/index.php?curid={number}",
            "flickr": f"{profile}/{number}",
        }
        return {
            "id": photo,
            "title": title,
            "indexed_on": "2024-01-01T00:00:00Z",
            "foreign_landing_url": page[provider],
            "url": self.file_url(photo),
            "creator": creator,
            "creator_url": profile,
            "license": license,
            "license_version": version,
            "license_url": license_url,
            "provider": provider,
            "source": provider,
            "category": "photograph",
            "filesize": None,
            "filetype": "jpg",
            "tags": [{"name": "invented", "accuracy": None, "unstable__provider": provider}],
            "attribution": f'"{title}" by {creator} is licensed under {name} {version}. '
            f"To view a copy of this license, visit {license_url}.",
            "fields_matched": ["title"],
            "mature": photo in self.mature,
            "height": 768,
            "width": 1024,
            "thumbnail": f"https://{self.API_HOST}/v1/images/{photo}/thumb/",
            "detail_url": f"https://{self.API_HOST}/v1/images/{photo}/",
            "related_url": f"https://{self.API_HOST}/v1/images/{photo}/related/",
            "unstable__sensitivity": [],
        }

    def file_url(self, photo: str) -> str:
        number = hash_number(photo)
        if photo in self.other_hosts:
            return self.other_hosts[photo]
        if number % 2:
            folder = f"{number % 256:02x}"
            return f"https://{self.WIKIMEDIA_HOST}/wikipedia/commons/{folder[0]}/{folder}/Invented_{number}.jpg"
        return f"https://{self.FLICKR_HOST}/65535/{number}_{number % 2**32:08x}_b.jpg"

    def handle_photo(self, request: Request) -> Response:
        """A photo's file, on any host. Wikimedia requires a user agent."""
        if request.host == self.WIKIMEDIA_HOST and not request.headers.get("User-Agent"):
            return Response(403)
        url = f"https://{request.host}{request.path}" + (f"?{urlencode(request.query)}" if request.query else "")
        photo = next((photo for photo in self._ids() if self.file_url(photo) == url), None)
        if photo is None:
            return Response(NOT_FOUND)
        return self._file(request, photo, self.SIZE)

    def _file(self, request: Request, photo: str, size: tuple[int, int]) -> Response:
        with self._lock:
            script = self.photo_script.get(photo)
            if script:
                return script.pop(0)
        if photo in self.deleted:
            return Response(NOT_FOUND)
        return photo_response(request, f"openverse {photo}{' changed' * (photo in self.changed)}", *size)

    def _ids(self) -> set[str]:
        return {photo for found in self.photos.values() for photo in found}


@cache
def hash_number(photo: str) -> int:
    """A number derived from the id, the same in every run."""
    return int.from_bytes(hashlib.sha256(photo.encode()).digest()[:6])
