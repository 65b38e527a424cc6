"""The shipped policies, and the applicants of the credit demo: everything that needs no service."""

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from counterfoil import Replay
from counterfoil.cli.demo.credit.applicants import (
    AT_ONCE,
    DECIDED,
    SLIP_SHARE,
    Applicant,
    with_slips,
)
from counterfoil.cli.demo.credit.command import fault_of
from counterfoil.cli.demo.credit.files import BadFile, read_applicants
from counterfoil.cli.demo.credit.generator import generate
from counterfoil.cli.demo.credit.outcome import cost_of
from counterfoil.cli.demo.credit.portfolios import (
    APPLICANTS,
    GERMAN_CREDIT,
    LENDING_CLUB,
    PERSONAL,
    PORTFOLIOS,
    Costs,
    Portfolio,
)
from counterfoil.client.decision_model import Compared, Difference
from counterfoil.server.core.errors import InvalidInput
from counterfoil.server.decisions.judging import JudgedPolicy, judge_policy
from tests.docs.pages import page

DATA = Path(__file__).parents[3] / "shared" / "data" / "credit"
GERMAN_FILE = DATA / "german_credit_1000.csv"
LENDING_FILE = DATA / "lending_club_9857.csv"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the public data sets lie beside the project, and are not part of it"
)
of_each = pytest.mark.parametrize("portfolio", PORTFOLIOS, ids=lambda each: each.name)


# --- The policies -----------------------------------------------------------------------


@of_each
def test_a_shipped_policy_may_be_published_and_its_examples_reach_every_row(
    portfolio: Portfolio,
) -> None:
    assert judge_policy(portfolio.policy).unreached() == []


@of_each
def test_so_may_its_second_version_which_differs_in_one_cell(portfolio: Portfolio) -> None:
    amended = portfolio.amended()

    judge_policy(amended)
    before, after = (
        json.dumps(each, indent=0).splitlines() for each in (portfolio.policy, amended)
    )
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


@of_each
def test_no_policy_looks_at_what_is_personal(portfolio: Portfolio) -> None:
    types = {each for read in portfolio.policy["reads"].values() for each in read["types"]}

    assert PERSONAL not in types


@of_each
def test_a_version_that_reads_a_forbidden_attribute_is_refused(portfolio: Portfolio) -> None:
    with pytest.raises(InvalidInput) as refused:
        judge_policy(portfolio.trespassing())

    assert "forbidden_inputs" in refused.value.errors[0].message
    assert portfolio.forbidden in refused.value.errors[0].pointer


GERMAN_FORBIDDEN = ("Personal_status", "Age", "Foreign")


@pytest.mark.parametrize(
    "attribute",
    [
        *GERMAN_FORBIDDEN,
        *("personal_status", "PersonalStatus", "AGE", "foreign", "foreign_worker", "sex"),
    ],
)
def test_no_german_policy_can_read_these_columns_however_they_are_spelt(attribute: str) -> None:
    with pytest.raises(InvalidInput, match="forbidden_inputs"):
        judge_policy(GERMAN_CREDIT.trespassing(attribute))


@pytest.mark.parametrize("column", GERMAN_FORBIDDEN)
def test_nor_under_another_name(column: str) -> None:
    policy = GERMAN_CREDIT.trespassing("a")
    policy["reads"]["a"]["path"] = f"/{column}"

    with pytest.raises(InvalidInput) as refused:
        judge_policy(policy)

    assert [error.pointer for error in refused.value.errors] == ["/reads/a"]


@pytest.mark.parametrize("column", GERMAN_FORBIDDEN)
def test_nor_in_an_expression(column: str) -> None:
    policy = deepcopy(GERMAN_CREDIT.policy)
    (concern,) = [node for node in policy["rules"]["nodes"] if node["id"] == "concern"]
    concern["content"]["expressions"].append({"key": "more", "value": f"{column} ?? 0"})

    with pytest.raises(InvalidInput) as refused:
        judge_policy(policy)

    assert any("forbidden_inputs" in error.message for error in refused.value.errors)


@of_each
def test_what_a_customer_is_told_has_no_code_in_it(portfolio: Portfolio) -> None:
    """A refusal is read by people who know nothing of the rules."""
    for code, reason in portfolio.policy["outcomes"]["decline"]["reasons"].items():
        assert reason["customer"].endswith("."), code
        assert "_" not in reason["customer"], code
        assert code not in reason["customer"], code


# --- What they decide -------------------------------------------------------------------


def decided(judged: JudgedPolicy, applicants: Sequence[Applicant]) -> dict[str, Counter[str]]:
    """How applicants are decided, by how their loans ended."""
    found: dict[str, Counter[str]] = {"good": Counter(), "bad": Counter()}
    for applicant in applicants:
        assert applicant.known is not None
        inputs = taken(judged.policy.model_dump(), applicant)
        found[applicant.known][judged.rules.evaluate(inputs).outcome] += 1
    return found


def taken(policy: Mapping[str, Any], applicant: Applicant) -> dict[str, Any]:
    """The inputs of an applicant whose signals are all there."""
    inputs: dict[str, Any] = {}
    for name, read in policy["reads"].items():
        payloads = [one.payload for one in applicant.signals if one.event_type in read["types"]]
        if read["take"] == "count":
            inputs[name] = len(payloads)
        elif read["take"] == "sum":
            inputs |= {name: sum(one[read["path"][1:]] for one in payloads)} if payloads else {}
        else:
            inputs[name] = payloads[-1][read["path"][1:]]
    return inputs


@needs_data
@pytest.mark.parametrize("version", ["first", "second"])
def test_on_german_credit_it_costs_a_third_of_approving_all(version: str) -> None:
    portfolio, applicants = read_applicants(GERMAN_FILE, run_id="r")
    document = portfolio.policy if version == "first" else portfolio.amended()
    assert portfolio.costs is not None

    confusion = decided(judge_policy(document), applicants)

    cost = cost_of({"good": confusion["good"], "bad": confusion["bad"]}, portfolio.costs)
    assert cost.approving_all == 1.5
    assert cost.declining_all == 0.7
    assert cost.decided < 0.55
    assert confusion["bad"]["approve"] / confusion["good"]["approve"] < 0.1
    assert confusion["bad"]["decline"] > confusion["good"]["decline"]


@needs_data
@pytest.mark.parametrize("half", [0, 1])
def test_and_on_each_half_of_it(half: int) -> None:
    """It is no fit to a thousand rows: small tables, and on either half the same picture."""
    portfolio, applicants = read_applicants(GERMAN_FILE, run_id="r")
    assert portfolio.costs is not None

    confusion = decided(judge_policy(portfolio.policy), applicants[half::2])

    cost = cost_of({"good": confusion["good"], "bad": confusion["bad"]}, portfolio.costs)
    assert cost.decided < 0.6 < cost.declining_all


@needs_data
def test_on_lending_club_the_bad_ones_gather_where_it_declines() -> None:
    portfolio, applicants = read_applicants(LENDING_FILE, run_id="r")

    confusion = decided(judge_policy(portfolio.policy), applicants)

    shares = [
        confusion["bad"][kind] / (confusion["good"][kind] + confusion["bad"][kind])
        for kind in ("approve", "review", "decline")
    ]
    assert shares[0] < 0.03
    assert 0.08 < shares[1] < shares[2]
    assert confusion["good"]["approve"] > 6_500


def test_those_that_are_made_are_told_apart_too() -> None:
    confusion = decided(judge_policy(APPLICANTS.policy), generate(1_000, seed=3, run_id="r"))

    approved, declined = (
        confusion["bad"][kind] / (confusion["good"][kind] + confusion["bad"][kind])
        for kind in ("approve", "decline")
    )
    assert approved < 0.06
    assert declined > 0.2


def test_a_review_costs_what_a_refusal_costs() -> None:
    confusion = {
        "good": {"approve": 6, "review": 1, "decline": 1},
        "bad": {"approve": 1, "decline": 1},
    }

    cost = cost_of({"good": confusion["good"], "bad": confusion["bad"]}, Costs(5, 1))

    assert (cost.decided, cost.approving_all, cost.declining_all) == (0.7, 1.0, 0.8)


# --- Files ------------------------------------------------------------------------------


@needs_data
def test_the_german_file_is_recognised_by_its_header_blanks_and_all() -> None:
    portfolio, applicants = read_applicants(GERMAN_FILE, run_id="r1", limit=2)

    assert portfolio is GERMAN_CREDIT
    first = applicants[0]
    assert first.application_id == "app_r1_00002"
    assert first.known == "good"
    by_type = {signal.event_type: signal.payload for signal in first.signals}
    assert by_type["application_received"]["amount_minor"] == 209_600
    assert by_type["account_checked"] == {"account": "salary_or_200", "savings": "none_known"}
    assert by_type[PERSONAL] == {"Personal_status": "A93", "Age": "49", "Foreign": "A201"}


@needs_data
def test_all_of_the_german_file_are_there() -> None:
    _, applicants = read_applicants(GERMAN_FILE, run_id="r")

    assert Counter(each.known for each in applicants) == {"good": 700, "bad": 300}


@needs_data
def test_lending_club_is_recognised_and_its_rates_are_whole() -> None:
    portfolio, applicants = read_applicants(LENDING_FILE, run_id="r")

    assert portfolio is LENDING_CLUB
    assert Counter(each.known for each in applicants) == {"good": 9_340, "bad": 517}
    by_type = {signal.event_type: signal.payload for signal in applicants[0].signals}
    assert by_type["application_received"]["rate_bps"] == 1_399
    assert by_type["income_verified"]["annual_minor"] == 3_500_000
    assert by_type["credit_report_pulled"]["utilisation_bps"] == 6_740


GERMAN_ROW = {
    "Check_Account ": "A11",
    "Duration": "12",
    "Credit_history": "A34",
    "Purpose": "A46",
    "Credit amount ": "2096",
    "Saving_account": "A61",
    "Employment": "A74",
    "Personal_status": "A93",
    "Other_debrotors": "A101",
    "Age": "49",
    "Installment_plant": "A143",
    "Num_credits": "1",
    "Foreign": "A201",
    "Result": "1",
}


def german_file(path: Path, **changed: str | None) -> Path:
    row = {name: value for name, value in (GERMAN_ROW | changed).items() if value is not None}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([row.keys(), row.values()])
    return path


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"Result": "3"}, "a.csv, line 2: Result is '3', and neither 1 (good) nor 2 (bad)."),
        ({"Employment": "A79"}, "a.csv, line 2: Employment is 'A79', and no code that is known."),
        ({"Duration": "a year"}, "a.csv, line 2: Duration is 'a year', and no number."),
        ({"Duration": "1.5"}, "line 2: Duration is '1.5', which is no number of whole units."),
        ({"Credit amount ": "NaN"}, "is 'NaN', which is no number of whole units."),
        ({"Credit amount ": "-1"}, "is '-1', which is no number of whole units."),
        ({"Purpose": ""}, "a.csv, line 2: Purpose is empty."),
        ({"Age": None}, "a.csv looks like German credit (Statlog), and lacks the column Age."),
        ({"Age": None, "Foreign": None}, "lacks the columns Age, Foreign."),
    ],
)
def test_a_wrong_row_or_header_is_named(
    changed: dict[str, str | None], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(BadFile) as refused:
        read_applicants(german_file(tmp_path / "a.csv", **changed), run_id="r")

    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is neither the German credit data nor those of Lending Club"),
        (b"a,b\n1,2\n", "is neither the German credit data nor those of Lending Club"),
        (b"\xff\xfe\x00", "is not UTF-8 text."),
        (b'"a\n', "cannot be read as CSV: "),
    ],
)
def test_another_file_gets_a_clear_sentence(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)

    with pytest.raises(BadFile) as refused:
        read_applicants(file, run_id="r")

    assert sentence in str(refused.value)


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    file = german_file(tmp_path / "a.csv")
    with file.open("a", encoding="utf-8") as more:
        more.write("A11,12\n")

    with pytest.raises(BadFile, match="line 3: 2 values, and the header has 14 columns"):
        read_applicants(file, run_id="r")


def test_a_header_alone_holds_nobody(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(",".join(GERMAN_ROW) + "\n", encoding="utf-8")

    with pytest.raises(BadFile, match="holds no applicants"):
        read_applicants(file, run_id="r")


# --- Applicants -------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_applicants() -> None:
    assert generate(50, seed=1, run_id="r") == generate(50, seed=1, run_id="r")
    assert generate(50, seed=1, run_id="r") != generate(50, seed=2, run_id="r")


def test_how_it_ended_is_in_no_signal() -> None:
    for applicant in generate(50, seed=1, run_id="r"):
        written = json.dumps([dict(signal.payload) for signal in applicant.signals])
        assert "good" not in written
        assert "bad" not in written


@of_each
def test_a_share_has_a_signal_that_is_wrong_at_first(portfolio: Portfolio) -> None:
    if portfolio is not APPLICANTS and not DATA.is_dir():
        pytest.skip("the public data sets are not here")
    applicants = some_of(portfolio)

    slipping = with_slips(applicants, portfolio.slip, seed=1)

    assert slipping == with_slips(applicants, portfolio.slip, seed=1)
    wrong = [each for each in slipping if each.corrected is not None]
    assert len(wrong) == round(len(applicants) * SLIP_SHARE)
    assert {each.moment for each in wrong} == {AT_ONCE, DECIDED}
    right = {each.application_id: each for each in applicants}
    for each in wrong:
        assert each.corrected in right[each.application_id].signals
        assert each.corrected not in each.signals
        assert len(each.signals) == len(right[each.application_id].signals)


def some_of(portfolio: Portfolio) -> list[Applicant]:
    if portfolio is APPLICANTS:
        return generate(100, seed=1, run_id="r")
    file = GERMAN_FILE if portfolio is GERMAN_CREDIT else LENDING_FILE
    return read_applicants(file, run_id="r", limit=100)[1]


@pytest.mark.parametrize("unwanted", ["typer", "rich", "counterfoil.server"])
def test_an_agent_loads_nothing_that_it_does_not_need(unwanted: str) -> None:
    program = (
        "import sys, counterfoil.cli.demo.credit.agents; "
        f"raise SystemExit({unwanted!r} in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- Replays ----------------------------------------------------------------------------


def replay(**changed: Any) -> Replay:
    same = {
        "decision": 9,
        "identical": True,
        "differences": (),
        "version": 1,
        "engine": Compared(recorded="e 1", now="e 1", changed=False),
        "digest": Compared(recorded="d", now="d", changed=False),
        "recomputed": None,
        "refused": None,
        "signals": "identical",
    }
    return Replay(**{**same, **changed})


def test_a_replay_without_any_difference_has_no_fault() -> None:
    assert fault_of(replay()) == ""


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"refused": "No row fits."}, "cannot be made again: No row fits."),
        (
            {"differences": (Difference(what="outcome", recorded="a", recomputed="b"),)},
            "outcome was a, and is b",
        ),
        ({"engine": Compared(recorded="e 1", now="e 2", changed=True)}, "the engine was e 1"),
        ({"digest": Compared(recorded="d", now="x", changed=True)}, "says something else"),
        ({"signals": "differ"}, "are not identical: differ"),
        ({"signals": "erased"}, "are not identical: erased"),
        ({"identical": False}, "it comes out differently"),
    ],
)
def test_whatever_else_it_shows_is_a_fault(changed: dict[str, Any], fault: str) -> None:
    assert fault in fault_of(replay(**changed))


# --- The guide --------------------------------------------------------------------------


def parts(part: Any, whole: Any) -> bool:
    """Whether a part of a document is in it: each member, and each one of a list somewhere."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and parts(value, whole[name]) for name, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(parts(one, w) for w in whole) for one in part)
    return bool(part == whole)


def test_what_the_guide_shows_of_a_policy_is_in_the_shipped_file() -> None:
    shown = [
        json.loads(example.text)
        for example in page("docs/guides/credit-decisions.md").examples
        if example.language == "json"
    ]

    assert len(shown) > 4
    assert all(parts(each, APPLICANTS.policy) for each in shown)


def test_the_table_of_the_guide_is_that_of_the_shipped_file() -> None:
    columns = ("warnings", "defaults_3y", "left_minor", "burden_bps", "inquiries_6m")
    shown = page("docs/guides/credit-decisions.md").rows(*columns, "outcome", "reasons")
    (table,) = (
        node["content"]
        for node in APPLICANTS.policy["rules"]["nodes"]
        if node["type"] == "decisionTableNode"
    )

    ids = [each["id"] for each in (*table["inputs"], *table["outputs"])]
    assert [each["field"] for each in table["inputs"]] == list(columns)
    assert shown == [tuple(as_shown(row[each]) for each in ids) for row in table["rules"]]


def as_shown(cell: str) -> str:
    for written, read in ((">=", "≥"), ("_", ","), ('"', ""), ("[", ""), ("]", "")):
        cell = cell.replace(written, read) if written != "_" or cell[:1] in "<>" else cell
    return cell
