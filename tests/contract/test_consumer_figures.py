"""What the metrics show of consumers is how they stand, of every tenant, each under its name."""

import re

import pytest

from tests.support.cluster import Cluster
from tests.support.consumers import Consumer, note
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import running_service

pytestmark = pytest.mark.promise("P8")

_LINE = re.compile(
    r'counterfoil_consumer_(?P<what>\w+)\{tenant="(?P<tenant>[^"]+)",consumer="scorer"\} (?P<value>\S+)'
)


def standing(admin: Holder, held: int, waiting: int, aside: int) -> Consumer:
    """A consumer of this tenant with so many deliveries in each state."""
    scorer = Consumer(admin.made(kind="person", name="keeper", scopes=["manage:*"])).made()
    agent = admin.made(kind="agent", name="worker")
    note(agent, held + waiting + aside)
    tokens = scorer.by(agent).tokens(held + aside)
    scorer.by(agent).call("set-aside", tokens=tokens[:aside], reason="No.")
    return scorer


def test_the_figures_of_each_are_its_own(cluster: Cluster) -> None:
    with (
        cluster.database() as database,
        running_service(database.url, api_key=BOOTSTRAP) as service,
        holder_of(service) as operator,
    ):
        stand = {
            "acme": standing(operator.tenant("acme"), held=3, waiting=2, aside=1),
            "rival": standing(operator.tenant("rival"), held=1, waiting=4, aside=2),
        }
        shown: dict[str, dict[str, float]] = {}
        for found in _LINE.finditer(operator.get("/metrics").text):
            shown.setdefault(found["tenant"], {})[found["what"]] = float(found["value"])
        for tenant, scorer in stand.items():
            state = scorer.state()
            figures = shown.pop(tenant)
            assert 0 < figures.pop("lag_seconds") <= state["lag"]["seconds"]
            assert figures.pop("rate") >= 0
            assert figures == {
                "position": state["position"],
                "lag_events": state["lag"]["events"],
                "in_flight": state["in_flight"],
                "waiting": state["waiting"],
                "set_aside": state["set_aside"],
            }
        assert {name: state for name, state in shown.items() if state} == {}
        counts = [(s["in_flight"], s["waiting"]) for s in (c.state() for c in stand.values())]
        assert counts == [(3, 2), (1, 4)]
