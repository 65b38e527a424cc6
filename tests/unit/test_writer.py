"""How the callers of a group are answered. What a group is, is looked at in ``tests/db`` and above."""

import asyncio

import pytest

from counterfoil.server.log.store import AppendResult
from counterfoil.server.log.writer import _ANSWERS_AT_ONCE, _answer, _Waiting
from tests.support.virtual_time import passes_of_the_loop
from tests.unit.appends import append, event

pytestmark = pytest.mark.promise("P7")

GROUP = 15


def result(position: int) -> AppendResult:
    return AppendResult("stored", position, 1, "2026-01-01T00:00:00Z", position, None)


@pytest.mark.parametrize("gone", [[], [0], [3, 4, 5], list(range(GROUP))])
def test_a_group_is_answered_a_few_at_a_time_in_its_order_and_to_the_last(gone: list[int]) -> None:
    """What arrives meanwhile, of whichever tenant, comes between two of them."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        group = [_Waiting(append(event()), loop) for _ in range(GROUP)]
        for number in gone:
            group[number].future.cancel()
        heard: list[int] = []

        async def caller(number: int, waiting: _Waiting) -> None:
            waiting.send()
            assert await waiting.future == result(number)
            heard.append(number)

        callers = [asyncio.create_task(caller(*numbered)) for numbered in enumerate(group)]
        await passes_of_the_loop(1)
        there = [number for number in range(GROUP) if number not in gone]
        _answer([(waiting, result(number)) for number, waiting in enumerate(group)])
        for _ in range(GROUP):
            before = len(heard)
            await passes_of_the_loop(1)
            assert len(heard) - before <= _ANSWERS_AT_ONCE
        assert heard == there
        await asyncio.gather(*callers, return_exceptions=True)

    asyncio.run(go())


def test_an_answer_alone_is_given_at_once() -> None:
    async def go() -> None:
        waiting = _Waiting(append(event()), asyncio.get_running_loop())
        waiting.send()
        _answer([(waiting, result(1))])
        assert waiting.future.result() == result(1)

    asyncio.run(go())
