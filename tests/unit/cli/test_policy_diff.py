"""What changed between two policies: every change is told, once, where a reader looks for it."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from counterfoil.cli.policy_diff import changes
from tests.unit.cli.policy_files import Policy, policy, rows_of, with_change


def told(change: Callable[[Policy], object]) -> list[tuple[str, str, str, str]]:
    """What is told of one change to the policy."""
    found = changes(policy(), with_change(change))
    return [(each.part, each.kind, each.name, each.detail) for each in found]


def content_of(changed: Policy) -> dict[str, Any]:
    content: dict[str, Any] = changed["rules"]["nodes"][2]["content"]
    return content


def test_nothing_changed_is_nothing() -> None:
    assert changes(policy(), policy()) == []
    assert changes({}, {}) == []


def test_what_differs_in_the_order_of_members_only_is_the_same() -> None:
    assert changes(policy(), dict(reversed(policy().items()))) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda p: p["reads"].update(
                score={"types": ["scored"], "agents": ["m"], "take": "max", "path": "/n"}
            ),
            ("reads", "added", "score", "max /n of scored by m"),
        ),
        (lambda p: p["reads"].pop("flags"), ("reads", "removed", "flags", "count of flagged")),
        (
            lambda p: p["reads"].pop("income"),
            (
                *("reads", "removed", "income"),
                "latest /monthly_minor of income_verified, at most 7776000 seconds old",
            ),
        ),
        (
            lambda p: p["reads"]["income"].update(max_age_seconds=60),
            ("reads", "changed", "income", "max_age_seconds: 7776000 → 60"),
        ),
        (
            lambda p: p["reads"]["debt"].update(may_be_missing=True),
            ("reads", "changed", "debt", "may_be_missing: nothing → true"),
        ),
        (
            lambda p: p["reads"]["debt"].update(types=["debt_checked", "debt_told"]),
            ("reads", "changed", "debt", 'types: ["debt_checked"] → ["debt_checked","debt_told"]'),
        ),
        (
            lambda p: p["outcomes"].update(wait={"kind": "review"}),
            ("outcomes", "added", "wait", "review"),
        ),
        (
            lambda p: p["outcomes"].pop("decline"),
            ("outcomes", "removed", "decline", "decline (D01)"),
        ),
        (
            lambda p: p["outcomes"]["decline"]["reasons"]["D01"].update(text="Too much."),
            (
                *("outcomes", "changed", "decline"),
                'reasons D01 text: "Debt is above half of the income." → "Too much."',
            ),
        ),
        (
            lambda p: p["forbidden_inputs"].append("Foreign"),
            ("forbidden_inputs", "added", "Foreign", ""),
        ),
        (
            lambda p: p["forbidden_inputs"].remove("Age"),
            ("forbidden_inputs", "removed", "Age", ""),
        ),
        (
            lambda p: p["forbidden_inputs"].reverse(),
            ("forbidden_inputs", "moved", "order", "is another"),
        ),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_inputs_outcomes_and_what_is_forbidden_stand_under_their_names(
    change: Callable[[Policy], object], expected: tuple[str, str, str, str]
) -> None:
    assert told(change) == [expected]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda p: rows_of(p).insert(
                1, {"_id": "r9", "c1": "> 0.4", "c2": "> 2", "o1": '"decline"', "o2": '"D01"'}
            ),
            [
                (
                    *("table decide", "added", "row 2 (r9)"),
                    'ratio > 0.4, flags > 2 → outcome "decline", reasons "D01"',
                )
            ],
        ),
        (
            lambda p: rows_of(p).pop(2),
            [("table decide", "removed", "row 3 (r3)", 'anything → outcome "review"')],
        ),
        (
            lambda p: rows_of(p)[1].update(c1="<= 0.4", c2=""),
            [
                ("table decide", "changed", "row 2 (r2)", "ratio: <= 0.5 → <= 0.4"),
                ("table decide", "changed", "row 2 (r2)", "flags: 0 → anything"),
            ],
        ),
        (
            lambda p: rows_of(p).insert(0, rows_of(p).pop(1)),
            [("table decide", "moved", "row 1 (r2)", "order: after r1 → first")],
        ),
        (
            lambda p: rows_of(p)[0].update(_description="Too much debt."),
            [("table decide", "changed", "row 1 (r1)", "_description: anything → Too much debt.")],
        ),
        (
            lambda p: content_of(p)["inputs"][0].update(field="ratio * 100"),
            [("table decide", "changed", "column of inputs", "ratio → ratio * 100")],
        ),
        (
            lambda p: content_of(p)["inputs"].append({"id": "c3", "field": "debt", "name": "debt"}),
            [("table decide", "added", "column of inputs", "debt")],
        ),
        (
            lambda p: content_of(p)["inputs"].pop(1),
            [("table decide", "removed", "column of inputs", "flags")],
        ),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_a_table_is_told_row_by_row(
    change: Callable[[Policy], object], expected: list[tuple[str, str, str, str]]
) -> None:
    assert told(change) == expected


def test_rows_without_ids_are_told_by_their_numbers() -> None:
    def without_ids(change: Callable[[Policy], object]) -> Policy:
        changed = with_change(change)
        for row in rows_of(changed):
            del row["_id"]
        return changed

    before = without_ids(lambda _: None)
    after = without_ids(lambda p: rows_of(p)[1].update(c1="<= 0.4"))
    (found,) = changes(before, after)
    assert (found.name, found.detail) == ("row 2", "ratio: <= 0.5 → <= 0.4")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda p: p["rules"]["nodes"][1]["content"]["expressions"][0].update(value="debt"),
            ("changed", "/rules/nodes/1/content/expressions/0/value", '"debt / income" → "debt"'),
        ),
        (
            lambda p: p["inputs_schema"]["properties"]["debt"].pop("minimum"),
            ("removed", "/inputs_schema/properties/debt/minimum", "0"),
        ),
        (
            lambda p: p["inputs_schema"]["properties"]["debt"].update(minimum=Decimal("0.0")),
            ("changed", "/inputs_schema/properties/debt/minimum", "0 → 0.0"),
        ),
        (
            lambda p: content_of(p).update(hitPolicy="collect"),
            ("changed", "/rules/nodes/2/content/hitPolicy", '"first" → "collect"'),
        ),
        (
            lambda p: p["examples"].insert(0, {"name": "new", "inputs": {}, "outcome": "review"}),
            ("added", "/examples/0", '{"name":"new","inputs":{},"outcome":"review"}'),
        ),
        (
            lambda p: p["examples"][1]["inputs"].update(debt=91),
            ("changed", "/examples/1/inputs/debt", "90 → 91"),
        ),
        (
            lambda p: p["rules"]["nodes"][2].update(name="a/b"),
            ("changed", "/rules/nodes/2/name", '"decide" → "a/b"'),
        ),
        (lambda p: p.update({"a/b~": 1}), ("added", "/a~1b~0", "1")),
        (lambda p: p.update(extra=["amount"]), ("added", "/extra", '["amount"]')),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_everything_else_is_told_by_its_place(
    change: Callable[[Policy], object], expected: tuple[str, str, str]
) -> None:
    (found,) = changes(policy(), with_change(change))
    assert (found.part, found.kind, found.pointer, found.detail) == ("everything else", *expected)


def test_a_table_that_is_new_is_told_as_a_whole() -> None:
    added = {**with_change(lambda _: None)["rules"]["nodes"][2], "id": "t2"}
    (found,) = changes(policy(), with_change(lambda p: p["rules"]["nodes"].append(added)))
    assert (found.part, found.kind, found.pointer) == ("everything else", "added", "/rules/nodes/4")


def test_what_is_no_policy_is_compared_all_the_same() -> None:
    found = changes({"reads": [1], "rules": "x"}, {"reads": {"a": 2}, "rules": {"nodes": [3]}})
    assert {each.part for each in found} == {"reads", "everything else"}
