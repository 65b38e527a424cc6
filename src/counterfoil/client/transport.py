"""Where this package meets httpx2.

Settings, the API key, and what httpx2's answers and exceptions mean: shared by the
blocking and the asynchronous shell.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from counterfoil import __version__
from counterfoil.client.answers import Answer
from counterfoil.client.calls import Failure, RetryPolicy
from counterfoil.client.errors import APIConnectionError, APITimeoutError
from counterfoil.client.following import SILENCE_SECONDS_MAX
from counterfoil.client.requests import Request

BASE_URL_DEFAULT: Final = "http://127.0.0.1:8000"

TIMEOUT_SECONDS_DEFAULT: Final = 35.0
"""Longer than the 30 seconds after which the service itself says that an outcome is
unknown, so that it is the service that says so."""

CONNECT_SECONDS_DEFAULT: Final = 5.0

_UNSENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)
"""The failures after which the request certainly has not reached the service. All others
leave it open."""


class KeyAuth(httpx2.Auth):
    """Sends the API key with each request, and shows it nowhere else.

    It is an ``Auth`` and not a header of the httpx2 client, so that a client the caller
    shares with other services never carries the key to them.
    """

    def __init__(self, api_key: str) -> None:
        self._header = f"Bearer {api_key}"

    def __repr__(self) -> str:
        return "KeyAuth(…)"

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Add the key to ``request``."""
        request.headers["Authorization"] = self._header
        yield request


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the service is, and how it is called."""

    base_url: str
    auth: KeyAuth | None
    timeout: httpx2.Timeout
    policy: RetryPolicy = field(repr=False)

    @classmethod
    def resolved(
        cls,
        *,
        base_url: str | None,
        api_key: str | None,
        timeout: float | httpx2.Timeout | None,
        max_retries: int,
        environ: Mapping[str, str] = os.environ,
    ) -> Settings:
        """Fill what is not given from the environment, and from the defaults.

        Raises:
            ValueError: the address or the key cannot be used; the message never shows a key.
        """
        base_url = base_url or environ.get("COUNTERFOIL_BASE_URL") or BASE_URL_DEFAULT
        api_key = api_key or environ.get("COUNTERFOIL_API_KEY") or None
        if timeout is None:
            timeout = httpx2.Timeout(TIMEOUT_SECONDS_DEFAULT, connect=CONNECT_SECONDS_DEFAULT)
        return cls(
            base_url=_checked_url(base_url),
            auth=None if api_key is None else KeyAuth(_checked_key(api_key)),
            timeout=httpx2.Timeout(timeout),
            policy=RetryPolicy(max_retries),
        )

    def build(self, http: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
        """Return ``request`` as httpx2 sends it, without the API key."""
        streams = request.accept == "text/event-stream"
        timeout = self.stream_timeout() if streams else self._timeout_of(request)
        return http.build_request(
            request.method,
            self.base_url + request.path,
            params=list(request.parameters) or None,
            content=request.body,
            headers=request.headers() | {"User-Agent": f"counterfoil-python/{__version__}"},
            timeout=timeout,
        )

    def _timeout_of(self, request: Request) -> httpx2.Timeout:
        """Return the timeouts of a call: a wait that was asked for is no silence."""
        read = self.timeout.read
        return httpx2.Timeout(
            connect=self.timeout.connect,
            read=None if read is None else read + request.wait_seconds,
            write=self.timeout.write,
            pool=self.timeout.pool,
        )

    def stream_timeout(self) -> httpx2.Timeout:
        """Return the timeouts of a live stream: it may be silent between heartbeats."""
        return httpx2.Timeout(
            connect=self.timeout.connect,
            read=SILENCE_SECONDS_MAX,
            write=self.timeout.write,
            pool=self.timeout.pool,
        )

    def sending(self) -> dict[str, Any]:
        """Return the arguments of ``httpx2``'s ``send``.

        Redirects are never followed: they would turn a POST into a GET, or carry the key
        to another host. Without a key, an ``http_client`` may have its own way to log in.
        """
        arguments: dict[str, Any] = {"follow_redirects": False}
        if self.auth is not None:
            arguments["auth"] = self.auth
        return arguments

    def failure(self, error: httpx2.RequestError) -> Failure:
        """Return what an exception of httpx2 means."""
        sent = not isinstance(error, _UNSENT)
        reason = str(error) or type(error).__name__
        failed: APIConnectionError
        if isinstance(error, httpx2.TimeoutException):
            failed = APITimeoutError(
                f"No answer from {self.base_url} in time ({type(error).__name__}). Try again, or "
                "give the client a longer `timeout`."
            )
        elif sent:
            failed = APIConnectionError(
                f"The connection to {self.base_url} was lost before the answer: {reason}"
            )
        else:
            failed = APIConnectionError(
                f"{self.base_url} cannot be reached: {reason}. Is the service running there? The "
                "address is `base_url`, or COUNTERFOIL_BASE_URL."
            )
        failed.__cause__ = error
        return Failure(failed, sent)


def answer_of(response: httpx2.Response) -> Answer:
    """Return a response that has been read to its end as an ``Answer``."""
    return Answer(response.status_code, dict(response.headers), response.content)


def opening_of(response: httpx2.Response) -> Answer:
    """Return status and headers of a response whose body is still to come."""
    return Answer(response.status_code, dict(response.headers))


def _checked_url(base_url: str) -> str:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise ValueError(f"`base_url` is not an address: {error}") from None
    if url.userinfo:
        raise ValueError("`base_url` must hold no user or password. Give `api_key`.")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(
            "`base_url` is the service's address, such as https://counterfoil.example or "
            f"{BASE_URL_DEFAULT}, without a query."
        )
    return str(url).rstrip("/")


def _checked_key(api_key: str) -> str:
    if not all("!" <= character <= "~" for character in api_key):
        raise ValueError(
            "`api_key` holds a character that no key has (a space, a line break …). Was it cut "
            "or copied with its surroundings?"
        )
    return api_key
