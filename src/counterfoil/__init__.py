"""Counterfoil: the shared memory and control plane for agents that handle money.

This is the client; everything public is here:

>>> from counterfoil import Counterfoil
>>> with Counterfoil() as cf:
...     with cf.guard(tags="transaction:tx_987", types="flag_transaction") as seen:
...         if not seen.events:
...             seen.commit(
...                 agent_name="approver",
...                 event_type="approved",
...                 payload={"transaction_id": "tx_987"},
...             )

Values and errors need nothing but the standard library. The clients are loaded when they
are first used, because the HTTP library beneath them takes most of the time to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from counterfoil.client.consumer_model import (
    Acknowledged,
    Attempt,
    Backoff,
    Claimed,
    Consumer,
    DeadLetter,
    DeletedConsumer,
    Delivery,
    Lag,
    Next,
)
from counterfoil.client.control_model import (
    CreatedKey,
    CreatedTenant,
    EventType,
    EventTypeVersion,
    Freeze,
    Key,
    Me,
    RegisteredType,
    Tenant,
    TenantSettings,
    Thawed,
)
from counterfoil.client.decision_model import (
    Compared,
    Decision,
    Difference,
    DraftedPolicy,
    ExplainedInput,
    ExplainedRow,
    Explanation,
    Matched,
    PolicySummary,
    PolicyVersion,
    Reason,
    Recomputed,
    Replay,
    RowCondition,
    Signal,
    Superseded,
)
from counterfoil.client.errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BookRestored,
    Busy,
    ConditionFailed,
    ConsumerStarted,
    CounterfoilError,
    DecisionInputsRefused,
    DecisionNotFound,
    DecisionStands,
    FieldError,
    FourEyes,
    Frozen,
    GuardTooLarge,
    IdempotencyMismatch,
    InternalServerError,
    InvalidRequestError,
    LeaseLost,
    NarrowingChange,
    NotDecided,
    NotFoundError,
    OutcomeUnknown,
    PayloadMismatch,
    PermissionDenied,
    PolicyNotActive,
    PolicyNotFound,
    PolicyRefused,
    RateLimited,
    ServiceUnavailable,
    SubjectWithoutEvents,
    UnexpectedAnswer,
    UnregisteredType,
    UnsendableValue,
    UsageError,
)
from counterfoil.client.model import (
    Condition,
    Event,
    NewEvent,
    Page,
    QueryItem,
    Stored,
    StoredBatch,
)

if TYPE_CHECKING:
    from counterfoil.client.async_client import AsyncCounterfoil
    from counterfoil.client.async_consuming import AsyncDeliveries, AsyncHeldDelivery
    from counterfoil.client.async_guard import AsyncGuard
    from counterfoil.client.async_reading import AsyncEventIterator, AsyncFollower
    from counterfoil.client.sync_client import Counterfoil
    from counterfoil.client.sync_consuming import Deliveries, HeldDelivery
    from counterfoil.client.sync_guard import Guard
    from counterfoil.client.sync_reading import EventIterator, Follower

__version__: Final = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "Acknowledged",
    "AsyncCounterfoil",
    "AsyncDeliveries",
    "AsyncEventIterator",
    "AsyncFollower",
    "AsyncGuard",
    "AsyncHeldDelivery",
    "Attempt",
    "AuthenticationError",
    "Backoff",
    "BookRestored",
    "Busy",
    "Claimed",
    "Compared",
    "Condition",
    "ConditionFailed",
    "Consumer",
    "ConsumerStarted",
    "Counterfoil",
    "CounterfoilError",
    "CreatedKey",
    "CreatedTenant",
    "DeadLetter",
    "Decision",
    "DecisionInputsRefused",
    "DecisionNotFound",
    "DecisionStands",
    "DeletedConsumer",
    "Deliveries",
    "Delivery",
    "Difference",
    "DraftedPolicy",
    "Event",
    "EventIterator",
    "EventType",
    "EventTypeVersion",
    "ExplainedInput",
    "ExplainedRow",
    "Explanation",
    "FieldError",
    "Follower",
    "FourEyes",
    "Freeze",
    "Frozen",
    "Guard",
    "GuardTooLarge",
    "HeldDelivery",
    "IdempotencyMismatch",
    "InternalServerError",
    "InvalidRequestError",
    "Key",
    "Lag",
    "LeaseLost",
    "Matched",
    "Me",
    "NarrowingChange",
    "NewEvent",
    "Next",
    "NotDecided",
    "NotFoundError",
    "OutcomeUnknown",
    "Page",
    "PayloadMismatch",
    "PermissionDenied",
    "PolicyNotActive",
    "PolicyNotFound",
    "PolicyRefused",
    "PolicySummary",
    "PolicyVersion",
    "QueryItem",
    "RateLimited",
    "Reason",
    "Recomputed",
    "RegisteredType",
    "Replay",
    "RowCondition",
    "ServiceUnavailable",
    "Signal",
    "Stored",
    "StoredBatch",
    "SubjectWithoutEvents",
    "Superseded",
    "Tenant",
    "TenantSettings",
    "Thawed",
    "UnexpectedAnswer",
    "UnregisteredType",
    "UnsendableValue",
    "UsageError",
    "__version__",
]

_LOADED_WHEN_USED: Final = {
    "AsyncCounterfoil": "async_client",
    "AsyncDeliveries": "async_consuming",
    "AsyncEventIterator": "async_reading",
    "AsyncFollower": "async_reading",
    "AsyncGuard": "async_guard",
    "AsyncHeldDelivery": "async_consuming",
    "Counterfoil": "sync_client",
    "Deliveries": "sync_consuming",
    "EventIterator": "sync_reading",
    "Follower": "sync_reading",
    "Guard": "sync_guard",
    "HeldDelivery": "sync_consuming",
}


if not TYPE_CHECKING:  # A type checker would take any name for one of ours.

    def __getattr__(name: str) -> object:
        home = _LOADED_WHEN_USED.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"counterfoil.client.{home}"), name)
        globals()[name] = value  # Asked for once; found without this function from then on.
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
