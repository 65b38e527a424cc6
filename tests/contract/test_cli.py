"""The command line against real services and databases."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from counterfoil import Counterfoil, NewEvent
from tests.contract.conftest import KEY, Call
from tests.db.scratch import login
from tests.support.cluster import Cluster, Database
from tests.support.command_line import counterfoil, ending, started, to_its_end
from tests.support.service import Service, running_service
from tests.support.waiting import WAIT_SECONDS_MAX

# --- append, read, tail -----------------------------------------------------------------


@pytest.fixture
def subject() -> str:
    """A transaction that no other test speaks of."""
    return f"tx_{uuid4().hex}"


@pytest.fixture
def cf(shared_service: Service) -> Iterator[Counterfoil]:
    with Counterfoil(base_url=shared_service.url) as client:
        yield client


def test_what_is_appended_is_read_back_digit_for_digit(
    shared_service: Service, subject: str
) -> None:
    payload = f'{{"transaction_id": "{subject}", "amount": 12.30, "count": 90071992547409931}}'
    where = {"COUNTERFOIL_BASE_URL": shared_service.url}

    stored = counterfoil("append", "fraud_agent", "flag_transaction", payload, **where)
    read = counterfoil("read", "--tag", f"transaction:{subject}", "-o", "json", **where)

    assert stored.returncode == 0
    assert stored.stdout.startswith("Stored as ")
    assert read.returncode == 0
    (line,) = read.stdout.splitlines()
    assert '"amount":12.30' in line
    assert '"count":90071992547409931' in line
    assert json.loads(line)["tags"] == [f"transaction:{subject}"]
    assert "1 event, read at head" in read.stderr


def test_every_part_of_an_event_can_be_given(call: Call, subject: str) -> None:
    first = call("append", "a", "t", "-", "-o", "json", stdin='{"n": 1}')
    cause = json.loads(first.stdout)["id"]

    second = call(
        *("append", "a", "t", '{"n": 2}', "--tag", f"transaction:{subject}", "--tag", "x:1"),
        *("--occurred-at", "2026-01-05T08:00:00+01:00", "--caused-by", str(cause)),
        *("--context", '{"model": "m1"}', "-o", "json"),
    )
    read = call("read", "--tag", f"transaction:{subject}", "-o", "json")

    assert set(json.loads(second.stdout)) == {"id", "created_at", "status", "replayed"}
    event = json.loads(read.stdout)
    assert event["tags"] == [f"transaction:{subject}", "x:1"]
    assert event["occurred_at"] == "2026-01-05T07:00:00+00:00"
    assert event["caused_by"] == [cause]
    assert event["context"] == {"model": "m1"}


def test_a_payload_comes_from_a_file(call: Call, subject: str, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text(json.dumps({"transaction_id": subject}), encoding="utf-8")

    assert call("append", "a", "t", f"@{file}").returncode == 0

    assert subject in call("read", "--tag", f"transaction:{subject}").stdout


def test_one_key_stores_once_and_other_content_is_refused(call: Call, subject: str) -> None:
    append = ("append", "a", "t", "--key", subject)

    first = call(*append, '{"n": 1}')
    again = call(*append, '{"n": 1}')
    other = call(*append, '{"n": 2}')

    assert (first.returncode, again.returncode, other.returncode) == (0, 0, 1)
    assert "as it had been before under this key" in again.stdout
    assert "idempotency-mismatch" in other.stderr


@pytest.mark.promise("P4")
def test_a_condition_that_no_longer_holds_is_4_and_shows_what_is_in_the_way(
    call: Call, subject: str, cf: Counterfoil
) -> None:
    payload = json.dumps({"transaction_id": subject})
    approve = ("append", "approver", "approved", payload)
    no_flag = ("--fail-if", f"type=flag_transaction tag=transaction:{subject}")
    head = cf.events.latest("nobody").head
    flag = cf.events.append(
        agent_name="fraud_agent",
        event_type="flag_transaction",
        payload={"transaction_id": subject},
    )

    refused = call(*approve, *no_flag, "--after", str(head))
    in_json = call(*approve, *no_flag, "-o", "json")
    seen = call(*approve, *no_flag, "--after", str(flag.id))

    assert refused.returncode == 4
    assert f" {flag.id}  " in refused.stdout
    assert "Nothing was written" in refused.stderr
    assert in_json.returncode == 4
    document = json.loads(in_json.stdout)
    assert document["status"] == "condition-failed"
    assert [conflict["id"] for conflict in document["conflicts"]] == [flag.id]
    assert seen.returncode == 0


def test_read_is_limited_unless_all_is_asked_for(call: Call, subject: str, cf: Counterfoil) -> None:
    events = [NewEvent(agent_name="a", event_type=subject, payload={"n": n}) for n in range(3)]
    ids = cf.events.append_batch(events).ids

    def read(*options: str) -> list[int]:
        ended = call("read", "--type", subject, "-o", "json", *options)
        assert ended.returncode == 0
        return [json.loads(line)["id"] for line in ended.stdout.splitlines()]

    assert read("--all") == list(ids)
    assert read("-n", "2") == list(ids[:2])
    assert read("-n", "2", "--newest-first") == [ids[2], ids[1]]
    assert read("--after", str(ids[0]), "--before", str(ids[2])) == [ids[1]]
    assert read("--up-to", str(ids[0])) == [ids[0]]
    assert read("--payload", '{"n": 1}') == [ids[1]]
    assert read("--agent", "nobody") == []


def test_what_the_service_refuses_is_1_with_its_reason(call: Call) -> None:
    refused = call("append", "..", "t", "{}")

    assert refused.returncode == 1
    assert "/agent_name" in refused.stderr


def test_a_key_is_needed_where_one_is_set(call: Call, locked_service: Service) -> None:
    where = {"COUNTERFOIL_BASE_URL": locked_service.url}

    without = call("read", **where)
    wrong = call("read", **where, COUNTERFOIL_API_KEY="mistaken")
    right = call("read", **where, COUNTERFOIL_API_KEY=KEY)

    assert (without.returncode, wrong.returncode, right.returncode) == (1, 1, 0)
    assert "COUNTERFOIL_API_KEY" in without.stderr
    assert "mistaken" not in wrong.stderr
    assert without.stdout == ""


def test_a_reader_that_has_seen_enough_ends_the_command_in_silence(
    shared_service: Service, subject: str, cf: Counterfoil
) -> None:
    padding = "x" * 1_000  # so that all of it is more than a pipe holds
    events = [NewEvent(agent_name="a", event_type=subject, payload={"p": padding})] * 300
    cf.events.append_batch(events)

    for output in ("text", "json"):
        with started(
            *("read", "--type", subject, "--all", "-o", output),
            COUNTERFOIL_BASE_URL=shared_service.url,
        ) as reading:
            assert reading.stdout is not None
            assert reading.stdout.readline()
            reading.stdout.close()
            assert reading.stderr is not None
            errors = reading.stderr.read()
            assert reading.wait(WAIT_SECONDS_MAX) == 0
            assert errors == ""


def test_tail_shows_what_comes_until_ctrl_c(
    shared_service: Service, subject: str, cf: Counterfoil
) -> None:
    head = cf.events.latest("nobody").head
    with started(
        *("tail", "--tag", f"transaction:{subject}", "--after", str(head), "-o", "json"),
        COUNTERFOIL_BASE_URL=shared_service.url,
    ) as tailing:
        for n in range(2):
            stored = cf.events.append(
                agent_name="a", event_type="t", payload={"transaction_id": subject, "n": n}
            )
            assert tailing.stdout is not None
            assert json.loads(tailing.stdout.readline())["id"] == stored.id
        tailing.send_signal(signal.SIGINT)

        assert ending(tailing) == (130, "")


def test_tail_is_readable(shared_service: Service, subject: str, cf: Counterfoil) -> None:
    stored = cf.events.append(
        agent_name="fraud_agent", event_type="t", payload={"transaction_id": subject}
    )
    with started(
        *("tail", "--tag", f"transaction:{subject}", "--after", "0"),
        COUNTERFOIL_BASE_URL=shared_service.url,
    ) as tailing:
        assert tailing.stdout is not None
        assert tailing.stdout.readline().split() == [
            "ID",
            "CREATED",
            "(UTC)",
            "AGENT",
            "TYPE",
            "PAYLOAD",
        ]
        line = tailing.stdout.readline()

    assert line.split()[0] == str(stored.id)
    assert "fraud_agent" in line
    assert subject in line


def test_tail_says_that_the_service_is_away_and_that_it_is_back(
    database: Database, subject: str
) -> None:
    def appended(service: Service) -> int:
        with Counterfoil(base_url=service.url) as client:
            return client.events.append(agent_name="a", event_type=subject, payload={}).id

    def shown(tailing: subprocess.Popen[str]) -> int:
        assert tailing.stdout is not None
        return int(json.loads(tailing.stdout.readline())["id"])

    with running_service(database.url) as before:
        first, port = appended(before), httpx2.URL(before.url).port
        assert port is not None
        tail = ("tail", "--type", subject, "--after", "0", "-o", "json")
        with started(*tail, COUNTERFOIL_BASE_URL=before.url) as tailing:
            assert shown(tailing) == first
            before.stop()
            assert tailing.stderr is not None
            assert tailing.stderr.readline().startswith("The connection was lost: The service ")
            with running_service(database.url, port=port) as after:
                second = appended(after)
                assert shown(tailing) == second
                tailing.send_signal(signal.SIGINT)
                code, errors = ending(tailing)

    assert code == 130
    assert errors == "The connection is back; going on where it was.\n"


# --- dev and serve ----------------------------------------------------------------------


def address(process: subprocess.Popen[str]) -> str:
    """Wait for the one line that a service prints, and take the address from it."""
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[:-1] == ["Counterfoil", "is", "ready", "at"], ending(process)
    return words[-1]


def write(url: str, **headers: str) -> int:
    """Append an event over plain HTTP, and return the answer's status."""
    event = {"agent_name": "a", "event_type": "t", "payload": {"n": 1}}
    return httpx2.post(f"{url}/events", json=event, headers=headers).status_code


def test_dev_needs_nothing_keeps_the_book_and_stops_everything(data_dir: Path) -> None:
    arguments = ("dev", "--port", "0", "--data-dir", str(data_dir))
    with started(*arguments) as first:
        assert write(address(first)) == 201
        second = counterfoil(*arguments)
        first.send_signal(signal.SIGINT)
        code, errors = ending(first)

    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    assert code == 0
    assert "need no key" in errors
    with started(*arguments) as again:
        events = httpx2.get(f"{address(again)}/events").json()["events"]
        again.terminate()
        code, _ = ending(again)

    assert [event["id"] for event in events] == [1]
    assert code == 0


def test_dev_stops_when_standard_input_closes_if_it_was_asked_to(database: Database) -> None:
    with started(
        "dev", "--port", "0", "--until-stdin-closes", DATABASE_URL=database.url
    ) as process:
        url = address(process)
        assert write(url) == 201
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        code, _ = ending(process)

    assert code == 0
    with pytest.raises(httpx2.ConnectError):
        write(url)


def test_dev_with_a_key_needs_it(database: Database) -> None:
    with started("dev", "--port", "0", DATABASE_URL=database.url, API_KEY=KEY) as process:
        url = address(process)
        assert write(url) == 401
        assert write(url, Authorization=f"Bearer {KEY}") == 201
        process.terminate()
        _, errors = ending(process)

    assert "need the key in API_KEY" in errors
    assert KEY not in errors


def test_a_port_that_is_taken_is_3_and_named(database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        refused = counterfoil("dev", "--port", str(port), DATABASE_URL=database.url)

    assert refused.returncode == 3
    assert f"Port {port} of 127.0.0.1 is in use" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    "command", [("dev", "--port", "0"), ("migrate",), ("recover", "--yes")], ids=" ".join
)
def test_a_database_that_cannot_be_reached_is_3(
    call: Call, command: tuple[str, ...], tmp_path: Path
) -> None:
    refused = call(*command, DATABASE_URL=f"postgresql://u:secret-word@/d?host={tmp_path}")

    assert refused.returncode == 3
    assert "The database cannot be reached" in refused.stderr
    assert "secret-word" not in refused.stderr


@pytest.mark.parametrize(
    "command",
    [("dev", "--port", "0"), ("serve",), ("migrate",), ("recover", "--yes")],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "url",
    ["mysql://u:secret-word@host/d", "secret-word", "postgresql://u:p@h/d?secret-word=1"],
)
def test_an_address_that_makes_no_sense_is_2_and_not_shown(
    call: Call, command: tuple[str, ...], url: str
) -> None:
    refused = call(*command, DATABASE_URL=url, API_KEY=KEY)

    assert refused.returncode == 2
    assert "DATABASE_URL" in refused.stderr
    assert "secret-word" not in refused.stderr


def test_serve_runs_several_workers_and_stops_in_order(database: Database) -> None:
    with started(
        *("serve", "--port", "0", "--workers", "2"), DATABASE_URL=database.url, API_KEY=KEY
    ) as process:
        assert write(address(process), **{"X-API-Key": KEY}) == 201
        process.terminate()
        code, _ = ending(process)

    assert code == 0


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[str]:
    """A database in which nothing has been migrated yet."""
    name = f"counterfoil_empty_{uuid4().hex}"
    cluster.execute("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", name)
    try:
        yield cluster.url_of(name)
    finally:
        cluster.execute("DROP DATABASE {} WITH (FORCE)", name)


def test_serve_leaves_the_schema_alone_and_migrate_makes_it(
    call: Call, empty_database: str
) -> None:
    there = {"DATABASE_URL": empty_database, "API_KEY": KEY}

    refused = call("serve", "--port", "0", **there)
    checked = call("migrate", "--check", **there)
    applied = call("migrate", "-o", "json", **there)
    again = call("migrate", **there)
    checked_again = call("migrate", "--check", **there)

    assert refused.returncode == 1
    assert "Run `counterfoil migrate` first" in refused.stderr
    assert checked.returncode == 1
    assert checked.stdout.startswith("to do  0001_")
    assert applied.returncode == 0
    assert json.loads(applied.stdout)["applied"][0].startswith("0001_")
    assert (again.returncode, checked_again.returncode) == (0, 0)
    assert "Nothing to do" in again.stdout


def test_recover_of_no_book_says_what_comes_first(call: Call, empty_database: str) -> None:
    refused = call("recover", "--yes", DATABASE_URL=empty_database)

    assert refused.returncode == 1
    assert "no book in this database yet" in refused.stderr
    assert "LINE" not in refused.stderr


def test_a_login_without_the_services_role_is_told_what_it_lacks(
    call: Call, database: Database
) -> None:
    with login(database) as stranger:
        refused = call("serve", "--port", "0", DATABASE_URL=stranger.url, API_KEY=KEY)

    assert refused.returncode == 1
    assert "`grant counterfoil_service to" in refused.stderr


def other(url: str, *, user: str | None = None, password: str | None = None) -> str:
    """The address with another user or another password."""
    place = urlsplit(url)
    before, _, host = place.netloc.rpartition("@")
    own_user, _, own_password = before.partition(":")
    login = f"{user or own_user}:{password or own_password}"
    return place._replace(netloc=f"{login}@{host}").geturl()


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("password", "password authentication failed"),
        ("user", "password authentication failed"),
        ("database", "does not exist"),
    ],
)
def test_serve_does_not_start_with_a_login_that_is_refused(
    call: Call, database: Database, cluster: Cluster, mistake: str, said: str
) -> None:
    url = {
        "password": other(database.url, password="secret-word"),
        "user": other(database.url, user="nobody_of_this_name"),
        "database": cluster.url_of("no_database_of_this_name"),
    }[mistake]

    at_once = call("serve", "--port", "0", DATABASE_URL=url, API_KEY=KEY)
    # The schema is looked at through the direct address; the service works through the other.
    pooled = call(
        *("serve", "--port", "0"),
        DATABASE_URL=url,
        API_KEY=KEY,
        COUNTERFOIL_DATABASE_DIRECT_URL=database.url,
    )

    for refused in (at_once, pooled):
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert said in refused.stderr
        assert refused.stderr.rstrip().endswith(" in DATABASE_URL.")
        assert "secret-word" not in refused.stderr


def test_serve_does_not_start_with_a_login_that_cannot_act_as_the_service(
    call: Call, database: Database
) -> None:
    reads = ("usage on schema counterfoil", "select on counterfoil.schema_migrations")
    with login(database, *reads) as reader:
        refused = call("serve", "--port", "0", DATABASE_URL=reader.url, API_KEY=KEY)

    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "`grant counterfoil_service to` it" in refused.stderr


def test_serve_waits_for_a_database_that_is_away_and_says_so(tmp_path: Path) -> None:
    url = f"postgresql://u:secret-word@/d?host={tmp_path}"
    with started("serve", "--port", "0", DATABASE_URL=url, API_KEY=KEY) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Counterfoil is listening at http://")
        assert httpx2.get(f"{line.split()[-1]}/health/ready").status_code == 503
        process.terminate()
        code, errors = ending(process)

    assert code == 0
    assert "Listening; the database is away (" in errors
    assert "/health/ready says 503 until it is back." in errors
    assert "secret-word" not in errors


def test_a_wrong_setting_is_named_before_a_cluster_is_made(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    dev = ("dev", "--port", "0", "--data-dir", str(folder))

    no_key = call(*dev, API_KEY="")
    no_level = call(*dev, COUNTERFOIL_LOG_LEVEL="loud")

    assert (no_key.returncode, no_level.returncode) == (2, 2)
    assert "API_KEY: it is empty" in no_key.stderr
    assert "COUNTERFOIL_LOG_LEVEL: " in no_level.stderr
    assert not folder.exists()


def test_recover_gives_the_book_a_new_incarnation(call: Call, database: Database) -> None:
    there = {"DATABASE_URL": database.url}

    unasked = call("recover", **there)
    first = call("recover", "--yes", "-o", "json", **there)
    second = call("recover", "--yes", "-o", "json", **there)

    assert unasked.returncode == 2
    assert "Give --yes" in unasked.stderr
    (before,), (after,) = json.loads(first.stdout), json.loads(second.stdout)
    assert before["old"] != before["new"] == after["old"] != after["new"]


def test_without_the_services_libraries_one_sentence_says_how_to_get_them() -> None:
    light = (
        sys.executable,
        "-c",
        "import sys; sys.modules['psycopg'] = None; from counterfoil.cli import main; main()",
    )

    refused = to_its_end(light, "dev", "--port", "0")

    assert refused.returncode == 2
    assert "pip install '.[server]'" in refused.stderr
    assert to_its_end(light, "--version").returncode == 0
