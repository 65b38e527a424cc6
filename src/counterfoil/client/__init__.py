"""The Python client.

The logic is written once, without I/O: what a call sends (``requests``), what an answer
means (``answers``), when a call is tried again and what is then known (``calls``), how
pages (``paging``), live streams (``following``) and guards (``guarding``) go on. Two thin
shells, ``sync_*`` and ``async_*``, do the sending and the waiting and nothing else; a
test holds their public signatures against each other.

Import the public names from ``counterfoil``.
"""
