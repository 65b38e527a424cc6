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


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Put back how pytest logs."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def log_as_a_service(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Log as a service does; returns what tells what was logged since.

    Called by the test itself: standard error is another one while fixtures are made.
    """
    logs.set_up("json", "info")
    return lambda: capsys.readouterr().err


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


def test_a_fault_of_ours_is_a_problem_that_says_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = log_as_a_service(capsys)

    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise RuntimeError("the secret is out")

    start, body = ask(broken)

    assert start["status"] == 500
    assert b"/problems/internal-error" in body["body"]
    assert b"secret" not in body["body"]
    request_id = dict(start["headers"])[b"x-request-id"].decode()
    assert request_id.encode() in body["body"]
    logged = log()
    assert "the secret is out" in logged
    assert request_id in logged


def test_an_answer_that_breaks_in_the_middle_is_not_begun_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = log_as_a_service(capsys)

    async def broken(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("later")

    (start,) = ask(broken)

    assert start["status"] == 200
    assert "later" in log()


def test_a_caller_that_left_is_nobodys_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = log_as_a_service(capsys)

    async def left(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ClientDisconnect

    assert ask(left) == []
    assert log() == ""


def test_an_answers_own_rule_for_caches_stands() -> None:
    start, _ = ask(PlainTextResponse("x", headers={"Cache-Control": "public"}))

    assert [value for name, value in start["headers"] if name == b"cache-control"] == [b"public"]


def test_other_libraries_log_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = log_as_a_service(capsys)

    logging.getLogger("uvicorn.error").warning("from %s", "elsewhere")
    logging.getLogger("psycopg.pool").info("of each connection")

    logged = log()
    assert '"event": "from elsewhere"' in logged
    assert "of each connection" not in logged
