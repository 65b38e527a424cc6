"""The verbs of the book: append, read, follow. What the HTTP door and the tools call.

Each append is one transaction, and it is committed when ``append`` returns; each read is
one statement, and so one snapshot. Nothing here holds a transaction across two calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
import psycopg
import structlog

from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import (
    AfterAboveHead,
    BookRestored,
    ConditionFailed,
    ConsumerNotFound,
    CounterfoilError,
    EffectRefused,
    EventNotFound,
    FieldError,
    Frozen,
    IdempotencyMismatch,
    InputError,
    InvalidInput,
    InvariantBroken,
    LeaseLost,
    NotWritten,
    OutcomeUnknown,
    RulesChanged,
    Unavailable,
    UnknownCause,
)
from counterfoil.server.core.settings import Settings
from counterfoil.server.db.migrations import schema_version
from counterfoil.server.db.pool import Pool
from counterfoil.server.db.reading import Reader
from counterfoil.server.log import store as log_store
from counterfoil.server.log.doorbell import Listener, Ringer
from counterfoil.server.log.follow import Followers, Stream, Watch
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.query import Item, ReadRequest
from counterfoil.server.log.store import AppendResult, GroupResult, Store
from counterfoil.server.log.writer import GroupCommit

WRITE_CONNECTIONS_MAX: Final = 4
"""Books that one process writes to at the same moment; one connection serves one book."""

_NO_BOOKS_RULES: Final = -1
"""A position that no rules were ever changed at: what is judged under them is never stored."""

_RESTORED: Final = (
    "The book was restored from a backup since this was read, and positions may have been "
    "given out again. Read anew, decide anew."
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """An append that is in the book for good.

    ``head`` is the book's last position as the append left it (replayed: as it stands now).
    """

    first_position: int
    event_count: int
    created_at: str
    head: int
    replayed: bool


@dataclass(frozen=True, slots=True)
class Texts:
    """Events as JSON texts, with the head of the snapshot in which they were read."""

    incarnation: str
    head: int
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of events as JSON texts; ``head`` is that of the first page on all of them."""

    incarnation: str
    head: int
    events: tuple[str, ...]
    next: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the service can keep its promises now, and each thing that was looked at."""

    ready: bool
    checks: dict[str, str]


class Log:
    """The books of one database, as one process of the service sees them."""

    def __init__(self, settings: Settings) -> None:
        url = settings.database_url.get_secret_value()
        direct_url = (settings.database_direct_url or settings.database_url).get_secret_value()
        self._reads = Pool(
            url,
            name="reads",
            statement_milliseconds_max=limits.READ_STATEMENT_MILLISECONDS_MAX,
            size_min=settings.pool_connections_min,
            size_max=settings.pool_connections_max,
            prepare=settings.prepare_statements,
        )
        self._writes = Pool(
            url,
            name="appends",
            statement_milliseconds_max=limits.APPEND_STATEMENT_MILLISECONDS_MAX,
            size_min=1,
            size_max=WRITE_CONNECTIONS_MAX,
            prepare=settings.prepare_statements,
        )
        self._store = Store(self._reads)
        self.reader = Reader(self._reads)
        """Through which the other parts of the service read."""
        self._writer = GroupCommit(self._store, self._writes, self._grown)
        self._followers = Followers(self._store)
        self._ringer = Ringer(self._store)
        self._listener = Listener(direct_url, self._heard)
        self.heard_of_consumers: Callable[[int, str], None] = _nobody_hears
        """Called with a tenant's id, and the name of its consumer of which another process says
        that it has something again."""

    @classmethod
    async def open(cls, settings: Settings) -> "Log":
        """Start connecting to the database; it need not be there yet (see ``ready``)."""
        log = cls(settings)
        await log._reads.open()
        await log._writes.open()
        return log

    def closing(self) -> None:
        """The process is about to stop: end the live streams, so that nothing waits for them."""
        self._followers.closing()

    async def close(self) -> None:
        """Finish what was accepted, then let go of the database."""
        await self._followers.close()
        await self._writer.close()
        await self._listener.close()
        await self._ringer.close()
        await self._writes.close()
        await self._reads.close()

    async def append(self, tenant_id: int, request: AppendRequest) -> Stored:
        """Append the events of ``request``, all or none; when this returns, they are flushed.

        Raises:
            ConditionFailed, IdempotencyMismatch, BookRestored: refused; nothing was stored.
            AfterAboveHead, UnknownCause, InvalidInput: refused for what the request says.
            Frozen: something that it writes about is frozen.
            LeaseLost, ConsumerNotFound: it hands in what is not, or no more, held.
            RulesChanged: it was judged by outdated rules; to be judged anew.
            EffectRefused: of the service's own events, what it was to do cannot be done.
            Busy, NotWritten: not written, for now.
            OutcomeUnknown: written or not; only the same idempotency key can tell.
        """
        try:
            result = await self._writer.append(tenant_id, request)
        except CounterfoilError as error:
            metrics.APPENDS.labels(_outcome(error)).inc()
            raise
        if result.first_position is None or result.created_at is None:
            raise await self._refusal(tenant_id, request, result)
        return Stored(
            first_position=result.first_position,
            event_count=result.event_count,
            created_at=result.created_at,
            head=result.head,
            replayed=result.status == "replayed",
        )

    async def answered_before(
        self, tenant_id: int, request: AppendRequest, refusal: CounterfoilError
    ) -> Stored:
        """The answer to an earlier try of a keyed request that would be refused today.

        A success that is asked for again must not be refused by what has changed since. Nothing is
        stored: the request is judged under rules that no book has, behind the look for its key.

        Raises:
            CounterfoilError: ``refusal``, where there was no earlier try.
            IdempotencyMismatch: the key stands for other content.
            Unavailable, OutcomeUnknown: as an append does.
        """
        try:
            return await self.append(tenant_id, request.under(_NO_BOOKS_RULES))
        except (RulesChanged, Frozen):
            raise refusal from None

    async def latest(
        self, tenant_id: int, agent_name: str, *, limit: int, before: int | None
    ) -> Texts:
        """The last events of one agent, newest first, below ``before`` if it is given.

        Raises:
            InvalidInput: together they are longer than ``PAGE_BYTES_MAX``. A list that ended
                early would pass for all that there is.
            DatabaseUnavailable, ReadTooSlow
        """
        head, texts, found = await self._store.latest(
            tenant_id,
            agent_name,
            up_to=limits.POSITION_MAX if before is None else before - 1,
            limit=limit,
            bytes_max=limits.PAGE_BYTES_MAX,
        )
        if found > len(texts):
            message = (
                f"These events are longer than {limits.PAGE_BYTES_MAX:,} bytes together. Ask for "
                f"at most {len(texts)} of them, and for the others by `before`."
            )
            raise InvalidInput(message, [FieldError("/limit", message, "query")])
        return Texts(incarnation=head.incarnation, head=head.position, events=texts)

    async def page(self, tenant_id: int, read: ReadRequest) -> Page:
        """One page of what matches; the first pins the head, and the next keep to it.

        Raises:
            AfterAboveHead: ``after`` or ``up_to`` lies above the head.
            BookRestored: the cursor is from before the book was restored.
            InvalidInput: the cursor cannot have come from this book.
            DatabaseUnavailable, ReadTooSlow
        """
        cursor = read.cursor
        after = read.after
        up_to = limits.POSITION_MAX if read.up_to is None else read.up_to
        below = up_to if read.before is None else min(up_to, read.before - 1)
        if cursor is not None:
            below = min(below, cursor.head)
            if cursor.newest_first:
                below = min(below, cursor.position - 1)
            else:
                after = max(after, cursor.position)
        shown = await self._store.page(
            tenant_id,
            query=read.query_document,
            payload=read.payload_document,
            after=after,
            up_to=below,
            limit=read.limit + 1,
            bytes_max=limits.PAGE_BYTES_MAX,
            newest_first=read.newest_first,
        )
        if cursor is None:
            for name, value in (("after", read.after), ("up_to", read.up_to or 0)):
                if value > shown.head:
                    raise AfterAboveHead(
                        f"The book ends at {shown.head}; `{name}` {value} cannot have been read.",
                        [FieldError(f"/{name}", f"`{name}` may be at most {shown.head}.")],
                    )
            head = min(shown.head, up_to)
        else:
            if cursor.incarnation != shown.incarnation:
                raise BookRestored(_RESTORED)
            if cursor.head > shown.head:
                raise InvalidInput(
                    "This cursor cannot have come from this book. Start again without one.",
                    [FieldError("/cursor", "This is no cursor of this book.")],
                )
            head = cursor.head
        texts = shown.texts[: read.limit]
        has_more = shown.found > len(texts)
        cursor_next = (
            read.cursor_at(
                incarnation=shown.incarnation, head=head, position=shown.positions[len(texts) - 1]
            ).encode()
            if has_more
            else None
        )
        return Page(
            incarnation=shown.incarnation,
            head=head,
            events=texts,
            next=cursor_next,
            has_more=has_more,
        )

    async def get(self, tenant_id: int, position: int) -> Texts:
        """The event at ``position``.

        Raises:
            EventNotFound, DatabaseUnavailable
        """
        head, texts = await self._store.one(tenant_id, position)
        if not texts:
            raise EventNotFound(f"There is no event {position} in this book.")
        return Texts(incarnation=head.incarnation, head=head.position, events=texts)

    async def payload(self, tenant_id: int, position: int) -> dict[str, Any]:
        """The payload of one of the service's own events: no number in one is a fraction.

        Raises:
            EventNotFound, DatabaseUnavailable
        """
        payload: dict[str, Any] = (await self._own_event(tenant_id, position))["payload"]
        return payload

    async def event_type(self, tenant_id: int, position: int) -> str:
        """The type of one of the service's own events. Raises as ``payload``."""
        return str((await self._own_event(tenant_id, position))["event_type"])

    async def _own_event(self, tenant_id: int, position: int) -> dict[str, Any]:
        read = await self.get(tenant_id, position)
        event: dict[str, Any] = msgspec.json.decode(read.events[0])
        return event

    async def follow(
        self, tenant_id: int, filters: ReadRequest, *, after: int | None, incarnation: str | None
    ) -> Stream:
        """Open a live stream; see ``follow.Followers.follow``."""
        self._listener.start()
        return await self._followers.follow(
            tenant_id, filters, after=after, incarnation=incarnation
        )

    async def watch(self, tenant_id: int, query: Sequence[Item], rang: Callable[[], None]) -> Watch:
        """Be told of each event that matches from now on; see ``follow.Followers.watch``."""
        self._listener.start()
        return await self._followers.watch(tenant_id, query, rang)

    def ring_consumer(self, tenant_id: int, name: str) -> None:
        """Tell the other processes that a consumer has something ready that was out before."""
        self._ringer.ring_consumer(tenant_id, name)

    async def ready(self) -> Readiness:
        """Look at everything that the promises rest on. Never raises."""
        try:
            state = await self._store.state()
        except (Unavailable, psycopg.Error) as error:
            reason = str(error) if isinstance(error, Unavailable) else "answers with an error"
            return Readiness(ready=False, checks={"database": reason})
        wanted = schema_version()
        checks = {
            "database": "ok" if state.writable else "read only (a standby, or shut to writers)",
            "fsync": "ok" if state.fsync else "off: an acknowledged event could be lost",
            "full_page_writes": (
                "ok" if state.full_page_writes else "off: a crash could tear a page"
            ),
            "schema": (
                "ok"
                if state.schema_version == wanted
                else f"version {state.schema_version}, needs {wanted}: run `counterfoil migrate`"
            ),
        }
        return Readiness(ready=all(value == "ok" for value in checks.values()), checks=checks)

    def _grown(self, tenant_id: int, result: GroupResult) -> None:
        """A group of ours was committed: tell our own readers, and the other processes."""
        self._heard(tenant_id, None)
        if result.has_listeners:
            self._ringer.ring(tenant_id, result.head)

    def _heard(self, tenant_id: int, consumer: str | None) -> None:
        """A book has grown, or a consumer has something again, here or in another process."""
        if consumer is None:
            self._followers.ring(tenant_id)
        else:
            self.heard_of_consumers(tenant_id, consumer)

    async def _refusal(  # noqa: C901, PLR0911 - one return for each way to be refused
        self, tenant_id: int, request: AppendRequest, result: AppendResult
    ) -> CounterfoilError:
        """Turn the stored function's refusal into the error that says what to do."""
        head = result.head
        match result.status:
            case "condition_failed":
                conflicts = await self._store.at_positions(tenant_id, result.detail or [])
                return ConditionFailed(head, conflicts, result.lease_ends)
            case "key_reused":
                return IdempotencyMismatch(
                    "This Idempotency-Key was used before for other content. Use a new key for "
                    "a new request, and repeat a request unchanged."
                )
            case "book_restored":
                return BookRestored(_RESTORED)
            case "after_above_head":
                return AfterAboveHead(
                    f"The book ends at {head}; the condition's `after` cannot have been read.",
                    [FieldError("/condition/after", f"`after` may be at most {head}.")],
                )
            case "unknown_cause":
                unknown = (
                    (f"{pointer}/{index}", cause)
                    for pointer, ids in request.causes
                    for index, cause in enumerate(ids)
                    if cause > head
                )
                errors = [
                    FieldError(pointer, f"There is no event {cause} yet; the book ends at {head}.")
                    for pointer, cause in islice(unknown, limits.FIELD_ERRORS_MAX)
                ]
                return UnknownCause("An event can only be caused by an earlier one.", errors)
            case "frozen":
                (freeze,) = result.detail or (0,)
                return Frozen(f"What this writes about is frozen (freeze {freeze}).", freeze)
            case "rules_changed":
                return RulesChanged("The rules changed while this was judged.")
            case "lease_lost":
                return LeaseLost(
                    "Some of this is not held by you any more, so nothing was written: the work "
                    "belongs to another now.",
                    (),
                )
            case "consumer_not_found":
                return ConsumerNotFound("This tenant has no consumer of this name.")
            case "effect_refused":
                return EffectRefused(result.reason or "")
            case "payload_too_large":
                (index,) = result.detail or (0,)
                pointer = (
                    "/payload" if request.operation == "append" else f"/events/{index}/payload"
                )
                return InvalidInput(
                    "A payload is too large.",
                    [
                        FieldError(
                            pointer,
                            f"It may take {limits.PAYLOAD_BYTES_MAX:,} bytes as PostgreSQL writes "
                            "it out (numbers in full), and takes more. Keep the large part "
                            "elsewhere, and store where it is.",
                        )
                    ],
                )
            case _:
                return InvariantBroken(f"append_v4 answered {result.status!r}")


def _nobody_hears(_tenant_id: int, _consumer: str) -> None:
    pass


def _outcome(error: CounterfoilError) -> str:
    """The label of an append that was not answered by the stored function."""
    match error:
        case OutcomeUnknown():
            return "unknown"
        case NotWritten():
            return "not_written"
        case InputError():
            return "refused"
        case _:
            return "busy"


def recover(url: str) -> list[tuple[str, str, str]]:
    """Give every book of a restored database a new incarnation.

    To be run once, after a restore and before the service takes calls again, with the
    owner's connection string. Cursors, stream ids and conditions from before are refused
    from then on.

    Returns:
        Name, old incarnation and new incarnation of each book.

    Raises:
        psycopg.Error: the database cannot be reached, or ``url`` is not the owner's.
    """
    return log_store.recover(url)
