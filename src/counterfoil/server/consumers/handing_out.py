"""Everything about consumers that one process has, put together."""

from typing import Final

from counterfoil.server.consumers.dead_letters import DeadLetters
from counterfoil.server.consumers.figures import Figures
from counterfoil.server.consumers.lanes import Lanes
from counterfoil.server.consumers.operations import Consumers
from counterfoil.server.consumers.store import ConsumerStore
from counterfoil.server.consumers.upkeep import Upkeep
from counterfoil.server.consumers.working import Work
from counterfoil.server.core import limits
from counterfoil.server.core.settings import Settings
from counterfoil.server.db.pool import Pool
from counterfoil.server.log.operations import Log

CONNECTIONS_MAX: Final = 4
"""Groups of consumers' calls that one process has in the database at the same moment."""


class HandingOut:
    """Consumers, the work for them, and what was set aside."""

    def __init__(self, log: Log, settings: Settings) -> None:
        self._pool = Pool(
            settings.database_url.get_secret_value(),
            name="consumers",
            statement_milliseconds_max=limits.READ_STATEMENT_MILLISECONDS_MAX,
            size_min=1,
            size_max=CONNECTIONS_MAX,
            prepare=settings.prepare_statements,
        )
        store = ConsumerStore(log.reader, prepare=settings.prepare_statements)
        self._lanes = Lanes(log, store, self._pool)
        self._upkeep = Upkeep(log, store, self._lanes)
        self.consumers = Consumers(log, store, self._lanes)
        self.work = Work(log, store, self._lanes)
        self.dead_letters = DeadLetters(log, store, self._lanes)
        self.figures = Figures(store)

    async def open(self) -> None:
        """Begin to connect, and to look after what nobody claims."""
        await self._pool.open()
        self._upkeep.start()

    def closing(self) -> None:
        """The process is about to stop: answer the claims that wait."""
        self._lanes.closing()

    async def close(self) -> None:
        """Finish what was accepted, then let go of the database."""
        await self._upkeep.close()
        await self._lanes.close()
        await self._pool.close()
