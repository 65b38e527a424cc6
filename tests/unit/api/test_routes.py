"""What is done around every call that needs a key."""

import asyncio
from dataclasses import replace

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from counterfoil.server.access.keyring import ANONYMOUS
from counterfoil.server.access.operations import Access
from counterfoil.server.access.scopes import Scopes
from counterfoil.server.api.routes import NEEDS, Answer, RawRoute
from counterfoil.server.core.errors import Busy, ScopeMissing
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log

pytestmark = pytest.mark.promise("P7", "P13")

CALLER, NEIGHBOUR = 1, 2


async def receive() -> Message:
    raise AssertionError


@pytest.mark.parametrize(
    ("scope", "fault"),
    [
        ("read:*", None),
        ("read:*", Busy("not now")),
        ("read:*", RuntimeError("a fault of ours")),
        ("read:*", asyncio.CancelledError()),
        ("append:*", ScopeMissing("not yours", "read:*")),
    ],
    ids=["answered", "refused", "broken", "left", "not let in"],
)
def test_a_call_leaves_its_turn_however_it_ends(scope: str, fault: BaseException | None) -> None:
    is_let_in = scope == "read:*"
    seen: list[bool] = []

    async def go() -> None:
        nowhere = Log(Settings(database_url=SecretStr("postgresql://nowhere")))
        access = Access(nowhere, api_key=None, is_open=True)
        for tenant_id in (CALLER, NEIGHBOUR):
            access.turns.queue_of(tenant_id)
        queue = access.turns.queue_of(CALLER)
        assert queue is not None

        async def endpoint(request: Request) -> ASGIApp:  # noqa: ARG001 - every endpoint takes one
            seen.append(queue.is_idle)
            if fault is not None:
                raise fault
            return Answer("{}")

        async def call() -> None:
            route = RawRoute("/x", endpoint, methods=["GET"], openapi_extra={NEEDS: "read"})
            principal = replace(ANONYMOUS.principal, tenant_id=CALLER, scopes=Scopes.parse([scope]))
            state = {"admission": replace(ANONYMOUS, principal=principal)}
            await route.answered(access, {"type": "http", "method": "GET", "state": state}, receive)

        if fault is None:
            await call()
        else:
            with pytest.raises(type(fault)):
                await call()
        assert queue.is_idle

    asyncio.run(go())
    assert seen == [False] * is_let_in
