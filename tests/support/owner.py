"""A database whose schema belongs to an ordinary login, as an administrator sets one up.

Row-level security never applies to a superuser, not even where it is forced. The template of
the other tests is a superuser's, and so are its ``security definer`` functions: what they look
at there, they see whole. Here the owner is nobody special, so each policy applies to the owner,
to the functions that run as the owner, and to the service.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from psycopg.conninfo import conninfo_to_dict

from counterfoil.server.db.migrations import migrate
from tests.db.scratch import login
from tests.support.cluster import Cluster, Database


@dataclass(frozen=True, slots=True)
class Owned:
    """One migrated database, and who comes in.

    Attributes:
        owner: the login that owns the database, and that made the schema.
        service: a login that has ``counterfoil_service`` and nothing else.
        administrator: the superuser of the cluster, whom no policy binds.
    """

    owner: Database
    service: Database
    administrator: Database


def login_of(database: Database) -> str:
    """The name of the login that a database is entered by."""
    return str(conninfo_to_dict(database.url)["user"])


@contextmanager
def ordinarily_owned(cluster: Cluster) -> Iterator[Owned]:
    """A migrated database of an ordinary login, and a login for the service; dropped again.

    Both are made as the operations guide says, for a cluster that has the two roles: they are
    the cluster's, and other databases of the tests have them too.
    """
    cluster.ensure_template()  # Whoever migrates first makes the roles, and has to be allowed to.
    maintenance = Database("postgres", cluster.url)
    with login(maintenance, "counterfoil_service") as maker:
        name = f"counterfoil_test_{uuid4().hex}"
        cluster.execute(
            "CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0", name, login_of(maker)
        )
        try:
            administrator = Database(name, cluster.url_of(name))
            owner = Database(name, urlsplit(maker.url)._replace(path=f"/{name}").geturl())
            migrate(owner.url)
            with login(administrator, "counterfoil_service") as service:
                yield Owned(owner, service, administrator)
        finally:
            cluster.execute("DROP DATABASE {} WITH (FORCE)", name)
