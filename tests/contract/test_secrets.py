"""Secrets: in no log line, answer, ``repr``, exception, example or list of processes."""

import json
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from pydantic import SecretStr

from counterfoil import APIConnectionError, Counterfoil
from counterfoil.server.access.key_text import new_key, parse_key
from counterfoil.server.access.operations import Made
from counterfoil.server.access.store import StoredKey
from counterfoil.server.app import create_app
from counterfoil.server.core.settings import Settings
from tests.contract.conftest import open_door
from tests.support.cluster import Cluster
from tests.support.command_line import counterfoil, started
from tests.support.keys import BOOTSTRAP, Holder, holder_of
from tests.support.service import Service, running_service

pytestmark = pytest.mark.promise("P7")

HUSH = "hush-hush-hush"
KEY_TEXT = re.compile(r"cf_(?:live|test)_[a-z2-7]{16}_[a-z2-7]{52}")


# --- repr and exceptions ------------------------------------------------------------


def test_no_secret_of_the_settings_is_shown() -> None:
    """A setting that is added as a secret is asked by itself."""
    secret = [
        name
        for name, field in Settings.model_fields.items()
        if SecretStr in (field.annotation, *get_args(field.annotation))
    ]
    assert {"api_key", "database_url", "database_direct_url", "tls_key_password"} <= set(secret)
    settings = Settings.from_environment(
        **dict.fromkeys(secret, f"postgresql://{HUSH}"), tls_cert="c", tls_key="k"
    )

    shown = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    assert not [text for text in shown if HUSH in text]
    app = create_app(settings)
    assert HUSH not in repr(vars(app)) + repr(app.state._state)


def test_no_key_is_shown_by_what_carries_one() -> None:
    made = new_key("live")
    presented = parse_key(made.text.encode())
    assert presented is not None
    stored = StoredKey(
        *(made.key_id, 1, "default", "agent", "a", (), "live", made.digest, None, None, None),
        "active",
    )
    carriers: list[Any] = [made, presented, stored, Made(f'{{"key":"{made.text}"}}', False)]
    with Counterfoil(api_key=made.text, base_url="http://127.0.0.1:1") as client:
        carriers += [client, client.events, client._transport, client._transport.settings]
        shown = "".join(repr(carrier) for carrier in carriers)

    secret = made.text.rpartition("_")[2]
    assert secret not in shown
    assert repr(made.digest) not in shown


def test_no_exception_of_the_client_holds_the_key() -> None:
    with (
        Counterfoil(api_key=HUSH, base_url="http://127.0.0.1:1", max_retries=0) as client,
        pytest.raises(APIConnectionError) as caught,
    ):
        client.events.get(1)

    error: BaseException | None = caught.value
    assert HUSH not in "".join(traceback.format_exception(caught.value))
    while error is not None:
        assert HUSH not in repr(error) + str(error) + repr(vars(error))
        error = error.__cause__ or error.__context__


# --- Descriptions -------------------------------------------------------------------


def test_no_example_holds_a_key() -> None:
    """Who copies an example should not have a key that looks real; scanners would cry, too."""
    document = create_app(Settings(database_url=SecretStr("postgresql://nowhere"))).openapi()

    assert KEY_TEXT.findall(json.dumps(document)) == []


@pytest.mark.parametrize("command", ["read", "append", "tail", "import"])
def test_the_option_for_a_key_says_that_it_can_be_read_by_others(command: str) -> None:
    text = " ".join(counterfoil(command, "--help").stdout.replace("│", " ").split())

    assert "other users of this machine can read arguments" in text


# --- A service at work ----------------------------------------------------------------


def command_lines(group: int) -> Iterator[str]:
    """The arguments of every process of a group."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (ProcessLookupError, FileNotFoundError):
            continue  # It has just ended.


@pytest.fixture(scope="module")
def talkative_service(cluster: Cluster) -> Iterator[Service]:
    """A service of two workers that logs all it can."""
    with (
        cluster.database() as database,
        running_service(
            database.url,
            api_key=BOOTSTRAP,
            workers=2,
            environment={
                "COUNTERFOIL_LOG_LEVEL": "debug",
                "COUNTERFOIL_TLS_KEY_PASSWORD": HUSH,
            },
        ) as service,
    ):
        yield service


def test_a_service_at_work_shows_no_key(talkative_service: Service) -> None:
    with holder_of(talkative_service) as operator:
        agent = operator.made(kind="agent", name="fraud_agent")
        rotated = operator.post(f"/keys/{agent.key_id}/rotate", {}).json()["key"]
        rival = operator.tenant("rival")
        strangers = new_key("live").text
        secrets = {BOOTSTRAP, HUSH}
        secrets |= {key.rpartition("_")[2] for key in (agent.text, rotated, rival.text, strangers)}
        answers = [
            answer
            for key in (agent.text, rotated, rival.text, strangers, f"{agent.text}x", HUSH)
            for answer in used_in_every_way(operator.client, key)
        ]
        answers += [operator.get("/keys"), operator.get("/events"), operator.get("/tenants")]
        answers += [operator.get(f"/keys/{agent.key_id}"), operator.get("/metrics")]
        operator.post(f"/keys/{agent.key_id}/revoke", {"reason": "It was lost."})
        answers += used_in_every_way(operator.client, agent.text)

    for secret in secrets:
        assert not [answer for answer in answers if secret in answer.text + str(answer.headers)]
        assert secret not in talkative_service.log
    assert '"event": "request"' in talkative_service.log
    lines = list(command_lines(talkative_service.process.pid))
    assert len(lines) >= 3
    assert not [line for line in lines for secret in secrets if secret in line]
    assert not [line for line in lines if "postgresql://" in line]


def used_in_every_way(client: httpx2.Client, key: str) -> list[httpx2.Response]:
    """Calls that bring a key where it belongs, and where it does not."""
    event = {"agent_name": "somebody", "event_type": "t", "payload": {}}
    bearer = {"Authorization": f"Bearer {key}"}
    return [
        client.get("/events", headers=bearer),
        client.get("/me", headers={"X-API-Key": key}),
        client.post("/events", headers=bearer, json=event),
        client.post("/events", headers=bearer, content=f'{{"agent_name": {key}'),
        client.get("/events", params={"api_key": key}),
        client.get("/events", headers={"Authorization": key}),
        client.get("/events", headers={"Authorization": f"Basic {key}"}),
        client.get("/events", headers={**bearer, "X-API-Key": "another"}),
        client.post("/keys", headers=bearer, json={"kind": "agent"}),
    ]


def test_a_fault_of_the_service_shows_no_key(talkative_service: Service) -> None:
    """What cannot be read as HTTP is told of without a word of it."""
    with open_door(talkative_service) as door:
        answer = door.client.get("/events", headers={"X-API-Key": HUSH, "X-Long": "a" * 70_000})

    assert answer.status_code == 431
    assert HUSH not in answer.text
    assert HUSH not in talkative_service.log


def test_dev_shows_no_secret_in_the_list_of_processes(data_dir: Path) -> None:
    with started("dev", "--port", "0", "--data-dir", str(data_dir), API_KEY=HUSH) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        with httpx2.Client(base_url=address) as client:
            assert Holder(client, HUSH).get("/me").status_code == 200
        passwords = [
            text
            for path in data_dir.rglob("secret")
            if path.is_file() and (text := path.read_text().strip())
        ]
        assert passwords
        lines = [
            (folder / "cmdline").read_bytes().decode(errors="replace")
            for folder in Path("/proc").glob("[0-9]*")
            if (folder / "cmdline").exists()
        ]
        assert [line for line in lines if str(data_dir) in line]
        assert not [line for line in lines for secret in (HUSH, *passwords) if secret in line]
        process.terminate()
