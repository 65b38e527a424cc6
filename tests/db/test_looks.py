"""Looks that share a statement: each is answered with what it asked about, and nothing else."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from counterfoil.server.core.errors import ReadTooSlow
from counterfoil.server.core.settings import Settings
from counterfoil.server.decisions.looking import Looks
from counterfoil.server.decisions.policy import Policy
from counterfoil.server.decisions.record import basis_of
from counterfoil.server.decisions.store import DecisionStore, Look, Seen
from counterfoil.server.log.operations import Log
from tests.db.book import append, event, request
from tests.support.cluster import Database
from tests.support.decisions import DEBTS, POLICY, policy

SUBJECTS = tuple(f"application:{number}" for number in range(5))


@pytest.mark.promise("P9")
def test_each_of_several_looks_sees_its_own_subject(
    database: Database, owner: psycopg.Connection
) -> None:
    append(owner, *[request(event("risk", DEBTS, {"monthly_minor": 1}, [s])) for s in SUBJECTS])
    judged = Policy.model_validate(policy())

    async def looked() -> list[Seen]:
        log = await Log.open(Settings.from_environment(database_url=database.url))
        try:
            looks = Looks(DecisionStore(log.reader))
            # The first runs alone; those that come meanwhile share the next statement.
            asked = [Look.of(POLICY, s, basis_of(POLICY, judged, s)) for s in SUBJECTS]
            return await asyncio.gather(*[looks.look(1, one) for one in asked])
        finally:
            await log.close()

    seen = asyncio.run(looked())
    assert [[one.event_id for one in each.signals] for each in seen] == [[1], [2], [3], [4], [5]]


@pytest.mark.promise("P9")
def test_a_look_that_is_too_slow_is_refused_alone(
    database: Database, owner: psycopg.Connection
) -> None:
    append(owner, *[request(event("risk", DEBTS, {"monthly_minor": 1}, [s])) for s in SUBJECTS])
    judged = Policy.model_validate(policy())
    asked = [Look.of(POLICY, s, basis_of(POLICY, judged, s)) for s in SUBJECTS]

    class SlowAboutOne(DecisionStore):
        async def signals(self, tenant_id: int, looks: Sequence[Look]) -> list[Seen]:
            if asked[3] in looks:
                raise ReadTooSlow("Too slow.")
            return await super().signals(tenant_id, looks)

    async def looked() -> list[Seen | BaseException]:
        log = await Log.open(Settings.from_environment(database_url=database.url))
        try:
            looks = Looks(SlowAboutOne(log.reader))
            return await asyncio.gather(
                *[looks.look(1, one) for one in asked], return_exceptions=True
            )
        finally:
            await log.close()

    seen = asyncio.run(looked())
    assert isinstance(seen.pop(3), ReadTooSlow)
    found = [[one.event_id for one in each.signals] for each in seen if isinstance(each, Seen)]
    assert found == [[1], [2], [3], [5]]
