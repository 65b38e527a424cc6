"""Whether a policy may be published: everything that is wrong with it, each at its place.

The order is that of a reader: what is it made of, what do its inputs have to be, what do its rules
do, and do its own examples come out as it says? Where one of these has faults, the next is not
asked: its answers would be noise.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import ValidationError

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical, parse, pointer_to, quote
from counterfoil.server.core.errors import FieldError, InvalidInput, NotDecided
from counterfoil.server.decisions.engine import CompiledPolicy
from counterfoil.server.decisions.policy import Example, Policy, named_in
from counterfoil.server.decisions.rules.graph import judge_graph
from counterfoil.server.decisions.rules.kinds import kind_of_schema
from counterfoil.server.event_types.compiled import CompiledSchema
from counterfoil.server.event_types.schemas import judge_schema
from counterfoil.server.log.refusals import field_errors, refuse


@dataclass(frozen=True, slots=True)
class JudgedPolicy:
    """A policy that may be published, with its schema and its rules compiled.

    Attributes:
        text: its canonical JSON: what is kept, for ever.
        digest: SHA-256 of that, in hexadecimal. It stands in every decision's record.
    """

    policy: Policy
    text: str
    digest: str
    schema: CompiledSchema
    rules: CompiledPolicy

    def unreached(self) -> Sequence[tuple[str, int]]:
        """The rows of its tables that no example reaches, each as table and number from 1."""
        reached = {
            (row["table"], row["row"])
            for example in self.policy.examples
            for row in self.rules.evaluate(example.inputs).matched
        }
        return [row for row in self.rules.rows if row not in reached]


def judge_policy(document: Mapping[str, Any]) -> JudgedPolicy:
    """Judge a policy, and run its examples. Raises ``InvalidInput`` with every fault at its place."""
    text = canonical(dict(document))
    if (size_bytes := len(text)) > limits.POLICY_BYTES_MAX:
        raise refuse(
            [
                FieldError(
                    "",
                    f"A policy may take {limits.POLICY_BYTES_MAX:,} bytes; this takes {size_bytes:,}.",
                )
            ]
        )
    try:
        policy = Policy.model_validate(document)
    except ValidationError as error:
        raise refuse(field_errors(error, Policy)) from None
    # First whether it is a schema at all: what follows takes it apart.
    schema = _judged_schema(policy)
    _refuse_if(_faults_of_inputs(policy))
    _refuse_if(
        FieldError(pointer_to(fault.pointer), fault.message)
        for fault in judge_graph(policy.rules, policy.vocabulary)
    )
    try:
        rules = CompiledPolicy(policy)
    except NotDecided as error:
        raise refuse([FieldError("/rules", str(error))]) from None
    judged = JudgedPolicy(policy, text.decode(), sha256(text).hexdigest(), schema, rules)
    _refuse_if(
        fault
        for nth, example in enumerate(policy.examples)
        if (fault := _fault_of_example(judged, nth, example)) is not None
    )
    return judged


def compiled_policy(text: str) -> JudgedPolicy:
    """A version that was drafted, compiled again. It was judged then, by the rules of then.

    Raises ``NotDecided`` where this release cannot read it any more.
    """
    document: Any = parse(text.encode())
    try:
        policy = Policy.model_validate(document)
        schema = judge_schema(policy.inputs_schema)
    except (ValidationError, InvalidInput) as error:
        raise NotDecided("This release cannot read the policy any more; draft it anew.") from error
    digest = sha256(text.encode()).hexdigest()
    return JudgedPolicy(policy, text, digest, schema, CompiledPolicy(policy))


def _refuse_if(faults: Iterator[FieldError]) -> None:
    found = []
    for fault in faults:
        found.append(fault)
        if len(found) == limits.FIELD_ERRORS_MAX:
            break
    if found:
        raise refuse(found)


# --- Inputs -----------------------------------------------------------------------


def _faults_of_inputs(policy: Policy) -> Iterator[FieldError]:
    for name in sorted(frozenset(policy.reads) & frozenset(policy.extra)):
        yield FieldError(
            pointer_to(("extra",)),
            f"`{name}` comes from the book; it cannot come with the request too.",
        )
    yield from _forbidden(policy)
    yield from _loose_parts(policy.inputs_schema, ("inputs_schema",))
    properties = policy.inputs_schema.get("properties")
    named = set(properties) if isinstance(properties, dict) else set()
    for name in sorted(policy.inputs ^ named):
        yield FieldError(
            pointer_to(("inputs_schema", "properties")),
            f"`{name}` is no input of this policy."
            if name in named
            else f"The schema says nothing of the input `{name}`.",
        )
    for name in sorted(policy.inputs - policy.optional - _required(policy.inputs_schema)):
        yield FieldError(
            pointer_to(("inputs_schema", "required")), f"`{name}` may not be missing; require it."
        )


def _forbidden(policy: Policy) -> Iterator[FieldError]:
    """Where the inputs name what no rule may read."""
    places: list[tuple[tuple[str | int, ...], Iterable[str]]] = [
        (("reads", name), (name, *read.steps)) for name, read in policy.reads.items()
    ]
    places += [(("extra", nth), (name,)) for nth, name in enumerate(policy.extra)]
    places += [
        (("inputs_schema", *place), (name,)) for place, name in named_in(policy.inputs_schema)
    ]
    for place, names in places:
        if any(map(policy.vocabulary.forbids, names)):
            yield FieldError(pointer_to(place), "This is among `forbidden_inputs`.")


def _required(schema: Mapping[str, Any]) -> set[str]:
    required = schema.get("required")
    return {str(name) for name in required} if isinstance(required, list) else set()


def _loose_parts(schema: Mapping[str, Any], place: tuple[str | int, ...]) -> Iterator[FieldError]:
    """Parts of a schema of inputs that let in what nobody named, or nothing in the place of a value.

    A rule could read anything there, or decide on a value that there is not.
    """
    is_whole = len(place) == 1
    if is_whole and schema.get("type") != "object":
        yield FieldError(pointer_to((*place, "type")), "The inputs are one `object`.")
    elif not is_whole and (message := _fault_of_kind(schema)):
        yield FieldError(pointer_to(place), message)
    for keyword in ("patternProperties", "prefixItems"):
        if keyword in schema:
            message = "Name each member; say what all `items` are."
            yield FieldError(pointer_to((*place, keyword)), message)
    properties = schema.get("properties")
    parts: dict[str, Any] = properties if isinstance(properties, dict) else {}
    if is_whole or parts or _types(schema) & {"object"}:
        if schema.get("additionalProperties") is not False:
            yield FieldError(
                pointer_to(place),
                "Close this object with `additionalProperties: false`: what nobody named must not "
                "get in.",
            )
        if not is_whole and set(parts) - _required(schema):
            yield FieldError(pointer_to(place), "Require every member of an object in an input.")
    for step, part in _parts_of(schema):
        if isinstance(part, dict):
            yield from _loose_parts(part, (*place, *step))
        else:
            yield FieldError(pointer_to((*place, *step)), "Say what this is: a `type`.")


def _parts_of(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    properties = schema.get("properties")
    for name, part in properties.items() if isinstance(properties, dict) else ():
        yield ("properties", name), part
    if _types(schema) & {"array"} or "items" in schema:
        yield ("items",), schema.get("items")


def _types(schema: Mapping[str, Any]) -> set[str]:
    types = schema.get("type", ())
    return {types} if isinstance(types, str) else {str(one) for one in types or ()}


def _fault_of_kind(schema: Mapping[str, Any]) -> str | None:
    """Why a value that a schema lets in may be nothing, or of several kinds."""
    listed = [schema["const"]] if "const" in schema else schema.get("enum")
    may_be_null = None in listed if isinstance(listed, list) else "null" in _types(schema)
    if may_be_null or not (isinstance(listed, list) or _types(schema)):
        return "Say which `type` this is, and no null: a condition over nothing is not met."
    is_judged_below = listed is None and _types(schema) in ({"array"}, {"object"})
    if kind_of_schema(schema) is None and not is_judged_below:
        return "Say which one `type` this is: values of two are never the same."
    return None


def _judged_schema(policy: Policy) -> CompiledSchema:
    try:
        return judge_schema(policy.inputs_schema)
    except InvalidInput as error:
        raise refuse(
            [
                FieldError(one.pointer.replace("/schema", "/inputs_schema", 1), one.message)
                for one in error.errors
            ]
        ) from None


# --- Examples ---------------------------------------------------------------------


def _fault_of_example(judged: JudgedPolicy, nth: int, example: Example) -> FieldError | None:
    """Why an example does not come out as it says; None if it does."""
    place = ("examples", nth)
    if faults := judged.schema.faults(example.inputs, place):
        first = faults[0]
        return FieldError(first.pointer.replace("/payload", "/inputs", 1), first.message)
    try:
        found = judged.rules.evaluate(example.inputs)
    except NotDecided as error:
        return FieldError(pointer_to(place), f"{quote(example.name)}: {error}")
    if (found.outcome, list(found.reasons)) == (example.outcome, example.reasons):
        return None
    return FieldError(
        pointer_to(place),
        f"{quote(example.name)}: the rules say {_said(found.outcome, found.reasons)}, and the example "
        f"{_said(example.outcome, example.reasons)}.",
    )


def _said(outcome: str, reasons: Any) -> str:
    listed = ", ".join(reasons)
    return f"`{outcome}` ({listed})" if listed else f"`{outcome}`"
