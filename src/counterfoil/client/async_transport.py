"""The asynchronous shell: sends, waits, and leaves every judgement to the core."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import httpx2

from counterfoil.client.answers import Answer
from counterfoil.client.calls import Call, Done, Failure, Outcome
from counterfoil.client.control_requests import Listed
from counterfoil.client.errors import UsageError
from counterfoil.client.requests import Ask, Request
from counterfoil.client.transport import Settings, answer_of

T = TypeVar("T")


class AsyncTransport:
    """Sends requests of one client. Safe to use from several tasks of one event loop."""

    def __init__(
        self,
        settings: Settings,
        http_client: httpx2.AsyncClient | None,
        sleep: Callable[[float], Awaitable[None]] | None,
    ) -> None:
        self.settings = settings
        self.sleep = sleep or asyncio.sleep
        self._owned = http_client is None
        self._http = http_client or httpx2.AsyncClient()

    async def run(self, ask: Ask[T]) -> T:
        """Make one logical call, retries included, and return what it brings."""
        return await self.make(Call(ask, self.settings.policy))

    async def make(self, call: Call[T]) -> T:
        """Make a call that may have been tried before, and return what it brings."""
        while True:
            verdict = call.judge(await self._outcome(call.request))
            if isinstance(verdict, Done):
                return verdict.value
            await self.sleep(verdict.after_seconds)

    async def each(self, listed: Listed[T]) -> AsyncIterator[T]:
        """Give the rows of a list, each page asked for when it is needed."""
        while (ask := listed.next_ask()) is not None:
            for row in listed.take(await self.run(ask)):
                yield row

    async def open(self, request: Request) -> httpx2.Response | Outcome:
        """Open a stream: its response, unread, or what came instead of one."""
        try:
            response = await self._send(request, stream=True)
            if response.is_success:
                return response
            await response.aread()
        except httpx2.RequestError as error:
            return self.settings.failure(error)
        return answer_of(response)

    async def close(self) -> None:
        """Close the connections, unless the HTTP client is the caller's own."""
        if self._owned:
            await self._http.aclose()

    async def _outcome(self, request: Request) -> Answer | Failure:
        try:
            return answer_of(await self._send(request, stream=False))
        except httpx2.RequestError as error:
            return self.settings.failure(error)

    async def _send(self, request: Request, *, stream: bool) -> httpx2.Response:
        if self._http.is_closed:
            raise UsageError("This client has been closed. Make a new one.")
        built = self.settings.build(self._http, request)
        return await self._http.send(built, stream=stream, **self.settings.sending())
