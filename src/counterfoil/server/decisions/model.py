"""What is asked of policies and decisions, judged."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.core.errors import FieldError, InvalidInput, Location
from counterfoil.server.log.fields import (
    REASON_MUST_BE,
    REFUSAL,
    AgentName,
    EventId,
    Reason,
    Tag,
    Wire,
)
from counterfoil.server.log.parameters import ListParameters

_POLICY_NAME: Final = re.compile(
    rf"[a-z0-9][a-z0-9._-]{{0,{limits.POLICY_NAME_CHARACTERS_MAX - 1}}}"
)
_POLICY_NAME_MUST_BE: Final = (
    f"A policy's name has 1 to {limits.POLICY_NAME_CHARACTERS_MAX} characters: lower-case letters, "
    "digits, and `.`, `_`, `-` but not at the beginning"
)
_VERSION_MAX: Final = 2**31 - 1


def judge_policy_name(text: str) -> str:
    """The ``{name}`` of a path. Raises ``InvalidInput``."""
    if _POLICY_NAME.fullmatch(text):
        return text
    raise _refused("/name", f"{_POLICY_NAME_MUST_BE}.", "path")


def judge_version(text: str) -> int:
    """The ``{version}`` of a path. Raises ``InvalidInput``."""
    if re.fullmatch(r"[1-9][0-9]{0,9}", text) and int(text) <= _VERSION_MAX:
        return int(text)
    raise _refused("/version", "A version is a whole number of 1 or more.", "path")


def _refused(pointer: str, message: str, location: Location) -> InvalidInput:
    return InvalidInput(message, [FieldError(pointer, message, location)])


def _is_policy_name(text: str) -> str:
    if not _POLICY_NAME.fullmatch(text):
        raise PydanticCustomError(REFUSAL, f"{_POLICY_NAME_MUST_BE}.")
    return text


PolicyName = Annotated[
    str,
    AfterValidator(_is_policy_name),
    Field(json_schema_extra={"pattern": f"^{_POLICY_NAME.pattern}$"}, examples=["consumer_credit"]),
]


class Activation(Wire):
    """Why a version is put in force."""

    must_be = {"reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar of the base

    reason: Reason


class Retirement(Wire):
    """Why a policy decides no more."""

    must_be = {"reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar of the base

    reason: Reason


class PolicyParameters(Wire):
    """The parameters of ``GET /policies/{name}``."""

    must_be = {"version": "a whole number of 1 or more"}  # noqa: RUF012 - a ClassVar of the base

    version: Annotated[
        Annotated[int, Field(ge=1, le=_VERSION_MAX)] | None,
        Field(description="Which version; the active one, if left out."),
    ] = None


class Supersedes(Wire):
    """The standing decision whose place this one is to take."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "decision": "the id of a decision",
        "reason": REASON_MUST_BE,
    }

    decision: Annotated[EventId, Field(description="Its id.", examples=[58])]
    reason: Reason


class NewDecision(Wire):
    """What is to be decided."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "policy": "the name of a policy",
        "subject": "a tag, as `application:42`",
        "inputs": "an object: each extra input with its value",
        "on_behalf_of": f"a string of 1 to {limits.NAME_CHARACTERS_MAX} characters, on one line",
        "agent_name": "the name of an agent",
        "supersedes": "an object with `decision` and `reason`",
        "explain": "true or false",
    }

    policy: Annotated[PolicyName, Field(description="By which policy.")]
    subject: Annotated[
        Tag,
        Field(description="About what: a tag of its subject's kind.", examples=["application:42"]),
    ]
    inputs: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="The inputs that the policy does not take from the book (its `extra`).",
        ),
    ]
    on_behalf_of: Annotated[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=limits.NAME_CHARACTERS_MAX,
                pattern=r"^[^\x00-\x1f\x7f-\x9f]*$",
            ),
        ]
        | None,
        Field(description="For whom the caller asks. It stands in the record, as it was said."),
    ] = None
    agent_name: Annotated[
        AgentName | None,
        Field(
            description="Under which name it is decided, where the key may write under any. Left "
            "out: the key's own."
        ),
    ] = None
    supersedes: Annotated[
        Supersedes | None,
        Field(description="The standing decision whose place this one takes; it has to be named."),
    ] = None
    explain: Annotated[bool, Field(description="Answer with the explanation, too.")] = False


class Replaying(Wire):
    """Whether a decision is the same again, and by which version."""

    must_be = {"version": "a whole number of 1 or more"}  # noqa: RUF012 - a ClassVar of the base

    version: Annotated[
        Annotated[int, Field(ge=1, le=_VERSION_MAX)] | None,
        Field(description="What if: by this version. Left out: by its own."),
    ] = None


class DecisionParameters(ListParameters):
    """The parameters of ``GET /decisions``."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        **ListParameters.must_be,
        "policy": "the name of a policy",
        "subject": "a tag, as `application:42`",
        "order": "`asc` or `desc`",
    }

    policy: Annotated[PolicyName | None, Field(description="Only by this policy.")] = None
    subject: Annotated[Tag | None, Field(description="Only about this.")] = None
    order: Annotated[
        Literal["asc", "desc"], Field(description="Oldest first, or newest first.")
    ] = "asc"
