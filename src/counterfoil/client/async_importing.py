"""The sending of an import: several batches in flight, and what ends it. Asynchronous only."""

from __future__ import annotations

import asyncio
from typing import Final

from counterfoil.client.async_client import AsyncCounterfoil
from counterfoil.client.errors import (
    CounterfoilError,
    IdempotencyMismatch,
    InvalidRequestError,
    UnsendableValue,
)
from counterfoil.client.importing import Batch, Book, FileChanged, Import, LineRefused

IMPORT_RETRIES_MAX: Final = 20
"""Attempts of one batch after the first: the waits between them come to about two minutes,
which is what a restart of the service or a failover of its database may take."""


async def book_of(cf: AsyncCounterfoil) -> Book:
    """Which book the service holds.

    Raises:
        APIError: the service cannot be reached, or refuses the key.
    """
    page = await anext(cf.events.list(order="desc", limit=1).pages())
    return Book(page.incarnation, page.head)


async def send(cf: AsyncCounterfoil, work: Import, *, connections: int) -> None:
    """Send every batch of ``work``, up to ``connections`` of them at a time.

    With one connection, events take their ids in the order of the file; with more, batches
    may change places, and within a batch the order is kept. The first batch is always sent
    alone: if it is refused, nothing else has been written that would have to keep its place.

    At the first batch that cannot be written, no other is begun, and those in flight are
    waited for; the error of the batch that stands first in the file is raised.

    Raises:
        LineRefused, FileChanged: a line, or the file, cannot go on.
        CounterfoilError: as ``events.append_lines``.
    """
    failures: list[tuple[int, CounterfoilError]] = []

    async def take(batches_max: int | None = None) -> None:
        while not failures and batches_max != 0:
            place = work.lines_read
            try:
                batch = work.next()
                if batch is None:
                    return
                place = batch.first_line
                await _write(cf, work, batch)
            except CounterfoilError as error:
                failures.append((place, error))
            if batches_max is not None:
                batches_max -= 1

    await take(1)
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(take())
    if failures:
        _, first = min(failures, key=lambda failure: failure[0])
        raise first


async def _write(cf: AsyncCounterfoil, work: Import, batch: Batch) -> None:
    try:
        stored = await cf.events.append_lines(batch.lines, idempotency_key=batch.key)
    except (InvalidRequestError, UnsendableValue) as error:
        raise LineRefused(batch.faults_of(error), batch.first_line, batch.last_line) from error
    except IdempotencyMismatch as error:
        raise FileChanged(batch.first_line, batch.last_line) from error
    work.acknowledge(batch, stored)
