"""Decision tables: what they compare, what they decide, and whether a row can be reached."""

from collections.abc import Callable
from decimal import Decimal
from itertools import count
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.decisions.judging import JudgedPolicy, judge_policy
from counterfoil.server.decisions.rules.cells import catches_all, never_fits
from counterfoil.server.decisions.rules.kinds import NUMBER, TEXT, TRUTH, Kind, list_of
from tests.unit.policies import (
    Document,
    changed,
    content,
    edge,
    must_be_refused,
    policy,
    refused,
    rows,
)

NODES: Final = "/rules/nodes"
FIGURES: Final = f"{NODES}/1/content"
DECIDE: Final = f"{NODES}/2/content"


# --- Tables -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "pointer", "sentence"),
    [
        (lambda it: it.update(hitPolicy="collect"), "/hitPolicy", "the first row that fits"),
        (lambda it: it.pop("hitPolicy"), "/hitPolicy", "the first row that fits"),
        (lambda it: it.update(rules=[]), "/rules", "A table has rows"),
        (lambda it: it.update(rules=[1]), "/rules", "A table has rows"),
        (lambda it: it.update(inputs={}), "/inputs", "each with an `id`"),
        (lambda it: it.update(outputs=[{"field": "x"}]), "/outputs", "each with an `id`"),
        (lambda it: it["outputs"][0].update(id="ratio"), "", "the same id"),
        (lambda it: it["inputs"][0].update(field=" "), "/inputs/0/field", "Say which field"),
        (lambda it: it["inputs"][0].pop("field"), "/inputs/0/field", "Say which field"),
        (lambda it: it["inputs"][0].update(field="rati"), "/inputs/0/field", "Nothing hands on"),
        (
            lambda it: it["inputs"][0].update(field="debt / income"),
            "/inputs/0/field",
            "may be nothing",
        ),
        (
            lambda it: it["inputs"][0].update(field="debt - income"),
            "/inputs/0/field",
            "may be too large",
        ),
        (lambda it: it["outputs"][0].update(field=" outcome "), "/outputs/0/field", "has a name"),
        (lambda it: it["outputs"][0].update(field="outcome[]"), "/outputs/0/field", "has a name"),
        (lambda it: it["outputs"][0].update(field="a.b"), "/outputs/0/field", "has a name"),
        (lambda it: it["outputs"][0].update(field=""), "/outputs/0/field", "has a name"),
        (lambda it: it["rules"][0].update(ratio="> > 3"), "/rules/0/ratio", "cannot read"),
        (lambda it: it["rules"][0].update(ratio="> income"), "/rules/0/ratio", "make a column"),
        (lambda it: it["rules"][0].update(ratio='"high"'), "/rules/0/ratio", "never are the same"),
        (lambda it: it["rules"][0].update(ratio=5), "/rules/0/ratio", "An expression is a text"),
        (lambda it: it["rules"][0].update(ratio="\x1c"), "/rules/0/ratio", "Nothing begins with"),
        (lambda it: it["rules"][0].update(ratio="\xa0> 5"), "/rules/0/ratio", "Nothing begins"),
        (lambda it: it["rules"][0].update(ratio="> 5 and < 3"), "/rules/0/ratio", "No value fits"),
        (lambda it: it["rules"][0].update(ratio="[9..1]"), "/rules/0/ratio", "No value fits"),
        (
            lambda it: it["rules"][0].update(outcome="declined"),
            "/rules/0/outcome",
            "Nothing hands on `declined`",
        ),
        (
            lambda it: it["rules"][0].update(outcome='"refuse"'),
            "/rules/0/outcome",
            "one of `approve`, `decline`, `review`",
        ),
        (lambda it: it["rules"][0].update(outcome=""), "/rules/0/outcome", "one of `approve`"),
        (
            lambda it: it["rules"][0].update(outcome='flags > 1 ? "approve" : "review"'),
            "/rules/0/outcome",
            "as a constant in quotes",
        ),
        (
            lambda it: it["rules"][0].update(outcome='["decline"]'),
            "/rules/0/outcome",
            "as a constant in quotes",
        ),
        (
            lambda it: it["rules"][0].update(reasons='"D02"'),
            "/rules/0/reasons",
            "The reasons of `decline` are `D01`",
        ),
        (
            lambda it: it["rules"][1].update(reasons='"D01"'),
            "/rules/1/reasons",
            "The reasons of `approve` are nothing",
        ),
        (lambda it: it["rules"][0].pop("reasons"), "/rules/0", "needs a specific reason"),
        (lambda it: it["rules"][0].update(reasons="[]"), "/rules/0", "needs a specific reason"),
    ],
    ids=count(1),
)
def test_a_table_that_may_not_be_is_refused_at_its_place(
    change: Callable[[Document], object], pointer: str, sentence: str
) -> None:
    must_be_refused(
        changed(lambda it: change(content(it, "decide"))), f"{DECIDE}{pointer}", sentence
    )


def test_a_table_has_a_bound() -> None:
    document = policy()
    rows(document)[:] = [{"outcome": '"review"'}] * (limits.POLICY_ROWS_MAX + 1)
    must_be_refused(document, f"{DECIDE}/rules", "at most 1,000 rows")


def test_two_columns_do_not_make_the_same() -> None:
    def with_second(it: Document) -> None:
        content(it, "decide")["outputs"].append({"id": "o2", "field": "outcome"})

    must_be_refused(changed(with_second), f"{DECIDE}/outputs/2/field", "Another column makes")


def test_a_column_does_not_make_what_is_forbidden() -> None:
    def with_age(it: Document) -> None:
        content(it, "decide")["outputs"].append({"id": "o2", "field": "age_band"})

    must_be_refused(changed(with_age), f"{DECIDE}/outputs/2/field", "among `forbidden_inputs`")


@pytest.mark.parametrize(
    "cell",
    [None, "", "  ", "> 5, <= 5", "!= 5 or 5", ">= 0 or < 0", "in [0..9] or not in [0..9]"],
)
def test_a_row_that_catches_everything_does_not_approve(cell: str | None) -> None:
    def approving(it: Document) -> None:
        rows(it)[2].update(outcome='"approve"', ratio=cell)

    must_be_refused(changed(approving), f"{DECIDE}/rules/2", "would approve a guess")


def test_the_last_row_does_not_approve_whatever_it_asks() -> None:
    def last(it: Document) -> None:
        rows(it)[2].update(outcome='"approve"', ratio="<= 0.2")

    must_be_refused(changed(last), f"{DECIDE}/rules/2", "The last row may not say `approve`")
    declining = changed(lambda it: rows(it)[2].update(outcome='"decline"', reasons='"D01"'))
    declining["examples"] = declining["examples"][:2]
    assert isinstance(judge_policy(declining), JudgedPolicy)


def test_a_row_behind_one_that_catches_everything_is_a_mistake() -> None:
    document = changed(lambda it: rows(it).insert(0, {"outcome": '"review"'}))
    faults = refused(document)
    assert [pointer for pointer, _ in faults] == [f"{DECIDE}/rules/{nth}" for nth in (1, 2, 3)]
    assert {message for _, message in faults} == {"No input comes here: row 1 catches everything."}


@pytest.mark.parametrize("cell", ["> 0.5", ">0.5", " >  0.5 "])
def test_contradictory_rows_are_refused(cell: str) -> None:
    document = changed(lambda it: rows(it).insert(1, {"ratio": cell, "outcome": '"review"'}))
    must_be_refused(document, f"{DECIDE}/rules/1", "Row 1 has the same conditions")


def test_contradictory_rows_are_found_however_they_are_spelt() -> None:
    def contradictory(it: Document) -> None:
        rows(it)[1:1] = [
            {"flags": "== 1", "outcome": '"review"'},
            {"flags": "1", "outcome": '"decline"', "reasons": '"D01"'},
        ]

    must_be_refused(changed(contradictory), f"{DECIDE}/rules/2", "Row 2 has the same conditions")


def test_reasons_may_be_several() -> None:
    document = policy()
    document["outcomes"]["decline"]["reasons"]["D02"] = {"text": "x", "customer": "y"}
    rows(document)[0]["reasons"] = '["D01", "D02"]'
    document["examples"][1]["reasons"] = ["D01", "D02"]
    judge_policy(document)


def banded(cells: list[str], compared: str = "band", **more: str) -> Document:
    """The small policy with a table before the one that decides, whose value that compares."""
    document = policy()
    table = {
        "id": "bands",
        "type": "decisionTableNode",
        "name": "bands",
        "content": {
            "hitPolicy": "first",
            "passThrough": True,
            "inputs": [{"id": "i", "field": "debt"}],
            "outputs": [{"id": "o", "field": "band"}],
            "rules": [
                *({"i": str(nth), "o": cell} for nth, cell in enumerate(cells)),
                {"o": "0", **more},
            ],
        },
    }
    document["rules"]["nodes"].insert(2, table)
    document["rules"]["edges"] = [
        edge("in", "figures"),
        edge("figures", "bands"),
        edge("bands", "decide"),
        edge("decide", "out"),
    ]
    content(document, "decide")["inputs"][1]["field"] = compared
    return document


def test_a_table_hands_on_what_it_makes() -> None:
    judge_policy({**banded(["1", "2"]), "examples": policy()["examples"][:2]})


@pytest.mark.parametrize(
    ("cells", "pointer", "sentence"),
    [
        (["1", '"high"'], "/2/content/rules/1/o", "Rows before make a number of `band`"),
        (["1", ""], "/3/content/inputs/1/field", "`band` may be missing"),
        (["1", "debt / income"], "/2/content/rules/1/o", "may be nothing"),
        (["1", "debt * 2"], "/2/content/rules/1/o", "may be too large"),
        (["1", "debt > 'x'"], "/2/content/rules/1/o", "`>` takes a number"),
        (["1", "null"], "/2/content/rules/1/o", "`null` is no value"),
    ],
)
def test_a_row_makes_a_value_or_is_refused_since_the_engine_would_pass_it_over(
    cells: list[str], pointer: str, sentence: str
) -> None:
    must_be_refused(banded(cells), f"{NODES}{pointer}", sentence)


def test_what_is_decided_is_decided_once() -> None:
    document = banded(["1"])
    content(document, "bands")["outputs"] = [
        {"id": "o", "field": "outcome"},
        {"id": "r", "field": "reasons"},
    ]
    for row in content(document, "bands")["rules"]:
        row["o"] = '"review"'
    content(document, "decide")["inputs"][1]["field"] = "flags"
    content(document, "decide")["passThrough"] = True
    faults = refused(document)
    assert faults[0] == (
        f"{NODES}/3",
        "`outcome` is handed on already; what this node makes needs another name.",
    )


# --- Conditions that fit everything, or nothing -------------------------------------


@pytest.mark.parametrize(
    ("cell", "kind", "everything", "nothing"),
    [
        ("> 5", NUMBER, False, False),
        ("> 5 or <= 5", NUMBER, True, False),
        ("> -5 or <= -5", NUMBER, True, False),
        ("!= 5", NUMBER, False, False),
        ("> 5 and < 5", NUMBER, False, True),
        ("(5..5)", NUMBER, False, True),
        ("true, false", TRUTH, True, False),
        ("true and false", TRUTH, False, True),
        ('!= "a"', TEXT, False, False),
        ('"a" and "b"', TEXT, False, True),
        ('startsWith($, "")', TEXT, True, False),
        ("len($) >= 0", TEXT, True, False),
        ("len($) > 1000", TEXT, False, False),
        ('"a", "b"', Kind("text", values=frozenset({"a", "b"})), True, False),
        ("len($) >= 0", list_of(NUMBER), True, False),
        ("none($, # > 5)", list_of(NUMBER), False, False),
        ("$.n > 5 or $.n <= 5", Kind("object", members=(("n", NUMBER),)), True, False),
    ],
)
def test_what_fits_everything_or_nothing_is_found(
    cell: str, kind: Kind, everything: bool, nothing: bool
) -> None:
    assert (catches_all(cell, kind), never_fits(cell, kind)) == (everything, nothing)


@given(st.decimals(-1000, 1000, places=2), st.decimals(-1000, 1000, places=2))
def test_two_bounds_catch_everything_or_nothing_as_they_overlap(
    low: Decimal, high: Decimal
) -> None:
    assert catches_all(f">= {low:f} or < {high:f}", NUMBER) == (low <= high)
    assert never_fits(f"> {low:f} and < {high:f}", NUMBER) == (low >= high)
