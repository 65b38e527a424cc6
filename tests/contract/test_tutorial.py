"""The tutorial's two calls: its scripts run unchanged, and get the fields they know."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.contract.conftest import Door, open_door
from tests.support.cluster import Cluster
from tests.support.service import Service, running_service

SCRIPTS = Path(__file__).parent / "scripts"
TUTORIAL_PORT = 8000
TUTORIAL_ADDRESS = f"http://localhost:{TUTORIAL_PORT}"

# One process runs all of these: there is only one port 8000.
pytestmark = pytest.mark.xdist_group("port 8000")

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")


@pytest.fixture(scope="module")
def tutorial_service(cluster: Cluster) -> Iterator[Service]:
    """A service with an empty book, where the scripts expect it unless that port is taken."""
    with ExitStack() as stack:
        url = stack.enter_context(cluster.database()).url
        try:
            service = stack.enter_context(running_service(url, port=TUTORIAL_PORT))
        except AssertionError:
            service = stack.enter_context(running_service(url))
        yield service


def run_script(name: str, service: Service, folder: Path) -> list[object]:
    """Run one of the tutorial's scripts; returns what it printed.

    Only where port 8000 is taken does a copy with another port run in its place.
    """
    script = SCRIPTS / name
    address = service.url.replace("127.0.0.1", "localhost")
    if address != TUTORIAL_ADDRESS:
        text = script.read_text(encoding="utf-8")
        assert TUTORIAL_ADDRESS in text
        script = folder / name
        script.write_text(text.replace(TUTORIAL_ADDRESS, address), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return [ast.literal_eval(line) for line in done.stdout.splitlines()]


def test_the_first_script_posts_a_flag_and_reads_it_back(
    tutorial_service: Service, tmp_path: Path
) -> None:
    with open_door(tutorial_service) as door:
        first = door.head() + 1
    stored, listed = run_script("flag_transaction.py", tutorial_service, tmp_path)

    assert isinstance(stored, dict)
    assert list(stored) == ["id", "created_at", "status"]
    assert stored["id"] == first
    assert stored["status"] == "stored"
    assert TIME.fullmatch(stored["created_at"])
    assert isinstance(listed, list)
    assert listed[0] == {
        "id": first,
        "agent_name": "fraud_agent",
        "event_type": "flag_transaction",
        "payload": {"transaction_id": "tx_987", "reason": "velocity_threshold_exceeded"},
        "created_at": stored["created_at"],
    }
    assert list(listed[0]) == ["id", "agent_name", "event_type", "payload", "created_at"]


def test_the_second_script_posts_a_score(tutorial_service: Service, tmp_path: Path) -> None:
    (stored,) = run_script("risk_score.py", tutorial_service, tmp_path)

    assert isinstance(stored, dict)
    assert stored["status"] == "stored"
    with open_door(tutorial_service) as door:
        (event,) = door.client.get("/agent-events/risk_agent").json()
    assert event["payload"] == {"customer_id": "cust_123", "score": 0.87, "decision": "review"}


def test_the_first_event_of_a_new_book_has_the_id_1(cluster: Cluster) -> None:
    with (
        cluster.database() as database,
        running_service(database.url) as service,
        open_door(service) as door,
    ):
        assert door.head() == 0
        assert door.append() == 1


def test_an_agents_list_is_its_latest_20_newest_first(door: Door) -> None:
    ids = [door.append(agent_name="lister", payload={"n": n}) for n in range(25)]
    door.append(agent_name="another")

    listed = door.client.get("/agent-events/lister").json()

    assert [event["id"] for event in listed] == ids[:4:-1]


def test_an_agents_list_goes_on_below_an_id(door: Door) -> None:
    ids = [door.append(agent_name="goer") for _ in range(5)]

    listed = door.client.get("/agent-events/goer", params={"limit": 2, "before": ids[3]}).json()

    assert [event["id"] for event in listed] == [ids[2], ids[1]]


def test_an_agent_that_never_wrote_has_an_empty_list(door: Door) -> None:
    answer = door.client.get("/agent-events/nobody")

    assert answer.status_code == 200
    assert answer.json() == []


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("team/fraud/agent", "team%2Ffraud%2Fagent"),
        ("team/fraud", "team/fraud"),
        ("/starts with a slash", "%2Fstarts%20with%20a%20slash"),
        ("ends with a slash/", "ends%20with%20a%20slash%2F"),
        ("a//b", "a//b"),
        ("...", "..."),
        ("ünïcødé 🧾", "%C3%BCn%C3%AFc%C3%B8d%C3%A9%20%F0%9F%A7%BE"),
        ("100% sure?#", "100%25%20sure%3F%23"),
        ("a+b", "a+b"),
    ],
)
def test_any_name_can_be_written_and_read_back(door: Door, name: str, path: str) -> None:
    position = door.append(agent_name=name)

    answer = door.client.get(f"/agent-events/{path}", params={"limit": 1})

    assert answer.json()[0]["id"] == position
    assert answer.json()[0]["agent_name"] == name
