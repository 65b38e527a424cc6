"""Following: every event once and in order, over connections that break."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from counterfoil import (
    APIConnectionError,
    APIError,
    AsyncCounterfoil,
    AuthenticationError,
    BookRestored,
    Counterfoil,
    Follower,
    InternalServerError,
    PermissionDenied,
    ServiceUnavailable,
    UnexpectedAnswer,
    UnsendableValue,
    UsageError,
)
from counterfoil.client.following import RECONNECT_SECONDS_MAX
from tests.unit.client.doors import Clock, Connect
from tests.unit.client.simulated_book import (
    Fault,
    SimulatedBook,
    Stream,
    broken_after,
    byte_by_byte,
    problem,
    whole,
)


def take(follower: Follower, count: int) -> list[int]:
    """Return the ids of the next ``count`` events."""
    return [next(follower).id for _ in range(count)]


def resumed_from(book: SimulatedBook) -> list[str | None]:
    return [received.headers.get("Last-Event-ID") for received in book.received]


def test_what_is_there_and_what_comes_is_given_in_order(
    cf: Counterfoil, book: SimulatedBook, clock: Clock
) -> None:
    book.add(2)
    clock.on_wait = book.add  # The stream ends; while the client waits, another event comes.
    with cf.events.follow(after=0) as events:
        assert take(events, 5) == [1, 2, 3, 4, 5]
        assert events.position == 5
        assert events.last_event_id == f"{book.incarnation}.5"
    assert resumed_from(book) == [None, *(f"{book.incarnation}.{n}" for n in (2, 3, 4))]
    assert book.received[0].parameters["after"] == "0"
    assert "after" not in book.received[1].parameters
    assert book.received[0].headers["Accept"] == "text/event-stream"


def test_wherever_the_connection_breaks_nothing_is_missed_or_doubled(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(1, payload={"reason": "überhöht €"})
    book.add(2)
    with cf.events.follow(after=0) as events:
        assert take(events, 3) == [1, 2, 3]
    (everything,) = book.opened_streams[0].chunks
    for cut in range(0, len(everything), 5):
        book.streams.append(broken_after(cut))
        with cf.events.follow(after=0) as events:
            assert take(events, 3) == [1, 2, 3]


def test_chunks_may_end_anywhere(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(2, payload={"reason": "überhöht €"})
    book.streams.append(byte_by_byte)
    with cf.events.follow(after=0) as events:
        assert next(events).payload == {"reason": "überhöht €"}
        assert next(events).id == 2


def test_a_follower_without_a_place_begins_at_the_head_it_first_saw(
    cf: Counterfoil, book: SimulatedBook, clock: Clock
) -> None:
    book.add(3)
    book.streams.append(broken_after(0))  # Gone before it said a word, but for its headers.
    clock.on_wait = book.add
    with cf.events.follow() as events:
        assert events.position is None
        assert take(events, 1) == [4]
    assert resumed_from(book) == [None, f"{book.incarnation}.3"]


def test_filters_go_with_every_connection(cf: Counterfoil, book: SimulatedBook) -> None:
    for kind in ("flag", "note", "flag"):
        book.add(event_type=kind, tags=["a:1"], agent_name="fraud")
    book.streams.append(broken_after(60))
    follower = cf.events.follow(types="flag", tags="a:1", agents="fraud", payload={}, after=0)
    with follower as events:
        assert take(events, 2) == [1, 3]
    filters = [("tag", "a:1"), ("type", "flag"), ("agent", "fraud"), ("payload", "{}")]
    assert book.received[0].parameters.multi_items() == [*filters, ("after", "0")]
    assert book.received[1].parameters.multi_items() == filters


def test_heartbeats_move_the_place_on(cf: Counterfoil, book: SimulatedBook) -> None:
    beat = f": heartbeat\nid: {book.incarnation}.41\n\n".encode()
    book.add(event_type="flag")
    book.streams.append(lambda content: Stream([content, beat], None))
    follower = cf.events.follow(after=0, types="flag", max_reconnects=0)
    with follower as events:
        assert take(events, 1) == [1]
        assert events.position == 1  # Not yet: the heartbeat has not been reached.
        with pytest.raises(APIConnectionError, match="ended the stream"):
            next(events)
        assert events.position == 41


def test_a_place_that_was_kept_is_resumed(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(4)
    with cf.events.follow(last_event_id=f"{book.incarnation}.2") as events:
        assert events.position == 2
        assert take(events, 2) == [3, 4]
    with pytest.raises(UsageError, match="not both"):
        cf.events.follow(last_event_id="b.1", after=1)
    with pytest.raises(UnsendableValue, match="no place"):
        cf.events.follow(last_event_id="17")


def test_what_the_service_sends_twice_is_given_once(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(2)
    book.streams.append(lambda content: Stream([content, content], None))
    with cf.events.follow(after=0, max_reconnects=0) as events:
        assert take(events, 2) == [1, 2]
        with pytest.raises(APIConnectionError):
            next(events)


# --- Connections that fail --------------------------------------------------------------


def test_a_service_that_is_not_there_shows_at_once(cf: Counterfoil, book: SimulatedBook) -> None:
    book.faults.extend([Fault(httpx2.ConnectError("refused"))] * 9)
    with cf.events.follow() as events, pytest.raises(APIConnectionError, match="running there"):
        next(events)
    assert len(book.received) == 3


def test_once_connected_it_tries_on_with_growing_waits(
    cf: Counterfoil, book: SimulatedBook, clock: Clock
) -> None:
    book.add(1)
    away = Fault(httpx2.ConnectError("refused"))
    busy = Fault(problem(503, "busy", "Full.", headers={"Retry-After": "20"}))
    with cf.events.follow(after=0) as events:
        take(events, 1)
        book.faults.extend([away] * 8 + [busy] + [Fault(httpx2.ReadTimeout(""))])
        book.add(1)
        take(events, 1)
    bounds = [1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30]  # The first is for the stream's end.
    assert len(clock.waits) == len(bounds)
    assert all(0.75 * n <= wait <= n for n, wait in zip(bounds, clock.waits, strict=True))


def test_the_wait_is_short_again_after_a_word_from_the_service(
    cf: Counterfoil, book: SimulatedBook, clock: Clock
) -> None:
    book.add(1)
    with cf.events.follow(after=0) as events:
        take(events, 1)
        book.faults.extend([Fault(httpx2.ConnectError("refused"))] * 5)
        book.add(1)
        take(events, 1)
        clock.waits.clear()
        book.add(1)
        take(events, 1)
    assert max(clock.waits) <= 1.0


def test_an_interruption_is_told_when_it_begins_and_when_it_is_over(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    told: list[APIError | None] = []
    book.add(1)
    book.faults.append(Fault(httpx2.ConnectError("refused")))  # Not connected yet: not told.
    with cf.events.follow(after=0, on_reconnect=told.append) as events:
        take(events, 1)
        assert told == []
        book.faults.extend([Fault(httpx2.ConnectError("refused"))] * 3)
        book.add(1)
        take(events, 1)
        reason, back = told
        assert isinstance(reason, APIConnectionError)
        assert "ended the stream" in str(reason)
        assert back is None
        book.faults.append(Fault(problem(401, "unauthenticated", "No.")))
        with pytest.raises(AuthenticationError):
            next(events)
    assert [each is None for each in told] == [False, True, False]


def test_what_ends_the_follower_is_raised_and_not_told(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    told: list[APIError | None] = []
    book.add(1)
    with cf.events.follow(after=0, max_reconnects=0, on_reconnect=told.append) as events:
        take(events, 1)
        with pytest.raises(APIConnectionError):
            next(events)
    assert told == []


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [("250", 0.1875, 0.25), ("0", 0.075, 0.1), ("86400000", 22.5, RECONNECT_SECONDS_MAX)],
)
def test_the_stream_may_set_the_first_wait_within_bounds(
    cf: Counterfoil, book: SimulatedBook, clock: Clock, asked: str, least: float, most: float
) -> None:
    book.add(1)
    book.streams.append(lambda content: Stream([f"retry: {asked}\n\n".encode(), content], None))
    clock.on_wait = book.add
    with cf.events.follow(after=0) as events:
        take(events, 2)
    (wait,) = clock.waits
    assert least <= wait <= most


def test_it_gives_up_after_as_many_reconnections_as_allowed(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(1)
    with cf.events.follow(after=0, max_reconnects=4) as events:
        take(events, 1)
        book.faults.extend([Fault(problem(503, "busy", "Full."))] * 9)
        with pytest.raises(ServiceUnavailable):
            next(events)
    assert len(book.received) == 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(401, "unauthenticated", "No."), AuthenticationError),
        (problem(403, "scope-missing", "No."), PermissionDenied),
        (problem(409, "book-restored", "No."), BookRestored),
        (problem(500, "internal-error", "No."), InternalServerError),
        (problem(503, "busy", "No.", headers={"Retry-After": "3600"}), ServiceUnavailable),
        (httpx2.Response(200, content=b"<html>"), UnexpectedAnswer),
    ],
)
def test_what_the_service_decides_is_told_at_once(
    cf: Counterfoil, book: SimulatedBook, answer: httpx2.Response, kind: type[Exception]
) -> None:
    book.add(1)
    with cf.events.follow(after=0) as events:
        take(events, 1)
        book.faults.append(Fault(answer))
        with pytest.raises(kind):
            next(events)
    assert len(book.received) == 2


def test_a_restored_book_is_told_on_resuming_and_within_a_stream(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(2)
    with cf.events.follow(last_event_id="an-older-life.1") as events, pytest.raises(BookRestored):
        next(events)
    other = b"id: another-life.1\n\n"
    book.streams.append(lambda content: Stream([content, other], None))
    with cf.events.follow(after=0) as events:
        take(events, 2)
        with pytest.raises(BookRestored, match="while it was followed"):
            next(events)


@pytest.mark.parametrize(
    "sent",
    [
        b"id: nonsense\ndata: {}\n\n",
        b"id: 7c9e6679-7425-40de-944b-e07fc1f90ae7.5\ndata: {}\n\n",
        b"id: 7c9e6679-7425-40de-944b-e07fc1f90ae7.5\ndata: <html>\n\n",
        b"\xff\n",
    ],
)
def test_a_stream_that_is_not_the_services_is_not_believed(
    cf: Counterfoil, book: SimulatedBook, sent: bytes
) -> None:
    book.streams.append(lambda _: Stream([sent], None))
    with cf.events.follow(after=0) as events, pytest.raises(UnexpectedAnswer):
        next(events)
    assert book.opened_streams[0].closed


def test_an_event_out_of_its_place_is_not_given(cf: Counterfoil, book: SimulatedBook) -> None:
    book.add(1)
    wrong = f"{book.incarnation}.9".encode()
    right = f"{book.incarnation}.1".encode()
    book.streams.append(lambda content: Stream([content.replace(right, wrong)], None))
    with (
        cf.events.follow(after=0) as events,
        pytest.raises(UnexpectedAnswer, match="gave event 1 the position 9"),
    ):
        next(events)


def test_a_stream_without_the_services_headers_is_not_begun(
    connect: Connect,
) -> None:
    def bare(_: httpx2.Request) -> httpx2.Response:
        headers = {"Content-Type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=whole(b""))

    cf = connect(httpx2.MockTransport(bare))
    with cf.events.follow() as events, pytest.raises(UnexpectedAnswer, match="where it begins"):
        next(events)


def test_leaving_closes_the_connection_and_iterating_again_opens_another(
    cf: Counterfoil, book: SimulatedBook
) -> None:
    book.add(3)
    with cf.events.follow(after=0) as events:
        for event in events:
            assert event.id == 1
            break
    assert book.opened_streams[0].closed
    # What had come in is still given; then it goes on over a new connection.
    book.add(1)
    assert take(events, 3) == [2, 3, 4]
    assert len(book.opened_streams) == 2
    events.close()
    events.close()


def test_an_interrupted_wait_is_no_failure_of_the_service(
    cf: Counterfoil, book: SimulatedBook, clock: Clock
) -> None:
    class Interrupt(BaseException):
        pass

    book.add(1)
    book.streams.append(lambda content: Stream([content], Interrupt()))
    events = cf.events.follow(after=0, max_reconnects=0)
    assert next(events).id == 1
    with pytest.raises(Interrupt):
        next(events)
    assert book.opened_streams[0].closed
    book.add(1)
    assert take(events, 1) == [2]
    assert clock.waits == []
    events.close()


def test_a_wait_that_was_cut_short_loses_nothing(book: SimulatedBook, clock: Clock) -> None:
    class Quiet(Stream):
        """Says nothing more after its chunks, and does not end either."""

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in super().__aiter__():
                yield chunk
            await asyncio.Event().wait()

    async def impatient() -> None:
        http = httpx2.AsyncClient(transport=book.transport)
        follower = AsyncCounterfoil(http_client=http, sleep=clock.sleep_async).events.follow(
            after=0, max_reconnects=0
        )
        async with http, follower as events:
            assert (await anext(events)).id == 1
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.01)
            assert book.opened_streams[0].closed
            book.add(1)
            assert (await anext(events)).id == 2

    book.add(1)
    book.streams.extend([lambda content: Quiet([content, b"id: half"], None)] * 2)
    asyncio.run(impatient())
    assert resumed_from(book) == [None, f"{book.incarnation}.1"]
    assert clock.waits == []
