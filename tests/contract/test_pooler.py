"""Services behind a real pgbouncer in transaction mode: all works, and nothing leaks.

The pooler has two sessions of the server for everybody: the services of two books and the
onlooker of these tests, who all come in by one login. What one transaction leaves on a session
(a setting, a role, a prepared statement), another finds there; pgbouncer cleans up nothing.

The schema belongs to an ordinary login, so that row-level security applies to all of it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final, NamedTuple

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from counterfoil.server.db.statement import Statement
from tests.support.appends import (
    Caller,
    Json,
    approval,
    calling,
    flag,
    note,
    problem,
    stored,
)
from tests.support.cluster import Cluster
from tests.support.decisions import INCOME, Office
from tests.support.keys import BOOTSTRAP, holder_of
from tests.support.owner import Owned, login_of, ordinarily_owned
from tests.support.pgbouncer import SESSIONS_MAX, Pooler, running_pgbouncer
from tests.support.service import Service, running_service
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

STATEMENT_TIMEOUT: Final = "15s"
"""Set on the login, as the operations guide says."""

CALLERS: Final = 8
"""Clients at once: four for each session of the server."""

APPENDS: Final = 10
"""What each of them writes."""

# Asked of the catalogue and of the settings, so it sees what the session holds by itself.
_LOOK: Final = """
    select pg_backend_pid(), current_setting('counterfoil.tenant_id', true),
           current_setting('counterfoil.books', true),
           current_setting('counterfoil.presented_keys', true),
           current_setting('statement_timeout'), current_setting('role'), current_user::text,
           current_setting('synchronous_commit'),
           (select count(*) from pg_prepared_statements),
           (select count(*) from counterfoil.events)
"""


class Seen(NamedTuple):
    """What somebody finds who is lent a session of the server."""

    pid: int
    tenant_id: str | None
    books: str | None
    presented_keys: str | None
    statement_timeout: str
    role: str
    current_user: str
    synchronous_commit: str
    prepared: int
    events: int


@dataclass(frozen=True, slots=True)
class Behind:
    """Two services behind one pooler, and a key for each of two books.

    Attributes:
        keys: the operator's, who may do everything in the first book; an agent's of the second.
    """

    owned: Owned
    pooler: Pooler
    services: tuple[Service, Service]
    keys: tuple[str, str]

    @asynccontextmanager
    async def callers(self) -> AsyncIterator[tuple[Caller, Caller]]:
        """Somebody at each service who writes into a book of their own."""
        (one, other), (key, other_key) = self.services, self.keys
        async with (
            calling(one.url, key=key) as first,
            calling(other.url, key=other_key) as second,
        ):
            yield first, second


@contextmanager
def serving(pooler: Pooler) -> Iterator[Service]:
    with running_service(pooler.url, api_key=BOOTSTRAP, environment=pooler.environment) as service:
        yield service


@pytest.fixture(scope="module")
def behind(cluster: Cluster) -> Iterator[Behind]:
    with ordinarily_owned(cluster) as owned:
        with psycopg.connect(owned.administrator.url, autocommit=True) as administrator:
            administrator.execute(
                sql.SQL("alter role {} set statement_timeout = {}").format(
                    sql.Identifier(login_of(owned.service)), sql.Literal(STATEMENT_TIMEOUT)
                )
            )
        with (
            running_pgbouncer(owned.service) as pooler,
            serving(pooler) as one,
            serving(pooler) as other,
            holder_of(one) as operator,
        ):
            agent = operator.tenant("second").made(kind="agent", name="writer")
            yield Behind(owned, pooler, (one, other), (BOOTSTRAP, agent.text))


@asynccontextmanager
async def session_of(pooler: Pooler) -> AsyncIterator[AsyncConnection]:
    """A client of the pooler, which prepares nothing."""
    async with await AsyncConnection.connect(
        pooler.url, autocommit=True, prepare_threshold=None
    ) as connection:
        yield connection


async def look(connection: AsyncConnection) -> Seen:
    """What the next session holds that the pooler lends."""
    row = await (await connection.execute(_LOOK)).fetchone()
    assert row is not None
    return Seen(*row)


def assert_clean(seen: Seen, behind: Behind) -> None:
    """Nothing is left of whoever had the session before: it is as the login begins."""
    # A setting that has ended reads as an empty string on that session, and not as null.
    assert not seen.tenant_id
    assert not seen.books
    assert not seen.presented_keys
    assert seen.statement_timeout == STATEMENT_TIMEOUT
    assert seen.role == "none"
    assert seen.current_user == login_of(behind.owned.service)
    assert seen.synchronous_commit == "on"
    assert seen.prepared == 0
    assert seen.events == 0, "who names no tenant sees nothing"


# --- What is called ---------------------------------------------------------------


@pytest.mark.promise("P4", "P5")
async def test_every_kind_of_append_works(behind: Behind) -> None:
    async with behind.callers() as callers:
        for agent in callers:
            head = (await agent.read(limit=1)).head
            flagged = flag("tx_kinds") | {"agent_name": "writer"}
            first = stored(await agent.append(flagged, key="kinds"))
            assert first == head + 1
            assert stored(await agent.append(flagged, key="kinds"), replayed=True) == first

            early = approval("tx_kinds", after=head) | {"agent_name": "writer"}
            refused = problem(await agent.append(early), 409, "condition-failed")
            assert [event["id"] for event in refused["conflicts"]] == [first]
            later = approval("tx_kinds", after=first) | {"agent_name": "writer"}
            assert stored(await agent.append(later)) == first + 1

            batch = await agent.batch([note(nth=1), note(nth=2)], key="batch")
            assert batch.json()["ids"] == [first + 2, first + 3]


@pytest.mark.promise("P3")
async def test_every_kind_of_read_works(behind: Behind) -> None:
    async with behind.callers() as callers:
        for agent in callers:
            ids = [
                stored(await agent.append(note(nth=nth, shelf_id="reads"))) for nth in range(1, 6)
            ]
            first = await agent.read(tag="shelf:reads", limit=2)
            second = await agent.read(tag="shelf:reads", limit=2, cursor=str(first.next))
            third = await agent.read(tag="shelf:reads", limit=2, cursor=str(second.next))
            assert first.ids + second.ids + third.ids == ids
            assert third.next is None

            asked = await agent.query([{"agents": ["writer"], "tags": ["shelf:reads"]}])
            assert asked.ids == ids
            assert (await agent.get(ids[0]))["payload"] == {"nth": 1, "shelf_id": "reads"}
            latest = await agent.client.get("/agent-events/writer", params={"limit": 1})
            assert [event["id"] for event in latest.json()] == [ids[-1]]


async def test_both_services_are_ready(behind: Behind) -> None:
    async with behind.callers() as callers:
        for agent in callers:
            answer = await agent.client.get("/health/ready")
            assert answer.status_code == 200, answer.text


@pytest.mark.promise("P5", "P8")
async def test_work_is_handed_over(behind: Behind) -> None:
    """Claimed here and acknowledged there; and a claim that waits hears of what is let go there."""
    one, other = behind.services
    async with (
        calling(one.url, key=BOOTSTRAP) as here,
        calling(other.url, key=BOOTSTRAP) as there,
        session_of(behind.pooler) as session,
    ):

        async def call(caller: Caller, what: str, key: str | None = None, **body: object) -> Json:
            answer = await caller.client.post(
                f"/consumers/pooled/{what}",
                json=body,
                headers={} if key is None else {"Idempotency-Key": key},
            )
            assert answer.is_success, answer.text
            answered: Json = answer.json()
            return answered

        query = [{"types": ["noted"], "tags": ["shelf:work"]}]
        put = {"query": query, "order_by": "shelf"}
        assert (await here.client.put("/consumers/pooled", json=put)).status_code == 201
        for _ in range(3):
            stored(await here.append(note(shelf_id="work")))
        claim: Json = {"holder": "h", "count": 10}
        (first,) = (await call(here, "claim", "claim", **claim))["deliveries"]
        assert (await call(there, "claim", "claim", **claim))["deliveries"] == [first]
        waiting = asyncio.create_task(call(here, "claim", holder="h2", wait_seconds=20))

        async def listening() -> list[int]:
            return listeners(behind)

        await eventually(listening, "its process to listen")
        await call(there, "extend", tokens=[first["token"]])
        outcome = note(shelf_id="done")
        await call(there, "ack", "ack", tokens=[first["token"]], events=[outcome])
        (second,) = (await waiting)["deliveries"]
        await call(there, "set-aside", tokens=[second["token"]], reason="No.")
        await call(here, "dead-letters/drop", all=True, reason="No.")
        await call(here, "pause", reason="Wait.")
        await call(there, "resume", reason="On.")
        (third,) = (await call(there, "claim", **claim))["deliveries"]
        await call(here, "release", tokens=[third["token"]])
        await call(here, "seek", to="now", reason="Enough.")
        assert (await here.client.delete("/consumers/pooled")).status_code == 200
        assert_clean(await look(session), behind)


@pytest.mark.promise("P9", "P5")
async def test_decisions_are_made_and_replayed(behind: Behind) -> None:
    """Drafted and put in force here, decided there, under one key by many at once."""
    one, other = behind.services

    def decide() -> None:
        with holder_of(one) as here, holder_of(other) as there:
            office = Office.of(here)
            office.in_force()
            office.known(debt=120_000)
            elsewhere = replace(office, decider=replace(office.decider, client=there.client))
            with ThreadPoolExecutor(CALLERS) as executor:
                each = [executor.submit(elsewhere.asked, key="k") for _ in range(CALLERS)]
                answers = [asked.result() for asked in each]
            assert {answer.status_code for answer in answers} == {201}
            (made,) = {answer.json()["id"] for answer in answers}
            assert office.asked().status_code == 409
            office.signal(INCOME, 900_000)
            why = {"decision": made, "reason": "The income was corrected."}
            anew = elsewhere.decided(supersedes=why)
            assert anew["outcome"] == "approve"
            for decision in (made, anew["id"]):
                replay = elsewhere.decider.post(f"/decisions/{decision}/replay", {}).json()
                assert (replay["identical"], replay["signals"]) == (True, "identical")

    async with session_of(behind.pooler) as session:
        await asyncio.to_thread(decide)
        assert_clean(await look(session), behind)


@pytest.mark.promise("P2")
async def test_a_live_stream_hears_of_what_another_process_writes(behind: Behind) -> None:
    """Its doorbell hangs on a session of its own, around the pooler."""
    one, other = behind.services
    async with (
        calling(one.url, key=BOOTSTRAP) as reader,
        calling(other.url, key=BOOTSTRAP) as writer,
        reader.follow(tag="shelf:live") as stream,
    ):

        async def listening() -> list[int]:
            return listeners(behind)

        listens = await eventually(listening, "the reader's process to listen")
        written = [stored(await writer.append(note(nth=nth, shelf_id="live"))) for nth in range(3)]
        told = await stream.events(3)
        assert [message.position for message in told] == written
        async with session_of(behind.pooler) as connection:
            assert (await look(connection)).pid not in listens


def listeners(behind: Behind) -> list[int]:
    """The sessions of the service's login that PostgreSQL says are doorbells."""
    with psycopg.connect(behind.owned.administrator.url) as administrator:
        rows = administrator.execute(
            "select a.pid from pg_stat_activity a join pg_locks l on l.pid = a.pid "
            "where a.usename = %s and a.application_name = 'counterfoil doorbell' "
            "and l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted",
            [login_of(behind.owned.service)],
        ).fetchall()
    return [pid for (pid,) in rows]


# --- Sessions that are shared -----------------------------------------------------


@pytest.mark.promise("P2", "P7")
async def test_two_books_share_sessions_and_leave_nothing_on_them(behind: Behind) -> None:
    """Clients of two services write and read at once, and an onlooker looks in between."""
    async with behind.callers() as callers, session_of(behind.pooler) as onlooker:
        heads = [(await agent.read(limit=1)).head for agent in callers]
        seen: list[Seen] = []
        calls = [
            asyncio.create_task(write_and_read(callers[nth % 2], nth)) for nth in range(CALLERS)
        ]
        while not all(call.done() for call in calls):
            seen.append(await look(onlooker))
        written = [await call for call in calls]
        seen.append(await look(onlooker))

        for nth, (agent, head) in enumerate(zip(callers, heads, strict=True)):
            ids = sorted(chain.from_iterable(written[nth::2]))
            assert ids == list(range(head + 1, head + 1 + APPENDS * CALLERS // 2))
            page = await agent.read(tag="shelf:shared", limit=1_000)
            assert page.ids == ids
            owners = {event["payload"]["nth"] % 2 for event in page.events}
            assert owners == {nth}, "each book holds what was written into it"

    for found in seen:
        assert_clean(found, behind)
    assert len(sessions(behind)) <= SESSIONS_MAX
    assert {found.pid for found in seen} <= sessions(behind)


async def write_and_read(agent: Caller, nth: int) -> list[int]:
    """Append with and without a key, reading after each; the positions."""
    written: list[int] = []
    for count in range(APPENDS):
        body: Json = note(nth=nth, count=count, shelf_id="shared")
        key = f"shared-{nth}-{count}" if count % 2 else None
        written.append(stored(await agent.append(body, key=key)))
        assert (await agent.get(written[-1]))["payload"]["nth"] == nth
    return written


def sessions(behind: Behind) -> set[int]:
    """The server's sessions of the login, but the doorbells."""
    with psycopg.connect(behind.owned.administrator.url) as administrator:
        rows = administrator.execute(
            "select pid from pg_stat_activity where usename = %s",
            [login_of(behind.owned.service)],
        ).fetchall()
    return {pid for (pid,) in rows} - set(listeners(behind))


@pytest.mark.promise("P7")
async def test_the_tenant_and_its_statement_are_one_transaction_on_one_session(
    behind: Behind,
) -> None:
    """However many clients are at it: each statement sees the tenant that was sent with it."""
    statement = Statement(
        "where_am_i",
        "select pg_backend_pid(), counterfoil.current_tenant(), count(*), min(tenant_id), "
        "max(tenant_id) from counterfoil.books where %(one)s::integer = 1",
    )
    seen: list[Seen] = []
    pids: set[str | None] = set()

    async def ask(tenant_id: int) -> None:
        async with session_of(behind.pooler) as connection:
            for _ in range(50):
                ((pid, *found),) = await statement.run(
                    connection, {"one": 1}, prepare=False, tenant_id=tenant_id
                )
                pids.add(pid)
                assert found == [str(tenant_id), "1", str(tenant_id), str(tenant_id)]
                seen.append(await look(connection))

    await asyncio.gather(*(ask(nth % 2 + 1) for nth in range(CALLERS)))
    for found in seen:
        assert_clean(found, behind)
    assert len(pids) <= SESSIONS_MAX


@pytest.mark.promise("P7")
async def test_a_statement_that_fails_leaves_no_tenant_behind(behind: Behind) -> None:
    statement = Statement("fails", "select 1 / %(zero)s::integer")
    async with session_of(behind.pooler) as connection:
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero):
                await statement.run(connection, {"zero": 0}, prepare=False, tenant_id=2)
            assert_clean(await look(connection), behind)
