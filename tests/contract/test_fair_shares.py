"""One tenant takes all that it can get of a process, and its neighbour is served all the same.

Over real sockets and with the limits as they are. Whoever fills something has filled it when its
own next call is refused: that is waited for, and nothing is timed.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest

from counterfoil.server.core import limits
from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import running_service
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P7", "P13")]

STREAMS_OF_ONE: Final = limits.STREAM_SUBSCRIBERS_MAX * limits.MUCH_HELD_SIXTEENTHS_MAX // 16
STREAMS_LITTLE: Final = limits.STREAM_SUBSCRIBERS_MAX * limits.LITTLE_HELD_SIXTEENTHS_MAX // 16
BODIES_OF_ONE: Final = (
    limits.BODIES_BYTES_MAX * limits.MUCH_HELD_SIXTEENTHS_MAX // 16 // limits.BATCH_BODY_BYTES_MAX
)
QUERY: Final = {"query": [{"tags": ["nothing:1"]}]}


class Two(NamedTuple):
    """A tenant that takes what it can get, its neighbour, and who serves both."""

    noisy: Holder
    neighbour: Holder
    url: str


@pytest.fixture
def two(cluster: Cluster) -> Iterator[Two]:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as service,
        holder_of(service) as operator,
    ):
        noisy, neighbour = (
            operator.tenant(name).made(kind="agent", name="a") for name in ("noisy", "neighbour")
        )
        yield Two(noisy, neighbour, service.url)


class Answer(NamedTuple):
    status: int
    problem: dict[str, Any]


@asynccontextmanager
async def asked(
    url: str, holder: Holder, line: str, body: bytes = b"", length: int = 0
) -> AsyncIterator[asyncio.StreamReader]:
    """A request on a connection of its own, which is closed behind the block."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(
            f"{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {holder.text}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        writer.write(body)
        await writer.drain()
        yield reader
    finally:
        writer.transport.abort()


async def answered(reader: asyncio.StreamReader) -> Answer:
    """How the answer begins; the whole of it, where it is a refusal."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        status = int(head.split(" ", 2)[1])
        if status == 200:
            return Answer(status, {})
        assert f"\r\nretry-after: {limits.RETRY_AFTER_SECONDS}\r\n" in head
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return Answer(status, json.loads(await reader.readexactly(length)))


async def follow(opened: AsyncExitStack, two: Two, holder: Holder) -> Answer:
    """Open a live stream that goes on until the stack is closed."""
    reader = await opened.enter_async_context(asked(two.url, holder, "GET /events/stream"))
    return await answered(reader)


async def test_a_tenant_with_its_fill_of_streams_leaves_its_neighbours_theirs(two: Two) -> None:
    async with AsyncExitStack() as noisy, AsyncExitStack() as neighbour:
        opened = await asyncio.gather(
            *(follow(noisy, two, two.noisy) for _ in range(STREAMS_OF_ONE))
        )
        assert {answer.status for answer in opened} == {200}
        refused = await follow(noisy, two, two.noisy)
        assert (refused.status, refused.problem["type"]) == (503, "/problems/busy")
        assert "This tenant has as many live readers as it may have" in refused.problem["detail"]

        for _ in range(STREAMS_LITTLE):
            assert (await follow(neighbour, two, two.neighbour)).status == 200
        beyond = await follow(neighbour, two, two.neighbour)
        assert (beyond.status, beyond.problem["type"]) == (503, "/problems/busy")
        assert beyond.problem["detail"].startswith("This process accepts no more live readers now.")
        assert two.neighbour.append("a").status_code == 201

        await noisy.aclose()
        # All of them came back: the neighbour may have what one may have beside none.
        for _ in range(STREAMS_OF_ONE - STREAMS_LITTLE):
            await _until_let_in(neighbour, two, two.neighbour)


async def _until_let_in(opened: AsyncExitStack, two: Two, holder: Holder) -> None:
    """Open a stream as soon as there is a place for it."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while (await follow(opened, two, holder)).status != 200:
            pass


async def test_a_tenant_with_its_fill_of_bodies_leaves_its_neighbours_theirs(two: Two) -> None:
    """Bodies that want but their last byte. What they hold, their owner's next body finds taken."""
    length = limits.BATCH_BODY_BYTES_MAX
    body = b" " * (length - 1)

    async def asks(status: int) -> bool:
        # In a thread: the sockets of the noisy one are this loop's to write to and to close.
        answer = await asyncio.to_thread(two.noisy.post, "/events/query", QUERY)
        return answer.status_code == status

    async with AsyncExitStack() as opened:
        for _ in range(BODIES_OF_ONE):
            await opened.enter_async_context(
                asked(two.url, two.noisy, "POST /events/batch", body, length)
            )
        await eventually(lambda: asks(503), "the noisy tenant's bodies to be held")
        refusal = assert_problem(two.noisy.post("/events/query", QUERY), 503, "busy")
        assert refusal["detail"].startswith("This tenant has as many large bodies")

        assert two.neighbour.append("a").status_code == 201
        event = {"agent_name": "a", "event_type": "noted", "payload": {"text": "x" * 250_000}}
        assert two.neighbour.post("/events/batch", {"events": [event] * 16}).status_code == 201
        assert two.noisy.get("/events").status_code == 200, "a call without a body needs no room"
    await eventually(lambda: asks(200), "the room of what was broken off to be given back")
