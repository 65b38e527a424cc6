"""``keys``, ``tenants``, ``event-types``, ``brake``, ``settings``, ``whoami``: as they are called."""

import json
from pathlib import Path

import httpx2
import pytest

from counterfoil.cli.exits import ExitCode
from tests.unit.cli.conftest import Call
from tests.unit.client.simulated_book import CREATED_AT, Fault, problem
from tests.unit.client.simulated_service import SECRET_PART, SimulatedService

FIRST = "abcdefghijklmnoa"
SECOND = "abcdefghijklmnob"


def bodies(service: SimulatedService) -> list[object]:
    return [json.loads(received.body) for received in service.received if received.body]


# --- Keys: the text, and only the text, on standard output --------------------------------


def test_a_new_key_stands_alone_on_standard_output(call: Call) -> None:
    ended = call("keys", "create", "agent", "fraud_agent")

    assert ended.code == ExitCode.OK
    assert ended.stdout == f"cf_live_{FIRST}_{SECRET_PART}\n"
    assert f"Key {FIRST} was made for agent fraud_agent." in ended.stderr
    assert "shown this once" in ended.stderr
    assert SECRET_PART not in ended.stderr


def test_everything_that_a_key_can_be_asked_for_is_sent(
    call: Call, service: SimulatedService
) -> None:
    call(
        *("keys", "create", "service", "export", "--scope", "read:*@customer", "--test"),
        *("--scope", "append:export_*", "--expires-at", "2027-03-01T00:00:00Z"),
        *("--rate", "5", "--burst", "50", "--idempotency-key", "deploy-17"),
    )

    assert bodies(service) == [
        {
            "kind": "service",
            "name": "export",
            "scopes": ["read:*@customer", "append:export_*"],
            "mode": "test",
            "expires_at": "2027-03-01T00:00:00+00:00",
            "rate_per_second": 5,
            "rate_burst": 50,
        }
    ]
    assert service.received[0].headers["Idempotency-Key"] == "deploy-17"


def test_a_new_key_for_programs_is_a_document(call: Call) -> None:
    ended = call("keys", "create", "agent", "fraud_agent", "-o", "json")

    made = json.loads(ended.stdout)
    assert made["key"] == f"cf_live_{FIRST}_{SECRET_PART}"
    assert (made["key_id"], made["replayed"]) == (FIRST, False)
    assert "text" not in made
    assert "shown this once" in ended.stderr


@pytest.mark.parametrize("what", [("keys", "create", "agent", "a"), ("tenants", "create", "acme")])
def test_a_repeated_creation_has_no_key_and_does_not_pass_for_one(
    call: Call, what: tuple[str, ...]
) -> None:
    assert call(*what, "--idempotency-key", "k").code == ExitCode.OK

    again = call(*what, "--idempotency-key", "k")
    assert again.code == ExitCode.REFUSED
    assert again.stdout == ""
    assert f"counterfoil keys rotate {FIRST} --overlap 0s" in again.stderr

    as_json = call(*what, "--idempotency-key", "k", "-o", "json")
    assert as_json.code == ExitCode.REFUSED
    made = json.loads(as_json.stdout)
    assert made["replayed"] is True
    assert made["key"] is None or made["key"]["key"] is None


def test_a_key_is_rotated_with_an_overlap(call: Call, service: SimulatedService) -> None:
    call("keys", "create", "agent", "fraud_agent")

    ended = call("keys", "rotate", FIRST, "--overlap", "1h30m")
    assert ended.stdout == f"cf_live_{SECOND}_{SECRET_PART}\n"
    assert f"takes the place of {FIRST}, which works for up to 1h30m more." in ended.stderr
    assert bodies(service)[-1] == {"overlap_seconds": 5_400}

    call("keys", "rotate", FIRST)
    assert bodies(service)[-1] == {"overlap_seconds": 3_600}
    assert (
        "which opens nothing any more." in call("keys", "rotate", FIRST, "--overlap", "0s").stderr
    )


def test_keys_are_listed_with_their_state_and_no_text(
    call: Call, service: SimulatedService
) -> None:
    call("keys", "create", "agent", "fraud_agent", "--scope", "append:flag_*")
    call("keys", "create", "auditor", "m.ito", "--expires-at", "2020-01-01T00:00:00Z")
    call("keys", "create", "person", "j.doe", "--expires-at", "2999-01-01T00:00:00Z")
    call("keys", "create", "person", "x.yz")
    call("keys", "revoke", "abcdefghijklmnod", "--reason", "Lost.", "--yes")
    service.keys[0]["last_used_at"] = CREATED_AT

    ended = call("keys", "list")

    heading, *lines = (line.split() for line in ended.stdout.splitlines())
    assert heading == ["ID", "KIND", "NAME", "STATE", "LAST", "USED", "SCOPES"]
    assert lines[0] == [
        FIRST,
        "agent",
        "fraud_agent",
        "active",
        "2025-01-02",
        "03:04",
        "append:flag_*",
    ]
    assert [line[3:5] for line in lines[1:]] == [
        ["expired", "2020-01-01"],
        ["until", "2999-01-01"],
        ["revoked", "2025-01-02"],
    ]
    assert "4 keys." in ended.stderr
    assert SECRET_PART not in ended.stdout + ended.stderr

    active = call("keys", "list", "--active", "-o", "json")
    ids = [json.loads(line)["key_id"] for line in active.stdout.splitlines()]
    assert ids == [FIRST, "abcdefghijklmnoc"]


def test_one_key_is_shown(call: Call) -> None:
    call("keys", "create", "agent", "a", "--rate", "5", "--burst", "9")
    call("keys", "rotate", FIRST)

    shown = call("keys", "show", FIRST).stdout
    assert "holder     agent a\n" in shown
    assert "rate       5 calls a second, 9 at once\n" in shown
    assert f"replaces   {FIRST}\n" in call("keys", "show", SECOND).stdout
    assert json.loads(call("keys", "show", FIRST, "-o", "json").stdout)["key_id"] == FIRST


# --- What cannot be taken back is asked about ---------------------------------------------


def test_a_revocation_is_asked_about_with_whose_key_it_is(
    call: Call, service: SimulatedService
) -> None:
    call("keys", "create", "agent", "fraud_agent")
    revoke = ("keys", "revoke", FIRST, "--reason", "The laptop was lost.")

    for answer in ("n\n", "\n", "", "perhaps\n"):
        declined = call(*revoke, answering=answer)
        assert (declined.code, declined.stdout) == (ExitCode.REFUSED, "")
        assert f"Revoke key {FIRST} of agent fraud_agent, never used?" in declined.stderr
        assert "Nothing was changed." in declined.stderr
    assert service.keys[0]["revoked_at"] is None

    done = call(*revoke, answering="y\n")
    assert done.code == ExitCode.OK
    assert done.stdout == f"Key {FIRST} of agent fraud_agent opens nothing any more.\n"
    assert bodies(service)[-1] == {"reason": "The laptop was lost."}


@pytest.mark.parametrize(
    "what",
    [
        ("keys", "revoke", FIRST, "--reason", "Lost."),
        ("brake", "freeze", "--book", "--reason", "Cut-over."),
    ],
)
def test_where_nobody_can_be_asked_nothing_is_done(
    call: Call, service: SimulatedService, what: tuple[str, ...]
) -> None:
    ended = call(*what)
    assert ended.code == ExitCode.USAGE
    assert "Give --yes" in ended.stderr
    assert service.received == []


def test_a_name_cannot_steer_the_terminal_that_asks(call: Call, service: SimulatedService) -> None:
    call("keys", "create", "agent", "fraud_agent")
    service.keys[0]["name"] = "a\x1b[2J"

    ended = call("keys", "revoke", FIRST, "--reason", "Lost.", answering="n\n")
    assert "\x1b[2J" not in ended.stderr
    assert "a\\u001b[2J" in ended.stderr


def test_the_text_of_a_key_is_refused_as_an_argument(call: Call, service: SimulatedService) -> None:
    ended = call("keys", "revoke", f"cf_live_{FIRST}_{SECRET_PART}", "--reason", "x", "--yes")
    assert ended.code == ExitCode.USAGE
    assert SECRET_PART not in ended.stderr
    assert service.received == []


# --- Tenants, and oneself -----------------------------------------------------------------


def test_a_new_tenants_admin_key_stands_alone_on_standard_output(call: Call) -> None:
    ended = call("tenants", "create", "acme")
    assert ended.stdout == f"cf_live_{FIRST}_{SECRET_PART}\n"
    assert "Tenant 2, acme, has a book of its own." in ended.stderr

    as_json = json.loads(call("tenants", "create", "globex", "-o", "json").stdout)
    assert (as_json["tenant_id"], as_json["name"]) == (3, "globex")
    assert as_json["key"]["key"].startswith("cf_live_")

    taken = call("tenants", "create", "acme")
    assert taken.code == ExitCode.REFUSED
    assert "tenant-exists" in taken.stderr

    lines = call("tenants", "list").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["2", "acme"], ["3", "globex"]]
    listed = call("tenants", "list", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in listed] == ["acme", "globex"]


def test_whoami_says_what_the_key_may_do(call: Call, service: SimulatedService) -> None:
    shown = call("whoami").stdout
    assert "principal  agent:fraud_agent\n" in shown
    assert "scopes     append:flag_* read:*\n" in shown
    assert json.loads(call("whoami", "-o", "json").stdout)["principal"] == "agent:fraud_agent"

    bootstrap = {"tenant": "default", "principal": "api-key", "scopes": ["append:*"]}
    service.faults.append(Fault(httpx2.Response(200, json=bootstrap)))
    assert "writes as  any name\n" in call("whoami").stdout


def test_a_wrong_key_is_told_with_the_way_out(call: Call, service: SimulatedService) -> None:
    service.api_key = "another"
    ended = call("whoami")
    assert ended.code == ExitCode.REFUSED
    assert "COUNTERFOIL_API_KEY" in ended.stderr


# --- Event types and settings ---------------------------------------------------------------


def test_a_schema_is_registered_from_an_argument_a_file_or_a_pipe(
    call: Call, service: SimulatedService, tmp_path: Path
) -> None:
    file = tmp_path / "payment.schema.json"
    file.write_text('{"properties": {"rate": {"minimum": 0.10}}}', encoding="utf-8")

    first = call("event-types", "register", "payment", f"@{file}")
    assert first.stdout == "Version 1 of payment is in force, since event 1.\n"
    assert b'"minimum":0.10' in service.received[0].body
    again = call("event-types", "register", "payment", "-", stdin=file.read_text("utf-8"))
    assert again.stdout == "Version 1 of payment was in force already, since event 1.\n"

    changed = call(
        *("event-types", "register", "payment", '{"required": ["rate"]}'),
        *("--narrowing", "--reason", "No rate, no payment.", "-o", "json"),
    )
    assert json.loads(changed.stdout)["version"] == 2
    assert bodies(service)[-1] == {
        "schema": {"required": ["rate"]},
        "narrowing": True,
        "reason": "No rate, no payment.",
    }

    shown = call("event-types", "show", "payment").stdout
    assert "version     2, in force; there is 1\n" in shown
    assert "narrowed    No rate, no payment.\n" in shown
    assert shown.endswith('{\n  "required": ["rate"]\n}\n')
    first_version = call("event-types", "show", "payment", "--version", "1", "-o", "json").stdout
    assert '"minimum":0.10' in first_version
    assert "replaced" in call("event-types", "show", "payment", "--version", "1").stdout
    assert call("event-types", "list").stdout.splitlines()[1].split()[:2] == ["payment", "2"]
    assert json.loads(call("event-types", "list", "-o", "json").stdout)["version"] == 2


def test_a_narrowing_change_shows_where_it_narrows(call: Call, service: SimulatedService) -> None:
    errors = [{"pointer": "/schema/required/1", "message": "`currency` is new.", "in": "body"}]
    service.faults.append(Fault(problem(409, "narrowing-change", "It narrows.", errors=errors)))

    ended = call("event-types", "register", "payment", "{}")
    assert ended.code == ExitCode.REFUSED
    assert "/schema/required/1: `currency` is new." in ended.stderr


def test_settings_are_shown_and_set(call: Call) -> None:
    assert "unregistered types  accepted\n" in call("settings", "show").stdout
    done = call("settings", "set", "--unregistered-types", "refused")
    assert done.stdout == "unregistered types  refused\nchanged             by event 1\n"
    assert json.loads(call("settings", "show", "-o", "json").stdout) == {
        "unregistered_types": "refused",
        "event_id": 1,
    }


# --- The brake ------------------------------------------------------------------------------


def test_something_is_frozen_listed_and_thawed(call: Call, service: SimulatedService) -> None:
    frozen = call(
        *("brake", "freeze", "--tag", "customer:c_1", "--reason", "Suspected."),
        *("--until", "2027-03-01T00:00:00Z"),
    )
    assert frozen.stdout == "Frozen as 1: tag customer:c_1, until 2027-03-01 00:00 UTC.\n"
    assert "counterfoil brake thaw 1 --reason" in frozen.stderr
    agent = call("brake", "freeze", "--agent", "a", "--reason", "Noise.", "-o", "json")
    assert json.loads(agent.stdout)["id"] == 2
    assert bodies(service) == [
        {"tag": "customer:c_1", "reason": "Suspected.", "until": "2027-03-01T00:00:00+00:00"},
        {"agent": "a", "reason": "Noise."},
    ]

    lines = call("brake", "list").stdout.splitlines()
    assert lines[1].startswith("1   tag customer:c_1  2027-03-01 00:00  2025-01-02 03:04")
    assert lines[2].split()[:4] == ["2", "agent", "a", "thawed"]
    listed = call("brake", "list", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] == [1, 2]

    thawed = call("brake", "thaw", "1", "--reason", "All is well.")
    assert thawed.stdout.startswith("Thawed 1: tag customer:c_1.")
    assert json.loads(call("brake", "thaw", "2", "--reason", "x", "-o", "json").stdout)["id"] == 2
    nothing = call("brake", "list")
    assert (nothing.stdout, nothing.stderr) == ("", "Nothing is frozen.\n")


def test_a_book_is_frozen_when_the_answer_is_yes(call: Call, service: SimulatedService) -> None:
    freeze = ("brake", "freeze", "--book", "--reason", "Cut-over.")
    assert call(*freeze, answering="n\n").code == ExitCode.REFUSED
    assert service.received == []

    ended = call(*freeze, answering="y\n")
    assert "Nobody can write until it is thawed." in ended.stderr
    assert ended.stdout == "Frozen as 1: the whole book, until it is thawed.\n"


def test_what_is_frozen_ends_an_append_with_6(call: Call, service: SimulatedService) -> None:
    service.faults.append(Fault(problem(423, "frozen", "The tag is frozen: suspected.", freeze=57)))
    ended = call("append", "a", "t", "{}")
    assert ended.code == ExitCode.FROZEN
    assert "The tag is frozen: suspected." in ended.stderr
