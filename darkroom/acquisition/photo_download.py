"""Photos from the web, each fetched once and kept in the ledger."""

import hashlib
import threading
from typing import NamedTuple

from darkroom.acquisition.candidate import PhotoUnavailable
from darkroom.acquisition.ledger import Download, Ledger
from darkroom.acquisition.photo_check import PhotoCheck
from darkroom.acquisition.refresh import CHANGED, DELETED, UNCHANGED, UNUSABLE, Refresh
from darkroom.acquisition.web.client import Headers, WebClient
from darkroom.acquisition.web.errors import NOT_MODIFIED, NoAnswer, Refused, TooLarge, WebError
from darkroom.photos.images import ImageError, TooManyPixels
from darkroom.photos.photo_file import describe_size
from darkroom.pipeline.stage import StageError

GONE = (404, 410, 451)
# So many photos in a row that do not come are not the photos' fault.
GIVE_UP_AFTER = 10


class Failure(NamedTuple):
    """Why an address gave no photo, for its row and in full; what to remember of it at once, nothing if another time
    may be better; and whether the photo is gone from there for good."""

    reason: str
    cause: str
    download: Download | None
    is_gone: bool = False
    was_asked: bool = True


class PhotoFetcher:
    """Several threads may use one fetcher. With a `refresh` each address is asked again, once."""

    def __init__(self, client: WebClient, ledger: Ledger, check: PhotoCheck, refresh: Refresh | None) -> None:
        self.client = client
        self.ledger = ledger
        self.photo_check = check
        self.refresh = refresh
        self.failed: dict[str, str] = {}
        self.failed_in_a_row = 0
        self.answers = 0
        self.lock = threading.Lock()
        self.address_locks: dict[str, threading.Lock] = {}

    def read(self, address: str, maximum_bytes: int) -> bytes:
        """Give the bytes of the photo at `address`, from the ledger if they are there.

        Raises:
            PhotoUnavailable: there is no such photo, or it did not come whole.
            StageError: the network seems to be away.
        """
        with self.lock:
            lock = self.address_locks.setdefault(address, threading.Lock())
        with lock:  # two labels may find one photo
            known = self.ledger.find_download(address)
            kept = self.read_kept(address, known)
            content = kept
            if self.refresh and self.refresh.find(address) is None and address not in self.failed:
                content = self.fetch(address, known, kept, maximum_bytes)
            elif content is None:
                reason = self.failed.get(address) or self.known_reason(known, maximum_bytes)
                if reason:
                    raise PhotoUnavailable(reason)
                content = self.fetch(address, known, kept, maximum_bytes)
        if len(content) > maximum_bytes:
            raise PhotoUnavailable(describe_size(maximum_bytes))
        return content

    def read_kept(self, address: str, known: Download | None) -> bytes | None:
        """Read the kept file; one that is damaged does not count."""
        try:
            content = self.ledger.photo_file(address).read_bytes()
        except FileNotFoundError:
            return None
        sha256 = hashlib.sha256(content).hexdigest()
        if known is None:
            # It got its name just before a kill, or its row is lost.
            if not self.is_photo(content):
                return None
            self.ledger.keep_download(address, Download(sha256))
        elif known.sha256 != sha256:
            return None
        return content

    def is_photo(self, content: bytes) -> bool:
        try:
            self.photo_check.decode(content)
        except TooManyPixels:
            return True  # it may be allowed another time
        except ImageError:
            return False
        return True

    def known_reason(self, known: Download | None, maximum_bytes: int) -> str:
        """Why there is no photo, as far as that is known and still holds; else nothing."""
        if known is None or (known.elsewhere and self.client.allows(known.elsewhere)):
            return ""
        if known.more_than_bytes >= maximum_bytes:
            return describe_size(maximum_bytes)
        decoding = self.photo_check.find_decoding(known.sha256) if known.sha256 else None
        return decoding.reason if decoding else known.reason

    def fetch(self, address: str, known: Download | None, kept: bytes | None, maximum_bytes: int) -> bytes:
        answers = self.answers
        partial = self.ledger.partial_file()
        etag = known.etag if known and kept is not None else ""
        try:
            headers = self.client.download(address, partial, maximum_bytes, etag)
            if tells_length(headers):
                self.count_answer()  # before the photo is decoded, which takes longer than to refuse the next one
            if headers.status == NOT_MODIFIED and kept is not None and known:
                self.settle(address, known, UNCHANGED)
                return kept
            content = partial.read_bytes()
            self.check_new(content, headers)
            file = self.ledger.photo_file(address)
            file.parent.mkdir(parents=True, exist_ok=True)
            self.ledger.forget_download(address)  # a kill from here on leaves a photo without a row, which counts
            partial.replace(file)
        except ImageError as error:
            failure = Failure(str(error), str(error), Download(hashlib.sha256(content).hexdigest()))
            return self.do_without(address, kept, failure, answers)
        except WebError as error:
            return self.do_without(address, kept, classify_failure(error, maximum_bytes), answers)
        finally:
            partial.unlink(missing_ok=True)
        sha256 = hashlib.sha256(content).hexdigest()
        change = CHANGED if kept is not None and kept != content else UNCHANGED
        self.settle(address, Download(sha256, headers.values.get("ETag", "")), change)
        return content

    def check_new(self, content: bytes, headers: Headers) -> None:
        """Let only a photo take its final name."""
        try:
            self.photo_check.decode(content)
        except TooManyPixels:
            pass  # it may be allowed another time
        except ImageError:
            if tells_length(headers):
                raise
            raise NoAnswer("the answer may have been cut short") from None

    def do_without(self, address: str, kept: bytes | None, failure: Failure, answers: int) -> bytes:
        """Give the photo that was kept, if there was one and it is not gone from its source.

        `answers` is how many photos had been answered for when this one was asked for.

        Raises:
            PhotoUnavailable: there is none to give.
            StageError: the network seems to be away.
        """
        if failure.download is None:
            if kept is not None:
                return kept
            if failure.was_asked:
                self.count_failure(address, failure, answers)
        else:
            if kept is not None and not failure.is_gone:
                self.settle(address, self.ledger.find_download(address) or Download(), UNUSABLE)
                return kept
            self.settle(address, failure.download, UNCHANGED if kept is None else DELETED)
            self.ledger.photo_file(address).unlink(missing_ok=True)
        raise PhotoUnavailable(failure.reason)

    def count_failure(self, address: str, failure: Failure, answers: int) -> None:
        with self.lock:
            self.failed[address] = failure.reason
            # A photo that is tried again ends after those that came meanwhile, which show that the host is there.
            self.failed_in_a_row = self.failed_in_a_row + 1 if self.answers == answers else 0
            if self.failed_in_a_row >= GIVE_UP_AFTER:
                raise StageError(
                    f"{self.failed_in_a_row} photos in a row could not be fetched ({failure.cause}): the network or "
                    "the host seems to be away. What was fetched is kept; run again when it is back"
                )

    def count_answer(self) -> None:
        with self.lock:
            self.failed_in_a_row = 0
            self.answers += 1

    def settle(self, address: str, download: Download, change: str) -> None:
        """Remember what came of asking an address."""
        self.count_answer()
        if self.refresh:
            self.refresh.replace_download(address, download, change)
        else:
            self.ledger.keep_download(address, download)

    def finish(self) -> None:
        """Remember, after a run that ended well, what did not come, so that a repetition of it needs no network."""
        for address, reason in self.failed.items():
            self.ledger.keep_download(address, Download(reason=reason))


def tells_length(headers: Headers) -> bool:
    """Whether an answer that was cut short would have shown."""
    return "Content-Length" in headers.values or "Transfer-Encoding" in headers.values


def classify_failure(error: WebError, maximum_bytes: int) -> Failure:
    cause = str(error)
    match error:
        case TooLarge():
            more_than_bytes = max(error.more_than_bytes, maximum_bytes)
            return Failure(describe_size(maximum_bytes), cause, Download(more_than_bytes=more_than_bytes))
        case Refused(status=status) if status in GONE:
            return Failure(cause, cause, Download(reason=cause), is_gone=True)
        case Refused(elsewhere=elsewhere) if elsewhere:
            return Failure(cause, cause, Download(reason=cause, elsewhere=elsewhere))
        case Refused(status=status):
            return Failure(cause, cause, None, was_asked=status != 0)
        case _:
            # The cause may be another one each time, the row must not.
            return Failure("no whole answer", cause, None)
