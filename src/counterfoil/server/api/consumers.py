"""Consumers: making them, working for them, and what was set aside."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request

from counterfoil.server.api import openapi_consumers as described
from counterfoil.server.api.keys import list_answer, replayed_header
from counterfoil.server.api.parts import idempotency_key, judged, parts
from counterfoil.server.api.requests import (
    admission,
    has_left,
    header,
    judged_body,
    no_parameters,
    principal,
    query_parameters,
)
from counterfoil.server.api.routes import Answer, RawRoute
from counterfoil.server.consumers.lane import Outcome
from counterfoil.server.consumers.model import (
    Because,
    Claim,
    DeleteParameters,
    Drop,
    Extend,
    JudgedAck,
    NewConsumer,
    Release,
    Replay,
    Seek,
    SetAside,
    judge_ack,
    judge_consumer_name,
    key_of_next,
)
from counterfoil.server.core import limits
from counterfoil.server.core.errors import ConsumerNotFound, CounterfoilError, LeaseLost
from counterfoil.server.log.model import AppendRequest, judge_traceparent
from counterfoil.server.log.own import Made
from counterfoil.server.log.parameters import ListParameters, judged_parameters
from counterfoil.server.log.query import judge_event_id

router = APIRouter(route_class=RawRoute)


def _name(request: Request) -> str:
    return judge_consumer_name(request.path_params["name"])


# --- Making and changing ----------------------------------------------------------


@router.get("/consumers", **described.LIST)
async def list_consumers(request: Request) -> Answer:
    """List the tenant's consumers by their names, and how each stands."""
    asked = judged_parameters(ListParameters, query_parameters(request))
    listed = await parts(request).handing_out.consumers.all(
        principal(request).tenant_id, limit=asked.limit, cursor=asked.cursor
    )
    return list_answer("consumers", listed.texts, listed.next)


@router.get("/consumers/{name}", **described.GET)  # noqa: FAST003 - judged by the domain
async def get_consumer(request: Request) -> Answer:
    """Show one consumer, and how it stands."""
    no_parameters(request)
    return Answer(
        await parts(request).handing_out.consumers.one(principal(request).tenant_id, _name(request))
    )


@router.put("/consumers/{name}", **described.PUT)  # noqa: FAST003 - the same
async def put_consumer(request: Request) -> Answer:
    """Make a consumer, or change it."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    asked = await judged(request, NewConsumer)
    made = await parts(request).handing_out.consumers.put(
        caller.tenant_id, name, asked, by=caller.id, key=key
    )
    location = [(b"location", f"/consumers/{name}".encode("ascii"))] if made.created else []
    return Answer(
        made.text,
        status=201 if made.created else 200,
        headers=[*location, *replayed_header(made.replayed)],
    )


@router.delete("/consumers/{name}", **described.DELETE)  # noqa: FAST003 - the same
async def delete_consumer(request: Request) -> Answer:
    """Delete a consumer, with all that is out."""
    asked = judged_parameters(DeleteParameters, query_parameters(request))
    caller = principal(request)
    return _made(
        await parts(request).handing_out.consumers.delete(
            caller.tenant_id,
            _name(request),
            drop_dead_letters=asked.dead_letters == "drop",
            by=caller.id,
            key=idempotency_key(request),
        )
    )


@router.post("/consumers/{name}/pause", **described.PAUSE)  # noqa: FAST003 - the same
async def pause_consumer(request: Request) -> Answer:
    """Let nothing be handed out, until it is resumed."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    asked = await judged(request, Because)
    return _made(
        await parts(request).handing_out.consumers.pause(
            caller.tenant_id, name, "pause", asked, by=caller.id, key=key
        )
    )


@router.post("/consumers/{name}/resume", **described.RESUME)  # noqa: FAST003 - the same
async def resume_consumer(request: Request) -> Answer:
    """Let a paused consumer hand out again."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    asked = await judged(request, Because)
    return _made(
        await parts(request).handing_out.consumers.pause(
            caller.tenant_id, name, "resume", asked, by=caller.id, key=key
        )
    )


@router.post("/consumers/{name}/seek", **described.SEEK)  # noqa: FAST003 - the same
async def seek_consumer(request: Request) -> Answer:
    """Go on at another place of the book."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    asked = await judged(request, Seek)
    return _made(
        await parts(request).handing_out.consumers.seek(
            caller.tenant_id, name, asked, by=caller.id, key=key
        )
    )


def _made(made: Made) -> Answer:
    return Answer(made.text, headers=replayed_header(made.replayed))


# --- Working ----------------------------------------------------------------------


@router.post("/consumers/{name}/claim", **described.CLAIM)  # noqa: FAST003 - the same
async def claim(request: Request) -> Answer:
    """Be handed what is ready, or what becomes ready while the call waits."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    caller.must_consume(name)
    asked = await judged(request, Claim)
    await _must_read(request, name)
    claiming = _claiming(request, name, asked, key)
    if asked.wait_seconds:
        waited = await _while_wanted(request, claiming)
        if waited is None:
            return Answer(_claimed(Outcome("claimed")))
        outcome = waited
    else:
        outcome = await claiming
    await _must_read(request, name, outcome.changed_by)
    return Answer(_claimed(outcome))


async def _must_read(request: Request, name: str, changed_by: int | None = None) -> None:
    """Refuse a caller who may not read what a consumer hands out.

    Once more after a claim, which says what changed the consumer last: where its query was changed
    meanwhile, what was handed out stays out until its leases end.

    Raises ``ScopeMissing``, ``ConsumerNotFound``, ``Unavailable``.
    """
    caller, work = principal(request), parts(request).handing_out.work
    if caller.scopes.may_read_all:
        return
    if changed_by is None or not work.knows(caller.tenant_id, name, changed_by):
        caller.must_read(await work.reads(caller.tenant_id, name))


def _claiming(
    request: Request, name: str, asked: Claim, key: str | None
) -> Coroutine[Any, Any, Outcome]:
    """The claim of whoever calls; to one who has left by its answer, nothing is handed out."""
    caller = principal(request)
    return parts(request).handing_out.work.claim(
        caller.tenant_id, name, asked, principal=caller.id, key=key, left=has_left(request)
    )


def _claimed(outcome: Outcome) -> str:
    deliveries = "" if outcome.handed_out is None else outcome.handed_out.text
    return f'{{"deliveries":[{deliveries}],"status":"{outcome.consumer}"}}'


UNWATCHED_SECONDS: Final = 0.1
"""How long a claim waits before somebody looks after its caller: what was handed to one that has
gone by then is given back."""

_Result = TypeVar("_Result")


async def _while_wanted(request: Request, call: Coroutine[Any, Any, _Result]) -> _Result | None:
    """Wait for a call that may take long, for as long as its caller does, and may.

    None: the key is not worth any more what it was when the call came, so nothing is handed out
    to it; the next call says what it is worth now.

    Raises ``ClientDisconnect`` where the caller has gone: nothing is handed out to it then.
    """
    changed = asyncio.Event()
    unwatch = parts(request).access.keyring.watch(admission(request), changed.set)
    calling = asyncio.create_task(call, name="claim")
    tasks: list[asyncio.Task[Any]] = [calling]
    try:
        # Most have their answer at once, and need nobody to look after their callers meanwhile.
        await asyncio.wait(tasks, timeout=UNWATCHED_SECONDS)
        if not calling.done():
            leaving = asyncio.create_task(_left(request), name="claim: caller leaves")
            refused = asyncio.create_task(changed.wait(), name="claim: its key is changed")
            tasks += [leaving, refused]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                if leaving.done():
                    raise ClientDisconnect
                return None
        return calling.result()
    finally:
        unwatch()
        for task in tasks:
            task.cancel()
        if not all(task.done() for task in tasks):
            await asyncio.gather(*tasks, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.post("/consumers/{name}/ack", **described.ACK)  # noqa: FAST003 - the same
async def ack(request: Request) -> Answer:
    """Say that work is done, write its outcome in the same step, and be handed what is next."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    caller.must_consume(name)
    judge = partial(
        judge_ack,
        consumer=name,
        principal=caller.id,
        key=key,
        traceparent=judge_traceparent(header(request, "traceparent")),
    )
    asked = await judged_body(request, judge, bytes_max=limits.BATCH_BODY_BYTES_MAX)
    if asked.next is not None:
        await _must_read_next(request, name, asked)
    if asked.outcome is not None:
        return await _handed_in(request, name, asked, asked.outcome, key)
    if asked.next is not None:
        claimed = await _claiming(request, name, asked.next, key)
        return Answer(f'{{"status":"done","next":{await _shown(request, name, claimed)}}}')
    outcome = await parts(request).handing_out.work.ack(
        caller.tenant_id, name, asked.tokens, principal=caller.id, key=key
    )
    return Answer('{"status":"done"}', headers=replayed_header(outcome.status == "replayed"))


async def _handed_in(
    request: Request, name: str, asked: JudgedAck, outcome: AppendRequest, key: str | None
) -> Answer:
    """Write the outcome of what is done, and then claim what is next, where that is asked for."""
    caller, reached = principal(request), parts(request)
    work = reached.handing_out.work
    try:
        stored = await reached.appends.append(caller, outcome)
    except LeaseLost:
        raise await work.lost(caller.tenant_id, name, asked.tokens, caller.id) from None
    if not stored.replayed:
        work.handed_in(caller.tenant_id, name, len(asked.tokens))
    first, last = stored.first_position, stored.first_position + stored.event_count - 1
    ids = ",".join(map(str, range(first, last + 1)))
    location = f"/events?after={first - 1}&up_to={last}&limit={stored.event_count}"
    then = ""
    if asked.next is not None:
        then = f',"next":{await _next(request, name, asked.next, key_of_next(key))}'
    return Answer(
        f'{{"ids":[{ids}],"created_at":"{stored.created_at}","status":"stored"{then}}}',
        status=201,
        headers=[
            (b"location", location.encode("ascii")),
            *replayed_header(stored.replayed),
        ],
    )


async def _must_read_next(request: Request, name: str, asked: JudgedAck) -> None:
    """Refuse who may not be handed what is next, while nothing is done yet."""
    try:
        await _must_read(request, name)
    except ConsumerNotFound:
        # An outcome may have been written while there was one, and is answered again.
        if asked.outcome is None:
            raise


async def _next(request: Request, name: str, asked: Claim, key: str | None) -> str:
    """What is handed out after an outcome is in the book, whatever becomes of this.

    ``null``: nothing that is known of, and the holder claims again.
    """
    try:
        outcome = await _claiming(request, name, asked, key)
    except CounterfoilError:
        return "null"
    return await _shown(request, name, outcome)


async def _shown(request: Request, name: str, outcome: Outcome) -> str:
    """What was handed out with an acknowledgement; ``null`` to who may not read it any more."""
    try:
        await _must_read(request, name, outcome.changed_by)
    except CounterfoilError:
        return "null"
    return _claimed(outcome)


@router.post("/consumers/{name}/extend", **described.EXTEND)  # noqa: FAST003 - the same
async def extend(request: Request) -> Answer:
    """Hold what is held for longer."""
    no_parameters(request)
    caller, name = principal(request), _name(request)
    caller.must_consume(name)
    asked = await judged(request, Extend)
    outcome = await parts(request).handing_out.work.extend(
        caller.tenant_id, name, asked, principal=caller.id
    )
    return Answer(f'{{"lease_ends":"{outcome.lease_ends}"}}')


@router.post("/consumers/{name}/release", **described.RELEASE)  # noqa: FAST003 - the same
async def release(request: Request) -> Answer:
    """Give back what is held, at once or for later."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    caller.must_consume(name)
    asked = await judged(request, Release)
    outcome = await parts(request).handing_out.work.release(
        caller.tenant_id, name, asked, principal=caller.id, key=key
    )
    return Answer('{"status":"released"}', headers=replayed_header(outcome.status == "replayed"))


@router.post("/consumers/{name}/set-aside", **described.SET_ASIDE)  # noqa: FAST003 - the same
async def set_aside(request: Request) -> Answer:
    """Set aside what nobody can work on as it is."""
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    caller.must_consume(name)
    asked = await judged(request, SetAside)
    stored = await parts(request).handing_out.work.set_aside(
        caller.tenant_id, name, asked, principal=caller.id, key=key
    )
    ids = ",".join(str(stored.first_position + nth) for nth in range(stored.event_count))
    return Answer(
        f'{{"status":"set_aside","event_ids":[{ids}]}}', headers=replayed_header(stored.replayed)
    )


# --- Dead letters -----------------------------------------------------------------


@router.get("/consumers/{name}/dead-letters", **described.LIST_LETTERS)  # noqa: FAST003 - the same
async def list_dead_letters(request: Request) -> Answer:
    """List what was set aside, in the order of the events."""
    asked = judged_parameters(ListParameters, query_parameters(request))
    listed = await parts(request).handing_out.dead_letters.all(
        principal(request).tenant_id, _name(request), limit=asked.limit, cursor=asked.cursor
    )
    return list_answer("dead_letters", listed.texts, listed.next)


@router.get("/consumers/{name}/dead-letters/{id}", **described.GET_LETTER)  # noqa: FAST003 - so
async def get_dead_letter(request: Request) -> Answer:
    """Show one dead letter: its attempts, and why it was set aside."""
    no_parameters(request)
    event_id = judge_event_id(request.path_params["id"])
    return Answer(
        await parts(request).handing_out.dead_letters.one(
            principal(request).tenant_id, _name(request), event_id
        )
    )


@router.post("/consumers/{name}/dead-letters/replay", **described.REPLAY)  # noqa: FAST003 - so
async def replay_dead_letters(request: Request) -> Answer:
    """Hand dead letters out again."""
    return await _settled(request, Replay, "replayed")


@router.post("/consumers/{name}/dead-letters/drop", **described.DROP)  # noqa: FAST003 - so
async def drop_dead_letters(request: Request) -> Answer:
    """Drop dead letters: nobody is to work on them any more."""
    return await _settled(request, Drop, "dropped")


async def _settled(request: Request, model: type[Replay] | type[Drop], status: str) -> Answer:
    no_parameters(request)
    caller, name, key = principal(request), _name(request), idempotency_key(request)
    asked = await judged(request, model)
    ids, replayed = await parts(request).handing_out.dead_letters.settle(
        caller.tenant_id, name, asked, by=caller.id, key=key
    )
    listed = ",".join(map(str, ids))
    return Answer(
        f'{{"status":"{status}","event_ids":[{listed}]}}', headers=replayed_header(replayed)
    )
