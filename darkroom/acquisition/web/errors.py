"""Errors of web requests: `NoResponse` is worth a retry, `Refused` and `TooLarge` are not.

The messages name no URL, because a URL may contain a secret.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError

from darkroom.acquisition.clock import LONGEST_LIMIT_SECONDS

OK = 200
NOT_MODIFIED = 304
REQUEST_TIMEOUT = 408
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500


class WebError(Exception):
    """A request without a usable response."""


class NoResponse(WebError):
    """No complete response, or a server error: a retry may succeed."""


class TooManyRequests(NoResponse):
    """HTTP 429; `retry_after` is the number of seconds that the server asks to wait, if it says so."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__("HTTP 429 (too many requests)")
        self.retry_after = retry_after


class Refused(WebError):
    """The request was refused, and a retry would be too.

    `status` is 0 if the request was not sent. `redirect_target` is set if the server redirects to a URL that is not
    allowed.
    """

    def __init__(self, reason: str, status: int = 0, redirect_target: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.redirect_target = redirect_target


class TooLarge(WebError):
    """The response has more bytes than allowed; `more_than_bytes` is a lower bound on its size."""

    def __init__(self, more_than_bytes: int) -> None:
        super().__init__(f"more than {more_than_bytes} bytes")
        self.more_than_bytes = more_than_bytes


@contextmanager
def translated_errors(timeout_seconds: float) -> Iterator[None]:
    """Turn errors of requests and urllib3, whose messages contain URLs, into `WebError`s."""
    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        raise Refused("invalid URL") from None
    except requests.Timeout:
        raise NoResponse(f"no response within {timeout_seconds:g} s") from None
    except ReadTimeoutError:  # of the body
        raise NoResponse(f"incomplete after {timeout_seconds:g} s") from None
    except requests.exceptions.SSLError:
        raise NoResponse("no connection (the certificate is not trusted)") from None
    except requests.ConnectionError:
        raise NoResponse("no connection") from None
    except ValueError as error:
        if isinstance(error, requests.RequestException):
            raise NoResponse(f"the response was incomplete or garbled ({type(error).__name__})") from None
        raise Refused("invalid URL, or a redirect to one") from None
    except (requests.RequestException, HTTPError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(
            error, (requests.RequestException, TimeoutError, ConnectionError)
        ):
            raise  # an error of the disk, not of the network
        raise NoResponse(f"the response was incomplete or garbled ({type(error).__name__})") from None


def check_status(response: requests.Response) -> None:
    """Raise a `WebError` for any status but 200 and 304."""
    status = response.status_code
    if status in (OK, NOT_MODIFIED):
        return
    if status == TOO_MANY_REQUESTS:
        raise TooManyRequests(parse_seconds(response.headers.get("Retry-After", "")))
    if status >= SERVER_ERROR or status == REQUEST_TIMEOUT:
        raise NoResponse(f"HTTP {status}")
    raise Refused(f"HTTP {status}", status)


def parse_seconds(text: str) -> float | None:
    """The seconds of a Retry-After header, if they can be true; its other form, a date, is rare and ignored."""
    seconds = float(text) if text.isascii() and text.isdecimal() else None
    return seconds if seconds is not None and seconds <= LONGEST_LIMIT_SECONDS else None
