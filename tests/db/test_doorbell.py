"""The doorbell: anyone who may log in can ring it, with whatever they like."""

import psycopg
import pytest

from counterfoil.server.log.doorbell import Listener
from tests.support.cluster import Database
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "rubbish", ["", ":", "one:1", "-1:1", "9" * 5_000, "9" * 5_000 + ":1", "\u0661:1", "1.0:1"]
)
async def test_rubbish_at_the_doorbell_does_not_silence_it(
    database: Database, rubbish: str
) -> None:
    heard: list[tuple[int, str | None]] = []
    listener = Listener(database.url, lambda *what: heard.append(what))
    listener.start()
    try:
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as somebody:

            async def ring_until_heard() -> bool:
                # In one transaction, so that who hears the second has heard the first.
                await somebody.execute(
                    "select pg_notify('counterfoil_heads', %s), "
                    "pg_notify('counterfoil_heads', '7:42')",
                    [rubbish],
                )
                return bool(heard)

            await eventually(ring_until_heard, "the ring to be heard")
    finally:
        await listener.close()
    assert set(heard) == {(7, None)}
