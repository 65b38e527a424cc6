"""What the package shows: its names, its twins, its settings; and no key, ever."""

import asyncio
import inspect
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any

import httpx2
import pytest

import counterfoil
from counterfoil import (
    AsyncCounterfoil,
    AsyncDeliveries,
    AsyncEventIterator,
    AsyncFollower,
    AsyncGuard,
    AsyncHeldDelivery,
    Counterfoil,
    CounterfoilError,
    Deliveries,
    EventIterator,
    Follower,
    Guard,
    HeldDelivery,
)
from counterfoil.client.async_access import AsyncKeys, AsyncTenants
from counterfoil.client.async_consumers import AsyncConsumers
from counterfoil.client.async_decisions import AsyncDecisions, AsyncPolicies
from counterfoil.client.async_events import AsyncEvents
from counterfoil.client.async_rules import AsyncBookSettings, AsyncBrake, AsyncEventTypes
from counterfoil.client.sync_access import Keys, Tenants
from counterfoil.client.sync_consumers import Consumers
from counterfoil.client.sync_decisions import Decisions, Policies
from counterfoil.client.sync_events import Events
from counterfoil.client.sync_rules import BookSettings, Brake, EventTypes
from counterfoil.client.transport import Settings
from tests.unit.client.doors import Connect
from tests.unit.client.simulated_book import Fault, SimulatedBook

SECRET = "cf_secret_4711"


def in_a_new_process(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_no_server_and_no_http_library() -> None:
    loaded = in_a_new_process(
        "import sys, counterfoil; from counterfoil import *; counterfoil.Event;"
        "import counterfoil.client.errors, counterfoil.client.model"
        "; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    assert "fastapi" not in loaded.split()
    bare = in_a_new_process("import sys, counterfoil; print(*sys.modules)").split()
    assert not {"httpx2", "asyncio", "ssl", "pydantic", "counterfoil.server"} & set(bare)
    assert "counterfoil.client.errors" in bare


def test_the_clients_load_nothing_of_the_server() -> None:
    loaded = in_a_new_process(
        "import sys; from counterfoil import Counterfoil, AsyncCounterfoil; print(*sys.modules)"
    ).split()
    assert "httpx2" in loaded
    assert not {"counterfoil.server", "counterfoil.cli", "pydantic", "psycopg"} & set(loaded)


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    assert sorted(counterfoil.__all__, key=str.lower) == sorted(
        set(counterfoil.__all__), key=str.lower
    )
    assert set(counterfoil.__all__) <= set(dir(counterfoil))
    for name in counterfoil.__all__:
        value = getattr(counterfoil, name)
        if name != "__version__":
            assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = counterfoil.Nonsense  # type: ignore[attr-defined]  # that is the point


def test_all_errors_share_one_base() -> None:
    errors = [
        value
        for name in counterfoil.__all__
        if inspect.isclass(value := getattr(counterfoil, name)) and issubclass(value, Exception)
    ]
    assert len(errors) > 15
    assert all(issubclass(error, CounterfoilError) for error in errors)


def test_the_version_is_the_packages() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == counterfoil.__version__


# --- The two clients are twins ----------------------------------------------------------


def described(twin: type) -> dict[str, list[tuple[Any, ...]]]:
    """Return the public methods with their parameters, the types named as the twin's."""
    methods: dict[str, list[tuple[Any, ...]]] = {}
    for name, member in inspect.getmembers(twin):
        if name.startswith("_") and name != "__init__":
            continue
        function = member.fget if isinstance(member, property) else member
        if not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters.values()
        methods[name] = [
            (parameter.name, parameter.kind, parameter.default) for parameter in parameters
        ]
    return methods


@pytest.mark.parametrize(
    ("blocking", "asynchronous"),
    [
        (Counterfoil, AsyncCounterfoil),
        (Events, AsyncEvents),
        (EventIterator, AsyncEventIterator),
        (Follower, AsyncFollower),
        (Guard, AsyncGuard),
        (Keys, AsyncKeys),
        (Tenants, AsyncTenants),
        (BookSettings, AsyncBookSettings),
        (EventTypes, AsyncEventTypes),
        (Brake, AsyncBrake),
        (Consumers, AsyncConsumers),
        (Policies, AsyncPolicies),
        (Decisions, AsyncDecisions),
        (Deliveries, AsyncDeliveries),
        (HeldDelivery, AsyncHeldDelivery),
    ],
)
def test_what_one_client_can_do_so_can_the_other(blocking: type, asynchronous: type) -> None:
    assert described(blocking) == described(asynchronous)
    for name in described(blocking):
        assert inspect.getdoc(getattr(blocking, name)), name


# --- Settings ---------------------------------------------------------------------------


def resolved(environ: dict[str, str] | None = None, **given: object) -> Settings:
    settings: dict[str, object] = {
        "base_url": None,
        "api_key": None,
        "timeout": None,
        "max_retries": 2,
    }
    return Settings.resolved(**settings | given, environ=environ or {})  # type: ignore[arg-type]  # by name, checked at run time


def test_the_address_comes_from_the_call_then_the_environment_then_the_default() -> None:
    environ = {"COUNTERFOIL_BASE_URL": "https://book.example/api/"}
    assert resolved().base_url == "http://127.0.0.1:8000"
    assert resolved(environ).base_url == "https://book.example/api"
    assert resolved(environ, base_url="http://[::1]:9/").base_url == "http://[::1]:9"
    assert resolved({"COUNTERFOIL_BASE_URL": ""}).base_url == "http://127.0.0.1:8000"


def test_a_path_before_the_service_is_kept(connect: Connect, book: SimulatedBook) -> None:
    with pytest.raises(CounterfoilError):
        connect(base_url="http://gateway.example/book/").events.get(1)
    assert book.received[0].path == "/book/events/1"


@pytest.mark.parametrize(
    "address",
    ["book.example", "ftp://book.example", "http://", "http://b.example/?x=1", "http://\0"],
)
def test_an_address_that_cannot_be_one_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="`base_url`"):
        resolved(base_url=address)


def test_the_timeout_is_longer_than_the_services_own() -> None:
    assert resolved().timeout == httpx2.Timeout(35.0, connect=5.0)
    assert resolved(timeout=2).timeout == httpx2.Timeout(2.0)
    stream = resolved(timeout=httpx2.Timeout(2.0, connect=1.0)).stream_timeout()
    assert (stream.connect, stream.read, stream.write, stream.pool) == (1.0, 45.0, 2.0, 2.0)


def test_the_key_is_sent_from_the_call_or_the_environment(
    connect: Connect, book: SimulatedBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add(1)
    connect(api_key="one").events.get(1)
    monkeypatch.setenv("COUNTERFOIL_API_KEY", "two")
    connect().events.get(1)
    monkeypatch.setenv("COUNTERFOIL_API_KEY", "")
    connect().events.get(1)
    sent = [received.headers.get("Authorization") for received in book.received]
    assert sent == ["Bearer one", "Bearer two", None]


# --- No key, ever -----------------------------------------------------------------------


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET} ", f"{SECRET}ü", f"\0{SECRET}"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="`api_key`") as refused:
        resolved(api_key=key)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_password_in_the_address_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="no user or password") as refused:
        resolved(base_url=f"http://user:{SECRET}@book.example")
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_nothing_that_can_be_printed_holds_the_key(connect: Connect, book: SimulatedBook) -> None:
    cf = connect(api_key=SECRET)
    settings = resolved(api_key=SECRET)
    shown = [repr(cf), repr(settings), repr(settings.auth), repr(cf.guard(types="t"))]
    book.faults.extend([Fault(httpx2.ReadError("reset"))] * 3)
    with pytest.raises(CounterfoilError) as lost:
        cf.events.append(agent_name="a", event_type="t", payload={})
    book.api_key = "another"
    with pytest.raises(CounterfoilError) as refused:
        cf.events.get(1)
    for error in (lost.value, refused.value):
        shown += [repr(error), *traceback.format_exception(error), repr(vars(error))]
    assert SECRET not in "\n".join(shown)
    assert book.received[-1].headers["Authorization"] == f"Bearer {SECRET}"


def test_a_redirect_is_told_and_the_key_goes_nowhere(connect: Connect, book: SimulatedBook) -> None:
    away = httpx2.Response(307, headers={"Location": "http://elsewhere.example/events/1"})
    book.faults.append(Fault(away))
    with pytest.raises(CounterfoilError, match=r"redirects to http://elsewhere\.example"):
        connect(api_key=SECRET).events.get(1)
    assert len(book.received) == 1


# --- Closing ----------------------------------------------------------------------------


def test_a_closed_client_says_so() -> None:
    with Counterfoil() as cf:
        pass
    with pytest.raises(counterfoil.UsageError, match="closed"):
        cf.events.get(1)

    async def closed() -> None:
        async with AsyncCounterfoil() as twin:
            pass
        with pytest.raises(counterfoil.UsageError, match="closed"):
            await twin.events.get(1)

    asyncio.run(closed())


def test_ones_own_http_client_stays_open(book: SimulatedBook) -> None:
    book.add(1)
    with httpx2.Client(transport=book.transport) as http:
        with Counterfoil(http_client=http, api_key=SECRET) as cf:
            cf.events.get(1)
        assert not http.is_closed
        assert "authorization" not in http.headers
