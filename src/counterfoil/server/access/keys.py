"""The one key that opens the service.

How a call is judged, step by step (the numbers are repeated in the code):

1. The configured key is kept as its SHA-256 digest only.
2. A call presents every credential that it carries; none counts as one empty credential,
   so that a missing key costs the same work as a wrong one.
3. Every presented credential is hashed, and the digests are compared in constant time.
   Digests are of one length, so the comparison does not tell how long the key is.
4. All of them must be right. A call with two different keys is not opened by either.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.server.core.errors import Unauthenticated

FIRST_TENANT_ID: Final = 1
"""The book of a service with one key; migrations make it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever calls: the owner of idempotency keys, and the book that is opened to it."""

    name: str
    tenant_id: int


ANONYMOUS: Final = Principal(name="anonymous", tenant_id=FIRST_TENANT_ID)
"""Everybody, where no key is configured."""

KEY_HOLDER: Final = Principal(name="api-key", tenant_id=FIRST_TENANT_ID)
"""Whoever has the one key."""


class KeyGate:
    """Tells whether what a call presented opens the service. Holds no readable secret."""

    def __init__(self, api_key: str | None) -> None:
        self._digest = None if api_key is None else _digest(api_key.encode("ascii"))  # 1

    @property
    def is_open(self) -> bool:
        """Whether calls are taken without a key."""
        return self._digest is None

    def admit(self, presented: Sequence[bytes]) -> Principal:
        """Return whose call this is.

        Raises ``Unauthenticated``, the same for a missing and for a wrong key.
        """
        if self._digest is None:
            return ANONYMOUS
        right = True
        for credential in presented or (b"",):  # 2
            right &= hmac.compare_digest(_digest(credential), self._digest)  # 3
        if not right:  # 4
            raise Unauthenticated("This call needs the service's key: it brought none or another.")
        return KEY_HOLDER


def _digest(credential: bytes) -> bytes:
    return hashlib.sha256(credential).digest()
