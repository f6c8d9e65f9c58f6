"""A photo's file on this machine, read unless it is too large or none at all."""

import os
import stat

NOT_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class UnreadableFile(Exception):
    """A file that is not read; the text is the reason."""


def read_photo_file(path: str | os.PathLike[str], maximum_bytes: int) -> bytes:
    """Read a file whole.

    Raises:
        UnreadableFile: it is larger, is no regular file, or the system does not give it.
    """
    try:
        # Not open(path), which waits for ever where there is a pipe, and takes numbers too.
        descriptor = os.open(os.fspath(path), os.O_RDONLY | NOT_WAITING)
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
    except ValueError:  # a zero byte, or characters that no name can have here
        raise UnreadableFile("not a path of this system") from None


def check_size(found_bytes: int, maximum_bytes: int) -> None:
    """Refuse what is larger than `maximum_bytes`.

    Raises:
        UnreadableFile: it is.
    """
    if found_bytes > maximum_bytes:
        raise UnreadableFile(describe_size(maximum_bytes))


def describe_size(maximum_bytes: int) -> str:
    return f"larger than allowed: more than {maximum_bytes} bytes"
