"""Cold reads: taking the data out of memory, as far as that is permitted."""

import os
from pathlib import Path
from typing import Final

import psycopg

_DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")

_EVERYTHING: Final = "3"


def chill(url: str) -> bool:
    """Take all data out of PostgreSQL's memory, and out of the operating system's if we may.

    Sessions and their plans stay: what is cold afterwards is the data, and nothing else.

    Args:
        url: a superuser's; makes the extension ``pg_buffercache`` in that database.

    Returns:
        Whether the operating system's cache was dropped too. It takes root, and a disk that
        is not itself a file in somebody else's memory: a virtual machine's host may keep
        what the guest has dropped.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create extension if not exists pg_buffercache")
        connection.execute("checkpoint")  # what is dirty cannot be taken out
        connection.execute("select pg_buffercache_evict_all()")
    os.sync()
    try:
        _DROP_CACHES.write_text(_EVERYTHING)
    except PermissionError:
        return False
    return True
