"""``consumers`` and ``consumers dead``: as they are called."""

import json
from typing import Any

import httpx2
import pytest

from counterfoil.cli.exits import ExitCode
from tests.unit.cli.conftest import Call
from tests.unit.client.simulated_book import Fault, problem
from tests.unit.client.simulated_consumers import SimulatedConsumers


def last_body(service: SimulatedConsumers) -> Any:
    return json.loads(service.received[-1].body)


@pytest.fixture
def scorer(service: SimulatedConsumers, call: Call) -> str:
    """A consumer of six payments, of which two are dead letters, and the first is held."""
    for _ in range(6):
        service.add(agent_name="shop", event_type="payment")
    put = ("consumers", "put", "scorer", "--type", "payment", "--attempts", "1", "--backoff", "0s")
    assert call(*put).code == ExitCode.OK
    for entry in service.consumers["scorer"].entries.values():
        assert entry.state == "ready"
    service._claim("scorer", {"holder": "scorer-1", "count": 3})
    held = service.consumers["scorer"].held()
    for entry, reason in zip(held[1:], ("The model is away.", "No such currency."), strict=True):
        service._failed(service.consumers["scorer"], entry, reason)
    return "scorer"


# --- What there is ------------------------------------------------------------------------


def test_no_consumer_says_how_to_make_one(call: Call) -> None:
    ended = call("consumers")
    assert (ended.code, ended.stdout) == (ExitCode.OK, "")
    assert "counterfoil consumers put NAME --type TYPE" in ended.stderr
    assert call("consumers", "-o", "json").stderr == ""


def test_consumers_alone_is_their_list(call: Call, scorer: str) -> None:
    call("consumers", "put", "notifier", "--type", "refund", "--start", "now")

    ended = call("consumers")

    assert ended.stdout == call("consumers", "list").stdout
    _, first, second = (line.split() for line in ended.stdout.splitlines())
    assert first == [scorer, "running", "10/10", "6", "0.5s", "1", "3", "2", "1.5/s"]
    assert second[:4] == ["notifier", "running", "10/10", "0"]
    assert ended.stderr == "2 consumers, head 10.\n"
    listed = [json.loads(line) for line in call("consumers", "-o", "json").stdout.splitlines()]
    assert [each["name"] for each in listed] == [scorer, "notifier"]
    assert listed[0]["lag"] == {"events": 6, "seconds": 0.5, "at_least": False}
    assert listed[0]["query"] == [{"types": ["payment"], "agents": [], "tags": []}]


def test_one_consumer_is_shown(call: Call, scorer: str) -> None:
    shown = call("consumers", "show", scorer).stdout
    assert "hands out  type=payment\n" in shown
    assert "attempts   1; waits 0s after a failure\n" in shown
    assert json.loads(call("consumers", "show", scorer, "-o", "json").stdout)["name"] == scorer


@pytest.mark.parametrize(
    "what",
    [
        ("show", "nobody"),
        ("pause", "nobody", "--reason", "x"),
        ("seek", "nobody", "--to", "now", "--reason", "x"),
        ("delete", "nobody", "--yes"),
        ("dead", "list", "nobody"),
        ("dead", "show", "nobody", "1"),
        ("dead", "replay", "nobody", "1"),
        ("dead", "drop", "nobody", "1", "--reason", "x"),
    ],
    ids=" ".join,
)
def test_a_consumer_that_there_is_not_is_named_as_such(call: Call, what: tuple[str, ...]) -> None:
    ended = call("consumers", *what)
    assert (ended.code, ended.stdout) == (ExitCode.REFUSED, "")
    assert "consumer-not-found" in ended.stderr


# --- Making and changing ------------------------------------------------------------------


def test_everything_that_a_consumer_can_be_is_sent(call: Call, service: SimulatedConsumers) -> None:
    ended = call(
        *("consumers", "put", "scorer", "--type", "payment", "--type", "refund"),
        *("--agent", "shop", "--tag", "region:eu", "--start", "0", "--lease", "5m"),
        *("--attempts", "3", "--backoff", "0.5s,1.5,10m", "--order-by", "customer"),
        *("--in-flight", "50", "--dead-letters", "hold", "--change-query"),
        *("--idempotency-key", "deploy-17"),
    )

    assert ended.stdout.startswith("Consumer scorer stands so since event 1: 0 events to do.")
    assert last_body(service) == {
        "query": [{"types": ["payment", "refund"], "agents": ["shop"], "tags": ["region:eu"]}],
        "start": {"after": 0},
        "lease_seconds": 300,
        "attempts_max": 3,
        "backoff": {"initial_seconds": 0.5, "factor": 1.5, "max_seconds": 600},
        "order_by": "customer",
        "in_flight_max": 50,
        "dead_letters": "hold",
        "change_query": True,
    }
    assert service.received[-1].headers["Idempotency-Key"] == "deploy-17"


def test_what_is_left_out_is_left_to_the_service(call: Call, service: SimulatedConsumers) -> None:
    items = ("--query", "type=payment tag=region:eu", "--query", "agent='the shop'")
    made = call("consumers", "put", "scorer", *items, "-o", "json")

    assert last_body(service) == {
        "query": [
            {"types": ["payment"], "tags": ["region:eu"]},
            {"agents": ["the shop"]},
        ]
    }
    assert json.loads(made.stdout)["lease_seconds"] == 60


def test_another_query_has_to_be_meant(call: Call, scorer: str) -> None:
    refused = call("consumers", "put", scorer, "--type", "refund")
    assert refused.code == ExitCode.REFUSED
    assert "Give --change-query" in refused.stderr
    changed = call("consumers", "put", scorer, "--type", "refund", "--change-query")
    assert changed.code == ExitCode.OK

    settled = call("consumers", "put", scorer, "--type", "refund", "--start", "now")
    assert settled.code == ExitCode.REFUSED
    assert "/start" in settled.stderr
    assert "--change-query" not in settled.stderr


def test_a_consumer_is_paused_resumed_and_led_elsewhere(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    paused = call("consumers", "pause", scorer, "--reason", "A new model.")
    assert paused.stdout == "Consumer scorer is paused; 1 still held: 6 events to do.\n"
    assert last_body(service) == {"reason": "A new model."}
    assert call("consumers").stdout.splitlines()[1].split()[1] == "paused"

    resumed = call("consumers", "resume", scorer, "--reason", "It is there.", "-o", "json")
    assert json.loads(resumed.stdout)["status"] == "running"

    sought = call("consumers", "seek", scorer, "--to", "2", "--reason", "Again.")
    assert last_body(service) == {"to": {"after": 2}, "reason": "Again."}
    assert sought.stdout.endswith(": 4 events to do.\n")
    call("consumers", "seek", scorer, "--to", "2026-03-01T00:00:00Z", "--reason", "Again.")
    assert last_body(service)["to"] == {"time": "2026-03-01T00:00:00+00:00"}


def test_what_keeps_a_consumer_from_running_is_said(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    service.consumers[scorer].status = "stalled"
    state = service._state(scorer)
    service.faults.append(Fault(httpx2.Response(200, json=state)))

    ended = call("consumers", "resume", scorer, "--reason", "x")

    assert ended.stdout.startswith("Consumer scorer is stalled:")
    assert "2 dead letters are too many to go on." in ended.stderr
    assert "counterfoil consumers dead list scorer" in ended.stderr


def test_a_deletion_is_asked_about(call: Call, service: SimulatedConsumers, scorer: str) -> None:
    delete = ("consumers", "delete", scorer)
    assert call(*delete).code == ExitCode.USAGE

    for refused in (call(*delete, answering="y\n"), call(*delete, "--yes")):
        assert refused.code == ExitCode.REFUSED
        assert "give --drop-dead-letters if they are not needed" in refused.stderr
        assert "[y/N]" not in refused.stderr

    declined = call(*delete, "--drop-dead-letters", answering="n\n")
    assert declined.code == ExitCode.REFUSED
    assert (
        "Delete consumer scorer and its 2 dead letters? 6 events are not done, 1 of them held. "
        "[y/N]" in declined.stderr
    )
    assert scorer in service.consumers

    done = call(*delete, "--drop-dead-letters", answering="y\n")
    assert done.code == ExitCode.OK
    assert done.stdout == (
        "Consumer scorer was deleted, with 4 events not done and 2 dead letters.\n"
    )
    assert service.consumers == {}
    call("consumers", "put", scorer, "--type", "refund")
    gone = json.loads(call(*delete, "--yes", "-o", "json").stdout)
    assert (gone["name"], gone["dead_letters"]) == (scorer, 0)


# --- Dead letters -------------------------------------------------------------------------


def test_dead_letters_are_listed(call: Call, scorer: str) -> None:
    ended = call("consumers", "dead", "list", scorer)

    heading, first, second = ended.stdout.splitlines()
    assert heading.split() == ["EVENT", "SET", "ASIDE", "(UTC)", "ATTEMPTS", "KEY", "REASON"]
    assert first == "2      2025-01-02 03:04  1         free  The model is away."
    assert second.endswith("No such currency.")
    assert ended.stderr == "2 dead letters.\n"
    listed = call("consumers", "dead", "list", scorer, "-o", "json").stdout.splitlines()
    assert [json.loads(line)["event_id"] for line in listed] == [2, 3]


def test_a_long_list_is_cut_and_says_so(call: Call, scorer: str) -> None:
    dead = ("consumers", "dead", "list", scorer)

    cut = call(*dead, "-n", "1")
    assert len(cut.stdout.splitlines()) == 2
    assert cut.stderr == "1 dead letter. There are more: --all, or a larger -n.\n"
    assert len(call(*dead, "-n", "1", "-o", "json").stdout.splitlines()) == 1
    assert call(*dead, "-n", "2").stderr == "2 dead letters.\n"
    assert call(*dead, "-n", "1", "--all").stderr == "2 dead letters.\n"


def test_what_used_up_its_attempts_says_why_the_last_one_failed(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    letter = service.consumers[scorer].entries[2].letter
    letter |= {"reason": "It failed as often as it may.", "holds_key": True}

    line = call("consumers", "dead", "list", scorer).stdout.splitlines()[1]

    assert line.endswith("held up  It failed as often as it may. Last: The model is away.")


def test_a_dead_letter_is_shown_with_its_attempts_and_its_event(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    service.consumers[scorer].entries[2].letter["attempts"][0]["reason"] = "\x1b[2JNo."

    shown = call("consumers", "dead", "show", scorer, "2")

    assert shown.code == ExitCode.OK
    assert "reason     The model is away.\n" in shown.stdout
    assert "1        scorer-1  2025-01-02 03:04:05" in shown.stdout
    assert "\\u001b[2JNo." in shown.stdout
    assert "\x1b" not in shown.stdout
    assert '  "event_type": "payment",\n' in shown.stdout
    document = json.loads(call("consumers", "dead", "show", scorer, "2", "-o", "json").stdout)
    assert document["event"]["id"] == document["event_id"] == 2
    assert call("consumers", "dead", "show", scorer, "1").code == ExitCode.REFUSED


def test_an_event_that_the_key_may_not_read_is_left_out(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    refusal = problem(403, "scope-missing", "This key may not read this event.", scope="read:x")
    dead = ("consumers", "dead", "show", scorer, "2")

    service.faults.extend([None, None, Fault(refusal)])
    shown = call(*dead)
    assert shown.code == ExitCode.OK
    assert "This key may not read the event." in shown.stderr
    assert "event_type" not in shown.stdout

    manager = {"tenant": "default", "principal": "admin:a", "scopes": ["manage:consumers"]}
    service.faults.extend([None, Fault(httpx2.Response(200, json=manager))])
    service.received.clear()
    as_json = call(*dead, "-o", "json")
    assert json.loads(as_json.stdout)["event"] is None
    # A refusal would stand in the book as an attempt: nothing was asked for.
    assert [received.path for received in service.received] == [
        "/consumers/scorer/dead-letters/2",
        "/me",
    ]


def test_dead_letters_are_replayed_one_or_all(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    one = call("consumers", "dead", "replay", scorer, "3", "3")
    assert one.stdout == "1 dead letter to be handed out again: 3.\n"
    assert last_body(service) == {"event_ids": [3]}

    every = call("consumers", "dead", "replay", scorer, "--all", "--reason", "It is back.")
    assert every.stdout == "1 dead letter to be handed out again: 2.\n"
    assert last_body(service) == {"all": True, "reason": "It is back."}

    none = call("consumers", "dead", "replay", scorer, "--all")
    assert none.stdout == "There were no dead letters; nothing was changed.\n"
    assert call("consumers", "dead", "list", scorer).stderr == (
        "Consumer scorer has no dead letters.\n"
    )
    unknown = call("consumers", "dead", "replay", scorer, "2")
    assert unknown.code == ExitCode.REFUSED
    assert "dead-letter-not-found" in unknown.stderr


def test_dead_letters_are_dropped_and_all_of_them_only_if_it_is_meant(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    drop = ("consumers", "dead", "drop", scorer)
    one = call(*drop, "2", "--reason", "A test.", "-o", "json")
    assert json.loads(one.stdout) == {"status": "dropped", "event_ids": [2]}
    assert last_body(service) == {"event_ids": [2], "reason": "A test."}

    every = (*drop, "--all", "--reason", "Tests.")
    assert call(*every).code == ExitCode.USAGE
    declined = call(*every, answering="n\n")
    assert declined.code == ExitCode.REFUSED
    assert "Give up all dead letters of consumer scorer, 1 in all? [y/N]" in declined.stderr
    assert service.states() == ["held", "done", "dead", "ready", "ready", "ready"]
    assert call(*every, "--yes").stdout == "1 dead letter dropped: 3.\n"
    assert last_body(service) == {"all": True, "reason": "Tests."}


def test_many_that_were_settled_are_counted_and_the_first_are_named(
    call: Call, service: SimulatedConsumers, scorer: str
) -> None:
    answer = {"status": "replayed", "event_ids": list(range(1, 31))}
    service.faults.append(Fault(httpx2.Response(200, json=answer)))

    ended = call("consumers", "dead", "replay", scorer, "--all")

    assert ended.stdout.startswith("30 dead letters to be handed out again: 1, 2, 3,")
    assert ended.stdout.endswith(", 19, 20, ….\n")
