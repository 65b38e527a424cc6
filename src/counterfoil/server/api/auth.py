"""The key is asked for here, before anything else of a request is looked at.

Closed unless opened: a call that is not in the list below needs the key, also one that
does not exist. So a route that is added later cannot be forgotten, a caller without the
key learns nothing of which paths there are, and no byte of its body is read.

Where no key is configured, calls must address the machine by a name of its own. A browser
on it could otherwise be led there by any web page, whose name was made to stand for
127.0.0.1 (DNS rebinding): to the browser that is the page's own origin.
"""

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final, cast

from starlette.types import ASGIApp, Receive, Scope, Send

from counterfoil.server.access.keyring import Keyring
from counterfoil.server.access.principal import Principal
from counterfoil.server.access.scopes import Managed, Operated, Scopes
from counterfoil.server.api.errors import refusal
from counterfoil.server.api.requests import request_id
from counterfoil.server.core import limits
from counterfoil.server.core.errors import CounterfoilError, ForeignHost, RateLimited, ScopeMissing

OPEN_PATHS: Final = frozenset(
    {"/health/live", "/health/ready", "/problems", "/openapi.json", "/docs"}
)
"""What answers without a key: nothing of it is about the content of a book."""

OPEN_PREFIXES: Final = ("/problems/", "/docs/")


def is_open(path: str) -> bool:
    """Whether this path answers without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)


_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9.-]+))(?::[0-9]*)?")


class Authentication:
    """ASGI middleware that admits a request, and leaves its principal in its state."""

    def __init__(self, app: ASGIApp, keyring: Callable[[], Keyring]) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an admitted request on; answer any other with a refusal."""
        if scope["type"] == "http" and not is_open(scope["path"]):
            try:
                await admit(self._keyring(), scope)
            except CounterfoilError as error:
                response = refusal(error, request_id=request_id(scope))
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def admit(keyring: Keyring, scope: Scope) -> Principal:
    """Find out whose call it is, and leave that in the scope's state.

    Raises:
        Unauthenticated: it brought no key, or one that opens nothing.
        ForeignHost: no key is asked for, and it does not address this machine as its own.
        RateLimited: the key calls too often. Raised only after a while: a caller that comes
            again at once would otherwise keep the process busy with refusals.
        Busy, DatabaseUnavailable, ReadTooSlow: the key cannot be looked up.
    """
    if keyring.is_open:
        _must_be_addressed_locally(scope["headers"])
    presented = _presented(scope["headers"])
    admission = keyring.admitted(presented) or await keyring.admit(presented)
    state = scope["state"]
    state["admission"] = admission
    principal = admission.principal
    if admission.rate is not None and principal.key_id is not None:
        rate = admission.rate
        verdict = keyring.buckets.take(principal.key_id, rate, time.monotonic_ns())
        state["rate_headers"] = (
            (b"ratelimit-policy", rate.policy),
            (b"ratelimit", rate.left(verdict.remaining)),
        )
        if not verdict.allowed:
            await asyncio.sleep(limits.RATE_REFUSAL_SECONDS)
            raise RateLimited(
                f"This key may call {rate.per_second} times a second here, and {rate.burst} times "
                "at once.",
                verdict.wait_seconds,
            )
    return principal


def must_be_let(principal: Principal, needs: str) -> None:
    """Refuse a call that the key's scopes rule out before anything of it is read.

    Args:
        needs: what the call's route says that it needs: ``append``, ``read``, ``consume``,
            ``decide``, ``manage:WHAT``, ``operate:WHAT``, or ``any`` key.

    Raises ``ScopeMissing``.
    """
    verb, _, what = needs.partition(":")
    if verb in _LET:
        is_let, sentence = _LET[verb]
        if not is_let(principal.scopes):
            raise ScopeMissing(sentence, f"{verb}:*")
    elif verb == "manage":
        principal.must_manage(cast("Managed", what))
    elif verb == "operate":
        principal.must_operate(cast("Operated", what))


_LET: Final[Mapping[str, tuple[Callable[[Scopes], bool], str]]] = {
    "append": (attrgetter("may_append_anything"), "This key may not write events."),
    "read": (attrgetter("may_read_anything"), "This key may not read events."),
    "consume": (attrgetter("may_consume_anything"), "This key may not work for consumers."),
    "decide": (attrgetter("may_decide_anything"), "This key may not decide by policies."),
}
"""Of each verb that goes on with a pattern: whether a key has any such scope, and what it is told."""


def _presented(headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Collect every credential of a request.

    An ``Authorization`` of another scheme is no credential of ours: a proxy in front may
    have one of its own.
    """
    presented = []
    for name, value in headers:
        if name == b"x-api-key":
            presented.append(value.strip())
        elif name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                presented.append(token.strip())
    return presented


def _must_be_addressed_locally(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse a call whose ``Host`` is not this machine. Without one it is from no browser.

    Raises ``ForeignHost``.
    """
    for name, value in headers:
        if name == b"host" and not _is_local(value.decode("latin-1").strip().lower()):
            raise ForeignHost(
                "Without a key this service answers to localhost and to loopback addresses only. "
                "Set API_KEY for it to be reached under another name."
            )


def _is_local(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    if found["name"] == "localhost":
        return True
    try:
        return ipaddress.ip_address(found["v6"] or found["name"]).is_loopback
    except ValueError:
        return False
