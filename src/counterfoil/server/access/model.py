"""Keys and tenants: what is asked for, judged."""

from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from counterfoil.server.core import limits
from counterfoil.server.log.fields import (
    REASON_MUST_BE,
    REFUSAL,
    AgentName,
    Name,
    Reason,
    Time,
    Wire,
)

_TIME: Final = "a string: a time as in RFC 3339"


class NewKey(Wire):
    """A key to make."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "kind": "`agent`, `person`, `service`, `auditor` or `admin`",
        "name": f"a string of 1 to {limits.NAME_CHARACTERS_MAX} characters",
        "scopes": f"a list of 1 to {limits.SCOPES_MAX} scopes",
        "mode": "`live` or `test`",
        "expires_at": _TIME,
        "rate_per_second": f"a whole number from 1 to {limits.RATE_PER_SECOND_MAX}",
        "rate_burst": f"a whole number from 1 to {limits.RATE_BURST_MAX}",
    }
    each_must_be = {  # noqa: RUF012 - the same
        "scopes": f"a string of at most {limits.SCOPE_CHARACTERS_MAX} characters"
    }

    kind: Annotated[
        Literal["agent", "person", "service", "auditor", "admin"],
        Field(
            description="What it is for: an agent writes as itself; a person or a service too, and "
            "may be let at more; an auditor only reads; an admin manages, and writes nothing.",
            examples=["agent"],
        ),
    ]
    name: Annotated[
        AgentName,
        Field(
            description="Whose it is. An event that it writes bears this name.",
            examples=["fraud_agent"],
        ),
    ]
    scopes: Annotated[
        Annotated[
            list[Annotated[str, Field(max_length=limits.SCOPE_CHARACTERS_MAX)]],
            Field(min_length=1, max_length=limits.SCOPES_MAX),
        ]
        | None,
        Field(
            description="What it may do: `append:TYPE`, `read:TYPE`, `read:TYPE@TAG_KIND`, "
            "`manage:…`, `operate:…`; a TYPE may end in `*`. Left out: all that its kind is for.",
            examples=[["append:flag_*", "read:*"]],
        ),
    ] = None
    mode: Annotated[
        Literal["live", "test"] | None,
        Field(description="What the key's text says that it is for; `live` if left out."),
    ] = None
    expires_at: Annotated[
        Time | None,
        Field(
            description="From when on it opens nothing; never, if left out.",
            examples=["2027-03-01T00:00:00Z"],
        ),
    ] = None
    rate_per_second: Annotated[
        Annotated[int, Field(ge=1, le=limits.RATE_PER_SECOND_MAX)] | None,
        Field(
            description="Calls a second that it may make for ever, in each worker of the service; "
            f"{limits.RATE_PER_SECOND_DEFAULT} if left out."
        ),
    ] = None
    rate_burst: Annotated[
        Annotated[int, Field(ge=1, le=limits.RATE_BURST_MAX)] | None,
        Field(description="Calls that it may make at once; twice `rate_per_second` if left out."),
    ] = None

    @model_validator(mode="after")
    def _burst_belongs_to_a_rate(self) -> Self:
        if self.rate_burst is not None and self.rate_per_second is None:
            raise PydanticCustomError(
                REFUSAL, "`rate_burst` goes with `rate_per_second`: give both, or none."
            )
        return self


class Rotation(Wire):
    """A key to take the place of another."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "overlap_seconds": f"a whole number from 0 to {limits.KEY_OVERLAP_SECONDS_MAX}",
        "expires_at": _TIME,
    }

    overlap_seconds: Annotated[
        Annotated[int, Field(ge=0, le=limits.KEY_OVERLAP_SECONDS_MAX)] | None,
        Field(
            description="How long the old key goes on to work beside the new one; "
            f"{limits.KEY_OVERLAP_SECONDS_DEFAULT} if left out."
        ),
    ] = None
    expires_at: Annotated[
        Time | None,
        Field(description="From when on the new key opens nothing; never, if left out."),
    ] = None


class Revocation(Wire):
    """A key to be worth nothing from now on."""

    must_be = {"reason": REASON_MUST_BE}  # noqa: RUF012 - a ClassVar of the base

    reason: Reason


def _not_the_operators(name: str) -> str:
    if name in {"default", "counterfoil"}:
        raise PydanticCustomError(REFUSAL, f"`{name}` is the service's own. Choose another name.")
    return name


class NewTenant(Wire):
    """A tenant to open a book for."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "name": f"a string of 1 to {limits.NAME_CHARACTERS_MAX} characters"
    }

    name: Annotated[
        Name,
        AfterValidator(_not_the_operators),
        Field(
            description="Its name, by which the operator knows it.",
            examples=["acme"],
            json_schema_extra={"not": {"enum": ["default", "counterfoil"]}},
        ),
    ]


ADMIN_NAME: Final = "admin"
"""Under which name a new tenant's first key is made."""
