"""The demo's checker over books written by hand: one that is good, and each way to be bad."""

import json
from typing import Any

import pytest

from counterfoil.cli.demo.check import Checker, check
from tests.unit.cli.demo_books import BAD_BOOKS, RUN, BadBook, event, good_book


def test_a_good_book_has_no_findings_and_is_counted() -> None:
    report = check(good_book(), run_id=RUN, head=13)

    assert report.ok
    assert report.findings == ()
    assert (report.events, report.transactions) == (13, 3)
    assert report.counts == {
        "transaction_posted": 3,
        "risk_score": 3,
        "flag_transaction": 2,
        "clear_transaction": 2,
        "approved": 1,
        "declined": 2,
    }
    assert report.stopped == ("tx_b",)
    assert report.slipped == ()
    assert report.handed_out_again == ()


@pytest.mark.parametrize("bad", BAD_BOOKS, ids=[bad.name for bad in BAD_BOOKS])
def test_each_planted_fault_is_found_by_its_rule_at_its_position(bad: BadBook) -> None:
    report = check(bad.events())

    assert not report.ok
    found = [(finding.rule, finding.position or 0) for finding in report.findings]
    assert (bad.rule, bad.position) in found


@pytest.mark.parametrize("bad", BAD_BOOKS, ids=[bad.name for bad in BAD_BOOKS])
def test_a_finding_names_its_position_in_words(bad: BadBook) -> None:
    for finding in check(bad.events()).findings:
        if finding.position is not None:
            assert str(finding.position) in finding.message


def test_a_slip_is_told_from_a_known_flag() -> None:
    messages = {
        bad.name: check(bad.events()).findings[0].message
        for bad in BAD_BOOKS
        if bad.rule == "late-flag"
    }

    assert (
        "slipped past: its author had read up to 9"
        in messages["approved above a flag that its author had not read"]
    )
    assert "which its author had read" in messages["approved above a flag that its author had read"]


def test_an_approval_above_a_late_flag_is_reported_as_slipped() -> None:
    (bad,) = (bad for bad in BAD_BOOKS if bad.name.endswith("had not read"))

    report = check(bad.events())

    assert report.slipped == ("tx_b",)
    assert report.stopped == ()


def test_a_flag_after_the_approval_is_no_fault() -> None:
    late = event(14, "investigator", "flag_transaction", "tx_a", (5,))

    report = check([*good_book(), late])

    assert report.ok
    assert report.slipped == ()


def test_a_book_that_ends_before_its_head_is_bad() -> None:
    report = check(good_book()[:-1], head=13)

    assert ("positions", 13) in [(each.rule, each.position) for each in report.findings]


def test_an_empty_book_is_bad() -> None:
    assert [finding.rule for finding in check([]).findings] == ["posted"]


@pytest.mark.parametrize("entry", [None, [], "text", {}, {"id": True}, {"id": 0}, {"id": "1"}])
def test_what_is_no_event_is_found_where_it_stands(entry: Any) -> None:
    checker = Checker()
    checker.add(entry, where="Line 7")

    assert "Line 7" in checker.finish().findings[0].message


def test_other_writers_of_the_same_book_are_left_alone() -> None:
    stranger = event(14, "fraud_agent", "flag_transaction", "tx_987")
    del stranger["payload"]["run_id"]

    assert check([*good_book(), stranger]).ok


def test_a_strangers_flag_on_a_transaction_of_the_demo_counts() -> None:
    book = good_book()
    book[5] = event(6, "fraud_agent", "flag_transaction", "tx_a", (3,))
    del book[5]["payload"]["run_id"]

    assert ("late-flag", 7) in [(each.rule, each.position) for each in check(book).findings]


def test_only_the_run_asked_for_is_judged() -> None:
    other = event(14, "approver", "approved", "tx_z", (), read_head=1)
    other["payload"]["run_id"] = "r2"

    assert check([*good_book(), other], run_id=RUN).ok
    assert not check([*good_book(), other], run_id="r2").ok
    assert not check([*good_book(), other]).ok


def test_the_report_is_one_json_object() -> None:
    document = json.loads(json.dumps(check(good_book()[1:]).document()))

    assert document["ok"] is False
    assert document["findings"][0] == {
        "rule": "positions",
        "position": 2,
        "message": "Before 2, 1 is missing.",
    }


def test_the_order_of_different_customers_is_free() -> None:
    (bad,) = (bad for bad in BAD_BOOKS if bad.name == "scored out of order")
    book = bad.events()
    for each in book:
        if each["payload"]["transaction_id"] == "tx_c":
            each["payload"]["customer_id"] = "cust_2"

    assert check(book).ok


def test_a_tip_on_a_score_is_no_second_judgement() -> None:
    tip = event(14, "somebody_else", "flag_transaction", "tx_a", (3,))

    assert check([*good_book(), tip]).ok


@pytest.mark.parametrize(
    ("context", "again"),
    [
        ({"copy": "scorer-2", "attempt": 2}, ("tx_b",)),
        ({"copy": "scorer-2", "attempt": 1}, ()),
        ({"attempt": "2"}, ()),
        ([], ()),
    ],
)
def test_what_was_handed_out_again_is_named(context: Any, again: tuple[str, ...]) -> None:
    book = good_book()
    book[5]["context"] = context

    assert check(book).handed_out_again == again
    assert check(book).ok
