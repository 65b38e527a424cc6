"""Connections that are lost while an append is on its way, at every point of the way.

A proxy between the service and PostgreSQL holds the append still. The rule: what was sent
and not answered is of unknown outcome, is said to be, and is never sent again by the
service. Only the writer, with its key, may repeat it.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.support.appends import Caller, calling, note, problem, stored
from tests.support.cluster import Cluster, Database
from tests.support.gates import Book, opened_book
from tests.support.proxy import Proxy, proxying
from tests.support.service import running_service
from tests.support.starting import Start
from tests.support.waiting import eventually

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P1", "P5")]


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[tuple[Database, Proxy, str]]:
    """A service that reaches its database through a proxy."""
    with (
        cluster.database() as database,
        proxying(database.url) as proxy,
        running_service(proxy.url) as service,
    ):
        yield database, proxy, service.url


@pytest.fixture
def proxy(shared: tuple[Database, Proxy, str]) -> Proxy:
    """The proxy."""
    return shared[1]


@pytest.fixture
async def caller(shared: tuple[Database, Proxy, str]) -> AsyncIterator[Caller]:
    """An agent at the service."""
    async with calling(shared[2]) as opened:
        yield opened


@pytest.fixture
async def book(shared: tuple[Database, Proxy, str]) -> AsyncIterator[Book]:
    """The book, seen past the proxy."""
    async with opened_book(shared[0].url) as opened:
        yield opened


async def reaches(book: Book, head: int) -> None:
    """Wait until the book has grown to ``head``."""

    async def look() -> bool:
        return await book.head() == head

    await eventually(look, f"the book to reach {head}")


@pytest.mark.parametrize("size", [1, 3])
async def test_an_answer_that_is_lost_leaves_the_append_written_once(
    book: Book, proxy: Proxy, caller: Caller, tx: str, start: Start[Any], size: int
) -> None:
    """PostgreSQL has committed; the connection breaks before it can say so."""
    head = await book.head()
    catch = proxy.catch(tx.encode())
    posting = start(caller.batch([note(transaction_id=tx, nth=nth) for nth in range(size)]))
    await catch.arrived()
    assert await book.head() == head
    catch.forward()
    await reaches(book, head + size)
    # Committed and not acknowledged: the caller is told nothing before PostgreSQL answers.
    assert not posting.done()
    catch.cut()
    problem(await posting, 503, "outcome-unknown")
    assert stored(await caller.append(note(next=True))) == head + size + 1
    assert (await caller.read(tag=f"transaction:{tx}")).ids == list(
        range(head + 1, head + size + 1)
    )


async def test_an_append_that_is_lost_on_its_way_is_not_sent_again(
    book: Book, proxy: Proxy, caller: Caller, tx: str, start: Start[Any]
) -> None:
    """The connection breaks before PostgreSQL has seen the append. The service cannot know
    that, says so, and does not try on its own."""
    head = await book.head()
    catch = proxy.catch(tx.encode())
    again = proxy.catch(tx.encode())
    posting = start(caller.append(note(transaction_id=tx)))
    await catch.arrived()
    catch.cut()
    problem(await posting, 503, "outcome-unknown")
    assert stored(await caller.append(note(next=True))) == head + 1
    assert not again.seen
    proxy.forget(again)
    assert (await caller.read(tag=f"transaction:{tx}")).ids == []


async def test_an_answer_that_is_late_is_the_answer(
    book: Book, proxy: Proxy, caller: Caller, tx: str, start: Start[Any]
) -> None:
    """The commit is visible to others before its writer hears of it, and it is not told
    before it does."""
    head = await book.head()
    catch = proxy.catch(tx.encode())
    posting = start(caller.append(note(transaction_id=tx)))
    await catch.arrived()
    catch.forward()
    await reaches(book, head + 1)
    behind = start(caller.append(note(behind=True)))
    await caller.queued(1)
    assert not posting.done()
    catch.answer()
    assert stored(await posting) == head + 1
    assert stored(await behind) == head + 2


async def test_a_retry_that_races_its_own_lost_first_try_is_its_echo(
    book: Book, proxy: Proxy, caller: Caller, tx: str, start: Start[Any]
) -> None:
    """The first try waits at the lock, in PostgreSQL, when its connection is lost: it will
    be written after all, after its writer was told that nobody knows. The retry under the
    same key stands behind it, and is given its answer."""
    body = note(transaction_id=tx)
    head = await book.head()
    async with book.held() as gate:
        catch = proxy.catch(tx.encode())
        first = start(caller.append(body, key=tx))
        await catch.arrived()
        catch.forward()
        await book.waiting(1)
        catch.cut()
        problem(await first, 503, "outcome-unknown")
        assert await book.head() == head
        retry = start(caller.append(body, key=tx))
        await book.waiting(2)
        await gate.open()
        assert stored(await retry, replayed=True) == head + 1
    assert await book.head() == head + 1


async def test_everybody_in_a_group_is_told_that_its_outcome_is_unknown(
    book: Book, proxy: Proxy, caller: Caller, tx: str, start: Start[Any]
) -> None:
    """A group shares a commit, and so its uncertainty. What waits behind it does not."""
    head = await book.head()
    ahead = proxy.catch(b'"ahead":"%s"' % tx.encode())
    group = proxy.catch(b'"group":"%s"' % tx.encode())
    first = start(caller.append(note(ahead=tx)))
    await ahead.arrived()
    together = [start(caller.append(note(group=tx, nth=nth))) for nth in range(3)]
    await caller.queued(3)
    ahead.forward()
    ahead.answer()
    await group.arrived()
    behind = start(caller.append(note(behind=tx)))
    await caller.queued(1)
    group.forward()
    await reaches(book, head + 4)
    group.cut()
    assert stored(await first) == head + 1
    for task in together:
        problem(await task, 503, "outcome-unknown")
    assert stored(await behind) == head + 5


async def test_a_session_that_is_ended_in_the_middle_leaves_the_outcome_unknown(
    book: Book, caller: Caller, tx: str, start: Start[Any]
) -> None:
    """An administrator ends it at the lock. The server's last word arrives, but such a word
    may also come after a commit; so it counts for nothing. Nothing is sent again."""
    head = await book.head()
    async with book.held():
        posting = start(caller.append(note(transaction_id=tx)))
        ((pid, _, _),) = await book.waiting(1)
        assert await book.value("select pg_terminate_backend(%s)", pid)
        problem(await posting, 503, "outcome-unknown")
    assert stored(await caller.append(note(next=True))) == head + 1


@pytest.mark.promise("P13")
async def test_connections_that_broke_while_idle_are_nobodys_problem(
    book: Book, proxy: Proxy, caller: Caller, tx: str
) -> None:
    """A restart between two appends: nothing was under way, so nothing is unknown."""
    for nth in range(3):
        before = stored(await caller.append(note(transaction_id=tx, nth=nth)))
        if nth == 1:
            proxy.cut_all()
        else:
            await book.rows(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where datname = current_database() and application_name like 'counterfoil%'"
            )
        assert stored(await caller.append(note(transaction_id=tx))) == before + 1
        assert (await caller.read(tag=f"transaction:{tx}", order="desc", limit=1)).ids == [
            before + 1
        ]
