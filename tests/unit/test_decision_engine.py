"""The engine decides by what it is given alone, and never on a guess."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from decimal import Decimal
from itertools import permutations
from typing import Any, Final

import pytest
import zen
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.server.core import limits
from counterfoil.server.core.document import canonical, parse
from counterfoil.server.core.errors import NotDecided
from counterfoil.server.decisions.engine import ENGINE_VERSION, CompiledPolicy, Evaluated
from counterfoil.server.decisions.judging import compiled_policy, judge_policy
from counterfoil.server.decisions.policy import Policy
from tests.unit.policies import (
    Document,
    changed,
    content,
    policy,
    refused,
    rows,
    with_figure,
    with_input,
)

GOOD: Final = judge_policy(policy()).rules


def as_json(found: Evaluated) -> bytes:
    matched = [dict(row) for row in found.matched]
    return json.dumps([found.outcome, list(found.reasons), matched]).encode()


def decided(document: Document, inputs: Mapping[str, Any]) -> Evaluated:
    return CompiledPolicy(Policy.model_validate(document)).evaluate(inputs)


def must_not_decide(document: Document, inputs: Mapping[str, Any], sentence: str) -> None:
    """Nothing comes of it, although it was let pass by those who judge it."""
    with pytest.raises(NotDecided) as caught:
        decided(document, inputs)
    assert sentence in str(caught.value)


def test_what_matched_is_told_with_the_outcome() -> None:
    assert GOOD.evaluate({"debt": 90, "income": 100, "flags": 0}) == Evaluated(
        "decline", ["D01"], ({"table": "decide", "row": 1, "rule": "r1"},)
    )
    assert GOOD.rows == [("decide", 1), ("decide", 2), ("decide", 3)]


def test_the_version_of_the_engine_is_the_one_that_was_measured() -> None:
    """What its lexer, its parser and its tables do was read in this version: see record 0023."""
    assert ENGINE_VERSION == "zen-engine 2.1.3"


def test_a_plain_model_decides_the_same() -> None:
    for debt, income, flags in ((d, i, f) for d in range(5) for i in range(1, 9) for f in (0, 1)):
        expected = (
            "decline"
            if Decimal(debt) / income > Decimal("0.5")
            else "review"
            if flags
            else "approve"
        )
        assert GOOD.evaluate({"debt": debt, "income": income, "flags": flags}).outcome == expected


# --- The same for the same ----------------------------------------------------------

_INPUTS = st.fixed_dictionaries(
    {
        "debt": st.integers(0, limits.WHOLE_NUMBER_MAX),
        "income": st.integers(1, limits.WHOLE_NUMBER_MAX),
        "flags": st.integers(0, 3),
    }
)


@pytest.mark.promise("P9")
@given(_INPUTS)
def test_the_same_inputs_give_the_same_bytes(inputs: dict[str, int]) -> None:
    first = as_json(GOOD.evaluate(inputs))
    anew = compiled_policy(canonical(policy()).decode()).rules
    for names in permutations(inputs):
        assert as_json(anew.evaluate({name: inputs[name] for name in names})) == first


@pytest.mark.promise("P9")
@settings(max_examples=20)
@given(_INPUTS)
def test_a_policy_that_was_written_down_decides_as_it_did(inputs: dict[str, int]) -> None:
    judged = judge_policy(policy())
    again = compiled_policy(judged.text)
    assert again.digest == judged.digest
    recorded = parse(canonical(dict(inputs)))
    assert isinstance(recorded, dict)
    assert as_json(again.rules.evaluate(recorded)) == as_json(judged.rules.evaluate(inputs))


@pytest.mark.promise("P9")
def test_another_process_decides_the_same() -> None:
    """Whatever it seeds its hashes with."""
    script = (
        "from tests.unit.policies import policy\n"
        "from counterfoil.server.decisions.judging import judge_policy\n"
        "judged = judge_policy(policy())\n"
        "print(judged.digest, judged.rules.evaluate({'debt': 51, 'income': 100, 'flags': 2}))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "src:."},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


@pytest.mark.promise("P9")
def test_it_counts_in_decimals() -> None:
    document = with_figure(policy(), "third", "0.1 + 0.2 == 0.3 ? 1 : 0")
    content(document, "decide")["inputs"][1]["field"] = "third"
    rows(document)[1]["flags"] = "1"
    assert decided(document, {"debt": 1, "income": 9, "flags": 0}).outcome == "approve"


@pytest.mark.promise("P9")
def test_several_threads_are_told_the_same() -> None:
    inputs = {"debt": 51, "income": 100, "flags": 0}
    with ThreadPoolExecutor(4) as pool:
        said = set(pool.map(lambda _: as_json(GOOD.evaluate(inputs)), range(400)))
    assert said == {as_json(GOOD.evaluate(inputs))}


def test_no_digit_of_an_input_is_lost() -> None:
    document = with_input(policy(), "rate", {"type": "number"}, Decimal("0.1"))
    content(document, "decide")["inputs"][1]["field"] = "rate"
    rows(document)[1]["flags"] = "> 0.5"
    document["examples"] = document["examples"][1:2]
    rules = judge_policy(document).rules
    inputs = {"debt": 1, "income": 9, "flags": 0}
    just_above = Decimal("0.5000000000000000000000000001")
    assert rules.evaluate({**inputs, "rate": just_above}).outcome == "approve"
    assert rules.evaluate({**inputs, "rate": Decimal("0.5")}).outcome == "review"
    with pytest.raises(NotDecided, match="more than 28 digits"):
        rules.evaluate({**inputs, "rate": Decimal("0.50000000000000000000000000001")})


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "not exact"),
        (0.5, "not exact"),
        (limits.WHOLE_NUMBER_MAX + 1, "beyond 2^53"),
        ([Decimal("1e17")], "beyond 2^53"),
    ],
)
def test_what_readers_of_json_differ_about_is_not_decided_on(value: Any, sentence: str) -> None:
    with pytest.raises(NotDecided, match=sentence.replace("^", r"\^")):
        GOOD.evaluate({"debt": value, "income": 1, "flags": 0})


# --- Never a guess ------------------------------------------------------------------


def test_a_division_by_zero_decides_nothing() -> None:
    with pytest.raises(NotDecided, match="`ratio` in `figures` comes to nothing"):
        GOOD.evaluate({"debt": 1, "income": 0, "flags": 0})


def test_nothing_within_a_list_decides_nothing() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    document = with_input(policy(), "parts", schema, [1])
    rules = judge_policy(with_figure(document, "ratios", "map(parts, debt / #)")).rules
    inputs = {"debt": 1, "income": 9, "flags": 0}
    assert rules.evaluate({**inputs, "parts": [1, 2]}).outcome == "approve"
    with pytest.raises(NotDecided, match="`ratios` in `figures` comes to nothing"):
        rules.evaluate({**inputs, "parts": [1, 0]})


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("debt * debt * debt", "The rules cannot be applied"),
        ("min(filter([debt], # > 5))", "The rules cannot be applied"),
        ("filter([debt], # > 5)[0]", "comes to nothing"),
    ],
)
def test_what_cannot_be_computed_decides_nothing(value: str, sentence: str) -> None:
    document = with_figure(policy(), "figure", value)
    document["examples"] = [
        {**one, "inputs": {**one["inputs"], "debt": 10}} for one in document["examples"][:1]
    ]
    rules = judge_policy(document).rules
    debt = limits.WHOLE_NUMBER_MAX if "*" in value else 1
    with pytest.raises(NotDecided, match=sentence):
        rules.evaluate({"debt": debt, "income": limits.WHOLE_NUMBER_MAX, "flags": 0})


def test_a_table_without_a_hit_decides_nothing() -> None:
    document = changed(lambda it: rows(it).pop())
    rows(document).reverse()
    document["examples"] = document["examples"][:2]
    rules = judge_policy(document).rules
    with pytest.raises(NotDecided, match="No row of `decide` fits these inputs"):
        rules.evaluate({"debt": 1, "income": 9, "flags": 1})


def test_what_a_judge_should_have_refused_is_not_decided_either() -> None:
    """Each of these is refused when it is published; were it not, the engine would fail open."""
    inputs = {"debt": 90, "income": 100, "flags": 0}
    must_not_decide(
        changed(lambda it: rows(it)[0].update(outcome='"refuse"')),
        inputs,
        'came to {"outcome": "refuse"',
    )
    must_not_decide(
        changed(lambda it: rows(it)[0].update(reasons='"D02"')), inputs, "does not have"
    )
    must_not_decide(
        changed(lambda it: rows(it)[0].update(reasons="")), inputs, "decline without a reason"
    )
    must_not_decide(changed(lambda it: rows(it)[0].update(outcome="5")), inputs, "does not have")
    must_not_decide(changed(lambda it: rows(it)[0].update(reasons="5")), inputs, "does not have")
    must_not_decide(changed(lambda it: rows(it)[0].update(outcome="")), inputs, "is decided")


def test_an_evaluation_has_a_bound() -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    document = with_input(policy(), "parts", schema, [1])
    for nth in range(100):
        with_figure(document, f"some{nth}", f"some(parts, # == -{nth})")
    rules = judge_policy(document).rules
    inputs: dict[str, Any] = {"debt": 1, "income": 9, "flags": 0}
    assert rules.evaluate({**inputs, "parts": list(range(5_000))}).outcome == "approve"
    with pytest.raises(NotDecided, match="would take too long"):
        rules.evaluate({**inputs, "parts": list(range(20_000))})


def test_what_the_engine_panics_with_is_told_and_any_other_stop_goes_on() -> None:
    panicked = type("PanicException", (BaseException,), {})

    class Panics:
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def evaluate(self, *_: object) -> None:
            raise self.error

    rules = CompiledPolicy(Policy.model_validate(policy()))
    inputs = {"debt": 1, "income": 9, "flags": 0}
    rules._engine = Panics(panicked("overflow"))  # type: ignore[assignment]  # in the place of the engine
    with pytest.raises(NotDecided, match="gave up"):
        rules.evaluate(inputs)
    rules._engine = Panics(KeyboardInterrupt())  # type: ignore[assignment]  # in the place of the engine
    with pytest.raises(KeyboardInterrupt):
        rules.evaluate(inputs)


# --- What the engine does by itself -------------------------------------------------
# Each rail is for one of these. Where one of them fails, the engine has become another, and the
# rail may be looked at anew.


def by_itself(document: Document, inputs: Mapping[str, Any]) -> Any:
    content = {"p": deepcopy(document["rules"])}
    engine = zen.ZenEngine({"loader": {"type": "static", "content": content}})
    return engine.evaluate("p", json.dumps(inputs))["result"].get("outcome")


@pytest.mark.parametrize(
    ("change", "inputs"),
    [
        ({"ratio": "> 0.5"}, {"debt": 90}),
        ({"ratio": '> "a"'}, {"debt": 90, "income": 100}),
        ({"ratio": "> debbt"}, {"debt": 90, "income": 100}),
        ({"ratio": "> > 0.5"}, {"debt": 90, "income": 100}),
        ({"ratio": "> 0.5", "reasons": "1 > 'a'"}, {"debt": 90, "income": 100}),
        ({"ratio": '"0.9"'}, {"debt": 90, "income": 100}),
    ],
    ids=["missing", "kinds", "name", "syntax", "result", "equal"],
)
def test_the_engine_by_itself_falls_through_to_the_next_row(
    change: dict[str, str], inputs: dict[str, int]
) -> None:
    document = changed(lambda it: rows(it)[0].update(change))
    if "income" not in inputs:
        content(document, "figures")["expressions"][0]["value"] = "income"
    assert by_itself(document, {"flags": 9, **inputs}) == "review"
    if "income" in inputs:
        assert refused(document)


def test_the_engine_by_itself_reads_a_graph_with_blocks_as_another_thing() -> None:
    document = policy()
    document["rules"]["blocks"] = []
    assert by_itself(document, {"debt": 90, "income": 100, "flags": 0}) is None
    assert refused(document)
