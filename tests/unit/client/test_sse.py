"""The event-stream format, whatever chunks it comes in."""

import pytest

from counterfoil.client import sse
from counterfoil.client.sse import EventStreamParser, Message

STREAM = (
    ": heartbeat\r\nid: b.1\r\n\r\n"
    'id: b.2\ndata: {"reason":\ndata: "überzählig €"}\n\n'
    "retry: 250\r\r"
    "event: other\nid:b.3\ndata:x\nunknown: y\nlonely\n\n"
    ":\n\n"
    "data\n\n"
    "id: b.4\ndata: cut off"
).encode()

MESSAGES = [
    Message("b.1", ""),
    Message("b.2", '{"reason":\n"überzählig €"}'),
    Message("b.2", "", retry_milliseconds=250),
    Message("b.3", "x"),
    Message("b.3", ""),
]


def read(*chunks: bytes) -> list[Message]:
    parser = EventStreamParser()
    return [message for chunk in chunks for message in parser.feed(chunk)]


def test_all_line_ends_comments_and_fields_are_understood() -> None:
    assert read(STREAM) == MESSAGES


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_chunks_of_any_size_give_the_same_messages(size: int) -> None:
    assert read(*(STREAM[i : i + size] for i in range(0, len(STREAM), size))) == MESSAGES


def test_every_place_to_cut_in_two_gives_the_same_messages() -> None:
    for cut in range(len(STREAM)):
        assert read(STREAM[:cut], b"", STREAM[cut:]) == MESSAGES


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read(b"\xef\xbb\xbfid: b.1\n\n") == [Message("b.1", "")]


def test_a_message_is_handed_out_as_soon_as_its_block_ends() -> None:
    assert read(b"id: b.1\r\r") == [Message("b.1", "")]


@pytest.mark.parametrize("line", [b"retry: -1", b"retry: 1_0", b"retry: x", b"id: a\0b"])
def test_a_field_that_makes_no_sense_is_left_out(line: bytes) -> None:
    assert read(line + b"\n\n") == []


def test_bytes_that_are_not_utf_8_are_an_error_and_not_replaced() -> None:
    with pytest.raises(ValueError, match="utf-8"):
        read(b"data: \xff\n\n")


def test_a_message_without_an_end_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MESSAGE_BYTES_MAX", 100)
    assert len(read(*[b"data: " + b"x" * 80 + b"\n\n"] * 5)) == 5
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        read(*[b"data: xxxxxxxxxx\n"] * 7)
