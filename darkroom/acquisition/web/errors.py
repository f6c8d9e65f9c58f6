"""What can go wrong on the web, as a tree: `NoAnswer` is worth another attempt, `Refused` and `TooLarge` are not.

The texts name no address, because an address may hold a secret.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from urllib3.exceptions import HTTPError

ANSWERED = 200
NOT_MODIFIED = 304
REQUEST_TIMEOUT = 408
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500


class WebError(Exception):
    """A request that gave nothing usable."""


class NoAnswer(WebError):
    """Nothing, or nothing whole, came back, or the server was in trouble: another attempt may do better."""


class TooManyRequests(NoAnswer):
    """The server says 429; `retry_after` is the number of seconds that it asks for, if it does."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("HTTP 429 (too many requests)")
        self.retry_after = retry_after


class Refused(WebError):
    """The server says no; another attempt would hear the same. `status` is 0 if it was not asked; `elsewhere` is the
    address that it points to, where that one may not be asked."""

    def __init__(self, reason: str, status: int = 0, elsewhere: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.elsewhere = elsewhere


class TooLarge(WebError):
    """The answer has more bytes than allowed; `more_than_bytes` is what is known of its size."""

    def __init__(self, more_than_bytes: int) -> None:
        super().__init__(f"more than {more_than_bytes} bytes")
        self.more_than_bytes = more_than_bytes


@contextmanager
def translated_errors(timeout_seconds: float) -> Iterator[None]:
    """Turn the errors of requests and urllib3, whose texts hold addresses, into `WebError`s."""
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.InvalidHeader):
        raise Refused("an address that cannot be asked") from None
    except requests.Timeout:
        raise NoAnswer(f"no answer within {timeout_seconds:g} s") from None
    except requests.exceptions.SSLError:
        raise NoAnswer("no connection (the certificate is not trusted)") from None
    except requests.ConnectionError:
        raise NoAnswer("no connection") from None
    except ValueError as error:
        if isinstance(error, requests.RequestException):
            raise NoAnswer(f"the answer was cut short or garbled ({type(error).__name__})") from None
        raise Refused("an address, or a redirect to one, that cannot be asked") from None
    except (requests.RequestException, HTTPError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(
            error, (requests.RequestException, TimeoutError, ConnectionError)
        ):
            raise  # the disk's, not the network's
        raise NoAnswer(f"the answer was cut short or garbled ({type(error).__name__})") from None


def check_status(response: requests.Response) -> None:
    """Let 200 and 304 pass."""
    status = response.status_code
    if status in (ANSWERED, NOT_MODIFIED):
        return
    if status == TOO_MANY_REQUESTS:
        raise TooManyRequests(parse_seconds(response.headers.get("Retry-After", "")))
    if status >= SERVER_ERROR or status == REQUEST_TIMEOUT:
        raise NoAnswer(f"HTTP {status}")
    raise Refused(f"HTTP {status}", status)


def parse_seconds(text: str) -> float | None:
    """The seconds of a Retry-After header; its other form, a date, is rare and counts as none."""
    return float(text) if text.isdecimal() else None
