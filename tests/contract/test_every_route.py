"""Every route of the description, asked by everybody who must not get in.

A route that is added is asked by itself: what is called, and with what, comes from
``/openapi.json``. What a caller may do at all is said by the route (``x-needs``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import pytest
from pydantic import SecretStr

from counterfoil.server.app import create_app
from counterfoil.server.core.settings import Settings
from tests.contract.problems import assert_problem
from tests.support.cluster import Cluster
from tests.support.keys import BOOTSTRAP, Holder, holder_of, wait_until_refused
from tests.support.service import running_service

pytestmark = pytest.mark.promise("P7")

METHODS: Final = {"get", "post", "put", "patch", "delete"}
WRONG: Final = f"cf_live_{'a' * 16}_{'b' * 52}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the description, as its own examples make it."""

    method: str
    path: str
    needs: str
    body: Any

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"


def calls() -> Iterator[Call]:
    document = create_app(Settings(database_url=SecretStr("postgresql://nowhere"))).openapi()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if method in METHODS and operation["x-needs"] != "nothing":
                content = operation.get("requestBody", {}).get("content", {})
                examples = content.get("application/json", {}).get("examples", {})
                body = next((example["value"] for example in examples.values()), None)
                yield Call(method, _filled(path, operation), operation["x-needs"], body)


def _filled(path: str, operation: Mapping[str, Any]) -> str:
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            value = parameter.get("example", parameter["schema"].get("minimum", "x"))
            path = path.replace(f"{{{parameter['name']}}}", str(value))
    return path


CALLS: Final = [pytest.param(call, id=str(call)) for call in calls()]


class World:
    """A service with two tenants, and everybody who might call it."""

    def __init__(self, operator: Holder, database_url: str) -> None:
        self._database_url = database_url
        self.operator = operator
        self.agent = operator.made(kind="agent", name="fraud_agent")
        assert self.agent.append("fraud_agent", "flag_transaction").status_code == 201
        self.other_agent = operator.made(kind="agent", name="other_agent")
        self.auditor = operator.made(kind="auditor", name="auditor")
        self.nobody = Holder(operator.client)
        self.wrong = Holder(operator.client, WRONG)
        self.wrong_secret = Holder(operator.client, f"{self.agent.text[:-1]}a")
        if self.wrong_secret.text == self.agent.text:
            self.wrong_secret = Holder(operator.client, f"{self.agent.text[:-1]}b")
        self.revoked = operator.made(kind="agent", name="fraud_agent")
        operator.post(f"/keys/{self.revoked.key_id}/revoke", {"reason": "It was lost."})
        wait_until_refused(self.revoked)
        self.expired = operator.made(kind="agent", name="fraud_agent")
        with psycopg.connect(database_url, autocommit=True) as owner:
            owner.execute(
                "update counterfoil.keys set expires_at = clock_timestamp() - interval '1 second' "
                "where key_id = %s",
                [self.expired.key_id],
            )
        self.rival = operator.tenant("rival")
        self.rivals_agent = self.rival.made(kind="agent", name="fraud_agent")

    def stored(self) -> list[tuple[Any, ...]]:
        """All that is in the database, but for what the service tells of refusals and audits."""
        with psycopg.connect(self._database_url, autocommit=True) as owner:
            return owner.execute(
                """
                select 'events', tenant_id, count(*) from counterfoil.events
                where event_type not in ('counterfoil.access_refused', 'counterfoil.audit_read')
                group by tenant_id
                union all select 'keys', tenant_id, count(*) from counterfoil.keys
                          where revoked_at is null group by tenant_id
                union all select 'freezes', tenant_id, count(*) from counterfoil.freezes
                          group by tenant_id
                union all select 'types', tenant_id, count(*) from counterfoil.event_types
                          group by tenant_id
                union all select 'rules', tenant_id, max(position) from counterfoil.rules
                          group by tenant_id
                union all select 'books', tenant_id, 1 from counterfoil.books
                order by 1, 2
                """
            ).fetchall()


@pytest.fixture(scope="module")
def world(cluster: Cluster) -> Iterator[World]:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as service,
        holder_of(service) as operator,
    ):
        yield World(operator, database.url)


def ask(holder: Holder, call: Call) -> tuple[int, dict[str, Any]]:
    """Make a call; the status, and the document (of a stream, none)."""
    headers = {"Authorization": f"Bearer {holder.text}"} if holder.text else {}
    with holder.client.stream(call.method, call.path, json=call.body, headers=headers) as answer:
        if answer.headers["content-type"].startswith("text/event-stream"):
            return answer.status_code, {}
        answer.read()
        if answer.status_code >= 400:
            document = assert_problem(answer, answer.status_code)
            document.pop("request_id")
            return answer.status_code, document
        is_json = answer.headers["content-type"].startswith("application/json")
        return answer.status_code, {"answer": answer.json() if is_json else answer.text}


def test_the_description_has_the_calls_that_this_is_about() -> None:
    names = {str(call.values[0]) for call in CALLS}
    assert {"GET /events/stream", "POST /events/batch", "POST /keys", "GET /metrics"} <= names


@pytest.mark.parametrize("call", CALLS)
def test_without_a_right_key_no_call_tells_or_stores_anything(world: World, call: Call) -> None:
    before = world.stored()

    missing = ask(world.nobody, call)
    assert missing[0] == 401
    assert missing[1]["type"] == "/problems/unauthenticated"
    # Uniform: nothing tells a wrong key from none, or a key that there is from one there is not.
    assert ask(world.wrong, call) == missing
    assert ask(world.wrong_secret, call) == missing
    for holder, word in ((world.revoked, "revoked"), (world.expired, "expired")):
        status, document = ask(holder, call)
        assert (status, document.get("type")) == (401, "/problems/unauthenticated")
        assert word in document["detail"]

    assert world.stored() == before


@pytest.mark.parametrize("call", CALLS)
def test_an_auditors_key_reads_and_does_nothing_else(world: World, call: Call) -> None:
    before = world.stored()

    status, document = ask(world.auditor, call)

    if call.needs in ("read", "any"):
        # What an example asks for may not be there; that it may be asked is what matters.
        assert status in (200, 404), document
    else:
        assert (status, document.get("type")) == (403, "/problems/scope-missing")
        assert document.get("scope", "").startswith(call.needs.partition(":")[0])
        assert world.stored() == before


@pytest.mark.parametrize("call", CALLS)
def test_another_agents_key_writes_nothing_in_the_agents_name(world: World, call: Call) -> None:
    before = world.stored()

    status, document = ask(world.other_agent, call)

    if call.needs == "append":
        assert (status, document.get("type")) == (403, "/problems/name-not-yours")
        assert document.get("agent_name") == "other_agent"
    elif call.needs.startswith(("manage", "operate")):
        assert (status, document.get("type")) == (403, "/problems/scope-missing")
    else:
        assert status in (200, 404)
    assert world.stored() == before


@pytest.mark.parametrize("call", CALLS)
def test_another_tenants_key_sees_and_changes_nothing_of_this_one(world: World, call: Call) -> None:
    ours = [row for row in world.stored() if row[1] == 1]

    for holder in (world.rival, world.rivals_agent):
        status, document = ask(holder, call)
        if call.needs.startswith("operate"):
            assert (status, document.get("type")) == (403, "/problems/scope-missing")
        told = str(document)
        for secret in (world.agent.key_id, world.auditor.key_id, "other_agent", "'default'"):
            assert secret not in told

    assert [row for row in world.stored() if row[1] == 1] == ours


def test_another_tenants_event_is_one_that_there_is_not(world: World) -> None:
    while (theirs := world.agent.head()) <= world.rivals_agent.head():
        assert world.agent.append("fraud_agent").status_code == 201

    there = world.rivals_agent.get(f"/events/{theirs}")
    nowhere = world.rivals_agent.get("/events/999999999")

    assert there.status_code == nowhere.status_code == 404
    documents = [answer.json() for answer in (there, nowhere)]
    for document in documents:
        document.pop("request_id")
    assert str(documents[0]).replace(str(theirs), "N") == str(documents[1]).replace(
        "999999999", "N"
    )


def test_another_tenants_key_is_one_that_there_is_not(world: World) -> None:
    for path in (f"/keys/{world.agent.key_id}", f"/keys/{'a' * 16}"):
        assert_problem(world.rival.get(path), 404, "key-not-found")
        revoked = world.rival.post(f"{path}/revoke", {"reason": "Not mine."})
        assert_problem(revoked, 404, "key-not-found")
    assert world.agent.get("/me").status_code == 200
