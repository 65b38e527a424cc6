"""Books of the demo written by hand: a good one, and the bad ones that a check must find.

Each bad book is the good one with one plausible fault planted in it, and names the rule
that must find it and the position that must be named.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from counterfoil.cli.demo.vocabulary import (
    APPROVED,
    APPROVER,
    CLEARED,
    DECLINED,
    FLAGGED,
    INVESTIGATOR,
    POSTED,
    POSTER,
    SCORED,
    SCORER,
)

Event = dict[str, Any]
Book = list[Event]

RUN = "r1"
CUSTOMER = "cust_1"
START = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def event(
    position: int,
    agent: str,
    event_type: str,
    transaction: str,
    causes: tuple[int, ...] = (),
    **payload: Any,
) -> Event:
    moment = START + timedelta(milliseconds=position)
    return {
        "id": position,
        "agent_name": agent,
        "event_type": event_type,
        "payload": {
            "run_id": RUN,
            "transaction_id": transaction,
            "customer_id": CUSTOMER,
            **payload,
        },
        "tags": [f"customer:{CUSTOMER}", f"run:{RUN}", f"transaction:{transaction}"],
        "created_at": moment.isoformat(timespec="microseconds"),
        "occurred_at": None,
        "caused_by": list(causes),
        "context": None,
    }


def good_book() -> Book:
    """Three transactions of one customer: approved, declined after a late flag, declined at once."""
    return [
        event(1, POSTER, POSTED, "tx_a"),
        event(2, POSTER, POSTED, "tx_b"),
        event(3, SCORER, SCORED, "tx_a", (1,)),
        event(4, POSTER, POSTED, "tx_c"),
        event(5, INVESTIGATOR, CLEARED, "tx_a", (3,)),
        event(6, SCORER, SCORED, "tx_b", (2,)),
        event(7, APPROVER, APPROVED, "tx_a", (5,), read_head=6),
        event(8, INVESTIGATOR, CLEARED, "tx_b", (6,)),
        event(9, SCORER, SCORED, "tx_c", (4,)),
        event(10, INVESTIGATOR, FLAGGED, "tx_b", (8,)),
        event(11, APPROVER, DECLINED, "tx_b", (10,)),
        event(12, INVESTIGATOR, FLAGGED, "tx_c", (9,)),
        event(13, APPROVER, DECLINED, "tx_c", (12,)),
    ]


@dataclass(frozen=True)
class BadBook:
    name: str
    rule: str
    position: int
    plant: Callable[[Book], Book]

    def events(self) -> Book:
        return self.plant(good_book())


def _without(position: int) -> Callable[[Book], Book]:
    return lambda book: [each for each in book if each["id"] != position]


def _repeated(position: int) -> Callable[[Book], Book]:
    return lambda book: book[:position] + book[position - 1 :]


def _swapped(position: int) -> Callable[[Book], Book]:
    return lambda book: [
        *book[: position - 1],
        book[position],
        book[position - 1],
        *book[position + 1 :],
    ]


def _changed(position: int, **members: Any) -> Callable[[Book], Book]:
    return lambda book: [{**each, **members} if each["id"] == position else each for each in book]


def _payload(position: int, **members: Any) -> Callable[[Book], Book]:
    return lambda book: [
        {**each, "payload": {**each["payload"], **members}} if each["id"] == position else each
        for each in book
    ]


def _retold(position: int, *told: Any, **payload: Any) -> Callable[[Book], Book]:
    """Replace the event at a position by another one, written by ``event``."""
    return lambda book: [
        event(position, *told, **payload) if each["id"] == position else each for each in book
    ]


def _added(*told: Any, **payload: Any) -> Callable[[Book], Book]:
    return lambda book: [*book, event(len(book) + 1, *told, **payload)]


def _all(*changes: Callable[[Book], Book]) -> Callable[[Book], Book]:
    def changed(book: Book) -> Book:
        for change in changes:
            book = change(book)
        return book

    return changed


def _posted_late(book: Book) -> Book:
    """The score of tx_a at 3 now stands before its posting, which moves to 14."""
    return [
        event(1, POSTER, POSTED, "tx_d"),
        *book[1:],
        event(14, POSTER, POSTED, "tx_a"),
    ]


def _strangers(book: Book) -> Book:
    return [{**each, "payload": {"note": "nothing of the demo"}} for each in book]


BAD_BOOKS = (
    BadBook("the first is missing", "positions", 2, _without(1)),
    BadBook("one in the middle is missing", "positions", 8, _without(7)),
    BadBook("one is there twice", "positions", 6, _repeated(6)),
    BadBook("two are out of order", "positions", 6, _swapped(6)),
    BadBook(
        "time runs backwards",
        "time",
        9,
        _changed(9, created_at=START.isoformat(timespec="microseconds")),
    ),
    BadBook("a time has no offset", "shape", 9, _changed(9, created_at="2026-01-05T08:00:00")),
    BadBook("a time is none", "shape", 9, _changed(9, created_at=None)),
    BadBook("a payload is no object", "shape", 9, _changed(9, payload=[])),
    BadBook("causes are no positions", "shape", 9, _changed(9, caused_by=["4"])),
    BadBook("posted twice", "posted", 14, _added(POSTER, POSTED, "tx_a")),
    BadBook("never posted", "posted", 9, _retold(4, POSTER, POSTED, "tx_d")),
    BadBook("scored before it is posted", "posted", 3, _posted_late),
    BadBook("scored twice", "scored", 14, _added(SCORER, SCORED, "tx_a", (1,))),
    BadBook("never scored", "scored", 1, _retold(3, SCORER, SCORED, "tx_d", (1,))),
    BadBook("judged twice", "judged", 14, _added(INVESTIGATOR, CLEARED, "tx_a", (3,))),
    BadBook("flagged and cleared", "judged", 14, _added(INVESTIGATOR, FLAGGED, "tx_a", (3,))),
    BadBook("never judged", "judged", 1, _changed(5, agent_name="somebody_else")),
    BadBook("judged on nothing", "judged", 1, _changed(5, caused_by=[1])),
    BadBook(
        "scored out of order",
        "order",
        9,
        _all(
            _retold(6, SCORER, SCORED, "tx_c", (4,)),
            _retold(8, INVESTIGATOR, FLAGGED, "tx_c", (6,)),
            _retold(9, SCORER, SCORED, "tx_b", (2,)),
            _retold(10, INVESTIGATOR, FLAGGED, "tx_b", (9,)),
            _retold(12, INVESTIGATOR, FLAGGED, "tx_c", (8,)),
        ),
    ),
    BadBook(
        "judged out of order",
        "order",
        10,
        _all(
            _retold(8, SCORER, SCORED, "tx_c", (4,)),
            _retold(9, INVESTIGATOR, FLAGGED, "tx_c", (8,)),
            _retold(10, INVESTIGATOR, FLAGGED, "tx_b", (6,)),
            _retold(12, APPROVER, DECLINED, "tx_c", (9,)),
            _without(13),
        ),
    ),
    BadBook(
        "approved twice", "decided", 14, _added(APPROVER, APPROVED, "tx_a", (5,), read_head=13)
    ),
    BadBook("approved and declined", "decided", 14, _added(APPROVER, DECLINED, "tx_a", (5,))),
    BadBook("never decided", "decided", 1, _retold(7, POSTER, POSTED, "tx_d")),
    BadBook(
        "approved above a flag that its author had not read",
        "late-flag",
        11,
        _retold(11, APPROVER, APPROVED, "tx_b", (8,), read_head=9),
    ),
    BadBook(
        "approved above a flag that its author had read",
        "late-flag",
        11,
        _retold(11, APPROVER, APPROVED, "tx_b", (8,), read_head=10),
    ),
    BadBook(
        "approved without saying what was read",
        "seen",
        7,
        _retold(7, APPROVER, APPROVED, "tx_a", (5,)),
    ),
    BadBook("read_head is no number", "seen", 7, _payload(7, read_head="6")),
    BadBook("read_head lies ahead", "seen", 7, _payload(7, read_head=7)),
    BadBook("read less than it rests on", "seen", 7, _payload(7, read_head=4)),
    BadBook(
        "declined without a flag",
        "grounds",
        7,
        _retold(7, APPROVER, DECLINED, "tx_a", (5,)),
    ),
    BadBook("rests on nothing", "causes", 5, _changed(5, caused_by=[])),
    BadBook("rests on itself", "causes", 5, _changed(5, caused_by=[5])),
    BadBook("rests on what lies ahead", "causes", 5, _changed(5, caused_by=[6])),
    BadBook("rests on another transaction", "causes", 5, _changed(5, caused_by=[2])),
    BadBook("not of the demo", "posted", 0, _strangers),
)
