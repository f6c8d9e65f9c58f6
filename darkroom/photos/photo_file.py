"""Reading a photo from a local file, with a limit on its size."""

import os
import stat

NONBLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class UnreadableFile(Exception):
    """A file that cannot be read; the message is the reason."""


def read_photo_file(path: str | os.PathLike[str], maximum_bytes: int) -> bytes:
    """Read a whole file.

    Raises:
        UnreadableFile: it has more than `maximum_bytes`, is not a regular file, or the system refuses to read it.
    """
    try:
        # Not open(path), which blocks forever on a pipe, and accepts numbers too.
        descriptor = os.open(os.fspath(path), os.O_RDONLY | NONBLOCKING)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFile("not a regular file")
            check_size(status.st_size, maximum_bytes)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnreadableFile(error.strerror or type(error).__name__) from None
    except ValueError:  # a null byte, or characters that file names cannot have on this system
        raise UnreadableFile("not a valid path on this system") from None


def check_size(found_bytes: int, maximum_bytes: int) -> None:
    """Check that a size is within the limit.

    Raises:
        UnreadableFile: it is larger.
    """
    if found_bytes > maximum_bytes:
        raise UnreadableFile(describe_size(maximum_bytes))


def describe_size(maximum_bytes: int) -> str:
    return f"larger than allowed: more than {maximum_bytes} bytes"
