"""Policies judged on this machine, as the service judges them: for ``lint`` and ``test``.

It takes the service's own code, which is imported when it is needed: the light installation has
neither it nor the rules' engine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from counterfoil.cli import arguments
from counterfoil.cli.exits import Misused

if TYPE_CHECKING:
    from counterfoil.server.decisions.engine import CompiledPolicy
    from counterfoil.server.decisions.policy import Example, Policy
    from counterfoil.server.event_types.compiled import CompiledSchema

_EXAMPLES = "/examples"

Row = tuple[str, int]
"""A row of a table: the table's name, and the row's number from 1."""


@dataclass(frozen=True, slots=True)
class PolicyFault:
    """What is wrong with a policy, and where: a JSON pointer, empty for the whole."""

    pointer: str
    message: str


class PolicyFaults(Exception):
    """A policy may not be published."""

    def __init__(self, faults: Sequence[PolicyFault]) -> None:
        super().__init__("\n".join(fault.message for fault in faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Fine:
    """A policy that may be published, with the rows that none of its examples reaches."""

    digest: str
    examples: int
    unreached: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Said:
    """An outcome with the codes of its reasons."""

    outcome: str
    reasons: Sequence[str]

    def __str__(self) -> str:
        return f"{self.outcome} ({', '.join(self.reasons)})" if self.reasons else self.outcome


@dataclass(frozen=True, slots=True)
class Tried:
    """An example, and what came of it: ``got``, or why nothing did."""

    name: str
    expected: Said
    got: Said | None
    refused: str | None
    matched: Sequence[Row]

    @property
    def passed(self) -> bool:
        """Whether it came out as it says."""
        return self.got == self.expected


@dataclass(frozen=True, slots=True)
class Trial:
    """All examples of a policy, and the rows that none of them reached."""

    examples: Sequence[Tried]
    unreached: Sequence[Row]

    @property
    def passed(self) -> bool:
        """Whether all of them came out as they say."""
        return all(each.passed for each in self.examples)


def read_file(file: str) -> str:
    """The text of a policy's file; ``-`` is standard input.

    Raises:
        Misused: it cannot be read, or is no text.
    """
    return arguments.read_source(file if file == "-" else f"@{file}")


def lint(text: str) -> Fine:
    """Judge a policy as the service does, its examples too.

    Raises:
        PolicyFaults: it may not be published.
        Misused: what judges is not installed here.
    """
    with _judge():
        from counterfoil.server.decisions.judging import judge_policy

        judged = judge_policy(_document(text))
        return Fine(judged.digest, len(judged.policy.examples), judged.unreached())


def try_examples(text: str) -> Trial:
    """Run the examples of a policy one by one; one that fails does not keep the others.

    Raises:
        PolicyFaults: something else than its examples keeps it from being run.
        Misused: what judges is not installed here.
    """
    with _judge():
        policy, schema, rules = _runnable(_document(text))
        tried = [_tried(schema, rules, nth, example) for nth, example in enumerate(policy.examples)]
        reached = {row for each in tried for row in each.matched}
        return Trial(tried, [row for row in rules.rows if row not in reached])


def _document(text: str) -> Mapping[str, Any]:
    from counterfoil.server.core.document import parse
    from counterfoil.server.core.errors import MalformedDocument

    # An editor's byte order mark is no fault of the policy.
    document = parse(text.removeprefix("\ufeff").encode())
    if not isinstance(document, dict):
        raise MalformedDocument("A policy is a JSON object.")
    return document


def _runnable(document: Mapping[str, Any]) -> tuple[Policy, CompiledSchema, CompiledPolicy]:
    """What is needed to run examples, also where they are all that is wrong with the policy."""
    from pydantic import ValidationError

    from counterfoil.server.core.errors import InvalidInput
    from counterfoil.server.decisions.engine import CompiledPolicy
    from counterfoil.server.decisions.judging import judge_policy
    from counterfoil.server.decisions.policy import Policy
    from counterfoil.server.event_types.schemas import judge_schema

    try:
        judged = judge_policy(document)
    except InvalidInput as refusal:
        # Examples are judged last: where nothing else is named, nothing else is wrong.
        if not all(error.pointer.startswith(f"{_EXAMPLES}/") for error in refusal.errors):
            raise
        try:
            policy = Policy.model_validate(document)
        except ValidationError:
            raise refusal from None
        return policy, judge_schema(policy.inputs_schema), CompiledPolicy(policy)
    return judged.policy, judged.schema, judged.rules


def _tried(schema: CompiledSchema, rules: CompiledPolicy, nth: int, example: Example) -> Tried:
    from counterfoil.server.core.errors import NotDecided

    name, expected = example.name, Said(example.outcome, tuple(example.reasons))
    if faults := schema.faults(example.inputs, ("examples", nth)):
        where = faults[0].pointer.replace("/payload", "/inputs", 1)
        return Tried(name, expected, None, f"{where}: {faults[0].message}", ())
    try:
        found = rules.evaluate(example.inputs)
    except NotDecided as error:
        return Tried(name, expected, None, str(error), ())
    matched = tuple((row["table"], row["row"]) for row in found.matched)
    return Tried(name, expected, Said(found.outcome, tuple(found.reasons)), None, matched)


@contextlib.contextmanager
def _judge() -> Iterator[None]:
    """Turn what the service's judge raises into what is wrong with the policy."""
    try:
        from counterfoil.server.core.errors import InputError
        from counterfoil.server.decisions import judging  # noqa: F401 - whether it can be
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("counterfoil"):
            raise
        raise Misused(
            f"What judges a policy is not installed here ({error.name} is missing). Install it in "
            "a checkout with: pip install '.[server]'. A service judges a policy too, when it is "
            "published."
        ) from None
    try:
        yield
    except InputError as refusal:
        faults = [PolicyFault(error.pointer, error.message) for error in refusal.errors]
        raise PolicyFaults(faults or [PolicyFault("", str(refusal))]) from None
