"""Whose call it is: what is asked of the database, and when.

The store here stands for the database, the remote party: it counts what it is asked, holds
its answers back, and goes away.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from counterfoil.server.access.key_text import NewSecret, new_key
from counterfoil.server.access.keyring import ANONYMOUS, BOOTSTRAP, Keyring
from counterfoil.server.access.principal import Principal
from counterfoil.server.access.store import AccessStore, State, StoredKey
from counterfoil.server.access.trail import Trail
from counterfoil.server.core import limits
from counterfoil.server.core.errors import Busy, DatabaseUnavailable, Unauthenticated
from tests.support.waiting import eventually

pytestmark = pytest.mark.promise("P7")


class Keys:
    """The keys of a database that is not there, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.rows: dict[str, StoredKey] = {}
        self.refused: list[tuple[str, str]] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, secret: NewSecret, state: State = "active") -> None:
        self.rows[secret.key_id] = StoredKey(
            *(secret.key_id, 7, "acme", "agent", "a", ("append:*", "read:*"), "live"),
            *(secret.digest, None, None, None, state),
        )

    async def presented(self, key_ids: Sequence[str]) -> list[StoredKey]:
        self.asked.append(list(key_ids))
        await self.gate.wait()
        if self.away:
            raise DatabaseUnavailable("away")
        return [self.rows[key_id] for key_id in key_ids if key_id in self.rows]

    async def are_asked(self) -> None:
        """Wait until somebody looks up something."""

        async def look() -> bool:
            return bool(self.asked)

        await eventually(look, "a key to be looked up")

    async def note_uses(self, tenant_id: int, uses: dict[str, str]) -> None:
        pass

    def refuse(self, principal: Principal, reason: str) -> None:
        self.refused.append((principal.id, reason))


@pytest.fixture
def keys() -> Keys:
    return Keys()


def ring(keys: Keys, *, api_key: str | None = None, is_open: bool = False) -> Keyring:
    class Told:
        refused = keys.refuse

    return Keyring(cast("AccessStore", keys), cast("Trail", Told), api_key=api_key, is_open=is_open)


def credential(secret: NewSecret) -> list[bytes]:
    return [secret.text.encode()]


def refusal_of(call: Any) -> str:
    with pytest.raises(Unauthenticated) as refused:
        call()
    return str(refused.value)


def test_the_bootstrap_key_opens_everything_and_asks_nobody(keys: Keys) -> None:
    keyring = ring(keys, api_key="right")
    assert not keyring.is_open
    assert keyring.admitted([b"right"]) is BOOTSTRAP
    assert keyring.admitted([b"right", b"right"]) is BOOTSTRAP
    assert keys.asked == []


@pytest.mark.parametrize(
    "presented",
    [[], [b""], [b"wrong"], [b"right "], [b"righ"], [b"right", b"wrong"], [b"wrong", b"right"]],
)
def test_anything_but_the_bootstrap_key_is_refused_alike(
    keys: Keys, presented: list[bytes]
) -> None:
    keyring = ring(keys, api_key="right")
    missing = refusal_of(lambda: keyring.admitted([]))
    assert refusal_of(lambda: keyring.admitted(presented)) == missing


def test_without_any_key_only_an_open_service_lets_in(keys: Keys) -> None:
    assert ring(keys, is_open=True).admitted([]) is ANONYMOUS
    assert ring(keys, is_open=True).admitted([b"anything"]) is ANONYMOUS
    refusal_of(lambda: ring(keys).admitted([]))
    refusal_of(lambda: ring(keys).admitted([b"anything"]))
    # What is meant for a key of ours must be one, open or not.
    refusal_of(lambda: ring(keys, is_open=True).admitted([b"cf_live_short"]))
    # A key of the environment closes it.
    assert not ring(keys, api_key="x", is_open=True).is_open


def test_the_keyring_holds_no_readable_secret(keys: Keys) -> None:
    assert "right" not in repr(vars(ring(keys, api_key="right")))


@pytest.mark.anyio
async def test_a_key_is_looked_up_once_and_then_trusted_for_a_while(keys: Keys) -> None:
    secret = new_key("live")
    keys.add(secret)
    keyring = ring(keys)
    assert keyring.admitted(credential(secret)) is None
    admission = await keyring.admit(credential(secret))
    assert (admission.principal.id, admission.principal.tenant_id) == ("agent:a", 7)
    for _ in range(100):
        assert keyring.admitted(credential(secret)) is admission
    assert len(keys.asked) == 1
    await keyring.close()


@pytest.mark.anyio
async def test_everybody_who_comes_meanwhile_is_looked_up_together(keys: Keys) -> None:
    """However many strangers try: one look at a time."""
    secrets = [new_key("live") for _ in range(20)]
    keys.add(secrets[0])
    keyring = ring(keys)
    keys.gate.clear()
    tries = [asyncio.create_task(keyring.admit(credential(secret))) for secret in secrets * 2]
    await keys.are_asked()
    await asyncio.sleep(0)
    keys.gate.set()
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(result) for result in results].count(Unauthenticated) == 38
    assert len(keys.asked) <= 2
    assert sum(map(len, keys.asked)) == 20
    # That they are not there is known now.
    refusal_of(lambda: keyring.admitted(credential(secrets[1])))
    assert len(keys.asked) <= 2
    await keyring.close()


@pytest.mark.anyio
async def test_more_strangers_than_may_wait_are_told_to_come_again(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEY_LOOKUPS_MAX", 3)
    keyring = ring(keys)
    keys.gate.clear()
    first = asyncio.create_task(keyring.admit(credential(new_key("live"))))
    await keys.are_asked()
    waiting = [asyncio.create_task(keyring.admit(credential(new_key("live")))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await keyring.admit(credential(new_key("live")))
    keys.gate.set()
    results = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert {type(result) for result in results} == {Unauthenticated}
    await keyring.close()


@pytest.mark.anyio
@pytest.mark.parametrize("state", ["expired", "revoked"])
async def test_only_who_has_the_secret_is_told_what_became_of_the_key(
    keys: Keys, state: State
) -> None:
    secret = new_key("live")
    keys.add(secret, state)
    keyring = ring(keys)
    with pytest.raises(Unauthenticated, match=state):
        await keyring.admit(credential(secret))
    wrong = f"cf_live_{secret.key_id}_{'a' * 52}".encode()
    other_mode = secret.text.replace("cf_live", "cf_test").encode()
    for presented in (wrong, other_mode):
        with pytest.raises(Unauthenticated) as refused:
            await keyring.admit([presented])
        assert state not in str(refused.value)
    assert keys.refused == [
        ("agent:a", state),
        ("agent:a", "wrong_secret"),
        ("agent:a", "wrong_secret"),
    ]
    await keyring.close()


@pytest.mark.anyio
async def test_what_changed_ends_what_watches(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEY_REFRESH_SECONDS", 0.001)
    secret = new_key("live")
    keys.add(secret)
    keyring = ring(keys)
    admission = await keyring.admit(credential(secret))
    ended = asyncio.Event()
    left = asyncio.Event()
    keyring.watch(admission, ended.set)
    keyring.watch(admission, left.set)()
    keys.add(secret, "revoked")
    await asyncio.wait_for(ended.wait(), 10)
    assert not left.is_set()
    # Somebody who comes with the admission from before is told at once.
    late = asyncio.Event()
    keyring.watch(admission, late.set)
    assert late.is_set()
    await keyring.close()


@pytest.mark.anyio
async def test_a_key_that_cannot_be_looked_up_any_more_ends_what_watches(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEY_REFRESH_SECONDS", 0.001)
    monkeypatch.setattr(limits, "KEY_TRUST_SECONDS_MAX", 0.01)
    secret = new_key("live")
    keys.add(secret)
    keyring = ring(keys)
    admission = await keyring.admit(credential(secret))
    ended = asyncio.Event()
    keyring.watch(admission, ended.set)
    keys.away = True
    await asyncio.wait_for(ended.wait(), 10)
    with pytest.raises(DatabaseUnavailable):
        await keyring.admit(credential(secret))
    await keyring.close()
