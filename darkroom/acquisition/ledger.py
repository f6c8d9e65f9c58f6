"""The ledger: a cache of search responses, downloaded photos, and the results of decoding them.

It is kept outside the pipeline's outputs, which DVC deletes before a stage runs. A photo counts as downloaded as soon
as its file has its final name, so a kill at any time loses no photo; the tables hold details.
"""

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from filelock import FileLock

from darkroom.acquisition.clock import LONGEST_LIMIT_SECONDS
from darkroom.pipeline.paths import project_root
from darkroom.pipeline.stage import StageError

DATABASE = "ledger.sqlite"
VERSION = 2
AFTER_REMOVAL = "the photos beside it stay and are reused"
# Version 1 saved these texts, which later versions word differently: equal photos must have equal reasons.
REWORDED = {
    "redirects to an address that is not on an allowed host: ": "redirect refused, host not allowed: ",
    "redirects to an address that is not an https address: ": "redirect refused, not an https URL: ",
    "redirects to an address that is an address with no valid port": "redirect refused, URL with an invalid port",
    "redirects to an address that is not an address": "redirect refused, invalid URL",
    "redirects to what is no address": "redirect refused, invalid URL",
    "redirects": "redirect refused",
    "the answer is packed, which was not asked for": "the response is compressed, which was not requested",
    "no whole answer": "no complete response",
    "not usable at the source any more, kept as they were": "no longer usable at the source, saved copies used",
}
# Ledgers of earlier versions have these table and column names.
TABLES = """
    CREATE TABLE IF NOT EXISTS answers (request TEXT PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS downloads (
        address TEXT PRIMARY KEY, sha256 TEXT NOT NULL, etag TEXT NOT NULL,
        reason TEXT NOT NULL, more_than_bytes INTEGER NOT NULL, elsewhere TEXT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS decodings (
        sha256 TEXT, decoder TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL,
        ending TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (sha256, decoder)
    );
    CREATE TABLE IF NOT EXISTS quotas (
        service TEXT PRIMARY KEY, request_limit INTEGER NOT NULL, remaining INTEGER NOT NULL, reset REAL NOT NULL
    );
    CREATE TABLE IF NOT EXISTS refreshed (key TEXT PRIMARY KEY, note TEXT NOT NULL, moment REAL NOT NULL);
"""


class Download(NamedTuple):
    """The result of downloading a URL.

    Fields:
        sha256: digest of the content, which was saved if it was a photo.
        reason: why there is no content.
        more_than_bytes: for a file that was too large, a lower bound on its size.
        redirect_target: where the URL redirects to, if that is not allowed.
    """

    sha256: str = ""
    etag: str = ""
    reason: str = ""
    more_than_bytes: int = 0
    redirect_target: str = ""


class Decoding(NamedTuple):
    """The result of decoding a photo: its upright size in pixels and its file extension, or why it failed."""

    width: int
    height: int
    extension: str
    reason: str = ""


class Quota(NamedTuple):
    """The last quota that a service reported: `remaining` of `request_limit` requests until `reset`, in seconds since
    1970."""

    request_limit: int
    remaining: int
    reset: float

    def is_plausible(self, now: float) -> bool:
        """Whether this can be true at the time `now`. A false one must not keep a user from searching."""
        is_possible = self.request_limit >= 1 and 0 <= self.remaining <= self.request_limit
        return is_possible and now < self.reset <= now + LONGEST_LIMIT_SECONDS

    def remaining_of(self, allowed: int) -> int:
        """How many of the `allowed` requests remain, if fewer are allowed than the service offers."""
        return self.remaining - max(0, self.request_limit - allowed)


@contextmanager
def database_errors(path: Path, after_removal: str) -> Iterator[None]:
    """Turn database errors into a `StageError` with a fix; `after_removal` says what removing the database means."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # the ledger was closed while a cancelled thread still used it
    except sqlite3.OperationalError as error:
        raise StageError(
            f"{path} cannot be used ({error}): check the free disk space and the write permission"
        ) from None
    except sqlite3.DatabaseError as error:
        raise StageError(f"{path} is damaged ({error}): remove it; {after_removal}") from None


def ledger_folder() -> Path:
    """The folder of the project's ledger, also for an experiment that DVC runs in a temporary folder."""
    return project_root() / ".cache/acquire"


class Ledger:
    """A ledger in a folder. Threads and processes may share one."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in `folder`, or create it.

        Raises:
            StageError: the database is damaged or was written by a later version.
        """
        self.folder = folder
        self.lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / DATABASE
        with database_errors(path, AFTER_REMOVAL):
            self.connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            # With a write-ahead log the database survives a kill, without waiting for the disk at each row.
            with FileLock(folder / "opening.lock"):  # of two that switch to WAL at once, one gets "locked"
                self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StageError(
                    f"{path} was written by a later version of Darkroom: update Darkroom, or remove the file"
                )
            self.connection.executescript(TABLES)
            for old, new in REWORDED.items() if version == 1 else ():
                self.connection.execute("UPDATE downloads SET reason = replace(reason, ?, ?)", (old, new))
                self.connection.execute("UPDATE refreshed SET note = ? WHERE note = ?", (new, old))
            # Last, so that an interrupted update is repeated.
            self.connection.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        with self.lock:  # sqlite crashes the process if a connection is closed while a thread uses it
            self.connection.close()

    def find(self, query: str, *values: object) -> tuple[object, ...] | None:
        with self.lock, database_errors(self.folder / DATABASE, AFTER_REMOVAL):
            row: tuple[object, ...] | None = self.connection.execute(query, values).fetchone()
        return row

    def put(self, table: str, *values: object) -> None:
        self.put_rows((table, values))

    def put_rows(self, *rows: tuple[str, tuple[object, ...]]) -> None:
        """Write rows in one transaction: all of them or, after a kill, none."""
        # The connection also ends the transaction if a row fails; otherwise the next one could not begin.
        with self.lock, database_errors(self.folder / DATABASE, AFTER_REMOVAL), self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            for table, values in rows:
                self.connection.execute(f"REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def find_response(self, request: str) -> str | None:
        row = self.find("SELECT body FROM answers WHERE request = ?", request)
        return None if row is None else str(row[0])

    def save_response(self, request: str, body: str) -> None:
        self.put("answers", request, body)

    def replace_response(self, request: str, body: str, before: str, timestamp: float) -> None:
        """Save a response that a refresh received, and remember the previous one."""
        self.put_rows(("answers", (request, body)), ("refreshed", (request, before, timestamp)))

    def find_download(self, url: str) -> Download | None:
        row = self.find("SELECT sha256, etag, reason, more_than_bytes, elsewhere FROM downloads WHERE address = ?", url)
        return None if row is None else Download(*row)  # type: ignore[arg-type]

    def save_download(self, url: str, download: Download) -> None:
        self.put("downloads", url, *download)

    def replace_download(self, url: str, download: Download, change: str, timestamp: float) -> None:
        """Save the result of a refresh, and remember the kind of change."""
        self.put_rows(("downloads", (url, *download)), ("refreshed", (url, change, timestamp)))

    def delete_download(self, url: str) -> None:
        with self.lock, database_errors(self.folder / DATABASE, AFTER_REMOVAL):
            self.connection.execute("DELETE FROM downloads WHERE address = ?", (url,))

    def find_refreshed(self, key: str, since: float) -> str | None:
        """What a refresh noted for a URL or a request since the given timestamp."""
        row = self.find("SELECT note FROM refreshed WHERE key = ? AND moment >= ?", key, since)
        return None if row is None else str(row[0])

    def clear_refreshed(self) -> None:
        with self.lock, database_errors(self.folder / DATABASE, AFTER_REMOVAL):
            self.connection.execute("DELETE FROM refreshed")

    def find_decoding(self, sha256: str, decoder: str) -> Decoding | None:
        row = self.find(
            "SELECT width, height, ending, reason FROM decodings WHERE sha256 = ? AND decoder = ?", sha256, decoder
        )
        return None if row is None else Decoding(*row)  # type: ignore[arg-type]

    def save_decoding(self, sha256: str, decoder: str, decoding: Decoding) -> None:
        self.put("decodings", sha256, decoder, *decoding)

    def find_quota(self, service: str) -> Quota | None:
        row = self.find("SELECT request_limit, remaining, reset FROM quotas WHERE service = ?", service)
        return None if row is None else Quota(*row)  # type: ignore[arg-type]

    def save_quota(self, service: str, quota: Quota) -> None:
        self.put("quotas", service, *quota)

    def partial_file(self) -> Path:
        """A new path for a photo that is being downloaded."""
        folder = self.folder / "partial"
        folder.mkdir(exist_ok=True)
        return folder / uuid4().hex

    def remove_partial_files(self) -> None:
        """Remove what killed runs have left; no other process may be downloading."""
        shutil.rmtree(self.folder / "partial", ignore_errors=True)

    def photo_file(self, url: str) -> Path:
        """The path of the photo of a URL, whether it exists or not."""
        name = hashlib.sha256(url.encode()).hexdigest()
        return self.folder / "photos" / name[:2] / name
