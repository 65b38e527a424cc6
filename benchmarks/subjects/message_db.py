"""message-db: an event store of functions in PostgreSQL, by the Eventide project.

A message goes into a stream, and streams that begin alike are a category. Writers of one
category wait for each other from the call to the end of the flush, so that readers of a
category skip nothing; across categories there is no such order. It is measured twice: with
twenty categories, one for each agent of the work, which is how it scales; and with one, which
is what gives the promise that Counterfoil gives for the whole book.

It has no tags or agents; they go into the metadata, where they are stored and not indexed.
A batch is one statement that writes all messages to one stream: the documentation has a
transaction of several calls, which takes a round trip for each.

Its SQL comes with the npm package of the project, in the order of the package's ``install.sh``,
without the roles and reports. Its extension (pgcrypto) is left out too: all it was for is
``gen_random_uuid``, which is PostgreSQL's own since version 13.

Sources: http://docs.eventide-project.org/user-guide/message-db/server-functions.html and, on
the lock, https://github.com/message-db/message-db/issues/54.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.harness import work
from benchmarks.harness.model import BenchmarkError, Stage
from benchmarks.subjects import stored_functions
from benchmarks.subjects.stored_functions import StoredFunctions
from counterfoil.server.db import sqlfile

DOORS: Final = stored_functions.DOORS

PACKAGE: Final = "@eventide/message-db"
VERSION: Final = "1.3.1"
INTEGRITY: Final = (
    "n3hdE5YAZNXTr2HK9gG0GJ6dusgdE544LTvS+21/yOEHBvNuUzNmXXw5vS05vpe6RSuhzTRy5Wg0q7c1VfJg+A=="
)
"""SHA-512 of the package, as the registry states it (base64)."""

DOWNLOAD_SECONDS_MAX: Final = 120

_PARTS: Final = (
    "schema/message-store",
    "tables/messages",
    "types/message",
    *(
        f"functions/{name}"
        for name in (
            "message-store-version",
            "hash-64",
            "acquire-lock",
            "category",
            "is-category",
            "id",
            "cardinal-id",
            "stream-version",
            "write-message",
        )
    ),
    *(f"indexes/messages-{name}" for name in ("id", "stream", "category")),
)
"""The files of the package that make what is measured."""

_SQL = sqlfile.load("benchmarks.subjects", "message_db.sql")


class MessageDb(StoredFunctions):
    """A message store. Made by ``opened``."""

    def write(
        self, seconds: float, *, clients: int, events: int, categories: int
    ) -> dict[str, float]:
        """Write so many messages a call, clients spread over so many categories.

        Returns the cell's figures.
        """
        messages = list(work.events(count=events))
        written = stored_functions.one_or_array
        metadata = [
            json.dumps({"agent_name": event.agent_name, "tags": event.tags}) for event in messages
        ]
        script = (
            f"\\set category :client_id % {categories}\n"
            # Twice the same is no error: the message becomes the stream's second.
            "\\set transaction random(1, 1000000000000)\n"
            f"{_SQL['write_message' if events == 1 else 'write_messages']};\n"
        )
        return self.append(
            script,
            seconds,
            clients=clients,
            events=events,
            variables=[
                f"type={messages[0].event_type}",
                f"data={written([event.payload_text for event in messages])}",
                f"metadata={written(metadata)}",
            ],
        )


@contextmanager
def opened(stage: Stage, database: str, package: Path) -> Iterator[MessageDb]:
    """An empty message store in a new database while the block does; then check what it holds.

    Args:
        stage: what the suite may use.
        database: its name.
        package: what ``download`` returned.

    Raises:
        BenchmarkError: the store is not what was acknowledged.
    """
    url = stage.cluster.create_database(database, migrated=False)
    with tarfile.open(package) as archive, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SQL["set_search_path"])
        connection.execute("set search_path = message_store, public")
        for part in _PARTS:
            file = archive.extractfile(f"package/database/{part}.sql")
            assert file is not None
            connection.execute(file.read())
    subject = MessageDb(stage, database, count=_SQL["count"])
    yield subject
    subject.check()
    stage.cluster.drop_database(database)


def download() -> Path | str:
    """The package, from the cache or the npm registry; or, in words, why it cannot be had.

    Nothing of it is run. Raises BenchmarkError when what came is not the pinned package.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = home / "counterfoil-benchmarks"
    path = cache / f"eventide-message-db-{VERSION}.tgz"
    if not path.is_file():
        npm = shutil.which("npm")
        if npm is None:
            return "npm, which brings its SQL, is not installed"
        cache.mkdir(parents=True, exist_ok=True)
        command = [npm, "pack", "--ignore-scripts", "--pack-destination", str(cache)]
        try:
            done = subprocess.run(
                [*command, f"{PACKAGE}@{VERSION}"],
                capture_output=True,
                text=True,
                check=False,
                timeout=DOWNLOAD_SECONDS_MAX,
            )
        except subprocess.TimeoutExpired:
            return f"npm brings nothing within {DOWNLOAD_SECONDS_MAX} seconds"
        if done.returncode:
            return f"npm does not bring {PACKAGE}: {done.stderr.strip()[-300:]}"
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != INTEGRITY:
        raise BenchmarkError(
            f"{path} is not {PACKAGE} {VERSION} as published: its SHA-512 is {digest}. Delete it "
            "to download it again."
        )
    return path
