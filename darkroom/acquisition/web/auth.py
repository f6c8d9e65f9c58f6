"""Authentication of web requests: a key or token in a header, or none."""

import requests
from requests.auth import AuthBase


class NoAuth(AuthBase):
    """No authentication, even if ~/.netrc has a login for the host."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class HeaderAuth(AuthBase):
    """A key or token in the header `Authorization`."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.value
        return request

    def __repr__(self) -> str:
        return "HeaderAuth(...)"
