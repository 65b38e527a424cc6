"""What the stored function demands of its transaction, and what it sets in it.

All the other races rest on these: that a statement sees what was committed while the one
before it waited, and that an acknowledged commit is a flushed one.
"""

from typing import Any, LiteralString

import psycopg
import pytest

from tests.support.appends import Caller, append_request, note, stored
from tests.support.cluster import Database
from tests.support.gates import Book, Session, opened_book
from tests.support.starting import Start

pytestmark = pytest.mark.anyio


@pytest.mark.promise("P4")
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_the_append_refuses_a_transaction_that_sees_one_snapshot_only(
    book: Book, level: LiteralString
) -> None:
    """There, what is committed during the wait for the lock stays unseen for ever."""
    head = await book.head()
    async with book.session() as session:
        await session.execute("set transaction isolation level " + level)
        with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED"):
            await session.append(append_request(note()))
    assert await book.head() == head


@pytest.mark.promise("P4")
async def test_a_database_whose_default_is_another_level_stores_nothing(
    database: Database,
) -> None:
    """Somebody sets it for all sessions: appends are refused, loudly, and not weakened."""
    async with opened_book(database.url) as book:
        await book.administer(
            "alter database {database} set default_transaction_isolation = serializable"
        )
        async with book.session() as session:
            with pytest.raises(psycopg.errors.InvalidTransactionState):
                await session.append(append_request(note()))
        assert await book.head() == 0


@pytest.mark.promise("P1")
@pytest.mark.parametrize(
    ("configured", "effective"),
    [
        ("off", "on"),
        ("local", "on"),  # would not wait for a standby that the server does wait for
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),  # asks for more than we do
    ],
)
async def test_a_commit_is_flushed_whatever_its_session_asks_for(
    book: Book, configured: str, effective: str
) -> None:
    """The setting that counts is the one at the commit, after the function has returned."""
    async with book.session() as session:
        await session.execute("select set_config('synchronous_commit', %s, false)", configured)
        await session.append(append_request(note()))
        assert await synchronous_commit(session) == effective
        await session.commit()
        # It was set for that transaction only.
        assert await synchronous_commit(session) == configured


@pytest.mark.promise("P1")
@pytest.mark.parametrize(
    "statement",
    [
        "alter database {database} set synchronous_commit = off",
        "alter role {role} in database {database} set synchronous_commit = off",
    ],
    ids=["database", "role"],
)
async def test_a_commit_is_flushed_whatever_the_configuration_says(
    database: Database, statement: LiteralString
) -> None:
    """An administrator who made everything else faster has not made this less durable."""
    async with opened_book(database.url) as book:
        await book.administer(statement)
        async with book.session() as session:
            assert await synchronous_commit(session) == "off"
            await session.append(append_request(note()))
            assert await synchronous_commit(session) == "on"


async def synchronous_commit(session: Session) -> str:
    """The setting as a commit of this session would find it now."""
    ((value,),) = await session.execute("select current_setting('synchronous_commit')")
    return str(value)


@pytest.mark.promise("P1")
async def test_a_lock_timeout_of_the_database_is_not_ours(database: Database) -> None:
    """The wait for the lock is bounded by what the service says, also where an
    administrator allows none or all the time of the world."""
    async with opened_book(database.url) as book:
        await book.administer("alter database {database} set lock_timeout = 0")
        async with book.held(), book.session() as session:
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await session.append(append_request(note()), lock_wait_milliseconds=1)


@pytest.mark.promise("P2")
async def test_the_clock_is_read_under_the_lock(
    book: Book, one: Caller, other: Caller, start: Start[Any]
) -> None:
    """A transaction that began long before its turn stores the time of its turn."""
    async with book.held() as gate:
        first = start(one.append(note(nth=1)))
        second = start(other.append(note(nth=2)))
        await book.waiting(2)
        opened_at = await book.value("select clock_timestamp()")
        await gate.open()
        ids = [stored(await first), stored(await second)]
    times = [
        time
        for (time,) in await book.rows(
            "select created_at from counterfoil.events"
            " where tenant_id = 1 and position = any (%s) order by position",
            ids,
        )
    ]
    assert opened_at < times[0] <= times[1]
    assert times == sorted(times)


@pytest.mark.promise("P2")
async def test_time_does_not_run_backwards_when_the_clock_does(database: Database) -> None:
    """The book's last event bears a time that the clock has not reached: a failover, or a
    clock that was set back. The next bears that very time, and the difference is told."""
    async with opened_book(database.url) as book, book.session() as session:
        await session.append(append_request(note(nth=1)))
        await session.commit()
        # No code path can do this: not even the owner may change an event.
        await book.administer("alter table counterfoil.events disable trigger user")
        await book.administer(
            "update counterfoil.events set created_at = created_at + interval '1 hour'"
        )
        group = await session.append_group(append_request(note(nth=2)))
        await session.commit()
        assert group.clock_ahead_seconds == pytest.approx(3_600, abs=60)
        assert await book.value("select count(distinct created_at) from counterfoil.events") == 1


@pytest.mark.promise("P2")
async def test_an_open_transaction_of_a_reader_holds_no_writer_up(book: Book, one: Caller) -> None:
    """A backup, a report: it sees its own snapshot, and the book grows beside it."""
    async with book.session() as report:
        await report.execute("set transaction isolation level repeatable read")
        count = "select count(*) from counterfoil.events where tenant_id = 1"
        before = await report.execute(count)
        for nth in range(3):
            stored(await one.append(note(nth=nth)))
        assert await report.execute(count) == before
