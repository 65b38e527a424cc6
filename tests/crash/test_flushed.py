"""A 2xx answer means flushed: at its moment, the flushed WAL covers the commit.

A kill -9 of PostgreSQL cannot show this: what it wrote and did not flush is safe with the
kernel, and only a power cut would tell. So the write-ahead log itself is asked. The
processes that flush it on their own account are stopped meanwhile, so that what is flushed
was flushed by whoever committed.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

from counterfoil.server.db.embedded import EmbeddedPostgres
from tests.support.appends import calling, flag, note, stored, unless_flagged
from tests.support.cluster import Cluster
from tests.support.gates import Book, opened_book
from tests.support.service import running_service

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("crash")]

FLUSHING = ("walwriter", "background writer", "checkpointer")


@contextlib.contextmanager
def nobody_else_flushes(server: EmbeddedPostgres) -> Iterator[None]:
    """Stop the processes that flush the log without having written to it."""
    with psycopg.connect(server.url) as connection:
        found = connection.execute(
            "select pid from pg_stat_activity where backend_type = any (%s)", [list(FLUSHING)]
        ).fetchall()
    assert len(found) == len(FLUSHING)
    try:
        for (pid,) in found:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for (pid,) in found:
            os.kill(pid, signal.SIGCONT)


async def flushed(book: Book) -> int:
    """How far the log is flushed, in bytes."""
    return int(await book.value("select pg_current_wal_flush_lsn() - '0/0'::pg_lsn"))


async def ends_of_commits(book: Book, since: int) -> dict[str, int]:
    """Where the record of each commit ends, by transaction; the log is flushed first."""
    await book.rows("select pg_switch_wal()")
    return {
        xid: int(end)
        for xid, end in await book.rows(
            "select xid::text, end_lsn - '0/0'::pg_lsn"
            " from pg_get_wal_records_info('0/0'::pg_lsn + %s::numeric, pg_current_wal_flush_lsn())"
            " where resource_manager = 'Transaction' and record_type like 'COMMIT%%'",
            since,
        )
    }


@pytest.mark.promise("P1")
async def test_every_answer_comes_after_the_flush_of_its_commit(
    server: EmbeddedPostgres, fragile: Cluster
) -> None:
    """Single, batch, conditional and keyed appends, each looked at the moment it is told.

    The first commit is the test's own, one that asks for no flush, and shows that the
    measure can tell.
    """
    with fragile.database() as database, running_service(database.url) as service:
        async with opened_book(database.url) as book, calling(service.url) as caller:
            await book.administer("create extension pg_walinspect")
            await book.administer("create table scratch (number integer)")
            since = int(await book.value("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
            told: list[tuple[int, int]] = []
            conditional = note(nth=3) | {"condition": unless_flagged("tx_1", after=None)}
            with nobody_else_flushes(server):
                await book.administer("insert into scratch values (1)")
                careless = await flushed(book)
                for nth in range(3):
                    for send in (
                        partial(caller.append, note(nth=1)),
                        partial(caller.batch, [note(nth=2)] * 50),
                        partial(caller.append, conditional),
                        partial(caller.append, flag("tx_2"), key=f"key-{nth}"),
                    ):
                        answer = await send()
                        told.append((await flushed(book), stored(answer)))
            ends = await ends_of_commits(book, since)
            transactions = dict(
                await book.rows(
                    "select position, xmin::text from counterfoil.events where tenant_id = 1"
                )
            )
            ((scratch,),) = await book.rows("select xmin::text from scratch")
    assert careless < ends[scratch], "the measure sees no missing flush"
    for flushed_to, position in told:
        assert flushed_to >= ends[transactions[position]], f"event {position} was not flushed"
