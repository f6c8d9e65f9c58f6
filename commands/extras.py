"""Packages that only some commands need, and that need not be there."""

from collections.abc import Sequence
from importlib.util import find_spec

from darkroom.pipeline.stage import StageError


def require_packages(who: str, packages: Sequence[str]) -> None:
    """Refuse to go on without packages that are no part of the pipeline's own.

    Args:
        who: the beginning of the message, such as "the page needs".
        packages: the names that they are imported by.

    Raises:
        StageError: which of them are not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise StageError(
            f"{who} packages that are not installed: {', '.join(missing)}; `make extras` installs those of "
            "requirements-extras.lock"
        )
