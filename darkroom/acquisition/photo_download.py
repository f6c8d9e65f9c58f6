"""Download photos from the web, each once, and save them in the ledger."""

import hashlib
import threading
from typing import NamedTuple

from darkroom.acquisition.candidate import PhotoUnavailable
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.acquisition.photo_check import PhotoCheck
from darkroom.acquisition.refresh import CHANGED, DELETED, UNCHANGED, UNUSABLE, Refresh
from darkroom.acquisition.web.client import Headers, WebClient
from darkroom.acquisition.web.errors import NOT_MODIFIED, NoResponse, Refused, TooLarge, WebError
from darkroom.photos.images import ImageError, TooManyPixels
from darkroom.photos.photo_file import describe_size
from darkroom.pipeline.stage import StageError

GONE = (404, 410, 451)
# This many failures in a row point to the network or the host, not to the photos.
MAXIMUM_CONSECUTIVE_FAILURES = 10


class Failure(NamedTuple):
    """Why a URL gave no photo.

    Fields:
        reason: for the photo's row in rejected.csv, the same in every run.
        cause: the error in full.
        download: what the ledger remembers at once; None if a later attempt may succeed.
        is_gone: whether the photo was deleted for good.
        was_requested: whether a request was sent.
    """

    reason: str
    cause: str
    download: Download | None
    is_gone: bool = False
    was_requested: bool = True


class PhotoFetcher:
    """Downloads photos; threads may share one. With a `refresh` each URL is requested again, once."""

    def __init__(self, client: WebClient, ledger: Ledger, check: PhotoCheck, refresh: Refresh | None) -> None:
        self.client = client
        self.ledger = ledger
        self.photo_check = check
        self.refresh = refresh
        self.failed: dict[str, str] = {}
        self.consecutive_failures = 0
        self.response_count = 0
        self.lock = threading.Lock()
        self.url_locks: dict[str, threading.Lock] = {}

    def read(self, url: str, maximum_bytes: int) -> bytes:
        """Return the bytes of the photo at `url`, from the ledger if they are there.

        Raises:
            PhotoUnavailable: there is no such photo, or its download failed.
            StageError: the network seems to be down.
        """
        with self.lock:
            lock = self.url_locks.setdefault(url, threading.Lock())
        with lock:  # two labels may find the same photo
            known = self.ledger.find_download(url)
            saved = self.read_saved(url, known)
            content = saved
            if self.refresh and self.refresh.find(url) is None and url not in self.failed:
                content = self.fetch(url, known, saved, maximum_bytes)
            elif content is None:
                reason = self.failed.get(url) or self.known_reason(known, maximum_bytes)
                if reason:
                    raise PhotoUnavailable(reason)
                content = self.fetch(url, known, saved, maximum_bytes)
        if len(content) > maximum_bytes:
            raise PhotoUnavailable(describe_size(maximum_bytes))
        return content

    def read_saved(self, url: str, known: Download | None) -> bytes | None:
        """Read the saved file; a damaged one is ignored."""
        try:
            content = self.ledger.photo_file(url).read_bytes()
        except FileNotFoundError:
            return None
        sha256 = hashlib.sha256(content).hexdigest()
        if known is None:
            # A run was killed just after the file got its name, or the row is lost.
            if not self.is_photo(content):
                return None
            self.ledger.save_download(url, Download(sha256))
        elif known.sha256 != sha256:
            return None
        return content

    def is_photo(self, content: bytes) -> bool:
        try:
            self.photo_check.decode(content)
        except TooManyPixels:
            return True  # a later run may allow it
        except ImageError:
            return False
        return True

    def known_reason(self, known: Download | None, maximum_bytes: int) -> str:
        """Why there is no photo, if that is known and still applies; otherwise an empty string."""
        if known is None or (known.redirect_target and not self.client.refusal(known.redirect_target)):
            return ""
        if known.more_than_bytes >= maximum_bytes:
            return describe_size(maximum_bytes)
        decoding = self.photo_check.find_decoding(known.sha256) if known.sha256 else None
        return decoding.reason if decoding else known.reason

    def fetch(self, url: str, known: Download | None, saved: bytes | None, maximum_bytes: int) -> bytes:
        response_count = self.response_count
        partial = self.ledger.partial_file()
        etag = known.etag if known and saved is not None else ""
        try:
            headers = self.client.download(url, partial, maximum_bytes, etag)
            if declares_length(headers):
                self.count_response()  # before decoding: meanwhile other photos may fail
            if headers.status == NOT_MODIFIED and saved is not None and known:
                self.record(url, known, UNCHANGED)
                return saved
            content = partial.read_bytes()
            self.check_content(content, headers)
            file = self.ledger.photo_file(url)
            file.parent.mkdir(parents=True, exist_ok=True)
            self.ledger.delete_download(url)  # after a kill from here on, the photo without a row is used
            partial.replace(file)
        except ImageError as error:
            failure = Failure(str(error), str(error), Download(hashlib.sha256(content).hexdigest()))
            return self.handle_failure(url, saved, failure, response_count)
        except WebError as error:
            return self.handle_failure(url, saved, classify_failure(error, maximum_bytes), response_count)
        finally:
            partial.unlink(missing_ok=True)
        sha256 = hashlib.sha256(content).hexdigest()
        change = CHANGED if saved is not None and saved != content else UNCHANGED
        self.record(url, Download(sha256, headers.values.get("ETag", "")), change)
        return content

    def check_content(self, content: bytes, headers: Headers) -> None:
        """Check that the content is a photo before it gets its final name."""
        try:
            self.photo_check.decode(content)
        except TooManyPixels:
            pass  # a later run may allow it
        except ImageError:
            if declares_length(headers):
                raise
            raise NoResponse("the response may be incomplete") from None

    def handle_failure(self, url: str, saved: bytes | None, failure: Failure, response_count: int) -> bytes:
        """Record a failure, and return the saved photo if there is one and the source has not deleted it.

        Args:
            url: the photo's URL.
            saved: the saved photo's bytes.
            failure: why the download failed.
            response_count: the number of responses before this request was sent.

        Raises:
            PhotoUnavailable: there is no saved photo, or the source has deleted it.
            StageError: the network seems to be down.
        """
        if failure.download is None:
            if saved is not None:
                return saved
            if failure.was_requested:
                self.count_failure(url, failure, response_count)
        else:
            if saved is not None and not failure.is_gone:
                self.record(url, self.ledger.find_download(url) or Download(), UNUSABLE)
                return saved
            self.record(url, failure.download, UNCHANGED if saved is None else DELETED)
            self.ledger.photo_file(url).unlink(missing_ok=True)
        raise PhotoUnavailable(failure.reason)

    def count_failure(self, url: str, failure: Failure, response_count: int) -> None:
        with self.lock:
            self.failed[url] = failure.reason
            # While a photo was retried, others may have been downloaded: then the host is up.
            self.consecutive_failures = self.consecutive_failures + 1 if self.response_count == response_count else 0
            if self.consecutive_failures >= MAXIMUM_CONSECUTIVE_FAILURES:
                raise StageError(
                    f"{self.consecutive_failures} photos in a row could not be downloaded ({failure.cause}): the "
                    "network or the host seems to be down. Downloads so far are saved; run again when it is up"
                )

    def count_response(self) -> None:
        with self.lock:
            self.consecutive_failures = 0
            self.response_count += 1

    def record(self, url: str, download: Download, change: str) -> None:
        """Record the result of requesting a URL."""
        self.count_response()
        if self.refresh:
            self.refresh.replace_download(url, download, change)
        else:
            self.ledger.save_download(url, download)

    def finish(self) -> None:
        """Save the failures of a successful run, so that repeating it needs no network."""
        for url, reason in self.failed.items():
            self.ledger.save_download(url, Download(reason=reason))


def declares_length(headers: Headers) -> bool:
    """Whether the response declares its length, so that a truncated body would be noticed."""
    return "Content-Length" in headers.values or "Transfer-Encoding" in headers.values


def classify_failure(error: WebError, maximum_bytes: int) -> Failure:
    cause = str(error)
    match error:
        case TooLarge():
            more_than_bytes = max(error.more_than_bytes, maximum_bytes)
            return Failure(describe_size(maximum_bytes), cause, Download(more_than_bytes=more_than_bytes))
        case Refused(status=status) if status in GONE:
            return Failure(cause, cause, Download(reason=cause), is_gone=True)
        case Refused(redirect_target=redirect_target) if redirect_target:
            return Failure(cause, cause, Download(reason=cause, redirect_target=redirect_target))
        case Refused(status=status):
            return Failure(cause, cause, None, was_requested=status != 0)
        case _:
            # The cause may differ between runs; the row must not.
            return Failure("no complete response", cause, None)
