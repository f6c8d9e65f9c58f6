"""Who asks on the web: the holder of a key, or nobody."""

import requests
from requests.auth import AuthBase


class NoLogin(AuthBase):
    """No login, wherever one may be configured."""

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
