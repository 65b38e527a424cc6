"""Registering types and changing settings: what is asked for, judged."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from counterfoil.server.log.fields import REASON_MUST_BE, REFUSAL, Name, Reason, Wire
from counterfoil.server.log.refusals import field_errors, refuse


class NewVersion(Wire):
    """A schema for the payloads of a type."""

    must_be = {  # noqa: RUF012 - a ClassVar of the base
        "schema": "an object: a JSON Schema (2020-12)",
        "narrowing": "true or false",
        "reason": REASON_MUST_BE,
    }

    schema_: Annotated[
        dict[str, Any],
        Field(
            alias="schema",
            description="A JSON Schema (2020-12) that payloads have to fit from now on.",
            examples=[
                {
                    "type": "object",
                    "properties": {"amount": {"type": "integer", "minimum": 0}},
                    "required": ["amount"],
                }
            ],
        ),
    ]
    narrowing: Annotated[
        bool,
        Field(
            description="Whether it may refuse payloads that the version before accepted. Needs "
            "`reason`."
        ),
    ] = False
    reason: Reason | None = None

    @model_validator(mode="after")
    def _narrowing_has_a_reason(self) -> Self:
        if self.narrowing and self.reason is None:
            raise PydanticCustomError(
                REFUSAL, "With `narrowing: true` give a `reason`: it stands in the book."
            )
        return self


class NewSettings(Wire):
    """What a tenant settles for itself."""

    must_be = {"unregistered_types": "`accepted` or `refused`"}  # noqa: RUF012 - a ClassVar

    unregistered_types: Annotated[
        Literal["accepted", "refused"],
        Field(description="What becomes of events whose type has no schema."),
    ]


class TypeParameters(Wire):
    """The parameters of ``GET /event-types/{type}``."""

    must_be = {"version": "a whole number of 1 or more"}  # noqa: RUF012 - a ClassVar of the base

    version: Annotated[
        Annotated[int, Field(ge=1, le=2**31 - 1)] | None,
        Field(description="Which version; the active one, if left out."),
    ] = None


def judge_event_type(text: str) -> str:
    """The ``{type}`` of a path. Raises ``InvalidInput``."""
    try:
        return TypePath(event_type=text).event_type
    except ValidationError as error:
        raise refuse(field_errors(error, TypePath, "path")) from None


class TypePath(Wire):
    """The path of ``GET`` and ``PUT /event-types/{type}``."""

    event_type: Annotated[Name, Field(description="Which type.", examples=["flag_transaction"])]
