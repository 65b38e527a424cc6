"""What a process remembers of schemas: how much of them, and that none is compiled twice at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from pydantic import SecretStr

from counterfoil.server.core import limits
from counterfoil.server.core.errors import PayloadMismatch
from counterfoil.server.core.settings import Settings
from counterfoil.server.event_types import registry as registry_module
from counterfoil.server.event_types.compiled import CompiledSchema, compile_stored
from counterfoil.server.event_types.model import NewVersion
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.operations import Log
from tests.support.cluster import Database
from tests.support.waiting import WAIT_SECONDS_MAX
from tests.unit.appends import append, batch, event

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P7")]

TENANT: Final = 1
SCHEMA: Final = {"type": "object", "properties": {"n": {"type": "integer"}}}


@pytest.fixture
async def event_types(database: Database) -> AsyncIterator[EventTypes]:
    log = await Log.open(Settings(database_url=SecretStr(database.url)))
    try:
        yield EventTypes(log)
    finally:
        await log.close()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stored schemas that were compiled, each time that one was."""
    texts: list[str] = []

    def counted(text: str) -> CompiledSchema:
        texts.append(text)
        return compile_stored(text)

    monkeypatch.setattr(registry_module, "compile_stored", counted)
    return texts


async def register(event_types: EventTypes, event_type: str, schema: dict[str, Any]) -> None:
    asked = NewVersion.model_validate({"schema": schema})
    await event_types.register(TENANT, event_type, asked, by="admin:a", key=None)


async def test_no_more_schemas_are_kept_than_there_is_memory_for(
    event_types: EventTypes, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was needed the longest ago goes, and is compiled anew when it is needed."""
    one_bytes = CompiledSchema(SCHEMA).bytes
    monkeypatch.setattr(limits, "SCHEMAS_REMEMBERED_BYTES_MAX", 2 * one_bytes)
    for event_type in ("a", "b", "c"):
        await register(event_types, event_type, SCHEMA)

    for event_type, times in (("a", 1), ("b", 2), ("a", 2), ("c", 3), ("a", 3), ("b", 4), ("b", 4)):
        await event_types.append(TENANT, append(event(event_type=event_type, payload={"n": 1})))
        assert len(compiled) == times, event_type
        with pytest.raises(PayloadMismatch):
            await event_types.append(
                TENANT, append(event(event_type=event_type, payload={"n": ""}))
            )


async def test_many_that_need_one_schema_wait_for_one_and_the_same(
    event_types: EventTypes, compiled: list[str]
) -> None:
    await register(event_types, "t", SCHEMA)
    appends = [
        asyncio.create_task(event_types.append(TENANT, append(event(payload={"n": n}))))
        for n in range(20)
    ]
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not event_types._registry._compiling:  # noqa: ASYNC110 - passes of the loop
            await asyncio.sleep(0)
    appends[0].cancel()  # Who asked first goes away, and the others have it all the same.
    stored = await asyncio.gather(*appends[1:])
    assert len({answer.first_position for answer in stored}) == 19
    assert len(compiled) == 1


async def test_others_are_served_between_two_payloads_that_are_dear(
    event_types: EventTypes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(event_types, "t", SCHEMA)
    await event_types.append(TENANT, append(event()))  # From now on, nothing has to be waited for.
    rules = await event_types._registry.rules(TENANT)
    asked = batch({"events": [event(payload={"n": n}) for n in range(10)]})
    served = 0

    async def other() -> None:
        nonlocal served
        while True:
            served += 1
            await asyncio.sleep(0)

    others = asyncio.create_task(other())
    await event_types._registry.check(TENANT, rules, asked.events)
    assert served == 0, "what is cheap is checked in one go"
    monkeypatch.setattr(CompiledSchema, "steps", lambda *_: limits.CHECK_STEPS_MAX)
    await event_types._registry.check(TENANT, rules, asked.events)
    assert served == len(asked.events) - 1
    others.cancel()
