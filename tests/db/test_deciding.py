"""Deciding in this process, with what goes wrong at a moment of the test's own choice."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from counterfoil.server.access.principal import Principal
from counterfoil.server.access.scopes import ALL
from counterfoil.server.brake.operations import Brake
from counterfoil.server.core import limits
from counterfoil.server.core.errors import OutcomeUnknown, PolicyNotActive, ReadTooSlow, TooMany
from counterfoil.server.core.settings import Settings
from counterfoil.server.decisions.model import Activation, NewDecision, Retirement
from counterfoil.server.decisions.operations import Decisions
from counterfoil.server.event_types.operations import EventTypes
from counterfoil.server.log.operations import Log
from tests.support.appends import append_request
from tests.support.cluster import Database
from tests.support.decisions import DEBTS, INCOME, POLICY, policy, stricter

pytestmark = pytest.mark.promise("P9")

WHY = "A test."
CALLER = Principal("anonymous", 1, "default", None, None, ALL)


def in_this_process(database: Database, work: Callable[[Log, Decisions], Awaitable[None]]) -> None:
    """Have the parts of a service in this process, with a policy in force and signals."""

    async def run() -> None:
        log = await Log.open(Settings.from_environment(database_url=database.url))
        try:
            decisions = Decisions(log, EventTypes(log), Brake(log))
            await decisions.policies.draft(1, POLICY, policy(), by="person:ada", key=None)
            await activate(decisions, 1)
            for event_type in (DEBTS, INCOME):
                body = {
                    "agent_name": "risk_agent",
                    "event_type": event_type,
                    "payload": {"monthly_minor": 100},
                    "tags": ["application:1"],
                }
                await log.append(1, append_request(body))
            await work(log, decisions)
        finally:
            await log.close()

    asyncio.run(run())


async def activate(decisions: Decisions, version: int) -> None:
    await decisions.policies.activate(
        1, POLICY, version, Activation(reason=WHY), by="person:grace", key=None
    )


async def too_slow(*_arguments: Any) -> Any:
    raise ReadTooSlow("Too slow.")


def asked(**more: Any) -> NewDecision:
    about = {"policy": POLICY, "subject": "application:1", "agent_name": "policy_agent"}
    return NewDecision.model_validate({**about, **more})


def test_what_is_decided_is_answered_though_its_explanation_cannot_be_read(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_log: Log, decisions: Decisions) -> None:
        monkeypatch.setattr(decisions.found, "explanation_of", too_slow)
        decided = await decisions.decide(CALLER, asked(explain=True), key=None, traceparent=None)
        told = json.loads(decided.text)
        assert told["id"] == decided.id
        assert "explanation" not in told

    in_this_process(database, work)


@pytest.mark.promise("P5")
def test_what_was_decided_and_cannot_be_read_now_is_not_said_to_be_undecided(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_log: Log, decisions: Decisions) -> None:
        await decisions.decide(CALLER, asked(), key="k", traceparent=None)
        told = decisions.found.told
        looks: list[int] = []

        async def once(tenant_id: int, decision_id: int) -> Any:
            # That one stands is seen; that it is the answer, too, cannot be read.
            looks.append(decision_id)
            return await (told if len(looks) == 1 else too_slow)(tenant_id, decision_id)

        monkeypatch.setattr(decisions.found, "told", once)
        with pytest.raises(OutcomeUnknown, match="decided before"):
            await decisions.decide(CALLER, asked(), key="k", traceparent=None)

    in_this_process(database, work)


def test_a_policy_is_retired_also_where_another_version_comes_into_force_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(log: Log, decisions: Decisions) -> None:
        policies = decisions.policies
        await policies.draft(1, POLICY, stricter(), by="person:ada", key=None)
        append = log.append
        interfered: list[bool] = []

        async def after_another(tenant_id: int, request: Any) -> Any:
            if not interfered:
                interfered.append(True)
                await activate(decisions, 2)
            return await append(tenant_id, request)

        monkeypatch.setattr(log, "append", after_another)
        made = await policies.retire(1, POLICY, Retirement(reason=WHY), by="person:grace", key=None)
        assert json.loads(made.text)["version"] == 2
        with pytest.raises(PolicyNotActive):
            await decisions.decide(CALLER, asked(), key=None, traceparent=None)

    in_this_process(database, work)


def test_a_policy_has_so_many_versions_and_no_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_log: Log, decisions: Decisions) -> None:
        monkeypatch.setattr(limits, "POLICY_VERSIONS_MAX", 1)
        with pytest.raises(TooMany, match="at most 1 versions"):
            await decisions.policies.draft(1, POLICY, stricter(), by="person:ada", key=None)
        # The same once more is no version of its own.
        same = await decisions.policies.draft(1, POLICY, policy(), by="person:ada", key=None)
        assert (json.loads(same.text)["version"], same.created) == (1, False)

    in_this_process(database, work)
