"""What acquire has fetched so far: answers of search services, photos, and what came of decoding them.

It lies outside the outputs of the pipeline, which DVC deletes before a stage runs. A photo counts as fetched from the
moment that its file has its final name, so a kill at any time loses none; the tables say more about it.
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

from darkroom.pipeline.paths import project_root
from darkroom.pipeline.stage import StageError

DATABASE = "ledger.sqlite"
VERSION = 1
WITHOUT_IT = "the photos beside it are kept and used again"
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
    """What is known of an address: the digest of what lay there, which was kept if it was a photo; or why nothing
    came; or, where it was too large, a number of bytes that it has more than; or to where it redirects."""

    sha256: str = ""
    etag: str = ""
    reason: str = ""
    more_than_bytes: int = 0
    elsewhere: str = ""


class Decoding(NamedTuple):
    """What decoding a photo gave: its upright size in pixels and the ending for its file, or why it failed."""

    width: int
    height: int
    ending: str
    reason: str = ""


class Quota(NamedTuple):
    """What a service said last: of `request_limit` requests `remaining` are left until `reset`, in seconds since
    1970."""

    request_limit: int
    remaining: int
    reset: float

    def left(self, allowed: int) -> int:
        """How many are left of the `allowed` ones, where fewer are allowed than the service would give."""
        return self.remaining - max(0, self.request_limit - allowed)


@contextmanager
def database_errors(path: Path, without_it: str) -> Iterator[None]:
    """Say of a database at `path` what is wrong with it, what to do, and what becomes of things then."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # the ledger was closed under a thread that is no longer wanted
    except sqlite3.OperationalError as error:
        raise StageError(
            f"{path} cannot be used ({error}): is there room on the disk, and may you write there?"
        ) from None
    except sqlite3.DatabaseError as error:
        raise StageError(f"{path} is damaged ({error}): remove it; {without_it}") from None


def ledger_folder() -> Path:
    """The ledger of the project that people see, also for an experiment that DVC runs in a temporary folder."""
    return project_root() / ".cache/acquire"


class Ledger:
    """Several threads, and several processes, may use one ledger."""

    def __init__(self, folder: Path) -> None:
        """Open the ledger in `folder`, a new one if there is none.

        Raises:
            StageError: the database is damaged or was written by a later version.
        """
        self.folder = folder
        self.lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / DATABASE
        with database_errors(path, WITHOUT_IT):
            self.connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            # With a write-ahead log a kill leaves a whole database, without waiting for the disk at each row.
            with FileLock(folder / "opening.lock"):  # of two that turn to it at once, one is told "locked"
                self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise StageError(f"{path} was written by a later Darkroom: update, or remove the file")
            self.connection.executescript(f"{TABLES} PRAGMA user_version = {VERSION};")

    def close(self) -> None:
        with self.lock:  # sqlite crashes the process when a connection is closed under a thread that uses it
            self.connection.close()

    def find(self, query: str, *values: object) -> tuple[object, ...] | None:
        with self.lock, database_errors(self.folder / DATABASE, WITHOUT_IT):
            row: tuple[object, ...] | None = self.connection.execute(query, values).fetchone()
        return row

    def put(self, table: str, *values: object) -> None:
        self.put_rows((table, values))

    def put_rows(self, *rows: tuple[str, tuple[object, ...]]) -> None:
        """Put rows into tables, all of them or, after a kill, none."""
        # The connection ends the transaction also where a row fails, or the next one could not begin.
        with self.lock, database_errors(self.folder / DATABASE, WITHOUT_IT), self.connection:
            self.connection.execute("BEGIN IMMEDIATE")
            for table, values in rows:
                self.connection.execute(f"REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def find_answer(self, request: str) -> str | None:
        row = self.find("SELECT body FROM answers WHERE request = ?", request)
        return None if row is None else str(row[0])

    def keep_answer(self, request: str, body: str) -> None:
        self.put("answers", request, body)

    def replace_answer(self, request: str, body: str, before: str, moment: float) -> None:
        """Keep an answer that a refresh got at this moment, and note what the one before was."""
        self.put_rows(("answers", (request, body)), ("refreshed", (request, before, moment)))

    def find_download(self, address: str) -> Download | None:
        row = self.find(
            "SELECT sha256, etag, reason, more_than_bytes, elsewhere FROM downloads WHERE address = ?", address
        )
        return None if row is None else Download(*row)  # type: ignore[arg-type]

    def keep_download(self, address: str, download: Download) -> None:
        self.put("downloads", address, *download)

    def replace_download(self, address: str, download: Download, change: str, moment: float) -> None:
        """Keep what a refresh found out at this moment, and note what kind of change it was."""
        self.put_rows(("downloads", (address, *download)), ("refreshed", (address, change, moment)))

    def forget_download(self, address: str) -> None:
        with self.lock, database_errors(self.folder / DATABASE, WITHOUT_IT):
            self.connection.execute("DELETE FROM downloads WHERE address = ?", (address,))

    def find_refreshed(self, key: str, since: float) -> str | None:
        """What a refresh noted of an address or a request, if it asked for it since that moment."""
        row = self.find("SELECT note FROM refreshed WHERE key = ? AND moment >= ?", key, since)
        return None if row is None else str(row[0])

    def forget_refreshed(self) -> None:
        with self.lock, database_errors(self.folder / DATABASE, WITHOUT_IT):
            self.connection.execute("DELETE FROM refreshed")

    def find_decoding(self, sha256: str, decoder: str) -> Decoding | None:
        row = self.find(
            "SELECT width, height, ending, reason FROM decodings WHERE sha256 = ? AND decoder = ?", sha256, decoder
        )
        return None if row is None else Decoding(*row)  # type: ignore[arg-type]

    def keep_decoding(self, sha256: str, decoder: str, decoding: Decoding) -> None:
        self.put("decodings", sha256, decoder, *decoding)

    def find_quota(self, service: str) -> Quota | None:
        row = self.find("SELECT request_limit, remaining, reset FROM quotas WHERE service = ?", service)
        return None if row is None else Quota(*row)  # type: ignore[arg-type]

    def keep_quota(self, service: str, quota: Quota) -> None:
        self.put("quotas", service, *quota)

    def partial_file(self) -> Path:
        """A place for a photo that is still coming in."""
        folder = self.folder / "partial"
        folder.mkdir(exist_ok=True)
        return folder / uuid4().hex

    def remove_partial_files(self) -> None:
        """Remove what kills have left; no other process may be fetching."""
        shutil.rmtree(self.folder / "partial", ignore_errors=True)

    def photo_file(self, address: str) -> Path:
        """Where the photo of an address lies, or will lie."""
        name = hashlib.sha256(address.encode()).hexdigest()
        return self.folder / "photos" / name[:2] / name
