"""How long the check of a condition takes, inside PostgreSQL and by itself.

Over HTTP a check disappears among all else that an append does, and group commit hides it
further. But it is done under the lock of all writers, so what one check takes is what it
may cost everybody.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg

from benchmarks.harness.figures import latency_figures
from benchmarks.harness.model import BenchmarkError
from counterfoil.server.core import limits
from counterfoil.server.db import sqlfile

CHECKS_AT_ONCE: Final = 100

WARM_UP_CHECKS: Final = 20
"""A session's first calls plan the statements of ``matching_v1``; the service's sessions
live long, and have that behind them."""

_SQL: Final = sqlfile.load("benchmarks.harness", "condition_check.sql")

Query = list[dict[str, list[str]]]


def measure(
    url: str,
    queries: Iterator[Query],
    seconds: float,
    *,
    after: int,
    up_to: int,
    found: int | None,
) -> dict[str, float]:
    """Check condition after condition for so long; returns the figures of one check.

    Args:
        url: the owner's: ``append_v1`` runs with its rights.
        queries: each ``fail_if`` in turn, without end.
        after: where each condition was read.
        up_to: the head that each is checked up to.
        found: how many events in the way each check must find; None: however many.

    Raises:
        BenchmarkError: a check found something else.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SQL["timer"])
        between = {"after": after, "up_to": up_to, "limit": limits.CONFLICTS_MAX}
        _run(connection, _take(queries, WARM_UP_CHECKS), between, found)
        milliseconds: list[float] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            milliseconds += _run(connection, _take(queries, CHECKS_AT_ONCE), between, found)
        row = connection.execute(
            _SQL["pages"], {"query": json.dumps(next(queries)), **between}
        ).fetchone()
    plan: dict[str, Any] = row[0][0]["Plan"] if row else {}
    return {
        **latency_figures(milliseconds),
        "checks": float(len(milliseconds)),
        "pages_looked_at": float(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]),
    }


def _run(
    connection: psycopg.Connection,
    queries: Sequence[Query],
    between: Mapping[str, int],
    found: int | None,
) -> list[float]:
    rows = connection.execute(
        _SQL["run"], {"queries": [json.dumps(query) for query in queries], **between}
    ).fetchall()
    strange = {count for _, count in rows if found is not None and count != found}
    if strange:
        raise BenchmarkError(f"A check found {strange} events in its way; {found} are there.")
    return [milliseconds for milliseconds, _ in rows]


def _take(queries: Iterator[Query], count: int) -> list[Query]:
    return [next(queries) for _ in range(count)]
