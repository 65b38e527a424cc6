"""Whose call it is: what is asked of the database, when, and by how many at once.

The database is a real one. It holds its answers back where a session has locked the table of the
keys, and goes away where it lets nobody in any more. How often it was asked is counted on the way.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Final

import pytest
from pydantic import SecretStr

from counterfoil.server.access.key_text import new_key
from counterfoil.server.access.keyring import BOOTSTRAP, Keyring
from counterfoil.server.access.model import NewKey, NewTenant, Revocation
from counterfoil.server.access.operations import Access
from counterfoil.server.access.store import AccessStore, State, StoredKey
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, DatabaseUnavailable, Unauthenticated
from counterfoil.server.core.settings import Settings
from counterfoil.server.log.operations import Log
from tests.support.cluster import Cluster, Database
from tests.support.gates import Book, opened_book
from tests.support.waiting import WAIT_SECONDS_MAX

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P7")]

HOLD: Final = "lock table counterfoil.keys in access exclusive mode"


class CountedStore(AccessStore):
    """The service's own store, which remembers what it was asked."""

    def __init__(self, log: Log) -> None:
        super().__init__(log.reader)
        self.asked: list[list[str]] = []

    async def presented(self, key_ids: Sequence[str]) -> list[StoredKey]:
        self.asked.append(list(key_ids))
        return await super().presented(key_ids)


class Ring:
    """A process's keyring, over a database with whatever keys are made in it."""

    def __init__(self, log: Log, book: Book) -> None:
        self.access = Access(log, api_key=None, is_open=False)
        self.book = book
        self.store = CountedStore(log)
        self.keys = Keyring(self.store, self.access.trail, api_key=None, is_open=False)

    async def key(self) -> list[bytes]:
        """Make an agent's key, as an operator does; returns it as it is presented."""
        asked = NewKey(kind="agent", name="a")
        made = await self.access.create_key(BOOTSTRAP.principal, asked, key=None)
        return [json.loads(made.text)["key"].encode()]

    async def make(self, key_id: str, state: State) -> None:
        """Have a key be what it can become."""
        if state == "revoked":
            lost = Revocation(reason="It was lost.")
            await self.access.revoke_key(BOOTSTRAP.principal, key_id, lost, key=None)
        elif state == "expired":
            await self.book.administer(
                "update counterfoil.keys set expires_at = clock_timestamp() - interval '1 second' "
                "where key_id = {key_id}",
                key_id=key_id,
            )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools that are opened after this wait for a connection for a second only."""
    monkeypatch.setattr(limits, "CONNECTION_WAIT_SECONDS_MAX", 1.0)


@pytest.fixture
async def ring(database: Database) -> AsyncIterator[Ring]:
    log = await Log.open(Settings(database_url=SecretStr(database.url)))
    async with opened_book(database.url) as book:
        opened = Ring(log, book)
        yield opened
        await opened.keys.close()
        await opened.access.close()
    await log.close()


def id_of(presented: list[bytes]) -> str:
    return presented[0].decode().split("_")[2]


def nobodys() -> list[bytes]:
    """A credential with the form of a key, which was never made."""
    return [new_key("live").text.encode()]


async def test_a_key_is_looked_up_once_and_then_trusted_for_a_while(ring: Ring) -> None:
    acme = NewTenant(name="acme")
    made = await ring.access.create_tenant(BOOTSTRAP.principal, acme, key=None)
    presented = [json.loads(made.text)["key"]["key"].encode()]
    assert ring.keys.admitted(presented) is None
    admission = await ring.keys.admit(presented)
    whose = admission.principal
    assert (whose.id, whose.tenant_id, whose.tenant_name) == ("admin:admin", 2, "acme")
    for _ in range(100):
        assert ring.keys.admitted(presented) is admission
    assert ring.store.asked == [[id_of(presented)]]


async def test_everybody_who_comes_meanwhile_is_looked_up_together(ring: Ring) -> None:
    """However many strangers try: one look at a time, and so one connection."""
    mine, strangers = await ring.key(), [nobodys() for _ in range(20)]
    async with ring.book.session(role=None) as session:
        await session.execute(HOLD)
        first = asyncio.create_task(ring.keys.admit(mine))
        await ring.book.waiting(1)
        tries = [asyncio.create_task(ring.keys.admit(each)) for each in (mine, *strangers) * 2]
        await asyncio.sleep(0)  # all of them have asked
        await ring.book.waiting(1)
        assert ring.store.asked == [[id_of(mine)]]
        await session.commit()
    results = await asyncio.gather(first, *tries, return_exceptions=True)
    assert [type(result) for result in results].count(Unauthenticated) == 40
    assert ring.store.asked[1:] == [[id_of(mine), *map(id_of, strangers)]]
    # That they are not there is known now.
    with pytest.raises(Unauthenticated):
        ring.keys.admitted(strangers[0])
    assert len(ring.store.asked) == 2


async def test_more_strangers_than_may_wait_are_told_to_come_again(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEY_LOOKUPS_MAX", 3)
    async with ring.book.session(role=None) as session:
        await session.execute(HOLD)
        first = asyncio.create_task(ring.keys.admit(nobodys()))
        await ring.book.waiting(1)
        waiting = [asyncio.create_task(ring.keys.admit(nobodys())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await ring.keys.admit(nobodys())
        await session.commit()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert {type(result) for result in results} == {Unauthenticated}


@pytest.mark.parametrize("state", ["expired", "revoked"])
async def test_only_who_has_the_secret_is_told_what_became_of_the_key(
    ring: Ring, state: State
) -> None:
    presented = await ring.key()
    await ring.make(id_of(presented), state)
    with pytest.raises(Unauthenticated, match=state):
        await ring.keys.admit(presented)
    wrong = f"cf_live_{id_of(presented)}_{'a' * 52}".encode()
    other_mode = presented[0].replace(b"cf_live", b"cf_test")
    for credential in (wrong, other_mode):
        with pytest.raises(Unauthenticated) as refused:
            await ring.keys.admit([credential])
        assert state not in str(refused.value)
    await ring.access.close()  # tells what it has not told yet
    reasons = await ring.book.value(
        "select payload -> 'reasons' from counterfoil.events "
        "where event_type = 'counterfoil.access_refused'"
    )
    assert reasons == {state: 1, "wrong_secret": 2}


async def test_what_changed_ends_what_watches(ring: Ring) -> None:
    presented = await ring.key()
    admission = await ring.keys.admit(presented)
    ended, left = asyncio.Event(), asyncio.Event()
    ring.keys.watch(admission, ended.set)
    ring.keys.watch(admission, left.set)()
    await ring.make(id_of(presented), "revoked")
    await asyncio.wait_for(ended.wait(), WAIT_SECONDS_MAX)
    assert not left.is_set()
    # Somebody who comes with the admission from before is told at once.
    late = asyncio.Event()
    ring.keys.watch(admission, late.set)
    assert late.is_set()


@pytest.mark.usefixtures("impatient")
async def test_a_key_that_cannot_be_looked_up_any_more_ends_what_watches(
    ring: Ring, cluster: Cluster, database: Database
) -> None:
    """The database lets nobody in any more, and throws out who is in."""
    presented = await ring.key()
    admission = await ring.keys.admit(presented)
    ended = asyncio.Event()
    ring.keys.watch(admission, ended.set)
    cluster.execute("ALTER DATABASE {} ALLOW_CONNECTIONS false", database.name)
    await ring.book.rows(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    await asyncio.wait_for(ended.wait(), WAIT_SECONDS_MAX)
    with pytest.raises(DatabaseUnavailable):
        await ring.keys.admit(presented)
