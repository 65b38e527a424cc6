"""Decision graphs: whatever in one could decide on a guess is refused, at its place."""

from collections.abc import Callable
from itertools import count
from typing import Any, Final

import pytest

from counterfoil.server.core import limits
from counterfoil.server.decisions.judging import JudgedPolicy, judge_policy
from counterfoil.server.decisions.rules.vocabulary import Vocabulary
from tests.unit.policies import (
    Document,
    changed,
    content,
    edge,
    must_be_refused,
    node,
    policy,
    refused,
    rows,
    with_figure,
    with_input,
)

NODES: Final = "/rules/nodes"
FIGURES: Final = f"{NODES}/1/content"
DECIDE: Final = f"{NODES}/2/content"


def test_the_small_policy_is_good() -> None:
    assert isinstance(judge_policy(policy()), JudgedPolicy)


# --- What a graph is made of --------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("functionNode", "run JavaScript"),
        ("decisionNode", "load another decision by its path"),
        ("customNode", "code of somebody's own"),
        ("httpNode", "A node's type is one of inputNode"),
        (None, "A node's type is one of inputNode"),
    ],
)
def test_only_nodes_that_compute_are_let_in(kind: str | None, sentence: str) -> None:
    document = policy()
    document["rules"]["nodes"].append({"id": "f", "name": "f", "type": kind, "content": {}})
    must_be_refused(document, f"{NODES}/4/type", sentence)


@pytest.mark.parametrize(
    ("member", "value"), [("blocks", []), ("imports", ["x"]), ("settings", {})]
)
def test_a_graph_has_nothing_beside_nodes_and_edges(member: str, value: Any) -> None:
    """With `blocks`, the engine would read no graph at all, but a policy of its own kind."""
    document = policy()
    document["rules"][member] = value
    must_be_refused(document, f"/rules/{member}", "Nobody judges what this would do")


def test_how_the_editor_draws_it_is_nobodys_business() -> None:
    document = policy()
    document["rules"]["contentType"] = "application/vnd.gorules.decision"
    for one in document["rules"]["nodes"]:
        one["position"] = {"x": 80.5, "y": 240}
    for one in document["rules"]["edges"]:
        one["type"] = "edge"
    content(document, "figures").update(inputField=None, outputPath=None, executionMode="single")
    node(document, "in")["content"] = {"schema": ""}
    judge_policy(document)


@pytest.mark.parametrize("node_id", ["figures", "decide"])
@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("inputField", "income"),
        ("outputPath", "result"),
        ("executionMode", "loop"),
        ("executionMode", ["single"]),
    ],
)
def test_a_node_is_asked_once_and_of_everything(node_id: str, member: str, value: Any) -> None:
    document = policy()
    content(document, node_id)[member] = value
    place = FIGURES if node_id == "figures" else DECIDE
    must_be_refused(document, f"{place}/{member}", "leave it empty")


def test_a_content_that_nobody_judges_is_refused() -> None:
    must_be_refused(
        changed(lambda it: content(it, "figures").update(kind="x")), f"{FIGURES}/kind", "Nobody"
    )
    must_be_refused(
        changed(lambda it: content(it, "decide")["outputs"][0].update(defaultValue='"approve"')),
        f"{DECIDE}/outputs/0/defaultValue",
        "Nobody judges this of a column",
    )
    must_be_refused(
        changed(lambda it: content(it, "decide")["inputs"][0].update(type="graph")),
        f"{DECIDE}/inputs/0/type",
        "Nobody judges this of a column",
    )
    must_be_refused(
        changed(lambda it: node(it, "in").update(content={"schema": "{}"})),
        f"{NODES}/0/content/schema",
        "leave it empty",
    )
    must_be_refused(
        changed(lambda it: node(it, "figures").update(disabled=True)),
        f"{NODES}/1/disabled",
        "Nobody judges",
    )
    must_be_refused(
        changed(lambda it: it["rules"]["edges"][0].update(condition="true")),
        "/rules/edges/0/condition",
        "Nobody judges",
    )
    must_be_refused(
        changed(lambda it: content(it, "figures").update(passThrough="yes")),
        f"{FIGURES}/passThrough",
        "true or false",
    )


def test_what_is_no_graph_is_refused() -> None:
    must_be_refused(policy(rules={}), "/rules", "a list of `nodes` and a list of `edges`")
    must_be_refused(policy(rules={"nodes": [], "edges": []}), NODES, "one input node; this has 0")
    must_be_refused(
        changed(lambda it: it["rules"]["nodes"].append("x")), f"{NODES}/4", "an object with an `id`"
    )
    must_be_refused(
        changed(lambda it: it["rules"]["nodes"].append(dict(node(it, "figures")))),
        f"{NODES}/4/id",
        "Another node has this id",
    )
    must_be_refused(
        changed(lambda it: it["rules"]["edges"].append(edge("figures", "nowhere"))),
        "/rules/edges/3",
        "An edge leads from a node of this graph to one",
    )
    too_many = [{"id": str(nth)} for nth in range(limits.POLICY_NODES_MAX + 1)]
    must_be_refused(policy(rules={"nodes": too_many, "edges": []}), NODES, "at most 100 nodes")


def test_there_is_one_way_in_and_one_way_out_and_nothing_leads_nowhere() -> None:
    second = {"id": "out2", "type": "outputNode", "name": "out2"}

    def with_two_ways_out(it: Document) -> None:
        it["rules"]["nodes"].append(second)
        it["rules"]["edges"].append(edge("figures", "out2"))

    must_be_refused(changed(with_two_ways_out), NODES, "one output node; this has 2")
    must_be_refused(
        changed(lambda it: it["rules"]["edges"].append(edge("out", "decide"))),
        "/rules/edges",
        "The graph goes in circles",
    )
    must_be_refused(
        changed(lambda it: it["rules"]["edges"].append(edge("decide", "decide"))),
        "/rules/edges",
        "The graph goes in circles",
    )
    loose = {"id": "x", "name": "x", "type": "expressionNode", "content": {"expressions": []}}
    assert [
        message for _, message in refused(changed(lambda it: it["rules"]["nodes"].append(loose)))
    ] == ["Nothing leads to `x`.", "`x` leads nowhere."]
    faults = refused(
        changed(lambda it: it["rules"]["edges"].append(edge("out", "in"))),
    )
    assert "circles" in faults[0][1]


def test_a_graph_without_a_table_says_nothing() -> None:
    def without_table(it: Document) -> None:
        del it["rules"]["nodes"][2]
        it["rules"]["edges"] = [edge("in", "figures"), edge("figures", "out")]

    must_be_refused(changed(without_table), NODES, "No table says what is decided")


def test_what_comes_out_has_an_outcome_and_reasons() -> None:
    must_be_refused(
        changed(lambda it: content(it, "decide")["outputs"].pop()), f"{DECIDE}/rules/0", "reason"
    )
    faults = refused(changed(lambda it: content(it, "decide")["outputs"].pop(0)))
    assert faults == [(f"{DECIDE}/outputs", "The table that says the outcome says its reasons.")]

    def shown_only(it: Document) -> None:
        content(it, "decide")["outputs"] = [{"id": "o", "field": "shown"}]
        for row in rows(it):
            row["o"] = "1"

    must_be_refused(changed(shown_only), f"{NODES}/3", "must have `outcome` and `reasons`")


# --- Expressions --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "place", "sentence"),
    [
        ({"key": "outcome", "value": "'approve'"}, "/key", "Let a table say the `outcome`"),
        ({"key": "reasons", "value": "'D01'"}, "/key", "Let a table say the `reasons`"),
        ({"key": " outcome ", "value": "'approve'"}, "/key", "has a name"),
        ({"key": "outcome.x", "value": "1"}, "/key", "has a name"),
        ({"key": "a.b", "value": "1"}, "/key", "has a name"),
        ({"key": "$", "value": "1"}, "/key", "has a name"),
        ({"key": "ratio", "value": "1"}, "/key", "A line before makes `ratio`"),
        ({"key": "applicant_age", "value": "1"}, "/key", "among `forbidden_inputs`"),
        ({"key": "x", "value": " "}, "", "a `key` and a `value`"),
        ({"key": "", "value": "1"}, "", "a `key` and a `value`"),
        ({"key": "x", "value": 1}, "", "a `key` and a `value`"),
        ({"key": "x", "value": "debbt"}, "/value", "Known here: `debt`, `flags`, `income`"),
        ({"key": "x", "value": "ratio"}, "/value", "Nothing hands on `ratio`"),
        ({"key": "x", "value": "$.rate"}, "/value", "nothing before in this node makes that"),
    ],
)
def test_a_line_of_an_expression_node_makes_one_new_name(
    line: Document, place: str, sentence: str
) -> None:
    document = changed(lambda it: content(it, "figures")["expressions"].append({"id": "2", **line}))
    must_be_refused(document, f"{FIGURES}/expressions/1{place}", sentence)


def test_what_is_handed_on_is_not_made_anew() -> None:
    """Objects of one name would be put together, and lists replace each other."""
    must_be_refused(with_figure(policy(), "income", "1"), f"{NODES}/1", "`income` is handed on")
    faults = refused(changed(lambda it: content(it, "figures").update(expressions=1)))
    assert faults[0] == (
        f"{FIGURES}/expressions",
        "An expression node has a list of `expressions`.",
    )


def test_an_object_is_handed_on_by_its_members() -> None:
    schema = {
        "type": "object",
        "additionalProperties": False,
        "required": ["income"],
        "properties": {"income": {"type": "integer"}},
    }
    document = with_input(policy(), "applicant", schema, {"income": 5})
    judge_policy(with_figure(document, "second", "applicant.income"))
    must_be_refused(
        with_figure(document, "whole", "applicant"),
        f"{FIGURES}/expressions/2/value",
        "Name the member of the object itself",
    )


def test_without_passing_on_what_was_handed_is_gone() -> None:
    must_be_refused(
        changed(lambda it: content(it, "figures").update(passThrough=False)),
        f"{DECIDE}/inputs/1/field",
        "Nothing hands on `flags`. Known here: `ratio`.",
    )


# --- What comes together ------------------------------------------------------------


def two_sides(first: str, second: str) -> Document:
    """Two expression nodes beside each other, and the deciding table behind both."""
    document = policy()
    for nth, (name, key) in enumerate((("left", first), ("right", second))):
        line = {"id": "1", "key": key, "value": "debt"}
        document["rules"]["nodes"].insert(
            2 + nth,
            {
                "id": name,
                "type": "expressionNode",
                "name": name,
                "content": {"passThrough": True, "expressions": [line]},
            },
        )
    document["rules"]["edges"] = [
        edge("in", "figures"),
        *(edge("figures", side) for side in ("left", "right")),
        *(edge(side, "decide") for side in ("left", "right")),
        edge("decide", "out"),
    ]
    return document


def test_what_two_nodes_make_comes_together() -> None:
    document = two_sides("one", "other")
    content(document, "decide")["inputs"][1]["field"] = "other"
    document["examples"] = document["examples"][1:2]
    judge_policy(document)


def test_the_order_of_edges_does_not_decide() -> None:
    must_be_refused(two_sides("one", "one"), f"{NODES}/4", "`one` comes here from two nodes")


def switched(
    conditions: list[str], joined: Callable[[int], str] = lambda nth: f"m{nth}"
) -> Document:
    """A switch behind the figures, with an expression node in each branch, and the table behind."""
    document = policy()
    statements = [{"id": f"s{nth}", "condition": one} for nth, one in enumerate(conditions)]
    nodes = document["rules"]["nodes"]
    nodes[2:2] = [
        {
            "id": "switch",
            "type": "switchNode",
            "name": "switch",
            "content": {"statements": statements},
        },
        *(
            {
                "id": f"b{nth}",
                "type": "expressionNode",
                "name": f"b{nth}",
                "content": {
                    "passThrough": True,
                    "expressions": [{"id": "1", "key": joined(nth), "value": str(nth)}],
                },
            }
            for nth in range(len(conditions))
        ),
    ]
    document["rules"]["edges"] = [
        edge("in", "figures"),
        edge("figures", "switch"),
        *(edge("switch", f"b{nth}", f"s{nth}") for nth in range(len(conditions))),
        *(edge(f"b{nth}", "decide") for nth in range(len(conditions))),
        edge("decide", "out"),
    ]
    return document


def test_branches_come_together_again() -> None:
    document = switched(["flags > 0", ""], lambda _: "band")
    content(document, "decide")["inputs"][1]["field"] = "band"
    document["examples"] = document["examples"][1:2]
    judge_policy(document)


def test_behind_a_switch_there_is_only_what_every_branch_hands_on() -> None:
    document = switched(["flags > 0", ""])
    content(document, "decide")["inputs"][1]["field"] = "m0"
    must_be_refused(document, f"{NODES}/5/content/inputs/1/field", "Nothing hands on `m0`")


def test_what_a_branch_makes_is_of_one_kind() -> None:
    document = switched(["flags > 0", ""], lambda _: "band")
    content(document, "b1")["expressions"][0]["value"] = '"high"'
    must_be_refused(document, f"{NODES}/5", "`band` is of another kind on each way")


@pytest.mark.parametrize("conditions", [["flags > 0"], ["flags > 0", "flags > 1"]])
def test_what_may_not_come_does_not_meet_what_is_certain(conditions: list[str]) -> None:
    document = switched(conditions)
    document["rules"]["edges"].append(edge("figures", "decide"))
    faults = refused(document)
    assert f"{NODES}/{3 + len(conditions)}" in [pointer for pointer, _ in faults]
    assert "some may not come" in faults[0][1]


def test_branches_of_two_switches_do_not_meet_as_if_they_were_certain() -> None:
    """Whether a second switch, within one branch, lets anything through is not known."""
    document = switched(["flags > 0", ""], lambda _: "band")
    nodes, edges = document["rules"]["nodes"], document["rules"]["edges"]
    inner = {"statements": [{"id": "t0", "condition": "debt > 5"}]}
    nodes.append({"id": "inner", "type": "switchNode", "name": "inner", "content": inner})
    side = {"passThrough": True, "expressions": [{"id": "1", "key": "side", "value": "1"}]}
    nodes.append({"id": "side", "type": "expressionNode", "name": "side", "content": side})
    meet = {"passThrough": True, "expressions": []}
    nodes.append({"id": "meet", "type": "expressionNode", "name": "meet", "content": meet})
    edges[:] = [
        one
        for one in edges
        if (one["sourceId"], one["targetId"]) not in {("b0", "decide"), ("b1", "decide")}
    ]
    edges += [
        edge("b0", "inner"),
        edge("inner", "meet", "t0"),
        edge("b1", "meet"),
        edge("figures", "side"),
        edge("side", "decide"),
        edge("meet", "decide"),
    ]
    assert "some may not come" in refused(document)[0][1]


@pytest.mark.parametrize(
    ("change", "pointer", "sentence"),
    [
        (
            lambda it: content(it, "switch").update(hitPolicy="collect"),
            "/2/content/hitPolicy",
            "the first branch that fits",
        ),
        (
            lambda it: content(it, "switch")["statements"][0].update(condition=""),
            "/2/content/statements/0",
            "put it last",
        ),
        (
            lambda it: content(it, "switch")["statements"][0].update(condition="flags"),
            "/2/content/statements/0/condition",
            "A condition is true or false",
        ),
        (
            lambda it: content(it, "switch")["statements"][0].update(condition="debt / income > 1"),
            "/2/content/statements/0/condition",
            "may be nothing",
        ),
        (
            lambda it: content(it, "switch")["statements"][0].update(condition="debt * 2 > 1"),
            "/2/content/statements/0/condition",
            "may be too large",
        ),
        (
            lambda it: content(it, "switch")["statements"][0].update(condition="age > 1"),
            "/2/content/statements/0/condition",
            "among `forbidden_inputs`",
        ),
        (
            lambda it: content(it, "switch")["statements"].append({"id": "s9", "condition": ""}),
            "/2/content/statements/1",
            "put it last",
        ),
    ],
    ids=count(1),
)
def test_a_switch_that_may_not_be_is_refused(
    change: Callable[[Document], object], pointer: str, sentence: str
) -> None:
    document = switched(["flags > 0", ""])
    change(document)
    assert (f"{NODES}{pointer}", True) in [(at, sentence in said) for at, said in refused(document)]


def test_a_switch_has_branches_and_edges_name_them() -> None:
    document = switched(["flags > 0", ""])
    document["rules"]["edges"][2]["sourceHandle"] = "s7"
    must_be_refused(document, "/rules/edges/2/sourceHandle", "names the statement")
    document = switched(["flags > 0", ""])
    content(document, "switch")["statements"][1]["id"] = "s0"
    faults = dict(refused(document))
    assert "an `id` of its own" in faults[f"{NODES}/2/content/statements/1"]
    document = switched(["flags > 0", ""])
    content(document, "switch")["statements"] = []
    assert "A switch has statements" in refused(document)[0][1]


def test_a_branch_without_an_edge_decides_nothing() -> None:
    document = switched(["flags > 0", ""])
    document["rules"]["edges"] = [
        one for one in document["rules"]["edges"] if "b0" not in {one["sourceId"], one["targetId"]}
    ]
    document["rules"]["nodes"] = [one for one in document["rules"]["nodes"] if one["id"] != "b0"]
    must_be_refused(document, f"{NODES}/2/content/statements/0", "No edge leads on from here")


# --- Names --------------------------------------------------------------------------

WORDS: Final = Vocabulary({}, {}, frozenset(), frozenset(), frozenset({"Personal_status", "Age"}))


@pytest.mark.parametrize(
    "name",
    [
        *("age", "AGE", "Age", "a_g_e", "age_years", "applicant_age", "applicantAge", "ageBand"),
        *(
            "personal_status",
            "PersonalStatus",
            "personal status",
            "personalstatus",
            "x_personal-status",
        ),
        "\uff21\uff47\uff45",
        *("age2", "2age", "IDAge", "XAge2", "age1Band", "PERSONALStatus", "xPersonalStatus3"),
    ],
)
def test_a_forbidden_name_is_known_however_it_is_spelt(name: str) -> None:
    assert WORDS.forbids(name)


@pytest.mark.parametrize(
    "name",
    ["average", "status", "personal", "package", "agency", "ratio", "page2", "x1", "HTTPStatus"],
)
def test_other_names_are_none_of_these(name: str) -> None:
    assert not WORDS.forbids(name)
