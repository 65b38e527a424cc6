"""What is read, and the head that comes with it, are one snapshot.

The race on the reader's side: events and head read one after the other, with a flag
committed in between. The approver then holds a head that covers a flag it never saw, and
its condition steps over it.

The gate: a statement takes its snapshot before it runs the functions that it calls, and a
function locks the tables that it reads only when it comes to them. So a session that holds
``event_tags`` exclusively stops a reader in the middle of its one statement, behind its
snapshot. Writers would wait there too; the flag is therefore written by the very session
that holds the table, and the commit that lets the reader go on is the flag's own.
"""

import json
from typing import Any

import pytest

from tests.support.appends import Caller, append_request, approval, flag, note, problem, stored
from tests.support.gates import Book, Session
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P3")]


async def stop_readers_of_tags(session: Session) -> None:
    """Let no other session read a tag until this one commits."""
    await session.execute("lock table counterfoil.event_tags in access exclusive mode")


@pytest.mark.promise("P4")
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_no_head_covers_a_flag_that_was_committed_during_the_read(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any], order: str
) -> None:
    """The reader is stopped behind its snapshot, the flag commits, the reader goes on."""
    opening = stored(await one.append(note(transaction_id=tx)))
    async with book.session(role=None) as flagger:
        await stop_readers_of_tags(flagger)
        reading = start(one.read(tag=f"transaction:{tx}", order=order))
        ((_, application_name, blocked_by),) = await book.waiting(1)
        assert (application_name, blocked_by) == ("counterfoil reads", [flagger.pid])
        flagged = await flagger.store(append_request(flag(tx)))
        await flagger.commit()
        seen = await reading
    assert flagged == opening + 1
    assert (seen.ids, seen.head) == ([opening], opening)
    # And so the decision on it falls.
    problem(await other.append(approval(tx, after=seen.head)), 409, "condition-failed")


async def test_a_whole_query_is_one_snapshot_too(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """Two items, the first of which never waits: a flag must not be in one half only."""
    opening = stored(await one.append(note(transaction_id=tx)))
    items = [
        {"agents": ["fraud_agent"], "types": ["flag_transaction"]},
        {"tags": [f"transaction:{tx}"]},
    ]
    async with book.session(role=None) as flagger:
        await stop_readers_of_tags(flagger)
        reading = start(one.query(items, after=opening - 1))
        await book.waiting(1)
        await flagger.append(append_request(flag(tx)))
        await flagger.commit()
        seen = await reading
    assert (seen.ids, seen.head) == ([opening], opening)


async def test_an_uncommitted_event_is_in_no_read_and_under_no_head(
    book: Book, one: Caller, tx: str
) -> None:
    """Reads wait for no writer: they show the book as it is without him."""
    async with book.session() as writer:
        hidden = await writer.store(append_request(flag(tx)))
        assert (await one.read(tag=f"transaction:{tx}")).head == hidden - 1
        assert (await one.read(order="desc", limit=1)).ids == [hidden - 1]
        latest = await one.client.get("/agent-events/fraud_agent")
        assert latest.headers["Counterfoil-Head"] == str(hidden - 1)
        assert all(event["payload"]["transaction_id"] != tx for event in latest.json())
        assert (await one.client.get(f"/events/{hidden}")).status_code == 404
        await writer.commit()
    assert (await one.get(hidden))["payload"]["transaction_id"] == tx


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_later_pages_show_nothing_above_the_head_of_the_first(
    one: Caller, other: Caller, tx: str, order: str
) -> None:
    """Between any two pages another process writes what matches."""
    tag = f"transaction:{tx}"
    written = stored(await one.batch([note(transaction_id=tx, nth=nth) for nth in range(7)]))
    asked: dict[str, str | int] = {"tag": tag, "order": order, "limit": 2}
    page = await one.read(**asked)
    pinned, seen = page.head, page.ids
    assert pinned >= written + 6
    pages = 1
    while page.next is not None:
        stored(await other.append(note(transaction_id=tx, late=pages)))
        page = await one.read(**asked, cursor=page.next)
        assert page.head == pinned
        seen += page.ids
        pages += 1
    assert pages == 4
    expected = list(range(written, written + 7))
    assert seen == (expected if order == "asc" else expected[::-1])


async def test_a_cursor_of_one_process_goes_on_at_another(
    one: Caller, other: Caller, tx: str
) -> None:
    """The pinned head travels in the cursor, and not in a process."""
    first = stored(await one.batch([note(transaction_id=tx, nth=nth) for nth in range(3)]))
    tag = f"transaction:{tx}"
    page = await one.read(tag=tag, limit=2)
    stored(await one.append(note(transaction_id=tx, late=True)))
    assert page.next is not None
    rest = await other.read(tag=tag, limit=2, cursor=page.next)
    assert (rest.ids, rest.head, rest.next) == ([first + 2], page.head, None)


async def test_every_process_shows_what_any_has_acknowledged(
    book: Book, one: Caller, other: Caller, tx: str
) -> None:
    """Read your writes, and everybody else's: by id, by tag, by agent, and in the list."""
    written = 0
    for nth, (writer, reader) in enumerate([(one, other), (other, one)] * 5):
        written = stored(
            await writer.append({**note(nth=nth, transaction_id=tx), "agent_name": tx})
        )
        seen = await reader.read(tag=f"transaction:{tx}", order="desc", limit=1)
        assert (seen.ids, seen.head) == ([written], written)
        assert (await reader.read(agent=tx, order="desc", limit=1)).ids == [written]
        assert (await reader.get(written))["payload"]["nth"] == nth
        latest = await reader.client.get(f"/agent-events/{tx}", params={"limit": 1})
        assert [event["id"] for event in json.loads(latest.text)] == [written]
    assert await book.head() == written
