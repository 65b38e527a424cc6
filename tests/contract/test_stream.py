"""The live stream: what goes over the wire, from where, until when."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from tests.contract.conftest import Door, open_door
from tests.contract.problems import assert_problem
from tests.support.cluster import Database
from tests.support.service import running_service
from tests.support.waiting import wait_for


@dataclass
class Message:
    """One server-sent event, or one comment with what belongs to it."""

    comment: str | None = None
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def position(self) -> int:
        return int(self.fields["id"].rpartition(".")[2])


@dataclass
class Stream:
    answer: httpx2.Response
    messages: Iterator[Message]

    def next(self) -> Message:
        return next(self.messages)

    def next_event(self) -> Message:
        """The next message that is no heartbeat."""
        return next(message for message in self.messages if "data" in message.fields)


def _messages(lines: Iterator[str]) -> Iterator[Message]:
    message = Message()
    for line in lines:
        if not line:
            yield message
            message = Message()
        elif line.startswith(": "):
            message.comment = line[2:]
        else:
            name, _, value = line.partition(": ")
            assert name not in message.fields, "one event is one line"
            message.fields[name] = value


@contextmanager
def following(door: Door, path: str = "/events/stream", **headers: str) -> Iterator[Stream]:
    with door.client.stream("GET", path, headers=headers) as answer:
        yield Stream(answer, _messages(answer.iter_lines()))


def test_a_stream_begins_with_where_it_stands(door: Door) -> None:
    head = door.append()
    with following(door) as stream:
        assert stream.answer.status_code == 200
        assert stream.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert stream.answer.headers["Cache-Control"] == "no-store"
        assert stream.answer.headers["X-Accel-Buffering"] == "no"
        assert stream.answer.headers["Counterfoil-Head"] == str(head)
        incarnation = stream.answer.headers["Counterfoil-Incarnation"]
        assert stream.next().fields == {"retry": "1000"}
        heartbeat = stream.next()

    assert heartbeat.comment == "heartbeat"
    assert heartbeat.fields == {"id": f"{incarnation}.{head}"}


def test_a_stream_shows_what_is_written_from_now_on(door: Door) -> None:
    door.append(tags=["live:1"])
    with following(door, "/events/stream?tag=live:1") as stream:
        stream.next()
        stream.next()
        door.append(tags=["live:2"])
        position = door.append(tags=["live:1"], payload={"n": "1\n2\r3"})
        message = stream.next_event()

    assert message.position == position
    assert "event" not in message.fields  # so that EventSource.onmessage sees it
    assert message.fields["data"] == door.client.get(f"/events/{position}").text


def test_a_stream_shows_what_lies_above_a_position_first(door: Door) -> None:
    before, *missed = [door.append(tags=["replay:1"]) for _ in range(4)]
    with following(door, f"/events/stream?tag=replay:1&after={before}") as stream:
        assert [stream.next_event().position for _ in missed] == missed
        live = door.append(tags=["replay:1"])
        assert stream.next_event().position == live


def test_the_last_event_id_goes_before_after(door: Door) -> None:
    first, second, third = [door.append(tags=["resume:1"]) for _ in range(3)]
    path = f"/events/stream?tag=resume:1&after={first - 1}"
    with following(door, path) as stream:
        last = stream.next_event()
        assert last.position == first
    with following(door, path, **{"Last-Event-ID": last.fields["id"]}) as stream:
        assert stream.next_event().position == second
        assert stream.next_event().position == third


def test_a_heartbeats_id_is_one_to_resume_from(door: Door) -> None:
    with following(door, "/events/stream?tag=rare:1") as stream:
        stream.next()
        heartbeat = stream.next()
    missed = door.append(tags=["rare:1"])
    with following(
        door, "/events/stream?tag=rare:1", **{"Last-Event-ID": heartbeat.fields["id"]}
    ) as stream:
        assert stream.next_event().position == missed


def test_a_last_event_id_above_the_head_is_refused(door: Door) -> None:
    incarnation = door.client.get("/events").headers["Counterfoil-Incarnation"]
    ahead = f"{incarnation}.{door.head() + 1}"

    answer = door.client.get("/events/stream", headers={"Last-Event-ID": ahead})

    assert_problem(answer, 422, "after-above-head", "/Last-Event-ID", "header")


def test_a_filter_by_payload_is_live_too(door: Door) -> None:
    with following(door, '/events/stream?payload={"stream":"p"}') as stream:
        stream.next()
        stream.next()
        door.append(payload={"stream": "q"})
        position = door.append(payload={"stream": "p", "n": 1})
        assert stream.next_event().position == position


def test_many_streams_see_the_same(door: Door) -> None:
    seen: dict[int, int] = {}

    def follow(number: int) -> None:
        with open_door(door.service) as own, following(own, "/events/stream?tag=many:1") as stream:
            stream.next()
            stream.next()
            started.release()
            seen[number] = stream.next_event().position

    started = threading.Semaphore(0)
    threads = [threading.Thread(target=follow, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert started.acquire(timeout=20)
    position = door.append(tags=["many:1"])
    for thread in threads:
        thread.join(20)

    assert seen == dict.fromkeys(range(20), position)


def subscribers(door: Door) -> int:
    found = re.search(
        r"^counterfoil_stream_subscribers (\d+)", door.client.get("/metrics").text, re.MULTILINE
    )
    assert found
    return int(found[1])


def test_a_stream_whose_client_left_gives_back_its_place(database: Database) -> None:
    with running_service(database.url) as service, open_door(service) as door:
        with following(door) as stream:
            stream.next()
            wait_for(lambda: subscribers(door) == 1, "the stream to be counted")
        wait_for(lambda: subscribers(door) == 0, "the stream to be given back")


def test_streams_end_cleanly_when_the_service_stops(database: Database) -> None:
    with running_service(database.url) as service, open_door(service) as door:
        with following(door) as stream:
            stream.next()
            stream.next()
            service.terminate()
            # The end of the answer, not of the connection in the middle of it.
            assert list(stream.messages) == []
        assert service.stop() == 0
