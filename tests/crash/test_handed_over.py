"""kill -9 of holders, of services and of PostgreSQL, at random, under load: nothing is lost.

For ``COUNTERFOIL_TEST_CRASH_SECONDS``; a failure names its seed, which
``COUNTERFOIL_TEST_CRASH_SEED`` takes.
"""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from counterfoil.server.db.embedded import EmbeddedPostgres
from tests.crash.killing import kill_all
from tests.support.appends import Caller, calling
from tests.support.cluster import Cluster
from tests.support.gates import Book, opened_book
from tests.support.service import ROOT, Service, start_service
from tests.support.starting import Start
from tests.support.waiting import eventually

SECONDS: Final = float(os.environ.get("COUNTERFOIL_TEST_CRASH_SECONDS", "20"))
"""For how long it is killed; 60 before a release."""

SEED: Final = int(os.environ.get("COUNTERFOIL_TEST_CRASH_SEED", "0")) or random.randrange(2**32)

AFTER_SECONDS: Final = 90.0
"""How long what is left may take: leases run out, and everything starts anew."""

HOLDERS: Final = 6

WRITERS: Final = 4

KEYS: Final = 12
"""Customers: as few as that wait for each other."""

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.xdist_group("crash"),
    pytest.mark.timeout(SECONDS + AFTER_SECONDS + 60),
]


def free_port() -> int:
    """A port that a service can have again after it was killed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


_KINDS: Final = ("holder", "service", "postgresql")


class World:
    """Two services, some holders, and who kills them."""

    def __init__(self, url: str, folder: Path, server: EmbeddedPostgres) -> None:
        self.random = random.Random(SEED)
        self.url = url
        self.folder = folder
        self.server = server
        self.ports = [free_port(), free_port()]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.services: list[Service] = []
        self.holders: list[subprocess.Popen[bytes]] = []
        self.started = 0
        self.killed: dict[str, int] = defaultdict(int)
        # Each kind once, whatever the seed and the machine; then as chance has it.
        self.first_killed = self.random.sample(_KINDS, len(_KINDS))

    def start_services(self) -> None:
        """Start the services. PostgreSQL runs."""
        self.services = [self._service(nth) for nth in range(len(self.ports))]
        for service in self.services:
            service.wait_until_ready()

    def start_holders(self) -> None:
        """Start the holders of a consumer that there is."""
        self.holders = [self._holder() for _ in range(HOLDERS)]

    def _service(self, nth: int) -> Service:
        self.started += 1
        service = start_service(
            self.url, self.folder / f"service-{self.started}.log", port=self.ports[nth]
        )
        service.wait_until_listening()
        return service

    def _holder(self) -> subprocess.Popen[bytes]:
        self.started += 1
        name, seed = f"holder-{self.started}", str(self.random.randrange(2**32))
        arguments = ["-m", "tests.support.holder_process", name, seed, *self.urls]
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=log)

    def _next_victim(self) -> str:
        if self.first_killed:
            return self.first_killed.pop()
        return self.random.choices(_KINDS, (5, 3, 1))[0]

    def kill_something(self) -> None:
        """Kill a holder, a service or PostgreSQL, and start it anew."""
        match self._next_victim():
            case "holder":
                nth = self.random.randrange(HOLDERS)
                self.holders[nth].kill()
                self.holders[nth].wait()
                self.holders[nth] = self._holder()
                self.killed["holder"] += 1
            case "service":
                nth = self.random.randrange(len(self.services))
                self._end(self.services[nth])
                self.services[nth] = self._service(nth)
                self.killed["service"] += 1
            case _:
                kill_all(self.server)
                self.server.start()
                self.killed["postgresql"] += 1

    def _end(self, service: Service) -> None:
        service.kill()
        assert service.process.stdout is not None
        service.process.stdout.close()

    def check_holders(self) -> None:
        """None may have ended by itself: its log says why."""
        for holder in self.holders:
            assert holder.poll() is None, "\n".join(
                log.read_text() for log in self.folder.glob("holder-*.log")
            )

    def stop(self) -> None:
        """End everything."""
        for holder in self.holders:
            holder.kill()
            holder.wait()
        for service in self.services:
            self._end(service)

    @contextlib.asynccontextmanager
    async def callers(self) -> AsyncIterator[list[Caller]]:
        """Somebody at each service."""
        async with contextlib.AsyncExitStack() as stack:
            yield [await stack.enter_async_context(calling(url)) for url in self.urls]


async def write(callers: list[Caller], chance: random.Random, stop: asyncio.Event) -> int:
    """Append events until it is stopped, each until it is stored; how many."""
    written = 0
    while not stop.is_set():
        key = uuid.uuid4().hex
        customers = chance.sample(range(KEYS), chance.choice((0, 1, 1, 1, 2)))
        body = {
            "agent_name": "writer",
            "event_type": "paid",
            "payload": {"poisoned": chance.random() < 0.02},
            "tags": [f"customer:{customer}" for customer in customers],
        }
        while True:
            with contextlib.suppress(httpx2.TransportError):
                answer = await chance.choice(callers).append(body, key=key)
                if answer.status_code == 201:
                    written += 1
                    break
                assert answer.status_code == 503, answer.text
    return written


@pytest.mark.promise("P8", "P1", "P5")
async def test_whatever_is_killed_everything_is_done_once_and_in_order(
    server: EmbeddedPostgres, fragile: Cluster, start: Start[Any], tmp_path: Path
) -> None:
    with fragile.database() as database:
        world = World(database.url, tmp_path, server)
        try:
            await asyncio.to_thread(world.start_services)
            async with world.callers() as callers:
                made = await callers[0].client.put(
                    "/consumers/scorer",
                    json={
                        "query": [{"types": ["paid"]}],
                        "order_by": "customer",
                        "lease_seconds": 2,
                        "attempts_max": 5,
                        "backoff": {"initial_seconds": 0},
                    },
                )
                assert made.status_code == 201, made.text
                await asyncio.to_thread(world.start_holders)
                stop = asyncio.Event()
                writers = [
                    start(write(callers, random.Random(SEED + nth), stop)) for nth in range(WRITERS)
                ]
                ends = asyncio.get_running_loop().time() + SECONDS
                while asyncio.get_running_loop().time() < ends:
                    await asyncio.to_thread(world.kill_something)
                    await asyncio.wait(writers, timeout=world.random.uniform(0.1, 1.5))
                stop.set()
                written = sum(await asyncio.gather(*writers))

                async def finished() -> bool:
                    world.check_holders()
                    with contextlib.suppress(httpx2.TransportError):
                        answer = await callers[0].client.get("/consumers/scorer")
                        return answer.is_success and answer.json()["lag"]["events"] == 0
                    return False

                await eventually(finished, f"all to be done (seed {SEED})", AFTER_SECONDS)
        finally:
            await asyncio.to_thread(world.stop)
        async with opened_book(database.url) as book:
            await check(book, written)
    assert set(world.killed) == set(_KINDS), world.killed


async def check(book: Book, written: int) -> None:
    """Hold the book against what was to come of it."""
    paid = await book.rows(
        "select position, tags, payload -> 'poisoned' from counterfoil.events"
        " where event_type = 'paid' order by position"
    )
    assert len(paid) == written, SEED
    scored = await book.rows(
        "select (payload -> 'of')::bigint, payload ->> 'token' from counterfoil.events"
        " where event_type = 'scored' order by position"
    )
    aside = await book.rows("select position from counterfoil.dead_letters order by position")
    said = await book.rows(
        "select (payload -> 'event_id')::bigint from counterfoil.events"
        " where event_type = 'counterfoil.delivery_set_aside' order by 1"
    )
    assert await book.rows("select * from counterfoil.deliveries") == [], SEED
    assert await book.rows("select * from counterfoil.delivery_keys") == [], SEED

    assert said == aside, f"each is set aside once, and said to be (seed {SEED})"
    done = [of for of, _ in scored] + [position for (position,) in aside]
    assert sorted(done) == [position for position, _, _ in paid], f"each once (seed {SEED})"
    poisoned = {position for position, _, is_poisoned in paid if is_poisoned}
    assert poisoned <= {position for (position,) in aside}, SEED

    tags_of = {position: tags for position, tags, _ in paid}
    of_key: dict[str, list[int]] = defaultdict(list)
    for of, _ in scored:
        for tag in tags_of[of]:
            of_key[tag].append(of)
    for key, order in of_key.items():
        assert order == sorted(order), f"{key} out of order (seed {SEED})"
