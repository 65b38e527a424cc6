"""The text of a key: how one is made, and how one that was presented is read.

::

    cf_live_abcdefghij234567_abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst
       mode  id               secret

A scanner of secrets knows one by this expression, which is all that there is to the form::

    cf_(live|test)_[a-z2-7]{16}_[a-z2-7]{52}

* The *id* says which key it is. It is no secret: it stands in lists, events and logs.
* The *secret* is 256 random bits. Its SHA-256 is what is kept. One round of a fast hash is
  enough here, as it is not for passwords: nobody can go through 2^256 of them.
* The *mode* is there for people and scanners. It is compared like the rest.

Whether what was presented has the form takes more or less time, and so tells what is written
here. Whether there is a key of that id, and how much of a secret is right, takes the same time
(``PresentedKey.opens``).
"""

import hashlib
import hmac
import re
import secrets
from base64 import b32encode
from dataclasses import dataclass, field
from typing import Final, Literal

Mode = Literal["live", "test"]

_ID_BYTES: Final = 10
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(rb"cf_(live|test)_([a-z2-7]{16})_([a-z2-7]{52})")
_MODES: Final[dict[bytes, Mode]] = {b"live": "live", b"test": "test"}

_NOBODYS: Final = secrets.token_bytes(hashlib.sha256().digest_size)
"""Compared with where there is no key: no secret that anybody can find has this digest."""


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A key that was just made. ``text`` is for its holder's eyes, once; it is kept nowhere.

    Attributes:
        text: the whole key.
        key_id: by which it is looked up and spoken of.
        digest: the SHA-256 of the secret part, to be stored.
    """

    text: str = field(repr=False)
    key_id: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A key that a call brought. It has the form of one; whether it is one is not said."""

    key_id: str
    mode: Mode
    digest: bytes = field(repr=False)

    def opens(self, mode: Mode | None, digest: bytes | None) -> bool:
        """Whether it is the key of this mode and with this digest, in constant time.

        Both are None where no key has this id: the same work, and the answer is no.
        """
        right = hmac.compare_digest(self.digest, _NOBODYS if digest is None else digest)
        return right & (digest is not None) & (mode == self.mode)


def new_key(mode: Mode) -> NewSecret:
    """Make a key that nobody has."""
    key_id = _base32(secrets.token_bytes(_ID_BYTES))
    secret = _base32(secrets.token_bytes(_SECRET_BYTES))
    return NewSecret(
        text=f"cf_{mode}_{key_id}_{secret}", key_id=key_id, digest=_digest(secret.encode("ascii"))
    )


def parse_key(presented: bytes) -> PresentedKey | None:
    """Read what a call brought; None if it has not exactly the form of a key."""
    found = _FORM.fullmatch(presented)
    if found is None:
        return None
    mode, key_id, secret = found.groups()
    return PresentedKey(key_id.decode(), _MODES[mode], _digest(secret))


def _base32(random: bytes) -> str:
    return b32encode(random).decode("ascii").rstrip("=").lower()


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
