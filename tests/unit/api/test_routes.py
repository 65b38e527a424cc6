"""What is done around every call that needs a key."""

import asyncio
import time
from dataclasses import replace

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from counterfoil.server.access.keyring import ANONYMOUS
from counterfoil.server.access.operations import Access
from counterfoil.server.access.scopes import Scopes
from counterfoil.server.api.routes import NEEDS, Answer, RawRoute
from counterfoil.server.core import limits
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log
from tests.support.virtual_time import Clock, passes_of_the_loop

CALLER, NEIGHBOUR = 1, 2


async def receive() -> Message:
    raise AssertionError


@pytest.mark.promise("P7", "P13")
def test_a_call_waits_for_its_tenants_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "process_time", lambda: clock.processor_seconds)
    called = 0

    async def endpoint(request: Request) -> ASGIApp:  # noqa: ARG001 - every endpoint takes one
        nonlocal called
        called += 1
        clock.processor_seconds += 0.001
        return Answer("{}")

    async def go() -> None:
        nowhere = Log(Settings(database_url=SecretStr("postgresql://nowhere")))
        access = Access(nowhere, api_key=None, is_open=True)
        route = RawRoute("/x", endpoint, methods=["GET"], openapi_extra={NEEDS: "read"})

        async def call(tenant_id: int) -> None:
            principal = ANONYMOUS.principal
            principal = replace(principal, tenant_id=tenant_id, scopes=Scopes.parse(["read:*"]))
            state = {"admission": replace(ANONYMOUS, principal=principal)}
            await route.answered(access, {"type": "http", "method": "GET", "state": state}, receive)

        await call(NEIGHBOUR)
        calls = [asyncio.create_task(call(CALLER)) for _ in range(limits.TURN_REQUESTS_MAX + 1)]
        await passes_of_the_loop(5)
        assert called == 1 + limits.TURN_REQUESTS_MAX
        await asyncio.gather(*calls)
        assert called == 2 + limits.TURN_REQUESTS_MAX

    clock.run(go())
