"""Events that are JSON already: sent byte for byte, and never more than one in a line."""

import json

import pytest

from counterfoil import Condition, Counterfoil, QueryItem, UnsendableValue
from counterfoil.client.lines import read_object
from tests.unit.client.simulated_book import SimulatedBook

EVENT = b'{"agent_name": "a", "event_type": "t", "payload": {"amount": 12.30, "n": 1e2}}'


def test_lines_are_sent_byte_for_byte(cf: Counterfoil, book: SimulatedBook) -> None:
    stored = cf.events.append_lines([EVENT + b"\r\n", b" " + EVENT])
    assert stored.ids == (1, 2)
    (received,) = book.received
    assert received.path == "/events/batch"
    assert received.body == b'{"events":[' + EVENT + b"," + EVENT + b"]}"


def test_lines_go_under_a_condition_and_a_key(cf: Counterfoil, book: SimulatedBook) -> None:
    condition = Condition(QueryItem(types="flag"), after=0)
    cf.events.append_lines([EVENT], condition=condition, idempotency_key="k")
    again = cf.events.append_lines([EVENT], condition=condition, idempotency_key="k")
    assert again.replayed
    received = book.received[0]
    assert received.headers["Idempotency-Key"] == "k"
    assert json.loads(received.body)["condition"] == {"fail_if": [{"types": ["flag"]}], "after": 0}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": 1}], "x": [{"b": 2}', "more follows after its object, at column 9"),
        (EVENT + b"," + EVENT, "more follows after its object"),
        (EVENT + EVENT, "more follows after its object"),
        (b'{"a": 1}], "condition": {"fail_if": [{}]}, "y": [{}', "more follows"),
        (b'{"a": [1', "it is not JSON: expecting ',' delimiter at column 9"),
        (b'{"a": "x', "it is not JSON: unterminated string starting at column 7"),
        (b"{", "it is not JSON"),
        (b"", "it is not JSON: expecting value at column 1"),
        (b"[1]", "no object: it begins with ["),
        (b'"{}"', "no object"),
        (b"7", "no object"),
        (b'{"a": NaN}', "NaN is no number that JSON has"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b"agent_name,event_type", "it is not JSON"),
        (b'\xff\xfe{\x00"\x00', "not UTF-8: byte 1 cannot be read"),
        (b'{"a": "\xc3', "not UTF-8: byte 8"),
        (b'{"a":' + b"[" * 200_000, "nested too deeply"),
        (b'{"a": "\x01"}', "it is not JSON: invalid control character"),
        (b"\x0b{}", "it is not JSON"),
    ],
)
def test_a_line_is_one_object_and_cannot_break_out(
    cf: Counterfoil, book: SimulatedBook, line: bytes, why: str
) -> None:
    with pytest.raises(UnsendableValue) as refused:
        cf.events.append_lines([EVENT, line])
    assert refused.value.pointer == "/events/1"
    assert why in refused.value.reason
    assert book.received == []


@pytest.mark.parametrize("number", [b"9" * 10_000, b"1e999999999", b"0.1", b"-0", b"1E+2"])
def test_numbers_are_nobodys_to_read_here(number: bytes) -> None:
    assert set(read_object(b'{"n": ' + number + b"}")) == {"n"}


def is_one_object(line: bytes) -> bool:
    try:
        read_object(line)
    except ValueError:
        return False
    return True


@pytest.mark.promise("P13")
@pytest.mark.parametrize("between", [b",", b"", b" ", b"], ", b"\n"])
def test_what_follows_an_event_on_its_line_is_seen(between: bytes) -> None:
    assert is_one_object(EVENT)
    assert not is_one_object(EVENT + between + EVENT)


def test_two_lines_cannot_make_up_for_each_other(cf: Counterfoil, book: SimulatedBook) -> None:
    with pytest.raises(UnsendableValue):
        cf.events.append_lines([b'{"a": [1', b'2]}, {"b": 1}'])
    assert book.received == []
