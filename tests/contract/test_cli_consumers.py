"""Consumers on the command line, against real services: made, watched, set aside, given up."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from typing import Final
from uuid import uuid4

import httpx2
import pytest

from counterfoil import Backoff, Counterfoil, NewEvent
from tests.contract.conftest import KEY, Call
from tests.support.cluster import Database
from tests.support.command_line import PROGRAM, ending, environment, started
from tests.support.keys import holder_of
from tests.support.service import Service, running_service
from tests.support.waiting import WAIT_SECONDS_MAX, wait_for

HEIGHT: Final = 12


@pytest.fixture
def cf(shared_service: Service) -> Iterator[Counterfoil]:
    with Counterfoil(base_url=shared_service.url) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A consumer, and a type of events, that no other test speaks of."""
    return f"c-{uuid4().hex}"


def set_aside(cf: Counterfoil, name: str, count: int, reason: str = "No such currency.") -> None:
    """Make a consumer, and events of its type that are its dead letters."""
    cf.events.append_batch(
        [NewEvent(agent_name="shop", event_type=name, payload={"n": n}) for n in range(count)]
    )
    cf.consumers.put(name, types=name, attempts_max=2, backoff=Backoff(initial_seconds=0))
    cf.consumers.set_aside(name, cf.consumers.claim(name, holder="h-1", count=count), reason=reason)


# --- Making, changing, deleting -----------------------------------------------------------


def test_a_consumer_is_made_shown_changed_and_deleted(
    call: Call, cf: Counterfoil, name: str
) -> None:
    cf.events.append_batch([NewEvent(agent_name="a", event_type=name, payload={})] * 3)

    made = call(
        *("consumers", "put", name, "--type", name, "--lease", "5m", "--attempts", "3"),
        *("--backoff", "0.5s,1.5,10m", "--order-by", "customer", "--in-flight", "50"),
        *("--dead-letters", "hold", "--start", "beginning"),
    )
    assert made.returncode == 0
    assert re.fullmatch(
        f"Consumer {name} stands so since event \\d+: 3 events to do\\.\n", made.stdout
    )

    state = json.loads(call("consumers", "show", name, "-o", "json").stdout)
    assert state["query"] == [{"types": [name], "agents": [], "tags": []}]
    assert (state["lease_seconds"], state["attempts_max"]) == (300, 3)
    assert state["backoff"] == {"initial_seconds": 0.5, "factor": 1.5, "max_seconds": 600}
    assert (state["order_by"], state["in_flight_max"], state["dead_letters"]) == (
        *("customer", 50, "hold"),
    )
    assert "lease      5m\n" in call("consumers", "show", name).stdout

    lines = call("consumers").stdout.splitlines()
    (own,) = (line.split() for line in lines if line.startswith(name))
    assert own[1] == "running"
    assert own[3] == "3"

    assert "is paused" in call("consumers", "pause", name, "--reason", "A test.").stdout
    again = call("consumers", "pause", name, "--reason", "A test.")
    assert again.returncode == 0
    resumed = call("consumers", "resume", name, "--reason", "A test.", "-o", "json")
    assert json.loads(resumed.stdout)["status"] == "running"
    sought = call("consumers", "seek", name, "--to", "now", "--reason", "A test.")
    assert sought.stdout.endswith(": 0 events to do.\n")
    back = call("consumers", "seek", name, "--to", "2020-01-01T00:00:00Z", "--reason", "A test.")
    assert back.stdout == f"Consumer {name} goes on after 0: 3 events to do.\n"

    unasked = call("consumers", "delete", name)
    assert unasked.returncode == 2
    assert "Give --yes" in unasked.stderr
    gone = call("consumers", "delete", name, "--yes")
    assert gone.stdout.startswith(f"Consumer {name} was deleted")
    assert call("consumers", "show", name).returncode == 1


def test_what_cannot_be_changed_is_said_with_the_way_out(
    call: Call, cf: Counterfoil, name: str
) -> None:
    cf.consumers.put(name, types=name)
    cf.events.append(agent_name="a", event_type=name, payload={})
    assert len(cf.consumers.claim(name, holder="h", wait_seconds=10)) == 1

    other = call("consumers", "put", name, "--type", "refund")
    assert other.returncode == 1
    assert "Give --change-query" in other.stderr
    changed = call("consumers", "put", name, "--type", "refund", "--change-query", "-o", "json")
    assert json.loads(changed.stdout)["query"][0]["types"] == ["refund"]

    start = call("consumers", "put", name, "--type", "refund", "--start", "now")
    assert start.returncode == 1
    assert "/start" in start.stderr


def test_a_place_beyond_the_book_is_refused_where_it_was_named(
    call: Call, cf: Counterfoil, name: str
) -> None:
    far = str(10**12)
    put = call("consumers", "put", name, "--type", name, "--start", far)
    cf.consumers.put(name, types=name)
    seek = call("consumers", "seek", name, "--to", far, "--reason", "A test.")

    assert (put.returncode, seek.returncode) == (1, 1)
    assert "[/start/after]" in put.stderr
    assert "[/to/after]" in seek.stderr


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (("--lease", "0s"), "/lease_seconds"),
        (("--lease", "1d"), "/lease_seconds"),
        (("--attempts", "101"), "/attempts_max"),
        (("--backoff", "1s,11"), "/backoff/factor"),
        (("--backoff", "2h,1,3h"), "/backoff/initial_seconds"),
        (("--in-flight", "10001"), "/in_flight_max"),
        (("--order-by", "customer:c_1"), "/order_by"),
        (("--tag", "customer"), "/query"),
    ],
)
def test_what_the_service_refuses_names_the_field(
    call: Call, name: str, options: tuple[str, ...], field: str
) -> None:
    refused = call("consumers", "put", name, "--type", name, *options)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert field in refused.stderr


def test_a_name_that_is_none_is_refused(call: Call) -> None:
    refused = call("consumers", "put", "The Scorer", "--type", "t")
    assert refused.returncode == 1
    assert "lower-case letters" in refused.stderr


# --- Dead letters -------------------------------------------------------------------------


@pytest.mark.promise("P8")
def test_dead_letters_are_listed_shown_replayed_and_dropped(
    call: Call, cf: Counterfoil, name: str
) -> None:
    set_aside(cf, name, 3)
    first, second, third = (letter.event_id for letter in cf.consumers.dead_letters(name))
    dead = ("consumers", "dead")

    listed = call(*dead, "list", name)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [
        *("EVENT", str(first), str(second), str(third)),
    ]
    assert listed.stderr == "3 dead letters.\n"
    cut = call(*dead, "list", name, "-n", "2", "-o", "json")
    assert [json.loads(line)["event_id"] for line in cut.stdout.splitlines()] == [first, second]

    shown = call(*dead, "show", name, str(second))
    assert "No such currency." in shown.stdout
    assert "h-1" in shown.stdout
    assert '"n": 1' in shown.stdout
    document = json.loads(call(*dead, "show", name, str(second), "-o", "json").stdout)
    assert (document["event"]["id"], len(document["attempts"])) == (second, 1)

    kept = call("consumers", "delete", name, "--yes")
    assert kept.returncode == 1
    assert "--drop-dead-letters" in kept.stderr

    replayed = call(*dead, "replay", name, str(first))
    assert replayed.stdout == f"1 dead letter to be handed out again: {first}.\n"
    assert [delivery.event.id for delivery in cf.consumers.claim(name, holder="h")] == [first]
    missing = call(*dead, "replay", name, str(first))
    assert missing.returncode == 1
    assert "dead-letter-not-found" in missing.stderr

    dropped = call(*dead, "drop", name, str(second), "--reason", "A test.", "-o", "json")
    assert json.loads(dropped.stdout) == {"status": "dropped", "event_ids": [second]}
    every = call(*dead, "drop", name, "--all", "--reason", "Tests.", "--yes")
    assert every.stdout == f"1 dead letter dropped: {third}.\n"
    told = call("read", "--type", "counterfoil.dead_letters_dropped", "--tag", f"consumer:{name}")
    assert len(told.stdout.splitlines()) == 3
    assert call(*dead, "list", name).stderr == f"Consumer {name} has no dead letters.\n"


def test_what_failed_too_often_says_what_the_last_attempt_failed_of(
    call: Call, cf: Counterfoil, name: str
) -> None:
    cf.events.append(agent_name="a", event_type=name, payload={})
    cf.consumers.put(name, types=name, attempts_max=1, backoff=Backoff(initial_seconds=0))
    cf.consumers.release(
        name, cf.consumers.claim(name, holder="h", wait_seconds=10), reason="The model is away."
    )
    wait_for(lambda: cf.consumers.get(name).set_aside, "the event to be set aside")

    line = call("consumers", "dead", "list", name).stdout.splitlines()[1]

    assert line.endswith("Last: The model is away.")


# --- Keys ---------------------------------------------------------------------------------


def test_a_key_sees_and_does_what_its_scopes_say(
    call: Call, locked_service: Service, name: str
) -> None:
    there = {"COUNTERFOIL_BASE_URL": locked_service.url}
    with Counterfoil(base_url=locked_service.url, api_key=KEY) as operator:
        set_aside(operator, name, 1)
        (letter,) = operator.consumers.dead_letters(name)
    with holder_of(locked_service, KEY) as holder:
        manager = holder.made(kind="admin", name=f"m-{name}", scopes=["manage:consumers"])
        reader = holder.made(kind="auditor", name=f"r-{name}", scopes=[f"read:{name}"])
        stranger = holder.made(kind="auditor", name=f"s-{name}", scopes=["read:nothing"])
    show = ("consumers", "dead", "show", name, str(letter.event_id), "-o", "json")

    def event_for(key: str) -> object:
        ended = call(*show, **there, COUNTERFOIL_API_KEY=key)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)["event"]

    assert event_for(manager.text) is None
    assert event_for(stranger.text) is None
    assert event_for(reader.text) is not None

    refused = call(
        *("consumers", "pause", name, "--reason", "x"), **there, COUNTERFOIL_API_KEY=reader.text
    )
    assert refused.returncode == 1
    assert "manage:consumers" in refused.stderr
    paused = call(
        *("consumers", "pause", name, "--reason", "x"), **there, COUNTERFOIL_API_KEY=manager.text
    )
    assert paused.returncode == 0


def test_a_key_for_a_consumer_is_made(call: Call, locked_service: Service) -> None:
    made = call(
        *("keys", "create", "agent", "scorer", "--scope", "consume:scorer"),
        *("--scope", "read:payment", "-o", "json"),
        COUNTERFOIL_BASE_URL=locked_service.url,
        COUNTERFOIL_API_KEY=KEY,
    )
    assert json.loads(made.stdout)["scopes"] == ["consume:scorer", "read:payment"]


# --- Watching -----------------------------------------------------------------------------


def block(watching: subprocess.Popen[str]) -> list[str]:
    """The next block of a command that watches."""
    assert watching.stdout is not None
    lines = []
    while (line := watching.stdout.readline()).strip():
        lines.append(line.rstrip("\n"))
    return lines


def test_a_pipe_gets_block_after_block_until_ctrl_c(
    shared_service: Service, cf: Counterfoil, name: str
) -> None:
    cf.consumers.put(name, types=name)
    with started(
        "consumers", "--watch", "0.1", COUNTERFOIL_BASE_URL=shared_service.url
    ) as watching:
        for count in range(3):
            # What is written is seen, if not by the very next look.
            while (seen := block(watching)) and lag_in(seen, name) < count:
                pass
            assert lag_in(seen, name) == count
            assert seen[1].startswith("NAME")
            cf.events.append(agent_name="a", event_type=name, payload={})
        watching.send_signal(signal.SIGINT)

        assert ending(watching) == (130, "")


def lag_in(lines: list[str], name: str) -> int:
    (own,) = (line.split() for line in lines if line.startswith(name))
    return int(own[3])


def test_a_service_that_is_away_is_waited_for(database: Database) -> None:
    with running_service(database.url) as before:
        port = httpx2.URL(before.url).port
        assert port is not None
        with started("consumers", "--watch", "0.1", COUNTERFOIL_BASE_URL=before.url) as watching:
            assert block(watching)[0].endswith("no consumers")
            before.stop()
            assert watching.stderr is not None
            assert watching.stderr.readline().endswith("Trying until it is back …\n")
            with running_service(database.url, port=port) as after:
                with Counterfoil(base_url=after.url) as client:
                    client.consumers.put("scorer", types="payment")
                while len(seen := block(watching)) < 3:
                    pass
                assert seen[2].startswith("scorer")
                watching.send_signal(signal.SIGINT)
                assert ending(watching) == (130, "")


def test_a_terminal_is_drawn_anew_in_its_width_and_gets_its_cursor_back(
    database: Database,
) -> None:
    long = "everything-that-the-compliance-team-of-the-north-has-to-see-0001"
    with running_service(database.url) as service:
        with Counterfoil(base_url=service.url) as client:
            for each in (long, *(f"scorer-{n}" for n in range(15))):
                client.consumers.put(each, types="payment")
        for width, end, code in (40, signal.SIGINT, 130), (80, signal.SIGTERM, 143):
            shown = on_terminal(service, width, end, code)
            assert shown.startswith("\x1b[?25l")
            frames = re.split(r"(?:\r(?!\n)|\x1b\[2K|\x1b\[1A)+", shown)
            for frame in frames[:2]:
                lines = [re.sub(r"\x1b\[[0-9;?]*[a-z]", "", line) for line in frame.split("\r\n")]
                assert len(lines) <= HEIGHT
                assert all(len(line) <= width for line in lines)
                assert re.fullmatch(r"… and \d+ more", lines[-1])
                assert any(line.startswith("everything-th") for line in lines)


def on_terminal(service: Service, width: int, end: signal.Signals, code: int) -> str:
    """What a terminal of this width is given by a command that watches, until that is ended."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, width, 0, 0))
    variables = environment({"COUNTERFOIL_BASE_URL": service.url, "TERM": "xterm"})
    # They would be believed before the terminal is.
    own = {name: text for name, text in variables.items() if name not in {"COLUMNS", "LINES"}}
    with subprocess.Popen(
        [*PROGRAM, "consumers", "--watch", "0.1"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=own,
    ) as watching:
        os.close(theirs)
        try:
            shown = read_until(ours, lambda given: given.count(b"more") >= 3)
            watching.send_signal(end)
            shown += read_until(ours, lambda given: given.endswith(b"\x1b[?25h"))
            assert watching.wait(WAIT_SECONDS_MAX) == code
        finally:
            watching.kill()
            os.close(ours)
    return shown.decode()


def read_until(terminal: int, done: Callable[[bytes], bool]) -> bytes:
    """Read what a terminal was given until it is ``done``."""
    given = b""
    while not done(given):
        ready, _, _ = select.select([terminal], [], [], WAIT_SECONDS_MAX)
        assert ready, given
        given += os.read(terminal, 65_536)
    return given
