"""Bodies that never end, or are too many at once: the bounds that no real test waits for."""

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from counterfoil.server.access.keyring import Admission
from counterfoil.server.access.principal import Principal
from counterfoil.server.access.scopes import ALL
from counterfoil.server.api.requests import BodyTooSlow, body_shares, judged_body
from counterfoil.server.core import limits
from counterfoil.server.core.errors import BodyTooLarge, Busy


class App:
    """What a request finds of the application."""

    def __init__(self) -> None:
        self.state = self
        self.body_shares = body_shares()


def request_of(app: App, *messages: Message, tenant_id: int = 1) -> Request:
    """A request whose body arrives in these messages; after them nothing comes."""
    waiting = list(messages)

    async def receive() -> Message:
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    scope: dict[str, Any] = {
        "type": "http",
        "app": app,
        "headers": [(b"content-type", b"application/json")],
        "state": {"admission": Admission(Principal("a", tenant_id, "t", None, None, ALL))},
    }
    return Request(scope, receive)


def part(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_is_put_together() -> None:
    request = request_of(
        App(), part(b"ab", more=True), part(b"", more=True), part(b"c", more=False)
    )

    assert asyncio.run(judged_body(request, bytes, bytes_max=3)) == b"abc"


def test_a_body_is_cut_off_at_the_first_byte_too_many() -> None:
    request = request_of(App(), part(b"ab", more=True), part(b"cd", more=True))

    with pytest.raises(BodyTooLarge):
        asyncio.run(judged_body(request, bytes, bytes_max=3))


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS_MAX", 0.02)

    with pytest.raises(BodyTooSlow):
        asyncio.run(judged_body(request_of(App(), part(b"a", more=True)), bytes, bytes_max=9))


def test_a_caller_that_leaves_has_no_body() -> None:
    request = request_of(App(), part(b"a", more=True), {"type": "http.disconnect"})

    with pytest.raises(ClientDisconnect):
        asyncio.run(judged_body(request, bytes, bytes_max=9))


def test_bodies_together_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """One tenant's: three quarters of the whole."""
    monkeypatch.setattr(limits, "BODIES_BYTES_MAX", 16)
    app = App()

    async def several() -> None:
        slow = asyncio.create_task(
            judged_body(request_of(app, part(b"x" * 10, more=True)), bytes, bytes_max=100)
        )
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="This tenant"):
            await judged_body(request_of(app, part(b"x" * 3, more=False)), bytes, bytes_max=100)
        # Whoever fits is let in, and what was refused is not counted any more.
        fits = request_of(app, part(b"xx", more=False))
        assert await judged_body(fits, bytes, bytes_max=100) == b"xx"
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        # What is gone has given its room back.
        whole = request_of(app, part(b"x" * 12, more=False))
        assert await judged_body(whole, bytes, bytes_max=100) == b"x" * 12

    asyncio.run(several())


@pytest.mark.promise("P7", "P13")
def test_one_tenants_bodies_leave_room_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are slow; and the last, empty piece of them is no new one."""
    monkeypatch.setattr(limits, "BODIES_BYTES_MAX", 160)
    app = App()

    async def several() -> None:
        end = asyncio.Event()
        pieces = [part(b"x" * 120, more=True)]

        async def receive() -> Message:
            if pieces:
                return pieces.pop()
            await end.wait()
            return part(b"", more=False)

        slow = Request(request_of(app).scope, receive)
        arriving = asyncio.create_task(judged_body(slow, len, bytes_max=200))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="This tenant"):
            await judged_body(request_of(app, part(b"x", more=False)), len, bytes_max=200)

        def neighbours(size: int) -> Request:
            return request_of(app, part(b"x" * size, more=False), tenant_id=2)

        assert await judged_body(neighbours(10), len, bytes_max=200) == 10
        with pytest.raises(Busy, match="Too many large bodies"):
            await judged_body(neighbours(11), len, bytes_max=200)
        with pytest.raises(BodyTooLarge):
            await judged_body(neighbours(9), len, bytes_max=8)
        assert await judged_body(neighbours(10), len, bytes_max=200) == 10
        held = asyncio.create_task(
            judged_body(request_of(app, part(b"x" * 10, more=True), tenant_id=2), len, bytes_max=99)
        )
        await asyncio.sleep(0)
        end.set()
        assert await arriving == 120
        held.cancel()
        await asyncio.wait([held])

    asyncio.run(several())


def test_a_large_body_is_judged_beside_the_loop() -> None:
    """While it is judged, the loop turns."""
    body = b"x" * 100_000

    async def judge_and_turn() -> None:
        turned = asyncio.Event()
        loop = asyncio.get_running_loop()

        def judge(judged: bytes) -> int:
            loop.call_soon_threadsafe(turned.set)
            asyncio.run_coroutine_threadsafe(turned.wait(), loop).result(10)
            return len(judged)

        request = request_of(App(), part(body, more=False))
        assert await judged_body(request, judge, bytes_max=len(body)) == len(body)

    asyncio.run(judge_and_turn())
