"""Why an MLflow store cannot be used, and what to do about it, in one line and without passwords."""

import re
import shlex
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from darkroom.tracking.address import hide_login

# requests' exceptions, which MLflow passes on, are OSErrors. An address may be invalid (ValueError), or its database
# driver not installed (ImportError).
TRACKING_ERRORS = (MlflowException, SQLAlchemyError, OSError, ValueError, ImportError)
# MLflow calls a database of a newer version out of date too. With missing tables, it looks for the next migration.
OTHER_SCHEMA = re.compile(
    r"out-of-date database schema \(found version (\w+)|Can't locate revision identified by '(\w+)'"
)
MIGRATIONS = Path(mlflow.__file__).parent / "store/db_migrations/versions"
NO_CERTIFICATE = re.compile("Could not find .*(TLS|certificate)")
READ_ONLY = re.compile("readonly database|Permission denied|Read-only file system")
NOT_LOGGED_IN = re.compile("error code 40[13]")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class UntrustedCertificate(ConnectionError):
    """The certificate of a server is not signed by an authority that this machine trusts."""


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's message, without the user's name and password in an address."""
    return hide_login((str(error).strip() or type(error).__name__).splitlines()[0])


def explain_failure(error: BaseException, addresses: Iterable[str]) -> tuple[str, str]:
    """Return the reason why a store or its registry failed, and how to fix it.

    Args:
        error: one of `TRACKING_ERRORS`.
        addresses: that of the store, and that of the registry if it differs.
    """
    reason = one_line(error)
    found = OTHER_SCHEMA.search(reason)
    if found:
        return explain_schema(found[1] or found[2], addresses)
    if isinstance(error, UntrustedCertificate):
        return reason, "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate of its authority"
    if NO_CERTIFICATE.search(reason):
        return reason, "correct MLFLOW_TRACKING_SERVER_CERT_PATH or MLFLOW_TRACKING_CLIENT_CERT_PATH"
    if READ_ONLY.search(reason):
        return reason, "make the database and its folder writable for this user"
    if NOT_LOGGED_IN.search(reason):
        login = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        return reason, f"set {login}, to those of a user with the permission"
    return reason, "start its server or correct MLFLOW_TRACKING_URI"


def explain_schema(revision: str, addresses: Iterable[str]) -> tuple[str, str]:
    """Explain that a database has the schema of another version of MLflow."""
    installed = f"MLflow {version('mlflow')}"
    if not any(MIGRATIONS.glob(f"{revision}_*.py")):
        return (
            f"its schema {revision} is newer than the installed {installed}",
            "install the MLflow that has upgraded it, or set MLFLOW_TRACKING_URI to another store",
        )
    databases = [address for address in dict.fromkeys(addresses) if address.startswith(DATABASES)]
    commands = " and ".join(f"`mlflow db upgrade {shlex.quote(hide_login(address))}`" for address in databases)
    login = " with the user and password in the address" if any(hide_login(a) != a for a in databases) else ""
    return (
        f"its schema {revision} is older than the installed {installed}",
        f"make a backup of the database, run {commands or '`mlflow db upgrade` on the server'}{login}",
    )
