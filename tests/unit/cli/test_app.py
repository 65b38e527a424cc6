"""The command line as it is called: help that teaches, and misuse that is named."""

import subprocess
import sys

import pytest

from counterfoil.cli.app import run
from counterfoil.cli.exits import ExitCode
from counterfoil.cli.service import is_loopback

COMMANDS = (
    ("append",),
    ("import",),
    ("read",),
    ("tail",),
    ("whoami",),
    ("keys", "create"),
    ("keys", "list"),
    ("keys", "show"),
    ("keys", "rotate"),
    ("keys", "revoke"),
    ("event-types", "register"),
    ("event-types", "list"),
    ("event-types", "show"),
    ("brake", "freeze"),
    ("brake", "thaw"),
    ("brake", "list"),
    ("settings", "show"),
    ("settings", "set"),
    ("tenants", "create"),
    ("tenants", "list"),
    ("consumers", "list"),
    ("consumers", "show"),
    ("consumers", "put"),
    ("consumers", "pause"),
    ("consumers", "resume"),
    ("consumers", "seek"),
    ("consumers", "delete"),
    ("consumers", "dead", "list"),
    ("consumers", "dead", "show"),
    ("consumers", "dead", "replay"),
    ("consumers", "dead", "drop"),
    ("policies", "lint"),
    ("policies", "test"),
    ("policies", "publish"),
    ("policies", "activate"),
    ("policies", "retire"),
    ("policies", "list"),
    ("policies", "show"),
    ("policies", "diff"),
    ("decisions", "make"),
    ("decisions", "list"),
    ("decisions", "show"),
    ("decisions", "explain"),
    ("decisions", "replay"),
    ("dev",),
    ("serve",),
    ("migrate",),
    ("recover",),
    ("demo", "fraud"),
    ("demo", "check"),
)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "DATABASE_URL", "COUNTERFOIL_BASE_URL", "COUNTERFOIL_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    # Wide enough that no sentence that is looked for is broken in two.
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERMINAL_WIDTH", "300")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--help"]) == ExitCode.OK

    shown = capsys.readouterr().out
    assert "For example:" in shown
    assert f"counterfoil {' '.join(command)}" in shown


def test_the_help_lists_every_command_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--help"]) == ExitCode.OK

    shown = capsys.readouterr().out
    assert all(f" {command[0]} " in shown for command in COMMANDS)
    assert "4  the condition of an append no longer held; nothing was written" in shown


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("counterfoil 0.")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["append", "a"], "Missing argument 'TYPE'"),
        (["import"], "Missing argument 'FILE'"),
        (["import", "/nowhere/e.ndjson"], "/nowhere/e.ndjson cannot be read: No such file"),
        (["import", "/"], "/ cannot be read: Is a directory"),
        (["import", "/dev/null", "-c", "0"], "greater than or equal to 1"),
        (["import", "/dev/null", "--state", __file__], "is not the progress of an import"),
        (["import", "/dev/null", "--base-url", "x"], "is the service's address"),
        (["append", "a", "t", "oops"], "The payload is not JSON"),
        (["append", "a", "t", "[]"], "The payload must be a JSON object"),
        (["append", "a", "t", "@/nowhere/p.json"], "/nowhere/p.json cannot be read"),
        (["append", "a", "t", "{}", "--after", "3"], "Give --fail-if too"),
        (["append", "a", "t", "{}", "--fail-if", "x"], "is not type=…, agent=… or tag=…"),
        (["append", "a", "t", "{}", "--occurred-at", "now"], "no time with an offset"),
        (["append", "a", "t", "{}", "--context", "x"], "The context is not JSON"),
        (["append", "a", "t", "{}", "--base-url", "localhost"], "`base_url` is"),
        (["append", "a", "t", "{}", "--key", "two words"], "An idempotency key is"),
        (["read", "--payload", "x"], "The --payload is not JSON"),
        (["read", "-n", "0"], "greater than or equal to 1"),
        (["read", "-o", "xml"], "'xml' is not one of"),
        (["read", "--base-url", "ftp://x"], "`base_url` is"),
        (["reed"], "No such command 'reed'"),
        (["keys", "create", "robot", "r2"], "'robot' is not one of"),
        (["keys", "create", "agent", "a", "--expires-in", "soon"], "no stretch of time"),
        (["keys", "create", "agent", "a", "--expires-at", "2027-01-01"], "no time with an offset"),
        (
            ["keys", "create", "agent", "a", "--expires-in", "1h", "--expires-at", "x"],
            "give one of them",
        ),
        (["keys", "rotate", "k", "--overlap", "1"], "no stretch of time"),
        (["keys", "revoke", "k"], "Missing option '--reason'"),
        (["keys", "show", "cf_live_abc"], "the text of a key"),
        (["brake", "freeze", "--reason", "x"], "Name one thing to freeze"),
        (["brake", "freeze", "--agent", "a", "--book", "--reason", "x"], "one thing to freeze"),
        (["brake", "freeze", "--agent", "a"], "Missing option '--reason'"),
        (["brake", "freeze", "--agent", "a", "--reason", "x", "--for", "2"], "stretch of time"),
        (["brake", "thaw", "0", "--reason", "x"], "greater than or equal to 1"),
        (["settings", "set"], "Missing option '--unregistered-types'"),
        (["event-types", "register", "t", "{"], "The schema is not JSON"),
        (["event-types", "register", "t", "[]"], 'such as {"type": "object"}'),
        (["event-types", "register", "t", "{}", "--narrowing"], "--narrowing needs a --reason"),
        (["consumers", "--watch", "often"], "should be a valid number"),
        (["consumers", "--watch", "0"], "greater than or equal to 0.1"),
        (["consumers", "--base-url", "http://x", "show", "s"], "unexpected extra argument"),
        (["consumers", "shwo"], "No such command 'shwo'"),
        (["consumers", "show"], "Missing argument 'NAME'"),
        (["consumers", "put", "s"], "Say which events it hands out: --type TYPE"),
        (["consumers", "put", "s", "--type", "t", "--query", "type=t"], "Give it alone"),
        (["consumers", "put", "s", "--query", "t"], "--query 't': 't' is not type=…"),
        (["consumers", "put", "s", "--type", "t", "--start", "soon"], "no place to begin at"),
        (["consumers", "put", "s", "--type", "t", "--lease", "60"], "--lease: '60' is no stretch"),
        (["consumers", "put", "s", "--type", "t", "--attempts", "0"], "equal to 1"),
        (["consumers", "put", "s", "--type", "t", "--backoff", "1s,x"], "'1s,x' is no backoff"),
        (["consumers", "put", "s", "--type", "t", "--dead-letters", "drop"], "is not one of"),
        (["consumers", "pause", "s"], "Missing option '--reason'"),
        (["consumers", "seek", "s", "--reason", "x"], "Missing option '--to'"),
        (["consumers", "seek", "s", "--to", "x", "--reason", "x"], "no place to go on at"),
        (["consumers", "dead", "show", "s", "0"], "greater than or equal to 1"),
        (["consumers", "dead", "replay", "s"], "Name the dead letters"),
        (["consumers", "dead", "replay", "s", "1", "--all"], "Name the dead letters"),
        (["consumers", "dead", "drop", "s", "1"], "Missing option '--reason'"),
        (["dev", "--host", "0.0.0.0"], "Set API_KEY first"),  # noqa: S104 - it is refused
        (["dev", "--host", "::"], "Set API_KEY first"),
        (["dev", "--port", "70000"], "less than or equal to 65535"),
        (["serve"], "DATABASE_URL is not set"),
        (["migrate"], "DATABASE_URL is not set"),
        (["recover", "--yes"], "DATABASE_URL is not set"),
        (["demo", "fraud", "--data", "a.csv", "--transactions", "5"], "give one of them"),
        (["demo", "fraud", "--limit", "5"], "--limit belongs to --data"),
        (["demo", "fraud", "--transactions", "5"], "20 are needed for the gated races"),
        (["demo", "fraud", "--data", "/nowhere/a.csv"], "a.csv cannot be read: No such file"),
        (["demo", "fraud", "--base-url", "http://x", "--data-dir", "d"], "leave out --data-dir"),
        (["demo", "check", "--file", "/nowhere/e.jsonl"], "e.jsonl cannot be read: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_ends_with_2_and_a_sentence(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == ExitCode.USAGE

    printed = capsys.readouterr()
    assert why in printed.err
    assert printed.out == ""


def test_serve_takes_an_empty_key_for_a_missing_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere/none")
    monkeypatch.setenv("API_KEY", "")

    assert run(["serve"]) == ExitCode.USAGE
    assert "API_KEY is empty" in capsys.readouterr().err


def test_recover_asks_before_it_does_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nowhere/none")

    assert run(["recover"]) == ExitCode.USAGE
    assert "Give --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - it is refused
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no such name", False),
    ],
)
def test_only_loopback_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("counterfoil.cli.app", "counterfoil.server"),
        ("counterfoil.cli.app", "fastapi"),
        ("counterfoil.cli.app", "psycopg"),
        ("counterfoil.cli.demo.agents", "typer"),
        ("counterfoil.cli.demo.agents", "rich"),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(module: str, unwanted: str) -> None:
    program = f"import sys, {module}; raise SystemExit({unwanted!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_service_that_is_not_there_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 1 is reserved; nothing answers there.
    assert run(["read", "--base-url", "http://127.0.0.1:1"]) == ExitCode.UNAVAILABLE
    assert "`counterfoil dev` starts one" in capsys.readouterr().err
