"""Whose word counts on where a request came from: named proxies, and nobody else.

Anybody can send ``X-Forwarded-For``. It is believed of an address from which a proxy of the
operator's connects, and read from its end: each proxy adds whom it was called by, so the last
entry is our proxy's own word, and what stands before an entry counts only if that entry is
such a proxy again. ``X-Forwarded-Proto`` is believed of the same addresses. All other headers of
the kind (``X-Forwarded-Host``, ``Forwarded``, …) are believed of nobody.
"""

import functools
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The addresses from which proxies of the operator's connect."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read addresses and networks with commas between them.

        Raises ``ValueError`` with a sentence.
        """
        try:
            networks = [
                ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()
            ]
        except ValueError:
            raise ValueError(
                "give addresses and networks with commas between them, as in "
                "10.0.0.7, 10.1.0.0/16, fd00::/8 (behind a network's bits only zeros)"
            ) from None
        if any(network.prefixlen == 0 for network in networks):
            raise ValueError("it names every address there is; name those of your proxies")
        return cls(tuple(networks))

    def __contains__(self, address: str) -> bool:
        """Whether a proxy of the operator's connects from this address."""
        read = _address(address)
        return read is not None and any(read in network for network in self.networks)

    def caller(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Tell who made a request, as far as that is known for sure.

        Args:
            peer: the trusted proxy that the request came through.
            headers: all headers of the request.
        """
        caller = peer
        for entry in reversed(_entries(headers, b"x-forwarded-for")):
            address = _address(_without_port(entry))
            if address is None:
                break  # Whoever wrote this says nothing of use, and nothing about what is before.
            caller = str(address)
            if caller not in self:
                break
        return caller

    @staticmethod
    def scheme(headers: Iterable[tuple[bytes, bytes]]) -> Literal["http", "https"] | None:
        """Tell how the trusted proxy was called, if it says so."""
        said = _entries(headers, b"x-forwarded-proto")[-1:]
        if said == ["https"]:
            return "https"
        return "http" if said == ["http"] else None


NO_PROXIES: Final = TrustedProxies()
"""Nobody is believed."""


def _entries(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[str]:
    text = ",".join(value.decode("latin-1") for name, value in headers if name == wanted)
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _without_port(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    return entry.partition(":")[0] if entry.count(":") == 1 else entry


@functools.lru_cache(maxsize=1_024)
def _address(text: str) -> Address | None:
    try:
        # Behind % stands an interface of whoever wrote it, in any letters.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # An IPv4 caller of a socket that takes both.
    return getattr(address, "ipv4_mapped", None) or address
