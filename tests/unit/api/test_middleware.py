"""The net below everything: what nobody foresaw is logged for us and hidden from callers."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from counterfoil.server import logs
from counterfoil.server.api.middleware import Surroundings

Log = Callable[[], str]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Log]:
    """Log as a service does; gives what was written since the last look."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.set_up("json", "info")
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def ask(app: ASGIApp) -> list[dict[str, Any]]:
    """Send one request through; returns what was sent back."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(dict(message))

    scope: Scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    asyncio.run(Surroundings(app)(scope, receive, send))
    return sent


def test_a_fault_of_ours_is_a_problem_that_says_nothing(log: Log) -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("the secret is 42")

    start, body = ask(broken)

    assert start["status"] == 500
    assert b"/problems/internal-error" in body["body"]
    assert b"42" not in body["body"]
    request_id = dict(start["headers"])[b"x-request-id"].decode()
    assert request_id.encode() in body["body"]
    logged = log()
    assert "the secret is 42" in logged
    assert request_id in logged


def test_an_answer_that_breaks_in_the_middle_is_not_begun_again(log: Log) -> None:
    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("later")

    (start,) = ask(broken)

    assert start["status"] == 200
    assert "later" in log()


def test_a_caller_that_left_is_nobodys_fault(log: Log) -> None:
    async def left(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ClientDisconnect

    assert ask(left) == []
    assert log() == ""


def test_an_answers_own_rule_for_caches_stands() -> None:
    start, _ = ask(PlainTextResponse("x", headers={"Cache-Control": "public"}))

    assert [value for name, value in start["headers"] if name == b"cache-control"] == [b"public"]


def test_other_libraries_log_alike(log: Log) -> None:
    logging.getLogger("uvicorn.error").warning("from %s", "elsewhere")
    logging.getLogger("psycopg.pool").info("of each connection")

    logged = log()
    assert '"event": "from elsewhere"' in logged
    assert "of each connection" not in logged
