"""What somebody without a key can make a connection do: bounded, and still answered."""

import asyncio
import contextlib

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from counterfoil.server.core import limits
from tests.unit.api.connections import LAST_REQUEST, REQUEST, connected, end_of

pytestmark = pytest.mark.promise("P13")

KIBIBYTE = 1024
READ_BYTES_MAX = 256 * KIBIBYTE
"""More than an event loop hands over at once."""

REFUSED = PlainTextResponse("hello", 401)
PART_OF_MUCH = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\nx"


# --- Headers ----------------------------------------------------------------------


@pytest.mark.parametrize(("more", "status"), [(-1, b"200"), (0, b"431")])
def test_headers_are_counted(more: int, status: bytes) -> None:
    """Two of them are the request's own."""
    headers = b"a:\r\n" * (limits.HEADERS_MAX + more - 1)

    heard, _ = asyncio.run(
        end_of(PlainTextResponse("hello"), LAST_REQUEST[:-2] + headers + b"\r\n")
    )

    assert heard.startswith(b"HTTP/1.1 " + status)
    if status == b"431":
        assert b"/problems/headers-too-large" in heard
        assert f"at most {limits.HEADERS_MAX} headers".encode() in heard


def test_what_follows_a_body_is_no_header() -> None:
    """It arrives when the key has been asked for, and there is no end to it."""
    trailers = b"X-API-Key: late\r\n" * (limits.HEADERS_MAX * 2)
    seen: list[bytes] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(name for name, _ in scope["headers"])
        body = await Request(scope, receive).body()
        await PlainTextResponse(body)(scope, receive, send)

    heard, _ = asyncio.run(
        end_of(
            app,
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n",
            LAST_REQUEST,
        )
    )

    assert heard.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n\r\nhi" in heard
    assert seen == [b"host", b"transfer-encoding", b"host", b"connection"]


# --- Bodies that nobody reads -----------------------------------------------------


def test_a_small_body_that_was_refused_costs_no_connection() -> None:
    async def go() -> None:
        async with connected(REFUSED) as (reader, writer, _):
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
            await reader.readuntil(b"hello")
            writer.write(b"unwanted!" + REQUEST)
            await reader.readuntil(b"hello")
            writer.write(LAST_REQUEST)
            assert (await reader.read()).endswith(b"hello")

    asyncio.run(go())


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    """Send a body without end."""
    while True:
        writer.write(b"x" * READ_BYTES_MAX)
        await writer.drain()


def test_of_a_body_that_was_refused_only_so_much_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNREAD_BODY_BYTES_MAX", 64 * KIBIBYTE)
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS_MAX", 0.3)
    read = 0

    async def go() -> bytes:
        nonlocal read
        async with connected(REFUSED) as (reader, writer, connection):
            before = connection.data_received

            def count(data: bytes) -> None:
                nonlocal read
                read += len(data)
                before(data)

            monkeypatch.setattr(connection, "data_received", count)
            writer.write(PART_OF_MUCH)
            heard = await reader.readuntil(b"hello")
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
            assert connection.transport.is_closing()
            assert connection._unread_bytes > limits.UNREAD_BODY_BYTES_MAX
            return heard

    heard = asyncio.run(go())

    assert heard.startswith(b"HTTP/1.1 401")
    # Behind the bound, one read more at the most by each of the two who take turns at it.
    assert read <= len(PART_OF_MUCH) + limits.UNREAD_BODY_BYTES_MAX + 2 * READ_BYTES_MAX


def test_a_body_that_comes_too_slowly_after_its_refusal_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS_MAX", 0.1)

    heard, _ = asyncio.run(end_of(REFUSED, PART_OF_MUCH))

    assert heard.endswith(b"hello")


@pytest.mark.parametrize(
    "app",
    [
        PlainTextResponse("hello", 408, headers={"Connection": "close"}),
        # Says nothing of an end, and then has more to throw away than it may.
        PlainTextResponse("hello", 413),
    ],
    ids=["with the last answer", "too much"],
)
def test_who_sends_everything_first_still_reads_the_refusal(
    monkeypatch: pytest.MonkeyPatch, app: ASGIApp
) -> None:
    """As most clients do. Closed at once, the connection would break while they send."""
    monkeypatch.setattr(limits, "UNREAD_BODY_BYTES_MAX", 600 * KIBIBYTE)

    async def go() -> bytes:
        answered = asyncio.Event()

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            answered.set()

        async with connected(answer) as (reader, writer, connection):
            writer.write(PART_OF_MUCH)
            await answered.wait()
            sent, heard = 0, b""
            with contextlib.suppress(ConnectionError):
                for _ in range(1_000):
                    writer.write(b"x" * KIBIBYTE)
                    await writer.drain()
                    await asyncio.sleep(0)
                    sent += 1
                heard = await reader.read()
            assert sent == 1_000
            assert not connection.transport.is_closing()
        return heard

    heard = asyncio.run(go())

    assert heard.endswith(b"hello")
    assert heard.count(b"HTTP/1.1") == 1


def test_what_cannot_be_read_is_refused_and_the_rest_of_it_thrown_away() -> None:
    async def go() -> bytes:
        async with connected(REFUSED) as (reader, writer, _):
            for _ in range(100):
                writer.write(b"\x16\x03" * KIBIBYTE)
                await writer.drain()
                await asyncio.sleep(0)
            return await reader.read()

    assert b"/problems/malformed-request" in asyncio.run(go())


# --- Refusals in a row ------------------------------------------------------------


class Door:
    """Refuses what comes without the header ``key``."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = any(name == b"key" for name, _ in scope["headers"])
        answer: Response = PlainTextResponse("hello", 200 if known else 401)
        await answer(scope, receive, send)


KNOWN = REQUEST[:-2] + b"key: 1\r\n\r\n"
WITH_A_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"


@pytest.mark.parametrize("in_turn", [False, True], ids=["ahead of the answers", "in turn"])
@pytest.mark.parametrize("request_", [REQUEST, WITH_A_BODY + b"x"], ids=["bare", "with a body"])
def test_a_connection_that_is_refused_again_and_again_is_closed(
    request_: bytes, *, in_turn: bool
) -> None:
    said = [request_] * limits.UNAUTHENTICATED_MAX
    if not in_turn:
        said += [request_, LAST_REQUEST]

    heard, _ = asyncio.run(end_of(Door(), *said, in_turn=in_turn and request_ is REQUEST))

    *others, last = heard.split(b"HTTP/1.1 401 ")[1:]
    assert len(others) == limits.UNAUTHENTICATED_MAX - 1
    assert b"connection: close" in last
    assert not [answer for answer in others if b"connection: close" in answer]


def test_the_last_refusal_arrives_though_its_body_does_not() -> None:
    """The body of each comes behind its refusal."""

    async def go() -> None:
        async with connected(Door()) as (reader, writer, _):
            for _ in range(limits.UNAUTHENTICATED_MAX - 1):
                writer.write(WITH_A_BODY)
                assert b"connection: close" not in await reader.readuntil(b"hello")
                writer.write(b"x")
            writer.write(WITH_A_BODY)
            assert b"connection: close" in await reader.readuntil(b"hello")
            assert await reader.read() == b""

    asyncio.run(go())


def test_a_refusal_now_and_then_costs_no_connection() -> None:
    said = ([REQUEST] * (limits.UNAUTHENTICATED_MAX - 1) + [KNOWN]) * 3 + [LAST_REQUEST]

    heard, _ = asyncio.run(end_of(Door(), *said))

    assert heard.count(b"HTTP/1.1 ") == len(said)
