"""A decision stands only if nothing it rests on has changed: the four writers' races.

Published ways to do this on PostgreSQL each let a flag slip past an approval in one of
these interleavings (section 2 of the design). A flag is always plain and unconditional
here: all writers count, whether or not they use conditions.
"""

import asyncio
from typing import Any

import pytest

from tests.support.appends import (
    Caller,
    append_request,
    approval,
    flag,
    note,
    problem,
    stored,
    unless_flagged,
)
from tests.support.gates import Book
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P4")]


async def test_a_flag_that_is_uncommitted_while_the_approver_reads_refuses_it(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """Locks per tag and "max position" fail here.

    The flag holds its position, uncommitted. The approver reads, and cannot see it. Its
    append waits for the lock. The flag commits. The approver must see it now.
    """
    async with book.session() as flagger:
        flagged = await flagger.store(append_request(flag(tx)))
        seen = await one.read(tag=f"transaction:{tx}")
        assert seen.ids == []
        assert seen.head == flagged - 1
        approving = start(one.append(approval(tx, after=seen.head)))
        ((_, application_name, blocked_by),) = await book.waiting(1)
        assert (application_name, blocked_by) == ("counterfoil appends", [flagger.pid])
        await flagger.commit()
        refusal = problem(await approving, 409, "condition-failed")
    assert [conflict["id"] for conflict in refusal["conflicts"]] == [flagged]
    assert refusal["conflicts"][0] == await one.get(flagged)
    assert refusal["head"] == flagged
    assert await book.head() == flagged


async def test_a_flag_that_is_rolled_back_refuses_nobody(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """The same, but the flag never happens: its position is given to the approval."""
    async with book.session() as flagger:
        flagged = await flagger.store(append_request(flag(tx)))
        approving = start(one.append(approval(tx, after=flagged - 1)))
        await book.waiting(1)
    assert stored(await approving) == flagged


async def test_conflicts_from_before_and_during_the_wait_are_both_shown(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """A condition is checked up to the head before the lock, and for the rest under it."""
    after = await book.head()
    early = stored(await one.append(flag(tx)))
    async with book.session() as flagger:
        late = await flagger.store(append_request(flag(tx)))
        approving = start(one.append(approval(tx, after=after)))
        await book.waiting(1)
        await flagger.commit()
        refusal = problem(await approving, 409, "condition-failed")
    assert [conflict["id"] for conflict in refusal["conflicts"]] == [early, late]


async def test_a_flag_before_a_conditional_approval_in_another_process_refuses_it(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """SERIALIZABLE for conditional writes alone fails here: it does not see plain writers.

    Both wait for the same lock, in two processes, the flag in front.
    """
    seen = await other.read(tag=f"transaction:{tx}")
    async with book.held() as gate:
        flagging = start(one.append(flag(tx)))
        (in_front,) = await book.waiting(1)
        approving = start(other.append(approval(tx, after=seen.head)))
        _, behind = await book.waiting(2)
        assert in_front.blocked_by == [gate.pid]
        assert in_front.pid in behind.blocked_by
        await gate.open()
        flagged = stored(await flagging)
        refusal = problem(await approving, 409, "condition-failed")
    assert [conflict["id"] for conflict in refusal["conflicts"]] == [flagged]


async def test_a_flag_behind_a_conditional_approval_in_another_process_comes_too_late(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """The other order: the approval stood before the flag, and the positions say so."""
    seen = await other.read(tag=f"transaction:{tx}")
    async with book.held() as gate:
        approving = start(other.append(approval(tx, after=seen.head)))
        await book.waiting(1)
        flagging = start(one.append(flag(tx)))
        await book.waiting(2)
        await gate.open()
        assert stored(await approving) == seen.head + 1
        assert stored(await flagging) == seen.head + 2


async def test_no_second_writer_overtakes_a_first_and_no_approver_steps_between(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """A lock for conditional writes alone fails here.

    There two plain writers commit in the inverse order of their positions: the second is
    seen first, the approver takes its position for ``after``, and has stepped over the
    flag that appears below it. Here the second plain writer waits for the first: while the
    flag is open, nothing above it can be seen, and ``after`` cannot lie above it.
    """
    async with book.session() as flagger:
        flagged = await flagger.store(append_request(flag(tx)))
        noting = start(one.append(note(second=True)))
        (second,) = await book.waiting(1)
        assert second.blocked_by == [flagger.pid]
        seen = await other.read(tag=f"transaction:{tx}")
        assert seen.head == flagged - 1
        approving = start(other.append(approval(tx, after=seen.head)))
        await book.waiting(2)
        await flagger.commit()
        assert stored(await noting) == flagged + 1
        problem(await approving, 409, "condition-failed")
    again = await other.read(tag=f"transaction:{tx}")
    assert again.ids == [flagged]
    assert again.head == flagged + 1
    # Whoever has seen the flag may decide all the same.
    assert stored(await other.append(approval(tx, after=again.head))) == again.head + 1


@pytest.mark.promise("P2")
async def test_positions_are_the_order_of_commits(
    book: Book, one: Caller, other: Caller, start: Start[Any]
) -> None:
    """Three plain writers, one a session that commits late: each waits for the one before."""
    async with book.session() as first:
        opening = await first.store(append_request(note(nth=1)))
        second = start(one.append(note(nth=2)))
        await book.waiting(1)
        third = start(other.append(note(nth=3)))
        await book.waiting(2)
        assert await book.head() == opening - 1
        await first.commit()
        assert stored(await second) == opening + 1
        assert stored(await third) == opening + 2


async def test_what_is_committed_during_the_wait_for_the_lock_is_seen(
    book: Book, tx: str, start: Start[Any]
) -> None:
    """Lock and check in one statement fails here: it looks through an old snapshot.

    Two sessions call the stored function themselves, so that nothing of the service lies
    between the interleaving and what is proved.
    """
    async with book.session() as flagger, book.session() as approver:
        flagged = await flagger.store(append_request(flag(tx)))
        head = flagged - 1
        approving = start(approver.append(append_request(approval(tx, after=head))))
        (waiting,) = await book.waiting(1)
        assert (waiting.pid, waiting.blocked_by) == (approver.pid, [flagger.pid])
        await flagger.commit()
        (refused,) = await approving
        await approver.commit()
    assert refused.status == "condition_failed"
    assert refused.detail == [flagged]
    assert refused.head == flagged


async def test_without_after_nothing_that_matches_may_exist_at_all(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """A condition without ``after`` races the first event of its kind, and loses."""
    async with book.session() as flagger:
        await flagger.append(append_request(flag(tx)))
        approving = start(one.append(approval(tx, after=None)))
        await book.waiting(1)
        await flagger.commit()
        problem(await approving, 409, "condition-failed")


async def test_of_many_conditional_writers_over_two_processes_exactly_one_wins(
    book: Book, one: Caller, other: Caller, tx: str, start: Start[Any]
) -> None:
    """Twenty agents have read the same head and each writes under the same condition."""
    head = await book.head()
    condition = {"fail_if": [{"tags": [f"transaction:{tx}"]}], "after": head}
    body = {"agent_name": "approver", "event_type": "approved", "payload": {"transaction_id": tx}}
    async with book.held() as gate:
        racing = [
            start(caller.append({**body, "condition": condition}))
            for caller in (one, other)
            for _ in range(10)
        ]
        await book.waiting(2)  # one group of each process
        await gate.open()
        answers = await asyncio.gather(*racing)
    winners = [stored(answer) for answer in answers if answer.status_code == 201]
    assert winners == [head + 1]
    for answer in answers:
        if answer.status_code != 201:
            refusal = problem(answer, 409, "condition-failed")
            assert [conflict["id"] for conflict in refusal["conflicts"]] == winners


async def test_a_batch_is_conditional_as_a_whole(
    book: Book, one: Caller, tx: str, start: Start[Any]
) -> None:
    """The flag that appears during the wait refuses every event of the batch."""
    async with book.session() as flagger:
        flagged = await flagger.store(append_request(flag(tx)))
        condition = unless_flagged(tx, after=flagged - 1)
        batching = start(one.batch([note(nth=nth) for nth in range(3)], condition=condition))
        await book.waiting(1)
        await flagger.commit()
        problem(await batching, 409, "condition-failed")
    assert await book.head() == flagged
