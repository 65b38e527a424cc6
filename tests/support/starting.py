"""Fixtures for tests in which something has to wait while something else goes on."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

Start = Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]]


@pytest.fixture
async def start() -> AsyncIterator[Start[Any]]:
    """Start something that will have to wait; what is left of it ends with the test."""
    tasks: list[asyncio.Task[Any]] = []

    def begin(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        tasks.append(task)
        return task

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def tx() -> str:
    """A transaction that no other test knows."""
    return f"tx_{uuid.uuid4().hex[:12]}"
