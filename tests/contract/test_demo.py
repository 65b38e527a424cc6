"""The demo for real: agent processes on a real service, and the judge of what they wrote."""

import json
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import httpx2
import pytest

from counterfoil import Counterfoil
from counterfoil.cli.app import run
from counterfoil.cli.demo import pipeline, wire
from counterfoil.cli.demo import vocabulary as words
from counterfoil.cli.demo.cards import COLUMNS
from counterfoil.cli.demo.wire import Brief
from tests.contract.conftest import KEY
from tests.support.cluster import Database
from tests.support.command_line import counterfoil, ending, environment, started
from tests.support.service import Service, running_service
from tests.support.waiting import WAIT_SECONDS_MAX
from tests.unit.cli.demo_books import BAD_BOOKS, BadBook, Event, good_book

TRANSACTIONS = "50"
RACES = 20

# --- Whole runs -------------------------------------------------------------------------


@pytest.fixture
def cf(locked_service: Service) -> Iterator[Counterfoil]:
    with Counterfoil(base_url=locked_service.url, api_key=KEY) as client:
        yield client


def perform(service: Service, *options: str) -> dict[str, Any]:
    """Run the demo on a service, as JSON."""
    ended = counterfoil(
        *("demo", "fraud", "-o", "json", "--transactions", TRANSACTIONS, *options),
        COUNTERFOIL_BASE_URL=service.url,
        COUNTERFOIL_API_KEY=KEY,
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    outcome: dict[str, Any] = json.loads(ended.stdout)
    return outcome


def story(cf: Counterfoil, run_id: str) -> dict[str, list[str]]:
    """What was written about each transaction of a run, in its order: read by the test itself."""
    told: dict[str, list[str]] = {}
    for event in cf.events.list(tags=words.run_tag(run_id), limit=1_000):
        told.setdefault(event.payload["transaction_id"], []).append(event.event_type)
    return told


def consumers(cf: Counterfoil) -> list[str]:
    return [consumer.name for consumer in cf.consumers.list()]


FLAGGED_LATE = [words.POSTED, words.SCORED, words.CLEARED, words.FLAGGED]


@pytest.mark.promise("P4")
def test_with_the_guard_exactly_the_races_are_refused(
    locked_service: Service, cf: Counterfoil
) -> None:
    outcome = perform(locked_service)

    assert outcome["ok"] is True
    assert outcome["gated"] == outcome["flagged_late"] == outcome["refused"] == RACES
    assert outcome["slipped"] == 0
    assert outcome["approved"] + outcome["declined"] == int(TRANSACTIONS)
    assert outcome["check"]["ok"] is True
    told = story(cf, outcome["run_id"])
    assert list(told.values()).count([*FLAGGED_LATE, words.DECLINED]) == RACES
    assert list(told.values()).count([*FLAGGED_LATE, words.APPROVED]) == 0
    assert len(told) == int(TRANSACTIONS)
    assert set(outcome["scored_by"]) == set(words.SCORERS)
    assert not [name for name in consumers(cf) if outcome["run_id"] in name]


@pytest.mark.promise("P8")
def test_a_scorer_that_is_killed_loses_nothing_and_nothing_is_scored_twice(
    locked_service: Service, cf: Counterfoil
) -> None:
    outcome = perform(locked_service, "--kill")

    assert outcome["ok"] is True
    assert outcome["killed"] == 1
    assert outcome["killed_copy"] in words.SCORERS
    assert outcome["held"] >= 1
    assert outcome["taken_over"] == outcome["held"]
    assert sum(outcome["scored_by"].values()) == int(TRANSACTIONS)
    # The test's own reading of the book: who scored what, and at which attempt.
    (survivor,) = set(words.SCORERS) - {outcome["killed_copy"]}
    scores = list(cf.events.list(tags=words.run_tag(outcome["run_id"]), types=words.SCORED))
    scored = [score.payload["transaction_id"] for score in scores]
    assert len(scored) == len(set(scored)) == int(TRANSACTIONS)
    again = [score.context for score in scores if score.context and score.context["attempt"] > 1]
    assert len(again) == outcome["handed_out_again"] >= outcome["held"]
    assert {"copy": survivor, "attempt": 2} in again
    for customer in {score.payload["customer_id"] for score in scores}:
        of_customer = [
            score.payload["transaction_id"]
            for score in scores
            if score.payload["customer_id"] == customer
        ]
        assert of_customer == sorted(of_customer)


def test_without_the_guard_exactly_the_races_slip_through(
    locked_service: Service, cf: Counterfoil, call_check: "CallCheck"
) -> None:
    outcome = perform(locked_service, "--no-guard")

    assert outcome["ok"] is True
    assert outcome["slipped"] == outcome["gated"] == RACES
    assert outcome["refused"] == 0
    assert outcome["check"]["ok"] is False
    told = story(cf, outcome["run_id"])
    assert list(told.values()).count([*FLAGGED_LATE, words.APPROVED]) == RACES
    assert list(told.values()).count([*FLAGGED_LATE, words.DECLINED]) == 0

    code, printed = call_check("--run", outcome["run_id"])
    assert code == 1
    assert printed.count("slipped past") == RACES
    assert f"{RACES} findings" in printed


def test_it_starts_what_it_needs_and_takes_a_card_file(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "cards.csv"
    rows = [
        f"2026-01-05T08:{n % 60:02d}:00Z,070-69-21{n % 7}1,3040{n % 7},{n + 1}.50,EUR,Shop {n % 9}"
        for n in range(30)
    ]
    file.write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")

    ended = counterfoil(
        *("demo", "fraud", "--data", str(file), "--limit", "25", "--data-dir", str(data_dir)),
        # The demo must not write into whatever book is configured here.
        DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
    )

    assert ended.returncode == 0, ended.stderr
    assert "The check of the book found nothing wrong" in ended.stdout
    assert f"All {RACES} approvals that a late flag overtook were refused" in ended.stdout
    assert f"counterfoil dev --data-dir {data_dir}" in ended.stderr


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_demo_its_agents_and_its_service(data_dir: Path, times: int) -> None:
    """Also if it is pressed again while the agents end."""
    with started(
        *("demo", "fraud", "--transactions", "20000", "--data-dir", str(data_dir))
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        while " transactions, " not in line:
            line = process.stderr.readline()
        url = next(word for word in line.split() if word.startswith("http")).rstrip(":")
        assert httpx2.get(f"{url}/health/live").status_code == 200
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        code, said = ending(process)

    assert code == 130
    assert "Interrupted; stopping the service" in said
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health/live")


def test_a_service_that_dies_ends_the_demo_with_3(database: Database) -> None:
    with (
        running_service(database.url) as service,
        started("demo", "fraud", "--transactions", "20000", "--base-url", service.url) as process,
        Counterfoil(base_url=service.url) as cf,
    ):
        with cf.events.follow(types=words.APPROVED, after=0) as approvals:
            next(approvals)
        service.kill()
        code, errors = ending(process)

    assert code == 3
    assert "ended early" in errors
    assert "cannot be reached" in errors or "was lost" in errors or "not known" in errors


def test_an_agent_that_is_frozen_ends_the_demo_with_6_and_its_reason(database: Database) -> None:
    with running_service(database.url) as service, Counterfoil(base_url=service.url) as cf:
        cf.brake.freeze(agent=words.APPROVER, reason="Every decision is looked at today.")
        ended = counterfoil(
            *("demo", "fraud", "--transactions", TRANSACTIONS, "--base-url", service.url)
        )
        left = consumers(cf)

    assert ended.returncode == 6
    assert "The approver ended early" in ended.stderr
    assert ended.stderr.count("Every decision is looked at today.") == 1
    assert "Traceback" not in ended.stderr
    assert left == []


# --- One agent, led by hand -------------------------------------------------------------


class Led:
    """An agent's process whose conductor is the test."""

    def __init__(self, name: str, service: Service, brief: Brief) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil.cli.demo.agents", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment({"COUNTERFOIL_BASE_URL": service.url}),
        )
        self.tell(brief.command())
        assert self.next_report()["done"] == wire.READY

    def tell(self, command: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(wire.encode(dict(command)))
        self.process.stdin.flush()

    @property
    def reports(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def next_report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.reports.readline())
        return report

    def kill(self) -> None:
        self.process.kill()
        self.dismiss()

    def dismiss(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(WAIT_SECONDS_MAX)
        self.reports.close()
        return code


@pytest.fixture
def shared_cf(shared_service: Service) -> Iterator[Counterfoil]:
    with Counterfoil(base_url=shared_service.url) as client:
        yield client


def about(run_id: str, transaction: str) -> dict[str, str]:
    return {
        "run_id": run_id,
        "transaction_id": f"{transaction}_{run_id}",
        "customer_id": f"cust_{run_id}",
        "card_id": f"card_{run_id}",
    }


@pytest.fixture
def run_id(shared_cf: Counterfoil) -> Iterator[str]:
    """A run whose consumers are there."""
    run_id = uuid4().hex[:8]
    with pipeline.consumers(shared_cf, run_id):
        yield run_id


@pytest.mark.promise("P4")
def test_the_approver_looks_again_when_anybody_has_flagged_in_between(
    shared_service: Service, shared_cf: Counterfoil, run_id: str
) -> None:
    subject = about(run_id, "tx")
    brief = Brief(run_id, guarded=True, gated=(subject["transaction_id"],))
    approver = Led(words.APPROVER, shared_service, brief)
    try:
        shared_cf.events.append(
            agent_name=words.INVESTIGATOR, event_type=words.CLEARED, payload=subject
        )
        assert approver.next_report()["done"] == wire.READ
        # Not the investigator, and without any condition: every writer counts.
        flag = shared_cf.events.append(
            agent_name="somebody_else",
            event_type=words.FLAGGED,
            payload={"transaction_id": subject["transaction_id"]},
        )
        approver.tell({"command": wire.COMMIT, "transaction_id": subject["transaction_id"]})

        assert approver.next_report()["done"] == wire.REFUSED
        declined = approver.next_report()
        assert declined["done"] == wire.DECLINED
        # The refusal has cost nothing: it was the same delivery.
        assert declined["attempt"] == 1
        event = shared_cf.events.get(declined["position"])
        assert event.event_type == words.DECLINED
        assert event.caused_by == (flag.id,)
        assert event.payload["read_head"] >= flag.id
    finally:
        assert approver.dismiss() == 0


def test_others_overtake_a_transaction_that_stands_at_a_gate(
    shared_service: Service, shared_cf: Counterfoil, run_id: str
) -> None:
    gated, free = about(run_id, "gated"), about(run_id, "free")
    brief = Brief(run_id, guarded=True, gated=(gated["transaction_id"],))
    approver = Led(words.APPROVER, shared_service, brief)
    try:
        for subject in (gated, free):
            shared_cf.events.append(
                agent_name=words.INVESTIGATOR, event_type=words.CLEARED, payload=subject
            )
        done = {
            report["transaction_id"]: report["done"]
            for report in (approver.next_report(), approver.next_report())
        }
        assert done == {
            gated["transaction_id"]: wire.READ,
            free["transaction_id"]: wire.APPROVED,
        }
        approver.tell({"command": wire.COMMIT, "transaction_id": gated["transaction_id"]})
        assert approver.next_report()["done"] == wire.APPROVED
    finally:
        assert approver.dismiss() == 0


def test_a_later_verdict_finds_its_transaction_decided(
    shared_service: Service, shared_cf: Counterfoil, run_id: str
) -> None:
    subject = about(run_id, "tx")
    approver = Led(words.APPROVER, shared_service, Brief(run_id, guarded=True, gated=()))
    try:
        for event_type in (words.CLEARED, words.FLAGGED):
            shared_cf.events.append(
                agent_name=words.INVESTIGATOR, event_type=event_type, payload=subject
            )

        done = [approver.next_report()["done"], approver.next_report()["done"]]
        assert done in ([wire.APPROVED, wire.NOTED], [wire.DECLINED, wire.NOTED])
        tags = words.transaction_tag(subject["transaction_id"])
        decisions = shared_cf.events.list(types=[words.APPROVED, words.DECLINED], tags=tags)
        assert len(list(decisions)) == 1
        assert pipeline.left_over(shared_cf, run_id)[words.APPROVER] == pipeline.Left(0, 0)
    finally:
        assert approver.dismiss() == 0


def payment(run_id: str, number: int) -> dict[str, Any]:
    return {
        **about(run_id, f"tx{number}"),
        "merchant": "Alder Grocery",
        "amount_minor": 100,
        "minor_digits": 2,
        "currency": "EUR",
    }


@pytest.mark.promise("P8")
def test_what_a_killed_scorer_held_goes_to_the_other_and_its_customer_waits(
    shared_service: Service, shared_cf: Counterfoil, run_id: str
) -> None:
    payments = [payment(run_id, number) for number in (1, 2)]
    ids = [each["transaction_id"] for each in payments]
    brief = Brief(run_id, guarded=True, gated=(), killed_at=ids[0])
    first, second = (Led(name, shared_service, brief) for name in words.SCORERS)
    try:
        for each in payments:
            shared_cf.events.append(
                agent_name=words.POSTER,
                event_type=words.POSTED,
                payload=each,
                occurred_at=datetime(2026, 1, 5, 8, tzinfo=UTC),
            )
        # Whichever was handed the first payment says so, and stands still.
        ready, _, _ = select.select([first.reports, second.reports], [], [], WAIT_SECONDS_MAX)
        dead, heir = (first, second) if first.reports in ready else (second, first)
        held = dead.next_report()
        assert (held["done"], held["transaction_id"]) == (wire.HELD, ids[0])
        dead.kill()
        heir.tell({"command": wire.COMMIT, "transaction_id": ids[0]})

        reports = [heir.next_report(), heir.next_report()]
        assert [(each["transaction_id"], each["attempt"]) for each in reports] == [
            (ids[0], 2),
            (ids[1], 1),
        ]
        scores = list(shared_cf.events.list(types=words.SCORED, tags=words.run_tag(run_id)))
        assert [score.payload["transaction_id"] for score in scores] == ids
        assert scores[0].context == {"copy": heir.name, "attempt": 2}
    finally:
        for scorer in (first, second):
            scorer.dismiss()


def test_an_agent_ends_when_its_conductor_is_gone(shared_service: Service, run_id: str) -> None:
    for name in words.PROCESSES:
        brief = Brief(run_id, guarded=True, gated=())
        assert Led(name, shared_service, brief).dismiss() == 0


# --- The check --------------------------------------------------------------------------


class CallCheck:
    """``demo check`` in this process, against the service with a key."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *options: str) -> tuple[int, str]:
        self._capsys.readouterr()
        code = run(["demo", "check", *options])
        return code, self._capsys.readouterr().out


@pytest.fixture
def call_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, locked_service: Service
) -> CallCheck:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("COUNTERFOIL_BASE_URL", locked_service.url)
    monkeypatch.setenv("COUNTERFOIL_API_KEY", KEY)
    return CallCheck(capsys)


def export(path: Path, book: list[Event]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in book), encoding="utf-8")
    return path


def test_an_export_of_a_good_book_passes(tmp_path: Path) -> None:
    file = export(tmp_path / "export.jsonl", good_book())

    ended = counterfoil("demo", "check", "--file", str(file))

    assert ended.returncode == 0
    assert "Nothing is wrong" in ended.stdout


@pytest.mark.parametrize("bad", BAD_BOOKS, ids=[bad.name for bad in BAD_BOOKS])
def test_every_planted_fault_fails_the_export_and_is_named(
    bad: BadBook, tmp_path: Path, call_check: CallCheck
) -> None:
    file = export(tmp_path / "export.jsonl", bad.events())

    code, printed = call_check("--file", str(file))
    json_code, document = call_check("--file", str(file), "-o", "json")

    assert code == json_code == 1
    assert f"✗ {bad.rule}" in printed
    found = json.loads(document)["findings"]
    assert (bad.rule, bad.position) in [(each["rule"], each["position"] or 0) for each in found]


def test_an_export_that_is_cut_or_is_none_fails(tmp_path: Path, call_check: CallCheck) -> None:
    file = export(tmp_path / "export.jsonl", good_book())
    file.write_text(file.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))

    code, printed = call_check("--file", str(file))

    assert code == 1
    assert "Line 13 is no event" in printed
    assert call_check("--file", str(binary))[0] == 1


NOT_TO_BE_WRITTEN = {"positions", "time", "shape"}
"""What the service itself makes impossible, so that only an export can show it."""

BY_THE_SERVICE = {"rests on itself", "rests on what lies ahead"}
"""Causes that the service refuses, because they lie ahead."""

WRITTEN = [
    bad
    for bad in BAD_BOOKS
    if bad.rule not in NOT_TO_BE_WRITTEN
    and bad.name not in BY_THE_SERVICE
    and bad.name != "not of the demo"
]


@pytest.mark.parametrize("bad", WRITTEN, ids=[bad.name for bad in WRITTEN])
def test_every_fault_that_can_be_written_is_found_over_http(
    bad: BadBook, cf: Counterfoil, call_check: CallCheck
) -> None:
    run_id = uuid4().hex[:8]
    written = write(cf, bad.events(), run_id)

    code, document = call_check("--run", run_id, "-o", "json")

    assert code == 1
    found = json.loads(document)["findings"]
    assert (bad.rule, written[bad.position]) in [(each["rule"], each["position"]) for each in found]


def test_a_good_book_passes_over_http_and_its_export_passes_too(
    database: Database, tmp_path: Path
) -> None:
    with running_service(database.url) as service, Counterfoil(base_url=service.url) as cf:
        write(cf, good_book(), "r1")
        over_http = counterfoil("demo", "check", "--base-url", service.url)
        exported = counterfoil("read", "--all", "-o", "json", "--base-url", service.url)
    file = tmp_path / "export.jsonl"
    file.write_text(exported.stdout, encoding="utf-8")

    assert over_http.returncode == 0, over_http.stdout
    assert counterfoil("demo", "check", "--file", str(file)).returncode == 0
    assert counterfoil("demo", "check", "--file", "-", stdin=exported.stdout).returncode == 0


def write(cf: Counterfoil, book: list[Event], run_id: str) -> dict[int, int]:
    """Write a book under another run; where each of its positions has come to stand."""
    stands: dict[int, int] = {}
    for event in book:
        payload = dict(event["payload"])
        payload["run_id"] = run_id
        payload["transaction_id"] += f"_{run_id}"
        if "read_head" in payload:
            payload["read_head"] = stands.get(payload["read_head"], payload["read_head"])
        stored = cf.events.append(
            agent_name=event["agent_name"],
            event_type=event["event_type"],
            payload=payload,
            caused_by=[stands[cause] for cause in event["caused_by"]],
        )
        stands[event["id"]] = stored.id
    return stands
