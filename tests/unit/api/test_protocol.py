"""Connections that say nothing, or too much: given up in time, or understood."""

import asyncio

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from counterfoil.server.core import limits
from counterfoil.server.protocol import BoundedHttpProtocol
from tests.unit.api.connections import LAST_REQUEST, REQUEST, end_of


@pytest.mark.parametrize(
    "said",
    [[], [b"GET"], [REQUEST[:-2]], [REQUEST, b"GET /again HTTP/1.1\r\n"]],
    ids=["nothing", "a word", "all but the end", "a second request's beginning"],
)
def test_headers_that_do_not_end_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, said: list[bytes]
) -> None:
    monkeypatch.setattr(limits, "HEADERS_SECONDS_MAX", 0.1)

    heard, _ = asyncio.run(end_of(PlainTextResponse("hello"), *said))

    assert heard.count(b"HTTP/1.1 200 OK") == (1 if len(said) == 2 else 0)


def test_a_request_that_comes_byte_by_byte_is_read() -> None:
    said = [bytes([byte]) for byte in LAST_REQUEST]

    heard, _ = asyncio.run(end_of(PlainTextResponse("hello"), *said))

    assert heard.endswith(b"hello")


def test_once_its_headers_are_there_a_request_is_not_hurried() -> None:
    """The clock that ran for them has stopped."""
    heard, connection = asyncio.run(
        end_of(PlainTextResponse("hello"), *LAST_REQUEST.partition(b"Host"))
    )
    assert heard.endswith(b"hello")
    assert connection._too_late is None


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body."""
    body = await Request(scope, receive).body()
    await PlainTextResponse(b"<" + body + b">")(scope, receive, send)


UNREAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [[b"\r\n"], [REQUEST, b"\r\n"], [UNREAD, b"x", b"x"], [REQUEST, UNREAD, b"x", b"x"]],
    ids=["a line", "a line after an answer", "an unread body", "one after an answer"],
)
def test_what_begins_no_request_keeps_no_connection_open(
    monkeypatch: pytest.MonkeyPatch, said: list[bytes]
) -> None:
    monkeypatch.setattr(limits, "HEADERS_SECONDS_MAX", 0.3)
    monkeypatch.setattr(limits, "UNREAD_BODY_SECONDS_MAX", 0.3)

    asyncio.run(end_of(PlainTextResponse("hello"), *said, in_turn=True))


BODY_TO_COME = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"


def test_a_body_that_does_not_begin_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else would end the wait: whoever reads a body bounds it from its first byte on."""
    monkeypatch.setattr(limits, "HEADERS_SECONDS_MAX", 0.1)

    heard, _ = asyncio.run(end_of(echo, BODY_TO_COME))

    assert heard == b""


def test_once_it_has_begun_a_body_is_not_hurried() -> None:
    heard, connection = asyncio.run(end_of(echo, BODY_TO_COME, b"h", b"ello"))

    assert heard.endswith(b"<hello>")
    assert connection._too_late is None


@pytest.mark.parametrize(
    ("said", "headers"),
    [
        (LAST_REQUEST, {}),
        (REQUEST, {"Connection": "close"}),
        (LAST_REQUEST, {"Connection": "close"}),
    ],
    ids=["asked for", "of the application's own", "both"],
)
def test_the_last_answer_of_a_connection_says_so_once(said: bytes, headers: dict[str, str]) -> None:
    heard, _ = asyncio.run(end_of(PlainTextResponse("hello", headers=headers), said))

    assert heard.endswith(b"hello")
    assert heard.lower().count(b"connection: close\r\n") == 1


def test_a_header_of_two_lines_is_not_sent() -> None:
    """It would be a header, or an answer, of somebody else's making."""

    async def split(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"2"), (b"location", b"/\r\nset-cookie: mine")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hi"})

    heard, _ = asyncio.run(end_of(split, REQUEST))

    assert heard == b""


def test_answers_are_not_piled_up_for_who_does_not_read() -> None:
    answer_bytes, count = 8 * 2**20, 6
    unsent: list[int] = []
    second = asyncio.Event()

    async def go() -> int:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            unsent.append(connection.transport.get_write_buffer_size())
            if len(unsent) == 2:
                second.set()
            await PlainTextResponse(bytes(answer_bytes))(scope, receive, send)

        config = uvicorn.Config(answer, lifespan="off")
        config.load()
        connection = BoundedHttpProtocol(config, ServerState(), {})
        server = await asyncio.get_running_loop().create_server(lambda: connection, "127.0.0.1", 0)
        async with server, asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(REQUEST * (count - 1) + LAST_REQUEST)
            await second.wait()
            heard = len(await reader.read())
            writer.close()
        return heard

    assert asyncio.run(go()) > count * answer_bytes
    assert max(unsent) < 2 * answer_bytes


OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
OFFERING = b"POST / HTTP/1.1\r\nHost: x\r\n" + OFFER


@pytest.mark.parametrize(
    ("said", "bodies"),
    [
        ([OFFERING + b"Content-Length: 5\r\n\r\nhello"], [b"<hello>"]),
        ([OFFERING + b"Content-Length: 5\r\n\r\n", b"hel", b"lo"], [b"<hello>"]),
        (
            [OFFERING + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe", b"llo\r\n0\r\n\r\n"],
            [b"<hello>"],
        ),
        ([OFFERING + b"Content-Length: 27\r\n\r\n", REQUEST[:27]], [b"<" + REQUEST[:27] + b">"]),
        ([OFFERING + b"\r\n"], [b"<>"]),
        ([REQUEST + OFFERING + b"Content-Length: 2\r\n\r\nhi"], [b"<>", b"<hi>"]),
    ],
    ids=["whole", "in parts", "chunked", "a request as its body", "without a body", "second"],
)
def test_an_offer_of_another_protocol_is_passed_over(
    said: list[bytes], bodies: list[bytes]
) -> None:
    """As curl and Java make it. The body is the request's, and no request of its own."""
    heard, _ = asyncio.run(end_of(echo, *said, LAST_REQUEST))

    assert heard.count(b"HTTP/1.1 200 OK") == len(bodies) + 1
    at = 0
    for body in [*bodies, b"<>"]:
        at = heard.index(body, at) + len(body)


def test_many_requests_ahead_of_their_answers_are_all_answered() -> None:
    """More bytes than the headers of one may have, and they end in the middle of one."""
    count = 2 * limits.HEADERS_BYTES_MAX // len(REQUEST)

    heard, _ = asyncio.run(end_of(echo, REQUEST * count + LAST_REQUEST[:9], LAST_REQUEST[9:]))

    assert heard.count(b"HTTP/1.1 200 OK") == count + 1


def test_every_request_under_way_learns_that_its_caller_has_gone() -> None:
    gone = asyncio.Event()
    started = asyncio.Event()

    async def wait_for_the_end(scope: Scope, receive: Receive, _send: Send) -> None:
        assert scope["path"] == "/first"
        started.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async def leave() -> None:
        config = uvicorn.Config(wait_for_the_end, lifespan="off")
        config.load()
        connection = BoundedHttpProtocol(config, ServerState(), {})
        server = await asyncio.get_running_loop().create_server(lambda: connection, "127.0.0.1", 0)
        async with server, asyncio.timeout(5):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"GET /first HTTP/1.1\r\n\r\nGET /second HTTP/1.1\r\n\r\n")
            await started.wait()
            # While a second request waits, nothing is read, and so no end is seen but by writing.
            connection.transport.abort()
            await gone.wait()
            writer.close()

    asyncio.run(leave())
