"""Which key opens the service to whom: what every call is asked first.

Theory of operation
-------------------
A key is looked up in the database by its id, and then trusted without another look for at
most ``KEY_TRUST_SECONDS_MAX``, counted from the beginning of the look. Well before that,
one statement looks up anew all keys that were used since, and those that hold a stream
open. So a busy key costs no call a look, and whatever is done to a key (revoked, expired
by the database's clock) takes effect in every process within that time.

What calls have to wait for is asked together: one look is under way at a time, and it takes
along everybody who came meanwhile. However many strangers try keys at once, they hold one
connection, and the time to look up a key that there is not is that of one that there is:
its absence is remembered as well.

How a call is judged, step by step (the numbers are repeated in the code):

1. A call presents every credential that it carries. Several must all be the same; none
   counts as one empty credential, so that it costs the same work.
2. It is compared with the bootstrap key, where there is one: digests of one length, in
   constant time.
3. Otherwise it must have the form of a key, and its id must be known.
4. The digest of its secret part is compared in constant time. An unknown id is compared
   with a digest that nothing has.
5. Only who has the right secret is told that the key has expired or was revoked.

Where no key is asked for (``counterfoil dev``), a call without one may do everything; one
that looks like a key of ours must be right all the same.
"""

import asyncio
import contextlib
import hashlib
import hmac
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog

from counterfoil.server.access.key_text import Mode, PresentedKey, parse_key
from counterfoil.server.access.principal import Principal
from counterfoil.server.access.rates import Buckets, Rate
from counterfoil.server.access.scopes import ALL, OPERATOR_TENANT_ID, Scopes
from counterfoil.server.access.store import AccessStore, StoredKey
from counterfoil.server.access.trail import Trail
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, Unauthenticated, Unavailable

_log = structlog.get_logger(__name__)

_WRONG: Final = "This call needs a key of this service: it brought none, or one that opens nothing."
_OF_STATE: Final = {
    "expired": "This key has expired. Ask whoever manages keys for another.",
    "revoked": "This key was revoked. Ask whoever manages keys for another.",
}
_OPERATORS_TENANT: Final = "default"
_OURS: Final = (b"cf_live_", b"cf_test_")


@dataclass(frozen=True, slots=True)
class Admission:
    """A call that was let in: whose it is, and how often it may come.

    ``rate`` is None where nothing bounds it (the bootstrap key).
    """

    principal: Principal
    rate: Rate | None = None
    mode: Mode | None = None
    expires_at: str | None = None


ANONYMOUS: Final = Admission(
    Principal("anonymous", OPERATOR_TENANT_ID, _OPERATORS_TENANT, None, None, ALL)
)
"""Everybody, where no key is asked for."""

BOOTSTRAP: Final = Admission(
    Principal("api-key", OPERATOR_TENANT_ID, _OPERATORS_TENANT, None, None, ALL)
)
"""Whoever has the key of the environment."""


@dataclass(slots=True)
class _Entry:
    """What was found of one id. ``admission`` is None where there is no such key."""

    found_at: float
    key: StoredKey | None
    admission: Admission | None
    used: bool = True
    watchers: set[Callable[[], object]] = field(default_factory=set)


class Keyring:
    """Tells whose call it is. Holds no readable secret.

    Args:
        store: where keys are looked up.
        trail: who is told of refused attempts.
        api_key: the bootstrap key; None: there is none.
        is_open: whether calls without a key may do everything.
    """

    def __init__(
        self, store: AccessStore, trail: Trail, *, api_key: str | None, is_open: bool
    ) -> None:
        self._store = store
        self._trail = trail
        self._bootstrap = None if api_key is None else _digest(api_key.encode("ascii"))
        self.is_open = is_open and api_key is None
        self.buckets = Buckets()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._wanted: dict[str, asyncio.Future[_Entry]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._uses: defaultdict[int, dict[str, str]] = defaultdict(dict)

    def admitted(self, presented: Sequence[bytes]) -> Admission | None:
        """Whose call it is, where that is known without asking; otherwise None.

        Raises ``Unauthenticated``: it is known that it is nobody's.
        """
        if len(presented) == 1:
            (credential,) = presented
        elif not presented:  # 1
            if self.is_open:
                return ANONYMOUS
            credential = b""
        else:
            credential = presented[0]
            if not all(hmac.compare_digest(credential, other) for other in presented[1:]):
                raise Unauthenticated(_WRONG)
        if self._bootstrap is not None and hmac.compare_digest(
            _digest(credential), self._bootstrap
        ):  # 2
            return BOOTSTRAP
        key = parse_key(credential)
        if key is None:  # 3
            if self.is_open and not credential.startswith(_OURS):
                return ANONYMOUS
            raise Unauthenticated(_WRONG)
        entry = self._entries.get(key.key_id)
        if entry is None or entry.found_at + limits.KEY_TRUST_SECONDS_MAX < _now():
            return None
        return self._judged(key, entry)

    async def admit(self, presented: Sequence[bytes]) -> Admission:
        """Whose call it is; the key is looked up if need be.

        Raises:
            Unauthenticated: nobody's.
            Busy: more keys are waiting to be looked up than this process accepts.
            DatabaseUnavailable, ReadTooSlow: they cannot be looked up.
        """
        admission = self.admitted(presented)
        if admission is not None:
            return admission
        key = parse_key(presented[0])
        if key is None:
            raise Unauthenticated(_WRONG)
        return self._judged(key, await self._looked_up(key.key_id))

    def watch(self, admission: Admission, changed: Callable[[], object]) -> Callable[[], None]:
        """Have ``changed`` called when the key is not worth any more what it was.

        Returns what ends the watch. A key that cannot be looked up counts as changed.
        """
        key_id = admission.principal.key_id
        entry = None if key_id is None else self._entries.get(key_id)
        if entry is None:
            return lambda: None
        if entry.admission is not admission:
            # It changed between the call's admission and now.
            changed()
            return lambda: None
        entry.watchers.add(changed)
        self._keep()
        return lambda: self._unwatch(admission, changed)

    async def close(self) -> None:
        """Stop looking keys up, and note when they were used last."""
        for task in (self._keeping, self._looking):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._in_use()
        await self._note_uses()

    # --- Judging ------------------------------------------------------------------

    def _judged(self, presented: PresentedKey, entry: _Entry) -> Admission:
        key = entry.key
        right = presented.opens(
            None if key is None else key.mode, None if key is None else key.digest
        )  # 4
        if key is None or entry.admission is None:
            raise Unauthenticated(_WRONG)
        if not right:
            self._trail.refused(entry.admission.principal, "wrong_secret")
            raise Unauthenticated(_WRONG)
        if key.state != "active":  # 5
            self._trail.refused(entry.admission.principal, key.state)
            raise Unauthenticated(_OF_STATE[key.state])
        entry.used = True
        self._keep()
        return entry.admission

    # --- Looking up ---------------------------------------------------------------

    async def _looked_up(self, key_id: str) -> _Entry:
        future = self._wanted.get(key_id)
        if future is None:
            if len(self._wanted) >= limits.KEY_LOOKUPS_MAX:
                raise Busy("More keys are waiting to be looked up than this service accepts.")
            future = self._wanted[key_id] = asyncio.get_running_loop().create_future()
            if self._looking is None:
                self._looking = asyncio.create_task(self._look(), name="keyring: look up")
        # Several callers may wait for one key, and one that leaves takes it from no other.
        return await asyncio.shield(future)

    async def _look(self) -> None:
        """Look up what is wanted, all of it together, until nothing is."""
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                try:
                    await self._read(list(wanted))
                except Exception as error:  # noqa: BLE001 - whoever waits gets an answer
                    for future in wanted.values():
                        if not future.done():
                            future.set_exception(error)
                            future.exception()  # Nobody may be left to take it.
                else:
                    for key_id, future in wanted.items():
                        if not future.done():
                            future.set_result(self._entries[key_id])
        finally:
            self._looking = None

    async def _read(self, key_ids: Sequence[str]) -> None:
        """Look up these keys, and keep what was found, and what was not."""
        began = _now()
        found = {key.key_id: key for key in await self._store.presented(key_ids)}
        for key_id in key_ids:
            self._found(key_id, found.get(key_id), began)
        while len(self._entries) > limits.KEYS_REMEMBERED_MAX:
            self._forget_one()

    def _found(self, key_id: str, key: StoredKey | None, began: float) -> None:
        entry = self._entries.get(key_id)
        if entry is not None and entry.key == key:
            entry.found_at = began
            entry.used = bool(entry.watchers)
            self._entries.move_to_end(key_id)
            return
        self._entries[key_id] = _Entry(began, key, None if key is None else _admission_of(key))
        self._entries.move_to_end(key_id)
        if entry is not None:
            for changed in tuple(entry.watchers):
                changed()

    def _forget_one(self) -> None:
        _, entry = self._entries.popitem(last=False)
        for changed in tuple(entry.watchers):
            changed()

    def _unwatch(self, admission: Admission, changed: Callable[[], object]) -> None:
        key_id = admission.principal.key_id
        entry = None if key_id is None else self._entries.get(key_id)
        if entry is not None:
            entry.watchers.discard(changed)

    # --- Keeping what is known fresh ----------------------------------------------

    def _keep(self) -> None:
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_fresh(), name="keyring: keep fresh")

    async def _keep_fresh(self) -> None:
        """Look up anew what is in use, until nothing is."""
        noted_at = _now()
        try:
            while True:
                await asyncio.sleep(limits.KEY_REFRESH_SECONDS)
                in_use = self._in_use()
                if not in_use:
                    break
                try:
                    for start in range(0, len(in_use), limits.KEY_LOOKUPS_MAX):
                        await self._read(in_use[start : start + limits.KEY_LOOKUPS_MAX])
                except Unavailable as error:
                    _log.warning("keys cannot be looked up", error=str(error))
                    self._end_what_is_watched()
                if noted_at + limits.KEY_USES_NOTED_SECONDS < _now():
                    noted_at = _now()
                    await self._note_uses()
        finally:
            self._keeping = None
        await self._note_uses()

    def _in_use(self) -> list[str]:
        """The keys that were used since they were looked up, whose uses are to be noted now."""
        in_use = [key_id for key_id, entry in self._entries.items() if entry.used]
        for key_id in in_use:
            key = self._entries[key_id].key
            if key is not None:
                self._uses[key.tenant_id][key_id] = _time_text()
        return in_use

    def _end_what_is_watched(self) -> None:
        """Tell streams whose key could not be looked up for too long."""
        for entry in self._entries.values():
            if entry.watchers and entry.found_at + limits.KEY_TRUST_SECONDS_MAX < _now():
                for changed in tuple(entry.watchers):
                    changed()

    async def _note_uses(self) -> None:
        uses, self._uses = self._uses, defaultdict(dict)
        for tenant_id, times in uses.items():
            try:
                await self._store.note_uses(tenant_id, times)
            except Unavailable as error:
                _log.info("uses of keys were not noted", tenant_id=tenant_id, error=str(error))


def _admission_of(key: StoredKey) -> Admission:
    principal = Principal(
        id=f"{key.kind}:{key.name}",
        tenant_id=key.tenant_id,
        tenant_name=key.tenant_name,
        kind=key.kind,
        name=key.name,
        scopes=Scopes.parse(key.scopes),
        key_id=key.key_id,
    )
    rate = Rate(
        limits.RATE_PER_SECOND_DEFAULT if key.rate_per_second is None else key.rate_per_second,
        limits.RATE_BURST_DEFAULT if key.rate_burst is None else key.rate_burst,
    )
    return Admission(principal, rate, key.mode, key.expires_at)


def _digest(credential: bytes) -> bytes:
    return hashlib.sha256(credential).digest()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _time_text() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
