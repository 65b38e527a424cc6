"""Who calls: what a key stands for, once it was found to be right."""

from collections.abc import Sequence
from dataclasses import dataclass

from counterfoil.server.access.scopes import OPERATOR_TENANT_ID, KeyKind, Managed, Operated, Scopes
from counterfoil.server.core.errors import NameNotYours, ScopeMissing
from counterfoil.server.log.model import AppendRequest, NewEvent
from counterfoil.server.log.query import Item, QueryItem


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever calls, and what they may do.

    Attributes:
        id: ``kind:name``; owns idempotency keys and signs events. Rotating a key keeps it.
        tenant_id, tenant_name: whose book is opened to it.
        kind: of the key; None for the bootstrap key, and for nobody in particular.
        name: the name under which it writes; None where it may write under any.
        scopes: what it may do.
        key_id: of the key that it came with.
    """

    id: str
    tenant_id: int
    tenant_name: str
    kind: KeyKind | None
    name: str | None
    scopes: Scopes
    key_id: str | None = None

    def must_append(self, asked: AppendRequest) -> None:
        """Refuse what it may not write, and a condition that would show what it may not read.

        Raises ``NameNotYours``, ``ScopeMissing``.
        """
        for _, event in asked.events:
            self._must_write(event)
        if asked.fail_if is not None and not self.scopes.may_read(asked.fail_if):
            raise ScopeMissing(
                "The events in the way of a condition are shown, so it may only ask about what this "
                "key may read.",
                self.scopes.missing_read(asked.fail_if),
            )

    def must_read(self, query: Sequence[Item | QueryItem] | None) -> None:
        """Refuse a read that could show what it may not see; None asks for everything.

        Refused and not filtered: who decides on a part of what there is does not know it.

        Raises ``ScopeMissing``.
        """
        if not self.scopes.may_read(query):
            raise ScopeMissing(
                "This key may not read everything that this could show. Ask within its scopes: "
                "name types, and a tag, that it was given.",
                self.scopes.missing_read(query),
            )

    def must_see(self, event_type: str, tags: Sequence[str]) -> None:
        """Refuse to show one event. Raises ``ScopeMissing``."""
        if not self.scopes.may_read_event(event_type, tags):
            raise ScopeMissing("This key may not read this event.", f"read:{event_type}")

    def must_consume(self, name: str) -> None:
        """Refuse to hand it a consumer's work. Raises ``ScopeMissing``."""
        if not self.scopes.may_consume(name):
            raise ScopeMissing("This key may not work for this consumer.", f"consume:{name}")

    def must_decide(self, policy: str) -> None:
        """Refuse to let it decide by a policy. Raises ``ScopeMissing``."""
        if not self.scopes.may_decide(policy):
            raise ScopeMissing("This key may not decide by this policy.", f"decide:{policy}")

    def must_manage(self, what: Managed) -> None:
        """Refuse a call to manage what it may not. Raises ``ScopeMissing``."""
        if not self.scopes.may_manage(what):
            raise ScopeMissing(f"This key may not manage {what}.", f"manage:{what}")

    def must_operate(self, what: Operated) -> None:
        """Refuse a call of the operator's. Raises ``ScopeMissing``."""
        if self.tenant_id != OPERATOR_TENANT_ID or not self.scopes.may_operate(what):
            raise ScopeMissing("This call is the operator's.", f"operate:{what}")

    def _must_write(self, event: NewEvent) -> None:
        if self.name is not None and event.agent_name != self.name:
            raise NameNotYours(
                f"This key writes as `{self.name}`, and under no other name.", self.name
            )
        if not self.scopes.may_append(event.event_type):
            raise ScopeMissing(
                "This key may not write events of this type.",
                self.scopes.missing_append(event.event_type),
            )
