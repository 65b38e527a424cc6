"""A policy: what it reads, how it decides, and what may come of it. Judged as a whole.

A policy is one JSON document, and so is each of its versions, for ever: what was published is
named by the digest of its canonical text. It says which events about a subject it looks at, each
turned into a named input (``inputs.py``); what the inputs must be; a decision graph, as the
engine's own editor saves it (``graph.py``); which outcomes there are, with their reasons; what no
rule may read; and examples, which are run before it is published.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.decisions.rules.kinds import ANYTHING, Named, Names, kind_of_schema
from counterfoil.server.decisions.rules.vocabulary import Vocabulary
from counterfoil.server.log.fields import REFUSAL, Name, Wire

INPUT_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"
CODE: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_OWN_KINDS: Final = frozenset({"decision", "policy"})
"""The kinds of the tags by which decisions and policies are found: a subject that bears one would pass
for them."""

_NAMED: Final = "1 to 64 letters, digits and underscores, and begin with no digit"
_CODED: Final = "1 to 64 letters, digits, `.`, `_` and `-`, and begin with a letter or a digit"

Take = Literal["latest", "first", "count", "min", "max", "sum", "any", "all", "list"]
InputName = Annotated[str, Field(pattern=INPUT_NAME)]
Code = Annotated[str, Field(pattern=CODE)]
Sentence = Annotated[str, Field(min_length=1, max_length=1_000)]


class Read(Wire):
    """One input: which events of the subject it comes from, and how."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "types": "a list of 1 to 100 event types",
        "agents": "a list of 1 to 100 names of agents",
        "take": "`latest`, `first`, `count`, `min`, `max`, `sum`, `any`, `all` or `list`",
        "path": "a text: a JSON pointer into the payload, as `/income/monthly`",
        "max_age_seconds": "a whole number of 1 or more",
        "may_be_missing": "true or false",
    }
    each_must_be = {  # noqa: RUF012 - a ClassVar of the base
        "types": "the name of an event type",
        "agents": "the name of an agent",
    }

    types: Annotated[list[Name], Field(min_length=1, max_length=limits.QUERY_ITEM_VALUES_MAX)]
    agents: Annotated[
        list[Name] | None, Field(min_length=1, max_length=limits.QUERY_ITEM_VALUES_MAX)
    ] = None
    take: Take
    path: Annotated[
        str | None,
        Field(
            pattern=r"^(/([^~/]|~[01])*)+$",
            max_length=512,
            description="Where in the payload it stands, as a JSON pointer. `count` needs none.",
        ),
    ] = None
    max_age_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=2**31,
            description="Events that are older at the moment of the decision are not looked at.",
        ),
    ] = None
    may_be_missing: bool = False

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """The names in its path, in their order."""
        pointer = self.path or ""
        return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])

    @model_validator(mode="after")
    def _path_where_it_is_needed(self) -> Self:
        if self.take == "count" and self.path is not None:
            raise PydanticCustomError(REFUSAL, "`count` counts events; leave `path` out.")
        if self.take != "count" and self.path is None:
            raise PydanticCustomError(
                REFUSAL, f"`{self.take}` needs a `path`: where in the payload the value stands."
            )
        return self


class Reason(Wire):
    """Why an outcome came about, for those who decide, and for the customer."""

    must_be = {"text": "a sentence", "customer": "a sentence"}  # noqa: RUF012 - a ClassVar

    text: Sentence
    customer: Annotated[
        Sentence | None, Field(description="In plain words, for the notice of an adverse action.")
    ] = None


class Outcome(Wire):
    """One value that a decision may have."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "kind": "`approve`, `decline` or `review`",
        "reasons": "an object: each reason's code with its texts",
    }
    each_must_be = {  # noqa: RUF012 - a ClassVar of the base
        "reasons": "an object with `text` and `customer`",
        "reasons[key]": _CODED,
    }

    kind: Literal["approve", "decline", "review"]
    reasons: Annotated[dict[Code, Reason], Field(default_factory=dict)]

    @model_validator(mode="after")
    def _a_decline_has_reasons(self) -> Self:
        if self.kind != "decline":
            return self
        if not self.reasons:
            raise PydanticCustomError(REFUSAL, "A decline needs specific reasons; give them here.")
        mute = [code for code, reason in self.reasons.items() if reason.customer is None]
        if mute:
            raise PydanticCustomError(
                REFUSAL,
                f"What is the customer told? Give `customer` for {', '.join(sorted(mute))}.",
            )
        return self


class Example(Wire):
    """Inputs, and what must come of them."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "name": "a short sentence",
        "inputs": "an object: each input's name with its value",
        "outcome": "the outcome that must come of them",
        "reasons": "a list of codes",
    }
    each_must_be = {"reasons": _CODED}  # noqa: RUF012 - a ClassVar of the base

    name: Annotated[str, Field(min_length=1, max_length=200)]
    inputs: dict[str, Any]
    outcome: str
    reasons: Annotated[list[Code], Field(default_factory=list)]


class Policy(Wire):
    """A policy, as it is published."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "subject": "the kind of a tag, as `application`",
        "reads": "an object: each input's name with where it comes from",
        "extra": "a list of names of inputs",
        "inputs_schema": "an object: a JSON Schema (2020-12) of the inputs",
        "rules": "an object: a decision graph",
        "outcomes": "an object: each outcome with its kind and its reasons",
        "forbidden_inputs": "a list of names",
        "examples": f"a list of 1 to {limits.POLICY_EXAMPLES_MAX} examples",
    }
    each_must_be = {  # noqa: RUF012 - a ClassVar of the base
        "reads": "an object with `types`, `take` and `path`",
        "reads[key]": _NAMED,
        "extra": _NAMED,
        "outcomes": "an object with `kind` and `reasons`",
        "outcomes[key]": _CODED,
        "forbidden_inputs": "a string of 1 to 200 characters",
        "examples": "an object with `name`, `inputs`, `outcome` and `reasons`",
    }

    subject: Annotated[
        str,
        Field(pattern=r"^[^\s:]+$", max_length=limits.TAG_KIND_CHARACTERS_MAX),
    ]
    reads: Annotated[dict[InputName, Read], Field(min_length=1, max_length=limits.POLICY_READS_MAX)]
    extra: Annotated[
        list[InputName],
        Field(
            default_factory=list,
            description="Inputs that come with the request, and not from the book.",
        ),
    ]
    inputs_schema: dict[str, Any]
    rules: dict[str, Any]
    outcomes: Annotated[dict[Code, Outcome], Field(min_length=1)]
    forbidden_inputs: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]], Field(default_factory=list)
    ]
    examples: Annotated[list[Example], Field(min_length=1, max_length=limits.POLICY_EXAMPLES_MAX)]

    @field_validator("subject")
    @classmethod
    def _subject_is_not_the_services_own(cls, kind: str) -> str:
        if kind in _OWN_KINDS:
            raise PydanticCustomError(
                REFUSAL,
                f"Tags of the kind `{kind}` are the service's own; nothing is decided about them.",
            )
        return kind

    @cached_property
    def inputs(self) -> frozenset[str]:
        """The names of all inputs."""
        return frozenset(self.reads) | frozenset(self.extra)

    @cached_property
    def looks_at(self) -> Mapping[frozenset[str], frozenset[str]]:
        """Which types of events it reads, by the agents that must have written them (empty: any)."""
        types: dict[frozenset[str], frozenset[str]] = {}
        for read in self.reads.values():
            agents = frozenset(read.agents or ())
            types[agents] = types.get(agents, frozenset()) | frozenset(read.types)
        return types

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What its rules may speak of."""
        return Vocabulary(
            inputs=self._kinds,
            outcomes={name: frozenset(one.reasons) for name, one in self.outcomes.items()},
            approving=frozenset(n for n, one in self.outcomes.items() if one.kind == "approve"),
            reasoned=frozenset(n for n, one in self.outcomes.items() if one.kind == "decline"),
            forbidden=frozenset(self.forbidden_inputs),
        )

    @cached_property
    def optional(self) -> frozenset[str]:
        """The names of the inputs that may be missing."""
        return frozenset(name for name, read in self.reads.items() if read.may_be_missing)

    @property
    def _kinds(self) -> Names:
        parts = self.inputs_schema.get("properties")
        by_name = parts if isinstance(parts, dict) else {}
        return {
            name: Named(
                kind_of_schema(by_name.get(name)) or ANYTHING, "inputs", name in self.optional
            )
            for name in self.inputs
        }


def named_in(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The names of members that a schema speaks of, each with where."""
    properties = schema.get("properties")
    for name in properties if isinstance(properties, dict) else ():
        yield ("properties", name), name
    for place, part in _parts(schema):
        for further, found in named_in(part):
            yield (*place, *further), found


def _parts(
    schema: Mapping[str, Any],
) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, Any]]]:
    """Whatever stands within a schema and may be, or hold, one itself; each with where."""
    for keyword, value in schema.items():
        if isinstance(value, dict):
            yield (keyword,), value
        elif isinstance(value, list):
            for nth, part in enumerate(value):
                if isinstance(part, dict):
                    yield (keyword, nth), part
