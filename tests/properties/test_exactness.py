"""Payload values are kept exactly: what comes back is what was sent, digit for digit."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import example, given

from counterfoil.server.core.settings import Settings
from counterfoil.server.log.model import judge_append
from counterfoil.server.log.operations import Log
from tests.properties.documents import Json, expected, payloads, read, write
from tests.support.cluster import Cluster
from tests.support.examples import examples


@pytest.fixture(scope="module")
def running_log(cluster: Cluster) -> Iterator[tuple[asyncio.Runner, Log]]:
    """A log, and the loop that it lives in."""
    with cluster.database() as database, asyncio.Runner() as runner:
        log = runner.run(Log.open(Settings.from_environment(database_url=database.url)))
        yield runner, log
        runner.run(log.close())


@pytest.mark.promise("P3")
@examples(150)
@example({"": "", "\x7f\u2028😀": ["\\u0000", "\\", '"', "\n"], "nested": {"a": {"b": [[{}]]}}})
@given(payload=payloads)
def test_payload_comes_back_as_it_was(
    running_log: tuple[asyncio.Runner, Log], payload: dict[str, Json]
) -> None:
    runner, log = running_log
    body = f'{{"agent_name":"a","event_type":"t","payload":{write(payload)}}}'
    judged = judge_append(body.encode(), principal="p", key=None, traceparent=None)
    stored = runner.run(log.append(1, judged))
    found = runner.run(log.get(1, stored.first_position))
    assert read(found.events[0])["payload"] == expected(payload)
    (listed,) = runner.run(log.latest(1, "a", limit=1, before=None)).events
    assert read(listed)["payload"] == expected(payload)
