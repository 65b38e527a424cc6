"""What may be written changes while others write: nothing slips in behind the change (P7).

The gated tests build the one interleaving that matters: the writer is past everything that is
done before the lock, and waits for it, while the change is made and committed. The others
write at full speed through two processes.
"""

import asyncio
from typing import Any

import httpx2
import pytest

from counterfoil.server.brake.model import NewFreeze
from counterfoil.server.brake.operations import Brake
from counterfoil.server.core.errors import Frozen
from counterfoil.server.core.settings import Settings
from counterfoil.server.event_types.model import NewSettings, NewVersion
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.operations import Log
from tests.support.appends import append_request, note
from tests.support.cluster import Database
from tests.support.gates import opened_book
from tests.support.service import running_service
from tests.support.starting import Start
from tests.support.waiting import WAIT_SECONDS_MAX, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P7")]

WRITERS = 64
TAG = "customer:cust_1"


async def opened(url: str) -> Log:
    return await Log.open(Settings.from_environment(database_url=url))


async def test_an_append_that_waits_while_its_tag_is_frozen_is_refused(
    database: Database, start: Start[Any]
) -> None:
    """It has been checked as far as it can be before the lock, and must be checked under it."""
    one, two = await opened(database.url), await opened(database.url)
    try:
        async with opened_book(database.url) as book:
            async with book.held() as gate:
                freezing = start(
                    Brake(one).freeze(1, NewFreeze(tag=TAG, reason="Now."), by="admin:a", key=None)
                )
                await book.waiting(1)
                writing = start(two.append(1, append_request(note(customer_id="cust_1"))))
                await book.waiting(2)
                await gate.open()
            frozen = await asyncio.wait_for(freezing, WAIT_SECONDS_MAX)
            with pytest.raises(Frozen) as refused:
                await asyncio.wait_for(writing, WAIT_SECONDS_MAX)
            assert refused.value.freeze == frozen.id
            assert await book.head() == frozen.id
    finally:
        await one.close()
        await two.close()


async def test_an_append_that_waits_while_its_type_is_registered_is_judged_anew(
    database: Database, start: Start[Any]
) -> None:
    one, two = await opened(database.url), await opened(database.url)
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    try:
        writers = EventTypes(two)
        # The process knows the rules as they were.
        await writers.append(1, append_request(note(n="text")))
        async with opened_book(database.url) as book:
            async with book.held() as gate:
                registering = start(
                    EventTypes(one).register(
                        1,
                        "noted",
                        NewVersion.model_validate({"schema": schema}),
                        by="admin:a",
                        key=None,
                    )
                )
                await book.waiting(1)
                fits = start(writers.append(1, append_request(note(n=1))))
                await book.waiting(2)
                await gate.open()
            await asyncio.wait_for(registering, WAIT_SECONDS_MAX)
            stored = await asyncio.wait_for(fits, WAIT_SECONDS_MAX)
            assert stored.first_position == 3
            with pytest.raises(Exception, match="does not fit version 1"):
                await writers.append(1, append_request(note(n="text")))
            changed = NewSettings(unregistered_types="refused")
            await EventTypes(one).change_settings(1, changed, by="admin:a", key=None)
            other = {**note(n=1), "event_type": "another"}
            with pytest.raises(Exception, match="not registered"):
                await writers.append(1, append_request(other))
    finally:
        await one.close()
        await two.close()


async def test_no_event_of_a_frozen_transaction_has_a_position_above_the_freeze(
    database: Database,
) -> None:
    """64 writers at full speed through two processes, one freeze in the middle of it."""
    event = {"agent_name": "w", "event_type": "t", "payload": {"transaction_id": "tx_1"}}
    with running_service(database.url) as one, running_service(database.url) as two:
        async with httpx2.AsyncClient(timeout=30) as client:
            frozen_at: list[int] = []
            stored = 0

            async def write(url: str) -> None:
                nonlocal stored
                while True:
                    answer = await client.post(f"{url}/events", json=event)
                    if answer.status_code == 423:
                        return
                    assert answer.status_code == 201, answer.text
                    stored += 1

            async def brake() -> None:
                async def at_full_speed() -> bool:
                    return stored >= WRITERS * 10

                await eventually(at_full_speed, "the writers to be at work", WAIT_SECONDS_MAX)
                body = {"tag": "transaction:tx_1", "reason": "Stop."}
                answer = await client.post(f"{two.url}/freezes", json=body)
                assert answer.status_code == 201, answer.text
                frozen_at.append(answer.json()["id"])

            urls = [(one.url, two.url)[n % 2] for n in range(WRITERS)]
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await asyncio.gather(brake(), *map(write, urls))
    async with opened_book(database.url) as book:
        above = await book.value(
            "select count(*) from counterfoil.event_tags where tag = 'transaction:tx_1' "
            "and position > %s",
            frozen_at[0],
        )
        below = await book.value(
            "select count(*) from counterfoil.event_tags where tag = 'transaction:tx_1'"
        )
    assert above == 0
    # The freeze is about the tag too, and bears it.
    assert below == stored + 1


async def test_each_payload_stands_under_the_version_that_was_active_at_its_position(
    database: Database,
) -> None:
    """Writers of two kinds of payload, and a schema that allows one kind, then the other."""
    kinds = ("integer", "string")
    with running_service(database.url) as one, running_service(database.url) as two:
        async with httpx2.AsyncClient(timeout=30) as client:
            done = False
            taken = [0, 0]

            async def write(n: int) -> None:
                kind = n % 2
                url = (one.url, two.url)[n // 2 % 2]
                payload = {"n": 1 if kind == 0 else "text"}
                event = {"agent_name": "w", "event_type": "t", "payload": payload}
                while not done:
                    answer = await client.post(f"{url}/events", json=event)
                    assert answer.status_code in (201, 422, 503), answer.text
                    taken[kind] += answer.status_code == 201

            async def change() -> None:
                nonlocal done
                for turn in range(8):
                    before = sum(taken)
                    schema = {"type": "object", "properties": {"n": {"type": kinds[turn % 2]}}}
                    body = {"schema": schema, "narrowing": True, "reason": "The other kind."}
                    answer = await client.put(f"{one.url}/event-types/t", json=body)
                    assert answer.status_code == 201, answer.text

                    async def some_more(enough: int = before + 50) -> bool:
                        return sum(taken) >= enough

                    await eventually(some_more, "more to be written", WAIT_SECONDS_MAX)
                done = True

            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await asyncio.gather(change(), *map(write, range(WRITERS)))
    assert min(taken) > 0
    async with opened_book(database.url) as book:
        wrong = await book.value(
            """
            select count(*) from counterfoil.events e
            join lateral (
                select t.schema #>> '{properties,n,type}' as kind from counterfoil.event_types t
                where t.tenant_id = e.tenant_id and t.event_type = e.event_type
                  and t.position < e.position
                order by t.version desc limit 1
            ) as active on true
            where e.event_type = 't'
              and (active.kind = 'integer') <> (jsonb_typeof(e.payload -> 'n') = 'number')
            """
        )
    assert wrong == 0
