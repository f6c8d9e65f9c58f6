"""Optional packages that only some commands need."""

from collections.abc import Sequence
from importlib.util import find_spec

from darkroom.pipeline.stage import StageError


def require_packages(who: str, packages: Sequence[str]) -> None:
    """Check that optional packages are installed.

    Args:
        who: the beginning of the message, such as "the page needs".
        packages: import names.

    Raises:
        StageError: some are not installed; the message names them.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise StageError(
            f"{who} packages that are not installed: {', '.join(missing)}; run `make extras`, which installs "
            "requirements-extras.lock"
        )
