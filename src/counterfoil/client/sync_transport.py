"""The blocking shell: sends, waits, and leaves every judgement to the core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2

from counterfoil.client.answers import Answer
from counterfoil.client.calls import Call, Done, Failure, Outcome
from counterfoil.client.control_requests import Listed
from counterfoil.client.errors import UsageError
from counterfoil.client.requests import Ask, Request
from counterfoil.client.transport import Settings, answer_of

T = TypeVar("T")


class SyncTransport:
    """Sends requests of one client. Safe to use from several threads."""

    def __init__(
        self,
        settings: Settings,
        http_client: httpx2.Client | None,
        sleep: Callable[[float], None] | None,
    ) -> None:
        self.settings = settings
        self.sleep = sleep or time.sleep
        self._owned = http_client is None
        self._http = http_client or httpx2.Client()

    def run(self, ask: Ask[T]) -> T:
        """Make one logical call, retries included, and return what it brings."""
        return self.make(Call(ask, self.settings.policy))

    def make(self, call: Call[T]) -> T:
        """Make a call that may have been tried before, and return what it brings."""
        while True:
            verdict = call.judge(self._outcome(call.request))
            if isinstance(verdict, Done):
                return verdict.value
            self.sleep(verdict.after_seconds)

    def each(self, listed: Listed[T]) -> Iterator[T]:
        """Give the rows of a list, each page asked for when it is needed."""
        while (ask := listed.next_ask()) is not None:
            yield from listed.take(self.run(ask))

    def open(self, request: Request) -> httpx2.Response | Outcome:
        """Open a stream: its response, unread, or what came instead of one."""
        try:
            response = self._send(request, stream=True)
            if response.is_success:
                return response
            response.read()
        except httpx2.RequestError as error:
            return self.settings.failure(error)
        return answer_of(response)

    def close(self) -> None:
        """Close the connections, unless the HTTP client is the caller's own."""
        if self._owned:
            self._http.close()

    def _outcome(self, request: Request) -> Answer | Failure:
        try:
            return answer_of(self._send(request, stream=False))
        except httpx2.RequestError as error:
            return self.settings.failure(error)

    def _send(self, request: Request, *, stream: bool) -> httpx2.Response:
        if self._http.is_closed:
            raise UsageError("This client has been closed. Make a new one.")
        built = self.settings.build(self._http, request)
        return self._http.send(built, stream=stream, **self.settings.sending())
