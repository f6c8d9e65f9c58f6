"""Addresses of MLflow stores, which may contain a user's name and password, and of the artifacts in them."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

SQLITE = "sqlite:///"
DATABASE = f"{SQLITE}mlflow.db"  # unless the environment names a store
# With its driver named: for such an address, MLflow does not create a folder of the undecoded name.
SQLITE_WITH_DRIVER = "sqlite+pysqlite:///"


def hide_login(text: str) -> str:
    """Remove user names and passwords from the addresses in a text."""
    return re.sub(r"://[^/\s]*@", "://", text)


def anchor(address: str, root: Path) -> str:
    """Make a relative SQLite address relative to the folder `root`; return others unchanged."""
    path = address.removeprefix(SQLITE)
    if not address.startswith(SQLITE) or Path(path).is_absolute():
        return address
    folder = str(root).replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE if folder == str(root) else SQLITE_WITH_DRIVER}{folder}/{Path(path)}"


def database_file(address: str) -> Path | None:
    """The file of a SQLite store; None for other stores."""
    for scheme in (SQLITE, SQLITE_WITH_DRIVER):
        if address.startswith(scheme):
            return Path(unquote(address.removeprefix(scheme).partition("?")[0]))  # SQLAlchemy decodes it too
    return None


def local_folder(location: str) -> Path | None:
    """The folder of an artifact location; None if it is not a folder of this machine."""
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") and not parts.netloc else None
