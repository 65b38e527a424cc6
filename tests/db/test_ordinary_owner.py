"""A book whose owner is an ordinary login, set up as the operations guide says.

Every policy applies to that owner, and so to the functions that run with its rights: what
passes unseen for a superuser, who made the database of most other tests, does not pass here.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, LiteralString

import psycopg
import pytest
from pydantic import SecretStr

from counterfoil.server.core.errors import ConditionFailed
from counterfoil.server.core.settings import Settings
from counterfoil.server.db.embedded import EmbeddedPostgres
from counterfoil.server.db.migrations import all_migrations, migrate
from counterfoil.server.log.operations import Log, recover
from counterfoil.server.log.query import ReadRequest, judge_read_parameters
from tests.db.book import ACT_FOR
from tests.db.scratch import login
from tests.support.appends import append_request, approval, batch_request, flag, note
from tests.support.cluster import Cluster, Database
from tests.support.owner import Owned, login_of, ordinarily_owned

pytestmark = pytest.mark.anyio

TX: Final = "tx_987"


@pytest.fixture
def owned(cluster: Cluster) -> Iterator[Owned]:
    with ordinarily_owned(cluster) as fresh:
        yield fresh


@asynccontextmanager
async def log_of(login: Database) -> AsyncIterator[Log]:
    """A process of the service that comes in by this login."""
    log = await Log.open(Settings(database_url=SecretStr(login.url)))
    try:
        yield log
    finally:
        await log.close()


def rows(url: str, statement: LiteralString, *parameters: object) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement, parameters).fetchall()


def value(url: str, statement: LiteralString, *parameters: object) -> object:
    ((found,),) = rows(url, statement, *parameters)
    return found


# --- Who it is --------------------------------------------------------------------


def test_owner_and_service_are_nobody_special(owned: Owned) -> None:
    """Whoever is, sees past every policy, and this file would show nothing."""
    for somebody in (owned.owner, owned.service):
        assert rows(
            somebody.url,
            "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles "
            "where rolname = current_user",
        ) == [(False, False, False, False)]


def test_everything_of_the_schema_is_the_owners(owned: Owned) -> None:
    """Its functions too: a ``security definer`` one has the rights of this login."""
    owners = rows(
        owned.owner.url,
        "select distinct owner::regrole::text from ("
        " select proowner as owner from pg_proc where pronamespace = 'counterfoil'::regnamespace"
        " union all"
        " select relowner from pg_class where relnamespace = 'counterfoil'::regnamespace"
        ") as everything",
    )
    assert owners == [(login_of(owned.owner),)]


# --- What it does -----------------------------------------------------------------


@pytest.mark.promise("P3", "P4", "P5")
@pytest.mark.parametrize("who", ["service", "owner"])
async def test_service_works_on_it(owned: Owned, who: str) -> None:
    """With a login of its own, or with the owner's, whose rights it lays down."""
    async with log_of(getattr(owned, who)) as log:
        assert (await log.ready()).ready

        flagged = await log.append(1, append_request(flag(TX), key=TX))
        again = await log.append(1, append_request(flag(TX), key=TX))
        assert (flagged.first_position, again.first_position, again.replayed) == (1, 1, True)

        with pytest.raises(ConditionFailed) as refused:
            await log.append(1, append_request(approval(TX, after=None)))
        assert TX in str(refused.value.conflicts)

        approved = await log.append(1, append_request(approval(TX, after=1)))
        batch = await log.append(1, batch_request([note(nth=1), note(nth=2)]))
        assert (approved.first_position, batch.first_position) == (2, 3)

        assert len((await log.page(1, ReadRequest())).events) == 4
        by_tag = judge_read_parameters([("tag", f"transaction:{TX}")])
        assert len((await log.page(1, by_tag)).events) == 2
        assert len((await log.latest(1, "writer", limit=9, before=None)).events) == 2
        assert (await log.get(1, 4)).head == 4


@pytest.mark.promise("P6")
async def test_eraser_blanks_there(owned: Owned) -> None:
    async with log_of(owned.service) as log:
        await log.append(1, append_request(note(name="Ada")))
    with (
        login(owned.administrator, "counterfoil_eraser") as eraser,
        psycopg.connect(eraser.url, autocommit=True) as connection,
    ):
        connection.execute(ACT_FOR, ["1"])
        blanked = connection.execute(
            "update counterfoil.events set payload = null, salt = null where position = 1"
        )
        assert blanked.rowcount == 1
    assert value(owned.administrator.url, "select payload from counterfoil.events") is None


@pytest.mark.promise("P2")
async def test_owner_recovers_every_book(owned: Owned) -> None:
    """The one thing that has to see past the tenant of a transaction."""
    with psycopg.connect(owned.administrator.url, autocommit=True) as connection:
        connection.execute("insert into counterfoil.books (tenant_id, name) values (2, 'second')")
    recovered = recover(owned.owner.url)
    assert sorted(name for name, *_ in recovered) == ["default", "second"]
    assert all(before != after for _, before, after in recovered)


# --- A cluster of its own ---------------------------------------------------------


async def test_owner_that_may_create_roles_needs_nobody_else(data_dir: Path) -> None:
    """On a cluster that never had a book: the statements of the operations guide, in order."""
    with EmbeddedPostgres(data_dir) as server:
        with psycopg.connect(server.url, autocommit=True) as administrator:
            administrator.execute("create role book_owner login password 'o' createrole")
            administrator.execute(
                "create database book owner book_owner encoding 'UTF8' template template0"
            )
            administrator.execute("create role book_service login password 's'")
        owner, service = (
            Database("book", psycopg.conninfo.make_conninfo(server.url, dbname="book", **login))
            for login in (
                {"user": "book_owner", "password": "o"},
                {"user": "book_service", "password": "s"},
            )
        )
        assert migrate(owner.url) == [str(migration) for migration in all_migrations()]
        with psycopg.connect(server.url, autocommit=True) as administrator:
            administrator.execute("grant counterfoil_service to book_service")

        for nth, somebody in enumerate((service, owner), start=1):
            async with log_of(somebody) as log:
                stored = await log.append(1, append_request(note(nth=nth)))
                assert (await log.get(1, stored.first_position)).head == nth
