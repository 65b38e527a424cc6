"""Looks that share a statement: each is answered with what it asked about, and nothing else."""

import asyncio

import psycopg
import pytest

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
