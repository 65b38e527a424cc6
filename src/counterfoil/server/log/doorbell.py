"""The doorbell: how one process learns that another has written, or given work back.

A process that wrote rings after its commit, through a connection of its own, at most once
in ``RING_SECONDS_MIN`` however many groups it wrote meanwhile. A process with live readers
listens on a direct connection. A ring may be lost and nothing is built on it: whoever
listens also looks at the book every ``STREAM_POLL_SECONDS``. It only makes a wait short.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Final

import psycopg
import structlog

from counterfoil.server.core import limits
from counterfoil.server.core.errors import Unavailable
from counterfoil.server.db.pool import patient_only_for_seconds
from counterfoil.server.log import store as log_store
from counterfoil.server.log.store import Store

RING_SECONDS_MIN: Final = 0.005
"""The least time between two rings of one process."""

_TENANT_ID: Final = re.compile("[0-9]{1,10}")

_CONSUMER: Final = "consumer:"

_log = structlog.get_logger(__name__)


class Ringer:
    """Tells the other processes of new heads, at its own pace."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rings: dict[tuple[int, str], str] = {}
        self._task: asyncio.Task[None] | None = None

    def ring(self, tenant_id: int, head: int) -> None:
        """Note that the tenant's book has grown to ``head``; returns at once."""
        self._ring(tenant_id, "", str(head))

    def ring_consumer(self, tenant_id: int, name: str) -> None:
        """Note that a consumer has something ready that was out before; returns at once."""
        self._ring(tenant_id, name, f"{_CONSUMER}{name}")

    def _ring(self, tenant_id: int, of: str, what: str) -> None:
        self._rings[tenant_id, of] = what
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="doorbell ringer")

    async def close(self) -> None:
        """Wait for the last ring. Nothing may be written any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._rings:
                rings, self._rings = self._rings, {}
                for (tenant_id, _), what in rings.items():
                    with contextlib.suppress(Unavailable):
                        await self._store.ring(tenant_id, what)
                await asyncio.sleep(RING_SECONDS_MIN)
        finally:
            self._task = None


class Listener:
    """Hears the rings of other processes and passes them on.

    Args:
        url: the connection string of a direct connection (``LISTEN`` belongs to a session,
            which a pooler of transactions does not give).
        heard: called for each ring with the tenant's id and the name of the consumer that it is
            about, None where the book has grown.
    """

    def __init__(self, url: str, heard: Callable[[int, str | None], None]) -> None:
        self._url = url
        self._heard = heard
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen from now on; calling it again changes nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="doorbell listener")

    async def close(self) -> None:
        """Stop listening and close the connection."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    patient_only_for_seconds(self._url),
                    autocommit=True,
                    application_name="counterfoil doorbell",
                ) as connection:
                    await log_store.listen(connection)
                    async for notification in connection.notifies():
                        tenant_id, _, what = notification.payload.partition(":")
                        # Anyone who may log in can notify: believe nothing but a number. A name
                        # is only looked up.
                        if _TENANT_ID.fullmatch(tenant_id):
                            about = what.startswith(_CONSUMER)
                            self._heard(
                                int(tenant_id), what.removeprefix(_CONSUMER) if about else None
                            )
            except psycopg.Error as error:
                _log.info("doorbell lost", sqlstate=error.sqlstate)
            await asyncio.sleep(limits.RETRY_AFTER_SECONDS)
