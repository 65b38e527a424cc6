"""Two tenants write and follow at once: not one event crosses, and neither has a gap (P7)."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tests.support.cluster import Cluster
from tests.support.gates import opened_book
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import running_service

pytestmark = [pytest.mark.anyio, pytest.mark.promise("P2", "P7"), pytest.mark.timeout(120)]

CLIENTS = 64
FOLLOWERS = 8
SECONDS = 30.0


async def test_64_clients_of_two_tenants_for_half_a_minute(cluster: Cluster) -> None:
    """Through two processes. Each event says whose it is; each follower reads to its head."""
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as one,
        running_service(database.url, api_key=BOOTSTRAP) as two,
        holder_of(one) as operator,
    ):
        tenants = {name: operator.tenant(name) for name in ("left", "right")}
        keys = {
            name: admin.made(kind="agent", name="a", rate_per_second=100_000, rate_burst=1_000_000)
            for name, admin in tenants.items()
        }
        urls = (one.url, two.url)
        stored: dict[str, list[int]] = {name: [] for name in tenants}
        followed: dict[str, list[list[int]]] = {name: [] for name in tenants}
        loop = asyncio.get_running_loop()
        end = loop.time() + SECONDS

        async def write(client: httpx2.AsyncClient, n: int) -> None:
            name = ("left", "right")[n % 2]
            event = {"agent_name": "a", "event_type": "t", "payload": {"whose": name}}
            while loop.time() < end:
                answer = await client.post(
                    f"{urls[n // 2 % 2]}/events", json=event, headers=bearer(keys[name])
                )
                assert answer.status_code == 201, answer.text
                stored[name].append(answer.json()["id"])

        async def follow(client: httpx2.AsyncClient, n: int, heads: dict[str, int]) -> None:
            name = ("left", "right")[n % 2]
            seen: list[int] = []
            followed[name].append(seen)
            async with client.stream(
                "GET",
                f"{urls[n // 2 % 2]}/events/stream",
                params={"after": 0, "type": "t"},
                headers=bearer(keys[name]),
            ) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        event: dict[str, Any] = json.loads(line[6:])
                        assert event["payload"] == {"whose": name}
                        seen.append(event["id"])
                    if name in heads and seen and seen[-1] >= heads[name]:
                        return

        async with httpx2.AsyncClient(timeout=30, limits=httpx2.Limits()) as client:
            heads: dict[str, int] = {}
            followers = [asyncio.create_task(follow(client, n, heads)) for n in range(FOLLOWERS)]
            await asyncio.gather(*(write(client, n) for n in range(CLIENTS)))
            heads |= {name: max(ids) for name, ids in stored.items()}
            # One more of each, so that everybody hears of the end.
            for name, key in keys.items():
                event = {"agent_name": "a", "event_type": "t", "payload": {"whose": name}}
                answer = await client.post(f"{urls[0]}/events", json=event, headers=bearer(key))
                stored[name].append(answer.json()["id"])
            await asyncio.wait_for(asyncio.gather(*followers), 30)
        async with opened_book(database.url) as book:
            rows = await book.rows(
                "select tenant_id, count(*), max(position), "
                "count(*) filter (where payload ->> 'whose' is distinct from b.name "
                "and event_type = 't') from counterfoil.events e join counterfoil.books b "
                "using (tenant_id) where tenant_id > 1 group by tenant_id order by 1"
            )
    assert [(count, crossed) for _, count, head, crossed in rows] == [
        (head, 0) for _, _, head, _ in rows
    ]
    for name, ids in stored.items():
        assert len(ids) == len(set(ids)) > CLIENTS
        for seen in followed[name]:
            assert seen == sorted(ids)[: len(seen)]
            assert len(seen) >= len(ids) - 1


def bearer(holder: Holder) -> dict[str, str]:
    return {"Authorization": f"Bearer {holder.text}"}
