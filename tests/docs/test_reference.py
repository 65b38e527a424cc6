"""The reference pages say what the code says: limits, errors, settings, commands, promises."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from types import ModuleType
from typing import Any, get_args

import pytest
import typer
from prometheus_client import Counter, Gauge, Histogram
from pydantic import AliasChoices, AliasPath
from typer.core import TyperGroup

from counterfoil import OutcomeUnknown
from counterfoil.cli.app import app
from counterfoil.cli.exits import MEANINGS
from counterfoil.client import (
    async_importing,
    calls,
    consuming,
    following,
    guarding,
    handling,
    importing,
    transport,
)
from counterfoil.client.answers import Answer, error_of
from counterfoil.server.access.scopes import Managed, Operated, Verb
from counterfoil.server.api.problems import CATALOGUE, ProblemType
from counterfoil.server.consumers import figures, states
from counterfoil.server.core import limits, metrics
from counterfoil.server.core.settings import Settings
from tests.docs.pages import ROOT, page
from tests.promises import PROMISES

# --- Limits ---------------------------------------------------------------------------


def _documented_limits() -> dict[str, Decimal]:
    rows = page("docs/limits.md").rows("limit", "value", "what it bounds")
    documented = {name: Decimal(value.split(" ")[0].replace(",", "")) for name, value, _ in rows}
    assert len(documented) == len(rows), "a limit stands there twice"
    return documented


def _numbers_of(module: ModuleType) -> dict[str, Decimal]:
    """As they are written: 0.8 is no binary fraction."""
    return {
        name: Decimal(str(value))
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith("_") and isinstance(value, int | float)
    }


def test_the_states_of_a_delivery_are_those_of_the_code() -> None:
    """The page ends with what the table in the code writes."""
    path = ROOT / "docs" / "internals" / "the-states-of-a-delivery.md"
    assert path.read_text(encoding="utf-8").endswith(f"\n\n{states.document()}\n")


def test_every_limit_is_documented_with_its_value() -> None:
    documented = _documented_limits()
    expected = _numbers_of(limits)
    assert {name: documented.get(name) for name in expected} == expected


def test_every_documented_limit_is_one() -> None:
    known: dict[str, Decimal] = {}
    for module in (
        async_importing,
        calls,
        consuming,
        following,
        guarding,
        handling,
        importing,
        transport,
        limits,
    ):
        known |= _numbers_of(module)
    assert {name: known.get(name) for name in _documented_limits()} == _documented_limits()


def test_a_limit_in_binary_units_is_the_same_number() -> None:
    units = {"KiB": 1024, "MiB": 1024**2}
    for name, value, _ in page("docs/limits.md").rows("limit", "value", "what it bounds"):
        parts = re.findall(r"(\d+) (KiB|MiB)", value)
        if parts:
            spelt = sum(int(number) * units[unit] for number, unit in parts)
            assert spelt == _documented_limits()[name], name


def _phrases_with_numbers() -> Iterator[tuple[str, str]]:
    """Pages, and what stands in them if they give the limits as they are."""
    events = "docs/guides/events-and-tags.md"
    yield events, f"has 1 to {limits.NAME_CHARACTERS_MAX} characters"
    yield events, f"more than {limits.NUMBER_DIGITS_MAX} digits"
    yield events, f"nesting deeper than {limits.DOCUMENT_DEPTH_MAX}"
    yield events, f"kind has 1 to {limits.TAG_KIND_CHARACTERS_MAX} characters"
    yield events, f"the whole tag at most {limits.TAG_CHARACTERS_MAX}"
    yield events, f"An event bears at most {limits.TAGS_MAX}."
    yield events, f"stores up to {limits.BATCH_EVENTS_MAX:,} events"
    conditions = "docs/guides/conditions-and-the-guard.md"
    yield conditions, f"at most {limits.CONFLICTS_MAX}, oldest first"
    yield conditions, f"`max_events` ({guarding.GUARD_EVENTS_MAX_DEFAULT:,} by default)"
    keys = "docs/guides/idempotency.md"
    yield keys, f"1 to {limits.IDEMPOTENCY_KEY_CHARACTERS_MAX} visible ASCII characters"
    loads = "docs/guides/bulk-loads.md"
    yield loads, f"A batch is up to {importing.BATCH_LINES:,} lines"
    yield loads, f"where {importing.BODY_BYTES_MAX // 1024**2} MiB are full"
    stream = "docs/guides/live-stream.md"
    yield stream, f"reads nothing for {limits.STREAM_WRITE_SECONDS_MAX:.0f} seconds"
    of_one = limits.STREAM_SUBSCRIBERS_MAX * limits.MUCH_HELD_SIXTEENTHS_MAX // 16
    yield stream, f"A process takes {limits.STREAM_SUBSCRIBERS_MAX:,} subscribers, {of_one} of them"
    yield stream, f"heartbeat every {limits.STREAM_HEARTBEAT_SECONDS:.0f} seconds"
    operations = "docs/guides/operations.md"
    yield operations, f"SIGTERM stops it within {limits.SHUTDOWN_SECONDS_MAX:.0f} seconds"
    seconds = limits.APPEND_STATEMENT_MILLISECONDS_MAX // 1000
    yield operations, f"statement_timeout = '{seconds}s'"
    client = "docs/guides/python-client.md"
    yield client, f"{transport.TIMEOUT_SECONDS_DEFAULT:.0f} seconds,"
    yield client, f"{transport.CONNECT_SECONDS_DEFAULT:.0f} to connect"
    yield client, f"`stop_seconds` ({handling.STOP_SECONDS_DEFAULT:.0f}) to finish"
    yield client, f"`wait_seconds` ({handling.CLAIM_WAIT_SECONDS_DEFAULT:.0f})."
    yield client, f"longer than the {limits.APPEND_OUTCOME_SECONDS_MAX:.0f} seconds"
    yield "docs/errors.md", f"found, at most {limits.FIELD_ERRORS_MAX}."


@pytest.mark.parametrize(("name", "phrase"), list(_phrases_with_numbers()))
def test_numbers_in_the_guides_are_those_of_the_limits(name: str, phrase: str) -> None:
    assert phrase in " ".join(page(name).text.split())


# --- Errors ---------------------------------------------------------------------------


def _error_of(problem: ProblemType) -> str:
    """What the Python client makes of this problem, by name of the class."""
    document: dict[str, Any] = {"type": problem.uri, "status": problem.status}
    if problem.name == "condition-failed":
        document |= {"head": 1, "conflicts": []}
    if problem.name == "outcome-unknown":
        # Judged with the call that it answers, because only a write can end so.
        return OutcomeUnknown.__name__
    answer = Answer(
        problem.status,
        {"content-type": "application/problem+json"},
        json.dumps(document).encode(),
    )
    return type(error_of(answer, now=0.0)).__name__


def test_every_problem_type_is_listed_as_it_is() -> None:
    rows = page("docs/errors.md").rows("type", "status", "title", "Python client")
    assert rows == [
        (problem.name, str(problem.status), problem.title, _error_of(problem))
        for problem in CATALOGUE.values()
    ]


def test_every_problem_type_is_explained() -> None:
    document = page("docs/errors.md")
    sections = [title for title in document.headings if title in CATALOGUE]
    assert sorted(sections) == sorted(CATALOGUE)
    for name in CATALOGUE:
        text = document.section(name)
        assert text.count("**Means.**") == 1, name
        assert text.count("**Do.**") == 1, name


def test_what_a_section_is_about_is_a_problem_type() -> None:
    problems = [title for title in page("docs/errors.md").headings if re.search("^[a-z-]+$", title)]
    assert set(problems) <= set(CATALOGUE)


def test_problem_types_that_the_limits_name_are_ones() -> None:
    """Elsewhere each is a link to its section, which the tests of links follow."""
    named = {code for code in page("docs/limits.md").code if re.fullmatch("[a-z]+(-[a-z]+)+", code)}
    assert named
    assert named <= set(CATALOGUE)


# --- Settings -------------------------------------------------------------------------


def _documented_settings() -> dict[str, str]:
    rows = page("docs/settings.md").rows("variable", "default", "meaning")
    assert len({name for name, *_ in rows}) == len(rows)
    return {name: default for name, default, _ in rows}


def _settings() -> Iterator[tuple[str, object, bool]]:
    """Each variable of the service with its default, and whether it is required."""
    for field in Settings.model_fields.values():
        alias = field.validation_alias
        assert alias is not None
        assert not isinstance(alias, AliasChoices | AliasPath)
        yield alias, field.default, field.is_required()


def test_every_setting_is_documented_with_its_default() -> None:
    documented = _documented_settings()
    for name, default, required in _settings():
        if required:
            assert documented[name] == "required"
        elif default is None:
            # None may stand for another variable.
            assert documented[name] in {"none", *documented}, name
        else:
            spelt = str(default).lower() if isinstance(default, bool) else str(default)
            assert documented[name] == spelt, name
    assert documented["COUNTERFOIL_BASE_URL"] == transport.BASE_URL_DEFAULT


def _variables_read_in(*patterns: str) -> set[str]:
    variable = re.compile(r"""["'](COUNTERFOIL_[A-Z_]*[A-Z])["']""")
    sources = [source for pattern in patterns for source in ROOT.glob(pattern)]
    return {name for source in sources for name in variable.findall(source.read_text("utf-8"))}


def test_every_variable_that_the_product_reads_is_documented() -> None:
    assert set(_documented_settings()) >= _variables_read_in("src/**/*.py", "tasks.py")


def test_every_documented_variable_is_read() -> None:
    read = _variables_read_in("src/**/*.py", "tests/support/*.py")
    assert set(_documented_settings()) == {"API_KEY", "DATABASE_URL"} | (
        read & set(_documented_settings())
    )


def test_variables_that_a_page_names_are_documented() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        found = re.findall(r"COUNTERFOIL_[A-Z_]*[A-Z]", page(document).text)
        assert set(found) <= set(_documented_settings()), document


# --- Commands -------------------------------------------------------------------------


def _commands() -> set[str]:
    """Every command of the command line, with its groups."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return set(_commands_of(group, "counterfoil"))


def _commands_of(group: TyperGroup, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from _commands_of(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_every_command_is_documented_and_no_other() -> None:
    documented = [name for name, _ in page("docs/commands.md").rows("command", "what it does")]
    assert len(set(documented)) == len(documented)
    assert set(documented) == _commands()


def test_every_exit_code_is_documented_with_its_meaning() -> None:
    assert page("docs/commands.md").rows("code", "meaning") == [
        (str(code.value), meaning) for code, meaning in MEANINGS.items()
    ]


# --- Scopes ---------------------------------------------------------------------------


def test_every_scope_is_explained() -> None:
    explained = page("docs/guides/keys-and-tenants.md").section("Scopes")
    assert all(f"`{verb}:" in explained for verb in get_args(Verb))
    assert all(f"`manage:{what}`" in explained for what in get_args(Managed))
    assert all(f"`operate:{what}`" in explained for what in get_args(Operated))


# --- Promises and metrics -------------------------------------------------------------


def test_the_promises_are_those_that_tests_name() -> None:
    documented = [
        tuple(heading.split(" ", 1))
        for heading in page("docs/promises.md").headings
        if re.match(r"P\d+ ", heading)
    ]
    assert documented == [
        (promise, text.split(":")[0].lower()) for promise, text in PROMISES.items()
    ]


def test_the_readme_lists_every_promise_and_leads_to_it() -> None:
    rows = [row[0] for row in page("README.md").rows("", "") if re.match(r"P\d+ ", row[0])]
    assert rows == [
        heading for heading in page("docs/promises.md").headings if re.match(r"P\d+ ", heading)
    ]


def test_every_metric_is_documented_with_its_type() -> None:
    rows = page("docs/guides/operations.md").rows("metric", "type", "what it says")
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    expected = {
        f"{metric._name}_total" if isinstance(metric, Counter) else metric._name: kinds[
            type(metric)
        ]
        for metric in vars(metrics).values()
        if isinstance(metric, Counter | Gauge | Histogram)
    } | dict.fromkeys(figures.GAUGES, "gauge")
    assert {name: kind for name, kind, _ in rows} == expected
