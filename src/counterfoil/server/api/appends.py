"""The way of an append from a judged body into the book, past everything that may stop it.

1. The key: may it write under this name, this type, and ask what its condition asks?
2. The tenant's rules: does each payload fit the schema of its type?
3. The log: order, conditions, freezes, and whether the rules are still those.

What stopped it comes back as the error that says so; nothing of it was stored.
"""

from counterfoil.server.access.principal import Principal
from counterfoil.server.brake.operations import Brake
from counterfoil.server.core.errors import Frozen
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.operations import Stored


class Appends:
    """Where the parts meet that have a say in an append; they know nothing of each other."""

    def __init__(self, event_types: EventTypes, brake: Brake) -> None:
        self._event_types = event_types
        self._brake = brake

    async def append(self, caller: Principal, asked: AppendRequest) -> Stored:
        """Append for a caller; when this returns, the events are flushed.

        Raises:
            ScopeMissing, NameNotYours: the key may not write this.
            Frozen: something that it writes about is frozen.
            Everything that ``EventTypes.append`` raises.
        """
        caller.must_append(asked)
        try:
            return await self._event_types.append(caller.tenant_id, asked)
        except Frozen as error:
            raise await self._brake.explained(caller.tenant_id, error) from None
