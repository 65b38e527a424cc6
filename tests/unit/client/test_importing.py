"""Importing without I/O: how a file is cut, what the keys are, and what a standing is worth."""

import hashlib
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from counterfoil import FieldError, InvalidRequestError, StoredBatch, UnsendableValue
from counterfoil.client import lines
from counterfoil.client.importing import (
    BATCH_LINES,
    BODY_BYTES_MAX,
    Batch,
    Cutter,
    FileChanged,
    Import,
    LineFault,
    LineRefused,
    check_ahead,
)
from counterfoil.client.standing import Span, Standing
from counterfoil.server.core import limits

FRESH = Standing(incarnation="one", name="")


def event(number: int, **payload: Any) -> bytes:
    body = {"agent_name": "a", "event_type": "t", "payload": {"n": number, **payload}}
    return json.dumps(body).encode()


def file_of(*events: bytes) -> bytes:
    return b"".join(each + b"\n" for each in events)


def numbered(count: int) -> bytes:
    return file_of(*map(event, range(1, count + 1)))


def batches(content: bytes, standing: Standing = FRESH) -> list[Batch]:
    cutter = Cutter(io.BytesIO(content), standing)
    return list(iter(cutter.next, None))


def keys(content: bytes, standing: Standing = FRESH) -> list[str]:
    return [batch.key for batch in batches(content, standing)]


def replaced(content: bytes, number: int, line: bytes) -> bytes:
    """The file with another line of this number."""
    split = content.splitlines(keepends=True)
    return b"".join([*split[: number - 1], line, *split[number:]])


class Book:
    """What a book does with keyed batches, to the extent that an import sees it."""

    def __init__(self) -> None:
        self.stored: dict[str, list[bytes]] = {}
        self.ids: dict[str, tuple[int, ...]] = {}
        self.events: list[bytes] = []

    def take(self, batch: Batch) -> StoredBatch:
        replayed = batch.key in self.stored
        if replayed:
            assert self.stored[batch.key] == list(batch.lines), "the service refuses this: 422"
        else:
            first = len(self.events) + 1
            self.events.extend(batch.lines)
            self.stored[batch.key] = list(batch.lines)
            self.ids[batch.key] = tuple(range(first, first + len(batch.lines)))
        return StoredBatch(self.ids[batch.key], datetime.now(UTC), replayed)


def imported(content: bytes, book: Book, standing: Standing = FRESH) -> Import:
    """Run an import to its end."""
    work = Import(io.BytesIO(content), standing, lambda: None)
    while (batch := work.next()) is not None:
        work.acknowledge(batch, book.take(batch))
    return work


# --- Cutting --------------------------------------------------------------------------------


def test_the_bounds_of_a_batch_are_the_services() -> None:
    assert limits.BATCH_EVENTS_MAX == BATCH_LINES
    assert limits.BATCH_BODY_BYTES_MAX == BODY_BYTES_MAX


def test_a_file_is_cut_at_every_thousandth_line_and_keeps_its_order() -> None:
    cut = batches(numbered(2_500))
    assert [(b.first_line, b.last_line) for b in cut] == [(1, 1000), (1001, 2000), (2001, 2500)]
    assert [line for batch in cut for line in batch.lines] == numbered(2_500).splitlines()


def test_an_emptied_line_moves_no_cut_behind_it() -> None:
    content = replaced(numbered(2_500), 1_042, b"\n")
    cut = batches(content)
    assert [(b.first_line, b.last_line) for b in cut] == [(1, 1000), (1001, 2000), (2001, 2500)]
    assert len(cut[1].lines) == 999
    assert keys(content) == keys(numbered(2_500))


def test_empty_lines_are_passed_over_wherever_they_stand() -> None:
    content = b"\n" * 3_500 + event(1) + b"\n \t\r\n" + event(2) + b"\n\n"
    (batch,) = batches(content)
    assert batch.lines == [event(1), event(2)]
    assert list(batch.numbers) == [3_501, 3_503]
    assert batch.end_bytes == len(content)
    assert batch.prefix_sha256 == hashlib.sha256(content).hexdigest()
    assert batches(b"\n" * 2_000) == []
    assert batches(b"") == []


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + file_of(event(1), event(2)),
        event(1) + b"\r\n" + event(2) + b"\r\n",
        b"  " + event(1) + b" \n\t" + event(2),
    ],
    ids=["byte order mark", "carriage returns", "white space, no last line feed"],
)
def test_what_stands_around_an_event_is_not_sent(content: bytes) -> None:
    (batch,) = batches(content)
    assert batch.lines == [event(1), event(2)]


def test_a_batch_stays_within_the_bytes_of_a_body() -> None:
    large = [event(number, filler="x" * 500_000) for number in range(20)]
    cut = batches(file_of(*large))
    assert len(cut) == 3
    assert [line for batch in cut for line in batch.lines] == large
    for batch in cut:
        assert len(lines.joined(batch.lines) + b"}") <= BODY_BYTES_MAX


def test_the_longest_line_makes_a_batch_alone_and_a_longer_one_is_named() -> None:
    around = len(lines.joined([b'{"x":""}']) + b"}")
    fits = b'{"x":"' + b"x" * (BODY_BYTES_MAX - around) + b'"}'
    assert len(lines.joined([fits]) + b"}") == BODY_BYTES_MAX
    for end in (b"\n", b"\r\n"):
        cut = batches(event(1) + end + fits + end + event(2) + end)
        assert [list(batch.numbers) for batch in cut] == [[1], [2], [3]]


@pytest.mark.parametrize(
    "line", [b'{"x":"' + b"x" * BODY_BYTES_MAX + b'"}', b" " * BODY_BYTES_MAX + event(2)]
)
def test_a_line_that_is_too_long_is_named_and_what_stands_before_it_goes(line: bytes) -> None:
    cutter = Cutter(io.BytesIO(file_of(event(1), line, event(3))), FRESH)
    assert cutter.next() is not None
    with pytest.raises(LineRefused) as refused:
        cutter.next()
    (fault,) = refused.value.faults
    assert (fault.line, fault.pointer) == (2, "")
    assert "4,194,304 bytes" in fault.message


def test_of_a_file_without_lines_only_so_much_is_read() -> None:
    class Endless(io.RawIOBase):
        read_bytes = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 < size <= BODY_BYTES_MAX
            self.read_bytes += size
            return b"x" * size

    endless = Endless()
    with pytest.raises(LineRefused):
        Cutter(endless, FRESH).next()
    assert endless.read_bytes <= BODY_BYTES_MAX


# --- Keys -----------------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_batches_of_the_same_lines_have_keys_of_their_own() -> None:
    same = file_of(*[event(1)] * 3_000)
    assert len(set(keys(same))) == 3
    book = Book()
    imported(same, book)
    assert len(book.events) == 3_000


@pytest.mark.promise("P5")
def test_the_same_file_has_the_same_keys_and_another_has_others() -> None:
    content = numbered(2_500)
    assert keys(content) == keys(content)
    assert not set(keys(content)) & set(keys(replaced(content, 1, event(0) + b"\n")))
    assert not set(keys(content)) & set(keys(content, replace(FRESH, name="again")))


def test_a_key_can_be_a_header() -> None:
    (key,) = keys(numbered(1), replace(FRESH, name="März, the second " * 50))
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= limits.IDEMPOTENCY_KEY_CHARACTERS_MAX


@pytest.mark.promise("P5")
def test_a_mended_line_leaves_every_key_as_it_was() -> None:
    content = numbered(3_000)
    assert keys(replaced(content, 1_042, event(7, mended=True) + b"\n")) == keys(content)


# --- Going on -------------------------------------------------------------------------------


@pytest.mark.promise("P5")
def test_what_is_acknowledged_is_not_sent_again() -> None:
    content, book = numbered(3_500), Book()
    work = Import(io.BytesIO(content), FRESH, lambda: None)
    for _ in range(2):
        batch = work.next()
        assert batch is not None
        work.acknowledge(batch, book.take(batch))

    again = imported(content, book, Standing.from_json(work.standing.to_json()))

    assert book.events == content.splitlines()
    assert (again.already_there, again.written) == (2_000, 1_500)
    assert again.standing.ids == (1, 3_500)
    assert again.standing.written_lines == [(1, 3_500)]
    assert imported(content, book, again.standing).written == 0


@pytest.mark.promise("P5")
@pytest.mark.parametrize("acknowledged", [(), (0,), (1,), (2,), (0, 2), (3, 1), (3, 2, 1, 0)])
@pytest.mark.parametrize("lost", [False, True], ids=["standing kept", "standing lost"])
def test_whatever_was_acknowledged_each_line_is_written_once(
    acknowledged: tuple[int, ...], lost: bool
) -> None:
    content, book = numbered(3_500), Book()
    work = Import(io.BytesIO(content), FRESH, lambda: None)
    given = [work.next() for _ in range(4)]
    stored = [book.take(batch) for batch in given if batch]
    for index in acknowledged:
        batch = given[index]
        assert batch is not None
        work.acknowledge(batch, stored[index])

    standing = FRESH if lost else Standing.from_json(work.standing.to_json())
    again = imported(content, book, standing)

    assert sorted(book.events) == sorted(content.splitlines())
    assert again.already_there == 3_500
    assert again.standing.events_written == 3_500
    assert again.standing.ahead == ()


@pytest.mark.promise("P5")
def test_a_file_that_grew_goes_on_where_it_ended() -> None:
    content, book = numbered(1_700), Book()
    first = imported(content[: len(numbered(1_300))], book)
    second = imported(content, book, first.standing)
    assert book.events == content.splitlines()
    assert (second.already_there, second.written) == (1_300, 400)


@pytest.mark.promise("P5")
def test_a_file_that_grew_never_writes_its_old_end_again_under_another_key() -> None:
    before, after = keys(numbered(1_300)), keys(numbered(1_700))
    assert after == before  # so that the service sees other content under the same key: 422


@pytest.mark.parametrize("number", [1, 500, 1_000])
def test_a_change_in_what_is_written_is_noticed(number: int) -> None:
    content, book = numbered(2_500), Book()
    work = Import(io.BytesIO(content), FRESH, lambda: None)
    batch = work.next()
    assert batch is not None
    work.acknowledge(batch, book.take(batch))
    changed = replaced(content, number, event(0) + b"\n")
    with pytest.raises(FileChanged) as noticed:
        Import(io.BytesIO(changed), work.standing, lambda: None)
    assert (noticed.value.first_line, noticed.value.last_line) == (1, 1_000)
    with pytest.raises(FileChanged):
        Import(io.BytesIO(content[:100]), work.standing, lambda: None)


@pytest.fixture
def ahead() -> tuple[bytes, Book, Standing]:
    """An import of 3,500 lines whose second batch was refused while the third was written."""
    content, book = numbered(3_500), Book()
    work = Import(io.BytesIO(content), FRESH, lambda: None)
    first, _, third = work.next(), work.next(), work.next()
    assert first
    assert third
    for batch in (third, first):
        work.acknowledge(batch, book.take(batch))
    return content, book, work.standing


@pytest.mark.promise("P5")
@pytest.mark.parametrize("mended", [event(7, mended="x" * 2_000) + b"\n", b"\n"])
def test_what_was_written_ahead_stays_when_a_line_before_it_is_mended(
    ahead: tuple[bytes, Book, Standing], mended: bytes
) -> None:
    content, book, standing = ahead
    assert standing.written_lines == [(1, 1_000), (2_001, 3_000)]
    content = replaced(content, 1_042, mended)
    check_ahead(io.BytesIO(content), standing)
    again = imported(content, book, standing)
    assert sorted(book.events) == sorted(filter(None, content.splitlines()))
    assert again.already_there == 2_000
    assert again.standing.ahead == ()


@pytest.mark.promise("P5")
@pytest.mark.parametrize("mended", [event(7) + b"\n" + event(8) + b"\n", b""])
def test_a_line_put_in_or_taken_out_before_what_is_written_is_noticed(
    ahead: tuple[bytes, Book, Standing], mended: bytes
) -> None:
    content, book, standing = ahead
    content = replaced(content, 1_042, mended)
    with pytest.raises(FileChanged) as noticed:
        check_ahead(io.BytesIO(content), standing)
    assert noticed.value.first_line == 2_001
    # Standard input cannot be read twice; there it is noticed on the way.
    with pytest.raises(FileChanged):
        imported(content, book, standing)


def test_a_file_that_ends_before_what_is_written_is_noticed(
    ahead: tuple[bytes, Book, Standing],
) -> None:
    _, book, standing = ahead
    for check in (
        lambda: check_ahead(io.BytesIO(numbered(1_500)), standing),
        lambda: imported(numbered(1_500), book, standing),
    ):
        with pytest.raises(FileChanged):
            check()


# --- What is kept ---------------------------------------------------------------------------


def test_a_standing_is_read_as_it_was_written() -> None:
    span = Span(first_line=5, last_line=6, sha256="ab", events=2, first_id=9, last_id=10)
    standing = replace(FRESH, name="ü", lines=3, size_bytes=70, events=3, ahead=(span,))
    assert Standing.from_json(standing.to_json()) == standing


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"counterfoil_import": 2}',
        b'{"counterfoil_import": 1}',
        FRESH.to_json().replace(b'"lines":0', b'"lines":"0"'),
        FRESH.to_json().replace(b'"ahead":[]', b'"ahead":[{}]'),
        FRESH.to_json().replace(b'"ahead":[]', b'"ahead":[1]'),
        FRESH.to_json()[:-20],
        numbered(1),
    ],
)
def test_what_is_no_standing_is_not_taken_for_one(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, it is no progress
        Standing.from_json(text)


# --- Refusals -------------------------------------------------------------------------------


def test_a_refusal_names_the_lines_of_the_file() -> None:
    content = b"\n\n" + replaced(numbered(50), 17, b"\n")
    (batch,) = batches(content)
    refusal = InvalidRequestError(
        status_code=422,
        errors=(
            FieldError("/events/0/payload/amount", "Too long."),
            FieldError("/events/16", "Not this."),
            FieldError("/events/99/tags", "No such place."),
            FieldError("", "Something else."),
        ),
    )
    assert batch.faults_of(refusal) == [
        LineFault(3, "/payload/amount", "Too long."),
        LineFault(20, "", "Not this."),
        LineFault(1, "/events/99/tags", "No such place."),
        LineFault(1, "", "Something else."),
    ]
    assert batch.faults_of(InvalidRequestError(status_code=400, detail="Odd.")) == [
        LineFault(1, "", "Odd.")
    ]
    assert batch.faults_of(UnsendableValue("No object.", "/events/1")) == [
        LineFault(4, "", "No object.")
    ]


def test_a_file_can_be_looked_over_without_the_service() -> None:
    (batch,) = batches(
        file_of(
            event(1),
            b"{",
            b'{"agent_name": 1, "event_type": "t", "payload": {}, "tag~/s": []}',
            b'{"payload": [], "caused_by": [1], "context": {}, "tags": ["a:b"]}',
        )
    )
    assert [(line, pointer) for line, pointer, _ in batch.looked_over()] == [
        (2, ""),
        (3, "/agent_name"),
        (3, "/tag~0~1s"),
        (4, "/agent_name"),
        (4, "/event_type"),
        (4, "/payload"),
    ]


def test_the_fields_that_are_known_are_those_that_the_service_takes() -> None:
    from counterfoil.server.log.model import NewEvent

    assert set(lines._FIELDS) == set(NewEvent.model_fields)
    required = {name for name, each in NewEvent.model_fields.items() if each.is_required()}
    assert set(lines._REQUIRED) == required


def test_the_size_that_is_reckoned_is_the_size_that_is_sent() -> None:
    three = [event(1), event(22), event(333)]
    reckoned = lines.BODY_BYTES_AROUND + sum(map(lines.size_in_body, three))
    assert reckoned == len(lines.joined(three) + b"}")
