"""Reading a request: its body, headers and parameters, each bounded and strict.

FastAPI's own body limit (0.165) answers in plain text where the length was declared, and
its parameters are lenient about what is repeated or unknown; our callers are promised
problem documents and strictness, so bodies and parameters are read here and judged by the
log's own rules. What FastAPI is not told by its signatures, ``openapi.py`` describes.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, TypeVar, cast
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from counterfoil.server.access.keyring import Admission
from counterfoil.server.access.principal import Principal
from counterfoil.server.core import limits
from counterfoil.server.core.errors import (
    BodyTooLarge,
    FieldError,
    InputError,
    InvalidInput,
    Location,
    UnsupportedMediaType,
)
from counterfoil.server.core.shares import Shares

Judged = TypeVar("Judged")

HAS_LEFT: Final = "has_left"
"""Under which name the state of a request's scope has what tells whether the caller has left."""

_JSON: Final = "application/json"

_INLINE_BYTES_MAX: Final = 64 * 1024
"""Bodies up to this are judged in the event loop; longer ones in a thread, since a batch
of 4 MiB takes a tenth of a second, in which no other caller would be heard."""


class BodyTooSlow(InputError):
    """The body did not arrive within ``limits.BODY_SECONDS_MAX``."""


def request_id(scope: Scope) -> str:
    """Return the id under which this request is logged and answered."""
    return cast("str", scope["state"]["request_id"])


def principal(request: Request) -> Principal:
    """Return whose call this is, as ``auth.py`` found."""
    return admission(request).principal


def has_left(request: Request) -> Callable[[], bool]:
    """Return what tells, at any time, whether the caller has closed the connection."""
    # Only our own server says it (protocol.py).
    return cast("Callable[[], bool]", request.scope["state"].get(HAS_LEFT, lambda: False))


def admission(request: Request) -> Admission:
    """Return how this call was let in."""
    return cast("Admission", request.scope["state"]["admission"])


class SentHeaders:
    """The headers of one request, looked through once."""

    __slots__ = ("_first", "_repeated")

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._first: dict[bytes, bytes] = {}
        self._repeated: set[bytes] = set()
        for name, value in headers:
            if name in self._first:
                self._repeated.add(name)
            else:
                self._first[name] = value

    def first(self, name: bytes) -> str:
        """Return the first header of a name, in lower case; empty where there is none."""
        return self._first.get(name, b"").decode("latin-1")

    def only(self, name: str) -> str | None:
        """Return a header that may be sent once; None where it was not.

        Raises ``InvalidInput`` where it is repeated: two parties in between would each pick
        one of the values, not necessarily the same.
        """
        key = name.lower().encode("ascii")
        value = self._first.get(key)
        if value is None:
            return None
        if key in self._repeated:
            raise _refused(f"/{name}", f"Send the header `{name}` once.", "header")
        return value.decode("latin-1")


def headers(request: Request) -> SentHeaders:
    """Return the headers of a request."""
    state = request.scope.setdefault("state", {})
    sent = state.get("headers")
    if sent is None:
        sent = state["headers"] = SentHeaders(request.scope["headers"])
    return cast("SentHeaders", sent)


def header(request: Request, name: str) -> str | None:
    """Return a header that may be sent once; see ``SentHeaders.only``."""
    return headers(request).only(name)


def body_shares() -> Shares:
    """Make the memory that bodies may take together, from their arrival until they are judged.

    The limit of one body bounds one caller; this bounds all of them together, and each tenant
    among them. What was judged is counted by the log's queue.

    Every body that is held here has an owner: no part of one is asked for before the key was
    found right. What of it came by itself until then (uvicorn reads ahead, 64 KiB at the most
    before it stops) is not counted; nor is the body of a call without a right key, which is never
    put together, only thrown away piece by piece (``protocol.py``).
    """
    return Shares(
        limits.BODIES_BYTES_MAX,
        own_taken=(
            "This tenant has as many large bodies arriving at once as it may have here; nothing "
            "was written. Send them one after another, or try again later."
        ),
        all_taken="Too many large bodies are arriving at once; nothing was written.",
    )


async def judged_body(
    request: Request, judge: Callable[[bytes], Judged], *, bytes_max: int
) -> Judged:
    """Read the body of a call that takes JSON, and return what ``judge`` makes of it.

    Raises, beside what ``judge`` raises:
        UnsupportedMediaType: it is not declared as JSON in UTF-8.
        BodyTooLarge: it is longer than ``bytes_max``. Known as soon as more than that came,
            or was announced.
        BodyTooSlow: it did not arrive within ``limits.BODY_SECONDS_MAX``.
        Busy: this process holds as many bodies as it may, of this tenant or of all.
    """
    sent = headers(request)
    declared = sent.only("Content-Type")
    if declared is not None:
        _must_be_json(declared)
    if sent.first(b"content-encoding").lower() not in {"", "identity"}:
        raise UnsupportedMediaType(
            "Bodies are read as they are; send this one without `Content-Encoding`.",
            [FieldError("/Content-Encoding", "Leave it out.", "header")],
        )
    announced = sent.first(b"content-length")
    if announced.isdecimal() and int(announced) > bytes_max:
        raise _too_large(bytes_max)
    shares = cast("Shares", request.app.state.body_shares)
    tenant_id = principal(request).tenant_id
    chunks: list[bytes] = []
    size = 0
    try:
        # The first piece is there, or comes within the time that protocol.py gives it.
        chunk, more = await _chunk(request)
        deadline = asyncio.get_running_loop().time() + limits.BODY_SECONDS_MAX
        while True:
            if size + len(chunk) > bytes_max:
                raise _too_large(bytes_max)
            shares.take(tenant_id, len(chunk))
            size += len(chunk)
            chunks.append(chunk)
            if not more:
                break
            chunk, more = await _next_chunk(request, deadline)
        if declared is None and size:
            # Without any body, it is the missing body that the caller should hear of.
            raise _not_json()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if size <= _INLINE_BYTES_MAX:
            return judge(body)
        return await asyncio.to_thread(judge, body)
    finally:
        shares.give_back(tenant_id, size)


def query_parameters(request: Request) -> list[tuple[str, str]]:
    """Return the query parameters, decoded, in their order.

    Raises ``InvalidInput`` where they are not UTF-8, or too many.
    """
    text = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(
            text,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=limits.QUERY_PARAMETERS_MAX,
        )
    except UnicodeDecodeError:
        raise _refused("", "Parameters are percent-encoded UTF-8.", "query") from None
    except ValueError:
        raise _refused(
            "", f"Send at most {limits.QUERY_PARAMETERS_MAX} parameters.", "query"
        ) from None


def no_parameters(request: Request) -> None:
    """Refuse query parameters where there are none. Raises ``InvalidInput``."""
    unknown = query_parameters(request)
    if unknown:
        raise InvalidInput(
            "This call takes no parameters.",
            [FieldError(f"/{name}", "Unknown parameter.", "query") for name, _ in unknown[:20]],
        )


def path_text(request: Request, prefix: str, name: str) -> str:
    """Return what follows ``prefix`` in the path, decoded strictly.

    The server has decoded the path already, but leniently: what is not UTF-8 became U+FFFD
    there, which is somebody else's name.
    """
    raw = unquote_to_bytes(request.scope["raw_path"].partition(b"?")[0])
    try:
        return raw.decode().removeprefix(prefix)
    except UnicodeDecodeError:
        raise _refused(f"/{name}", "Paths are percent-encoded UTF-8.", "path") from None


async def _next_chunk(request: Request, deadline: float) -> tuple[bytes, bool]:
    """Return what came of the body until the deadline, and whether more will."""
    try:
        async with asyncio.timeout_at(deadline):
            return await _chunk(request)
    except TimeoutError:
        raise BodyTooSlow(
            f"The body did not arrive within {limits.BODY_SECONDS_MAX:.0f} seconds."
        ) from None


async def _chunk(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


def _must_be_json(declared: str) -> None:
    if declared == _JSON:
        return
    media_type, *parameters = (part.strip().lower() for part in declared.split(";"))
    if media_type != _JSON:
        raise _not_json()
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name.strip() != "charset" or value.strip().strip('"') not in {"utf-8", "utf8"}:
            raise _not_json()


def _not_json() -> UnsupportedMediaType:
    return UnsupportedMediaType(
        "The body must be declared as JSON in UTF-8: `Content-Type: application/json`.",
        [FieldError("/Content-Type", "Send `application/json`.", "header")],
    )


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The body of this call may have {bytes_max:,} bytes at the most.",
        [FieldError("", f"Longer than {bytes_max:,} bytes.")],
    )


def _refused(pointer: str, message: str, location: Location) -> InvalidInput:
    return InvalidInput(message, [FieldError(pointer, message, location)])
