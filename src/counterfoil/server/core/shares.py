"""What a process has for all of its tenants, shared so that none can take it from the others.

Theory of operation
-------------------
Some bounds are the process's own: the live readers that it feeds, the memory that arriving
bodies may take. A bound alone protects the process and not its callers, since one tenant that
fills it leaves nothing to its neighbours. A fixed part for each tenant would protect them, and
would leave most of the whole unused most of the time. So the whole has two parts, in sixteenths:

* Up to ``MUCH_HELD_SIXTEENTHS_MAX`` of it, whoever comes first is served.
* What is left is for tenants that hold little: ``LITTLE_HELD_SIXTEENTHS_MAX`` at the most, with
  what they ask for.

What follows from it, whatever tenants do and in whatever order:

1. *Those that hold more than little never hold more than the first part together.* For when the
   last of them took something, the first part held all that was held then, and since then none of
   them took anything.
2. So *the second part is always there for those that hold little*: one that would hold little is
   refused only where all of those together would hold more than the second part. How many others
   there are that hold much, and how much they ask for, makes no difference to it.
3. One tenant alone may hold the first part, and no more.

What this does not stop: many tenants at work together. With the numbers as they are, four that hold
a sixteenth each, beside one that holds all of the first part, leave nothing to a sixth. Nor is
anything taken back from who was served: a tenant that holds more than little can be refused because
others came before it. And a refusal tells that others are there. No tenant can be kept from
learning that where anything is shared; the words of the refusal tell no more.

What a tenant holds is kept while it holds something, so there are never more tenants in here than
the whole has units. Not safe for threads: to be used in the event loop.
"""

from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, invariant

_SIXTEENTHS = 16


class Shares:
    """What tenants hold of one whole.

    Args:
        whole: how much there is for all of them.
        own_taken: what a tenant is told that asks for more than one tenant may hold.
        all_taken: what it is told where it is refused because of others.
    """

    def __init__(self, whole: int, *, own_taken: str, all_taken: str) -> None:
        self._much = whole * limits.MUCH_HELD_SIXTEENTHS_MAX // _SIXTEENTHS
        self._little = whole * limits.LITTLE_HELD_SIXTEENTHS_MAX // _SIXTEENTHS
        self._whole = whole
        self._own_taken = own_taken
        self._all_taken = all_taken
        self._held = 0
        self._held_by: dict[int, int] = {}

    def take(self, tenant_id: int, amount: int) -> None:
        """Let a tenant hold so much more. Whoever takes gives back.

        Raises ``Busy``: it may not; then it holds what it held.
        """
        if amount == 0:
            # Who asks for nothing more takes nothing from anybody, however much it holds.
            return
        own = self._held_by.get(tenant_id, 0) + amount
        held = self._held + amount
        if held > self._much and own > self._little:
            raise Busy(self._own_taken if own > self._much else self._all_taken)
        if held > self._whole:
            raise Busy(self._all_taken)
        self._held_by[tenant_id] = own
        self._held = held

    def give_back(self, tenant_id: int, amount: int) -> None:
        """Account for what a tenant holds no longer."""
        left = self._held_by.get(tenant_id, 0) - amount
        invariant(left >= 0, "a tenant gives back no more than it holds")
        self._held -= amount
        if left:
            self._held_by[tenant_id] = left
        else:
            self._held_by.pop(tenant_id, None)
