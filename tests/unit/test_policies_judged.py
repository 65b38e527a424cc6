"""Policies are judged before they are published: every fault at its place, and nothing else let in."""

from collections.abc import Callable
from itertools import count
from typing import Any, Final

import pytest

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical
from counterfoil.server.core.errors import NotDecided
from counterfoil.server.decisions.judging import compiled_policy, judge_policy
from tests.unit.policies import (
    Document,
    changed,
    content,
    must_be_refused,
    policy,
    refused,
    rows,
    with_figure,
    with_input,
)

INTEGER: Final = {"type": "integer"}


# --- As a whole ---------------------------------------------------------------------


@pytest.mark.promise("P9")
def test_a_policy_is_named_by_the_digest_of_its_canonical_text() -> None:
    judged = judge_policy(policy())
    assert judged.text == canonical(policy()).decode()
    turned = dict(reversed(policy().items()))
    assert judge_policy(turned).digest == judged.digest
    assert judge_policy({**policy(), "forbidden_inputs": []}).digest != judged.digest


def test_a_policy_that_was_judged_is_compiled_again() -> None:
    judged = judge_policy(policy())
    again = compiled_policy(judged.text)
    assert (again.text, again.digest) == (judged.text, judged.digest)
    with pytest.raises(NotDecided, match="cannot read the policy any more"):
        compiled_policy('{"subject": "application"}')


def test_a_policy_has_a_bound() -> None:
    document = policy()
    document["examples"][0]["name"] = "x" * limits.POLICY_BYTES_MAX
    must_be_refused(document, "", "A policy may take 262,144 bytes")


def test_rows_that_no_example_reaches_are_told() -> None:
    assert judge_policy(policy()).unreached() == []
    fewer = {**policy(), "examples": policy()["examples"][:1]}
    assert judge_policy(fewer).unreached() == [("decide", 1), ("decide", 3)]


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        (lambda it: it.pop("rules"), "/rules"),
        (lambda it: it.update(extras=[]), "/extras"),
        (lambda it: it.update(subject="a:b"), "/subject"),
        (lambda it: it.update(reads={}), "/reads"),
        (lambda it: it["reads"]["debt"].update(take="last"), "/reads/debt/take"),
        (lambda it: it["reads"]["debt"].update(types=[]), "/reads/debt/types"),
        (lambda it: it["reads"]["debt"].update(path="income"), "/reads/debt/path"),
        (lambda it: it["reads"]["debt"].update(max_age_seconds=0), "/reads/debt/max_age_seconds"),
        (lambda it: it["reads"]["debt"].pop("path"), "/reads/debt"),
        (lambda it: it["reads"]["flags"].update(path="/x"), "/reads/flags"),
        (lambda it: it.update(outcomes={}), "/outcomes"),
        (lambda it: it["outcomes"]["decline"].update(reasons={}), "/outcomes/decline"),
        (lambda it: it["outcomes"]["approve"].update(kind="grant"), "/outcomes/approve/kind"),
        (
            lambda it: it["outcomes"]["decline"]["reasons"]["D01"].pop("customer"),
            "/outcomes/decline",
        ),
        (lambda it: it.update(examples=[]), "/examples"),
        (lambda it: it.update(examples=it["examples"][:1] * 201), "/examples"),
    ],
    ids=count(1),
)
def test_a_member_that_may_not_be_is_refused_at_its_place(
    change: Callable[[Document], object], pointer: str
) -> None:
    assert [at for at, _ in refused(changed(change))] == [pointer]


def test_a_decline_without_a_specific_reason_cannot_be_published() -> None:
    must_be_refused(
        changed(lambda it: it["outcomes"]["decline"].update(reasons={})),
        "/outcomes/decline",
        "A decline needs specific reasons",
    )
    must_be_refused(
        changed(lambda it: it["outcomes"]["decline"]["reasons"]["D01"].pop("customer")),
        "/outcomes/decline",
        "What is the customer told? Give `customer` for D01.",
    )


# --- Inputs -------------------------------------------------------------------------


def test_an_input_comes_from_one_place() -> None:
    must_be_refused(policy(extra=["debt"]), "/extra", "it cannot come with the request too")


def test_the_schema_names_each_input_and_no_other() -> None:
    at = "/inputs_schema/properties"
    must_be_refused(
        changed(lambda it: it["inputs_schema"]["properties"].update(score=INTEGER)),
        at,
        "`score` is no input of this policy",
    )
    faults = dict(refused(policy(extra=["score"])))
    assert "The schema says nothing of the input `score`" in faults[at]


def test_what_may_not_be_missing_is_required() -> None:
    must_be_refused(
        changed(lambda it: it["inputs_schema"]["required"].remove("debt")),
        "/inputs_schema/required",
        "`debt` may not be missing; require it",
    )


def optional_flags(field: str) -> Document:
    document = policy()
    document["reads"]["flags"] = {
        "types": ["flagged"],
        "take": "latest",
        "path": "/n",
        "may_be_missing": True,
    }
    document["inputs_schema"]["required"].remove("flags")
    content(document, "decide")["inputs"][1]["field"] = field
    return document


def test_what_may_be_missing_counts_as_something() -> None:
    document = optional_flags("flags ?? 0")
    document["examples"].append(
        {"name": "unflagged", "inputs": {"debt": 1, "income": 9}, "outcome": "approve"}
    )
    judge_policy(document)
    must_be_refused(
        optional_flags("flags"),
        "/rules/nodes/2/content/inputs/1/field",
        "Say what it counts as then: `(flags ?? 0)`.",
    )
    must_be_refused(
        optional_flags("flags ?? null"),
        "/rules/nodes/2/content/inputs/1/field",
        "`null` is no value",
    )


OPEN: Final = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}
CLOSED: Final = {**OPEN, "additionalProperties": False}
CLOSED_MEMBERS: Final = {name: part for name, part in CLOSED.items() if name != "type"}


@pytest.mark.parametrize(
    ("schema", "below", "sentence"),
    [
        ({}, "", "no null"),
        ({"type": ["integer", "null"]}, "", "no null"),
        ({"enum": [1, None]}, "", "no null"),
        ({"const": None}, "", "no null"),
        (True, "", "Say what this is"),
        ({"anyOf": [INTEGER, {"type": "null"}]}, "", "no null"),
        ({"type": ["integer", "string"]}, "", "values of two are never the same"),
        ({"enum": [1, "1"]}, "", "values of two are never the same"),
        ({"type": ["array", "object"], "items": INTEGER, **CLOSED_MEMBERS}, "", "values of two"),
        ({"type": "array", "items": INTEGER, "enum": [[1], [2]]}, "", "values of two"),
        (OPEN, "", "Close this object"),
        ({**CLOSED, "additionalProperties": True}, "", "Close this object"),
        ({**CLOSED, "required": []}, "", "Require every member"),
        ({**CLOSED, "patternProperties": {"": {}}}, "/patternProperties", "Name each member"),
        ({"type": "array"}, "/items", "Say what this is"),
        ({"type": "array", "items": True}, "/items", "Say what this is"),
        ({"type": "array", "items": OPEN}, "/items", "Close this object"),
        ({"type": "array", "items": {}}, "/items", "no null"),
        (
            {"type": "array", "items": INTEGER, "prefixItems": [{}]},
            "/prefixItems",
            "say what all `items` are",
        ),
        ({**CLOSED, "properties": {"a": {}}}, "/properties/a", "no null"),
        ({**CLOSED, "properties": {"a": OPEN}}, "/properties/a", "Close this object"),
    ],
    ids=count(1),
)
def test_a_schema_lets_in_what_is_named_and_of_one_kind(
    schema: Any, below: str, sentence: str
) -> None:
    document = with_input(policy(), "more", {}, 1)
    document["inputs_schema"]["properties"]["more"] = schema
    must_be_refused(document, f"/inputs_schema/properties/more{below}", sentence)


def test_the_inputs_are_one_closed_object() -> None:
    must_be_refused(
        changed(lambda it: it["inputs_schema"].pop("additionalProperties")),
        "/inputs_schema",
        "Close this object",
    )
    must_be_refused(
        changed(lambda it: it["inputs_schema"].pop("type")),
        "/inputs_schema/type",
        "The inputs are one `object`",
    )
    must_be_refused(
        changed(lambda it: it["inputs_schema"].update(patternProperties={"": {}})),
        "/inputs_schema/patternProperties",
        "Name each member",
    )
    must_be_refused(
        changed(lambda it: it["inputs_schema"].update(requried=[])),
        "/inputs_schema/requried",
        "is no keyword",
    )


# --- Forbidden ----------------------------------------------------------------------


def nested(name: str) -> Document:
    schema = {**CLOSED, "properties": {name: INTEGER}, "required": [name]}
    return with_input(policy(), "applicant", schema, {name: 1})


def read_as(name: str, path: str) -> Document:
    document = with_input(policy(), name, INTEGER, 1)
    document["extra"].remove(name)
    document["reads"][name] = {"types": ["applied"], "take": "latest", "path": path}
    return document


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (read_as("x", "/age"), "/reads/x"),
        (read_as("x", "/applicant/AGE"), "/reads/x"),
        (read_as("x", "/applicant_age"), "/reads/x"),
        (read_as("x", "/a~1ge"), "/reads/x"),
        (read_as("x", "/personal-status"), "/reads/x"),
        (read_as("x", "/ForeignWorker"), "/reads/x"),
        (read_as("age", "/v"), "/reads/age"),
        (with_input(policy(), "Personal_Status", INTEGER, 1), "/extra/0"),
        (nested("age"), "/inputs_schema/properties/applicant/properties/age"),
    ],
    ids=count(1),
)
def test_a_forbidden_input_is_found_wherever_it_comes_in(document: Document, pointer: str) -> None:
    faults = dict(refused(document))
    assert faults[pointer] == "This is among `forbidden_inputs`."


def test_a_forbidden_input_is_found_deep_in_the_schema() -> None:
    deep = {"type": "array", "items": nested("age")["inputs_schema"]["properties"]["applicant"]}
    document = with_input(policy(), "people", deep, [{"age": 1}])
    assert [at for at, _ in refused(document)] == [
        "/inputs_schema/properties/people/items/properties/age"
    ]
    document = changed(
        lambda it: it["inputs_schema"].update({"$defs": {"x": {"properties": {"Age": INTEGER}}}})
    )
    assert [at for at, _ in refused(document)] == ["/inputs_schema/$defs/x/properties/Age"]


@pytest.mark.parametrize("name", ["age", "Age", "$root.Age", "$root['Age']", "foreign_worker"])
def test_a_forbidden_input_is_found_in_the_rules(name: str) -> None:
    must_be_refused(
        with_figure(policy(), "x", f"{name} * 2"),
        "/rules/nodes/1/content/expressions/1/value",
        "it is among `forbidden_inputs`",
    )


def test_the_columns_of_the_german_credit_data_are_refused() -> None:
    """Personal status, age and nationality stand in the data, and in no decision."""
    for column in ("Personal_status", "Age", "Foreign"):
        document = read_as(column, f"/{column}")
        assert (f"/reads/{column}", "This is among `forbidden_inputs`.") in refused(document)


# --- Examples -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "pointer", "sentence"),
    [
        ({"outcome": "review"}, "", "`x`: the rules say `approve`, and the example `review`."),
        ({"outcome": "decline", "reasons": ["D01"]}, "", "and the example `decline` (D01)."),
        ({"inputs": {"debt": 1, "income": 0, "flags": 0}}, "", "`x`: `ratio` in `figures` comes"),
        ({"inputs": {"debt": 1, "income": 9}}, "/inputs", "flags"),
        ({"inputs": {"debt": "1", "income": 9, "flags": 0}}, "/inputs/debt", "integer"),
        ({"inputs": {"debt": -1, "income": 9, "flags": 0}}, "/inputs/debt", "0"),
        ({"inputs": {"debt": 1, "income": 9, "flags": 0, "age": 3}}, "/inputs", "age"),
    ],
    ids=count(1),
)
def test_an_example_comes_out_as_it_says(example: Document, pointer: str, sentence: str) -> None:
    document = policy()
    inputs = {"debt": 1, "income": 9, "flags": 0}
    document["examples"].append({"name": "x", "inputs": inputs, "outcome": "approve", **example})
    faults = refused(document)
    assert len(faults) == 1
    assert faults[0][0].startswith(f"/examples/3{pointer}")
    assert sentence in faults[0][1]


def test_all_faults_of_the_rules_are_told_at_once_and_not_without_end() -> None:
    document = policy()
    for nth in range(200):
        with_figure(document, f"x{nth}", "nobody")
    assert len(refused(document)) == limits.FIELD_ERRORS_MAX
    rows(document)[0]["ratio"] = "> nobody"
    assert len(refused(document)) == limits.FIELD_ERRORS_MAX


@pytest.mark.parametrize("kind", ["decision", "policy"])
def test_nothing_is_decided_about_the_services_own_tags(kind: str) -> None:
    must_be_refused({**policy(), "subject": kind}, "/subject", "are the service's own")
