"""Which failed requests are repeated, and after what pause."""

from tenacity import RetryCallState

from darkroom.acquisition.web.errors import NoResponse, TooManyRequests

LONGEST_PAUSE_SECONDS = 60.0


def is_worth_a_retry(error: BaseException) -> bool:
    """Whether to retry soon: not if the server asks for a longer wait than `LONGEST_PAUSE_SECONDS`."""
    if isinstance(error, TooManyRequests):
        return (error.retry_after or 0) <= LONGEST_PAUSE_SECONDS
    return isinstance(error, NoResponse)


def pause_seconds(state: RetryCallState) -> float:
    """Return 1, 2, 4, ... seconds before a retry, or the number that the server asks for."""
    error = state.outcome.exception() if state.outcome else None
    requested = error.retry_after if isinstance(error, TooManyRequests) else None
    return min(float(2 ** (state.attempt_number - 1)), LONGEST_PAUSE_SECONDS) if requested is None else requested
