"""Which changes of a schema count as narrowing, and where they are said to be."""

from decimal import Decimal
from typing import Any

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.errors import FieldError
from counterfoil.server.event_types.widening import narrowing


def of(part: Any, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"n": part}, **more}


MONEY = {"type": "integer", "minimum": 0}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (of(MONEY), of(MONEY)),
        (of(MONEY), of({"type": "integer"})),
        (of(MONEY), of({"type": "number", "minimum": -1})),
        (of(MONEY), {"type": "object"}),
        (of(MONEY, required=["n", "m"]), of(MONEY, required=["n"])),
        (of(MONEY, additionalProperties=False), of(MONEY)),
        (of(MONEY), of(MONEY, title="A flag", description="…", **{"x-owner": "fraud"})),
        (of({"enum": ["a"]}), of({"enum": ["a", "b"]})),
        (of({"const": 1}), of({"type": "integer", "maximum": 1})),
        (of({"enum": ["a", 1], "type": "string"}), of({"type": "string"})),
        (of({"multipleOf": Decimal("0.02")}), of({"multipleOf": Decimal("0.01")})),
        (of({"multipleOf": 10**90}), of({"multipleOf": Decimal("1e-90")})),
        (of({"maxLength": 3, "pattern": "x"}), of({"maxLength": 4})),
        (of({"exclusiveMaximum": 5}), of({"maximum": 5})),
        (of({"maximum": 4}), of({"exclusiveMaximum": 5})),
        (of({"items": MONEY, "maxItems": 2}), of({"items": {"type": "integer"}})),
        (of({"anyOf": [MONEY, {"type": "null"}]}), of({"type": ["integer", "null"]})),
        (of(MONEY), of({"anyOf": [MONEY, {"type": "null"}]})),
        (of({"not": MONEY, "if": MONEY, "then": False}), of({"not": MONEY})),
        (of({"$ref": "#/$defs/m"}, **{"$defs": {"m": MONEY}}), of(MONEY)),
        (of(MONEY), of({"$ref": "#/$defs/m", "description": "…"}, **{"$defs": {"m": MONEY}})),
        (of(False), of({"type": "string"})),
        # What has branches, and asks for more beside them.
        (
            {"anyOf": [of(MONEY), of(True)], "minProperties": 1},
            {"anyOf": [{"anyOf": [of(MONEY), of(True)]}, of(False)]},
        ),
        ({"oneOf": [of(MONEY)], "not": of(False)}, {"anyOf": [of(MONEY), {"required": ["n"]}]}),
    ],
)
def test_what_accepts_all_that_was_accepted_is_no_narrowing(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert narrowing(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "pointer"),
    [
        (of(MONEY), of({**MONEY, "maximum": 100}), "/schema/properties/n/maximum"),
        (
            of({**MONEY, "maximum": 100}),
            of({**MONEY, "maximum": 99}),
            "/schema/properties/n/maximum",
        ),
        (of({"type": "number"}), of({"type": "integer"}), "/schema/properties/n/type"),
        (of({}), of(MONEY), "/schema/properties/n/type"),
        (of(MONEY), of(MONEY, required=["n"]), "/schema/required"),
        (of(MONEY), of(MONEY, additionalProperties=False), "/schema/additionalProperties"),
        (
            {"type": "object", "properties": {"m": {}}, "additionalProperties": False},
            of({}, additionalProperties=False),
            "/schema/additionalProperties",
        ),
        ({"type": "object"}, of(MONEY), "/schema/properties/n/type"),
        (of({"enum": ["a", "b"]}), of({"enum": ["a"]}), "/schema/properties/n"),
        (of({"type": "string"}), of({"enum": ["a"]}), "/schema/properties/n/enum"),
        (
            of({"type": "string"}),
            of({"type": "string", "pattern": "x"}),
            "/schema/properties/n/pattern",
        ),
        (of({"pattern": "x"}), of({"pattern": "y"}), "/schema/properties/n/pattern"),
        (of({"maximum": 5}), of({"exclusiveMaximum": 5}), "/schema/properties/n/exclusiveMaximum"),
        (of({"multipleOf": 2}), of({"multipleOf": 3}), "/schema/properties/n/multipleOf"),
        (of({"items": {}}), of({"items": MONEY}), "/schema/properties/n/items/type"),
        (of({}), of({"not": MONEY}), "/schema/properties/n/not"),
        (of({"oneOf": [{}, MONEY]}), of({"oneOf": [MONEY, {}, {}]}), "/schema/properties/n/oneOf"),
        (of({}), of(False), "/schema/properties/n"),
        (
            of({"contains": MONEY}),
            of({"contains": MONEY, "minContains": 2}),
            "/schema/properties/n/contains",
        ),
    ],
)
def test_what_may_refuse_more_is_named_at_its_place(
    old: dict[str, Any], new: dict[str, Any], pointer: str
) -> None:
    errors = narrowing(old, new)
    assert pointer in [error.pointer for error in errors]
    assert all(error.message.endswith(".") for error in errors)


def too_large(errors: list[FieldError]) -> bool:
    return [error.pointer for error in errors] == ["/schema"] and (
        "too large to be compared" in errors[0].message
    )


def test_what_takes_too_long_to_prove_counts_as_narrowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Branches are held against branches, within one another: a hostile pair would take for ever."""
    old: dict[str, Any] = {"anyOf": [{"required": [f"a{n}"]} for n in range(50)]}
    new: dict[str, Any] = {"anyOf": [*old["anyOf"], {"required": ["b"]}]}
    assert narrowing(old, new) == []
    monkeypatch.setattr(limits, "PROOF_STEPS_MAX", 10_000)
    assert too_large(narrowing(old, new))


def test_trying_values_is_part_of_the_proof_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = [Decimal(f"{n}.5") for n in range(200)]
    monkeypatch.setattr(limits, "PROOF_STEPS_MAX", 1_000_000)
    assert too_large(narrowing(of({"enum": numbers}), of({"enum": numbers[::-1]})))


def test_values_are_tried_below_as_many_branches_as_a_schema_can_have() -> None:
    def below(branches: int, part: Any) -> Any:
        for _ in range(branches):
            part = {"anyOf": [part, {"type": "null"}]}
        return part

    assert narrowing(of(below(31, {"const": 1})), of(below(31, {"enum": [1, 2]}))) == []
