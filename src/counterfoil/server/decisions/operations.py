"""Deciding by a policy.

Theory of operation
-------------------
A decision is an event like any other, of a type that only the service writes. What makes it one is
how it comes into the book:

1. One statement reads all that it rests on: the head, the time, the version of the policy that is
   in force, the decision that stands, and the events about the subject that the policy looks at.
2. The events become inputs, the inputs are held against the policy's schema, the rules are applied
   (``deciding.py``, ``engine.py``). Nothing of it waits, and nothing of it guesses.
3. It is appended under the condition that none of what was read has changed since that head: no
   event that the policy would have read, no other decision of this policy about the subject, no
   other version put in force. All writers count, and the check, the write and its place in the
   order are one step (``04_append.sql``).
4. Where something did land in between, it is read and decided anew, a bounded number of times.

So there is no table of decisions, and no lock held while rules run: that at most one decision
stands follows from the condition, since each that was made before is something that was read. The
last one stands; a later one takes its place by naming it.

An idempotency key stands for what was asked, not for what came of it, so it spans all tries, and a
call that is repeated after the rules or the signals have changed is answered as the first time. It
comes before every refusal: a success that is asked for again must not be refused by itself.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.server.access.principal import Principal
from counterfoil.server.brake.operations import Brake
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.errors import (
    Busy,
    ConditionFailed,
    CounterfoilError,
    DatabaseUnavailable,
    DecisionStands,
    FieldError,
    Frozen,
    InvalidInput,
    NameNotYours,
    NotWritten,
    OutcomeUnknown,
    ReadTooSlow,
    ScopeMissing,
    Unavailable,
)
from counterfoil.server.decisions.deciding import (
    append_of,
    lookup_of,
    must_be_about_something,
    must_be_extra,
    must_fit,
    taken_inputs,
    too_long_a_record,
)
from counterfoil.server.decisions.engine import Evaluated
from counterfoil.server.decisions.finding import Finding, shown_decision
from counterfoil.server.decisions.judging import JudgedPolicy
from counterfoil.server.decisions.looking import Looks
from counterfoil.server.decisions.model import NewDecision
from counterfoil.server.decisions.policies import Policies
from counterfoil.server.decisions.record import (
    Rests,
    basis_of,
    record,
    written,
)
from counterfoil.server.decisions.store import DecisionStore, Look, Seen, StoredDecision
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.operations import Log, Stored

_DECIDED_BEFORE: Final = (
    "This was decided before, and the decision cannot be read at the moment. Ask again with the same "
    "Idempotency-Key."
)


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that is in the book: its id, as JSON, and whether an earlier call made it."""

    id: int
    text: str
    replayed: bool


class Decisions:
    """The policies and decisions in the books, as one process sees them."""

    def __init__(self, log: Log, event_types: EventTypes, brake: Brake) -> None:
        self._log = log
        self._event_types = event_types
        self._brake = brake
        self._store = DecisionStore(log.reader)
        self._looks = Looks(self._store)
        self.policies = Policies(log, self._store)
        """The policies that are decided by."""
        self.found = Finding(log, self._store, self._looks, self.policies)
        """What was decided."""

    async def decide(
        self, caller: Principal, asked: NewDecision, *, key: str | None, traceparent: str | None
    ) -> Decided:
        """Decide by a policy, and write it down; when this returns, it is flushed.

        Args:
            caller: who asks. The decision is written in its name.
            key, traceparent: of the request, judged.

        Raises:
            ScopeMissing, NameNotYours: the key may not decide by it, or not read what it reads.
            PolicyNotFound, PolicyNotActive: nothing can be decided by it.
            SubjectWithoutEvents, DecisionInputsRefused, NotDecided: nothing could be decided.
            DecisionStands: one stands about the subject, and it was not named.
            ConditionFailed: what it reads has changed during each of ``DECISION_TRIES_MAX`` tries.
            Frozen: the agent, the subject or the book is.
            IdempotencyMismatch, Unavailable: as an append does.
        """
        try:
            decided = await self._decided_once(caller, asked, key=key, traceparent=traceparent)
        except CounterfoilError as error:
            metrics.DECISIONS.labels(_refusal_as_counted(error)).inc()
            raise
        if decided.replayed:
            metrics.DECISIONS.labels("replayed").inc()
        return decided

    async def _decided_once(
        self, caller: Principal, asked: NewDecision, *, key: str | None, traceparent: str | None
    ) -> Decided:
        """Decide, or answer as an earlier try of the same call was answered."""
        caller.must_decide(asked.policy)
        agent_name = _name_of(caller, asked)
        try:
            stored, made = await self._decided(
                caller, asked, agent_name=agent_name, key=key, traceparent=traceparent
            )
        except (DatabaseUnavailable, ReadTooSlow) as error:
            raise NotWritten(f"{error} Nothing was decided.") from error
        except Unavailable:
            raise
        except CounterfoilError as refusal:
            if key is None:
                raise
            request = lookup_of(caller.id, agent_name, _content(asked), key)
            stored = await self._log.answered_before(caller.tenant_id, request, refusal)
            made = None
        # From here on it is in the book, whatever becomes of the answer.
        return await self._answer(caller, stored, asked, made)

    async def _decided(
        self,
        caller: Principal,
        asked: NewDecision,
        *,
        agent_name: str,
        key: str | None,
        traceparent: str | None,
    ) -> tuple[Stored, StoredDecision | None]:
        """Read, decide and append until it stands; what was appended, or None for an earlier one."""
        tenant_id, conflict = caller.tenant_id, None
        content = _content(asked)
        for tried in range(1, limits.DECISION_TRIES_MAX + 1):
            version, judged = await self.policies.in_force(tenant_id, asked.policy)
            basis = basis_of(asked.policy, judged.policy, asked.subject)
            look = Look.of(asked.policy, asked.subject, basis)
            seen = await self._looks.look(tenant_id, look)
            if seen.version != version:
                # Nothing is refused by a version that is not in force: it is what this process
                # remembers, and only here does it learn better.
                self.policies.learn(tenant_id, asked.policy, seen.version)
                continue
            _must_be_of_its_kind(judged, asked.subject)
            # What has changed meanwhile is shown, so all of the condition must be readable.
            caller.must_read(basis.condition)
            must_be_extra(judged, asked.inputs)
            await self._must_not_stand(tenant_id, asked, seen.standing)
            rests = await _rests(judged, seen, asked.subject, asked.inputs)
            came = await _evaluated(judged, rests.inputs)
            told = record(asked, judged, version, rests, came, asked_by=caller.id)
            request = append_of(
                told,
                basis,
                incarnation=seen.incarnation,
                agent_name=agent_name,
                asked=content,
                key=key,
                traceparent=traceparent,
            )
            try:
                stored = await self._event_types.append(tenant_id, request)
            except ConditionFailed as error:
                conflict = error
                continue
            except Frozen as error:
                raise await self._brake.explained(tenant_id, error) from None
            except InvalidInput as error:
                # All else that a payload is refused for, a record is not.
                raise too_long_a_record() from error
            if stored.replayed:
                return stored, None
            metrics.DECISIONS.labels(judged.policy.outcomes[came.outcome].kind).inc()
            metrics.DECISION_TRIES.observe(tried)
            return stored, StoredDecision.made(told, stored, seen.incarnation, agent_name)
        if conflict is not None:
            raise conflict
        raise Busy("The policy changes faster than anything can be decided by it; try again.")

    async def _answer(
        self, caller: Principal, stored: Stored, asked: NewDecision, made: StoredDecision | None
    ) -> Decided:
        """Answer with a decision that is in the book: the one that was made, or an earlier one.

        Its explanation is left out where it cannot be read now, or not by who asks for an earlier
        decision: it can be asked for by the decision's id.

        Raises ``OutcomeUnknown`` where an earlier decision cannot be read now.
        """
        decision_id = stored.first_position
        try:
            found = await self.found.told(caller.tenant_id, decision_id) if made is None else made
        except (DatabaseUnavailable, ReadTooSlow) as error:
            raise OutcomeUnknown(_DECIDED_BEFORE) from error
        document = shown_decision(decision_id, found)
        if asked.explain:
            reader = caller if made is None else None
            with contextlib.suppress(DatabaseUnavailable, ReadTooSlow, ScopeMissing):
                document["explanation"] = await self.found.explanation_of(
                    caller.tenant_id, decision_id, found, reader
                )
        return Decided(decision_id, written(document), stored.replayed)

    async def _must_not_stand(
        self, tenant_id: int, asked: NewDecision, standing: int | None
    ) -> None:
        named = None if asked.supersedes is None else asked.supersedes.decision
        if named == standing:
            return
        if standing is None:
            message = f"There is no decision of this policy about `{asked.subject}` to supersede."
            raise InvalidInput(message, [FieldError("/supersedes/decision", message)])
        found = await self.found.told(tenant_id, standing)
        outcome = "erased" if found.told is None else found.told["outcome"]
        raise DecisionStands(
            f"Decision {standing} stands about `{asked.subject}`: `{outcome}`. To take its place, "
            f"send `supersedes` with `decision: {standing}` and a reason.",
            written({"id": standing} if found.told is None else shown_decision(standing, found)),
        )


def _refusal_as_counted(error: CounterfoilError) -> str:
    """Why there is no decision, as the metrics say it."""
    match error:
        case DecisionStands():
            return "stands"
        case ConditionFailed():
            return "changed"
        case Unavailable():
            return "unavailable"
        case _:
            return "refused"


async def _evaluated(judged: JudgedPolicy, inputs: Mapping[str, Any]) -> Evaluated:
    """Apply the rules: between two other requests, or where that takes long, in a thread."""
    asked = judged.rules.asked(inputs)
    if judged.rules.steps(asked) <= limits.DECISION_STEPS_IN_TURN:
        return judged.rules.decide(asked)
    return await asyncio.to_thread(judged.rules.decide, asked)


def _name_of(caller: Principal, asked: NewDecision) -> str:
    """Under which name it is decided: the key's own, or where it has none, the one that was sent."""
    if caller.name is None:
        if asked.agent_name is None:
            message = "This key may write under any name: say under which, in `agent_name`."
            raise InvalidInput(message, [FieldError("/agent_name", message)])
        return asked.agent_name
    if asked.agent_name not in {None, caller.name}:
        raise NameNotYours(
            f"This key decides as `{caller.name}`, and under no other name.", caller.name
        )
    return caller.name


def _content(asked: NewDecision) -> dict[str, Any]:
    """What an idempotency key stands for."""
    return {"call": "decide", **asked.model_dump(exclude={"explain"})}


def _must_be_of_its_kind(judged: JudgedPolicy, subject: str) -> None:
    kind = subject.partition(":")[0]
    if kind != judged.policy.subject:
        message = (
            f"This policy decides about tags of the kind `{judged.policy.subject}`, as "
            f"`{judged.policy.subject}:42`."
        )
        raise InvalidInput(message, [FieldError("/subject", message)])


async def _rests(judged: JudgedPolicy, seen: Seen, subject: str, extra: Mapping[str, Any]) -> Rests:
    """Take the inputs: between two other requests, or where there are many, in a thread."""
    must_be_about_something(seen.found, seen.signals, subject)
    if (
        len(seen.signals) * len(judged.policy.reads) <= limits.DECISION_VALUES_IN_TURN
        and seen.bytes <= limits.DECISION_BYTES_IN_TURN
    ):
        return _taken(judged, seen, extra)
    return await asyncio.to_thread(_taken, judged, seen, extra)


def _taken(judged: JudgedPolicy, seen: Seen, extra: Mapping[str, Any]) -> Rests:
    rests = Rests(seen.head, seen.as_of, taken_inputs(judged, seen.signals), extra)
    must_fit(judged, rests)
    return rests
