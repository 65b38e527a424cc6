"""Where a request came from: believed of named proxies, and of nobody else."""

import asyncio
import json

import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from counterfoil.server.core.proxies import NO_PROXIES, TrustedProxies
from tests.unit.api.connections import end_of

PROXIES = TrustedProxies.parse("127.0.0.1, 10.0.0.0/8, fd00::/8")


@pytest.mark.parametrize(
    ("said", "caller"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:DB8::1"], "2001:db8::1"),
        # Whatever the caller itself has put in front.
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["10.0.0.5, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        # Through two proxies of ours.
        (["203.0.113.9, 10.0.0.5"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9, 10.0.0.5, fd00::7"], "203.0.113.9"),
        (["203.0.113.9, ::ffff:10.0.0.5"], "203.0.113.9"),
        # From a proxy of ours itself.
        (["10.0.0.6, 10.0.0.5"], "10.0.0.6"),
        # What is no address ends what is known.
        (["unknown"], "127.0.0.1"),
        (["203.0.113.9, unknown, 10.0.0.5"], "10.0.0.5"),
        (["203.0.113.9, <script>"], "127.0.0.1"),
        (["fe80::1%<script>"], "fe80::1"),
        (["203.0.113.9,,"], "203.0.113.9"),
        ([""], "127.0.0.1"),
        ([], "127.0.0.1"),
    ],
)
def test_the_caller_is_who_called_the_first_proxy_of_ours(said: list[str], caller: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in said]

    assert PROXIES.caller("127.0.0.1", headers) == caller


@pytest.mark.parametrize(
    ("said", "scheme"),
    [
        (["https"], "https"),
        (["http"], "http"),
        (["https, http"], "http"),
        (["http", "https"], "https"),
        (["HTTPS "], None),
        (["javascript"], None),
        ([], None),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(said: list[str], scheme: str | None) -> None:
    headers = [(b"x-forwarded-proto", value.encode()) for value in said]

    assert PROXIES.scheme(headers) == scheme


@pytest.mark.parametrize(
    "text", ["*", "localhost", "10.0.0.0/33", "10.0.0.1/8", "0.0.0.0/0", "10.0.0.1, ::/0", "a b"]
)
def test_only_addresses_can_be_trusted(text: str) -> None:
    with pytest.raises(ValueError, match=r"give addresses and networks|every address there is"):
        TrustedProxies.parse(text)


def test_nobody_is_trusted_unless_named() -> None:
    assert TrustedProxies.parse("") == TrustedProxies.parse(" , ") == NO_PROXIES
    assert "127.0.0.1" not in NO_PROXIES
    assert "not an address" not in PROXIES
    assert "::ffff:10.1.2.3" in PROXIES


SPOOFED = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.9\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n"
    b"X-Forwarded-Prefix: /evil\r\nForwarded: for=198.51.100.1;proto=https;host=evil\r\n\r\n"
)


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what is known of a request."""
    known = [scope["client"][0], scope["scheme"], scope["root_path"], scope["path"]]
    await JSONResponse(known)(scope, receive, send)


@pytest.mark.parametrize(
    ("trusted", "known"),
    [
        ("", ["127.0.0.1", "http", "", "/"]),
        ("10.0.0.0/8, 127.0.0.2", ["127.0.0.1", "http", "", "/"]),
        ("127.0.0.0/8", ["203.0.113.9", "https", "", "/"]),
    ],
    ids=["of nobody", "of others", "of this one"],
)
def test_what_is_said_on_the_way_is_believed_of_named_proxies(
    trusted: str, known: list[str]
) -> None:
    heard, _ = asyncio.run(end_of(tell, SPOOFED, proxies=TrustedProxies.parse(trusted)))

    assert json.loads(heard.partition(b"\r\n\r\n")[2]) == known
