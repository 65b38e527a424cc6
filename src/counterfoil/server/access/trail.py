"""The access trail: what was refused, and what auditors read, told in the tenant's own book.

Refused attempts with a known key are counted and summed up: at most one event for each key
and minute, however many processes count, because the event's idempotency key names both.
Whoever finds the minute taken adds to its next. What names no key of ours stands in the log
only: strangers cannot fill a book that never forgets.

A read with an auditor's key is told before it is answered, once for each key and minute, in
the same way. So the book shows every minute in which an auditor's key was reading.
"""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from counterfoil.server.access.principal import Principal
from counterfoil.server.core import limits
from counterfoil.server.core.errors import CounterfoilError, IdempotencyMismatch
from counterfoil.server.log.model import AppendRequest
from counterfoil.server.log.operations import Log
from counterfoil.server.log.own import NO_EFFECT, own_append, own_event

_log = structlog.get_logger(__name__)

_OWN_PRINCIPAL: Final = "counterfoil"


@dataclass(slots=True)
class _Refusals:
    """What one key was refused since it was last told."""

    principal: Principal
    first_at: str
    last_at: str
    reasons: Counter[str] = field(default_factory=Counter)


class Trail:
    """Tells the books about refused attempts and audits, for one process."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._refusals: dict[str, _Refusals] = {}
        self._telling: asyncio.Task[None] | None = None
        self._audited: dict[str, str] = {}

    def refused(self, principal: Principal, reason: str) -> None:
        """Count an attempt with a known key that was refused; returns at once.

        Args:
            principal: whose key it was (not necessarily who tried).
            reason: a word of ours, never anything that the caller chose.
        """
        key_id = principal.key_id
        if key_id is None:
            return
        now = _time_text()
        refusals = self._refusals.get(key_id)
        if refusals is None:
            if len(self._refusals) >= limits.KEYS_REMEMBERED_MAX:
                _log.warning("refused", principal=principal.id, reason=reason)
                return
            refusals = self._refusals[key_id] = _Refusals(principal, now, now)
        refusals.reasons[reason] += 1
        refusals.last_at = now
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_each_minute(), name="access trail")

    async def audited(self, principal: Principal, call: str) -> None:
        """Tell that an auditor's key is reading, before it is answered.

        Args:
            call: what it calls, such as ``GET /events``: a route, not its parameters.

        Raises:
            Unavailable: the book cannot be written, and so it is not read either.
        """
        minute = _time_text()[:16]
        key_id = principal.key_id or ""
        if self._audited.get(key_id) == minute:
            return
        event = own_event(
            "audit_read",
            {
                "key_id": key_id,
                "principal": principal.id,
                "minute": f"{minute}Z",
                "first_call": call,
            },
            tags=[f"key:{key_id}", f"principal:{principal.id}"],
            principal=_OWN_PRINCIPAL,
        )
        await self._log.append(
            principal.tenant_id,
            own_append(
                event,
                effect=NO_EFFECT,
                # The same for every process: the first to read in a minute tells of it.
                asked={"call": "audit_read"},
                key=f"audit-read:{key_id}:{minute}",
            ),
        )
        if len(self._audited) >= limits.KEYS_REMEMBERED_MAX:
            self._audited.clear()
        self._audited[key_id] = minute

    async def close(self) -> None:
        """Tell what has not been told yet."""
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        await self._tell()
        for refusals in self._refusals.values():
            _log.warning("refused", principal=refusals.principal.id, reasons=dict(refusals.reasons))

    async def _tell_each_minute(self) -> None:
        try:
            while self._refusals:
                await asyncio.sleep(limits.REFUSALS_TOLD_SECONDS)
                await self._tell()
        finally:
            self._telling = None

    async def _tell(self) -> None:
        for key_id in tuple(self._refusals):
            refusals = self._refusals.pop(key_id)
            try:
                await self._log.append(refusals.principal.tenant_id, _told(key_id, refusals))
            except IdempotencyMismatch:
                # Another process has this minute; what was counted waits for the next.
                self._put_back(key_id, refusals)
            except CounterfoilError as error:
                _log.info("refusals were not told", error=str(error))
                self._put_back(key_id, refusals)

    def _put_back(self, key_id: str, refusals: _Refusals) -> None:
        since = self._refusals.get(key_id)
        if since is not None:
            refusals.reasons += since.reasons
            refusals.last_at = since.last_at
        self._refusals[key_id] = refusals


def _told(key_id: str, refusals: _Refusals) -> AppendRequest:
    payload = {
        "key_id": key_id,
        "principal": refusals.principal.id,
        "attempts": refusals.reasons.total(),
        "reasons": dict(sorted(refusals.reasons.items())),
        "first_at": refusals.first_at,
        "last_at": refusals.last_at,
    }
    event = own_event(
        "access_refused",
        payload,
        tags=[f"key:{key_id}", f"principal:{refusals.principal.id}"],
        principal=_OWN_PRINCIPAL,
    )
    return own_append(
        event,
        effect=NO_EFFECT,
        asked={"call": "access_refused", **payload},
        key=f"access-refused:{key_id}:{_time_text()[:16]}",
    )


def _time_text() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
