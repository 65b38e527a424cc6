"""A decision stands only on what it read: the interleavings, held still, and load for the rest.

Two processes of the service at one book. What lands in between is appended by a session of our
own, which holds the book's row: the decision has read, cannot have seen it, and is seen to wait.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import httpx2
import pytest

from counterfoil.server.core import limits
from counterfoil.server.log.own import own_append, own_event
from tests.contract.problems import assert_problem
from tests.support.appends import append_request
from tests.support.cluster import Cluster
from tests.support.decisions import DEBTS, DECISION_MADE, INCOME, Office, policy, stricter
from tests.support.gates import Book, opened_book
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import running_service
from tests.support.starting import Start

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P9", "P4")]

ASKERS = 64
DECISIONS = 1_000


class Offices(NamedTuple):
    """The same people, who call two processes of the service; and where their book is."""

    one: Office
    other: Office
    database_url: str


@pytest.fixture(scope="module")
def offices(cluster: Cluster) -> Iterator[Offices]:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as first,
        running_service(database.url, api_key=BOOTSTRAP) as second,
        holder_of(first) as operator,
        holder_of(second) as elsewhere,
    ):
        one = Office.of(operator)
        people = {
            name: replace(getattr(one, name), client=elsewhere.client)
            for name in ("author", "approver", "risk", "decider")
        }
        yield Offices(one, Office(**people), database.url)


@pytest.fixture
async def decided_book(offices: Offices) -> AsyncIterator[Book]:
    async with opened_book(offices.database_url) as opened:
        yield opened


class Application:
    """An application of the test's own, with a policy of its own in force."""

    def __init__(self, offices: Offices, name: str) -> None:
        self.offices = offices
        self.subject = f"application:{name}"
        self.policy = name.replace("_", "-")
        offices.one.in_force(policy(), name=self.policy)
        self.debt, self.income = offices.one.known(subject=self.subject)

    def asked(self, office: Office | None = None, **more: Any) -> httpx2.Response:
        """Ask for a decision about it."""
        return (office or self.offices.one).asked(self.subject, policy=self.policy, **more)

    def signal(self, event_type: str, amount: int, subject: str | None = None) -> Any:
        """A signal, as the stored function takes it."""
        body = {
            "agent_name": "risk_agent",
            "event_type": event_type,
            "payload": {"monthly_minor": amount},
            "tags": [subject or self.subject],
        }
        return append_request(body)

    def decisions(self) -> list[dict[str, Any]]:
        """The decisions about it, the oldest first."""
        asked = {"subject": self.subject, "policy": self.policy}
        page = self.offices.one.approver.get("/decisions", params=asked).json()
        found: list[dict[str, Any]] = page["decisions"]
        return found


@pytest.fixture
def application(offices: Offices, tx: str) -> Application:
    return Application(offices, tx)


def created(answer: httpx2.Response) -> dict[str, Any]:
    """The decision that was made."""
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_a_signal_that_is_uncommitted_while_it_is_read_makes_it_start_anew(
    application: Application, decided_book: Book, start: Start[Any]
) -> None:
    async with decided_book.session() as risk:
        landed = await risk.store(application.signal(DEBTS, 150_000))
        deciding = start(asyncio.to_thread(application.asked))
        ((_, application_name, blocked_by),) = await decided_book.waiting(1)
        assert (application_name, blocked_by) == ("counterfoil appends", [risk.pid])
        await risk.commit()
        made = created(await deciding)
    assert made["signals"]["debt"] == [landed]
    assert (made["outcome"], made["inputs"]["debt"]) == ("decline", 150_000)
    assert made["head"] == landed == made["id"] - 1


async def test_a_signal_that_is_rolled_back_changes_nothing(
    application: Application, decided_book: Book, start: Start[Any]
) -> None:
    async with decided_book.session() as risk:
        await risk.store(application.signal(DEBTS, 150_000))
        deciding = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
    made = created(await deciding)
    assert (made["outcome"], made["signals"]["debt"]) == ("approve", [application.debt])


async def test_what_the_policy_does_not_read_does_not_make_it_start_anew(
    application: Application, decided_book: Book, start: Start[Any]
) -> None:
    async with decided_book.session() as risk:
        await risk.store(application.signal("noted", 1))
        await risk.store(application.signal(DEBTS, 1, "application:of somebody else"))
        deciding = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
        await risk.commit()
        made = created(await deciding)
    # It stands on what it read first: two events have landed since, and neither counts.
    assert made["head"] == made["id"] - 3
    assert made["outcome"] == "approve"


async def test_a_version_put_in_force_meanwhile_decides(
    application: Application, decided_book: Book, start: Start[Any], offices: Offices
) -> None:
    offices.one.known(debt=90_000, subject=application.subject)
    offices.one.drafted(stricter(), application.policy)
    async with decided_book.session() as approver:
        row = {"name": application.policy, "version": 2, "by": "person:grace"}
        event = own_event(
            "policy_activated", row, tags=[f"policy:{application.policy}"], principal="person:grace"
        )
        await approver.store(
            own_append(event, effect={"effect": "activate_policy", **row}, asked={})
        )
        deciding = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
        await approver.commit()
        made = created(await deciding)
    assert (made["version"], made["outcome"]) == (2, "decline")


async def test_a_process_that_remembers_another_version_refuses_nothing_by_it(
    application: Application, offices: Offices
) -> None:
    """What the version in force asks for is not held against the one that was before."""
    created(application.asked())
    other = offices.other
    wider = policy()
    wider["extra"] = ["amount"]
    wider["inputs_schema"]["properties"]["amount"] = {"type": "integer"}
    wider["inputs_schema"]["required"].append("amount")
    for example in wider["examples"]:
        example["inputs"]["amount"] = 1
    assert other.in_force(wider, application.policy)["version"] == 2
    one = offices.one
    one.known(subject="application:of the next")
    asked = one.asked("application:of the next", policy=application.policy, inputs={"amount": 5})
    assert (created(asked)["version"], asked.json()["inputs"]["amount"]) == (2, 5)


def test_an_activation_that_is_answered_again_does_not_bring_its_version_back(
    application: Application, offices: Offices
) -> None:
    name, approver = application.policy, offices.one.approver
    offices.one.drafted(stricter(), name)
    path = f"/policies/{name}/versions/2/activate"
    why, key = {"reason": "A test."}, {"Idempotency-Key": f"{name}-2"}
    assert approver.post(path, why, headers=key).status_code == 200
    assert approver.post(f"/policies/{name}/versions/1/activate", why).status_code == 200
    assert approver.post(path, why, headers=key).headers["Idempotent-Replayed"] == "true"
    assert created(application.asked())["version"] == 1


async def test_a_policy_retired_meanwhile_decides_nothing(
    application: Application, decided_book: Book, start: Start[Any]
) -> None:
    async with decided_book.session() as approver:
        row = {"name": application.policy, "version": 1, "by": "person:grace"}
        event = own_event(
            "policy_retired", row, tags=[f"policy:{application.policy}"], principal="person:grace"
        )
        await approver.store(own_append(event, effect={"effect": "retire_policy", **row}, asked={}))
        deciding = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
        await approver.commit()
        assert_problem(await deciding, 409, "policy-not-active")
    assert application.decisions() == []


async def test_a_freeze_meanwhile_holds_it_back(
    application: Application, decided_book: Book, start: Start[Any]
) -> None:
    async with decided_book.session() as keeper:
        row = {
            "kind": "tag",
            "subject": application.subject,
            "reason": "An incident.",
            "by": "person:grace",
        }
        event = own_event("frozen", row, tags=[application.subject], principal="person:grace")
        await keeper.store(own_append(event, effect={"effect": "freeze", **row}, asked={}))
        deciding = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
        await keeper.commit()
        assert_problem(await deciding, 423, "frozen")
    assert application.decisions() == []


async def test_of_two_in_two_processes_one_stands_and_the_other_is_shown_it(
    application: Application, decided_book: Book, start: Start[Any], offices: Offices
) -> None:
    async with decided_book.held() as gate:
        first = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
        second = start(asyncio.to_thread(application.asked, offices.other))
        await decided_book.waiting(2)
        await gate.open()
        made = created(await first)
        problem = assert_problem(await second, 409, "decision-stands")
    assert problem["decision"] == made
    assert application.decisions() == [made]


async def test_one_key_in_two_processes_makes_one_decision(
    application: Application, decided_book: Book, start: Start[Any], offices: Offices
) -> None:
    async with decided_book.held() as gate:
        first = start(asyncio.to_thread(application.asked, key=application.policy))
        await decided_book.waiting(1)
        second = start(asyncio.to_thread(application.asked, offices.other, key=application.policy))
        await decided_book.waiting(2)
        await gate.open()
        answers = [await first, await second]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert "Idempotent-Replayed" not in answers[0].headers
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    assert len(application.decisions()) == 1


async def test_signals_that_land_in_every_try_end_it_with_what_was_in_the_way(
    application: Application, decided_book: Book, start: Start[Any]
) -> None:
    """Each try waits behind a signal; the next one stands behind that try, before the one after."""
    landed: list[int] = []
    async with decided_book.session() as one, decided_book.session() as other:
        landed.append(await one.store(application.signal(DEBTS, 1)))
        deciding = start(asyncio.to_thread(application.asked))
        await decided_book.waiting(1)
        for nth in range(1, limits.DECISION_TRIES_MAX):
            holding, next_one = (one, other) if nth % 2 else (other, one)
            storing = start(next_one.store(application.signal(DEBTS, nth + 1)))
            await decided_book.waiting(2)
            await holding.commit()
            landed.append(await storing)
            await decided_book.waiting(1)
        await (other if limits.DECISION_TRIES_MAX % 2 == 0 else one).commit()
        problem = assert_problem(await deciding, 409, "condition-failed")
    assert [conflict["id"] for conflict in problem["conflicts"]] == landed[-1:]
    assert application.decisions() == []


def test_of_sixty_four_that_ask_at_once_one_stands_and_all_are_shown_it(
    application: Application, offices: Offices
) -> None:
    with ThreadPoolExecutor(ASKERS) as pool:
        askers = [
            pool.submit(application.asked, (offices.one, offices.other)[nth % 2])
            for nth in range(ASKERS)
        ]
        answers = [asker.result() for asker in askers]
    by_status = Counter(answer.status_code for answer in answers)
    assert by_status == {201: 1, 409: ASKERS - 1}
    (made,) = [answer.json() for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer.status_code == 409:
            assert assert_problem(answer, 409, "decision-stands")["decision"] == made
    assert application.decisions() == [made]


@pytest.mark.timeout(240)
def test_of_a_thousand_decisions_under_load_none_stands_on_a_stale_signal(
    offices: Offices, tx: str
) -> None:
    """Signals land all the while, from both processes; afterwards the book alone is asked."""
    name = tx.replace("_", "-")
    offices.one.in_force(policy(), name=name)
    subjects = [f"application:{tx}-{nth}" for nth in range(12)]
    for subject in subjects:
        offices.one.known(subject=subject)

    def decide(nth: int) -> httpx2.Response:
        chance = random.Random(nth)
        office, subject = (offices.one, offices.other)[nth % 2], chance.choice(subjects)
        if chance.random() < 0.5:
            office.signal(chance.choice((DEBTS, INCOME)), chance.randint(1, 10**6), subject)
        answer = office.asked(subject, policy=name)
        while answer.status_code == 409:
            document = answer.json()
            standing = document.get("decision")
            named: dict[str, Any] = (
                {}
                if standing is None
                else {"supersedes": {"decision": standing["id"], "reason": "Anew."}}
            )
            answer = office.asked(subject, policy=name, **named)
        return answer

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(decide, range(DECISIONS)))
    assert Counter(answer.status_code for answer in answers) == {201: DECISIONS}
    assert _must_stand_on_what_was_read(offices.one.approver, subjects) == DECISIONS


def _must_stand_on_what_was_read(reader: Holder, subjects: Sequence[str]) -> int:
    """Replay the book by a plain model: what was known when each decision was written."""
    decisions = 0
    for subject in subjects:
        events = _events(reader, subject)
        latest: dict[str, tuple[int, int]] = {}
        standing = None
        for event in events:
            told = event["payload"]
            if event["event_type"] != DECISION_MADE:
                latest[event["event_type"]] = (event["id"], told["monthly_minor"])
                continue
            decisions += 1
            inputs = {"debt": latest[DEBTS], "income": latest[INCOME]}
            assert told["signals"] == {name: [one[0]] for name, one in inputs.items()}, event
            assert told["inputs"] == {name: one[1] for name, one in inputs.items()}, event
            superseded = told["supersedes"]
            assert (superseded and superseded["decision"]) == standing, event
            standing = event["id"]
    return decisions


def _events(reader: Holder, subject: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = reader.get("/events", params={"tag": subject, "limit": 1000, **cursor}).json()
        found += page["events"]
        if not page["has_more"]:
            return found
        cursor = {"cursor": page["next"]}
